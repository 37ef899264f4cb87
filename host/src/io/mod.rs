//! Files: read where they lie, hashed, and written whole or not at all.

#[cfg(feature = "cloud")]
pub(crate) mod cloud;
#[cfg(not(feature = "cloud"))]
#[path = "cloud_disabled.rs"]
pub(crate) mod cloud;
pub(crate) mod disk;
pub(crate) mod hash;
pub(crate) mod left;
pub(crate) mod open;
pub(crate) mod room;
pub(crate) mod scratch;
pub(crate) mod staging;
pub(crate) mod store;
pub(crate) mod url;
pub(crate) mod write_back;
