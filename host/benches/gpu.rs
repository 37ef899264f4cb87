//! GB/s of the weighted sum and the median on each GPU, beside copies of the same bytes on it, to it and from it.
//!
//! Bytes are those read and written: eight inputs and one output; a copy reads half of its bytes and writes the other
//! half. Every answer is checked against the reference before it is timed.

use std::time::Instant;

use mwa::Float;
use mwa::kernel::{Operand, Twin};
use mwa_host::gpu::{Device, Layout, Slot, adapters};
use pollster::block_on;
use wgpu::BufferUsages as Usage;

const INPUTS: u64 = 8;
/// Of each input, if the device takes that much: far more than any cache.
const INPUT_BYTES: u64 = 64 << 20;
/// Elements that are checked; the reference is slow.
const CHECKED: usize = 100_000;
const REPEATS: u32 = 20;
/// Seconds before each measurement.
const WARM_UP: f64 = 0.3;
const PAIRS: [(Float, Float); 6] = [
    (Float::BF16, Float::BF16),
    (Float::F16, Float::F16),
    (Float::F32, Float::F32),
    (Float::F8E4M3, Float::F8E4M3),
    (Float::F8E5M2, Float::F8E5M2),
    (Float::BF16, Float::F32),
];

fn main() {
    let adapters = block_on(adapters());
    if adapters.is_empty() {
        println!("there is no GPU");
    }
    for adapter in adapters {
        let start = Instant::now();
        match block_on(adapter.open(None)) {
            Ok(device) => {
                println!("{}, opened in {:.3} s", adapter.name(), start.elapsed().as_secs_f64());
                measure(&device);
                core::mem::forget(device); // NVIDIA's driver was seen to crash when a device is closed
            }
            Err(error) => println!("{error}"),
        }
    }
}

fn measure(device: &Device) {
    let bytes = INPUT_BYTES.min(device.max_buffer() / (2 * INPUTS)) / 4096 * 4096;
    for (from, to) in PAIRS {
        let speed = speed(device, Twin::WeightedSum, bytes, from, to);
        println!("  {speed:>7.1} GB/s  sum {} to {}", from.dtype(), to.dtype());
    }
    for from in [Float::BF16, Float::F32] {
        let speed = speed(device, Twin::Middle(3), bytes, from, from);
        println!("  {speed:>7.1} GB/s  median {} to {}", from.dtype(), from.dtype());
    }
    let total = bytes * INPUTS;
    let (source, target) = (Usage::COPY_SRC, Usage::COPY_DST);
    for (name, from, to) in [
        ("copy on the device", source | Usage::STORAGE, target | Usage::STORAGE),
        ("copy to the device (bytes once)", source | Usage::MAP_WRITE, target | Usage::STORAGE),
        ("copy from the device (bytes once)", source | Usage::STORAGE, target | Usage::MAP_READ),
    ] {
        let times = if name.starts_with("copy on") { 2.0 } else { 1.0 };
        println!("  {:>7.1} GB/s  {name}", times * copy(device, total, from, to));
    }
    println!("  {:>7.1} GB/s  copy on the device by a kernel", 2.0 * copy_by_kernel(device, total));
}

fn speed(device: &Device, twin: Twin, bytes: u64, from: Float, to: Float) -> f64 {
    let elements = bytes / from.bytes() as u64 / if to.bytes() > from.bytes() { 2 } else { 1 };
    let weight = |k| 0.03 + 0.02 * k as f64;
    let layout = Layout::new(twin, (0..INPUTS).map(|k| (from, weight(k))), to, elements)
        .expect("the dtypes are the kernel's");
    let slot = Slot::new(device, layout.input_bytes(), layout.output_bytes(), 1);
    let inputs: Vec<_> = (0..INPUTS).map(|k| noise(from, elements, k)).collect();
    for (k, input) in inputs.iter().enumerate() {
        slot.write(device, &layout, k, 0, input).expect("the device is fine");
    }
    let kernel = device.kernel_of(&layout);
    block_on(slot.run(device, core::slice::from_ref(&layout))).expect("the device is fine");
    let operands = inputs.iter().enumerate().map(|(k, input)| Operand {
        dtype: from,
        bytes: &input[..CHECKED * from.bytes()],
        weight: weight(k as u64),
    });
    let mut truth = vec![0; CHECKED * to.bytes()];
    twin.reference(&operands.collect::<Vec<_>>(), to, &mut truth);
    let same = slot.read(device, 0..truth.len() as u64, |bytes| bytes == truth).expect("the device is fine");
    assert!(same, "{from:?} to {to:?} differs from the reference");
    slot.recycle();
    let moved = elements * (INPUTS * from.bytes() as u64 + to.bytes() as u64);
    moved as f64 / seconds(device, |commands| slot.dispatch(commands, &kernel, &layout)) / 1e9
}

