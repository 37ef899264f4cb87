#!/usr/bin/env python3
"""Convert adapters with the `mwa` binary and let the programs that they are for load them.

usage: python tests/formats_lane.py MWA_BINARY WORKDIR [TEST…]     needs what requirements-formats.txt names

PEFT's logits of a small Llama with an adapter are the truth for PEFT, MLX and GGUF, and mlx-lm's of what is written for it; diffusers'
output of a small UNet with an adapter is that for kohya and diffusers; llama.cpp answers with a GGUF adapter as PEFT does; LyCORIS reads merged
LoHa and LoKr; Lightning, timm and the loaders of nanoGPT, OpenNMT, fairseq and icefall, as their sources have them, load what merged their
checkpoints; torch.distributed.checkpoint and DeepSpeed load merges in their own layouts. What needs a package that is not installed is left out and
named. WORKDIR is emptied first where this script has filled it.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network

import numpy as np
import torch

MARK = ".formats-lane"


def llama(folder):
    """A small Llama with grouped queries, saved; it comes back the same."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    if not folder.exists():
        LlamaForCausalLM(config).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


def logits_by_mlx(folder, adapter):
    """What mlx-lm makes of the Llama with an adapter."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.utils import load_adapters

    model = Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    model.load_weights(str(folder / "model.safetensors"), strict=False)
    model = load_adapters(model, str(adapter))
    model.eval()
    found = model(mx.arange(12).reshape(2, 6)).astype(mx.float32)
    return torch.from_numpy(np.array(found))


def paint(model):
    """Random numbers in all factors, so that none is zero."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data.normal_(0, 0.2)


def language(run, work):
    """PEFT to MLX and back, to GGUF and back: the same logits."""
    import gguf
    from peft import LoraConfig, PeftModel, get_peft_model

    cases = {
        "plain": dict(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj"]),
        "rslora": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        "patterns": dict(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "k_proj", "up_proj"],
            rank_pattern={"k_proj": 2},
            alpha_pattern={"layers.1.self_attn.q_proj": 3},
        ),
        "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["q_proj", "o_proj"]),
        "embedding": dict(r=2, lora_alpha=4, target_modules=["q_proj", "embed_tokens", "lm_head"]),
    }
    for name, config in cases.items():
        own = work / name
        model = get_peft_model(llama(work / "llama"), LoraConfig(**config))
        paint(model)
        model.save_pretrained(own)
        truth = logits(PeftModel.from_pretrained(llama(work / "llama"), own).eval())
        assert (truth - logits(llama(work / "llama"))).abs().max() > 0.01, "the adapter does something"

        def same(folder, by, bound=2e-5):
            matches(logits(PeftModel.from_pretrained(llama(work / "llama"), folder).eval()), by, bound)

        def matches(found, by, bound=2e-5):
            off = (found - truth).abs().max().item()
            print(f"  {name}, {by}: {off:.1e}")
            assert off <= bound, (name, by, off)

        base = ["--base", str(work / "llama")]
        run("convert", own, "-o", work / f"{name}-mlx", "--format", "mlx", *base)
        matches(logits_by_mlx(work / "llama", work / f"{name}-mlx"), "in mlx-lm")
        run("convert", work / f"{name}-mlx", "-o", work / f"{name}-from-mlx", "--format", "peft")
        same(work / f"{name}-from-mlx", "by MLX")
        if name != "dora":
            run("convert", own, "-o", work / f"{name}.gguf", "--format", "gguf", *base)
            run("convert", work / f"{name}.gguf", "-o", work / f"{name}-from-gguf", "--format", "peft", *base)
            same(work / f"{name}-from-gguf", "by GGUF")
            read = gguf.GGUFReader(work / f"{name}.gguf")
            alpha = read.fields["adapter.lora.alpha"].contents()
            found = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
            # llama.cpp's rows of q: halves of each head in turns; its scale: alpha / rank
            q = model.base_model.model.model.layers[1].self_attn.q_proj
            b, a = q.lora_B["default"].weight.data.numpy(), q.lora_A["default"].weight.data.numpy()
            b = b.reshape(4, 2, 4, -1).swapaxes(1, 2).reshape(b.shape)
            theirs = q.scaling["default"] * b @ a
            ours = found["blk.1.attn_q.weight.lora_b"] @ found["blk.1.attn_q.weight.lora_a"] * alpha / a.shape[0]
            assert np.abs(ours - theirs).max() < 1e-6, name


