//! The core's merge for JavaScript: jobs by number, what they read and write, what they found.

use alloc::string::String;
use alloc::vec::Vec;

use js_sys::{Array, Uint8Array};
use mwa::digest::{Digests, Parts};
use mwa::files::Maybe;
use mwa::kernel::{Tally, Twin, wgsl_dtype};
use mwa::merge::{Bytes, Chosen, Closing, Cut, Found, Hash, Job, MergeOptions, Next, Text};
use mwa::{Error, ErrorKind, Read, Report, Result, Weighed, Write};
use serde::Serialize;
use wasm_bindgen::prelude::*;

use crate::fail;
use crate::files::Store;
use crate::numbers::flat;

/// A merge in the making. Each thread has one: all hand out the same jobs.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Merge {
    merge: mwa::merge::Merge,
    /// The number of each input file, by input and file.
    numbers: Vec<Vec<usize>>,
    /// Name and number of each file that is copied from the newest checkpoint.
    companions: Vec<(String, usize)>,
    /// The hashes of all files so far; those that are read have the numbers that JavaScript knows.
    digests: Digests,
    /// What the last job found, and what it adds to the hashes.
    found: Option<Found>,
    parts: Parts,
    /// Kept between jobs, so that their memory is reused.
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
}

/// What is left to write.
#[derive(Serialize)]
struct Finished<'a> {
    report: &'a Report,
    texts: &'a [Text],
    /// Input files to copy: name, number.
    copies: &'a [(String, usize)],
}

impl Merge {
    pub(crate) fn new(
        files: &Store,
        run: &mwa::Run,
        weighed: Weighed,
        merging: impl FnOnce(&mut Chosen) -> MergeOptions,
        notes: Vec<String>,
        job_bytes: usize,
    ) -> Maybe<Self> {
        let checkpoints = run.inputs(&weighed.indexes);
        let numbers =
            checkpoints.iter().map(|checkpoint| numbers(files, checkpoint)).collect::<Result<_>>()?;
        let mut chosen = run.chosen(weighed);
        chosen.notes.extend(notes);
        let cut = Cut { max_bytes: job_bytes, ..Cut::default() };
        let merging = merging(&mut chosen);
        let mut merge = mwa::merge::Merge::new(chosen, merging, cut)?;
        let number = |(name, path): (String, String)| Some((name, files.number(&path)?));
        let beside = checkpoints[merge.owner()].beside(files, &mut merge)?;
        let companions = beside.into_iter().filter_map(number).collect();
        let digests = Digests::new(files.sizes().iter().copied(), []);
        let (found, parts, buffers, out) = (None, Parts::default(), Vec::new(), Vec::new());
        Ok(Self { merge, numbers, companions, digests, found, parts, buffers, out })
    }

    /// Do the jobs that come before the output with what was read already; nothing where something was not.
    pub(crate) fn compare(&mut self, files: &Store) -> Result<()> {
        let Next::Jobs(numbers) = self.merge.next()? else { return Ok(()) };
        if self.merge.is_writing() {
            return Ok(());
        }
        for number in numbers {
            let job = self.merge.job(number);
            let bytes = |read: Read| {
                files.found(self.numbers[read.input][read.file], read.range.start, read.range.end)
            };
            let Some(inputs) = job.reads().map(bytes).collect::<Option<Vec<_>>>() else { return Ok(()) };
            let found = mwa_wasm_fast::run(&job, Bytes::Whole(&inputs), &mut [])?;
            self.merge.found(number, found)?;
        }
        self.merge.next().map(drop)
    }

    fn try_run(&mut self, number: f64, inputs: &Array) -> Result<()> {
        let (mut buffers, mut out) = (core::mem::take(&mut self.buffers), core::mem::take(&mut self.out));
        let count = inputs.length() as usize;
        buffers.resize_with(buffers.len().max(count), Vec::new);
        for (buffer, input) in buffers.iter_mut().zip(inputs.iter()) {
            let input: Uint8Array = input.unchecked_into();
            buffer.resize(input.length() as usize, 0);
            input.copy_to(buffer);
        }
        let slices: Vec<_> = buffers[..count].iter().map(Vec::as_slice).collect();
        let job = self.merge.job(whole(number));
        let sizes: Vec<_> = job.writes().map(|it| size(it.range.end - it.range.start)).collect();
        out.resize(sizes.iter().sum(), 0);
        let mut rest = out.as_mut_slice();
        let mut outputs = Vec::with_capacity(sizes.len());
        for size in sizes {
            let (one, after) = rest.split_at_mut(size);
            outputs.push(one);
            rest = after;
        }
        let ran = mwa_wasm_fast::run(&job, Bytes::Whole(&slices), &mut outputs);
        self.parts = Parts::default();
        if ran.is_ok() && job.is_hashed() {
            let (reads, writes): (Vec<_>, Vec<_>) = (self.reads(&job), job.writes().collect());
            let written = outputs.iter().map(|bytes| &**bytes);
            self.parts = self.digests.parts(reads.iter().zip(slices), writes.iter().zip(written));
        }
        (self.buffers, self.out) = (buffers, out);
        self.found = Some(ran?);
        Ok(())
    }

