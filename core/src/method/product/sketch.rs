//! How far the average of factors is from the average of products, estimated in one pass over each input.
//!
//! ‖X‖² ≈ ‖T·X·S‖²        X = Σ wᵢbᵢaᵢ − b̄ā, bᵢ = Bᵢ − B₀, aᵢ = Aᵢ − A₀, reference input 0
//!
//! T and S are random: each row of B and each column of A is added to one of 64 sums, with a random sign, so that what they
//! do to factors costs one addition an element, however many sums there are (Charikar, Chen, Farach-Colton 2002; Clarkson,
//! Woodruff 2013). The expected value of ‖TXS‖² is ‖X‖². Signs and sums of 64 neighbours together are a stretch of one random
//! table, turned by a random shift and flipped by a random sign, so that neighbours never meet in a sum and loops are wide.
//! All is drawn from the module's name alone: every machine draws the same.
//!
//! Shapes: A `[E·r, n]` → `[E·r, 64]`, B `[m, r·E]` → `[64, r·E]`. Elements are rounded to f32 and summed in f32 in their
//! order, products of sketches sum over the rank in f32, and over inputs in f64; a frozen factor gives exactly 0. Memory is
//! that of one input's sketch, however many inputs there are.

use alloc::vec;
use alloc::vec::Vec;

use super::module::{Module, Source};
use super::panel::Side;
use super::residual::Residual;
use super::window::Reader;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, for_dtype};
use crate::plan::Read;
use crate::room::{resize, zeros};

/// Sums of each side. The standard error of one module of rank 1 is 12 %, of any other it is less.
const SIZE: usize = 64;

/// The residual of a module, without the inputs' common scale.
///
/// `read` fills a slice of at most `max_bytes` bytes, or one element.
#[inline(always)]
pub(super) fn sketch(module: &Module, max_bytes: usize, read: &mut Reader<'_>) -> Result<Residual> {
    let (reference, others) = module.sources.split_last().expect("a module has a source");
    let (rank, experts) = (reference.rank, module.experts);
    let [downs, ups] = [Side::Down, Side::Up].map(|side| Sums::new(module, side, rank * experts));
    let mut sides = [downs?, ups?];
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let (mut mean_down, mut mean_up) = (Vec::new(), Vec::new());
    let mut errors = zeros(experts * SIZE * SIZE)?;
    // one call in one loop, or it would be compiled by itself, for narrow instructions
    for (at, source) in core::iter::once(reference).chain(others).enumerate() {
        let [mut a, mut b] = [Vec::new(), Vec::new()];
        for (side, values) in sides.iter_mut().zip([&mut a, &mut b]) {
            *values = side.take(source, max_bytes, read)?;
        }
        if at == 0 {
            (mean_down, mean_up) = (zeros(a.len())?, zeros(b.len())?);
            (down, up) = (a, b);
            continue;
        }
        subtract(&mut a, &down, source.weight, &mut mean_down);
        subtract(&mut b, &up, source.weight, &mut mean_up);
        add_products(&a, &b, (rank, experts), source.weight, &mut errors);
    }
    add_products(&rounded(&mean_down), &rounded(&mean_up), (rank, experts), -1.0, &mut errors);
    let add = |mean: &mut [f64], reference: &[f32]| {
        mean.iter_mut().zip(reference).for_each(|(mean, reference)| *mean += f64::from(*reference));
    };
    add(&mut mean_down, &down);
    add(&mut mean_up, &up);
    let mut totals = errors.clone();
    add_products(&rounded(&mean_down), &rounded(&mean_up), (rank, experts), 1.0, &mut totals);
    Ok(judge(module, &errors, &totals))
}

