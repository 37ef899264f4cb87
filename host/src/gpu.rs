//! Sums on GPUs through wgpu: Vulkan, Metal, DX12, and WebGPU in a browser. The same bytes as the CPU, or an error.
//!
//! `device`, `kernel` and `probe` await and never block, so that a browser can use them; they know neither files nor
//! threads. `open` and `stream` are for machines with both.

mod board;
mod cut;
mod device;
mod kernel;
mod open;
mod probe;
mod stream;

use core::fmt;

use mwa::{Error, ErrorKind, Result};

pub use device::{Adapter, Device, adapters};
pub use kernel::{Kernel, Layout, Slot};
pub(crate) use open::open;
pub use open::{Found, devices, execute, is_there};
pub use probe::{probe, probe_all};
pub(crate) use stream::run;

/// A failure of a device, not of the data.
fn failed(device: &str, detail: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Device, format!("gpu: {device}: {detail}"))
        .help("use --device cpu, or --device auto, which goes on without a device that fails")
}

/// A result of something that may fail for the sake of a device.
fn or_failed<T, E: fmt::Display>(device: &str, result: core::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| failed(device, error))
}
