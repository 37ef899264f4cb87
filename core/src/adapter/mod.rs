//! What an adapter is: its config, its kind, its scales, and which adapters may be averaged.

pub(crate) mod agree;
pub(crate) mod config;
pub(crate) mod kinds;
pub(crate) mod pattern;
pub(crate) mod scale;
