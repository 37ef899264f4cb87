//! How far inputs lie apart: the squared distances of all pairs, tensor by tensor, or by what LoRA modules do.
//!
//! Dᵢⱼ = Σ (xᵢ − xⱼ)² by direct differences in f64, so that nothing cancels between checkpoints of one run; between products
//! Dᵢⱼ = Gᵢᵢ + Gⱼⱼ − 2Gᵢⱼ of their inner products. A job is a chunk of a tensor or a module, whose size heads alone decide;
//! blocks begin where the tensor does, lanes and blocks and chunks are added in their order, tensors by name: so the bits
//! depend neither on threads, nor on SIMD, nor on windows, nor on the order of jobs.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::linalg::matrix::Matrix;
use crate::method::product::{ModuleJob, Products, Reader, widen};
use crate::plan;
use crate::plan::{Cuts, Plan, Read};
use crate::room::{resize, zeros};

/// Elements per block: sixteen inputs of f64 fit a first- or second-level cache.
const BLOCK: usize = 512;
/// Partial sums side by side: as many as hide the latency of an addition.
const LANES: usize = 16;
/// Most bytes of one input at a time: allocations above that are had from the system and given back each time.
const WINDOW: usize = 32 << 10;
/// Bytes of one input in a chunk, and how far that grows so that what is found of a large model stays small.
const CHUNK: usize = 512 << 10;
const LARGEST: usize = 4 << 20;
/// Chunks beyond which they grow.
const CHUNKS: u64 = 4096;

/// What is measured of some inputs.
#[derive(Debug)]
pub(crate) struct Apart {
    /// How many there are, zeros among them.
    inputs: usize,
    plan: Plan,
    cuts: Cuts,
    products: Option<Products>,
    /// Where only distances from one input matter, that one.
    hub: Option<usize>,
    /// Whether those from nothing, as if zeros were one more input, matter too.
    has_zero: bool,
}

/// A chunk of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    job: plan::Job<'a>,
    hub: Option<usize>,
    has_zero: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Squared distances, `[K, K]`; where only those from one input were measured, the others are 0.
    pub(crate) distances: Matrix,
    /// Inner products of what LoRA modules do, `[K, K]`; 0 where there are no modules.
    pub(crate) products: Matrix,
}

impl Apart {
    /// Measure what `plan` computes, which was made by tensor, and what LoRA modules do.
    pub(crate) fn new(
        inputs: usize,
        plan: Plan,
        products: Option<Products>,
        hub: Option<usize>,
        has_zero: bool,
    ) -> Self {
        let plan = plan.computed();
        let mut chunk = CHUNK;
        let mut cuts = Cuts::new(&plan, chunk);
        while cuts.count() > CHUNKS && chunk < LARGEST {
            chunk *= 2;
            cuts = Cuts::new(&plan, chunk);
        }
        Self { inputs: inputs + usize::from(has_zero), cuts, plan, products, hub, has_zero }
    }

    /// How many jobs there are: chunks, then modules.
    pub(crate) fn count(&self) -> u64 {
        self.cuts.count() + self.modules() as u64
    }

    fn modules(&self) -> usize {
        self.products.as_ref().map_or(0, |products| products.factors().count())
    }

    /// Bytes that all jobs together read.
    pub(crate) fn bytes(&self) -> u64 {
        self.plan.bytes() + self.products.as_ref().map_or(0, |products| products.factors().bytes())
    }

    /// The job with a number below [`Apart::count`].
    pub(crate) fn job(&self, number: u64) -> core::result::Result<Chunk<'_>, ModuleJob<'_>> {
        match (number.checked_sub(self.cuts.count()), &self.products) {
            (Some(module), Some(products)) => {
                Err(products.factors().job(usize::try_from(module).expect("modules are in memory")))
            }
            _ => Ok(Chunk { job: self.cuts.job(&self.plan, number), hub: self.hub, has_zero: self.has_zero }),
        }
    }

