#!/usr/bin/env python3
"""Make the vectors of methods beyond the mean: order statistics, task vectors and angles, by an oracle in numpy that shares no code with the product.

usage: blends.py [--check]     needs numpy and ml_dtypes

Writes the folder blends/ beside this file, the same bytes every time; --check writes nothing and fails when it is stale. blends/index.json
explains itself. Broken copies of the oracle are run over the cases, and each must be caught by one of them.
"""

import json
import sys
from pathlib import Path

import numpy as np

from files import of, paint, painted, plain, raw
from oracle import FLOATS, Refused, Tensor, finite, flush, kept_dtype, narrow, normalised, widen

HERE = Path(__file__).resolve().parent / "blends"

BROKEN = ["lower median", "counts zeros as equal", "sums as given", "divides", "keeps subnormals", "computes equal values", "forgets infinities",
          "takes the mean of tasks", "trims the threshold too", "trims by tensor", "elects by count", "averages over all tasks", "adds nothing to the base", "fuses",
          "agrees with equality", "agrees with the sum", "asks all to agree",
          "turns the model as one", "goes away from the base", "forgets the origin", "takes the chord", "takes the arc always", "stays at the tangent", "keeps the mean's length",
          "stops at the first mean", "passes equal values"]


def prepared(tensors, dtype):
    """The dtype of the result, the values as they are, and what arithmetic does to subnormals."""
    out = kept_dtype(tensor.dtype for tensor in tensors) if dtype == "keep" else dtype.upper()
    if any(tensor.dtype == "F64" for tensor in tensors):
        return out, [widen(tensor, np.float64) for tensor in tensors], lambda values: values
    return out, [widen(tensor, np.float32) for tensor in tensors], flush


def checked(values, out, shape, allow, good):
    bits = narrow(values, out)
    result = Tensor(out, shape, bits)
    if not allow and not good.all():
        raise Refused("non-finite")
    if not allow and not finite(widen(result, np.float64)).all():
        raise Refused("overflow")
    return result


def middle(tensors, cut, dtype, allow, broken=None):
    """Sort by value, −0 before +0; leave out `cut` on each side; sum upwards; multiply by the reciprocal."""
    out, values, clean = prepared(tensors, dtype)
    if broken == "keeps subnormals":
        clean = lambda values: values  # noqa: E731
    stack = np.stack(values)
    good = np.isfinite(stack).all(axis=0)
    order = np.lexsort((np.zeros_like(stack) if broken == "counts zeros as equal" else ~np.signbit(stack), stack), axis=0)
    ordered = stack if broken == "sums as given" else np.take_along_axis(stack, order, axis=0)
    if broken == "lower median" and cut == (len(values) - 1) // 2:
        ordered = ordered[: 2 * cut + 1]
    kept = ordered[cut : len(ordered) - cut]
    wide = stack.dtype.type
    total = clean(kept[0])
    for row in kept[1:]:
        total = clean(total + clean(row))
    mean = clean(total / wide(len(kept))) if broken == "divides" else clean(total * wide(1 / len(kept)))
    same = kept[0].view(f"u{wide().nbytes}") == kept[-1].view(f"u{wide().nbytes}")
    result = mean if broken == "computes equal values" else np.where(same, kept[0], mean)
    result = np.where(np.isnan(stack).any(axis=0), wide(np.nan), result)
    return checked(result, out, tensors[0].shape, allow, np.isfinite(result) if broken == "forgets infinities" else good)


def deltas(base, tensors, dtype):
    out, (start, *values), clean = prepared([base, *tensors], dtype)
    return out, start, [clean(clean(x) - clean(start)) for x in values], clean


def threshold(magnitudes, density):
    """The k-th largest of all, k the whole part of the share of so many, at least 1: as f32 magnitudes."""
    count = max(1, int(np.floor(density * len(magnitudes))))
    good = magnitudes[~np.isnan(magnitudes)]
    return np.sort(good)[::-1][min(count, len(good)) - 1] if len(good) else np.float32(0)


