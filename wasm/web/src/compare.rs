//! Compare inputs: the norm of each, the cosine of each pair, and how far averaged factors are from averaged products.
//!
//! For people to look at, so in f32 blocks summed in f64; the order of the blocks may change the last digits.

use alloc::vec;
use alloc::vec::Vec;

use js_sys::{Array, Uint8Array};
use mwa::{AdapterConfig, Error, ErrorKind, Factors, Float, Input, Plan, Recipe, Result, Weights};
use wasm_bindgen::prelude::*;

use crate::choose::{Options, choose};
use crate::fail;
use crate::merge::{inputs, numbers};
use crate::product::residual;
use crate::ranges::{Ranges, flat};
use crate::run::Found;

/// A comparison, in jobs like a merge's, whose results are added up.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Comparison {
    plan: Plan,
    inputs: Vec<Input>,
    factors: Option<Factors>,
    job_bytes: usize,
    numbers: Vec<Vec<usize>>,
}

impl Comparison {
    pub(crate) fn new(found: &Found, options: &Options, job_bytes: usize) -> Result<Self> {
        let choice = choose(found, options, &[])?.choice;
        let checkpoints: Vec<_> = choice.indexes.iter().map(|&index| &found.checkpoints[index]).collect();
        let inputs = inputs(&checkpoints);
        let even = Weights::explicit(&vec![1.0; inputs.len()])?;
        let plan = Plan::new(&inputs, &even, &Recipe { allow_non_finite: true, ..Recipe::default() })?;
        let configs: Vec<Option<&AdapterConfig>> = checkpoints.iter().map(|it| it.config.as_ref()).collect();
        // what is no product of factors has no residual
        let factors =
            Factors::unscaled(&inputs, &configs, &choice.weights).ok().filter(|factors| !factors.is_empty());
        let numbers = checkpoints.iter().map(|checkpoint| numbers(checkpoint)).collect();
        Ok(Self { plan, inputs, factors, job_bytes, numbers })
    }

    fn sums(&self) -> usize {
        self.plan.jobs(self.job_bytes).count()
    }

    /// The dtype at the beginning of a read.
    fn float(&self, read: &mwa::Read) -> Option<Float> {
        let header = &self.inputs[read.input].files[read.file].header;
        Float::of(header.tensor_at(read.range.start)?.dtype)
    }

    fn try_run(&self, index: usize, inputs: &[Vec<u8>]) -> Result<Vec<f64>> {
        let k = self.inputs.len();
        let mut sums = vec![0.0; k * k + 2];
        let slices: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        let unknown = || Error::new(ErrorKind::Usage, "there is no such job");
        let first = self.sums();
        if let Some(module) = index.checked_sub(first) {
            let factors = self.factors.as_ref().ok_or_else(unknown)?;
            if let Some(residual) = residual(factors, module, &slices)? {
                sums[k * k..].copy_from_slice(&[residual.error, residual.norm]);
            }
            return Ok(sums);
        }
        let job = self.plan.jobs(self.job_bytes).nth(index).ok_or_else(unknown)?;
        let floats: Option<Vec<_>> = job.reads().map(|read| self.float(&read)).collect();
        if let Some(floats) = floats {
            mwa_web_fast::gram(&slices, &floats, &mut sums[..k * k]);
        }
        Ok(sums)
    }
}

#[wasm_bindgen]
impl Comparison {
    /// How many inputs are compared.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// What each job reads, laid out as `Merge.jobs` does; it writes nothing.
    #[must_use]
    pub fn jobs(&self) -> Vec<f64> {
        let reads = |reads: Vec<mwa::Read>| flat(&Ranges::new(), reads.into_iter(), &self.numbers);
        let sums = self.plan.jobs(self.job_bytes).map(|job| job.reads().collect());
        let modules = self.factors.iter().flat_map(|factors| factors.jobs().map(|job| job.reads().collect()));
        sums.chain(modules).flat_map(reads).collect()
    }

    /// Run a job: the dot products of each pair of inputs, row by row, then the residual's squared error and norm.
    ///
    /// # Errors
    /// When there is no such job.
    pub fn run(&self, job: usize, inputs: &Array) -> core::result::Result<Vec<f64>, JsValue> {
        let inputs: Vec<_> =
            inputs.iter().map(|input| input.unchecked_into::<Uint8Array>().to_vec()).collect();
        self.try_run(job, &inputs).map_err(|error| fail(&error))
    }
}
