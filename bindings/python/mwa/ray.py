"""One merge by many nodes of a Ray cluster that share a file system: its shards are tasks, which cross as a few hundred bytes of text."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

import mwa
from mwa import _mwa
from mwa.errors import MergeError
from mwa.given import to_json
from mwa.options import MergeOptions, takes
from mwa.progress import Progress, heard
from mwa.results import Report, read

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["merge"]

# shards for each that runs at once: a slow node then does fewer of them
EACH = 4
# a shard that takes so many times the median, and at least so many seconds, is begun once more
SLOW, AT_LEAST = 3.0, 10.0
# options that are paths
PATHS = ("metrics_file", "weights_file", "metrics_from", "base")
# seconds between two looks at what runs, and for what is cancelled to end
PAUSE, PATIENCE = 1.0, 60.0


@takes(MergeOptions)
def merge(
    inputs: mwa.Path | Iterable[mwa.Path],
    out: mwa.Path,
    *,
    shards: int | None = None,
    num_cpus: float | None = None,
    retries: int = 4,
    ray_options: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
    **options: Unpack[MergeOptions],
) -> Report:
    """Merge as `mwa.merge` does, by tasks on the cluster that `ray.init` joined: the same files and the same report.

    All nodes must see `inputs` and `out`, under the same paths, and have mwa of one version. The merge is cut into `shards`
    (four for each task that can run at once), each a task of `num_cpus` CPUs (eight, or all of the smallest node) and as many threads.
    A task whose worker or node dies, or that cannot read or write, is done elsewhere, up to `retries` times; one that takes
    three times as long as usual is begun once more. Interrupted, the same call goes on with what is left; `mwa finish OUT --abort`
    gives it up. `ray_options` go to each task: `{"resources": {"fast_disk": 1}}`. `progress(done, total)` counts shards.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    paths = [os.fspath(path) for path in mwa._paths(inputs)]
    cpus = num_cpus or min(8, *_cpus())
    given = {"threads": max(1, math.floor(cpus)), **json.loads(to_json(options))}
    named = [*paths, os.fspath(out), *(str(given[name]) for name in PATHS if name in given), *given.get("moments", ())]
    is_absolute = all(os.path.isabs(path) or "://" in path for path in named)
    folder = None if is_absolute else os.getcwd()
    order = {"inputs": paths, "out": os.fspath(out), "options": given, "folder": folder}
    how = {"num_cpus": cpus, "max_retries": retries, "scheduling_strategy": "SPREAD", **(ray_options or {})}
    tasks = _Tasks(order, how, retries)
    begun = tasks.now("begun")
    slots = max(1, sum(int(node // cpus) for node in _cpus()))
    count = shards or begun or EACH * slots
    try:
        with heard(progress, "merge", "shard") as hear:
            tasks.all(count, slots, hear)
        return read(Report, json.loads(tasks.now("finish")))
    except MergeError as error:
        tasks.cancel()
        # what is wrong with the data stays wrong; of what others began, or what may go well another time, nothing is removed
        if not begun and error.kind not in ("output", "io", "stopped", "usage"):
            tasks.now("abort")
        if error.kind == "output" and "shards are not done" in error.message:
            help = f"{order['out']} must lie on a file system that all nodes share, under the same path"
            raise MergeError("output", "not all of what its shards wrote is seen from here", error.path, None, help) from None
        raise
    finally:
        tasks.cancel()


def _cpus() -> list[float]:
    """The CPUs of each node that has some."""
    found = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return [cpus for cpus in found if cpus >= 1] or [1]


class _Tasks:
    """The tasks of one merge."""

    def __init__(self, order: Mapping[str, Any], how: Mapping[str, Any], retries: int) -> None:
        self.order, self.retries, self.how = order, retries, how
        self.run = ray.remote(_work)
        # what runs: its shard, and when it was submitted
        self.running: dict[Any, tuple[int, float]] = {}
        # what is of no use any more, and may still write
        self.cancelled: list[Any] = []

    def submit(self, what: str, name: str) -> Any:
        return self.run.options(name=f"mwa {name}", **self.how).remote(json.dumps({**self.order, "do": what}))

    def now(self, what: str) -> Any:
        """What is done in one place, and waited for."""
        self.settle()
        for left in reversed(range(self.retries + 1)):
            try:
                return _told(self.submit(what, what))
            except MergeError as error:
                if error.kind != "io" or not left:
                    raise

    def all(self, count: int, slots: int, hear: Callable[[int, int], object] | None) -> None:
        """Do all shards."""
        waiting, done, tries, seconds = deque(range(count)), set[int](), [0] * count, list[float]()
        while len(done) < count:
            # no more than can begin soon: what is submitted is a few hundred bytes
            while waiting and len(self.running) < 2 * slots:
                self.begin(waiting.popleft(), count)
            if not waiting and len(self.running) < slots and seconds:
                self.hurry(max(AT_LEAST, SLOW * statistics.median(seconds)), count)
            ready, _ = ray.wait(list(self.running), num_returns=1, timeout=PAUSE)
            for reference in ready:
                shard, since = self.running.pop(reference)
                try:
                    _told(reference)
                except MergeError as error:
                    tries[shard] += 1
                    if error.kind != "io" or tries[shard] > self.retries:
                        raise
                    # another copy of it goes on
                    if all(of != shard for of, _ in self.running.values()):
                        waiting.append(shard)
                    continue
                seconds.append(time.monotonic() - since)
                done.add(shard)
                self.cancel(shard)
            if hear and ready:
                hear(len(done), count)

    def begin(self, shard: int, count: int) -> None:
        self.running[self.submit(f"{shard}/{count}", f"shard {shard}/{count}")] = (shard, time.monotonic())

    def hurry(self, allowed: float, count: int) -> None:
        """Begin those once more that take too long: twice does no harm, and the first that is done counts."""
        shards = [shard for shard, _ in self.running.values()]
        for shard, since in list(self.running.values()):
            if shards.count(shard) == 1 and time.monotonic() - since > allowed:
                self.begin(shard, count)
                return

    def cancel(self, shard: int | None = None) -> None:
        """Take back the tasks of a shard, or all."""
        for reference in [it for it, (of, _) in self.running.items() if shard in (None, of)]:
            del self.running[reference]
            ray.cancel(reference, force=True)
            self.cancelled.append(reference)

    def settle(self) -> None:
        """Let what was cancelled come to its end, so that nothing writes meanwhile."""
        if self.cancelled:
            ray.wait(self.cancelled, num_returns=len(self.cancelled), timeout=PATIENCE)
            self.cancelled.clear()


def _told(reference: Any) -> Any:
    """What a task found. Raises `MergeError`."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, MergeError):
            raise
        # who calls this has no command line
        help = cause.help and cause.help.replace("leave out --shard", "use mwa.merge")
        raise MergeError(cause.kind, cause.message, cause.path, cause.tensor, help) from None
    except RayError as error:
        # its worker or its node died, again and again
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        help = "the same call goes on with what is left; if the workers were out of memory, give num_cpus or ray_options more room"
        raise MergeError("io", f"Ray could not do a part of the merge: {first}", help=help) from error


def _work(text: str) -> Any:
    """What a worker does: it knows nothing but this text."""
    order = json.loads(text)
    here, folder, out = os.getcwd(), order["folder"], order["out"]
    if folder is not None:
        if not Folder(folder).is_dir():
            help = "start from a folder that all nodes have: paths that are not absolute begin there"
            raise MergeError("input", "the folder of the program that merges is not on all nodes", folder, help=help)
        os.chdir(folder)
    try:
        if order["do"] == "begun":
            return _mwa.shards_of(out)
        if order["do"] == "abort":
            return None if _mwa.shards_of(out) is None else _mwa.abort_shards(out)
        if order["do"] == "finish":
            machine = {name: value for name, value in order["options"].items() if name in ("threads", "memory")}
            return _mwa.finish(out, json.dumps(machine), None)
        _mwa.shard(order["inputs"], out, json.dumps(order["options"]), order["do"], None)
    finally:
        os.chdir(here)
