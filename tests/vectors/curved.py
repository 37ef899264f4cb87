#!/usr/bin/env python3
"""Make the vectors of means by curvature and of grafts (OTA, FFG), by an oracle in numpy that shares no code with the product.

usage: curved.py [--check]     needs numpy and ml_dtypes

Writes the folder curved/ beside this file, the same bytes every time; --check writes nothing and fails when it is stale. curved/index.json
explains itself. Broken copies of the oracle are run over the cases, and each must be caught by one of them.
"""

import json
import sys
from pathlib import Path

import numpy as np

from blends import near, whole
from files import noise, of, painted, plain, raw
from oracle import FLOATS, Refused, Tensor, finite, kept_dtype, narrow, widen

HERE = Path(__file__).resolve().parent / "curved"

BROKEN = ["weighs by v", "forgets epsilon", "does not normalise", "divides by zero", "scores by change", "scores without squaring",
          "drops ties", "counts the whole model by tensor", "keeps the mean where nothing counts", "forgets few steps",
          "forgets the mean of rows", "takes rows for columns"]


def root(v, power):
    return {1: v, 0.5: np.sqrt(v), 0.25: np.sqrt(np.sqrt(v))}[power]


def mean(p):
    """Every eighth element by itself, in order; the eight sums added in pairs."""
    rows = np.zeros((-(-len(p) // 8), 8))
    rows.reshape(-1)[: len(p)] = p
    sums = np.zeros(8)
    for row in rows:
        sums = sums + row
    a, b, c, d, e, f, g, h = sums
    return ((a + b) + (c + d) + ((e + f) + (g + h))) / max(len(p), 1)


def wide(tensor):
    return widen(tensor, np.float64)


def factors(tensors):
    """{name: Tensor} as means of rows and columns: what is written of matrices; the rest as it is."""
    stored = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) != 2:
            stored[name] = tensor
            continue
        v = wide(tensor).reshape(tensor.shape)
        for end, axis in (("row", 1), ("col", 0)):
            sums = np.zeros(v.shape[1 - axis])
            for part in v.swapaxes(0, axis):
                sums = sums + part
            stored[f"{name}.exp_avg_sq_{end}"] = Tensor("F32", [len(sums)], narrow(sums / v.shape[axis], "F32"))
    return stored


def multiplied(stored, broken=None):
    """The same moments as they are read again: each row's mean over the mean of these, times the column's, rounded."""
    whole = {}
    for name, tensor in stored.items():
        if not name.endswith(("_row", "_col")):
            whole[name] = tensor
        elif name.endswith("_row"):
            rows, columns = wide(tensor), wide(stored[name.removesuffix("row") + "col"])
            mean = np.float64(0)
            for row in rows:
                mean = mean + row
            mean = mean / len(rows)
            if broken == "forgets the mean of rows":
                mean = 1.0
            v = np.outer(rows / (mean if mean > 0 else 1.0), columns)
            if broken == "takes rows for columns":
                v = v.T
            whole[name.removesuffix(".exp_avg_sq_row")] = Tensor("F32", [len(rows), len(columns)], narrow(v.reshape(-1), "F32"))
    return whole


def kept(scores, density, broken=None):
    """The k-th largest of all, k the whole part of the share, at least 1; all that is as large counts."""
    count = min(max(1, int(np.floor(density * len(scores)))), len(scores))
    least = np.sort(scores)[::-1][count - 1]
    return np.nextafter(least, np.float32(np.inf)) if broken == "drops ties" else least


def curved(files, base, moments, options, dtype, allow, broken=None):
    """Whole files ({name: Tensor} each) → {name: Tensor}, or Refused(kind, tensor)."""
    power, epsilon, how = options.get("power", 0.5), options.get("epsilon", 1e-8), options.get("normalise", "mean")
    if broken == "weighs by v":
        power = 1
    everything = [*([base] if base else []), *files]
    floats = [name for name in sorted(files[-1]) if all(file[name].dtype in FLOATS for file in everything)]
    squares = {name: [wide(file[name]) for file, _ in moments] for name in floats if all(name in file for file, _ in moments)}
    for name in squares:
        if any(file[name].shape != files[-1][name].shape for file, _ in moments):
            raise Refused("shape", name)
    for name, rows in squares.items():
        for v in rows:
            if (v < 0).any():
                raise Refused("input", name)
            if not allow and not np.isfinite(v).all():
                raise Refused("non-finite", name)
    density, scope = options.get("density", 0.1), options.get("density_per", "model")
    if broken == "counts the whole model by tensor":
        scope = "tensor"
    least, scores = {}, {}
    if base:
        for name, rows in squares.items():
            taus = [wide(file[name]) - wide(base[name]) for file in files]
            if broken == "scores by change":
                rows = [np.ones_like(v) for v in rows]
            scores[name] = [(v * (np.abs(t) if broken == "scores without squaring" else t * t)).astype(np.float32) for v, t in zip(rows, taus)]
        for name in squares:
            names = [name] if scope == "tensor" else list(squares)
            least[name] = [kept(np.concatenate([scores[one][i] for one in names]), density, broken) for i in range(len(files))]
    out = {}
    for name in sorted(files[-1]):
        tensors = [file[name] for file in files]
        if name not in floats:
            if any(tensor.bytes() != tensors[0].bytes() for tensor in tensors):
                raise Refused("differs", name)
            out[name] = tensors[0]
            continue
        kind = kept_dtype(tensor.dtype for tensor in [*([base[name]] if base else []), *tensors]) if dtype == "keep" else dtype.upper()
        xs = [wide(tensor) for tensor in tensors]
        if name not in squares:
            # not trained: the base, or the plain mean by the contract of sums, of values that are exact in f32 here
            y = wide(base[name]) if base else plain_mean(xs)
            out[name] = Tensor(kind, tensors[0].shape, narrow(y, kind))
            continue
        good = np.isfinite(np.stack([*xs, *squares[name], *([wide(base[name])] if base else [])])).all(axis=0)
        den = num = total = np.full(len(xs[0]), -0.0)
        count, only = np.zeros(len(xs[0]), int), wide(base[name]) if base else np.zeros(len(xs[0]))
        for i, (x, v) in enumerate(zip(xs, squares[name])):
            p = root(v, power)
            m = mean(p)
            if how == "mean":
                a, b = (1 / m if m > 0 else 0.0), epsilon
                if broken == "does not normalise":
                    a = 1.0
            else:
                told = moments[i][1] if broken != "forgets few steps" else None
                a = root(1 / (1 - told[0] ** told[1]), power) if told else 1.0
                b = epsilon * (m * a)
            w = a * p + (0 if broken == "forgets epsilon" else b)
            here = scores[name][i] >= least[name][i] if base else np.ones(len(x), bool)
            den, num, total = np.where(here, den + w, den), np.where(here, num + w * x, num), np.where(here, total + x, total)
            count, only = count + here, np.where(here, x, only)
        mixed = np.where(den > 0, num / den, num / den if broken == "divides by zero" else total / count)
        y = np.where(count > 1, mixed, only)
        if broken == "keeps the mean where nothing counts":
            y = np.where(count == 0, sum(xs) / len(xs), y)
        bits = narrow(np.where(good, y, np.nan), kind)
        result = Tensor(kind, tensors[0].shape, bits)
        if not allow and not good.all():
            raise Refused("non-finite", name)
        if not allow and not finite(wide(result)).all():
            raise Refused("overflow", name)
        out[name] = result
    return out


def plain_mean(xs):
    total = None
    for x in xs:
        part = np.float32(1 / len(xs)) * x.astype(np.float32)
        total = part if total is None else total + part
    return total.astype(np.float64)


class Vectors:
    def __init__(self):
        self.files, self.read, self.cases = {}, {}, []

    def file(self, path, tensors, told=None):
        metadata = {} if told is None else {"metadata": json.dumps({"beta2": str(told[0]), "step": str(told[1])}, separators=(",", ":"))}
        self.files[path], self.read[path] = packed(tensors, **metadata), (tensors, told)
        return path

    def add(self, name, files, moments, base=None, dtype="keep", allow=False, told=None, rank1=False, **options):
        if rank1:
            moments = [factors(file) for file in moments]
        case = {"case": name, "inputs": [self.file(f"{name}-{i}.safetensors", file) for i, file in enumerate(files)],
                "moments": [self.file(f"{name}-v{i}.safetensors", file, told and told[i]) for i, file in enumerate(moments)],
                "options": options, "dtype": dtype}
        if base is not None:
            case["base"] = self.file(f"{name}-base.safetensors", base)
        if allow:
            case["non_finite"] = "allow"
        got = self.merged(case)
        if isinstance(got, Refused):
            case["error"], case["tensor"] = got.args
        else:
            case["output"] = f"{name}-out.safetensors"
            self.files[case["output"]] = plain(got)
        self.cases.append(case)

    def merged(self, case, broken=None):
        files = [self.read[path][0] for path in case["inputs"]]
        base = self.read[case["base"]][0] if "base" in case else None
        try:
            moments = [(multiplied(tensors, broken), told) for tensors, told in (self.read[path] for path in case["moments"])]
            return curved(files, base, moments, case["options"], case["dtype"], "non_finite" in case, broken)
        except Refused as refused:
            return refused


def packed(tensors, **how):
    from files import header_of, pack

    return pack(*header_of(tensors, **how))


def square(dtype, shape, seed, low=-40, high=-20):
    """Second moments: positive, far apart, some of them 0."""
    values = np.abs(widen(painted("F64", shape, seed, low=low, high=high), np.float64))
    values = np.where(noise(seed + 9, len(values)) % np.uint64(11) == 0, 0.0, values)
    return Tensor(dtype, shape, narrow(values, dtype))


def vectors(v):
    base = {"w": painted("F32", [300], 30), "b": painted("F32", [3], 31), "steps": whole(7)}
    models = lambda dtype="F32", count=3: [{"w": near(base["w"], dtype, 40 + i), "b": near(base["b"], dtype, 60 + i), "steps": whole(7)} for i in range(count)]  # noqa: E731
    moments = lambda dtype="F32", count=3: [{"w": square(dtype, [300], 90 + i), "b": square(dtype, [3], 70 + i)} for i in range(count)]  # noqa: E731
    v.add("ota", models(), moments(), method="ota")
    v.add("ota-linear", models(), moments(), method="ota", power=1, epsilon=0.125)
    v.add("ota-quarter", models("BF16", 5), moments("BF16", 5), method="ota", power=0.25, epsilon=0)
    v.add("ota-to-bf16", models(), moments(), method="ota", dtype="bf16")
    v.add("ota-mixed", [models("F16")[0], models("BF16")[1], models("F8_E4M3")[2]], [moments("BF16")[0], *moments()[1:]], method="ota", power=0.5)
    v.add("ota-f64", [{"w": near(base["w"], "F64", 80)}, {"w": near(base["w"], "F32", 81)}], [{"w": square("F64", [300], 5)}, {"w": square("F32", [300], 6)}], method="ota")
    v.add("ota-early", models(), moments(), method="ota", normalise="none", told=[(0.999, 10), (0.999, 100), (0.95, 5000)])
    zero = {"w": Tensor("F32", [300], np.zeros(300)), "b": Tensor("F32", [3], np.zeros(3))}
    v.add("ota-of-zeros", models(), [zero] * 3, method="ota", epsilon=0)
    v.add("ota-one-untouched", models(), [zero, *moments()[1:]], method="ota")
    v.add("ota-none-untouched", models(), [zero, *moments()[1:]], method="ota", normalise="none")
    v.add("ota-not-trained", models(), [{"w": file["w"]} for file in moments()], method="ota")
    v.add("ota-of-equals", [models()[0]] * 3, moments(), method="ota")
    v.add("ota-of-infinity", [{"w": raw("F32", 0x7F800000, 0x3F800000)}, {"w": of("F32", [1, 2])}], [{"w": of("F32", [1, 2])}] * 2, method="ota")
    v.add("ota-of-infinite-moments", [{"w": of("F32", [1, 2])}] * 2, [{"w": of("F32", [1, 2])}, {"w": raw("F32", 0x7F800000, 0x3F800000)}], method="ota")
    v.add("ota-of-infinity-allowed", [{"w": raw("F32", 0x7F800000, 0x3F800000)}, {"w": of("F32", [1, 2])}], [{"w": of("F32", [1, 2])}] * 2, method="ota", allow=True)
    v.add("ota-of-no-squares", [{"w": of("F32", [1, 2])}] * 2, [{"w": of("F32", [1, 2])}, {"w": of("F32", [1, -2])}], method="ota")
    # moments by the means of rows and columns
    grid = {"w": painted("F32", [20, 15], 30), "b": painted("F32", [3], 31)}
    grids = lambda count=3: [{"w": near(grid["w"], "F32", 40 + i), "b": near(grid["b"], "F32", 60 + i)} for i in range(count)]  # noqa: E731
    spread = lambda count=3, shape=(20, 15): [{"w": square("F32", list(shape), 90 + i), "b": square("F32", [3], 70 + i)} for i in range(count)]  # noqa: E731
    v.add("ota-rank1", grids(), spread(), method="ota", rank1=True)
    v.add("ota-rank1-as-it-is", grids(), spread(), method="ota", normalise="none", power=1, rank1=True, told=[(0.999, 10), (0.999, 100), (0.95, 5000)])
    v.add("ota-rank1-of-zeros", grids(2), [{"w": Tensor("F32", [20, 15], np.zeros(300))}, spread()[1]], method="ota", rank1=True)
    v.add("ffg-rank1", grids(), spread(), grid, method="ffg", density=0.3, rank1=True)
    v.add("ota-rank1-of-another-shape", grids(2), spread(2, (15, 20)), method="ota", rank1=True)
    # by hand
    hand = ([0.9, 1.0, -1.4, 2.1, 0.5, -0.1], [1.0, 0.2, -0.7, 2.1, 0.5, 0.1], [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0])
    squares = ([4e-18, 1e-18, 9e-18, 1e-20, 0, 1e-18], [1e-18, 9e-18, 1e-18, 1e-20, 0, 1e-18], [1e-20, 1e-18, 4e-18, 1e-20, 0, 0])
    rows = lambda all: [{"w": Tensor("F32", [6], narrow(np.array(row, np.float64), "F32"))} for row in all]  # noqa: E731
    start = {"w": of("F32", [0, 1, -1, 2, 0.5, 0])}
    v.add("ota-by-hand", rows(hand), rows(squares), method="ota", normalise="none")
    v.add("ffg-by-hand", rows(hand), rows(squares), start, method="ffg", density=0.34)
    v.add("ffg-of-one", rows(hand[:1]), rows(squares[:1]), start, method="ffg", density=0.34)
    v.add("ffg", models(), moments(), base, method="ffg")
    v.add("ffg-of-half", models("BF16"), moments("BF16"), base, method="ffg", density=0.5, power=1, dtype="bf16")
    v.add("ffg-by-tensor", models(count=2), moments(count=2), base, method="ffg", density=0.4, density_per="tensor")
    v.add("ffg-of-all", models(count=1), moments(count=1), base, method="ffg", density=1)
    v.add("ffg-of-ties", rows(([1, -1, 1, 0, 0, 1],)), rows(([1, 1, 1, 1, 0, 1],)), {"w": of("F32", [0] * 6)}, method="ffg", density=0.34)
    v.add("ffg-not-trained", models(), [{"w": file["w"]} for file in moments()], base, method="ffg", density=0.3)
    v.add("ffg-f64", [{"w": near(base["w"], "F64", 80)}, {"w": near(base["w"], "F32", 81)}], [{"w": square("F32", [300], 5)}, {"w": square("F32", [300], 6)}],
          {"w": base["w"]}, method="ffg", density=0.3)


def prove(v):
    """Each broken oracle fails a case."""
    unnoticed = []
    for broken in BROKEN:
        for case in v.cases:
            got = v.merged(case, broken)
            if (got.args[0] if isinstance(got, Refused) else plain(got)) != (case.get("error") or v.files[case["output"]]):
                break
        else:
            unnoticed.append(broken)
    if unnoticed:
        sys.exit(f"curved.py: no case notices an implementation that: {', '.join(unnoticed)}")


COMMENT = [
    "Made by curved.py from an oracle in numpy; do not edit. Remake with: python3 tests/vectors/curved.py (needs numpy and ml_dtypes).",
    "cases: merge `inputs` (paths from this folder) by their `moments`, over `base` where there is one, with `options` as every face takes them and the output dtype `dtype`.",
    "  Expect the tensors of `output`, or a failure of kind `error` that names `tensor`. Values that are not finite are an error unless \"non_finite\": \"allow\".",
]


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    v = Vectors()
    with np.errstate(all="ignore"):
        vectors(v)
        prove(v)
    rows = ",\n".join("  " + json.dumps(entry) for entry in v.cases)
    comment = ",\n".join("  " + json.dumps(line) for line in COMMENT)
    v.files["index.json"] = f'{{\n "_comment": [\n{comment}\n ],\n "cases": [\n{rows}\n ]\n}}\n'.encode()
    there = {path.name: path.read_bytes() for path in HERE.iterdir()} if HERE.is_dir() else {}
    if sys.argv[1:] == ["--check"]:
        if there != v.files:
            sys.exit("curved.py: the vectors are stale; run python3 tests/vectors/curved.py")
        return
    HERE.mkdir(exist_ok=True)
    for name in there.keys() - v.files.keys():
        (HERE / name).unlink()
    for name, content in v.files.items():
        (HERE / name).write_bytes(content)
    print(f"{len(v.cases)} cases, {len(v.files)} files, {sum(map(len, v.files.values())):,} bytes")


if __name__ == "__main__":
    main()
