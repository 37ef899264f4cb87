//! Find GPUs and open one; a device that fails once gives errors from then on, never zeros.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use mwa::Result;
use wgpu::{Backends, DeviceType, Limits};

use crate::layout::{HEAD, Key, Layout};
use crate::or_failed;

/// A GPU that could be opened.
#[derive(Clone, Debug)]
pub struct Adapter(wgpu::Adapter);

/// The way to the drivers. It is kept for the process: some drivers crash when they are unloaded before it ends.
static INSTANCE: LazyLock<wgpu::Instance> = LazyLock::new(|| {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: Backends::PRIMARY,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
});

/// All GPUs, the fastest kind first: discrete, integrated, virtual, unknown, and last those that are a CPU in disguise.
pub async fn adapters() -> Vec<Adapter> {
    let instance = &*INSTANCE;
    let mut adapters: Vec<_> =
        instance.enumerate_adapters(Backends::PRIMARY).await.into_iter().map(Adapter).collect();
    adapters.sort_by_key(|adapter| match adapter.0.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}

impl Adapter {
    /// The device's name and the interface it is reached through.
    #[must_use]
    pub fn name(&self) -> String {
        let info = self.0.get_info();
        // browsers keep names to themselves
        match info.name.is_empty() {
            true => info.backend.to_string(),
            false => format!("{} ({})", info.name, info.backend),
        }
    }

    /// `discrete`, `integrated`, `virtual`, `cpu` or `unknown`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.0.get_info().device_type {
            DeviceType::DiscreteGpu => "discrete",
            DeviceType::IntegratedGpu => "integrated",
            DeviceType::VirtualGpu => "virtual",
            DeviceType::Cpu => "cpu",
            DeviceType::Other => "unknown",
        }
    }

    /// The driver and its version.
    #[must_use]
    pub fn driver(&self) -> String {
        let info = self.0.get_info();
        format!("{} {}", info.driver, info.driver_info).trim().to_owned()
    }

    /// Whether it is a program that runs on the CPU, such as llvmpipe: correct, and slower than the CPU itself.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.0.get_info().device_type == DeviceType::Cpu
    }

    /// Open it. No buffer will be larger than `max_buffer` bytes, if given, nor than the device allows.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device cannot be opened.
    pub async fn open(&self, max_buffer: Option<u64>) -> Result<Device> {
        let has = self.0.limits();
        let least = Limits::downlevel_defaults();
        let max_buffer = max_buffer.unwrap_or(u64::MAX);
        let limits = Limits {
            max_buffer_size: has.max_buffer_size.min(max_buffer),
            max_storage_buffer_binding_size: has.max_storage_buffer_binding_size.min(max_buffer),
            ..least
        };
        let max_buffer = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = or_failed(&self.name(), self.0.request_device(&descriptor).await)?;
        Ok(Device::new(self.name(), device, queue, max_buffer))
    }
}

/// A kernel that was compiled for one pair of dtypes.
#[derive(Clone, Debug)]
pub struct Kernel(pub(crate) wgpu::ComputePipeline);

/// An open GPU.
pub struct Device {
    /// What messages call it.
    name: String,
    pub(crate) wgpu: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) bind_group_layout: wgpu::BindGroupLayout,
    pipeline_layout: wgpu::PipelineLayout,
    /// The programs of kernels, by name.
    modules: Mutex<BTreeMap<&'static str, wgpu::ShaderModule>>,
    /// Most bytes of one buffer.
    max_buffer: u64,
    kernels: Mutex<BTreeMap<Key, Kernel>>,
    /// Whether its conversion from f16 is taken to be exact.
    unpacks: AtomicBool,
    /// The kernels that gave the core's bytes when they were probed.
    pub(crate) trusted: Mutex<BTreeSet<Key>>,
    state: Arc<State>,
    #[cfg(not(target_arch = "wasm32"))]
    poller: poller::Poller,
}

/// What is called when a submission is done, or its device fails.
type Done = Box<dyn FnOnce(core::result::Result<(), String>) + Send>;

/// What callbacks may reach.
#[derive(Default)]
pub(crate) struct State {
    /// Why the device failed, once it has; and the submissions in flight until then.
    inner: Mutex<(Option<String>, BTreeMap<u64, Done>, u64)>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("max_buffer", &self.max_buffer)
            .finish_non_exhaustive()
    }
}

