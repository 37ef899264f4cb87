//! The merge: jobs out, findings in. One state machine that every host shares; it checks, plans, compares and reports.
//!
//! A host reads the ranges of a job, runs it, writes what comes out and gives back what was found. Jobs are numbers until
//! they are asked for, so that a million of them take no memory, and [`Merge::job`] borrows the merge shared: any number of
//! threads, workers or devices run jobs at the same time.
//!
//! ```
//! use mwa::merge::{Bytes, Chosen, Closing, Cut, Findings, Merge, MergeOptions, Next};
//! use mwa::safetensors::Header;
//! use mwa::{Dtype, Input, Shard};
//!
//! # fn file(values: [f32; 2]) -> Vec<u8> {
//! #     let header = Header::layout(vec![("w".into(), Dtype::F32, vec![2])], Default::default()).unwrap();
//! #     let data = values.iter().flat_map(|v| v.to_le_bytes());
//! #     header.to_bytes().into_iter().chain(data).collect()
//! # }
//! let files = [file([1.0, 2.0]), file([5.0, -2.0])];
//! let mut inputs = Vec::new();
//! for (i, bytes) in files.iter().enumerate() {
//!     let header = Header::parse(bytes, bytes.len() as u64)?;
//!     inputs.push(Input { name: format!("file {i}"), files: vec![Shard { name: "out.safetensors".into(), header }] });
//! }
//! let chosen = Chosen::explicit(inputs, vec![None, None], &[3.0, 1.0])?;
//! let mut merge = Merge::new(chosen, MergeOptions::default(), Cut::default())?;
//!
//! let mut merged = Vec::new();
//! while let Next::Jobs(numbers) = merge.next()? {
//!     if merged.is_empty() && !merge.outputs().is_empty() {
//!         merged = merge.head(0);
//!         merged.resize(merge.outputs()[0].header.file_len() as usize, 0);
//!     }
//!     let mut findings = Findings::default(); // one for each thread, joined in the end
//!     for number in numbers {
//!         let job = merge.job(number);
//!         let slice = |read: mwa::Read| &files[read.input][read.range.start as usize..read.range.end as usize];
//!         let inputs: Vec<_> = job.reads().map(slice).collect();
//!         let mut outputs: Vec<_> = job.writes().map(|it| vec![0; (it.range.end - it.range.start) as usize]).collect();
//!         let mut rooms: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
//!         findings.add(number, job.run(Bytes::Whole(&inputs), &mut rooms)?);
//!         for (write, bytes) in job.writes().zip(outputs) {
//!             merged[write.range.start as usize..write.range.end as usize].copy_from_slice(&bytes);
//!         }
//!     }
//!     merge.take(findings)?;
//! }
//! assert_eq!(merged, file([2.0, 1.0]));
//! let hashes = |file: &Vec<u8>| vec![mwa::digest::hash(file).into()];
//! let closing = Closing { inputs: files.iter().map(hashes).collect(), outputs: hashes(&merged), ..Closing::default() };
//! let finished = merge.finish(&closing)?; // texts to write beside the weights
//! assert!(finished.texts.iter().any(|(name, _)| name == "mwa-report.json"));
//! # Ok::<(), mwa::Error>(())
//! ```

mod agreed;
pub(crate) mod card;
mod closing;
mod compare;
mod dtype_in_config;
mod found;
mod heads;
mod job;
pub mod report;
pub(crate) mod same_run;
#[cfg(test)]
pub(crate) mod tests;
mod together;
mod unweighed;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::adapter::config::AdapterConfig;
use crate::adapter::kinds::Exactness;
use crate::digest::Digests;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::last;
use crate::format::safetensors::Tensor;
use crate::kernel::Tally;
use crate::merge::same_run::Samples;
use crate::method::blend::Blend;
use crate::method::curved::Moments;
use crate::method::product::{Factors, Measure, Method, Products, Rank, Residual, Space, adapter_configs};
use crate::method::scaled::{Block, Scaled};
use crate::method::trim::{Settled, Thresholds, Trim};
use crate::plan::{Cuts, Input, Plan, Recipe, Shard, Tensors, Write};
use crate::text::escape::readable;
use crate::weigh::angles::Angle;
use crate::weigh::explicit::{note_of_sum, wrong_count};
use crate::weigh::federated::Roles;
use crate::weigh::modules::Groups;
use crate::weigh::robust::Robust;
use crate::weigh::scheme::Weights;

use self::dtype_in_config::with_dtype;
use self::job::{Aim, Work};
use self::report::{Distance, Grafted, MODEL_CONFIG, Weighting};
use self::unweighed::Unweighed;

pub use agreed::Agreed;
pub use closing::{Closing, Finished, Hash, Text, shard_indexes};
pub use compare::Comparison;
pub use found::{Findings, Found};
pub use job::{Bytes, Job};
pub use together::{Sums, Together};

/// What is wanted of a merge, beyond its inputs and weights.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// The dtype of averaged tensors; `None` keeps the widest of the inputs, tensor by tensor.
    pub dtype: Option<Float>,
    /// What becomes of the values of an element.
    pub blend: Blend,
    /// What is averaged.
    pub space: Space,
    /// In product space, fail where an input lacks a module that others have.
    pub strict: bool,
    /// Of averaged LoRA factors, measure too how far they are from the average of the products; each is read twice then.
    pub residual: Measure,
    /// Average factors of several runs all the same.
    pub allow_cross_run: bool,
    /// Let NaN and infinity through instead of failing.
    pub allow_non_finite: bool,
    /// Write the files anew even where one input alone has weight; for inputs that were not safetensors on disk.
    pub rewrite: bool,
    /// Part the weights into files of at most so many bytes; `None` keeps the files of the newest.
    pub shard_size: Option<u64>,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            blend: Blend::Mean,
            space: Space::Factors,
            strict: false,
            residual: Measure::Auto,
            allow_cross_run: false,
            allow_non_finite: false,
            rewrite: false,
            shard_size: None,
        }
    }
}

