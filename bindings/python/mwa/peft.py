"""Merge a run straight into a live PEFT model, by its metric or by what the model scores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, SupportsFloat

from peft import PeftModel

import mwa

if TYPE_CHECKING:
    from typing_extensions import Unpack


def load_merged(
    model: PeftModel,
    run: mwa.Path | Iterable[mwa.Path],
    /,
    *,
    adapter_name: str = "merged",
    **options: Unpack[mwa.MergeOptions],
) -> mwa.Report:
    """Merge `run` and make the result the active adapter of `model`, under `adapter_name`.

    An adapter of that name that the model has already gets the merged weights, and must have their rank. Options are those
    of `mwa.merge`. Nothing is left on disk: PEFT reads the merge from a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="mwa-") as folder:
        out = os.path.join(folder, "merged")
        report = mwa.merge(run, out, **options)
        model.load_adapter(out, adapter_name)
    model.set_adapter(adapter_name)
    return report


def search(
    model: PeftModel,
    run: mwa.Path | Iterable[mwa.Path],
    /,
    *,
    evaluate: Callable[[PeftModel], SupportsFloat | Mapping[str, SupportsFloat | None]],
    goal: Literal["min", "max"],
    out: mwa.Path | None = None,
    adapter_name: str = "merged",
    **options: Unpack[mwa.SearchOptions],
) -> mwa.SearchReport:
    """Search for the weights of `run` with which `model` scores best, and make that merge its active adapter, `adapter_name`.

    `evaluate(model)` is called with each candidate as the active adapter, and returns a number or a dict with `score` and,
    if known, its standard `error`. The winner is written to `out` if that is given; else nothing is left on disk. Options
    are those of `mwa.search`; there is one model, so that one candidate is scored at a time.
    """

    def score(path: str) -> SupportsFloat | Mapping[str, SupportsFloat | None]:
        model.load_adapter(path, adapter_name)
        model.set_adapter(adapter_name)
        return evaluate(model)

    options["workers"] = 1
    with tempfile.TemporaryDirectory(prefix="mwa-") as folder:
        target = os.path.join(folder, "merged") if out is None else out
        report = mwa.search(run, target, evaluate=score, goal=goal, **options)
        model.load_adapter(os.fspath(target), adapter_name)
    model.set_adapter(adapter_name)
    return report
