"""What the library returns, as the command line prints it with ``--json``."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from html import escape
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mwa.speech import spoken

T = TypeVar("T")


@dataclass(frozen=True)
class HashedFile:
    """A file by content."""

    name: str
    bytes: int
    blake3: str
    """In hex, as `b3sum` prints it."""
    sha256: str | None = None
    """In hex, where it was asked for."""
    identity: str | None = None
    """Of an input in an object store, what tells it from another of its name: a kind, and what the store says."""


@dataclass(frozen=True)
class Weighting:
    """How weights came about; all but `scheme` where it has them, `settings` what else the scheme was told."""

    scheme: str
    method: str | None = None
    penalty: float | None = None
    metric: str | None = None
    goal: str | None = None
    outliers: int | None = None
    scale: float | None = None
    density: float | None = None
    density_per: str | None = None
    subspace: int | None = None
    settings: dict[str, str] | None = None


@dataclass(frozen=True)
class Contribution:
    """What an input was in a federated round: a "client", the "base", a model that was "sent", or the "previous" one.

    `share` is what a client's update counts before it is compared with others, `kept` what clipping left of it.
    """

    role: str
    samples: float | None = None
    staleness: float | None = None
    share: float | None = None
    norm: float | None = None
    kept: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Dropped:
    """A client that was left out of a round, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ServerStep:
    """A step of the server's optimizer, and the moments that it began with, by their way from the output folder."""

    kind: str
    rate: float
    beta1: float
    beta2: float
    tau: float
    step: int
    dtype: str
    state: HashedFile | None = None


@dataclass(frozen=True)
class Round:
    """A federated round."""

    rule: str
    discount: str
    rate: float
    momentum: float
    clients: int
    samples: float
    period: float | None = None
    clip: float | None = None
    server: ServerStep | None = None
    partials: str | None = None
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class Input:
    """One checkpoint and its weight; `source` says where the metric's value comes from.

    `update`, where a scheme goes by steps, is the share that is left of the updates since the checkpoint before.
    """

    name: str
    path: str
    step: int | None
    weight: float
    metric: float | None = None
    source: str | None = None
    update: float | None = None
    role: str | None = None
    round: Contribution | None = None
    files: tuple[HashedFile, ...] = ()


@dataclass(frozen=True)
class ModuleDistance:
    """A LoRA module of a `Distance`: its rank in the output, and ‖result − Σ wγBA‖ / ‖Σ wγBA‖."""

    module: str
    relative: float
    rank: int | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class Distance:
    """How far the result is from the average of what the adapters do: over all modules, and by module.

    `method` is "exact", or "sketch" for an estimate, which has a standard error.
    """

    overall: float
    modules: tuple[ModuleDistance, ...]
    method: str = "exact"
    standard_error: float | None = None


@dataclass(frozen=True)
class GraftedModule:
    """The share of a module's elements that counts, of each checkpoint."""

    module: str
    kept: tuple[float, ...]


@dataclass(frozen=True)
class Grafted:
    """How much of what was changed of a base counts by second moments, of each checkpoint: over all modules, and by module.

    `thresholds` are empty where each tensor has its own.
    """

    kept: tuple[float, ...]
    modules: tuple[GraftedModule, ...]
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selected:
    """Which checkpoints were taken, and why.

    `rule` is "best" or "last", or "given" where they were selected or listed; `line` says all of it in words.
    """

    rule: str
    taken: int
    found: int
    line: str


@dataclass(frozen=True)
class Advice:
    """Why little is to be expected of a merge, and what to do.

    `about` is "schedule", "checkpoints", "metric" or "residual"; `value` is the number behind it.
    """

    about: str
    value: float
    text: str


@dataclass(frozen=True)
class Group:
    """Some modules, and their weights, one per input; `layer` where a gradient gives each its own."""

    modules: str
    weights: tuple[float, ...]
    count: int
    layer: int | None = None


