//! The core for JavaScript: browsers, workers, Node and Deno.
//!
//! Everything here is synchronous and does no I/O. JavaScript asks what to read, reads it as it can, and hands the
//! bytes over; `js/` is the face that people use.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod checkpoint;
mod choose;
mod compare;
mod describe;
mod files;
mod hash;
mod merge;
mod product;
mod ranges;
mod run;
#[cfg(target_arch = "wasm32")]
mod runtime;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use js_sys::{JSON, Uint8Array};
use mwa::{Error, ErrorKind, Weights};
use wasm_bindgen::prelude::*;

use choose::Options;
use files::{Files, Stop};
use run::Found;

pub use compare::Comparison;
pub use hash::Hash;
pub use merge::Merge;
pub use product::Survey;

/// What the user gave, and what was found in it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Run {
    files: Files,
    adapter: Option<String>,
    found: Option<Found>,
}

#[wasm_bindgen]
impl Run {
    /// `paths` and `sizes` of the files; `adapter` names one inside multi-adapter checkpoints.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(paths: Vec<String>, sizes: Vec<f64>, adapter: Option<String>) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size in bytes")]
        let sizes = sizes.into_iter().map(|size| size as u64);
        Self { files: Files::new(paths.into_iter().zip(sizes).collect()), adapter, found: None }
    }

    /// Open everything; false if something must be read first: see [`Self::wants`].
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn open(&mut self) -> Result<bool, JsValue> {
        match Found::new(&self.files, self.adapter.as_deref()) {
            Ok(found) => self.found = Some(found),
            Err(Stop::Unread) => return Ok(false),
            Err(Stop::Failed(error)) => return Err(fail(&error)),
        }
        Ok(true)
    }

    /// What must be read: file number, start and end of each piece.
    #[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
    #[must_use]
    pub fn wants(&self) -> Vec<f64> {
        self.files
            .wants()
            .into_iter()
            .flat_map(|(file, start, end)| [file as f64, start as f64, end as f64])
            .collect()
    }

    /// Hand over a piece that was read.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they came from wants()")]
    pub fn give(&mut self, file: usize, start: f64, end: f64, bytes: &Uint8Array) {
        self.files.give((file, start as u64, end as u64), bytes.to_vec());
    }

    /// What was found, as JSON.
    #[must_use]
    pub fn describe(&self) -> String {
        describe::run(&self.files, self.found())
    }

    /// The values of a metric over the steps of each run, as JSON.
    #[must_use]
    pub fn curves(&self, metric: &str) -> String {
        describe::curves(self.found(), metric)
    }

    /// What a metric says of every checkpoint found, bad and missing ones too, as JSON.
    ///
    /// # Errors
    /// When the metric cannot be read at all.
    pub fn readings(&self, options: &str) -> Result<String, JsValue> {
        Options::parse(options)
            .and_then(|options| describe::readings(self.found(), &options))
            .map_err(|error| fail(&error))
    }

    /// Choose and weigh, as JSON.
    ///
    /// # Errors
    /// What is wrong with the options, the metric or the weights.
    pub fn weigh(&self, options: &str) -> Result<String, JsValue> {
        Options::parse(options)
            .and_then(|options| describe::weighing(self.found(), &options))
            .map_err(|error| fail(&error))
    }

    /// Plan a merge in jobs that read at most `job_bytes` of each input; `excluded` checkpoints, by index, are left out;
    /// `ranks` is what a [`Survey`] found.
    ///
    /// # Errors
    /// What keeps the checkpoints from being averaged.
    pub fn merge(
        &self,
        options: &str,
        excluded: Vec<usize>,
        ranks: Vec<usize>,
        job_bytes: usize,
    ) -> Result<Merge, JsValue> {
        Options::parse(options)
            .and_then(|options| Merge::new(&self.files, self.found(), &options, &excluded, &ranks, job_bytes))
            .map_err(|error| fail(&error))
    }

    /// Plan to find the ranks that a merge needs first; `undefined` if it needs none.
    ///
    /// # Errors
    /// What keeps the checkpoints from being averaged.
    pub fn survey(&self, options: &str, excluded: Vec<usize>) -> Result<Option<Survey>, JsValue> {
        Options::parse(options)
            .and_then(|options| Survey::new(self.found(), &options, &excluded))
            .map_err(|error| fail(&error))
    }

    /// Compare the chosen checkpoints, in jobs that read at most `job_bytes` of each.
    ///
    /// # Errors
    /// As [`Self::weigh`], and when the checkpoints do not hold the same tensors.
    pub fn compare(&self, options: &str, job_bytes: usize) -> Result<Comparison, JsValue> {
        Options::parse(options)
            .and_then(|options| Comparison::new(self.found(), &options, job_bytes))
            .map_err(|error| fail(&error))
    }

    fn found(&self) -> &Found {
        self.found.as_ref().expect("open() returned true")
    }
}

/// Weights of plain numbers: by a scheme, or with `explicit` the numbers themselves, divided by their sum.
///
/// # Errors
/// What is wrong with the numbers, the goal, the scheme or the penalty.
#[wasm_bindgen]
pub fn weights(values: &[f64], goal: &str, scheme: &str, penalty: f64) -> Result<Vec<f64>, JsValue> {
    let weights = || match scheme {
        "explicit" => Weights::explicit(values),
        scheme => Weights::new(values, goal.parse()?, scheme.parse()?, penalty),
    };
    weights().map(|weights| weights.values().to_vec()).map_err(|error| fail(&error))
}

/// The version of this package.
#[wasm_bindgen]
#[must_use]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// An error as a JavaScript object; `js/error.ts` makes a `MergeError` of it.
pub(crate) fn fail(error: &Error) -> JsValue {
    let facts = serde_json::json!({
        "kind": error.kind().name(),
        "code": error.kind() as u8,
        "file": error.at_file(),
        "tensor": error.at_tensor(),
        "detail": error.detail(),
        "message": error.to_string(),
        "help": error.advice(),
    });
    JSON::parse(&facts.to_string()).unwrap_or_else(|_| JsValue::from_str(ErrorKind::Usage.name()))
}
