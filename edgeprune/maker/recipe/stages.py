"""What was made once is not made again: results by the hash of all that made them, and the models behind them.

A folder of records (JSON) and files. A record is written last and appears whole, so that what is there is complete,
whenever the program that made it was killed. Several processes may work in one folder: what one of them makes the
others wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.host.json_values import record_of
from edgeprune.host.outputs import output_file, write_file
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import ChannelReport, EqualizeReport, PruneReport, TrainLog
from edgeprune.maker.keras.models import save_model
from edgeprune.maker.keras.types import Model

__all__ = ["REPORTS", "Store", "cpu_s", "places_json", "places_of", "reports_json", "reports_of"]

Record = dict[str, Any]  # JSON
MODELS = 8  # kept in memory
REPORTS = {
    "pruning": PruneReport,
    "channels": ChannelReport,
    "equalized": EqualizeReport,
    "training": TrainLog,
}


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Store:
    """Results in `folder`; `base` stands for what all of them hang on. `spent_s` is what the results that were asked
    for took to make, whenever and wherever that was: the clock of a search that goes on after a kill as if there had
    been none. `elsewhere` gives the bytes of a file that is not in the folder by its name, None where it has none."""

    def __init__(
        self,
        folder: Path,
        base: str,
        load: Callable[[Path], Model],
        *,
        elsewhere: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        self.folder, self.base, self.load, self.elsewhere = folder, base, load, elsewhere
        self.spent_s = self.spent_cpu_s = 0.0
        self._inner = [0.0, 0.0]  # seconds and CPU seconds of results within the one that is made
        self._within: list[list[str]] = []  # the results that each of those that are made asked for
        self._seen: set[str] = set()
        self._models: dict[str, Model] = {}  # the last few, by key
        folder.mkdir(parents=True, exist_ok=True)

    def key(self, kind: str, told: object) -> str:
        """The name of a result."""
        text = json.dumps([self.base, kind, told], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def path(self, key: str, suffix: str) -> Path:
        """Where a file of a result lies."""
        place = self.folder / f"{key}{suffix}"
        content = None if place.exists() else self.elsewhere(place.name)
        if content is not None:
            write_file(place, content)
        return place

    def once(self, kind: str, told: object, make: Callable[[str], Record]) -> Record:
        """The record of a result; `make(key)` makes it, and files beside it, where it is not there."""
        key = self.key(kind, told)
        if self._within:
            self._within[-1].append(key)
        found = self._read(key)
        if found is None:
            with self._alone(key):
                found = self._read(key)  # another process may have made it meanwhile
                if found is None:
                    found = self._timed(make, key)
                    write_file(self.path(key, ".json"), json.dumps(found, indent=1).encode())
        self._count(key, found)
        return found

    def known(self, kind: str, told: object) -> Record | None:
        """The record of a result if it was made; not counted as asked for."""
        return self._read(self.key(kind, told))

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Only one process is in this context for a key; the system lets go of the lock of a dead one. Waiting is time
        of another result."""
        begun = time.monotonic()
        lock = os.open(self.folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a disk that knows no locks: the work may be done twice
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._inner[0] += time.monotonic() - begun
            yield
        finally:
            os.close(lock)

    def _count(self, key: str, found: Record) -> None:
        """Count once what a result took, and those that it asked for."""
        if key in self._seen:
            return
        self._seen.add(key)
        self.spent_s += found["seconds"]
        self.spent_cpu_s += found["cpu_s"]
        for inner in found.get("within", ()):
            record = None if inner in self._seen else self._read(inner)
            if record is not None:
                self._count(inner, record)

    def _timed(self, make: Callable[[str], Record], key: str) -> Record:
        """A record with what it took itself, without the results that it asked for (`within`)."""
        outer, self._inner = self._inner, [0.0, 0.0]
        self._within.append([])
        begun, used = time.monotonic(), cpu_s()
        try:
            found = make(key)
        finally:
            within = self._within.pop()
            whole = [time.monotonic() - begun, cpu_s() - used]
            own = [total - inner for total, inner in zip(whole, self._inner, strict=True)]
            self._inner = [before + total for before, total in zip(outer, whole, strict=True)]
        return {**found, "within": within, "seconds": round(own[0], 3), "cpu_s": round(own[1], 3)}

    def _read(self, key: str) -> Record | None:
        try:
            found = json.loads(read_whole(self.path(key, ".json"), "a result"))
        except Exception:  # noqa: BLE001  (none, or damaged: made again)
            return None
        return found if isinstance(found, dict) else None

    def write_model(self, key: str, model: Model) -> None:
        """Leave the model of a result beside it."""
        with output_file(self.path(key, ".keras"), overwrite=True) as made:
            save_model(model, made)
        self._remember(key, model)

    def read_model(self, key: str) -> Model:
        """The model of a result."""
        if key not in self._models:
            self._remember(key, self.load(self.path(key, ".keras")))
        return self._models[key]

    def _remember(self, key: str, model: Model) -> None:
        self._models[key] = model
        for old in list(self._models)[:-MODELS]:
            del self._models[old]


def reports_json(reports: Mapping[str, object]) -> Record:
    """The reports of a step as plain values."""
    return {name: None if report is None else asdict(report) for name, report in reports.items()}  # type: ignore[call-overload]


def reports_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The reports of a step out of their plain values."""
    return {
        name: None if record[name] is None else record_of(kind, record[name], "a result")
        for name, kind in REPORTS.items()
    }


def places_json(kept: tuple[Mapping[int, Any], ...] | None) -> object:
    """What is left of each weight, as plain values."""
    return None if kept is None else [{str(axis): np.asarray(p).tolist() for axis, p in each.items()} for each in kept]


def places_of(told: Any) -> tuple[Mapping[int, Any], ...] | None:
    """What is left of each weight, out of plain values."""
    if told is None:
        return None
    return tuple({int(axis): np.array(places, np.intp) for axis, places in each.items()} for each in told)
