#!/usr/bin/env python3
"""Make the conformance vectors: an oracle in numpy that shares no code with the product.

usage: make.py [--check]     needs numpy and ml_dtypes

Writes index.json, in/, out/ and hostile/ beside this file, the same bytes every time; --check writes
nothing and fails when they are stale. index.json explains itself. Before it writes, the oracle is
checked against ml_dtypes and numpy, and broken copies of it are run over the cases: each must be
caught by one of them, or the vectors have a hole.
"""

import json
import struct
import sys
from decimal import Decimal, getcontext
from pathlib import Path

import ml_dtypes
import numpy as np

HERE = Path(__file__).resolve().parent

# ---------------------------------------------------------------------------------------------------------------------
# Dtypes: name → (bytes, exponent bits, mantissa bits, bits of the largest finite value, bits of infinity, bits of NaN)

FLOATS = {
    "F64": (8, 11, 52, 0x7FEF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000),
    "F32": (4, 8, 23, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000),
    "BF16": (2, 8, 7, 0x7F7F, 0x7F80, 0x7FC0),
    "F16": (2, 5, 10, 0x7BFF, 0x7C00, 0x7E00),
    "F8_E5M2": (1, 5, 2, 0x7B, 0x7C, 0x7E),
    "F8_E4M3": (1, 4, 3, 0x7E, 0x7F, 0x7F),  # has no infinity: what would be one is NaN
}
UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
         "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
OTHERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
          "C64": 8, "F8_E8M0": 1, "F4": 0.5}


class Refused(Exception):
    """The product must refuse, with this kind of error."""


class Tensor:
    """A dtype, a shape and the bits of each element (for dtypes that are only copied: the bytes)."""

    def __init__(self, dtype, shape, bits):
        self.dtype, self.shape = dtype, list(shape)
        self.bits = np.ascontiguousarray(bits, UINT[FLOATS[dtype][0]] if dtype in FLOATS else np.uint8).reshape(-1)
        elements = int(np.prod(self.shape, dtype=object)) if self.shape else 1
        assert self.bits.nbytes == elements * (FLOATS[dtype][0] if dtype in FLOATS else OTHERS[dtype])

    def bytes(self):
        return self.bits.astype(self.bits.dtype.newbyteorder("<")).tobytes()


def widen(tensor, to):
    """Exact. `to` is np.float32 (all but F64) or np.float64."""
    if tensor.dtype == "BF16":
        return (tensor.bits.astype(np.uint32) << 16).view(np.float32).astype(to)
    return tensor.bits.view(NUMPY[tensor.dtype]).astype(to)


def narrow(values, dtype, broken=None):
    """Round f32 or f64 values once, to nearest, ties to even, into the bits of `dtype`."""
    size, exponent_bits, mantissa, largest, infinity, nan = FLOATS[dtype]
    if broken == "rounds twice":
        values = values.astype(np.float32)
    bits = values.astype(np.float64).view(np.uint64)  # exact; a NaN is dealt with below
    if dtype == "F64":
        return np.where(np.isnan(values), np.uint64(nan), bits)
    negative = (bits >> np.uint64(63)).astype(bool)
    exponent = ((bits >> np.uint64(52)) & np.uint64(0x7FF)).astype(np.int64)
    digits = (bits & np.uint64((1 << 52) - 1)) | np.where(exponent > 0, np.uint64(1 << 52), np.uint64(0))
    scale = np.maximum(exponent, 1) - 1075  # value = digits · 2^scale
    smallest = 2 - (1 << (exponent_bits - 1)) - mantissa  # the exponent of a subnormal's last bit
    unit = np.maximum(scale + 52 - mantissa, smallest)  # the exponent of the result's last bit
    shift = np.minimum(unit - scale, 60).astype(np.uint64)  # > 0; from 54 on everything rounds to 0
    kept = digits >> shift
    rest, half = digits & ((np.uint64(1) << shift) - np.uint64(1)), np.uint64(1) << (shift - np.uint64(1))
    up = (rest > half) | ((rest == half) & ((kept & np.uint64(1)) == 1))
    if broken == "truncates":
        up = np.zeros_like(up)
    if broken == "rounds ties away":
        up = rest >= half
    kept = kept + up.astype(np.uint64)
    result = ((unit - smallest).astype(np.uint64) << np.uint64(mantissa)) + kept  # the hidden bit and a carry add up
    if broken == "flushes f16 subnormals" and dtype == "F16":
        result = np.where(result < (1 << mantissa), np.uint64(0), result)
    result = np.where((result > largest) | np.isinf(values), np.uint64(infinity), result)
    signed = result | (negative.astype(np.uint64) << np.uint64(size * 8 - 1))
    result = np.where(np.isnan(values) | (result == nan), np.uint64(nan), signed)
    return result.astype(UINT[size])


def finite(values):
    return np.isfinite(values.astype(np.float64))


def bits_of(values):
    return values.view(np.uint32 if values.dtype == np.float32 else np.uint64)


# ---------------------------------------------------------------------------------------------------------------------
# The weighted sum

def flush(values):
    """f32 subnormals become zero and keep their sign."""
    tiny = np.abs(values) < np.finfo(np.float32).smallest_normal
    return np.where(tiny, np.copysign(np.float32(0), values), values)


def normalised(weights):
    """Raw weights → f64 weights that sum to one. The sum runs from the left."""
    weights = [float(weight) for weight in weights]
    total = 0.0
    for weight in weights:
        total += weight
    if not weights or not np.isfinite(weights).all() or not np.isfinite(total) or total <= 0:
        raise Refused("weights")
    return [weight / total for weight in weights]


def kept_dtype(dtypes):
    """The narrowest dtype that holds every input exactly."""
    kinds = set(dtypes)
    for wide in ("F64", "F32"):
        if wide in kinds:
            return wide
    if {"BF16", "F16"} <= kinds:
        return "F32"
    for half in ("BF16", "F16"):
        if half in kinds:
            return half
    return kinds.pop() if len(kinds) == 1 else "F16"  # E4M3 and E5M2 both fit F16


def weighted_sum(tensors, raw, dtype, allow, broken=None):
    """One float tensor: `tensors` of one shape, one raw weight each."""
    out = kept_dtype(tensor.dtype for tensor in tensors) if dtype == "keep" else dtype.upper()
    if any(tensor.dtype == "F64" for tensor in tensors):
        wide, clean = np.float64, lambda values, _: values
        weights = [np.float64(weight) for weight in normalised(raw)]
    else:
        wide, clean = np.float32, lambda values, what: values if broken == f"keeps subnormal {what}" else flush(values)
        weights = [clean(np.float32(weight), "weights")[()] for weight in normalised(raw)]
        if broken == "normalises in f32":
            total = np.float32(0)
            for weight in raw:
                total = total + np.float32(weight)
            weights = [np.float32(weight) / total for weight in raw]
    live = [(weight, widen(tensor, wide)) for weight, tensor in zip(weights, tensors)
            if weight != 0 or broken == "multiplies by zero"]
    good = np.logical_and.reduce([finite(x) for _, x in live])
    if not allow and not good.all():
        raise Refused("non-finite")

    total = None
    for weight, x in reversed(live) if broken == "adds from the right" else live:
        product = clean(wide(weight) * clean(x, "inputs"), "products")
        if total is None:
            total = wide(0) + product if broken == "starts from zero" else product
        elif broken == "fuses":
            exact = np.float64(weight) * clean(x, "inputs").astype(np.float64)
            total = clean((total.astype(np.float64) + exact).astype(wide), "sums")
        elif broken == "adds in f64":
            total = total.astype(np.float64) + np.float64(weight) * x.astype(np.float64)
        else:
            total = clean(total + product, "sums")
    first = live[0][1]
    same = np.logical_and.reduce([bits_of(x) == bits_of(first) for _, x in live])
    if broken == "computes equal elements":
        same[:] = False
    if broken == "takes +0 and -0 for equal":
        same = np.logical_and.reduce([x == first for _, x in live])
    values = np.where(same, clean(first, "inputs") if broken == "flushes equal elements" else first, total)
    bits = narrow(values, out, broken)
    if broken == "keeps NaN payloads" and out == "F32":
        bits = np.where(np.isnan(values), bits_of(first).astype(np.uint32), bits)
    result = Tensor(out, tensors[0].shape, bits)
    if not allow and not finite(widen(result, np.float64)).all():
        raise Refused("overflow")
    return result


