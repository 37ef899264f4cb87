//! The directory of a zip whose members are stored: each of them is a byte range of the file.
//!
//! torch writes such zips (`caffe2/serialize/inline_container.cc`), always with the records of zip64, though its end record
//! holds real numbers too. Where a zip64 record is pointed at, it counts.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe};

/// The longest directory that is read, in bytes.
const DIRECTORY_LIMIT: u64 = 100_000_000;
/// The end record, with the longest comment, and the zip64 records before it.
pub(in crate::format) const TAIL: u64 = 22 + 65_535 + 20 + 56;

/// A file in the zip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its local header begins.
    header: u64,
    /// Bytes of data.
    pub(super) len: u64,
    /// Whether the data is as it was, neither compressed nor encrypted.
    is_stored: bool,
    /// Where the directory begins, before which all data ends.
    limit: u64,
    /// Where its entry in the directory begins.
    listed: u64,
    /// Whether its checksum stands behind its data, not in front.
    is_described: bool,
}

/// A checksum over bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Of which bytes.
    pub(crate) data: Range<u64>,
    /// The places of their CRC-32, four bytes each.
    pub(crate) at: Vec<u64>,
}

impl Sum {
    /// The same of a file that begins so many bytes into another.
    pub(crate) fn behind(self, bytes: u64) -> Self {
        let data = self.data.start + bytes..self.data.end + bytes;
        Self { data, at: self.at.into_iter().map(|at| at + bytes).collect() }
    }
}

/// The checksums of all members of a zip of `size` bytes.
pub(in crate::format) fn sums(files: &dyn Files, path: &str, size: u64) -> Maybe<Vec<Sum>> {
    let mut sums = Vec::new();
    for member in members(files, path, size)? {
        let data = member.range(files, path)?;
        let mut at = Vec::from([member.listed + 16]);
        if member.is_described {
            let behind = files.read(path, data.end..data.end + 4)?;
            let signed = if &*behind == b"PK\x07\x08" { 4 } else { 0 };
            at.push(data.end + signed);
        } else {
            at.push(member.header + 14);
        }
        sums.push(Sum { data, at });
    }
    Ok(sums)
}

/// Read the directory of a zip of `size` bytes.
pub(super) fn members(files: &dyn Files, path: &str, size: u64) -> Maybe<Vec<Member>> {
    let start = size.saturating_sub(TAIL);
    let tail = files.read(path, start..size)?;
    let Directory { range, entries } = Directory::find(&tail, start)?;
    if range.end - range.start > DIRECTORY_LIMIT || range.end > size {
        return Err(damaged("its directory cannot lie where the file says it does").into());
    }
    let bytes = files.read(path, range.clone())?;
    let mut rest = &*bytes;
    let mut members = Vec::new();
    while let Some((member, after)) = entry(rest, range.start)? {
        let listed = range.end - rest.len() as u64;
        members.push(Member { listed, ..member });
        rest = after;
    }
    if members.len() as u64 != entries {
        let (have, want) = (members.len(), entries);
        return Err(damaged(&format!("its directory lists {have} files instead of {want}")).into());
    }
    Ok(members)
}

impl Member {
    /// Where its data lies in the file: the local header may have padding of its own.
    pub(super) fn range(&self, files: &dyn Files, path: &str) -> Maybe<Range<u64>> {
        let fixed = 30 + self.name.len() as u64;
        let lies = || damaged(&format!("`{}` is not where its directory says", self.name));
        let header = self.header..self.header.checked_add(fixed).ok_or_else(lies)?;
        let header = files.read(path, header)?;
        if header.len() as u64 != fixed || !header.starts_with(b"PK\x03\x04") {
            return Err(lies().into());
        }
        let (name, extra) = (u64::from(u16_at(&header, 26)), u64::from(u16_at(&header, 28)));
        if name != self.name.len() as u64 || &header[30..] != self.name.as_bytes() {
            return Err(lies().into());
        }
        if !self.is_stored {
            let detail = format!("holds `{}` compressed, which torch.save() never does", self.name);
            return Err(Error::new(ErrorKind::Input, detail)
                .help("load it and save it again with torch.save()")
                .into());
        }
        let start = self.header + fixed + extra;
        match start.checked_add(self.len).filter(|end| *end <= self.limit) {
            Some(end) => Ok(start..end),
            None => Err(damaged(&format!("`{}` reaches beyond the data", self.name)).into()),
        }
    }
}

