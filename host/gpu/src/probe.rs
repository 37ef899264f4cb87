//! Known jobs for a device that was just opened: what it computes must be what the core computes, to the bit.

use core::borrow::Borrow;
use std::collections::BTreeSet;

use mwa::kernel::{self, Operand, Tally};
use mwa::{Float, Result};

use crate::device::{Device, lock};
use crate::failed;
use crate::layout::{Layout, MIXED};
use crate::slot::Slot;

/// The dtypes that the kernel reads and writes.
const FLOATS: [Float; 5] = [Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];

/// Lengths around the elements of an invocation (8) and of a workgroup (2048), and first, for the message, one with several.
const LENGTHS: [usize; 6] = [5003, 1, 7, 9, 2047, 2049];

/// Probe the kernel for each pair of dtypes of `layouts`, once in the device's life.
///
/// # Errors
/// [`mwa::ErrorKind::Device`]: which kernel differs, in how many words, and where first.
pub async fn probe(device: &Device, layouts: impl Iterator<Item: Borrow<Layout>>) -> Result<()> {
    let mut wanted: BTreeSet<_> = layouts.map(|layout| layout.borrow().dtypes()).collect();
    wanted.retain(|dtypes| !lock(&device.trusted).contains(dtypes));
    probe_twice(device, &wanted).await
}

/// Probe every kernel.
///
/// # Errors
/// As [`probe`].
pub async fn probe_all(device: &Device) -> Result<()> {
    let codes = || FLOATS.into_iter().filter_map(kernel::wgsl_dtype);
    let pairs = codes().chain([MIXED]).flat_map(|input| codes().map(move |output| (input, output)));
    probe_twice(device, &pairs.collect()).await
}

/// A device that differs may still be right when it need not convert from f16 by itself.
async fn probe_twice(device: &Device, wanted: &BTreeSet<(u32, u32)>) -> Result<()> {
    let first = probe_these(device, wanted).await;
    if first.is_err() && device.check().is_ok() && device.distrust_unpacking() {
        return probe_these(device, wanted).await;
    }
    first
}

async fn probe_these(device: &Device, wanted: &BTreeSet<(u32, u32)>) -> Result<()> {
    device.check()?;
    if wanted.is_empty() {
        return Ok(());
    }
    let slot = Slot::new(device, 1 << 17, 1 << 16, 1);
    for output in FLOATS {
        for input in FLOATS.map(Some).into_iter().chain([None]) {
            let dtypes = (input.map_or(Some(MIXED), kernel::wgsl_dtype), kernel::wgsl_dtype(output));
            let (Some(from), Some(to)) = dtypes else { continue };
            if !wanted.contains(&(from, to)) {
                continue;
            }
            for job in LENGTHS.into_iter().flat_map(|n| {
                [
                    spread(input, n),
                    cancelling(input, n),
                    tiny(input, n),
                    nearly(input, n, 0),
                    nearly(input, n, 1),
                ]
            }) {
                if let Some(detail) = check(device, &slot, &job, output).await? {
                    let name = name(input, output);
                    return Err(failed(device.name(), format!("refused: {name} {detail}")));
                }
            }
            lock(&device.trusted).insert((from, to));
        }
    }
    device.check()
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

/// How the device's answer to one job differs from the core's, if it does.
async fn check(device: &Device, slot: &Slot, job: &Job, output: Float) -> Result<Option<String>> {
    let n = job[0].2.len() / job[0].0.bytes();
    let dtypes = job.iter().map(|(dtype, weight, _)| (*dtype, *weight));
    let layout = &Layout::new(dtypes, output, n as u64).expect("the dtypes are the kernel's");
    for (k, (_, _, bytes)) in job.iter().enumerate() {
        slot.write(device, layout, k, 0, bytes)?;
    }
    slot.run(device, core::slice::from_ref(layout)).await?;
    let operands: Vec<_> =
        job.iter().map(|&(dtype, weight, ref bytes)| Operand { dtype, bytes, weight }).collect();
    let mut expected = vec![0; n * output.bytes()];
    let tally = kernel::reference(&operands, output, &mut expected);
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

fn name(input: Option<Float>, output: Float) -> String {
    let input = input.map_or_else(|| "mixed".into(), |input| input.dtype().to_string());
    format!("weighted_sum {input} to {}", output.dtype())
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
