//! Run a job with the widest instructions of this CPU: one kernel, compiled several times, chosen at run time.
//!
//! The loops are the core's, vectorised by the compiler; no intrinsics. All versions give the same bits, because the
//! kernel never fuses or reorders; `tests` hold each version against the reference.

use mwa::kernel::Tally;
use mwa::{Job, ModuleJob, Residual, Result};

/// Functions that run their body with the widest instructions of this CPU.
macro_rules! widest {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name($($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) -> $result $body
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) -> $result $body
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features were detected just above.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was detected just above.
                    return unsafe { avx2($($argument),*) };
                }
            }
            // other targets have their vector instructions in the baseline (NEON on aarch64)
            $body
        }
    )*};
}

widest! {
    /// Run `job`; see [`Job::run`].
    fn run(job: &Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
        job.run(inputs, out)
    }

    /// See [`ModuleJob::residual`].
    fn residual(job: &ModuleJob<'_>, inputs: &[&[u8]]) -> Option<Residual> {
        job.residual(inputs)
    }

    /// See [`ModuleJob::rank_for`].
    fn rank_for(job: &ModuleJob<'_>, inputs: &[&[u8]], energy: f64) -> Result<usize> {
        job.rank_for(inputs, energy)
    }

    /// See [`ModuleJob::merge`].
    fn merge(job: &ModuleJob<'_>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<Residual> {
        job.merge(inputs, outputs)
    }
}
