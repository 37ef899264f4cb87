#!/usr/bin/env python3
"""Make what becomes of these two checkpoints by the second moments in their optimizer.pt: by the oracle in numpy, without torch.

usage: expected.py [--check]     needs numpy and ml_dtypes

A Trainer wrote the checkpoints: PEFT 0.21 on a Llama of a few thousand parameters, AdamW. A pickle of a state is read by names of this page only.
"""

import json
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[4] / "tests" / "vectors"))

from curved import curved, factors, multiplied  # noqa: E402
from files import plain  # noqa: E402
from oracle import Tensor  # noqa: E402


def weights(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    head, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    head.pop("__metadata__", None)
    at = lambda entry: np.frombuffer(data[slice(*entry["data_offsets"])], np.uint32)  # noqa: E731
    return {name: Tensor(entry["dtype"], entry["shape"], at(entry)) for name, entry in head.items()}


def state(path):
    """{number: (exp_avg_sq, step)} and the decay of the means."""
    archive = zipfile.ZipFile(path)
    folder = archive.namelist()[0].split("/")[0]

    class Reader(pickle.Unpickler):
        def persistent_load(self, what):
            return np.frombuffer(archive.read(f"{folder}/data/{what[2]}"), np.float32)

        def find_class(self, module, name):
            if name == "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: np.array(storage[offset : offset + int(np.prod(size))]).reshape(size)
            return dict if name == "OrderedDict" else (lambda *_: None)

    with archive.open(f"{folder}/data.pkl") as file:
        found = Reader(file).load()
    beta = found["param_groups"][0]["betas"][1]
    return {number: (own["exp_avg_sq"], float(own["step"])) for number, own in found["state"].items()}, beta


# the order of the model: layers, q before v, A before B
ORDER = [f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{half}.weight" for layer in range(2) for module in "q_proj v_proj".split() for half in "AB"]


def main():
    steps = [HERE / f"checkpoint-{step}" for step in (50, 100)]
    files = [weights(step / "adapter_model.safetensors") for step in steps]
    moments = []
    for step in steps:
        found, beta = state(step / "optimizer.pt")
        bits = lambda v: np.ascontiguousarray(v).view(np.uint32)  # noqa: E731
        own = {name: Tensor("F32", found[i][0].shape, bits(found[i][0])) for i, name in enumerate(ORDER)}
        moments.append((own, (beta, found[0][1])))
    small = [(multiplied(factors(own)), told) for own, told in moments]
    np.seterr(all="ignore")
    made = {
        "ota": curved(files, None, moments, {}, "keep", False),
        "ota-as-they-are": curved(files, None, moments, {"normalise": "none"}, "keep", False),
        "ota-rank1": curved(files, None, small, {}, "keep", False),
        "ffg": curved(files[1:], files[0], moments[1:], {"density": 0.25}, "keep", False),
    }
    for name, tensors in made.items():
        path, bytes_ = HERE / f"{name}.safetensors", plain(tensors)
        if sys.argv[1:] == ["--check"]:
            if path.read_bytes() != bytes_:
                sys.exit(f"{path.name} is stale")
        else:
            path.write_bytes(bytes_)


if __name__ == "__main__":
    main()
