"""What the tests share: the repository's vectors and its sample run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors"
INDEX: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())

SAMPLE = "3917d7751869697944e9d8e25eec8a69149a1d12ed99ac1ef60ce395af80bba1"
"""SHA-256 of the sample run's merge, on every runtime."""


@pytest.fixture
def sample_run() -> Path:
    """Ten LoRA checkpoints of a small model."""
    return ROOT / "examples" / "sample-run"
