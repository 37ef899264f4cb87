#!/usr/bin/env python3
"""Make the conformance vectors: an oracle in numpy that shares no code with the product.

usage: make.py [--check]     needs numpy and ml_dtypes

Writes index.json, in/, out/ and hostile/ beside this file, the same bytes every time; --check writes
nothing and fails when they are stale. index.json explains itself. Before it writes, the oracle is
checked against ml_dtypes and numpy, and broken copies of it are run over the cases: each must be
caught by one of them, or the vectors have a hole.
"""

import json
import sys
from pathlib import Path

import numpy as np

from files import noise, plain
from hostile_files import hostile
from oracle import FLOATS, NUMPY, Refused, merge, narrow
from sum_cases import Vectors, copied, dtypes, edges, equal, exhaustive, layouts, lengths, non_finite, quantised, rounding
from weight_cases import weights

HERE = Path(__file__).resolve().parent

BROKEN = ["truncates", "rounds ties away", "rounds twice", "flushes f16 subnormals", "keeps subnormal weights", "keeps subnormal inputs",
          "keeps subnormal products", "keeps subnormal sums", "normalises in f32", "multiplies by zero", "adds from the right", "starts from zero",
          "fuses", "adds in f64", "computes equal elements", "takes +0 and -0 for equal", "flushes equal elements", "keeps NaN payloads", "rounds equal blocks anew", "multiplies by the inverse", "lets codes overflow"]


def prove_narrow():
    """narrow() agrees with ml_dtypes and numpy where those round once."""
    bits = np.concatenate([noise(1, 200_000).astype(np.uint32), (np.arange(65536, dtype=np.uint32) << 16),
                           (np.arange(65536, dtype=np.uint32) << 16) + 0x8000, (np.arange(65536, dtype=np.uint32) << 16) + 0x7FFF])
    single = bits.view(np.float32)
    double = np.concatenate([noise(2, 200_000).view(np.float64), single.astype(np.float64) * (1 + 2.0**-40)])
    for dtype in FLOATS:
        for values in (single, double):
            if values is double and dtype not in ("F64", "F32", "F16"):
                continue  # ml_dtypes goes by way of f32
            ours, theirs = narrow(values, dtype), values.astype(NUMPY[dtype])
            nan = np.isnan(theirs.astype(np.float64))
            assert (ours[nan] == FLOATS[dtype][5]).all(), dtype
            assert (ours == theirs.view(ours.dtype))[~nan].all(), dtype


def prove_weigh(v):
    """weigh() agrees with the formulas in plain f64."""
    for entry in v.weights:
        if "error" in entry or entry["scheme"] in ("explicit", "uniform"):
            continue
        m, p, sign = np.array(entry["metrics"], float), entry["penalty"], 1 if entry["goal"] == "min" else -1
        spread = max(m.max() - m.min(), 0.005 * abs(m).max())
        g = (sign * m - (sign * m).min()) / spread if spread else m * 0
        rank = np.array([(g < x).sum() + ((g == x).sum() - 1) / 2 for x in g])
        u = {"linear": 1 - p * g, "exponential": np.exp(-p * g), "rank": (1 - p) ** rank,
             "power": ((m.min() / m) ** p if sign == 1 else (m / m.max()) ** p) if m.min() > 0 else None}[entry["scheme"]]
        assert np.allclose(u / u.sum(), entry["weights"], rtol=1e-14, atol=1e-16), entry


def prove_teeth(v):
    """Each broken oracle fails a case."""
    unnoticed = []
    for broken in BROKEN:
        for case in v.cases:
            if case["case"].startswith("every-"):
                continue
            try:
                got = plain(merge([v.read[path] for path in case["inputs"]], case["weights"], case["dtype"], "non_finite" in case, broken))
            except Refused as refused:
                got = refused.args[0]
            if got != v.files.get(case.get("output"), case.get("error")):
                break
        else:
            unnoticed.append(broken)
    if unnoticed:
        sys.exit(f"make.py: no case notices an implementation that {', or one that '.join(unnoticed)}")


# ---------------------------------------------------------------------------------------------------------------------

