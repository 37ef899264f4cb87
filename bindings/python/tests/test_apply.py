"""Adapters folded into their base, and taken out again, against NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mwa
from files import Tensors, arrays, raw, read

Arrays = dict[str, np.ndarray]


def write(path: Path, tensors: Tensors) -> None:
    """A safetensors file, without the package under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(data for _, _, data in tensors.values()))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model of two weights."""
    noise = np.random.default_rng(7)
    tensors = {name: noise.normal(size=(9, 12)).astype(np.float32) for name in ("model.layers.0.up.weight", "model.norm.weight")}
    tensors["model.norm.weight"] = tensors["model.norm.weight"][0].copy()
    write(tmp_path / "base" / "model.safetensors", raw(tensors))
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama", "_name_or_path": "example/base"}')
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA of rank 2 and scale 2 on one of them."""
    noise = np.random.default_rng(8)
    name = "base_model.model.model.layers.0.up.lora_{}.weight"
    a, b = noise.normal(size=(2, 12)), noise.normal(size=(9, 2))
    factors = {name.format("A"): a.astype(np.float32), name.format("B"): b.astype(np.float32)}
    write(tmp_path / "adapter" / "adapter_model.safetensors", raw(factors))
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path / "adapter"


def weights(folder: Path) -> Arrays:
    return arrays(read(folder / "model.safetensors"))


def test_an_adapter_is_folded_in_and_taken_out_again(base: Path, adapter: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    report = mwa.apply(adapter, base=base, out=tmp_path / "whole", progress=lambda done, total: heard.append((done, total)))
    assert report.folded == mwa.Folded(modules=1, changed=1, replaced=0)
    assert heard and heard[-1][0] == heard[-1][1] > 0
    factors = arrays(read(adapter / "adapter_model.safetensors"))
    a, b = (factors[f"base_model.model.model.layers.0.up.lora_{side}.weight"] for side in "AB")
    before, after = weights(base), weights(tmp_path / "whole")
    expected = before["model.layers.0.up.weight"] + 2 * (b.astype(np.float64) @ a)
    assert np.abs(after["model.layers.0.up.weight"] - expected).max() < 1e-5
    assert (after["model.norm.weight"] == before["model.norm.weight"]).all()
    assert mwa.verify(tmp_path / "whole").is_good

    for rank, error, told in [(2, None, "2"), ("auto", 0.001, "error 0.001")]:
        out = tmp_path / f"adapter-{rank}"
        found = mwa.extract(tmp_path / "whole", base=base, rank=rank, error=error, out=out, threads=2)  # type: ignore[arg-type]
        assert found.extracted == mwa.Extracted(base="example/base", rank=told, modules=1)
        assert found.residual is not None and found.residual.overall < 1e-6
        assert [module.rank for module in found.residual.modules] == [2]
        assert mwa.verify(out).is_good
        mwa.apply(out, base=base, out=tmp_path / f"back-{rank}")
        back = weights(tmp_path / f"back-{rank}")["model.layers.0.up.weight"]
        assert np.abs(back - after["model.layers.0.up.weight"]).max() < 1e-5
    named = mwa.extract(tmp_path / "whole", tmp_path / "named", base=base, rank=1, base_name="hub/base")
    assert named.extracted is not None and named.extracted.base == "hub/base"


def test_what_is_wrong_is_told_as_python_says_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(kind: str, message: str, work: object, **told: object) -> None:
        with pytest.raises(mwa.MergeError) as error:
            work(out=out, **told)  # type: ignore[operator]
        assert (error.value.kind, message in str(error.value)) == (kind, True), (error.value.kind, str(error.value))
        assert not out.exists()

    def apply(**told: object) -> None:
        mwa.apply(adapter, base=base, **told)  # type: ignore[arg-type]

    def extract(**told: object) -> None:
        mwa.extract(base, base=base, **told)  # type: ignore[arg-type]

    refused("usage", "option metric says nothing here", apply, metric="loss")
    refused("usage", "threads", apply, threads=0)
    refused("usage", "rank is `0`", extract, rank=0)
    refused("usage", "rank is `best`", extract, rank="best")
    refused("usage", "error is 2", extract, rank="auto", error=2.0)
    refused("usage", "option dtype says nothing here", extract, rank=1, dtype="bf16")
    with pytest.raises(mwa.MergeError, match="nothing to take out"):
        extract(rank=1, out=out)
    with pytest.raises(mwa.MergeError, match="nowhere"):
        mwa.apply(adapter, base=tmp_path / "nowhere", out=out)
    mwa.apply(adapter, base=base, out=out)
    with pytest.raises(mwa.MergeError, match="exists"):
        mwa.apply(adapter, base=base, out=out)
    mwa.apply(adapter, base=base, out=out, force=True)


def test_a_stop_leaves_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        mwa.apply(adapter, base=base, out=tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
