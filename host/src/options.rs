//! What a merge on a machine can be told.

use std::path::PathBuf;
use std::thread;

use mwa::{ChooseOptions, Float, Goal, Result, Space, WeightRule, Weights};

use crate::engine::device::DeviceChoice;

pub use mwa::report::REPORT;

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
    pub(crate) fn checked(self) -> Result<Self> {
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
    pub(crate) fn threads(self) -> usize {
        self.threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
            .clamp(1, MOST_THREADS)
    }
}