/// How work is cut into jobs.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Most bytes that a job on elements reads of one input; at least one element is read.
    pub max_bytes: usize,
    /// Let no job cross from one tensor to the next, for outputs that do not lie side by side, as in memory.
    pub by_tensor: bool,
}

impl Default for Cut {
    /// What fits caches, across tensors.
    fn default() -> Self {
        Self { max_bytes: 256 << 10, by_tensor: false }
    }
}

/// The inputs of a merge, oldest first, chosen and weighed.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Their heads; the output has the files of the last.
    pub inputs: Vec<Input>,
    /// The adapter config of each, where it has one.
    pub configs: Vec<Option<AdapterConfig>>,
    /// The report's row of each, its files still without hashes; those of a row without files are named after the heads.
    pub rows: Vec<report::Input>,
    /// One per input.
    pub weights: Weights,
    /// How the weights came about.
    pub weighting: Weighting,
    /// How the tensors themselves decide the weights, which until then are what the inputs would weigh if none was bad.
    pub robust: Option<Robust>,
    /// The federated round that this is, if it is one.
    pub round: Option<Round>,
    /// What was lost and is recovered, if it is that.
    pub recovered: Option<report::Recovered>,
    /// How several metrics order them, where the weights come from several.
    pub ranking: Option<report::Ranking>,
    /// Which checkpoints these are, and why, where they were chosen.
    pub selected: Option<report::Selected>,
    /// Why little is to be expected of them, if so.
    pub advice: Vec<report::Advice>,
    /// What there is to tell of the choice.
    pub notes: Vec<String>,
    /// The adapter taken from checkpoints that hold several.
    pub adapter: Option<String>,
    /// The weights of modules that have their own.
    pub groups: Vec<report::Group>,
    /// Whether the first of them is the base of which the others are tasks; its weight is 0.
    pub has_base: bool,
    /// The second moments of each but the base, by which a method weighs; empty for others.
    pub moments: Vec<Moments>,
    /// The number of the run that each is of; none where that is not known, and all count as one run.
    pub runs: Vec<usize>,
    /// The sides of the blocks that share a scale, where the config of a quantised model says them; may be empty.
    pub blocks: Vec<Block>,
}

impl Chosen {
    /// With the caller's own weights, one per input, which are divided by their sum.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when they are no weights, or not one per input.
    pub fn explicit(
        inputs: Vec<Input>,
        configs: Vec<Option<AdapterConfig>>,
        weights: &[f64],
    ) -> Result<Self> {
        if weights.len() != inputs.len() {
            return Err(wrong_count(weights.len(), inputs.iter().map(|input| input.name.as_str())));
        }
        let notes = note_of_sum(weights).into_iter().collect();
        Ok(Self { notes, ..Self::weighed(inputs, configs, Weights::explicit(weights)?) })
    }

    /// The files of an input that jobs read: its weights, and the last that with its second moments.
    pub fn files(&self, input: usize) -> impl Iterator<Item = &Shard> {
        let moments = input.checked_sub(usize::from(self.has_base)).and_then(|at| self.moments.get(at));
        self.inputs[input].files.iter().chain(moments.map(|moments| &moments.shard))
    }

    /// With weights that were made before.
    pub(crate) fn weighed(inputs: Vec<Input>, configs: Vec<Option<AdapterConfig>>, weights: Weights) -> Self {
        let weighting = Weighting::explicit();
        let rows = inputs.iter().zip(weights.values()).map(|(input, weight)| report::Input {
            weight: *weight,
            ..report::Input::named(input.name.clone(), input.name.clone())
        });
        Self {
            rows: rows.collect(),
            inputs,
            configs,
            weights,
            weighting,
            robust: None,
            round: None,
            recovered: None,
            ranking: None,
            selected: None,
            advice: Vec::new(),
            notes: Vec::new(),
            adapter: None,
            groups: Vec::new(),
            has_base: false,
            moments: Vec::new(),
            runs: Vec::new(),
            blocks: Vec::new(),
        }
    }
}

/// A federated round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Which input is what.
    pub roles: Roles,
    /// What each client's update counts, before its tensors are looked at.
    pub shares: Vec<f64>,
    /// What the report tells of it.
    pub told: report::Round,
}

/// An input whose values make a merge fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInput {
    /// Its place among the inputs.
    pub input: usize,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl BadInput {
    /// What to say where it is left out.
    #[must_use]
    pub fn note(&self) -> String {
        format!("{} is dropped: {}", self.name, self.reason)
    }
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The jobs with these numbers: in any order, all at once, each once.
    Jobs(Range<u64>),
    /// Nothing before it is known what the jobs handed out have found.
    Wait,
    /// Nothing any more.
    Done,
}

/// A merge under way.
#[derive(Debug)]
pub struct Merge {
    chosen: Chosen,
    options: MergeOptions,
    cut: Cut,
    recipe: Recipe,
    copied: Option<usize>,
    /// Configs that could not be copied as they are, in their place.
    rewritten: Vec<Text>,
    notes: Vec<String>,
    samples: Samples,
    modules: Modules,
    /// The outputs; none until the ranks of modules are known.
    laid: Option<Laid>,
    phase: Phase,
    /// Whether the average of parameters is that of weights, as of whole models.
    is_linear: bool,
    /// The weights that are not known yet.
    unweighed: Option<Unweighed>,
    /// How many jobs there were until they were known.
    before: u64,
    /// What of tasks counts, while it is looked for, and how many jobs have looked for it until this pass.
    trim: Option<Trim>,
    trimmed: u64,
    /// How much counts of each tensor, of each task, and how many elements it has; where second moments say it.
    kept: Vec<(String, Vec<u64>, u64)>,
    /// What the jobs of the first phase have found.
    first: Vec<Option<Found>>,
    /// What the jobs on modules have found.
    found: Vec<Option<Found>>,
    tally: Tally,
    /// How many jobs on elements have been told of.
    tallied: u64,
}

