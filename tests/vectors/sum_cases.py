"""The vectors, and the cases that are weighted sums."""

import json

import numpy as np

from files import every, header_of, noise, of, pack, paint, painted, plain, raw
from oracle import FLOATS, OTHERS, Refused, Tensor, merge, narrow, widen


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


def quantised(v):
    """FP8 codes with their scales: blocks, rows, whole tensors."""
    def codes(shape, seed, dtype="F8_E4M3", loudest=0x7E):
        # most of the magnitudes that a block has after it was rounded to its own scale
        rng = np.random.default_rng(seed)
        bits = np.where(rng.random(shape) < 0.02, loudest, rng.integers(0, loudest, shape)) | (rng.integers(0, 2, shape) << 7)
        return Tensor(dtype, list(shape), bits.astype(np.uint8))

    def scales(shape, seed, dtype="F32", powers=False):
        values = np.exp2(np.random.default_rng(seed).uniform(-12, -4, shape)).astype(np.float32)
        return near(dtype, np.exp2(np.floor(np.log2(values))) if powers else values, list(shape))

    def near(dtype, values, shape):
        return Tensor(dtype, shape, narrow(np.array(values, np.float64).reshape(-1), dtype))

    def pair(name, end, code, scale):
        return {f"{name}.weight": code, f"{name}.weight{end}": scale}

    def blocks(k):
        a, b = codes((140, 133), 10 + k), scales((2, 2), 20 + k)
        # the second block of the first row is the same in all, the first of the second row all zeros
        a.bits.reshape(140, 133)[:128, 128:] = codes((128, 5), 1).bits.reshape(128, 5)
        a.bits.reshape(140, 133)[128:, :128] = 0
        b.bits[1] = np.float32(0.0123).view(np.uint32)
        return {**pair("blocks", "_scale_inv", a, b),
                **pair("powers", "_scale_inv", codes((9, 130), 30 + k), scales((1, 2), 40 + k, powers=True)),
                **pair("experts", "_scale_inv", codes((3, 8, 16), 50 + k), scales((3, 2, 4), 60 + k)),
                **pair("rows", "_scale", codes((7, 19), 70 + k), scales((7, 1), 80 + k, "BF16")),
                **pair("vector", "_scale", codes((6, 11), 90 + k), scales((6,), 100 + k, "F16")),
                **pair("whole", "_scale", codes((5, 23), 110 + k, "F8_E5M2", 0x7B), scales((), 120 + k)),
                **pair("one", "_scale", codes((4, 9), 130 + k), scales((1,), 140 + k)),
                "norm.weight": painted("BF16", [19], 150 + k)}

    files = v.inputs("quantised", *(blocks(k) for k in range(3)))
    v.merged("quantised", "FP8 by blocks with edges, by powers of two, by expert, by rows, by tensors: what codes are worth is averaged, and "
             "rounded to codes of new scales; equal blocks pass, zeros have the scale 1", files, [0.5, 0.2, 0.3])
    v.merged("quantised-two", "the same of two, extrapolated", files[:2], [1.5, -0.5])
    v.merged("quantised-alone", "one alone with weight keeps its codes and scales", files, [0, 1, 0])
    v.refused("method", "quantised-bf16", "codes are written as codes, not as another dtype", files, [1, 1, 1], "bf16")

    small = lambda scale, code=None, end="_scale_inv": pair("a", end, code or codes((4, 6), 7), scale)  # noqa: E731
    good = v.input("quantised-good", small(near("F32", [0.5, 0.25], [2, 1])))
    tiny = v.inputs("quantised-tiny", small(near("F32", [1e-40, 3e-41], [2, 1])), small(near("F32", [2e-38, 3e-41], [2, 1]), codes((4, 6), 8)))
    v.merged("quantised-tiny", "scales below the normal numbers of f32: what they make is zero where it is subnormal", tiny, [1, 3])
    def first(tensor, *bits):
        tensor.bits[:len(bits)] = bits
        return tensor

    low = v.inputs("quantised-f16", *(small(near("F16", [(3 + 2 * k) * 2.0**-24, 2e-7], [2, 1]), first(codes((4, 6), 9 + k, loudest=0x20), [0x7E, 0x7A][k]))
                                      for k in range(2)))
    v.merged("quantised-f16", "a new scale is rounded down by a tenth: what would be a code above the largest is the largest", low, [1, 1])
    ties = v.inputs("quantised-ties", *(small(near("F32", [14, 14], [2, 1]), first(codes((4, 6), 11 + k, loudest=0x70), 0x76, [0x56, 0x57][k]))
                                        for k in range(2)))
    v.merged("quantised-ties", "203 over a scale of 7 is half-way between two codes: divided, not multiplied by a rounded seventh", ties, [1, 1])
    for name, why, file in [
        ("nan", "a scale that is not a number", small(Tensor("F32", [2, 1], np.array([0x3F00_0000, 0x7FC0_0000])))),
        ("zero", "a scale of zero over codes that are not", small(near("F32", [0.5, 0.0], [2, 1]))),
        ("negative", "a scale below zero", small(near("F32", [-0.5, 0.25], [2, 1]))),
        ("code", "a code that is not a number", small(near("F32", [0.5, 0.25], [2, 1]), Tensor("F8_E4M3", [4, 6], np.full(24, 0x7F)))),
    ]:
        v.refused("non-finite", f"quantised-{name}", why, [good, v.input(f"quantised-{name}", file)], [1, 1])
    v.merged("quantised-allowed", "NaN is let through", [good, "in/quantised-code.safetensors"], [1, 1], allow=True)
    for name, why, kind, file in [
        ("shape", "scales that are one for nothing", "shape", small(near("F32", [0.5, 0.25, 0.1], [3, 1]))),
        ("blocks", "blocks of another size", "shape", small(near("F32", [0.5, 0.25, 0.1, 0.2], [4, 1]))),
        ("missing", "no scale", "names", {"a.weight": codes((4, 6), 7)}),
        ("dtype", "codes of another dtype", "dtype", small(near("F32", [0.5, 0.25], [2, 1]), codes((4, 6), 7, "F8_E5M2"))),
        ("kind", "scales of another dtype", "dtype", small(near("BF16", [0.5, 0.25], [2, 1]))),
    ]:
        v.refused(kind, f"quantised-{name}", why, [v.input(f"quantised-{name}", file), good], [1, 1])
