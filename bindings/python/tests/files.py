"""Read safetensors files without the package under test."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np

Tensors = dict[str, tuple[str, list[int], bytes]]

DTYPES = {
    "BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16), "I32": np.dtype(np.int32), "U32": np.dtype(np.uint32), "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: Path) -> Tensors:
    """Dtype, shape and bytes of each tensor."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    places = {name: (entry, [end + offset for offset in entry["data_offsets"]]) for name, entry in header.items()}
    return {name: (entry["dtype"], entry["shape"], raw[a:b]) for name, (entry, (a, b)) in places.items()}


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    """As NumPy arrays, which are read-only."""
    return {name: np.frombuffer(raw, DTYPES[dtype]).reshape(shape) for name, (dtype, shape, raw) in tensors.items()}


def raw(state: dict[str, np.ndarray]) -> Tensors:
    """And back."""
    return {name: (NAMES[array.dtype], list(array.shape), array.tobytes()) for name, array in state.items()}
