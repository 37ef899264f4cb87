//! A merge in the hands of a host that moves bytes and knows nothing else: opened with heads, run job by job.
//!
//! This is what crosses every language border: the component, the core module and the bindings translate it.

mod chunks;
mod closing;
mod order;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use self::chunks::{Modules, Piece, Task};
use self::order::weigh;
use crate::adapter::config::AdapterConfig;
use crate::adapter::kinds::Exactness;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Header;
use crate::kernel::Tally;
use crate::logs::metric::Metric;
use crate::merge::report::Weighting;
use crate::merge::{Agreed as Merge, MergeOptions};
use crate::method::product::{Factors, ModuleJob, Products, Rank, Reader, Residual, Space, adapter_configs};
use crate::plan::{Cursor, Input, Plan, Read, Recipe, Shard, Write};
use crate::weigh::scheme::Weights;

pub use closing::{Found, Text};
pub use order::{Checkpoint, Head, Order, Weighing};

/// Bytes that a job reads of one input unless the host says otherwise: fits caches.
const CHUNK: u32 = 256 << 10;
/// Most bytes that a job reads of all inputs together: hosts limit what one call may copy.
const MOST: usize = 8 << 20;

/// A piece of work for the host.
#[derive(Clone, Debug)]
pub struct Job {
    /// What [`Session::run`] calls it.
    pub number: u64,
    /// What to read, in the order in which [`Session::run`] takes it.
    pub reads: Vec<Read>,
    /// Where the result goes; empty for a job that only takes in.
    pub writes: Vec<Write>,
}