@dataclass(frozen=True)
class Ranked:
    """A metric of a `Ranking`: the value and the rank of each input, 0 for the best."""

    name: str
    goal: str
    values: tuple[float, ...]
    ranks: tuple[float, ...]


@dataclass(frozen=True)
class Ranking:
    """How several metrics order the inputs.

    `ranks` are those of the combined order, which goes against `disagreements` of `comparisons`, each of two inputs by one metric.
    """

    combine: str
    metrics: tuple[Ranked, ...]
    ranks: tuple[float, ...]
    comparisons: int
    disagreements: int


@dataclass(frozen=True)
class Folded:
    """What folding an adapter into its base did: so many modules, and tensors of the base that changed or were replaced."""

    modules: int
    changed: int
    replaced: int
    added: tuple[str, ...] = ()
    """Tensors that the base does not have."""


@dataclass(frozen=True)
class Extracted:
    """What taking an adapter out of a model did: how many modules have factors, and which are `saved` whole.

    `rank` is what was asked for, a number or "error" and a share.
    """

    base: str
    rank: str
    modules: int
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was merged, with which weights and why, and the hashes of all of it: `mwa-report.json`."""

    mwa: str
    weighting: Weighting
    space: str
    dtype: str
    inputs: tuple[Input, ...]
    outputs: tuple[HashedFile, ...]
    notes: tuple[str, ...]
    adapter: str | None = None
    rank: str | None = None
    residual: Distance | None = None
    companions: tuple[HashedFile, ...] = ()
    selected: Selected | None = None
    round: Round | None = None
    ranking: Ranking | None = None
    groups: tuple[Group, ...] = ()
    advice: tuple[Advice, ...] = ()
    quantised: Distance | None = None
    folded: Folded | None = None
    extracted: Extracted | None = None
    grafted: Grafted | None = None
    shard_size: int | None = None

    def _repr_html_(self) -> str:
        """A table with bars, for notebooks."""
        metric = self.weighting.metric
        instead = _INSTEAD.get(self.weighting.method or "")
        largest = max((abs(row.weight) for row in self.inputs), default=0) or 1
        head = ["checkpoint", "step", *([metric] if metric else []), "weight"]

        def cells(row: Input) -> list[str]:
            value = [] if metric is None else [_number(row.metric)]
            weight = f"{row.weight:.4f}" if instead is None else "–" if row.role else instead
            return [_tail(row.name, self.inputs), str(row.step or "–"), *value, weight]

        bars = [abs(row.weight) / largest for row in self.inputs] if instead is None else None
        said = [] if self.selected is None else [f"chosen: {self.selected.line}"]
        said += [f"merged into {file.name}, {file.bytes:,} bytes" for file in self.outputs]
        said += [spoken(advice.text) for advice in self.advice] + [spoken(note) for note in self.notes]
        return _table(head, [cells(row) for row in self.inputs], bars) + _list(said)


# what tables say instead of weights, of methods that ask for none; made from core/src/method/blend.rs
_INSTEAD = {
    "median": "alike",
    "trimmed-mean": "alike",
    "magnitude-mask": "alike",
    "ties": "alike",
    "consensus": "alike",
    "ota": "by moments",
    "ffg": "by moments",
    "model-stock": "alike",
}


def _table(head: list[str], rows: list[list[str]], bars: list[float] | None = None) -> str:
    """A table of texts, numbers to the right; the bars, if there are any, are shares of the longest."""

    def line(tag: str, texts: list[str], last: str) -> str:
        cells = (f'<{tag} style="text-align:{"right" if i else "left"}">{escape(text)}</{tag}>' for i, text in enumerate(texts))
        return f"<tr>{''.join(cells)}{last}</tr>"

    def bar(share: float) -> str:
        style = f"width:{round(100 * share)}%;min-width:1px;height:.8em;background:#c26a10"
        return f'<td style="text-align:left;width:12em"><div style="{style}"></div></td>'

    lasts = [""] * len(rows) if bars is None else [bar(share) for share in bars]
    body = "".join(line("td", row, last) for row, last in zip(rows, lasts))
    return f"<table><thead>{line('th', head, '' if bars is None else '<th></th>')}</thead><tbody>{body}</tbody></table>"


def _list(said: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in said)}</ul>" if said else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _tail(name: str, rows: tuple[Input, ...]) -> str:
    """The end of a name that tells it from the others."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    others = [row.name.replace("\\", "/").rstrip("/") for row in rows]
    # of several runs it is to be seen whose each is
    least = 1 if len({other.rpartition("/")[0] for other in others}) == 1 else 2
    for count in range(least, len(parts) + 1):
        tail = "/".join(parts[-count:])
        if sum(other == tail or other.endswith(f"/{tail}") for other in others) < 2:
            return tail
    return name