/// Squared norms, and how far they may be off: the rows of TXS are 64 estimates of one thing, and so are its columns. A side
/// with a sum for each of its points adds no noise.
fn judge(module: &Module, errors: &[f64], totals: &[f64]) -> Residual {
    let (mut rows, mut columns) = ([[0.0; 2]; SIZE], [[0.0; 2]; SIZE]);
    for (at, (error, total)) in errors.iter().zip(totals).enumerate() {
        let (row, column) = (at / SIZE % SIZE, at % SIZE);
        for (kind, value) in [error, total].into_iter().enumerate() {
            rows[row][kind] += value * value;
            columns[column][kind] += value * value;
        }
    }
    let sum = |kind: usize| rows.iter().map(|row| row[kind]).sum::<f64>();
    let (error, norm) = (sum(0), sum(1));
    #[expect(clippy::cast_precision_loss, reason = "it is 64")]
    let size = SIZE as f64;
    let noise = [(0, 0), (0, 1), (1, 1)].map(|(a, b)| {
        let product = |of: &[f64; 2]| (of[a] - sum(a) / size) * (of[b] - sum(b) / size);
        let spread = |of: &[[f64; 2]], points: usize| {
            if points > SIZE { of.iter().map(product).sum::<f64>() * size / (size - 1.0) } else { 0.0 }
        };
        spread(&rows, module.outside) + spread(&columns, module.inside)
    });
    Residual { error, norm, noise }
}

/// Take the reference away, and add what is left to the mean by its weight.
fn subtract(values: &mut [f32], reference: &[f32], weight: f64, mean: &mut [f64]) {
    for ((value, reference), mean) in values.iter_mut().zip(reference).zip(mean) {
        *value -= reference;
        *mean += weight * f64::from(*value);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "means round to f32 once, here")]
fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Rows and columns of a tile that stays in registers.
const ROWS: usize = 4;
const LANES: usize = 16;

/// Add weight · Σ over the rank of b·aᵀ, expert by expert.
#[cfg_attr(target_family = "wasm", inline)]
#[cfg_attr(not(target_family = "wasm"), inline(always))]
fn add_products(a: &[f32], b: &[f32], (rank, experts): (usize, usize), weight: f64, sums: &mut [f64]) {
    let mut left = vec![0.0; rank * SIZE];
    for (expert, sums) in sums.chunks_exact_mut(SIZE * SIZE).enumerate() {
        for (k, left) in left.chunks_exact_mut(SIZE).enumerate() {
            let column = b[k * experts + expert..].iter().step_by(rank * experts);
            left.iter_mut().zip(column).for_each(|(left, value)| *left = *value);
        }
        let right = &a[expert * rank * SIZE..(expert + 1) * rank * SIZE];
        for p in (0..SIZE).step_by(ROWS) {
            for q in (0..SIZE).step_by(LANES) {
                // one name each: see linalg/gram.rs
                let [mut first, mut second, mut third, mut fourth] = [[0.0_f32; LANES]; ROWS];
                for (left, right) in left.chunks_exact(SIZE).zip(right.chunks_exact(SIZE)) {
                    let left: [f32; ROWS] = *left[p..].first_chunk().expect("ROWS divide SIZE");
                    let right: [f32; LANES] = *right[q..].first_chunk().expect("LANES divide SIZE");
                    let add = |sums: &mut [f32; LANES], factor: f32| {
                        sums.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
                    };
                    add(&mut first, left[0]);
                    add(&mut second, left[1]);
                    add(&mut third, left[2]);
                    add(&mut fourth, left[3]);
                }
                for (i, tile) in [first, second, third, fourth].into_iter().enumerate() {
                    let row = &mut sums[(p + i) * SIZE + q..][..LANES];
                    row.iter_mut().zip(tile).for_each(|(sum, more)| *sum += weight * f64::from(more));
                }
            }
        }
    }
}

/// The random sums of one side of a module. A is taken row by row, B in one line, with as many columns as A has rows.
struct Sums {
    side: Side,
    /// Elements that share a sign and a sum's row: 1 of A, a row of B.
    width: usize,
    /// Elements of a line, within which points count from 0.
    line: usize,
    seed: u64,
    /// The signs of two turns of 64 points, then their opposites, as what is flipped in an f32.
    table: Vec<u32>,
    /// Two turns of 64 sums for each line, so that none goes round within a loop.
    sums: Vec<f32>,
    buffer: Vec<u8>,
}

