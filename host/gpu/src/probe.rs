//! Known jobs for a device that was just opened: what it computes must be what the core computes, to the bit.

use core::borrow::Borrow;
use std::collections::BTreeSet;

use mwa::kernel::{Operand, Tally, Twin, wgsl_dtype};
use mwa::{Float, Result};

use crate::device::{Device, lock};
use crate::failed;
use crate::layout::{Key, Layout, MIXED};
use crate::slot::Slot;

/// The dtypes that the kernels read and write.
const FLOATS: [Float; 5] = [Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];

/// Lengths around the elements of an invocation (8) and of a workgroup (2048), and first, for the message, one with several.
const LENGTHS: [usize; 6] = [5003, 1, 7, 9, 2047, 2049];

/// Probe the kernel that each of `layouts` needs, once in the device's life.
///
/// # Errors
/// [`mwa::ErrorKind::Device`]: which kernel differs, in how many words, and where first.
pub async fn probe(device: &Device, layouts: impl Iterator<Item: Borrow<Layout>>) -> Result<()> {
    let mut wanted: BTreeSet<_> = layouts.map(|layout| layout.borrow().key()).collect();
    wanted.retain(|key| !lock(&device.trusted).contains(key));
    probe_twice(device, &wanted).await
}

/// Probe every kernel.
///
/// # Errors
/// As [`probe`].
pub async fn probe_all(device: &Device) -> Result<()> {
    let codes = || FLOATS.into_iter().filter_map(wgsl_dtype);
    let pairs = || codes().chain([MIXED]).flat_map(move |input| codes().map(move |output| (input, output)));
    let keys =
        KERNELS.into_iter().flat_map(|(name, _)| pairs().map(move |(input, output)| (name, input, output)));
    probe_twice(device, &keys.collect()).await
}

/// A device that differs may still be right when it need not convert from f16 by itself.
async fn probe_twice(device: &Device, wanted: &BTreeSet<Key>) -> Result<()> {
    let first = probe_these(device, wanted).await;
    if first.is_err() && device.check().is_ok() && device.distrust_unpacking() {
        return probe_these(device, wanted).await;
    }
    first
}

async fn probe_these(device: &Device, wanted: &BTreeSet<Key>) -> Result<()> {
    device.check()?;
    if wanted.is_empty() {
        return Ok(());
    }
    let slot = Slot::new(device, 1 << 17, 1 << 16, 1);
    let inputs = || FLOATS.map(Some).into_iter().chain([None]);
    let pairs = || FLOATS.into_iter().flat_map(|output| inputs().map(move |input| (input, output)));
    for (kernel, jobs) in KERNELS {
        for (input, output) in pairs() {
            let codes = (input.map_or(Some(MIXED), wgsl_dtype), wgsl_dtype(output));
            let (Some(from), Some(to)) = codes else { continue };
            if !wanted.contains(&(kernel, from, to)) {
                continue;
            }
            for (twin, job) in LENGTHS.into_iter().flat_map(|n| jobs(input, n)) {
                if let Some(detail) = check(device, &slot, twin, &job, output).await? {
                    let name = name(twin, input, output);
                    return Err(failed(device.name(), format!("refused: {name} {detail}")));
                }
            }
            lock(&device.trusted).insert((kernel, from, to));
        }
    }
    device.check()
}

/// Jobs that a kernel must do, of so many elements of operands of one dtype, or of several.
type Jobs = fn(Option<Float>, usize) -> Vec<(Twin, Job)>;

/// The kernels by name.
const KERNELS: [(&str, Jobs); 2] = [(Twin::WeightedSum.name(), sums), (Twin::Middle(0).name(), middles)];

fn sums(input: Option<Float>, n: usize) -> Vec<(Twin, Job)> {
    let jobs =
        [spread(input, n), cancelling(input, n), tiny(input, n), nearly(input, n, 0), nearly(input, n, 1)];
    jobs.map(|job| (Twin::WeightedSum, job)).into()
}

fn middles(input: Option<Float>, n: usize) -> Vec<(Twin, Job)> {
    let mut jobs: Vec<_> = (0..3).map(|cut| (Twin::Middle(cut), spread(input, n))).collect();
    jobs.extend([(0, 3), (1, 4), (2, 6)].map(|(cut, count)| (Twin::Middle(cut), few(input, n, count))));
    jobs.extend([0, 1].map(|cut| (Twin::Middle(cut), tiny(input, n))));
    // of many operands there is room for a few elements
    if n < 16 {
        let most = Twin::Middle(0).most_operands();
        jobs.extend([0, 11, 31].map(|cut| (Twin::Middle(cut), few(input, n, most))));
        jobs.extend([0, 1].map(|below| (Twin::Middle(0), nearly_a_25th(input, n, below))));
    }
    jobs
}

/// Dtype, weight and bytes of each operand.
type Job = Vec<(Float, f64, Vec<u8>)>;

