//! The door for programs that may block: list GPUs, and open those that are wanted.

use mwa::{Error, ErrorKind, Plan, Result};
use serde::Serialize;

use super::device::{Adapter, Device, adapters};
use super::probe::{probe, probe_all};
use super::stream::layouts;
use crate::Gpus;

/// A GPU that was found, and what a look at all its kernels gave.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The device's name and the interface it is reached through.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `unknown`.
    pub kind: String,
    /// The driver and its version.
    pub driver: String,
    /// Why it is refused; `None` when it gives the same bytes as the CPU.
    pub refused: Option<String>,
}

/// Find the GPUs of this machine, open each, and probe every kernel on it.
#[must_use]
pub fn devices() -> Vec<Found> {
    let look = |adapter: &Adapter| {
        let verdict = pollster::block_on(async { probe_all(&adapter.open(None).await?).await });
        Found {
            name: adapter.name(),
            kind: adapter.kind().into(),
            driver: adapter.driver(),
            refused: verdict.err().map(|error| error.to_string()),
        }
    };
    pollster::block_on(adapters()).iter().map(look).collect()
}

/// Open the GPUs wanted, or else the best that is not a CPU in disguise, and probe the kernels that `plan` needs.
pub(crate) fn open(plan: &Plan, wanted: Option<Gpus>) -> Result<Vec<Device>> {
    let adapters = pollster::block_on(adapters());
    let layouts = layouts(plan);
    let open = |adapter: &Adapter| {
        pollster::block_on(async {
            let device = adapter.open(None).await?;
            probe(&device, layouts.iter()).await?;
            Ok(device)
        })
    };
    let Some(wanted) = wanted else {
        return adapters.iter().find(|adapter| !adapter.is_cpu()).map(open).into_iter().collect();
    };
    let find = |place: usize| {
        adapters.get(place).ok_or_else(|| {
            let have = adapters.len();
            Error::new(ErrorKind::Device, format!("gpu: there is no device {place}; {have} were found"))
                .help("`mwa devices` lists them; a GPU needs its driver with Vulkan, Metal or DX12")
        })
    };
    wanted.places().map(|place| open(find(place)?)).collect()
}
