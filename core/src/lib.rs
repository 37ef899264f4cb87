//! Metrics-weighted averaging of model checkpoints: the core that weighs, plans and merges.
//!
//! The core sees heads, never files. From the logs of a run it reads one metric per checkpoint ([`read_metric`]),
//! turns metrics into weights ([`Weights`]), checks which inputs may be averaged ([`agree`]), and lays out a
//! [`Plan`]: the heads of the output files, and [`Job`]s, each a few byte ranges to read, one to write, and the
//! arithmetic between them. A host runs the jobs in any order, on any thread, and gets the same bytes.
//!
//! Merging two files that are in memory, three quarters of the first and a quarter of the second:
//!
//! ```
//! use mwa::safetensors::Header;
//! use mwa::{Dtype, Input, Plan, Recipe, Shard, Weights};
//!
//! # fn file(values: [f32; 2]) -> Vec<u8> {
//! #     let header = Header::layout(vec![("w".into(), Dtype::F32, vec![2])], Default::default()).unwrap();
//! #     let data = values.iter().flat_map(|v| v.to_le_bytes());
//! #     header.to_bytes().into_iter().chain(data).collect()
//! # }
//! let files = [file([1.0, 2.0]), file([5.0, -2.0])];
//!
//! let mut inputs = Vec::new();
//! for (i, bytes) in files.iter().enumerate() {
//!     let header = Header::parse(bytes, bytes.len() as u64)?;
//!     inputs.push(Input { name: format!("file {i}"), files: vec![Shard { name: "out.safetensors".into(), header }] });
//! }
//! let plan = Plan::new(&inputs, &Weights::explicit(&[0.75, 0.25])?, &Recipe::default())?;
//!
//! let mut merged = plan.outputs()[0].header.to_bytes();
//! for job in plan.jobs(1 << 20) {
//!     let bytes = |read: mwa::Read| &files[read.input][read.range.start as usize..read.range.end as usize];
//!     let reads: Vec<_> = job.reads().map(bytes).collect();
//!     let write = job.write().range;
//!     let mut piece = vec![0; (write.end - write.start) as usize];
//!     job.run(&reads, &mut piece)?;
//!     merged.extend(piece); // jobs come in the order of the output
//! }
//! assert_eq!(merged, file([2.0, 1.0]));
//! # Ok::<(), mwa::Error>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod adapter;
pub mod border;
pub mod convert;
pub mod digest;
mod dtype;
mod error;
pub mod extract;
pub mod files;
pub mod fold;
pub mod format;
pub mod kernel;
mod linalg;
mod logs;
pub mod masks;
pub mod merge;
mod method;
pub mod options;
mod plan;
mod room;
mod run;
pub mod search;
mod text;
mod weigh;

pub use adapter::agree::{Agreement, Candidate, Metadata, agree, agree_as_products, agree_metadata};
pub use adapter::config::AdapterConfig;
pub use adapter::kinds::{Exactness, METHODS, Verdict, method};
pub use border::Session;
pub use dtype::{Dtype, Float};
pub use error::{Error, ErrorKind, Result};
pub use files::{Files, Maybe, Stop};
pub use format::known::Known;
pub use format::{foreign, safetensors};
pub use logs::goal::Goal;
pub use logs::history::History;
pub use logs::kind::LogKind;
pub use logs::metric::{Metric, MetricOptions, Outcome, Part, Reading, Source};
pub use logs::read::read_metric;
pub use logs::trainer::TrainerState;
pub use merge::card::card;
pub use merge::report::{self, Report};
pub use merge::same_run::Sample;
pub use merge::{Merge, MergeOptions};
pub use method::blend::{Agreeing, Blend, BlendName, DensityPer, LAMBDA, Trimming};
pub use method::curved::{Curvature, Moments, Normalise};
pub use method::product::{Factors, Measure, Method, ModuleJob, Products, Rank, Residual, Space};
pub use method::trim::Thresholds;
pub use options::{Options, SearchOptions};
pub use plan::{Input, Job, Plan, Read, Recipe, Shard, Write};
pub use run::checkpoint;
pub use run::checkpoint::Checkpoint;
pub use run::chosen::WRITTEN_AS;
pub use run::inspection::{self, Inspection};
pub use run::log::FoundLog;
pub use run::moments::{FoundMoments, moments_at};
pub use run::readers::{MomentsWanted, OpenOptions, Readers};
pub use run::{Run, UserTable, WeighOptions, Weighed};
pub use text::escape::{markdown, readable, shell_word};
pub use text::index::Index;
pub use text::span::Span;
pub use text::spelling::closest;
pub use weigh::angles::Angle;
pub use weigh::choose::{Choice, ChooseOptions, Listed, Metrics, PENALTY, Selection, WeightRule, choose};
pub use weigh::combine::Combine;
pub use weigh::decay::{Averaging, Curve, Per, Positions};
pub use weigh::exact;
pub use weigh::federated;
pub use weigh::modules::Groups;
pub use weigh::parts::Parts;
pub use weigh::robust::{Robust, Rule};
pub use weigh::scheme::{Needs, Scheme, Weights};
pub use weigh::separate::Separation;
pub use weigh::server;
pub use weigh::window::Pick;

/// The examples in the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