/// Refuse what another method than the mean has no use for.
///
/// # Errors
/// [`ErrorKind::Weights`] for too few inputs, [`ErrorKind::Usage`] for what goes with the mean alone.
fn unblended(chosen: &Chosen, options: MergeOptions) -> Result<()> {
    let blend = options.blend;
    if blend.is_mean() {
        return over_base(chosen, blend);
    }
    let name = blend.name();
    let is_product = matches!(options.space, Space::Product(_));
    if let Blend::Angled(angle, has_base) = blend {
        let (detail, help) = match (is_product, has_base) {
            (true, true) => (
                "in product space adapters are seen from the model that they adapt, and a base has no part in it",
                "leave one of --base and --space product out",
            ),
            (false, false) if angle == Angle::ModelStock => (
                "method model-stock goes from a base towards the mean, and there is no base",
                "name it by --base; of adapters, --space product goes from the model that they adapt",
            ),
            _ => return unaccompanied(chosen, blend),
        };
        return Err(Error::new(ErrorKind::Usage, detail).help(help));
    }
    if is_product {
        let detail = format!(
            "method {name} takes values element by element, but product space merges what modules do"
        );
        return Err(Error::new(ErrorKind::Usage, detail).help(
            "leave --space product out for checkpoints of one run; of several runs, --scheme geometric-median --space product \
             lets no bad one decide",
        ));
    }
    unaccompanied(chosen, blend)
}

/// Refuse what weighs in another way too.
fn unaccompanied(chosen: &Chosen, blend: Blend) -> Result<()> {
    let other = match chosen {
        Chosen { robust: Some(_), .. } => "weights that the tensors decide",
        Chosen { round: Some(_), .. } => "rounds",
        Chosen { recovered: Some(_), .. } => "what is recovered",
        Chosen { groups, .. } if !groups.is_empty() => "weights by module",
        _ => return over_base(chosen, blend),
    };
    let detail = format!("method {} does not go together with {other}", blend.name());
    Err(Error::new(ErrorKind::Usage, detail).help("leave one of them out"))
}

/// Refuse tasks without a base, and a base of another kind.
fn over_base(chosen: &Chosen, blend: Blend) -> Result<()> {
    let Chosen { inputs, configs, has_base, moments, .. } = chosen;
    if *has_base != blend.has_base() {
        let detail = format!("method {} and a base do not go together", blend.name());
        return Err(Error::new(ErrorKind::Usage, detail)
            .help("open it without a base, or take a method that is over one"));
    }
    if let (true, [base, task, ..], [of_base, of_task, ..]) =
        (*has_base, inputs.as_slice(), configs.as_slice())
        && of_base.is_some() != of_task.is_some()
    {
        let kind =
            |config: &Option<AdapterConfig>| if config.is_some() { "an adapter" } else { "a whole model" };
        let detail = format!("is {}, but the base {} is {}", kind(of_task), base.name, kind(of_base));
        return Err(Error::new(ErrorKind::Config, detail).file(&*task.name).help(
            "what an adapter changes is the adapter itself: of LoRA checkpoints give an earlier one of their run as the base, of whole \
             models the model that they were trained from; adapters of different tasks become such models by mwa apply, and these merge",
        ));
    }
    if blend.curvature().is_some() && moments.len() != inputs.len() - usize::from(*has_base) {
        let detail = format!("method {} weighs by second moments, which are not given", blend.name());
        return Err(Error::new(ErrorKind::Usage, detail).help("give those of every input"));
    }
    blend.check(inputs.len() - usize::from(*has_base))
}

/// What is done with tensors that belong together, but for what is done with each by itself.
#[derive(Debug)]
enum Modules {
    Nothing,
    /// It is measured how far the averaged factors of LoRA modules are off.
    Residual(Factors, Method),
    /// The products of LoRA modules are merged, at ranks that a survey may have to find.
    Product(Products, Rank),
    /// Weights that are codes of scales are summed by what they are worth, and rounded to codes anew.
    Scaled(Scaled),
}

/// The outputs, and the jobs that write them.
#[derive(Debug)]
struct Laid {
    plan: Plan,
    cuts: Cuts,
    /// The rank of each module, and where its factors go.
    ranks: Vec<usize>,
    places: Vec<Vec<(Write, Float)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Inputs are compared, or ranks found; nothing is written.
    First { is_out: bool },
    /// The weights are found; then it begins again with them.
    Weigh { is_out: bool },
    /// It is found what of tasks counts.
    Trim { is_out: bool },
    /// The outputs are written.
    Main { is_out: bool },
}

impl Merge {
    /// Check which inputs may be averaged, and plan.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is not one weight per input; [`ErrorKind::Names`], [`ErrorKind::Shape`],
    /// [`ErrorKind::Dtype`], [`ErrorKind::Config`] or [`ErrorKind::Method`] when they do not fit each other, with the tensor
    /// and both facts.
    ///
    /// # Panics
    /// If there is not one config (or `None`) and one row per input.
    pub fn new(chosen: Chosen, mut options: MergeOptions, cut: Cut) -> Result<Self> {
        // whoever wins in the end, the newest gives the output its files and what lies beside them
        options.rewrite |= chosen.robust.is_some() || chosen.round.is_some() || chosen.recovered.is_some();
        options.rewrite |= options.shard_size.is_some();
        let mut merge = Self::begin(chosen, options, cut, Groups::default())?;
        if merge.copied.is_none() {
            merge.unweighed = Unweighed::new(&merge.chosen, options, &merge.recipe)?;
        }
        // scalars do not change what is laid out
        let is_laid_later = options.blend.angle().is_none() || merge.is_surveyed();
        if merge.unweighed.is_some() && is_laid_later {
            merge.modules = Modules::Nothing;
            merge.first = vec![None; merge.samples.count()];
        } else if !merge.is_surveyed() {
            merge.lay()?;
        }
        merge.trim = merge.trims()?;
        Ok(merge)
    }

