//! Product space: what adapters do is averaged, module by module, after the sums over all other tensors.

use alloc::string::String;
use alloc::vec::Vec;

use js_sys::{Array, Uint8Array};
use mwa::report::Distance;
use mwa::{
    AdapterConfig, Dtype, Error, ErrorKind, Factors, Float, Input, ModuleJob, Plan, Products, Rank, Read,
    Residual, Result, Space, Weights, adapter_configs,
};
use mwa_wasm_fast::LOOPS;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::choose::{Choice, Options, choose};
use crate::merge::{inputs, numbers};
use crate::ranges::{Ranges, flat};
use crate::run::Found;

/// The share of the squared norm that rank `auto` keeps.
const ENERGY: f64 = 0.999;

/// The rank as JavaScript gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RankChoice {
    Fixed(usize),
    Word(String),
}

/// What is averaged.
pub(crate) fn space(options: &Options) -> Result<Space> {
    let usage = |detail: &'static str, help: &'static str| Error::new(ErrorKind::Usage, detail).help(help);
    let rank = match (&options.rank, options.energy) {
        (None, None) => None,
        (None, Some(share)) => Some(Rank::Energy(share)),
        (Some(RankChoice::Word(word)), share) if word == "auto" => {
            Some(Rank::Energy(share.unwrap_or(ENERGY)))
        }
        (Some(_), Some(_)) => {
            return Err(usage("energy finds ranks by itself, but rank gives one", "leave one of them out"));
        }
        (Some(RankChoice::Fixed(rank)), None) if *rank > 0 => Some(Rank::Fixed(*rank)),
        (Some(RankChoice::Word(word)), None) if word == "full" => Some(Rank::Full),
        (Some(_), None) => {
            return Err(usage("there is no such rank", "give a whole number from 1 on, auto or full"));
        }
    };
    match options.space.as_deref() {
        Some("product") => Ok(Space::Product(rank)),
        None | Some("factors") if rank.is_none() && !options.strict => Ok(Space::Factors),
        None | Some("factors") => Err(usage(
            "rank, energy and strict are for product space; factors keep the rank they have",
            "ask for the space product",
        )),
        Some(_) => Err(usage("there is no such space", "use factors or product")),
    }
}

/// The modules of a merge in product space.
#[derive(Debug)]
pub(crate) struct Modules {
    products: Products,
    rank: Rank,
    ranks: Vec<usize>,
    /// The output's `adapter_config.json`.
    pub(crate) config: String,
}

impl Modules {
    /// `found` are the ranks that surveys gave, for a rank by energy; until then the inputs' own stand in.
    pub(crate) fn new(
        inputs: &[Input],
        configs: &[Option<&AdapterConfig>],
        weights: &Weights,
        rank: Rank,
        found: &[usize],
    ) -> Result<Self> {
        let needed = adapter_configs(inputs, configs)?;
        let products = Products::new(Factors::new(inputs, configs, weights)?, &needed)?;
        let is_known = !matches!(rank, Rank::Energy(_)) || !found.is_empty();
        let ranks = products.ranks(if is_known { rank } else { Rank::Inputs }, found)?;
        let newest = needed.last().expect("a merge has inputs");
        let config = newest.rewritten(&products.config(&ranks, &needed));
        Ok(Self { products, rank, ranks, config })
    }

    pub(crate) fn gaps(&self, is_strict: bool) -> Result<Vec<String>> {
        self.products.gaps(is_strict)
    }

    pub(crate) fn layout(&self, dtype: Option<Float>) -> Vec<(String, Dtype, Vec<u64>)> {
        self.products.layout(&self.ranks, dtype)
    }

    pub(crate) fn jobs(&self, plan: &Plan) -> Vec<ModuleJob<'_>> {
        self.products.jobs(plan, self.rank, &self.ranks)
    }

    /// What the cut to the output's rank has lost; `lost` are error and norm of each job.
    pub(crate) fn distance(&self, lost: &[f64]) -> Result<Option<Distance>> {
        let lost: Vec<_> =
            lost.chunks_exact(2).map(|pair| Residual { error: pair[0], norm: pair[1] }).collect();
        self.products.distance(self.rank, &self.ranks, &lost)
    }
}

