//! What is done with the inputs.

pub(crate) mod apart;
pub(crate) mod blend;
pub(crate) mod curved;
pub(crate) mod product;
pub(crate) mod scaled;
pub(crate) mod trim;
