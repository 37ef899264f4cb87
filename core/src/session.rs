//! A merge in the hands of a host that moves bytes and knows nothing else: opened with heads, run job by job.
//!
//! This is what crosses every language border: the component, the core module and the bindings translate it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::report::{self, HashedFile, Report, Weighting};
use crate::safetensors::Header;
use crate::{
    AdapterConfig, Cursor, Error, ErrorKind, Float, Goal, History, Input, Job, Merge, MergeOptions, Metric,
    MetricOptions, Outcome, Plan, Reading, Result, Scheme, Shard, Space, TrainerState, Weights, card,
    read_metric, shard_index,
};

/// Bytes that a job reads of one input unless the host says otherwise: fits caches.
const CHUNK: u32 = 256 << 10;
/// Most bytes that a job reads of all inputs together: hosts limit what one call may copy.
const MOST: usize = 8 << 20;

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
    /// Its first [`Header::size`] bytes; more do no harm.
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
    /// The dtype of averaged tensors: `f32`, `bf16` or `f16`; none keeps the widest of the inputs.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Let NaN and infinity through instead of failing.
    #[serde(default)]
    pub allow_non_finite: bool,
    /// Most bytes that a job reads of one input; 256 KiB unless given.
    #[serde(default)]
    pub chunk: Option<u32>,
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

/// What a host has found out when all is written, for the report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The way from the output folder to each checkpoint; may be empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// SHA-256 in hex of each checkpoint's files.
    pub inputs: Vec<Vec<String>>,
    /// SHA-256 in hex of each output file.
    pub outputs: Vec<String>,
}

/// A file of text that belongs beside the weights: its name and what is in it.
pub type Text = (String, String);

/// A merge under way.
#[derive(Debug)]
pub struct Session {
    checkpoints: Vec<Named>,
    weights: Weights,
    weighting: Weighting,
    metric: Option<Metric>,
    plan: Plan,
    heads: Vec<Vec<u8>>,
    dtype: Option<Float>,
    /// the checkpoint that gives the config
    owner: usize,
    config: Option<AdapterConfig>,
    notes: Vec<String>,
    chunk: usize,
    next: Cursor,
    handed_out: BTreeMap<u64, Cursor>,
    count: u64,
    underflowed: u64,
}

/// What the report says of an input.
#[derive(Debug)]
struct Named {
    name: String,
    step: Option<u64>,
    files: Vec<(String, u64)>,
}

