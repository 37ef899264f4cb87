//! The command line.

mod arguments;
pub mod command;
mod show;
mod signals;
