"""Merge state dicts in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from mwa import _mwa
from mwa.given import to_json

Tensor = TypeVar("Tensor")


def merge_state_dicts(
    state_dicts: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    *,
    dtype: Literal["keep", "f32", "bf16", "f16"] = "keep",
    allow_cross_run: bool = False,
    allow_non_finite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    note: Callable[[str], object] | None = None,
) -> dict[str, Tensor]:
    """The weighted average of state dicts, tensor by tensor: the bytes that merging their files gives.

    Takes NumPy arrays (with `ml_dtypes` also bfloat16 and float8), PyTorch tensors, and others that speak DLPack, all in
    main memory; reads them where they lie, and copies only those that are not contiguous. Weights are divided by their
    sum. Integer and boolean tensors must be the same in every state dict. LoRA factors of several runs are refused unless
    `allow_cross_run`. `note` hears what there is to know of the merge, as files' merges report it. The result has the order
    of the last state dict, and tensors of its kind: PyTorch's for PyTorch's, NumPy's for all others. Raises `MergeError`.
    """
    newest = state_dicts[-1] if state_dicts else {}
    inputs = [(f"state_dicts[{i}]", list(tensors.items()), None) for i, tensors in enumerate(state_dicts)]
    merged, _, notes = _mwa.merge_tensors(
        inputs,
        weights,
        to_json(
            {
                "dtype": dtype,
                "allow_cross_run": allow_cross_run,
                "allow_non_finite": allow_non_finite,
                "threads": threads,
            }
        ),
        lambda name, dtype, shape: _empty(newest[name], dtype, shape),
        progress,
    )
    if note is not None:
        for text in notes:
            note(text)
    return {name: merged[name] for name in newest}


def _empty(like: Any, dtype: str, shape: Sequence[int]) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(like, torch.Tensor):
        return torch.empty(shape, dtype=getattr(torch, dtype))
    import numpy

    if dtype == "bfloat16" or dtype.startswith("float8"):
        import ml_dtypes

        return numpy.empty(shape, dtype=getattr(ml_dtypes, dtype))
    return numpy.empty(shape, dtype=dtype)