def merge(files, raw, dtype="keep", allow=False, broken=None):
    """Whole files ({name: Tensor} each) → {name: Tensor}, or Refused(kind, tensor)."""
    live = [flush(np.float32(weight)) != 0 for weight in normalised(raw)]
    out = {}
    for name in sorted(set().union(*files)):
        try:
            if not all(name in file for file in files):
                raise Refused("names")
            tensors = [file[name] for file in files]
            if any(tensor.shape != tensors[0].shape for tensor in tensors):
                raise Refused("shape")
            if all(tensor.dtype in FLOATS for tensor in tensors):
                out[name] = weighted_sum(tensors, raw, dtype, allow, broken)
                continue
            if any(tensor.dtype != tensors[0].dtype for tensor in tensors):
                raise Refused("dtype")
            copies = [tensor for tensor, alive in zip(tensors, live) if alive]
            if any(tensor.bytes() != copies[0].bytes() for tensor in copies):
                raise Refused("differs")
            out[name] = copies[0]
        except Refused as refused:
            raise Refused(refused.args[0], name) from None
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Metrics → weights, in 60 decimal digits

getcontext().prec = 60


def weigh(scheme, metrics=None, goal="min", penalty=0.0, values=None):
    """Normalised weights as the nearest f64, or Refused("weights")."""
    if scheme == "explicit":
        return normalised(values)
    if not metrics:
        raise Refused("weights")
    if scheme == "uniform":
        return normalised([1.0] * len(metrics))
    high = {"linear": 1, "rank": 1}.get(scheme, np.inf)
    if not (0 <= penalty <= high) or np.isinf(penalty) or (scheme == "rank" and penalty == 1):
        raise Refused("weights")
    if not np.isfinite(metrics).all() or (scheme == "power" and min(metrics) <= 0):
        raise Refused("weights")
    m, p = [Decimal(metric) for metric in metrics], Decimal(penalty)
    best, worst = (min(m), max(m)) if goal == "min" else (max(m), min(m))
    bad = [abs(x - best) / abs(worst - best) if worst != best else Decimal(0) for x in m]
    if scheme == "linear":
        u = [1 - p * g for g in bad]
    elif scheme == "exponential":
        u = [(-p * g).exp() for g in bad]
    elif scheme == "power":
        u = [(p * (best / x if goal == "min" else x / best).ln()).exp() for x in m]
    elif scheme == "rank":
        u = [(1 - p) ** (sum(g < h for g in bad) + Decimal(sum(g == h for g in bad) - 1) / 2) for h in bad]
    return [float(x / sum(u)) for x in u]


# ---------------------------------------------------------------------------------------------------------------------
# Files

def header_of(file, order=None, metadata='{"format":"pt"}', extra=""):
    """The JSON text and the data of {name: Tensor}; `order` is the order of the data and of the keys."""
    parts = [f'"__metadata__":{metadata}'] if metadata else []
    data = b""
    for name in order or sorted(file):
        raw = file[name].bytes()
        parts.append(f'{json.dumps(name, ensure_ascii=False)}:{{"dtype":"{file[name].dtype}",'
                     f'"shape":{json.dumps(file[name].shape)},"data_offsets":[{len(data)},{len(data) + len(raw)}]{extra}}}')
        data += raw
    return "{" + ",".join(parts) + "}", data


def pack(text, data=b"", pad=" ", align=8):
    """A safetensors file. `align=None` leaves the header as long as it comes."""
    head = text if isinstance(text, bytes) else text.encode()
    if align:
        head += pad.encode() * (-len(head) % align)
    return struct.pack("<Q", len(head)) + head + data


def plain(file):
    return pack(*header_of(file))


# ---------------------------------------------------------------------------------------------------------------------
# Data: a fixed stream of numbers (splitmix64), so that no library's random generator is part of the vectors

def noise(seed, count):
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def paint(dtype, count, seed, low=-6, high=3):
    """Values of both signs with full mantissas and magnitudes from 2^low to 2^high."""
    x = noise(seed, count)
    exponent = low + ((x >> np.uint64(1)) % np.uint64(high - low)).astype(np.int64)
    mantissa = 1 + (x >> np.uint64(12)).astype(np.float64) / 2.0**52
    return narrow(np.ldexp(np.where(x & np.uint64(1), -mantissa, mantissa), exponent), dtype)


def painted(dtype, shape, seed, **range_):
    return Tensor(dtype, shape, paint(dtype, int(np.prod(shape)) if shape else 1, seed, **range_))


def of(dtype, values, shape=None):
    """Values that `dtype` holds exactly."""
    values = np.array(values, np.float64)
    bits = narrow(values, dtype)
    back = widen(Tensor(dtype, bits.shape, bits), np.float64)
    assert ((back == values) | np.isnan(values)).all(), (dtype, values)
    return Tensor(dtype, shape if shape is not None else bits.shape, bits)


def raw(dtype, *bits):
    return Tensor(dtype, [len(bits)], bits)


def every(dtype):
    bits = np.arange(1 << (8 * FLOATS[dtype][0]), dtype=np.uint32)
    return Tensor(dtype, bits.shape, bits)


# ---------------------------------------------------------------------------------------------------------------------
# Cases

class Vectors:
    def __init__(self):
        self.files, self.read, self.cases, self.weights, self.hostile = {}, {}, [], [], []

    def input(self, name, file, packed=None):
        """Remember an input file; returns its path in the index."""
        path = f"in/{name}.safetensors"
        assert path not in self.files, path
        self.files[path], self.read[path] = packed or plain(file), file
        return path

    def inputs(self, name, *files):
        return [self.input(f"{name}-{k}", file) for k, file in enumerate(files)]

    def case(self, name, why, inputs, weights, dtype="keep", allow=False):
        entry = {"case": name, "why": why, "inputs": inputs, "weights": weights, "dtype": dtype}
        if allow:
            entry["non_finite"] = "allow"
        try:
            out = merge([self.read[path] for path in inputs], weights, dtype, allow)
            entry["output"] = f"out/{name}.safetensors"
            assert entry["output"] not in self.files, name
            self.files[entry["output"]] = plain(out)
        except Refused as refused:
            entry["error"] = refused.args[0]
            if len(refused.args) > 1:
                entry["tensor"] = refused.args[1]
        self.cases.append(entry)
        return entry

    def refused(self, kind, *arguments, **options):
        entry = self.case(*arguments, **options)
        assert entry.get("error") == kind, entry

    def merged(self, *arguments, **options):
        entry = self.case(*arguments, **options)
        assert "output" in entry, entry