def tasks(base, tensors, coefficients, thresholds, elects, scale, dtype, allow, broken=None, agrees=None):
    out, start, taus, clean = deltas(base, tensors, dtype)
    wide = start.dtype.type
    good = np.isfinite(np.stack([widen(tensor, np.float64) for tensor in [base, *tensors]])).all(axis=0)
    if thresholds:
        above = np.greater if broken == "trims the threshold too" else np.greater_equal
        taus = [np.where(above(np.abs(tau).astype(np.float32), least), tau, wide(0)) for tau, least in zip(taus, thresholds)]
    total = None
    for tau, coefficient in zip(taus, coefficients):
        part = clean(wide(coefficient) * tau)
        total = part if total is None else clean(total + part)
    if elects:
        up = total >= 0
        if broken == "elects by count":
            up = sum(np.sign(tau) for tau in taus) >= 0
        agree = [(tau != 0) & ((tau > 0) == up) for tau in taus]
        total = None
        for tau, one in zip(taus, agree):
            part = np.where(one, tau, wide(0))
            total = part if total is None else clean(total + part)
        count = np.full(total.shape, len(taus)) if broken == "averages over all tasks" else np.maximum(sum(one.astype(int) for one in agree), 1)
        total = clean(total * np.array([0] + [wide(1 / n) for n in range(1, len(taus) + 1)], wide)[count])
    elif broken == "takes the mean of tasks":
        total = clean(total * wide(1 / len(taus)))
    if agrees:
        share, least = agrees
        above = np.greater_equal if broken == "agrees with equality" else np.greater
        others = [total if broken == "agrees with the sum" else clean(total - tau) for tau in taus]
        count = sum(above(np.abs(tau), clean(wide(share) * np.abs(rest))).astype(int) for tau, rest in zip(taus, others))
        total = np.where(count >= (len(taus) if broken == "asks all to agree" else least), total, wide(0))
    update = clean(wide(scale) * total)
    moved = clean(clean(start) + update)
    if broken == "fuses":
        moved = clean((np.float64(scale) * total.astype(np.float64) + clean(start).astype(np.float64)).astype(wide))
    result = moved if broken == "adds nothing to the base" else np.where(update == 0, start, moved)
    result = np.where(good, result, wide(np.nan))
    return checked(result, out, tensors[0].shape, allow, good)


def exact(values):
    return values.astype(np.longdouble)


def scalars(method, vectors, shares, broken=None):
    """What each of these vectors, seen from their origin, is multiplied by: from the vectors themselves, in long doubles."""
    count, norms = len(vectors), [np.sqrt((vector * vector).sum()) for vector in vectors]
    units = [vector / norm if norm > 0 else vector * 0 for vector, norm in zip(vectors, norms)]
    cosine = lambda i, j: float(np.clip((units[i] * units[j]).sum(), -1, 1))  # noqa: E731
    if method == "model-stock":
        pairs = [cosine(i, j) for i in range(count) for j in range(i)]
        common = sum(pairs) / len(pairs)
        common = common if broken == "goes away from the base" else max(common, 0.0)
        return [common / (1 + (count - 1) * common)] * count
    if method == "slerp":
        if 0 in norms or (abs(cosine(0, 1)) > 0.9995 and broken != "takes the arc always") or broken == "takes the chord":
            return shares
        angle = np.arccos((units[0] * units[1]).sum())
        return [np.sin(share * angle) / np.sin(angle) for share in shares]
    length = sum(share * norm for share, norm in zip(shares, norms))
    pulls = np.array([share if norm > 0 else 0 for share, norm in zip(shares, norms)], np.longdouble)
    if pulls.sum() <= 0:
        return shares
    pulls = pulls / pulls.sum()
    mean = sum(pull * unit for pull, unit in zip(pulls, units))
    size = np.sqrt((mean * mean).sum())
    if size < 1e-8:
        return shares
    parts = pulls / size
    for _ in range(0 if method == "multi-slerp" or broken == "stops at the first mean" else 200):
        mean = sum(part * unit for part, unit in zip(parts, units))
        dots = np.array([np.clip((mean * unit).sum(), -1, 1) for unit in units])
        sines = np.sqrt(1 - dots * dots)
        stretched = np.where(sines > 1e-9, np.arccos(dots) / np.where(sines > 1e-9, sines, 1), 1) * pulls
        if broken == "stays at the tangent":
            stretched = pulls
        change = stretched - (stretched * dots).sum() * parts
        tangent = sum(part * unit for part, unit in zip(change, units))
        far = np.sqrt((tangent * tangent).sum())
        parts = np.cos(far) * parts + (np.sin(far) / far if far > 0 else 1) * change
        mean = sum(part * unit for part, unit in zip(parts, units))
        parts = parts / np.sqrt((mean * mean).sum())
    if broken == "keeps the mean's length":
        length = length * size
    return [length * part / norm if norm > 0 else 0.0 for part, norm in zip(parts, norms)]


