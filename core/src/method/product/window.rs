//! Read the factors of one side of a module piece by piece, in bounded memory.

use alloc::vec;
use alloc::vec::Vec;

use super::module::Module;
use super::panel::{Factor, Side, Stack};
use crate::error::Result;
use crate::linalg::gram::BLOCK;
use crate::plan::Read;
use crate::room::resize;

/// Fills a slice with the bytes of a range.
pub(crate) type Reader<'a> = dyn FnMut(&Read, &mut [u8]) -> Result<()> + 'a;

/// A range of points of all inputs, moving on.
pub(super) struct Window<'a> {
    module: &'a Module,
    side: Side,
    expert: usize,
    points: usize,
    /// Points at a time; a multiple of [`BLOCK`], so that sums over blocks do not depend on it.
    step: usize,
    next: usize,
    /// What was read of each input.
    buffers: Vec<Vec<u8>>,
}

impl<'a> Window<'a> {
    pub(super) fn new(module: &'a Module, side: Side, expert: usize, max_bytes: usize) -> Self {
        let (points, together) = match side {
            Side::Down => (module.inside, 1),
            Side::Up => (module.outside, module.experts),
        };
        let bytes: usize = module
            .sources
            .iter()
            .map(|source| source.rank * together * source.place(side).float.bytes())
            .sum();
        let step = (max_bytes / bytes.max(1) / BLOCK * BLOCK).max(BLOCK);
        Self { module, side, expert, points, step, next: 0, buffers: vec![Vec::new(); module.sources.len()] }
    }

    /// Read the next points; `None` after the last.
    pub(super) fn next(&mut self, read: &mut Reader<'_>) -> Result<Option<Stack<'_>>> {
        if self.next >= self.points {
            return Ok(None);
        }
        let (start, count) = (self.next, self.step.min(self.points - self.next));
        self.next += count;
        for (source, buffer) in self.module.sources.iter().zip(&mut self.buffers) {
            let place = source.place(self.side);
            let size = place.float.bytes();
            let mut fill = |first: usize, bytes: &mut [u8]| {
                let from = place.range.start + (first * size) as u64;
                let range = from..from + bytes.len() as u64;
                read(&Read { input: source.input, file: place.file, range }, bytes)
            };
            match self.side {
                Side::Down => {
                    resize(buffer, source.rank * count * size)?;
                    let first = self.expert * source.rank * self.points;
                    if count == self.points {
                        fill(first, buffer)?;
                    } else {
                        for (row, bytes) in buffer.chunks_exact_mut(count * size).enumerate() {
                            fill(first + row * self.points + start, bytes)?;
                        }
                    }
                }
                Side::Up => {
                    let row = source.rank * self.module.experts;
                    resize(buffer, count * row * size)?;
                    fill(start * row, buffer)?;
                }
            }
        }
        let factors = self.module.sources.iter().zip(&self.buffers).map(|(source, bytes)| Factor {
            float: source.place(self.side).float,
            bytes,
            rank: source.rank,
        });
        let (experts, expert) = match self.side {
            Side::Down => (1, 0),
            Side::Up => (self.module.experts, self.expert),
        };
        Ok(Some(Stack { side: self.side, factors: factors.collect(), points: count, experts, expert }))
    }
}
