#!/usr/bin/env python3
"""Make the vectors of product space: small adapters, and what their merge must be by dense algebra.

usage: python tests/vectors/product/make.py        needs numpy

For each case: the inputs (CASE-0.safetensors, …) with their adapter configs and weights in index.json, and
CASE-dense.safetensors with, per module, D = Σ wγBA as a dense f64 matrix and its singular values by numpy's SVD.
index.json also holds the relative residual of the average of factors, where the inputs' ranks and scales are
equal, and the same by random sums with its standard error: which sums and signs is the program's definition
(core/src/method/product/sketch.rs), here as matrices. Nothing here shares code or method with the program: matrices are
formed in full.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NAMES = {"float32": "F32", "float64": "F64", "float16": "F16"}
PREFIX = "base_model.model."


def write(path, tensors):
    """A safetensors file: F32, F64 and F16 arrays by name."""
    head, data = {}, b""
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        head[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape,
                      "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def config(r, alpha, **fields):
    return {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": ["q", "v"], **fields}


def value(config, field, module, default):
    for key, value in config.get(field, {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def scale(config, module, rank):
    alpha = value(config, "alpha_pattern", module, config["lora_alpha"])
    return alpha / (np.sqrt(rank) if config.get("use_rslora") else rank)


def halves(tensors):
    """module → (A, B, experts), both as stored."""
    found = {}
    for name in tensors:
        for a, b in (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")):
            if name.endswith(a):
                module = name.removeprefix(PREFIX).removesuffix("." + a)
                found[module] = tensors[name], tensors[name.removesuffix(a) + b]
    return found


def products(a, b, experts):
    """The products of a module, one per expert."""
    a = a.astype(np.float64).reshape(a.shape[0], -1)
    b = b.astype(np.float64).reshape(b.shape[0], -1)
    if experts == 1:
        return [b @ a]
    r = a.shape[0] // experts
    a, b = a.reshape(experts, r, -1), b.reshape(-1, r, experts)
    return [np.einsum("or,ri->oi", b[:, :, e], a[e]) for e in range(experts)]


SIZE = 64
WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def draw(seed, at):
    """SplitMix64."""
    z = (seed + (at + 1) * GOLDEN) & WORD
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & WORD
    return z ^ z >> 31


def sums(seed, points):
    """The matrix [64, points] that adds each point to one of 64 sums, with a sign."""
    bits = [draw(seed ^ WORD, word) >> bit & 1 for word in (0, 1) for bit in range(64)]
    matrix = np.zeros((SIZE, points))
    for point in range(points):
        block, lane = divmod(point, SIZE)
        random = draw(seed, block)
        flip, shift, turn = random & 1, (random >> 8) % SIZE, (random >> 16) % SIZE
        matrix[(turn + lane) % SIZE, point] = -1 if bits[shift + lane] ^ flip else 1
    return matrix


def sketch(module, errors, totals):
    """‖T X S‖ of what is lost over that of all, and its standard error; X is a list, one matrix per expert."""
    seed = 0xCBF29CE484222325  # FNV-1a
    for byte in module.encode():
        seed = (seed ^ byte) * 0x100000001B3 & WORD
    up, down = sums(seed ^ GOLDEN, errors[0].shape[0]), sums(seed, errors[0].shape[1])
    squares = [sum((up @ x @ down.T) ** 2 for x in matrices) for matrices in (errors, totals)]
    if not squares[0].any():
        return 0.0, 0.0
    error, total = (square.sum() for square in squares)
    parts = [squares[0].sum(axis) / error - squares[1].sum(axis) / total
             for axis in (0, 1) if errors[0].shape[1 - axis] > SIZE]
    variance = sum(np.sum(part**2) for part in parts) * SIZE / (SIZE - 1)
    relative = np.sqrt(error / total)
    return float(relative), float(0.5 * relative * np.sqrt(variance))


def case(index, name, inputs, weights, experts=()):
    """`inputs` is a list of (config, tensors); `experts` has the modules that hold several, and how many."""
    weights = np.array(weights, np.float64) / np.sum(weights)
    modules = sorted({module for _, tensors in inputs for module in halves(tensors)})
    dense, residuals, sketches = {}, {}, {}
    for module in modules:
        count = dict(experts).get(module, 1)
        total, parts, scales = None, [], []
        for weight, (conf, tensors) in zip(weights, inputs):
            if module not in halves(tensors):
                continue
            a, b = halves(tensors)[module]
            gamma = scale(conf, module, a.shape[0] // count)
            delta = np.array(products(a, b, count)) * gamma
            total = weight * delta if total is None else total + weight * delta
            parts.append((weight, a.astype(np.float64), b.astype(np.float64)))
            scales.append(gamma)
        for expert in range(count):
            dense[f"{module}/{expert}"] = total[expert]
            dense[f"{module}/{expert}/singular"] = np.linalg.svd(total[expert], compute_uv=False)
        same = len(parts) == len(inputs) and len({(a.shape, g) for (_, a, _), g in zip(parts, scales)}) == 1
        if same:
            mean_a, mean_b = sum(w * a for w, a, _ in parts), sum(w * b for w, _, b in parts)
            mean = np.array(products(mean_a, mean_b, count)) * scales[0]
            residuals[module] = float(np.linalg.norm(total - mean) / np.linalg.norm(total))
            # by differences, so that inputs that are nearly equal do not cancel
            (*_, last), shares = parts, [w for w, _, _ in parts]
            a, b = [[part[k] - last[k] for part in parts] for k in (1, 2)]
            drift = [np.array(products(x, y, count)) for x, y in zip(a, b)]
            drift = sum(w * d for w, d in zip(shares, drift)) - np.array(products(mean_a - last[1], mean_b - last[2], count))
            sketches[module] = sketch(module, list(drift * scales[0]), list(total))
    for i, (_, tensors) in enumerate(inputs):
        write(HERE / f"{name}-{i}.safetensors", tensors)
    write(HERE / f"{name}-dense.safetensors", dense)
    index.append({"name": name, "weights": list(weights), "configs": [conf for conf, _ in inputs],
                  "experts": dict(experts), "residuals": residuals, "sketches": sketches})


def main():
    random = np.random.default_rng(2504)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)
    q, v, e = (f"{PREFIX}layers.0.{name}" for name in ("q", "v", "experts"))
    pair = lambda module, m, n, r: {f"{module}.lora_A.weight": normal(r, n), f"{module}.lora_B.weight": normal(m, r)}
    index = []

    case(index, "two-runs", [(config(3, 6), pair(q, 14, 20, 3) | pair(v, 9, 20, 3)) for _ in range(2)], [0.3, 0.7])
    case(index, "differing", [
        (config(3, 6), pair(q, 14, 20, 3) | pair(v, 9, 20, 3)),
        (config(4, 8, use_rslora=True), pair(q, 14, 20, 4)),
        (config(2, 5, rank_pattern={"q": 5}, alpha_pattern={r"layers\.\d\.q": 3}), pair(q, 14, 20, 5) | pair(v, 9, 20, 2)),
    ], [0.5, 0.2, 0.3])
    case(index, "negative", [(config(2, 2), pair(q, 14, 20, 2)) for _ in range(3)], [0.8, 0.9, -0.7])

    start = pair(q, 14, 20, 4) | pair(v, 9, 20, 4)
    moved = lambda far: {name: (x + far * normal(*x.shape)).astype(np.float32) for name, x in start.items()}
    case(index, "one-run", [(config(4, 8), moved(0.1)) for _ in range(4)], [1, 2, 3, 4])
    case(index, "nearly-equal", [(config(4, 8), moved(1e-5)) for _ in range(4)], [1, 2, 3, 4])
    case(index, "equal", [(config(4, 8), start) for _ in range(3)], [0.5, 0.3, 0.2])
    frozen = [dict(moved(0.2), **{name: x for name, x in start.items() if "lora_A" in name}) for _ in range(3)]
    case(index, "frozen-a", [(config(4, 8), tensors) for tensors in frozen], [0.5, 0.3, 0.2])

    dependent = pair(q, 14, 20, 4)
    dependent[f"{q}.lora_A.weight"][2] = dependent[f"{q}.lora_A.weight"][0] * 2
    dependent[f"{q}.lora_B.weight"][:, 3] = 0
    uneven = pair(q, 14, 20, 4)
    steps = np.float32([1e3, 1, 1e-2, 1e-4])
    uneven[f"{q}.lora_A.weight"] *= steps[:, None]
    uneven[f"{q}.lora_B.weight"] /= steps
    case(index, "deficient", [(config(4, 4), dependent), (config(4, 4), uneven)], [0.5, 0.5])

    conv = lambda r: {f"{q}.lora_A.weight": normal(r, 3, 2, 2), f"{q}.lora_B.weight": normal(6, r, 1, 1)}
    case(index, "convolution", [(config(r, 4), conv(r)) for r in (2, 3)], [0.5, 0.5])
    table = lambda r: {f"{q}.lora_embedding_A": normal(r, 33), f"{q}.lora_embedding_B": normal(8, r)}
    case(index, "embedding", [(config(r, 4), table(r)) for r in (2, 2)], [0.4, 0.6])
    half = lambda: {name: x.astype(np.float16) for name, x in pair(q, 14, 20, 3).items()}
    case(index, "half", [(config(3, 3), half()), (config(3, 3), pair(q, 14, 20, 3))], [0.5, 0.5])
    experts = lambda: pair(e, 7, 10, 3 * 2) | pair(q, 14, 20, 2)
    case(index, "experts", [(config(2, 4, target_parameters=["experts.w"]), experts()) for _ in range(2)], [0.25, 0.75],
         [("layers.0.experts", 3)])
    long = lambda: pair(q, 5, 200, 2) | pair(v, 150, 4, 2)
    case(index, "long", [(config(2, 2), long()) for _ in range(3)], [0.2, 0.3, 0.5])
    wide = lambda: pair(q, 80, 130, 3)
    case(index, "wide", [(config(3, 3), wide()) for _ in range(3)], [0.2, 0.3, 0.5])
    lines = ",\n".join(json.dumps(entry) for entry in index)  # one case a line
    (HERE / "index.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