impl Device {
    fn new(name: String, device: wgpu::Device, queue: wgpu::Queue, max_buffer: u64) -> Self {
        let state = Arc::new(State::default());
        let failing = Arc::clone(&state);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| failing.fail(&error.to_string())));
        let failing = Arc::clone(&state);
        device.set_device_lost_callback(move |_, message| failing.fail(&format!("lost: {message}")));
        let bind_group_layout = bind_group_layout(&device);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&bind_group_layout)],
            immediate_size: 0,
        });
        Self {
            #[cfg(not(target_arch = "wasm32"))]
            poller: poller::Poller::start(device.clone(), Arc::clone(&state)),
            name,
            wgpu: device,
            queue,
            bind_group_layout,
            pipeline_layout,
            modules: Mutex::default(),
            max_buffer,
            kernels: Mutex::default(),
            unpacks: AtomicBool::new(true),
            trusted: Mutex::default(),
            state,
        }
    }

    /// What messages call it: the device's name and the interface it is reached through.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Most bytes of one buffer.
    #[must_use]
    pub fn max_buffer(&self) -> u64 {
        self.max_buffer
    }

    /// Whether it works as far as is known; why not, otherwise.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] once the device was lost, ran out of memory, or did not accept a command.
    pub fn check(&self) -> Result<()> {
        or_failed(&self.name, self.state.check())
    }

    /// Give the device up: it has failed from now on, like one that was lost. What waits for it hears of that.
    pub fn give_up(&self, why: &str) {
        self.state.fail(why);
    }

    /// The device and its queue, as the `wgpu` crate has them.
    #[must_use]
    pub fn wgpu(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.wgpu, &self.queue)
    }

    /// The kernel for jobs of this layout, compiled at the first call.
    #[must_use]
    pub fn kernel_of(&self, layout: &Layout) -> Kernel {
        let key = layout.key();
        let (name, input, output) = key;
        let make_module = || {
            self.wgpu.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(name),
                source: wgpu::ShaderSource::Wgsl(layout.twin().wgsl().into()),
            })
        };
        let make = || {
            Kernel(self.wgpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&self.pipeline_layout),
                module: lock(&self.modules).entry(name).or_insert_with(make_module),
                entry_point: Some(name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[
                        ("INPUT", f64::from(input)),
                        ("OUTPUT", f64::from(output)),
                        ("UNPACKS", f64::from(u8::from(self.unpacks.load(Ordering::Relaxed)))),
                    ],
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache: None,
            }))
        };
        lock(&self.kernels).entry(key).or_insert_with(make).clone()
    }

    /// Do without the device's conversion from f16; whether that is new. The kernels are to be made and probed again.
    pub(crate) fn distrust_unpacking(&self) -> bool {
        lock(&self.kernels).clear();
        lock(&self.trusted).clear();
        self.unpacks.swap(false, Ordering::Relaxed)
    }

    /// Submit commands and have `buffers` mapped after them; `done` hears when all of that has happened, or of failure.
    pub(crate) fn submit(
        &self,
        commands: wgpu::CommandBuffer,
        buffers: [(&wgpu::Buffer, wgpu::MapMode); 2],
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let name = self.name.clone();
        let Some(id) = self.state.begin(Box::new(move |result| done(or_failed(&name, result)))) else {
            return;
        };
        let index = self.queue.submit([commands]);
        let left = Arc::new(Mutex::new(buffers.len()));
        for (buffer, mode) in buffers {
            let (state, left) = (Arc::clone(&self.state), Arc::clone(&left));
            buffer.map_async(mode, .., move |result| {
                let mut left = lock(&left);
                *left -= 1;
                match result {
                    // no failure of the device: buffers that are dropped are not mapped either
                    Err(error) => state.end(id, Err(format!("cannot map a buffer: {error}"))),
                    Ok(()) if *left == 0 => state.end(id, Ok(())),
                    Ok(()) => {}
                }
            });
        }
        #[cfg(not(target_arch = "wasm32"))]
        self.poller.wait_for(index);
        #[cfg(target_arch = "wasm32")]
        let _ = index; // the browser calls back by itself
    }
}

impl State {
    fn check(&self) -> core::result::Result<(), String> {
        lock(&self.inner).0.clone().map_or(Ok(()), Err)
    }

    /// Take `done` in; if the device has failed, it hears so at once.
    fn begin(&self, done: Done) -> Option<u64> {
        let mut inner = lock(&self.inner);
        if let Some(message) = inner.0.clone() {
            drop(inner);
            done(Err(message));
            return None;
        }
        inner.2 += 1;
        let id = inner.2;
        inner.1.insert(id, done);
        Some(id)
    }

    fn end(&self, id: u64, result: core::result::Result<(), String>) {
        let done = lock(&self.inner).1.remove(&id);
        if let Some(done) = done {
            done(result);
        }
    }

    /// The first failure is kept, as later ones only follow from it. Whoever waits hears of it.
    fn fail(&self, message: &str) {
        let mut inner = lock(&self.inner);
        let message = inner.0.get_or_insert_with(|| message.trim().to_owned()).clone();
        let waiting = core::mem::take(&mut inner.1);
        drop(inner);
        for done in waiting.into_values() {
            done(Err(message.clone()));
        }
    }
}

fn bind_group_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let entry = |binding, ty, least| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: wgpu::BufferSize::new(least),
        },
        count: None,
    };
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[
            entry(0, wgpu::BufferBindingType::Uniform, HEAD),
            entry(1, wgpu::BufferBindingType::Storage { read_only: true }, 16),
            entry(2, wgpu::BufferBindingType::Storage { read_only: false }, 32),
        ],
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Outside a browser, callbacks come only when somebody waits for the device.
#[cfg(not(target_arch = "wasm32"))]
mod poller {
    use core::time::Duration;
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::{State, lock};

    /// Longest wait for one submission, which takes milliseconds; a device that hangs counts as lost.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A thread that waits for each submission in turn; it ends with the device.
    pub(crate) struct Poller(Mutex<Sender<wgpu::SubmissionIndex>>);

    impl Poller {
        pub(crate) fn start(device: wgpu::Device, state: Arc<State>) -> Self {
            let (sender, submissions) = channel();
            thread::spawn(move || {
                for index in submissions {
                    let wait =
                        wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(PATIENCE) };
                    if let Err(error) = device.poll(wait) {
                        state.fail(&format!("lost: {error}"));
                    }
                }
            });
            Self(Mutex::new(sender))
        }

        pub(crate) fn wait_for(&self, index: wgpu::SubmissionIndex) {
            // the thread lives as long as this sender
            let _ = lock(&self.0).send(index);
        }
    }
}