def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(2)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()


def drawn(model):
    torch.manual_seed(3)
    with torch.no_grad():
        return model(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 16)).sample


def images(run, work):
    """diffusers to kohya, PEFT and back: diffusers draws the same."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from peft import LoraConfig

    model = unet()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"],
        rank_pattern={"to_k": 2},
        alpha_pattern={"to_v": 1},
    )
    model.add_adapter(config)
    paint(model)
    truth = drawn(model)
    assert (truth - drawn(unet())).abs().max() > 1e-3, "the adapter does something"
    from peft import get_peft_model_state_dict

    own = work / "diffusers"
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        own,
        unet_lora_layers=get_peft_model_state_dict(model),
        unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )

    def same(folder, name, by):
        state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            folder, weight_name=name, return_lora_metadata=True
        )
        fresh = unet()
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, fresh, metadata=metadata)
        off = (drawn(fresh) - truth).abs().max().item()
        print(f"  {by}: {off:.1e}")
        assert off < 1e-4, (by, off)

    same(own, "pytorch_lora_weights.safetensors", "its own file")
    run("convert", own, "-o", work / "kohya.safetensors", "--format", "kohya")
    same(work, "kohya.safetensors", "kohya's")
    run("convert", work / "kohya.safetensors", "-o", work / "from-kohya", "--format", "diffusers")
    same(work / "from-kohya", "pytorch_lora_weights.safetensors", "diffusers' from kohya's")
    run("convert", own, "-o", work / "peft", "--format", "peft")
    run("convert", work / "peft", "-o", work / "from-peft", "--format", "diffusers")
    same(work / "from-peft", "pytorch_lora_weights.safetensors", "diffusers' from PEFT's")


def states(run, work):
    """Torch files: loaded without any code of theirs, the same numbers."""
    torch.manual_seed(4)
    state = {
        "a.weight": torch.randn(3, 5),
        "a.half": torch.randn(4).half(),
        "b.weight": torch.randn(2, 3, 2).bfloat16(),
        "b.count": torch.tensor(7),
        "c.turned": torch.randn(5, 4).t(),
    }
    for epoch in (1, 2):
        (work / "run").mkdir(exist_ok=True)
        torch.save({"model": state, "epoch": epoch}, work / "run" / f"epoch-{epoch}.pt")
    run("merge", work / "run", "-o", work / "merged", "--select", "all", "--format", "pt")
    found = torch.load(work / "merged" / "merged.pt", weights_only=True)["model"]
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    print("  loaded")


def lightning(run, work):
    """Checkpoints of a Trainer of Lightning, the better of them weighing more, as one that Lightning loads."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader, TensorDataset

    class Line(LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(4, 1)

        def loss(self, batch, name):
            x, y = batch
            loss = torch.nn.functional.mse_loss(self.line(x), y)
            self.log(name, loss)
            return loss

        def training_step(self, batch, _):
            return self.loss(batch, "train_loss")

        def validation_step(self, batch, _):
            self.loss(batch, "val_loss")

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    torch.manual_seed(5)
    x = torch.randn(64, 4)
    data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16)
    keep = ModelCheckpoint(work / "run", "{epoch}-{step}-{val_loss:.4f}", monitor="val_loss", save_top_k=-1)
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    Trainer(max_epochs=3, callbacks=[keep], **quiet).fit(Line(), data, data)
    found = sorted((work / "run").glob("*.ckpt"))
    assert len(found) == 3, found
    run("merge", work / "run", "-o", work / "merged", "--select", "all", "--scheme", "uniform", "--format", "pt")
    merged = Line.load_from_checkpoint(work / "merged" / "merged.ckpt")
    inputs = [torch.load(path, weights_only=True)["state_dict"]["line.weight"] for path in found]
    off = (merged.line.weight.detach() - sum(inputs) / 3).abs().max().item()
    print(f"  loaded, off the mean by {off:.1e}")
    assert off < 1e-6, off


