//! GPUs in trouble: with little memory, lost, destroyed or misused, at once or in the middle. The CPU goes on, or the merge fails; never zeros.
//! And what their kernels give, job by job.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};
use std::process::ExitCode;
use std::sync::Arc;

use conformance::executor::Open;
use conformance::native::{over_files, reference};
use conformance::offered::heard;
use conformance::paint::{self, Painting};
use conformance::{Executor, Failure, Merge, SAME_CODE, agree, harness, vectors};
use mwa::Float;
use mwa::kernel::{Operand, Twin};
use mwa_host::gpu::{self, Device, Layout, Slot};
use mwa_host::{Machine, Progress};
use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

fn main() -> ExitCode {
    let survivors: [(_, Open); 5] = [
        ("gpu_small", || open(1, Some(20 << 10), give_up, NEVER, false)),
        ("gpu_twice", || open(2, None, give_up, NEVER, true)),
        ("gpu_lost_at_once", || open(1, None, give_up, 0, false)),
        ("gpu_lost_midway", || open(1, None, give_up, LARGE / 2, false)),
        ("gpu_lost_midway_one_of_two", || open(2, None, give_up, LARGE / 2, false)),
    ];
    let mut trials = harness::trials(
        &survivors,
        &[
            ("merges_all_vectors", merges_all_vectors),
            ("merges_much", merges_much),
            ("finds_the_middle_of_much", finds_the_middle_of_much),
            ("merges_more_inputs_than_a_kernel_takes", merges_more_inputs_than_a_kernel_takes),
        ],
    );
    let any: [(_, Open); 1] = [("gpu", || open(1, None, give_up, NEVER, true))];
    trials
        .extend(harness::trials(&any, &[("gives_the_middle_of_any_values", gives_the_middle_of_any_values)]));
    // in other ways, which one merge shows as well as all vectors
    let harmed: [(_, Open); 3] = [
        ("gpu_destroyed_at_once", || open(1, None, destroy, 0, false)),
        ("gpu_destroyed_midway", || open(1, None, destroy, LARGE / 2, false)),
        ("gpu_misused_midway", || open(1, None, misuse, LARGE / 2, false)),
    ];
    trials.extend(harness::trials(&harmed, &[("merges_much", merges_much)]));
    let dead: [(_, Open); 5] = [
        ("gpu_lost_at_once", || open(1, None, give_up, 0, true)),
        ("gpu_lost_midway", || open(1, None, give_up, LARGE / 2, true)),
        ("gpu_destroyed_at_once", || open(1, None, destroy, 0, true)),
        ("gpu_destroyed_midway", || open(1, None, destroy, LARGE / 2, true)),
        ("gpu_misused_midway", || open(1, None, misuse, LARGE / 2, true)),
    ];
    trials.extend(harness::trials(&dead, &[("fails_if_it_must_not_lose_the_device", fails)]));
    harness::conclude(trials)
}

/// Bytes of all inputs of the large merge.
const LARGE: u64 = 3 * 1_200_000;
/// No merge here has so many bytes.
const NEVER: u64 = u64::MAX;

fn merges_all_vectors(executor: &dyn Executor) -> Result<(), String> {
    harness::all(&vectors::load().cases, |case| case.check(executor))
}

fn merges_much(executor: &dyn Executor) -> Result<(), String> {
    same_as_reference(executor, &large())
}

fn merges_more_inputs_than_a_kernel_takes(executor: &dyn Executor) -> Result<(), String> {
    let input = |seed| file(Float::F16, 5000, seed);
    same_as_reference(
        executor,
        &Merge { inputs: (0..257).map(input).collect(), weights: vec![1.0; 257], ..Merge::default() },
    )
}

