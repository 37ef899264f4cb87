//! The best factors of a difference of two weights, which is read row by row and never held: a range finder with power iterations.
//!
//! After Halko, Martinsson, Tropp 2011: Y = D·Ω with signs Ω that are counted, not drawn; twice Z = Dᵀ·orth(Y), Y = D·orth(Z); then
//! with Q = orth(Y) the small matrix QᵀD, whose singular triples are those of D as far as the range holds them. All in f64, every sum
//! in the order of rows or of columns, so that neither pieces nor threads change a bit.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::fold::ReadAt;
use crate::linalg::eigen::eigen;
use crate::linalg::matrix::{Matrix, WIDTH, multiply};
use crate::method::product::{draw, widen};
use crate::room::{resize, zeros};

/// Columns of Ω beyond the rank.
const MORE: usize = 8;
/// Power iterations.
const ITERATIONS: usize = 2;
/// The rank that `auto` tries first; it doubles from there.
const FIRST: usize = 16;
/// Rows that are added together.
const TILE: usize = 4;

/// What rank is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExtractRank {
    /// This one, or the weight's own where that is less.
    Fixed(usize),
    /// The smallest whose error ‖D − BA‖/‖D‖ is at most this.
    Error(f64),
}

impl ExtractRank {
    /// What is left over where nothing is said.
    const ERROR: f64 = 0.05;

    /// Of a number, or `auto` with the share that may be left over: 0.05 where none is given.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is neither, and for a share beside a number.
    pub fn told(rank: &str, error: Option<f64>) -> Result<Self> {
        let usage = |detail: String, help: &'static str| Err(Error::new(ErrorKind::Usage, detail).help(help));
        match (rank, rank.parse::<usize>(), error) {
            ("auto", _, error) => match error.unwrap_or(Self::ERROR) {
                error if error > 0.0 && error < 1.0 => Ok(Self::Error(error)),
                error => {
                    usage(format!("--error is {error}"), "give a share above 0 and below 1, such as 0.05")
                }
            },
            (_, Ok(rank), None) if rank > 0 => Ok(Self::Fixed(rank)),
            (_, Ok(rank), Some(_)) if rank > 0 => usage(
                format!("--rank {rank} leaves over what it does, but --error says how much"),
                "give --rank auto, or leave out --error",
            ),
            _ => usage(format!("--rank is `{rank}`"), "give a whole number from 1 on, or auto"),
        }
    }
}

/// Factors of a difference.
#[derive(Clone, Debug)]
pub struct Pair {
    /// `[rank, columns]`.
    pub right: Vec<f32>,
    /// `[rows, rank]`.
    pub left: Vec<f32>,
    /// Their rank.
    pub rank: usize,
    /// ‖D − BA‖², before rounding.
    pub error: f64,
    /// ‖D‖²; where that is not finite, there are no factors.
    pub norm: f64,
}

/// Two weights of one shape.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Of the tuned and of the base's: number of the file, first byte, dtype.
    pub(super) places: [(usize, u64, Float); 2],
    /// How many rows are read at a time.
    pub(super) together: usize,
}

/// Rows of both and of their difference.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    tuned: Vec<f64>,
    base: Vec<f64>,
}

impl Difference {
    /// Do something with all rows, in their order: the first of them, and they, each padded to whole lanes.
    #[inline(always)]
    fn each(&self, read: &mut ReadAt<'_>, mut work: impl FnMut(usize, &[f64], usize)) -> Result<()> {
        let stride = self.cols.next_multiple_of(WIDTH);
        let mut own = Buffers::default();
        for first in (0..self.rows).step_by(self.together.max(1)) {
            let count = self.together.max(1).min(self.rows - first);
            own.tuned.clear();
            resize(&mut own.tuned, count * stride)?;
            resize(&mut own.base, self.cols)?;
            for (at, (file, start, float)) in self.places.iter().enumerate() {
                let row = self.cols * float.bytes();
                resize(&mut own.bytes, count * row)?;
                let from = start + (first * row) as u64;
                read(*file, from..from + own.bytes.len() as u64, &mut own.bytes)?;
                for (bytes, values) in own.bytes.chunks_exact(row).zip(own.tuned.chunks_exact_mut(stride)) {
                    if at == 0 {
                        widen(*float, bytes, &mut values[..self.cols]);
                    } else {
                        widen(*float, bytes, &mut own.base);
                        values.iter_mut().zip(&own.base).for_each(|(value, base)| *value -= base);
                    }
                }
            }
            work(first, &own.tuned, stride);
        }
        Ok(())
    }

