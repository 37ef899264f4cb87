//! One merge: checked, cut into jobs, run piece by piece, and told in a report.

use std::collections::BTreeMap;

use js_sys::{Array, Uint8Array};
use mwa::{Agreement, Candidate, Error, ErrorKind, Float, Input, Plan, Recipe, Result, Shard};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

use crate::checkpoint::{Checkpoint, Weights};
use crate::choose::{Choice, Options, choose, same_run};
use crate::fail;
use crate::files::Files;
use crate::report::{self, HashedFile, Report};
use crate::run::Found;

/// The report's file name in a merged folder.
const REPORT: &str = "mwa-report.json";

/// Files that belong to the model as a whole and are the same in every checkpoint; taken from the newest.
const COMPANIONS: [&str; 18] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.model",
    "vocab.txt",
];

/// A merge in the making.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Merge {
    work: Work,
    job_bytes: usize,
    /// The number of each input file, by input and file.
    numbers: Vec<Vec<usize>>,
    outputs: Vec<Shard>,
    owner: Owner,
    report: Report,
    elements: u64,
    underflowed: u64,
    /// Kept between jobs, so that their memory is reused.
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
}

#[derive(Debug)]
enum Work {
    /// Sum.
    Average(Plan),
    /// Take the files of the one checkpoint that has weight as they are.
    Copy(Vec<usize>),
}

/// The checkpoint that gives the files beside the weights.
#[derive(Debug)]
struct Owner {
    config: Option<mwa::AdapterConfig>,
    /// Name and number of each companion.
    companions: Vec<(String, usize)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished<'a> {
    report: &'a Report,
    /// Small files to write, as text.
    texts: Vec<(String, String)>,
    /// Input files to copy: name, number.
    copies: &'a [(String, usize)],
}

/// Hashes, as JavaScript found them.
#[derive(Deserialize)]
struct Hashes {
    outputs: Vec<String>,
    /// By the number of the file.
    inputs: BTreeMap<usize, String>,
}

