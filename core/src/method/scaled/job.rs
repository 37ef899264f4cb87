//! The work on some rows of blocks: sum what codes are worth, find new scales, round once.
//!
//! y = Σ wₖ·(cₖ·sₖ) in f32 as any weighted sum, each cₖ·sₖ rounded and its subnormals zero; a block's new scale is its largest |y|
//! over the largest code, rounded to the dtype of scales, and up to a power of two where all inputs' scales in that row of blocks are
//! powers of two; its codes are y over that, to nearest even. A block whose codes and scales are the same in all inputs stays as it is; one of zeros
//! has the scale 1.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::grid::Band;
use super::{Place, Source, Weight};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::element::{Element, F8E4M3, F8E5M2, flush, narrow, widen};
use crate::method::product::{Reader, Residual};
use crate::plan::{Read, Write};
use crate::room::{resize, zeros};

/// Bytes of one input beyond which it is read by windows.
const WINDOWED: u64 = 1 << 20;
/// Sums of errors side by side.
const LANES: usize = 8;
const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;

/// Some rows of blocks of one weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaledJob<'a> {
    pub(super) weight: &'a Weight,
    pub(super) names: &'a [String],
    pub(super) band: Band,
    /// All codes and all scales.
    pub(super) writes: &'a [(Write, Float)],
    pub(super) allow_non_finite: bool,
}

/// The codes of all inputs for some rows.
struct Window {
    rows: Range<u64>,
    most: u64,
    codes: Vec<Vec<u8>>,
}

/// One row of one block: what it is worth.
struct Line {
    sums: Vec<f32>,
    firsts: Vec<f32>,
    differ: Vec<u32>,
}

/// What was seen of a block.
#[derive(Clone, Copy)]
struct Seen {
    /// The largest finite magnitude, as bits.
    largest: u32,
    is_finite: bool,
    is_same: bool,
}

