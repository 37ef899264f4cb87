//! The core for JavaScript: browsers, workers, Node and Deno.
//!
//! Everything here is synchronous and does no I/O. JavaScript asks what to read, reads it as it can, and hands the
//! bytes over; `js/` is the face that people use.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod compare;
mod describe;
mod files;
mod found;
mod hash;
mod merge;
mod numbers;
mod run;
#[cfg(target_arch = "wasm32")]
mod runtime;
mod search;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use js_sys::JSON;
use mwa::{Error, ErrorKind, Weights};
use wasm_bindgen::prelude::*;

pub use compare::Comparison;
pub use hash::Hash;
pub use merge::Merge;
pub use run::Run;
pub use search::Search;

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
