#!/usr/bin/env python3
"""Convert adapters with the `mwa` binary and let the programs that they are for load them.

usage: python tests/formats_lane.py MWA_BINARY WORKDIR     needs what requirements-formats.txt names

PEFT's logits of a small Llama with an adapter are the truth for PEFT, MLX and GGUF, and mlx-lm's of what is written for it; diffusers'
output of a small UNet with an adapter is that for kohya and diffusers; Lightning loads what merged its checkpoints. WORKDIR is emptied first where this script has filled it.
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


def main():
    binary, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    if work.exists() and any(work.iterdir()) and not (work / MARK).exists():
        sys.exit(f"{work} is not empty, and not ours")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).touch()

    def run(*arguments):
        subprocess.run([binary, *map(str, arguments), "--quiet"], check=True)

    tests = [language, images, states, lightning]
    failed = 0
    for test in tests:
        folder = work / test.__name__
        folder.mkdir()
        try:
            test(run, folder)
            print(f"ok: {test.__name__}")
        except Exception:
            traceback.print_exc()
            print(f"FAILED: {test.__name__}")
            failed += 1
    print(f"\n{len(tests) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
