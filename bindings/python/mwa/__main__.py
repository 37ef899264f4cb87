"""``python -m mwa``: the command line."""

from __future__ import annotations

import os
import sys
import tempfile

from mwa import _mwa


def main() -> int:
    """What `sys.argv` says; returns the exit code."""
    # where no desktop has set it, Mesa calls that an error, in the middle of a merge that succeeds
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    return _mwa.main(["mwa", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
