"""Options as the native half reads them: JSON of whatever Python has."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mwa.errors import MergeError


def to_json(options: Mapping[str, object]) -> str:
    """Options as the native half reads them."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return json.dumps(given, default=_plain, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinity, and says so in its own words
        for name, value in given.items():
            try:
                json.dumps(value, default=_plain, allow_nan=False)
            except ValueError:
                raise MergeError("usage", f"option {name}: {value!r} does not fit; it must be finite") from None
        raise


def of_search(options: Mapping[str, object]) -> dict[str, object]:
    """Options of a search under the native half's names: here the short names are those of the score."""
    names = {"goal": "score_goal", "questions": "score_questions", "metric_goal": "goal", "method": "search_method"}
    return {names.get(name, name): value for name, value in options.items()}


def _plain(value: object) -> object:
    """Paths, and the numbers and arrays of NumPy and PyTorch."""
    for translate in ("__fspath__", "tolist"):
        if hasattr(value, translate):
            return getattr(value, translate)()
    return f"{value!r}"  # the native half says what it wanted instead
