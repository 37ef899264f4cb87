#!/usr/bin/env python3
"""Merge real PEFT adapters with the `mwa` binary and let PEFT load the result.

usage: python tests/peft_lane.py MWA_BINARY WORKDIR [--only NAME]     needs peft, torch, transformers

Files in, files out: PEFT writes the checkpoints, the binary merges them, PEFT loads the merge into a fresh
base. The truth is numpy: in factor space each tensor of the merge must be the average of the inputs' tensors under the
weights that mwa-report.json states, within the rounding of its dtype. (PEFT's own add_weighted_adapter is no
truth: it doubles the sum of two halves.) In product space the loaded ΔW must be the average of the inputs' ΔW, or
its best approximation of the asked rank by dense SVD. WORKDIR is emptied first where this script has filled it.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network

import numpy as np
import peft
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MANTISSA = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11, torch.float64: 53}  # with the hidden bit
SMALLEST = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-24, torch.float64: 0.0}
STEPS = (4, 8, 12)  # a checkpoint at each


# ---------------------------------------------------------------------------------------------------------------------
# Models

def llama(**options):
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, **options))


def gpt2():
    torch.manual_seed(7)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0))


def mixtral():
    torch.manual_seed(7)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(
        vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, num_local_experts=3, num_experts_per_tok=2))


class Picture(torch.nn.Module):
    """A convolution for Conv2d adapters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((-1, -2)))


ATTENTION = ["q_proj", "v_proj"]


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **options})


# name → (base, config, dtype of the adapter)
KINDS = {
    "lora": (llama, lambda: lora(), None),
    "lora-bf16": (lambda: llama().to(torch.bfloat16), lambda: lora(), torch.bfloat16),
    "lora-f16": (llama, lambda: lora(), torch.float16),
    "rslora": (llama, lambda: lora(use_rslora=True, lora_alpha=3), None),
    "patterns": (llama, lambda: lora(target_modules=[*ATTENTION, "down_proj"], rank_pattern={"down_proj": 2, r"layers\.1\..*q_proj": 6},
                                     alpha_pattern={"v_proj": 32, r"layers\.0\..*q_proj": 5}), None),
    "rslora-patterns": (llama, lambda: lora(use_rslora=True, rank_pattern={"q_proj": 9}, alpha_pattern={"v_proj": 32}), None),
    "rslora-r6": (llama, lambda: lora(r=6, use_rslora=True, lora_alpha=3, target_modules=[*ATTENTION, "up_proj"]), None),
    "experts": (mixtral, lambda: lora(r=2, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]), None),
    "dora": (llama, lambda: lora(use_dora=True), None),
    "modules-to-save": (llama, lambda: lora(modules_to_save=["lm_head"]), None),
    "bias-lora-only": (lambda: llama(attention_bias=True), lambda: lora(bias="lora_only"), None),
    "lora-bias": (lambda: llama(attention_bias=True), lambda: lora(lora_bias=True), None),
    "embeddings": (llama, lambda: lora(target_modules=["embed_tokens", "q_proj"]), None),
    "tokens": (llama, lambda: lora(trainable_token_indices=[5, 3, 17]), None),
    "conv1d": (gpt2, lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True), None),
    "conv2d": (Picture, lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=["conv"], modules_to_save=["head"]), None),
    "pissa": (llama, lambda: lora(init_lora_weights="pissa"), None),
    "ia3": (llama, lambda: peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), None),
    "ln-tuning": (llama, lambda: peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm", "norm"]), None),
    "vera": (llama, lambda: peft.VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=ATTENTION, save_projection=True), None),
    "loha": (llama, lambda: peft.LoHaConfig(task_type="CAUSAL_LM", r=4, alpha=8, target_modules=ATTENTION), None),
}


# ---------------------------------------------------------------------------------------------------------------------
# Runs

def forward(model, seed=0):
    """Logits on fixed data, and a loss."""
    generator = torch.Generator().manual_seed(seed)
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    if isinstance(base, Picture):
        out = model(torch.randn(4, 3, 6, 6, generator=generator))
        return out, torch.nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 3]))
    tokens = torch.randint(1, min(base.config.vocab_size, 20), (4, 10), generator=generator)
    out = model(input_ids=tokens, labels=tokens)
    return out.logits, out.loss


