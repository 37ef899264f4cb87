#!/usr/bin/env python3
"""Score LoRA adapters of the sample run's model on subtraction, with numpy alone.

usage: score.py ADAPTER... [--base DIR] [--n PROBLEMS] [--seed SEED] [--json loss|exact]
       score.py --serve loss|exact [--base DIR] [--n PROBLEMS] [--seed SEED]

Each ADAPTER is a folder with adapter_config.json and adapter_model.safetensors, as PEFT writes
them; the word `none` stands for the base without an adapter. Every adapter answers the same
held-out problems ("417-985=" → "-568"), and one line each says

  exact match   the share of answers in which every character is right (higher is better)
  loss          the mean cross-entropy of the answers' characters (lower is better)

With 2,000 problems the exact match of one adapter is known to about ±0.01 (one standard error);
differences between adapters are surer than that, because the problems are the same.

For `mwa search`, --json adds a line {"score": ..., "error": its standard error} for the last adapter,
and --serve answers such a line for every {"id": ..., "path": ADAPTER} that it reads, the base loaded once.
"""

import argparse
import json
import math
import random
import re
import struct
import sys
from pathlib import Path

import numpy as np

CHARACTERS = "^$0123456789+-*=;abcdfgmrsux "  # one token each; ^ starts a line and $ ends it
TOKEN = {character: index for index, character in enumerate(CHARACTERS)}
LENGTH = 20  # tokens in a line; the rest is filled with $
BATCH = 250  # problems per forward pass


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="*", metavar="ADAPTER")
    parser.add_argument("--base", type=Path, default=Path(__file__).resolve().parent / "base", metavar="DIR",
                        help="the base model (default: base/ beside this file)")
    parser.add_argument("--n", type=int, default=2000, metavar="PROBLEMS", help="how many problems (default: 2000)")
    parser.add_argument("--seed", type=int, default=9000, help="which problems (default: 9000)")
    parser.add_argument("--json", choices=("loss", "exact"), help="print this score of the last adapter as JSON, too")
    parser.add_argument("--serve", choices=("loss", "exact"), help="answer questions on standard input by this score")
    options = parser.parse_args()
    if options.n < 1:
        parser.error("--n must be at least 1")
    if not options.adapters and not options.serve:
        parser.error("the following arguments are required: ADAPTER")

    try:
        base = read_safetensors(options.base / "model.safetensors")
        shape = json.loads((options.base / "config.json").read_text())
        tokens, answers = problems(options.n, options.seed)
        for line in sys.stdin if options.serve else ():
            question = json.loads(line)
            try:
                answer = judged(score(adapted(base, Path(question["path"])), shape, tokens, answers), options.serve)
            except OSError as error:
                answer = {"error": str(error)}
            print(json.dumps({"id": question["id"], **answer}), flush=True)
        if options.serve:
            return
        width = max(len("adapter"), *(len(adapter) for adapter in options.adapters))
        print(f"{'adapter':{width}}  exact match    loss")
        for adapter in options.adapters:
            model = base if adapter == "none" else adapted(base, Path(adapter))
            scores = score(model, shape, tokens, answers)
            print(f"{adapter:{width}}  {scores[0]:11.4f}  {scores[1]:6.4f}", flush=True)
        if options.json:
            print(json.dumps(judged(scores, options.json)))
    except OSError as error:
        sys.exit(f"score.py: {error}")


def problems(count, seed):
    """Problems as token rows, and per position the token that must come next (−1: not asked)."""
    rng = random.Random(seed)
    tokens = np.full((count, LENGTH), TOKEN["$"])
    answers = np.full((count, LENGTH), -1)
    for row in range(count):
        a, b = rng.randint(0, 999), rng.randint(0, 999)
        question, answer = f"^{a}-{b}=", f"{a - b}$"
        line = [TOKEN[character] for character in question + answer]
        tokens[row, :len(line)] = line
        answers[row, len(question) - 1:len(line) - 1] = line[len(question):]
    return tokens, answers


