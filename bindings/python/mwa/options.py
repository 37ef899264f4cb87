"""The command line's options under their names, with ``_`` for ``-``; what is left out has its default."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from mwa.errors import MergeError


Device = Literal["auto", "cpu", "gpu", "wasm"] | Sequence[int]
"""A word, or the places of GPUs in what ``mwa devices`` lists; wasm only in builds that have it."""


class WeightOptions(TypedDict, total=False):
    """Which checkpoints, and how they are weighed."""

    last: int | None  # the newest so many; of a run, 10
    every: int | None  # every k-th, counted from the newest
    steps: tuple[int | None, int | None] | None  # from … to, both included; None leaves an end open
    top: int | None  # the so many with the best metric
    adapter: str | None  # the one to take of checkpoints that hold several
    weights_key: str | None  # the set of weights in training states that hold several, such as model_avg
    drop_bad: bool  # leave diverged checkpoints out, instead of failing
    metric: str | None  # loss, eval_loss, step or any logged name; eval_loss if all have it, else loss, else step
    metrics_file: str | os.PathLike[str] | None  # a CSV or JSON Lines table with a column `checkpoint` or `step`
    goal: Literal["min", "max"] | None  # which way the metric gets better; from its name
    smooth: float | None  # steps to average a training metric over; 0 interpolates; from the log
    metric_tolerance: int  # take an evaluation up to so many steps away from its checkpoint; 0
    strict_metrics: bool  # fail rather than take a value that was not logged right at a checkpoint
    scheme: Literal["linear", "power", "exponential", "rank", "uniform"] | None  # linear
    penalty: float | None  # how hard a worse checkpoint is punished; 0.8
    weights: Sequence[float] | None  # your own, one per checkpoint, instead of a metric's


class MergeOptions(WeightOptions, total=False):
    """Also how the merge is done."""

    dtype: Literal["keep", "f32", "bf16", "f16"]  # of averaged tensors; keep is the widest of the inputs
    space: Literal["factors", "product"]  # LoRA's factors, or the products B·A that they make
    rank: int | Literal["auto", "full"] | None  # of merged products; the inputs' largest
    energy: float | None  # with rank auto, the share of the squared norm that each module keeps; 0.999
    strict: bool  # fail where a module that an input lacks would count as zero
    no_residual: bool  # do not measure how far averaged factors are from the average of their products
    allow_cross_run: bool  # average the factors of adapters that are not of one run
    force: bool  # replace an earlier merge
    threads: int | None  # one per core
    memory: int | None  # bytes of buffers; 64 MiB, or 256 MiB with a GPU
    device: Device | None  # what computes; auto


def to_json(options: Mapping[str, object]) -> str:
    """Options as the native half reads them."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return json.dumps(given, default=_plain, allow_nan=False)
    except ValueError as error:
        raise MergeError("usage", str(error)) from None


def _plain(value: object) -> object:
    """Paths, and the numbers and arrays of NumPy and PyTorch."""
    for translate in ("__fspath__", "tolist"):
        if hasattr(value, translate):
            return getattr(value, translate)()
    return f"{value!r}"  # the native half says what it wanted instead