impl Sums {
    fn new(module: &Module, side: Side, ranks: usize) -> Result<Self> {
        let (width, line, lines) = match side {
            Side::Down => (1, module.inside, ranks),
            Side::Up => (ranks, module.outside * ranks, 1),
        };
        let seed = seed(&module.name) ^ if side == Side::Down { 0 } else { GOLDEN };
        let signs = |flipped: u64| {
            (0..2 * SIZE as u64).map(move |point| {
                let word = draw(!seed, point / 64);
                if (word >> (point % 64)) & 1 == flipped { 0 } else { 1 << 31 }
            })
        };
        let signs = signs(0).chain(signs(1));
        let table = signs.flat_map(|sign| core::iter::repeat_n(sign, width)).collect();
        let sums = zeros(lines * 2 * SIZE * width)?;
        Ok(Self { side, width, line, seed, table, sums, buffer: Vec::new() })
    }

    /// Read one input's factor; its sketch, `[E·r, 64]` or `[64, r·E]`.
    #[cfg_attr(target_family = "wasm", inline(never))] // in its one caller it would be more than a method of Java's may be
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    fn take(&mut self, source: &Source, max_bytes: usize, read: &mut Reader<'_>) -> Result<Vec<f32>> {
        let place = source.place(self.side);
        let size = place.float.bytes();
        let step = (max_bytes / size).max(1) * size;
        self.sums.fill(0.0);
        let mut buffer = core::mem::take(&mut self.buffer);
        let (mut start, end) = (place.range.start, place.range.end);
        let mut at = 0;
        while start < end {
            let count = step.min(usize::try_from(end - start).unwrap_or(usize::MAX));
            resize(&mut buffer, count)?;
            let range = start..start + count as u64;
            start = range.end;
            read(&Read { input: source.input, file: place.file, range }, &mut buffer)?;
            self.add_bytes(place.float, at, &buffer);
            at += count / size;
        }
        self.buffer = buffer;
        let span = SIZE * self.width;
        let turns = self.sums.chunks_exact(2 * span).map(|turns| turns.split_at(span));
        Ok(turns.flat_map(|(one, two)| one.iter().zip(two).map(|(one, two)| one + two)).collect())
    }

    /// Take elements from number `at` on.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    fn add_bytes(&mut self, float: Float, at: usize, bytes: &[u8]) {
        match float {
            Float::F64 => {
                let words = bytes.chunks_exact(8).map(|word| float.value(word));
                let narrow: Vec<u8> = words.flat_map(|value| rounded(&[value])[0].to_le_bytes()).collect();
                self.add::<F32>(at, &narrow);
            }
            _ => for_dtype!(float, E => self.add::<E>(at, bytes)),
        }
    }

    #[inline(always)]
    fn add<E: Element>(&mut self, at: usize, bytes: &[u8]) {
        let span = SIZE * self.width;
        let (mut line, mut place) = (at / self.line, at % self.line);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (block, lane) = (place / span, place % span);
            let count = (span - lane).min(self.line - place).min(rest.len() / E::BYTES);
            let [flip, shift, turn, ..] = draw(self.seed, block as u64).to_le_bytes().map(usize::from);
            let (flip, shift, turn) = (flip % 2, shift % SIZE, turn % SIZE);
            let signs = &self.table[(flip * 2 * SIZE + shift) * self.width + lane..][..count];
            let sums = &mut self.sums[(line * 2 * SIZE + turn) * self.width + lane..][..count];
            let (now, after) = rest.split_at(count * E::BYTES);
            for ((sum, sign), word) in sums.iter_mut().zip(signs).zip(now.chunks_exact(E::BYTES)) {
                *sum += f32::from_bits(E::widen(E::read(word)).to_bits() ^ sign);
            }
            rest = after;
            place += count;
            if place == self.line {
                (line, place) = (line + 1, 0);
            }
        }
    }
}

/// 2⁶⁴ over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Number `at` of the random numbers of a seed: SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn draw(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add(at.wrapping_add(1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed of a name: FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