@dataclass(frozen=True)
class Trial:
    """Weights that a search tried; `score` is None where `failed` says why. `by` says where the weights come from."""

    number: int
    by: str
    weights: tuple[float, ...]
    seed: int
    seconds: float
    merge_seconds: float
    blake3: tuple[str, ...] = ()
    score: float | None = None
    standard_error: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Compared:
    """The winner of a search, or what it is compared with, by the number of its trial and with the score on other data.

    `name` is "last", "best single", "uniform", "metric" or "winner".
    """

    name: str
    trial: int
    score: float | None = None
    holdout: float | None = None
    holdout_error: float | None = None
    holdout_failed: str | None = None


@dataclass(frozen=True)
class SearchReport:
    """What a search found: the winner's trial and merge, all trials, and in `doubts` what must be said of the winner."""

    method: str
    seed: int
    budget: int
    goal: str
    evaluator: str
    journal: str
    winner: int
    score: float
    trials: tuple[Trial, ...]
    compared: tuple[Compared, ...]
    doubts: tuple[str, ...]
    merge: Report
    reason: str | None = None
    groups: tuple[str, ...] = ()
    """The parts of the model that have weights of their own; a trial has those of one after the other."""
    holdout: str | None = None
    standard_error: float | None = None
    basin: str | None = None
    files: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """The scores and the winner's weights with bars, for notebooks."""
        better = "lower" if self.goal == "min" else "higher"
        has_holdout = self.holdout is not None
        head = ["", "score", *(["holdout"] if has_holdout else []), "trial"]
        rows = [
            [row.name, _number(row.score), *([_number(row.holdout)] if has_holdout else []), str(row.trial)] for row in self.compared
        ]
        scores = [row.score for row in self.compared if row.score is not None]
        # of a loss the longest bar is no praise: how far each is from the worst
        low, span = min(scores, default=0.0), (max(scores, default=0.0) - min(scores, default=0.0)) or 1.0
        share = [0.0 if row.score is None else (row.score - low) / span for row in self.compared]
        bars = [1 - one if self.goal == "min" else one for one in share]
        said = [f"{len(self.trials)} trials by {self.evaluator}, {better} is better; the longest bar is the best score"]
        said += [] if self.basin is None else [self.basin]
        said += [f"careful: {spoken(doubt)}" for doubt in self.doubts]
        return _table(head, rows, bars) + _list(said) + self.merge._repr_html_()


@dataclass(frozen=True)
class Summary:
    """One checkpoint as `inspect` sees it; `verdict` says whether its method may be averaged."""

    name: str
    step: int | None
    method: str | None
    verdict: str | None
    ranks: tuple[int, ...]
    dtypes: dict[str, int]
    tensors: int
    parameters: int
    bytes: int
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()
    base_model: str | None = None
    container: str | None = None
    """What the names of its tensors say, such as a kohya LoRA for Flux."""


@dataclass(frozen=True)
class Known:
    """What something is, and what can be done with it."""

    what: str
    can: str


