//! One merge: checked, cut into jobs, run piece by piece, and told in a report.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use js_sys::{Array, Uint8Array};
use mwa::kernel::{Tally, wgsl_dtype};
use mwa::report::COMPANIONS;
use mwa::report::{self, HashedFile};
use mwa::{
    AdapterConfig, Cursor, Error, ErrorKind, Exactness, Factors, Input, MergeOptions, Plan, Rank, Report,
    Result, Shard, Space,
};
use mwa_wasm_fast::LOOPS;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wasm_bindgen::prelude::*;

use crate::checkpoint::{Checkpoint, Weights};
use crate::choose::{Choice, Options, choose, same_run};
use crate::fail;
use crate::files::Files;
use crate::product::{Modules, distance, pair, residual, space};
use crate::ranges::{Ranges, flat};
use crate::run::Found;

/// The report's file name in a merged folder.
const REPORT: &str = "mwa-report.json";

/// A merge in the making.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Merge {
    plan: Plan,
    job_bytes: usize,
    /// Where each job begins.
    jobs: Vec<Cursor>,
    /// The number of each input file, by input and file.
    numbers: Vec<Vec<usize>>,
    /// The head of each output file.
    heads: Vec<Vec<u8>>,
    config: Option<AdapterConfig>,
    /// In product space, the jobs after the sums.
    modules: Option<Modules>,
    /// If averaged factors are compared with the average of their products, the jobs after the sums.
    factors: Option<Factors>,
    /// How far the last job's module is off: error and norm; NaN if that says nothing, empty after a sum.
    lost: Vec<f64>,
    /// Name and number of each file that is copied from the newest checkpoint.
    companions: Vec<(String, usize)>,
    report: Report,
    underflowed: u64,
    /// Kept between jobs, so that their memory is reused.
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
}

#[derive(Serialize)]
struct Finished<'a> {
    report: &'a Report,
    /// Small files to write: name, text.
    texts: Vec<(String, String)>,
    /// Input files to copy: name, number.
    copies: &'a [(String, usize)],
}

/// Hashes, as JavaScript found them.
#[derive(Deserialize)]
struct Hashes {
    outputs: Vec<String>,
    /// By the number of the file.
    inputs: Map<String, Value>,
}

impl Merge {
    pub(crate) fn new(
        files: &Files,
        found: &Found,
        options: &Options,
        excluded: &[usize],
        ranks: &[usize],
        job_bytes: usize,
    ) -> Result<Self> {
        let Choice { mut choice, inputs: mut rows } = choose(found, options, excluded)?;
        let checkpoints: Vec<_> = choice.indexes.iter().map(|&index| &found.checkpoints[index]).collect();
        let configs: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.config.as_ref()).collect();
        let how = MergeOptions {
            dtype: options.dtype()?,
            space: space(options)?,
            allow_non_finite: options.allow_non_finite,
            rewrite: options.rewrite,
            ..MergeOptions::default()
        };
        let inputs = inputs(&checkpoints);
        let mut merge = mwa::Merge::new(&inputs, &configs, &choice.weights, how)?;
        let modules = match (merge.copied, how.space) {
            (None, Space::Product(rank)) => {
                let rank = rank.unwrap_or(Rank::Inputs);
                let modules = Modules::new(&inputs, &configs, &choice.weights, rank, ranks)?;
                merge.recipe.elsewhere = modules.layout(how.dtype);
                Some(modules)
            }
            _ => None,
        };
        let factors = match (merge.copied, how.space, merge.exactness) {
            (None, Space::Factors, Exactness::Product) if options.residual != Some(false) => {
                Some(Factors::new(&inputs, &configs, &choice.weights)?)
            }
            _ => None,
        };
        let plan = match merge.copied {
            Some(only) => Plan::copy(&inputs, only),
            None => Plan::new(&inputs, &choice.weights, &merge.recipe)?,
        };
        let mut notes = core::mem::take(&mut choice.notes);
        notes.extend(merge.notes.iter().cloned());
        if how.space == Space::Factors {
            notes.extend(same_run(found, &choice.indexes, options.allow_cross_run)?);
        }
        if let Some(modules) = &modules {
            notes.extend(modules.gaps(options.strict)?);
        }

