"""Make dcp/, masters/ and zero3/ with torch and DeepSpeed on two processes (gloo, no GPU), as tests/requirements-formats.txt has them.

    torchrun --nproc_per_node=2 make.py OUT

zero2/ and universal/ were made in the same way, at stage 2 and by DeepSpeed's ds_to_universal.py; expected.safetensors are what its zero_to_fp32.py
makes of them. `check.py` holds what torch gathered of dcp/ against a reader of its own.
"""

import os
import sys

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

OUT = sys.argv[1]


def table():
    """Rows, columns, a transposed tensor, a scalar and a counter, beside an optimizer and a scheduler."""
    mesh = init_device_mesh("cpu", (2,))
    for step in (10, 20):
        seed = torch.Generator().manual_seed(step)
        full = {
            "embed._orig_mod.weight": torch.randn(5, 4, generator=seed),
            "down.weight": torch.randn(3, 6, generator=seed).bfloat16(),
            "turned.weight": torch.randn(4, 3, generator=seed),
            "scale": torch.randn((), generator=seed),
            "steps": torch.tensor(step),
        }
        model = full | {
            "embed._orig_mod.weight": distribute_tensor(full["embed._orig_mod.weight"], mesh, [Shard(0)]),
            "down.weight": distribute_tensor(full["down.weight"], mesh, [Shard(1)]),
            "turned.weight": full["turned.weight"].t().contiguous().t(),
        }
        moments = {"exp_avg": distribute_tensor(torch.ones(3, 6), mesh, [Shard(1)])}
        optimizer = {"state": {"down.weight": moments}, "param_groups": [{"lr": 0.1, "params": ["down.weight"]}]}
        state = {"model": model, "optimizer": optimizer, "lr_scheduler": {"last_epoch": 3}}
        dcp.save(state, checkpoint_id=f"{OUT}/dcp/checkpoint-{step}")
        if torch.distributed.get_rank() == 0:
            plain = {name.replace("_orig_mod.", ""): tensor.contiguous() for name, tensor in full.items()}
            save_file(plain, f"{OUT}/dcp/{step}.safetensors")


def masters():
    """The names of Megatron's torch_dist, on one process."""
    seed = torch.Generator().manual_seed(5)
    weight = torch.randn(3, 4, generator=seed)
    norm = torch.randn(4, generator=seed)
    state = {
        "decoder.w": weight.bfloat16(),
        "decoder.norm": norm,
        "decoder._extra_state/shard_0_1": b"fp8",
        "optimizer.state.fp32_param.decoder.w": weight,
        "optimizer.state.exp_avg.decoder.w": torch.zeros(3, 4),
        "rng_state/shard_0_1": [1, 2],
    }
    dcp.save(state, checkpoint_id=f"{OUT}/masters/iter_0000005", no_dist=True)
    save_file({"decoder.w": weight, "decoder.norm": norm}, f"{OUT}/masters/expected.safetensors")


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(15)
        self.q_proj = nn.Linear(15, 9)
        self.frozen = nn.Linear(9, 15, bias=False)

    def forward(self, x):
        return x + self.frozen(self.q_proj(self.norm(x)))


class Net(nn.Module):
    """Tied, frozen, a buffer, odd sizes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(21, 15)
        self.layers = nn.ModuleList([Layer() for _ in range(2)])
        self.lm_head = nn.Linear(15, 21, bias=False)
        self.register_buffer("pos", torch.arange(4.0))
        self.lm_head.weight = self.embed.weight
        for layer in self.layers:
            layer.frozen.weight.requires_grad = False

    def forward(self, x):
        h = self.embed(x) + self.pos.sum() * 0
        for layer in self.layers:
            h = layer(h)
        return self.lm_head(h)


def zero():
    torch.manual_seed(0)
    net = Net()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [it for it in trained if it.dim() > 1]},
        {"params": [it for it in trained if it.dim() == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 200},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": True},
    }
    engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(groups, lr=0.01), config=config)
    for step in range(3):
        seed = torch.Generator().manual_seed(10 * step + engine.global_rank)
        out = engine(torch.randint(0, 21, (1, 6), generator=seed))
        engine.backward(out.float().logsumexp(-1).mean() - out.float().mean())
        engine.step()
    engine.save_checkpoint(f"{OUT}/zero3")


deepspeed.init_distributed(dist_backend="gloo")
table()
if torch.distributed.get_rank() == 0:
    masters()
zero()