@dataclass(frozen=True)
class FoundLog:
    """A log of a run: its file or folder, what kind of log it is, and the metrics in it."""

    path: str
    kind: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Separation:
    """How values of a metric differ: `noise` is that of one value, `separates` whether they are told apart."""

    values: int
    range: float
    noise: float
    signal_to_noise: float
    von_neumann: float
    separates: bool | None


@dataclass(frozen=True)
class Coverage:
    """A logged metric, how many checkpoints have a value of it, and whether it tells them apart."""

    name: str
    covered: int
    separation: Separation | None = None


@dataclass(frozen=True)
class Inspection:
    """What a path holds: checkpoints with the metrics of their logs, or what else it is known to be."""

    path: str
    checkpoints: tuple[Summary, ...]
    metrics: tuple[Coverage, ...]
    notes: tuple[str, ...]
    logs: tuple[FoundLog, ...] = ()
    known: Known | None = None

    def _repr_html_(self) -> str:
        """The checkpoints, and how many of them have which metric, for notebooks."""
        head = ["checkpoint", "step", "kind", "rank", "parameters", "bytes"]
        rows = [
            [
                row.name.replace("\\", "/").rstrip("/").rpartition("/")[2],
                "–" if row.step is None else str(row.step),
                row.method or row.container or "no adapter config",
                "/".join(map(str, row.ranks)) or "–",
                f"{row.parameters:,}",
                f"{row.bytes:,}",
            ]
            for row in self.checkpoints
        ]
        told = {True: "tells them apart", False: "noise", None: ""}
        metrics = [[row.name, str(row.covered), "" if row.separation is None else told[row.separation.separates]] for row in self.metrics]
        bars = [row.covered / (len(self.checkpoints) or 1) for row in self.metrics]
        said = [] if self.known is None else [self.known.what, spoken(self.known.can)]
        said += [spoken(note) for note in self.notes]
        tables = (_table(head, rows) if rows else "") + (_table(["metric", "checkpoints", ""], metrics, bars) if metrics else "")
        return f"<p>{escape(self.path)}</p>{tables}{_list(said)}"


@dataclass(frozen=True)
class Checked:
    """A file compared with its hash in the report.

    "same", "changed" or "missing"; not in the report: "foreign" if it may be loaded with the model, else "beside".
    """

    path: str
    state: str


@dataclass(frozen=True)
class Verified:
    """What `verify` found; `remade` is None when inputs are gone or changed, so that the merge was not tried."""

    outputs: tuple[Checked, ...]
    companions: tuple[Checked, ...]
    others: tuple[Checked, ...]
    inputs: tuple[Checked, ...]
    remade: bool | None

    @property
    def is_good(self) -> bool:
        """Everything is there, unchanged, merges to the same bytes, and nothing else may be loaded."""
        files = self.outputs + self.companions + self.others + self.inputs
        return self.remade is True and all(file.state in ("same", "beside") for file in files)

    def _repr_html_(self) -> str:
        """The files and the verdict, for notebooks."""
        if self.remade is None:
            word, said = "not verified", "not merged again: inputs are missing or have changed"
        else:
            word = "verified" if self.is_good else "differs"
            said = f"merging again gives {'the same' if self.remade else 'other'} bytes"
        files = self.outputs + self.companions + self.others + self.inputs
        return f"<p>{word}: {said}</p>" + _table(["file", "state"], [[file.path, file.state] for file in files])


def read(kind: type[T], value: dict[str, Any]) -> T:
    """Make a `kind` of what JSON gave."""
    hints = get_type_hints(kind)
    return kind(**{name: _convert(hints[name], item) for name, item in value.items() if name in hints})


def _convert(hint: Any, value: Any) -> Any:
    for kind in (hint, *get_args(hint)):
        if is_dataclass(kind) and isinstance(value, dict):
            return read(kind, value)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return tuple(_convert(get_args(hint)[0], item) for item in value)
    return value
