"""``python -m mwa``: the command line."""

from __future__ import annotations

import sys

from mwa import _mwa


def main() -> int:
    """What `sys.argv` says; returns the exit code."""
    return _mwa.main(["mwa", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