        let owner = checkpoints[merge.copied.unwrap_or(checkpoints.len() - 1)];
        let outputs = plan.outputs();
        let heads = outputs.iter().zip(&owner.files).map(|(output, file)| match merge.copied {
            Some(_) => files.head(file.number, file.header.data_start()).to_vec(),
            None => output.header.to_bytes(),
        });
        let heads = heads.collect();
        for (row, checkpoint) in rows.iter_mut().zip(&checkpoints) {
            // the merged folder is likely saved beside the run
            row.path = format!("../{}", row.name);
            let file = |file: &Weights| hashed(file.name.clone(), files.size(file.number));
            row.files = checkpoint.files.iter().map(file).collect();
        }
        let (space, rank) = report::space_name(how.space);
        let report = Report {
            mwa: env!("CARGO_PKG_VERSION").into(),
            selected: Some(choice.selected.clone()),
            weighting: choice.weighting.clone(),
            space,
            dtype: report::dtype_name(how.dtype),
            rank,
            residual: None,
            adapter: found.adapter.clone(),
            inputs: rows,
            outputs: outputs.iter().map(|file| hashed(file.name.clone(), file.header.file_len())).collect(),
            advice: choice.advice.clone(),
            companions: Vec::new(),
            notes,
        };
        let next = |at: &Cursor| Some(plan.job(*at, job_bytes)?.1);
        let jobs = core::iter::successors(Some(Cursor::default()), next);
        let jobs = jobs.filter(|at| plan.job(*at, job_bytes).is_some()).collect();
        Ok(Self {
            jobs,
            job_bytes,
            numbers: checkpoints.iter().map(|checkpoint| numbers(checkpoint)).collect(),
            heads,
            config: owner.config.clone(),
            modules,
            factors,
            lost: Vec::new(),
            companions: companions(files, owner),
            report,
            underflowed: 0,
            buffers: Vec::new(),
            out: Vec::new(),
            plan,
        })
    }

    fn job(&self, index: usize) -> mwa::Job<'_> {
        let (job, _) = self.plan.job(self.jobs[index], self.job_bytes).expect("new() found this job");
        job
    }

    fn try_run(&mut self, index: usize, inputs: &Array) -> Result<()> {
        let mut buffers = core::mem::take(&mut self.buffers);
        let mut out = core::mem::take(&mut self.out);
        let count = inputs.length() as usize;
        buffers.resize_with(buffers.len().max(count), Vec::new);
        for (buffer, input) in buffers.iter_mut().zip(inputs.iter()) {
            let input: Uint8Array = input.unchecked_into();
            buffer.resize(input.length() as usize, 0);
            input.copy_to(buffer);
        }
        let slices: Vec<_> = buffers[..count].iter().map(Vec::as_slice).collect();
        let size = |range: &Range<u64>| usize::try_from(range.end - range.start).expect("a job fits memory");
        let module = index.checked_sub(self.jobs.len());
        let ran = if let (Some(module), Some(factors)) = (module, &self.factors) {
            out.clear();
            residual(factors, module, &slices).map(|found| (0, pair(found).into()))
        } else if let Some(module) = module {
            let modules = self.modules.as_ref().expect("only they have jobs after the sums");
            let job = &modules.jobs(&self.plan)[module];
            out.resize(job.writes().map(|write| size(&write.range)).sum(), 0);
            let mut rest = out.as_mut_slice();
            let mut outputs = Vec::new();
            for write in job.writes() {
                let (one, after) = rest.split_at_mut(size(&write.range));
                outputs.push(one);
                rest = after;
            }
            (LOOPS.merge)(job, &slices, &mut outputs).map(|lost| (0, [lost.error, lost.norm].into()))
        } else {
            let job = self.job(index);
            out.resize(size(&job.write().range), 0);
            (LOOPS.run)(&job, &slices, &mut out).map(|tally| (tally.underflowed, Vec::new()))
        };
        (self.buffers, self.out) = (buffers, out);
        let (underflowed, lost) = ran?;
        self.underflowed += underflowed;
        self.lost = lost;
        Ok(())
    }
}

