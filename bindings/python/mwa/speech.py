"""Options in messages as Python writes them: the core's own words are those of the command line."""

from __future__ import annotations

import re

from mwa.options import MergeOptions, text_of

# with what one function alone takes
_TYPES = {**MergeOptions.__annotations__, "error": "float | None", "base_name": "str | None"}
# a word after a flag, which may be its value; a sentence's full stop or comma is not of it
# where a whole command line begins
_COMMAND = re.compile(
    r"\bmwa (?:merge|finish|search|weights|inspect|convert|moments|verify|aggregate|recover|apply|extract|masks|devices|man) "
)
_STEPS = re.compile(r"(?:--)?\bsteps (\d*)\.\.(\d*)")
# words of JSON, which the core's sentences have
_WORDS = {"null": "None", "true or false": "True or False"}
_WORD = re.compile(r"\b(?:" + "|".join(_WORDS) + r")\b")
_FLAG = re.compile(r"--([a-z][a-z0-9-]*[a-z0-9])(?: ([^\s,;:?()]*[^\s,;:?().]))?")


def spoken(text: str) -> str:
    """The text with ``--drop-bad`` as ``drop_bad=True`` and ``--metric loss`` as ``metric="loss"``.

    >>> spoken("leave them out with --drop-bad, or give --metric loss")
    'leave them out with drop_bad=True, or give metric="loss"'
    >>> spoken("leave out --dtype, or first: mwa convert IN --dtype f32 -o OUT")
    'leave out dtype, or first: mwa convert IN --dtype f32 -o OUT'
    >>> spoken("give --steps ..10; it must be true or false")
    'give steps=(None, 10); it must be True or False'
    """
    command = _COMMAND.search(text)
    end = len(text) if command is None else command.start()
    own = _STEPS.sub(lambda match: f"steps=({match[1] or None}, {match[2] or None})", text[:end])
    own = _WORD.sub(lambda match: _WORDS[match[0]], own)
    return _FLAG.sub(_option, own) + text[end:]


def _option(match: re.Match[str]) -> str:
    flag, word = match[1], match[2]
    name = flag.replace("-", "_")
    if name not in _TYPES:
        return match[0]
    kind = text_of(_TYPES[name])
    rest = "" if word is None else f" {word}"
    if kind == "bool":
        return f"{name}=True{rest}"
    if word is None:
        return name
    if kind.startswith(("int", "float")) and word.replace(".", "", 1).isdigit():
        return f"{name}={word}"
    # a path is left as it stands
    if kind == "str | None" or (kind.startswith("Literal") and repr(word) in kind.replace('"', "'")):
        return f'{name}="{word}"'
    return name + rest
