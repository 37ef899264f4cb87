"""State dicts in memory: every layout, every kind of wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import mwa


def states(count: int = 3) -> list[dict[str, np.ndarray]]:
    """Tensors of several sizes, one larger than a job."""
    generator = np.random.default_rng(7)
    shapes = {"long": (300, 1001), "b": (17, 19), "scalar": (), "empty": (0, 4)}
    return [{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)]


def refused(*arguments: Any, **options: Any) -> mwa.MergeError:
    with pytest.raises(mwa.MergeError) as caught:
        mwa.merge_state_dicts(*arguments, **options)
    return caught.value


def test_sums_in_order_and_keeps_the_order_of_names() -> None:
    inputs = states()
    weights = [np.float32(w) for w in (0.2, 0.3, 0.5)]
    for threads in (1, 3, None):
        merged = mwa.merge_state_dicts(inputs, [0.2, 0.3, 0.5], threads=threads)
        assert list(merged) == list(inputs[0])
        for name, got in merged.items():
            want = weights[0] * inputs[0][name] + weights[1] * inputs[1][name] + weights[2] * inputs[2][name]
            assert got.dtype == np.float32 and np.array_equal(got, want) and got.shape == want.shape


def test_layout_does_not_matter() -> None:
    inputs = states()
    wide = np.zeros((600, 1001), np.float32)
    for state in inputs:
        wide[::2] = state["long"]
        state["long"] = wide[::2].copy()
    plain = mwa.merge_state_dicts(inputs, [1, 1, 1])["long"]
    strange: list[dict[str, Any]] = [dict(state) for state in inputs]
    strange[0]["long"] = np.asfortranarray(inputs[0]["long"])
    spread = np.zeros((600, 2002), np.float32)
    spread[::2, ::2] = inputs[1]["long"]
    strange[1]["long"] = spread[::2, ::2]
    strange[2]["long"] = inputs[2]["long"][::-1][::-1]
    strange[2]["long"].flags.writeable = False
    assert np.array_equal(mwa.merge_state_dicts(strange, [1, 1, 1])["long"], plain)


def test_contiguous_tensors_are_not_copied() -> None:
    resource = pytest.importorskip("resource")
    inputs = [{"w": np.full((32 << 20) // 4, i, np.float32)} for i in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mwa.merge_state_dicts(inputs, [1, 1, 1, 1])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (32 + 64) << 10, "more than one output and 64 MiB"


def test_scalars_of_numpy_and_dtypes_that_differ() -> None:
    inputs: list[dict[str, Any]] = [{"s": np.float16(1)}, {"s": np.array(2, bfloat16)}]
    merged = mwa.merge_state_dicts(inputs, [1, 1])["s"]
    assert merged.dtype == np.float32 and merged.shape == () and merged == 1.5
    assert mwa.merge_state_dicts(inputs, [1, 1], dtype="bf16")["s"].dtype == bfloat16


def test_factors_of_two_runs_are_refused_and_notes_are_told() -> None:
    generator = np.random.default_rng(1)
    shapes = {"model.q.lora_A.weight": (4, 64), "model.q.lora_B.weight": (64, 4)}
    runs = [{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(2)]
    assert refused(runs, [1, 1]).kind == "cross-run"
    notes: list[str] = []
    mwa.merge_state_dicts(runs, [1, 2], allow_cross_run=True, note=notes.append)
    assert any("sum to 3" in note for note in notes), notes


def test_integers_are_copied_when_they_are_the_same() -> None:
    state = {"position": np.arange(4), "mask": np.array([True, False])}
    assert np.array_equal(mwa.merge_state_dicts([state, state], [1, 1])["position"], state["position"])
    error = refused([state, {**state, "position": np.arange(1, 5)}], [1, 1])
    assert (error.kind, error.tensor, error.path) == ("differs", "position", "state_dicts[1]")


def test_what_is_wrong_is_named() -> None:
    one, other = {"w": np.zeros((2, 3), np.float32)}, {"w": np.zeros((2, 4), np.float32)}
    error = refused([one, other], [1, 1])
    assert (error.kind, error.tensor, error.path) == ("shape", "w", "state_dicts[1]")
    assert error.message == "is [2, 4], but state_dicts[0] has [2, 3]"
    assert refused([one, {}], [1, 1]).kind == "input"
    assert refused([one, one], [1]).message == "there is 1 weight for 2 checkpoints: state_dicts[0], state_dicts[1]"
    assert refused([], []).kind == "weights"
    assert refused([one], [-1]).kind == "weights"
    assert refused([{"w": np.array([1, np.nan], np.float32)}], [1]).message == "holds NaN, at element 1"
    assert refused([one], [1], dtype="int4").kind == "usage"
    assert refused([one], [1], threads=0).kind == "usage"


@pytest.mark.parametrize(
    ("tensor", "kind", "says"),
    [
        (3, "input", "is an int, which is not a tensor"),
        ([1.0], "input", "is a list, which is not a tensor"),
        (np.zeros(2, ">f4"), "dtype", "is >f4, which safetensors does not know"),
        (np.zeros(2, "M8[s]"), "dtype", "is datetime64[s]"),
        (np.array(["x"]), "dtype", "is <U1"),
        (np.zeros(2, np.complex128), "dtype", "is complex128"),
        (np.array([None]), "dtype", "is object"),
    ],
)
def test_what_is_no_tensor(tensor: Any, kind: str, says: str) -> None:
    error = refused([{"w": tensor}], [1])
    assert (error.kind, error.tensor, error.path) == (kind, "w", "state_dicts[0]") and says in error.message


def test_wrong_types_are_pythons_own_errors() -> None:
    with pytest.raises(TypeError):
        mwa.merge_state_dicts([{1: np.zeros(2)}], [1])  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        mwa.merge_state_dicts([{"w": np.zeros(2)}], ["x"])  # type: ignore[list-item]


def test_a_failing_callback_stops_the_merge() -> None:
    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError(done)

    with pytest.raises(ZeroDivisionError):
        mwa.merge_state_dicts(states(), [1, 1, 1], progress=fail)
