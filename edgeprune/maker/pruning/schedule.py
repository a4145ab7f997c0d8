"""Sparsity as a function of the training step.

Steps are completed optimizer steps: step 0 is the moment before the first batch, step 1 the moment after it.
The formulas are those of tensorflow-model-optimization (tfmot) 0.8.1; its trap is not kept. There a mask is renewed
only when ``(step - begin_step) % frequency == 0`` is met by a counter that starts at 1, so ``begin_step=0`` with the
default ``frequency=100`` leaves a model of fewer than 100 steps dense. Here a schedule is renewed at ``begin_step``
itself (also when that is 0), then every ``frequency`` steps, and always once more at ``end_step``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgeprune.errors import UsageError

__all__ = ["SCHEDULES", "ConstantSparsity", "PolynomialDecay", "Schedule", "check_sparsity"]


def check_sparsity(value: float, where: str = "sparsity") -> float:
    """The value itself, if it is a fraction in [0, 1). Raises UsageError with the likely intent otherwise."""
    if 0 <= value < 1:
        return float(value)
    hint = f"; did you mean {value / 100:g}?" if 1 < value < 100 and value / 100 < 1 and value >= 2 else ""
    raise UsageError(f"{where} is the fraction of weights to remove, at least 0 and below 1; got {value:g}{hint}")


def _check_steps(begin_step: int, end_step: int, frequency: int) -> None:
    if begin_step < 0 or end_step < begin_step or frequency < 1:
        raise UsageError(
            f"a schedule needs 0 <= begin_step <= end_step and frequency >= 1; "
            f"got begin_step={begin_step}, end_step={end_step}, frequency={frequency}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSparsity:
    """The same sparsity from `begin_step` on; masks are renewed until `end_step`, then held."""

    final_sparsity: float
    begin_step: int = 0
    end_step: int = 0
    frequency: int = 1

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity)
        _check_steps(self.begin_step, self.end_step, self.frequency)

    def sparsity_at(self, step: int) -> float:
        """0 before `begin_step`, the final sparsity from then on."""
        return self.final_sparsity if step >= self.begin_step else 0.0

    def renewals(self) -> tuple[int, ...]:
        """begin_step, every `frequency` steps after it, and end_step."""
        return _renewals(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolynomialDecay:
    """Fast at first, then slower: final + (initial - final) * (1 - progress) ** power.

    Zhu & Gupta 2017 (arXiv:1710.01878).
    """

    final_sparsity: float
    initial_sparsity: float = 0.0
    begin_step: int = 0
    end_step: int
    power: float = 3.0
    frequency: int = 1

    def __post_init__(self) -> None:
        check_sparsity(self.final_sparsity)
        check_sparsity(self.initial_sparsity, "initial_sparsity")
        _check_steps(self.begin_step, self.end_step, self.frequency)

    def sparsity_at(self, step: int) -> float:
        """0 before `begin_step`, the final sparsity from `end_step` on."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        remaining = float((1 - progress) ** self.power)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * remaining

    def renewals(self) -> tuple[int, ...]:
        """begin_step, every `frequency` steps after it, and end_step."""
        return _renewals(self)


def _renewals(schedule: Schedule) -> tuple[int, ...]:
    regular = range(schedule.begin_step, schedule.end_step + 1, schedule.frequency)
    return (*regular,) if regular[-1] == schedule.end_step else (*regular, schedule.end_step)


Schedule: TypeAlias = "ConstantSparsity | PolynomialDecay"
SCHEDULES: dict[str, type[ConstantSparsity] | type[PolynomialDecay]] = {
    "constant": ConstantSparsity,
    "polynomial": PolynomialDecay,
}
