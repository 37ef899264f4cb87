//! What robust weights, order statistics, tasks over a base, and folding cost beside the plain mean and other tools.

use std::path::Path;

use super::{Contender, FULL_STEPS, floor, measure, mergekit, mwa, ours, python_with, recipe};
use crate::inputs;
use crate::run::{Result, build, target};

/// `cargo xtask bench methods`.
pub(super) fn methods(runs: usize) -> Result {
    build()?;
    let out = target().join("bench/out");
    adapters(runs, &out)?;
    let base = inputs::full(&target().join("bench/sharded-base"), &[0])?.remove(0);
    tasks(runs, &base, &out)?;
    apply(runs, &base, &out)
}

/// Of LoRA checkpoints: every scheme by which tensors decide, and every method that sorts.
fn adapters(runs: usize, out: &Path) -> Result {
    const LINES: [&str; 8] = [
        "mwa merge --residual off",
        "mwa merge --residual off --scheme geometric-median",
        "mwa merge --residual off --scheme krum",
        "mwa merge --residual off --scheme multi-krum",
        "mwa merge --residual off --scheme flag",
        "mwa merge --method median",
        "mwa merge --method trimmed-mean",
        "mwa merge",
    ];
    let folder = target().join("bench/lora");
    let files = inputs::adapters(&folder, &inputs::LLAMA_7B, 8)?;
    let mut contenders = vec![floor(&files, 1, out)];
    contenders.extend(LINES.map(|line| ours(line, &folder, out)));
    measure("robust weights and order statistics of 8 LoRA checkpoints, 80 MB each", contenders, runs, out)
}

/// Of full models: what they learned of a base. The floor reads all inputs once and writes one.
fn tasks(runs: usize, base: &Path, out: &Path) -> Result {
    let folder = target().join("bench/sharded");
    let models = inputs::full(&folder, &FULL_STEPS)?;
    let files: Vec<_> =
        models.iter().chain([&base.to_owned()]).flat_map(|model| inputs::shards(model)).collect();
    let mut contenders = vec![floor(&files, inputs::SHARDS, out), ours("mwa merge", &folder, out)];
    for line in ["mwa merge --method task-arithmetic", "mwa merge --method ties"] {
        let mut contender = ours(line, &folder, out);
        contender.commands[0].arg("--base").arg(base);
        contenders.push(contender);
    }
    let head =
        format!("merge_method: ties\nbase_model: {}\nparameters:\n  normalize: true\n", base.display());
    let tasks = models.iter().map(|model| (model, "      weight: 1.0\n      density: 0.2\n".to_owned()));
    contenders.extend(mergekit(&recipe(&head, tasks), &folder, out)?);
    measure(
        "4 full models over a base, bf16, 1.1 GB in 4 shards each; mergekit does ties",
        contenders,
        runs,
        out,
    )
}

/// PEFT's own way.
const PEFT_APPLY: &str = "\
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
";

/// Fold an adapter of r 16 into a full model. The floor copies that.
fn apply(runs: usize, base: &Path, out: &Path) -> Result {
    let folder = target().join("bench/lora-full");
    let adapter = inputs::adapters(&folder, &inputs::LLAMA_FULL, 1)?.remove(0);
    let adapter = adapter.parent().unwrap_or(&folder);
    let shards = inputs::shards(base);
    let mut apply = mwa("mwa apply");
    apply.arg(adapter).arg("--base").arg(base).arg("-o").arg(out.join("merged"));
    let mut contenders =
        vec![floor(&shards, inputs::SHARDS, out), Contender { name: "mwa apply", commands: vec![apply] }];
    if let Some(mut merge) = python_with("import torch, transformers, peft", PEFT_APPLY) {
        merge.arg(base).arg(adapter).arg(out.join("merged"));
        contenders.push(Contender { name: "PEFT merge_and_unload", commands: vec![merge] });
    }
    measure("a LoRA adapter, r 16, folded into a model of 1.1 GB in 4 shards", contenders, runs, out)
}
