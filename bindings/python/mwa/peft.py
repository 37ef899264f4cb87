"""Merge a run straight into a live PEFT model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peft import PeftModel

import mwa

if TYPE_CHECKING:
    from typing_extensions import Unpack


def load_merged(
    model: PeftModel,
    run: mwa.Path | Iterable[mwa.Path],
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
