//! A job of a plan: which bytes to read, what to compute of them, where the result goes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Place, Plan, Segment, Work};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{Operand, Tally, Twin};

/// One piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub(super) plan: &'a Plan,
    pub(super) segment: &'a Segment,
    pub(super) first: u64,
    pub(super) count: u64,
}

/// A byte range of an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which input.
    pub input: usize,
    /// Which of its files.
    pub file: usize,
    /// Bytes of that file.
    pub range: Range<u64>,
}

/// A byte range of an output file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which of [`Plan::outputs`].
    pub file: usize,
    /// Bytes of that file.
    pub range: Range<u64>,
}

impl Job<'_> {
    /// What must be read, one range per operand, in order. Inputs of weight zero are not among them.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = Read> + '_ {
        (0..self.segment.operands.len()).map(|i| self.read(i))
    }

    /// One of [`Job::reads`].
    pub(crate) fn read(&self, i: usize) -> Read {
        let place = &self.segment.operands[i];
        let size = place.size as u64;
        let start = place.start + self.first * size;
        Read { input: place.input, file: place.file, range: start..start + self.count * size }
    }

    /// What each of [`Job::reads`] holds.
    pub(crate) fn floats(&self) -> impl Iterator<Item = Float> + '_ {
        let float = |place: &Place| place.float.expect("plan() gives each operand of a sum its dtype");
        self.segment.operands.iter().map(float)
    }

    /// Whether it is computed in f64.
    pub(crate) fn is_f64(&self) -> bool {
        let is_wide = |place: &Place| place.float == Some(Float::F64);
        matches!(self.segment.work, Work::Elements(_, Float::F64))
            || self.segment.operands.iter().any(is_wide)
    }

    /// How many elements it has.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Where the result goes.
    #[must_use]
    pub fn write(&self) -> Write {
        let size = self.segment.work.bytes() as u64;
        let start = self.segment.start + self.first * size;
        Write { file: self.segment.output, range: start..start + self.count * size }
    }

    /// Compute: `inputs` are the bytes of [`Job::reads`] in order, `out` those of [`Job::write`].
    ///
    /// Always inlined; see [`crate::kernel::weighted_sum`].
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`], [`ErrorKind::Overflow`] or [`ErrorKind::Differs`], naming the tensor and the input.
    ///
    /// # Panics
    /// If the slices do not have the lengths promised by `reads` and `write`.
    #[cfg_attr(test, inline(never))]
    #[cfg_attr(not(test), inline(always))]
    pub fn run(&self, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
        self.run_by(false, inputs, out)
    }

    /// [`Job::run`] by the reference kernel: slow and obvious, the same bytes. Tests hold everything else against it.
    ///
    /// # Errors
    /// As [`Job::run`].
    ///
    /// # Panics
    /// As [`Job::run`].
    pub fn run_reference(&self, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
        self.run_by(true, inputs, out)
    }

    /// The kernel is called by name: passed as a function it would not be inlined into the caller's instruction set.
    #[inline(always)]
    fn run_by(&self, is_reference: bool, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
        assert_eq!(inputs.len(), self.segment.operands.len(), "one slice per read");
        let Work::Elements(kernel, dtype) = self.segment.work else {
            self.copy(inputs, out)?;
            return Ok(Tally::default());
        };
        let operands: Vec<_> = self.operands(inputs).collect();
        let tally = if is_reference {
            kernel.run_reference(&operands, dtype, out)
        } else {
            kernel.run(&operands, dtype, out)
        };
        if self.accepts(tally) { Ok(tally) } else { Err(self.explain_non_finite(&operands, dtype, out)) }
    }

    /// The weighted sum that it is: dtype of the result, dtype and weight of each operand.
    #[must_use]
    pub fn sum(&self) -> Option<(Float, impl ExactSizeIterator<Item = (Float, f64)> + '_)> {
        self.twin()
            .filter(|(twin, ..)| *twin == Twin::WeightedSum)
            .map(|(_, dtype, operands)| (dtype, operands))
    }

    /// What a GPU may compute: the kernel, the dtype of the result, dtype and weight of each operand. `None` for what is the CPU's:
    /// operands that are compared and copied, and kernels without a twin.
    #[must_use]
    pub fn twin(&self) -> Option<(Twin, Float, impl ExactSizeIterator<Item = (Float, f64)> + '_)> {
        let Work::Elements(kernel, dtype) = self.segment.work else { return None };
        let float = |place: &Place| place.float.expect("plan() gives each operand of a sum its dtype");
        let operands = self.segment.operands.iter().map(move |place| (float(place), place.weight));
        Some((kernel.twin()?, dtype, operands))
    }

    /// Whether results with this tally may be written. If not, [`Job::run`] on the same bytes says why.
    #[must_use]
    pub fn accepts(&self, tally: Tally) -> bool {
        tally.non_finite == 0 || self.plan.allow_non_finite
    }

    /// Why results are not accepted: `out` are those of these inputs.
    pub(crate) fn refused(&self, inputs: &[&[u8]], out: &[u8]) -> Error {
        let Work::Elements(_, dtype) = self.segment.work else { unreachable!("only sums are tallied") };
        self.explain_non_finite(&self.operands(inputs).collect::<Vec<_>>(), dtype, out)
    }

    #[inline(always)]
    fn operands<'b>(&'b self, inputs: &'b [&'b [u8]]) -> impl Iterator<Item = Operand<'b>> {
        self.segment.operands.iter().zip(inputs).map(|(place, bytes)| Operand {
            dtype: place.float.expect("plan() gives each operand of a sum its dtype"),
            bytes,
            weight: place.weight,
        })
    }

    fn copy(&self, inputs: &[&[u8]], out: &mut [u8]) -> Result<()> {
        let places = &self.segment.operands;
        for (place, bytes) in places.iter().zip(inputs).skip(1) {
            if let Some(at) = inputs[0].iter().zip(*bytes).position(|(a, b)| a != b) {
                let element = at / self.segment.work.bytes();
                let other = &self.plan.names[places[0].input];
                let detail = format!("is copied, never averaged, but differs from {other}");
                let error = self.at(ErrorKind::Differs, place.input, element, detail);
                let advice = error.at_tensor().and_then(|tensor| self.plan.identical.get(tensor));
                return Err(error.help(advice.map(String::from).unwrap_or_else(|| {
                    "integer and frozen tensors must be the same in every input; merge checkpoints of one run".into()
                })));
            }
        }
        out.copy_from_slice(inputs[0]);
        Ok(())
    }

    /// Find the first bad element and say whether an input brought it or the sum made it.
    #[cold]
    #[inline(never)]
    fn explain_non_finite(&self, operands: &[Operand<'_>], dtype: Float, out: &[u8]) -> Error {
        let size = dtype.bytes();
        let is_bad = |float: Float, word: &[u8]| !float.value(word).is_finite();
        let holds_bad = |operand: &Operand<'_>, element: usize| {
            let size = operand.dtype.bytes();
            is_bad(operand.dtype, &operand.bytes[element * size..(element + 1) * size])
        };
        // a middle value may be good where an input's is not
        let mut all = (0..).zip(out.chunks_exact(size));
        let found = all.find(|(element, word)| {
            is_bad(dtype, word) || operands.iter().any(|operand| holds_bad(operand, *element))
        });
        let (element, _) = found.expect("the tally counted one");
        for (place, operand) in self.segment.operands.iter().zip(operands) {
            if holds_bad(operand, element) {
                let detail = format!("holds {}", operand.value(element));
                return self
                    .at(ErrorKind::NonFinite, place.input, element, detail)
                    .help("the run has diverged there: leave that checkpoint out (--drop-bad does)");
            }
        }
        let newest = self.plan.names.len() - 1;
        self.at(
            ErrorKind::Overflow,
            newest,
            element,
            format!("has a merged value too large for {}", dtype.dtype()),
        )
        .help("ask for a wider dtype: --dtype f32 or bf16")
    }

    /// An error at an element of this job, with the tensor's name and the element's place in it.
    pub(crate) fn at(&self, kind: ErrorKind, input: usize, element: usize, detail: String) -> Error {
        let size = self.segment.work.bytes() as u64;
        let offset = self.write().range.start + element as u64 * size;
        let tensor = self.plan.outputs[self.segment.output].header.tensor_at(offset);
        let error = Error::new(
            kind,
            match tensor {
                Some(tensor) => format!("{detail}, at element {}", (offset - tensor.range.start) / size),
                None => detail,
            },
        );
        let error = error.file(&*self.plan.names[input]);
        if let Some(tensor) = tensor { error.tensor(&*tensor.name) } else { error }
    }
}
