//! Merge training checkpoints on a machine: find them, weigh them, run the core's plan over their files.
//!
//! ```no_run
//! use mwa_host::{MergeOptions, Options};
//! let options = Options { inputs: vec!["runs/my-lora".into()], ..Options::default() };
//! let report = mwa_host::merge(&options, &MergeOptions::default(), "merged".as_ref(), &())?;
//! println!("{}", report.weighting.describe());
//! # Ok::<(), mwa::Error>(())
//! ```

mod board;
mod checkpoint;
mod choose;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub mod command;
mod compute;
mod cpu;
mod device;
mod execute;
mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "gpu_disabled.rs"]
pub mod gpu;
mod guard;
mod hash;
mod inspect;
pub mod memory;
mod merge;
mod output;
mod paced;
mod pass;
mod pickle;
mod product;
mod run;
mod same_run;
#[cfg(feature = "wasm")]
pub mod sandbox;
#[cfg(not(feature = "wasm"))]
#[path = "sandbox_disabled.rs"]
mod sandbox;
mod settings;
mod sha256;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
#[cfg(feature = "cli")]
mod show;
mod simd;
mod space;
mod tasks;
mod verify;

use core::time::Duration;
use std::path::PathBuf;
use std::thread;

use mwa::{Float, Goal, Result, Weights};

pub use device::{DeviceChoice, Gpus};
pub use execute::execute;
pub use guard::guard;
pub use inspect::{Inspection, inspect};
pub use merge::{merge, weights};
pub use mwa::report::{self, Report};
pub use mwa::{ChooseOptions, PENALTY, Rank, Selection, Space, WeightRule};
pub use paced::Paced;
pub use settings::Settings;
pub use simd::InstructionSet;
pub use verify::{Checked, State, Verified, verify};

/// The report's file name in a merged folder.
pub const REPORT: &str = "mwa-report.json";

/// Which checkpoints, and how they are weighed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Run folders, checkpoint folders, files.
    pub inputs: Vec<PathBuf>,
    /// The adapter to take from checkpoints that hold several.
    pub adapter: Option<String>,
    /// Which of the checkpoints found, and how they are weighed.
    pub choose: ChooseOptions,
    /// A table of metrics, instead of the run's own logs.
    pub metrics_file: Option<PathBuf>,
}

impl Options {
    /// Itself, unless its penalty or weights suit no checkpoints at all.
    fn checked(self) -> Result<Self> {
        match &self.choose.rule {
            WeightRule::Scheme { scheme, penalty } => Weights::new(&[1.0], Goal::Min, *scheme, *penalty)?,
            WeightRule::Explicit(values) => Weights::explicit(values)?,
        };
        Ok(self)
    }
}

/// How the merge is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions {
    /// The output dtype of averaged tensors; `None` keeps the widest of the inputs.
    pub dtype: Option<Float>,
    /// What is averaged.
    pub space: Space,
    /// Average the factors of adapters that are not of one run.
    pub allow_cross_run: bool,
    /// Fail where a module that an input lacks would count as zero.
    pub strict: bool,
    /// Do not measure how far averaged factors are from the average of their products.
    pub no_residual: bool,
    /// Replace an earlier merge in the output's place.
    pub force: bool,
    /// Threads and memory.
    pub machine: Machine,
}

/// How much machine to use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Bytes of buffers, on GPUs too; `None` for 64 MiB, or 256 MiB with a GPU.
    pub memory: Option<u64>,
    /// What computes.
    pub device: DeviceChoice,
}

/// More threads than this only cost memory; some systems refuse to start them.
const MOST_THREADS: usize = 1024;

impl Machine {
    fn threads(self) -> usize {
        self.threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
            .clamp(1, MOST_THREADS)
    }
}

/// Hears how far a merge is, and may stop it. `()` hears nothing.
pub trait Progress: Sync {
    /// Work begins: `bytes` of input will be read.
    fn start(&self, bytes: u64) {
        let _ = bytes;
    }
    /// So many more bytes were read and merged.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Something to know about this machine, not about the result: which device computes, and why.
    fn note(&self, note: &str) {
        let _ = note;
    }
    /// Work is done: kinds of work, and the time that all threads together have spent on each.
    fn timings(&self, timings: &[(&str, Duration)]) {
        let _ = timings;
    }
    /// Whether to stop as soon as possible, leaving nothing behind.
    fn stopped(&self) -> bool {
        false
    }
}

impl Progress for () {}