def lengths(v):
    small = [0, 1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025]
    files = v.inputs("lengths", *(
        {**{f"f32.{n}": painted("F32", [n], 7 * n + k) for n in small},
         **{f"bf16.{n}": painted("BF16", [n], 11 * n + k) for n in (1, 3, 65, 257, 4095, 4097)},
         **{f"f16.{n}": painted("F16", [n], 13 * n + k) for n in (1, 3, 65, 257)},
         **{f"f8.{n}": painted("F8_E4M3", [n], 17 * n + k) for n in (1, 2, 3, 5, 65, 257, 65537)},
         **{f"f64.{n}": painted("F64", [n], 19 * n + k) for n in (1, 3, 65)}} for k in range(2)))
    v.merged("lengths", "lengths below, on and above the widths of lanes, words, workgroups and pages; full f32 mantissas "
             "show a fused multiply-add", files, [0.3, 0.7])

    shapes = {"scalar": [], "one": [1], "ones": [1, 1, 1], "none": [0], "no-rows": [0, 4], "no-columns": [3, 0, 2],
              "matrix": [3, 5], "eight-dims": [1, 2, 1, 3, 1, 2, 1, 1]}
    files = v.inputs("shapes", *({name: painted(dtype, shape, 101 * k + len(name))
                                  for name, shape in shapes.items()} for k, dtype in enumerate(["F32", "F32", "F32"])))
    v.merged("shapes", "a scalar has shape [] and one element; a zero in a shape means no element, not no tensor",
             files, [1, 2, 3])
    v.merged("no-tensors", "a file without tensors merges to one without tensors",
             v.inputs("no-tensors", {}, {}), [1, 1])


def dtypes(v):
    ten = v.inputs("ten", *({dtype: painted(dtype, [67], 1000 + 10 * k + i) for i, dtype in enumerate(FLOATS)}
                            for k in range(10)))
    weights = {1: [1], 2: [0.25, 0.75], 3: [0.2, 0.3, 0.1], 8: [1, 2, 3, 4, 5, 6, 7, 8], 10: [1] * 10}
    for count, w in weights.items():
        for dtype in ("keep", "f32", "bf16", "f16"):
            v.merged(f"{count}-inputs-{dtype}", f"each float dtype, {count} inputs, out as {dtype}", ten[:count], w, dtype)
    v.merged("order-of-sum", "the same ten with unequal weights: adding in another order changes bits", ten,
             [0.05, 0.3, 0.02, 0.11, 0.07, 0.19, 0.03, 0.13, 0.04, 0.06])
    v.merged("order-of-sum-reversed", "the inputs and weights of order-of-sum from the right", ten[::-1],
             [0.06, 0.04, 0.13, 0.03, 0.19, 0.07, 0.11, 0.02, 0.3, 0.05])
    v.merged("weights-tenth", "0.1 ten times sums to 0.9999999999999999 from the left, so each weight is a little above 0.1",
             ten, [0.1] * 10)
    v.merged("weights-large-and-small", "raw weights need not sum to one, nor be of one size", ten[:3], [3e300, 1e300, 5e-300])
    v.merged("weights-rounded-once", "normalised in f64, then rounded: dividing f32 weights by their f32 sum is another number",
             ten[:8], [0.7194, 0.788, 0.7434, 0.8357, 0.8536, 0.808, 0.7968, 0.8852])
    v.merged("negative-weight", "extrapolation: weights are 1.5 and -0.5", ten[:2], [1.5, -0.5])
    v.merged("negative-weights-three", "a negative first weight", ten[:3], [-0.4, 0.9, 1.1], "f32")
    v.merged("one-weight-of-three", "all but one are 0: that input comes out bit for bit", ten[:3], [0, 7, 0])
    v.merged("one-weight-of-three-f16", "the same, rounded to f16 once", ten[:3], [0, 0, 0.1], "f16")

    names = list(FLOATS)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    files = v.inputs("mixed", *({f"{a}+{b}": painted((a, b)[k], [19], 5000 + 50 * k + i)
                                 for i, (a, b) in enumerate(pairs)} for k in range(2)))
    for dtype in ("keep", "f32", "bf16", "f16"):
        v.merged(f"mixed-dtypes-{dtype}", "each pair of float dtypes in one tensor; keep takes the narrowest dtype that holds both: "
                 "BF16 with F16 gives F32, E4M3 with E5M2 gives F16", files, [0.4, 0.6], dtype)
    files = v.inputs("mixed3", {"t": painted("BF16", [33], 61)}, {"t": painted("F8_E4M3", [33], 62)}, {"t": painted("F16", [33], 63)})
    v.merged("mixed-three", "BF16, E4M3 and F16 give F32", files, [1, 1, 2])
    files = v.inputs("mixed-zero", {"t": painted("BF16", [33], 64)}, {"t": painted("F32", [33], 65)}, {"t": painted("F64", [33], 66)})
    v.merged("mixed-with-zero-weight", "dtypes are settled before weights: an F32 input of weight 0 still makes the output F32",
             files[:2], [1, 0])
    v.merged("mixed-f64-with-zero-weight", "the same for F64: the sum runs in f64", files, [1, 2, 0])
    v.merged("mixed-f64-narrowed", "F64 among the inputs: f64 weights and sum, then one rounding to bf16", files, [1, 2, 3], "bf16")


def rounding(v):
    for dtype in ("F8_E4M3", "F8_E5M2"):
        largest = FLOATS[dtype][3]
        low = np.concatenate([np.arange(largest), 0x80 + np.arange(largest)])
        files = v.inputs(f"ties-{dtype.lower()}", {"t": Tensor(dtype, low.shape, low)}, {"t": Tensor(dtype, low.shape, low + 1)})
        v.merged(f"ties-{dtype.lower()}", "each value with its neighbour: every half-way point, rounded to even", files, [1, 1])
        v.merged(f"ties-{dtype.lower()}-f16", "the same half-way points, exact in f16", files, [1, 1], "f16")
    low = {"F16": np.concatenate([np.arange(0, 40), np.arange(0x3F0, 0x410), np.arange(0x7BE0, 0x7BFF), np.arange(0, 0x7BFF, 97)]),
           "BF16": np.concatenate([np.arange(0x80, 0xC0), np.arange(0x7F60, 0x7F7F), np.arange(0x80, 0x7F7F, 97)])}
    low = {dtype: np.concatenate([bits, bits | 0x8000]) for dtype, bits in low.items()}
    files = v.inputs("ties-16", *({dtype: Tensor(dtype, bits.shape, bits + k) for dtype, bits in low.items()} for k in range(2)))
    v.merged("ties-16", "half-way points of f16 (subnormals too) and bf16, rounded to even", files, [1, 1])

    values = np.concatenate([paint("F32", 24, 71).view(np.float32).astype(np.float64),
                             [1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, 1 + 2**-8 - 2**-23, 1 + 2**-11, 1 + 3 * 2**-11,
                              1 + 2**-11 + 2**-23, 1 + 2**-11 - 2**-23, 2 - 2**-23, 2 - 2**-12, 2 - 2**-9, 65504, 65519.99609375,
                              2**-14, 2**-14 - 2**-25, 2**-14 - 2**-26, 2**-24, 2**-25, 2**-25 + 2**-48, 3 * 2**-25, 2**-26, 0]])
    values = np.concatenate([values, -values])
    tiny = np.array([0x0000_0001, 0x0000_8000, 0x0000_8001, 0x0001_8000, 0x007F_7FFF, 0x007F_8000, 0x007F_FFFF, 0x0080_0000])
    tiny = np.concatenate([tiny, tiny | 0x8000_0000])
    one = v.inputs("narrow", {"f32": of("F32", values), "subnormal": Tensor("F32", tiny.shape, tiny)})
    for dtype in ("f16", "bf16"):
        v.merged(f"narrow-f32-{dtype}", "half-way points and their neighbours, underflow and the largest that fit; "
                 "one input, so subnormal values pass and are rounded, not flushed", one, [1], dtype)
    trap = []
    for digits in (24, 11, 8):  # f32, f16, bf16
        half = 2.0**-digits
        for value in (1 + half, 1 + 3 * half, 1 + half + 2**-50, 1 + half - 2**-50, 1 + 3 * half - 2**-50):
            trap += [value, -value, value * 2**-14, value * 2**10]
    trap += [65519.99999999, -65519.99999999, 2**-25 + 2**-60, 2**-24 - 2**-50, 3 * 2**-25 - 2**-60, 2**-126 - 2**-150, 2**-127, 2**-149,
             2**-150, 2**-150 + 2**-190, 3 * 2**-150, 2**-1022, 5e-324, -5e-324, 0.0, -0.0]
    one = v.inputs("narrow-f64", {"t": of("F64", trap)})
    for dtype in ("keep", "f32", "f16", "bf16"):
        v.merged(f"narrow-f64-{dtype}", "just off the half-way points: rounding by way of f32 gives another answer", one, [1], dtype)


