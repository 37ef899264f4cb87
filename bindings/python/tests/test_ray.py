"""A merge by a cluster of two raylets of this machine, which lose workers and nodes; skipped where Ray is not installed (`pip install ray`)."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

import ray_faults  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

import mwa  # noqa: E402
import mwa.ray  # noqa: E402

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two raylets of one CPU each, whose workers have the faults that tests order."""
    folder = tmp_path_factory.mktemp("faults")
    tests, package = Path(__file__).parent, Path(mwa.__file__).parents[1]
    made = Cluster(initialize_head=True, head_node_args=NODE)
    made.faults = folder
    made.second = made.add_node(num_cpus=1, object_store_memory=80 << 20)
    made.wait_for_nodes()
    variables = {ray_faults.FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(map(str, (tests, package)))}
    environment = {"worker_process_setup_hook": "ray_faults.install", "env_vars": variables}
    ray.init(address=made.address, log_to_driver=False, runtime_env=environment)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(autouse=True)
def no_faults(cluster: Any) -> None:
    for path in cluster.faults.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of 24 MB in three files."""
    folder = tmp_path_factory.mktemp("run")
    for step in (10, 20, 30):
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        random, names = np.random.default_rng(step), {}
        for number in (1, 2, 3):
            file = f"model-{number:05}-of-00003.safetensors"
            tensors = {f"model.layers.{number}.{i}.weight": random.standard_normal((1000, 1000), np.float32) for i in (1, 2)}
            names.update(dict.fromkeys(tensors, file))
            write(place / file, tensors)
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        (place / "config.json").write_text('{"model_type": "llama"}')
    log = [{"step": step, "eval_loss": 1 + 1 / step} for step in (10, 20, 30)]
    for count in (1, 2, 3):
        (folder / f"checkpoint-{count}0" / "trainer_state.json").write_text(json.dumps({"log_history": log[:count]}))
    return folder


def write(path: Path, tensors: dict[str, Any]) -> None:
    head, at = {}, 0
    for name, array in tensors.items():
        head[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values()))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(cluster: Any) -> list[str]:
    """Which shards were begun, as often as they were."""
    log = cluster.faults / "log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def assert_plain(report: mwa.Report, run: Path, out: Path) -> None:
    """The files and the report are those of one process, and nothing is left beside them."""
    plain = out.with_name("plain")
    assert mwa.merge(run, plain, select="all") == report
    assert files(plain) == files(out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "plain"]


def test_files_and_report_are_those_of_one_process(cluster: Any, run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = mwa.ray.merge(run, tmp_path / "out", select="all", shards=5, progress=lambda *at: told.append(at))
    assert sorted(shards(cluster)) == [f"{i}/5" for i in range(5)]
    assert told == [(i, 5) for i in range(1, 6)]
    assert_plain(report, run, tmp_path / "out")


def test_paths_begin_where_the_caller_is(cluster: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "table.csv").write_text("step,score\n10,1\n20,2\n30,4\n")
    report = mwa.ray.merge("run", "out", metrics_file="table.csv", goal="max", select="all")
    assert report == mwa.merge("run", "plain", metrics_file="table.csv", goal="max", select="all")
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    # four for each of the two that can run at once
    assert len(shards(cluster)) == 8


def test_workers_that_are_killed_or_refused_cost_time_alone(cluster: Any, run: Path, tmp_path: Path) -> None:
    ray_faults.order(cluster.faults, shard_0="kill", shard_2="kill", shard_3="refuse")
    report = mwa.ray.merge(run, tmp_path / "out", select="all", shards=4)
    assert not list(cluster.faults.glob("shard_*")), "nothing failed"
    assert sorted(shards(cluster)) == ["0/4", "0/4", "1/4", "2/4", "2/4", "3/4", "3/4"]
    assert_plain(report, run, tmp_path / "out")


def test_a_node_that_is_lost_costs_time_alone(cluster: Any, run: Path, tmp_path: Path) -> None:
    ray_faults.order(cluster.faults, shard_3="2", shard_4="2")

    def lose(done: int, total: int) -> None:
        if done == 3:
            # both nodes are in one of the slow shards
            until = time.monotonic() + 60
            while list(cluster.faults.glob("shard_*")) and time.monotonic() < until:
                time.sleep(0.05)
            cluster.remove_node(cluster.second, allow_graceful=False)
            cluster.second = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    report = mwa.ray.merge(run, tmp_path / "out", select="all", shards=5, progress=lose)
    assert len(shards(cluster)) > 5, "nothing was lost"
    assert_plain(report, run, tmp_path / "out")


def test_what_takes_too_long_is_begun_once_more(
    cluster: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mwa.ray, "AT_LEAST", 2.0)
    ray_faults.order(cluster.faults, shard_1="600")
    start = time.monotonic()
    report = mwa.ray.merge(run, tmp_path / "out", select="all", shards=4)
    assert time.monotonic() - start < 300
    assert shards(cluster).count("1/4") == 2
    assert_plain(report, run, tmp_path / "out")


def test_an_interrupted_merge_goes_on(cluster: Any, run: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mwa.ray.merge(run, tmp_path / "out", select="all", shards=6, progress=stop)
    claim = tmp_path / ".out.mwa-shards"
    was_done = {path.name: path.stat().st_mtime_ns for path in claim.glob("shard-*.json")}
    assert len(was_done) >= 3 and not (tmp_path / "out").exists()
    with pytest.raises(mwa.MergeError, match="its shards are merged with the options") as other:
        mwa.ray.merge(run, tmp_path / "out", select="all", dtype="bf16")
    assert other.value.kind == "output"
    seen: dict[str, int] = {}

    def look(done: int, total: int) -> None:
        assert total == 6, "not cut anew"
        seen.update({path.name: path.stat().st_mtime_ns for path in claim.glob("shard-*.json")})

    report = mwa.ray.merge(run, tmp_path / "out", select="all", progress=look)
    assert was_done.items() <= seen.items(), "what was done is done again"
    assert_plain(report, run, tmp_path / "out")


def test_errors_are_those_of_one_process_and_leave_nothing(cluster: Any, run: Path, tmp_path: Path) -> None:
    def told(merge: Any, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        with pytest.raises(mwa.MergeError) as raised:
            merge(*arguments, **options)
        return raised.value.args

    out = tmp_path / "out"
    for options in ({"metric": "no-such"}, {"weights": [1.0]}, {"scheme": "decay", "floor": 7.0}):
        assert told(mwa.ray.merge, run, out, **options) == told(mwa.merge, run, out, **options)
    bad = tmp_path / "bad"
    for step in (10, 20):
        (bad / f"checkpoint-{step}").mkdir(parents=True)
        values = np.full((1000, 1000), np.nan if step == 20 else 1, np.float32)
        write(bad / f"checkpoint-{step}" / "model.safetensors", {"w": values})
    found = told(mwa.ray.merge, bad, out, weights=[0.5, 0.5])
    assert found == told(mwa.merge, bad, out, weights=[0.5, 0.5]) and found[0] == "non-finite"
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_stores_are_for_one_process(cluster: Any, run: Path) -> None:
    with pytest.raises(mwa.MergeError, match="lies in a store") as raised:
        mwa.ray.merge(run, "s3://bucket/out")
    assert "mwa.merge" in str(raised.value.help)