    /// Put together what all jobs found, in the order of their numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where that is not what such jobs find.
    pub(crate) fn settle(&self, found: &[Vec<f64>]) -> Result<Measured> {
        self.sum(0, found)
    }

    /// The same of each tensor by itself, and of each module, that is called as its A and of which the products count.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub(crate) fn settle_each(&self, found: &[Vec<f64>]) -> Result<Vec<(String, bool, Measured)>> {
        let (mut each, mut first) = (Vec::new(), 0);
        while first < found.len() {
            let (name, is_module, end) = match self.job(first as u64) {
                Ok(chunk) => (
                    self.plan.tensor_of(&chunk.job),
                    false,
                    usize::try_from(self.cuts.alike(first as u64).end).unwrap_or(found.len()),
                ),
                Err(module) => (module.tensor().to_owned(), true, first + 1),
            };
            each.push((name, is_module, self.sum(first, &found[first..end])?));
            first = end;
        }
        Ok(each)
    }

    /// The first tensor that is measured by its elements, if there is one.
    pub(crate) fn first_tensor(&self) -> Option<String> {
        (self.cuts.count() > 0).then(|| self.plan.tensor_of(&self.cuts.job(&self.plan, 0)))
    }

    /// What jobs found from this number on.
    fn sum(&self, first: usize, found: &[Vec<f64>]) -> Result<Measured> {
        let foreign = || Error::new(ErrorKind::Usage, "these numbers are not what a job has found");
        let mut distances = Matrix::zero(self.inputs, self.inputs)?;
        let mut products = Matrix::zero(self.inputs, self.inputs)?;
        for (number, found) in found.iter().enumerate() {
            let mut found = found.iter();
            let mut add = |sums: &mut Matrix, i: usize, j: usize| {
                let sum = sums.at(i, j) + found.next().ok_or_else(foreign)?;
                sums.set(i, j, sum);
                sums.set(j, i, sum);
                Ok::<_, Error>(())
            };
            match self.job((first + number) as u64) {
                Ok(_) => pairs(self.inputs, self.hub).try_for_each(|(i, j)| add(&mut distances, i, j))?,
                Err(module) => {
                    let sources: Vec<_> = module.inputs().collect();
                    for (at, i) in sources.iter().enumerate() {
                        sources[..=at].iter().try_for_each(|j| add(&mut products, *i, *j))?;
                    }
                }
            }
            if found.next().is_some() {
                return Err(foreign());
            }
        }
        for i in 0..self.inputs {
            for j in 0..i {
                let between = products.at(i, i) + products.at(j, j) - 2.0 * products.at(i, j);
                let sum = distances.at(i, j) + between.max(0.0);
                distances.set(i, j, sum);
                distances.set(j, i, sum);
            }
        }
        Ok(Measured { distances, products })
    }
}

/// The pairs of inputs that a chunk measures, in the order of what it finds.
#[inline(always)]
fn pairs(inputs: usize, hub: Option<usize>) -> impl Iterator<Item = (usize, usize)> {
    let all = (0..inputs).flat_map(|i| (0..i).map(move |j| (i, j)));
    all.filter(move |(i, j)| hub.is_none_or(|hub| hub == *i || hub == *j))
}