def edges(v):
    tiny = {  # bits of the first and of the second input
        "F32": ((0x0000_0001, 0x0040_0000, 0x007F_FFFF, 0x8000_0001, 0x8040_0000, 0x0000_0200, 0x8008_0000, 0x0010_0000, 0x0000_0001, 0x8000_0001,
                 0x3F80_0000, 0xBF80_0000, 0x0080_0000, 0x8080_0000),
                (0x8000_0001, 0x0080_0000, 0x0000_0000, 0x8000_0000, 0x0000_0001, 0x3F80_0000, 0x8000_0001, 0x0000_0000, 0x8000_0000, 0x8000_0200,
                 0x0000_0001, 0x8000_0001, 0x0000_0001, 0x0008_0000)),
        "BF16": ((0x0001, 0x0040, 0x007F, 0x8001, 0x807F, 0x0080, 0x0002, 0x8002), (0x0002, 0x0040, 0x0000, 0x8002, 0x0001, 0x0001, 0x3F80, 0x8003)),
        "F16": ((0x0001, 0x0002, 0x03FF, 0x8001, 0x8003, 0x0400, 0x0001, 0x8001), (0x0002, 0x0003, 0x0400, 0x8002, 0x8002, 0x8001, 0x8001, 0x0000)),
        "F8_E4M3": ((0x01, 0x02, 0x07, 0x81, 0x83, 0x08, 0x01), (0x02, 0x03, 0x08, 0x82, 0x82, 0x81, 0x81)),
        "F8_E5M2": ((0x01, 0x02, 0x03, 0x81, 0x83, 0x04, 0x01), (0x02, 0x03, 0x04, 0x82, 0x82, 0x81, 0x81)),
        "F64": ((1, 1 << 44, (1 << 63) + 1, 1 << 52), (2, 1 << 43, 0, 1)),
    }
    files = v.inputs("subnormal", *({dtype: raw(dtype, *bits[k]) for dtype, bits in tiny.items()} for k in range(2)))
    why = ("f32 subnormals (so bf16 ones) count as zero of their sign, those of f16 and f8 are f32 normals and count, those of f64 stay in f64; "
           "where both inputs are bit-equal the value passes unflushed")
    for dtype in ("keep", "f32", "f16"):
        v.merged(f"subnormal-inputs-{dtype}", why, files, [1, 1], dtype)
    v.merged("subnormal-inputs-negative-weight", "weights 3 and -2: a product of a subnormal would be normal, but the input is flushed first", files, [3, -2])
    files = v.inputs("underflow", {"t": of("F32", [2**-126, -(2**-126), 3 * 2**-126, -3 * 2**-126, 3 * 2**-125, 2**-125, -(2**-125), 2**-126])},
                     {"t": of("F32", [0, 0, -2 * 2**-126, 2 * 2**-126, -(2**-124), -0.0, -0.0, 1.5])})
    v.merged("underflow", "products and sums that fall below 2^-126 become zero of their sign, also when the next term is large",
             files, [1, 1])
    v.merged("underflow-f16", "the same, to f16", files, [1, 1], "f16")
    v.merged("underflow-negative-weight", "the same with a negative weight", files, [1.5, -0.5])
    files = v.inputs("smallest-normal", {"t": of("F32", [11184810 * 2.0**-149, -11184810 * 2.0**-149, 11184811 * 2.0**-149, 11184809 * 2.0**-149])},
                     {"t": of("F32", [0, 0, 0, 0])})
    v.merged("rounds-up-to-smallest-normal", "a product of 2^-126 - 2^-150 rounds to even, to 2^-126, which is normal and stays; hardware that "
             "flushes before it rounds gives zero", files, [0.75, 0.25])

    zero = v.inputs("zeros", *({dtype: of(dtype, [0.0, -0.0, 0.0, -0.0, 1.0, -1.0] if k == 0 else [0.0, -0.0, -0.0, 0.0, -1.0, 1.0])
                                for dtype in FLOATS} for k in range(2)))
    v.merged("signed-zeros", "-0 in both passes; +0 with -0 is +0; x - x is +0", zero, [1, 1])
    v.merged("signed-zeros-negative-weight", "weights 2 and -1: 2·(+0) + -1·(+0) would be +0 and 2·(-0) + -1·(-0) too, but bit-equal elements pass",
             zero, [2, -1])

    largest = {dtype: widen(raw(dtype, FLOATS[dtype][3]), np.float64)[0] for dtype in FLOATS}
    files = v.inputs("largest", *({dtype: of(dtype, [x, -x, x, 0] if k == 0 else [x, -x, 0, -x]) for dtype, x in largest.items()}
                                  for k in range(2)))
    v.merged("largest", "the largest finite value of each dtype: bit-equal it passes, halved it is exact", files, [1, 1])
    v.merged("largest-equal-negative-weight", "2·max - max overflows on the way, but bit-equal elements are not computed",
             v.inputs("largest-equal", *({dtype: of(dtype, [x, -x]) for dtype, x in largest.items()} for _ in range(2))), [2, -1])
    for dtype, x, y, w in (("F16", 65504, 65472, [1.5, -0.5]), ("BF16", largest["BF16"], largest["BF16"] * (1 - 2**-7), [2, -1]),
                           ("F8_E4M3", 448, 384, [1.5, -0.5]), ("F8_E5M2", 57344, 49152, [1.5, -0.5]), ("F32", largest["F32"], 0, [2, -1]),
                           ("F64", largest["F64"], 0, [2, -1])):
        low = dtype.lower()
        y = widen(Tensor(dtype, [1], narrow(np.array([y], np.float64), dtype)), np.float64)[0]
        files = v.inputs(f"overflow-{low}", {"a": of(dtype, [1, 2]), "t": of(dtype, [1, -x])}, {"a": of(dtype, [2, 1]), "t": of(dtype, [1, -y])})
        v.refused("overflow", f"overflow-{low}", f"finite inputs, a sum that does not fit {dtype}", files, w)
        v.merged(f"overflow-{low}-allowed", f"the same with non-finite values allowed: {'NaN, there is no infinity' if dtype == 'F8_E4M3' else 'infinity'}",
                 files, w, allow=True)
    v.merged("e4m3-half-way-to-overflow", "1.5·448 - 0.5·416 = 464 is half-way to 480, which E4M3 lacks; even is 448",
             v.inputs("e4m3-464", {"t": of("F8_E4M3", [448, -448])}, {"t": of("F8_E4M3", [416, -416])}), [1.5, -0.5])
    files = v.inputs("too-large", {"f16-fits": of("F32", [65519.99609375, -65519.99609375]), "x": of("F32", [65520])})
    v.refused("overflow", "f32-to-f16-overflow", "65520 is half-way to 65536 and rounds to infinity", files, [1], "f16")
    v.merged("f32-to-f16-overflow-allowed", "the same, allowed", files, [1], "f16", allow=True)
    files = v.inputs("too-large-bf16", {"x": raw("F32", 0x7F7F_7FFF, 0xFF7F_7FFF), "y": raw("F32", 0x7F7F_8000)})
    v.refused("overflow", "f32-to-bf16-overflow", "the largest f32 that rounds down to a finite bf16, and the next", files, [1], "bf16")
    v.merged("f32-to-bf16-overflow-allowed", "the same, allowed", files, [1], "bf16", allow=True)
    files = v.inputs("too-large-f64", {"x": of("F64", [3.4028235e38, 3.4028236e38])})
    v.refused("overflow", "f64-to-f32-overflow", "a finite f64 beyond f32", files, [1], "f32")
    v.merged("f64-kept-beyond-f32", "the same, kept", files, [1])


