"""Every situation through the package: the same files, report and notes as native, or the same refusal."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import mwa
from mwa.speech import spoken

HERE = Path(__file__).resolve().parents[3] / "tests" / "situations"
ALL = json.loads((HERE / "situations.json").read_text())
GOLDEN = json.loads((HERE / "golden.json").read_text())


def outcome(folder: Path, paths: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """What the package answered, as golden.json has it."""
    out = folder / "out"
    try:
        mwa.merge([folder / path for path in paths], out, **options)
    except mwa.MergeError as error:
        assert not out.exists(), "an error left an output behind"
        facts = {name: getattr(error, name) for name in ("kind", "tensor", "help")}
        return {"error": {**facts, "file": error.path, "detail": error.message}}
    names = sorted(path.name for path in out.iterdir())
    files = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names if name != "mwa-report.json"}
    report = json.loads((out / "mwa-report.json").read_text())
    del report["mwa"]
    return {"report": report, "files": files}


@pytest.mark.parametrize("situation", ALL["situations"], ids=lambda it: it["situation"])
def test_answers_alike(situation: dict[str, Any], tmp_path: Path) -> None:
    for path, place in situation["files"].items():
        blob = ALL["blobs"][place]
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(base64.b64decode(blob["base64"]) if "base64" in blob else blob["text"].encode())
    options = dict(situation["options"])
    for name in {"weights_file", "base"} & options.keys():  # they lie among the files
        options[name] = tmp_path / options[name]
    found = outcome(tmp_path, situation["paths"], options)
    expected = dict(GOLDEN[situation["situation"]])
    if "error" in expected:
        # options are called here as Python calls them
        error = expected["error"]
        told = {name: error[name] and spoken(error[name]) for name in ("detail", "help")}
        expected["error"] = {**error, **told}
    assert json.loads(json.dumps(found).replace(f"{tmp_path}/", "")) == expected
