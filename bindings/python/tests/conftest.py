"""What the tests share: the repository's vectors and its sample run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors"
INDEX: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())

SAMPLE = "3a2ec8d96a529c7a9f2d5a0aa528a74293a094a41bda43146afe4739e12376f8"
"""SHA-256 of the sample run's merge, on every runtime."""


@pytest.fixture
def sample_run() -> Path:
    """Ten LoRA checkpoints of a small model."""
    return ROOT / "examples" / "sample-run"