def non_finite(v):
    one, two = {}, {}
    for dtype in FLOATS:
        infinity, nan, sign = FLOATS[dtype][4], FLOATS[dtype][5], 1 << (FLOATS[dtype][0] * 8 - 1)
        odd = {"F64": 0x7FF0_0000_0000_0001, "F32": 0x7F80_0001, "BF16": 0x7F81, "F16": 0x7C01, "F8_E5M2": 0x7D, "F8_E4M3": 0x7F}[dtype]
        unit = int(of(dtype, [1]).bits[0])
        one[dtype] = raw(dtype, infinity, sign | infinity, infinity, infinity, nan, sign | nan, odd, sign | odd, unit, odd, unit)
        two[dtype] = raw(dtype, unit, unit, infinity, sign | infinity, unit, unit, unit, unit, nan, odd, unit)
    files = v.inputs("non-finite", one, two)
    for dtype in ("keep", "f32", "bf16", "f16"):
        v.merged(f"non-finite-{dtype}", "infinities and NaNs of every kind, allowed: infinity minus infinity is NaN, every NaN is written as the "
                 "one canonical NaN of its dtype, infinity in E4M3 is NaN", files, [1, 1], dtype, allow=True)
    v.merged("non-finite-negative-weight", "2·inf - inf is NaN, but bit-equal elements pass", files, [2, -1], allow=True)
    for dtype in FLOATS:
        v.refused("non-finite", f"non-finite-{dtype.lower()}-refused", f"by default {dtype} inputs that are not finite are an error",
                  v.inputs(f"nan-{dtype.lower()}", {"fine": of(dtype, [1, 2]), "sick": of(dtype, [1, 2, 3])},
                           {"fine": of(dtype, [1, 2]), "sick": Tensor(dtype, [3], [0, FLOATS[dtype][5], 0])}), [1, 1])
    v.refused("non-finite", "infinity-refused", "infinity is refused as NaN is", v.inputs("infinity", {"t": of("F32", [1, np.inf])}), [1])
    v.refused("non-finite", "equal-nan-refused", "NaN in every input is refused too, although equal elements pass",
              v.inputs("nan-equal", *({"t": raw("BF16", 0x7FC0)} for _ in range(2))), [1, 1])
    sick = v.inputs("sick", {dtype: painted(dtype, [5], 31) for dtype in FLOATS},
                    {dtype: Tensor(dtype, [5], [FLOATS[dtype][5], FLOATS[dtype][4], 0, 1, FLOATS[dtype][5]]) for dtype in FLOATS},
                    {dtype: painted(dtype, [5], 32) for dtype in FLOATS})
    v.merged("zero-weight-over-nan", "a weight of 0 skips its input: 0·NaN must not spread, nor is it an error", sick, [1, 0, 1])
    v.merged("zero-weight-over-nan-allowed", "the same when non-finite values are allowed", sick, [1, 0, 3], allow=True)
    v.merged("negative-zero-weight-over-nan", "-0 is 0", sick, [1, -0.0, 1])
    tiny = v.inputs("tiny-weight", *({dtype: tensor for dtype, tensor in v.read[path].items() if dtype != "F64"} for path in sick))
    v.merged("tiny-weight-over-nan", "a weight that is subnormal in f32 counts as 0", tiny, [1, 1e-40, 1])
    small = v.inputs("small-weight", *({"BF16": v.read[path]["BF16"]} for path in tiny))  # one bad tensor: which is named is no question
    v.refused("non-finite", "small-weight-over-nan", "a weight of 2e-38 is normal in f32 and counts", small, [1, 2e-38, 0])
    v.refused("non-finite", "tiny-weight-over-nan-f64", "in f64 a weight of 1e-40 counts",
              v.inputs("tiny-weight-f64", {"t": of("F64", [1])}, {"t": of("F64", [np.nan])}), [1, 1e-40])


def equal(v):
    values = {"F32": np.concatenate([paint("F32", 40, 81), [1, 0x007F_FFFF, 0x8000_0001, 0x8000_0000, 0x0080_0000]]),
              "BF16": np.concatenate([paint("BF16", 40, 82), [1, 0x807F, 0x8000]]), "F16": np.concatenate([paint("F16", 40, 83), [1, 0x83FF, 0x8000]]),
              "F64": paint("F64", 20, 84), "F8_E4M3": paint("F8_E4M3", 20, 85), "F8_E5M2": paint("F8_E5M2", 20, 86)}
    file = {dtype: Tensor(dtype, bits.shape, bits) for dtype, bits in values.items()}
    path = v.input("equal", file)
    for count, w in ((2, [0.3, 0.6]), (3, [1, 1, 1]), (10, [0.1] * 10), (3, [2, -1.5, 0.7])):
        name = f"equal-{count}{'-negative' if min(w) < 0 else ''}"
        v.merged(name, f"{count} copies of one checkpoint come out as they went in, subnormals and -0 too", [path] * count, w)
    v.merged("equal-3-bf16", "copies narrowed once: subnormals are rounded, not flushed", [path] * 3, [1, 1, 1], "bf16")
    v.merged("equal-3-f16", "the same to f16", [path] * 3, [1, 1, 1], "f16")
    other = {dtype: Tensor(dtype, tensor.shape, np.where(np.arange(len(tensor.bits)) % 5 == 2, tensor.bits + 1, tensor.bits))
             for dtype, tensor in file.items()}
    nearly = v.input("equal-nearly", other)
    v.merged("nearly-equal", "every fifth element differs in one of three: only those are computed", [path, nearly, path], [1, 1, 1])
    v.merged("equal-but-for-zero-weight", "the one that differs has weight 0, so all elements pass", [path, nearly, path], [1, 0, 2])
    frozen = v.inputs("frozen", *({"frozen.weight": painted("F32", [9], 91), "trained.weight": painted("F32", [9], 92 + k),
                                   "tied.a": painted("BF16", [9], 95 + k), "tied.b": painted("BF16", [9], 95 + k)} for k in range(3)))
    v.merged("frozen-and-tied", "a frozen tensor is unchanged by weights that do not sum to one in f32; tied tensors stay tied", frozen, [0.3, 0.3, 0.1])
    v.merged("equal-across-dtypes", "the same values in BF16, F16 and E4M3 are bit-equal once widened",
             v.inputs("equal-across", *({"t": of(dtype, [1, -0.5, 3, 0.0, -0.0, 2**-6])} for dtype in ("BF16", "F16", "F8_E4M3"))), [0.1, 0.1, 0.1])


def exhaustive(v):
    for dtype in ("F16", "BF16", "F8_E4M3", "F8_E5M2"):
        v.merged(f"every-{dtype.lower()}", f"all {1 << (8 * FLOATS[dtype][0])} values of {dtype}, widened to f32",
                 v.inputs(f"every-{dtype.lower()}", {"t": every(dtype)}), [1], "f32", allow=True)


