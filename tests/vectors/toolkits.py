#!/usr/bin/env python3
"""Make small checkpoints as training toolkits lay them out, and check what mwa wrote of each.

usage: toolkits.py          makes host/tests/cli/data/toolkits/NAME.pt; needs torch
       toolkits.py --check  torch.load(weights_only=True) reads NAME-merged.pt beside each: the weights, and what is kept
"""

import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PosixPath

import torch

FOLDER = Path(__file__).resolve().parents[2] / "host/tests/cli/data/toolkits"


def net():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def all_of():
    """By toolkit: its checkpoint, and the names of what a merge of it leaves out."""
    model, optimizer = net()
    state, adam = model.state_dict(), optimizer.state_dict()
    double = OrderedDict((name, tensor.double()) for name, tensor in state.items())
    yield "nanogpt", {
        "model": OrderedDict((f"_orig_mod.{name}", tensor) for name, tensor in state.items()),
        "optimizer": adam,
        "model_args": dict(n_layer=1, n_head=1, bias=False, dropout=0.0, vocab_size=None),
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare", "learning_rate": 6e-4, "compile": True, "seed": 2**40},
    }, {"optimizer"}
    yield "onmt", {
        "model": state,
        "generator": OrderedDict(weight=torch.ones(2, 2), bias=torch.zeros(2)),
        "vocab": {"src": ["<unk>", "ä"], "tgt": ["<unk>", "b"], "data_task": "seq2seq"},
        "opt": Namespace(rnn_size=4, dropout=[0.1], src_subword=None, _all_transform={"filtertoolong"}),
        "optim": {"training_step": 2000, "optimizer": adam},
    }, {"optim"}
    yield "timm", {
        "epoch": 3,
        "arch": "resnet",
        "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
        "optimizer": adam,
        "version": 2,
        "args": Namespace(model="resnet", lr=0.1, mean=None, data_dir=PosixPath("/data")),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": double,
        "metric": 71.5,
    }, {"optimizer", "amp_scaler", "state_dict_ema", "args.data_dir"}
    yield "fairseq", {
        "args": None,
        "cfg": {
            "_name": None,
            "model": Namespace(arch="transformer", share=True),
            "checkpoint": {"best_checkpoint_metric": "loss"},
        },
        "model": OrderedDict((name, tensor.half() if tensor.is_floating_point() else tensor) for name, tensor in state.items()),
        "criterion": None,
        "optimizer_history": [
            {"criterion_name": "CrossEntropy", "lr_scheduler_state": {"best": 3.2}, "num_updates": 600}
        ],
        "task_state": {},
        "extra_state": {
            "metrics": OrderedDict(default=[(0, "loss", "AverageMeter", {"val": torch.tensor(3.25), "round": 3})]),
            "train_iterator": {"epoch": 3, "shuffle": True},
            "val_loss": 3.21,
        },
        "last_optimizer_state": adam,
    }, {"last_optimizer_state"}
    yield "icefall", {
        "model": state,
        "model_avg": double,
        "optimizer": adam,
        "scheduler": {"base_lrs": [0.1], "last_epoch": 3},
        "grad_scaler": None,
        "sampler": None,
        "exp_dir": PosixPath("exp"),
        "best_valid_loss": float("inf"),
        "batch_idx_train": 1200,
        "valid_loss": 0.21,
    }, {"model_avg", "optimizer", "scheduler", "exp_dir"}
    yield "lightning", {
        "pytorch-lightning_version": "2.6.6",
        "epoch": 1,
        "global_step": 8,
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "path": "/x"}},
        "optimizer_states": [adam],
        "lr_schedulers": [{"last_epoch": 1}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "width": 4, "act": torch.nn.functional.relu, "dtype": torch.float32},
    }, {"optimizer_states", "lr_schedulers", "hyper_parameters.act"}


def same(ours, theirs, path, left):
    if path in left:
        assert False, f"{path} is to be left out"
    if isinstance(theirs, Namespace):
        # entries and attributes alike
        assert vars(ours) == dict(ours), path
        theirs = vars(theirs)
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), path
        under = lambda key: f"{path}.{key}" if path else str(key)
        assert list(ours) == [key for key in theirs if under(key) not in left], (path, list(ours))
        for key in ours:
            same(ours[key], theirs[key], under(key), left)
        return
    if isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs) and len(ours) == len(theirs), path
        for one, other in zip(ours, theirs):
            same(one, other, f"{path}[]", left)
        return
    assert type(ours) is type(theirs), (path, ours, theirs)
    if torch.is_tensor(theirs):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), path
    else:
        assert ours == theirs, (path, ours, theirs)


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, made, left in all_of():
        path = FOLDER / f"{name}.pt"
        if "--check" not in sys.argv[1:]:
            torch.save(made, path)
            continue
        merged = torch.load(FOLDER / f"{name}-merged.pt", weights_only=True)
        same(merged, torch.load(path, weights_only=False), "", left)
        versions = getattr(made.get("model", made.get("state_dict")), "_metadata", None)
        found = getattr(merged.get("model", merged.get("state_dict")), "_metadata", None)
        assert found == versions, (name, found, versions)
        print(f"{name}: {', '.join(merged)}")


if __name__ == "__main__":
    main()
