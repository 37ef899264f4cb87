"""Whole runs: what the command line does, as functions; and everything that can go wrong on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mwa
from mwa.speech import spoken


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The `mwa` binary that `MWA_BINARY` names, else the package as a program."""
    program = [os.environ["MWA_BINARY"]] if "MWA_BINARY" in os.environ else [sys.executable, "-m", "mwa"]
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, check=False)


def plain(value: Any) -> Any:
    """A result as JSON has it: lists for tuples, nothing for what is left out."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if item is not None and item != ()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("options", [{}, {"space": "product", "rank": 4}, {"weights": [1, -0.25, 2], "last": 3, "dtype": "f32", "sha256": True}])
def test_merge_is_the_command_line(options: dict[str, Any], sample_run: Path, tmp_path: Path) -> None:
    report = mwa.merge(sample_run, tmp_path / "python", **options)
    told = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in options.items()}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in told.items()]
    done = command("merge", sample_run, "-o", tmp_path / "line", "--json", *flags)
    assert done.returncode == 0, done.stdout
    a, b = ((tmp_path / side / "adapter_model.safetensors").read_bytes() for side in ("python", "line"))
    assert a == b
    assert report.outputs[0].sha256 == (hashlib.sha256(a).hexdigest() if "sha256" in options else None)
    # nothing of the library's report is lost
    written = json.loads((tmp_path / "python" / "mwa-report.json").read_text())
    assert plain(dataclasses.asdict(report)) == plain({k: v for k, v in written.items() if v != []})
    assert written["outputs"] == json.loads(done.stdout)["outputs"]


def test_weights_are_those_of_the_merge(sample_run: Path, tmp_path: Path) -> None:
    options = mwa.WeightOptions(metric="loss", top=4, scheme="exponential", penalty=2.5, goal="min", smooth=10)
    weighed, merged = mwa.weights(sample_run, **options), mwa.merge([sample_run], tmp_path / "out", **options)
    assert [(i.step, i.weight) for i in weighed.inputs] == [(i.step, i.weight) for i in merged.inputs]
    assert len(weighed.inputs) == 4 and sum(i.weight for i in weighed.inputs) == pytest.approx(1)
    assert weighed.weighting == mwa.Weighting("exponential", penalty=2.5, metric="loss", goal="min")


def test_options_take_what_python_has(sample_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("step,score\n900,1\n950,3\n1000,2\n")
    np = pytest.importorskip("numpy")
    report = mwa.weights(
        os.fspath(sample_run), metrics_file=table, goal="max", steps=(900, None), last=np.int64(2), penalty=np.float32(0.5)
    )
    assert [i.weight for i in report.inputs] == pytest.approx([2 / 3, 1 / 3])


def test_inspect_and_verify(sample_run: Path, tmp_path: Path) -> None:
    seen = mwa.inspect(sample_run)
    assert [c.step for c in seen.checkpoints][-1] == 1000 and seen.checkpoints[0].ranks == (8,)
    assert {m.name: m.covered for m in seen.metrics}["eval_loss"] == 10
    mwa.merge(sample_run, tmp_path / "out")
    verified = mwa.verify(tmp_path / "out")
    assert verified.is_good and len(verified.inputs) == 5
    with (tmp_path / "out" / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    verified = mwa.verify(tmp_path / "out")
    assert not verified.is_good and verified.outputs[0].state == "changed"


def test_python_m_mwa(sample_run: Path) -> None:
    # -P: the installed package, not the sources in this folder
    module = [sys.executable, "-P", "-m", "mwa"]
    assert subprocess.run([*module, "weights", sample_run, "-q"], check=False).returncode == 0
    assert subprocess.run([*module, "weights", "/nowhere"], check=False, capture_output=True).returncode == 1
    wrong = subprocess.run([*module, "weigh"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2 and "similar subcommand exists: 'weights'" in wrong.stderr
    assert f"mwa {mwa.weights(sample_run).mwa}" in subprocess.check_output([*module, "--version"], text=True)


def test_what_help_and_notebooks_show(sample_run: Path) -> None:
    assert mwa.__version__ == mwa.weights(sample_run).mwa
    for function, names in ((mwa.merge, {"penalty", "space", "device"}), (mwa.weights, {"penalty", "last"})):
        help = inspect.getdoc(function) or ""
        assert all(f"\n{name}: " in help for name in names), help
        assert names <= inspect.signature(function).parameters.keys()
    assert "dtype" not in inspect.signature(mwa.weights).parameters
    html = mwa.weights(sample_run)._repr_html_()
    assert html.count("<tr>") == 6 and "checkpoint-1000" in html and "width:100%" in html


def test_messages_name_options_as_python_does() -> None:
    for core, python in (
        ("leave them out with --drop-bad", "leave them out with drop_bad=True"),
        ("say so with --goal min or --goal max", 'say so with goal="min" or goal="max"'),
        ("take fewer of them (--last 5), or (--space product)", 'take fewer of them (last=5), or (space="product")'),
        ("or give your own with --metrics-file", "or give your own with metrics_file"),
        ("name those: mwa merge a/1.pt … -o OUT --metrics-file x.csv", "name those: mwa merge a/1.pt … -o OUT --metrics-file x.csv"),
        ("leave out --dtype, or: mwa convert IN --dtype f32", "leave out dtype, or: mwa convert IN --dtype f32"),
        ("--no-such thing", "--no-such thing"),
        ("or give --drop-bad, or --steps ..10", "or give drop_bad=True, or steps=(None, 10)"),
        ("take --steps 5..20, or --steps 7..", "take steps=(5, 20), or steps=(7, None)"),
        ("a first and a last step, null for an open end", "a first and a last step, None for an open end"),
    ):
        assert spoken(core) == python


def test_progress_shows_a_bar(sample_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mwa.merge(sample_run, tmp_path / "out", progress=True)
    assert "100%" in capsys.readouterr().err.replace(" %", "%")


def test_progress_is_told_to_the_end(sample_run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    mwa.merge(sample_run, tmp_path / "out", progress=lambda *at: told.append((*at, threading.get_ident())))
    done, total, _ = told[-1]
    assert told[0][0] == 0 < done == total
    assert {thread for *_, thread in told} == {threading.get_ident()}


def test_a_failing_callback_stops_the_merge(sample_run: Path, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError(done)

    with pytest.raises(ZeroDivisionError):
        mwa.merge(sample_run, tmp_path / "out", progress=fail)
    assert not any(tmp_path.iterdir())


def test_ctrl_c_stops_the_merge(sample_run: Path, tmp_path: Path) -> None:
    # a shell that starts the tests in the background lets them ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        mwa.merge(sample_run, tmp_path / "out", progress=lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, before)
    assert not any(tmp_path.iterdir())


def test_other_threads_run_meanwhile(sample_run: Path, tmp_path: Path) -> None:
    threads = [threading.Thread(target=mwa.merge, args=(sample_run, tmp_path / str(i))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [tmp_path / str(i) / "adapter_model.safetensors" for i in range(4)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"lst": 4}, "usage", "there is no option `lst`\nhelp: did you mean `last`?"),
        ({"last": "4"}, "usage", 'option last: "4" does not fit; it must be a whole number from 1 on'),
        ({"last": 0}, "usage", "option last: 0 does not fit; it must be a whole number from 1 on"),
        ({"last": object()}, "usage", "option last: \"<object object"),
        ({"penalty": 2}, "weights", "penalty 2 is out of range for the linear scheme\nhelp: it must be between 0 and 1"),
        ({"penalty": float("nan")}, "usage", "option penalty: nan does not fit; it must be finite"),
        ({"metric": "eval_los"}, "metric", 'did you mean metric="eval_loss"?'),
        ({"weights": [1, 2]}, "weights", "there are 2 weights for 10 checkpoints"),
        ({"weights": [1], "metric": "loss"}, "usage", "options weights and metric contradict each other"),
        ({"metric": "bleu"}, "metric", "bleu"),
        ({"rank": "all", "space": "product"}, "usage", 'option rank: "all" does not fit; it must be a whole number from 1 on, auto or full'),
        ({"device": "tpu"}, "usage", 'option device: "tpu" does not fit; it must be auto, cpu, gpu'),
        ({"device": ["a"]}, "usage", "option device: "),
        ({"dtype": "int8"}, "usage", 'option dtype: "int8" does not fit; it must be keep, f32, bf16 or f16'),
    ],
)  # fmt: skip
def test_wrong_options(options: dict[str, Any], kind: str, says: str, sample_run: Path, tmp_path: Path) -> None:
    with pytest.raises(mwa.MergeError) as caught:
        mwa.merge(sample_run, tmp_path / "out", **options)
    assert caught.value.kind == kind and says in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_all_results_are_shown_in_notebooks(sample_run: Path, tmp_path: Path) -> None:
    mwa.merge(sample_run, tmp_path / "out", method="median")
    verified = mwa.verify(tmp_path / "out")._repr_html_()
    assert "<p>verified: merging again gives the same bytes</p>" in verified and "adapter_model.safetensors" in verified
    looked = mwa.inspect(sample_run)._repr_html_()
    assert looked.count("<td style=\"text-align:left\">checkpoint-") == 10 and "eval_loss" in looked and "width:100%" in looked
    alike = mwa.weights(sample_run, method="median")._repr_html_()
    assert "alike" in alike and "background" not in alike


def test_one_path_is_wanted(tmp_path: Path) -> None:
    for function in (mwa.inspect, mwa.verify):
        with pytest.raises(mwa.MergeError, match="takes one path, and here is a list of 2") as caught:
            function([tmp_path, tmp_path])  # type: ignore[arg-type]
        assert caught.value.kind == "usage" and "for path in paths" in (caught.value.help or "")


def test_wrong_paths(sample_run: Path, tmp_path: Path) -> None:
    for look in (mwa.inspect, mwa.weights, mwa.verify):
        with pytest.raises(mwa.MergeError) as caught:
            look(tmp_path / "nowhere")
        assert caught.value.path == str(tmp_path / "nowhere") and caught.value.kind in ("io", "input")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.kind) == (str(caught.value), caught.value.kind)
    wrongs: list[Any] = [3, None, [3], b"bytes"]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            mwa.merge(wrong, tmp_path / "out")
    with pytest.raises(mwa.MergeError) as caught:
        mwa.merge([], tmp_path / "out")
    assert caught.value.kind == "input"


def test_failing_calls_keep_memory_flat(tmp_path: Path) -> None:
    np, status = pytest.importorskip("numpy"), Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("no /proc to read the memory from")
    big, other = {"w": np.zeros((64, 1024), np.float32)}, {"w": np.zeros((64, 1025), np.float32)}
    calls: list[Callable[[], object]] = [
        lambda: mwa.merge_state_dicts([big, other], [1, 1]),
        lambda: mwa.merge_state_dicts([{"w": big["w"].T}, {"w": "no tensor"}], [1, 1]),
        lambda: mwa.merge_state_dicts([{"w": big["w"] + np.inf}], [1]),
        lambda: mwa.weights(tmp_path / "nowhere", last=3),
        lambda: mwa.weights(tmp_path, lst=3),  # type: ignore[call-arg]
    ]

    def fail(times: int) -> int:
        for _ in range(times):
            for call in calls:
                with pytest.raises(mwa.MergeError):
                    call()
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = fail(200)
    assert fail(2000) - before < 8 << 20, "10,000 failing calls leave more than 8 MiB behind"
