"""Safetensors files of the vectors, and what fills them: a fixed stream of numbers, so that no library's random generator is part of the vectors."""

import json
import struct

import numpy as np

from oracle import FLOATS, Tensor, narrow, widen


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
