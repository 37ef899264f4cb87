"""Type checkers accept what is right and notice what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_mypy_strict() -> None:
    pytest.importorskip("mypy")
    package = Path(__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "mwa", "tests"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