impl Chunk<'_> {
    /// How many reads there are: one of each input.
    pub(crate) fn read_count(&self) -> usize {
        self.job.reads().len()
    }

    /// One of them.
    pub(crate) fn read(&self, i: usize) -> Read {
        self.job.read(i)
    }

    /// The squared distances of all pairs of inputs over this chunk.
    ///
    /// `read` fills a slice with the bytes of a range; what it is asked for at once takes at most `max_bytes`, or what a block
    /// takes. Always inlined, so that a host may compile it for wider instructions.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] or [`ErrorKind::Overflow`], naming input and tensor; those of `read`.
    #[inline(always)]
    pub(crate) fn distances(&self, max_bytes: usize, read: &mut Reader<'_>) -> Result<Vec<f64>> {
        let floats: Vec<_> = self.job.floats().collect();
        let elements = usize::try_from(self.job.count()).expect("a chunk is cut to fit memory");
        let size: usize = floats.iter().map(|float| float.bytes()).sum();
        let max_bytes = max_bytes.min(WINDOW * floats.len());
        let step = (max_bytes / size.max(1) / BLOCK * BLOCK).max(BLOCK);
        let mut buffers = vec![Vec::new(); floats.len()];
        let rows = floats.len() + usize::from(self.has_zero);
        let mut panel = zeros(rows * BLOCK)?;
        let mut sums: Vec<f64> = zeros(pairs(rows, self.hub).count())?;
        for start in (0..elements).step_by(step) {
            let count = step.min(elements - start);
            for (i, (buffer, float)) in buffers.iter_mut().zip(&floats).enumerate() {
                let Read { input, file, range } = self.job.read(i);
                let from = range.start + (start * float.bytes()) as u64;
                resize(buffer, count * float.bytes())?;
                read(&Read { input, file, range: from..from + buffer.len() as u64 }, buffer)?;
            }
            for first in (0..count).step_by(BLOCK) {
                let block = BLOCK.min(count - first);
                for ((row, buffer), float) in panel.chunks_exact_mut(BLOCK).zip(&buffers).zip(&floats) {
                    let bytes = &buffer[first * float.bytes()..(first + block) * float.bytes()];
                    row[block..].fill(0.0);
                    widen(*float, bytes, &mut row[..block]);
                }
                let row = |i: usize| &panel[i * BLOCK..(i + 1) * BLOCK];
                for (sum, (i, j)) in sums.iter_mut().zip(pairs(rows, self.hub)) {
                    *sum += between(row(i), row(j));
                }
                if sums.iter().any(|sum| !sum.is_finite()) {
                    return Err(self.explain(&panel, start + first));
                }
            }
        }
        Ok(sums)
    }

    /// Say which input has an element that is not finite, or too large.
    #[cold]
    #[inline(never)]
    fn explain(&self, panel: &[f64], first: usize) -> Error {
        for (i, row) in panel.chunks_exact(BLOCK).enumerate() {
            if let Some(at) = row.iter().position(|value| !value.is_finite()) {
                let input = self.job.read(i).input;
                let detail = format!("holds {}", row[at]);
                return self
                    .job
                    .at(ErrorKind::NonFinite, input, first + at, detail)
                    .help("the run has diverged there: leave that checkpoint out (--drop-bad does)");
            }
        }
        let input = self.job.read(0).input;
        let detail = "lies too far from another input for a distance in f64".into();
        self.job
            .at(ErrorKind::Overflow, input, first, detail)
            .help("the values are beyond 1e150: look at the tensor, or leave that checkpoint out")
    }
}

