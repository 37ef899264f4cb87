//! What `gpu` is in a build without it: no device.

use core::convert::Infallible;
use std::fs::File;
use std::sync::Arc;

use mwa::{Error, ErrorKind, Plan, Result};
use serde::Serialize;

use crate::files::InputFile;
use crate::pass::Ran;
use crate::{Gpus, Machine, Progress};

/// A GPU; there is none.
#[derive(Debug)]
pub struct Device(Infallible);

impl Device {
    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.0 {}
    }
}

/// A GPU that was found; there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// What messages call it.
    pub name: String,
    /// The kind of device.
    pub kind: String,
    /// The driver and its version.
    pub driver: String,
    /// Why it is refused.
    pub refused: Option<String>,
}

/// No device.
#[must_use]
pub fn devices() -> Vec<Found> {
    Vec::new()
}

/// There is none.
#[must_use]
pub fn is_there() -> bool {
    false
}

pub(crate) fn open(_: &Plan, wanted: Option<Gpus>) -> Result<Vec<Arc<Device>>> {
    match wanted {
        None => Ok(Vec::new()),
        Some(_) => Err(Error::new(ErrorKind::Device, "gpu: this mwa was built without GPUs")
            .help("use --device cpu, or build it with the feature `gpu`")),
    }
}

pub(crate) fn run(
    _: &Plan,
    _: &[&[InputFile]],
    _: &[File],
    _: Machine,
    devices: &[Arc<Device>],
    _: bool,
    _: &dyn Progress,
) -> Result<Ran> {
    match devices[0].0 {}
}
