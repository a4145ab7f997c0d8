"""Account a model's bytes: raw, and as each codec would have it downloaded."""

from __future__ import annotations

from edgeprune.size.accounting import SizeReport, measure_download, measure_size
from edgeprune.size.codecs import CODECS, Codec

__all__ = ["CODECS", "Codec", "SizeReport", "measure_download", "measure_size"]