/// The residual of one module, over the bytes of its reads; see [`ModuleJob::residual`].
pub(crate) fn residual(factors: &Factors, module: usize, inputs: &[&[u8]]) -> Result<Option<Residual>> {
    let unknown = || Error::new(ErrorKind::Usage, "there is no such job");
    let job = factors.jobs().nth(module).ok_or_else(unknown)?;
    let whole: Vec<_> = job.reads().collect();
    let mut read = |part: &Read, out: &mut [u8]| {
        let holds = |it: &Read| {
            (it.input, it.file) == (part.input, part.file)
                && it.range.start <= part.range.start
                && part.range.end <= it.range.end
        };
        let place = whole.iter().position(holds).expect("a job asks for parts of its reads");
        let first = usize::try_from(part.range.start - whole[place].range.start)
            .expect("the whole read is in memory");
        out.copy_from_slice(&inputs[place][first..first + out.len()]);
        Ok(())
    };
    (LOOPS.residual)(&job, WINDOW, &mut read)
}

/// A residual as JavaScript keeps it: error and norm, NaN if it says nothing.
pub(crate) fn pair(found: Option<Residual>) -> [f64; 2] {
    found.map_or([f64::NAN; 2], |residual| [residual.error, residual.norm])
}

/// How far averaged factors are from the average of their products, and what to tell the user; `pairs` are those of each
/// module.
pub(crate) fn distance(factors: &Factors, pairs: &[f64]) -> (Option<Distance>, Option<&'static str>) {
    let residual = |pair: &[f64]| Residual { error: pair[0], norm: pair[1] };
    let found = pairs.chunks_exact(2).map(|pair| (!pair[0].is_nan()).then(|| residual(pair)));
    factors.distance(&found.collect::<Vec<_>>())
}

/// Most bytes that a residual takes at once, so that they stay in a cache; the result does not depend on it.
const WINDOW: usize = 2 << 20;

/// Finds the rank of each module that keeps a share of what the adapters do, before the outputs can be laid out.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Survey {
    products: Products,
    share: f64,
    numbers: Vec<Vec<usize>>,
}

impl Survey {
    /// `None` if no rank has to be found.
    pub(crate) fn new(found: &Found, options: &Options, excluded: &[usize]) -> Result<Option<Self>> {
        let Space::Product(Some(Rank::Energy(share))) = space(options)? else { return Ok(None) };
        let Choice { choice, .. } = choose(found, options, excluded)?;
        let checkpoints: Vec<_> = choice.indexes.iter().map(|&index| &found.checkpoints[index]).collect();
        let configs: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.config.as_ref()).collect();
        let inputs = inputs(&checkpoints);
        let needed = adapter_configs(&inputs, &configs)?;
        let products = Products::new(Factors::new(&inputs, &configs, &choice.weights)?, &needed)?;
        let numbers = checkpoints.iter().map(|checkpoint| numbers(checkpoint)).collect();
        Ok(Some(Self { products, share, numbers }))
    }
}

#[wasm_bindgen]
impl Survey {
    /// What each job reads, laid out as `Merge.jobs` does; it writes nothing.
    #[must_use]
    pub fn jobs(&self) -> Vec<f64> {
        let jobs = self.products.surveys();
        jobs.flat_map(|job| flat(&Ranges::new(), job.reads(), &self.numbers)).collect()
    }

    /// Run a job: the module's rank.
    ///
    /// # Errors
    /// When a value is not finite.
    pub fn run(&self, job: usize, inputs: &Array) -> core::result::Result<usize, JsValue> {
        let inputs: Vec<_> =
            inputs.iter().map(|input| input.unchecked_into::<Uint8Array>().to_vec()).collect();
        let slices: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        let job = self.products.surveys().nth(job).expect("jobs() listed it");
        (LOOPS.rank_for)(&job, &slices, self.share).map_err(|error| crate::fail(&error))
    }
}
