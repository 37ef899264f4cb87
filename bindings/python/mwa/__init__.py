"""Merge the checkpoints of a training run into one, each weighted by a metric it logged.

>>> import mwa
>>> report = mwa.merge("runs/my-lora", "merged", metric="eval_loss")    # doctest: +SKIP

Options are those of the command line (``python -m mwa merge --help``); `mwa.options` lists them with their types.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, SupportsFloat

from mwa import _mwa
from mwa.errors import MergeError
from mwa.given import of_search, to_json
from mwa.options import (
    AggregateOptions,
    ApplyOptions,
    Device,
    ExtractOptions,
    MergeOptions,
    RoundOptions,
    SearchOptions,
    WeightOptions,
    takes,
)
from mwa.progress import Progress, heard
from mwa.results import (
    Advice,
    Checked,
    Compared,
    Contribution,
    Coverage,
    Distance,
    Dropped,
    Extracted,
    Folded,
    Group,
    HashedFile,
    Input,
    FoundLog,
    Inspection,
    Known,
    ModuleDistance,
    Ranked,
    Ranking,
    Report,
    Round,
    ServerStep,
    SearchReport,
    Selected,
    Separation,
    Summary,
    Trial,
    Verified,
    Weighting,
    read,
)
from mwa.state_dicts import merge_state_dicts

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Advice",
    "AggregateOptions",
    "ApplyOptions",
    "Checked",
    "Compared",
    "Contribution",
    "Coverage",
    "Device",
    "Distance",
    "Dropped",
    "ExtractOptions",
    "Extracted",
    "Folded",
    "Group",
    "HashedFile",
    "Input",
    "FoundLog",
    "Inspection",
    "Known",
    "MergeError",
    "MergeOptions",
    "ModuleDistance",
    "Ranked",
    "Ranking",
    "Report",
    "Round",
    "RoundOptions",
    "SearchOptions",
    "SearchReport",
    "Selected",
    "ServerStep",
    "Separation",
    "Summary",
    "Trial",
    "Verified",
    "WeightOptions",
    "Weighting",
    "aggregate",
    "apply",
    "extract",
    "inspect",
    "merge",
    "merge_state_dicts",
    "search",
    "verify",
    "weights",
]

__version__: str = _mwa.__version__

Path = str | os.PathLike[str]
Evaluate = Callable[[str], SupportsFloat | Mapping[str, SupportsFloat | None]]


@takes(MergeOptions)
def merge(
    inputs: Path | Iterable[Path],
    out: Path,
    *,
    progress: Progress | bool | None = None,
    **options: Unpack[MergeOptions],
) -> Report:
    """Merge a run, or checkpoints, into the folder `out`, which appears whole or not at all.

    `inputs` is a run folder, a checkpoint folder or a .safetensors file, or several of them. `progress(done, total)` is
    called now and then, in bytes of input; `progress=True` shows a bar, tqdm's where that is installed. Raises `MergeError`;
    what `progress` raises, and `KeyboardInterrupt`, stop the merge and leave nothing behind.
    """
    with heard(progress, "merge") as hear:
        return read(Report, json.loads(_mwa.merge(_paths(inputs), out, to_json(options), hear)))


def aggregate(
    inputs: Path | Iterable[Path],
    out: Path,
    *,
    round: RoundOptions | None = None,
    progress: Progress | None = None,
    **options: Unpack[AggregateOptions],
) -> Report:
    """Merge what the clients of a federated round returned into the folder `out`, which appears whole or not at all.

    `inputs` is the folder of a round, or the files and folders of its clients; `round` says what they are worth. Raises
    `MergeError` as `merge` does.
    """
    with heard(progress, "merge") as hear:
        return read(Report, json.loads(_mwa.aggregate(_paths(inputs), out, to_json(round or {}), to_json(options), hear)))


@takes(ApplyOptions)
def apply(
    adapter: Path,
    out: Path,
    *,
    base: Path,
    progress: Progress | bool | None = None,
    **options: Unpack[ApplyOptions],
) -> Report:
    """Fold a LoRA adapter into its base model, and write that into the folder `out`, which appears whole or not at all.

    The base streams through: however large, a few MiB per thread are held. Raises `MergeError`, and stops, as `merge` does.
    """
    with heard(progress, "apply") as hear:
        return read(Report, json.loads(_mwa.apply(adapter, base, out, to_json(options), hear)))


@takes(ExtractOptions)
def extract(
    tuned: Path,
    out: Path,
    *,
    base: Path,
    rank: int | Literal["auto"],
    error: float | None = None,
    base_name: str | None = None,
    progress: Progress | bool | None = None,
    **options: Unpack[ExtractOptions],
) -> Report:
    """Take a LoRA adapter out of the model `tuned`, which was trained whole from `base`, into the folder `out`.

    `rank` is that of the factors; "auto" takes for each module the least that leaves over at most the share `error`, 0.05, of
    the difference. What is left over is in the report's `residual`. The adapter calls its base by `base_name`, or else as the
    base's own config does. Raises `MergeError`, and stops, as `merge` does.
    """
    with heard(progress, "extract") as hear:
        found = _mwa.extract((tuned, base), (str(rank), error), base_name, out, to_json(options), hear)
    return read(Report, json.loads(found))


@takes(SearchOptions)
def search(
    inputs: Path | Iterable[Path],
    out: Path,
    *,
    evaluate: Evaluate,
    goal: Literal["min", "max"],
    holdout: Evaluate | None = None,
    progress: Progress | bool | None = None,
    **options: Unpack[SearchOptions],
) -> SearchReport:
    """Search for the weights of a run with the best score, and merge with them into the folder `out`.

    `evaluate(path)` scores the candidate in a folder: a number, or a dict with `score` and, if known, its standard `error`;
    `goal` says whether lower ("min") or higher scores are better. An exception fails that candidate and is recorded;
    `KeyboardInterrupt` stops the search, which `resume=True` goes on with: trials are kept in a journal beside `out`.
    `holdout(path)` scores the winner and what it is compared with in the end, on other data. With `workers` above 1 the
    functions are called from several threads. `progress(done, budget)` is called now and then, in trials.
    """
    given = to_json(of_search({**options, "goal": goal}))
    held_out = _scoring(holdout) if holdout else None
    with heard(progress, "search", "trial") as hear:
        found = _mwa.search(_paths(inputs), out, given, _scoring(evaluate), held_out, hear)
    return read(SearchReport, json.loads(found))


@takes(WeightOptions)
def weights(inputs: Path | Iterable[Path], **options: Unpack[WeightOptions]) -> Report:
    """The same choice and weights as `merge` would take, without merging: a report without outputs."""
    return read(Report, json.loads(_mwa.weights(_paths(inputs), to_json(options))))


def inspect(path: Path, *, adapter: str | None = None) -> Inspection:
    """Say what a path is: kind, ranks, dtypes, steps, metrics and their coverage."""
    return read(Inspection, json.loads(_mwa.inspect(_path(path, "inspect"), to_json({"adapter": adapter}))))


def verify(
    folder: Path,
    *,
    progress: Progress | bool | None = None,
    threads: int | None = None,
    memory: int | None = None,
    device: Device | None = None,
) -> Verified:
    """Merge again from the report in a merged folder, and compare bytes and hashes."""
    options = to_json({"threads": threads, "memory": memory, "device": device})
    with heard(progress, "verify") as hear:
        return read(Verified, json.loads(_mwa.verify(_path(folder, "verify"), options, hear)))


def _scoring(evaluate: Evaluate) -> Callable[[str], str]:
    """What the native half calls: JSON of what a function finds."""

    @functools.wraps(evaluate)
    def score(path: str) -> str:
        found = evaluate(path)
        fields = dict(found) if isinstance(found, Mapping) else {"score": found}
        known = {name: fields.get(name) for name in ("score", "error", "questions")}
        return json.dumps({name: float(value) for name, value in known.items() if value is not None})

    return score


def _path(path: Path, function: str) -> Path:
    """The one path that a function takes."""
    if isinstance(path, (list, tuple, set)):
        help = f"call it once for each: [mwa.{function}(path) for path in paths]"
        raise MergeError("usage", f"{function} takes one path, and here is a {type(path).__name__} of {len(path)}", help=help)
    return path


def _paths(inputs: Path | Iterable[Path]) -> list[Path]:
    return [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
