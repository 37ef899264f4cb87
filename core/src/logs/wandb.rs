//! The file of a W&B run that was never uploaded: its history, by the trainer's step.
//!
//! After seven bytes a log of LevelDB's kind: blocks of 32,768 bytes counted from the file's first byte, in them chunks of a
//! CRC-32 (of type and payload), a length (u16), a type (1 whole, 2 first, 3 middle, 4 last) and a payload; what the chunks of
//! a record hold is a `Record` of `wandb_internal.proto`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Value;

use crate::error::Result;
use crate::logs::series::{Log, Point, plain};
use crate::logs::trainer::TrainerState;
use crate::logs::wire::{Field, IEEE, crc, field, fields};
use crate::text::json;

/// How such files begin.
pub(crate) const START: &[u8] = b":W&B\xe1\xbe\x00";
/// Bytes before the payload of a chunk.
const HEAD: usize = 7;
/// A damaged place is searched for the next chunk until so many bytes were checked.
const PATIENCE: usize = 1 << 26;
/// Where a row has its step: what trainers log counts, as `_step` counts calls.
const STEPS: [&str; 4] = ["train/global_step", "trainer/global_step", "global_step", "_step"];

/// The history of a run.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<TrainerState>> {
    if !bytes.starts_with(START) {
        return Ok(Vec::new());
    }
    let mut points = Vec::new();
    let (records, damaged) = records(bytes);
    for record in records {
        let Some(history) = field(&record, 2).and_then(Field::bytes) else { continue };
        let items = fields(history).filter(|(number, _)| *number == 1);
        let row: Vec<_> = items.filter_map(|(_, item)| cell(item.bytes()?)).collect();
        let step = STEPS.iter().find_map(|key| row.iter().find(|(name, _)| name == key));
        let Some(step) = step.and_then(|(_, value)| json::whole(*value)) else { continue };
        let is_metric =
            |name: &str| !STEPS.contains(&name) && !name.starts_with('_') && name != "train/epoch";
        let cells = row.into_iter().filter(|(name, _)| is_metric(name));
        points.extend(cells.map(|(name, value)| Point { metric: plain(&name), step, value }));
    }
    // rows of one step are one row, in which the later value counts
    points.reverse();
    let log = Log::new(points);
    let notes = damaged
        .map(|at| format!("a W&B file is damaged at byte {at}: rows there are lost, what follows is read"));
    let notes = notes.into_iter().collect();
    Ok(log.end().map(|_| TrainerState { log, notes, ..TrainerState::default() }).into_iter().collect())
}

/// Name and number of an item of a row.
fn cell(item: &[u8]) -> Option<(String, f64)> {
    let key = field(item, 1).and_then(Field::text).filter(|key| !key.is_empty());
    let nested = || {
        let keys = fields(item).filter(|(number, _)| *number == 2);
        keys.filter_map(|(_, key)| key.text()).collect::<Vec<_>>().join(".")
    };
    let name = key.map_or_else(nested, String::from);
    let value = json::parse::<Value>(field(item, 16)?.text()?).ok()?;
    Some((name, json::number(&value)?))
}

/// The records, put together from their chunks, and where bytes between two of them were damaged; those before the place
/// where the file is cut.
fn records(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<usize>) {
    let (mut records, mut record, mut damaged) = (Vec::new(), Vec::new(), None);
    let mut at = START.len();
    let mut patience = PATIENCE;
    while let Some((start, chunk)) = chunk(bytes, at, &mut patience) {
        // fewer than seven bytes fill up a block
        if start - at >= HEAD {
            record.clear();
            damaged = damaged.or(Some(at));
        }
        if matches!(chunk.0, 1 | 2) {
            record.clear();
        }
        record.extend_from_slice(chunk.1);
        if matches!(chunk.0, 1 | 4) {
            records.push(core::mem::take(&mut record));
        }
        at = start + HEAD + chunk.1.len();
    }
    (records, damaged)
}

/// The first chunk from a place on whose checksum is right: where it begins, its type and its payload.
fn chunk<'a>(bytes: &'a [u8], from: usize, patience: &mut usize) -> Option<(usize, (u8, &'a [u8]))> {
    (from..bytes.len()).find_map(|at| {
        let head = bytes.get(at..at + HEAD).filter(|head| (1..=4).contains(&head[6]))?;
        let check = u32::from_le_bytes(*head.first_chunk()?);
        let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let payload = bytes.get(at + HEAD..at + HEAD + len)?;
        if at != from {
            *patience = patience.checked_sub(HEAD + len)?;
        }
        (crc(&IEEE, [&head[6..], payload]) == check).then_some((at, (head[6], payload)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk_of(kind: u8, payload: &[u8]) -> Vec<u8> {
        let check = crc(&IEEE, [&[kind][..], payload]);
        let len = u16::try_from(payload.len()).unwrap();
        [&check.to_le_bytes()[..], &len.to_le_bytes(), &[kind], payload].concat()
    }

    /// A history record: keys and values in JSON.
    fn row(cells: &[(&str, &str)]) -> Vec<u8> {
        let field = |number: u8, bytes: &[u8]| {
            // a varint
            let key = if number < 16 {
                Vec::from([number << 3 | 2])
            } else {
                Vec::from([number << 3 | 2 | 128, number >> 4])
            };
            [key, Vec::from([u8::try_from(bytes.len()).unwrap()]), bytes.to_vec()].concat()
        };
        let item = |(key, value): &(&str, &str)| {
            field(1, &[field(1, key.as_bytes()), field(16, value.as_bytes())].concat())
        };
        field(2, &cells.iter().flat_map(item).collect::<Vec<_>>())
    }

    #[test]
    fn rows_of_one_step_are_one_and_records_may_be_in_pieces() {
        let first = row(&[("train/loss", "0.5"), ("train/global_step", "10"), ("_step", "0")]);
        let second = row(&[("eval/loss", "NaN"), ("train/global_step", "10"), ("_step", "1")]);
        let (a, b) = second.split_at(9);
        let mut file = [START, &chunk_of(1, &first), &[0; 5], &chunk_of(2, a), &chunk_of(4, b)].concat();
        let [state] = read(&file).unwrap().try_into().unwrap();
        assert_eq!(state.log.get("loss"), Some(&[(10, 0.5)][..]));
        assert!(state.log.get("eval_loss").unwrap()[0].1.is_nan() && state.notes.is_empty());
        // what lies behind damage is read, and the damage is said
        let at = file.len();
        file.extend(
            [b"damaged bytes".to_vec(), chunk_of(1, &row(&[("loss", "0.25"), ("_step", "20")]))].concat(),
        );
        let [state] = read(&file).unwrap().try_into().unwrap();
        assert_eq!(state.log.get("loss"), Some(&[(10, 0.5), (20, 0.25)][..]));
        assert!(state.notes[0].contains(&format!("at byte {at}")), "{:?}", state.notes);
        for len in 0..file.len() {
            let _ = read(&file[..len]);
        }
        assert!(read(b"no such file").unwrap().is_empty());
    }
}
