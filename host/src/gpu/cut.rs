//! Cut a plan into jobs that fit the devices and the memory.

use mwa::{Job, Plan};

use super::{Layout, Slot};

/// Most bytes a job reads of one input; larger ones gain nothing.
const JOB_BYTES: usize = 8 << 20;
/// Least bytes: below this, commands cost more than the work.
const MIN_JOB_BYTES: usize = 4 << 10;
/// Least bytes of a slot's buffers, which are there even if the CPU does all jobs.
const MIN_SLOT: u64 = 8 << 10;

/// Jobs for devices.
pub(super) struct Cut<'a> {
    pub(super) jobs: Vec<Job<'a>>,
    /// Of each job; `None` if the CPU does it.
    pub(super) layouts: Vec<Option<Layout>>,
    /// Bytes of the slots that hold any of the jobs; see [`Slot::new`].
    pub(super) input: u64,
    pub(super) output: u64,
}

impl<'a> Cut<'a> {
    /// The largest jobs of which `slots` at a time fit into `memory` bytes, and each into buffers of `max_buffer` bytes.
    pub(super) fn fitting(plan: &'a Plan, slots: usize, memory: u64, max_buffer: u64) -> Self {
        let mut job_bytes = JOB_BYTES;
        loop {
            let mut cut = Self::new(plan, job_bytes);
            let fits_memory = Slot::bytes(cut.input, cut.output) * slots as u64 <= memory;
            if fits_memory && cut.input.max(cut.output) <= max_buffer {
                return cut;
            }
            if job_bytes <= MIN_JOB_BYTES {
                // so many inputs that a small device does not hold a few elements of each
                for layout in &mut cut.layouts {
                    layout.take_if(|layout| layout.input_bytes().max(layout.output_bytes()) > max_buffer);
                }
                return cut.measured();
            }
            job_bytes /= 2;
        }
    }

    fn new(plan: &'a Plan, job_bytes: usize) -> Self {
        let jobs: Vec<_> = plan.jobs(job_bytes).collect();
        let layouts = jobs.iter().map(Layout::of).collect();
        Self { jobs, layouts, input: 0, output: 0 }.measured()
    }

    fn measured(self) -> Self {
        let most = |bytes: fn(&Layout) -> u64| {
            self.layouts.iter().flatten().map(bytes).max().unwrap_or(0).max(MIN_SLOT)
        };
        Self { input: most(Layout::input_bytes), output: most(Layout::output_bytes), ..self }
    }
}

/// The kernels that `plan` needs, each by a layout.
pub(super) fn layouts(plan: &Plan) -> Vec<Layout> {
    Cut::new(plan, JOB_BYTES).layouts.into_iter().flatten().collect()
}
