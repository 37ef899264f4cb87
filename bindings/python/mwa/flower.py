"""A Flower strategy: FedAvg whose aggregate is mwa's, with staleness, robust weights, and the same bytes for any order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

import mwa
from mwa.options import AggregateOptions, RoundOptions


class MwaStrategy(FedAvg):
    """Flower's FedAvg, but for what becomes of the replies: they are kept as files and merged when the round closes.

    `round` and `options` are those of `mwa.aggregate`; `report` is what it told of the last round. A reply whose metrics
    hold `server-round`, the round in which its client was sent the arrays, is as stale as that is long ago.
    """

    def __init__(self, *, round: RoundOptions | None = None, options: AggregateOptions | None = None, **flower: Any) -> None:
        super().__init__(**flower)
        self.round, self.options = round or {}, options or {}
        self.report: mwa.Report | None = None
        self._sent: ArrayRecord | None = None

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Message]:
        """As Flower's; what is sent is the base of the round."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge what the clients returned, by samples, staleness and what the options say."""
        replies = sorted((reply for reply in replies if not reply.has_error()), key=lambda reply: reply.metadata.src_node_id)
        if not replies:
            return None, None
        with tempfile.TemporaryDirectory(prefix="mwa-round-") as folder:
            base, files, samples, staleness = Path(folder, "base.safetensors"), [], [], []
            if self._sent is not None:
                write(self._sent, base)
            for reply in replies:
                metrics = next(iter(reply.content.metric_records.values()))
                files.append(Path(folder, f"{reply.metadata.src_node_id:020}.safetensors"))
                write(next(iter(reply.content.array_records.values())), files[-1])
                samples.append(float(metrics[self.weighted_by_key]))
                staleness.append(max(0.0, server_round - float(metrics.get("server-round", server_round))))
            told: RoundOptions = {"samples": samples, "staleness": staleness, **self.round}
            if self._sent is not None and needs_base(told, self.options):
                told.setdefault("base", base)
            self.report = mwa.aggregate(files, Path(folder, "out"), round=told, **self.options)
            arrays = read(next(Path(folder, "out").glob("*.safetensors")), like=next(iter(replies[0].content.array_records.values())))
        return arrays, self.train_metrics_aggr_fn([reply.content for reply in replies], self.weighted_by_key)


def needs_base(round: RoundOptions, options: AggregateOptions) -> bool:
    """Whether the model that was sent takes part; a plain mean does without it."""
    is_plain = round.get("rule", "fedavg") == "fedavg" and round.get("server_rate", 1.0) == 1.0
    return not is_plain or round.get("clip") is not None or options.get("scheme") == "flag"


def write(arrays: ArrayRecord, path: Path) -> None:
    """Write arrays as safetensors."""
    from safetensors.numpy import save_file

    save_file({name: array.numpy().copy() for name, array in arrays.items()}, path)


def read(path: Path, like: ArrayRecord) -> ArrayRecord:
    """Read what was merged, in the order of `like`."""
    from flwr.app import Array
    from safetensors.numpy import load_file

    merged = load_file(path)
    return ArrayRecord({name: Array(merged[name]) for name in like})
