"""With the real transformers and PEFT: train a tiny adapter, merge as training ends, load the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mwa

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from conftest import ROOT  # noqa: E402
from mwa.peft import load_merged, search  # noqa: E402
from mwa.transformers import MergeCallback, SearchCallback  # noqa: E402


def base() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(ROOT / "examples" / "base", dtype=torch.float32)


def trainer_of(out: Path, *callbacks: Any, **arguments: Any) -> Any:
    model = peft.get_peft_model(base(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    tokens = torch.randint(1, 20, (32, 10), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1}
    arguments = transformers.TrainingArguments(
        output_dir=str(out), max_steps=8, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        disable_tqdm=True, **{**settings, **arguments},
    )  # fmt: skip
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data[:8], callbacks=list(callbacks)
    )


def train(out: Path, callback: Any, **arguments: Any) -> Any:
    trainer = trainer_of(out, callback, **arguments)
    trainer.train()
    return trainer.model


def test_merge_callback(tmp_path: Path) -> None:
    callback = MergeCallback(metric="eval_loss", penalty=0.8, select="all")
    model = train(tmp_path, callback)
    assert callback.report is not None and [i.step for i in callback.report.inputs] == [2, 4, 6, 8]
    assert callback.report.weighting.metric == "eval_loss"
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "merged")
    states = [
        peft.load_peft_weights(str(tmp_path / f"checkpoint-{i.step}")) for i in callback.report.inputs
    ]
    merged = mwa.merge_state_dicts(states, [i.weight for i in callback.report.inputs])
    held = peft.get_peft_model_state_dict(loaded)
    assert held.keys() == merged.keys()
    assert all(torch.equal(held[name], merged[name]) for name in merged), "files and memory give the same bits"

    report = load_merged(model, tmp_path, metric="eval_loss", select="all")
    assert model.active_adapter == "merged"
    assert report.outputs[0].blake3 == callback.report.outputs[0].blake3
    live = peft.get_peft_model_state_dict(model, adapter_name="merged")
    assert all(torch.equal(live[name], merged[name]) for name in merged)
    load_merged(model, tmp_path, adapter_name="default", scheme="uniform")
    assert model.active_adapter == "default"
    assert not torch.equal(peft.get_peft_model_state_dict(model)[name := next(iter(merged))], merged[name])


def test_merge_callback_refuses_before_training(tmp_path: Path) -> None:
    with pytest.raises(mwa.MergeError) as caught:
        MergeCallback(penalty=3)
    assert caught.value.kind == "weights"
    with pytest.raises(mwa.MergeError, match="save_strategy"):
        train(tmp_path, MergeCallback(), save_strategy="no")


def test_a_finished_training_is_kept(tmp_path: Path) -> None:
    callback = MergeCallback(metric="eval_accuracy")
    with pytest.warns(UserWarning, match="was not merged: .*there is no metric `eval_accuracy`"):
        train(tmp_path, callback)
    assert callback.report is None and isinstance(callback.error, mwa.MergeError)
    assert (tmp_path / "checkpoint-8").is_dir() and not (tmp_path / "merged").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_torch_tensors(dtype: str) -> None:
    kind = getattr(torch, dtype)
    values = [torch.linspace(-2, 2, 200).add(i).reshape(10, 20).to(kind) for i in range(3)]
    inputs = [{"w": values[0].requires_grad_()}, {"w": values[1].t().contiguous().t()}, {"w": values[2]}]
    merged = mwa.merge_state_dicts(inputs, [1, 2, 1])["w"]
    assert merged.dtype == kind and not merged.requires_grad
    wide = torch.float64 if kind == torch.float64 else torch.float32
    x = [value.detach().to(wide) for value in values]
    assert torch.equal(merged.to(wide), (0.25 * x[0] + 0.5 * x[1] + 0.25 * x[2]).to(kind).to(wide))


def test_torch_and_numpy_together_and_what_lies_elsewhere() -> None:
    array = torch.ones(3).numpy()
    assert torch.equal(mwa.merge_state_dicts([{"w": array}, {"w": torch.zeros(3)}], [1, 1])["w"], torch.full((3,), 0.5))
    with pytest.raises(mwa.MergeError) as caught:
        mwa.merge_state_dicts([{"w": torch.ones(3)}, {"w": torch.ones(3, device="meta")}], [1, 1])
    assert (caught.value.kind, caught.value.tensor, caught.value.path) == ("input", "w", "state_dicts[1]")


def test_search_in_a_live_model(tmp_path: Path) -> None:
    model = train(tmp_path, MergeCallback(select="all"))
    tokens = torch.randint(1, 20, (8, 10), generator=torch.Generator().manual_seed(2))

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(model(input_ids=tokens, labels=tokens).loss)

    found = search(model, tmp_path, evaluate=loss, goal="min", method="sweep", budget=10, select="all", out=tmp_path / "best")
    assert model.active_adapter == "merged" and len(found.trials) == 10
    assert loss(model) == pytest.approx(found.score, rel=1e-6), "the winner is what the model has now"
    assert mwa.verify(tmp_path / "best").is_good
    before = set(tmp_path.iterdir())
    assert search(model, tmp_path, evaluate=loss, goal="min", method="sweep", budget=10, select="all").score == found.score
    assert set(tmp_path.iterdir()) == before, "nothing is left on disk"


def adapter_of(model: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def test_search_callback(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    callback = SearchCallback(trainer, method="sweep", budget=9, select="all")
    trainer.add_callback(callback)
    trainer.train()
    report = callback.report
    assert callback.error is None and report is not None and len(report.trials) == 9
    assert (report.goal, report.score) == ("min", min(trial.score for trial in report.trials if trial.score is not None))
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(logged) == 4, "candidates are not logged"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(report.score, rel=1e-6), "the model is the winner"
    assert mwa.verify(tmp_path / "searched").is_good
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "searched")
    held, live = peft.get_peft_model_state_dict(loaded), peft.get_peft_model_state_dict(trainer.model)
    assert all(torch.equal(held[name], live[name]) for name in held)


def test_search_callback_keeps_what_was_trained(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    callback = SearchCallback(trainer, score="accuracy", budget=5, select="all")
    seen: dict[str, Any] = {}

    class Before(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            seen.update(adapter_of(trainer.model))

    trainer.add_callback(Before())
    trainer.add_callback(callback)
    with pytest.warns(UserWarning, match="was not searched: .*the evaluation gives no `eval_accuracy`"):
        trainer.train()
    assert callback.report is None and callback.error is not None
    after = adapter_of(trainer.model)
    assert seen and all(torch.equal(after[name], seen[name]) for name in seen)


def test_search_callback_refuses_before_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, save_strategy="no")
    with pytest.raises(mwa.MergeError) as caught:
        SearchCallback(trainer, budget=0)
    assert caught.value.kind == "usage"
    trainer.add_callback(SearchCallback(trainer))
    with pytest.raises(mwa.MergeError, match="save_strategy"):
        trainer.train()
