//! The hashes of all files of a merge, which its jobs read and write in any order.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Digest, Part};
use crate::plan::Write;

/// The hashes so far: of the files that are read, by number, and of those that are written.
#[derive(Clone, Debug, Default)]
pub struct Digests {
    read: Vec<Digest>,
    written: Vec<Digest>,
}

/// What a job adds to the hashes of its files: plain data, which may have been made elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<(Side, usize, Part)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Read,
    Written,
}

impl Digests {
    /// Of files with these lengths in bytes.
    pub fn new(read: impl IntoIterator<Item = u64>, written: impl IntoIterator<Item = u64>) -> Self {
        let of = |len: u64| Digest::new(len);
        Self { read: read.into_iter().map(of).collect(), written: written.into_iter().map(of).collect() }
    }

    /// What is written has these lengths, which were not known before.
    pub(crate) fn write_to(&mut self, written: impl IntoIterator<Item = u64>) {
        self.written = written.into_iter().map(Digest::new).collect();
    }

    /// Whether it is known what is written.
    pub(crate) fn are_outputs_known(&self) -> bool {
        !self.written.is_empty()
    }

    /// What a job adds that read and wrote these ranges of bytes; nothing where they are known already. A file that there is
    /// not is left out.
    #[must_use]
    pub fn parts<'a>(
        &self,
        read: impl IntoIterator<Item = (&'a Write, &'a [u8])>,
        written: impl IntoIterator<Item = (&'a Write, &'a [u8])>,
    ) -> Parts {
        let mut parts = Vec::new();
        let mut add = |side: Side, span: &Write, bytes: &[u8]| {
            let digest = self.digests(side).get(span.file);
            let Some(digest) = digest.filter(|digest| !digest.knows(span.range.clone())) else { return };
            parts.push((side, span.file, Part::of(digest.file_len(), span.range.start, bytes)));
        };
        read.into_iter().for_each(|(span, bytes)| add(Side::Read, span, bytes));
        written.into_iter().for_each(|(span, bytes)| add(Side::Written, span, bytes));
        Parts(parts)
    }

    /// Take in what a job adds.
    pub fn take(&mut self, parts: Parts) {
        for (side, file, part) in parts.0 {
            let digests = match side {
                Side::Read => &mut self.read,
                Side::Written => &mut self.written,
            };
            if let Some(digest) = digests.get_mut(file) {
                digest.take(part);
            }
        }
    }

    /// Take in bytes that were written.
    pub fn wrote(&mut self, file: usize, start: u64, bytes: &[u8]) {
        self.written[file].update(start, bytes);
    }

    /// What was not read yet of the files that are read, in order.
    pub fn missing(&self) -> impl Iterator<Item = (usize, Range<u64>)> {
        let missing =
            |(file, digest): (usize, &Digest)| digest.missing().into_iter().map(move |range| (file, range));
        self.read.iter().enumerate().flat_map(missing)
    }

    /// The hash in hex of a file that was read; `None` while something is missing.
    #[must_use]
    pub fn of_read(&self, file: usize) -> Option<String> {
        self.read.get(file)?.finish()
    }

    /// The length of a file that was read, in bytes.
    ///
    /// # Panics
    /// If there is no such file.
    #[must_use]
    pub fn read_len(&self, file: usize) -> u64 {
        self.read[file].file_len()
    }

    /// The same of a file that was written.
    #[must_use]
    pub fn of_written(&self, file: usize) -> Option<String> {
        self.written.get(file)?.finish()
    }

    fn digests(&self, side: Side) -> &[Digest] {
        match side {
            Side::Read => &self.read,
            Side::Written => &self.written,
        }
    }

    /// The inverse of [`Parts::encode`]; `None` for anything else, and for other files than these.
    #[must_use]
    pub fn decode(&self, mut bytes: &[u8]) -> Option<Parts> {
        let mut parts = Vec::new();
        while let Some((&side, rest)) = bytes.split_first() {
            let side = if side == 0 { Side::Read } else { Side::Written };
            let (file, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let file = u32::from_le_bytes(*file) as usize;
            let digest = self.digests(side).get(file)?;
            parts.push((side, file, Part::decode(digest.file_len(), part)?));
            bytes = rest;
        }
        Some(Parts(parts))
    }
}

impl Parts {
    /// As bytes, for a border; [`Digests::decode`] is the inverse.
    ///
    /// # Panics
    /// Beyond 2³² files, or 4 GiB of parts of one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (side, file, part) in &self.0 {
            let part = part.encode();
            bytes.push(u8::from(*side == Side::Written));
            for number in [*file, part.len()] {
                bytes.extend(u32::try_from(number).expect("few files, small parts").to_le_bytes());
            }
            bytes.extend(part);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hash;

    #[test]
    fn what_was_hashed_elsewhere_is_taken_in() {
        let (read, written) = ([7; 5000], [9; 3000]);
        let span = |file, range| Write { file, range };
        let mut here = Digests::new([5000, 10], [3000]);
        let elsewhere = here.clone();
        let parts = elsewhere.parts(
            [(&span(0, 100..5000), &read[100..])],
            [(&span(0, 0..3000), &written[..]), (&span(1, 0..10), &written[..10])],
        );
        let crossed = here.decode(&parts.encode()).unwrap();
        assert_eq!(crossed, parts);
        here.take(crossed);
        assert_eq!(here.missing().collect::<Vec<_>>(), [(0, 0..100), (1, 0..10)]);
        assert_eq!(here.of_written(0), Some(hash(&written)));
        assert_eq!(here.of_read(0), None);
        let again = here.parts([(&span(0, 200..5000), &read[200..])], []);
        assert_eq!(again, Parts::default(), "it is known");
        here.take(elsewhere.parts([(&span(0, 0..100), &read[..100])], []));
        assert_eq!(here.of_read(0), Some(hash(&read)));
        assert!(Digests::new([5000], []).decode(&parts.encode()).is_none(), "there is no such file");
        assert!(here.decode(&[0, 1]).is_none());
    }
}
