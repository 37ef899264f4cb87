//! What a federated round costs beside Flower's own aggregation of the same arrays.

use super::{Contender, floor, measure, mwa, python_that_has, scripted};
use crate::inputs;
use crate::run::{Result, build, target};

/// Clients of the round.
const CLIENTS: usize = 50;

/// What a server of Flower does with what clients returned, here read from files; numpy has no bf16, so they are f32 there.
const FLOWER: &str = "\
import sys, torch
from safetensors.torch import load_file, save_file
from flwr.server.strategy.aggregate import aggregate, aggregate_median
how, out, *files = sys.argv[1:]
names, results = None, []
for file in files:
    tensors = load_file(file)
    names = sorted(tensors)
    results.append(([tensors[name].float().numpy() for name in names], 100))
arrays = (aggregate_median if how == 'median' else aggregate)(results)
save_file({name: torch.from_numpy(array).to(torch.bfloat16) for name, array in zip(names, arrays)}, out)
";

/// `cargo xtask bench rounds`.
pub(super) fn rounds(runs: usize) -> Result {
    build()?;
    let files = inputs::adapters(&target().join("bench/lora-many"), &inputs::LLAMA_7B, 64)?;
    let (files, out) = (&files[..CLIENTS], target().join("bench/out"));
    let aggregate = |name: &'static str| {
        let mut command = mwa(name);
        command.arg("-o").arg(out.join("merged")).arg("--samples");
        command.arg(vec!["100"; CLIENTS].join(","));
        command.args(files.iter().filter_map(|file| file.parent()));
        Contender { name, commands: vec![command] }
    };
    let mut contenders = vec![
        floor(files, 1, &out),
        aggregate("mwa aggregate"),
        aggregate("mwa aggregate --scheme geometric-median"),
    ];
    if let Some(python) = python_that_has("import torch, safetensors, flwr") {
        for (name, how) in [("Flower's FedAvg", "mean"), ("Flower's FedMedian", "median")] {
            let mut command = scripted(&python, FLOWER);
            command.arg(how).arg(out.join("merged.safetensors")).args(files);
            contenders.push(Contender { name, commands: vec![command] });
        }
    }
    measure("50 clients of a round, LoRA of a 7B model, r 16, bf16, 80 MB each", contenders, runs, &out)
}