def train(kind, run, seed=11):
    """Twelve AdamW steps, a checkpoint after each four, as the Trainer leaves them."""
    base, config, dtype = KINDS[kind]
    base = base()
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, config(), autocast_adapter_dtype=dtype != torch.bfloat16)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    history = []
    for step in range(1, STEPS[-1] + 1):
        _, loss = forward(model, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({"epoch": step / 100, "grad_norm": 1.0, "learning_rate": 5e-3, "loss": loss.item(), "step": step})
        if step in STEPS:
            folder = run / f"checkpoint-{step}"
            if dtype == torch.float16:  # such files exist; training in f16 on a CPU is slow and rough
                state = {name: tensor.to(dtype) for name, tensor in peft.get_peft_model_state_dict(model).items()}
                model.save_pretrained(folder, state_dict=state)
            else:
                model.save_pretrained(folder)
            write_state(folder, step, history)


def write_state(folder, step, history):
    state = {"epoch": step / 100, "global_step": step, "log_history": history, "logging_steps": 1, "max_steps": STEPS[-1], "save_steps": 4}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")


def copies(of, run):
    """A run whose checkpoints all hold the same tensors."""
    for step in STEPS:
        folder = run / f"checkpoint-{step}"
        shutil.copytree(of / f"checkpoint-{STEPS[-1]}", folder)
        state = json.loads((folder / "trainer_state.json").read_text())
        write_state(folder, step, state["log_history"][:step])


# ---------------------------------------------------------------------------------------------------------------------
# Merging and checking

class Failed(Exception):
    """What differs, in words."""


def need(condition, message):
    if not condition:
        raise Failed(message)


def merge(binary, run, out):
    command = [str(binary), "merge", str(run), "-o", str(out), "--metric", "loss"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip() or done.stdout.strip()}")
    for name in ("adapter_model.safetensors", "adapter_config.json", "mwa-report.json"):
        need((out / name).is_file(), f"{name} was not written")
    return out


def weighed(run, out):
    """The report's inputs as (folder, weight)."""
    inputs = []
    for entry in json.loads((out / "mwa-report.json").read_text())["inputs"]:
        path = Path(entry["path"])
        places = [path] if path.is_absolute() else [place / path for place in (Path.cwd(), run, run.parent, out)]
        folder = next((place if place.is_dir() else place.parent for place in places if place.exists()), None)
        need(folder is not None, f"mwa-report.json: cannot find {path}")
        inputs.append((folder, float(entry["weight"])))
    need(inputs, "mwa-report.json: no inputs")
    total = math.fsum(weight for _, weight in inputs)
    need(abs(total - 1) < 1e-6, f"mwa-report.json: weights sum to {total}")
    return inputs


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def check_average(run, out):
    """Every tensor is the average of the inputs' tensors; returns the averages in f64."""
    inputs = weighed(run, out)
    read, merged = [tensors(folder) for folder, _ in inputs], tensors(out)
    for (folder, _), file in zip(inputs, read):
        need(set(file) == set(merged), f"tensors differ from {folder.name}: {sorted(set(file) ^ set(merged))[:4]}")
    averages = {}
    for name, got in merged.items():
        like = read[0][name]
        need(got.shape == like.shape and got.dtype == like.dtype, f"{name}: {got.dtype} {list(got.shape)}, inputs have {like.dtype} {list(like.shape)}")
        if all(torch.equal(file[name], like) for file in read):
            need(torch.equal(got, like), f"{name}: equal in every input, yet changed")
            averages[name] = like.double().numpy()
            continue
        terms = [weight * file[name].double().numpy() for (_, weight), file in zip(inputs, read)]
        want, size = sum(terms), sum(np.abs(term) for term in terms)
        # One rounding of the output, and per term one each of weight, product and sum, all in f32.
        bound = np.abs(want) * 2.0**-MANTISSA[got.dtype] + size * (3 * len(terms)) * 2.0**-24 + SMALLEST[got.dtype]
        error = np.abs(got.double().numpy() - want)
        need((error <= bound).all(), f"{name}: off by up to {error.max():.3g} (allowed there: {bound.reshape(-1)[error.argmax()]:.3g})")
        averages[name] = want
    with safe_open(out / "adapter_model.safetensors", "pt") as file:
        need((file.metadata() or {}).get("format") == "pt", "metadata lacks format=pt")
    return averages


def load(base, out):
    """The merge in a fresh base, refusing what PEFT only warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, out, autocast_adapter_dtype=False)
    said = [str(warning.message) for warning in caught]
    wrong = [text for text in said if re.search(r"missing|unexpected|not found|unused|ignored", text, re.IGNORECASE)]
    need(not wrong, f"PEFT warns: {wrong[:2]}")
    result = peft.set_peft_model_state_dict(model, tensors(out))  # once more, for what it returns
    parameters = {name for name, _ in model.named_parameters() if "default" in name.split(".")}
    missing = [name for name in result.missing_keys if name in parameters]
    need(not missing, f"PEFT misses {missing[:4]}")
    need(not result.unexpected_keys, f"PEFT does not expect {result.unexpected_keys[:4]}")
    model.eval()
    return model


def check_loaded(model, out):
    """What PEFT holds after loading is what the file says, and the model computes."""
    held, file = peft.get_peft_model_state_dict(model), tensors(out)
    lost = [name for name in file if name not in held]
    need(not lost, f"not in the loaded model: {lost[:4]}")
    for name, tensor in file.items():
        need(torch.equal(held[name].to(tensor.dtype), tensor), f"{name}: PEFT holds other values than the file")
    with torch.no_grad():
        logits, _ = forward(model)
        need(torch.isfinite(logits).all().item(), "the forward pass is not finite")
        with model.disable_adapter():
            plain, _ = forward(model)
        need(not torch.equal(logits, plain), "the adapter has no effect")


def check_delta(model, out, averages):
    """ΔW of each linear module is scaling · B·A of the averages, with the scaling read from the config anew."""
    config = json.loads((out / "adapter_config.json").read_text())
    modules, file, seen = dict(model.named_modules()), tensors(out), 0
    for name, a in averages.items():
        if not name.endswith(".lora_A.weight") or a.ndim != 2:
            continue
        path = name.removesuffix(".lora_A.weight")
        inner = path.removeprefix("base_model.model.")
        alpha = next((value for pattern, value in (config.get("alpha_pattern") or {}).items()
                      if re.match(rf"^(.*\.)?({pattern})$", inner)), config["lora_alpha"])
        scaling = alpha / math.sqrt(len(a)) if config.get("use_rslora") else alpha / len(a)
        b = averages[f"{path}.lora_B.weight"]
        want = scaling * (b @ a)
        layer = modules[path]
        got = layer.get_delta_weight("default").detach().double().numpy()
        if config.get("fan_in_fan_out"):
            want = want.T
        digits = min(MANTISSA[file[name].dtype], MANTISSA[layer.lora_A["default"].weight.dtype])
        size = abs(scaling) * (np.abs(b) @ np.abs(a))
        size = size.T if config.get("fan_in_fan_out") else size
        error = np.abs(got - want)
        # Both factors are rounded to their dtype, and PEFT multiplies in it.
        need((error <= size * 4 * 2.0**-digits + 1e-6 * size + 1e-12).all(), f"{path}: ΔW is off by up to {error.max():.3g} of {np.abs(want).max():.3g}")
        seen += 1
    need(seen, "no linear LoRA module to compare")


# ---------------------------------------------------------------------------------------------------------------------
# Product space

# name → (kinds of the inputs, of which each gives its last checkpoint, from a seed of its own; --rank)
PRODUCTS = {
    "two runs, full": (["lora", "lora"], "full"),
    "two runs, rank 4": (["lora", "lora"], "4"),
    "two runs, auto": (["lora", "lora"], "auto"),
    "ranks and scales": (["lora", "rslora-r6"], "5"),
    "patterns": (["patterns", "patterns"], "full"),
    "patterns, auto": (["patterns", "patterns"], "auto"),
    "rslora-patterns": (["rslora-patterns", "rslora-patterns"], None),
    "modules-to-save": (["modules-to-save", "modules-to-save"], "3"),
    "bias-lora-only": (["bias-lora-only", "bias-lora-only"], "full"),
    "lora-bias": (["lora-bias", "lora-bias"], "6"),
    "embeddings": (["embeddings", "embeddings"], "full"),
    "tokens": (["tokens", "tokens"], "4"),
    "conv1d": (["conv1d", "conv1d"], "8"),
    "conv2d": (["conv2d", "conv2d"], "4"),
    "experts": (["experts", "experts"], "3"),
    "experts, full": (["experts", "experts"], "full"),
}
SHARES = (0.4, 0.6)


def deltas(model):
    """ΔW of every LoRA layer as PEFT itself computes it, in f64 and two dimensions, one matrix per expert."""
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, peft.tuners.lora.layer.LoraLayer) or "default" not in layer.scaling:
            continue
        delta = layer.double().get_delta_weight("default").detach().numpy()
        matrices = delta if type(layer).__name__ == "ParamWrapper" else [delta.reshape(len(delta), -1)]
        found |= {f"{name}/{i}": matrix for i, matrix in enumerate(matrices)}
    need(found, "no LoRA layer")
    return found


def best(matrix, rank):
    """The best approximation of a rank, and its error."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank], float(np.sqrt(np.sum(s[rank:] ** 2)))


def layer_rank(model, name):
    return dict(model.named_modules())[name.rsplit("/", 1)[0]].r["default"]


def one_product(name, binary, work):
    kinds, rank = PRODUCTS[name]
    slug = re.sub(r"\W+", "-", name)
    folders = []
    for i, kind in enumerate(kinds):
        run = work / f"product-{kind}-{i}"
        if not run.exists():
            train(kind, run, seed=11 + i)
        folders.append(run / f"checkpoint-{STEPS[-1]}")
    out = work / f"product-{slug}.merged"
    command = [str(binary), "merge", *map(str, folders), "-o", str(out), "--space", "product", "--weights", ",".join(map(str, SHARES))]
    command += ["--rank", rank] if rank else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip()}")
    base = KINDS[kinds[0]][0]
    inputs = [deltas(load(base(), folder)) for folder in folders]
    model = load(base(), out)
    check_loaded(model, out)
    held, file = peft.get_peft_model_state_dict(model), tensors(out)
    for tensor in [tensor for tensor in file if "lora_" not in tensor]:  # full tensors are plain averages
        terms = [share * tensors(folder)[tensor].double() for share, folder in zip(SHARES, folders)]
        need(torch.allclose(held[tensor].double(), sum(terms), rtol=1e-6, atol=1e-7), f"{tensor}: not the average")
    wanted = {key: sum(share * delta.get(key, 0 * next(d[key] for d in inputs if key in d)) for share, delta in zip(SHARES, inputs))
              for key in sorted(set().union(*inputs))}
    merged = deltas(model)
    need(set(merged) == set(wanted), f"layers differ: {sorted(set(merged) ^ set(wanted))[:4]}")
    lost = total = 0.0
    for key, want in wanted.items():
        limit, error = best(want, layer_rank(model, key))
        size, off = np.linalg.norm(want), np.linalg.norm(merged[key] - want)
        need(off <= error + 1e-6 * size, f"{key}: off by {off:.3g} of {size:.3g}, dense SVD by {error:.3g}")
        if error <= 1e-9 * size:
            need(np.linalg.norm(merged[key] - limit) <= 1e-6 * size, f"{key}: not the sum")
        if rank == "auto":
            need(error**2 <= 0.001001 * size**2, f"{key}: keeps too little")
        lost, total = lost + off**2, total + size**2
    biases = [tensor for tensor in file if tensor.endswith("lora_B.bias")]
    for tensor in biases:
        terms = [share * 2.0 * tensors(folder)[tensor].double() for share, folder in zip(SHARES, folders)]  # 2 is alpha / r
        need(torch.allclose(file[tensor].double(), sum(terms), rtol=1e-6, atol=1e-7), f"{tensor}: not the scaled average")
    told = json.loads((out / "mwa-report.json").read_text())["residual"]["overall"]
    need(abs(told - math.sqrt(lost / total)) < 1e-6, f"the report says {told:.3g}, it is {math.sqrt(lost / total):.3g}")


