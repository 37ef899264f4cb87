"""The search with Python functions as evaluators."""

from __future__ import annotations

import json
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mwa
from files import arrays, read


def size(path: str) -> float:
    """The mean magnitude of the first tensor: any number that depends on the weights."""
    states = arrays(read(Path(path) / "adapter_model.safetensors"))
    return float(np.abs(states[min(states)].astype(np.float64)).mean())


def test_search(sample_run: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    def progress(done: int, budget: int) -> None:
        heard.append((done, budget))

    found = mwa.search(
        sample_run, tmp_path / "best", evaluate=size, goal="min", holdout=lambda path: {"score": size(path), "error": 1.0},
        method="lcsc", budget=24, seed=42, last=4, progress=progress,
    )  # fmt: skip
    scores = [trial.score for trial in found.trials if trial.score is not None]
    assert len(scores) == 24 and found.score == min(scores)
    assert found.trials[found.winner - 1].score == found.score == size(str(tmp_path / "best"))
    assert [row.name for row in found.compared] == ["last", "best single", "uniform", "metric", "winner"]
    assert all(row.holdout == row.score for row in found.compared)
    assert "within noise" in " ".join(found.doubts)
    assert mwa.verify(tmp_path / "best").is_good
    assert heard[-1] == (24, 24)
    weights = found.trials[found.winner - 1].weights
    assert [row.weight for row in found.merge.inputs] == list(weights)
    again = mwa.search(
        sample_run, tmp_path / "again", evaluate=size, goal="min", method="lcsc", budget=24, seed=42, last=4, workers=3
    )
    assert [trial.weights for trial in again.trials] == [trial.weights for trial in found.trials]


def test_a_search_proposes_what_the_native_program_does_to_the_bit(sample_run: Path, tmp_path: Path) -> None:
    def bowl(path: str) -> float:
        report = json.loads((Path(path) / "mwa-report.json").read_text())
        weights = [row["weight"] for row in report["inputs"]]
        total = 0.0
        for i, weight in enumerate(weights, 1):
            total += i * (weight - i / 55) ** 2
        return total

    # what host/tests/cli/search.rs holds the native program to, and tests/web/node.test.mjs the npm package
    expected = json.loads((Path(__file__).parents[3] / "tests" / "web" / "search.json").read_text())
    found = mwa.search(
        sample_run, tmp_path / "best", evaluate=bowl, goal="min", method="lcsc", budget=len(expected), seed=42, select="all", workers=2
    )  # fmt: skip
    assert [list(trial.weights) for trial in found.trials] == expected


def test_what_a_function_raises_fails_its_candidate(sample_run: Path, tmp_path: Path) -> None:
    calls = threading.Semaphore(0)

    def evaluate(path: str) -> object:
        calls.release()
        number = int(path.rsplit("-", 1)[1])
        if number == 2:
            raise RuntimeError("out of memory")
        return {3: float("nan"), 4: "much", 5: {"loss": 1}, 6: np.float32(0.5)}.get(number, 1)

    found = mwa.search(sample_run, tmp_path / "best", evaluate=evaluate, goal="min", method="sweep", budget=8, last=4)  # type: ignore[arg-type]
    failed = {trial.number: trial.failed for trial in found.trials if trial.failed}
    assert failed[2] == "RuntimeError: out of memory" and failed[3] == "its score is NaN"
    assert failed[4].startswith("ValueError") and failed[5] == "its JSON has no `score`"
    assert found.winner == 6


def test_what_failed_all_is_the_cause(sample_run: Path, tmp_path: Path) -> None:
    def evaluate(path: str) -> float:
        raise ValueError("no such task")

    for functions in ({"evaluate": evaluate}, {"evaluate": size, "holdout": evaluate}):
        with pytest.raises(mwa.MergeError, match="ValueError: no such task") as caught:
            mwa.search(sample_run, tmp_path / "best", goal="min", method="sweep", budget=8, last=4, **functions)  # type: ignore[arg-type]
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)][-1] == "evaluate"
        (tmp_path / "best.search.jsonl").unlink(missing_ok=True)


def test_a_notebook_shows_scores_and_weights(sample_run: Path, tmp_path: Path) -> None:
    found = mwa.search(sample_run, tmp_path / "best", evaluate=size, goal="min", method="sweep", budget=8, last=4)
    html = found._repr_html_()
    assert "best single" in html and "careful: " in html and html.count("width:100%") >= 2
    assert f"{found.score:.5g}" in html


def test_an_interrupt_stops_and_is_gone_on_from(sample_run: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def evaluate(path: str) -> float:
        if len(seen) == 3:
            seen.append("interrupted")
            raise KeyboardInterrupt
        seen.append(path)
        return 1.0

    def search(resume: bool) -> mwa.SearchReport:
        return mwa.search(
            sample_run, tmp_path / "best", evaluate=evaluate, goal="min", method="sweep", budget=8, last=4, resume=resume
        )

    with pytest.raises(KeyboardInterrupt):
        search(False)
    assert not (tmp_path / "best").exists()
    with pytest.raises(mwa.MergeError, match="holds the trials of an earlier search"):
        search(False)
    assert len(search(True).trials) == 8
    assert len(seen) == 9, "three were known"
    lines = (tmp_path / "best.search.jsonl").read_text().splitlines()
    assert len(lines) == 9 and len({str(json.loads(line)["weights"]) for line in lines[1:]}) == 8


def test_what_is_wrong_is_refused(sample_run: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"goal": "up"}, "option score_goal"),
        ({"method": "grid"}, "option search_method"),
        ({"last": 1}, "there is nothing to search"),
        ({"weights": [1, 2]}, "option weights is not for a search"),
        ({"budgt": 3}, "there is no option `budgt`"),
        ({"method": "line", "last": 3}, "method line searches between two"),
    ]
    for options, message in wrong:
        with pytest.raises(mwa.MergeError, match=message) as caught:
            mwa.search(sample_run, tmp_path / "best", evaluate=size, **{"goal": "min", **options})
        assert caught.value.kind == "usage"
    assert not list(tmp_path.iterdir())
