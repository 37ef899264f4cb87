//! WebGPU for the web package: opens a device, proves that it gives the core's bytes, and runs jobs on it.
//!
//! JavaScript reads, and decides which job comes here; `wasm/web/js/gpu-desk.ts` is the only caller.

#![cfg(target_arch = "wasm32")]

use core::cell::RefCell;
use core::iter::once;

use js_sys::{Array, Error, Uint8Array};
use mwa::Float;
use mwa::kernel::{Twin, wgsl_dtype};
use mwa_gpu::{Device, Layout, Slot, adapters, probe};
use wasm_bindgen::prelude::*;

/// An open device, and buffers of jobs that are done.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Gpu {
    device: Device,
    emulated: bool,
    free: RefCell<Vec<Buffers>>,
}

/// Buffers of a job, and what they hold.
#[derive(Debug)]
struct Buffers {
    slot: Slot,
    input: u64,
    output: u64,
}

/// Open the browser's GPU.
///
/// # Errors
/// Why there is none.
#[wasm_bindgen]
pub async fn open() -> Result<Gpu, JsValue> {
    let adapters = adapters().await;
    let adapter =
        adapters.first().ok_or_else(|| Error::new("gpu: the browser has WebGPU, but no device for it"))?;
    let device = adapter.open(None).await.map_err(fail)?;
    Ok(Gpu { device, emulated: adapter.is_cpu(), free: RefCell::default() })
}

#[wasm_bindgen]
impl Gpu {
    /// Whether it is a program on the CPU: correct, and slower than the CPU itself.
    #[must_use]
    pub fn emulated(&self) -> bool {
        self.emulated
    }

    /// Prove that the kernel for a sum, as the core's `Merge.sum` describes it, gives the core's bytes.
    ///
    /// # Errors
    /// How it differs, or how the device failed.
    pub async fn probe(&self, sum: Vec<f64>) -> Result<(), JsValue> {
        let Some(layout) = layout(&sum) else { return Ok(()) };
        probe(&self.device, once(&layout)).await.map_err(fail)
    }

    /// Run a sum: the bytes of its result, how many of its values are not finite, and how many underflowed. `null` if
    /// it is too large for the device.
    ///
    /// # Errors
    /// How the device failed.
    pub async fn run(&self, sum: Vec<f64>, inputs: Array) -> Result<JsValue, JsValue> {
        let Some(layout) = layout(&sum) else { return Ok(JsValue::NULL) };
        if layout.input_bytes().max(layout.output_bytes()) > self.device.max_buffer() {
            return Ok(JsValue::NULL);
        }
        let buffers = self.take(&layout);
        let (device, slot) = (&self.device, &buffers.slot);
        for (k, input) in inputs.iter().enumerate() {
            slot.write_array(device, &layout, k, input.unchecked_ref()).map_err(fail)?;
        }
        slot.run(device, core::slice::from_ref(&layout)).await.map_err(fail)?;
        let tally = slot.tally(device, &layout, 0).map_err(fail)?;
        let bytes: Uint8Array = slot.read_array(device, &layout).map_err(fail)?;
        slot.recycle();
        self.free.borrow_mut().push(buffers);
        #[expect(clippy::cast_precision_loss, reason = "a job has fewer than 2^53 elements")]
        let counts = [tally.non_finite as f64, tally.underflowed as f64].map(JsValue::from);
        Ok(Array::of3(&bytes, &counts[0], &counts[1]).into())
    }

    /// Free the buffers that are kept for the next job.
    pub fn rest(&self) {
        self.free.borrow_mut().clear();
    }
}

impl Gpu {
    /// Buffers for a job: kept ones, or new ones in their place if they are too small.
    fn take(&self, layout: &Layout) -> Buffers {
        let (input, output) = (layout.input_bytes(), layout.output_bytes());
        match self.free.borrow_mut().pop() {
            Some(kept) if kept.input >= input && kept.output >= output => kept,
            _ => Buffers { slot: Slot::new(&self.device, input, output, 1), input, output },
        }
    }
}

/// The layout of what the core's `Merge.sum` describes.
fn layout(sum: &[f64]) -> Option<Layout> {
    let (&[kernel, output, elements], operands) = sum.split_first_chunk()?;
    let operands: Option<Vec<_>> =
        operands.chunks_exact(2).map(|pair| Some((float(pair[0])?, pair[1]))).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
    let (kernel, elements) = (kernel as u32, elements as u64);
    let twin = kernel.checked_sub(1).map_or(Twin::WeightedSum, Twin::Middle);
    Layout::new(twin, operands?.into_iter(), float(output)?, elements)
}

/// The inverse of [`wgsl_dtype`].
fn float(code: f64) -> Option<Float> {
    const FLOATS: [Float; 5] = [Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];
    FLOATS.into_iter().find(|float| wgsl_dtype(*float).map(f64::from) == Some(code))
}

fn fail(error: mwa::Error) -> JsValue {
    Error::new(&error.to_string()).into()
}