    /// The search for what of tasks counts, if not all does.
    fn trims(&self) -> Result<Option<Trim>> {
        let Chosen { inputs, weights, .. } = &self.chosen;
        let blend = self.options.blend;
        if self.copied.is_some() || (blend.trimming().is_none() && blend.curvature().is_none()) {
            return Ok(None);
        }
        let plan = Plan::new(inputs, weights, &Recipe { by_tensor: true, ..self.recipe.clone() })?;
        Trim::new(inputs.len() - usize::from(self.chosen.has_base), plan, blend).map(Some)
    }

    /// All but the weights that are not known, and the layout of the outputs; `scalars` are those of tensors that were found.
    fn begin(chosen: Chosen, options: MergeOptions, cut: Cut, scalars: Groups) -> Result<Self> {
        let Chosen { inputs, configs, weights, .. } = &chosen;
        if weights.values().len() != inputs.len() {
            return Err(wrong_count(weights.values().len(), inputs.iter().map(|input| input.name.as_str())));
        }
        assert_eq!(inputs.len(), chosen.rows.len(), "one row per input");
        unblended(&chosen, options)?;
        let optional: Vec<_> = configs.iter().map(Option::as_ref).collect();
        let groups = if scalars.is_empty() { Groups::new(&chosen.groups, inputs.len())? } else { scalars };
        // no files are the output's where modules have weights of their own
        let is_made =
            MergeOptions { rewrite: options.rewrite || !groups.is_empty() || chosen.has_base, ..options };
        let agreed = Agreed::new(inputs, &optional, weights, is_made)?;
        let mut notes = chosen.notes.clone();
        notes.extend(agreed.notes);
        let modules = match (agreed.copied, options.space) {
            (Some(_), _) => Modules::Nothing,
            (None, Space::Product(rank)) => {
                let needed = adapter_configs(inputs, &optional)?;
                let products =
                    Products::new(Factors::by_module(inputs, &optional, weights, &groups)?, &needed)?;
                notes.extend(products.gaps(options.strict)?);
                Modules::Product(products, rank.unwrap_or(Rank::Inputs))
            }
            (None, Space::Factors)
                if options.residual != Measure::Off
                    && options.blend.is_mean()
                    && agreed.exactness == Exactness::Product
                    && chosen.robust.is_none() =>
            {
                let factors = Factors::by_module(inputs, &optional, weights, &groups)?;
                match factors.method(options.residual) {
                    Some(how) => Modules::Residual(factors, how),
                    None => Modules::Nothing,
                }
            }
            (None, Space::Factors) => Modules::Nothing,
        };
        let modules = match agreed.copied {
            Some(_) => modules,
            None => match scaled(&chosen, options, &groups)? {
                Some(scaled) => Modules::Scaled(scaled),
                None => modules,
            },
        };
        let samples = Samples::new(inputs, &chosen.runs, matches!(options.space, Space::Product(_)));
        let blend = options.blend;
        let moments = if blend.curvature().is_some() { chosen.moments.clone() } else { Vec::new() };
        let (by_tensor, shard_size) = (cut.by_tensor, options.shard_size);
        let recipe = Recipe { by_tensor, shard_size, groups, blend, moments, ..agreed.recipe };
        if agreed.copied.is_none() {
            notes.extend(note_of_unmeasured(inputs, &recipe)?);
        }
        let mut merge = Self {
            chosen,
            options,
            cut,
            recipe,
            copied: agreed.copied,
            rewritten: Vec::new(),
            notes,
            samples,
            modules,
            laid: None,
            phase: Phase::First { is_out: false },
            is_linear: agreed.exactness == Exactness::Linear,
            unweighed: None,
            trim: None,
            trimmed: 0,
            kept: Vec::new(),
            before: 0,
            first: Vec::new(),
            found: Vec::new(),
            tally: Tally::default(),
            tallied: 0,
        };
        merge.first = vec![None; merge.surveys() + merge.samples.count()];
        Ok(merge)
    }

    /// Whether the first jobs find the ranks of modules.
    fn is_surveyed(&self) -> bool {
        matches!(self.modules, Modules::Product(_, Rank::Energy(_)))
    }

    /// How many of the first jobs find ranks; the others compare inputs.
    fn surveys(&self) -> usize {
        match &self.modules {
            Modules::Product(products, Rank::Energy(_)) => products.factors().count(),
            _ => 0,
        }
    }

    /// Lay the outputs out.
    fn lay(&mut self) -> Result<()> {
        let Chosen { inputs, weights, .. } = &self.chosen;
        let mut ranks = Vec::new();
        if let Modules::Product(products, rank) = &self.modules {
            let rank_of =
                |found: &Option<Found>| if let Some(Found::Rank(rank)) = found { Some(*rank) } else { None };
            ranks = products.ranks(*rank, &self.first.iter().filter_map(rank_of).collect::<Vec<_>>())?;
            self.recipe.elsewhere = products.layout(&ranks, self.options.dtype);
        }
        if let Modules::Scaled(scaled) = &self.modules {
            self.recipe.elsewhere = scaled.layout();
        }
        let plan = match self.copied {
            Some(only) => Plan::whole(inputs, only),
            None => Plan::new(inputs, weights, &self.recipe)?,
        };
        let (places, modules) = match &self.modules {
            Modules::Nothing => (Vec::new(), 0),
            Modules::Residual(factors, _) => (Vec::new(), factors.count()),
            Modules::Product(products, _) => (products.places(&plan), ranks.len()),
            Modules::Scaled(scaled) => {
                (scaled.places(&plan), usize::try_from(scaled.count()).expect("what each finds is in memory"))
            }
        };
        self.found = vec![None; modules];
        self.laid = Some(Laid { cuts: Cuts::new(&plan, self.cut.max_bytes), plan, ranks, places });
        Ok(())
    }

