//! Run a job with the widest instructions of this CPU: one kernel, compiled several times, chosen at run time.
//!
//! The loops are the core's, vectorised by the compiler; no intrinsics. All versions give the same bits, because the
//! kernel never fuses or reorders; the conformance tests hold each version against the reference.

use mwa::Result;
use mwa::extract::{Extraction, Found as Difference};
use mwa::fold::{ReadAt, Work};
use mwa::merge::{Bytes, Found, Job, Together};

/// Instructions that this CPU has and the kernel is compiled for.
///
/// Invariant: the CPU has them, because only [`InstructionSet::available`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSet(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// what every CPU of the target has; on aarch64 that includes NEON
    Baseline,
}

impl InstructionSet {
    /// Those of this CPU, widest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let kinds = [
            #[cfg(target_arch = "x86_64")]
            (
                Kind::Avx512,
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl"),
            ),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, is_x86_feature_detected!("avx2")),
            (Kind::Baseline, true),
        ];
        kinds.into_iter().filter_map(|(kind, is_there)| is_there.then_some(Self(kind)))
    }

    /// The widest of this CPU.
    #[must_use]
    pub fn widest() -> Self {
        Self::available().next().expect("the baseline is always there")
    }

    /// A short name: `avx512`, `avx2` or `baseline`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            Kind::Baseline => "baseline",
        }
    }
}

/// Methods that run their body with an instruction set.
macro_rules! with_instructions {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {
        impl InstructionSet {$(
            $(#[$doc])*
            pub fn $name(self, $($argument: $type),*) -> $result {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) -> $result $body
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) -> $result $body
                match self.0 {
                    // SAFETY: the CPU has these features, by the invariant.
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx512 => unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2 => unsafe { avx2($($argument),*) },
                    Kind::Baseline => $body,
                }
            }
        )*}
    };
}

with_instructions! {
    /// Run a job; see [`Job::run`].
    ///
    /// # Errors
    /// As [`Job::run`].
    ///
    /// # Panics
    /// As [`Job::run`].
    fn run(job: &Job<'_>, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
        job.run(bytes, outputs)
    }

    /// Run a job of several merges; see [`Together::run`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    fn run_together(jobs: &Together<'_>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Vec<Result<Found>> {
        jobs.run(inputs, outputs)
    }

    /// Fold an adapter into rows of a weight; see [`Work::run`].
    ///
    /// # Errors
    /// As [`Work::run`].
    fn fold(work: &mut Work) -> Result<()> {
        work.run()
    }

    /// Compare a tensor of two models; see [`Extraction::compare`].
    ///
    /// # Errors
    /// As [`Extraction::compare`].
    fn compare(plan: &Extraction, number: usize, most: u64, read: &mut ReadAt<'_>) -> Result<Difference> {
        plan.compare(number, most, read)
    }
}