def copied(v):
    kinds = ["I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"]

    def block(dtype, count, seed):
        size = int(OTHERS[dtype] * count)
        bits = (noise(seed, size) & np.uint64(1 if dtype == "BOOL" else 0xFF)).astype(np.uint8)
        return Tensor(dtype, [count], bits)

    file = lambda seed: {"float": painted("F32", [5], seed), **{dtype.lower(): block(dtype, 6, 40 + i) for i, dtype in enumerate(kinds)}}
    files = v.inputs("integers", file(1), file(2))
    for dtype in ("keep", "bf16"):
        v.merged(f"integers-{dtype}", "integer and bool tensors are equal in every input and are copied; --dtype is for floats only", files, [1, 2], dtype)
    exotic = lambda seed: {"float": painted("F16", [5], seed), **{d.lower(): block(d, 4, 77) for d in ("C64", "F8_E8M0", "F4")}}
    v.merged("exotic-dtypes", "dtypes that are not summed (complex, scales, four-bit) are copied when equal", v.inputs("exotic", exotic(1), exotic(2)), [1, 1])
    for dtype in ("I64", "U8", "BOOL"):
        a = block(dtype, 6, 50)
        b = Tensor(dtype, [6], np.concatenate([a.bits[:-1], a.bits[-1:] ^ 1]))
        files = v.inputs(f"differs-{dtype.lower()}", {"index": a, "w": of("F32", [1])}, {"index": a, "w": of("F32", [2])}, {"index": b, "w": of("F32", [3])})
        v.refused("differs", f"differs-{dtype.lower()}", f"{dtype} tensors cannot be averaged: one that differs in its last byte is an error", files, [1, 1, 1])
        if dtype == "I64":
            v.merged("differs-with-zero-weight", "unless the one that differs has weight 0, which skips all its data", files, [1, 1, 0])
    v.refused("shape", "shapes-differ", "one tensor, two shapes of as many elements",
              v.inputs("shapes-differ", {"a": of("F32", [1]), "b": of("F32", [1, 2], [1, 2])}, {"a": of("F32", [1]), "b": of("F32", [1, 2], [2, 1])}), [1, 1])
    v.refused("shape", "shapes-differ-zero-weight", "heads are compared whatever the weight", ["in/shapes-differ-0.safetensors", "in/shapes-differ-1.safetensors"], [1, 0])
    few, more = {"a": of("F32", [1])}, {"a": of("F32", [1]), "b": of("F32", [1])}
    files = v.inputs("names-differ", few, more)
    v.refused("names", "name-missing-in-the-first", "a tensor that one input lacks", files, [1, 1])
    v.refused("names", "name-missing-in-the-last", "the same, the other way round", files[::-1], [1, 1])
    v.refused("dtype", "float-with-integer", "F32 here and I32 there", v.inputs("float-int", {"t": of("F32", [1])}, {"t": Tensor("I32", [1], [0, 0, 128, 63])}), [1, 1])
    v.refused("dtype", "integers-of-two-sizes", "I32 here and U32 there, of equal bytes",
              v.inputs("int-int", {"t": Tensor("I32", [1], [1, 0, 0, 0])}, {"t": Tensor("U32", [1], [1, 0, 0, 0])}), [1, 1])
    ones = v.inputs("ones", *({"t": of("F32", [k])} for k in (1, 2)))
    for name, w, why in (("weights-sum-to-zero", [1, -1], "there is nothing to divide by"), ("weights-sum-below-zero", [1, -3], "dividing would turn every sign"),
                         ("weights-all-zero", [0, 0], "nothing is left to merge"), ("weights-sum-overflows", [1e308, 1e308], "the sum is infinite")):
        v.refused("weights", name, why, ones, w)


def layouts(v):
    names = ["a", "b.long.weight", "..", "../../etc/passwd", "C:\\temp\\nul", "", " ", "__metadata__ ", "层.0.自注意力.α", "é", "e\u0301", "😀",
             "quote\"back\\slash/", "tab\tnewline\nnul\u0000end", "x" * 1000, "layers.10.w", "layers.2.w", "layers.9.w"]
    files = [{name: painted("F32" if i % 2 else "BF16", [1 + i % 3], 300 + 20 * k + i) for i, name in enumerate(names)} for k in range(2)]
    text, data = header_of(files[1], order=sorted(files[1], key=lambda name: name[::-1]))
    text = "".join(c if ord(c) < 128 else json.dumps(c)[1:-1] for c in text)
    v.merged("names", "names are keys, never paths: empty, dots, quotes, control characters, two spellings of one letter, 1,000 bytes; the second "
             "file writes the same names with \\u escapes and in another order",
             [v.input("names-0", files[0]), v.input("names-1", files[1], pack(text, data))], [1, 3])

    file = lambda k: {name: painted(dtype, [n], 400 + 30 * k + n) for name, dtype, n in
                      (("f8", "F8_E4M3", 3), ("half", "F16", 5), ("brain", "BF16", 7), ("single", "F32", 9), ("double", "F64", 11), ("empty", "F32", 0))}
    orders = [sorted(file(0)), sorted(file(0), reverse=True), ["double", "single", "empty", "brain", "half", "f8"]]
    paths = [v.input(f"order-{k}", file(k), pack(*header_of(file(k), order=order))) for k, order in enumerate(orders)]
    v.merged("tensor-order", "each file lays its tensors out in another order; f8 first makes the others unaligned", paths, [1, 2, 3])
    odd = {
        "header-unpadded": (lambda t, d: pack(t, d, align=None), "the header ends where it ends and the data lies unaligned (as MLX writes)"),
        "header-odd-length": (lambda t, d: pack(t + " " * (1 - len(t.encode()) % 2), d, align=None), "an odd header length"),
        "header-tabs-and-newlines": (lambda t, d: pack(" \n" + t.replace(",", " ,\r\n\t").replace(":", " : ") + "\n\t ", d), "white space wherever JSON allows it"),
        "header-much-padding": (lambda t, d: pack(t + " " * 4000, d), "4,000 spaces behind the header"),
    }
    for k, (name, (make, why)) in enumerate(odd.items()):
        files = [v.input(f"{name}-{i}", file(5 + k + i), make(*header_of(file(5 + k + i)))) for i in range(2)]
        v.merged(name, why, files, [1, 2])
    for name, metadata, extra, why in (
            ("metadata-null", "null", "", "`__metadata__` is null (as MLX writes)"), ("metadata-absent", None, "", "there is no `__metadata__`"),
            ("metadata-empty", "{}", "", "`__metadata__` is empty"),
            ("metadata-rich", '{"format":"pt","note":"\\u00e9\\n","":"","json":"{\\"a\\":[1]}"}', "", "`__metadata__` with strings of every kind"),
            ("header-unknown-field", '{"format":"pt"}', ',"note":{"a":[1,null,true,-1.5e3,"x"]}', "a field of a tensor that nobody knows is passed over")):
        files = [v.input(f"{name}-{i}", file(20 + i), pack(*header_of(file(20 + i), metadata=metadata, extra=extra))) for i in range(2)]
        v.merged(name, why, files, [2, 1])


# ---------------------------------------------------------------------------------------------------------------------
# Weights from metrics

