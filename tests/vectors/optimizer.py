#!/usr/bin/env python3
"""Make core/tests/data/torch/optimizer-*.pt: states of optimizers as `torch.save()` lays them out, without torch.

usage: optimizer.py     needs Python alone

The dictionaries are those of a Trainer's optimizer.pt of a LoRA (with DoRA's vectors, and norms and lm_head trained whole), of
bitsandbytes' 8-bit Adam (0.50 nests its tensors) and of Adafactor. All tensors share one storage, so that the files are small.
"""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / "core/tests/data/torch"


def module(name, **members):
    made = types.ModuleType(name)
    for key, value in members.items():
        value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(made, key, value)
    sys.modules[name] = made


def _rebuild_tensor_v2(*_):
    """Named in pickles, never called."""


class FloatStorage:
    """Named in pickles."""


class ByteStorage:
    """Named in pickles."""


module("torch._utils", _rebuild_tensor_v2=_rebuild_tensor_v2)
module("torch", FloatStorage=FloatStorage, ByteStorage=ByteStorage)


class Storage:
    def __init__(self, kind, key, elements):
        self.id = ("storage", kind, key, "cpu", elements)


FLOATS, BYTES = Storage(FloatStorage, "0", 64), Storage(ByteStorage, "1", 64)


class Tensor:
    def __init__(self, shape, storage=FLOATS):
        assert prod(shape) <= 64, shape
        strides = [prod(shape[i + 1:]) for i in range(len(shape))]
        self.arguments = (storage, 0, tuple(shape), tuple(strides), False, OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None


def save(name, value):
    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump(value)
    with zipfile.ZipFile(PLACE / name, "w") as archive:
        for inner, data in [("data.pkl", pickled.getvalue()), ("byteorder", b"little"), ("data/0", bytes(256)), ("data/1", bytes(64)), ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"archive/{inner}"), data)
    print(name, (PLACE / name).stat().st_size)


def group(numbers, **more):
    return {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0.01, **more, "params": list(numbers)}


def adam(shape):
    return {"step": Tensor([]), "exp_avg": Tensor(shape), "exp_avg_sq": Tensor(shape)}


# the order of a Trainer: what decays, then norms; layers by number, modules as Llama makes them
decays, others = [], []
for layer in range(11):
    stem = f"base_model.model.model.layers.{layer}."
    for name, inputs, outputs in [("self_attn.q_proj", 4, 4), ("self_attn.v_proj", 4, 4), ("mlp.down_proj", 6, 4)]:
        decays += [(f"{stem}{name}.lora_A.default.weight", (2, inputs)), (f"{stem}{name}.lora_B.default.weight", (outputs, 2)),
                   (f"{stem}{name}.lora_magnitude_vector.default.weight", (outputs,))]
    others.append((f"{stem}input_layernorm.modules_to_save.default.weight", (4,)))
decays.append(("base_model.model.lm_head.modules_to_save.default.weight", (8, 4)))
others.append(("base_model.model.model.norm.modules_to_save.default.weight", (4,)))
every = decays + others
save("optimizer-lora.pt", {
    "state": {i: adam(shape) for i, (_, shape) in enumerate(every)},
    "param_groups": [group(range(len(decays))), group(range(len(decays), len(every)), weight_decay=0.0)],
})
(PLACE / "optimizer-lora.txt").write_text("".join(f"{name} {'x'.join(map(str, shape))}\n" for name, shape in every))

sizes = [shape for _ in range(11) for shape in [(2, 4), (4, 2)]]
small = lambda shape: {"step": 2, "__bnb_optimizer_quant_state__": {"state1": Tensor(shape), "state2": Tensor(shape)}}
eight = lambda shape: {"step": 2, "__bnb_optimizer_quant_state__": {
    "state1": Tensor(shape, BYTES), "state2": Tensor(shape, BYTES), "qmap1": Tensor([16]), "absmax1": Tensor([1]), "qmap2": Tensor([16]),
    "absmax2": Tensor([1])}}
save("optimizer-bnb8.pt", {
    "state": {i: small(shape) if i == 3 else eight(shape) for i, shape in enumerate(sizes)}, "param_groups": [group(range(22)), group([])]})
rows = lambda shape: {"step": 2, "exp_avg_sq_row": Tensor(shape[:1]), "exp_avg_sq_col": Tensor(shape[1:]), "RMS": Tensor([])}
save("optimizer-adafactor.pt", {"state": {i: rows(shape) for i, shape in enumerate(sizes)}, "param_groups": [{"params": list(range(22))}, {"params": []}]})
