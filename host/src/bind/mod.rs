//! What bindings to other languages share.

pub(crate) mod guard;
pub mod memory;
pub(crate) mod paced;
pub(crate) mod trials;
