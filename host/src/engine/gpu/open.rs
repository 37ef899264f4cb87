//! The door for programs that may block: list GPUs, and open those that are wanted.

use core::ops::Range;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mwa::kernel::Twin;
use mwa::merge::{Chosen, Findings, Merge, MergeOptions};
use mwa::{Error, ErrorKind, Result};

use super::batch::layout_of;
use super::stream::{self, Devices};
use super::{Adapter, Device, Layout, adapters, probe, probe_all};
use crate::engine::device::Found;
use crate::engine::device::Gpus;
use crate::engine::execute::over_files;
use crate::engine::pool::lock;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

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

/// Open the GPUs wanted, or else the best that is not a CPU in disguise, and probe the kernels that `merges` need.
pub(super) fn open(merges: &[&Merge], wanted: Option<Gpus>) -> Result<Vec<Arc<Device>>> {
    let devices = opened(wanted)?;
    merges.iter().try_for_each(|merge| prove(&devices, merge))?;
    Ok(devices)
}

fn opened(wanted: Option<Gpus>) -> Result<Vec<Arc<Device>>> {
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
    Ok(opened.iter().filter(|(place, _)| is_wanted(place)).map(|(_, device)| Arc::clone(device)).collect())
}

/// Probe the kernels that a merge needs on each of the devices.
fn prove(devices: &[Arc<Device>], merge: &Merge) -> Result<()> {
    devices.iter().try_for_each(|device| pollster::block_on(probe(device, layouts(merge))))
}

/// Layouts of all dtypes that a merge computes.
fn layouts(merge: &Merge) -> impl Iterator<Item = Layout> + '_ {
    // one job of those that are alike tells the dtypes of all
    let Range { start, end } = merge.elements();
    let next = move |first: &u64| Some(merge.alike(*first).end).filter(|first| *first < end);
    let firsts = core::iter::successors((start < end).then_some(start), next);
    firsts.filter_map(|first| layout_of(merge, &(first..first + 1)))
}

fn open_place(adapters: &[Adapter], place: usize) -> Result<Device> {
    let adapter = adapters.get(place).ok_or_else(|| {
        let have = match adapters.len() {
            0 => "no GPU was found".into(),
            1 => format!("there is no GPU {place}; the only one is gpu:0"),
            have => format!("there is no GPU {place}; there are gpu:0 to gpu:{}", have - 1),
        };
        Error::new(ErrorKind::Device, format!("gpu: {have}"))
            .help("`mwa devices` lists them; a GPU needs its driver with Vulkan, Metal or DX12")
    })?;
    pollster::block_on(adapter.open(None))
}

/// Run all jobs on elements, on GPUs as soon as they are open: those wanted, or else the best. Nothing begins before that if
/// `first`. If any that are wanted cannot be opened or fail, so does this; in place of others the CPU goes on.
pub(crate) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    wanted: Option<Gpus>,
    first: bool,
    progress: &dyn Progress,
) -> Result<Findings> {
    let start = Instant::now();
    let open = || {
        let opened = opened(wanted)?;
        if let Err(error) = prove(&opened, merge) {
            let is_sum = layouts(merge).all(|layout| layout.twin() == Twin::WeightedSum);
            if is_sum || opened.iter().any(|device| device.check().is_err()) {
                return Err(error);
            }
            // a device that is good for means need not be so for everything
            progress.note(&format!("{error}; the CPU computes that"));
            return Ok(Vec::new());
        }
        for device in &opened {
            let seconds = start.elapsed().as_secs_f64();
            progress.note(&format!("{} computes; it was ready after {seconds:.2} s", device.name()));
        }
        Ok(opened)
    };
    let count = wanted.map_or(1, |wanted| wanted.places().count());
    let devices = Devices { open, max_buffer: GUARANTEED_BUFFER, count, must: wanted.is_some(), first };
    stream::run(merge, store, machine, devices, progress)
}

/// Bytes of one buffer that WebGPU guarantees.
pub(super) const GUARANTEED_BUFFER: u64 = 128 << 20;

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
    (chosen, options): (Chosen, MergeOptions),
    inputs: &[Vec<PathBuf>],
    outputs: &[PathBuf],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<()> {
    let devices = Devices {
        open: || Ok(devices.to_vec()),
        max_buffer: devices.iter().map(|device| device.max_buffer()).min().unwrap_or(0),
        count: devices.len(),
        must,
        first: true,
    };
    let elements = |merge: &Merge, store: &Store, machine: Machine, progress: &dyn Progress| {
        stream::run(merge, store, machine, devices, progress)
    };
    over_files(chosen, options, inputs, outputs, Box::new(elements), machine, progress)
}
