//! Merge tensors that lie in memory, straight from their place to that of the result.
//!
//! ```
//! use mwa::{Dtype, MergeOptions};
//! use mwa_host::Machine;
//! use mwa_host::memory::{InMemory, Input, Tensor};
//! let input = |name: &str, bytes| {
//!     let tensor = Tensor { name: "w".into(), dtype: Dtype::F32, shape: vec![1], bytes };
//!     Input { name: name.into(), config: None, tensors: vec![tensor] }
//! };
//! let (one, three) = (1f32.to_le_bytes(), 3f32.to_le_bytes());
//! let inputs = vec![input("a", &one), input("b", &three)];
//! let mut merge = InMemory::new(inputs, &[1.0, 1.0], MergeOptions::default(), Machine::default(), &())?;
//! let mut out = [0; 4];
//! merge.run(vec![&mut out], &())?;
//! assert_eq!(f32::from_le_bytes(out), 2.0);
//! # Ok::<(), mwa::Error>(())
//! ```

use core::ops::Range;
use std::collections::BTreeMap;

use mwa::merge::{Bytes, Chosen, Cut, Findings, Merge, MergeOptions, Next};
use mwa::safetensors::{self, Header, TextMap};
use mwa::{AdapterConfig, Dtype, Error, ErrorKind, Result, Shard, Write};

use crate::engine::jobs::{bytes, joined};
use crate::engine::pool::share;
use crate::engine::simd::InstructionSet;
use crate::options::Machine;
use crate::progress::{Progress, Quiet};

/// One input.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// How messages call it.
    pub name: String,
    /// Its adapter config, if it is an adapter; product space needs one.
    pub config: Option<AdapterConfig>,
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
    merge: Merge,
    sources: Vec<Source<'a>>,
    machine: Machine,
    /// What is still to be done.
    next: Next,
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
    /// Check the inputs against each other, with the caller's weights, one per input; in product space this may take as
    /// long as merging.
    ///
    /// # Errors
    /// As [`Merge::new`] and [`Merge::next`], and [`ErrorKind::Shape`] when a tensor has not as many bytes as its shape and
    /// dtype need.
    pub fn new(
        inputs: Vec<Input<'a>>,
        weights: &[f64],
        options: MergeOptions,
        machine: Machine,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if options.shard_size.is_some() {
            let detail = "option shard_size parts files, and tensors in memory are in none";
            return Err(Error::new(ErrorKind::Usage, detail).help("leave it out"));
        }
        let mut heads = Vec::with_capacity(inputs.len());
        let mut configs = Vec::with_capacity(inputs.len());
        let mut sources = Vec::with_capacity(inputs.len());
        for input in inputs {
            let source = Source::new(&input.tensors).map_err(|error| error.file(&*input.name))?;
            let shard = Shard { name: input.name.clone(), header: source.header.clone() };
            heads.push(mwa::Input { name: input.name, files: vec![shard] });
            configs.push(input.config);
            sources.push(source);
        }
        // there are no files that could be copied
        let options = MergeOptions { rewrite: true, ..options };
        let cut = Cut { max_bytes: JOB_BYTES, by_tensor: true };
        let mut merge = Merge::new(Chosen::explicit(heads, configs, weights)?, options, cut)?;
        let mut next = merge.next()?;
        while let Next::Jobs(numbers) = &next
            && merge.job(numbers.start).writes().len() == 0
        {
            let found = run(&merge, &sources, numbers.clone(), Vec::new(), machine, &Quiet(progress))?;
            merge.take(found)?;
            next = merge.next()?;
        }
        Ok(Self { merge, sources, machine, next })
    }

    /// The tensors of the result, in the order in which [`InMemory::run`] wants room for them.
    #[must_use]
    pub fn outputs(&self) -> &[safetensors::Tensor] {
        self.merge.outputs()[0].header.tensors()
    }

    /// Merge into `outputs`, the bytes of each of [`InMemory::outputs`]; once.
    ///
    /// # Errors
    /// As [`mwa::merge::Job::run`] and [`Merge::next`], and [`ErrorKind::Stopped`]; the outputs then hold anything.
    ///
    /// # Panics
    /// If there is not one output of the right length for each tensor.
    pub fn run(&mut self, outputs: Vec<&mut [u8]>, progress: &dyn Progress) -> Result<()> {
        let lengths = outputs.iter().map(|output| output.len() as u64);
        assert!(lengths.eq(self.outputs().iter().map(safetensors::Tensor::len)), "one room per tensor");
        if let Next::Jobs(numbers) = core::mem::replace(&mut self.next, Next::Done) {
            progress.start(self.merge.bytes());
            let found = run(&self.merge, &self.sources, numbers, outputs, self.machine, progress)?;
            self.merge.take(found)?;
            self.merge.next()?; // whether there was anything to merge
        }
        Ok(())
    }

    /// What the user should be told.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.merge.notes()
    }

    /// The config of the result, if it is an adapter.
    #[must_use]
    pub fn config(&self) -> Option<String> {
        let config = |(name, text): (String, String)| (name == "adapter_config.json").then_some(text);
        self.merge.texts().into_iter().find_map(config)
    }
}

