//! Stacked factors, read block by block: points of a tall panel, one column per rank of every input.
//!
//! A is `[E·r, n]` with the experts outermost, B is `[m, r·E]` with the experts innermost (`ParamWrapper` in PEFT's
//! `lora/layer.py`); E is 1 but for expert parameters. A point is a column of A or a row of B.

use alloc::vec::Vec;

use crate::dtype::Float;
use crate::error::Result;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, for_dtype};
use crate::linalg::gram::{BLOCK, LANES_F64, add_gram, mirror};
use crate::linalg::matrix::{Matrix, WIDTH};
use crate::room::zeros;

/// One factor of one input.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    pub(super) float: Float,
    pub(super) bytes: &'a [u8],
    pub(super) rank: usize,
}

/// Which way factors lie in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A: a rank is a row.
    Down,
    /// B: a rank is a column.
    Up,
}

/// The factors of one side of a module, or of one of its experts, stacked along the rank.
pub(super) struct Stack<'a> {
    pub(super) side: Side,
    pub(super) factors: Vec<Factor<'a>>,
    /// n for A, m for B.
    pub(super) points: usize,
    pub(super) experts: usize,
    pub(super) expert: usize,
}

impl Stack<'_> {
    /// The sum of the ranks.
    pub(super) fn features(&self) -> usize {
        self.factors.iter().map(|factor| factor.rank).sum()
    }

    /// Write points `start..start + count` into `panel`, one per row of `stride`.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub(super) fn read(&self, start: usize, count: usize, panel: &mut [f64], stride: usize) {
        let mut offset = 0;
        for factor in &self.factors {
            let (rank, size) = (factor.rank, factor.float.bytes());
            match self.side {
                Side::Down => {
                    let mut rows = [[0.0; BLOCK]; WIDTH];
                    for j in (0..rank).step_by(WIDTH) {
                        let together = (rank - j).min(WIDTH);
                        for (row, values) in rows.iter_mut().enumerate().take(together) {
                            let first = (self.expert * rank + j + row) * self.points + start;
                            let bytes = &factor.bytes[first * size..(first + count) * size];
                            widen(factor.float, bytes, &mut values[..count]);
                        }
                        for (i, point) in panel.chunks_exact_mut(stride).enumerate().take(count) {
                            let point = &mut point[offset + j..offset + j + together];
                            for (x, row) in point.iter_mut().zip(&rows) {
                                *x = row[i];
                            }
                        }
                    }
                }
                Side::Up if self.experts == 1 => {
                    let bytes = &factor.bytes[start * rank * size..(start + count) * rank * size];
                    let points = panel.chunks_exact_mut(stride).zip(bytes.chunks_exact(rank * size));
                    for (point, bytes) in points {
                        widen(factor.float, bytes, &mut point[offset..offset + rank]);
                    }
                }
                Side::Up => {
                    for (i, point) in panel.chunks_exact_mut(stride).enumerate().take(count) {
                        for (j, x) in point[offset..offset + rank].iter_mut().enumerate() {
                            let at = ((start + i) * rank + j) * self.experts + self.expert;
                            *x = factor.float.value(&factor.bytes[at * size..(at + 1) * size]);
                        }
                    }
                }
            }
            offset += rank;
        }
    }

    /// The inner products of all stacked rows.
    #[inline(always)]
    pub(super) fn gram(&self) -> Result<Matrix> {
        let features = self.features();
        let mut sums = Matrix::zero(features, features)?;
        self.add_gram(&mut sums)?;
        mirror(&mut sums);
        Ok(sums)
    }

    /// Add the inner products of all stacked rows to the upper triangle of `sums`.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub(super) fn add_gram(&self, sums: &mut Matrix) -> Result<()> {
        let stride = sums.stride;
        let mut panel = zeros(BLOCK * stride)?;
        for start in (0..self.points).step_by(BLOCK) {
            let count = BLOCK.min(self.points - start);
            self.read(start, count, &mut panel, stride);
            add_gram::<f64, LANES_F64>(&panel[..count * stride], stride, sums);
        }
        Ok(())
    }
}

/// Little-endian elements to f64.
#[inline(always)]
pub(crate) fn widen(float: Float, bytes: &[u8], out: &mut [f64]) {
    #[inline(always)]
    fn all<E: Element>(bytes: &[u8], out: &mut [f64]) {
        for (x, word) in out.iter_mut().zip(bytes.chunks_exact(E::BYTES)) {
            *x = E::widen(E::read(word)).into();
        }
    }
    match float {
        Float::F64 => {
            out.iter_mut().zip(bytes.chunks_exact(8)).for_each(|(x, word)| *x = float.value(word));
        }
        _ => for_dtype!(float, E => all::<E>(bytes, out)),
    }
}