    /// What there is to do now. Jobs come in lots, of which each begins when all jobs of the one before were told of: inputs are
    /// compared, or weights or ranks found; the last lot writes.
    ///
    /// # Errors
    /// [`ErrorKind::CrossRun`] when the inputs are of several runs, [`ErrorKind::Usage`] for a rank that cannot be,
    /// [`ErrorKind::Weights`] where weights that the tensors decide come to nothing, and [`ErrorKind::Input`] in the end when
    /// there was nothing to merge.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and wait")]
    pub fn next(&mut self) -> Result<Next> {
        if let next @ (Next::Jobs(_) | Next::Wait) = self.next_to_weigh()? {
            return Ok(next);
        }
        if let Some(next) = self.next_of_first() {
            return Ok(next);
        }
        if matches!(self.phase, Phase::First { .. }) {
            self.judge()?;
            let is_out = false;
            self.phase = if self.trim.is_some() { Phase::Trim { is_out } } else { Phase::Main { is_out } };
        }
        if let Some(next) = self.next_of_trim()? {
            return Ok(next);
        }
        let start = self.start();
        let (laid, modules) = (self.laid(), self.found.len() as u64);
        let count = laid.cuts.count() + modules;
        if self.phase == (Phase::Main { is_out: false }) && count > 0 {
            self.phase = Phase::Main { is_out: true };
            return Ok(Next::Jobs(start..start + count));
        }
        if self.tallied < laid.cuts.count() || self.found.iter().any(Option::is_none) {
            return Ok(Next::Wait);
        }
        self.distance()?;
        Ok(Next::Done)
    }

    /// As [`Merge::next`], but done when the weights are known: at once, unless the tensors decide them.
    ///
    /// # Errors
    /// As there.
    pub fn next_to_weigh(&mut self) -> Result<Next> {
        let Some(unweighed) = &self.unweighed else { return Ok(Next::Done) };
        let count = unweighed.apart().count();
        if let Some(next) = self.next_of_first() {
            return Ok(next);
        }
        if matches!(self.phase, Phase::First { .. }) {
            self.judge()?;
            self.phase = Phase::Weigh { is_out: true };
            if count > 0 {
                let first = self.firsts().end;
                return Ok(Next::Jobs(first..first + count));
            }
        }
        if !self.unweighed.as_ref().is_some_and(Unweighed::is_measured) {
            return Ok(Next::Wait);
        }
        self.begin_again()?;
        Ok(Next::Done)
    }

    /// The first jobs, or that they were not all told of; nothing when they are done.
    fn next_of_first(&mut self) -> Option<Next> {
        let firsts = self.firsts();
        if self.phase == (Phase::First { is_out: false }) && !firsts.is_empty() {
            self.phase = Phase::First { is_out: true };
            return Some(Next::Jobs(firsts));
        }
        let is_first = matches!(self.phase, Phase::First { .. });
        (is_first && self.first.iter().any(Option::is_none)).then_some(Next::Wait)
    }

    /// The jobs of a pass that finds what of tasks counts, or that they were not all told of; nothing when that is known.
    fn next_of_trim(&mut self) -> Result<Option<Next>> {
        let Some(trim) = &mut self.trim else { return Ok(None) };
        if self.phase == (Phase::Trim { is_out: true }) {
            if !trim.is_told() {
                return Ok(Some(Next::Wait));
            }
            self.trimmed += trim.count();
            if let Some(Settled { thresholds, means, kept }) = trim.settle()? {
                (self.recipe.thresholds, self.recipe.means, self.kept) = (thresholds, means, kept);
                self.trim = None;
                self.phase = Phase::Main { is_out: false };
                return self.lay().map(|()| None);
            }
        }
        let count = trim.count();
        if count == 0 {
            // there is nothing to compute
            self.trim = None;
            self.phase = Phase::Main { is_out: false };
            return Ok(None);
        }
        self.phase = Phase::Trim { is_out: true };
        let start = self.start();
        Ok(Some(Next::Jobs(start..start + count)))
    }

    /// The weights are known: plan with them what is left to do.
    fn begin_again(&mut self) -> Result<()> {
        let Some(unweighed) = self.unweighed.take() else { return Ok(()) };
        let done = self.firsts().end + unweighed.apart().count();
        let (notes, scalars) = match self.options.blend.angle() {
            Some(angle) => unweighed.turn(&self.chosen, angle)?,
            None => (unweighed.weigh(&mut self.chosen)?, Groups::default()),
        };
        let mut merge = Self::begin(self.chosen.clone(), self.options, self.cut, scalars)?;
        let judged = self.notes.iter().filter(|note| !merge.notes.contains(note)).cloned();
        let judged: Vec<_> = judged.chain(notes).collect();
        merge.notes.extend(judged);
        merge.before = done;
        // the inputs were compared already
        merge.samples = Samples::default();
        merge.first.truncate(merge.surveys());
        if !merge.is_surveyed() {
            merge.lay()?;
        }
        *self = merge;
        Ok(())
    }

    /// The numbers of the jobs that compare inputs or find ranks.
    fn firsts(&self) -> Range<u64> {
        self.before..self.before + self.first.len() as u64
    }

    /// The number of the first job that is not one of those, nor of passes that are over.
    fn start(&self) -> u64 {
        self.firsts().end + self.trimmed
    }

