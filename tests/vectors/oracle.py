"""The oracle: the numeric contract in numpy, and the weights in 60 decimal digits. It shares no code with the product."""

from decimal import Decimal, getcontext

import ml_dtypes
import numpy as np

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


# ---------------------------------------------------------------------------------------------------------------------
# Weights that are codes of scales

def scale_name(name, file):
    """What says what the codes of an FP8 tensor are worth, if anything does."""
    if file[name].dtype not in ("F8_E4M3", "F8_E5M2"):
        return None
    return next((name + end for end in ("_scale_inv", "_scale") if name + end in file), None)


def block_of(codes, scales):
    """The sides of a block of the last two dimensions."""
    def side(length, count):
        fitting = [s for s in (length if count == 1 else 0, 1 if count == length else 0, 128, length // count if length % count == 0 and (length // count).bit_count() == 1 else 0)
                   if s and -(-length // s) == count]
        if not fitting:
            raise Refused("shape")
        return fitting[0]

    if list(scales) in ([], [1]):
        return int(np.prod(codes[:-1])), codes[-1]
    if len(codes) == 2 and list(scales) == [codes[0]]:
        return 1, codes[1]
    if len(codes) != len(scales) or codes[:-2] != scales[:-2]:
        raise Refused("shape")
    return side(codes[-2], scales[-2]), side(codes[-1], scales[-1])


def scaled_sum(codes, scales, raw, allow, broken=None):
    """Codes and scales of all inputs → codes and scales."""
    weights = [flush(np.float32(weight))[()] for weight in normalised(raw)]
    live = [i for i, weight in enumerate(weights) if weight != 0]
    tall, wide = block_of(codes[0].shape, scales[0].shape)
    if list(scales[0].shape) in ([], [1]):
        matrices, rows = 1, tall
    else:
        rows = codes[0].shape[-2]
        matrices = int(np.prod(codes[0].shape[:-2], dtype=int))
    columns = codes[0].shape[-1]
    down, across = -(-rows // tall), -(-columns // wide)
    own = [widen(s, np.float32).reshape(matrices, down, across) for s in scales]
    words = [c.bits.reshape(matrices, rows, columns) for c in codes]
    for i in live:
        if (own[i] < 0).any() or not (allow or np.isfinite(own[i]).all()):
            raise Refused("non-finite", "scale")
    spread = lambda s: np.repeat(np.repeat(s, tall, 1)[:, :rows], wide, 2)[:, :, :columns]  # noqa: E731
    values = [flush(widen(codes[i], np.float32).reshape(matrices, rows, columns) * spread(own[i])) for i in live]
    total = None
    for i, value in zip(live, values):
        product = flush(weights[i] * value)
        total = product if total is None else flush(total + product)
    same = np.logical_and.reduce([bits_of(value) == bits_of(values[0]) for value in values])
    total = np.where(same, values[0], total).astype(np.float32)
    largest = np.float32(448 if codes[0].dtype == "F8_E4M3" else 57344)
    out, made = np.empty_like(words[0]), np.empty_like(scales[0].bits.reshape(matrices, down, across))
    for m in range(matrices):
        for d in range(down):
            bits = np.concatenate([bits_of(own[i][m, d]) for i in live])
            powers = (bits & 0x7FFFFF == 0).all() and ((bits >> 23) > 0).all()
            for a in range(across):
                at = (m, slice(d * tall, (d + 1) * tall), slice(a * wide, (a + 1) * wide))
                zero = [own[i][m, d, a] == 0 and (words[i][at] & 0x7F).any() for i in live]
                if any(zero):
                    raise Refused("non-finite", "scale")
                y = total[at]
                if not allow and not np.isfinite(y).all():
                    raise Refused("non-finite" if not all(finite(widen(codes[i], np.float32)).all() for i in live) else "overflow")
                if all((words[i][at] == words[live[0]][at]).all() and bits_of(own[i])[m, d, a] == bits_of(own[live[0]])[m, d, a] for i in live) \
                        and broken != "rounds equal blocks anew":
                    out[at], made[m, d, a] = words[live[0]][at], scales[live[0]].bits.reshape(made.shape)[m, d, a]
                    continue
                top = np.abs(y[np.isfinite(y)]).max(initial=np.float32(0))
                scale = np.float32(top) / largest if top > 0 else np.float32(1)
                if powers and top > 0:
                    fraction, exponent = np.frexp(scale)
                    scale = np.ldexp(np.float32(1), exponent - (1 if fraction == 0.5 else 0)).astype(np.float32)
                word = narrow(np.array([scale]), scales[0].dtype)
                if not word.any():
                    word = word + word.dtype.type(1)
                scale = widen(Tensor(scales[0].dtype, [1], word), np.float32)[0]
                if broken == "multiplies by the inverse":
                    code = y * (np.float32(1) / scale)
                else:
                    code = y / scale
                near = code if broken == "lets codes overflow" else np.where(np.isfinite(code), np.clip(code, -largest, largest), code)
                out[at], made[m, d, a] = narrow(near.astype(np.float32), codes[0].dtype), word[0]
    return Tensor(codes[0].dtype, codes[0].shape, out), Tensor(scales[0].dtype, scales[0].shape, made)


def scaled(files, raw, dtype, allow, broken=None):
    """The quantised weights of whole files, with their scales."""
    out = {}
    for name in sorted(files[-1]):
        scale = scale_name(name, files[-1])
        if not scale:
            continue
        try:
            if dtype != "keep":
                raise Refused("method")
            if any(name not in file for file in files):
                raise Refused("names")
            if any(scale not in file for file in files):
                raise Refused("names", "scale")
            codes, scales = [file[name] for file in files], [file[scale] for file in files]
            if any(c.dtype != codes[0].dtype for c in codes):
                raise Refused("dtype")
            if any(s.dtype not in ("F32", "BF16", "F16") or s.dtype != scales[0].dtype for s in scales):
                raise Refused("dtype", "scale")
            try:
                blocks = [block_of(c.shape, s.shape) for c, s in zip(codes, scales)]
            except Refused:
                raise Refused("shape", "scale") from None
            if any(s.shape != scales[0].shape for s in scales):
                raise Refused("shape", "scale")
            if any(c.shape != codes[0].shape for c in codes) or any(b != blocks[0] for b in blocks):
                raise Refused("shape")
            out[name], out[scale] = scaled_sum(codes, scales, raw, allow, broken)
        except Refused as refused:
            raise Refused(refused.args[0], scale if len(refused.args) > 1 else name) from None
    return out


def merge(files, raw, dtype="keep", allow=False, broken=None):
    """Whole files ({name: Tensor} each) → {name: Tensor}, or Refused(kind, tensor)."""
    live = [flush(np.float32(weight)) != 0 for weight in normalised(raw)]
    out = scaled(files, raw, dtype, allow, broken)
    for name in sorted(set().union(*files) - set(out)):
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
    # differences of less than half a percent of the largest metric are not blown up
    span = max(abs(worst - best), Decimal(0.005) * max(abs(x) for x in m))
    bad = [abs(x - best) / span if span else Decimal(0) for x in m]
    if scheme == "linear":
        u = [1 - p * g for g in bad]
    elif scheme == "exponential":
        u = [(-p * g).exp() for g in bad]
    elif scheme == "power":
        u = [(p * (best / x if goal == "min" else x / best).ln()).exp() for x in m]
    elif scheme == "rank":
        u = [(1 - p) ** (sum(g < h for g in bad) + Decimal(sum(g == h for g in bad) - 1) / 2) for h in bad]
    return [float(x / sum(u)) for x in u]
