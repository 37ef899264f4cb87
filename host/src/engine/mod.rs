//! What runs the jobs of a merge: threads, GPUs, or the component in a sandbox.

#[cfg(feature = "gpu")]
pub(crate) mod board;
pub(crate) mod compute;
pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod execute;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "gpu_disabled.rs"]
pub mod gpu;
pub(crate) mod jobs;
pub(crate) mod pool;
#[cfg(feature = "wasm")]
pub mod sandbox;
#[cfg(not(feature = "wasm"))]
#[path = "sandbox_disabled.rs"]
pub(crate) mod sandbox;
pub(crate) mod simd;
pub(crate) mod timings;
pub(crate) mod together;
