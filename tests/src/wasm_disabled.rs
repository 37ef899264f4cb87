//! The names of `wasm.rs` where it is not compiled in: its executors are not there.

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