/// Where the directory lies, and how many files it lists.
#[derive(Debug, PartialEq, Eq)]
struct Directory {
    range: Range<u64>,
    entries: u64,
}

impl Directory {
    /// By the end record in the last bytes of the file, which begin at `start`.
    fn find(tail: &[u8], start: u64) -> Result<Self> {
        let ends_here = |at: &usize| {
            let record = &tail[*at..];
            record.starts_with(b"PK\x05\x06") && 22 + usize::from(u16_at(record, 20)) == record.len()
        };
        let last = tail.len().checked_sub(22).ok_or_else(|| damaged("its end is missing"))?;
        let at = (0..=last).rev().find(ends_here).ok_or_else(|| damaged("its end is missing"))?;
        let record = &tail[at..];
        let (entries, len, from) =
            (u16_at(record, 10).into(), u32_at(record, 12).into(), u32_at(record, 16).into());
        let locator = at.checked_sub(20).map(|at| &tail[at..]).filter(|it| it.starts_with(b"PK\x06\x07"));
        let (entries, len, from) = match locator {
            None => (entries, len, from),
            Some(locator) => {
                let record = u64_at(locator, 8).checked_sub(start).and_then(|at| usize::try_from(at).ok());
                let record = record.and_then(|at| tail.get(at..at.checked_add(56)?));
                let record = record.filter(|it| it.starts_with(b"PK\x06\x06"));
                let record = record.ok_or_else(|| damaged("its zip64 record is not where it should be"))?;
                (u64_at(record, 32), u64_at(record, 40), u64_at(record, 48))
            }
        };
        let end = u64::checked_add(from, len).filter(|end| *end <= start + at as u64);
        let end = end.ok_or_else(|| damaged("its directory cannot lie where the file says it does"))?;
        Ok(Self { range: from..end, entries })
    }
}

/// The first entry of a directory that begins at `limit`, and what follows it.
fn entry(bytes: &[u8], limit: u64) -> Result<Option<(Member, &[u8])>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let broken = || damaged("its directory is broken");
    if bytes.len() < 46 || !bytes.starts_with(b"PK\x01\x02") {
        return Err(broken());
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(bytes, at)));
    let end = 46 + name_len + extra_len + comment_len;
    let (entry, after) = bytes.split_at_checked(end).ok_or_else(broken)?;
    let name = core::str::from_utf8(&entry[46..46 + name_len]).map_err(|_| broken())?.to_owned();
    let (flags, method) = (u16_at(entry, 8), u16_at(entry, 10));
    let mut sizes = [24, 20, 42].map(|at| u64::from(u32_at(entry, at)));
    widen(&mut sizes, &entry[46 + name_len..46 + name_len + extra_len]).ok_or_else(broken)?;
    let [len, stored, header] = sizes;
    let is_stored = method == 0 && flags & 1 == 0;
    if is_stored && len != stored {
        return Err(broken());
    }
    let is_described = flags & 8 != 0;
    Ok(Some((Member { name, header, len, is_stored, limit, listed: 0, is_described }, after)))
}

/// Take the numbers that do not fit 32 bits from the zip64 field.
fn widen(numbers: &mut [u64], mut extra: &[u8]) -> Option<()> {
    if numbers.iter().all(|number| *number != u64::from(u32::MAX)) {
        return Some(());
    }
    while extra.len() >= 4 {
        let len = usize::from(u16_at(extra, 2));
        let (field, after) = extra.split_at_checked(4 + len)?;
        if u16_at(field, 0) == 1 {
            let mut wide = field[4..].chunks_exact(8);
            for number in numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
                *number = u64_at(wide.next()?, 0);
            }
            return Some(());
        }
        extra = after;
    }
    None
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Header, format!("is a PyTorch file that is cut short or damaged: {what}"))
        .help("copy or download the file again")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