def check_config(run, out):
    """The merged config is the last checkpoint's, field by field; target_modules is a set."""
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    want, got = (json.loads((folder / "adapter_config.json").read_text()) for folder in (last, out))
    for key, value in want.items():
        have = got.get(key, "nothing")
        same = set(value) == set(have) if key == "target_modules" and isinstance(value, list) else value == have
        need(same, f"adapter_config.json: {key} is {have}, was {value}")


def check_copies(run, out):
    """Copies of one checkpoint come out byte for byte."""
    want = tensors(run / f"checkpoint-{STEPS[-1]}")
    got = tensors(out)
    need(set(want) == set(got), f"tensors differ: {sorted(set(want) ^ set(got))[:4]}")
    for name, tensor in want.items():
        same = got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        raw = [x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for x in (got[name], tensor)]
        need(same and raw[0] == raw[1], f"{name}: copies of one checkpoint do not come out as they went in")


# ---------------------------------------------------------------------------------------------------------------------

def sample_run(binary, work):
    run = EXAMPLES / "sample-run"
    out = merge(binary, run, work / "sample-run.merged")
    averages = check_average(run, out)
    check_config(run, out)
    base = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLES / "base", dtype=torch.float32)
    model = load(base, out)
    check_loaded(model, out)
    check_delta(model, out, averages)