    /// What a job reads, by the numbers of the files.
    fn reads(&self, job: &Job<'_>) -> Vec<Write> {
        let of = |Read { input, file, range }| Write { file: self.numbers[input][file], range };
        job.reads().map(of).collect()
    }
}

#[wasm_bindgen]
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
impl Merge {
    /// The numbers of the jobs to do now: the first, the first that is not on elements of the output in its order, and the
    /// one after the last; then 1 if they write the output, 0 if they come before. Nothing when all is done. All must be told
    /// of before it is asked again.
    ///
    /// # Errors
    /// As the core's `Merge::next`.
    #[expect(clippy::should_implement_trait, reason = "it can fail")]
    pub fn next(&mut self) -> core::result::Result<Option<Vec<f64>>, JsValue> {
        match self.merge.next().map_err(|error| fail(&error))? {
            Next::Jobs(numbers) => {
                let writes = self.merge.is_writing();
                if writes {
                    self.merge.begin_outputs(&mut self.digests);
                }
                let after = self.merge.elements().end.clamp(numbers.start, numbers.end);
                Ok(Some(
                    [numbers.start, after, numbers.end, writes.into()].map(|number| number as f64).into(),
                ))
            }
            Next::Done => {
                self.merge.begin_outputs(&mut self.digests);
                Ok(None)
            }
            Next::Wait => Err(fail(&Error::new(
                ErrorKind::Usage,
                "jobs are asked for before all of the last are told of",
            ))),
        }
    }

