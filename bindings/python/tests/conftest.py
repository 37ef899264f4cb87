"""What the tests share: the repository's vectors and its sample run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors"
INDEX: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())


@pytest.fixture
def sample_run() -> Path:
    """Ten LoRA checkpoints of a small model."""
    return ROOT / "examples" / "sample-run"
