//! The work on one module: read its factors from every input; measure, decompose, or merge them.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::Method;
use super::module::{Module, Place};
use super::panel::{Factor, Side, Stack};
use super::residual::{Residual, Spread, norm_of_sum, residual};
use super::sketch::sketch;
use super::window::{Reader, Window};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::element::narrow_f64;
use crate::linalg::gram::BLOCK;
use crate::linalg::low_rank::{LowRank, rank_for};
use crate::linalg::matrix::{Matrix, WIDTH, multiply};
use crate::plan::{Read, Write};
use crate::room::zeros;

/// One module's work: [`Self::residual`] reads in pieces; [`Self::run`] takes whole tensors, and its memory is what it reads and
/// writes.
#[derive(Clone, Debug)]
pub struct ModuleJob<'a> {
    pub(super) module: &'a Module,
    pub(super) names: &'a [alloc::string::String],
    /// The rank of the output, and whether it is the concatenation; without an output, neither counts.
    pub(super) rank: usize,
    pub(super) is_full: bool,
    /// A, B and, where there is one, the bias.
    pub(super) writes: Cow<'a, [(Write, Float)]>,
}

impl ModuleJob<'_> {
    /// The module's name.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module.name
    }

    /// What its A is called.
    pub(crate) fn tensor(&self) -> &str {
        &self.module.down.tensor
    }

    /// What must be read, whole tensors: of each input A, B and, where there is one, the bias.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = Read> + '_ {
        (0..self.read_count()).map(|i| self.read(i))
    }

    /// How many reads there are.
    pub(crate) fn read_count(&self) -> usize {
        self.module.sources.len() * self.tensors()
    }

    /// One of [`Self::reads`].
    pub(crate) fn read(&self, i: usize) -> Read {
        let source = &self.module.sources[i / self.tensors()];
        let place = match i % self.tensors() {
            0 => &source.down,
            1 => &source.up,
            _ => source.bias.as_ref().expect("modules() checked this: all inputs have the bias"),
        };
        Read { input: source.input, file: place.file, range: place.range.clone() }
    }

    /// The inputs that have it, in order.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = usize> + '_ {
        self.module.sources.iter().map(|source| source.input)
    }

    /// How many tensors a module has in each input.
    fn tensors(&self) -> usize {
        if self.module.bias.is_some() { 3 } else { 2 }
    }

    /// The writes, each with the dtype that is written.
    pub(crate) fn placed(&self) -> &[(Write, Float)] {
        &self.writes
    }

    /// Where the results of [`Self::run`] go: A, B and, where there is one, the bias.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = &Write> {
        self.writes.iter().map(|(write, _)| write)
    }

    /// How far the average of the factors is from the average of the products. `None` if the inputs' ranks differ, so
    /// that factors have no average, or if nothing tells which rows belong to which expert.
    ///
    /// `read` fills a slice with the bytes of a range; what it is asked for at once takes at most `max_bytes`, or what 64
    /// points take. Always inlined, as all three are, so that a host may compile it for wider instructions; the bits
    /// depend neither on that nor on `max_bytes`.
    ///
    /// # Errors
    /// Those of `read`.
    #[inline(always)]
    pub fn residual(&self, how: Method, max_bytes: usize, read: &mut Reader<'_>) -> Result<Option<Residual>> {
        let sources = &self.module.sources;
        let rank = sources[0].rank;
        if self.module.experts == 0 || sources.iter().any(|source| source.rank != rank) {
            return Ok(None);
        }
        let scale = sources[0].scale / sources[0].weight;
        if how == Method::Sketch {
            return Ok(Some(sketch(self.module, max_bytes, read)?.times(scale * scale)));
        }
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let mut sum = Residual::default();
        for expert in 0..self.module.experts {
            let mut sides = Vec::with_capacity(2);
            for side in [Side::Down, Side::Up] {
                let mut spread = Spread::new(&weights, rank)?;
                let mut window = Window::new(self.module, side, expert, max_bytes);
                while let Some(stack) = window.next(read)? {
                    spread.add(&stack);
                }
                sides.push(spread.finish());
            }
            let grams = (&sides[0], &sides[1]);
            sum =
                sum.plus(residual(grams, &weights, || self.norm_of_sum(&weights, expert, max_bytes, read))?);
        }
        Ok(Some(sum.times(scale * scale)))
    }

    /// ‖Σ wBA‖² straight from the factors, in f64.
    #[cold]
    #[cfg_attr(target_family = "wasm", inline)] // where `add_gram` is compiled already
    fn norm_of_sum(
        &self,
        weights: &[f64],
        expert: usize,
        max_bytes: usize,
        read: &mut Reader<'_>,
    ) -> Result<f64> {
        let down = self.gram(Side::Down, expert, max_bytes, read)?;
        let up = self.gram(Side::Up, expert, max_bytes, read)?;
        Ok(norm_of_sum(&down, &up, weights))
    }

    /// Write the merged factors, and say what the cut to the output's rank loses; or, of a share of ‖D‖² in 0…1, write nothing and
    /// say the smallest rank that keeps so much in each of the module's experts. One loop for both: what they share is much code.
    ///
    /// `outputs` are the bytes of [`Self::writes`].
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] or [`ErrorKind::Overflow`], naming input and tensor.
    ///
    /// # Panics
    /// If the slices do not have the lengths promised by `reads` and `writes`.
    #[inline(always)]
    pub fn run(
        &self,
        energy: Option<f64>,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(usize, Residual)> {
        assert!(energy.is_some() || outputs.len() == self.writes.len(), "one slice per write");
        let (mut rank, mut sum) = (1, Residual::default());
        for expert in 0..self.module.experts {
            let (down, up) = self.stacks(inputs, expert);
            let maps = if self.is_full && energy.is_none() {
                None
            } else {
                let found = self.decompose(&down, &up, inputs)?;
                let energies = found.energies();
                if let Some(share) = energy {
                    rank = rank.max(rank_for(energies, share));
                    continue;
                }
                let (kept, lost) = energies.split_at(self.rank.min(energies.len()));
                let (kept, lost) = (kept.iter().rev().sum::<f64>(), lost.iter().rev().sum::<f64>());
                sum = sum.plus(Residual { error: lost, norm: kept + lost, noise: [0.0; 3] });
                Some(found.maps(self.rank)?)
            };
            let (for_a, for_b) = maps.map_or((None, None), |(for_a, for_b)| (Some(for_a), Some(for_b)));
            for (at, (stack, map)) in [(&down, &for_a), (&up, &for_b)].into_iter().enumerate() {
                self.write(stack, map.as_ref(), at, outputs)?;
            }
        }
        if let (None, Some((_, float))) = (energy, self.writes.get(2)) {
            self.bias(inputs, *float, outputs[2])?;
        }
        Ok((rank, sum))
    }

    /// The factors of one expert, stacked.
    #[inline(always)]
    fn stacks<'b>(&self, inputs: &[&'b [u8]], expert: usize) -> (Stack<'b>, Stack<'b>) {
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        let mut inputs = inputs.iter();
        for source in &self.module.sources {
            let mut next = |place: &Place| Factor {
                float: place.float,
                bytes: inputs.next().expect("one slice per read"),
                rank: source.rank,
            };
            downs.push(next(&source.down));
            ups.push(next(&source.up));
            source.bias.as_ref().map(next);
        }
        let Module { inside, outside, experts, .. } = *self.module;
        (
            Stack { side: Side::Down, factors: downs, points: inside, experts, expert },
            Stack { side: Side::Up, factors: ups, points: outside, experts, expert },
        )
    }

    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    fn decompose(&self, down: &Stack<'_>, up: &Stack<'_>, inputs: &[&[u8]]) -> Result<LowRank> {
        let mut grams = Vec::with_capacity(2);
        for stack in [down, up] {
            let gram = stack.gram()?;
            if !(0..gram.rows).all(|p| gram.at(p, p).is_finite()) {
                return Err(self.explain(inputs));
            }
            grams.push(gram);
        }
        let (gram_b, gram_a) = (grams.pop().expect("of up"), grams.pop().expect("of down"));
        LowRank::new(gram_a, gram_b, &self.scales())
    }

    /// wγ for each stacked row.
    fn scales(&self) -> Vec<f64> {
        let mut scales = Vec::new();
        self.module.sources.iter().for_each(|source| scales.resize(scales.len() + source.rank, source.scale));
        scales
    }

    /// Map a stack to the output's factor, or without a map put it there as it is, wγ on B.
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    fn write(
        &self,
        stack: &Stack<'_>,
        map: Option<&Matrix>,
        at: usize,
        outputs: &mut [&mut [u8]],
    ) -> Result<()> {
        let float = self.writes[at].1;
        let size = float.bytes();
        let stride = stack.features().next_multiple_of(WIDTH);
        let scales = if map.is_none() && at == 1 { self.scales() } else { vec![1.0; stack.features()] };
        let mut panel = zeros(BLOCK * stride)?;
        let mut mapped = zeros(map.map_or(0, |map| BLOCK * map.stride))?;
        let mut is_finite = true;
        for start in (0..stack.points).step_by(BLOCK) {
            let count = BLOCK.min(stack.points - start);
            stack.read(start, count, &mut panel, stride);
            let (points, stride) = if let Some(map) = map {
                multiply(&panel[..count * stride], stride, map, &mut mapped[..count * map.stride]);
                (&mapped[..], map.stride)
            } else {
                for point in panel.chunks_exact_mut(stride) {
                    point.iter_mut().zip(&scales).for_each(|(x, scale)| *x *= scale);
                }
                (&panel[..], stride)
            };
            for (i, point) in points.chunks_exact(stride).enumerate().take(count) {
                for (k, value) in point[..self.rank].iter().enumerate() {
                    let element = match stack.side {
                        Side::Down => (stack.expert * self.rank + k) * stack.points + start + i,
                        Side::Up => ((start + i) * self.rank + k) * stack.experts + stack.expert,
                    };
                    let word = &mut outputs[at][element * size..(element + 1) * size];
                    word.copy_from_slice(&narrow_f64(float, *value)[..size]);
                    is_finite &= float.value(word).is_finite();
                }
            }
        }
        if is_finite {
            return Ok(());
        }
        let tensor = if at == 0 { &self.module.down.tensor } else { &self.module.up.tensor };
        Err(self.overflow(tensor, float))
    }

    /// Σ wγ·bias.
    fn bias(&self, inputs: &[&[u8]], float: Float, output: &mut [u8]) -> Result<()> {
        let mut sums: Vec<f64> = zeros(self.module.outside)?;
        for (i, source) in self.module.sources.iter().enumerate() {
            let place = source.bias.as_ref().expect("modules() checked this: all inputs have the bias");
            let words = inputs[3 * i + 2].chunks_exact(place.float.bytes());
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum += source.scale * place.float.value(word));
        }
        let tensor = self.module.bias.as_ref().map_or("", |bias| &bias.tensor);
        for (word, sum) in output.chunks_exact_mut(float.bytes()).zip(&sums) {
            word.copy_from_slice(&narrow_f64(float, *sum)[..float.bytes()]);
            if !float.value(word).is_finite() {
                return Err(if sum.is_finite() {
                    self.overflow(tensor, float)
                } else {
                    self.explain(inputs)
                });
            }
        }
        Ok(())
    }

    #[cold]
    fn overflow(&self, tensor: &str, float: Float) -> Error {
        let newest = self.module.sources.last().map_or(0, |source| source.input);
        Error::new(ErrorKind::Overflow, format!("has a merged value too large for {}", float.dtype()))
            .file(&*self.names[newest])
            .tensor(tensor)
            .help("ask for a wider dtype: --dtype f32 or bf16")
    }

    /// Find the first element that is not finite.
    #[cold]
    pub(super) fn explain(&self, inputs: &[&[u8]]) -> Error {
        let mut inputs = inputs.iter();
        for source in &self.module.sources {
            let bias = self.module.bias.as_ref().zip(source.bias.as_ref());
            let tensors =
                [(&self.module.down, &source.down), (&self.module.up, &source.up)].into_iter().chain(bias);
            for (side, place) in tensors {
                let bytes = inputs.next().expect("one slice per read");
                let mut values = bytes.chunks_exact(place.float.bytes()).map(|word| place.float.value(word));
                let found = values.clone().position(|value| !value.is_finite());
                if let Some(value) =
                    found.and_then(|element| values.nth(element).map(|value| (element, value)))
                {
                    let (element, value) = value;
                    return Error::new(ErrorKind::NonFinite, format!("holds {value}, at element {element}"))
                        .file(&*self.names[source.input])
                        .tensor(&*side.tensor)
                        .help("the run has diverged there: leave that checkpoint out (--drop-bad does)");
                }
            }
        }
        self.overflow(&self.module.down.tensor, Float::F64)
    }
}