def gguf_of(model, path):
    """The small Llama as llama.cpp has it, with a vocabulary of no words."""
    import gguf

    config = model.config
    count, heads, kv = config.vocab_size, config.num_attention_heads, config.num_key_value_heads
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(heads)
    file.add_head_count_kv(kv)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.hidden_size // heads)
    file.add_vocab_size(count)
    file.add_tokenizer_model("llama")
    file.add_token_list([f"<{number}>" for number in range(count)])
    file.add_token_scores([0.0] * count)
    file.add_token_types([1] * count)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        tensor = tensor.float().numpy()
        for module, parts in {"q_proj": heads, "k_proj": kv}.items():
            if name.endswith(f"{module}.weight"):
                halves = tensor.reshape(parts, 2, -1, tensor.shape[1])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        file.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(tensor))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def llama_cpp(run, work):
    """llama.cpp, from its wheel xllamacpp (llama-cpp-python has no wheels): the same probabilities with an adapter."""
    import xllamacpp
    from peft import LoraConfig, PeftModel, get_peft_model

    gguf_of(llama(work / "llama"), work / "base.gguf")

    def answered(adapter):
        wanted = xllamacpp.CommonParams()
        wanted.model.path = str(work / "base.gguf")
        wanted.n_ctx, wanted.n_parallel, wanted.n_gpu_layers, wanted.warmup = 64, 1, 0, False
        wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if adapter:
            one = xllamacpp.CommonAdapterLoraInfo()
            one.path, one.scale = str(adapter), 1.0
            wanted.lora_adapters = [one]
        asked = {"prompt": list(range(6)), "n_predict": 1, "n_probs": 48, "temperature": 0.0, "cache_prompt": False}
        answer = xllamacpp.Server(wanted).handle_completions(asked)
        found = {it["id"]: it["logprob"] for it in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        return torch.tensor([found[number] for number in range(48)])

    def truth(model):
        with torch.no_grad():
            return model(torch.arange(6)[None]).logits[0, -1].log_softmax(-1)

    off = (answered(None) - truth(llama(work / "llama"))).abs().max().item()
    assert off < 1e-3, ("the base itself", off)
    for name, config in {
        "plain": dict(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]),
        "rslora": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "k_proj"]),
    }.items():
        own = work / name
        model = get_peft_model(llama(work / "llama"), LoraConfig(**config))
        for step in (1, 2):
            paint(model)
            model.save_pretrained(own / f"checkpoint-{step}")
        run("merge", own, "-o", work / f"{name}-peft", "--select", "all", "--scheme", "uniform")
        run("merge", own, "-o", work / f"{name}-gguf", "--select", "all", "--scheme", "uniform", "--format", "gguf",
            "--base", work / "llama")
        [written] = (work / f"{name}-gguf").glob("*.gguf")
        wanted = truth(PeftModel.from_pretrained(llama(work / "llama"), work / f"{name}-peft").eval())
        assert (wanted - truth(llama(work / "llama"))).abs().max() > 0.01, "the adapter does something"
        off = (answered(written) - wanted).abs().max().item()
        print(f"  {name}: {off:.1e}")
        assert off < 1e-3, (name, off)


def lycoris(run, work):
    """LyCORIS makes LoHa and LoKr of a layer, and reads what is merged of two epochs of each."""
    from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
    from safetensors.torch import load_file

    # any layer, whatever it is called
    LycorisNetwork.apply_preset({"target_module": [], "target_name": [".*"]})
    for algorithm in ("loha", "lokr"):
        folder = work / algorithm
        folder.mkdir()
        states = []
        for epoch in (1, 2):
            torch.manual_seed(epoch)
            layer = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 8))
            made = create_lycoris(layer, 1.0, linear_dim=2, linear_alpha=1, algo=algorithm, factor=4)
            made.apply_to()
            for name, parameter in made.named_parameters():
                parameter.data.normal_(0, 0.3)
            made.save_weights(
                str(folder / f"x-{epoch:06d}.safetensors"),
                torch.float32,
                {"ss_steps": str(10 * epoch), "ss_epoch": str(epoch), "ss_output_name": "x"},
            )
            states.append(load_file(folder / f"x-{epoch:06d}.safetensors"))
        run("merge", folder, "-o", work / f"{algorithm}-merged", "--select", "all", "--scheme", "uniform")
        [written] = (work / f"{algorithm}-merged").glob("*.safetensors")
        mean = {name: sum(state[name] for state in states) / 2 for name in states[0]}

        def read(file, weights=None):
            layer = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 8))
            made, _ = create_lycoris_from_weights(1.0, file, layer, weights_sd=weights)
            made.apply_to()
            return made.state_dict()

        found, wanted = read(str(written)), read(None, mean)
        assert found.keys() == wanted.keys() and len(found) == len(mean), algorithm
        off = max((found[name] - wanted[name]).abs().max().item() for name in found)
        print(f"  {algorithm}: off the mean by {off:.1e}")
        assert off < 1e-6, (algorithm, off)


