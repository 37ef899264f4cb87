//! Merge tensors that lie in memory, straight from their place to that of the result.
//!
//! ```
//! use mwa::{Dtype, Recipe, Weights};
//! use mwa_host::memory::{InMemory, Input, Tensor};
//! let input = |name: &str, bytes| {
//!     let tensor = Tensor { name: "w".into(), dtype: Dtype::F32, shape: vec![1], bytes };
//!     Input { name: name.into(), tensors: vec![tensor] }
//! };
//! let (one, three) = (1f32.to_le_bytes(), 3f32.to_le_bytes());
//! let inputs = vec![input("a", &one), input("b", &three)];
//! let merge = InMemory::new(inputs, &Weights::explicit(&[1.0, 1.0])?, &Recipe::default())?;
//! let mut out = [0; 4];
//! merge.run(vec![&mut out], Default::default(), &())?;
//! assert_eq!(f32::from_le_bytes(out), 2.0);
//! # Ok::<(), mwa::Error>(())
//! ```

use core::iter;
use std::collections::BTreeMap;

use mwa::kernel::Tally;
use mwa::safetensors::{self, Header, TextMap};
use mwa::{Dtype, Error, ErrorKind, Job, Plan, Recipe, Result, Shard, Weights};

use crate::engine::pool::share;
use crate::engine::simd::InstructionSet;
use crate::options::Machine;
use crate::progress::Progress;

/// One input.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// How messages call it.
    pub name: String,
    /// Its tensors, in any order.
    pub tensors: Vec<Tensor<'a>>,
}

/// A tensor in memory.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Its name, once per input.
    pub name: String,
    /// The type of each element.
    pub dtype: Dtype,
    /// The shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Little-endian elements, row-major, without gaps, unaligned.
    pub bytes: &'a [u8],
}

/// A checked merge of tensors in memory.
#[derive(Debug)]
pub struct InMemory<'a> {
    plan: Plan,
    sources: Vec<Source<'a>>,
}

/// An input as a file that is never written: where each tensor would lie, and where it does.
#[derive(Debug)]
struct Source<'a> {
    header: Header,
    /// In the order of the header.
    bytes: Vec<&'a [u8]>,
}

/// Most bytes that a job reads of one input.
const JOB_BYTES: usize = 256 << 10;

impl<'a> InMemory<'a> {
    /// Check the inputs against each other, as [`Plan::new`] does.
    ///
    /// # Errors
    /// As [`Plan::new`], and [`ErrorKind::Shape`] when a tensor has not as many bytes as its shape and dtype need.
    pub fn new(inputs: Vec<Input<'a>>, weights: &Weights, recipe: &Recipe) -> Result<Self> {
        let mut planned = Vec::with_capacity(inputs.len());
        let mut sources = Vec::with_capacity(inputs.len());
        for input in inputs {
            let source = Source::new(&input.tensors).map_err(|error| error.file(&*input.name))?;
            let shard = Shard { name: input.name.clone(), header: source.header.clone() };
            planned.push(mwa::Input { name: input.name, files: vec![shard] });
            sources.push(source);
        }
        Ok(Self { plan: Plan::new(&planned, weights, recipe)?, sources })
    }

    /// The tensors of the result, in the order in which [`InMemory::run`] wants room for them.
    #[must_use]
    pub fn outputs(&self) -> &[safetensors::Tensor] {
        self.plan.outputs()[0].header.tensors()
    }

    /// Merge into `outputs`, the bytes of each of [`InMemory::outputs`].
    ///
    /// # Errors
    /// As [`Job::run`], and [`ErrorKind::Stopped`]; the outputs then hold anything.
    ///
    /// # Panics
    /// If there is not one output of the right length for each tensor.
    pub fn run(&self, outputs: Vec<&mut [u8]>, machine: Machine, progress: &dyn Progress) -> Result<Tally> {
        let lengths = outputs.iter().map(|output| output.len() as u64);
        assert!(lengths.eq(self.outputs().iter().map(safetensors::Tensor::len)), "one room per tensor");
        progress.start(self.plan.jobs_by_tensor(usize::MAX).map(|job| size(&job)).sum());
        let instructions = InstructionSet::widest();
        let pieces = rooms(self.plan.jobs_by_tensor(JOB_BYTES), outputs);
        let tallies = share(pieces, machine.threads(), progress, |tally: &mut Tally, _, (job, room)| {
            let inputs: Vec<_> = job.reads().map(|read| self.sources[read.input].at(&read)).collect();
            *tally = tally.plus(instructions.run(&job, &inputs, room)?);
            progress.advance(size(&job));
            Ok(())
        })?;
        Ok(tallies.into_iter().fold(Tally::default(), Tally::plus))
    }
}

