#!/usr/bin/env python3
"""Make the situations: small runs, happy and unhappy, that every face must answer alike.

usage: make.py [--check]     needs numpy

Writes situations.json beside this file, the same bytes every time; --check writes nothing and fails when it is stale.
`blobs` are contents of files, as text or base64. A situation's `files` are paths and the places of their contents among the
blobs; `paths` and `options` are what a face is asked. golden.json beside it is what native mwa answers and every face must:
`MWA_REMAKE=1 cargo test -p conformance --test situations` writes it, and a person reads what changed. Where a merge is a plain
weighted sum, `oracle` is the digest of the tensors that the numpy oracle of the vectors makes, so that it is not the product's
word alone.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vectors"))

from blends import blend  # noqa: E402
from files import header_of, pack, painted, plain  # noqa: E402
from oracle import Tensor, merge, narrow, widen  # noqa: E402

PREFIX = "base_model.model.model.layers.0.self_attn"
ADAPTER, CONFIG, STATE = "adapter_model.safetensors", "adapter_config.json", "trainer_state.json"


def digest(file):
    """SHA-256 over all tensors by name: what they are called, their dtype, shape and bytes."""
    sha = hashlib.sha256()
    for name in sorted(file):
        tensor = file[name]
        sha.update(f"{name}\0{tensor.dtype}\0{','.join(map(str, tensor.shape))}\0".encode() + tensor.bytes())
    return sha.hexdigest()


def near(dtype, shape, seed, step):
    """A tensor that drifts with the step, as in training."""
    first, drift = (widen(painted(dtype, shape, s), np.float64) for s in (seed, seed + 1000 + step))
    return Tensor(dtype, shape, narrow((first + drift / 16).reshape(-1), dtype))


def adapter(step, seed=1, modules=("q_proj", "v_proj"), rank=2, dtype="F32"):
    file = {}
    for place, module in enumerate(modules):
        at = seed * 100 + place * 10
        file[f"{PREFIX}.{module}.lora_A.weight"] = near(dtype, [rank, 8], at, step)
        file[f"{PREFIX}.{module}.lora_B.weight"] = near(dtype, [8, rank], at + 5, step)
    return file


def config(**changes):
    return json.dumps({"peft_type": "LORA", "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
                       "target_modules": ["q_proj", "v_proj"], "bias": "none", **changes}, indent=2) + "\n"


def state(steps, upto, losses=None, every=10):
    """A log with a held learning rate, a loss and an evaluation at each checkpoint."""
    history = []
    for step in range(every, upto + 1, every):
        loss = (losses or {}).get(step, round(2 - step / 100, 4))
        history.append({"epoch": step / 100, "learning_rate": 0.001, "loss": loss, "step": step})
        if step in steps:
            history.append({"epoch": step / 100, "eval_loss": round(1.5 - step / 200 + (step % 30) / 1000, 4), "step": step})
    return json.dumps({"global_step": upto, "log_history": history}, indent=1) + "\n"


class Situations:
    def __init__(self):
        self.blobs, self.index = {}, []

    def blob(self, content):
        """The place of a content among all, each of which is kept once."""
        content = content.encode() if isinstance(content, str) else content
        return self.blobs.setdefault(content, len(self.blobs))

    def add(self, name, why, files, paths=("run",), options=None, oracle=None):
        entry = {"situation": name, "why": why, "paths": list(paths), "options": options or {},
                 "files": {path: self.blob(content) for path, content in sorted(files.items())}}
        if oracle is not None:
            entry["oracle"] = digest(oracle)
        self.index.append(entry)

    def text(self):
        def blob(content):
            return {"text": content.decode()} if content.isascii() and b"\0" not in content else {"base64": base64.b64encode(content).decode()}

        rows = (",\n".join("  " + json.dumps(row) for row in part) for part in (map(blob, self.blobs), self.index))
        return '{{\n "blobs": [\n{}\n ],\n "situations": [\n{}\n ]\n}}\n'.format(*rows)


def run(steps, make=adapter, folder="run", losses=None, configs=None, **more):
    """The files of a run: `make(step)` gives the tensors of each checkpoint."""
    files = {}
    for step in steps:
        at = f"{folder}/checkpoint-{step}"
        files[f"{at}/{ADAPTER}"] = plain(make(step, **more))
        files[f"{at}/{CONFIG}"] = (configs or {}).get(step) or config()
        files[f"{at}/{STATE}"] = state(steps, step, losses)
    return files


def situations(s):
    steps = [10, 20, 30, 40]
    plain_run = run(steps)
    three = {"weights": [1, 2, 1], "last": 3}
    sum_of = lambda inputs, weights, dtype="keep": merge(inputs, weights, dtype)  # noqa: E731

    s.add("defaults", "a run with evaluations, and nothing asked for", plain_run)
    s.add("training-loss", "by training loss, with a penalty", plain_run, options={"metric": "loss", "penalty": 1, "last": 3})
    s.add("explicit-weights", "the user's own weights", plain_run, options=three,
          oracle=sum_of([adapter(step) for step in steps[1:]], [1, 2, 1]))
    s.add("too-few-weights", "two weights for three checkpoints", plain_run, options={"weights": [1, 2], "last": 3})
    s.add("weights-of-no-sum", "weights that sum to nothing", plain_run, options={"weights": [1, -2, 1], "last": 3})
    s.add("alone-with-weight", "one checkpoint alone has weight: its files are copied", plain_run,
          options={"weights": [0, 1, 0], "last": 3}, oracle=adapter(30))
    s.add("product", "averaged products at the inputs' rank", plain_run, options={**three, "space": "product"})
    s.add("product-by-energy", "a rank per module, found by a survey", plain_run, options={**three, "space": "product", "rank": "auto"})

    other = lambda step: adapter(step, seed=1 if step < 30 else 7)  # noqa: E731
    s.add("two-runs", "the later checkpoints are another run's: their factors point elsewhere", run(steps, other), options={"scheme": "uniform", "last": 4})
    s.add("two-runs-allowed", "the same, asked for", run(steps, other), options={"scheme": "uniform", "last": 4, "allow_cross_run": True},
          oracle=sum_of([other(step) for step in steps], [1, 1, 1, 1]))

    twin = lambda step: adapter(min(step, 30))  # noqa: E731
    s.add("twins", "two checkpoints hold the same weights", run(steps, twin), options=three)

    def bad(step):
        file = adapter(step)
        if step == 30:
            name = f"{PREFIX}.v_proj.lora_B.weight"
            words = file[name].bits.copy()
            words.reshape(-1)[5] = 0x7FC00000
            file[name] = Tensor("F32", file[name].shape, words)
        return file
    s.add("bad-tensor", "a checkpoint holds NaN", run(steps, bad), options={"scheme": "uniform", "last": 4})
    s.add("bad-tensor-dropped", "the same, and bad checkpoints may be dropped", run(steps, bad),
          options={"scheme": "uniform", "last": 4, "drop_bad": True}, oracle=sum_of([adapter(step) for step in (10, 20, 40)], [1, 1, 1]))
    s.add("bad-tensor-in-product-space", "the same in product space", run(steps, bad), options={"scheme": "uniform", "last": 4, "space": "product"})

    def faint(step):
        head = Tensor("F32", [4], narrow(np.array([1e-9, 1.0, 2e-9, -1.0]) * (1 + step / 1000), "F32"))
        return {**adapter(step), "base_model.model.score.weight": head}
    head = {step: config(modules_to_save=["score"]) for step in steps}
    s.add("underflow", "values that become zero in f16", run(steps, faint, configs=head), options={**three, "dtype": "f16"},
          oracle=sum_of([faint(step) for step in steps[1:]], [1, 2, 1], "f16"))
    s.add("underflow-in-product-space", "the same, in product space", run(steps, faint, configs=head), options={**three, "dtype": "f16", "space": "product"})

    s.add("other-alpha", "one checkpoint has another lora_alpha", run(steps, configs={30: config(lora_alpha=8)}), options=three)
    s.add("other-alpha-in-product-space", "the same, where scales are multiplied out", run(steps, configs={30: config(lora_alpha=8)}),
          options={**three, "space": "product"})
    s.add("other-base", "one checkpoint has another base model", run(steps, configs={30: config(base_model_name_or_path="another")}), options=three)

    lacking = lambda step: adapter(step, modules=("q_proj",) if step == 30 else ("q_proj", "v_proj"))  # noqa: E731
    s.add("missing-module", "one checkpoint lacks a module", run(steps, lacking), options=three)
    s.add("missing-module-in-product-space", "the same in product space: no change there", run(steps, lacking), options={**three, "space": "product"})
    s.add("missing-module-strict", "the same, forbidden", run(steps, lacking), options={**three, "space": "product", "strict": True})

    s.add("other-shape", "one checkpoint has another rank", run(steps, lambda step: adapter(step, rank=3 if step == 30 else 2),
          configs={30: config(r=3)}), options=three)
    s.add("torn-config", "a config whose rank is not that of the tensors", run(steps, configs={40: config(r=3)}), options={**three, "space": "product"})

    diverged = {30: 0.0}
    s.add("diverged", "a diverged checkpoint logs loss 0", run(steps, losses=diverged), options={"metric": "loss", "last": 4})
    s.add("diverged-dropped", "the same, and bad checkpoints may be dropped", run(steps, losses=diverged), options={"metric": "loss", "last": 4, "drop_bad": True})

    mixed = lambda step: adapter(step, dtype="BF16" if step == 30 else "F32")  # noqa: E731
    s.add("mixed-dtypes", "BF16 among F32 gives F32", run(steps, mixed), options=three, oracle=sum_of([mixed(step) for step in steps[1:]], [1, 2, 1]))
    s.add("no-such-metric", "a metric that was not logged", plain_run, options={"metric": "eval_los", "last": 3})
    s.add("penalty-out-of-range", "a penalty above 1 for the linear scheme", plain_run, options={"penalty": 1.5, "last": 3})
    s.add("rank-too-large", "a rank above that of all inputs together", plain_run, options={**three, "space": "product", "rank": 7})

    # frozen by the method: VeRA's projections are the same in all
    def frozen(step, same=True):
        file = {f"{PREFIX}.q_proj.vera_lambda_b": near("F32", [8], 61, step), f"{PREFIX}.q_proj.vera_lambda_d": near("F32", [2], 62, step)}
        for place, name in enumerate(("vera_A", "vera_B")):
            file[f"base_model.{name}"] = painted("F32", [2, 8] if place == 0 else [8, 2], 70 + place + (0 if same or step != 30 else 5))
        return file
    vera = {step: json.dumps({"peft_type": "VERA", "base_model_name_or_path": "tiny", "r": 2, "target_modules": ["q_proj"],
                              "projection_prng_key": 0, "save_projection": True}) for step in steps}
    s.add("frozen-factor", "projections that are frozen and the same are copied", run(steps, frozen, configs=vera), options=three)
    s.add("frozen-factor-differs", "a frozen projection differs", run(steps, lambda step: frozen(step, same=False), configs=vera), options=three)

    # full models, in two files with an index
    def shards(step, torn=False):
        files = [{"model.embed.weight": near("BF16", [8, 4], 81, step), "model.norm.weight": near("BF16", [4], 82, step)},
                 {"lm_head.weight": near("BF16", [8, 4], 83, step)}]
        index = {"metadata": {"total_size": 136}, "weight_map": {name: f"model-0000{i + 1}-of-00002.safetensors" for i, file in enumerate(files) for name in sorted(file)}}
        at = f"run/checkpoint-{step}"
        made = {f"{at}/model-0000{i + 1}-of-00002.safetensors": plain(file) for i, file in enumerate(files)}
        made |= {f"{at}/model.safetensors.index.json": json.dumps(index, indent=2), f"{at}/config.json": '{"model_type": "tiny"}\n', f"{at}/{STATE}": state(steps, step)}
        if torn:
            made[f"{at}/model-00002-of-00002.safetensors"] = made[f"{at}/model-00002-of-00002.safetensors"][:-7]
        return made, {**files[0], **files[1]}
    full = {path: content for step in steps for path, content in shards(step)[0].items()}
    s.add("full-model", "a full model in shards", full, options=three, oracle=sum_of([shards(step)[1] for step in steps[1:]], [1, 2, 1]))

    over = {path.replace("run/checkpoint-10", "run/base"): content for path, content in shards(10)[0].items() if not path.endswith(STATE)}
    tasks, named = [shards(step)[1] for step in steps[2:]], ("run/checkpoint-30", "run/checkpoint-40")
    s.add("ties", "what two models changed most of their base, as far as they agree", {**full, **over}, paths=named,
          options={"method": "ties", "density": 0.4, "base": "run/base"}, oracle=blend(tasks, shards(10)[1], {"method": "ties", "density": 0.4}))
    s.add("task-arithmetic", "what two models changed of their base, weighted", {**full, **over}, paths=named,
          options={"method": "task-arithmetic", "scale": 0.7, "weights": [1, 3], "base": "run/base"},
          oracle=blend(tasks, shards(10)[1], {"method": "task-arithmetic", "scale": 0.7, "weights": [1, 3]}))
    s.add("model-stock", "from a base as far to the mean as two models agree, tensor by tensor", {**full, **over}, paths=named,
          options={"method": "model-stock", "base": "run/base"}, oracle=blend(tasks, shards(10)[1], {"method": "model-stock"}))
    s.add("karcher-over-base", "the mean on the sphere about a base", {**full, **over}, paths=named,
          options={"method": "karcher", "weights": [1, 3], "base": "run/base"}, oracle=blend(tasks, shards(10)[1], {"method": "karcher", "weights": [1, 3]}))
    s.add("ties-without-base", "tasks of a base that is not named", full, paths=named, options={"method": "ties"})

    def quantised(step, blocks=(2, 3)):
        """A model of FP8 codes with a scale for each block of 4×4."""
        rng = np.random.default_rng(step)
        codes = (rng.integers(0, 0x70, 60) | (rng.integers(0, 2, 60) << 7)).astype(np.uint8)
        scales = narrow(rng.uniform(0.001, 0.01, blocks[0] * blocks[1]), "F32")
        return {"model.layers.0.up_proj.weight": Tensor("F8_E4M3", [6, 10], codes),
                "model.layers.0.up_proj.weight_scale_inv": Tensor("F32", list(blocks), scales),
                "model.norm.weight": near("BF16", [6], 71, step)}

    def quantised_run(steps, **changes):
        files = {}
        for step in steps:
            at = f"run/checkpoint-{step}"
            block = changes.get(str(step), 4)
            files[f"{at}/model.safetensors"] = plain(quantised(step, (-(-6 // block), -(-10 // block))))
            files[f"{at}/config.json"] = json.dumps({"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8", "weight_block_size": [block, block]}})
            files[f"{at}/{STATE}"] = state(steps, step)
        return files
    s.add("quantised", "FP8 codes with a scale for each block, whose size the config says", quantised_run(steps), options=three)
    s.add("quantised-otherwise", "one checkpoint has blocks of another size", quantised_run(steps, **{"30": 3}), options=three)
    lacking_scale = quantised_run(steps)
    lacking_scale["run/checkpoint-30/model.safetensors"] = plain({name: it for name, it in quantised(30).items() if "scale" not in name})
    s.add("quantised-without-scale", "one checkpoint lacks the scales", lacking_scale, options=three)

    # trained weights beside the adapter, in a file of their own
    heads = lambda step: {"v_head.summary.weight": near("F32", [1, 8], 91, step), "v_head.summary.bias": near("F32", [1], 92, step)}  # noqa: E731
    beside = {f"run/checkpoint-{step}/value_head.safetensors": plain(heads(step)) for step in steps}
    s.add("side-weights", "trained weights beside the adapter are merged with the same weights", {**plain_run, **beside}, options=three,
          oracle=sum_of([{**adapter(step), **heads(step)} for step in steps[1:]], [1, 2, 1]))
    lacking_side = {path: content for path, content in beside.items() if path != "run/checkpoint-30/value_head.safetensors"}
    s.add("side-weights-missing", "one checkpoint lacks a file beside its adapter", {**plain_run, **lacking_side}, options=three)

    s.add("torn-shard", "the newest checkpoint's second shard is cut short", {**full, **shards(40, torn=True)[0]}, options={"scheme": "uniform", "last": 4})
    s.add("named-torn-shard", "the same, named by the user", {**full, **shards(40, torn=True)[0]}, paths=("run/checkpoint-30", "run/checkpoint-40"), options={"scheme": "uniform"})
    s.add("missing-shard", "a shard that the index names is not there", {path: content for path, content in full.items() if path != "run/checkpoint-40/model-00002-of-00002.safetensors"},
          paths=("run/checkpoint-30", "run/checkpoint-40"), options={"scheme": "uniform"})
    # weights from a schedule, from several metrics, of several runs
    decayed = [0.5 * (1 + np.cos(np.pi * j / 4)) for j in range(1, 4)]
    differences = [1 - decayed[0], decayed[0] - decayed[1], decayed[1] - decayed[2], decayed[2]]
    all_of = [adapter(step) for step in steps]
    s.add("decay", "what a cosine decay would have left of the updates", plain_run,
          options={"scheme": "decay", "curve": "cosine", "positions": "megatron", "last": 4}, oracle=sum_of(all_of, differences))
    s.add("ema", "a moving average, per checkpoint", plain_run, options={"scheme": "ema", "ema_decay": 0.5, "last": 4},
          oracle=sum_of(all_of, [0.125, 0.125, 0.25, 0.5]))
    s.add("median", "the middle value of each element", plain_run, options={"method": "median", "last": 3},
          oracle=blend([adapter(step) for step in steps[1:]], None, {"method": "median"}))
    s.add("trimmed-mean", "without the extremes", plain_run, options={"method": "trimmed-mean", "outliers": 1, "last": 4},
          oracle=blend([adapter(step) for step in steps], None, {"method": "trimmed-mean", "outliers": 1}))
    s.add("trimmed-too-far", "more extremes than there are values", plain_run, options={"method": "trimmed-mean", "outliers": 2, "last": 4})
    s.add("median-of-products", "elements of products, of which there are none", plain_run, options={"method": "median", "space": "product", "last": 3})
    s.add("median-of-two-runs", "factors that have no elements in common", run(steps, other), options={"method": "median", "last": 4, "allow_cross_run": True})
    s.add("slerp", "the point on the arc between two checkpoints", plain_run, options={"method": "slerp", "weights": [1, 2], "last": 2},
          oracle=blend([adapter(step) for step in steps[2:]], None, {"method": "slerp", "weights": [1, 2]}))
    s.add("slerp-of-three", "an arc between more than two", plain_run, options={"method": "slerp", "last": 3})
    s.add("multi-slerp", "the mean of directions, weighed by a metric", plain_run, options={"method": "multi-slerp", "last": 4})
    s.add("model-stock-of-products", "from the model that is adapted as far as adapters agree", plain_run, options={"method": "model-stock", "space": "product", "last": 3})
    s.add("karcher-of-products", "the same on the sphere, at ranks that a survey finds, across runs", run(steps, other),
          options={"method": "karcher", "scheme": "uniform", "space": "product", "rank": "auto", "last": 4})
    s.add("karcher-of-two-runs", "factors that have no directions in common", run(steps, other), options={"method": "karcher", "scheme": "uniform", "last": 4, "allow_cross_run": True})
    s.add("setting-of-another-scheme", "a curve for a scheme that has none", plain_run, options={"scheme": "linear", "curve": "cosine", "last": 4})
    # weights that the tensors decide
    five = run([10, 20, 30, 40, 50])
    s.add("geometric-median", "no checkpoint decides alone", plain_run, options={"scheme": "geometric-median", "last": 4})
    s.add("geometric-median-of-products", "the same, told apart by what the adapters do", plain_run,
          options={"scheme": "geometric-median", "last": 4, "space": "product", "rank": "auto"})
    s.add("multi-krum", "those with the nearest neighbours", five, options={"scheme": "multi-krum", "outliers": 1, "last": 5})
    s.add("flag", "those that point where most do", five, options={"scheme": "flag", "subspace": 2, "last": 5})
    s.add("too-few-for-krum", "krum among four, of which one may be bad", plain_run, options={"scheme": "krum", "last": 4})
    s.add("several-metrics", "two metrics in one order", plain_run, options={"metric": "eval_loss,loss", "combine": "kemeny", "last": 4})
    second = run([10, 20], folder="other", seed=7)
    s.add("runs-of-runs", "two runs, each weighed by itself", {**plain_run, **second}, paths=("run", "other"),
          options={"scheme": "uniform", "last": 2, "space": "product", "rank": "full", "run_weights": [3, 1]})
    s.add("several-metrics-of-several-runs", "two runs, each by two metrics in one order", {**plain_run, **second}, paths=("run", "other"),
          options={"metric": "eval_loss,loss", "combine": "borda", "last": 2, "space": "product", "rank": "full"})

    def headed(step, seed, at):
        head = Tensor("F32", [2, 4], narrow(np.eye(2, 4, at).reshape(-1), "F32"))
        return {**adapter(step, seed=seed), "base_model.model.score.weight": head}
    heads = run([10], lambda step: headed(step, 1, 0), configs=head) | run([20], lambda step: headed(step, 7, 2), folder="other", configs=head)
    s.add("heads-of-two-runs", "heads that two runs began anew", heads, paths=("run", "other"), options={"scheme": "uniform", "space": "product", "rank": "full"})

    # rules of weights by module: of those that fit the first counts, and what none fits has the weights of all
    rules = json.dumps([{"modules": "v_proj", "weights": [0.5, 0.25, 0.25]}])
    parts = [{name: tensor for name, tensor in adapter(step).items() if "v_proj" in name} for step in steps[1:]]
    others = [{name: tensor for name, tensor in adapter(step).items() if "v_proj" not in name} for step in steps[1:]]
    s.add("weights-file", "modules with weights of their own", {**plain_run, "weights.json": rules}, options={**three, "weights_file": "weights.json"},
          oracle=sum_of(others, [1, 2, 1]) | sum_of(parts, [2, 1, 1]))
    s.add("weights-file-of-no-module", "a rule that fits no module", {**plain_run, "weights.json": rules.replace("v_proj", "v_porj")},
          options={**three, "weights_file": "weights.json"})

    s.add("no-checkpoints", "a folder without checkpoints", {"run/notes.txt": "nothing here\n"})
    repeated = adapter(40)
    text, data = header_of(repeated)
    first = f'"{min(repeated)}":'
    s.add("hostile-head", "a head that names a tensor twice", {**plain_run, f"run/checkpoint-40/{ADAPTER}": pack(text[:-1] + "," + text[text.index(first):], data)},
          paths=("run/checkpoint-30", "run/checkpoint-40"), options={"scheme": "uniform"})


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    s = Situations()
    with np.errstate(all="ignore"):
        situations(s)
    text, path = s.text(), HERE / "situations.json"
    if sys.argv[1:] == ["--check"]:
        if not path.is_file() or path.read_text() != text:
            sys.exit("make.py: situations.json is stale; run python3 tests/situations/make.py")
        return
    path.write_text(text)
    print(f"{len(s.index)} situations, {len(s.blobs)} files, {len(text):,} bytes")


if __name__ == "__main__":
    main()