    /// Whether no jobs will come after those that were handed out.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.phase == Phase::Main { is_out: true }
    }

    /// All first jobs were told of: one run or several, and the ranks.
    fn judge(&mut self) -> Result<()> {
        let cosines = |found: &Option<Found>| {
            if let Some(Found::Cosines(cosines)) = found { cosines.clone() } else { Vec::new() }
        };
        let cosines: Vec<_> = self.first[self.surveys()..].iter().map(cosines).collect();
        let is_dora = self.chosen.configs.iter().flatten().any(|config| config.is_set("use_dora"));
        // the factors of two runs have no elements in common
        let blend = self.options.blend;
        let allow = self.options.allow_cross_run && (blend.is_mean() || self.is_linear);
        let judged = self.samples.judge(&self.chosen.inputs, &cosines, is_dora, allow);
        let notes = judged.map_err(|error| if blend.is_mean() { error } else { blend.of_one_run(&error) })?;
        self.notes.extend(notes);
        if self.is_surveyed() { self.lay() } else { Ok(()) }
    }

    fn laid(&self) -> &Laid {
        self.laid.as_ref().expect("the outputs are laid out when the first phase is over")
    }

    /// The job with a number that [`Merge::next`] gave.
    ///
    /// # Panics
    /// If it gave no such number.
    #[must_use]
    pub fn job(&self, number: u64) -> Job<'_> {
        let firsts = self.firsts();
        let index = |number: u64| usize::try_from(number).expect("modules are in memory");
        if number < firsts.end {
            let place = index(number.checked_sub(firsts.start).expect("the weights are known by now"));
            return Job(match (&self.modules, place.checked_sub(self.surveys())) {
                (Modules::Product(products, Rank::Energy(share)), None) => {
                    Work::Module(products.factors().job(place), Aim::Rank(*share))
                }
                (_, sample) => Work::Sample(self.samples.job(sample.unwrap_or_default())),
            });
        }
        let number = number - self.start();
        if let (Some(trim), Phase::Trim { .. }) = (&self.trim, self.phase) {
            return Job(Work::Trim(trim.job(number)));
        }
        if let Some(unweighed) = &self.unweighed {
            return Job(match unweighed.apart().job(number) {
                Ok(chunk) => Work::Apart(chunk),
                Err(module) => Work::Module(module, Aim::Common),
            });
        }
        let Laid { plan, cuts, ranks, places } = self.laid();
        if number < cuts.count() {
            return Job(Work::Elements(cuts.job(plan, number)));
        }
        let i = index(number - cuts.count());
        Job(match &self.modules {
            Modules::Nothing => panic!("no job has this number"),
            Modules::Residual(factors, how) => Work::Module(factors.job(i), Aim::Residual(*how)),
            Modules::Product(products, rank) => {
                Work::Module(products.placed(i, &places[i], *rank, ranks), Aim::Merge)
            }
            Modules::Scaled(scaled) => Work::Scaled(scaled.job(i as u64, places)),
        })
    }

    /// Those of the jobs handed out last that copy or compute elements, first of all, in the order of the outputs: a host
    /// that streams files takes them in order. None of the jobs that write nothing is among them.
    #[must_use]
    pub fn elements(&self) -> Range<u64> {
        let first = self.start();
        let count = self.laid.as_ref().filter(|_| self.is_writing()).map_or(0, |laid| laid.cuts.count());
        first..first + count
    }

    /// Whether the jobs that are out write the output: those before them only find what it must be.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Main { is_out: true })
    }

    /// The numbers around this one whose jobs are computed alike and lie side by side with it in every file, so that a device
    /// may take several at once; itself alone, if it has no neighbours.
    #[must_use]
    pub fn alike(&self, number: u64) -> Range<u64> {
        let (first, laid) = (self.start(), self.laid.as_ref());
        match (number.checked_sub(first), laid) {
            (Some(number), Some(laid)) if number < laid.cuts.count() => {
                let alike = laid.cuts.alike(number);
                first + alike.start..first + alike.end
            }
            _ => number..number + 1,
        }
    }

    /// Bytes that the jobs handed out last read, all together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.phase {
            Phase::First { .. } => self.first_bytes(),
            Phase::Weigh { .. } => self.unweighed.as_ref().map_or(0, |unweighed| unweighed.apart().bytes()),
            Phase::Trim { .. } => self.trim.as_ref().map_or(0, Trim::bytes),
            Phase::Main { .. } => self.main_bytes(),
        }
    }

    /// Bytes that all jobs together read, as far as that is known: where weights or ranks are found first, there will be more.
    #[must_use]
    pub fn total(&self) -> u64 {
        let measured = self.unweighed.as_ref().map_or(0, |unweighed| unweighed.apart().bytes());
        let passes = self.trim.as_ref().map_or(0, Trim::total);
        self.first_bytes() + measured + passes + self.main_bytes()
    }

    fn first_bytes(&self) -> u64 {
        let surveys = match &self.modules {
            Modules::Product(products, Rank::Energy(_)) => products.factors().bytes(),
            _ => 0,
        };
        surveys + self.samples.bytes()
    }

    fn main_bytes(&self) -> u64 {
        let modules = match &self.modules {
            Modules::Nothing => 0,
            Modules::Residual(factors, _) => factors.bytes(),
            Modules::Product(products, _) => products.factors().bytes(),
            Modules::Scaled(scaled) => scaled.bytes(),
        };
        self.laid.as_ref().map_or(0, |laid| laid.plan.bytes() + modules)
    }

    /// Take in what a job has found.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when no such job is out, or it was told of before.
    pub fn found(&mut self, number: u64, found: Found) -> Result<()> {
        let mut findings = Findings::default();
        findings.add(number, found);
        self.take(findings)
    }

    /// Take in what many jobs have found.
    ///
    /// # Errors
    /// As [`Merge::found`].
    pub fn take(&mut self, findings: Findings) -> Result<()> {
        let unknown = || {
            Error::new(ErrorKind::Usage, "a job was reported that was not handed out, or was reported before")
        };
        let (firsts, start) = (self.firsts(), self.start());
        let is_trim = self.phase == Phase::Trim { is_out: true };
        if findings.counted > 0 {
            let trim = self.trim.as_mut().filter(|_| is_trim);
            let taken = trim.is_some_and(|trim| trim.take(findings.counted, &findings.counts));
            if !taken {
                return Err(unknown());
            }
        }
        let elements = self.laid.as_ref().map_or(0, |laid| laid.cuts.count());
        let is_main = matches!(self.phase, Phase::Main { is_out: true });
        if findings.tallied > 0 {
            self.tallied += findings.tallied;
            self.tally = self.tally.plus(findings.tally);
            if !is_main || self.tallied > elements {
                return Err(unknown());
            }
        }
        for (number, found) in findings.others {
            if let (Phase::Weigh { .. }, Some(unweighed), Found::Pairs(pairs)) =
                (self.phase, &mut self.unweighed, &found)
            {
                let place = number.checked_sub(firsts.end).and_then(|number| unweighed.place(number));
                *place.filter(|place| place.is_none()).ok_or_else(unknown)? = Some(pairs.clone());
                continue;
            }
            if let (Some(trim), true, Found::Least(least)) = (&mut self.trim, is_trim, &found) {
                let place = number.checked_sub(start);
                if !place.is_some_and(|place| trim.take_least(place, *least)) {
                    return Err(unknown());
                }
                continue;
            }
            let place = match number.checked_sub(start + elements) {
                Some(module) if is_main => usize::try_from(module).ok().and_then(|i| self.found.get_mut(i)),
                None if firsts.contains(&number) => {
                    usize::try_from(number - firsts.start).ok().and_then(|i| self.first.get_mut(i))
                }
                _ => None,
            };
            match place {
                Some(place @ None) => *place = Some(found),
                _ => return Err(unknown()),
            }
        }
        Ok(())
    }

    /// The files to write: name and head of each. None before the ranks of modules are known, where [`Rank::Energy`] is
    /// asked for; else known from the beginning.
    #[must_use]
    pub fn outputs(&self) -> &[Shard] {
        self.laid.as_ref().map_or(&[], |laid| laid.plan.outputs())
    }

    /// The first bytes of an output file; jobs write the rest. Nothing where an input's files are copied.
    #[must_use]
    pub fn head(&self, file: usize) -> Vec<u8> {
        if self.copied.is_some() { Vec::new() } else { self.outputs()[file].header.to_bytes() }
    }

    /// Let the hashes know what is written, heads included, unless they do. [`Merge::outputs`] must be known.
    pub fn begin_outputs(&self, digests: &mut Digests) {
        if digests.are_outputs_known() {
            return;
        }
        digests.write_to(self.outputs().iter().map(|file| file.header.file_len()));
        (0..self.outputs().len()).for_each(|file| digests.wrote(file, 0, &self.head(file)));
    }

    /// The input whose files are the output byte for byte, because no other has weight. A host may copy them in its own way,
    /// and tell of the jobs as done.
    #[must_use]
    pub fn copied(&self) -> Option<usize> {
        self.copied
    }

    /// The input whose config, tokenizer and other companions go beside the output.
    #[must_use]
    pub fn owner(&self) -> usize {
        self.copied.unwrap_or(self.chosen.inputs.len() - 1)
    }

    /// Whether a companion of that name may name the dtype of the weights, and this merge writes another than it read.
    #[must_use]
    pub fn may_rewrite(&self, companion: &str) -> bool {
        last(companion) == MODEL_CONFIG && self.options.dtype.is_some() && self.copied.is_none()
    }

    /// Look at such a companion's text: if it names another dtype than is written, it is not to be copied, but one of [`Merge::texts`],
    /// rewritten.
    pub fn rewrites(&mut self, companion: &str, text: &str) -> bool {
        let made = self.options.dtype.and_then(|dtype| with_dtype(text, dtype));
        let is_made = made.is_some();
        self.rewritten.extend(made.map(|text| (companion.into(), text)));
        is_made
    }

    /// The inputs, as they were given.
    #[must_use]
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// What the user should be told, so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let note = self.distance().ok().and_then(|(_, note)| note).map(ToString::to_string);
        let laid = self.laid.as_ref();
        let underflow = laid.and_then(|laid| Agreed::note_underflow(&laid.plan, self.tally.underflowed));
        let bad = self.tally.non_finite;
        let bad = (bad > 0).then(|| format!("{bad} values are NaN or infinite, as was allowed"));
        let rounded = self.rounded().map(|(tensors, off)| note_rounded(tensors, &off));
        let grafted = self.grafted();
        let tasks = self.chosen.inputs.iter().skip(1).enumerate();
        let kept = grafted.iter().flat_map(|grafted| {
            tasks.clone().map(move |(i, task)| {
                format!("of what {} changed, what counts most is kept: {}", task.name, grafted.describe(i))
            })
        });
        self.notes
            .iter()
            .cloned()
            .chain(note)
            .chain(underflow)
            .chain(bad)
            .chain(rounded)
            .chain(kept)
            .collect()
    }

    /// How much of what was changed of a base counts; nothing before it is known, nor of other methods.
    fn grafted(&self) -> Option<Grafted> {
        let thresholds = match &self.recipe.thresholds {
            Thresholds::Model(all) => all.iter().map(|least| f64::from(*least)).collect(),
            _ => Vec::new(),
        };
        Grafted::new(thresholds, &self.kept)
    }

    /// How many weights that are codes of scales were rounded anew, and how far that is off; nothing before all jobs were told of.
    fn rounded(&self) -> Option<(usize, Distance)> {
        let Modules::Scaled(scaled) = &self.modules else { return None };
        let found = |jobs: Range<u64>| {
            let at = |number: u64| usize::try_from(number).ok().and_then(|i| self.found.get(i)?.as_ref());
            jobs.map(at).try_fold(Residual::default(), |sum, found| Some(sum.plus(residual_of_one(found?)?)))
        };
        let weights = scaled.jobs().map(|(name, jobs)| Some((name.into(), None, found(jobs)?)));
        let weights: Vec<_> = weights.collect::<Option<_>>()?;
        Distance::new(Method::Exact, weights.into_iter()).map(|off| (scaled.tensors(), off.of_the_worst()))
    }

    /// How far the output is off, and what to tell the user; nothing before all modules were told of.
    fn distance(&self) -> Result<(Option<Distance>, Option<&'static str>)> {
        match (&self.modules, &self.laid) {
            _ if self.found.iter().any(Option::is_none) => Ok((None, None)),
            (Modules::Nothing | Modules::Scaled(_), _) | (_, None) => Ok((None, None)),
            (Modules::Residual(factors, how), _) => {
                Ok(factors.distance(*how, &self.found.iter().map(residual_of).collect::<Vec<_>>()))
            }
            (Modules::Product(products, rank), Some(laid)) => {
                let lost: Vec<Residual> = self.found.iter().filter_map(residual_of).collect();
                Ok((products.distance(*rank, &laid.ranks, &lost)?, None))
            }
        }
    }

    /// The input to leave out where a job failed because of its values; for hosts that try again without it (`drop_bad`).
    #[must_use]
    pub fn bad_input(&self, error: &Error) -> Option<BadInput> {
        if error.kind() != ErrorKind::NonFinite {
            return None;
        }
        let input = self.chosen.inputs.iter().position(|input| Some(&*input.name) == error.at_file())?;
        // there is no merge without the base
        if self.chosen.has_base && input == 0 {
            return None;
        }
        let tensor = error.at_tensor().unwrap_or_default();
        let name = self.chosen.inputs[input].name.clone();
        Some(BadInput { input, name, reason: format!("tensor `{tensor}` {}", error.detail()) })
    }
}

