//! The world of `wasm/wit/world.wit` over the core: names and bytes are translated here, nothing is decided.
#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use mwa::border::{self as session, Session};
use mwa::{AdapterConfig, Error, History, Outcome, TrainerState, Weights};

mod world {
    wit_bindgen::generate!({ path: "../wit", world: "mwa" });
}

use world::exports::mwa::merge::merger::{
    Adapter, Checkpoint, Contents, Dtype, Failure, Found, Goal, Guest, GuestMerge, Job, Measure, Merge,
    Metric, MetricOptions, Output, Rank, Reading, Recipe, Scheme, Space, Span, Tensor, Text, Weighing,
};

type Result<T> = core::result::Result<T, Failure>;

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic is a bug of ours: the instance traps, and the host reports it.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

struct Component;
world::export!(Component with_types_in world);

impl Guest for Component {
    type Merge = Running;

    fn weigh(metrics: Vec<f64>, goal: Goal, scheme: Scheme, penalty: f64) -> Result<Vec<f64>> {
        Ok(Weights::new(&metrics, goal.into(), scheme.into(), penalty)?.values().to_vec())
    }

    fn read_metric(logs: Vec<String>, steps: Vec<u64>, options: MetricOptions) -> Result<Metric> {
        Ok((&mwa::read_metric(&history(&logs)?, &steps, &options.into())?).into())
    }

    fn coverage(logs: Vec<String>, steps: Vec<u64>) -> Result<Vec<(String, u32)>> {
        let history = history(&logs)?;
        let covered = history.coverage(&steps).into_iter();
        Ok(covered.map(|(name, count)| (name.to_string(), small(count))).collect())
    }

    fn head_size(start: Vec<u8>, file_length: u64) -> Result<u64> {
        Ok(mwa::safetensors::Header::size(&start, file_length)?)
    }

    fn inspect(head: Vec<u8>, file_length: u64) -> Result<Contents> {
        let header = mwa::safetensors::Header::parse(&head, file_length)?;
        let tensor = |tensor: &mwa::safetensors::Tensor| Tensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            start: tensor.range.start,
            end: tensor.range.end,
        };
        let metadata = header.metadata().pairs().to_vec();
        Ok(Contents { tensors: header.tensors().iter().map(tensor).collect(), metadata })
    }

    fn inspect_adapter(config: String) -> Result<Adapter> {
        let config = AdapterConfig::parse(&config)?;
        Ok(Adapter {
            peft_type: config.peft_type().to_string(),
            verdict: mwa::method(config.peft_type())?.verdict.to_string(),
            base_model: config.base_model().map(ToString::to_string),
            rank: config.r(),
            alpha: config.lora_alpha(),
        })
    }
}

fn history(logs: &[String]) -> mwa::Result<History> {
    let states = logs.iter().map(|log| TrainerState::parse(log)).collect::<mwa::Result<Vec<_>>>()?;
    Ok(History::new(states))
}

/// A merge under way; a component is never entered twice at once, so that a cell is lock enough.
struct Running(RefCell<Session>);

impl GuestMerge for Running {
    fn open(checkpoints: Vec<Checkpoint>, recipe: Recipe) -> Result<Merge> {
        let checkpoints: Vec<_> = checkpoints.into_iter().map(Into::into).collect();
        Ok(Merge::new(Self(RefCell::new(Session::open(&checkpoints, &recipe.into())?))))
    }

    fn weights(&self) -> Vec<f64> {
        self.0.borrow().weights().values().to_vec()
    }

    fn metric(&self) -> Option<Metric> {
        self.0.borrow().metric().map(Into::into)
    }

    fn notes(&self) -> Vec<String> {
        self.0.borrow().notes()
    }

    fn outputs(&self) -> Vec<Output> {
        let session = self.0.borrow();
        let output = |(i, (name, _, length)): (usize, (&str, u64, u64))| Output {
            name: name.to_string(),
            head: session.head(i).unwrap_or_default(),
            length,
        };
        session.outputs().enumerate().map(output).collect()
    }

    fn next(&self) -> Result<Option<Job>> {
        let span = |input: usize, file: usize, range: Range<u64>| Span {
            input: small(input),
            file: small(file),
            start: range.start,
            end: range.end,
        };
        let job = |job: session::Job| Job {
            number: job.number,
            reads: job.reads.into_iter().map(|read| span(read.input, read.file, read.range)).collect(),
            writes: job.writes.into_iter().map(|write| span(0, write.file, write.range)).collect(),
        };
        Ok(self.0.borrow_mut().next_job()?.map(job))
    }

