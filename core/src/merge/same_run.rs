//! Tell checkpoints of one run from checkpoints of several, by the direction of their factors.
//!
//! Averaging A and B makes sense only between checkpoints that share a basis. The mean cosine of the A factors is a
//! cheap and decisive test: 0.988 was measured between checkpoints of one run, −0.03 between two seeds.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::plan::{Input, Read, Tensors};

/// Tensors compared, spread over the whole adapter.
const TENSORS: usize = 32;
/// Elements compared of each: enough for a cosine, cheap for any size.
const ELEMENTS: u64 = 1024;
/// Below this mean cosine two checkpoints are of different runs.
const OTHER_RUN: f64 = 0.2;
/// Below this they have drifted so far apart that their average deserves a warning.
const FAR: f64 = 0.5;

/// The beginnings of some A factors of a checkpoint, by name.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Sorted by name.
    values: Vec<(String, Vec<f64>)>,
}

impl Sample {
    /// Names of the factors to sample, the same for all checkpoints, from the tensors of the first.
    pub fn names<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<&'a str> {
        let is_factor = |name: &&str| name.contains(".lora_A") || name.contains("lora_embedding_A");
        let all: Vec<_> = tensors.map(|tensor| tensor.name.as_str()).filter(is_factor).collect();
        all.iter().step_by(all.len().div_ceil(TENSORS).max(1)).copied().collect()
    }

    /// The bytes of its file that are sampled of a tensor, at most 8 kB; `None` for what holds no floats.
    #[must_use]
    pub fn range(tensor: &Tensor) -> Option<Range<u64>> {
        let float = Float::of(tensor.dtype)?;
        Some(tensor.range.start..tensor.range.end.min(tensor.range.start + ELEMENTS * float.bytes() as u64))
    }

    /// Take in the bytes of [`Sample::range`].
    pub fn insert(&mut self, tensor: &Tensor, bytes: &[u8]) {
        let Some(float) = Float::of(tensor.dtype) else { return };
        let values: Vec<_> = bytes.chunks_exact(float.bytes()).map(|word| float.value(word)).collect();
        match self.place(&tensor.name) {
            Ok(at) => self.values[at].1 = values,
            Err(at) => self.values.insert(at, (tensor.name.clone(), values)),
        }
    }

    fn place(&self, name: &str) -> core::result::Result<usize, usize> {
        self.values.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// Mean cosine over the tensors that both have; `None` if there is none or all are zero.
    #[must_use]
    pub fn cosine(&self, other: &Self) -> Option<f64> {
        let both = self.values.iter().filter_map(|(name, x)| Some((x, other.place(name).ok()?)));
        mean(both.map(|(x, at)| cosine(x, &other.values[at].1)))
    }
}

/// What the mean cosine of the factors of input `b` and of `a` before it says.
fn verdict(a: &str, b: &str, cosine: f64, is_dora: bool, allow: bool) -> Result<Option<String>> {
    if cosine >= FAR {
        return Ok(None);
    }
    if cosine >= OTHER_RUN || (allow && !is_dora) {
        return Ok(Some(format!(
            "{a} and {b} point in different directions (mean cosine of their A factors {cosine:.2}); \
             an average of factors is then a poor average of what they do"
        )));
    }
    let detail = format!(
        "is not of the same run as {a}: the mean cosine of their A factors is {cosine:.2}, near 1 within a run"
    );
    Err(Error::new(ErrorKind::CrossRun, detail).file(b).help(if is_dora {
        "DoRA's magnitudes belong to the directions of their own run: merge checkpoints of one run"
    } else {
        "merge adapters of several runs with --space product, which averages what they do; \
         --allow-cross-run averages the factors anyway"
    }))
}

/// The factors by which inputs are compared, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    inputs: usize,
    /// Of each factor, by name: where it begins in each input that has it.
    factors: Vec<Vec<(Read, Float)>>,
}

/// The beginning of one factor in every input that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginnings<'a> {
    inputs: usize,
    reads: &'a [(Read, Float)],
}

impl Samples {
    /// Choose factors; there are none to compare where there is one input, or where inputs are no LoRA adapters.
    pub(crate) fn new(inputs: &[Input]) -> Self {
        let [first, _, ..] = inputs else { return Self::default() };
        let mut names = Sample::names(first.files.iter().flat_map(|file| file.header.tensors()));
        names.sort_unstable();
        let tensors: Vec<_> = inputs.iter().map(|input| Tensors::new(&input.files)).collect();
        let begin = |(input, tensors): (usize, &Tensors<'_>), name: &str| {
            let (file, tensor) = tensors.find(name)?;
            Some((Read { input, file, range: Sample::range(tensor)? }, Float::of(tensor.dtype)?))
        };
        let of = |name: &&str| tensors.iter().enumerate().filter_map(|input| begin(input, name)).collect();
        Self { inputs: inputs.len(), factors: names.iter().map(of).collect() }
    }

    /// How many factors are compared.
    pub(crate) fn count(&self) -> usize {
        self.factors.len()
    }

    /// Bytes of all beginnings.
    pub(crate) fn bytes(&self) -> u64 {
        self.factors.iter().flatten().map(|(read, _)| read.range.end - read.range.start).sum()
    }

    pub(crate) fn job(&self, i: usize) -> Beginnings<'_> {
        Beginnings { inputs: self.inputs, reads: &self.factors[i] }
    }

    /// Judge by the cosines of all factors, in order: notes for inputs that are far from the one before.
    ///
    /// # Errors
    /// [`ErrorKind::CrossRun`] for one of another run, unless `allow` permits that; `is_dora` forbids it in any case.
    pub(crate) fn judge(
        inputs: &[Input],
        cosines: &[Vec<f64>],
        is_dora: bool,
        allow: bool,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for (pair, inputs) in inputs.windows(2).enumerate() {
            let found = cosines.iter().filter_map(|found| found.get(pair)).copied();
            let Some(cosine) = mean(found) else { continue };
            notes.extend(verdict(&inputs[0].name, &inputs[1].name, cosine, is_dora, allow)?);
        }
        Ok(notes)
    }
}

impl<'a> Beginnings<'a> {
    /// What is read, and as what.
    pub(crate) fn reads(&self) -> &'a [(Read, Float)] {
        self.reads
    }

    /// The cosine between each input and the one before it; NaN where one of them lacks the factor or is all zero.
    pub(crate) fn cosines(&self, bytes: &[&[u8]]) -> Vec<f64> {
        let mut cosines = vec![f64::NAN; self.inputs - 1];
        let mut before: Option<(usize, Vec<f64>)> = None;
        for ((read, float), bytes) in self.reads.iter().zip(bytes) {
            let values: Vec<_> = bytes.chunks_exact(float.bytes()).map(|word| float.value(word)).collect();
            if let Some((input, before)) = &before
                && input + 1 == read.input
            {
                cosines[*input] = cosine(before, &values);
            }
            before = Some((read.input, values));
        }
        cosines
    }
}

fn cosine(x: &[f64], y: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(x, y) / libm::sqrt(dot(x, x) * dot(y, y))
}

/// The mean of those that say something.
fn mean(cosines: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = cosines
        .filter(|cosine| cosine.is_finite())
        .fold((0.0, 0u32), |(sum, n), cosine| (sum + cosine, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}