    /// ‖D‖², rows in their order.
    #[inline(always)]
    fn norm(&self, read: &mut ReadAt<'_>) -> Result<f64> {
        let mut all = 0.0;
        self.each(read, |_, rows, stride| {
            for row in rows.chunks_exact(stride) {
                all += dot(row, row);
            }
        })?;
        Ok(all)
    }

    /// D·T.
    #[inline(always)]
    fn times(&self, t: &Matrix, read: &mut ReadAt<'_>) -> Result<Matrix> {
        let mut y = Matrix::zero(self.rows, t.columns)?;
        self.each(read, |first, rows, stride| {
            let count = rows.len() / stride;
            let y = &mut y.values[first * t.stride..(first + count) * t.stride];
            multiply(rows, stride, t, y);
        })?;
        Ok(y)
    }

    /// Dᵀ·Q, summed in the order of rows.
    #[inline(always)]
    fn transposed_times(&self, q: &Matrix, read: &mut ReadAt<'_>) -> Result<Matrix> {
        let mut z = Matrix::zero(self.cols, q.columns)?;
        self.each(read, |first, rows, stride| {
            for (number, rows) in rows.chunks(TILE * stride).enumerate() {
                let at = first + number * TILE;
                let count = rows.len() / stride;
                for (j, z) in z.values.chunks_exact_mut(q.stride).enumerate() {
                    for i in 0..count {
                        let value = rows[i * stride + j];
                        for (z, q) in z.iter_mut().zip(q.row(at + i)) {
                            *z += value * q;
                        }
                    }
                }
            }
        })?;
        Ok(z)
    }

    /// Find the factors; none where both are the same.
    #[inline(always)]
    pub(super) fn factors(&self, wanted: ExtractRank, read: &mut ReadAt<'_>) -> Result<Option<Pair>> {
        let norm = self.norm(read)?;
        if norm == 0.0 {
            return Ok(None);
        }
        if !norm.is_finite() {
            return Ok(Some(Pair { right: Vec::new(), left: Vec::new(), rank: 0, error: norm, norm }));
        }
        let full = self.rows.min(self.cols);
        let mut rank = match wanted {
            ExtractRank::Fixed(rank) => rank.min(full),
            ExtractRank::Error(_) => FIRST.min(full),
        };
        loop {
            let (z, q, energies, vectors) = self.decompose((rank + MORE).min(full), read)?;
            let left_over = |rank: usize| {
                let kept: f64 = energies.iter().take(rank).sum();
                (norm - kept).max(0.0)
            };
            let enough = match wanted {
                ExtractRank::Fixed(_) => Some(rank),
                ExtractRank::Error(most) => (1..=rank).find(|rank| left_over(*rank) <= most * most * norm),
            };
            if let Some(rank) = enough.or((rank == full).then_some(rank)) {
                return Ok(Some(split(rank, &z, &q, &energies, &vectors, left_over(rank), norm)?));
            }
            rank = (2 * rank).min(full);
        }
    }

    /// Orthonormal columns that span as much of D's range as so many can.
    #[inline(always)]
    fn range(&self, columns: usize, read: &mut ReadAt<'_>) -> Result<Matrix> {
        // all of it: few signs are easily dependent
        if columns == self.rows {
            return identity(columns);
        }
        if columns == self.cols {
            return orthonormal(&self.times(&identity(columns)?, read)?);
        }
        let mut y = self.times(&signs(self.cols, columns)?, read)?;
        for _ in 0..ITERATIONS {
            let z = self.transposed_times(&orthonormal(&y)?, read)?;
            y = self.times(&orthonormal(&z)?, read)?;
        }
        orthonormal(&y)
    }

    /// Dᵀ·Q, Q, the squares of the singular values of QᵀD and its left singular vectors, by rows.
    #[inline(always)]
    fn decompose(&self, columns: usize, read: &mut ReadAt<'_>) -> Result<(Matrix, Matrix, Vec<f64>, Matrix)> {
        let q = self.range(columns, read)?;
        let z = self.transposed_times(&q, read)?;
        let turned = z.transposed()?;
        let mut gram = Matrix::zero(columns, columns)?;
        for i in 0..columns {
            for j in 0..=i {
                let value = dot(turned.row(i), turned.row(j));
                gram.set(i, j, value);
                gram.set(j, i, value);
            }
        }
        let found = eigen(gram)?;
        let energies = found.values.iter().map(|value| value.max(0.0)).collect();
        Ok((z, q, energies, found.vectors))
    }
}

