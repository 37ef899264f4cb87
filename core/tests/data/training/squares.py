"""Make zero2/squares.safetensors and zero3/squares.safetensors of the ranks' files: numpy, zipfile, and pickles that make nothing.

    python squares.py [--check]

zero_to_fp32.py of DeepSpeed has no such thing: this page follows its rules for the f32 weights, for the second moments.
"""

import collections
import io
import json
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


class Inert:
    def __new__(cls, *_):
        return object.__new__(cls)

    def __setstate__(self, state):
        pass


def load(path):
    archive = zipfile.ZipFile(path)
    root = next(name for name in archive.namelist() if name.endswith("data.pkl"))

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if name in ("OrderedDict", "Size"):
                return {"OrderedDict": collections.OrderedDict, "Size": tuple}[name]
            if name == "_rebuild_tensor_v2":
                return lambda data, offset, size, *_: data if data is None else data[offset : offset + int(np.prod(size))].reshape(size)
            return type(name, (Inert,), {})

        def persistent_load(self, told):
            data = archive.read(root[: -len("data.pkl")] + "data/" + told[2])
            return np.frombuffer(data, np.float32) if told[1].__name__ == "FloatStorage" else None

    return Reader(io.BytesIO(archive.read(root))).load()


def zero2(folder):
    """End to end over the ranks, each parameter with what is filled up behind it."""
    model = load(folder / "mp_rank_00_model_states.pt")
    ranks = [load(path)["optimizer_state_dict"] for path in sorted(folder.glob("*_optim_states.pt"))]
    found = {}
    for group, shapes in enumerate(model["param_shapes"]):
        flat = np.concatenate([rank["base_optimizer_state"]["state"][group]["exp_avg_sq"] for rank in ranks])
        at = 0
        for (name, shape), padding in zip(shapes.items(), ranks[0]["param_alignment_paddings"][group]):
            count = int(np.prod(shape))
            found[name] = flat[at : at + count].reshape(shape)
            at += count + padding
    return found, model["shared_params"]


def zero3(folder):
    """A part of each parameter in each rank."""
    model = load(sorted(folder.glob("*_model_states.pt"))[0])
    ranks = [load(path)["optimizer_state_dict"] for path in sorted(folder.glob("*_optim_states.pt"))]
    flats = []
    for rank in ranks:
        states = rank["optimizer_state_dict"]["state"]
        flats.append(np.concatenate([states[group]["exp_avg_sq"] for group in sorted(states)]))
    found, at = {}, 0
    for shapes in model["param_shapes"]:
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            part = -(-count // len(ranks))
            found[name] = np.concatenate([flat[at : at + part] for flat in flats])[:count].reshape(shape)
            at += part
    return found, model["shared_params"]


def safetensors(tensors):
    head, data = {}, b""
    for name in sorted(tensors):
        raw = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        head[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


for name, read in (("zero2", zero2), ("zero3", zero3)):
    found, shared = read(HERE / name / "global_step3")
    found |= {alias: found[own] for alias, own in shared.items() if own in found}
    path, made = HERE / name / "squares.safetensors", safetensors(found)
    if sys.argv[1:] == ["--check"]:
        assert path.read_bytes() == made, f"{path} is stale"
    else:
        path.write_bytes(made)
