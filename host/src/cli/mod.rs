//! The command line.

mod arguments;
pub mod command;
mod manual;
pub(crate) mod memory;
mod show;
mod signals;
