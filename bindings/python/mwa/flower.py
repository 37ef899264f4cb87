"""A Flower strategy: FedAvg whose aggregate is mwa's, with staleness, robust weights, and the same bytes for any order."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from safetensors.numpy import load_file, save_file

import mwa
from mwa.options import AggregateOptions, RoundOptions

# the moments of a server's Adam, beside the model
STATE = "mwa-server.safetensors"


class MwaStrategy(FedAvg):  # type: ignore[misc, unused-ignore]
    """Flower's FedAvg, but for what becomes of the replies: they are kept as files and merged when the round closes.

    `round` and `options` are those of `mwa.aggregate`; `report` is what it told of the last round. A reply whose metrics
    hold `server-round`, the round in which its client was sent the arrays, is as stale as that is long ago.

    Of LoRA clients of several ranks, `adapter_config` is the `adapter_config.json` of one: all have its scale
    lora_alpha / r, and what they do is averaged with `options={"space": "product"}`, at the largest of their ranks.
    """

    report: mwa.Report | None = None
    # the moments of a server's Adam, after the last round
    _state: bytes | None = None

    def __init__(
        self,
        *,
        round: RoundOptions | None = None,
        options: AggregateOptions | None = None,
        adapter_config: Mapping[str, Any] | None = None,
        **flower: Any,
    ) -> None:
        super().__init__(**flower)
        self.round, self.options, self.adapter_config = round or {}, options or {}, adapter_config
        self._sent: ArrayRecord | None = None

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Message]:
        """As Flower's; what is sent is the base of the round."""
        self._sent = arrays
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge what the clients returned, by samples, staleness and what the options say."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        contents = {f"{reply.metadata.src_node_id:020}": reply.content for reply in valid}
        with tempfile.TemporaryDirectory(prefix="mwa-round-") as name:
            folder, out = Path(name), Path(name, "out")
            names, samples, staleness = sorted(contents), [], []
            for client in names:
                metrics: Any = next(iter(contents[client].metric_records.values()))
                self._write(next(iter(contents[client].array_records.values())), folder / client)
                samples.append(float(metrics[self.weighted_by_key]))
                staleness.append(max(0.0, server_round - float(metrics.get("server-round", server_round))))
            told: RoundOptions = {"samples": samples, "staleness": staleness, **self.round}
            if self._sent is not None and self._needs_base():
                self._write(self._sent, folder / "base")
                told["base"] = folder / "base"
            if self._state is not None:
                (folder / STATE).write_bytes(self._state)
                told["state"] = folder / STATE
            self.report = mwa.aggregate([folder / client for client in names], out, round=told, **self.options)
            if (out / STATE).is_file():
                self._state = (out / STATE).read_bytes()
            merged = next(path for path in out.glob("*.safetensors") if path.name != STATE)
            arrays = self._read(merged, next(iter(contents[names[0]].array_records.values())))
        return arrays, self.train_metrics_aggr_fn([contents[client] for client in names], self.weighted_by_key)

    def _needs_base(self) -> bool:
        """Whether the model that was sent takes part; a plain mean does without it."""
        is_mean = self.round.get("rule", "fedavg") == "fedavg" and self.round.get("server_rate", 1.0) == 1.0
        is_flag = self.options.get("scheme") == "flag" and self.adapter_config is None
        return not is_mean or is_flag or self.round.get("clip") is not None or self.round.get("server") is not None

    def _write(self, arrays: ArrayRecord, folder: Path) -> None:
        folder.mkdir()
        tensors = {name: array.numpy() for name, array in arrays.items()}
        name = "model"
        if self.adapter_config is not None:
            name = "adapter_model"
            rank = next(tensor.shape[0] for key, tensor in tensors.items() if ".lora_A" in key)
            config = {**self.adapter_config, "r": rank, "lora_alpha": rank * self._scale()}
            (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file({key: tensor.copy() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")

    def _read(self, path: Path, like: Iterable[str]) -> ArrayRecord:
        merged = load_file(path)
        if self.adapter_config is not None and self.options.get("space") == "product":
            # products are written with a scale of 1, and the clients have their own
            merged = {key: tensor / self._scale() if ".lora_B" in key else tensor for key, tensor in merged.items()}
        return ArrayRecord({key: Array(merged[key]) for key in like})

    def _scale(self) -> float:
        config = self.adapter_config or {}
        return float(config["lora_alpha"]) / float(config["r"])
