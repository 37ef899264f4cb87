//! The files that JavaScript offers, by path: what there is, and what of it was read so far.
//!
//! Nothing here waits. What is asked for and not yet read is remembered as wanted; the caller reads it and asks again.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use mwa::files::{Files, Kind, Maybe, Stop, join};
use mwa::{Error, ErrorKind, Index};

/// A byte range of a file, by the file's number.
pub(crate) type Piece = (usize, u64, u64);

/// The offered files. A folder is there when a file lies in it; paths use `/`.
///
/// As in rsync, `/./` in a path ends the part that the user named: `runs/a/./checkpoint-1/x` lies in `runs/a`, and
/// `b.safetensors/.` is a file named itself. Where no path says so, its first part was named.
#[derive(Debug, Default)]
pub(crate) struct Store {
    sizes: Vec<u64>,
    /// What the user named, once, in order.
    roots: Vec<String>,
    /// Sorted; of several with one path the last counts.
    numbers: Vec<(String, usize)>,
    /// Sorted.
    read: Vec<(Piece, Vec<u8>)>,
    wanted: RefCell<Vec<Piece>>,
}

impl Store {
    /// Files by path and size, in the order in which the user gave them; from number `own` on they are of the base, which is no root.
    pub(crate) fn new(paths: Vec<(String, u64)>, own: usize) -> Self {
        let roots = &paths[..own.min(paths.len())];
        let named: Vec<_> = roots.iter().filter_map(|(path, _)| Some(named_and_rest(path)?.0)).collect();
        let firsts = || roots.iter().filter_map(|(path, _)| path.split('/').next()).collect();
        let named: Vec<&str> = if named.is_empty() { firsts() } else { named };
        let index = Index::new(named.iter().copied());
        let once = named.iter().enumerate().filter(|(i, root)| index.is_first(root, *i));
        let roots = once.map(|(_, root)| String::from(*root)).collect();
        let sizes = paths.iter().map(|(_, size)| *size).collect();
        let whole = |(path, _): (String, u64)| match named_and_rest(&path) {
            Some((root, "")) => root.into(),
            Some((root, rest)) => join(root, rest),
            None => path,
        };
        let mut numbers: Vec<_> = paths.into_iter().map(whole).zip(0..).collect();
        numbers.sort_unstable();
        Self { sizes, roots, numbers, ..Self::default() }
    }

    /// What the user named, once, in order.
    pub(crate) fn roots(&self) -> &[String] {
        &self.roots
    }

    /// The length of each file in bytes, by number.
    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    pub(crate) fn number(&self, path: &str) -> Option<usize> {
        let after = self.numbers.partition_point(|(other, _)| other.as_str() <= path);
        let (other, number) = self.numbers.get(after.checked_sub(1)?)?;
        (other == path).then_some(*number)
    }

    /// What to read next; empty when nothing was missing.
    pub(crate) fn wants(&self) -> Vec<Piece> {
        let mut wanted = self.wanted.take();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// What was read.
    pub(crate) fn give(&mut self, piece: Piece, bytes: Vec<u8>) {
        match self.read.binary_search_by_key(&piece, |(other, _)| *other) {
            Ok(at) => self.read[at].1 = bytes,
            Err(at) => self.read.insert(at, (piece, bytes)),
        }
    }

    /// The bytes from `start` to `end` of a file, if they lie in a piece that was read.
    pub(crate) fn found(&self, number: usize, start: u64, end: u64) -> Option<&[u8]> {
        let after = self.read.partition_point(|((file, from, _), _)| (*file, *from) <= (number, start));
        let before = self.read[..after].iter().rev().take_while(|((file, ..), _)| *file == number);
        let ((_, from, _), bytes) = before.into_iter().find(|((_, _, to), _)| end <= *to)?;
        let place = |at: u64| usize::try_from(at - from).expect("the piece is in memory");
        Some(&bytes[place(start)..place(end)])
    }

    /// What lies in a folder, sorted; a name may occur more than once. The folder without a name holds all.
    fn names<'a>(&'a self, folder: &str) -> impl Iterator<Item = &'a str> {
        let start = join(folder, "");
        let len = start.len();
        let first = self.numbers.partition_point(|(path, _)| *path < start);
        let inside = self.numbers[first..].iter().take_while(move |(path, _)| path.starts_with(&start));
        inside.map(move |(path, _)| path[len..].split('/').next().unwrap_or_default())
    }
}