    fn run(&self, job: u64, chunks: Vec<Vec<u8>>) -> Result<Vec<u8>> {
        let chunks: Vec<_> = chunks.iter().map(Vec::as_slice).collect();
        Ok(self.0.borrow_mut().run(job, &chunks, mwa_wasm_fast::run)?)
    }

    fn owner(&self) -> u32 {
        small(self.0.borrow().owner())
    }

    fn texts(&self, found: Found) -> Result<Vec<Text>> {
        let Found { paths, inputs, outputs } = found;
        let texts =
            self.0.borrow().texts(&mwa::merge::Closing { paths, inputs, outputs, ..Default::default() })?;
        Ok(texts.into_iter().map(|(name, content)| Text { name, content }).collect())
    }
}

/// Counts of things that came over the border, where lists have 32-bit lengths.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.kind() as u8,
            kind: error.kind().name().to_string(),
            file: error.at_file().map(ToString::to_string),
            tensor: error.at_tensor().map(ToString::to_string),
            detail: error.detail().to_string(),
            help: error.advice().map(ToString::to_string),
        }
    }
}

impl From<Goal> for mwa::Goal {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Min => Self::Min,
            Goal::Max => Self::Max,
        }
    }
}

impl From<Scheme> for mwa::Scheme {
    fn from(scheme: Scheme) -> Self {
        // in the order of the world
        let [linear, power, exponential, rank, uniform] = Self::ALL;
        match scheme {
            Scheme::Linear => linear,
            Scheme::Power => power,
            Scheme::Exponential => exponential,
            Scheme::Rank => rank,
            Scheme::Uniform => uniform,
        }
    }
}

impl From<MetricOptions> for mwa::MetricOptions {
    fn from(options: MetricOptions) -> Self {
        let MetricOptions { name, goal, smooth, tolerance, strict } = options;
        Self { name, goal: goal.map(Into::into), smooth, tolerance, strict }
    }
}

impl From<&mwa::Metric> for Metric {
    fn from(metric: &mwa::Metric) -> Self {
        let outcome = |outcome: &mwa::Outcome| {
            use world::exports::mwa::merge::merger::Outcome as Told;
            match outcome {
                Outcome::Read(read) => {
                    Told::Read(Reading { value: read.value, source: read.source.to_string() })
                }
                Outcome::Missing(facts) => Told::Missing(facts.clone()),
                Outcome::Bad(reason) => Told::Bad(reason.clone()),
            }
        };
        Self {
            name: metric.name.clone(),
            goal: if metric.goal == mwa::Goal::Min { Goal::Min } else { Goal::Max },
            outcomes: metric.readings.iter().map(outcome).collect(),
            notes: metric.notes.clone(),
        }
    }
}

impl From<Checkpoint> for session::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        let files = checkpoint.files.into_iter();
        let files =
            files.map(|head| session::Head { name: head.name, bytes: head.bytes, length: head.length });
        let Checkpoint { name, step, config, .. } = checkpoint;
        Self { name, step, config, files: files.collect() }
    }
}

impl From<Recipe> for session::Order {
    fn from(recipe: Recipe) -> Self {
        let dtype = recipe.dtype.map(|dtype| match dtype {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        });
        let weighing = match recipe.weighing {
            Weighing::Explicit(values) => session::Weighing::Explicit(values),
            Weighing::Exact(values) => session::Weighing::Exact(values),
            Weighing::Measured(it) => session::Weighing::Measured {
                values: it.values,
                goal: it.goal.into(),
                scheme: it.scheme.into(),
                penalty: it.penalty,
            },
            Weighing::Logged(it) => session::Weighing::Logged {
                logs: it.logs,
                options: it.options.into(),
                scheme: it.scheme.into(),
                penalty: it.penalty,
            },
        };
        let space = match recipe.space {
            Space::Factors => mwa::Space::Factors,
            Space::Product(rank) => mwa::Space::Product(rank.map(|rank| match rank {
                Rank::Inputs => mwa::Rank::Inputs,
                Rank::Fixed(rank) => mwa::Rank::Fixed(rank as usize),
                Rank::Full => mwa::Rank::Full,
                Rank::Energy(share) => mwa::Rank::Energy(share),
            })),
        };
        Self {
            weighing,
            space,
            strict: recipe.strict,
            residual: match recipe.residual {
                Measure::Auto => mwa::Measure::Auto,
                Measure::Exact => mwa::Measure::Exact,
                Measure::Sketch => mwa::Measure::Sketch,
                Measure::Off => mwa::Measure::Off,
            },
            dtype: dtype.map(ToString::to_string),
            allow_cross_run: recipe.allow_cross_run,
            allow_non_finite: recipe.allow_non_finite,
            rewrite: recipe.rewrite,
            chunk: recipe.chunk,
        }
    }
}
