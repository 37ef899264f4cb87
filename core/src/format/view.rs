//! Tensors whose numbers do not lie side by side (transposed ones, columns of others), read as if they did.
//!
//! Jobs read ranges. A view is given a range beyond the end of its file, where nothing lies; whoever reads for a job asks
//! [`Header::read`](crate::safetensors::Header::read), which puts the numbers of a view in order.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// The most bytes that a view may span in its file, for they are read at once.
pub(crate) const SPAN_LIMIT: u64 = 1 << 24;

/// A view of numbers in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Where jobs find it, beyond the end of the file.
    pub(crate) range: Range<u64>,
    /// Where its first number lies in the file.
    pub(crate) start: u64,
    pub(crate) shape: Vec<u64>,
    /// The way from one number to the next in each dimension, in bytes.
    pub(crate) steps: Vec<u64>,
    /// Bytes of a number.
    pub(crate) size: usize,
}

impl View {
    /// The bytes between its first and its last number, both included; `None` beyond any file.
    pub(crate) fn span(shape: &[u64], steps: &[u64], size: u64) -> Option<u64> {
        shape
            .iter()
            .zip(steps)
            .try_fold(size, |sum, (dim, step)| sum.checked_add(dim.checked_sub(1)?.checked_mul(*step)?))
    }

    /// Bytes of the view from `start` of its range on, by what reads the file.
    pub(crate) fn read<E>(
        &self,
        start: u64,
        into: &mut [u8],
        read: impl FnOnce(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let span = Self::span(&self.shape, &self.steps, self.size as u64).expect("placed() checked this");
        let mut bytes = vec![0; usize::try_from(span).expect("at most SPAN_LIMIT")];
        read(self.start, &mut bytes)?;
        let first = (start - self.range.start) / self.size as u64;
        for (number, room) in (first..).zip(into.chunks_exact_mut(self.size)) {
            let at = self.offset(number);
            room.copy_from_slice(&bytes[at..at + self.size]);
        }
        Ok(())
    }

    /// Where a number lies within the span, the last dimension counting fastest.
    fn offset(&self, mut number: u64) -> usize {
        let mut offset = 0;
        for (dim, step) in self.shape.iter().zip(&self.steps).rev() {
            offset += number % dim * step;
            number /= dim;
        }
        usize::try_from(offset).expect("at most SPAN_LIMIT")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_matrix_comes_row_by_row() {
        // 0 1 2 3 / 4 5 6 7 / 8 9 10 11, transposed
        let file: Vec<u8> = (0..24).collect();
        let view = View { range: 100..124, start: 0, shape: [4, 3].into(), steps: [2, 8].into(), size: 2 };
        let read = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&file[at..at + into.len()]);
            Ok::<(), ()>(())
        };
        let mut bytes = [0; 24];
        view.read(100, &mut bytes, read).unwrap();
        let numbers: Vec<u8> = bytes.iter().step_by(2).map(|byte| byte / 2).collect();
        assert_eq!(numbers, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        let mut middle = [0; 4];
        view.read(106, &mut middle, read).unwrap();
        assert_eq!(middle, [2, 3, 10, 11]);
    }

    #[test]
    fn spans_reach_from_the_first_number_to_the_last() {
        assert_eq!(View::span(&[4, 3], &[2, 8], 2), Some(24));
        assert_eq!(View::span(&[4, 2], &[16, 4], 4), Some(56));
        assert_eq!(View::span(&[2], &[u64::MAX], 4), None);
    }
}
