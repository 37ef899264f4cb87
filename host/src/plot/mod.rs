//! Pictures for people: small SVG files without fonts, scripts or links, readable on light ground and on dark.
//!
//! [`svg`] writes elements, [`chart`] has axes and panels of them, and each picture is a file: [`weights`] is of a choice, [`landscape`] of a search.

pub(crate) mod chart;
pub(crate) mod landscape;
pub(crate) mod svg;
pub(crate) mod weights;
