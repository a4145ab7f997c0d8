"""Which recipes are tried: Optuna's samplers over a study in a journal file, so that a sweep goes on after a kill.

A whole batch is chosen before any of it is known, and told in order when all of it is: what is tried does not hang on
who was quick. Each choice has a seed of its own, so that a study that was read back chooses as one that never stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import MissingExtra, UsageError
from edgeprune.maker.search.space import Choice, Range, Space

__all__ = ["Asked", "Study", "study_of"]

PLACE = "place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe to try: the values of the open keys; `place` counts from 0."""

    place: int
    number: int
    values: Mapping[str, Any]


class Study:
    """What was tried, and what is tried next."""

    def __init__(self, optuna: Any, study: Any, space: Space) -> None:
        self._optuna, self._study, self._space = optuna, study, space

    def asked(self) -> list[Asked]:
        """Those that were chosen so far. One whose choice was cut short is chosen again."""
        found, running = [], self._optuna.trial.TrialState.RUNNING
        for trial in self._study.get_trials(deepcopy=False):
            if PLACE in trial.user_attrs:
                values = {name: _value(each, trial.params[name]) for name, each in self._space.open.items()}
                found.append(Asked(place=trial.user_attrs[PLACE], number=trial.number, values=values))
            elif trial.state == running:
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return sorted(found, key=lambda each: each.place)

    def ask(self, place: int) -> Asked:
        """Choose one more."""
        self._study.sampler = self._sampler(place)
        trial = self._study.ask()
        values = {name: _value(each, _suggested(trial, name, each)) for name, each in self._space.open.items()}
        trial.set_user_attr(PLACE, place)
        return Asked(place=place, number=trial.number, values=values)

    def tell(self, asked: Asked, objectives: Sequence[float] | None) -> None:
        """What came out, None for a recipe that could not be run; told before, it stays."""
        state = self._optuna.trial.TrialState.FAIL if objectives is None else None
        self._study.tell(asked.number, objectives, state=state, skip_if_finished=True)

    def _sampler(self, place: int) -> Any:
        told = f"{self._space.raw.get('seed', 0)} {place}"
        seed = int.from_bytes(hashlib.sha256(told.encode()).digest()[:4])
        samplers = self._optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Optuna calls experimental
            if self._space.sweep.sampler == "nsga2":
                return samplers.NSGAIISampler(population_size=max(2, self._space.sweep.batch), seed=seed)
            return samplers.TPESampler(seed=seed, constant_liar=True)


def _suggested(trial: Any, name: str, each: Choice | Range) -> Any:
    if isinstance(each, Choice):
        return trial.suggest_categorical(name, [json.dumps(option) for option in each.options])
    if each.whole:
        return trial.suggest_int(name, each.low, each.high, step=int(each.step or 1), log=each.log)
    return trial.suggest_float(name, each.low, each.high, step=each.step, log=each.log)


def _value(each: Choice | Range, told: Any) -> Any:
    """A value as a recipe writes it: of four digits."""
    if isinstance(each, Choice):
        return json.loads(told)
    return int(told) if each.whole else float(f"{told:.4g}")


@contextlib.contextmanager
def study_of(space: Space, folder: Path) -> Iterator[Study]:
    """The study of a space, in a journal in `folder`. Raises MissingExtra, and UsageError while another sweep of the
    same space runs."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "sweep", "edgeprune sweep") from None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = folder / f"study-{space.sha256}.journal"
    with place.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{space.path}: another sweep of this space runs; wait for it, or use another --cache"
            ) from None
        place.with_name(place.name + ".lock").unlink(missing_ok=True)  # Optuna's own, of a sweep that was killed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = JournalStorage(JournalFileBackend(str(place)))
            study = optuna.create_study(
                storage=storage,
                study_name="sweep",
                directions=["minimize"] * len(space.sweep.objectives),
                load_if_exists=True,
            )
        yield Study(optuna, study, space)
