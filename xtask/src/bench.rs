//! Measure whole merges side by side, in rounds: the floor, ours, and other tools if they are there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

mod growth;
mod methods;
mod rounds;
mod scale;
mod search;

use crate::bindings;
use crate::inputs;
use crate::python::{self, Python};
use crate::run::{Result, build, cargo, output, root, run, target};

/// The checkpoints of the benchmark of full models.
const FULL_STEPS: [u64; 4] = [100, 200, 300, 400];

/// What a contender is called, and how one run of it is started; it writes to `out` and nowhere else.
struct Contender {
    name: &'static str,
    commands: Vec<Command>,
}

/// One run: wall seconds, CPU seconds of all threads, and peak resident bytes.
#[derive(Clone, Copy, Default)]
struct Sample {
    seconds: f64,
    cpu: f64,
    peak: u64,
}

/// `cargo xtask bench …`
pub(crate) fn bench(what: &[&str]) -> Result {
    let (what, runs) = match *what {
        [.., last] if last.parse::<usize>().is_ok_and(|runs| runs > 0) => {
            (&what[..what.len() - 1], last.parse().expect("parsed just above"))
        }
        _ => (what, 5),
    };
    match what {
        [] => {
            adapters(runs)?;
            full(runs)?;
            product(runs)
        }
        ["adapters"] => adapters(runs),
        ["full"] => full(runs),
        ["methods"] => methods::methods(runs),
        ["methods", "curvature"] => methods::curvature(runs, false),
        ["methods", "curvature", "small"] => methods::curvature(runs, true),
        ["rounds"] => rounds::rounds(runs),
        ["growth"] => growth::growth(runs),
        ["product"] => product(runs),
        ["scale"] => scale::scale(runs),
        ["store"] => store(runs),
        ["search"] => search::search(&inputs::LLAMA_7B, "lora-ten", runs),
        ["search", "small"] => search::search(&inputs::LLAMA_SMALL, "lora-small-ten", runs),
        ["bindings"] => {
            let folder = target().join("bench/adapters");
            inputs::adapters(&folder, &inputs::LLAMA_7B, 8)?;
            bindings::bench(&folder, runs)
        }
        ["go"] => {
            let folder = target().join("bench/adapters");
            inputs::adapters(&folder, &inputs::LLAMA_7B, 8)?;
            crate::go::bench(&folder, runs)
        }
        ["gpu"] => gpu(runs),
        ["kernels"] => run(cargo(["bench", "--package", "mwa-host", "--bench", "kernels"])),
        ["plan"] => run(cargo(["bench", "--package", "mwa-host", "--bench", "plan"])),
        ["wasm"] => crate::hashes::bench(),
        _ => Err(format!("there is no benchmark called `{}`; see cargo xtask help", what.join(" "))),
    }
}

fn adapters(runs: usize) -> Result {
    build()?;
    let folder = target().join("bench/lora");
    let files = inputs::adapters(&folder, &inputs::LLAMA_7B, 8)?;
    let out = target().join("bench/out");
    let mut contenders = vec![
        floor(&files, 1, &out),
        ours("mwa merge --residual off", &folder, &out),
        ours("mwa merge", &folder, &out),
    ];
    contenders.extend(torch(&files, &out));
    measure("8 LoRA checkpoints of a 7B model, r 16, bf16, 80 MB each", contenders, runs, &out)
}

fn full(runs: usize) -> Result {
    build()?;
    let folder = target().join("bench/sharded");
    let models = inputs::full(&folder, &FULL_STEPS)?;
    let files: Vec<_> = models.iter().flat_map(|model| inputs::shards(model)).collect();
    let out = target().join("bench/out");
    let mut contenders = vec![floor(&files, inputs::SHARDS, &out), ours("mwa merge", &folder, &out)];
    let equal = models.iter().map(|model| (model, "      weight: 0.25\n".to_owned()));
    contenders.extend(mergekit(&recipe("merge_method: linear\n", equal), &folder, &out)?);
    measure("4 full models, bf16, 1.1 GB in 4 shards each", contenders, runs, &out)
}