fn finds_the_middle_of_much(executor: &dyn Executor) -> Result<(), String> {
    for (method, outliers) in [("median", None), ("trimmed-mean", Some(1)), ("trimmed-mean", Some(0))] {
        same_as_reference(
            executor,
            &Merge { weights: vec![1.0; 3], ..of_middle(large(), method, outliers) },
        )?;
    }
    let input = |seed| file(Float::BF16, 3000, seed);
    let most = Twin::Middle(0).most_operands() as u64;
    for count in [most, most + 1] {
        let inputs: Vec<_> = (0..count).map(input).collect();
        let merge = Merge { weights: vec![1.0; inputs.len()], inputs, ..Merge::default() };
        same_as_reference(executor, &of_middle(merge, "median", None))?;
    }
    Ok(())
}

fn of_middle(merge: Merge, method: &str, outliers: Option<u64>) -> Merge {
    let mut options = serde_json::Map::from_iter([("method".to_owned(), method.into())]);
    options.extend(outliers.map(|outliers| ("outliers".to_owned(), outliers.into())));
    Merge { method: options, ..merge }
}

/// The kernel of middle values against the obvious loop: operands of any number and mix of dtypes, whole ones the same, any bits, any
/// length, any cut.
fn gives_the_middle_of_any_values(_: &dyn Executor) -> Result<(), String> {
    type Case = (Vec<(Float, u64)>, Option<Float>, Float, Painting, usize, prop::sample::Index);
    const FLOATS: [Float; 5] = [Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];
    let adapter = block_on(gpu::adapters()).into_iter().next().ok_or("there is no GPU")?;
    // NVIDIA's driver was seen to crash when a device is closed
    let device = ManuallyDrop::new(block_on(adapter.open(None)).map_err(|error| error.to_string())?);
    let float = || prop::sample::select(&FLOATS[..]);
    let painting = prop::sample::select(&[Painting::Wild, Painting::Finite, Painting::Tame][..]);
    let count = prop_oneof![3 => 1..10_usize, 1 => 10..=Twin::Middle(0).most_operands()];
    let operands = count.prop_flat_map(move |count| prop::collection::vec((float(), 0..8_u64), count));
    let all =
        (operands, prop::option::of(float()), float(), painting, 1..3000_usize, any::<prop::sample::Index>());
    let law = |(mut operands, one, output, painting, length, cut): Case| {
        if let Some(one) = one {
            operands.iter_mut().for_each(|(float, _)| *float = one);
        }
        let twin = Twin::Middle(u32::try_from(cut.index(operands.len().div_ceil(2))).expect("it is small"));
        let bytes = |(float, seed): &(Float, u64)| paint::elements(painting, *float, length, *seed, 99);
        let inputs: Vec<_> = operands.iter().map(bytes).collect();
        let run = || -> mwa::Result<_> {
            let dtypes = operands.iter().map(|(float, _)| (*float, 0.5));
            let layout = Layout::new(twin, dtypes, output, length as u64).expect("it takes that");
            let slot = Slot::new(&device, layout.input_bytes(), layout.output_bytes(), 1);
            for (k, input) in inputs.iter().enumerate() {
                slot.write(&device, &layout, k, 0, input)?;
            }
            block_on(slot.run(&device, core::slice::from_ref(&layout)))?;
            let tally = slot.tally(&device, &layout, 0)?;
            let range = 0..(length * output.bytes()) as u64;
            Ok((slot.read(&device, range, <[u8]>::to_vec)?, tally))
        };
        let mut truth = vec![0; length * output.bytes()];
        let each = operands.iter().zip(&inputs);
        let each = each.map(|((dtype, _), bytes)| Operand { dtype: *dtype, bytes, weight: 0.5 });
        let tally = twin.reference(&each.collect::<Vec<_>>(), output, &mut truth);
        let (seen, counted) = run().map_err(|error| error.to_string())?;
        let place = seen.chunks(output.bytes()).zip(truth.chunks(output.bytes())).position(|(a, b)| a != b);
        match place {
            Some(at) => Err(format!("{twin:?} differs at element {at}")),
            None if tally != counted => Err(format!("{twin:?} counts {counted:?}, not {tally:?}")),
            None => Ok(()),
        }
    };
    // kernels are compiled for each pair of dtypes
    let cases = Config::default().cases / 4;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&all, |case| law(case).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

fn fails(executor: &dyn Executor) -> Result<(), String> {
    match executor.merge(&large()) {
        Err(failure) if failure.kind == "device" => Ok(()),
        other => Err(format!("expected the loss, found {:?}", other.map(|bytes| bytes.len()))),
    }
}

fn same_as_reference(executor: &dyn Executor, merge: &Merge) -> Result<(), String> {
    let expected = reference()?.merge(merge).map_err(|failure| failure.message)?;
    agree(SAME_CODE, &expected, &executor.merge(merge).map_err(|failure| failure.message)?)
}

fn large() -> Merge {
    let inputs =
        vec![file(Float::BF16, 600_000, 1), file(Float::BF16, 600_000, 2), file(Float::BF16, 600_000, 3)];
    Merge { inputs, weights: vec![0.2, 0.5, 0.3], ..Merge::default() }
}

fn file(float: Float, len: usize, seed: u64) -> Vec<u8> {
    paint::file(&[("a".into(), float.dtype(), paint::elements(Painting::Tame, float, len, seed, 9))])
}

/// Devices of its own for each merge, the first of them lost after so many bytes were read.
struct Fragile {
    count: usize,
    max_buffer: Option<u64>,
    harm: fn(&Device),
    after: u64,
    must: bool,
}

/// As if the driver had said so.
fn give_up(device: &Device) {
    device.give_up("lost by a test");
}

/// The device itself is gone: commands, buffers and maps fail in their own ways.
fn destroy(device: &Device) {
    device.wgpu().0.destroy();
}

/// The device hears of an error that is nobody's to catch, as when it runs out of memory: a buffer larger than any.
fn misuse(device: &Device) {
    let largest = wgpu::BufferDescriptor {
        label: None,
        size: u64::MAX / 16 * 16,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    drop(device.wgpu().0.create_buffer(&largest));
}

fn open(
    count: usize,
    max_buffer: Option<u64>,
    harm: fn(&Device),
    after: u64,
    must: bool,
) -> Result<Box<dyn Executor>, String> {
    let fragile = Fragile { count, max_buffer, harm, after, must };
    fragile.device().map(|_| Box::new(fragile) as Box<dyn Executor>)
}

impl Fragile {
    fn device(&self) -> Result<Arc<Device>, String> {
        let adapters = block_on(gpu::adapters());
        let adapter = adapters.first().ok_or("there is no GPU, nor a driver that stands in for one")?;
        block_on(adapter.open(self.max_buffer)).map(Arc::new).map_err(|error| error.to_string())
    }
}

impl Executor for Fragile {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let open = || self.device().expect("it could be opened before");
        let devices: Vec<_> = (0..self.count).map(|_| open()).collect();
        let loss = Loss { device: &devices[0], harm: self.harm, left: AtomicU64::new(self.after) };
        loss.advance(0);
        let machine = Machine { threads: Some(3), memory: Some(1 << 20), ..Machine::default() };
        let merged = over_files(merge, |chosen, options, inputs, outputs| {
            gpu::execute(&devices, self.must, (chosen, options), inputs, outputs, machine, &loss)
        });
        heard(merge, merged)
    }
}

/// Loses a device after so many bytes.
struct Loss<'a> {
    device: &'a Device,
    harm: fn(&Device),
    left: AtomicU64,
}

impl Progress for Loss<'_> {
    fn advance(&self, bytes: u64) {
        let left = self.left.fetch_sub(bytes.min(self.left.load(Ordering::Relaxed)), Ordering::Relaxed);
        if left <= bytes {
            (self.harm)(self.device);
        }
    }
}