def epochs(folder, save, names):
    """Two checkpoints of a small model, by `save(model, optimizer, path, number)`; gives the mean of their weights."""
    folder.mkdir(exist_ok=True)
    states = []
    for number, name in enumerate(names, 1):
        torch.manual_seed(number)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        save(model, optimizer, folder / name, number)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return {
        name: (states[0][name] + states[1][name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in states[1].items()
    }


def fresh():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))


def is_mean(model, mean):
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, mean[name], atol=1e-7), name


MERGED = ("--select", "all", "--scheme", "uniform", "--format", "pt")


def nano_gpt(run, work):
    """nanoGPT's train.py saves, and its sample.py loads."""
    from dataclasses import dataclass

    @dataclass
    class GPTConfig:
        n_layer: int
        bias: bool
        dropout: float

    def save(model, optimizer, path, number):
        torch.save(
            {
                "model": {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()},
                "optimizer": optimizer.state_dict(),
                "model_args": dict(n_layer=1, bias=False, dropout=0.0),
                "iter_num": 1000 * number,
                "best_val_loss": torch.tensor(3.0 / number),
                "config": {"dataset": "shakespeare_char", "learning_rate": 6e-4, "compile": True},
            },
            path,
        )

    mean = epochs(work / "run", save, ["ckpt-1000.pt", "ckpt-2000.pt"])
    run("merge", work / "run", "-o", work / "out", *MERGED)
    [written] = (work / "out").glob("*.pt")
    # as sample.py has it
    checkpoint = torch.load(written, map_location="cpu", weights_only=True)
    assert GPTConfig(**checkpoint["model_args"]) == GPTConfig(1, False, 0.0)
    state_dict = checkpoint["model"]
    for name in list(state_dict):
        if name.startswith("_orig_mod."):
            state_dict[name[len("_orig_mod.") :]] = state_dict.pop(name)
    model = fresh()
    model.load_state_dict(state_dict)
    is_mean(model, mean)
    assert "config" in checkpoint and checkpoint["config"]["dataset"] == "shakespeare_char"
    # and train.py, before it asks for the optimizer
    assert (checkpoint["iter_num"], checkpoint["best_val_loss"].item()) == (2000, 1.5)


def timm(run, work):
    """timm's own saver and its own loader, of a model in DataParallel with a moving average."""
    from argparse import Namespace

    from timm.models import load_checkpoint
    from timm.utils import CheckpointSaver, ModelEmaV2

    def save(model, optimizer, path, number):
        (path.parent / "own").mkdir(exist_ok=True)
        parts = dict(args=Namespace(model="small", lr=0.1, mean=None), checkpoint_dir=path.parent / "own")
        saver = CheckpointSaver(
            model, optimizer, model_ema=ModelEmaV2(model), recovery_dir=path.parent, max_history=9, **parts
        )
        saver.save_checkpoint(number, metric=70.0 + number)
        (path.parent / "own" / path.name).rename(path)

    mean = epochs(work / "run", save, ["checkpoint-1.pth.tar", "checkpoint-2.pth.tar"])
    import shutil

    shutil.rmtree(work / "run" / "own")
    run("merge", work / "run", "-o", work / "out", *MERGED)
    [written] = (work / "out").glob("*.pth.tar")
    model = fresh()
    load_checkpoint(model, str(written), use_ema=True)
    is_mean(model, mean)
    kept = torch.load(written, weights_only=True)
    assert (kept["epoch"], kept["arch"], kept["metric"]) == (2, "small", 72.0)
    assert (kept["args"].model, kept["args"]["lr"]) == ("small", 0.1)