/// Out of a store on this machine, beside a plain download.
fn store(runs: usize) -> Result {
    let python = match python::made("requirements-cloud.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return Err(why),
    };
    run(cargo(["build", "--release", "--package", "mwa-host", "--features", "cloud"]))?;
    let mut bench = Command::new(python);
    bench.arg("tests/cloud_speed.py").args([target().join("release/mwa"), target().join("bench/store")]);
    bench.arg(runs.to_string()).current_dir(root());
    run(bench)
}

fn gpu(runs: usize) -> Result {
    run(cargo(["bench", "--package", "mwa-host", "--bench", "gpu"]))?;
    build()?;
    let folder = target().join("bench/files");
    let files = inputs::large(&folder)?;
    let out = target().join("bench/out");
    let lines = ["mwa merge --device cpu", "mwa merge --device gpu", "mwa merge --device auto"];
    let mut contenders = vec![floor(&files, 1, &out)];
    contenders.extend(lines.map(|line| ours(line, &folder, &out)));
    contenders.extend(torch(&files, &out));
    contenders.extend(torch_cuda(&files, &out));
    measure("8 checkpoints, bf16, 512 MB each", contenders, runs, &out)?;
    for line in lines {
        println!("\n{line} --timings: seconds of all threads together");
        let mut merge = ours(line, &folder, &out).commands.remove(0);
        let said = merge.args(["--timings", "--force"]).stdin(Stdio::null()).stdout(Stdio::null()).output();
        print!("{}", String::from_utf8_lossy(&said.map_err(|error| error.to_string())?.stderr));
    }
    let _ = fs::remove_dir_all(&out);
    Ok(())
}

/// The program, as a line names it: what follows the first word is what it is given.
fn mwa(line: &str) -> Command {
    let mut command = Command::new(target().join("release/mwa"));
    command.args(line.split(' ').skip(1));
    command
}

/// Reading every input and writing one output: no merge can do with less.
fn floor(files: &[PathBuf], outputs: usize, out: &Path) -> Contender {
    let mut read = Command::new("cat");
    read.args(files);
    let mut write = Command::new("cp");
    write.args(&files[..outputs]).arg(out);
    Contender { name: "floor (cat all, cp one)", commands: vec![read, write] }
}

/// `line` is `mwa merge` and its options; all checkpoints of the run are merged.
fn ours(line: &'static str, run: &Path, out: &Path) -> Contender {
    let mut merge = mwa(line);
    merge.args(["--select", "all"]).arg(run).arg("--output").arg(out.join("merged"));
    Contender { name: line, commands: vec![merge] }
}

/// The least CPU seconds of three merges of a folder's checkpoints.
pub(crate) fn cpu_of_a_merge(folder: &Path) -> Result<f64> {
    let out = target().join("bench/out");
    let mut merges = [ours("mwa merge --residual off --device cpu", folder, &out)];
    let samples = sampled(&mut merges, 3, &out)?;
    Ok(samples[0].iter().map(|sample| sample.cpu).fold(f64::INFINITY, f64::min))
}

/// What a user would write by hand with torch.
const TORCH_LOOP: &str = "\
import sys, torch
from safetensors.torch import load_file, save_file
device, out, *files = sys.argv[1:]
total = {}
for file in files:
    for name, tensor in load_file(file, device=device).items():
        part = tensor.float() / len(files)
        total[name] = total[name].add_(part) if name in total else part
save_file({name: tensor.to(torch.bfloat16) for name, tensor in total.items()}, out)
";

fn torch(files: &[PathBuf], out: &Path) -> Option<Contender> {
    let mut merge = python_with("import torch, safetensors", TORCH_LOOP)?;
    merge.arg("cpu").arg(out.join("merged.safetensors")).args(files);
    Some(Contender { name: "torch loop", commands: vec![merge] })
}

