//! A search beside merges: a population merged in one pass, the same candidates merged afresh each, and what the driver itself takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{
    Contender, Sample, floor, is_there, measure, median, mwa, ours, python_that_has, recipe, sampled,
    scripted,
};
use crate::inputs;
use crate::run::{Result, build, output, root, target};

/// So many candidates are merged.
const POPULATION: usize = 8;
/// An evaluator that costs nearly nothing.
const SCORE: &str = "echo $MWA_NUMBER";
/// Ten checkpoints with the weights of a candidate, by hand; what mergekit does for each candidate, without what it loads before.
const TORCH_LOOP: &str = "\
import sys, torch
from safetensors.torch import load_file, save_file
out, weights, *files = sys.argv[1:]
total = {}
for weight, file in zip(map(float, weights.split(',')), files):
    for name, tensor in load_file(file).items():
        part = tensor.float() * weight
        total[name] = total[name].add_(part) if name in total else part
save_file({name: tensor.to(torch.bfloat16) for name, tensor in total.items()}, out)
";

/// `cargo xtask bench search`: over ten checkpoints of this shape.
pub(super) fn search(llama: &inputs::Llama, name: &str, runs: usize) -> Result {
    build()?;
    let folder = target().join("bench").join(name);
    let files = inputs::adapters(&folder, llama, 10)?;
    let out = target().join("bench/out");
    let found = trials(&folder, POPULATION, &target().join("bench/population"))?;
    let weights: Vec<_> = found.iter().map(|trial| weights(&trial["weights"])).collect();
    let mut whole = mwa("mwa");
    whole.args(arguments(&folder, POPULATION)).arg("--output").arg(out.join("best"));
    let mut contenders = vec![
        floor(&files, 1, &out),
        ours("mwa merge --residual off", &folder, &out),
        Contender { name: "mwa search, 8 trials, whole process", commands: vec![whole] },
        afresh("8 × mwa merge --weights, a process each", &weights, &out, |weights, out| {
            let mut merge = mwa("mwa merge --residual off --select all");
            merge.arg(format!("--weights={weights}")).arg(&folder).arg("--output").arg(out);
            merge
        }),
    ];
    if let Some(python) = python_that_has("import torch, safetensors") {
        contenders.push(afresh("8 × torch loop, a process each", &weights, &out, |weights, out| {
            let mut merge = scripted(&python, TORCH_LOOP);
            merge.arg(out).arg(weights).args(&files);
            merge
        }));
    }
    contenders.extend(mergekit(&weights, &files, &out)?);
    let title = format!("8 candidates of 10 LoRA checkpoints, r 16, bf16 ({name})");
    measure(&title, contenders, runs, &out)?;
    let mut passes: Vec<f64> = Vec::new();
    for _ in 0..runs {
        let found = trials(&folder, POPULATION, &target().join("bench/population"))?;
        passes.push(found.iter().filter_map(|trial| trial["merge_seconds"].as_f64()).sum());
    }
    let merges = sampled(&mut [ours("mwa merge --residual off", &folder, &out)], runs, &out)?;
    let (pass, merge) = (median(passes), Sample::median(&merges[0]).seconds);
    println!(
        "\nthe 8 candidates of a search {pass:.3} s, one merge {merge:.3} s: {:.2} × (to be at most 3)",
        pass / merge
    );
    let overhead = overhead(runs)?;
    println!(
        "the driver takes {:.2} ms a candidate beyond merge and evaluation (to be at most 5)",
        overhead * 1e3
    );
    Ok(())
}

/// What each trial takes besides: of 110 trials of the sample run against 10, by the clock, less what they say of merges and
/// evaluations.
fn overhead(runs: usize) -> Result<f64> {
    let folder = root().join("examples/sample-run");
    let rest = |budget: usize| -> Result<f64> {
        let start = Instant::now();
        let found = trials(&folder, budget, &target().join("bench/population"))?;
        let all = start.elapsed().as_secs_f64();
        let of = |name: &str| found.iter().filter_map(|trial| trial[name].as_f64()).sum::<f64>();
        Ok(all - of("merge_seconds") - of("seconds"))
    };
    let mut each = Vec::new();
    for _ in 0..runs {
        each.push((rest(110)? - rest(10)?) / 100.0);
    }
    Ok(median(each))
}

fn arguments(folder: &Path, budget: usize) -> Vec<String> {
    let [folder, budget] = [folder.display().to_string(), budget.to_string()];
    let words = [
        "search", &folder, "--select", "all", "--method", "lcsc", "--seed", "42", "--goal", "min",
        "--budget", &budget,
    ];
    let more = ["--evaluate", SCORE, "--residual", "off", "--force", "--quiet"];
    words.into_iter().chain(more).map(str::to_owned).collect()
}

/// The trials of a search, in order.
fn trials(folder: &Path, budget: usize, out: &Path) -> Result<Vec<Value>> {
    let mut search = mwa("mwa");
    search.args(arguments(folder, budget)).arg("--json").arg("--output").arg(out).stdin(Stdio::null());
    let found: Value = serde_json::from_str(&output(search)?).map_err(|error| error.to_string())?;
    Ok(found["trials"].as_array().cloned().unwrap_or_default())
}

fn weights(list: &Value) -> String {
    let numbers = list.as_array().into_iter().flatten().map(ToString::to_string);
    numbers.collect::<Vec<_>>().join(",")
}

/// A merge for each candidate, by what tells its weights, into a fresh folder that is removed before the next.
fn afresh(
    name: &'static str,
    each: &[String],
    out: &Path,
    merge: impl Fn(&str, &Path) -> Command,
) -> Contender {
    let place = out.join("candidate");
    let commands = each.iter().flat_map(|each| {
        let mut remove = Command::new("rm");
        remove.arg("-r").arg(&place);
        [merge(each, &place), remove]
    });
    Contender { name, commands: commands.collect() }
}

/// mergekit over the adapters' files, as `mergekit-evolve` starts it for each candidate, if it is there.
fn mergekit(weights: &[String], files: &[PathBuf], out: &Path) -> Result<Option<Contender>> {
    let beside =
        std::env::var_os("MWA_MERGEKIT").map(|it| PathBuf::from(it).with_file_name("mergekit-pytorch"));
    let program = beside.unwrap_or_else(|| "mergekit-pytorch".into());
    if !is_there(program.as_os_str()) {
        return Ok(None);
    }
    let folder = target().join("bench/recipes");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut recipes = Vec::new();
    for (number, weights) in weights.iter().enumerate() {
        let weights = weights.split(',').map(|weight| format!("      weight: {weight}\n"));
        let head = "merge_method: linear\nparameters:\n  normalize: false\n";
        let path = folder.join(format!("{number}.yaml"));
        std::fs::write(&path, recipe(head, files.iter().zip(weights))).map_err(|error| error.to_string())?;
        recipes.push(path.display().to_string());
    }
    Ok(Some(afresh("8 × mergekit-pytorch, a process each", &recipes, out, |recipe, out| {
        let mut merge = Command::new(&program);
        merge.arg(recipe).arg(out);
        merge
    })))
}
