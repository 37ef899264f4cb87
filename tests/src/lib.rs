//! Hold every executor to the numeric contract: what the tests share.

pub mod agree;
pub mod executor;
pub mod harness;
pub mod native;
pub mod offered;
pub mod paint;
pub mod session;
pub mod situations;
pub mod vectors;
#[cfg(feature = "wasm")]
pub mod wasm;
#[cfg(not(feature = "wasm"))]
#[path = "wasm_disabled.rs"]
pub mod wasm;

pub use agree::{Agreement, agree};
pub use executor::{Executor, Failure, Merge};

/// Weighted sums, on every processor, runtime and device: the same bits.
pub const SAME_CODE: Agreement = Agreement::Bits;

/// Product-space merges against an oracle that takes another way (a dense SVD): singular vectors are not unique to the
/// bit. Derived in README.md; do not raise it to make a test pass.
pub const LOW_RANK: Agreement = Agreement::RelativeFrobenius(1e-6);

/// Weights against an oracle of 50 decimal digits: `libm` and the sums are good to a few ulps of f64.
pub const WEIGHTS: Agreement = Agreement::Within { relative: 1e-14, absolute: 1e-16 };
