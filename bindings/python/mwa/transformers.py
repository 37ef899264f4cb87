"""Merge a run as soon as transformers has trained it."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import mwa
from mwa import _mwa
from mwa.given import to_json

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MergeCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]  # Any where transformers is not
    """When training ends, merges the run into the folder `name` beside its checkpoints.

    >>> trainer = Trainer(..., callbacks=[MergeCallback(metric="eval_loss", penalty=0.8)])    # doctest: +SKIP

    Options are those of `mwa.merge`; values that cannot be are refused here and now. An earlier merge of that name is replaced.
    `report` is the result; where the run cannot be merged, for example because it logged no such metric, a warning says why and
    `error` has it, as the training is done and worth keeping. Under distributed training, the process that writes checkpoints
    merges.
    """

    report: mwa.Report | None = None
    error: Exception | None = None

    def __init__(self, name: str = "merged", **options: Unpack[mwa.MergeOptions]) -> None:
        options.setdefault("force", True)
        _mwa.check_options(to_json(options))
        self.name, self.options = name, options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a training that would leave nothing to merge."""
        if args.save_strategy == "no":
            raise mwa.MergeError(
                "usage", "save_strategy is no, so there will be nothing to merge", help='set save_strategy="steps" or "epoch"'
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Merge, and say where."""
        if not state.is_world_process_zero:
            return
        run = str(args.output_dir)
        out = os.path.join(run, self.name)
        self.report = self.error = None
        try:
            self.report = mwa.merge(run, out, **self.options)
        except Exception as error:
            self.error = error
            warnings.warn(f"mwa: the run is trained, but was not merged: {error}", stacklevel=2)
        else:
            print(f"mwa: merged {len(self.report.inputs)} checkpoints into {out}")
