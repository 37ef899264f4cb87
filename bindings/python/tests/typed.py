"""What type checkers see: `mypy --strict` accepts this file, and needs each of its ignores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import mwa

report = mwa.merge("run", Path("out"), metric="loss", last=4, steps=(500, None), progress=lambda done, total: None)
assert_type(report, mwa.Report)
assert_type(report.inputs[0].weight, float)
assert_type(report.weighting.metric, "str | None")
assert_type(mwa.weights(["a", Path("b")], scheme="rank").outputs, "tuple[mwa.HashedFile, ...]")
assert_type(mwa.verify("out").is_good, bool)
assert_type(mwa.inspect("run").checkpoints[0].ranks, "tuple[int, ...]")
mwa.verify("out", device="cpu", threads=2)
assert_type(mwa.apply("adapter", base="base", out="out", threads=2), mwa.Report)
assert_type(mwa.extract("tuned", "out", base=Path("base"), rank="auto", error=0.05).extracted, "mwa.Extracted | None")
device: mwa.Device = [0, 1]
mwa.merge("run", "out", device=device, space="product", rank="auto", dtype="bf16")
try:
    mwa.merge("run", "out", device="tpu")  # type: ignore[arg-type]
    mwa.merge("run", "out", lst=4)  # type: ignore[call-arg]
    mwa.merge("run", "out", last="4")  # type: ignore[arg-type]
    mwa.merge("run", "out", scheme="best")  # type: ignore[arg-type]
    mwa.weights("run", dtype="f32")  # type: ignore[call-arg]
    mwa.apply("adapter", "out")  # type: ignore[call-arg]
    mwa.apply("adapter", base="base", out="out", metric="loss")  # type: ignore[call-arg]
    mwa.extract("tuned", base="base", out="out", rank="best")  # type: ignore[arg-type]
    mwa.merge(3, "out")  # type: ignore[arg-type]
except mwa.MergeError as error:
    assert_type(error.kind, str)
    assert_type(error.tensor, "str | None")

State = dict[str, npt.NDArray[Any]]
state: State = {"w": np.zeros(3)}
assert_type(mwa.merge_state_dicts([state, state], [1, 2]), State)
