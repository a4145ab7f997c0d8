"""Account a model's bytes: raw, and as each codec would have it downloaded."""

from __future__ import annotations

from edgeprune.checker.size.accounting import SizeReport, measure_download, measure_size
from edgeprune.checker.size.codecs import CODECS, Codec

__all__ = ["CODECS", "Codec", "SizeReport", "measure_download", "measure_size"]
