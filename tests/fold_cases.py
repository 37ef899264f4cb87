#!/usr/bin/env python3
"""Small bases, adapters and what folding them must give, by numpy alone: host/tests/cli/data/apply.

usage: python tests/fold_cases.py      needs numpy and ml_dtypes

The formulas are those of PEFT 0.21's `merge` (`lora/layer.py`, `lora/variants.py`), in f64: `expected.safetensors` holds exact numbers,
and `host/tests/cli/apply.rs` holds the program to one rounding of the base's dtype. `tests/fold_lane.py` asks PEFT itself.
"""

import json
import math
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np

ROOT = Path(__file__).resolve().parent.parent / "host/tests/cli/data/apply"
NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
BF16 = ml_dtypes.bfloat16
PRE = "base_model.model."


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


class Case:
    def __init__(self, name, dtype, config=None, base_config=None, **adapter):
        self.name, self.dtype = name, dtype
        self.random = np.random.default_rng(sum(map(ord, name)))
        self.config = {"peft_type": "LORA", "r": 3, "lora_alpha": 4, "base_model_name_or_path": "example/base", **(config or {})}
        self.base_config = base_config or {"model_type": "llama"}
        self.base, self.adapter, self.expected = {}, {}, {}
        self.adapter_dtype = adapter.get("adapter", np.float32)

    def noise(self, *shape, dtype=np.float64):
        return self.random.standard_normal(shape).astype(dtype)

    def weight(self, name, *shape):
        self.base[name] = self.noise(*shape, dtype=self.dtype)
        self.expected[name] = self.base[name].astype(np.float64)
        return self.expected[name]

    def part(self, name, *shape, scale=0.3):
        self.adapter[PRE + name] = (self.noise(*shape) * scale).astype(self.adapter_dtype)
        return self.adapter[PRE + name].astype(np.float64)

    def gamma(self, r, alpha=None):
        alpha = self.config["lora_alpha"] if alpha is None else alpha
        return alpha / (math.sqrt(r) if self.config.get("use_rslora") else r)

    def linear(self, path, out, inside, r=3, alpha=None, turned=False, dora=False, base=None):
        name = (base or path) + ".weight"
        w = self.weight(name, *((inside, out) if turned else (out, inside)))
        a, b = self.part(f"{path}.lora_A.weight", r, inside), self.part(f"{path}.lora_B.weight", out, r)
        delta = self.gamma(r, alpha) * (b @ a)
        new = (w.T if turned else w) + delta
        if dora:
            m = np.abs(self.part(f"{path}.lora_magnitude_vector", out, scale=2.0)) + 1
            self.adapter[f"{PRE}{path}.lora_magnitude_vector"] = m.astype(self.adapter_dtype)
            m = m.astype(self.adapter_dtype).astype(np.float64)
            new = new * (m / np.linalg.norm(new, axis=1))[:, None]
        self.expected[name] = new.T if turned else new

    def embedding(self, path, vocab, d, r=3, dora=False):
        w = self.weight(path + ".weight", vocab, d)
        a, b = self.part(f"{path}.lora_embedding_A", r, vocab), self.part(f"{path}.lora_embedding_B", d, r)
        new = w + self.gamma(r) * (b @ a).T
        if dora:
            m = (np.abs(self.noise(d)) + 1).astype(self.adapter_dtype)
            self.adapter[f"{PRE}{path}.lora_magnitude_vector"] = m
            new = new * (m.astype(np.float64) / np.linalg.norm(new, axis=0))[None, :]
        self.expected[path + ".weight"] = new

    def conv(self, path, out, inside, *kernel, r=3, dora=False):
        w = self.weight(path + ".weight", out, inside, *kernel)
        a = self.part(f"{path}.lora_A.weight", r, inside, *kernel)
        b = self.part(f"{path}.lora_B.weight", out, r, *(1 for _ in kernel))
        new = w + self.gamma(r) * np.einsum("or,r...->o...", b.reshape(out, r), a)
        if dora:
            m = (np.abs(self.noise(out)) + 1).astype(self.adapter_dtype)
            self.adapter[f"{PRE}{path}.lora_magnitude_vector"] = m.reshape(1, out, *(1 for _ in kernel))
            factor = m.astype(np.float64) / np.linalg.norm(new.reshape(out, -1), axis=1)
            new = new * factor.reshape(out, *(1 for _ in new.shape[1:]))
        self.expected[path + ".weight"] = new

    def experts(self, key, path, count, out, inside, r):
        """ΔW of each expert, [E, out, in]; the caller says where it goes."""
        a, b = self.part(f"{key}.lora_A.weight", count * r, inside), self.part(f"{key}.lora_B.weight", out, r * count)
        return self.gamma(r) * np.einsum("ore,eri->eoi", b.reshape(out, r, count), a.reshape(count, r, inside))

    def write(self):
        folder = ROOT / self.name
        save(folder / "base/model.safetensors", self.base)
        (folder / "base/config.json").write_text(json.dumps(self.base_config, indent=2) + "\n")
        save(folder / "adapter/adapter_model.safetensors", self.adapter)
        (folder / "adapter/adapter_config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        save(folder / "expected.safetensors", self.expected)


def cases():
    c = Case("linear", BF16, {"rank_pattern": {r"layers\.1\.q": 5}, "alpha_pattern": {"v": 16}})
    c.linear("model.layers.0.q", 10, 20)
    c.linear("model.layers.1.q", 10, 20, r=5)
    c.linear("model.layers.0.v", 7, 20, alpha=16)
    c.weight("model.norm.weight", 20)
    yield c

    c = Case("rslora", np.float16, {"use_rslora": True}, adapter=BF16)
    c.linear("model.q", 9, 17)
    yield c

    c = Case("f64", np.float64, adapter=np.float64)
    c.linear("model.q", 5, 18)
    yield c

    c = Case("gpt2", np.float32, {"fan_in_fan_out": True}, {"model_type": "gpt2"})
    c.linear("transformer.h.0.attn.c_attn", 24, 8, turned=True)
    c.linear("transformer.h.0.attn.c_proj", 8, 8, turned=True)
    yield c

    c = Case("convolutions", np.float32)
    c.conv("two", 6, 3, 3, 3)
    c.conv("one", 5, 4, 3)
    c.conv("dot", 4, 5, 1, 1)
    c.conv("dora", 4, 3, 2, 2, dora=True)
    yield c

    c = Case("embeddings", np.float32, None, {"model_type": "llama", "tie_word_embeddings": True})
    c.embedding("model.embed_tokens", 23, 6)
    c.adapter[PRE + "model.embed_tokens.base_layer.weight"] = c.base["model.embed_tokens.weight"]
    yield c

    c = Case("dora", np.float32, {"use_dora": True})
    c.linear("model.q", 11, 19, dora=True)
    c.linear("model.k", 8, 8, dora=True)
    c.embedding("model.embed_tokens", 21, 18, dora=True)
    yield c

    c = Case("dora-gpt2", BF16, {"use_dora": True, "fan_in_fan_out": True})
    c.linear("h.0.c_attn", 21, 8, turned=True, dora=True)
    c.linear("h.0.c_proj", 8, 8, turned=True, dora=True)
    yield c

    targets = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "r": 2}
    path = "model.layers.0.mlp.experts"
    c = Case("experts", np.float32, targets, {"model_type": "qwen3_moe"})
    for key, name, out, inside in [(path + ".base_layer", "gate_up_proj", 10, 6), (path, "down_proj", 6, 5)]:
        w = c.weight(f"{path}.{name}", 4, out, inside)
        c.expected[f"{path}.{name}"] = w + c.experts(key, path, 4, out, inside, 2)
    yield c

    c = Case("experts-turned", np.float32, targets, {"model_type": "gpt_oss"})
    for key, name, out, inside in [(path + ".base_layer", "gate_up_proj", 12, 6), (path, "down_proj", 6, 6)]:
        w = c.weight(f"{path}.{name}", 3, inside, out)
        c.expected[f"{path}.{name}"] = w + c.experts(key, path, 3, out, inside, 2).transpose(0, 2, 1)
    yield c

    # a hub's checkpoint has the experts one by one
    c = Case("experts-parted", BF16, targets, {"model_type": "mixtral"})
    hub = "model.layers.0.block_sparse_moe.experts"
    for key, names, out, inside in [(path + ".base_layer", ["w1", "w3"], 10, 6), (path, ["w2"], 6, 5)]:
        delta = c.experts(key, path, 3, out, inside, 2)
        rows = out // len(names)
        for expert in range(3):
            for at, name in enumerate(names):
                full = f"{hub}.{expert}.{name}.weight"
                c.expected[full] = c.weight(full, rows, inside) + delta[expert, at * rows : (at + 1) * rows]
    yield c

    c = Case("saved", BF16, {"modules_to_save": ["lm_head"], "bias": "all", "lora_bias": True})
    c.linear("model.q", 6, 9)
    bias = c.weight("model.q.bias", 6)
    c.expected["model.q.bias"] = bias + c.gamma(3) * c.part("model.q.lora_B.bias", 6)
    c.weight("model.k.bias", 5)
    c.expected["model.k.bias"] = c.part("model.k.bias", 5)
    c.weight("lm_head.weight", 12, 9)
    c.expected["lm_head.weight"] = c.part("lm_head.weight", 12, 9)
    c.expected["score.weight"] = c.part("score.weight", 2, 9)
    yield c

    c = Case("tokens", BF16, {"trainable_token_indices": {"embed_tokens": [5, 3, 17]}})
    w = c.weight("model.embed_tokens.weight", 19, 4)
    w[[5, 3, 17]] = c.part("model.embed_tokens.token_adapter.trainable_tokens_delta", 3, 4)
    yield c

    c = Case("tied", np.float32, None, {"model_type": "llama", "tie_word_embeddings": True})
    w = c.weight("model.embed_tokens.weight", 14, 5)
    a, b = c.part("lm_head.lora_A.weight", 3, 5), c.part("lm_head.lora_B.weight", 14, 3)
    c.expected["lm_head.weight"] = w + c.gamma(3) * (b @ a)
    yield c

    c = Case("prefixed", np.float32)
    c.linear("model.layers.0.q", 5, 6, base="layers.0.q")
    c.linear("model.layers.1.q", 5, 6, base="layers.1.q")
    yield c


if __name__ == "__main__":
    shutil.rmtree(ROOT, ignore_errors=True)
    for case in cases():
        case.write()
