"""What stands in the way of sparse kernels."""

from __future__ import annotations

from edgeprune.errors import Unsupported

__all__ = ["IneligibleError"]


class IneligibleError(Unsupported):
    """A graph that no rewrite here makes eligible: `rule` is the letter that `edgeprune estimate` gives the condition,
    `layer` where it fails, `found` what stands there and `cure` what would help."""

    def __init__(self, rule: str, layer: str, found: str, cure: str) -> None:
        where = f" at {layer!r}" if layer else ""
        super().__init__(f"XNNPACK would not run it with sparse kernels: condition {rule}{where}: {found}; {cure}")
        self.rule, self.layer, self.found, self.cure = rule, layer, found, cure
