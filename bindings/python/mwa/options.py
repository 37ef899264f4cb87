"""The command line's options under their names, with ``_`` for ``-``; omitted options take their defaults."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, TypeVar

Device = Literal["auto", "cpu", "gpu", "wasm"] | Sequence[int]
"""A word, or the places of GPUs in what ``mwa devices`` lists; wasm only in builds that have it."""


# made from core/src/options/mod.rs

class WeightOptions(TypedDict, total=False):
    """Which checkpoints, and how they are weighed.

    last: The newest N checkpoints
    every: Every K-th checkpoint, counted from the newest
    steps: Checkpoints between two steps, both included; either end may be left out
    top: The N checkpoints with the best metric
    select: By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed]
    adapter: The adapter inside checkpoints that hold several
    weights_key: The weights in training states that hold several sets of them, such as model_avg
    drop_bad: Leave out checkpoints that diverged, instead of failing
    metric: loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max [default: eval_loss if logged, else step]
    metrics_file: Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`
    metrics_from: Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&B, MLflow, lm-eval and others
    goal: Whether lower or higher is better [default: from the metric's name]
    combine: Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values [default: borda]
    questions: How many questions an accuracy is the share of: it is told whether chance alone may make the difference
    smooth: Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log]
    metric_tolerance: Take an evaluation that lies up to this many steps away from its checkpoint [default: 0]
    strict_metrics: Fail rather than take a value that was not logged right at a checkpoint
    method: What becomes of the values of each element: their weighted mean; their median, or their mean without the extremes, so that no bad checkpoint decides; a base model and what tasks changed of it, all of it, what each changed most, of that what most agree on, or all that enough of them have a share in; by the curvature that an optimizer's second moments tell, a mean, or a base with what counts most of what was changed; or by the angles between the checkpoints in each tensor, a base and as much of the mean as they agree, a point on the arc between two, or the mean on a sphere, about a base if there is one [default: mean]
    scheme: How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does [default: linear]
    penalty: How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8]
    outliers: How many bad checkpoints krum and multi-krum expect, or how many values trimmed-mean leaves out on each side [default: one, for these]
    scale: How much of what tasks changed is added to the base: of task-arithmetic, magnitude-mask and consensus of their sum, of ties of their mean [default: 1 for ties, else 1 over the number of tasks]
    density: The share of what each task changed that counts for magnitude-mask, ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg]
    density_per: Whether that is a share of the whole model or of each tensor [default: model]
    mask_lambda: Of consensus, how much of what the others changed of an element together a task must exceed to have its share in it [default: 0.4]
    agree: How many tasks must have their share in it; what fewer changed is left as in the base [default: 2]
    moments: Where the second moments are, a file for each checkpoint in their order: an optimizer.pt, or what mwa moments writes [default: the optimizer.pt in each checkpoint]
    power: The power of a second moment that is an element's weight, for ota and ffg [default: 0.5]
    epsilon: What is added to these weights, as a share of their mean over the tensor [default: 1e-8]
    normalise: What they are measured by before checkpoints are compared: their mean over the tensor, or nothing but what few steps left out [default: mean]
    subspace: How many directions the scheme flag keeps [default: one, for this scheme]
    curve: With scheme decay, how the learning rate would have fallen [default: linear]
    floor: What that curve ends at, as a share of where it begins [default: 0, or 0.1 of the curves inverse and exponential]
    positions: Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them [default: segments]
    correct_for_lr: Take off such a decay what the logged learning rate had fallen by itself
    ema_decay: With scheme ema, how much the average keeps of itself at each checkpoint or step [default: 0.7]
    ema_per: Which of the two it counts [default: checkpoint]
    run_weights: Of several run folders, each selected and weighed by itself, how much of each [default: all the same]
    weights_file: Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}
    weights: Your own weights, one per checkpoint, instead of a metric's
    space: Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors]
    """

    last: int | None
    every: int | None
    steps: tuple[int | None, int | None] | None
    top: int | None
    select: Literal["best", "last", "all"] | None
    adapter: str | None
    weights_key: str | None
    drop_bad: bool
    metric: str | None
    metrics_file: str | os.PathLike[str] | None
    metrics_from: str | None
    goal: Literal["min", "max"] | None
    combine: Literal["borda", "kemeny", "mean-rank", "z-score"] | None
    questions: int | None
    smooth: float | None
    metric_tolerance: int | None
    strict_metrics: bool
    method: Literal["mean", "median", "trimmed-mean", "task-arithmetic", "magnitude-mask", "ties", "consensus", "ota", "ffg", "model-stock", "slerp", "multi-slerp", "karcher"] | None
    scheme: Literal["linear", "power", "exponential", "rank", "decay", "ema", "uniform", "flag", "krum", "multi-krum", "geometric-median"] | None
    penalty: float | None
    outliers: int | None
    scale: float | None
    density: float | None
    density_per: Literal["model", "tensor"] | None
    mask_lambda: float | None
    agree: int | None
    moments: Sequence[str] | None
    power: float | None
    epsilon: float | None
    normalise: Literal["mean", "none"] | None
    subspace: int | None
    curve: Literal["linear", "cosine", "1-sqrt", "inverse", "exponential"] | None
    floor: float | None
    positions: Literal["segments", "megatron"] | None
    correct_for_lr: bool
    ema_decay: float | None
    ema_per: Literal["checkpoint", "step"] | None
    run_weights: Sequence[float] | None
    weights_file: str | os.PathLike[str] | None
    weights: Sequence[float] | None
    space: Literal["factors", "product"] | None


class MergeOptions(WeightOptions, total=False):
    """Also how the merge is done.

    rank: Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest]
    energy: With rank auto, the share of the squared norm that each module keeps [default: 0.999]
    strict: Fail where a module that an input lacks would count as zero
    residual: How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch]
    allow_cross_run: Average the factors of adapters, or the models, that are not of one run
    dtype: Dtype of averaged tensors; keep takes the widest of the inputs [default: keep]
    format: Container of what is merged: keep, pt, own (checkpoints of torch distributed and DeepSpeed again), or for a LoRA as mwa convert writes it [default: that of the inputs]
    shard_size: Part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for [default: the newest checkpoint's files]
    base: The base model of tasks, or of LoRA checkpoints an earlier one of their run; for formats gguf and mlx the base model's folder or its config.json
    model: The image model, for format kohya where names do not tell it: flux, sd3, qwen-image, wan, sdxl, sd
    allow_non_finite: Let NaN and infinity through instead of failing
    rewrite: Write files anew where one checkpoint alone has weight, instead of copying its own
    force: Replace an earlier merge
    sha256: Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    threads: Threads [default: one per core]
    memory: Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M with a GPU]
    device: auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a sandbox for files that are not trusted. The bytes are the same [default: auto]
    """

    rank: int | Literal["auto", "full"] | None
    energy: float | None
    strict: bool
    residual: Literal["exact", "sketch", "off"] | None
    allow_cross_run: bool
    dtype: Literal["keep", "f32", "bf16", "f16"] | None
    format: Literal["keep", "peft", "diffusers", "kohya", "mlx", "gguf", "pt", "own"] | None
    shard_size: int | str | None
    base: str | None
    model: str | None
    allow_non_finite: bool
    rewrite: bool
    force: bool
    sha256: bool
    threads: int | None
    memory: int | None
    device: Device | None



class SearchOptions(TypedDict, total=False):
    """How weights are searched for, and what of them is merged.

    method: Who proposes weights [default: auto]
    groups: Search the weights of parts of the model apart: blocks of so many layers, or the modules that each name fits, such as attn,mlp; the others are a part of their own
    budget: How many weights are tried at most [default: 50]
    seed: Where random numbers begin: the same seed gives the same search [default: 0]
    workers: How many candidates are scored at a time; the result is the same [default: 1]
    questions: Scores are the share of so many answers that were right: how sure they are follows from that
    resume: Go on with the search of before, whose trials are in a file beside the output; nothing is scored twice
    last: The newest N checkpoints
    every: Every K-th checkpoint, counted from the newest
    steps: Checkpoints between two steps, both included; either end may be left out
    top: The N checkpoints with the best metric
    select: By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed]
    adapter: The adapter inside checkpoints that hold several
    weights_key: The weights in training states that hold several sets of them, such as model_avg
    drop_bad: Leave out checkpoints that diverged, instead of failing
    metric: loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max [default: eval_loss if logged, else step]
    metrics_file: Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`
    metrics_from: Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&B, MLflow, lm-eval and others
    metric_goal: Whether lower or higher is better [default: from the metric's name]
    combine: Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values [default: borda]
    smooth: Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log]
    metric_tolerance: Take an evaluation that lies up to this many steps away from its checkpoint [default: 0]
    strict_metrics: Fail rather than take a value that was not logged right at a checkpoint
    scheme: How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does [default: linear]
    penalty: How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8]
    curve: With scheme decay, how the learning rate would have fallen [default: linear]
    floor: What that curve ends at, as a share of where it begins [default: 0, or 0.1 of the curves inverse and exponential]
    positions: Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them [default: segments]
    correct_for_lr: Take off such a decay what the logged learning rate had fallen by itself
    ema_decay: With scheme ema, how much the average keeps of itself at each checkpoint or step [default: 0.7]
    ema_per: Which of the two it counts [default: checkpoint]
    run_weights: Of several run folders, each selected and weighed by itself, how much of each [default: all the same]
    weights_file: Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}
    space: Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors]
    rank: Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest]
    energy: With rank auto, the share of the squared norm that each module keeps [default: 0.999]
    strict: Fail where a module that an input lacks would count as zero
    residual: How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch]
    allow_cross_run: Average the factors of adapters, or the models, that are not of one run
    dtype: Dtype of averaged tensors; keep takes the widest of the inputs [default: keep]
    allow_non_finite: Let NaN and infinity through instead of failing
    force: Replace an earlier merge
    sha256: Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    threads: Threads [default: one per core]
    memory: Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M with a GPU]
    device: auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a sandbox for files that are not trusted. The bytes are the same [default: auto]
    """

    method: Literal["auto", "sweep", "greedy", "lcsc", "cma", "line", "plane", "quadratic"] | None
    groups: str | None
    budget: int | None
    seed: int | None
    workers: int | None
    questions: int | None
    resume: bool
    last: int | None
    every: int | None
    steps: tuple[int | None, int | None] | None
    top: int | None
    select: Literal["best", "last", "all"] | None
    adapter: str | None
    weights_key: str | None
    drop_bad: bool
    metric: str | None
    metrics_file: str | os.PathLike[str] | None
    metrics_from: str | None
    metric_goal: Literal["min", "max"] | None
    combine: Literal["borda", "kemeny", "mean-rank", "z-score"] | None
    smooth: float | None
    metric_tolerance: int | None
    strict_metrics: bool
    scheme: Literal["linear", "power", "exponential", "rank", "decay", "ema", "uniform", "flag", "krum", "multi-krum", "geometric-median"] | None
    penalty: float | None
    curve: Literal["linear", "cosine", "1-sqrt", "inverse", "exponential"] | None
    floor: float | None
    positions: Literal["segments", "megatron"] | None
    correct_for_lr: bool
    ema_decay: float | None
    ema_per: Literal["checkpoint", "step"] | None
    run_weights: Sequence[float] | None
    weights_file: str | os.PathLike[str] | None
    space: Literal["factors", "product"] | None
    rank: int | Literal["auto", "full"] | None
    energy: float | None
    strict: bool
    residual: Literal["exact", "sketch", "off"] | None
    allow_cross_run: bool
    dtype: Literal["keep", "f32", "bf16", "f16"] | None
    allow_non_finite: bool
    force: bool
    sha256: bool
    threads: int | None
    memory: int | None
    device: Device | None



class ApplyOptions(TypedDict, total=False):
    """How an adapter is folded into its base.

    allow_non_finite: Let NaN and infinity through instead of failing
    force: Replace an earlier merge
    sha256: Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    threads: Threads [default: one per core]
    memory: Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M with a GPU]
    """

    allow_non_finite: bool
    force: bool
    sha256: bool
    threads: int | None
    memory: int | None



class ExtractOptions(TypedDict, total=False):
    """How an adapter is taken out of a model.

    force: Replace an earlier merge
    sha256: Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    threads: Threads [default: one per core]
    memory: Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M with a GPU]
    """

    force: bool
    sha256: bool
    threads: int | None
    memory: int | None

# end of what is made


class RoundOptions(TypedDict, total=False):
    """What a federated round is told; `mwa aggregate --help` explains each."""

    samples: Sequence[float] | None
    staleness: Sequence[float] | None
    manifest: str | os.PathLike[str] | None
    rule: Literal["fedavg", "fedbuff", "fedfix"] | None
    discount: str | None
    max_staleness: float | None
    period: float | None
    base: str | os.PathLike[str] | None
    previous: str | os.PathLike[str] | None
    momentum: float | None
    server_rate: float | None
    server: Literal["adam"] | None
    beta1: float | None
    beta2: float | None
    tau: float | None
    state: str | os.PathLike[str] | None
    partial: bool
    clip: float | None


class AggregateOptions(TypedDict, total=False):
    """How a round is merged: those of `MergeOptions` that rounds have."""

    scheme: Literal["flag", "krum", "multi-krum", "geometric-median"] | None
    outliers: int | None
    subspace: int | None
    drop_bad: bool
    space: Literal["factors", "product"] | None
    rank: int | Literal["auto", "full"] | None
    energy: float | None
    strict: bool
    residual: Literal["exact", "sketch", "off"] | None
    allow_cross_run: bool
    dtype: Literal["keep", "f32", "bf16", "f16"] | None
    allow_non_finite: bool
    force: bool
    sha256: bool
    threads: int | None
    memory: int | None
    device: Device | None


Function = TypeVar("Function", bound=Callable[..., Any])


def takes(options: type) -> Callable[[Function], Function]:
    """Let `help()` and editors see the options of a function, by name, where its code takes them together."""

    def spell_out(function: Function) -> Function:
        kinds = [WeightOptions, MergeOptions] if options is MergeOptions else [options]
        lines = [line for kind in kinds for line in inspect.getdoc(kind).splitlines()[2:]]  # type: ignore[union-attr]
        function.__doc__ = f"{function.__doc__}\n    Options:\n\n" + "".join(f"    {line}\n" for line in lines)
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=False if text_of(kind) == "bool" else None, annotation=text_of(kind)
            )
            for name, kind in options.__annotations__.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return spell_out


def text_of(annotation: object) -> str:
    """A type as it is written above."""
    return str(getattr(annotation, "__forward_arg__", annotation))
