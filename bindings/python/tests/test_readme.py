"""The Python lines of both READMEs run as they stand, from the root of the repository."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from conftest import ROOT, SAMPLE


@pytest.mark.parametrize("readme", ["README.md", "bindings/python/README.md"])
def test_readme(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_run: Path) -> None:
    shutil.copytree(sample_run, tmp_path / "examples" / "sample-run")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    exec("\n".join(blocks), {})
    merged = (tmp_path / "merged" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(merged).hexdigest() == SAMPLE
