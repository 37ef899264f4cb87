"""Files that must be refused, each under a name that tells why, and some that only look it."""

import json
import struct

from files import pack


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
