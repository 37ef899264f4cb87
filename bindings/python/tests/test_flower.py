"""The strategy under Flower itself; skipped where it is not installed (`pip install "flwr[simulation]" safetensors`)."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

flwr = pytest.importorskip("flwr", reason="Flower is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402

from mwa.flower import MwaStrategy  # noqa: E402

A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"


def record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


class Nodes:
    """As much of a grid as a round needs to begin."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.count + 1))


def after(strategy: MwaStrategy, start: dict[str, Any], clients: list[tuple[dict[str, Any], dict[str, Any]]], order: int = 1) -> dict[str, Any]:
    """The arrays after round 4, in which clients returned these arrays and metrics, first or last first."""
    requests = list(strategy.configure_train(4, record(start), ConfigRecord(), Nodes(len(clients))))
    requests.sort(key=lambda request: request.metadata.dst_node_id)
    replies = []
    for request, (arrays, metrics) in zip(requests, clients):
        content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(metrics)})
        replies.append(Message(content=content, reply_to=request))
    merged: Any = strategy.aggregate_train(4, replies[::order])[0]
    return {name: array.numpy() for name, array in merged.items()}


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made by a server's task, which this program is otherwise not."""
    identity = pytest.importorskip("flwr.supercore.task_identity", reason="this Flower is another version").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)


def strategy(clients: int, **told: Any) -> MwaStrategy:
    return MwaStrategy(fraction_evaluate=0.0, min_available_nodes=clients, min_train_nodes=clients, **told)


def test_stale_updates_count_less_whatever_the_order() -> None:
    start: dict[str, Any] = {"w": numpy.zeros((4, 4), numpy.float32), "b": numpy.full(3, 0.1, numpy.float16)}
    clients = [({k: v + 2 + 2 * i for k, v in start.items()}, {"num-examples": 1, "server-round": 4 - 3 * i}) for i in range(2)]
    stale = strategy(2, round={"rule": "fedbuff", "discount": "polynomial:0.5"})
    merged = after(stale, start, clients)
    # half of 2 and, three rounds late, half of a half of 4
    assert numpy.array_equal(merged["w"], numpy.full((4, 4), 2, numpy.float32))
    assert merged["b"].dtype == numpy.float16 and numpy.allclose(merged["b"], 2.1, atol=2e-3)
    assert stale.report is not None and stale.report.round is not None and stale.report.round.rule == "fedbuff"
    again = after(stale, start, clients, order=-1)
    assert all(numpy.array_equal(again[name], merged[name]) for name in merged)


def test_no_client_decides_alone() -> None:
    start = {"w": numpy.zeros((4, 4), numpy.float32)}
    clients = [({"w": start["w"] + (1000 if i == 4 else i)}, {"num-examples": 1}) for i in range(5)]
    merged = after(strategy(5, options={"scheme": "geometric-median"}), start, clients)
    assert numpy.allclose(merged["w"], 2, atol=0.01)


def test_adapters_of_several_ranks_are_averaged_by_what_they_do() -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    random = numpy.random.default_rng(0)
    factors = [(random.normal(size=(1 + i, 6)).astype("f4"), random.normal(size=(5, 1 + i)).astype("f4")) for i in range(3)]
    start = {A: factors[1][0], B: numpy.zeros((5, 2), numpy.float32)}
    clients = [({A: a, B: b}, {"num-examples": 1}) for a, b in factors]
    merged = after(strategy(3, adapter_config=config, options={"space": "product"}), start, clients)
    assert merged[A].shape == (3, 6)
    # as good as rank 3 can be: numpy's own
    exact = sum(b.astype(float) @ a.astype(float) for a, b in factors) / 3
    u, s, v = numpy.linalg.svd(exact)
    assert numpy.allclose(merged[B] @ merged[A], u[:, :3] * s[:3] @ v[:3], atol=1e-5)


def test_a_simulation_of_flower_s_own() -> None:
    pytest.importorskip("ray", reason="Flower's simulation is not installed")
    from flwr.simulation import run_simulation

    server, client = ServerApp(), ClientApp()
    result: dict[str, Any] = {}
    start = {"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3), "b": numpy.zeros(3, numpy.float16)}

    @client.train()  # type: ignore[misc, untyped-decorator, unused-ignore]
    def of_client(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        sent: Any = message.content["arrays"]
        arrays = {name: array.numpy() + number for name, array in sent.items()}
        metrics = MetricRecord({"num-examples": 1 if number < 2 else 2})
        return Message(content=RecordDict({"arrays": record(arrays), "metrics": metrics}), reply_to=message)

    @server.main()  # type: ignore[misc, untyped-decorator, unused-ignore]
    def of_server(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < 3:
            pass  # nodes come one by one
        found = strategy(3).start(grid=grid, initial_arrays=record(start), num_rounds=1)
        result.update({name: array.numpy() for name, array in found.arrays.items()})

    run_simulation(server_app=server, client_app=client, num_supernodes=3, backend_config={"client_resources": {"num_cpus": 1}})
    assert numpy.array_equal(result["w"], start["w"] + numpy.float32(1.25))
    assert result["b"].dtype == numpy.float16 and numpy.array_equal(result["b"], numpy.full(3, 1.25, numpy.float16))


def test_a_server_s_adam_keeps_its_moments_between_rounds() -> None:
    adam = strategy(2, round={"server": "adam"})
    start = {"w": numpy.zeros(3, numpy.float32)}
    clients = [({"w": numpy.full(3, value, numpy.float32)}, {"num-examples": 1}) for value in (1.0, 3.0)]
    first = after(adam, start, clients)
    second = after(adam, first, clients)
    value, m, v = 0.0, 0.0, 0.0
    for number, found in [(1, first), (2, second)]:
        d = 2.0 - value
        m, v = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d * d
        value += 0.1 * (1 - 0.99 ** (number + 1)) ** 0.5 / (1 - 0.9 ** (number + 1)) * m / (v**0.5 + 1e-3)
        numpy.testing.assert_allclose(found["w"], value, rtol=1e-5)
    assert adam.report is not None and adam.report.round is not None and adam.report.round.server is not None
    assert adam.report.round.server.step == 2
