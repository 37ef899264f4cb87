//! Run a job with the widest instructions of this CPU: one kernel, compiled several times, chosen at run time.
//!
//! The loops are the core's, vectorised by the compiler; no intrinsics. All versions give the same bits, because the
//! kernel never fuses or reorders; `tests` hold each version against the reference.

use mwa::kernel::Tally;
use mwa::{Job, Result};

/// Run `job`; see [`Job::run`].
pub fn run(job: &Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the features were detected just above.
            return unsafe { run_avx512(job, inputs, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected just above.
            return unsafe { run_avx2(job, inputs, out) };
        }
    }
    // other targets have their vector instructions in the baseline (NEON on aarch64)
    job.run(inputs, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512(job: &Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
    job.run(inputs, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(job: &Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
    job.run(inputs, out)
}
