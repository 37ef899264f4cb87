"""The one exception."""

from __future__ import annotations

from mwa.speech import spoken


class MergeError(Exception):
    """What went wrong: a stable kind, where, the facts, and what to do about it."""

    kind: str
    """The kind of failure, such as "shape", "metric" or "non-finite"; the same in every language and version."""
    message: str
    """The facts, without place and help."""
    path: str | None
    """The file or checkpoint at fault."""
    tensor: str | None
    """The tensor at fault."""
    help: str | None
    """What to do about it, where that is known."""

    def __init__(
        self, kind: str, message: str, path: str | None = None, tensor: str | None = None, help: str | None = None
    ) -> None:
        message, help = spoken(message), None if help is None else spoken(help)
        super().__init__(kind, message, path, tensor, help)
        self.kind, self.message, self.path, self.tensor, self.help = kind, message, path, tensor, help

    def __str__(self) -> str:
        file = f"{self.path}: " if self.path is not None else ""
        tensor = f"tensor `{self.tensor}` " if self.tensor is not None else ""
        return f"{file}{tensor}{self.message}" + (f"\nhelp: {self.help}" if self.help else "")
