"""Federated rounds as functions."""

from __future__ import annotations

from pathlib import Path

import pytest

import mwa


def test_a_round_is_the_merge_of_its_samples(sample_run: Path, tmp_path: Path) -> None:
    clients = [sample_run / f"checkpoint-{step}" for step in (850, 900, 950)]
    report = mwa.aggregate(reversed(clients), tmp_path / "round", round={"samples": [2, 1, 1]})
    assert report.round is not None and (report.round.clients, report.round.samples) == (3, 4)
    assert [input.weight for input in report.inputs] == [0.25, 0.25, 0.5]
    assert report.inputs[2].round is not None and report.inputs[2].round.role == "client"
    mwa.merge(clients, tmp_path / "merge", weights=[1, 1, 2])
    a, b = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("round", "merge"))
    assert a == b
    assert mwa.verify(tmp_path / "round").is_good


def test_a_base_clips_and_compares(sample_run: Path, tmp_path: Path) -> None:
    clients = [sample_run / f"checkpoint-{step}" for step in (800, 850, 900, 950, 1000)]
    report = mwa.aggregate(clients, tmp_path / "out", round={"base": sample_run / "checkpoint-750", "clip": 8.0}, scheme="multi-krum")
    rows = [input.round for input in report.inputs if input.round is not None]
    assert [row.role for row in rows] == ["client"] * 5 + ["base"]
    assert all(row.kept is not None and row.norm is not None and row.kept * row.norm <= 8.0 + 1e-9 for row in rows[:5])
    assert sum(input.weight for input in report.inputs) == pytest.approx(1)
    assert (report.weighting.scheme, report.weighting.outliers, report.weighting.metric) == ("multi-krum", 1, "distance")


def test_what_is_wrong_is_told(sample_run: Path, tmp_path: Path) -> None:
    for told, kind in [({"samples": [1]}, "usage"), ({"rule": "fedbuff"}, "usage"), ({"sample": [1, 1]}, "usage"), ({"samples": [0, 0]}, "weights")]:
        with pytest.raises(mwa.MergeError) as error:
            mwa.aggregate([sample_run / "checkpoint-900", sample_run / "checkpoint-950"], tmp_path / "out", round=told)  # type: ignore[arg-type]
        assert error.value.kind == kind and not (tmp_path / "out").exists()
    for told, says in [
        ({"rul": "fedavg"}, "a round has no option `rul`\nhelp: did you mean `rule`?"),
        ({"samples": "1,2"}, 'option samples: "1,2" does not fit; it must be a list of numbers'),
        ({"partial": 1}, "option partial: 1 does not fit; it must be True or False"),
    ]:
        with pytest.raises(mwa.MergeError) as error:
            mwa.aggregate(sample_run, tmp_path / "out", round=told)  # type: ignore[arg-type]
        assert str(error.value) == says


def test_tensors_decide_the_weights(sample_run: Path) -> None:
    report = mwa.weights(sample_run, select="all", scheme="krum", outliers=2)
    assert sorted(input.weight for input in report.inputs) == [0.0] * 9 + [1.0]
    assert report.weighting == mwa.Weighting("krum", metric="distance", outliers=2)