/// Σ (x − y)² of a block, in lanes.
#[inline(always)]
fn between(x: &[f64], y: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            let difference = x - y;
            *lane += difference * difference;
        }
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::format::safetensors::Header;
    use crate::linalg::matrix::tests::noise;
    use crate::plan::{Input, Recipe, Shard};
    use crate::weigh::scheme::Weights;

    /// What lies between inputs of three tensors, one of which is copied, read by windows of so many bytes.
    fn measured(values: &[Vec<f64>], max_bytes: usize, hub: Option<usize>) -> Measured {
        let (apart, found) = found(values, max_bytes, hub, false);
        apart.settle(&found).unwrap()
    }

    fn found(
        values: &[Vec<f64>],
        max_bytes: usize,
        hub: Option<usize>,
        has_zero: bool,
    ) -> (Apart, Vec<Vec<f64>>) {
        let (long, short) = (values[0].len() - 3, 3);
        let laid = [
            ("w", Dtype::F64, vec![long as u64]),
            ("a", Dtype::F64, vec![short]),
            ("n", Dtype::I64, vec![1]),
        ];
        let header =
            Header::layout(laid.map(|(name, dtype, shape)| (name.into(), dtype, shape)), Default::default())
                .unwrap();
        let file = |values: &Vec<f64>| {
            let mut bytes = vec![0; usize::try_from(header.file_len()).unwrap()];
            for (name, values) in [("w", &values[..long]), ("a", &values[long..])] {
                let tensor = header.tensors().iter().find(|tensor| tensor.name == name).unwrap();
                let start = usize::try_from(tensor.range.start).unwrap();
                values.iter().enumerate().for_each(|(i, value)| {
                    bytes[start + 8 * i..start + 8 * i + 8].copy_from_slice(&value.to_le_bytes());
                });
            }
            bytes
        };
        let files: Vec<_> = values.iter().map(file).collect();
        let shard = || Shard { name: "m.safetensors".into(), header: header.clone() };
        let inputs: Vec<_> = files.iter().map(|_| Input { name: "m".into(), files: vec![shard()] }).collect();
        let weights = Weights::explicit(&vec![1.0; files.len()]).unwrap();
        let recipe = Recipe { by_tensor: true, ..Recipe::default() };
        let apart =
            Apart::new(files.len(), Plan::new(&inputs, &weights, &recipe).unwrap(), None, hub, has_zero);
        let found: Vec<_> = (0..apart.count())
            .map(|number| {
                let chunk = apart.job(number).unwrap();
                let mut read = |wanted: &Read, out: &mut [u8]| {
                    let start = usize::try_from(wanted.range.start).unwrap();
                    out.copy_from_slice(&files[wanted.input][start..start + out.len()]);
                    Ok(())
                };
                chunk.distances(max_bytes, &mut read).unwrap()
            })
            .collect();
        (apart, found)
    }

    #[test]
    fn tensors_are_measured_each_by_itself_and_from_nothing() {
        let inputs: Vec<_> = (0..3).map(|seed| noise(70_003, seed)).collect();
        let (apart, found) = found(&inputs, 1 << 20, None, true);
        let each = apart.settle_each(&found).unwrap();
        assert_eq!(each.iter().map(|(name, ..)| &**name).collect::<Vec<_>>(), ["a", "w"]);
        for ((.., measured), part) in each.iter().zip([70_000..70_003, 0..70_000]) {
            for (i, x) in inputs.iter().enumerate() {
                let norm: f64 = x[part.clone()].iter().map(|x| x * x).sum();
                assert!((measured.distances.at(i, 3) - norm).abs() <= 1e-12 * norm);
            }
        }
        let all = apart.settle(&found).unwrap().distances.at(0, 1);
        let parts: f64 = each.iter().map(|(.., measured)| measured.distances.at(0, 1)).sum();
        assert!((all - parts).abs() <= 1e-12 * all);
    }

    #[test]
    fn distances_are_those_of_the_plain_sum_whatever_the_windows() {
        // more than a chunk of the longer tensor
        let inputs: Vec<_> = (0..4).map(|seed| noise(70_003, seed)).collect();
        let whole = measured(&inputs, 1 << 30, None);
        for (i, x) in inputs.iter().enumerate() {
            for (j, y) in inputs.iter().enumerate() {
                let plain: f64 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
                assert!((whole.distances.at(i, j) - plain).abs() <= 1e-12 * plain, "{i} {j}");
            }
        }
        assert_eq!(measured(&inputs, 1, None), whole);
        assert_eq!(measured(&inputs, 100_000, None), whole);
        let hub = measured(&inputs, 1 << 20, Some(2));
        assert_eq!(
            (hub.distances.at(2, 0), hub.distances.at(3, 2)),
            (whole.distances.at(2, 0), whole.distances.at(2, 3))
        );
        assert_eq!(hub.distances.at(0, 1), 0.0);
    }

    #[test]
    fn near_inputs_lose_no_digits() {
        let x = noise(2000, 1);
        let y: Vec<_> = x.iter().map(|x| 1e6 + x + 1e-6).collect();
        let x: Vec<_> = x.iter().map(|x| 1e6 + x).collect();
        let plain: f64 = x.iter().zip(&y).map(|(x, y)| (x - y) * (x - y)).sum();
        assert!((measured(&[x, y], 1 << 20, None).distances.at(0, 1) / plain - 1.0).abs() < 1e-13);
    }
}