#[wasm_bindgen]
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
impl Merge {
    /// What each job writes and reads: per job how many writes follow, each write's output file, start and end, how many
    /// reads follow, and each read's file number, start and end.
    #[must_use]
    pub fn jobs(&self) -> Vec<f64> {
        let place = |write: &mwa::Write| (write.file, write.range.clone());
        let sums = (0..self.jobs.len()).map(|index| self.job(index));
        let sums = sums.flat_map(|job| flat(&[place(&job.write())].into(), job.reads(), &self.numbers));
        let modules = self.modules.as_ref().map(|modules| modules.jobs(&self.plan)).unwrap_or_default();
        let modules = modules
            .iter()
            .flat_map(|job| flat(&job.writes().map(place).collect(), job.reads(), &self.numbers));
        let none = Ranges::new();
        let residuals = self.factors.iter().flat_map(Factors::jobs);
        let residuals = residuals.flat_map(|job| flat(&none, job.reads(), &self.numbers));
        sums.chain(modules).chain(residuals).collect()
    }

    /// How far the last job's module is off, error and norm: the average of its factors from that of its products, or in
    /// product space its cut to the output's rank.
    #[must_use]
    pub fn lost(&self) -> Vec<f64> {
        self.lost.clone()
    }

    /// Run a job over the bytes of its reads; the bytes to write.
    ///
    /// # Errors
    /// As the core's `Job::run`.
    pub fn run(&mut self, job: usize, inputs: &Array) -> core::result::Result<Uint8Array, JsValue> {
        self.try_run(job, inputs).map_err(|error| fail(&error))?;
        Ok(Uint8Array::from(self.out.as_slice()))
    }

    /// The sum of a job for a GPU: its dtype, its elements, and dtype and weight of each operand; empty if a GPU cannot
    /// do it.
    #[must_use]
    pub fn sum(&self, job: usize) -> Vec<f64> {
        if job >= self.jobs.len() {
            return Vec::new();
        }
        let job = self.job(job);
        let describe = || {
            let (dtype, operands) = job.sum()?;
            let code = |float| wgsl_dtype(float).map(f64::from);
            let range = job.write().range;
            let mut sum =
                alloc::vec![code(dtype)?, ((range.end - range.start) / dtype.bytes() as u64) as f64];
            for (float, weight) in operands {
                sum.extend([code(float)?, weight]);
            }
            Some(sum)
        };
        describe().unwrap_or_default()
    }

    /// Whether a job's result may be written that has so many values that are not finite. If not, `run` says why.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
    pub fn accepts(&self, job: usize, non_finite: f64) -> bool {
        self.job(job).accepts(Tally { non_finite: non_finite as u64, underflowed: 0 })
    }

    /// How many values became zero in the output dtype, in the jobs run here.
    #[must_use]
    pub fn underflowed(&self) -> f64 {
        self.underflowed as f64
    }

    /// The head of an output file.
    #[must_use]
    pub fn head(&self, file: usize) -> Vec<u8> {
        self.heads[file].clone()
    }

    /// The report so far, without hashes: what will be written, from what, and what there is to say; as JSON.
    #[must_use]
    pub fn preview(&self) -> String {
        json(&self.finished())
    }

    /// The numbers of all files with weights.
    #[wasm_bindgen(js_name = inputFiles)]
    #[must_use]
    pub fn input_files(&self) -> Vec<u32> {
        self.numbers.iter().flatten().map(|&number| u32::try_from(number).expect("few files")).collect()
    }