impl ScaledJob<'_> {
    /// How many reads there are: codes and scales of each input.
    pub(crate) fn read_count(&self) -> usize {
        self.weight.sources.len() * 2
    }

    /// One of them.
    pub(crate) fn read(&self, i: usize) -> Read {
        let source = &self.weight.sources[i / 2];
        if i.is_multiple_of(2) { self.codes(source, 0..self.band.rows) } else { self.scales(source) }
    }

    fn codes(&self, source: &Source, rows: Range<u64>) -> Read {
        let columns = self.weight.grid.columns;
        let start = source.codes.start + self.band.first * columns;
        let range = start + rows.start * columns..start + rows.end * columns;
        Read { input: source.input, file: source.codes.file, range }
    }

    fn scales(&self, source: &Source) -> Read {
        let Place { file, start, float } = source.scales;
        let size = self.weight.grid.across() * float.bytes() as u64;
        let start = start + self.band.first_scales * size;
        Read { input: source.input, file, range: start..start + self.band.scale_rows * size }
    }

    /// Where the codes go, and where the scales.
    pub(crate) fn write(&self, i: usize) -> Write {
        let (write, float) = &self.writes[i];
        let (row, first, rows) = match i {
            0 => (self.weight.grid.columns, self.band.first, self.band.rows),
            _ => (self.weight.grid.across(), self.band.first_scales, self.band.scale_rows),
        };
        let row = row * float.bytes() as u64;
        let start = write.range.start + first * row;
        Write { file: write.file, range: start..start + rows * row }
    }

    /// Whether it reads so much that it is read by windows, twice.
    pub(crate) fn is_windowed(&self) -> bool {
        self.band.rows * self.weight.grid.columns > WINDOWED
    }

    /// Do it; `outputs` are codes and scales. How far the codes are off is one rounding.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] or [`ErrorKind::Overflow`], naming input and tensor; those of `read`.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub(crate) fn run(
        &self,
        most: usize,
        read: &mut Reader<'_>,
        outputs: &mut [&mut [u8]],
    ) -> Result<Residual> {
        match self.weight.codes {
            Float::F8E5M2 => self.run_as::<F8E5M2>(57344.0, most, read, outputs),
            _ => self.run_as::<F8E4M3>(448.0, most, read, outputs),
        }
    }

    #[inline(always)]
    fn run_as<E: Element<Word = u8>>(
        &self,
        limit: f32,
        most: usize,
        read: &mut Reader<'_>,
        outputs: &mut [&mut [u8]],
    ) -> Result<Residual> {
        let Weight { grid, sources, scales: scale_float, .. } = self.weight;
        let [out, out_scales] = outputs else { panic!("codes and scales are written") };
        let (words, scales) = self.read_scales(read)?;
        let is_power = |scale: &f32| scale.to_bits() & 0x007f_ffff == 0 && *scale >= f32::MIN_POSITIVE;
        let (across, columns) = (index(grid.across()), index(grid.columns));
        let size = scale_float.bytes();
        let wide = index(grid.wide.min(grid.columns));
        let each = (most as u64 / (sources.len() as u64 * grid.columns).max(1)).max(1);
        let mut window = Window { rows: 0..0, most: each, codes: vec![Vec::new(); sources.len()] };
        let mut line = Line { sums: zeros(wide)?, firsts: zeros(wide)?, differ: zeros(wide)? };
        let (mut errors, mut norms) = ([0.0; LANES], [0.0; LANES]);
        for number in 0..self.band.scale_rows {
            let rows = grid.rows_of(self.band, number);
            let first = index(number) * across;
            let are_powers = scales.iter().all(|own| own[first..first + across].iter().all(is_power));
            let mut seen = vec![Seen { largest: 0, is_finite: true, is_same: true }; across];
            for (block, seen) in seen.iter_mut().enumerate() {
                seen.is_same = scales
                    .iter()
                    .all(|own| own[first + block].to_bits() == scales[0][first + block].to_bits());
            }
            for row in rows.clone() {
                window.show(self, row, read)?;
                for (block, seen) in seen.iter_mut().enumerate() {
                    let span = block * wide..columns.min((block + 1) * wide);
                    let codes = |i: usize| window.row(i, row, columns, span.clone());
                    line.sum::<E>(sources, codes, |i| scales[i][first + block]);
                    for value in &line.sums[..span.len()] {
                        let magnitude = value.to_bits() & MAGNITUDE;
                        let is_finite = magnitude < INFINITE;
                        seen.largest = seen.largest.max(if is_finite { magnitude } else { 0 });
                        seen.is_finite &= is_finite;
                    }
                    seen.is_same = seen.is_same && (1..sources.len()).all(|i| codes(i) == codes(0));
                    let mut zero = (0..sources.len()).filter(|i| scales[*i][first + block] == 0.0);
                    if let Some(source) = zero.find(|i| codes(*i).iter().any(|code| code & 0x7f != 0)) {
                        return Err(self.bad_scale(source, first + block, 0.0));
                    }
                    if !seen.is_finite && !self.allow_non_finite {
                        return Err(self.explain::<E>(row, span.clone(), codes));
                    }
                }
            }
            let mut made = Vec::with_capacity(across);
            for (block, seen) in seen.iter().enumerate() {
                let word = &mut out_scales[(first + block) * size..][..size];
                made.push(if seen.is_same {
                    word.copy_from_slice(&words[(first + block) * size..][..size]);
                    scales[0][first + block]
                } else {
                    let exact = f32::from_bits(seen.largest) / limit;
                    let scale = new_scale(exact, are_powers, *scale_float, word);
                    if !scale.is_finite() {
                        let detail = format!("has a merged scale too large for {}", scale_float.dtype());
                        return Err(Error::new(ErrorKind::Overflow, detail)
                            .file(&*self.names[self.names.len() - 1])
                            .tensor(&*self.weight.scale));
                    }
                    scale
                });
            }
            for row in rows {
                window.show(self, row, read)?;
                for (block, (seen, scale)) in seen.iter().zip(&made).enumerate() {
                    let span = block * wide..columns.min((block + 1) * wide);
                    let codes = |i: usize| window.row(i, row, columns, span.clone());
                    line.sum::<E>(sources, codes, |i| scales[i][first + block]);
                    let to = index(row) * columns;
                    let to = &mut out[to + span.start..to + span.end];
                    if seen.is_same {
                        to.copy_from_slice(codes(0));
                    } else {
                        for (to, value) in to.iter_mut().zip(&line.sums) {
                            let code = value / scale;
                            // what is finite stays so: a scale that was rounded down leaves a little above the limit
                            let near = code.clamp(-limit, limit);
                            *to = E::narrow(if code.is_finite() { near } else { code });
                        }
                    }
                    add::<E>(&line.sums[..span.len()], to, *scale, &mut errors, &mut norms);
                }
            }
        }
        let sum = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
        Ok(Residual { error: sum(errors), norm: sum(norms), noise: [0.0; 3] })
    }

    /// The scales of all inputs, and the first's as they are.
    fn read_scales(&self, read: &mut Reader<'_>) -> Result<(Vec<u8>, Vec<Vec<f32>>)> {
        let (mut first, mut all) = (Vec::new(), Vec::new());
        for (i, source) in self.weight.sources.iter().enumerate() {
            let wanted = self.scales(source);
            let mut bytes = zeros(index(wanted.range.end - wanted.range.start))?;
            read(&wanted, &mut bytes)?;
            let float = source.scales.float;
            let scales: Vec<_> = bytes.chunks_exact(float.bytes()).map(|word| widen(float, word)).collect();
            let is_bad = |scale: &f32| *scale < 0.0 || !(scale.is_finite() || self.allow_non_finite);
            if let Some(at) = scales.iter().position(is_bad) {
                return Err(self.bad_scale(i, at, scales[at]));
            }
            all.push(scales);
            if i == 0 {
                first = bytes;
            }
        }
        Ok((first, all))
    }

    #[cold]
    #[inline(never)]
    fn bad_scale(&self, source: usize, at: usize, scale: f32) -> Error {
        let element = self.band.first_scales * self.weight.grid.across() + at as u64;
        let detail = if scale == 0.0 {
            format!("holds 0, at element {element}, though the codes of that block are not all zero")
        } else {
            format!("holds {scale}, at element {element}: a scale is above zero")
        };
        Error::new(ErrorKind::NonFinite, detail)
            .file(&*self.names[self.weight.sources[source].input])
            .tensor(&*self.weight.scale)
            .help("nothing says what that block is worth: leave that checkpoint out (--drop-bad does)")
    }

    /// Which input brought what is not finite, or that the sum did.
    #[cold]
    #[inline(never)]
    fn explain<'b, E: Element<Word = u8>>(
        &self,
        row: u64,
        span: Range<usize>,
        codes: impl Fn(usize) -> &'b [u8],
    ) -> Error {
        let element =
            |at: usize| (self.band.first + row) * self.weight.grid.columns + (span.start + at) as u64;
        for (i, source) in self.weight.sources.iter().enumerate() {
            let Some(at) = codes(i).iter().position(|code| !E::widen(*code).is_finite()) else { continue };
            let detail = format!("holds {}, at element {}", E::widen(codes(i)[at]), element(at));
            return Error::new(ErrorKind::NonFinite, detail)
                .file(&*self.names[source.input])
                .tensor(&*self.weight.name)
                .help("the run has diverged there: leave that checkpoint out (--drop-bad does)");
        }
        let detail = format!("has a merged value too large for F32, near element {}", element(0));
        Error::new(ErrorKind::Overflow, detail)
            .file(&*self.names[self.names.len() - 1])
            .tensor(&*self.weight.name)
            .help("its scales are too large for a sum: merge the checkpoints before they are quantised")
    }
}

