"""Merge a run as soon as transformers has trained it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import mwa
from mwa import _mwa
from mwa.options import to_json

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MergeCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]  # Any where transformers is not
    """When training ends, merges the run into the folder `name` beside its checkpoints.

    >>> trainer = Trainer(..., callbacks=[MergeCallback(metric="eval_loss", penalty=0.8)])    # doctest: +SKIP

    Options are those of `mwa.merge`; wrong ones are refused here and now, not after the training. An earlier merge of that
    name is replaced. `report` is the result. Under distributed training, the process that writes checkpoints merges.
    """

    report: mwa.Report | None = None

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
        """Merge."""
        if state.is_world_process_zero:
            run = str(args.output_dir)
            self.report = mwa.merge(run, os.path.join(run, self.name), **self.options)
