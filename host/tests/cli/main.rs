//! The `mwa` binary as a process: what it prints, how it exits, what it leaves on disk.

mod adapter;
mod agreement;
mod inputs;
mod metrics;
mod output;
mod place;
mod texts;
#[cfg(unix)]
mod unix;