def open_nmt(run, work):
    """OpenNMT-py's model_saver.py saves; its load_checkpoint() and what it is asked for afterwards."""
    from argparse import Namespace

    def save(model, optimizer, path, number):
        state = model.state_dict()
        opt = Namespace(rnn_size=4, layers=2, dropout=[0.1], _all_transform={"filtertoolong"}, gpu_ranks=[0])
        torch.save(
            {
                "model": {name: tensor for name, tensor in state.items() if not name.startswith("2.")},
                "generator": {name[2:]: tensor for name, tensor in state.items() if name.startswith("2.")},
                "vocab": {"src": ["<unk>", "a"], "tgt": ["<unk>", "b"], "data_task": "seq2seq"},
                "opt": opt,
                "optim": {"training_step": 1000 * number, "optimizer": optimizer.state_dict()},
            },
            path,
        )

    mean = epochs(work / "run", save, ["m_step_1000.pt", "m_step_2000.pt"])
    run("merge", work / "run", "-o", work / "out", *MERGED)
    [written] = (work / "out").glob("*.pt")
    checkpoint = torch.load(written, map_location=torch.device("cpu"))
    if not hasattr(checkpoint["opt"], "num_kv"):
        checkpoint["opt"].num_kv = 0
    # ckpt_model_opts()
    opt = Namespace(rnn_size=1)
    opt.__dict__.update(checkpoint["opt"].__dict__)
    assert (opt.rnn_size, opt.layers, opt.num_kv, opt.dropout) == (4, 2, 0, [0.1])
    assert not {"filtertoolong"}.difference(checkpoint["opt"]._all_transform)
    assert checkpoint["vocab"]["src"] == ["<unk>", "a"]
    model = fresh()
    model.load_state_dict({**checkpoint["model"], **{f"2.{name}": it for name, it in checkpoint["generator"].items()}})
    is_mean(model, mean)


def fairseq(run, work):
    """fairseq's checkpoint_utils.py: what save_checkpoint() leaves and what load_checkpoint_to_cpu() and its upgrades ask for."""
    from argparse import Namespace
    from collections import OrderedDict

    def save(model, optimizer, path, number):
        torch.save(
            {
                "args": None,
                "cfg": {"model": Namespace(arch="transformer"), "task": {"_name": "translation"}, "checkpoint": {}},
                "model": model.state_dict(),
                "criterion": None,
                "optimizer_history": [
                    {
                        "criterion_name": "CrossEntropyCriterion",
                        "optimizer_name": "FairseqAdam",
                        "lr_scheduler_state": {"best": 3.0},
                        "num_updates": 100 * number,
                    }
                ],
                "task_state": {},
                "extra_state": {
                    "metrics": OrderedDict(default=[(0, "loss", "AverageMeter", {"val": torch.tensor(3.0)})]),
                    "previous_training_time": 1.5,
                    "train_iterator": {"epoch": number, "iterations_in_epoch": 0, "shuffle": True},
                    "val_loss": 3.0 / number,
                },
                "last_optimizer_state": optimizer.state_dict(),
            },
            path,
        )

    mean = epochs(work / "run", save, ["checkpoint1.pt", "checkpoint2.pt"])
    run("merge", work / "run", "-o", work / "out", *MERGED)
    [written] = (work / "out").glob("*.pt")
    state = torch.load(written, map_location="cpu", weights_only=True)
    # load_checkpoint_to_cpu() and _upgrade_state_dict()
    assert "args" in state and state["args"] is None and state["cfg"] is not None
    assert "optimizer_history" in state and "model" in state and "extra_state" in state
    assert "epoch" not in state["extra_state"] and state["extra_state"]["train_iterator"]["epoch"] == 2
    assert state["optimizer_history"][-1]["num_updates"] == 200 and "train_iterator" in state["extra_state"]
    assert state["cfg"]["model"].arch == "transformer" and state["cfg"]["task"]["_name"] == "translation"
    model = fresh()
    model.load_state_dict(state["model"], strict=True)
    is_mean(model, mean)