def plain_sum(tensors, factors, dtype, allow, broken=None):
    """The sum of the others, added to the first; factors may have any sum."""
    out, values, clean = prepared(tensors, dtype)
    good = np.isfinite(np.stack(values)).all(axis=0)
    wide = values[0].dtype.type
    parts = [clean(wide(factor) * clean(x)) for factor, x in zip(factors, values)]
    total = parts[1]
    for part in parts[2:]:
        total = clean(total + part)
    total = clean(parts[0] + total)
    if broken == "passes equal values":
        total = np.where(np.logical_and.reduce([x == values[0] for x in values]), values[0], total)
    only = [i for i, factor in enumerate(factors) if factor != 0]
    if len(only) == 1 and factors[only[0]] == 1:
        total = values[only[0]]
    return checked(np.where(good, total, wide(np.nan)), out, tensors[0].shape, allow, good)


ANGLED = ("model-stock", "slerp", "multi-slerp", "karcher")


def angled(files, base, name, method, shares, dtype, allow, broken=None):
    everything = [*([base] if base else []), *files]
    names = [one for one in sorted(base or files[-1]) if all(file[one].dtype in FLOATS for file in everything)] if broken == "turns the model as one" else [name]
    for one in names:
        if any(not finite(widen(file[one], np.float64)).all() for file in everything):
            raise Refused("non-finite")
    flat = lambda file: np.concatenate([exact(widen(file[one], np.float64)) for one in names])  # noqa: E731
    vectors = [flat(file) for file in files]
    if base and broken != "forgets the origin":
        vectors = [vector - flat(base) for vector in vectors]
    factors = [float(scalar) for scalar in scalars(method, vectors, shares, broken)]
    if not base and all((vector == vectors[-1]).all() for vector in vectors):
        factors = [0.0] * (len(files) - 1) + [1.0]
    tensors = [file[name] for file in files]
    if base:
        rest = 1.0
        for factor in factors:
            rest -= factor
        only = [i for i, factor in enumerate([rest, *factors]) if factor != 0]
        if len(only) == 1 and [rest, *factors][only[0]] == 1:
            out, values, _ = prepared([base[name], *tensors], dtype)
            return checked(values[only[0]], out, tensors[0].shape, allow, np.ones(len(values[0]), bool))
        return tasks(base[name], tensors, factors, None, False, 1, dtype, allow, broken)
    return plain_sum(tensors, factors, dtype, allow, broken)


