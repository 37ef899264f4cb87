//! Records in binary logs: the fields of protocol buffers, and the checksums in front of them.

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// A whole number, as it is in the message.
    Whole(u64),
    /// Eight bytes.
    Long([u8; 8]),
    /// Four bytes.
    Short([u8; 4]),
    /// A text, bytes, or a message in it.
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }
}

/// The fields of a message with their numbers, in its order; those before the first that is none.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let field = match key & 7 {
            0 => Field::Whole(varint(&mut rest)?),
            1 => Field::Long(*take(&mut rest, 8)?.first_chunk()?),
            2 => {
                let len = varint(&mut rest)?;
                Field::Bytes(take(&mut rest, usize::try_from(len).ok()?)?)
            }
            5 => Field::Short(*take(&mut rest, 4)?.first_chunk()?),
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

/// The one field of this number, or the last of several.
pub(super) fn field(bytes: &[u8], number: u64) -> Option<Field<'_>> {
    fields(bytes).filter(|(found, _)| *found == number).map(|(_, field)| field).last()
}

pub(super) fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// What a polynomial makes of each byte.
pub(super) type Table = [u32; 256];

/// CRC-32C.
pub(super) static CASTAGNOLI: Table = table(0x82f6_3b78);
/// The CRC-32 of zip and PNG.
pub(super) static IEEE: Table = table(0xedb8_8320);

/// Of a polynomial, bits reversed.
const fn table(polynomial: u32) -> Table {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// The CRC-32 of some bytes, in pieces.
pub(super) fn crc<'a>(table: &Table, pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    !more(table, !0, pieces)
}

/// The same, begun and not ended.
pub(super) fn more<'a>(table: &Table, begun: u32, pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let all = pieces.into_iter().flatten();
    all.fold(begun, |crc, byte| crc >> 8 ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn checksums_are_those_of_everybody() {
        // the check values of the catalogue of CRCs
        assert_eq!(crc(&CASTAGNOLI, [&b"1234"[..], b"56789"]), 0xe306_9283);
        assert_eq!(crc(&IEEE, [&b"123456789"[..]]), 0xcbf4_3926);
    }

    #[test]
    fn a_message_ends_where_it_is_damaged() {
        let message = [8, 150, 1, 18, 2, b'h', b'i', 29, 0, 0, 128, 63, 34, 200];
        let found: Vec<_> = fields(&message).map(|(number, _)| number).collect();
        assert_eq!(found, [1, 2, 3]);
        assert!(matches!(field(&message, 1), Some(Field::Whole(150))));
        assert_eq!(field(&message, 2).and_then(Field::text), Some("hi"));
        assert_eq!(fields(&[0xff; 20]).count(), 0);
    }
}