/// The loops, compiled by the caller's crate: with the instructions or for the speed that it wants.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::type_complexity, reason = "they are the signatures of the methods named")]
pub struct Loops {
    /// [`crate::plan::Job::run`].
    pub run: fn(&crate::plan::Job<'_>, &[&[u8]], &mut [u8]) -> Result<Tally>,
    /// [`ModuleJob::residual`].
    pub residual: fn(&ModuleJob<'_>, usize, &mut Reader<'_>) -> Result<Option<Residual>>,
    /// [`ModuleJob::rank_for`].
    pub rank_for: fn(&ModuleJob<'_>, &[&[u8]], f64) -> Result<usize>,
    /// [`ModuleJob::merge`].
    pub merge: fn(&ModuleJob<'_>, &[&[u8]], &mut [&mut [u8]]) -> Result<Residual>,
}

/// A merge under way.
#[derive(Debug)]
pub struct Session {
    checkpoints: Vec<Named>,
    inputs: Vec<Input>,
    configs: Vec<Option<AdapterConfig>>,
    weights: Weights,
    weighting: Weighting,
    metric: Option<Metric>,
    space: Space,
    dtype: Option<Float>,
    recipe: Recipe,
    /// the outputs; none until the ranks of modules are known
    laid: Option<Laid>,
    modules: Option<Modules>,
    /// the checkpoint that gives the config
    owner: usize,
    notes: Vec<String>,
    chunk: usize,
    next: Option<Step>,
    /// by number; few, so that a list serves
    handed_out: Vec<(u64, Step)>,
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

/// The outputs.
#[derive(Debug)]
struct Laid {
    plan: Plan,
    heads: Vec<Vec<u8>>,
}

/// A job, by where it begins.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sum(Cursor),
    Module(Piece),
}

impl Session {
    /// Read the heads, weigh, check who may be averaged with whom, and plan.
    ///
    /// # Errors
    /// Whatever is wrong with heads, configs, logs, weights, or the order itself ([`ErrorKind::Usage`]).
    pub fn open(checkpoints: Vec<Checkpoint>, order: &Order) -> Result<Self> {
        let (dtype, space) = (order.dtype()?, order.space()?);
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
        let allow_non_finite = order.allow_non_finite;
        let rewrite = order.rewrite;
        let options = MergeOptions { dtype, space, allow_non_finite, rewrite, ..MergeOptions::default() };
        let optional: Vec<_> = configs.iter().map(Option::as_ref).collect();
        let merge = Merge::new(&inputs, &optional, &weights, options)?;
        let mut notes = metric.as_ref().map(|metric| metric.notes.clone()).unwrap_or_default();
        notes.extend(merge.notes);
        let task = match (merge.copied, space) {
            (Some(_), _) => None,
            (None, Space::Product(rank)) => {
                let configs = adapter_configs(&inputs, &optional)?;
                let products = Products::new(Factors::new(&inputs, &optional, &weights)?, &configs)?;
                notes.extend(products.gaps(order.strict)?);
                let rank = rank.unwrap_or(Rank::Inputs);
                Some(match rank {
                    Rank::Energy(share) => Task::Survey(products, share),
                    _ => {
                        let ranks = products.ranks(rank, &[])?;
                        Task::Merge(products, rank, ranks)
                    }
                })
            }
            (None, Space::Factors) if order.residual && merge.exactness == Exactness::Product => {
                Some(Task::Residual(Factors::new(&inputs, &optional, &weights)?))
            }
            (None, Space::Factors) => None,
        };
        let most = usize::try_from(order.chunk.unwrap_or(CHUNK)).unwrap_or(MOST);
        let mut session = Self {
            chunk: most.min(MOST / inputs.len()).max(1),
            owner: merge.copied.unwrap_or(inputs.len() - 1),
            checkpoints: Vec::new(),
            inputs,
            configs,
            weights,
            weighting,
            metric,
            space,
            dtype,
            recipe: merge.recipe,
            laid: None,
            modules: None,
            notes,
            next: None,
            handed_out: Vec::new(),
            count: 0,
            underflowed: 0,
        };
        match (merge.copied, task) {
            (Some(only), _) => session.lay_copy(only, &checkpoints[only]),
            (None, Some(task @ Task::Survey(..))) => {
                let modules = Modules::new(task, None);
                session.next = modules.first().map(Step::Module);
                session.modules = Some(modules);
            }
            (None, task) => session.lay(task)?,
        }
        let named = |checkpoint: Checkpoint| Named {
            name: checkpoint.name,
            step: checkpoint.step,
            files: checkpoint.files.into_iter().map(|file| (file.name, file.length)).collect(),
        };
        session.checkpoints = checkpoints.into_iter().map(named).collect();
        Ok(session)
    }

    /// The outputs are the files of one input as they are.
    fn lay_copy(&mut self, only: usize, checkpoint: &Checkpoint) {
        let plan = Plan::copy(&self.inputs, only);
        let head = |(output, head): (&Shard, &Head)| {
            let length = usize::try_from(output.header.data_start()).unwrap_or(usize::MAX);
            head.bytes[..length.min(head.bytes.len())].to_vec()
        };
        let heads = plan.outputs().iter().zip(&checkpoint.files).map(head).collect();
        self.laid = Some(Laid { plan, heads });
        self.next = Some(Step::Sum(Cursor::default()));
    }

    /// Lay the outputs out, and begin with the sums.
    fn lay(&mut self, task: Option<Task>) -> Result<()> {
        if let Some(Task::Merge(products, _, ranks)) = &task {
            self.recipe.elsewhere = products.layout(ranks, self.dtype);
        }
        let plan = Plan::new(&self.inputs, &self.weights, &self.recipe)?;
        let heads = plan.outputs().iter().map(|output| output.header.to_bytes()).collect();
        self.modules = task.map(|task| Modules::new(task, Some(&plan)));
        self.laid = Some(Laid { plan, heads });
        self.next = Some(Step::Sum(Cursor::default()));
        Ok(())
    }

    /// All modules were surveyed: their ranks are known, and with them the outputs.
    fn lay_surveyed(&mut self) -> Result<()> {
        if !self.handed_out.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "the next job depends on those that were handed out")
                .help("run them first: they find the ranks"));
        }
        let Some(Modules { task: Task::Survey(products, share), .. }) = &self.modules else { return Ok(()) };
        let rank = Rank::Energy(*share);
        let found = self.modules.as_ref().map(Modules::ranks).unwrap_or_default();
        let ranks = products.ranks(rank, &found)?;
        let task = Task::Merge(products.clone(), rank, ranks);
        self.lay(Some(task))
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

    /// The files to write: name, head, and whole length in bytes. None before the first job that writes, where
    /// [`Rank::Energy`] is asked for; else known from the beginning.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &[u8], u64)> {
        let each = self.laid.iter().flat_map(|laid| laid.plan.outputs().iter().zip(&laid.heads));
        each.map(|(file, head)| (file.name.as_str(), head.as_slice(), file.header.file_len()))
    }

