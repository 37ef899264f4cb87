//! What a host can read, and what of it the user wants.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::format::Format;
use crate::format::gguf::Gguf;
use crate::format::safetensors::Safetensors;
use crate::format::torch::Torch;
use crate::logs::kind::LogKind;
use crate::method::curved::{Curvature, Normalise};

/// The rows of formats and logs that a host hands over, so that it links none that it does not use.
#[derive(Clone, Copy)]
pub struct Readers {
    /// Formats of files with weights, the most particular first.
    pub formats: &'static [&'static dyn Format],
    /// Kinds of logs, the best first.
    pub logs: &'static [LogKind],
}

impl Readers {
    /// All that there is.
    pub const ALL: Self = Self { formats: &[&Torch, &Gguf, &Safetensors], logs: LogKind::ALL };
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("formats", &self.formats.len()).field("logs", &self.logs).finish()
    }
}

/// How a run is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The adapter to take from checkpoints that hold several.
    pub adapter: Option<String>,
    /// The set of weights to take from files that hold several.
    pub weights_key: Option<String>,
    /// The log to take metrics from, a file or a folder, instead of what lies in the run's folder.
    pub metrics_from: Option<String>,
    /// The base of which the run's checkpoints are tasks: a checkpoint's folder or file.
    pub base: Option<String>,
    /// Where the second moments of the checkpoints are, if these are wanted.
    pub moments: Option<MomentsWanted>,
}

/// Where second moments are looked for.
#[derive(Clone, Debug, Default)]
pub struct MomentsWanted {
    /// A file for each checkpoint, in their order; none for what lies in each.
    pub files: Vec<String>,
    /// Whether it counts after how few steps they were taken.
    pub(crate) is_corrected: bool,
}

impl MomentsWanted {
    pub(crate) fn new(curvature: Curvature, files: Vec<String>) -> Self {
        Self { files, is_corrected: curvature.normalise == Normalise::None }
    }
}
