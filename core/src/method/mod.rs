//! What is done with the inputs.

pub(crate) mod product;
