"""A workplace without TensorFlow: what executors do with jobs is the same for it, and takes no seconds.

A job is a word: "fail" cannot be done, "die once" ends its process at the first try, "die" always, "lose the node" ends
the node of the cluster that it runs on at the first try; other words are written down. Each process that begins a job
leaves a file that tells so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.host.progress import Progress
from edgeprune.maker.recipe.stages import Store
from edgeprune.maker.search.executors import Job, Means, Setting, Spread, executor_of


class LightWork:
    """Leaves for each job the word, what it read, and what it began with."""

    def __init__(self, setting: Setting, elsewhere: Callable[[str], bytes | None]) -> None:
        self.store = Store(Path(setting.folder), setting.store_base, lambda _: None, elsewhere=elsewhere)  # type: ignore[arg-type,return-value]
        self.marks, self.read = Path(setting.place), dict(setting.moved)

    def carry_out(self, job: Job) -> None:
        """Write the word down."""

        def make(key: str) -> dict[str, Any]:
            first = (self.marks / f"{job.number} tried").exists()
            (self.marks / f"{job.number} tried").touch()
            (self.marks / f"{job.number} by {os.getpid()}").touch()
            if job.recipe == "fail":
                raise UsageError("this one cannot be done")
            if job.recipe == "die" or (job.recipe == "die once" and not first):
                os.kill(os.getpid(), signal.SIGKILL)
            if job.recipe == "lose the node" and not first:
                os.kill(os.getppid(), signal.SIGKILL)  # the raylet, and all that runs there
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)
            self.store.path(key, ".bin").write_bytes(job.recipe.encode())
            begun = self.store.path("first", ".bin")
            read = {key: Path(place).read_text() for key, place in self.read.items()}
            return {
                "word": job.recipe,
                "begun": begun.read_text() if begun.exists() else None,
                "read": read,
                "key": key,
            }

        self.store.once("word", job.recipe, make)


def opened(setting: Setting, elsewhere: Callable[[str], bytes | None]) -> LightWork:
    """See executors.Setting.opens."""
    if setting.store_base == "refused":
        raise UsageError("nothing can be opened here")
    return LightWork(setting, elsewhere)


def on_nodes(folder: str, words: list[str]) -> None:
    """The same as `on_ray` on a cluster of a head that takes no trials and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    room = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **room})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **room)
    try:
        on_ray(folder, words, address=cluster.address)
    finally:
        cluster.shutdown()


def on_ray(folder: str, words: list[str], *, address: str = "local") -> None:
    """Carry out jobs on a Ray cluster, by default one that is started for them, and print why which could not be done,
    as JSON."""
    place = Path(folder)
    setting = Setting(
        recipe="", place=folder, folder=str(place / "store"), store_base="base", opens="light_work:opened"
    )
    means = Means(
        setting=setting,
        spread=Spread(ray=address),
        work=opened(setting, lambda _: None),
        progress=Progress(quiet=True),
        needs=lambda _: ["first.bin"],
        inputs={"model": place / "model.txt"},
    )
    with contextlib.closing(executor_of(means)) as executor:
        jobs = [Job(number=number, recipe=word, precision="int8") for number, word in enumerate(words)]
        told = {job.recipe: failure and str(failure) for job, failure in executor.carry_out(iter(jobs))}
    print(json.dumps(told))  # noqa: T201
