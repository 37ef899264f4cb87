//! The buffers of one job in flight on a GPU, and the commands that run it.

use core::future::Future;
use core::ops::Range;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::sync::{Arc, Mutex};

use mwa::Result;
use mwa::kernel::Tally;
use wgpu::BufferUsages as Usage;

use crate::device::{Device, Kernel, lock};
use crate::layout::{ALIGN, COUNTERS, HEAD, Layout, MAP_ALIGN};
use crate::{failed, or_failed};

/// The buffers of one job in flight: a sum, or several of the same operands.
#[derive(Debug)]
pub struct Slot {
    /// written by the host: head and operands, and heads of further sums
    pub(crate) staging: wgpu::Buffer,
    job: wgpu::Buffer,
    inputs: wgpu::Buffer,
    out: wgpu::Buffer,
    /// read by the host: counters and results of each sum
    pub(crate) readback: wgpu::Buffer,
    /// bytes from one sum's in it to the next one's
    stride: u64,
    /// where in `staging` the heads of further sums begin
    heads: u64,
    bind_group: wgpu::BindGroup,
}

impl Slot {
    /// Buffers for jobs of at most this many bytes of [`Layout::input_bytes`] and [`Layout::output_bytes`], and of at most so
    /// many `sums`, ready to be written. A device without the memory for them has failed from then on.
    #[must_use]
    pub fn new(device: &Device, input: u64, output: u64, sums: u64) -> Self {
        let (heads, stride) = (input.next_multiple_of(ALIGN), output.next_multiple_of(ALIGN));
        let buffer = |label, size: u64, usage, mapped_at_creation| {
            let size = size.next_multiple_of(ALIGN);
            device.wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation,
            })
        };
        let staging = buffer("staging", heads + (sums - 1) * HEAD, Usage::MAP_WRITE | Usage::COPY_SRC, true);
        let job = buffer("job", HEAD, Usage::UNIFORM | Usage::COPY_DST, false);
        let inputs = buffer("inputs", input - HEAD, Usage::STORAGE | Usage::COPY_DST, false);
        let out = buffer("out", output, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST, false);
        let readback = buffer("readback", sums * stride, Usage::MAP_READ | Usage::COPY_DST, false);
        let entry = |binding, buffer| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::Buffer::as_entire_binding(buffer),
        };
        let bind_group = device.wgpu.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &device.bind_group_layout,
            entries: &[entry(0, &job), entry(1, &inputs), entry(2, &out)],
        });
        Self { staging, job, inputs, out, readback, stride, heads, bind_group }
    }

    /// Bytes of host and device memory that such buffers take.
    #[must_use]
    pub const fn bytes(input: u64, output: u64, sums: u64) -> u64 {
        sums * HEAD + 2 * input + (1 + sums) * output
    }

    /// Put bytes of operand `k` of a job, from byte `offset` of it on, a multiple of 8. Several threads may do so at
    /// once, for different bytes.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub fn write(&self, device: &Device, layout: &Layout, k: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(device, layout.start(k) + offset, bytes)
    }

    fn write_at(&self, device: &Device, start: u64, bytes: &[u8]) -> Result<()> {
        let range = start..start + (bytes.len() as u64).next_multiple_of(MAP_ALIGN);
        let view = self.staging.get_mapped_range_mut(range);
        or_failed(device.name(), view)?.slice(..bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    /// Compute the sums of the job whose operands were written; `done` hears when the results can be read and the next job
    /// written.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed; then `done` hears nothing.
    pub fn submit(
        &self,
        device: &Device,
        sums: &[Layout],
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        let head_of = |at: usize| if at == 0 { 0 } else { self.heads + (at as u64 - 1) * HEAD };
        let heads: Vec<_> = sums.iter().map(Layout::head).collect();
        for (at, head) in heads.iter().enumerate() {
            self.write_at(device, head_of(at), head)?;
        }
        self.staging.unmap();
        let mut commands = device.wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let input = sums.iter().map(Layout::input_bytes).max().unwrap_or(HEAD);
        commands.copy_buffer_to_buffer(&self.staging, HEAD, &self.inputs, 0, input - HEAD);
        for (at, (layout, head)) in sums.iter().zip(&heads).enumerate() {
            commands.copy_buffer_to_buffer(&self.staging, head_of(at), &self.job, 0, head.len() as u64);
            commands.clear_buffer(&self.out, 0, Some(COUNTERS));
            self.dispatch(&mut commands, &device.kernel_of(layout), layout);
            let start = at as u64 * self.stride;
            commands.copy_buffer_to_buffer(&self.out, 0, &self.readback, start, layout.output_bytes());
        }
        let map = [(&self.readback, wgpu::MapMode::Read), (&self.staging, wgpu::MapMode::Write)];
        device.submit(commands.finish(), map, done);
        Ok(())
    }

    /// Encode the computation alone, over operands that are on the device.
    pub fn dispatch(&self, commands: &mut wgpu::CommandEncoder, kernel: &Kernel, layout: &Layout) {
        let mut pass = commands.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&kernel.0);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(layout.workgroups(), 1, 1);
    }

    /// [`Slot::submit`] for those who await.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub async fn run(&self, device: &Device, sums: &[Layout]) -> Result<()> {
        let (signal, answer) = oneshot();
        self.submit(device, sums, signal)?;
        answer.await
    }

    /// What the finished job noticed in sum `at`.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the kernel did not run to its end, whatever the device says.
    pub fn tally(&self, device: &Device, layout: &Layout, at: usize) -> Result<Tally> {
        let start = at as u64 * self.stride;
        let counters = or_failed(device.name(), self.readback.get_mapped_range(start..start + COUNTERS))?;
        let counter = |i| counters.as_chunks::<4>().0.get(i).map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let (made, wanted) = (counter(2), layout.workgroups());
        if made != wanted {
            return Err(failed(device.name(), format!("only {made} of {wanted} workgroups ran")));
        }
        Ok(Tally { non_finite: counter(0).into(), underflowed: counter(1).into() })
    }

    /// Bytes of the finished job's result of sum `at`; `range` begins at a multiple of 8. There may be several views at once, of
    /// different bytes, and none any more when the slot is recycled.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub fn view(&self, device: &Device, at: usize, range: Range<u64>) -> Result<View> {
        let len = usize::try_from(range.end - range.start)
            .expect("results are mapped, so they fit the address space");
        let start = at as u64 * self.stride + COUNTERS + range.start;
        let mapped = start..start + (len as u64).next_multiple_of(MAP_ALIGN);
        let view = or_failed(device.name(), self.readback.get_mapped_range(mapped))?;
        Ok(View { view, len })
    }

    /// Look at bytes of the finished job's first result, as [`Slot::view`] shows them.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub fn read<T>(&self, device: &Device, range: Range<u64>, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        Ok(look(self.view(device, 0, range)?.as_ref()))
    }

    /// Be done with the result, so that the slot takes the next job.
    pub fn recycle(&self) {
        self.readback.unmap();
    }
}

/// Bytes of a result, where the device put them.
#[derive(Debug)]
pub struct View {
    view: wgpu::BufferView,
    len: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        &self.view[..self.len]
    }
}

/// A callback, and a future that resolves once it was called.
fn oneshot() -> (impl FnOnce(Result<()>) + Send + 'static, Answer) {
    let shared = Shared::default();
    let answer = Answer(Arc::clone(&shared));
    let signal = move |result| {
        let mut shared = lock(&shared);
        shared.0 = Some(result);
        if let Some(waker) = shared.1.take() {
            waker.wake();
        }
    };
    (signal, answer)
}

struct Answer(Shared);

/// The answer once it is there, and who waits for it.
type Shared = Arc<Mutex<(Option<Result<()>>, Option<Waker>)>>;

impl Future for Answer {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut shared = lock(&self.0);
        match shared.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