COMMENT = [
    "Made by make.py from an oracle in numpy; do not edit. Remake with: python3 tests/vectors/make.py (needs numpy and ml_dtypes).",
    "cases: merge `inputs` (paths from this folder) with the raw `weights`, output dtype `dtype`. Expect the tensors of `output`: the same names,",
    "  dtypes, shapes and bytes (the layout of the file and its metadata are not compared), or a failure of kind `error` that names `tensor`.",
    "  Inputs that are not finite are an error unless \"non_finite\": \"allow\"; then a finite sum that does not fit is not an error either.",
    "  Raw weights are divided by their sum (f64, from the left) and rounded to f32 once; an f32-subnormal weight counts as 0; a weight of 0 skips the",
    "  data of its input, but names, shapes and dtypes still count. Parse numbers with correct rounding (serde_json: feature float_roundtrip).",
    "  Sum: ((w0*x0) + w1*x1) + ... in f32, each product and sum rounded to nearest even, f32-subnormal inputs, products and sums flushed to zero of",
    "  their sign; elements bit-equal in all inputs of non-zero weight pass as they are; the value is then rounded to the output dtype once; NaN is",
    "  written as F64 7ff8000000000000, F32 7fc00000, BF16 7fc0, F16 7e00, F8_E4M3 7f, F8_E5M2 7e. If any input of a tensor is F64, the sum runs in f64 with f64",
    "  weights and nothing is flushed. dtype keep: F64 > F32 > BF16 with F16 gives F32 > BF16, F16 > E4M3 with E5M2 gives F16 > F8. Other dtypes must be",
    "  equal in every input of non-zero weight and are copied.",
    "  An FP8 tensor `x` beside `x_scale_inv` or `x_scale` is codes, each worth code * scale (f32, subnormals zero): that is what is summed. Scales are [] or",
    "  [1], one a row, or one a block: a block's side is the whole side for one scale, 1 for as many scales as elements, 128 where that fits, else an equal",
    "  share that is a power of two. A block equal in all inputs stays. Else its new scale is the largest finite |sum| / 448 (57344 for E5M2) in f32, or 1 for zeros, up to a power of",
    "  two where all scales of that row of blocks are powers of two, rounded to the dtype of scales, not to zero; codes are sum / scale, kept within +-448, rounded once.",
    "weights: `scheme`, `metrics`, `goal`, `penalty` (or `values`) to normalised f64 `weights`, each within 1e-14 of its size or 1e-16; where 0 is expected it",
    "  must be exactly 0; or a failure of kind `error`. \"NaN\" and \"Infinity\" are written as strings.",
    "hostile: reading `file` must fail with kind `error` and a message that contains `says` (whatever the case of its letters) and, where given, names `tensor`;",
    "  with `tensors` instead, the file is legal and holds those.",
]


def index(v):
    def rows(entries):
        return "[\n" + ",\n".join("  " + json.dumps(entry, ensure_ascii=True) for entry in entries) + "\n ]"

    comment = "[\n" + ",\n".join("  " + json.dumps(line) for line in COMMENT) + "\n ]"
    return (f'{{\n "_comment": {comment},\n "cases": {rows(v.cases)},\n "weights": {rows(v.weights)},\n'
            f' "hostile": {rows(v.hostile)}\n}}\n').encode()


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    v = Vectors()
    with np.errstate(all="ignore"):
        prove_narrow()
        for part in (lengths, dtypes, rounding, edges, non_finite, equal, exhaustive, copied, layouts, quantised, weights, hostile):
            part(v)
        prove_weigh(v)
        prove_teeth(v)
    v.files["index.json"] = index(v)

    stale = [path for path, content in v.files.items() if not (HERE / path).is_file() or (HERE / path).read_bytes() != content]
    extra = [path for folder in ("in", "out", "hostile") for path in (HERE / folder).glob("*")
             if path.relative_to(HERE).as_posix() not in v.files]
    if sys.argv[1:] == ["--check"]:
        if stale or extra:
            sys.exit(f"make.py: stale: {', '.join([*stale, *map(str, extra)])}; run python3 tests/vectors/make.py")
        return
    for path in extra:
        path.unlink()
    for path in stale:
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(v.files[path])
    size = sum(map(len, v.files.values()))
    print(f"{len(v.cases)} cases, {len(v.weights)} weights, {len(v.hostile)} hostile; {len(v.files)} files, {size:,} bytes, {len(stale)} changed")


if __name__ == "__main__":
    main()
