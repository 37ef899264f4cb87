"""Measure the bindings beside what they wrap: bench.py RUN MWA C_PROGRAM CLI_JS ROUNDS OUT. Every answer is checked.

Both sides take turns in one process, after a round to warm up, so that what slows the machine down slows both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import mwa

MB = 1_000_000
Work = Callable[[], Any]


@dataclass
class Samples:
    """One for each round: seconds on the wall, seconds of processor, pages that had to be made."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)


def used() -> tuple[float, float, int]:
    """So far, by this process and by those it waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(it.ru_utime + it.ru_stime for it in both), sum(it.ru_minflt for it in both)


def take_turns(contenders: dict[str, Work], rounds: int, check: Callable[[str, Any], None]) -> dict[str, Samples]:
    """Samples of each, everyone once a round."""
    samples = {name: Samples() for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            before = used()
            made = work()
            wall, cpu, faults = (b - a for a, b in zip(before, used()))
            check(name, made)
            del made
            if number:
                samples[name].wall.append(wall)
                samples[name].cpu.append(cpu)
                samples[name].faults.append(int(faults))
    return samples


def table(title: str, samples: dict[str, Samples], base: str) -> None:
    """The speed is the median over the rounds, for neighbours in time met the same machine."""
    print(f"\n{title}\n\n| what | median s | min s | processor s | page faults | speed beside {base}: median (least … most) |")
    print("|---|---|---|---|---|---|")
    for name, own in samples.items():
        ratios = sorted(b / a for a, b in zip(own.wall, samples[base].wall))
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
        print(f"| {name} | {median(own.wall):.3f} | {min(own.wall):.3f} | {median(own.cpu):.3f} | {median(own.faults):.0f} | {spread} |")


def files(run: Path, binary: Path, c_program: Path, script: Path, rounds: int, out: Path) -> None:
    """Whole runs from folder to folder."""
    hashes: dict[str, str] = {}

    def fresh(name: str) -> Path:
        folder = out / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def program(name: str, *before: str | Path, options: tuple[str, ...] = ()) -> Work:
        def work() -> Path:
            folder = fresh(name)
            command = [str(word) for word in before]
            command[command.index("OUT")] = str(folder)
            subprocess.run([*command, *options], check=True, capture_output=True)
            return folder

        return work

    def python() -> Path:
        folder = fresh("mwa.merge")
        mwa.merge(run, folder, select="all")
        return folder

    def check(name: str, folder: Path) -> None:
        hashes[name] = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
        shutil.rmtree(folder)
        if len(set(hashes.values())) != 1:
            sys.exit(f"the answers differ: {hashes}")

    every = ("--select", "all")
    contenders: dict[str, Work] = {
        "mwa merge": program("mwa merge", binary, "merge", run, *every, "-o", "OUT", "--quiet"),
        "mwa.merge in Python": python,
        "python -m mwa merge": program("python -m mwa", sys.executable, "-P", "-m", "mwa", "merge", run, *every, "-o", "OUT", "--quiet"),
    }
    if c_program.is_file():
        contenders["mwa_merge in C"] = program("mwa_merge in C", c_program, run, "OUT", '{"select": "all"}')
    size = sum(file.stat().st_size for file in run.glob("*/adapter_model.safetensors"))
    samples = take_turns(contenders, rounds, check)
    table(f"{size // MB} MB of LoRA checkpoints, folder to folder", samples, "mwa merge")
    if script.is_file() and shutil.which("node"):
        alone = "mwa merge --residual off"
        contenders = {
            alone: program(alone, binary, "merge", run, *every, "-o", "OUT", "--quiet", "--residual", "off"),
            "mwa-merge in Node": program("mwa-merge in Node", "node", script, "merge", run, *every, "-o", "OUT", "--quiet", "--residual", "off"),
        }
        table("The same without the residual", take_turns(contenders, rounds, check), alone)


def torch_loop(torch: Any, states: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    """What one writes by hand; see `cargo xtask bench adapters`."""
    total: dict[str, Any] = {}
    for state, weight in zip(states, weights):
        for name, tensor in state.items():
            part = tensor.float() * weight
            total[name] = total[name].add_(part) if name in total else part
    return {name: tensor.to(torch.bfloat16) for name, tensor in total.items()}


def memory(run: Path, rounds: int) -> None:
    """Tensors in memory, beside a torch loop over the same ones."""
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        print(f"\nnot measured: merge_state_dicts, {error}")
        return
    paths = sorted(run.glob("*/adapter_model.safetensors"))
    # cloned: what is loaded is a mapped file, and its pages would be faulted in by whoever comes first
    states = [{name: tensor.clone() for name, tensor in load_file(path).items()} for path in paths]
    weights = [1 / len(states)] * len(states)
    output = sum(tensor.nbytes for tensor in states[0].values())
    reset_peak()
    before = resident("VmRSS")
    expected = mwa.merge_state_dicts(states, weights)
    added = resident("VmHWM") - before

    def check(name: str, made: dict[str, Any]) -> None:
        for key, tensor in made.items():
            if name.startswith("torch"):
                # torch rounds the same sum of the same products, but flushes nothing
                assert torch.equal(tensor, expected[key]), key
            else:
                assert torch.equal(tensor.view(torch.int16), expected[key].view(torch.int16)), key

    def torch_with(threads: int) -> Work:
        def work() -> dict[str, Any]:
            torch.set_num_threads(threads)
            return torch_loop(torch, states, weights)

        return work

    # where others want the cores too, torch's threads wait for each other and burn processor meanwhile; one does not
    calls: dict[str, Work] = {
        "torch loop": torch_with(torch.get_num_threads()),
        "torch loop, one thread": torch_with(1),
        "merge_state_dicts": lambda: mwa.merge_state_dicts(states, weights),
        "merge_state_dicts, one thread": lambda: mwa.merge_state_dicts(states, weights, threads=1),
    }
    threads = f"{torch.get_num_threads()} threads of torch, {os.cpu_count()} cores"
    samples = take_turns(calls, rounds, check)
    table(f"{len(states)} state dicts of {output // MB} MB in bf16, in memory; {threads}", samples, "torch loop")
    print(f"merge_state_dicts: {added / MB:.1f} MB more than before at its peak, of which {output / MB:.1f} MB are the output")


def resident(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    run, binary, c_program, script, rounds, out = sys.argv[1:]
    print(f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds, page cache warm")
    files(Path(run), Path(binary), Path(c_program), Path(script), int(rounds), Path(out))
    memory(Path(run), int(rounds))


if __name__ == "__main__":
    main()
