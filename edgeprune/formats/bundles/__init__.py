"""App bundles, and the models inside them."""

from __future__ import annotations

__all__ = ["BUNDLES"]

BUNDLES = frozenset(
    {".aab", ".apk", ".apks", ".ipa", ".xapk", ".zip"}
)  # suffixes of files in which models are looked for
