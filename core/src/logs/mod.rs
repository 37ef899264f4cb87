//! What a run logged: from texts to one metric per checkpoint.

pub(crate) mod diverged;
pub(crate) mod events;
pub(crate) mod goal;
pub(crate) mod history;
pub(crate) mod kind;
pub(crate) mod metric;
mod mlflow;
mod printed;
pub(crate) mod read;
mod scores;
pub(crate) mod series;
pub(crate) mod smooth;
pub(crate) mod sqlite;
pub(crate) mod table;
pub(crate) mod trainer;
pub(crate) mod wandb;
mod wire;

/// The CRC-32 that zip and W&B have.
pub(crate) fn crc32<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    wire::crc(&wire::IEEE, pieces)
}

/// The CRC-32 of bytes that follow others, whose CRC-32 is `before`; 0 for none.
#[must_use]
pub(crate) fn crc32_more(before: u32, bytes: &[u8]) -> u32 {
    !wire::more(&wire::IEEE, !before, [bytes])
}