def one_kind(kind, binary, work):
    run = work / kind
    train(kind, run)
    out = merge(binary, run, work / f"{kind}.merged")
    averages = check_average(run, out)
    check_config(run, out)
    model = load(KINDS[kind][0](), out)
    check_loaded(model, out)
    if isinstance(model.peft_config["default"], peft.LoraConfig) and kind not in ("conv2d", "experts"):
        check_delta(model, out, averages)


def one_kind_copies(kind, binary, work):
    copies(work / kind, work / f"{kind}-copies")
    check_copies(work / f"{kind}-copies", merge(binary, work / f"{kind}-copies", work / f"{kind}-copies.merged"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary", type=Path, metavar="MWA_BINARY")
    parser.add_argument("work", type=Path, metavar="WORKDIR", help="a folder that this script may fill and empty")
    parser.add_argument("--only", metavar="NAME", help=f"one of: sample-run, product, {', '.join(KINDS)}")
    options = parser.parse_args()
    binary = options.binary.resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"{binary} is not a program")
    marker = options.work / "filled-by-peft-lane"
    if marker.exists():
        shutil.rmtree(options.work)
    elif options.work.exists() and any(options.work.iterdir()):
        parser.error(f"{options.work} is neither empty nor of this script's making")
    options.work.mkdir(parents=True, exist_ok=True)
    marker.touch()
    work = options.work.resolve()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")

    checks = [("sample-run", sample_run, (binary, work))]
    for kind in KINDS:
        checks += [(kind, one_kind, (kind, binary, work)), (f"{kind}, copies", one_kind_copies, (kind, binary, work))]
    checks += [(f"product: {name}", one_product, (name, binary, work)) for name in PRODUCTS]
    if options.only:
        checks = [check for check in checks if options.only in (check[0].split(",")[0], check[0].split(":")[0])]
        if not checks:
            parser.error(f"nothing is called {options.only}")

    failures = []
    for name, check, arguments in checks:
        try:
            check(*arguments)
            print(f"ok      {name}", flush=True)
        except Failed as failed:
            failures.append((name, str(failed)))
            print(f"FAILED  {name}", flush=True)
        except Exception:  # a bug here or in PEFT fails its own check, not the others
            failures.append((name, traceback.format_exc()))
            print(f"FAILED  {name} (crashed)", flush=True)
    for name, text in failures:
        print(f"\n{name}: {text}")
    print(f"\n{len(checks) - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
