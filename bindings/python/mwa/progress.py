"""Show how far work is: tqdm's bar where there is one, else a line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], object]


@contextmanager
def heard(progress: Progress | bool | None, name: str, unit: str = "B") -> Iterator[Progress | None]:
    """What hears of bytes, or another unit, done and in all: the caller's own, or a bar for `True`."""
    if progress is None or progress is False:
        yield None
    elif progress is not True:
        yield progress
    else:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            yield _line
            print(file=sys.stderr)
            return
        with tqdm(desc=name, unit=unit, unit_scale=unit == "B") as bar:

            def hear(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield hear


def _line(done: int, total: int) -> None:
    print(f"\r{100 * done // max(total, 1)} %", end="", file=sys.stderr, flush=True)
