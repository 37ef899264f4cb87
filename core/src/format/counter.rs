//! Recognise tensors that have no average: counters, and state that is packed.

use crate::dtype::{Dtype, Float};

/// Whether a tensor counts what training did, or is state that nothing but its module understands: the newest checkpoint's is
/// taken, whatever the others have. `BatchNorm`'s `num_batches_tracked` and SWA's `n_averaged` are such scalars.
pub(crate) fn is_newest(name: &str, shape: &[u64], dtype: Dtype) -> bool {
    shape.is_empty() && Float::of(dtype).is_none() || is_opaque(name)
}

/// State that a module packs into one tensor, of whatever length (Transformer Engine's scales).
pub(crate) fn is_opaque(name: &str) -> bool {
    name.ends_with("_extra_state")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_from_tensors_that_must_agree() {
        assert!(
            is_newest("bn.num_batches_tracked", &[], Dtype::I64) && is_newest("n_averaged", &[], Dtype::I32)
        );
        assert!(is_newest("layer._extra_state", &[128], Dtype::U8));
        assert!(!is_newest("position_ids", &[1, 8], Dtype::I64) && !is_newest("a.alpha", &[], Dtype::F32));
    }
}
