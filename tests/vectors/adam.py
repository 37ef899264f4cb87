#!/usr/bin/env python3
"""Make adam.txt: three steps of a server's Adam in numpy, in f32, for two settings.

usage: adam.py [--check]     needs numpy

Rows are words of f32 in hexadecimal: the model; then for each step what the clients' mean is, and the model, m and v after it.
"""

import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
f32 = np.float32


def step(number, model, mean, m, v, rate, beta1, beta2, tau):
    """As flwr.serverapp.strategy.FedAdam has it, but for the f64 that its rate makes of arrays."""
    d = mean - model
    m = f32(beta1) * m + f32(1 - beta1) * d
    v = f32(beta2) * v + f32(1 - beta2) * (d * d)
    eta = rate * math.sqrt(1 - beta2 ** (number + 1.0)) / (1 - beta1 ** (number + 1.0))
    return model + f32(eta) * m / (np.sqrt(v) + f32(tau)), m, v


def rows():
    rng = np.random.default_rng(5)
    words = lambda values: " ".join(f"{word:08x}" for word in values.astype(f32).view(np.uint32))
    for rate, beta1, beta2, tau in [(0.1, 0.9, 0.99, 1e-3), (0.01, 0.0, 0.999, 1e-8)]:
        model = np.concatenate([[0.0, -0.0, 1.0, -1.0, 3e-5, 1e30], rng.standard_normal(10) * 0.02]).astype(f32)
        m, v = np.zeros_like(model), np.zeros_like(model)
        yield words(model)
        for number in (1, 2, 3):
            mean = (model * f32(0.5) + 0.01 * rng.standard_normal(len(model)).astype(f32)).astype(f32)
            mean[0] = model[0]  # nothing moves
            yield words(mean)
            model, m, v = step(number, model, mean, m, v, rate, beta1, beta2, tau)
            yield from (words(model), words(m), words(v))


with np.errstate(over="ignore"):
    text = "# Made by adam.py.\n" + "".join(row + "\n" for row in rows())
if "--check" in sys.argv:
    sys.exit("adam.txt is stale: run adam.py" if (HERE / "adam.txt").read_text() != text else 0)
(HERE / "adam.txt").write_text(text)
