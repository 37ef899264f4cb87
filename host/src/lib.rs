//! Merge training checkpoints on a machine: find them, weigh them, run the core's plan over their files.
//!
//! ```no_run
//! use mwa_host::{MergeOptions, Options};
//! let options = Options { inputs: vec!["runs/my-lora".into()], ..Options::default() };
//! let report = mwa_host::merge(&options, &MergeOptions::default(), "merged".as_ref(), &())?;
//! println!("{}", report.weighting.describe());
//! # Ok::<(), mwa::Error>(())
//! ```

mod aggregate;
mod apply;
mod bind;
#[cfg(feature = "cli")]
mod cli;
mod convert;
mod engine;
mod extract;
mod find;
mod inspect;
mod io;
mod masks;
mod merge;
mod options;
mod own;
mod plot;
mod progress;
mod recover;
mod search;
mod shards;
mod verify;

pub use aggregate::{RoundOptions, aggregate};
pub use apply::apply;
pub use bind::guard::guard;
pub use bind::memory;
pub use bind::paced::Paced;
pub use bind::trials::Trials;
#[cfg(feature = "cli")]
pub use cli::{command, memory::Memory};
pub use convert::{Converted, Rank1, convert, moments};
pub use engine::device::{DeviceChoice, Gpus};
pub use engine::execute::execute;
pub use engine::gpu;
#[cfg(feature = "wasm")]
pub use engine::sandbox;
pub use engine::simd::InstructionSet;
pub use extract::extract;
pub use inspect::inspect;
pub use io::room::resize;
pub use masks::{Unmasked, masks, unmask};
pub use merge::{abort, drawn, merge, weights};
pub use mwa::Inspection;
pub use mwa::extract::ExtractRank;
pub use mwa::report::{self, Report};
pub use mwa::{ChooseOptions, PENALTY, Rank, SearchOptions, Selection, Space, WeightRule};
pub use options::{Machine, MergeOptions, Options, REPORT, names_of, parse as parse_options};
pub use progress::Progress;
pub use recover::{Wanted, recover};
pub use search::{
    Candidate, CommandEvaluator, Compared, Evaluator, Evaluators, NO_SCORE, SearchReport, ServerEvaluator,
    Tried, Watch, search,
};
pub use shards::{Sharded, Share, Shared, abort_shards, finish, shard, shards_of};
pub use verify::{Checked, State, Verified, verify};

/// The examples in the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