/// What becomes of tensors that some input has no second moments of; an error where these are all.
fn note_of_unmeasured(inputs: &[Input], recipe: &Recipe) -> Result<Option<String>> {
    let Some(first) = recipe.moments.first() else { return Ok(None) };
    let known: Vec<_> =
        recipe.moments.iter().map(|it| Tensors::new(core::slice::from_ref(&it.shard))).collect();
    let lacks = |tensor: &&Tensor| {
        Float::of(tensor.dtype).is_some() && known.iter().any(|known| known.find(&tensor.name).is_none())
    };
    let all =
        || inputs.iter().rev().take(1).flat_map(|input| &input.files).flat_map(|it| it.header.tensors());
    let Some(one) = all().find(lacks) else { return Ok(None) };
    let count = all().filter(lacks).count();
    if all().filter(|tensor| Float::of(tensor.dtype).is_some()).count() == count {
        let detail = format!("has no second moments in {} or another, and no tensor has", first.shard.name);
        return Err(Error::new(ErrorKind::Names, detail)
            .tensor(&*one.name)
            .help("give the moments of these checkpoints, one for each, in their order"));
    }
    let what = if recipe.blend.has_base() { "the base's" } else { "the plain mean of the checkpoints'" };
    Ok(Some(format!(
        "{count} of {} tensors have no second moments in {} or another, as they were not trained, and get {what} values: the first \
         is `{}`",
        all().count(),
        first.shard.name,
        readable(&one.name)
    )))
}