impl Files for Store {
    fn kind(&self, path: &str) -> Maybe<Kind> {
        Ok(match self.number(path) {
            Some(number) => Kind::File(self.sizes[number]),
            None if self.names(path).next().is_some() => Kind::Folder,
            None => Kind::Missing,
        })
    }

    fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        let mut names: Vec<_> = self.names(folder).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        let missing = || Error::new(ErrorKind::Io, "is not among the files given").file(path);
        let number = self.number(path).ok_or_else(missing)?;
        let end = range.end.min(self.sizes[number]);
        if range.start >= end {
            return Ok(Cow::Borrowed(&[]));
        }
        self.found(number, range.start, end).map(Cow::Borrowed).ok_or_else(|| {
            self.wanted.borrow_mut().push((number, range.start, end));
            Stop::Later
        })
    }
}

/// The part of a path that the user named, and what follows, if the path says so.
fn named_and_rest(path: &str) -> Option<(&str, &str)> {
    path.split_once("/./").or_else(|| Some((path.strip_suffix("/.")?, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(paths: &[&str]) -> Store {
        Store::new(paths.iter().map(|path| ((*path).to_owned(), 5)).collect(), usize::MAX)
    }

    #[test]
    fn a_base_is_there_and_no_root() {
        let paths = ["run/checkpoint-2/a", "base/a", "base/b"].map(|path| (path.to_owned(), 5));
        let files = Store::new(paths.to_vec(), 1);
        assert_eq!(files.roots(), ["run"]);
        assert_eq!(files.list("base").unwrap(), ["a", "b"]);
        let paths = ["a/run/./x", "a/run/x/./y"].map(|path| (path.to_owned(), 5));
        assert_eq!(Store::new(paths.to_vec(), 1).roots(), ["a/run"]);
    }

    #[test]
    fn folders_are_what_files_lie_in() {
        let files = store(&["run/checkpoint-2/a", "run/checkpoint-10/a", "run-2/b", "c"]);
        assert_eq!(files.roots(), ["run", "run-2", "c"]);
        assert_eq!(files.list("run").unwrap(), ["checkpoint-10", "checkpoint-2"]);
        let kinds = ["run-2", "c", "d"].map(|path| files.kind(path).unwrap());
        assert_eq!(kinds, [Kind::Folder, Kind::File(5), Kind::Missing]);
    }

    #[test]
    fn a_path_may_say_what_was_named() {
        let files = store(&["a/run/./checkpoint-2/x", "a/run/./y", "/b.safetensors/.", "a/other"]);
        assert_eq!(files.roots(), ["a/run", "/b.safetensors"]);
        for path in ["a/run/checkpoint-2/x", "/b.safetensors"] {
            assert_eq!(files.kind(path).unwrap(), Kind::File(5));
        }
        assert_eq!(files.list("a").unwrap(), ["other", "run"]);
    }

    #[test]
    fn what_is_missing_is_wanted_once() {
        let mut files = store(&["a"]);
        assert!(files.read("a", 0..9).is_err() && files.read("a", 0..9).is_err());
        assert_eq!(files.wants(), [(0, 0, 5)]);
        files.give((0, 0, 5), b"hello".to_vec());
        assert_eq!(*files.read("a", 1..4).unwrap(), *b"ell");
        assert_eq!(*files.read("a", 9..12).unwrap(), *b"");
        assert!(files.wants().is_empty());
    }
}
