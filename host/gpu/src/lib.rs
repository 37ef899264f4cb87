//! Sums on GPUs through wgpu: Vulkan, Metal, DX12, and WebGPU in a browser. The same bytes as the CPU, or an error.
//!
//! A [`Device`] is opened from one of the [`adapters`] and must pass a [`probe`]; then a [`Slot`] runs one job at a time,
//! as a [`Layout`] places it there. All of it awaits and never blocks, so that a browser can use it; it knows neither
//! files nor threads.

mod device;
mod layout;
mod probe;
mod slot;
#[cfg(target_arch = "wasm32")]
mod web;

use core::fmt;

use mwa::{Error, ErrorKind, Result};

pub use device::{Adapter, Device, Kernel, adapters};
pub use layout::Layout;
pub use probe::{probe, probe_all};
pub use slot::{Slot, View};

/// A failure of a device, not of the data.
fn failed(device: &str, detail: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Device, format!("gpu: {device}: {detail}"))
        .help("use --device cpu, or --device auto, which goes on without a device that fails")
}

/// A result of something that may fail for the sake of a device.
fn or_failed<T, E: fmt::Display>(device: &str, result: core::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| failed(device, error))
}
