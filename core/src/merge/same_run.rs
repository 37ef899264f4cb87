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
use crate::merge::heads;
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

/// The factors by which inputs are compared, one after the other, and the heads of several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    inputs: usize,
    /// Of each factor, by name, and then of each head: where it begins in each input that has it.
    tensors: Vec<Vec<(Read, Float)>>,
    /// The names of the heads.
    heads: Vec<String>,
}

/// The beginning of one tensor in every input that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginnings<'a> {
    inputs: usize,
    reads: &'a [(Read, Float)],
}

impl Samples {
    /// Choose what is compared: nothing where there is one input; no factors in product space, or where inputs are no LoRA
    /// adapters; heads where inputs are of several `runs`.
    pub(crate) fn new(inputs: &[Input], runs: &[usize], are_products: bool) -> Self {
        let [first, _, ..] = inputs else { return Self::default() };
        let of_first = || first.files.iter().flat_map(|file| file.header.tensors());
        let mut names = if are_products { Vec::new() } else { Sample::names(of_first()) };
        names.sort_unstable();
        let is_one_run = runs.windows(2).all(|pair| pair[0] == pair[1]);
        let heads = if is_one_run { Vec::new() } else { heads::names(of_first()) };
        if names.is_empty() && heads.is_empty() {
            return Self::default();
        }
        let tensors: Vec<_> = inputs.iter().map(|input| Tensors::new(&input.files)).collect();
        let begin = |(input, tensors): (usize, &Tensors<'_>), name: &str| {
            let (file, tensor) = tensors.find(name)?;
            Some((Read { input, file, range: Sample::range(tensor)? }, Float::of(tensor.dtype)?))
        };
        let of = |name: &&str| tensors.iter().enumerate().filter_map(|input| begin(input, name)).collect();
        Self {
            inputs: inputs.len(),
            tensors: names.iter().chain(&heads).map(of).collect(),
            heads: heads.into_iter().map(String::from).collect(),
        }
    }

    /// How many tensors are compared.
    pub(crate) fn count(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of all beginnings.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.iter().flatten().map(|(read, _)| read.range.end - read.range.start).sum()
    }

    pub(crate) fn job(&self, i: usize) -> Beginnings<'_> {
        Beginnings { inputs: self.inputs, reads: &self.tensors[i] }
    }

    /// Judge by the cosines of all that is compared, in order: notes for inputs that are far from the one before.
    ///
    /// # Errors
    /// [`ErrorKind::CrossRun`] for one of another run, unless `allow` permits that; `is_dora` forbids it in any case.
    pub(crate) fn judge(
        &self,
        inputs: &[Input],
        cosines: &[Vec<f64>],
        is_dora: bool,
        allow: bool,
    ) -> Result<Vec<String>> {
        let (factors, heads) = cosines.split_at(cosines.len().saturating_sub(self.heads.len()));
        let mut notes = Vec::new();
        for (pair, inputs) in inputs.windows(2).enumerate() {
            let (a, b) = (&inputs[0].name, &inputs[1].name);
            if let Some(cosine) = mean(factors.iter().filter_map(|found| found.get(pair)).copied()) {
                notes.extend(verdict(a, b, cosine, is_dora, allow)?);
            }
            for (name, found) in self.heads.iter().zip(heads) {
                let cosine = found.get(pair).copied().unwrap_or(f64::NAN);
                notes.extend(heads::verdict(a, b, name, cosine, allow)?);
            }
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