impl Session {
    /// Read the heads, weigh, check who may be averaged with whom, and plan.
    ///
    /// # Errors
    /// Whatever is wrong with heads, configs, logs, weights, or the order itself ([`ErrorKind::Usage`]).
    pub fn open(checkpoints: Vec<Checkpoint>, order: &Order) -> Result<Self> {
        let dtype = order.dtype.as_deref().map(averaged).transpose()?;
        let mut inputs = Vec::new();
        let mut configs = Vec::new();
        for checkpoint in &checkpoints {
            let at = |error: Error| error.file(&*checkpoint.name);
            if checkpoint.files.is_empty() {
                return Err(at(Error::new(ErrorKind::Input, "has no files")));
            }
            let shard = |head: &Head| {
                let header = Header::parse(&head.bytes, head.length)?;
                Ok(Shard { name: head.name.clone(), header })
            };
            let files = checkpoint.files.iter().map(shard).collect::<Result<Vec<_>>>().map_err(at)?;
            inputs.push(Input { name: checkpoint.name.clone(), files });
            configs.push(checkpoint.config.as_deref().map(AdapterConfig::parse).transpose().map_err(at)?);
        }
        let (weights, weighting, metric) = weigh(&checkpoints, &order.weighing)?;
        if weights.values().len() != inputs.len() {
            let (have, want) = (weights.values().len(), inputs.len());
            let detail = format!("there are {have} weights for {want} checkpoints");
            return Err(Error::new(ErrorKind::Weights, detail).help("give one per checkpoint, in order"));
        }
        let options = MergeOptions {
            dtype,
            space: Space::Factors,
            allow_non_finite: order.allow_non_finite,
            rewrite: false,
        };
        let optional: Vec<_> = configs.iter().map(Option::as_ref).collect();
        let merge = Merge::new(&inputs, &optional, &weights, options)?;
        let plan = match merge.copied {
            Some(only) => Plan::copy(&inputs, only),
            None => Plan::new(&inputs, &weights, &merge.recipe)?,
        };
        let owner = merge.copied.unwrap_or(inputs.len() - 1);
        let head = |(i, output): (usize, &Shard)| match merge.copied {
            Some(only) => {
                let bytes = &checkpoints[only].files[i].bytes;
                bytes[..usize::try_from(output.header.data_start()).unwrap_or(usize::MAX).min(bytes.len())]
                    .to_vec()
            }
            None => output.header.to_bytes(),
        };
        let heads = plan.outputs().iter().enumerate().map(head).collect();
        let mut notes = metric.as_ref().map(|metric| metric.notes.clone()).unwrap_or_default();
        notes.extend(merge.notes);
        let most = usize::try_from(order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let named = |checkpoint: Checkpoint| Named {
            name: checkpoint.name,
            step: checkpoint.step,
            files: checkpoint.files.into_iter().map(|file| (file.name, file.length)).collect(),
        };
        Ok(Self {
            chunk: most.min(MOST / inputs.len()).max(1),
            checkpoints: checkpoints.into_iter().map(named).collect(),
            weights,
            weighting,
            metric,
            plan,
            heads,
            dtype,
            owner,
            config: configs.swap_remove(owner),
            notes,
            next: Cursor::default(),
            handed_out: BTreeMap::new(),
            count: 0,
            underflowed: 0,
        })
    }

    /// The weights, one per checkpoint.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The metric that the weights come from, where they come from a log.
    #[must_use]
    pub fn metric(&self) -> Option<&Metric> {
        self.metric.as_ref()
    }

    /// The files to write: name, head, and whole length in bytes.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (&str, &[u8], u64)> {
        let each = self.plan.outputs().iter().zip(&self.heads);
        each.map(|(file, head)| (file.name.as_str(), head.as_slice(), file.header.file_len()))
    }

