//! Time and money of a merge that is too large to try: a model of a few measured numbers, and a check of it on merges that are not.

use std::path::{Path, PathBuf};

use crate::bench::cpu_of_a_merge;
use crate::inputs;
use crate::run::{Result, build, target};

const GB: f64 = 1e9;
/// Seconds of a core for each GB read and written: read, widen, sum and hash; narrow, hash and write.
const CPU_READ: f64 = 0.57;
const CPU_WRITTEN: f64 = 1.27;
/// … and for each GB that crosses https.
const CPU_NET: f64 = 1.2;
/// Seconds of a core for each tensor of each checkpoint, before the first byte: heads parsed, compared, planned.
const CPU_TENSOR: f64 = 12e-6;
/// What is had of a line: its share.
const LINE: f64 = 0.7;
/// Dollars for a GET and a PUT, and bytes of each.
const GET: (f64, f64) = (0.0004 / 1000.0, 16.0 * 1048576.0);
const PUT: (f64, f64) = (0.005 / 1000.0, 64.0 * 1048576.0);

/// A machine: Gb/s, cores, dollars an hour.
struct Node(f64, f64, f64);

/// A merge: inputs, bytes of each, and tensors of each.
struct Work {
    inputs: f64,
    bytes: f64,
    tensors: f64,
}

/// Ten checkpoints of a trillion parameters, bf16.
const LARGE: Work = Work { inputs: 10.0, bytes: 2e12, tensors: 72_000.0 };

/// Where the files lie.
enum Place {
    /// Object store: one process, which makes the output ready, sends it and reads it back.
    Store,
    /// A file system that all of so many nodes share, and what it gives to all together: each makes a share, in so many shards one after
    /// the other, and one reads the output back.
    Shared { nodes: f64, shards: f64, rate: f64 },
}

impl Work {
    fn read(&self) -> f64 {
        self.inputs * self.bytes
    }

    /// Seconds of one core for all.
    fn cpu(&self) -> f64 {
        (self.read() * CPU_READ + self.bytes * CPU_WRITTEN) / GB
    }

    fn plan(&self) -> f64 {
        self.inputs * self.tensors * CPU_TENSOR
    }

    /// Seconds, and of these those before the first byte and after the last.
    fn seconds(&self, node: &Node, place: &Place) -> (f64, f64, f64) {
        let Node(line, cores, _) = *node;
        let line = line / 8.0 * GB * LINE;
        match *place {
            Place::Store => {
                let cpu = self.cpu() + self.read() / GB * CPU_NET;
                let end = 2.0 * self.bytes / line;
                ((self.read() / line).max(cpu / cores) + self.plan() + end, self.plan(), end)
            }
            Place::Shared { nodes, shards, rate } => {
                let moved = (self.read() / (nodes * line)).max((self.read() + self.bytes) / rate);
                let (begin, end) = (self.plan() * shards, self.plan() + self.bytes / line.min(rate));
                (moved.max(self.cpu() / (nodes * cores)) + begin + end, begin, end)
            }
        }
    }

    fn requests(&self) -> f64 {
        self.read() / GET.1 * GET.0 + self.bytes / PUT.1 * PUT.0
    }
}

/// `cargo xtask model`
pub(crate) fn tables() -> Result {
    println!("Ten checkpoints of 2 TB, 72,000 tensors each, into one\n");
    println!(
        "| node | n | where | time | of it before and after | nodes $ | requests $ |\n|---|---|---|---|---|---|---|"
    );
    let nodes = [
        ("25 Gb/s, 16 cores", Node(25.0, 16.0, 1.1)),
        ("100 Gb/s, 64 cores", Node(100.0, 64.0, 4.5)),
        ("200 Gb/s, 64 cores", Node(200.0, 64.0, 5.0)),
    ];
    for (name, node) in &nodes {
        row(name, 1.0, "store", &Place::Store, node, &format!("{:.2}", LARGE.requests()));
        for n in [1.0, 4.0, 16.0, 64.0] {
            let place = Place::Shared { nodes: n, shards: 4.0, rate: 100.0 * GB };
            row(name, n, "shared, 100 GB/s", &place, node, "–");
        }
        let place = Place::Shared { nodes: 16.0, shards: 4.0, rate: 20.0 * GB };
        row(name, 16.0, "shared, 20 GB/s", &place, node, "–");
    }
    Ok(())
}

fn row(name: &str, n: f64, at: &str, place: &Place, node: &Node, requests: &str) {
    let (all, begin, end) = LARGE.seconds(node, place);
    let dollars = n * node.2 * all / 3600.0;
    println!("| {name} | {n} | {at} | {} | {} | {dollars:.0} | {requests} |", clock(all), clock(begin + end));
}

fn clock(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// `cargo xtask model --check`: seconds of CPUs that merges take here, beside the model's.
pub(crate) fn check() -> Result {
    build()?;
    println!(
        "| run | read GB | written GB | model, CPU s | measured, best of 3 | model / measured |\n|---|---|---|---|---|---|"
    );
    let large = target().join("bench/files");
    let lora = target().join("bench/lora");
    let files = inputs::adapters(&lora, &inputs::LLAMA_7B, 8)?;
    compare("8 LoRA checkpoints of a 7B model, bf16", &lora, &files)?;
    let files = inputs::large(&large)?;
    compare("8 checkpoints of 512 MB, bf16", &large, &files)
}

fn compare(name: &str, folder: &Path, files: &[PathBuf]) -> Result {
    let len = |path: &PathBuf| path.metadata().map(|it| it.len() as f64).map_err(|error| error.to_string());
    let bytes = files.iter().map(len).sum::<Result<f64>>()?;
    let inputs = files.len() as f64;
    let work = Work { inputs, bytes: bytes / inputs, tensors: 0.0 };
    let measured = cpu_of_a_merge(folder)?;
    let (read, written, model) = (work.read() / GB, work.bytes / GB, work.cpu());
    println!("| {name} | {read:.2} | {written:.2} | {model:.2} | {measured:.2} | {:.2} |", model / measured);
    Ok(())
}
