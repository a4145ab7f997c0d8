"""Trials as tasks of a Ray cluster (https://docs.ray.io): a node that is lost costs the trial that ran there.

What trials read is put into the object store once; a worker takes it from there when its process begins and keeps model
and data for the trials that follow. Earlier results that a trial begins with are fetched when it asks for them; what it
makes comes back as its answer. On storage that all nodes see (`shared`) nothing is sent at all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError, MissingExtra, Unsupported
from edgeprune.host.outputs import write_file
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.search.executors import Job, Means, Setting, Workplace
from edgeprune.maker.search.workplace import failure_of, open_workplace
from edgeprune.units import parse_bytes

__all__ = ["RayCluster", "carry_out_there"]

_LOOK_S = 0.5
Ended = tuple[Job, EdgepruneError | None]

# Of a worker's process: where it works, by the setting it was sent, and the files it may fetch now.
_open: dict[str, Workplace] = {}
_offered: dict[str, Any] = {}
_life = contextlib.ExitStack()


def carry_out_there(told: str, sent: list[Any], job: Job, offered: dict[str, Any]) -> dict[str, Any]:
    """On a node: carry out a job for the setting `told`. `sent` holds what its trials read (by relative path; empty
    where all lies on shared storage), `offered` earlier results by file name, both in the object store. What the job
    made comes back as `files`, with its `failure`."""
    _offered.clear()
    _offered.update(offered)
    try:
        work = _open[told] if told in _open else _open.setdefault(told, _unpacked(Setting(**json.loads(told)), sent))
    except EdgepruneError as cause:
        return {"failure": str(cause), "files": {}, "refused": True}
    before = _names(work) if sent else set()
    failure = failure_of(work, job)
    new = _names(work) - before - set(offered) if sent else set()
    return {"failure": failure, "files": {name: (work.store.folder / name).read_bytes() for name in new}}


def _names(work: Workplace) -> set[str]:
    return {path.name for path in work.store.folder.iterdir() if path.is_file() and path.suffix != ".lock"}


def _unpacked(setting: Setting, sent: list[Any]) -> Workplace:
    """The workplace of this process, with what was sent to it laid out in a folder of its own."""
    if not sent:
        return open_workplace(setting)
    import ray

    folder = _life.enter_context(scratch_folder("trial"))
    for name, content in ray.get(sent[0]).items():
        place = folder / "read" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    moved = {key: str(folder / "read" / name) for key, name in setting.moved.items()}
    custom = tuple(moved.get(f"custom {number}", path) for number, path in enumerate(setting.custom))
    return open_workplace(replace(setting, folder=str(folder / "store"), moved=moved, custom=custom), _fetched)


def _fetched(name: str) -> bytes | None:
    """A file of an earlier result out of the object store."""
    import ray

    return None if name not in _offered else bytes(ray.get(_offered[name]))


class RayCluster:
    """Tasks on the cluster at an address."""

    def __init__(self, means: Means) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "--ray") from None
        self._ray, self._spread, self._means = ray, means.spread, means
        self._offers: dict[str, Any] = {}  # of files in the store, by name
        self._connect()
        setting, read = means.setting, list[Any]()
        if not means.spread.limits.shared:
            moved, contents = _packed(means.inputs)
            setting, read = replace(setting, moved=moved), [ray.put(contents)]
        self._told, self._read = json.dumps(asdict(setting)), read
        asked: dict[str, Any] = {"num_cpus": means.spread.limits.cpus or 1}
        if means.spread.limits.gpus:
            asked["num_gpus"] = means.spread.limits.gpus
        if means.spread.limits.memory is not None:
            asked["memory"] = parse_bytes(means.spread.limits.memory)
        self._task = ray.remote(max_retries=means.spread.limits.retries, **asked)(carry_out_there)

    def _connect(self) -> None:
        asked: dict[str, Any] = {"namespace": "edgeprune", "log_to_driver": False, "logging_level": "error"}
        if self._spread.ray == "local":
            asked |= {"include_dashboard": False}
        for last in (False, True):  # where much else runs, a cluster that is started here may miss its own deadline
            try:
                self._ray.init(address=self._spread.ray, **asked)
            except Exception as cause:
                self._ray.shutdown()
                if last or self._spread.ray != "local":
                    raise Unsupported(
                        f"--ray {self._spread.ray}: no cluster there ({str(cause).splitlines()[0][:200]}); start one "
                        "(ray start --head) and give its HOST:PORT, or use --workers N"
                    ) from cause
            else:
                return

    @property
    def workers(self) -> int:
        """How many trials the cluster has room for, by CPUs, GPUs and memory."""
        have, spread = self._ray.cluster_resources(), self._spread
        rooms = [have.get("CPU", 0) / (spread.limits.cpus or 1)]
        if spread.limits.gpus:
            rooms.append(have.get("GPU", 0) / spread.limits.gpus)
        if spread.limits.memory is not None:
            rooms.append(have.get("memory", 0) / parse_bytes(spread.limits.memory))
        return max(1, int(min(rooms)))

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Ended]:
        """See Executor."""
        progress, over, drawn = self._means.progress, 0, 0
        running: dict[Any, Job] = {}
        waiting = iter(jobs)
        progress.begin(f"trials on the cluster at {self._spread.ray}")
        try:
            while True:
                while len(running) < self.workers and (job := next(waiting, None)) is not None:
                    running[self._begin(job)] = job
                    drawn += 1
                if not running:
                    break
                ready, _ = self._ray.wait(list(running), timeout=_LOOK_S)
                for task in ready:
                    over += 1
                    yield self._ended(task, running.pop(task))
                progress.advance(over, max(drawn, 1))
        finally:
            for task in running:
                self._ray.cancel(task, force=True)
        progress.end()

    def _begin(self, job: Job) -> Any:
        offers = {}
        for name in [] if self._spread.limits.shared else self._means.needs(job):
            if name not in self._offers:
                content = (self._means.work.store.folder / name).read_bytes()
                self._offers[name] = self._ray.put(content)
            offers[name] = self._offers[name]
        return self._task.remote(self._told, self._read, job, offers)

    def _ended(self, task: Any, job: Job) -> Ended:
        """Take over what a task made; files first, records last, so that a record is never without its files."""
        try:
            answer = self._ray.get(task)
        except self._ray.exceptions.RayError as cause:
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            return job, Unsupported(f"its worker died, {self._spread.limits.retries + 1} times: {lines[0][:200]}")
        if answer.get("refused"):
            raise Unsupported(answer["failure"])
        for name in sorted(answer["files"], key=lambda name: name.endswith(".json")):
            write_file(self._means.work.store.folder / name, answer["files"][name])
        return job, None if answer["failure"] is None else Unsupported(answer["failure"])

    def close(self) -> None:
        """Leave the cluster; one that was started for this ends."""
        self._ray.shutdown()


def _packed(inputs: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, bytes]]:
    """(Key -> name, name -> bytes) of files, and of all files in folders."""
    moved, contents = {}, {}
    for number, (key, path) in enumerate(inputs.items()):
        moved[key] = name = f"{number}/{path.name}"
        if path.is_file():
            contents[name] = path.read_bytes()
            continue
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            contents[f"{name}/{file.relative_to(path).as_posix()}"] = file.read_bytes()
    return moved, contents