    /// What the user should be told, so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.notes.iter().cloned().chain(Merge::note_underflow(&self.plan, self.underflowed)).collect()
    }

    /// The next job and its number; `None` after the last. Many may be under way, and finish in any order.
    pub fn next_job(&mut self) -> Option<(u64, Job<'_>)> {
        let (job, next) = self.plan.job(self.next, self.chunk)?;
        self.handed_out.insert(self.count, self.next);
        self.next = next;
        self.count += 1;
        Some((self.count - 1, job))
    }

    /// The lengths of the chunks that a job reads, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out.
    pub fn lengths(&self, number: u64) -> Result<Vec<usize>> {
        let job = self.job(number)?;
        let length = |read: crate::Read| usize::try_from(read.range.end - read.range.start);
        Ok(job.reads().map(|read| length(read).expect("a chunk is at most MOST bytes")).collect())
    }

    fn job(&self, number: u64) -> Result<Job<'_>> {
        let at = self.handed_out.get(&number).copied();
        let job = at.and_then(|at| self.plan.job(at, self.chunk));
        job.map(|(job, _)| job).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("job {number} is not handed out, or was run already"))
                .help("run each job once, by the number that came with it")
        })
    }

    /// Run a job: `chunks` are the bytes of its reads in order; the result is the bytes of its write.
    ///
    /// A job that succeeded is done with; one that failed can be run again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out or the chunks have other lengths; else as [`Job::run`].
    pub fn run(&mut self, number: u64, chunks: &[&[u8]]) -> Result<Vec<u8>> {
        let job = self.job(number)?;
        let wanted: Vec<u64> = job.reads().map(|read| read.range.end - read.range.start).collect();
        let given: Vec<u64> = chunks.iter().map(|chunk| chunk.len() as u64).collect();
        if wanted != given {
            let detail = format!("job {number} reads chunks of {wanted:?} bytes, but got {given:?}");
            return Err(Error::new(ErrorKind::Usage, detail).help("give the bytes of each read, in order"));
        }
        let write = job.write().range;
        let length =
            usize::try_from(write.end - write.start).expect("a job writes at most eight bytes per element");
        let mut out = vec![0; length];
        self.underflowed += job.run(chunks, &mut out)?.underflowed;
        self.handed_out.remove(&number);
        Ok(out)
    }

    /// The files of text that belong beside the weights: shard index, adapter config, model card and report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file.
    pub fn texts(&self, found: &Found) -> Result<Vec<Text>> {
        let report = self.report(found)?;
        let mut texts: Vec<_> = shard_index(self.plan.outputs()).into_iter().collect();
        if let Some(config) = &self.config {
            texts.push(("adapter_config.json".to_string(), config.text().to_string()));
        }
        texts.push(("README.md".to_string(), card(&report, self.config.as_ref())));
        texts.push(("mwa-report.json".to_string(), report.to_json()));
        Ok(texts)
    }

    /// The report of the merge.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file.
    pub fn report(&self, found: &Found) -> Result<Report> {
        let is_whole = found.outputs.len() == self.heads.len()
            && found.inputs.len() == self.checkpoints.len()
            && found.inputs.iter().zip(&self.checkpoints).all(|(a, b)| a.len() == b.files.len());
        if !is_whole {
            return Err(Error::new(ErrorKind::Usage, "the report needs one SHA-256 per file, in order"));
        }
        let readings = self.metric.iter().flat_map(|metric| &metric.readings).map(|outcome| match outcome {
            Outcome::Read(reading) => Some(*reading),
            _ => None,
        });
        let readings: Vec<Option<Reading>> = readings.collect();
        let hashed = |(name, bytes): &(String, u64), sha256: &String| HashedFile {
            name: name.clone(),
            bytes: *bytes,
            sha256: sha256.clone(),
        };
        let inputs = self.checkpoints.iter().enumerate().map(|(i, checkpoint)| report::Input {
            name: checkpoint.name.clone(),
            path: found.paths.get(i).unwrap_or(&checkpoint.name).clone(),
            step: checkpoint.step,
            metric: readings.get(i).copied().flatten().map(|reading| reading.value),
            source: readings.get(i).copied().flatten().map(|reading| reading.source.to_string()),
            weight: self.weights.values()[i],
            files: checkpoint
                .files
                .iter()
                .zip(&found.inputs[i])
                .map(|(file, hash)| hashed(file, hash))
                .collect(),
        });
        let outputs = self.plan.outputs().iter().zip(&found.outputs);
        let (space, rank) = report::space_name(Space::Factors);
        Ok(Report {
            mwa: env!("CARGO_PKG_VERSION").to_string(),
            weighting: self.weighting.clone(),
            space,
            rank,
            residual: None,
            dtype: report::dtype_name(self.dtype),
            adapter: None,
            inputs: inputs.collect(),
            outputs: outputs
                .map(|(file, hash)| hashed(&(file.name.clone(), file.header.file_len()), hash))
                .collect(),
            notes: self.notes(),
        })
    }

    /// The checkpoint whose tokenizer and other companions go beside the output.
    #[must_use]
    pub fn owner(&self) -> usize {
        self.owner
    }
}

/// The dtypes that a merge can be asked for.
fn averaged(name: &str) -> Result<Float> {
    [Float::F32, Float::BF16, Float::F16]
        .into_iter()
        .find(|float| report::dtype_name(Some(*float)) == name)
        .ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no dtype `{name}`")).help("use f32, bf16 or f16")
        })
}

fn weigh(checkpoints: &[Checkpoint], weighing: &Weighing) -> Result<(Weights, Weighting, Option<Metric>)> {
    let explicit = || Weighting { scheme: "explicit".to_string(), penalty: None, metric: None, goal: None };
    match weighing {
        Weighing::Explicit(values) => Ok((Weights::explicit(values)?, explicit(), None)),
        Weighing::Exact(values) => Ok((Weights::normalised(values)?, explicit(), None)),
        Weighing::Measured { values, goal, scheme, penalty } => {
            let weights = Weights::new(values, *goal, *scheme, *penalty)?;
            Ok((weights, Weighting::new(*scheme, *penalty, None), None))
        }
        Weighing::Logged { logs, options, scheme, penalty } => {
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
            let weights = Weights::new(&metric.values()?, metric.goal, *scheme, *penalty)?;
            Ok((weights, Weighting::new(*scheme, *penalty, Some(&metric)), Some(metric)))
        }
    }
}
