"""The README's Python lines run as they stand, from the root of the repository."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from conftest import ROOT, SAMPLE


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_run: Path) -> None:
    shutil.copytree(sample_run, tmp_path / "examples" / "sample-run")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "bindings" / "python" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {})
    merged = (tmp_path / "merged" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(merged).hexdigest() == SAMPLE