fn torch_cuda(files: &[PathBuf], out: &Path) -> Option<Contender> {
    let mut merge = python_with("import torch, safetensors; torch.zeros(1, device='cuda')", TORCH_LOOP)?;
    merge.arg("cuda").arg(out.join("merged.safetensors")).args(files);
    Some(Contender { name: "torch loop on CUDA", commands: vec![merge] })
}

/// PEFT's own best rank-16 merge. It needs a model to hang the adapters on: one of the right shapes, made here.
const PEFT_SVD: &str = "\
import sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
from peft import PeftModel
out, layers, hidden, inner, *folders = sys.argv[1:]
model = LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=int(hidden), intermediate_size=int(inner),
    num_hidden_layers=int(layers), num_attention_heads=8, num_key_value_heads=8))
model = PeftModel.from_pretrained(model, folders[0], adapter_name='0')
for i, folder in enumerate(folders[1:], 1):
    model.load_adapter(folder, adapter_name=str(i))
names = [str(i) for i in range(len(folders))]
model.add_weighted_adapter(names, [1 / len(names)] * len(names), 'merged', combination_type='svd', svd_rank=16)
model.save_pretrained(out, selected_adapters=['merged'])
";

fn peft(llama: &inputs::Llama, files: &[PathBuf], out: &Path) -> Option<Contender> {
    let mut merge = python_with("import torch, transformers, peft", PEFT_SVD)?;
    merge.arg(out.join("merged"));
    merge.args([llama.layers, llama.hidden, llama.inner].map(|n| n.to_string()));
    merge.args(files.iter().filter_map(|file| file.parent()));
    Some(Contender { name: "PEFT svd, process with model", commands: vec![merge] })
}

/// A command that runs `script`, if the interpreter of `MWA_PYTHON` can do the imports.
fn python_with(imports: &str, script: &str) -> Option<Command> {
    Some(scripted(&python_that_has(imports)?, script))
}

/// The interpreter of `MWA_PYTHON`, if it can do the imports.
fn python_that_has(imports: &str) -> Option<PathBuf> {
    let python = python::own()?;
    let mut has = Command::new(&python);
    has.args(["-c", imports]);
    output(has).inspect_err(|why| println!("not measured: {why}")).ok().map(|_| python)
}

fn scripted(python: &Path, script: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", script]);
    command
}

fn product(runs: usize) -> Result {
    build()?;
    let out = target().join("bench/out");
    let merge = "mwa merge --space product";
    let (small, large) = (target().join("bench/lora-small"), target().join("bench/lora-ten"));
    let files = inputs::adapters(&small, &inputs::LLAMA_SMALL, 4)?;
    let mut contenders = vec![floor(&files, 1, &out), ours(merge, &small, &out)];
    contenders.extend(peft(&inputs::LLAMA_SMALL, &files, &out));
    measure("best rank 16 of 4 LoRA adapters, r 16, 28 modules of 1024", contenders, runs, &out)?;
    let files = inputs::adapters(&large, &inputs::LLAMA_7B, 10)?;
    let four = "mwa merge --space product --last 4";
    let contenders = vec![floor(&files, 1, &out), ours(four, &large, &out), ours(merge, &large, &out)];
    measure("best rank 16 of LoRA adapters of a 7B model, r 16: 4 and 10", contenders, runs, &out)
}

/// A recipe of mergekit's: what stands at its head, then models, each with lines of its parameters.
fn recipe(head: &str, models: impl IntoIterator<Item = (impl AsRef<Path>, String)>) -> String {
    let mut text = format!("dtype: bfloat16\n{head}models:\n");
    for (model, parameters) in models {
        text += &format!("  - model: {}\n    parameters:\n{parameters}", model.as_ref().display());
    }
    text
}

