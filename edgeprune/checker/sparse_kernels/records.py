"""What was done to a file so that its zeros make it faster, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.errors import Unsupported

__all__ = ["IneligibleError", "Rewrite"]

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """An exact change of the graph: `name` is the word for it, `what` says what it does, `layers` where."""

    name: str
    what: str
    layers: tuple[str, ...]

    @property
    def places(self) -> str:
        """The layers, a few of them by name."""
        more = f" and {len(self.layers) - _SHOWN} more" if len(self.layers) > _SHOWN else ""
        return ", ".join(self.layers[:_SHOWN]) + more


class IneligibleError(Unsupported):
    """A graph that no rewrite here makes eligible: `rule` is the letter that `edgeprune estimate` gives the condition,
    `layer` where it fails, `found` what stands there and `cure` what would help."""

    def __init__(self, rule: str, layer: str, found: str, cure: str) -> None:
        where = f" at {layer!r}" if layer else ""
        super().__init__(f"XNNPACK would not run it with sparse kernels: condition {rule}{where}: {found}; {cure}")
        self.rule, self.layer, self.found, self.cure = rule, layer, found, cure
