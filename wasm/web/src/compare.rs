//! Compare inputs: the norm of each, the cosine of each pair, and how far averaged factors are from averaged products.
//!
//! For people to look at, so in f32 blocks summed in f64; the order of the blocks may change the last digits.

use alloc::vec;
use alloc::vec::Vec;

use js_sys::{Array, Uint8Array};
use mwa::merge::{Bytes, Cut, Found};
use mwa::{Options, Result};
use wasm_bindgen::prelude::*;

use crate::fail;
use crate::files::Store;
use crate::found::weighing;
use crate::merge::{numbers, whole};
use crate::numbers::flat;

/// A comparison, in jobs like a merge's, whose results are added up.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Comparison {
    comparison: mwa::merge::Comparison,
    numbers: Vec<Vec<usize>>,
}

impl Comparison {
    pub(crate) fn new(files: &Store, run: &mwa::Run, options: &Options, job_bytes: usize) -> Result<Self> {
        let weighed = run.weigh(&weighing(options, &[])?)?;
        let numbers =
            weighed.indexes.iter().map(|&at| numbers(files, &run.checkpoints[at])).collect::<Result<_>>()?;
        let chosen = run.chosen(weighed);
        let configs: Vec<_> = chosen.configs.iter().map(Option::as_ref).collect();
        let cut = Cut { max_bytes: job_bytes, ..Cut::default() };
        let comparison = mwa::merge::Comparison::new(&chosen.inputs, &configs, &chosen.weights, cut)?;
        Ok(Self { comparison, numbers })
    }

    fn try_run(&self, number: u64, inputs: &[Vec<u8>]) -> Result<Vec<f64>> {
        let k = self.numbers.len();
        let mut sums = vec![0.0; k * k + 2];
        let slices: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        let job = self.comparison.job(number);
        if number >= self.comparison.elements() {
            let found = mwa_wasm_fast::run(&job, Bytes::Whole(&slices), &mut [])?;
            if let Found::Residual(Some(residual)) = found {
                sums[k * k..].copy_from_slice(&[residual.error, residual.norm]);
            }
        } else if let Some((_, operands)) = job.sum() {
            let floats: Vec<_> = operands.map(|(float, _)| float).collect();
            mwa_web_fast::gram(&slices, &floats, &mut sums[..k * k]);
        }
        Ok(sums)
    }
}

#[wasm_bindgen]
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
impl Comparison {
    /// How many inputs are compared.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers of the jobs, as `Merge.next` gives them.
    #[must_use]
    pub fn next(&self) -> Vec<f64> {
        [0, self.comparison.elements(), self.comparison.count(), 0].map(|number| number as f64).into()
    }

    /// Bytes that all jobs read.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.comparison.bytes() as f64
    }

    /// The numbers of all files with weights.
    #[wasm_bindgen(js_name = inputFiles)]
    #[must_use]
    pub fn input_files(&self) -> Vec<u32> {
        self.numbers.iter().flatten().map(|&number| u32::try_from(number).expect("few files")).collect()
    }

    /// What a job reads, laid out as `Merge.job` does; nothing is written.
    #[must_use]
    pub fn job(&self, number: f64) -> Vec<f64> {
        let job = flat(&self.comparison.job(whole(number)), &self.numbers);
        let writes = whole(job[0]);
        let reads = usize::try_from(1 + 3 * writes).expect("few writes");
        [&[0.0], &job[reads..]].concat()
    }

    /// Run a job: the dot products of each pair of inputs, row by row, then the residual's squared error and norm.
    ///
    /// # Errors
    /// As the core's `Job::run`.
    pub fn run(&self, number: f64, inputs: &Array) -> core::result::Result<Vec<f64>, JsValue> {
        let inputs: Vec<_> =
            inputs.iter().map(|input| input.unchecked_into::<Uint8Array>().to_vec()).collect();
        self.try_run(whole(number), &inputs).map_err(|error| fail(&error))
    }
}