/// Run jobs on threads; `outputs` are the bytes of the tensors that are merged.
fn run(
    merge: &Merge,
    sources: &[Source<'_>],
    numbers: Range<u64>,
    mut outputs: Vec<&mut [u8]>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Findings> {
    let instructions = InstructionSet::widest();
    // each job with the parts of the outputs that it writes; jobs come in the order of each tensor
    let pieces = numbers.map(|number| {
        let job = merge.job(number);
        let rooms: Vec<_> = job.writes().map(|write| room(merge, &mut outputs, &write)).collect();
        (number, rooms)
    });
    let found = share(pieces, machine.threads(), progress, |findings: &mut Findings, number, mut rooms| {
        let job = merge.job(number);
        let inputs: Vec<_> = job.reads().map(|read| sources[read.input].at(&read)).collect();
        findings.add(number, instructions.run(&job, Bytes::Whole(&inputs), &mut rooms)?);
        progress.advance(inputs.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(())
    })?;
    Ok(joined(found))
}

/// The next part of the tensor that `write` lies in.
fn room<'o>(merge: &Merge, outputs: &mut [&'o mut [u8]], write: &Write) -> &'o mut [u8] {
    let tensors = merge.outputs()[write.file].header.tensors();
    let tensor = tensors.partition_point(|tensor| tensor.range.end <= write.range.start);
    let (room, rest) = core::mem::take(&mut outputs[tensor]).split_at_mut(bytes(&write.range));
    outputs[tensor] = rest;
    room
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

#[cfg(test)]
mod tests {
    use mwa::Weights;

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
        Input { name: name.into(), config: None, tensors: tensors.collect() }
    }

    #[test]
    fn any_number_of_threads_gives_what_one_sum_per_tensor_gives() {
        let lengths = [600_014, 0, 2, 6254];
        let data: Vec<Vec<_>> =
            (0..3).map(|seed| lengths.iter().map(|&n| bytes(seed, n)).collect()).collect();
        let inputs = || data.iter().map(|data| input("x", data)).collect();
        let weights = Weights::explicit(&[0.2, 0.3, 0.5]).unwrap();
        for threads in [1, 2, 5] {
            let machine = Machine { threads: Some(threads), ..Machine::default() };
            let mut merge =
                InMemory::new(inputs(), weights.values(), MergeOptions::default(), machine, &()).unwrap();
            let mut out: Vec<Vec<u8>> =
                merge.outputs().iter().map(|it| vec![0; it.len().try_into().unwrap()]).collect();
            merge.run(out.iter_mut().map(Vec::as_mut_slice).collect(), &()).unwrap();
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
        fn merge(data: &[Vec<u8>]) -> Result<InMemory<'_>> {
            let machine = Machine { threads: Some(4), ..Machine::default() };
            InMemory::new(vec![input("x", data)], &[1.0], MergeOptions::default(), machine, &())
        }
        let error = merge(&data).unwrap_err();
        assert_eq!(error.to_string(), "x: tensor `b` holds 6 bytes, but [53, 59] of BF16 are 6254");
        data[3].resize(6254, 0xff);
        data[0][500_000..].fill(0xff);
        let mut merge = merge(&data).unwrap();
        let mut out: Vec<Vec<u8>> =
            merge.outputs().iter().map(|it| vec![0; it.len().try_into().unwrap()]).collect();
        let rooms = out.iter_mut().map(Vec::as_mut_slice).collect();
        let error = merge.run(rooms, &()).unwrap_err();
        assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::NonFinite, Some("b")));
    }

    #[test]
    fn two_runs_are_refused_in_factor_space_and_merged_in_product_space() {
        let noise = |length: u32, seed: u32| -> Vec<u8> {
            let mut state = seed | 1;
            let word = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f32::from(u16::try_from(state >> 16).unwrap()) / 32768.0 - 1.0).to_le_bytes()
            };
            (0..length).flat_map(word).collect()
        };
        let data: Vec<_> = (1..3).map(|seed| [noise(128, 7919 * seed), noise(10, 104_729 * seed)]).collect();
        let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}"#;
        let inputs = || {
            let each = data.iter().enumerate().map(|(i, [a, b])| {
                let tensor = |side: &str, shape: [u64; 2]| Tensor {
                    name: format!("base_model.model.q.lora_{side}.weight"),
                    dtype: Dtype::F32,
                    shape: shape.into(),
                    bytes: &[],
                };
                let tensors = vec![
                    Tensor { bytes: a, ..tensor("A", [2, 64]) },
                    Tensor { bytes: b, ..tensor("B", [5, 2]) },
                ];
                let config = Some(AdapterConfig::parse(config).unwrap());
                Input { name: format!("run {i}"), config, tensors }
            });
            each.collect()
        };
        let new = |options| InMemory::new(inputs(), &[1.0, 1.0], options, Machine::default(), &());
        assert_eq!(new(MergeOptions::default()).unwrap_err().kind(), ErrorKind::CrossRun);
        let options =
            MergeOptions { space: mwa::Space::Product(Some(mwa::Rank::Full)), ..MergeOptions::default() };
        let mut merge = new(options).unwrap();
        let shapes: Vec<_> = merge.outputs().iter().map(|tensor| tensor.shape.clone()).collect();
        assert_eq!(shapes, [[4, 64], [5, 4]]);
        let mut out = [vec![0; 4 * 64 * 4], vec![0; 5 * 4 * 4]];
        merge.run(out.iter_mut().map(Vec::as_mut_slice).collect(), &()).unwrap();
        assert!(out[0][..512] == data[0][0] && out[0][512..] == data[1][0], "the factors of both, stacked");
        assert!(merge.config().unwrap().contains(r#""r": 4"#));
    }
}
