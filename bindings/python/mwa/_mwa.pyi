"""The native half; use the package's own functions."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypeVar

__version__: str

_Path = str | PathLike[str]
_Progress = Callable[[int, int], object]
_Tensor = TypeVar("_Tensor")

def merge(inputs: Sequence[_Path], out: _Path, options: str, progress: _Progress | None) -> str: ...
def aggregate(inputs: Sequence[_Path], out: _Path, round: str, options: str, progress: _Progress | None) -> str: ...
def apply(adapter: _Path, base: _Path, out: _Path, options: str, progress: _Progress | None) -> str: ...
def extract(
    models: tuple[_Path, _Path],
    rank: tuple[str, float | None],
    base_name: str | None,
    out: _Path,
    options: str,
    progress: _Progress | None,
) -> str: ...
def search(
    inputs: Sequence[_Path],
    out: _Path,
    options: str,
    evaluate: Callable[[str], str],
    holdout: Callable[[str], str] | None,
    progress: _Progress | None,
) -> str: ...
def weights(inputs: Sequence[_Path], options: str) -> str: ...
def inspect(path: _Path, options: str) -> str: ...
def verify(folder: _Path, options: str, progress: _Progress | None) -> str: ...
def check_options(options: str) -> None: ...
def check_search(options: str) -> None: ...
def goal_of(name: str) -> str | None: ...
def main(arguments: Sequence[str]) -> int: ...
def merge_tensors(
    inputs: Sequence[tuple[str, Sequence[tuple[str, _Tensor]], str | None]],
    weights: Sequence[float],
    options: str,
    allocate: Callable[[str, str, Sequence[int]], _Tensor],
    progress: _Progress | None,
) -> tuple[dict[str, _Tensor], str | None, list[str]]: ...
