//! What a host gives to a session: heads, and what is wanted of them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::Deserialize;

use crate::adapter::config::AdapterConfig;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::logs::history::History;
use crate::logs::metric::{Metric, MetricOptions, Outcome};
use crate::logs::read::read_metric;
use crate::logs::trainer::TrainerState;
use crate::merge::report;
use crate::merge::report::Weighting;
use crate::merge::{Chosen, MergeOptions};
use crate::method::product::{Measure, Rank, Space};
use crate::plan::Input;
use crate::weigh::choose::note_of_equal;
use crate::weigh::scheme::{Scheme, Weights};

/// A checkpoint as it comes over the border; oldest first, the last one names the output's files.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// How messages call it.
    pub name: String,
    /// The training step, where the metric comes from a log.
    pub step: Option<u64>,
    /// The text of its `adapter_config.json`.
    pub config: Option<String>,
    /// Its files.
    pub files: Vec<Head>,
}

/// The head of a safetensors file.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The file's name within the checkpoint.
    pub name: String,
    /// Its first [`crate::format::safetensors::Header::size`] bytes; more do no harm.
    pub bytes: Vec<u8>,
    /// Its whole length in bytes.
    pub length: u64,
}

/// What is wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// From checkpoints to weights.
    pub weighing: Weighing,
    /// What is averaged.
    #[serde(default)]
    pub space: Space,
    /// In product space, fail where an input lacks a module that others have.
    #[serde(default)]
    pub strict: bool,
    /// Of averaged LoRA factors, measure too how far they are from the average of the products; each is read twice then.
    #[serde(default = "off")]
    pub residual: Measure,
    /// The dtype of averaged tensors: `f32`, `bf16` or `f16`; none keeps the widest of the inputs.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Average factors of several runs all the same.
    #[serde(default)]
    pub allow_cross_run: bool,
    /// Let NaN and infinity through instead of failing.
    #[serde(default)]
    pub allow_non_finite: bool,
    /// Write the files anew where one checkpoint alone has weight, instead of copying its own.
    #[serde(default)]
    pub rewrite: bool,
    /// Most bytes that a job reads of one input; 256 KiB unless given.
    #[serde(default)]
    pub chunk: Option<u32>,
}

/// Nothing is measured unless that is asked for.
fn off() -> Measure {
    Measure::Off
}

/// From checkpoints to weights.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighing {
    /// The caller's own, divided by their sum.
    Explicit(Vec<f64>),
    /// Made by this crate before: they sum to 1 and are taken to the bit.
    Exact(Vec<f64>),
    /// By a scheme, from values that the caller has.
    Measured {
        /// One per checkpoint.
        values: Vec<f64>,
        /// Which way is better.
        goal: Goal,
        /// How badness becomes weight.
        scheme: Scheme,
        /// How hard a worse checkpoint is punished.
        penalty: f64,
    },
    /// By a scheme, from what the run logged.
    Logged {
        /// The texts of the `trainer_state.json` files of one run, in any order.
        logs: Vec<String>,
        /// Which metric, and how it is read.
        #[serde(default)]
        options: MetricOptions,
        /// How badness becomes weight.
        scheme: Scheme,
        /// How hard a worse checkpoint is punished.
        penalty: f64,
    },
}

impl Order {
    /// What is wanted of the merge itself.
    pub(super) fn options(&self) -> Result<MergeOptions> {
        let Self { strict, residual, allow_cross_run, allow_non_finite, rewrite, .. } = *self;
        let (dtype, space) = (self.dtype()?, self.space()?);
        Ok(MergeOptions { dtype, space, strict, residual, allow_cross_run, allow_non_finite, rewrite })
    }

    /// The dtype of averaged tensors.
    fn dtype(&self) -> Result<Option<Float>> {
        let dtype = |name: &String| {
            report::dtype_named(name).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("there is no dtype `{name}`"))
                    .help("use f32, bf16 or f16")
            })
        };
        self.dtype.as_ref().map(dtype).transpose()
    }

    /// The space, if its rank is one.
    fn space(&self) -> Result<Space> {
        let wrong = match self.space {
            Space::Product(Some(Rank::Fixed(0))) => "rank 0 leaves nothing",
            Space::Product(Some(Rank::Energy(share))) if !(0.0..=1.0).contains(&share) => {
                "the share of energy to keep is not in 0…1"
            }
            space => return Ok(space),
        };
        Err(Error::new(ErrorKind::Usage, wrong))
    }
}

/// Weigh the checkpoints, all of which are taken; with the metric, where the weights come from a log.
pub(super) fn choose(
    checkpoints: &[Checkpoint],
    inputs: Vec<Input>,
    configs: Vec<Option<AdapterConfig>>,
    weighing: &Weighing,
) -> Result<(Chosen, Option<Metric>)> {
    let mut metric = None;
    let mut chosen = match weighing {
        Weighing::Explicit(values) => Chosen::explicit(inputs, configs, values)?,
        Weighing::Exact(values) => Chosen::weighed(inputs, configs, Weights::normalised(values)?),
        Weighing::Measured { values, goal, scheme, penalty } => {
            let weights = Weights::new(values, *goal, *scheme, *penalty)?;
            let weighting = Weighting::new(*scheme, *penalty, None);
            Chosen { weighting, ..Chosen::weighed(inputs, configs, weights) }
        }
        Weighing::Logged { logs, options, scheme, penalty } => {
            let read = metric.insert(logged(checkpoints, logs, options)?);
            let values = read.values()?;
            let weights = Weights::named(&read.name, &values, read.goal, *scheme, *penalty)?;
            let told = Some(&*read).filter(|_| scheme.reads_metric());
            let weighting = Weighting::new(*scheme, *penalty, told);
            let mut notes = read.notes.clone();
            notes.extend(note_of_equal(&weights, &weighting, read));
            Chosen { weighting, notes, ..Chosen::weighed(inputs, configs, weights) }
        }
    };
    for (row, checkpoint) in chosen.rows.iter_mut().zip(checkpoints) {
        row.step = checkpoint.step;
    }
    for (row, outcome) in chosen.rows.iter_mut().zip(metric.iter().flat_map(|metric| &metric.readings)) {
        if let Outcome::Read(reading) = outcome {
            row.metric = Some(reading.value);
            row.source = Some(reading.source.to_string());
        }
    }
    Ok((chosen, metric))
}

/// The metric that the run logged for each checkpoint.
fn logged(checkpoints: &[Checkpoint], logs: &[String], options: &MetricOptions) -> Result<Metric> {
    let states = logs.iter().map(|log| TrainerState::parse(log)).collect::<Result<Vec<_>>>()?;
    let step = |checkpoint: &Checkpoint| {
        checkpoint.step.ok_or_else(|| {
            Error::new(ErrorKind::Metric, "has no step, so no logged metric belongs to it")
                .file(&*checkpoint.name)
        })
    };
    let steps = checkpoints.iter().map(step).collect::<Result<Vec<_>>>()?;
    let mut metric = read_metric(&History::new(states), &steps, options)?;
    metric.checkpoints = checkpoints.iter().map(|checkpoint| checkpoint.name.clone()).collect();
    Ok(metric)
}
