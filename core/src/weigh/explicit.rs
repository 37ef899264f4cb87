//! What to say of the caller's own weights.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind};

/// What to say of the caller's weights where they do not sum to 1.
pub(crate) fn note_of_sum(values: &[f64]) -> Option<String> {
    let sum: f64 = values.iter().sum();
    (f64::abs(sum - 1.0) > 1e-6)
        .then(|| format!("the weights sum to {sum}; they are divided by that, so that they sum to 1"))
}

/// That there is not one weight per checkpoint.
pub(crate) fn wrong_count<'a>(have: usize, names: impl Iterator<Item = &'a str>) -> Error {
    wrong_count_of("checkpoint", have, names)
}

/// The same of whatever has weights.
pub(crate) fn wrong_count_of<'a>(what: &str, have: usize, names: impl Iterator<Item = &'a str>) -> Error {
    let names: Vec<_> = names.collect();
    let (want, names) = (names.len(), names.join(", "));
    let weights = if have == 1 { "is 1 weight".into() } else { format!("are {have} weights") };
    let plural = if want == 1 { "" } else { "s" };
    let detail = format!("there {weights} for {want} {what}{plural}: {names}");
    Error::new(ErrorKind::Weights, detail).help(format!("give one weight per {what}, in this order"))
}
