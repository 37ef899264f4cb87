//! Where the bytes of one job lie in the buffers of a GPU.

use mwa::Float;
use mwa::kernel::{ELEMENTS_PER_INVOCATION, MAX_OPERANDS, Twin, WORKGROUP, wgsl_dtype};

/// Bytes of the uniform buffer: `Job` in element.wgsl.
pub(crate) const HEAD: u64 = 16 + 16 * MAX_OPERANDS as u64;
/// Bytes before the results: the counters of `Out`.
pub(crate) const COUNTERS: u64 = 16;
/// The code of operands that do not share a dtype.
pub(crate) const MIXED: u32 = 5;
/// Bytes to which operands are aligned, as the kernel reads that many at once.
pub(crate) const ALIGN: u64 = 16;
/// Bytes to which mapped ranges are aligned (WebGPU's rule).
pub(crate) const MAP_ALIGN: u64 = 8;

/// The name of a kernel, and the codes of the dtypes, operands' and result's, that it is compiled for.
pub(crate) type Key = (&'static str, u32, u32);

/// Where the operands of one job lie in a [`Slot`](crate::Slot).
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    twin: Twin,
    /// Code of the operands' dtype.
    input: u32,
    output: Float,
    elements: u32,
    operands: Vec<Place>,
    /// Bytes of staging used.
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    /// bytes from the beginning of staging
    start: u64,
    dtype: u32,
    weight: f32,
}

impl Layout {
    /// Lay out what `twin` makes of `elements` elements of operands, a dtype and a weight each, into `output`; `None` if it is
    /// what it cannot do: in F64, or of more operands or elements than one dispatch takes.
    #[must_use]
    pub fn new(
        twin: Twin,
        operands: impl Iterator<Item = (Float, f64)>,
        output: Float,
        elements: u64,
    ) -> Option<Self> {
        wgsl_dtype(output)?;
        let operands: Vec<_> = operands.collect();
        let count = operands.len();
        let mut end = HEAD;
        let mut places = Vec::with_capacity(count);
        for (dtype, weight) in operands {
            places.push(Place { start: end, dtype: wgsl_dtype(dtype)?, weight: twin.factor(count, weight) });
            // whole invocations are read, beyond the last element too
            let read = elements.next_multiple_of(ELEMENTS_PER_INVOCATION.into()) * dtype.bytes() as u64;
            end += read.next_multiple_of(ALIGN);
        }
        let input = common(&places)?;
        let most = u64::from(ELEMENTS_PER_INVOCATION * WORKGROUP) * 65_535;
        let fits = twin.takes(count) && elements > 0 && elements <= most;
        let elements = u32::try_from(elements).ok().filter(|_| fits)?;
        Some(Self { twin, input, output, elements, operands: places, end })
    }

    /// The same of some of the operands, with weights of their own, where they lie.
    #[must_use]
    pub fn of(&self, operands: impl Iterator<Item = (usize, f64)>) -> Option<Self> {
        let operands: Vec<_> = operands.collect();
        let factor = |weight| self.twin.factor(operands.len(), weight);
        let place = |&(k, weight): &(usize, f64)| Place { weight: factor(weight), ..self.operands[k] };
        let operands: Vec<_> = operands.iter().map(place).collect();
        let input = common(&operands)?;
        Some(Self { input, operands, ..*self })
    }

    /// Bytes of a slot's input that it needs.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.end
    }

    /// Bytes of a slot's output that it needs.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        let elements = u64::from(self.elements).next_multiple_of(ELEMENTS_PER_INVOCATION.into());
        COUNTERS + elements * self.output.bytes() as u64
    }

    /// Elements of the result, and of each operand.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements.into()
    }

    /// Bytes of the result.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn result_bytes(&self) -> u64 {
        self.elements() * self.output.bytes() as u64
    }

    /// Where operand `k` begins in staging.
    pub(crate) fn start(&self, k: usize) -> u64 {
        self.operands[k].start
    }

    /// The kernel that computes it.
    #[must_use]
    pub fn twin(&self) -> Twin {
        self.twin
    }

    /// What tells its compiled kernel from others.
    pub(crate) fn key(&self) -> Key {
        (self.twin.name(), self.input, wgsl_dtype(self.output).expect("new() refuses F64"))
    }

    pub(crate) fn workgroups(&self) -> u32 {
        self.elements.div_ceil(ELEMENTS_PER_INVOCATION * WORKGROUP)
    }

    /// The uniform buffer's bytes, as far as they are used.
    pub(crate) fn head(&self) -> Vec<u8> {
        let count = u32::try_from(self.operands.len()).expect("new() refuses more than MAX_OPERANDS");
        let mut head: Vec<u8> =
            [0, self.elements, count, self.twin.cut()].iter().flat_map(|word| word.to_le_bytes()).collect();
        for place in &self.operands {
            let start = u32::try_from((place.start - HEAD) / ALIGN)
                .expect("buffers are at most 2^32 units of 16 bytes");
            let words = [start, place.weight.to_bits(), place.dtype, 0];
            head.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        head
    }
}

/// The code of the dtypes of operands, if there are any.
fn common(operands: &[Place]) -> Option<u32> {
    let dtype = operands.first()?.dtype;
    Some(if operands.iter().all(|place| place.dtype == dtype) { dtype } else { MIXED })
}