fn copy(device: &Device, bytes: u64, from: Usage, to: Usage) -> f64 {
    let (from, to) = (buffer(device, bytes, from), buffer(device, bytes, to));
    bytes as f64 / seconds(device, |commands| commands.copy_buffer_to_buffer(&from, 0, &to, 0, bytes)) / 1e9
}

/// What a kernel can move at most: 16 bytes an invocation, nothing computed.
fn copy_by_kernel(device: &Device, bytes: u64) -> f64 {
    const WGSL: &str = "
        @group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
        @group(0) @binding(1) var<storage, read_write> copy: array<vec4<u32>>;
        @compute @workgroup_size(256)
        fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>) {
            let i = id.y * count.x * 256u + id.x;
            if i < arrayLength(&copy) { copy[i] = source[i]; }
        }";
    let (gpu, _) = device.wgpu();
    let source = wgpu::ShaderSource::Wgsl(WGSL.into());
    let module = gpu.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let (from, to) = (buffer(device, bytes, Usage::STORAGE), buffer(device, bytes, Usage::STORAGE));
    let entry =
        |binding, buffer| wgpu::BindGroupEntry { binding, resource: wgpu::Buffer::as_entire_binding(buffer) };
    let bind_group = gpu.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[entry(0, &from), entry(1, &to)],
    });
    let workgroups = u32::try_from(bytes.div_ceil(16 * 256)).expect("inputs are at most 512 MiB");
    let dispatch = |commands: &mut wgpu::CommandEncoder| {
        let mut pass = commands.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(workgroups.min(1 << 15), workgroups.div_ceil(1 << 15), 1);
    };
    bytes as f64 / seconds(device, dispatch) / 1e9
}

fn buffer(device: &Device, size: u64, usage: Usage) -> wgpu::Buffer {
    device.wgpu().0.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// Seconds that the device takes for something, the best of five rounds.
fn seconds(device: &Device, encode: impl Fn(&mut wgpu::CommandEncoder)) -> f64 {
    let (gpu, queue) = device.wgpu();
    let round = |repeats: u32| {
        let mut commands = gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        (0..repeats).for_each(|_| encode(&mut commands));
        let commands = commands.finish();
        let start = Instant::now();
        queue.submit([commands]);
        gpu.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
        start.elapsed().as_secs_f64()
    };
    // clocks go down while a device has nothing to do
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < WARM_UP {
        round(REPEATS);
    }
    device.check().expect("the device is fine");
    // the difference leaves out what a submission costs
    let best = |repeats| (0..5).map(|_| round(repeats)).fold(f64::INFINITY, f64::min);
    let (few, many) = (best(1), best(1 + REPEATS));
    (many - few) / f64::from(REPEATS)
}

/// Random numbers of either sign around 2⁻⁶, as weights are: the exponent, in the last byte, is nearly always the same.
fn noise(float: Float, elements: u64, seed: u64) -> Vec<u8> {
    let (mantissa, exponent) = match float {
        Float::F8E4M3 => (0x07, 0x18),
        Float::F8E5M2 => (0x03, 0x2c),
        Float::F16 => (0x03, 0x24),
        Float::BF16 | Float::F32 | Float::F64 => (0x00, 0x3c),
    };
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let len = usize::try_from(elements).expect("fits") * float.bytes();
    let mut bytes: Vec<_> = (0..len).map(|_| word()).collect();
    for byte in bytes.iter_mut().skip(float.bytes() - 1).step_by(float.bytes()) {
        *byte = (*byte & (0x80 | mantissa)) | exponent;
    }
    bytes
}