/// Bytes of all kinds: every exponent, NaN, infinities, subnormals. In every third element all operands are alike, so
/// that it passes; half of those lie in the middle between two words of narrower dtypes.
fn spread(input: Option<Float>, n: usize) -> Job {
    let operand = |(k, weight): (usize, f64)| {
        let dtype = input.unwrap_or(FLOATS[k]);
        let size = dtype.bytes();
        let mut bytes = paint(n * size, k as u64);
        let alike = paint(n * size, 77);
        let pairs = bytes.chunks_exact_mut(size).zip(alike.chunks_exact(size));
        for (i, (to, from)) in pairs.step_by(3).enumerate() {
            to.copy_from_slice(from);
            if i % 2 == 0 {
                make_tie(dtype, i / 2, to);
            }
        }
        (dtype, weight, bytes)
    };
    [0.5, -0.25, 1.5, -0.5, -0.25].into_iter().enumerate().map(operand).collect()
}

/// End an element's mantissa in a one and zeros, at a place that depends on `i`, like its exponent.
fn make_tie(dtype: Float, i: usize, element: &mut [u8]) {
    let mut word = [0; 4];
    word[..element.len()].copy_from_slice(element);
    let mut bits = u32::from_le_bytes(word);
    let (mantissa, exponents) = match dtype {
        Float::F16 => (10, None),
        Float::F8E4M3 => (3, None),
        Float::F8E5M2 => (2, None),
        Float::BF16 => (7, Some(0x7f80)),
        Float::F32 | Float::F64 => (23, Some(0x7f80_0000)),
    };
    if let Some(mask) = exponents {
        // 2⁻²⁵ to 2⁶: what the narrow dtypes hold, their subnormals included
        let exponent = 102 + u32::try_from(i % 32).expect("below 32");
        bits = (bits & !mask) | (exponent << mantissa);
    }
    let cut = mantissa - u32::try_from(i).unwrap_or(0) % mantissa;
    bits = (bits >> cut << cut) | (1 << (cut - 1));
    element.copy_from_slice(&bits.to_le_bytes()[..element.len()]);
}

/// Products that cancel, so that a sum fused with its product leaves the product's rounding error instead of nothing.
fn cancelling(input: Option<Float>, n: usize) -> Job {
    let dtype = input.unwrap_or(Float::BF16);
    let size = dtype.bytes();
    let mut values = paint(n * size, 3);
    for value in values.chunks_exact_mut(size) {
        // large, so that narrow dtypes can hold the error, and finite
        let top = value.last_mut().expect("an element has a byte");
        *top = match dtype {
            Float::F8E4M3 => 0x70 | (*top & 0x87),
            Float::F8E5M2 => 0x78 | (*top & 0x83),
            Float::F16 => 0x74 | (*top & 0x83),
            _ => 0x44 | (*top & 0x80),
        };
    }
    // what is added last is zero, in another dtype when they are to be mixed
    let last = if input.is_none() { Float::F8E5M2 } else { dtype };
    let zeros = vec![0; n * last.bytes()];
    vec![(dtype, 1000.3, values.clone()), (dtype, -1000.3, values), (last, 1.0, zeros)]
}

/// Inputs, or else products, and sums around the smallest normal f32, many of them subnormal.
fn tiny(input: Option<Float>, n: usize) -> Job {
    let is_wide = |dtype| matches!(dtype, Float::F32 | Float::BF16);
    let operand = |(k, weight): (usize, f64)| {
        let dtype = input.unwrap_or(FLOATS[k]);
        let size = dtype.bytes();
        let mut bytes = paint(n * size, 40 + k as u64);
        if is_wide(dtype) {
            for element in bytes.chunks_exact_mut(size) {
                element[size - 1] &= 0x80; // an exponent of 0 or 1
            }
        }
        (dtype, if is_wide(dtype) { weight } else { weight * f64::from(f32::MIN_POSITIVE) }, bytes)
    };
    [1.5, -1.25, 1.125].into_iter().enumerate().map(operand).collect()
}

/// Products that round up to the smallest normal f32, which units that flush before they round make zero of; `below` that
/// by a step, they do not.
fn nearly(input: Option<Float>, n: usize, below: u32) -> Job {
    let dtype = input.unwrap_or(Float::BF16);
    let is_wide = matches!(dtype, Float::F32 | Float::BF16);
    // 1.5 · 2⁻¹²⁶, or as far down as all narrow dtypes have normal numbers: 1.5 · 2⁻³
    let element: &[u8] = match dtype {
        Float::F32 | Float::F64 => &[0, 0, 0xc0, 0],
        Float::BF16 => &[0xc0, 0],
        Float::F16 => &[0, 0x32],
        Float::F8E4M3 => &[0x24],
        Float::F8E5M2 => &[0x32],
    };
    // times 1.5, a number between two words, which rounds to the even one: 2 − 2⁻²³
    let third = f64::from(11_184_810 - below) / f64::from(1 << 23);
    let weight = if is_wide { third / 2.0 } else { third * f64::from(f32::MIN_POSITIVE) * 4.0 };
    let last = if input.is_none() { Float::F8E5M2 } else { dtype };
    vec![(dtype, weight, element.repeat(n)), (last, 1.0, vec![0; n * last.bytes()])]
}

