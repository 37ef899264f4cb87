//! The state of an optimizer: its tensors lie within the file, and names are given to parameters only where every shape fits.

use mwa::format::torch::optimizer::Optimizer;

use super::files::{Memory, now};

const PATH: &str = "run/optimizer.pt";

pub(crate) fn check(bytes: &[u8]) {
    let mut memory = Memory::default();
    memory.write(PATH, bytes);
    let Ok(state) = now(Optimizer::open(&memory, PATH)) else { return };
    assert!(!state.describe().is_empty());
    let mut total = 0_u64;
    for tensor in state.header.tensors() {
        assert!(tensor.range.start <= tensor.range.end, "{tensor:?}");
        total = total.checked_add(tensor.len()).expect("sizes were checked");
    }
    assert!(total <= 16 * bytes.len() as u64, "{total} bytes of tensors in a file of {}", bytes.len());
    // weights as the state has them: a layer each, and a norm that does not decay
    let count = state.count();
    if count > 1 << 10 {
        return;
    }
    let shape = |number: usize| {
        let name = format!("{number}.exp_avg_sq");
        let found = state.header.tensors().iter().find(|tensor| tensor.name == name);
        found.map_or_else(|| vec![2, 2], |tensor| tensor.shape.clone())
    };
    let weights: Vec<_> =
        (0..count).map(|at| (format!("model.layers.{at}.self_attn.q_proj.weight"), shape(at))).collect();
    for model in [None, Some("llama")] {
        let Ok(names) = state.names(&weights, model) else { continue };
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|(_, name)| weights.iter().any(|(known, _)| known == name)), "{names:?}");
    }
}