def judged(scores, which):
    """One of the scores with its standard error, as `mwa search` reads it."""
    exact, loss, loss_error = map(float, scores[:3])
    return {"score": exact, "questions": scores[3]} if which == "exact" else {"score": loss, "error": loss_error}


def score(model, shape, tokens, answers):
    """Exact match and mean cross-entropy over the answers, the standard error of the latter, the number of problems."""
    exact, lost, asked_of_each = 0, [], []
    for start in range(0, len(tokens), BATCH):
        logits = forward(model, shape, tokens[start:start + BATCH])
        answer = answers[start:start + BATCH]
        asked = answer >= 0
        exact += ((logits.argmax(-1) == answer) | ~asked).all(1).sum()
        logits = logits - logits.max(-1, keepdims=True)
        log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        picked = np.take_along_axis(log_probability, np.where(asked, answer, 0)[..., None], -1)[..., 0]
        lost.append(-np.where(asked, picked, 0).sum(1, dtype=np.float64))
        asked_of_each.append(asked.sum(1))
    lost, asked_of_each = np.concatenate(lost), np.concatenate(asked_of_each)
    loss = lost.sum() / asked_of_each.sum()
    error = (lost - loss * asked_of_each).std() / asked_of_each.mean() / math.sqrt(len(tokens))
    return exact / len(tokens), loss, error, len(tokens)


def adapted(base, folder):
    """The base's tensors with the adapter folded in: W + scaling · B·A."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        sys.exit(f"score.py: {folder}: only plain LoRA adapters can be scored here")
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    model = dict(base)
    for name, tensor in tensors.items():
        inner = name.removeprefix("base_model.model.")
        if inner.endswith(".lora_A.weight"):
            module = inner.removesuffix(".lora_A.weight")
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            model[module + ".weight"] = model[module + ".weight"] + scaling(config, module, len(tensor)) * (up @ tensor)
        elif inner in model:  # modules_to_save: a full copy
            model[inner] = tensor
        elif not inner.endswith(".lora_B.weight"):
            sys.exit(f"score.py: {folder}: `{name}` is nothing this script knows")
    return model


def scaling(config, module, rank):
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"^(.*\.)?({pattern})$", module):
            alpha = value
            break
    return np.float32(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def forward(model, shape, tokens):
    """Logits of a Llama, in f32."""
    heads, epsilon = shape["num_attention_heads"], shape["rms_norm_eps"]
    rows, length = tokens.shape
    x = model["model.embed_tokens.weight"][tokens]
    width = x.shape[-1] // heads
    frequency = 1.0 / shape["rope_parameters"]["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / width)
    angle = np.tile(np.outer(np.arange(length, dtype=np.float32), frequency), 2).astype(np.float32)
    future = np.triu(np.full((length, length), -1e30, np.float32), 1)

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight

    def rotate(x):
        half = np.concatenate([-x[..., width // 2:], x[..., :width // 2]], -1)
        return x * np.cos(angle) + half * np.sin(angle)

    for layer in range(shape["num_hidden_layers"]):
        def linear(x, name):
            return x @ model[f"model.layers.{layer}.{name}.weight"].T

        h = norm(x, model[f"model.layers.{layer}.input_layernorm.weight"])
        query, key, value = (
            linear(h, f"self_attn.{part}_proj").reshape(rows, length, heads, width).transpose(0, 2, 1, 3)
            for part in "qkv")
        attention = rotate(query) @ rotate(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(width)) + future
        attention = np.exp(attention - attention.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        x = x + linear((attention @ value).transpose(0, 2, 1, 3).reshape(rows, length, -1), "self_attn.o_proj")
        h = norm(x, model[f"model.layers.{layer}.post_attention_layernorm.weight"])
        gate = linear(h, "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "mlp.up_proj"), "mlp.down_proj")
    return norm(x, model["model.norm.weight"]) @ model["lm_head.weight"].T


def read_safetensors(path):
    """Every tensor of a file, widened to f32."""
    raw = path.read_bytes()
    length, = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        data = raw[8 + length + start:8 + length + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[entry["dtype"]]).astype(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


if __name__ == "__main__":
    main()