def icefall(run, work):
    """icefall's checkpoint.py: save_checkpoint() and load_checkpoint()."""

    def save(model, optimizer, path, number):
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": {"base_lrs": [0.1], "epoch": number},
                "grad_scaler": None,
                "sampler": None,
                "model_avg": {name: it.double() for name, it in model.state_dict().items()},
                "best_train_epoch": number,
                "best_valid_epoch": number,
                "batch_idx_train": 100 * number,
                "best_train_loss": 1.0,
                "best_valid_loss": 2.0,
                "exp_dir": Path("exp"),
            },
            path,
        )

    mean = epochs(work / "run", save, ["epoch-1.pt", "epoch-2.pt"])
    run("merge", work / "run", "-o", work / "out", *MERGED)
    [written] = (work / "out").glob("*.pt")
    checkpoint = torch.load(written, map_location="cpu", weights_only=True)
    model = fresh()
    model.load_state_dict(checkpoint["model"], strict=True)
    checkpoint.pop("model")
    is_mean(model, mean)
    for name in ("optimizer", "grad_scaler", "sampler", "scheduler", "model_avg"):
        assert not checkpoint.get(name, None), name
    for name in ("best_train_epoch", "best_valid_epoch", "batch_idx_train", "best_train_loss", "best_valid_loss"):
        checkpoint[name]


def distributed(run, work):
    """torch.distributed.checkpoint loads a merge in its own layout as it loads what it saved: weights, and the newest one's moments."""
    import torch.distributed.checkpoint as dcp

    def trained(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5))
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(3, 7)).square().sum().backward()
        optimizer.step()
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    older, newer = trained(1), trained(2)
    for step, state in [(10, older), (20, newer)]:
        dcp.save(state, checkpoint_id=work / f"run/checkpoint-{step}", no_dist=True)
    run("merge", work / "run", "--select", "all", "--scheme", "uniform", "--format", "own", "-o", work / "own")
    loaded = trained(3)
    dcp.load(loaded, checkpoint_id=work / "own", no_dist=True)
    for name, value in loaded["model"].items():
        assert torch.equal(value, older["model"][name] * 0.5 + newer["model"][name] * 0.5), name
    for place, moments in loaded["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, newer["optimizer"]["state"][place][name]), (place, name)


def zero(run, work):
    """DeepSpeed gathers a merge in its own layout, and torch loads the model's 16-bit copy that it is rounded to."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    from safetensors.torch import load_file, save_file

    data = Path(__file__).parents[1] / "core/tests/data/training"
    for stage in ["zero2", "zero3"]:
        newest = load_file(data / stage / "expected.safetensors")
        run("convert", data / stage / "global_step3", "-o", work / f"{stage}-plain")
        plain = load_file(work / f"{stage}-plain/model.safetensors")
        save_file({name: value * 3 for name, value in plain.items()}, work / f"{stage}.safetensors")
        inputs = [work / f"{stage}.safetensors", data / stage / "global_step3"]
        run("merge", *inputs, "--weights", "1,1", "--format", "own", "-o", work / stage)
        found = get_fp32_state_dict_from_zero_checkpoint(work, stage)
        assert set(newest) <= set(found), set(newest) - set(found)
        for name, value in plain.items():
            mean = (value * 3).float() * 0.5 + value.float() * 0.5
            assert torch.equal(found[name].float(), mean.to(value.dtype).float()), name
            for file in (work / stage).glob("*_model_states.pt"):
                copy = torch.load(file, weights_only=False)["module"].get(name)
                if copy is not None and copy.shape == value.shape:
                    assert torch.equal(copy, mean.to(copy.dtype)), (file.name, name)


def main():
    binary, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    if work.exists() and any(work.iterdir()) and not (work / MARK).exists():
        sys.exit(f"{work} is not empty, and not ours")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).touch()

    def run(*arguments):
        subprocess.run([binary, *map(str, arguments), "--quiet"], check=True)

    toolkits = [lightning, nano_gpt, timm, open_nmt, fairseq, icefall]
    tests = [language, images, llama_cpp, lycoris, states, *toolkits, distributed, zero]
    if sys.argv[3:]:
        tests = [test for test in tests if test.__name__ in sys.argv[3:]]
    failed = ignored = 0
    for test in tests:
        folder = work / test.__name__
        folder.mkdir()
        try:
            test(run, folder)
            print(f"ok: {test.__name__}")
        except ModuleNotFoundError as why:
            print(f"SKIPPED [1] {test.__name__}: {why}")
            ignored += 1
        except Exception:
            traceback.print_exc()
            print(f"FAILED: {test.__name__}")
            failed += 1
    print(f"\n{len(tests) - failed - ignored} passed, {failed} failed, {ignored} ignored")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
