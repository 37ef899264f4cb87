//! Where the second moments of inputs lie, and how much each element of an input counts by them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::kernel::curved::root;
use crate::plan::Shard;
use crate::text::words::words;

words! {
    /// What weights by curvature are measured by, so that inputs can be compared.
    Normalise {
        /// Their mean over a tensor.
        #[default]
        Mean = "mean",
        /// Nothing: the moments as they are, less what they lack after few steps.
        None = "none",
    }
}

/// How second moments weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curvature {
    /// The power of a moment that is its weight.
    pub power: f64,
    /// What is added to each weight, as a share of their mean over the tensor.
    pub epsilon: f64,
    /// What they are measured by.
    pub normalise: Normalise,
}

impl Default for Curvature {
    fn default() -> Self {
        Self { power: 0.5, epsilon: 1e-8, normalise: Normalise::Mean }
    }
}

/// The second moments of an input.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The file that they lie in, one more of the input's; its head has them under the names of the weights.
    pub shard: Shard,
    /// What they are to be multiplied by, by the name of a tensor, sorted; 1 for those that are not there.
    pub corrections: Vec<(String, f64)>,
}

/// The mean weight of each input, by the name of a tensor; sorted.
pub(crate) type Means = Vec<(String, Vec<f64>)>;

impl Curvature {
    /// What a moment's root is multiplied by in a tensor, and what is added.
    pub(crate) fn weights(self, moments: &Moments, means: &Means, tensor: &str, input: usize) -> (f64, f64) {
        let mean = means.binary_search_by(|(name, _)| name.as_str().cmp(tensor));
        let mean = mean.map_or(0.0, |place| means[place].1[input]);
        if self.normalise == Normalise::Mean {
            // of a tensor that no step has reached ε is left
            return (if mean > 0.0 { 1.0 / mean } else { 0.0 }, self.epsilon);
        }
        let found = moments.corrections.binary_search_by(|(name, _)| name.as_str().cmp(tensor));
        let correction = found.map_or(1.0, |place| moments.corrections[place].1);
        let factor = root(correction, self.power);
        (factor, self.epsilon * (mean * factor))
    }
}
