"""Run all vectors and the sample run through the component in wasmtime-py.

    python tests/runner.py mwa.component.wasm

Prints what failed, then one line of JSON: counts, the SHA-256 over all outputs, and the BLAKE3 of the sample run's merge.
"""

import hashlib
import json
import math
import pathlib
import sys
import time
import traceback

root = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(root / "wasm"))
from host import Merger, MergeError  # noqa: E402

vectors = root / "tests/vectors"
index = json.loads((vectors / "index.json").read_text())
merger = Merger(pathlib.Path(sys.argv[1]).read_bytes())
count = {"passed": 0, "failed": 0, "skipped": 0}
outputs = hashlib.sha256()


def tensors(data):
    """Tensors by name: dtype, shape and bytes. The layout of a file and its metadata are not compared."""
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    head.pop("__metadata__", None)
    body = data[8 + length :]
    return {name: (it["dtype"], it["shape"], body[slice(*it["data_offsets"])]) for name, it in head.items()}


def fails(call, expected):
    try:
        call()
    except MergeError as error:
        assert error.kind == expected["error"], f"failed with {error.kind} ({error}), expected {expected['error']}"
        said = f"{error.file or ''}: {error.tensor or ''} {error} {error.help or ''}"
        assert expected.get("tensor", "") in said, f"names tensor {error.tensor}: {said}"
        assert expected.get("says", "").lower() in said.lower(), f"says {said}"
        return
    raise AssertionError(f"did not fail, expected {expected['error']}")


def check(name, body):
    try:
        body()
        count["passed"] += 1
    except Exception:
        count["failed"] += 1
        print(f"{name}: {traceback.format_exc(limit=-2)}")


def merged_of(files, paths, options, chunk=None):
    [data] = merger.merge(files, paths, options, chunk)[0].values()
    return data


def case(it):
    files = {f"input {i}": (vectors / name).read_bytes() for i, name in enumerate(it["inputs"])}
    dtype = None if it["dtype"] == "keep" else it["dtype"]
    allow = it.get("non_finite") == "allow"
    options = {"weights": it["weights"], "dtype": dtype, "allow_cross_run": True, "allow_non_finite": allow, "rewrite": True}

    def call():
        return merged_of(files, list(files), options, 1000)

    if it["case"] == "no-tensors":  # what the plan can do, but no program would ask for
        return fails(call, {"error": "input", "says": "no tensors"})
    if "error" in it:
        return fails(call, it)
    merged = call()
    outputs.update(merged)
    assert tensors(merged) == tensors((vectors / it["output"]).read_bytes()), f"differs from {it['output']}"


RANKS = {
    "inputs": {},
    "1": {"rank": 1},
    "full": {"rank": "full"},
    "energy 0.9": {"rank": "auto", "energy": 0.9},
}


def product(it, rank, title):
    files = {}
    for i, config in enumerate(it["configs"]):
        data = (vectors / f"product/{it['name']}-{i}.safetensors").read_bytes()
        files |= {f"input {i}/adapter_model.safetensors": data, f"input {i}/adapter_config.json": json.dumps(config).encode()}
    paths = [f"input {i}" for i in range(len(it["configs"]))]
    merged = merged_of(files, paths, {"weights": it["weights"], "space": "product"} | rank, 1000)
    outputs.update(merged)
    assert hashlib.sha256(merged).hexdigest() == products[title], f"differs from {products[title]}"


def weights(it):
    def call():
        metrics = [float(metric) for metric in it["metrics"]]
        options = {"goal": it.get("goal", "min"), "scheme": it["scheme"], "penalty": float(it.get("penalty", 0))}
        return merger.call("weigh", metrics, json.dumps(options))

    if "error" in it:
        return fails(call, it)
    for got, wanted in zip(call(), it["weights"], strict=True):
        assert got == wanted or wanted != 0 and abs(got - wanted) <= max(1e-14 * abs(wanted), 1e-16)


def hostile(it):
    files = {it["file"]: (vectors / it["file"]).read_bytes()}

    def call():
        return merged_of(files, list(files), {"weights": [1], "dtype": "f32", "allow_non_finite": True})

    if "error" not in it and not it["tensors"]:
        return fails(call, {"error": "input", "says": "no tensors"})
    return fails(call, it) if "error" in it else call()


for it in index["cases"]:
    check(it["case"], lambda: case(it))
products = json.loads((vectors / "product/sha256.json").read_text())
for it in json.loads((vectors / "product/index.json").read_text()):
    for asked, rank in RANKS.items():
        title = f"{it['name']} at rank {asked}"
        check(title, lambda: product(it, rank, title))
for it in index["weights"]:
    # JSON has no word for penalties that are not finite
    if "metrics" in it and math.isfinite(float(it.get("penalty", 0))):
        check(it["case"], lambda: weights(it))
for it in index["hostile"]:
    check(it["file"], lambda: hostile(it))

run = root / "examples/sample-run"
files = {f"run/{path.relative_to(run)}": path.read_bytes() for path in run.rglob("*") if path.is_file()}
start = time.perf_counter()
_, report = merger.merge(files, ["run"])
seconds = time.perf_counter() - start
sample = report["outputs"][0]["blake3"]
print(json.dumps(count | {"vectors": outputs.hexdigest(), "sample": sample, "seconds": seconds}))
sys.exit(count["failed"] > 0)