    /// What the user should be told, so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let note = self.modules.as_ref().and_then(|modules| modules.distance().ok()?.1);
        let underflow =
            self.laid.as_ref().and_then(|laid| Merge::note_underflow(&laid.plan, self.underflowed));
        self.notes.iter().cloned().chain(note.map(ToString::to_string)).chain(underflow).collect()
    }

    /// The next job; `None` after the last. Many may be under way, and finish in any order, as far as one does not
    /// depend on another.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the next job depends on others that were not run; [`ErrorKind::Input`] when all jobs were
    /// run and there was nothing to merge.
    pub fn next_job(&mut self) -> Result<Option<Job>> {
        if self.next.is_none() && self.laid.is_none() {
            self.lay_surveyed()?;
        }
        let chunk = self.chunk as u64;
        let plan = self.laid.as_ref().map(|laid| &laid.plan);
        let modules = self.modules.as_ref();
        let sum = |at| plan.and_then(|plan| plan.job(at, self.chunk));
        if let Some(Step::Sum(at)) = self.next
            && sum(at).is_none()
        {
            self.next = modules.and_then(Modules::first).map(Step::Module);
        }
        let Some(step) = self.next else {
            if let (true, Some(modules)) = (self.handed_out.is_empty(), modules) {
                modules.distance()?;
            }
            return Ok(None);
        };
        let (reads, writes) = self.ranges(step);
        self.next = match step {
            Step::Sum(at) => sum(at).map(|(_, next)| Step::Sum(next)),
            Step::Module(piece) => modules.and_then(|modules| modules.after(piece, chunk)).map(Step::Module),
        };
        let number = self.count;
        self.handed_out.push((number, step));
        self.count += 1;
        Ok(Some(Job { number, reads, writes }))
    }

    fn ranges(&self, step: Step) -> (Vec<Read>, Vec<Write>) {
        match step {
            Step::Sum(at) => {
                let job = self.laid.as_ref().and_then(|laid| laid.plan.job(at, self.chunk));
                job.map(|(job, _)| (job.reads().collect(), vec![job.write()])).unwrap_or_default()
            }
            Step::Module(piece) => {
                let modules = self.modules.as_ref();
                modules.map(|modules| modules.ranges(piece, self.chunk as u64)).unwrap_or_default()
            }
        }
    }

    /// The lengths of the chunks that a job reads, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out.
    pub fn lengths(&self, number: u64) -> Result<Vec<usize>> {
        let (reads, _) = self.ranges(self.step(number)?);
        let length = |read: Read| usize::try_from(read.range.end - read.range.start);
        Ok(reads.into_iter().map(|read| length(read).expect("a chunk is at most MOST bytes")).collect())
    }

    fn step(&self, number: u64) -> Result<Step> {
        let step = self.handed_out.iter().find(|(other, _)| *other == number).map(|(_, step)| *step);
        step.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("job {number} is not handed out, or was run already"))
                .help("run each job once, by the number that came with it")
        })
    }

    /// Run a job: `chunks` are the bytes of its reads in order; the result is the bytes of its writes.
    ///
    /// A job that succeeded is done with; one that failed can be run again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is handed out, the chunks have other lengths, or a job that it depends on was
    /// not run; else as [`crate::plan::Job::run`] and [`crate::method::product::ModuleJob::merge`].
    pub fn run(&mut self, number: u64, chunks: &[&[u8]], loops: &Loops) -> Result<Vec<u8>> {
        let step = self.step(number)?;
        let wanted = self.lengths(number)?;
        let given: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        if wanted != given {
            let detail = format!("job {number} reads chunks of {wanted:?} bytes, but got {given:?}");
            return Err(Error::new(ErrorKind::Usage, detail).help("give the bytes of each read, in order"));
        }
        let plan = self.laid.as_ref().map(|laid| &laid.plan);
        let out = match step {
            Step::Sum(at) => {
                let (job, _) = plan.and_then(|plan| plan.job(at, self.chunk)).expect("it was handed out");
                let write = job.write().range;
                let length = usize::try_from(write.end - write.start);
                let mut out = vec![0; length.expect("a job writes at most eight bytes per element")];
                self.underflowed += (loops.run)(&job, chunks, &mut out)?.underflowed;
                out
            }
            Step::Module(piece) => {
                let modules = self.modules.as_mut().expect("it was handed out");
                modules.run(piece, self.chunk as u64, chunks, plan, loops)?
            }
        };
        self.handed_out.retain(|(other, _)| *other != number);
        Ok(out)
    }

    /// The checkpoint whose tokenizer and other companions go beside the output.
    #[must_use]
    pub fn owner(&self) -> usize {
        self.owner
    }
}