    /// The report and all other files, once the hashes are known, as JSON; `lost` is what the jobs after the sums gave, in
    /// their order.
    ///
    /// # Errors
    /// When the hashes are not what `Hashes` says, and when there was nothing to merge.
    pub fn finish(
        &mut self,
        hashes: &str,
        underflowed: f64,
        lost: Vec<f64>,
    ) -> core::result::Result<String, JsValue> {
        if let Some(modules) = &self.modules {
            self.report.residual = modules.distance(&lost).map_err(|error| fail(&error))?;
        }
        if let Some(factors) = &self.factors {
            let (distance, note) = distance(factors, &lost);
            self.report.residual = distance;
            self.report.notes.extend(note.map(Into::into));
        }
        self.report.advise_residual();
        let hashes: Hashes = serde_json::from_str(hashes)
            .map_err(|error| fail(&Error::new(ErrorKind::Usage, format!("hashes: {error}"))))?;
        for (file, hash) in self.report.outputs.iter_mut().zip(hashes.outputs) {
            file.sha256 = hash;
        }
        for (row, numbers) in self.report.inputs.iter_mut().zip(&self.numbers) {
            for (file, number) in row.files.iter_mut().zip(numbers) {
                let hash = hashes.inputs.get(&number.to_string()).and_then(Value::as_str);
                file.sha256 = hash.unwrap_or_default().into();
            }
            // a file that was not hashed cannot be checked; the merge itself still can
            row.files.retain(|file| !file.sha256.is_empty());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
        self.report.notes.extend(mwa::Merge::note_underflow(&self.plan, underflowed as u64));
        note_twins(&mut self.report);
        Ok(json(&self.finished()))
    }

    fn finished(&self) -> Finished<'_> {
        let mut texts: Vec<_> = mwa::shard_index(self.plan.outputs()).into_iter().collect();
        if let Some(config) = &self.config {
            let text = self.modules.as_ref().map_or_else(|| config.text(), |modules| &modules.config);
            texts.push(("adapter_config.json".into(), text.into()));
        }
        texts.push(("README.md".into(), mwa::card(&self.report, self.config.as_ref())));
        texts.push((REPORT.into(), self.report.to_json()));
        Finished { report: &self.report, texts, copies: &self.companions }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("it is plain data")
}

pub(crate) fn numbers(checkpoint: &Checkpoint) -> Vec<usize> {
    checkpoint.files.iter().map(|file| file.number).collect()
}

fn hashed(name: String, bytes: u64) -> HashedFile {
    HashedFile { name, bytes, sha256: String::new() }
}

fn companions(files: &Files, owner: &Checkpoint) -> Vec<(String, usize)> {
    let Some(folder) = &owner.folder else { return Vec::new() };
    let companion = |name: &&str| Some((name.to_string(), files.number(&format!("{folder}/{name}"))?));
    COMPANIONS.iter().filter_map(companion).collect()
}

/// Checkpoints as the core plans with them, their files under the names that the output gives them.
pub(crate) fn inputs(checkpoints: &[&Checkpoint]) -> Vec<Input> {
    let differs = |file: &Weights| checkpoints.iter().any(|other| other.files[0].name != file.name);
    let each = checkpoints.iter().map(|checkpoint| {
        let name = |file: &Weights| match checkpoint.folder.is_none() && differs(file) {
            true => "merged.safetensors".into(),
            false => file.name.clone(),
        };
        let shard = |file: &Weights| Shard { name: name(file), header: file.header.clone() };
        Input { name: checkpoint.name.clone(), files: checkpoint.files.iter().map(shard).collect() }
    });
    each.collect()
}

/// Say so when two inputs are the same model.
fn note_twins(report: &mut Report) {
    let is_same = |(a, b): (&HashedFile, &HashedFile)| a.sha256 == b.sha256;
    for (i, input) in report.inputs.iter().enumerate().filter(|(_, input)| !input.files.is_empty()) {
        let mut before =
            report.inputs[..i].iter().rev().filter(|other| other.files.len() == input.files.len());
        let twin = before.find(|other| other.files.iter().zip(&input.files).all(is_same));
        if let Some(twin) = twin {
            let (a, b) = (&twin.name, &input.name);
            report.notes.push(format!("{a} and {b} hold the same weights, byte for byte"));
        }
    }
}