def weights(v):
    def add(name, why, scheme, metrics=None, goal=None, penalty=None, values=None):
        number = lambda x: x if np.isfinite(x) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(x)]
        entry = {"case": name, "why": why, "scheme": scheme}
        if metrics is not None:
            entry["metrics"] = [number(x) for x in metrics]
        if goal:
            entry["goal"] = goal
        if penalty is not None:
            entry["penalty"] = number(penalty)
        if values is not None:
            entry["values"] = [number(x) for x in values]
        try:
            entry["weights"] = weigh(scheme, metrics, goal or "min", penalty if penalty is not None else 0.0, values)
        except Refused as refused:
            entry["error"] = refused.args[0]
        v.weights.append(entry)

    run = [1.0110275745391846, 1.0076324939727783, 0.8504855632781982, 0.8545718789100647, 0.8471459150314331,
           0.9012860655784607, 0.8354882001876831, 0.7962620854377747, 0.8148069977760315, 0.770600438117981]
    steps = list(range(550, 1001, 50))
    ranges = {"linear": (0.8, 1.0, 0.3), "power": (1.0, 0.5, 8.0), "exponential": (1.0, 0.8, 20.0), "rank": (0.2, 0.5, 0.9)}
    for scheme, penalties in ranges.items():
        for penalty in penalties:
            add(f"{scheme}-run-{penalty:g}", "eval_loss of a real run", scheme, run, "min", penalty)
        add(f"{scheme}-steps", "the metric `step`: later is better", scheme, steps, "max", penalties[0])
        add(f"{scheme}-penalty-0", "penalty 0 is the plain mean in every scheme", scheme, run, "min", 0.0)
        add(f"{scheme}-equal", "all equal: nobody is worse, whatever the penalty", scheme, [0.7, 0.7, 0.7], "min", penalties[0])
        add(f"{scheme}-one", "one checkpoint gets all", scheme, [0.7], "max", penalties[1])
        add(f"{scheme}-ties", "equal metrics get equal weights", scheme, [0.9, 0.5, 0.7, 0.5, 0.9, 0.9], "min", penalties[0])
        add(f"{scheme}-accuracy", "goal max", scheme, [0.31, 0.35, 0.2, 0.34], "max", penalties[0])
        add(f"{scheme}-close", "metrics that differ in the last bits only", scheme, [0.7, 0.7000000000000001, 0.7000000000000003], "min", penalties[0])
        add(f"{scheme}-penalty-negative", "a penalty below 0 would reward the worst", scheme, run, "min", -0.1)
        add(f"{scheme}-penalty-nan", "NaN is no penalty", scheme, run, "min", float("nan"))
        add(f"{scheme}-metric-nan", "NaN is no metric", scheme, [0.7, float("nan"), 0.8], "min", penalties[0])
        add(f"{scheme}-metric-infinite", "infinity is no metric", scheme, [0.7, float("inf"), 0.8], "min", penalties[0])
        add(f"{scheme}-none", "no checkpoints, no weights", scheme, [], "min", penalties[0])
    add("linear-worst-gets-nothing", "at penalty 1 the worst gets exactly 0", "linear", [0.3, 0.1, 0.2], "min", 1.0)
    add("linear-two-worst", "both of the worst get exactly 0", "linear", [5, 1, 5], "min", 1.0)
    add("linear-negative-metrics", "log-likelihoods: min-max scaling does not mind the sign", "linear", [-3.5, -2.25, -2.0, -7.0], "max", 0.8)
    add("linear-penalty-above-1", "above 1 the worst would get a negative weight", "linear", run, "min", 1.5)
    add("linear-penalty-infinite", "infinity is no penalty", "linear", run, "min", float("inf"))
    add("exponential-penalty-infinite", "infinity is no penalty", "exponential", run, "min", float("inf"))
    add("exponential-only-the-best", "exp(-1000) is 0 in f64", "exponential", [2, 1, 2], "min", 1000.0)
    add("exponential-negative-metrics", "the sign does not matter", "exponential", [-3.5, 0.0, 2.0], "max", 2.0)
    add("power-zero-metric", "0 has no ratio: power needs positive metrics", "power", [0.5, 0.0, 1.0], "min", 1.0)
    add("power-negative-metric", "the same below 0", "power", [0.5, -0.1, 1.0], "max", 1.0)
    add("power-negative-metric-penalty-0", "refused whatever the penalty", "power", [0.5, -0.1, 1.0], "max", 0.0)
    add("power-only-the-best", "0.5^2000 is 0 in f64", "power", [1, 2], "min", 2000.0)
    add("power-large-metrics", "ratios to the best do not overflow", "power", [1e300, 2e300, 4e300], "min", 2.0)
    add("rank-penalty-1", "at 1 all but the best would get 0 and a tied best 0^0.5", "rank", run, "min", 1.0)
    add("rank-tied-best", "two share ranks 0 and 1, so 0.5 each", "rank", [1, 1, 2], "min", 0.5)
    add("rank-ignores-distance", "only the order counts", "rank", [1, 2, 1e9], "min", 0.5)
    add("uniform", "metrics do not matter", "uniform", run, "min", None)
    add("uniform-one", "one checkpoint gets all", "uniform", [3.0], "min", None)
    add("explicit", "as given, divided by their sum", "explicit", values=[3, 1, 4])
    add("explicit-sums-to-one", "as given", "explicit", values=[0.25, 0.5, 0.25])
    add("explicit-negative", "negative weights are allowed", "explicit", values=[1.5, -0.5])
    add("explicit-tenths", "0.1 ten times sums to 0.9999999999999999", "explicit", values=[0.1] * 10)
    add("explicit-zeros", "0 stays exactly 0", "explicit", values=[0, 2, 0])
    add("explicit-sum-zero", "nothing to divide by", "explicit", values=[1, -1])
    add("explicit-sum-negative", "dividing would turn every sign", "explicit", values=[1, -2])
    add("explicit-nan", "NaN is no weight", "explicit", values=[1, float("nan")])
    add("explicit-infinite", "infinity is no weight", "explicit", values=[1, float("inf")])
    add("explicit-sum-infinite", "finite weights, infinite sum", "explicit", values=[1e308, 1e308])
    add("explicit-none", "no weights", "explicit", values=[])


# ---------------------------------------------------------------------------------------------------------------------
# Hostile files

