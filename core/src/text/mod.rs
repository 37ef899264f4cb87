//! Texts and names: JSON, CSV, spelling, and names found among many.

pub(crate) mod csv;
pub(crate) mod escape;
pub(crate) mod index;
pub(crate) mod json;
pub(crate) mod span;
pub(crate) mod spelling;
pub(crate) mod words;