impl Merge {
    pub(crate) fn new(files: &Files, found: &Found, options: &Options, excluded: &[usize], job_bytes: usize) -> Result<Self> {
        let mut choice = choose(found, options, excluded)?;
        let dtype = dtype(options)?;
        let mut notes = core::mem::take(&mut choice.notes);
        let checkpoints: Vec<_> = choice.indexes.iter().map(|&index| &found.checkpoints[index]).collect();
        let agreement = agree(&checkpoints)?;
        notes.extend(agreement.notes.iter().cloned());
        notes.extend(same_run(found, &choice.indexes, options.allow_cross_run)?);

        let numbers = checkpoints.iter().map(|checkpoint| numbers(checkpoint)).collect();
        let survivor = sole_survivor(&choice, dtype);
        let (work, outputs) = match survivor {
            Some(only) => {
                let name = &checkpoints[only].name;
                notes.push(format!("only {name} has weight: its files are copied as they are"));
                (Work::Copy(self::numbers(checkpoints[only])), shards(checkpoints[only], &checkpoints))
            }
            None => {
                let plan = plan(&checkpoints, &choice, &agreement, dtype, &mut notes)?;
                let outputs = plan.outputs().to_vec();
                (Work::Average(plan), outputs)
            }
        };
        let owner = checkpoints[survivor.unwrap_or(checkpoints.len() - 1)];
        let elements = owner.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        let mut inputs: Vec<_> = choice.inputs(found).collect();
        for (row, checkpoint) in inputs.iter_mut().zip(&checkpoints) {
            // the merged folder is likely saved beside the run
            row.path = format!("../{}", row.name);
            let file = |file: &Weights| hashed(file.name.clone(), files.size(file.number));
            row.files = checkpoint.files.iter().map(file).collect();
        }
        let report = Report {
            mwa: env!("CARGO_PKG_VERSION").into(),
            weighting: choice.weighting.clone(),
            space: "factors".into(),
            dtype: report::dtype_name(dtype),
            adapter: None,
            inputs,
            outputs: outputs.iter().map(|shard| hashed(shard.name.clone(), shard.header.file_len())).collect(),
            notes,
        };
        let owner = Owner { config: owner.config.clone(), companions: companions(files, owner) };
        Ok(Self {
            work,
            job_bytes,
            numbers,
            outputs,
            owner,
            report,
            elements,
            underflowed: 0,
            buffers: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Names adapters in the report.
    pub(crate) fn with_adapter(mut self, adapter: Option<&str>) -> Self {
        self.report.adapter = adapter.map(str::to_owned);
        self
    }

    fn try_run(&mut self, job: usize, inputs: &Array) -> Result<()> {
        self.buffers.resize_with(self.buffers.len().max(inputs.length() as usize), Vec::new);
        for (buffer, input) in self.buffers.iter_mut().zip(inputs.iter()) {
            let input: Uint8Array = input.unchecked_into();
            buffer.resize(input.length() as usize, 0);
            input.copy_to(buffer);
        }
        let Work::Average(plan) = &self.work else {
            core::mem::swap(&mut self.out, &mut self.buffers[0]);
            return Ok(());
        };
        let job = plan.jobs(self.job_bytes).nth(job).expect("JavaScript counts up to job_count()");
        let range = job.write().range;
        self.out.resize(usize::try_from(range.end - range.start).expect("a job is small"), 0);
        let inputs: Vec<_> = self.buffers[..inputs.length() as usize].iter().map(Vec::as_slice).collect();
        self.underflowed += job.run(&inputs, &mut self.out)?.underflowed;
        Ok(())
    }

    /// The ranges of a copied file.
    fn pieces(&self, number_of_file: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let len = self.outputs[number_of_file].header.file_len();
        let starts = (0..len).step_by(self.job_bytes);
        starts.map(move |start| (start, len.min(start + self.job_bytes as u64)))
    }

    /// File and range of each copied piece.
    fn copies(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        (0..self.outputs.len()).flat_map(|file| self.pieces(file).map(move |(start, end)| (file, start, end)))
    }
}

#[wasm_bindgen]
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
impl Merge {
    /// How many jobs there are.
    #[wasm_bindgen(js_name = jobCount)]
    #[must_use]
    pub fn job_count(&self) -> usize {
        match &self.work {
            Work::Average(plan) => plan.jobs(self.job_bytes).count(),
            Work::Copy(_) => self.copies().count(),
        }
    }

    /// What each job reads and writes: per job its output file, start and end there, how many reads follow, and each
    /// read's file number, start and end.
    #[must_use]
    pub fn jobs(&self) -> Vec<f64> {
        let mut numbers = Vec::new();
        match &self.work {
            Work::Average(plan) => {
                for job in plan.jobs(self.job_bytes) {
                    let write = job.write();
                    let reads = job.reads();
                    numbers.extend([write.file as f64, write.range.start as f64, write.range.end as f64, reads.len() as f64]);
                    for read in reads {
                        let number = self.numbers[read.input][read.file];
                        numbers.extend([number as f64, read.range.start as f64, read.range.end as f64]);
                    }
                }
            }
            Work::Copy(files) => {
                for (file, start, end) in self.copies() {
                    let (start, end) = (start as f64, end as f64);
                    numbers.extend([file as f64, start, end, 1.0, files[file] as f64, start, end]);
                }
            }
        }
        numbers
    }

    /// Run a job over the bytes of its reads; the bytes to write.
    ///
    /// # Errors
    /// As the core's `Job::run`.
    pub fn run(&mut self, job: usize, inputs: &Array) -> core::result::Result<Uint8Array, JsValue> {
        self.try_run(job, inputs).map_err(|error| fail(&error))?;
        Ok(Uint8Array::from(self.out.as_slice()))
    }

    /// How many values became zero in the output dtype, in the jobs run here.
    #[must_use]
    pub fn underflowed(&self) -> f64 {
        self.underflowed as f64
    }

    /// The head of an output file; empty when its bytes come with the jobs.
    #[must_use]
    pub fn head(&self, file: usize) -> Vec<u8> {
        match &self.work {
            Work::Average(_) => self.outputs[file].header.to_bytes(),
            Work::Copy(_) => Vec::new(),
        }
    }

    /// The report so far, without hashes: what will be written, from what, and what there is to say.
    #[must_use]
    pub fn preview(&self) -> String {
        json(&self.report)
    }

    /// The numbers of all files with weights.
    #[wasm_bindgen(js_name = inputFiles)]
    #[must_use]
    pub fn input_files(&self) -> Vec<u32> {
        self.numbers.iter().flatten().map(|&number| u32::try_from(number).expect("few files")).collect()
    }

    /// The report and all other files, once the hashes are known.
    ///
    /// # Errors
    /// When the hashes are not what `Hashes` says.
    pub fn finish(&mut self, hashes: &str, underflowed: f64) -> core::result::Result<String, JsValue> {
        let hashes: Hashes = serde_json::from_str(hashes)
            .map_err(|error| fail(&Error::new(ErrorKind::Usage, format!("hashes: {error}"))))?;
        for (file, hash) in self.report.outputs.iter_mut().zip(hashes.outputs) {
            file.sha256 = hash;
        }
        for (row, numbers) in self.report.inputs.iter_mut().zip(&self.numbers) {
            for (file, number) in row.files.iter_mut().zip(numbers) {
                file.sha256 = hashes.inputs.get(number).cloned().unwrap_or_default();
            }
            // a file that was not hashed cannot be checked; the merge itself still can
            row.files.retain(|file| !file.sha256.is_empty());
        }
        if underflowed > 0.0 {
            self.report.notes.push(format!(
                "{underflowed} of {} values became zero in the output dtype; f32 or bf16 keeps them",
                self.elements
            ));
        }
        note_twins(&mut self.report);
        let mut texts = Vec::new();
        if self.outputs.len() > 1 {
            texts.push(shard_index(&self.outputs));
        }
        if let Some(config) = &self.owner.config {
            texts.push(("adapter_config.json".into(), config.text().into()));
        }
        texts.push(("README.md".into(), crate::card::card(&self.report, self.owner.config.as_ref())));
        texts.push((REPORT.into(), self.report.to_json()));
        Ok(json(&Finished { report: &self.report, texts, copies: &self.owner.companions }))
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("it is plain data")
}

fn dtype(options: &Options) -> Result<Option<Float>> {
    match options.dtype.as_deref() {
        None | Some("keep") => Ok(None),
        Some("f32") => Ok(Some(Float::F32)),
        Some("bf16") => Ok(Some(Float::BF16)),
        Some("f16") => Ok(Some(Float::F16)),
        Some(other) => Err(Error::new(ErrorKind::Usage, format!("there is no output dtype `{other}`"))
            .help("use keep, f32, bf16 or f16")),
    }
}

fn numbers(checkpoint: &Checkpoint) -> Vec<usize> {
    checkpoint.files.iter().map(|file| file.number).collect()
}

fn hashed(name: String, bytes: u64) -> HashedFile {
    HashedFile { name, bytes, sha256: String::new() }
}

fn companions(files: &Files, owner: &Checkpoint) -> Vec<(String, usize)> {
    let Some(folder) = &owner.folder else { return Vec::new() };
    let found = COMPANIONS.iter().filter_map(|name| Some(((*name).to_owned(), files.number(&format!("{folder}/{name}"))?)));
    found.collect()
}

/// Check who may be averaged with whom.
fn agree(checkpoints: &[&Checkpoint]) -> Result<Agreement> {
    let tensors: Vec<Vec<_>> = checkpoints
        .iter()
        .map(|checkpoint| {
            checkpoint.tensors().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect()
        })
        .collect();
    let candidates: Vec<_> = checkpoints
        .iter()
        .zip(&tensors)
        .map(|(checkpoint, tensors)| Candidate {
            name: &checkpoint.name,
            config: checkpoint.config.as_ref(),
            tensors,
        })
        .collect();
    mwa::agree(&candidates)
}

/// The one checkpoint whose files can be taken as they are, because no other has weight and nothing is converted.
fn sole_survivor(choice: &Choice, dtype: Option<Float>) -> Option<usize> {
    let mut used = choice.weights.used();
    used.next().filter(|_| used.next().is_none() && dtype.is_none())
}

fn plan(
    checkpoints: &[&Checkpoint],
    choice: &Choice,
    agreement: &Agreement,
    dtype: Option<Float>,
    notes: &mut Vec<String>,
) -> Result<Plan> {
    let newest = checkpoints.last().expect("choose() gives at least one");
    let named: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| (checkpoint.name.as_str(), checkpoint.files[0].header.metadata()))
        .collect();
    let metadata = mwa::agree_metadata(&named)?;
    notes.extend(metadata.notes);
    let frozen = |tensor: &mwa::safetensors::Tensor| {
        Some((tensor.name.clone(), agreement.identical(&tensor.name)?.to_owned()))
    };
    let recipe = Recipe {
        dtype,
        identical: newest.tensors().filter_map(frozen).collect(),
        metadata: metadata.kept,
        ..Recipe::default()
    };
    let inputs: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| Input { name: checkpoint.name.clone(), files: shards(checkpoint, checkpoints) })
        .collect();
    Plan::new(&inputs, &choice.weights, &recipe)
}

/// The files of a checkpoint under the names that the output gives them.
pub(crate) fn shards(checkpoint: &Checkpoint, all: &[&Checkpoint]) -> Vec<Shard> {
    let differs = |file: &Weights| all.iter().any(|other| other.files[0].name != file.name);
    let name = |file: &Weights| match checkpoint.folder.is_none() && differs(file) {
        true => "merged.safetensors".into(),
        false => file.name.clone(),
    };
    checkpoint.files.iter().map(|file| Shard { name: name(file), header: file.header.clone() }).collect()
}

/// Which shard holds which tensor, as transformers reads it.
fn shard_index(shards: &[Shard]) -> (String, String) {
    let tensors =
        || shards.iter().flat_map(|shard| shard.header.tensors().iter().map(|tensor| (tensor, &shard.name)));
    let weight_map: BTreeMap<_, _> = tensors().map(|(tensor, shard)| (&tensor.name, shard)).collect();
    let total_size: u64 = tensors().map(|(tensor, _)| tensor.len()).sum();
    let stem = if shards[0].name.starts_with("adapter_model") { "adapter_model" } else { "model" };
    let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    (format!("{stem}.safetensors.index.json"), format!("{index:#}\n"))
}

/// Say so when two inputs are the same model.
fn note_twins(report: &mut Report) {
    let mut seen: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    for input in report.inputs.iter().filter(|input| !input.files.is_empty()) {
        let content: Vec<_> = input.files.iter().map(|file| file.sha256.as_str()).collect();
        if let Some(twin) = seen.insert(content, &input.name) {
            report.notes.push(format!("{twin} and {} hold the same weights, byte for byte", input.name));
        }
    }
}
