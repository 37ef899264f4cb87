"""Every vector and every hostile file, through files and in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import files
import mwa
from conftest import INDEX, VECTORS

CASES = INDEX["cases"]
# hostile files that hold no weights, but are known
NAMED = {"html-page-lower-case", "json-file"}


def expect(case: dict[str, Any], merge: Any) -> None:
    if "error" in case:
        with pytest.raises(mwa.MergeError) as caught:
            merge()
        assert caught.value.kind == case["error"] and case.get("tensor", "") in str(caught.value)
    else:
        assert merge() == files.read(VECTORS / case["output"])


def is_for_files(case: dict[str, Any]) -> bool:
    """A whole-run merge has no option for infinities, copies the file of the only checkpoint that has weight, and refuses
    checkpoints without tensors."""
    used = sum(abs(weight) > 1e-30 for weight in case["weights"])
    return "non_finite" not in case and used > 1 and case["case"] != "no-tensors"


@pytest.mark.parametrize("case", [case for case in CASES if is_for_files(case)], ids=lambda case: case["case"])
def test_files(case: dict[str, Any], tmp_path: Path) -> None:
    # one file may be several inputs, and a number at the end of a name would be a step
    inputs = [tmp_path / f"{chr(ord('a') + i)}.safetensors" for i in range(len(case["inputs"]))]
    for copy, name in zip(inputs, case["inputs"]):
        shutil.copyfile(VECTORS / name, copy)

    def merge() -> files.Tensors:
        out = tmp_path / "out"
        report = mwa.merge(inputs, out, weights=case["weights"], dtype=case["dtype"], allow_cross_run=True)
        return files.read(out / report.outputs[0].name)

    expect(case, merge)


@pytest.mark.parametrize("case", [case for case in CASES if case["case"] != "no-tensors"], ids=lambda case: case["case"])
def test_memory(case: dict[str, Any]) -> None:
    inputs = [files.read(VECTORS / name) for name in case["inputs"]]
    if unknown := {dtype for tensors in inputs for dtype, _, _ in tensors.values()} - files.DTYPES.keys():
        pytest.skip(f"NumPy has no {', '.join(unknown)}")

    def merge() -> files.Tensors:
        states = [files.arrays(tensors) for tensors in inputs]
        allow = case.get("non_finite") == "allow"
        return files.raw(
            mwa.merge_state_dicts(states, case["weights"], dtype=case["dtype"], allow_non_finite=allow)
        )

    expect(case, merge)


@pytest.mark.parametrize("case", INDEX["hostile"], ids=lambda case: Path(case["file"]).stem)
def test_hostile(case: dict[str, Any], tmp_path: Path) -> None:
    file = VECTORS / case["file"]
    if "tensors" in case:
        assert mwa.inspect(file).checkpoints[0].tensors == len(case["tensors"])
        return
    looks: list[Callable[[], object]] = [lambda: mwa.inspect(file), lambda: mwa.merge(file, tmp_path / "out", scheme="uniform")]
    if file.stem in NAMED:
        # no weights: it is said what it is instead
        found = mwa.inspect(file)
        assert found.known and not found.checkpoints
        looks = looks[1:]
    for look in looks:
        with pytest.raises(mwa.MergeError) as caught:
            look()
        assert caught.value.kind == case["error"]
        assert case["says"].lower() in str(caught.value).lower()
        assert case.get("tensor", "") in str(caught.value)
        assert caught.value.path == str(file)
    assert not any(tmp_path.iterdir())
