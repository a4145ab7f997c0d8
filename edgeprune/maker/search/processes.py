"""Trials in processes on this machine: each reads model and data once and then serves one trial after the other."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from edgeprune.errors import EdgepruneError, Unsupported
from edgeprune.host.children import child_process, how_it_ended
from edgeprune.host.progress import Progress
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.search.executors import Job, Setting, Spread

__all__ = ["Processes"]

_WORKER = "edgeprune.maker.search.workplace"
_LOOK_S = 0.5  # how often somebody may ask the search to end
Ended = tuple[Job, EdgepruneError | None]


class _Worker:
    """A child process, started with its first job and again after it died."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.job: Job | None = None
        self._life = contextlib.ExitStack()
        self._child: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._log: IO[bytes] | None = None

    def begin(self, job: Job) -> None:
        """Give it a job."""
        self.job = job
        if self._child is None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its reply, which never comes, says so
            self._child.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            self._child.stdin.flush()

    def _start(self) -> None:
        scratch = self._life.enter_context(scratch_folder("trial"))
        self._log = self._life.enter_context((scratch / "log.txt").open("w+b"))
        free = self.setting.trust_code or bool(self.setting.custom)  # code of the user's own may do what it may here
        child = child_process(
            ["-m", _WORKER],
            writable=None if free else [scratch, Path(self.setting.folder)],
            stdin=subprocess.PIPE,
            stderr=self._log,
        )
        self._child, self._pending = self._life.enter_context(child), b""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(asdict(self.setting)).encode() + b"\n")

    @property
    def stream(self) -> IO[bytes]:
        """Where its replies come."""
        assert self._child is not None
        assert self._child.stdout is not None
        return self._child.stdout

    def heard(self) -> dict[str, str | None] | None:
        """Its reply, {} when it died, None while the line is not whole."""
        block = os.read(self.stream.fileno(), 1 << 16)
        self._pending += block
        if b"\n" in self._pending:
            line, self._pending = self._pending.split(b"\n", 1)
            return dict(json.loads(line))
        return None if block else {}

    def how_it_ended(self) -> str:
        """In words, with the last line that it said."""
        assert self._child is not None
        assert self._log is not None
        code = self._child.wait()
        self._log.seek(0)
        lines = [
            line.strip() for line in self._log.read()[-4000:].decode(errors="replace").splitlines() if line.strip()
        ]
        return how_it_ended(code) + (f": {lines[-1][:200]}" if code > 0 and lines else "")

    def close(self) -> None:
        """End it; a later job starts it again."""
        self._life.close()
        self._child, self.job = None, None


class Processes:
    """So many workers as `spread` says."""

    def __init__(self, setting: Setting, spread: Spread, progress: Progress) -> None:
        self.workers = spread.workers
        self._spread, self._progress = spread, progress
        self._all = [_Worker(setting) for _ in range(spread.workers)]
        self._tries: dict[int, int] = {}

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Ended]:
        """See Executor."""
        waiting, over, drawn = iter(jobs), 0, 0
        self._progress.begin(f"trials on {self.workers} processes")
        self._tries.clear()
        try:
            while True:
                for worker in [each for each in self._all if each.job is None]:
                    job = next(waiting, None)
                    if job is None:
                        break
                    worker.begin(job)
                    drawn += 1
                if not any(worker.job for worker in self._all):
                    break
                for ended in self._ended():
                    over += 1
                    yield ended
                self._progress.advance(over, max(drawn, 1))
        finally:
            for worker in self._all:
                if worker.job is not None:
                    worker.close()
        self._progress.end()

    def _ended(self) -> Iterator[Ended]:
        """What ended within a moment."""
        busy = {worker.stream: worker for worker in self._all if worker.job is not None}
        ready, _, _ = select.select(list(busy), [], [], _LOOK_S)
        for stream in ready:
            worker = busy[stream]
            reply = worker.heard()
            if reply is None:
                continue
            job = worker.job
            assert job is not None
            if "failure" in reply:
                worker.job = None
                yield job, None if reply["failure"] is None else Unsupported(reply["failure"])
            elif "refused" in reply:
                worker.close()
                raise Unsupported(str(reply["refused"]))
            else:
                yield from self._after_death(worker, job)

    def _after_death(self, worker: _Worker, job: Job) -> Iterator[Ended]:
        """The job goes to a new worker in the same place, if it was not tried too often."""
        how = worker.how_it_ended()
        worker.close()
        self._tries[job.number] = self._tries.get(job.number, 0) + 1
        if self._tries[job.number] <= self._spread.limits.retries:
            self._progress.note(f"  a trial's process {how}; the trial is tried again")
            worker.begin(job)
        else:
            yield job, Unsupported(f"its process {how}, {self._tries[job.number]} times")

    def close(self) -> None:
        """End the workers."""
        for worker in self._all:
            worker.close()
