//! What robust weights, order statistics, tasks over a base, and folding cost beside the plain mean and other tools.

use std::path::Path;

use super::{Contender, FULL_STEPS, floor, measure, mergekit, mwa, ours, python_with, recipe};
use crate::inputs;
use crate::run::{Result, build, run, target};

/// `cargo xtask bench methods`.
pub(super) fn methods(runs: usize) -> Result {
    build()?;
    let out = target().join("bench/out");
    adapters(runs, &out)?;
    let base = inputs::full(&target().join("bench/sharded-base"), &[0])?.remove(0);
    tasks(runs, &base, &out)?;
    apply(runs, &base, &out)?;
    curvature(runs, false)
}

/// `cargo xtask bench methods curvature [small]`: two models by the second moments of each, whole and by rows and columns. The floor
/// reads models and whole moments once and writes one model; the mean weights want the moments once more.
pub(super) fn curvature(runs: usize, is_small: bool) -> Result {
    build()?;
    let (name, layers) = if is_small { ("curved-small", 8) } else { ("curved", 138) };
    let (folder, out) = (target().join("bench").join(name), target().join("bench/out"));
    let (models, moments) = inputs::curved(&folder, layers)?;
    let run_folder = folder.join("run");
    let small = target().join("bench").join(format!("{name}-rank1"));
    let compress = |model: &Path, state: &Path, out: &Path| {
        let mut compress = mwa("mwa moments --rank1");
        compress.arg(model).arg("--state").arg(state).arg("-o").arg(out);
        compress
    };
    let files = |folder: &Path| [100, 200].map(|step| folder.join(format!("{step}.safetensors")));
    inputs::once(&small, |folder| {
        let made = models.iter().zip(&moments).zip(files(folder));
        made.into_iter().try_for_each(|((model, state), out)| run(compress(model, state, &out)))
    })?;
    let all: Vec<_> = models.iter().chain(&moments).cloned().collect();
    let mut contenders = vec![floor(&all, 1, &out), ours("mwa merge", &run_folder, &out)];
    for (moments, name) in
        [(&moments[..], "mwa merge --method ota"), (&files(&small), "the same, of --rank1")]
    {
        let mut ota = Contender { name, ..ours("mwa merge --method ota", &run_folder, &out) };
        let list: Vec<_> = moments.iter().map(|path| path.display().to_string()).collect();
        ota.commands[0].arg("--moments").arg(list.join(","));
        contenders.push(ota);
    }
    let commands = vec![compress(&models[0], &moments[0], &out.join("moments.safetensors"))];
    contenders.push(Contender { name: "mwa moments --rank1, of one", commands });
    let size = layers * 8;
    measure(&format!("2 models of {size} MB, bf16, and their moments, F32"), contenders, runs, &out)
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
