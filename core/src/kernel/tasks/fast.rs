//! Tasks over a base in blocks of rows.

use alloc::vec::Vec;

use super::reference::reference;
use super::{How, Tasks};
use crate::dtype::Float;
use crate::kernel::element::{Tally, flush, round};
use crate::kernel::middle::share;
use crate::kernel::rows::{Blocks, INFINITY, MAGNITUDE, Row, Rows, WIDTH};
use crate::kernel::{Operand, needs_f64};

/// What [`super::reference`] gives, fast. In WebAssembly small rather than quick: it is seldom asked for.
#[cfg_attr(target_family = "wasm", inline(never))]
#[cfg_attr(not(target_family = "wasm"), inline(always))]
pub(in crate::kernel) fn tasks(
    operands: &[Operand<'_>],
    tasks: Tasks,
    dtype: Float,
    out: &mut [u8],
) -> Tally {
    assert!(operands.len() > 1, "there is a base and a task");
    if needs_f64(operands, dtype) {
        return reference(operands, tasks, dtype, out);
    }
    let weights: Vec<f32> = operands[1..].iter().map(|operand| round(operand.weight)).collect();
    let shares: Vec<f32> = (1..operands.len()).map(|count| round(share(count))).collect();
    let scale = round(tasks.scale);
    let (is_plain, first) = (tasks.how == How::Plain, round(operands[0].weight));
    let mut blocks = Blocks::new(operands, dtype, out);
    while let Some(rows) = blocks.next() {
        let Rows { values, worst, result } = rows;
        let (base, taus) = values.split_first_mut().expect("the base is the first operand");
        for (tau, weight) in taus.iter_mut().zip(&weights) {
            change(tau, base, *weight, tasks.how);
        }
        match tasks.how {
            How::Elected => elect(taus, &shares, result),
            How::Agreed { least, lambda } => agree(taus, least, round(lambda), result),
            How::Sum | How::Plain | How::Trimmed => sum(taus, result),
        }
        for ((result, base), worst) in result.iter_mut().zip(&*base).zip(worst) {
            let update = flush(scale * f32::from_bits(*result));
            let start = flush(f32::from_bits(*base));
            let start = if is_plain { flush(first * start) } else { start };
            let moved = flush(start + update).to_bits();
            let value = if update == 0.0 && !is_plain { *base } else { moved };
            *result = if *worst >= INFINITY { f32::NAN.to_bits() } else { value };
        }
    }
    blocks.tally()
}

/// What a task changed, as far as it counts.
#[inline(always)]
pub(super) fn change(tau: &mut Row, base: &Row, weight: f32, how: How) {
    let is_trimmed = matches!(how, How::Trimmed | How::Elected);
    for (tau, base) in tau.iter_mut().zip(base) {
        let start = if how == How::Plain { 0.0 } else { flush(f32::from_bits(*base)) };
        let change = flush(flush(f32::from_bits(*tau)) - start);
        let counted = if matches!(how, How::Sum | How::Plain) {
            flush(weight * change)
        } else if is_trimmed && change.abs() < weight {
            0.0
        } else {
            change
        };
        *tau = counted.to_bits();
    }
}

#[inline(always)]
fn sum(taus: &[Row], result: &mut Row) {
    result.copy_from_slice(&taus[0]);
    for tau in &taus[1..] {
        for (sum, tau) in result.iter_mut().zip(tau) {
            *sum = flush(f32::from_bits(*sum) + f32::from_bits(*tau)).to_bits();
        }
    }
}

#[inline(always)]
fn elect(taus: &mut [Row], shares: &[f32], result: &mut Row) {
    sum(taus, result);
    let mut counts = [0_u32; WIDTH];
    for tau in taus.iter_mut() {
        for ((tau, sum), count) in tau.iter_mut().zip(&*result).zip(&mut counts) {
            let is_up = f32::from_bits(*sum) >= 0.0;
            let is_counted = ((f32::from_bits(*tau) > 0.0) == is_up) & (*tau & MAGNITUDE != 0);
            *tau = if is_counted { *tau } else { 0 };
            *count += u32::from(is_counted);
        }
    }
    sum(taus, result);
    for (sum, count) in result.iter_mut().zip(&counts) {
        let share = shares[(*count as usize).saturating_sub(1)];
        *sum = flush(f32::from_bits(*sum) * share).to_bits();
    }
}

#[inline(always)]
fn agree(taus: &[Row], least: u32, lambda: f32, result: &mut Row) {
    sum(taus, result);
    let mut counts = [0_u32; WIDTH];
    for tau in taus {
        for ((tau, sum), count) in tau.iter().zip(&*result).zip(&mut counts) {
            let others = flush(f32::from_bits(*sum) - f32::from_bits(*tau)).abs();
            *count += u32::from(f32::from_bits(*tau).abs() > flush(lambda * others));
        }
    }
    for (sum, count) in result.iter_mut().zip(&counts) {
        *sum = if *count >= least { *sum } else { 0 };
    }
}
