"""How a kernel moves over an axis, as it is and with the image turned by 180 degrees.

XNNPACK's sparse path wants a padding of half the kernel on both sides. TensorFlow's SAME puts what is odd at the end:
at stride 2 an even axis gets nothing before and one behind, and what the last window does not reach is left. Turned
round, the axis has one before and nothing behind, and a further one behind changes nothing: no window reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AxisWindow", "same_padding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisWindow:
    """A kernel of `kernel` elements that moves by `stride` over `size` elements, padded by `before` and `behind`."""

    size: int
    kernel: int
    stride: int
    before: int
    behind: int

    @property
    def half(self) -> int:
        """The padding that the sparse path wants on both sides."""
        return self.kernel // 2

    @property
    def steps(self) -> int:
        """How many windows there are."""
        return (self.size + self.before + self.behind - self.kernel) // self.stride + 1

    @property
    def used_behind(self) -> int:
        """How far the last window reaches over the end; negative where it ends before."""
        return (self.steps - 1) * self.stride + self.kernel - self.before - self.size

    def symmetric(self, *, turned: bool) -> bool:
        """Whether `half` on both sides gives the same windows, as the axis is or turned round."""
        steps = (self.size + 2 * self.half - self.kernel) // self.stride + 1
        return steps == self.steps and (self.used_behind if turned else self.before) == self.half


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, behind) of TensorFlow's padding SAME."""
    steps = -(-size // stride)
    whole = max(0, (steps - 1) * stride + kernel - size)
    return whole // 2, whole - whole // 2