    /// Bytes that the jobs of the last `next` read, all together.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.merge.bytes() as f64
    }

    /// What a job writes and reads: how many writes follow, each write's output file, start and end, how many reads follow,
    /// and each read's file number, start and end.
    #[must_use]
    pub fn job(&self, number: f64) -> Vec<f64> {
        flat(&self.merge.job(whole(number)), &self.numbers)
    }

    /// Run a job over the bytes of its reads; the bytes of its writes, one after the other.
    ///
    /// # Errors
    /// As the core's `Job::run`.
    pub fn run(&mut self, number: f64, inputs: &Array) -> core::result::Result<Uint8Array, JsValue> {
        self.try_run(number, inputs).map_err(|error| fail(&error))?;
        Ok(Uint8Array::from(self.out.as_slice()))
    }

    /// What the last job found, for `take`.
    #[must_use]
    pub fn found(&self) -> Vec<f64> {
        self.found.as_ref().map(Found::to_numbers).unwrap_or_default()
    }

    /// What the last job adds to the hashes of the files that it read and wrote, for `takeParts`.
    #[must_use]
    pub fn parts(&self) -> Vec<u8> {
        self.parts.encode()
    }

    /// Take in what a job adds to the hashes, in whichever thread.
    ///
    /// # Errors
    /// When it is not what `parts` or `hash` gave.
    #[wasm_bindgen(js_name = takeParts)]
    pub fn take_parts(&mut self, parts: &[u8]) -> core::result::Result<(), JsValue> {
        let foreign = || Error::new(ErrorKind::Usage, "this is no part of a hash of these files");
        let parts = self.digests.decode(parts).ok_or_else(|| fail(&foreign()))?;
        self.digests.take(parts);
        Ok(())
    }

    /// What a piece of a file adds to its hash, for `takeParts`.
    #[must_use]
    pub fn hash(&mut self, file: usize, start: f64, bytes: &Uint8Array) -> Vec<u8> {
        self.out.resize(bytes.length() as usize, 0);
        bytes.copy_to(&mut self.out);
        let start = whole(start);
        let span = Write { file, range: start..start + self.out.len() as u64 };
        self.digests.parts([(&span, self.out.as_slice())], []).encode()
    }

    /// Hash the result of a job that was not run here: the bytes of its writes, one after the other.
    pub fn wrote(&mut self, number: f64, bytes: &Uint8Array) {
        self.out.resize(bytes.length() as usize, 0);
        bytes.copy_to(&mut self.out);
        let mut rest = self.out.as_slice();
        for write in self.merge.job(whole(number)).writes() {
            let piece = rest.split_off(..size(write.range.end - write.range.start)).unwrap_or_default();
            self.digests.wrote(write.file, write.range.start, piece);
        }
    }

    /// What no job has read of the files with weights: file number, start and end, and so on.
    #[must_use]
    pub fn missing(&self) -> Vec<f64> {
        let is_input = |file: &usize| self.numbers.iter().flatten().any(|number| number == file);
        let missing = self.digests.missing().filter(|(file, _)| is_input(file));
        missing.flat_map(|(file, range)| [file as f64, range.start as f64, range.end as f64]).collect()
    }

    /// Take in what a job has found, in whichever thread.
    ///
    /// # Errors
    /// When no such job is out.
    pub fn take(&mut self, number: f64, found: &[f64]) -> core::result::Result<(), JsValue> {
        let take = |found| self.merge.found(whole(number), found);
        Found::from_numbers(found).and_then(take).map_err(|error| fail(&error))
    }

    /// What a job is for a GPU: 0 for a weighted sum, or for middle values one more than are cut on each side; the result's dtype,
    /// its elements, and dtype and weight of each operand; empty if a GPU cannot do it.
    #[must_use]
    pub fn sum(&self, number: f64) -> Vec<f64> {
        let job = self.merge.job(whole(number));
        let describe = || {
            let (twin, dtype, operands) = job.twin()?;
            if !twin.takes(operands.len()) {
                return None;
            }
            let kernel = if let Twin::Middle(cut) = twin { f64::from(cut) + 1.0 } else { 0.0 };
            let code = |float| wgsl_dtype(float).map(f64::from);
            let range = job.writes().next()?.range;
            let elements = (range.end - range.start) / dtype.bytes() as u64;
            let mut sum = alloc::vec![kernel, code(dtype)?, elements as f64];
            for (float, weight) in operands {
                sum.extend([code(float)?, weight]);
            }
            Some(sum)
        };
        describe().unwrap_or_default()
    }

    /// Whether a job's result may be written that has so many values that are not finite. If not, `run` says why.
    #[must_use]
    pub fn accepts(&self, number: f64, non_finite: f64) -> bool {
        self.merge.job(whole(number)).accepts(Tally { non_finite: whole(non_finite), underflowed: 0 })
    }

    /// The head of an output file.
    #[must_use]
    pub fn head(&self, file: usize) -> Vec<u8> {
        self.merge.head(file)
    }

    /// The report so far, without hashes: what will be written, from what, and what there is to say; as JSON.
    #[must_use]
    pub fn preview(&self) -> String {
        json(&Finished {
            report: &self.merge.preview(),
            texts: &self.merge.texts(),
            copies: &self.companions,
        })
    }

    /// The numbers of all files with weights.
    #[wasm_bindgen(js_name = inputFiles)]
    #[must_use]
    pub fn input_files(&self) -> Vec<u32> {
        self.numbers.iter().flatten().map(|&number| u32::try_from(number).expect("few files")).collect()
    }

    /// The report and all other files, once all jobs are told of and nothing is missing, as JSON. `companions` are the other
    /// files that were written, as JSON. Files with weights of which something is missing are left out of the report.
    ///
    /// # Errors
    /// When there was nothing to merge.
    pub fn finish(&self, companions: &str) -> core::result::Result<String, JsValue> {
        let companions = serde_json::from_str(companions).unwrap_or_default();
        let hash = |hash: Option<String>| Hash::from(hash.unwrap_or_default());
        let of = |numbers: &Vec<usize>| numbers.iter().map(|&it| hash(self.digests.of_read(it))).collect();
        // the merged folder is likely saved beside the run
        let path = |row: &mwa::report::Input| alloc::format!("../{}", row.name);
        let closing = Closing {
            paths: self.merge.chosen().rows.iter().map(path).collect(),
            inputs: self.numbers.iter().map(of).collect(),
            outputs: (0..self.merge.outputs().len()).map(|it| hash(self.digests.of_written(it))).collect(),
            companions,
            ..Closing::default()
        };
        let finished = self.merge.finish(&closing).map_err(|error| fail(&error))?;
        Ok(json(&Finished { report: &finished.report, texts: &finished.texts, copies: &self.companions }))
    }

    /// What to say of the checkpoint that made a job fail by its values, if it is to be left out.
    #[must_use]
    pub fn dropped(&self, file: &str, tensor: &str, detail: String) -> Option<String> {
        let error = Error::new(ErrorKind::NonFinite, detail).file(file).tensor(tensor);
        self.merge.bad_input(&error).map(|bad| bad.note())
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("it is plain data")
}

/// The numbers of a checkpoint's files. Jobs read them as they lie, so that tensors that lie in pieces are refused.
pub(crate) fn numbers(files: &Store, checkpoint: &mwa::Checkpoint) -> Result<Vec<usize>> {
    let number = |file: &mwa::checkpoint::File| {
        if file.header.is_in_place() {
            return Ok(files.number(&file.path).expect("it was opened"));
        }
        let detail = "holds tensors whose numbers do not lie side by side, which are not read here";
        Err(Error::new(ErrorKind::Input, detail)
            .file(file.path.clone())
            .help("convert it to safetensors, or merge with the mwa program, which reads it"))
    };
    checkpoint.files.iter().map(number).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "JavaScript was given it")]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a job fits memory")
}
