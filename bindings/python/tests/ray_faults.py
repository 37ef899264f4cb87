"""What goes wrong in the workers of the tests of Ray: on order, once for each, whichever worker meets it first."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from mwa import _mwa

FOLDER = "MWA_TEST_FAULTS"


def order(folder: Path, **faults: str) -> None:
    """Order faults of shards, by their numbers: `shard_3="kill"`."""
    for name, fault in faults.items():
        (folder / name).write_text(fault)


def install() -> None:
    """Let this worker have the faults that are ordered. Ray calls it as each worker begins."""
    shard = _mwa.shard

    def faulty(inputs: Any, out: Any, options: str, share: str, progress: Any) -> str:
        folder = Path(os.environ[FOLDER])
        with (folder / "log").open("a") as log:
            log.write(f"{share} {os.getpid()}\n")
        try:
            taken = folder / f"taken-{os.getpid()}"
            os.rename(folder / f"shard_{share.partition('/')[0]}", taken)
            fault = taken.read_text()
        except FileNotFoundError:
            fault = ""
        if fault == "kill":
            threading.Thread(target=_die, args=(Path(out),), daemon=True).start()
        elif fault == "refuse":
            raise mwa_error("io", "cannot read it: Stale file handle", "run")
        elif fault:
            time.sleep(float(fault))
        return shard(inputs, out, options, share, progress)

    _mwa.shard = faulty


def mwa_error(kind: str, message: str, path: str) -> Exception:
    from mwa import MergeError

    return MergeError(kind, message, path)


def _die(out: Path) -> None:
    """As soon as something is written."""
    data = out.parent / f".{out.name}.mwa-shards" / "0.data"
    until = time.monotonic() + 10
    while not data.exists() and time.monotonic() < until:
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)
