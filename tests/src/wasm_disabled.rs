//! The names of `wasm.rs` where it is not compiled in: its executors are not there.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Executor;

const WHY: &str = "built without --features wasm";

/// Not there.
///
/// # Errors
/// Always.
pub fn component(_: &str) -> Result<Box<dyn Executor>, String> {
    Err(WHY.into())
}

/// Not there.
///
/// # Errors
/// Always.
pub fn module(_: &str) -> Result<Box<dyn Executor>, String> {
    Err(WHY.into())
}

/// Not there.
///
/// # Errors
/// Always.
pub fn merge_run(_: &str, _: &[String], _: &Map<String, Value>, _: &Path) -> mwa::Result<()> {
    Err(mwa::Error::new(mwa::ErrorKind::Device, WHY))
}