impl<'a> Source<'a> {
    fn new(tensors: &[Tensor<'a>]) -> Result<Self> {
        let laid = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone()));
        let header = Header::layout(laid, TextMap::default())?;
        let bytes: BTreeMap<_, _> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.bytes)).collect();
        let in_order = |tensor: &safetensors::Tensor| {
            let bytes = bytes[tensor.name.as_str()];
            if bytes.len() as u64 == tensor.len() {
                return Ok(bytes);
            }
            let (have, shape, dtype, want) = (bytes.len(), &tensor.shape, tensor.dtype, tensor.len());
            let detail = format!("holds {have} bytes, but {shape:?} of {dtype} are {want}");
            Err(Error::new(ErrorKind::Shape, detail).tensor(&*tensor.name))
        };
        let bytes = header.tensors().iter().map(in_order).collect::<Result<_>>()?;
        Ok(Self { header, bytes })
    }

    fn at(&self, read: &mwa::Read) -> &'a [u8] {
        let tensors = self.header.tensors();
        let index = tensors.partition_point(|tensor| tensor.range.end <= read.range.start);
        let place = |offset: u64| {
            usize::try_from(offset - tensors[index].range.start).expect("the bytes are in memory already")
        };
        &self.bytes[index][place(read.range.start)..place(read.range.end)]
    }
}

/// Each job with the part of the outputs that it writes; jobs by tensor tile them in order.
fn rooms<'p, 'o>(
    mut jobs: impl Iterator<Item = Job<'p>>,
    outputs: Vec<&'o mut [u8]>,
) -> impl Iterator<Item = (Job<'p>, &'o mut [u8])> {
    let mut outputs = outputs.into_iter().filter(|output| !output.is_empty());
    let mut rest: &mut [u8] = &mut [];
    iter::from_fn(move || {
        let job = jobs.next()?;
        if rest.is_empty() {
            rest = outputs.next().expect("run() checked this: a room for each tensor");
        }
        let write = job.write().range;
        let length = usize::try_from(write.end - write.start).expect("a job is small");
        let (room, after) = core::mem::take(&mut rest).split_at_mut(length);
        rest = after;
        Some((job, room))
    })
}

/// Bytes that a job reads.
fn size(job: &Job<'_>) -> u64 {
    job.reads().map(|read| read.range.end - read.range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tensors of prime lengths, one longer than a job, an empty one and a scalar.
    fn bytes(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from((i * 7 + i / 251 + usize::from(seed) * 13) % 120).unwrap()).collect()
    }

    fn input<'a>(name: &str, data: &'a [Vec<u8>]) -> Input<'a> {
        let shapes =
            [("long", vec![300_007]), ("empty", vec![0, 3]), ("scalar", vec![]), ("b", vec![53, 59])];
        let tensors = shapes.into_iter().zip(data).map(|((name, shape), bytes)| Tensor {
            name: name.into(),
            dtype: Dtype::BF16,
            shape,
            bytes,
        });
        Input { name: name.into(), tensors: tensors.collect() }
    }

    #[test]
    fn any_number_of_threads_gives_what_one_sum_per_tensor_gives() {
        let lengths = [600_014, 0, 2, 6254];
        let data: Vec<Vec<_>> =
            (0..3).map(|seed| lengths.iter().map(|&n| bytes(seed, n)).collect()).collect();
        let inputs = || data.iter().map(|data| input("x", data)).collect();
        let weights = Weights::explicit(&[0.2, 0.3, 0.5]).unwrap();
        let merge = InMemory::new(inputs(), &weights, &Recipe::default()).unwrap();
        for threads in [1, 2, 5] {
            let mut out: Vec<Vec<u8>> =
                merge.outputs().iter().map(|it| vec![0; it.len().try_into().unwrap()]).collect();
            let machine = Machine { threads: Some(threads), ..Machine::default() };
            merge.run(out.iter_mut().map(Vec::as_mut_slice).collect(), machine, &()).unwrap();
            for (tensor, out) in merge.outputs().iter().zip(&out) {
                let index = ["long", "empty", "scalar", "b"].iter().position(|name| *name == tensor.name);
                let operands: Vec<_> = data
                    .iter()
                    .zip(weights.values())
                    .map(|(data, &weight)| mwa::kernel::Operand {
                        dtype: mwa::Float::BF16,
                        bytes: &data[index.unwrap()],
                        weight,
                    })
                    .collect();
                let mut want = vec![0; out.len()];
                mwa::kernel::reference(&operands, mwa::Float::BF16, &mut want);
                assert!(*out == want, "{} with {threads} threads", tensor.name);
            }
        }
    }

    #[test]
    fn the_first_failure_is_told_and_short_bytes_are_refused() {
        let mut data: Vec<Vec<u8>> = [600_014, 0, 2, 6254].iter().map(|&n| bytes(1, n)).collect();
        data[3].truncate(6);
        let weights = Weights::explicit(&[1.0]).unwrap();
        let error = InMemory::new(vec![input("x", &data)], &weights, &Recipe::default()).unwrap_err();
        assert_eq!(error.to_string(), "x: tensor `b` holds 6 bytes, but [53, 59] of BF16 are 6254");
        data[3].resize(6254, 0xff);
        data[0][500_000..].fill(0xff);
        let merge = InMemory::new(vec![input("x", &data)], &weights, &Recipe::default()).unwrap();
        let mut out: Vec<Vec<u8>> =
            merge.outputs().iter().map(|it| vec![0; it.len().try_into().unwrap()]).collect();
        let rooms = out.iter_mut().map(Vec::as_mut_slice).collect();
        let error = merge.run(rooms, Machine { threads: Some(4), ..Machine::default() }, &()).unwrap_err();
        assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::NonFinite, Some("b")));
    }
}
