"""The strategy in Flower's own simulation; skipped where Flower is not installed (`pip install "flwr[simulation]" safetensors`)."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

flwr = pytest.importorskip("flwr", reason="Flower is not installed")
pytest.importorskip("ray", reason="Flower's simulation is not installed")

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from mwa.flower import MwaStrategy  # noqa: E402

A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"


def simulate(strategy: MwaStrategy, start: dict[str, Any], train: Any, clients: int = 3) -> dict[str, Any]:
    """The arrays after one round; `train` makes a client's arrays, and what it tells, of its number and what it was sent."""
    server, client = ServerApp(), ClientApp()
    result: dict[str, Any] = {}

    @client.train()  # type: ignore[misc, unused-ignore]
    def of_client(message: Message, context: Context) -> Message:
        sent = {name: array.numpy() for name, array in message.content["arrays"].items()}
        arrays, metrics = train(int(context.node_config["partition-id"]), sent)
        content = RecordDict({"arrays": ArrayRecord({k: flwr.app.Array(v) for k, v in arrays.items()}), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=message)

    @server.main()  # type: ignore[misc, unused-ignore]
    def of_server(grid: Grid, context: Context) -> None:
        initial = ArrayRecord({name: flwr.app.Array(array) for name, array in start.items()})
        found = strategy.start(grid=grid, initial_arrays=initial, num_rounds=1)
        result.update({name: array.numpy() for name, array in found.arrays.items()})

    run_simulation(server_app=server, client_app=client, num_supernodes=clients, backend_config={"client_resources": {"num_cpus": 1}})
    return result


def test_clients_count_by_their_samples() -> None:
    strategy = MwaStrategy(fraction_evaluate=0.0, min_available_nodes=3)
    start = {"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3), "b": numpy.zeros(3, numpy.float16)}
    merged = simulate(strategy, start, lambda i, sent: ({k: v + i for k, v in sent.items()}, {"num-examples": 1 if i < 2 else 2}))
    assert numpy.array_equal(merged["w"], start["w"] + numpy.float32(1.25))
    assert merged["b"].dtype == numpy.float16 and numpy.array_equal(merged["b"], numpy.full(3, 1.25, numpy.float16))
    assert strategy.report is not None and strategy.report.round is not None
    assert (strategy.report.round.rule, strategy.report.round.samples) == ("fedavg", 4)


def test_stale_updates_count_less_and_no_client_decides_alone() -> None:
    start = {"w": numpy.zeros((4, 4), numpy.float32)}
    metrics = {"num-examples": 1}
    stale = MwaStrategy(round={"rule": "fedbuff", "discount": "polynomial:0.5"}, fraction_evaluate=0.0, min_available_nodes=2)
    merged = simulate(stale, start, lambda i, sent: ({"w": sent["w"] + 2 + 2 * i}, {**metrics, "server-round": 1 - 3 * i}), clients=2)
    # ½·2 and, three rounds late, ½·½·4
    assert numpy.allclose(merged["w"], 2)
    robust = MwaStrategy(options={"scheme": "geometric-median"}, fraction_evaluate=0.0, min_available_nodes=5)
    merged = simulate(robust, start, lambda i, sent: ({"w": sent["w"] + (1000 if i == 4 else i)}, metrics), clients=5)
    assert numpy.allclose(merged["w"], 2, atol=0.01)


def test_adapters_of_several_ranks_are_averaged_by_what_they_do() -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    strategy = MwaStrategy(adapter_config=config, options={"space": "product"}, fraction_evaluate=0.0, min_available_nodes=3)
    random = numpy.random.default_rng(0)
    factors = {i: (random.normal(size=(1 + i, 6)).astype("f4"), random.normal(size=(5, 1 + i)).astype("f4")) for i in range(3)}
    start = {A: factors[1][0], B: numpy.zeros((5, 2), numpy.float32)}
    merged = simulate(strategy, start, lambda i, _: ({A: factors[i][0], B: factors[i][1]}, {"num-examples": 1}))
    assert merged[A].shape == (3, 6)
    # as good as rank 3 can be: numpy's own
    exact = sum(b.astype(float) @ a.astype(float) for a, b in factors.values()) / 3
    u, s, v = numpy.linalg.svd(exact)
    assert numpy.allclose(merged[B] @ merged[A], u[:, :3] * s[:3] @ v[:3], atol=1e-5)
