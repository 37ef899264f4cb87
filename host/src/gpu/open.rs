//! The door for programs that may block: list GPUs, and open those that are wanted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mwa::kernel::Tally;
use mwa::{Error, ErrorKind, Plan, Result};
use serde::Serialize;

use super::{Adapter, Device, adapters, cut, probe, probe_all, stream};
use crate::execute::over_files;
use crate::pass::lock;
use crate::{Gpus, Machine, Progress};

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
///
/// They stay open until the process ends: NVIDIA's driver was seen to crash when a device of many kernels is closed.
#[must_use]
pub fn devices() -> Vec<Found> {
    let look = |adapter: &Adapter| {
        let verdict = pollster::block_on(async {
            let device = adapter.open(None).await?;
            let verdict = probe_all(&device).await;
            core::mem::forget(device);
            verdict
        });
        Found {
            name: adapter.name(),
            kind: adapter.kind().into(),
            driver: adapter.driver(),
            refused: verdict.err().map(|error| error.to_string()),
        }
    };
    pollster::block_on(adapters()).iter().map(look).collect()
}

/// Whether this machine has any GPU, or a driver that stands in for one.
#[must_use]
pub fn is_there() -> bool {
    !pollster::block_on(adapters()).is_empty()
}

/// The GPUs that were opened, by place: the next merge of this process need not open them again.
static OPENED: Mutex<BTreeMap<usize, Arc<Device>>> = Mutex::new(BTreeMap::new());

/// Open the GPUs wanted, or else the best that is not a CPU in disguise, and probe the kernels that `plan` needs.
pub(crate) fn open(plan: &Plan, wanted: Option<Gpus>) -> Result<Vec<Arc<Device>>> {
    let layouts = cut::layouts(plan);
    let mut opened = lock(&OPENED);
    opened.retain(|_, device| device.check().is_ok());
    let places: Vec<_> = wanted.map_or_else(Vec::new, |wanted| wanted.places().collect());
    if places.is_empty() || !places.iter().all(|place| opened.contains_key(place)) {
        let adapters = pollster::block_on(adapters());
        let places = match wanted {
            Some(_) => places.clone(),
            None => adapters.iter().position(|adapter| !adapter.is_cpu()).into_iter().collect(),
        };
        for place in places {
            if let Entry::Vacant(entry) = opened.entry(place) {
                entry.insert(Arc::new(open_place(&adapters, place)?));
            }
        }
    }
    let is_wanted = |place: &usize| places.is_empty() || places.contains(place);
    let devices: Vec<_> =
        opened.iter().filter(|(place, _)| is_wanted(place)).map(|(_, device)| Arc::clone(device)).collect();
    for device in &devices {
        pollster::block_on(probe(device, layouts.iter()))?;
    }
    Ok(devices)
}

fn open_place(adapters: &[Adapter], place: usize) -> Result<Device> {
    let adapter = adapters.get(place).ok_or_else(|| {
        let have = adapters.len();
        Error::new(ErrorKind::Device, format!("gpu: there is no device {place}; {have} were found"))
            .help("`mwa devices` lists them; a GPU needs its driver with Vulkan, Metal or DX12")
    })?;
    pollster::block_on(adapter.open(None))
}

/// [`crate::execute`] on devices that the caller has opened and probed. If one fails and `must` is not set, the CPU goes
/// on in its place.
///
/// # Errors
/// As [`crate::execute`], and [`mwa::ErrorKind::Device`] when a device fails that `must` not.
///
/// # Panics
/// As [`crate::execute`].
pub fn execute(
    devices: &[Arc<Device>],
    must: bool,
    plan: &Plan,
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Tally> {
    over_files(inputs, outputs, |sources, outputs| {
        stream::run(plan, sources, outputs, machine, devices, must, progress)
    })
}