/// Singular values split evenly: rows of the right factor are √σ·vᵀ, columns of the left one √σ·u.
#[inline(always)]
fn split(
    rank: usize,
    z: &Matrix,
    q: &Matrix,
    energies: &[f64],
    vectors: &Matrix,
    error: f64,
    norm: f64,
) -> Result<Pair> {
    let columns = q.columns;
    let (mut for_right, mut for_left) = (Matrix::zero(columns, rank)?, Matrix::zero(columns, rank)?);
    for (k, energy) in energies.iter().enumerate().take(rank) {
        let root = libm::sqrt(libm::sqrt(*energy));
        if root > 0.0 {
            for i in 0..columns {
                for_right.set(i, k, vectors.at(k, i) / root);
                for_left.set(i, k, vectors.at(k, i) * root);
            }
        }
    }
    let (right, left) = (z.times(&for_right)?.transposed()?, q.times(&for_left)?);
    #[expect(clippy::cast_possible_truncation, reason = "this is the one rounding")]
    let flat = |m: &Matrix| -> Vec<f32> {
        (0..m.rows).flat_map(|row| m.row(row)[..m.columns].iter().map(|value| *value as f32)).collect()
    };
    Ok(Pair { right: flat(&right), left: flat(&left), rank, error, norm })
}

fn identity(size: usize) -> Result<Matrix> {
    let mut made = Matrix::zero(size, size)?;
    (0..size).for_each(|at| made.set(at, at, 1.0));
    Ok(made)
}

/// Signs by counting: the same everywhere.
fn signs(rows: usize, columns: usize) -> Result<Matrix> {
    let mut made = Matrix::zero(rows, columns)?;
    for row in 0..rows {
        for column in 0..columns {
            let sign = if draw(0, (row as u64) << 20 | column as u64) >> 63 == 0 { 1.0 } else { -1.0 };
            made.set(row, column, sign);
        }
    }
    Ok(made)
}