def blend(files, base, options, dtype="keep", allow=False, broken=None):
    """Whole files ({name: Tensor} each) → {name: Tensor}, or Refused(kind, tensor)."""
    method, count = options["method"], len(files)
    cut = {"median": (count - 1) // 2, "trimmed-mean": options.get("outliers", 1)}.get(method)
    if cut is not None and 2 * cut >= count:
        raise Refused("weights")
    if (method == "slerp" and count != 2) or (method == "model-stock" and count < 2):
        raise Refused("weights")
    everything = [*([base] if base else []), *files]
    floats = [name for name in sorted(files[-1]) if all(file[name].dtype in FLOATS for file in everything)]
    trims, scope = method in ("ties", "magnitude-mask"), options.get("density_per", "model")
    if broken == "trims by tensor":
        scope = "tensor"
    found = {}
    if trims:
        magnitudes = {name: [np.abs(tau).astype(np.float32) for tau in deltas(base[name], [file[name] for file in files], dtype)[2]] for name in floats}
        for name in floats:
            names = [name] if scope == "tensor" else floats
            found[name] = [threshold(np.concatenate([magnitudes[one][task] for one in names]), options.get("density", 0.2)) for task in range(count)]
    weights = [weight * count for weight in normalised(options.get("weights", [1] * count))]
    agrees = (options.get("mask_lambda", 0.4), options.get("agree", 2)) if method == "consensus" else None
    coefficients = [1] * count if trims or agrees else weights
    scale = options.get("scale", 1 if method == "ties" else 1 / count)
    out = {}
    for name in sorted(files[-1]):
        tensors = [file[name] for file in files]
        if name not in floats:
            if any(tensor.bytes() != tensors[0].bytes() for tensor in tensors):
                raise Refused("differs", name)
            out[name] = tensors[0]
            continue
        try:
            if method in ANGLED:
                shares = normalised([1] * count if method == "model-stock" else options.get("weights", [1] * count))
                out[name] = angled(files, base, name, method, shares, dtype, allow, broken)
            elif cut is not None:
                out[name] = middle(tensors, cut, dtype, allow, broken)
            else:
                out[name] = tasks(base[name], tensors, coefficients, found.get(name), method == "ties", scale, dtype, allow, broken, agrees)
        except Refused as refused:
            raise Refused(refused.args[0], name) from None
    return out


class Vectors:
    def __init__(self):
        self.files, self.read, self.cases = {}, {}, []

    def file(self, path, tensors):
        self.files[path], self.read[path] = plain(tensors), tensors
        return path

    def add(self, name, files, base=None, dtype="keep", allow=False, **options):
        inputs = [self.file(f"{name}-{i}.safetensors", file) for i, file in enumerate(files)]
        case = {"case": name, "inputs": inputs, "options": options, "dtype": dtype}
        if base is not None:
            case["base"] = self.file(f"{name}-base.safetensors", base)
        if allow:
            case["non_finite"] = "allow"
        try:
            case["output"] = self.file(f"{name}-out.safetensors", blend(files, base, options, dtype, allow))
        except Refused as refused:
            case["error"] = refused.args[0]
            if len(refused.args) > 1:
                case["tensor"] = refused.args[1]
        self.cases.append(case)


TINY = float(np.finfo(np.float32).smallest_normal)


def whole(value):
    return Tensor("I32", [2], [value, 0, 0, 0] * 2)


def file(seed, dtype="F32", length=300):
    return {"w": painted(dtype, [length], seed), "b": painted(dtype, [3], seed + 50), "steps": whole(7)} if dtype != "F64" else {
        "w": painted("F64", [length], seed)}


def near(base, dtype, seed, share=0.125):
    """A tensor that training moved a little."""
    start = widen(base, np.float64)
    moved = start + share * widen(Tensor("F64", base.shape, paint("F64", len(start), seed)), np.float64)
    # some are where they were
    moved = np.where(np.arange(len(start)) % 5 == 0, start, moved)
    return Tensor(dtype, base.shape, narrow(moved, dtype))


def order_statistics(v):
    v.add("median-of-five", [file(seed) for seed in range(5)], method="median")
    v.add("median-of-four", [file(seed) for seed in range(4)], method="median")
    v.add("median-mixed", [file(1), file(2, "BF16"), file(3, "F16"), file(4, "F8_E4M3"), file(5, "F8_E5M2")], method="median", dtype="bf16")
    v.add("median-f64", [file(1, "F64"), {"w": painted("F32", [300], 2)}, file(3, "F64"), file(4, "F64")], method="median")
    v.add("trimmed-of-seven", [file(seed, "F16") for seed in range(7)], method="trimmed-mean", outliers=2)
    v.add("trimmed-by-one", [file(seed) for seed in range(6)], method="trimmed-mean")
    v.add("trimmed-of-five", [file(seed) for seed in range(10, 15)], method="trimmed-mean", outliers=1)
    v.add("trimmed-by-none", [file(seed, "BF16", 40) for seed in range(3)], method="trimmed-mean", outliers=0)
    v.add("trimmed-too-far", [file(seed, length=2) for seed in range(4)], method="trimmed-mean", outliers=2)
    zeros = [[0.0, -0.0, TINY / 4, 1.0], [-0.0, 0.0, TINY / 2, 1.0], [-0.0, -0.0, TINY, 1.0], [0.0, 0.0, 3 * TINY, 2.0]]
    v.add("median-of-little", [{"w": of("F32", row)} for row in zeros], method="median")
    v.add("median-of-little-odd", [{"w": of("F32", row)} for row in zeros[:3]], method="median")
    v.add("median-of-equals", [{"w": of("F32", [3.4028234663852886e38, TINY / 2, 5.0])}] * 4, method="median")
    huge = [{"w": raw("F32", 0x7F7FFFFF - i, 0x3F800000)} for i in range(4)]
    v.add("median-too-large", huge, method="median")
    bad = [{"w": raw("F32", 0x3F800000, bits)} for bits in (0x7F800000, 0x3F800000, 0x40000000)]
    v.add("median-of-infinity", bad, method="median")
    v.add("median-of-infinity-allowed", bad, method="median", allow=True)
    nan = [{"w": raw("F32", 0x3F800000, bits)} for bits in (0xFFC12345, 0x3F800000, 0x40000000)]
    v.add("median-of-nan", nan, method="median")
    v.add("median-of-nan-allowed", nan, method="median", allow=True)
    differs = [{"w": of("F32", [1.0]), "steps": whole(i)} for i in range(3)]
    v.add("median-integers-differ", differs, method="median")


def task_vectors(v):
    base, single = file(30), {"w": of("F32", [0, 1, -1, 2, 0.5, 0])}
    tasks = lambda dtype="F32", count=3: [{"w": near(base["w"], dtype, 40 + i), "b": near(base["b"], dtype, 60 + i), "steps": whole(7)} for i in range(count)]  # noqa: E731
    # three tasks by hand
    rows = ([0.9, 1.0, -1.4, 2.1, 0.5, -0.1], [1.0, 0.2, -0.7, 2.1, 0.5, 0.1], [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0])
    hand = [{"w": Tensor("F32", [6], narrow(np.array(row), "F32"))} for row in rows]
    v.add("ties-by-hand", hand, single, method="ties", density=0.5)
    v.add("sum-by-hand", hand, single, method="task-arithmetic", scale=1)
    v.add("sum-mean", tasks(), base, method="task-arithmetic")
    v.add("sum-scaled", tasks("BF16"), base, method="task-arithmetic", scale=0.4, dtype="bf16")
    v.add("masked", tasks(), base, method="magnitude-mask", density=0.1, scale=0.7)
    v.add("ties", tasks(count=4), base, method="ties")
    v.add("ties-by-tensor", tasks(), base, method="ties", density=0.3, density_per="tensor", scale=1.5)
    v.add("ties-mixed", [tasks("F16")[0], tasks("BF16")[1], tasks("F8_E4M3")[2]], base, method="ties", density=0.4)
    v.add("ties-of-one", tasks(count=1), base, method="ties", density=0.25)
    v.add("ties-f64", [{"w": near(base["w"], "F64", 80)}, {"w": near(base["w"], "F32", 81)}], {"w": base["w"]}, method="ties", density=0.3)
    for agree in (0, 1, 2, 3, 4):
        v.add(f"consensus-by-hand-{agree}", hand, single, method="consensus", scale=0.5, agree=agree)
    v.add("consensus", tasks(count=4), base, method="consensus", mask_lambda=0.5)
    v.add("consensus-mixed", [tasks("F16")[0], tasks("BF16")[1], tasks("F8_E4M3")[2]], base, method="consensus", mask_lambda=0.2, agree=1, dtype="bf16")
    v.add("consensus-f64", [{"w": near(base["w"], "F64", 80)}, {"w": near(base["w"], "F32", 81)}], {"w": base["w"]}, method="consensus", mask_lambda=0.3, scale=0.7)
    # as much as the others, and no more, is no share
    v.add("consensus-of-equals", [{"w": of("F32", [1.0, 1.0, 0.0, 2.0])}, {"w": of("F32", [1.0, -1.0, 0.0, 1.0])}], {"w": of("F32", [0] * 4)}, method="consensus", mask_lambda=1.0, agree=1)
    little = {"w": of("F32", [TINY, -TINY, TINY / 2, 0.0, -0.0, 1.0])}
    v.add("ties-of-little", [{"w": of("F32", [TINY * 1.5, -TINY, TINY / 4, TINY / 2, 0.0, 1.0])}, {"w": of("F32", [TINY * 3, TINY, TINY / 2, -TINY, -0.0, 2.0])}],
          little, method="ties", density=1.0)
    v.add("ties-of-ties", [{"w": of("F32", [1, -1, 1, 0.5, 0, 0])}, {"w": of("F32", [-1, 1, 1, 0.25, 0, 1])}], {"w": of("F32", [0] * 6)}, method="ties", density=0.34)
    bad = [{"w": raw("F32", 0x7F800000, 0x3F800000)}, {"w": raw("F32", 0x40000000, 0x40000000)}]
    v.add("ties-of-infinity", bad, {"w": of("F32", [1, 2])}, method="ties")
    v.add("ties-of-infinity-allowed", bad, {"w": of("F32", [1, 2])}, method="ties", density=1.0, allow=True)


def angles(v):
    base = {"w": painted("F32", [300], 90), "b": painted("F32", [7], 91)}
    # tasks of one base that have something in common, each tensor in its own way
    common = {"w": paint("F64", 300, 92), "b": paint("F64", 7, 93)}

    def task(seed, dtype="F32", share=0.5, size=0.1):
        moved = {}
        for i, (name, start) in enumerate(sorted(base.items())):
            own = paint("F64", len(common[name]), seed + 100 * i)
            change = size * (share * common[name] + (1 - share) * own) * (1 + i)
            moved[name] = Tensor(dtype, start.shape, narrow(widen(start, np.float64) + change, dtype))
        return moved

    models = [{"w": painted("F32", [300], seed), "b": painted("F32", [7], seed + 20)} for seed in range(3)]
    v.add("stock", [task(seed) for seed in range(100, 104)], base, method="model-stock")
    v.add("stock-of-two", [task(seed, share=0.9) for seed in (110, 111)], base, method="model-stock", dtype="bf16")
    v.add("stock-apart", [task(115), task(117, size=-0.05)], base, method="model-stock")
    v.add("stock-of-one", [task(116)], base, method="model-stock")
    hand = lambda *rows: [{"w": of("F32", row)} for row in rows]  # noqa: E731
    zero, right = {"w": of("F32", [0, 0, 0])}, hand([3, 0, 1], [0, 2, 1])
    v.add("stock-by-hand", hand([3, 0, 0], [1.5, 2.5, 0]), zero, method="model-stock")
    v.add("slerp", models[:2], method="slerp", weights=[3, 1])
    v.add("slerp-over-base", [task(120), task(121, "BF16")], base, method="slerp", weights=[1, 2])
    v.add("slerp-by-hand", right, method="slerp", weights=[1, 1])
    v.add("slerp-of-parallels", hand([1, 2, 3], [1.03125, 2, 3]), method="slerp", weights=[1, 1])
    v.add("slerp-of-equals", hand([1, -2, 3], [1, -2, 3]), method="slerp", weights=[2, 1])
    v.add("slerp-of-the-base", [base, task(122)], base, method="slerp", weights=[1, 1])
    # scalars in f64 are not the oracle's to the last bit, but weights are
    double = painted("F64", [300], 5)
    v.add("slerp-f64", [{"w": double}, {"w": near(double, "F64", 6, 0.001)}], method="slerp", weights=[1, 4])
    v.add("slerp-of-three", models, method="slerp", weights=[1, 1, 1])
    v.add("multi-slerp", models, method="multi-slerp", weights=[1, 2, 3])
    v.add("multi-slerp-over-base", [task(seed, share=0.3) for seed in (130, 131, 132)], base, method="multi-slerp", weights=[2, 1, 1])
    v.add("multi-slerp-of-opposites", hand([1, 2, 3], [-1, -2, -3]), method="multi-slerp", weights=[1, 1])
    v.add("multi-slerp-of-halves", [{"w": painted("F16", [300], 7)}, {"w": painted("BF16", [300], 8)}], method="multi-slerp", weights=[1, 1])
    v.add("karcher", models, method="karcher", weights=[1, 2, 3])
    v.add("karcher-over-base", [task(seed, share=0.4) for seed in (140, 141, 142)], base, method="karcher", weights=[2, 1, 1])
    v.add("karcher-with-nothing", hand([1, 2, 3], [0, 0, 0], [3, 2, 0]), method="karcher", weights=[1, 1, 1])
    bad = [{"w": raw("F32", 0x7F800000, 0x3F800000)}, {"w": raw("F32", 0x40000000, 0x40000000)}]
    v.add("karcher-of-infinity", bad, method="karcher", weights=[1, 1])


def prove(v):
    """Each broken oracle fails a case."""
    unnoticed = []
    for broken in BROKEN:
        for case in v.cases:
            base = v.read[case["base"]] if "base" in case else None
            try:
                got = plain(blend([v.read[path] for path in case["inputs"]], base, case["options"], case["dtype"], "non_finite" in case, broken))
            except Refused as refused:
                got = refused.args[0]
            if got != v.files.get(case.get("output"), case.get("error")):
                break
        else:
            unnoticed.append(broken)
    if unnoticed:
        sys.exit(f"blends.py: no case notices an implementation that: {', '.join(unnoticed)}")


COMMENT = [
    "Made by blends.py from an oracle in numpy; do not edit. Remake with: python3 tests/vectors/blends.py (needs numpy and ml_dtypes).",
    "cases: merge `inputs` (paths from this folder), over `base` where there is one, with `options` as every face takes them and the output dtype `dtype`.",
    "  Expect the tensors of `output`, or a failure of kind `error` that names `tensor`. Values that are not finite are an error unless \"non_finite\": \"allow\".",
]


def index(v):
    rows = ",\n".join("  " + json.dumps(entry) for entry in v.cases)
    comment = ",\n".join("  " + json.dumps(line) for line in COMMENT)
    return f'{{\n "_comment": [\n{comment}\n ],\n "cases": [\n{rows}\n ]\n}}\n'.encode()


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    v = Vectors()
    with np.errstate(all="ignore"):
        order_statistics(v)
        task_vectors(v)
        angles(v)
        prove(v)
    v.files["index.json"] = index(v)
    there = {path.name: path.read_bytes() for path in HERE.iterdir()} if HERE.is_dir() else {}
    if sys.argv[1:] == ["--check"]:
        if there != v.files:
            sys.exit("blends.py: the vectors are stale; run python3 tests/vectors/blends.py")
        return
    HERE.mkdir(exist_ok=True)
    for name in there.keys() - v.files.keys():
        (HERE / name).unlink()
    for name, content in v.files.items():
        (HERE / name).write_bytes(content)
    print(f"{len(v.cases)} cases, {len(v.files)} files, {sum(map(len, v.files.values())):,} bytes")


if __name__ == "__main__":
    main()