/// Values of which many are equal: zeros of both signs, subnormals, infinities, NaN now and then, and a few numbers.
fn few(input: Option<Float>, n: usize, count: usize) -> Job {
    let operand = |k: usize| {
        let dtype = input.unwrap_or(FLOATS[k % FLOATS.len()]);
        let size = dtype.bytes();
        let pick = paint(n, 60 + k as u64);
        let word = |pick: &u8| {
            let mut word = [0; 4];
            let top = match pick % 16 {
                0..4 => [0, 0x80][usize::from(pick % 2)],
                // infinity, or the largest number where there is none
                4 | 5 => match dtype {
                    Float::F8E4M3 => 0x7e,
                    Float::F16 | Float::F8E5M2 => 0x7c,
                    _ => 0x7f,
                },
                // a few numbers of either sign, the largest of which add up to more than narrow dtypes hold
                low => [0x2f, 0x30, 0x31, 0x33, 0x35, 0x3b, 0x3c, 0x5f, 0x70, 0x77][usize::from(low - 6)],
            };
            word[size - 1] = top | (pick & 0x80);
            match (pick % 16, dtype) {
                (4 | 5, Float::F32) => word[2] = 0x80,
                (4 | 5, Float::BF16) => word[0] = 0x80,
                (2 | 3, _) => word[0] |= 3,
                _ => {}
            }
            if *pick == 255 {
                word = [0xff; 4];
            }
            word
        };
        (dtype, 1.0, pick.iter().flat_map(|pick| word(pick).into_iter().take(size)).collect())
    };
    (0..count).map(operand).collect()
}

/// Values whose 25th part rounds up to the smallest normal f32, as 1/25 does not do when it is rounded; `below` that by a
/// step, they do not.
fn nearly_a_25th(input: Option<Float>, n: usize, below: u16) -> Job {
    let dtype = input.unwrap_or(Float::BF16);
    let last = if input.is_none() { Float::F8E5M2 } else { dtype };
    // 25 · 2⁻¹²⁶, which narrow dtypes do not have: of these it is some other number
    let element = (0x02c8 - below).to_le_bytes();
    let word = match dtype.bytes() {
        4 => vec![0, 0, element[0], element[1]],
        size => element[2 - size..].to_vec(),
    };
    let zeros = |dtype: Float| (dtype, 1.0, vec![0; n * dtype.bytes()]);
    let zeros = core::iter::repeat_with(|| zeros(dtype)).take(23).chain([zeros(last)]);
    core::iter::once((dtype, 1.0, word.repeat(n))).chain(zeros).collect()
}

/// How the device's answer to one job differs from the core's, if it does.
async fn check(device: &Device, slot: &Slot, twin: Twin, job: &Job, output: Float) -> Result<Option<String>> {
    let n = job[0].2.len() / job[0].0.bytes();
    let dtypes = job.iter().map(|(dtype, weight, _)| (*dtype, *weight));
    let layout = &Layout::new(twin, dtypes, output, n as u64).expect("the dtypes are the kernel's");
    for (k, (_, _, bytes)) in job.iter().enumerate() {
        slot.write(device, layout, k, 0, bytes)?;
    }
    slot.run(device, core::slice::from_ref(layout)).await?;
    let operands: Vec<_> =
        job.iter().map(|&(dtype, weight, ref bytes)| Operand { dtype, bytes, weight }).collect();
    let mut expected = vec![0; n * output.bytes()];
    let tally = twin.reference(&operands, output, &mut expected);
    let seen = slot.tally(device, layout, 0)?;
    let verdict = slot.read(device, 0..expected.len() as u64, |bytes| compare(bytes, &expected, output))?;
    slot.recycle();
    Ok(verdict.or_else(|| (seen != tally).then(|| difference(tally, seen))))
}

/// How the words differ, if they do.
fn compare(seen: &[u8], expected: &[u8], dtype: Float) -> Option<String> {
    let size = dtype.bytes();
    let pairs = seen.chunks_exact(size).zip(expected.chunks_exact(size)).enumerate();
    let mut wrong = pairs.filter(|(_, (a, b))| a != b);
    let (i, (a, b)) = wrong.next()?;
    let hex = |word: &[u8]| word.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (count, all) = (1 + wrong.count(), expected.len() / size);
    Some(format!("differs in {count} of {all} words, first at element {i}: {}, not {}", hex(a), hex(b)))
}

fn difference(expected: Tally, seen: Tally) -> String {
    format!(
        "counts {} results that are not finite and {} that underflowed, not {} and {}",
        seen.non_finite, seen.underflowed, expected.non_finite, expected.underflowed
    )
}

fn name(twin: Twin, input: Option<Float>, output: Float) -> String {
    let input = input.map_or_else(|| "mixed".into(), |input| input.dtype().to_string());
    format!("{} {input} to {}", twin.name(), output.dtype())
}

/// Bytes without a pattern, always the same.
fn paint(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    core::iter::repeat_with(next).take(n).collect()
}
