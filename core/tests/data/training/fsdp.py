"""Make fsdp/ with torch alone on two processes (gloo, no GPU): the folders that accelerate leaves, a model's and its optimizer's.

    torchrun --nproc_per_node=2 fsdp.py OUT

squares.safetensors are the second moments as they were before they were cut.
"""

import sys

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

OUT = sys.argv[1]

mesh = init_device_mesh("cpu", (2,))
seed = torch.Generator().manual_seed(7)
shapes = {"embed._orig_mod.weight": (5, 4), "down.weight": (3, 6)}
cut = {"embed._orig_mod.weight": Shard(0), "down.weight": Shard(1)}
weights = {name: torch.randn(shape, generator=seed) for name, shape in shapes.items()}
squares = {name: torch.rand(shape, generator=seed) * 1e-6 for name, shape in shapes.items()}
spread = lambda tensors: {name: distribute_tensor(tensor, mesh, [cut[name]]) for name, tensor in tensors.items()}  # noqa: E731
state = {name: {"step": torch.tensor(20.0), "exp_avg_sq": tensor} for name, tensor in spread(squares).items()}
groups = [{"betas": (0.9, 0.95), "params": [name]} for name in shapes]
folder = f"{OUT}/fsdp/checkpoint-20"
dcp.save({"model": spread(weights) | {"scale": torch.ones(2)}}, checkpoint_id=f"{folder}/pytorch_model_fsdp_0")
dcp.save({"optimizer": {"state": state, "param_groups": groups}}, checkpoint_id=f"{folder}/optimizer_0")
if torch.distributed.get_rank() == 0:
    save_file({name.replace("_orig_mod.", ""): tensor for name, tensor in squares.items()}, f"{OUT}/fsdp/squares.safetensors")
