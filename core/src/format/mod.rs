//! Where the tensors of a file lie.

pub mod foreign;
pub mod safetensors;