def hostile(v):
    def add(name, why, content, says, tensor=None):
        path = f"hostile/{name}.safetensors"
        v.files[path] = content
        entry = {"file": path, "why": why, "error": "header", "says": says}
        if tensor is not None:
            entry["tensor"] = tensor
        v.hostile.append(entry)

    def legal(name, why, content, tensors):
        path = f"hostile/{name}.safetensors"
        v.files[path] = content
        v.hostile.append({"file": path, "why": why, "tensors": tensors})

    def entry(name, start, end, dtype="U8", shape=None):
        return f'"{name}":{{"dtype":"{dtype}","shape":{json.dumps(shape if shape is not None else [end - start])},"data_offsets":[{start},{end}]}}'

    def file(*entries, data=8, **options):
        return pack("{" + ",".join(entries) + "}", bytes(range(data)), **options)

    good = file(entry("weight", 0, 8))
    legal("empty-header", "`{}` is a file without tensors", pack("{}"), [])
    legal("scalar", "a scalar of one byte, the smallest tensor", file(entry("weight", 0, 1, shape=[]), data=1), ["weight"])
    legal("zero-times-huge", "a zero in the shape: no element, however large the other dimension", file(entry("weight", 0, 0, shape=[0, 2**40]), data=0), ["weight"])
    legal("header-deep-nesting", "10,000 brackets in a field to pass over: pass over them without recursion", pack('{"weight":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":'
        + "[" * 10_000 + "]" * 10_000 + "}}", bytes(8)), ["weight"])
    add("duplicate-key", "one name twice: which one would win?", file(entry("weight", 0, 4), entry("weight", 4, 8)), "twice", "weight")
    add("duplicate-key-same-bytes", "one name twice with the same range", file(entry("weight", 0, 8), entry("weight", 0, 8)), "twice", "weight")
    add("duplicate-key-by-escape", "one name twice, once written with an escape", file(entry("weight", 0, 4), entry("we\\u0069ght", 4, 8)), "twice", "weight")
    add("duplicate-metadata", "`__metadata__` twice", file('"__metadata__":{"a":"1"}', '"__metadata__":{"a":"2"}', entry("weight", 0, 8)), "twice")
    add("duplicate-metadata-key", "one metadata key twice", file('"__metadata__":{"a":"1","a":"2"}', entry("weight", 0, 8)), "twice")
    add("duplicate-dtype", "one tensor with two dtypes", file('"weight":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}'), "dtype", "weight")
    add("offset-overlaps-by-one", "the second tensor starts one byte early", file(entry("a", 0, 4), entry("b", 3, 8)), "overlap", "b")
    add("offsets-equal", "two tensors on the same bytes", file(entry("a", 0, 8), entry("b", 0, 8)), "overlap", "b")
    add("hole", "bytes 4 to 5 belong to no tensor", file(entry("a", 0, 4), entry("b", 5, 8)), "4", "b")
    add("hole-at-the-start", "the first tensor starts at 1", file(entry("a", 1, 8)), "1", "a")
    add("trailing-bytes", "one byte too many behind the last tensor", good + b"\0", str(len(good) + 1))
    add("truncated-data", "the last byte is missing", good[:-1], str(len(good) - 1))
    add("truncated-header", "the file ends inside its header", good[:40], "header")
    add("no-data", "the file ends behind its header", good[:-8], str(len(good) - 8))
    add("header-longer-than-file", "the header is said to be 1,000 bytes long", struct.pack("<Q", 1000) + good[8:], "1000")
    add("header-length-one-too-many", "the header length counts one byte of data", struct.pack("<Q", len(good) - 8 - 7) + good[8:], "header")
    add("header-length-2-63", "a length that is negative when signed", struct.pack("<Q", 1 << 63) + good[8:], "header")
    add("header-length-2-64-less-8", "a length that wraps when 8 is added", struct.pack("<Q", (1 << 64) - 8) + good[8:], "header")
    add("header-length-over-100-mb", "longer than the format allows: do not allocate", struct.pack("<Q", 100_000_001) + good[8:], "100000000")
    add("header-length-0", "a header of no bytes is not JSON", struct.pack("<Q", 0), "header")
    add("header-padded-with-nul", "NUL is not white space", pack("{" + entry("weight", 0, 8) + "}" + "\0" * 8, bytes(8)), "header")
    add("header-not-utf8", "0xff in a name", pack(b'{"we\xffght":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', bytes(8)), "UTF-8")
    add("header-overlong-utf8", "a slash written in two bytes", pack(b'{"a\xc0\xafb":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', bytes(8)), "UTF-8")
    add("header-lone-surrogate", "an escape that is no character", file(entry("\\ud800", 0, 8)), "header")
    add("header-bom", "a byte order mark before the JSON", pack("\ufeff{" + entry("weight", 0, 8) + "}", bytes(8)), "header")
    add("header-array", "the header is an array", pack("[]"), "header")
    add("header-null", "the header is null", pack("null"), "header")
    add("header-trailing-comma", "not JSON", pack("{" + entry("weight", 0, 8) + ",}", bytes(8)), "header")
    add("header-garbage-behind", "JSON and something more", pack("{" + entry("weight", 0, 8) + "}{}", bytes(8)), "header")
    add("header-cut-json", "the JSON stops in the middle", pack('{"weight":{"dtype":"U8","sha'), "header")
    add("header-deep-nesting-open", "10,000 brackets that nobody closes", pack('{"weight":' + "[" * 10_000), "header")
    add("shape-overflows-to-0", "2^32 · 2^32 is 2^64, which wraps to 0 elements", file(entry("weight", 0, 0, shape=[2**32, 2**32]), data=0), "4294967296", "weight")
    add("shape-overflows-to-8", "2^62 elements of 8 bytes and two more wrap to 16 bytes", file(entry("weight", 0, 16, "F64", [2**61 + 2]), data=16), "2305843009213693954", "weight")
    add("shape-beyond-u64", "a dimension of 2^64", file(entry("weight", 0, 0, shape=[2**64]), data=0), "weight")
    add("shape-negative", "a dimension of -8", file(entry("weight", 0, 8, shape=[-8])), "weight")
    add("shape-float", "a dimension of 8.0", file('"weight":{"dtype":"U8","shape":[8.0],"data_offsets":[0,8]}'), "weight")
    add("shape-does-not-match-offsets", "nine elements on eight bytes", file(entry("weight", 0, 8, shape=[9])), "9", "weight")
    add("shape-does-not-match-dtype", "eight F32 elements on eight bytes", file(entry("weight", 0, 8, "F32", [8])), "32", "weight")
    add("shape-missing", "no shape", file('"weight":{"dtype":"U8","data_offsets":[0,8]}'), "shape", "weight")
    add("dtype-missing", "no dtype", file('"weight":{"shape":[8],"data_offsets":[0,8]}'), "dtype", "weight")
    add("dtype-unknown", "a dtype that nobody knows", file(entry("weight", 0, 8, "F33")), "F33", "weight")
    add("dtype-lower-case", "dtypes are written in capitals", file(entry("weight", 0, 8, "u8")), "u8", "weight")
    add("dtype-number", "a dtype that is no string", file('"weight":{"dtype":8,"shape":[8],"data_offsets":[0,8]}'), "weight")
    add("offsets-reversed", "the tensor ends before it starts", file(entry("weight", 8, 0, shape=[8])), "weight")
    add("offsets-missing", "no offsets", file('"weight":{"dtype":"U8","shape":[8]}'), "data_offsets", "weight")
    add("offsets-three", "three offsets", file('"weight":{"dtype":"U8","shape":[8],"data_offsets":[0,4,8]}'), "weight")
    add("offsets-float", "an offset of 8.0", file('"weight":{"dtype":"U8","shape":[8],"data_offsets":[0,8.0]}'), "weight")
    add("offsets-exponent", "an offset of 8e0", file('"weight":{"dtype":"U8","shape":[8],"data_offsets":[0,8e0]}'), "weight")
    add("offsets-string", "an offset in quotes", file('"weight":{"dtype":"U8","shape":[8],"data_offsets":["0","8"]}'), "weight")
    add("offsets-negative", "an offset of -8", file('"weight":{"dtype":"U8","shape":[8],"data_offsets":[-8,0]}'), "weight")
    beyond = file(entry("weight", 0, 2**53 + 1))
    add("offsets-beyond-2-53", "a file length that a double cannot hold: it must not be rounded on the way to the message",
        beyond, str(2**53 + 1 + len(beyond) - 8))
    add("offsets-beyond-u64", "an end of 2^64 + 8, which wraps to 8", file(entry("weight", 0, 2**64 + 8, shape=[8])), "weight")
    add("entry-not-an-object", "a tensor that is a number", file('"weight":8'), "weight")
    add("metadata-number", "metadata values are strings", file('"__metadata__":{"step":1000}', entry("weight", 0, 8)), "__metadata__")
    add("metadata-nested", "metadata values are strings, not objects", file('"__metadata__":{"a":{"b":"c"}}', entry("weight", 0, 8)), "__metadata__")
    add("metadata-string", "metadata is an object", file('"__metadata__":"pt"', entry("weight", 0, 8)), "__metadata__")
    add("git-lfs-pointer", "what a clone without Git LFS leaves", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 474040\n", "LFS")
    add("html-page", "what a download that needs a login leaves", b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in</body></html>\n", "HTML")
    add("html-page-lower-case", "the same without a doctype", b"\n<html lang=en><title>404</title>\n", "HTML")
    add("zip-archive", "a PyTorch .bin under the wrong name", b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(32), "PyTorch")
    add("json-file", "a JSON file under the wrong name", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}\n', "text")
    add("empty-file", "no bytes at all", b"", "empty")
    add("seven-bytes", "too short for a header length", b"\x02\0\0\0\0\0\0", "7")
    add("eight-bytes", "a header length and no header", struct.pack("<Q", 2), "header")


# ---------------------------------------------------------------------------------------------------------------------
# Proof that the oracle is right, and that the vectors notice what is wrong

BROKEN = ["truncates", "rounds ties away", "rounds twice", "flushes f16 subnormals", "keeps subnormal weights", "keeps subnormal inputs",
          "keeps subnormal products", "keeps subnormal sums", "normalises in f32", "multiplies by zero", "adds from the right", "starts from zero",
          "fuses", "adds in f64", "computes equal elements", "takes +0 and -0 for equal", "flushes equal elements", "keeps NaN payloads"]


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
        spread = m.max() - m.min()
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
        for part in (lengths, dtypes, rounding, edges, non_finite, equal, exhaustive, copied, layouts, weights, hostile):
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
