"""Who carries out the trials of a search: this process, processes here, or a cluster.

A family: an executor takes jobs (a recipe as text, and the precision of its file) and leaves what they make in the
search's store. Whoever asked then finds it there; so the search decides the same whoever did the work, and a job that
was lost costs time only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.units import parse_bytes

if TYPE_CHECKING:
    from edgeprune.host.progress import Progress
    from edgeprune.maker.recipe.stages import Store

__all__ = [
    "EXECUTORS",
    "Executor",
    "Here",
    "Job",
    "Means",
    "Setting",
    "Spread",
    "Workplace",
    "executor_of",
    "scheduled",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A trial: the text of a recipe, and the precision of its .tflite file."""

    number: int
    recipe: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLimits:
    """What a trial may use."""

    cpus: int | None = None
    """Threads of a trial's training, and CPUs that a cluster keeps for it; left out, as many threads as TensorFlow
    takes, and one CPU. Another number of threads changes the last bits of a result."""
    gpus: float = 0.0
    """GPUs that a cluster keeps for a trial."""
    memory: str | None = None
    """Memory that a cluster keeps for a trial, such as `"4 GB"`."""
    retries: int = 2
    """How often a trial is tried again whose worker died."""
    shared: bool = False
    """On a cluster: model, data and cache lie on storage that all nodes see, so that nothing is sent."""

    def __post_init__(self) -> None:
        if self.retries < 0 or self.gpus < 0 or (self.cpus is not None and self.cpus < 1):
            raise UsageError("retries and gpus are at least 0, cpus at least 1")
        if self.memory is not None:
            parse_bytes(self.memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where trials run: `workers` processes here, or the Ray cluster at the address `ray` ("auto", "local" for one that
    is started here, HOST:PORT); and what each may use."""

    workers: int = 1
    ray: str | None = None
    limits: TrialLimits = field(default_factory=TrialLimits)

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 1024:
            raise UsageError(f"--workers is a number of processes from 1 to 1024; got {self.workers}")
        if self.ray is not None and self.workers > 1:
            raise UsageError("--workers are processes on this machine, --ray is a cluster: give one of them")

    @property
    def kind(self) -> str:
        """The name of the executor in EXECUTORS."""
        return "ray" if self.ray is not None else "processes" if self.workers > 1 else "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that another process needs to carry out trials: the text of a recipe with their model and data, the `place`
    where it stands, and the store. `opens` names what makes a Workplace of a setting, as "module:function"."""

    recipe: str
    place: str
    folder: str
    store_base: str
    seed: int = 0
    cpus: int | None = None
    trust_code: bool = False
    custom: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    """Of a worker that was sent them: key of a file or folder that trials read -> where it lies now."""
    opens: str = "edgeprune.maker.search.workplace:opened"


class Workplace(Protocol):
    """Where jobs are carried out; `store` is what they leave results in."""

    @property
    def store(self) -> Store: ...

    def carry_out(self, job: Job) -> None:
        """Leave what the job makes in the store. Raises EdgepruneError for one that cannot be done."""


class Executor(Protocol):
    """Carries out jobs, up to `workers` of them at a time."""

    @property
    def workers(self) -> int: ...

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, EdgepruneError | None]]:
        """Each job as soon as it is over, with why it could not be done. The next job is drawn when there is room for
        it; what runs when nobody draws any more is ended."""

    def close(self) -> None:
        """End what still runs."""


class Here:
    """In this process, one after the other."""

    workers = 1

    def __init__(self, work: Workplace) -> None:
        self._work = work

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, EdgepruneError | None]]:
        """See Executor."""
        for job in jobs:
            try:
                self._work.carry_out(job)
            except EdgepruneError as cause:
                yield job, cause
            else:
                yield job, None

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What executors are made of. `needs` names the files in the store that a job can begin with, `inputs` are the
    files and folders that trials read, by the key of the recipe or "custom N"."""

    setting: Setting
    spread: Spread
    work: Workplace
    progress: Progress
    needs: Callable[[Job], list[str]]
    inputs: Mapping[str, Path] = field(default_factory=dict)


def _processes(means: Means) -> Executor:
    from edgeprune.maker.search.processes import Processes

    return Processes(means.setting, means.spread, means.progress)


def _cluster(means: Means) -> Executor:
    from edgeprune.maker.search.ray_cluster import RayCluster

    return RayCluster(means)


EXECUTORS: Mapping[str, Callable[[Means], Executor]] = {
    "here": lambda means: Here(means.work),
    "processes": _processes,
    "ray": _cluster,
}


def executor_of(means: Means) -> Executor:
    """Who carries out trials that are spread so. Raises MissingExtra, and Unsupported for no cluster."""
    return EXECUTORS[means.spread.kind](means)


def scheduled(seconds: Iterable[float | None], workers: int) -> tuple[float, float]:
    """(When a worker is free for the next job, when all are done) on a clock that counts what jobs took: each began, in
    this order, on the worker that was free first. None is a job that still runs; it ends later than the others."""
    free = [0.0] * workers
    for each in seconds:
        first = free.index(min(free))
        free[first] += float("inf") if each is None else each
    return min(free), max(free)
