"""Hold what torch gathered of the DCP folders here against a reader of its own: numpy, zipfile, and pickles that make nothing.

    python check.py
"""

import collections
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DTYPES = {"F32": "<f4", "BF16": "<u2", "I64": "<i8"}


class Inert:
    """Any object of a pickle: its class's name, and what it was told of itself."""

    def __new__(cls, *_):
        made = object.__new__(cls)
        made.state = {}
        return made

    def __setstate__(self, state):
        self.state = state


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if name == "Size":
            return tuple
        if name == "OrderedDict":
            return collections.OrderedDict
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        return type(name, (Inert,), {})

    def persistent_load(self, told):
        return told


def chunk(blob, dtype):
    archive = zipfile.ZipFile(io.BytesIO(blob))
    root = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    storage, offset, size, stride = Reader(io.BytesIO(archive.read(root))).load()
    data = np.frombuffer(archive.read(root[: -len("data.pkl")] + "data/" + storage[2]), dtype)
    steps = [step * data.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(data[offset:], size, steps)


for step in (10, 20):
    folder = HERE / f"dcp/checkpoint-{step}"
    table = Reader(io.BytesIO((folder / ".metadata").read_bytes())).load().state
    stored = {(index.state["fqn"], index.state.get("offset")): info.state for index, info in table["storage_data"].items()}
    file = (HERE / f"dcp/{step}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", file[:8])
    head = json.loads(file[8 : 8 + length])
    seen = set()
    for name, listed in table["state_dict_metadata"].items():
        own = name.removeprefix("model.").replace("_orig_mod.", "")
        if own not in head:
            continue
        dtype = DTYPES[head[own]["dtype"]]
        whole = np.zeros(listed.state["size"], dtype)
        for piece in listed.state["chunks"]:
            offsets, sizes = piece.state["offsets"], piece.state["sizes"]
            info = stored[(name, offsets)]
            blob = (folder / info["relative_path"]).read_bytes()[info["offset"] :][: info["length"]]
            whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes))] = chunk(blob, dtype)
        start, end = head[own]["data_offsets"]
        assert whole.tobytes() == file[8 + length + start : 8 + length + end], own
        seen.add(own)
    assert seen == set(head), (seen, set(head))
print("the same")
