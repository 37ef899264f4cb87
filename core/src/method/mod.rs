//! What is done with the inputs.

pub(crate) mod apart;
pub(crate) mod product;
