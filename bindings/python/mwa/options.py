"""The command line's options under their names, with ``_`` for ``-``; omitted options take their defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from mwa.errors import MergeError


Device = Literal["auto", "cpu", "gpu", "wasm"] | Sequence[int]
"""A word, or the places of GPUs in what ``mwa devices`` lists; wasm only in builds that have it."""


# made from core/src/options/mod.rs

class WeightOptions(TypedDict, total=False):
    """Which checkpoints, and how they are weighed."""

    last: int | None  # The newest N checkpoints
    every: int | None  # Every K-th checkpoint, counted from the newest
    steps: tuple[int | None, int | None] | None  # Checkpoints between two steps, both included; either end may be left out
    top: int | None  # The N checkpoints with the best metric
    select: Literal["best", "last", "all"] | None  # By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed]
    adapter: str | None  # The adapter inside checkpoints that hold several
    weights_key: str | None  # The weights in training states that hold several sets of them, such as model_avg
    drop_bad: bool  # Leave out checkpoints that diverged, instead of failing
    metric: str | None  # loss, eval_loss, step or any logged NAME [default: eval_loss if logged, else step]
    metrics_file: str | os.PathLike[str] | None  # Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`
    metrics_from: str | None  # Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&B, MLflow, lm-eval and others
    goal: Literal["min", "max"] | None  # Whether lower or higher is better [default: from the metric's name]
    smooth: float | None  # Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log]
    metric_tolerance: int | None  # Take an evaluation that lies up to this many steps away from its checkpoint [default: 0]
    strict_metrics: bool  # Fail rather than take a value that was not logged right at a checkpoint
    scheme: Literal["linear", "power", "exponential", "rank", "uniform"] | None  # How a metric becomes a weight [default: linear]
    penalty: float | None  # How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8]
    weights: Sequence[float] | None  # Your own weights, one per checkpoint, instead of a metric's


class MergeOptions(WeightOptions, total=False):
    """Also how the merge is done."""

    space: Literal["factors", "product"] | None  # Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors]
    rank: int | Literal["auto", "full"] | None  # Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest]
    energy: float | None  # With rank auto, the share of the squared norm that each module keeps [default: 0.999]
    strict: bool  # Fail where a module that an input lacks would count as zero
    residual: Literal["exact", "sketch", "off"] | None  # How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch]
    allow_cross_run: bool  # Average the factors of adapters, or the models, that are not of one run
    dtype: Literal["keep", "f32", "bf16", "f16"] | None  # Dtype of averaged tensors; keep takes the widest of the inputs [default: keep]
    allow_non_finite: bool  # Let NaN and infinity through instead of failing
    rewrite: bool  # Write files anew where one checkpoint alone has weight, instead of copying its own
    force: bool  # Replace an earlier merge
    sha256: bool  # Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    threads: int | None  # Threads [default: one per core]
    memory: int | None  # Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M with a GPU]
    device: Device | None  # auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a sandbox for files that are not trusted. The bytes are the same [default: auto]

# end of what is made


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