impl Window {
    /// Have a row of the band there.
    fn show(&mut self, job: &ScaledJob<'_>, row: u64, read: &mut Reader<'_>) -> Result<()> {
        if self.rows.contains(&row) {
            return Ok(());
        }
        self.rows = row..row.saturating_add(self.most).min(job.band.rows);
        for (source, codes) in job.weight.sources.iter().zip(&mut self.codes) {
            let wanted = job.codes(source, self.rows.clone());
            resize(codes, index(wanted.range.end - wanted.range.start))?;
            read(&wanted, codes)?;
        }
        Ok(())
    }

    /// Some columns of a row of one input.
    #[inline(always)]
    fn row(&self, source: usize, row: u64, columns: usize, span: Range<usize>) -> &[u8] {
        let start = index(row - self.rows.start) * columns;
        &self.codes[source][start + span.start..start + span.end]
    }
}

impl Line {
    /// What some elements are worth: the weighted sum of codes times scales, or what they are in every input.
    #[inline(always)]
    fn sum<'b, E: Element<Word = u8>>(
        &mut self,
        sources: &[Source],
        codes: impl Fn(usize) -> &'b [u8],
        scale: impl Fn(usize) -> f32,
    ) {
        for (i, source) in sources.iter().enumerate() {
            let (scale, weight) = (scale(i), source.weight);
            let lines = self.sums.iter_mut().zip(&mut self.firsts).zip(&mut self.differ);
            for (code, ((sum, first), differ)) in codes(i).iter().zip(lines) {
                let value = flush(E::widen(*code) * scale);
                let product = flush(weight * value);
                if i == 0 {
                    (*first, *differ, *sum) = (value, 0, product);
                } else {
                    *differ |= value.to_bits() ^ first.to_bits();
                    *sum = flush(*sum + product);
                }
            }
        }
        for ((sum, first), differ) in self.sums.iter_mut().zip(&self.firsts).zip(&self.differ) {
            *sum = if *differ == 0 { *first } else { *sum };
        }
    }
}

/// Add up how far codes are off, and what that is to be compared with.
#[inline(always)]
fn add<E: Element<Word = u8>>(
    sums: &[f32],
    codes: &[u8],
    scale: f32,
    errors: &mut [f64; LANES],
    norms: &mut [f64; LANES],
) {
    for (sums, codes) in sums.chunks(LANES).zip(codes.chunks(LANES)) {
        for (((sum, code), error), norm) in sums.iter().zip(codes).zip(&mut *errors).zip(&mut *norms) {
            let off = f64::from(*sum) - f64::from(E::widen(*code)) * f64::from(scale);
            *error += off * off;
            *norm += f64::from(*sum) * f64::from(*sum);
        }
    }
}

/// Write the scale nearest to `exact` that is not zero; what it is then.
fn new_scale(exact: f32, is_power: bool, float: Float, word: &mut [u8]) -> f32 {
    let bits = exact.to_bits();
    let up = if is_power && bits & 0x007f_ffff != 0 { (bits & INFINITE) + 0x0080_0000 } else { bits };
    let wanted = if exact == 0.0 { 1.0 } else { f32::from_bits(up) };
    narrow(float, wanted, word);
    if widen(float, word) == 0.0 {
        word.fill(0);
        word[0] = 1; // the least that there is
    }
    widen(float, word)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a band is in memory")
}
