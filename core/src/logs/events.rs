//! TensorBoard's event files: scalars by tag and step.
//!
//! A file is a row of records: the length of the event (u64), its masked CRC-32C, the event, its masked CRC-32C (TensorFlow's
//! `record_writer.h`). An event is the message `Event` of `event.proto`. The last record of a file that is being written may
//! be cut short.

use alloc::format;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::series::{Log, Point, plain};
use crate::logs::trainer::TrainerState;
use crate::logs::wire::{CASTAGNOLI, Field, crc, field, fields, take};

/// What the first event says.
pub(crate) const VERSION: &[u8] = b"brain.Event:";

/// The scalars of a file.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<TrainerState>> {
    let mut points = Vec::new();
    let mut begun = 0.0;
    let mut rest = bytes;
    while let Some(event) = record(&mut rest, bytes.len())? {
        let step = match field(event, 2) {
            Some(Field::Whole(step)) => step,
            _ => 0,
        };
        if let (true, Some(Field::Long(time))) = (begun == 0.0, field(event, 1)) {
            begun = f64::from_le_bytes(time);
        }
        let summary = field(event, 5).and_then(Field::bytes).unwrap_or_default();
        for (_, value) in fields(summary).filter(|(number, _)| *number == 1) {
            let value = value.bytes().unwrap_or_default();
            let tag = field(value, 1).and_then(Field::text);
            // what hparams writes are the values at the end of the run
            let tag = tag.filter(|tag| !tag.starts_with("_hparams_/"));
            if let (Some(tag), Some(number)) = (tag, scalar(value)) {
                points.push(Point { metric: plain(tag), step, value: number });
            }
        }
    }
    if points.iter().all(|point| point.step == 0) {
        return Ok(Vec::new());
    }
    // the later of two values of a step counts, and the first that a log is given
    points.reverse();
    let log = Log::new(points);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds; only their order counts"
    )]
    let generation = begun as usize;
    Ok(Vec::from([TrainerState { log, generation, ..TrainerState::default() }]))
}

/// The next event; none at the end, or where the file is cut.
fn record<'a>(rest: &mut &'a [u8], size: usize) -> Result<Option<&'a [u8]>> {
    let place = size - rest.len();
    let number = |bytes: &mut &[u8]| Some(u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?));
    let mut after = *rest;
    let Some(head) = take(&mut after, 8) else { return Ok(None) };
    let Some(check) = number(&mut after) else { return Ok(None) };
    let damaged = |what: &str| {
        let detail = format!("is damaged: the checksum of {what} at byte {place} is another");
        Err(Error::new(ErrorKind::Metric, detail).help("copy the file again, or move it out of the run"))
    };
    if masked(head) != check {
        return damaged("the record's length");
    }
    let len = u64::from_le_bytes(*head.first_chunk().expect("eight bytes were taken"));
    let event = usize::try_from(len).ok().and_then(|len| take(&mut after, len));
    let (Some(event), Some(check)) = (event, number(&mut after)) else { return Ok(None) };
    if masked(event) != check {
        return damaged("the record");
    }
    *rest = after;
    Ok(Some(event))
}

fn masked(bytes: &[u8]) -> u32 {
    crc(&CASTAGNOLI, [bytes]).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The number of a `Summary.Value`: `simple_value`, or the one in its tensor, as newer programs write it.
fn scalar(value: &[u8]) -> Option<f64> {
    if let Some(Field::Short(simple)) = field(value, 2) {
        return Some(f32::from_le_bytes(simple).into());
    }
    let tensor = field(value, 8)?.bytes()?;
    let is_double = matches!(field(tensor, 1), Some(Field::Whole(2)));
    let content = field(tensor, 4).and_then(Field::bytes).unwrap_or_default();
    match (field(tensor, 5), field(tensor, 6)) {
        (Some(Field::Short(only)), _) => Some(f32::from_le_bytes(only).into()),
        (Some(Field::Bytes(packed)), _) if packed.len() == 4 => single(packed),
        (_, Some(Field::Long(only))) => Some(f64::from_le_bytes(only)),
        (_, Some(Field::Bytes(packed))) if packed.len() == 8 => double(packed),
        (None, None) if is_double && content.len() == 8 => double(content),
        (None, None) if !is_double && content.len() == 4 => single(content),
        _ => None,
    }
}

fn single(bytes: &[u8]) -> Option<f64> {
    Some(f32::from_le_bytes(*bytes.first_chunk()?).into())
}

fn double(bytes: &[u8]) -> Option<f64> {
    Some(f64::from_le_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by TensorBoard's own writer: a loss, a NaN, and a scalar in a tensor.
    const FILE: &[u8] = include_bytes!("data/events.out.tfevents.1");

    #[test]
    fn what_tensorboard_writes_is_read() {
        let [state] = read(FILE).unwrap().try_into().unwrap();
        let names: Vec<_> = state.log.iter().collect();
        assert_eq!(names.len(), EXPECTED.len(), "{names:?}");
        for ((name, series), (wanted, values)) in names.iter().zip(EXPECTED) {
            assert_eq!(name, wanted);
            assert_eq!(alloc::format!("{series:?}"), *values, "{name}");
        }
    }

    /// The bytes of the events, read by Python's `struct`; f32 widened.
    const EXPECTED: &[(&str, &str)] = &[
        ("eval_loss", "[(5, 0.5), (10, NaN)]"),
        ("loss", "[(5, 0.20000000298023224), (10, 0.10000000149011612)]"),
        ("loss/average", "[(10, 0.25)]"),
    ];

    #[test]
    fn a_file_that_is_being_written_ends_where_it_is_cut_and_a_damaged_one_is_refused() {
        for len in 0..FILE.len() {
            assert!(read(&FILE[..len]).is_ok(), "{len}");
        }
        for at in [3, 9, 20, FILE.len() - 5] {
            let mut bytes = FILE.to_vec();
            bytes[at] ^= 4;
            let error = read(&bytes).unwrap_err();
            assert!(error.detail().starts_with("is damaged: the checksum of the record"), "{error}");
        }
    }
}