/// mergekit by a recipe, which is kept beside the models.
fn mergekit(recipe: &str, folder: &Path, out: &Path) -> Result<Option<Contender>> {
    let program = std::env::var_os("MWA_MERGEKIT").unwrap_or_else(|| "mergekit-yaml".into());
    if !is_there(&program) {
        return Ok(None);
    }
    let path = folder.with_extension("yaml");
    fs::write(&path, recipe).map_err(|error| error.to_string())?;
    let mut merge = Command::new(program);
    merge.arg(path).arg(out.join("merged"));
    Ok(Some(Contender { name: "mergekit-yaml", commands: vec![merge] }))
}

/// Whether a program of mergekit's runs here; it is said where it does not.
fn is_there(program: &OsStr) -> bool {
    let mut help = Command::new(program);
    help.arg("--help");
    output(help).inspect_err(|why| println!("no mergekit: {why}")).is_ok()
}

/// Time contenders and print their table, the first of them being the floor.
fn measure(title: &str, mut contenders: Vec<Contender>, runs: usize, out: &Path) -> Result {
    let samples = sampled(&mut contenders, runs, out)?;
    println!("\n{title}; {}; {runs} runs, page cache warm\n", machine());
    println!(
        "| what | median s | min s | × floor | CPU s | × floor | peak RSS MB |\n|---|---|---|---|---|---|---|"
    );
    let floor = Sample::median(&samples[0]);
    for (contender, samples) in contenders.iter().zip(&samples) {
        let min = samples.iter().map(|sample| sample.seconds).fold(f64::INFINITY, f64::min);
        let Sample { seconds, cpu, peak } = Sample::median(samples);
        let (times, cpu_times) = (seconds / floor.seconds, cpu / floor.cpu);
        let peak = peak / 1_000_000;
        let name = contender.name;
        println!("| {name} | {seconds:.3} | {min:.3} | {times:.2} | {cpu:.3} | {cpu_times:.2} | {peak} |");
    }
    Ok(())
}

/// Warm the page cache with one round, then time `runs` rounds, everyone once in each; the samples of each.
fn sampled(contenders: &mut [Contender], runs: usize, out: &Path) -> Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); contenders.len()];
    for round in 0..=runs {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let _ = fs::remove_dir_all(out);
            fs::create_dir_all(out).map_err(|error| error.to_string())?;
            let sample = once(contender)?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let _ = fs::remove_dir_all(out);
    Ok(samples)
}

impl Sample {
    /// The median of the seconds and of the CPU seconds, and the highest peak.
    fn median(samples: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(samples.iter().map(value).collect());
        let peak = samples.iter().map(|sample| sample.peak).max().unwrap_or(0);
        Self { seconds: of(|sample| sample.seconds), cpu: of(|sample| sample.cpu), peak }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

fn once(contender: &mut Contender) -> Result<Sample> {
    let start = Instant::now();
    let mut sample = Sample::default();
    for command in &mut contender.commands {
        let log = File::create(target().join("bench/log.txt")).map_err(|error| error.to_string())?;
        command.current_dir(root()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| format!("{}: {error}", contender.name))?;
        let (succeeded, used) = wait(child)?;
        if !succeeded {
            let said = fs::read_to_string(target().join("bench/log.txt")).unwrap_or_default();
            return Err(format!("{} failed: {}", contender.name, said.trim()));
        }
        sample.peak = sample.peak.max(used.peak);
        sample.cpu += used.cpu;
    }
    Ok(Sample { seconds: start.elapsed().as_secs_f64(), ..sample })
}

/// Wait for the end; whether it succeeded, and what it used of CPUs and memory.
#[cfg(unix)]
fn wait(child: std::process::Child) -> Result<(bool, Sample)> {
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: the child is ours and not yet waited for; both pointers are to live locals.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    let peak = u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit;
    Ok((status == 0, Sample { cpu, peak, ..Sample::default() }))
}

/// Wait for the end; neither CPU time nor memory is measured here.
#[cfg(not(unix))]
fn wait(mut child: std::process::Child) -> Result<(bool, Sample)> {
    Ok((child.wait().map_err(|error| error.to_string())?.success(), Sample::default()))
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model);
    format!("{}, {cores} cores", model.unwrap_or(std::env::consts::ARCH))
}
