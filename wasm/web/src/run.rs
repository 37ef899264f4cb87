//! The core's run for JavaScript: it says what must be read, takes the bytes, and then weighs, merges and compares.

use alloc::string::String;
use alloc::vec::Vec;

use js_sys::Uint8Array;
use mwa::files::{Maybe, Stop};
use mwa::merge::{Chosen, Cut, MergeOptions};
use mwa::{Error, OpenOptions, Options, Rank, Readers, Space};
use wasm_bindgen::prelude::*;

use crate::compare::Comparison;
use crate::describe;
use crate::fail;
use crate::files::Store;
use crate::found::{Found, weighing};
use crate::merge::Merge;
use crate::search::{Search, Tried};

/// What the user gave, and what was found in it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Run {
    files: Store,
    options: OpenOptions,
    found: Option<Found>,
}

#[wasm_bindgen]
impl Run {
    /// `paths` and `sizes` of the files; `adapter` names one inside multi-adapter checkpoints, `base` that of which the checkpoints are
    /// tasks: the files from number `own` on are its.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(
        paths: Vec<String>,
        sizes: Vec<f64>,
        adapter: Option<String>,
        base: Option<String>,
        own: usize,
    ) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size in bytes")]
        let sizes = sizes.into_iter().map(|size| size as u64);
        let files = Store::new(paths.into_iter().zip(sizes).collect(), own);
        Self { files, options: OpenOptions { adapter, base, ..OpenOptions::default() }, found: None }
    }

    /// Open everything; false if something must be read first: see [`Self::wants`].
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn open(&mut self) -> Result<bool, JsValue> {
        match self.try_open() {
            Ok(found) => self.found = Some(found),
            Err(Stop::Later) => return Ok(false),
            Err(Stop::Failed(error)) => return Err(fail(&error)),
        }
        Ok(true)
    }

    fn try_open(&self) -> Maybe<Found> {
        let run = mwa::Run::open(&self.files, &Readers::ALL, self.files.roots(), &self.options)?;
        run.ask_beside(&self.files)?;
        let samples = run.sample(&self.files)?;
        Ok(Found { run, samples })
    }

    /// What must be read next: file, start and end, and so on; files by their number in the constructor's lists.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
    pub fn wants(&self) -> Vec<f64> {
        let wanted = self.files.wants().into_iter();
        wanted.flat_map(|(file, start, end)| [file as f64, start as f64, end as f64]).collect()
    }

    /// Hand over a piece that was read.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they came from wants()")]
    pub fn give(&mut self, file: usize, start: f64, end: f64, bytes: &Uint8Array) {
        self.files.give((file, start as u64, end as u64), bytes.to_vec());
    }

    /// What was found, as JSON.
    #[must_use]
    pub fn describe(&self) -> String {
        describe::run(self.found())
    }

    /// The values of a metric over the steps of each run, as JSON.
    #[must_use]
    pub fn curves(&self, metric: &str) -> String {
        describe::curves(&self.found().run, metric)
    }

    /// What a metric says of every checkpoint found, bad and missing ones too, as JSON.
    ///
    /// # Errors
    /// When the metric cannot be read at all.
    pub fn readings(&self, options: &str) -> Result<String, JsValue> {
        Options::parse(options)
            .and_then(|options| describe::readings(&self.found().run, &options))
            .map_err(|error| fail(&error))
    }

    /// Choose and weigh, as JSON.
    ///
    /// # Errors
    /// What is wrong with the options, the metric or the weights.
    pub fn weigh(&self, options: &str) -> Result<String, JsValue> {
        Options::parse(options)
            .and_then(|options| describe::weighing(&self.found().run, &options))
            .map_err(|error| fail(&error))
    }

    /// How many checkpoints are chosen.
    ///
    /// # Errors
    /// As [`Self::weigh`].
    pub fn count(&self, options: &str) -> Result<usize, JsValue> {
        let count =
            |(options, _): (Options, _)| Ok(self.found().run.weigh(&weighing(&options, &[])?)?.indexes.len());
        Tried::read(options).and_then(count).map_err(|error| fail(&error))
    }

    /// Plan a merge in jobs that read at most `job_bytes` of each input. `excluded` checkpoints, by index, are left out, and
    /// `notes` say why.
    ///
    /// # Errors
    /// What keeps the checkpoints from being averaged.
    pub fn merge(
        &self,
        options: &str,
        excluded: Vec<usize>,
        notes: Vec<String>,
        job_bytes: usize,
    ) -> Result<Merge, JsValue> {
        self.plan(options, &excluded, notes, job_bytes, |_, how| how).map_err(|error| fail(&error))
    }

    /// What a merge would write, as JSON; for ranks that only a merge can find, as if they were the inputs', and for weights
    /// that only a merge can find, as if all were the same.
    ///
    /// # Errors
    /// What keeps the checkpoints from being averaged.
    pub fn preview(&self, options: &str) -> Result<String, JsValue> {
        let known_before = |chosen: &mut Chosen, how: MergeOptions| {
            let rewrite = how.rewrite || chosen.robust.take().is_some();
            let space = match how.space {
                Space::Product(Some(Rank::Energy(_))) => Space::Product(None),
                space => space,
            };
            MergeOptions { space, rewrite, ..how }
        };
        let plan = || {
            let mut merge = self.plan(options, &[], Vec::new(), Cut::default().max_bytes, known_before)?;
            merge.compare(&self.files)?;
            Ok(merge.preview())
        };
        plan().map_err(|error: Error| fail(&error))
    }

    fn plan(
        &self,
        options: &str,
        excluded: &[usize],
        notes: Vec<String>,
        job_bytes: usize,
        alter: impl Fn(&mut Chosen, MergeOptions) -> MergeOptions,
    ) -> mwa::Result<Merge> {
        let (mut options, tried) = Tried::read(options)?;
        // it is opened with the run
        options.base.clone_from(&self.options.base);
        let weighing = weighing(&options, excluded)?;
        let (run, merging) = (&self.found().run, options.merging()?);
        let mut weighed = run.weigh(&weighing)?;
        if let Some(tried) = tried {
            weighed = tried.weigh(run, &weighed)?;
        }
        let merge = Merge::new(&self.files, run, weighed, |chosen| alter(chosen, merging), notes, job_bytes);
        merge.map_err(|stop| match stop {
            Stop::Failed(error) => error,
            Stop::Later => unreachable!("a run that is open lacks nothing"),
        })
    }

    /// Begin a search for weights. A merge with those of a trial has in its options `tried`: the weights, the groups, and where
    /// they come from.
    ///
    /// # Errors
    /// What is wrong with the options, and what cannot be searched.
    pub fn search(&self, options: &str) -> Result<Search, JsValue> {
        Search::new(&self.found().run, options).map_err(|error| fail(&error))
    }

    /// Compare the chosen checkpoints, in jobs that read at most `job_bytes` of each.
    ///
    /// # Errors
    /// As [`Self::weigh`], and when the checkpoints do not hold the same tensors.
    pub fn compare(&self, options: &str, job_bytes: usize) -> Result<Comparison, JsValue> {
        Options::parse(options)
            .and_then(|options| Comparison::new(&self.files, &self.found().run, &options, job_bytes))
            .map_err(|error| fail(&error))
    }

    fn found(&self) -> &Found {
        self.found.as_ref().expect("open() returned true")
    }
}
