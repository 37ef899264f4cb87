#!/usr/bin/env python3
"""Fold real PEFT adapters by the `mwa` binary and by PEFT's own merge, and take them out again.

usage: python tests/fold_lane.py MWA_BINARY WORKDIR [--only NAME]     needs peft, torch, transformers

The models and adapters are those of `peft_lane.py`. `mwa apply` must agree with `merge_and_unload()` within one rounding of the base's
dtype, tensor by tensor; what `mwa extract` takes out of the result must load in PEFT and give the logits of the result.
"""

import argparse
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import peft
import peft_lane as lane
import torch
from safetensors.torch import load_file, save_file

REFUSED = {"pissa", "ia3", "ln-tuning", "vera", "loha"}  # not W + γ·B·A, or of a changed base
WHOLE = {"experts"}  # raw parameters, which no adapter that is extracted holds
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


def run(binary, *arguments):
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def save(model, folder):
    if hasattr(model, "config"):
        model.save_pretrained(folder)
    else:
        folder.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


def check(kind, dtype, binary, place):
    make = lane.KINDS[kind][0]
    lane.train(kind, place / "run")
    adapter = place / "run" / f"checkpoint-{lane.STEPS[-1]}"
    save(make().to(dtype), place / "base")
    code, error = run(binary, "apply", adapter, "--base", place / "base", "-o", place / "out")
    if kind in REFUSED:
        lane.need(code == 1 and "help:" in error, f"was not refused: {error}")
        return
    lane.need(code == 0, error)
    merged = peft.PeftModel.from_pretrained(make().to(dtype), adapter).merge_and_unload()
    save(merged, place / "merged")
    before, ours, theirs = (load_file(place / name / "model.safetensors") for name in ("base", "out", "merged"))
    lane.need(set(theirs) <= set(ours), f"lacks {sorted(set(theirs) - set(ours))}")
    worst = 0.0
    for name, wanted in theirs.items():
        found = ours[name].double()
        wanted = wanted.double()
        allowed = ROUNDING[dtype] * wanted.abs() + 2e-6
        if kind in WHOLE:  # PEFT rounds the factors of raw parameters to the base's dtype, and their product too
            allowed = allowed + 4 * ROUNDING[dtype] * (wanted - before[name].double()).abs().max()
        worst = max(worst, ((found - wanted).abs() / allowed).max().item())
    lane.need(worst <= 1, f"is {worst:.3} roundings from PEFT's merge")
    if kind in WHOLE or not hasattr(merged, "config"):
        return
    code, error = run(binary, "extract", place / "out", "--base", place / "base", "--rank", "auto", "--error", "1e-3", "-o", place / "again")
    lane.need(code == 0, error)
    again = peft.PeftModel.from_pretrained(make().to(dtype), place / "again").eval()
    with torch.no_grad():
        distance = (lane.forward(again)[0].double() - lane.forward(merged.eval())[0].double()).abs().max().item()
    lane.need(distance < (2e-2 if dtype == torch.bfloat16 else 2e-3), f"extracted logits are off by {distance:.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--only")
    options = parser.parse_args()
    binary = options.binary.resolve()
    shutil.rmtree(options.workdir / "fold", ignore_errors=True)
    failed = count = 0
    for kind in lane.KINDS:
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{kind}-{str(dtype).removeprefix('torch.')}"
            if options.only and options.only != kind:
                continue
            count += 1
            try:
                check(kind, dtype, binary, options.workdir / "fold" / name)
                print(f"ok      {name}")
            except Exception as error:
                failed += 1
                print(f"FAILED  {name}: {error}")
                if not isinstance(error, lane.Failed):
                    traceback.print_exc(limit=-3, file=sys.stdout)
    print(f"{count - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
