//! The command line.

mod arguments;
pub mod command;
pub(crate) mod memory;
mod show;
mod signals;
