"""Merge a run as soon as transformers has trained it, by its metric or by what the trainer's own evaluation says."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import mwa
from mwa import _mwa
from mwa.given import of_search, to_json

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
        _leaves_checkpoints(args)

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


class SearchCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]  # Any where transformers is not
    """When training ends, searches for the weights of the run's checkpoints that `trainer.evaluate()` says are best.

    >>> trainer = Trainer(...)                                                            # doctest: +SKIP
    >>> trainer.add_callback(SearchCallback(trainer, budget=30))                          # doctest: +SKIP

    Each candidate is loaded into the trainer's model and evaluated; the score is `score`, a metric of the evaluation: without it
    `metric_for_best_model`, else `eval_loss`. Whether lower or higher is better says `goal`, else `greater_is_better`, else the
    metric's name. The winner is merged into the folder `name` beside the checkpoints, and is what the model has then, so that
    `trainer.save_model()` saves it. Options are those of `mwa.search`; an earlier search of that name is replaced, unless it is
    to be gone on with (`resume=True`).

    `report` is the result; where nothing can be searched or scored, a warning says why, `error` has it, and the model has what it
    was trained to. The evaluations of candidates stay out of `state.log_history`; callbacks that log hear of them. Distributed
    training is refused.
    """

    report: mwa.SearchReport | None = None
    error: Exception | None = None

    def __init__(
        self,
        trainer: Trainer,
        name: str = "searched",
        *,
        score: str | None = None,
        goal: Literal["min", "max"] | None = None,
        **options: Unpack[mwa.SearchOptions],
    ) -> None:
        options.setdefault("force", not options.get("resume", False))
        options["workers"] = 1  # there is one model
        _mwa.check_search(to_json(of_search({**options, "goal": goal})))
        self.trainer, self.name, self.score, self.goal, self.options = trainer, name, score, goal, options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a training that would leave nothing to search, or that this process sees a part of."""
        _leaves_checkpoints(args)
        self._wanted(args)
        if args.world_size > 1:
            raise mwa.MergeError(
                "usage",
                f"SearchCallback evaluates in one process, and this training has {args.world_size}",
                help="train without it, and search by `mwa search` afterwards",
            )
        if self.trainer.eval_dataset is None:
            raise mwa.MergeError(
                "usage", "the trainer has no eval_dataset, so nothing says which weights are best", help="give it one"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Search, load the winner, and say where it is."""
        run = str(args.output_dir)
        out = os.path.join(run, self.name)
        self.report = self.error = None
        name, goal = self._wanted(args)
        model = self.trainer.model
        trained = {key: value.detach().cpu().clone() for key, value in _state(model).items()}
        logged = len(state.log_history)

        def score(path: str) -> float:
            _load(model, path)
            metrics = self.trainer.evaluate()
            del self.trainer.state.log_history[logged:]
            if name not in metrics:
                known = ", ".join(sorted(metrics))
                raise mwa.MergeError("metric", f"the evaluation gives no `{name}`", help=f"it gives {known}: name one by score")
            return float(metrics[name])

        try:
            report = mwa.search(run, out, evaluate=score, goal=goal, **self.options)
            _load(model, out)
            self.report = report
        except BaseException as error:
            model.load_state_dict(trained, strict=False)
            if not isinstance(error, Exception):
                raise
            self.error = error
            warnings.warn(f"mwa: the run is trained, but was not searched: {error}", stacklevel=2)
        else:
            print(f"mwa: {name} {report.score:.6g} is the best of {len(report.trials)} trials, merged into {out}")

    def _wanted(self, args: TrainingArguments) -> tuple[str, Literal["min", "max"]]:
        """The metric, as the trainer calls it, and which way it gets better."""
        name = self.score or args.metric_for_best_model or "loss"
        name = name if name.startswith("eval_") else f"eval_{name}"
        if self.goal is not None:
            return name, self.goal
        is_greater = args.greater_is_better if self.score is None else None
        if is_greater is not None:
            return name, "max" if is_greater else "min"
        goal = _mwa.goal_of(name)
        if goal is None:
            raise mwa.MergeError(
                "usage", f"nothing says whether lower or higher values of {name} are better", help='give goal="min" or goal="max"'
            )
        return name, goal


def _leaves_checkpoints(args: TrainingArguments) -> None:
    if args.save_strategy == "no":
        raise mwa.MergeError(
            "usage", "save_strategy is no, so there will be nothing to merge", help='set save_strategy="steps" or "epoch"'
        )


def _state(model: Any) -> dict[str, Any]:
    """What checkpoints hold of a model: of one with adapters what is trained, else all."""
    if hasattr(model, "peft_config"):
        return {key: value for key, value in model.named_parameters() if value.requires_grad}
    state: dict[str, Any] = model.state_dict()
    return state


def _load(model: Any, path: str) -> None:
    """Load a merge into a model: into its active adapter, if it has adapters."""
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        found = set_peft_model_state_dict(model, load_peft_weights(path, device="cpu"), adapter_name=model.active_adapter)
        unexpected = found.unexpected_keys
    else:
        from safetensors.torch import load_file

        state: dict[str, Any] = {}
        for file in sorted(Path(path).glob("*.safetensors")):
            state.update(load_file(file))
        # tied weights are saved once
        unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise mwa.MergeError(
            "names", f"the model has no `{unexpected[0]}`", path=path, help="search with the model that was trained"
        )