/// The columns made orthonormal, one after the other, twice; those that depend on others become zero.
#[inline(always)]
fn orthonormal(y: &Matrix) -> Result<Matrix> {
    /// What is left of a column that depends on others is noise of this size.
    const NOISE: f64 = 1e-13;
    let mut rows = y.transposed()?;
    let stride = rows.stride;
    let mut largest = 0.0f64;
    for k in 0..rows.rows {
        let (before, row) = rows.values.split_at_mut(k * stride);
        let row = &mut row[..stride];
        largest = largest.max(libm::sqrt(dot(row, row)));
        for _ in 0..2 {
            for other in before.chunks_exact(stride) {
                let share = dot(other, row);
                row.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let norm = libm::sqrt(dot(row, row));
        let factor = if norm > NOISE * largest { 1.0 / norm } else { 0.0 };
        row.iter_mut().for_each(|value| *value *= factor);
    }
    rows.transposed()
}

/// Σ aᵢbᵢ: lanes apart, then one after the other.
#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; WIDTH];
    for (a, b) in a.as_chunks::<WIDTH>().0.iter().zip(b.as_chunks::<WIDTH>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().fold(0.0, |all, sum| all + sum)
}

/// Whether two tensors differ, number by number, or byte by byte.
pub(super) fn differ(
    places: &[(usize, u64, Float); 2],
    count: u64,
    together: u64,
    is_raw: bool,
    read: &mut ReadAt<'_>,
) -> Result<bool> {
    let mut buffers: [Vec<u8>; 2] = [zeros(0)?, zeros(0)?];
    let mut at = 0;
    while at < count {
        let some = together.max(1).min(count - at);
        for (buffer, (file, start, float)) in buffers.iter_mut().zip(places) {
            let size = float.bytes() as u64;
            resize(buffer, usize::try_from(some * size).expect("it is in memory"))?;
            read(*file, start + at * size..start + (at + some) * size, buffer)?;
        }
        let [(_, _, one), (_, _, other)] = places;
        let [a, b] = &buffers;
        let mut pairs = a.chunks_exact(one.bytes()).zip(b.chunks_exact(other.bytes()));
        let is_same =
            |(a, b): (&[u8], &[u8])| one == other && a == b || !is_raw && one.value(a) == other.value(b);
        if (one != other || a != b) && !pairs.all(is_same) {
            return Ok(true);
        }
        at += some;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::noise;
    use alloc::vec;
    use core::ops::Range;

    /// Files of f32: the tuned weight, whose difference to zeros is of some rank, and zeros.
    fn files(rows: usize, cols: usize, spectrum: &[f64]) -> [Vec<u8>; 2] {
        let mut values = vec![0.0; rows * cols];
        for (k, size) in spectrum.iter().enumerate() {
            let (u, v) = (noise(rows, 3 * k as u64 + 1), noise(cols, 3 * k as u64 + 2));
            for (at, value) in values.iter_mut().enumerate() {
                *value += size * u[at / cols] * v[at % cols];
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "they are made so")]
        let tuned = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
        [tuned, vec![0; 4 * rows * cols]]
    }

    fn found(
        files: &[Vec<u8>; 2],
        rows: usize,
        cols: usize,
        together: usize,
        wanted: ExtractRank,
    ) -> Option<Pair> {
        let mut read = |file: usize, range: Range<u64>, into: &mut [u8]| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            into.copy_from_slice(&files[file][start..end]);
            Ok(())
        };
        let places = [(0, 0, Float::F32), (1, 0, Float::F32)];
        Difference { rows, cols, places, together }.factors(wanted, &mut read).unwrap()
    }

    /// ‖D − BA‖ / ‖D‖ of what was found, by the definition.
    fn error(files: &[Vec<u8>; 2], cols: usize, pair: &Pair) -> f64 {
        let d: Vec<f64> =
            files[0].as_chunks().0.iter().map(|word| f32::from_le_bytes(*word).into()).collect();
        let (mut error, mut norm) = (0.0, 0.0);
        for (at, value) in d.iter().enumerate() {
            let (i, j) = (at / cols, at % cols);
            let made: f64 = (0..pair.rank)
                .map(|k| f64::from(pair.left[i * pair.rank + k]) * f64::from(pair.right[k * cols + j]))
                .sum();
            error += (value - made) * (value - made);
            norm += value * value;
        }
        libm::sqrt(error / norm)
    }

    #[test]
    fn a_difference_of_low_rank_is_found_to_the_rounding() {
        for (rows, cols) in [(40, 23), (9, 64), (30, 30)] {
            let files = files(rows, cols, &[3.0, 2.0, 1.0, 0.5]);
            let pair = found(&files, rows, cols, 7, ExtractRank::Fixed(4)).unwrap();
            assert!(error(&files, cols, &pair) < 1e-6, "{rows} {cols}");
            let auto = found(&files, rows, cols, 7, ExtractRank::Error(1e-4)).unwrap();
            assert_eq!(auto.rank, 4);
        }
    }

    #[test]
    fn at_its_whole_rank_nothing_is_left_over() {
        let spectrum = [3.0, 2.0, 1.5, 1.0, 0.8, 0.6, 0.5, 0.4];
        for (rows, cols) in [(16, 8), (8, 16), (8, 8), (9, 8), (8, 9)] {
            let files = files(rows, cols, &spectrum);
            for wanted in [ExtractRank::Fixed(8), ExtractRank::Fixed(64), ExtractRank::Error(1e-6)] {
                let pair = found(&files, rows, cols, 3, wanted).unwrap();
                assert!(pair.rank <= 8, "{rows} {cols} {wanted:?}");
                assert!(error(&files, cols, &pair) < 1e-6, "{rows} {cols} {wanted:?}");
            }
        }
    }

    #[test]
    fn pieces_change_no_bit_and_equal_weights_have_no_difference() {
        let files = files(33, 21, &[1.0, 0.5, 0.25, 0.125, 0.06]);
        let one = found(&files, 33, 21, 100, ExtractRank::Fixed(3)).unwrap();
        for together in [1, 2, 5, 32] {
            let other = found(&files, 33, 21, together, ExtractRank::Fixed(3)).unwrap();
            assert_eq!((one.left == other.left, one.right == other.right), (true, true), "{together}");
            assert_eq!(one.error.to_bits(), other.error.to_bits());
        }
        let same = [files[0].clone(), files[0].clone()];
        assert!(found(&same, 33, 21, 4, ExtractRank::Fixed(3)).is_none());
    }

    #[test]
    fn a_truncation_is_the_best_within_a_percent() {
        let spectrum: Vec<f64> = (0..30).map(|k| 1.0 / f64::from(k + 1)).collect();
        let (rows, cols) = (60, 48);
        let files = files(rows, cols, &spectrum);
        let pair = found(&files, rows, cols, 16, ExtractRank::Fixed(6)).unwrap();
        let told = libm::sqrt(pair.error / pair.norm);
        assert!((error(&files, cols, &pair) - told).abs() < 1e-6);
        // the optimum by the eigenvalues of DDᵀ
        let mut d = Matrix::zero(rows, cols).unwrap();
        for (at, word) in files[0].as_chunks().0.iter().enumerate() {
            d.set(at / cols, at % cols, f32::from_le_bytes(*word).into());
        }
        let values = eigen(d.times(&d.transposed().unwrap()).unwrap()).unwrap().values;
        let best = libm::sqrt(
            values.iter().skip(6).map(|value| value.max(0.0)).sum::<f64>() / values.iter().sum::<f64>(),
        );
        assert!(told < 1.01 * best, "{told} against {best}");
    }
}