/// Weights that are codes of scales, if there are any.
fn scaled(chosen: &Chosen, options: MergeOptions, groups: &Groups) -> Result<Option<Scaled>> {
    let Chosen { inputs, weights, blocks, .. } = chosen;
    let scaled = Scaled::new(inputs, weights, groups, blocks, options.allow_non_finite)?;
    let Some(name) = scaled.first() else { return Ok(None) };
    let refused = |detail: &'static str, help: &'static str| {
        Err(Error::new(ErrorKind::Method, detail).tensor(name).help(help))
    };
    if options.dtype.is_some() {
        return refused(
            "holds codes of scales, which are rounded to codes of its own dtype again",
            "leave out --dtype: all that is quantised stays so, and all else keeps its dtype",
        );
    }
    if !options.blend.is_mean() || chosen.has_base {
        return refused(
            "holds codes of scales, of which the mean alone is taken",
            "leave out --method, or merge the checkpoints before they are quantised",
        );
    }
    if matches!(options.space, Space::Product(_)) {
        return refused("holds codes of scales, which have no product", "leave out --space product");
    }
    if chosen.robust.is_some() || chosen.round.as_ref().is_some_and(|round| round.roles.clip.is_some()) {
        return refused(
            "holds codes of scales, and distances between codes say nothing of the weights",
            "weigh by a metric, uniformly or by hand, and without clipping: see --scheme and --weights",
        );
    }
    Ok(Some(scaled))
}

fn residual_of(found: &Option<Found>) -> Option<Residual> {
    found.as_ref().and_then(residual_of_one)
}

fn residual_of_one(found: &Found) -> Option<Residual> {
    if let Found::Residual(residual) = found { *residual } else { None }
}

fn note_rounded(tensors: usize, off: &Distance) -> String {
    let are = if tensors == 1 {
        "1 quantised weight was".into()
    } else {
        format!("{tensors} quantised weights were")
    };
    format!(
        "{are} averaged by what codes and scales are worth, and rounded once to codes of new scales: {} off",
        off.describe()
    )
}
