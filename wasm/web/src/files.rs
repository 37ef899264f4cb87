//! The files that JavaScript offers, by path: what there is, and what of it was read so far.
//!
//! Nothing here waits. What is asked for and not yet read is remembered as wanted; the caller reads it and asks again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use mwa::{Error, ErrorKind, Index};

/// A byte range of a file, by the file's number.
pub(crate) type Piece = (usize, u64, u64);

/// The offered files. A folder is there when a file lies in it; paths use `/`.
///
/// As in rsync, `/./` in a path ends the part that the user named: `runs/a/./checkpoint-1/x` lies in `runs/a`, and
/// `b.safetensors/.` is a file named itself. Where no path says so, its first part was named.
#[derive(Debug, Default)]
pub(crate) struct Files {
    paths: Vec<(String, u64)>,
    /// What the user named, once, in order.
    roots: Vec<String>,
    /// Sorted; of several with one path the last counts.
    numbers: Vec<(String, usize)>,
    /// Sorted.
    read: Vec<(Piece, Vec<u8>)>,
    wanted: RefCell<Vec<Piece>>,
}

/// Why something cannot be had now.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It must be read first; it is noted as wanted.
    Unread,
    /// It is bad.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Something that may have to be read first.
pub(crate) type Maybe<T> = Result<T, Stop>;

impl Files {
    /// Files by path and size, in the order in which the user gave them.
    pub(crate) fn new(paths: Vec<(String, u64)>) -> Self {
        let named: Vec<_> = paths.iter().filter_map(|(path, _)| Some(named_and_rest(path)?.0)).collect();
        let firsts = || paths.iter().filter_map(|(path, _)| path.split('/').next()).collect();
        let named: Vec<&str> = if named.is_empty() { firsts() } else { named };
        let index = Index::new(named.iter().copied());
        let once = named.iter().enumerate().filter(|(i, root)| index.is_first(root, *i));
        let roots = once.map(|(_, root)| String::from(*root)).collect();
        let whole = |(path, size): (String, u64)| match named_and_rest(&path) {
            Some((root, "")) => (root.into(), size),
            Some((root, rest)) => (join(root, rest), size),
            None => (path, size),
        };
        let paths: Vec<_> = paths.into_iter().map(whole).collect();
        let mut numbers: Vec<_> = paths.iter().map(|(path, _)| path.clone()).zip(0..).collect();
        numbers.sort_unstable();
        Self { paths, roots, numbers, ..Self::default() }
    }

    /// What the user named, once, in order.
    pub(crate) fn roots(&self) -> &[String] {
        &self.roots
    }

    pub(crate) fn number(&self, path: &str) -> Option<usize> {
        let after = self.numbers.partition_point(|(other, _)| other.as_str() <= path);
        let (other, number) = self.numbers.get(after.checked_sub(1)?)?;
        (other == path).then_some(*number)
    }

    pub(crate) fn size(&self, number: usize) -> u64 {
        self.paths[number].1
    }

    pub(crate) fn is_file(&self, path: &str) -> bool {
        self.number(path).is_some()
    }

    pub(crate) fn is_folder(&self, path: &str) -> bool {
        self.names(path).next().is_some()
    }

    /// What lies in a folder, sorted; a name may occur more than once. The folder without a name holds all.
    pub(crate) fn names<'a>(&'a self, folder: &str) -> impl Iterator<Item = &'a str> {
        let start = join(folder, "");
        let len = start.len();
        let first = self.numbers.partition_point(|(path, _)| *path < start);
        let inside = self.numbers[first..].iter().take_while(move |(path, _)| path.starts_with(&start));
        inside.map(move |(path, _)| path[len..].split('/').next().unwrap_or_default())
    }

    /// Bytes of a file, as far as the file goes.
    pub(crate) fn bytes(&self, number: usize, range: Range<u64>) -> Maybe<&[u8]> {
        let end = range.end.min(self.size(number));
        if range.start >= end {
            return Ok(&[]);
        }
        let piece = (number, range.start, end);
        match self.read.binary_search_by_key(&piece, |(other, _)| *other) {
            Ok(at) => Ok(&self.read[at].1),
            Err(_) => {
                self.wanted.borrow_mut().push(piece);
                Err(Stop::Unread)
            }
        }
    }

    /// The first bytes of a file, which were read when it was opened.
    pub(crate) fn head(&self, number: usize, len: u64) -> &[u8] {
        let first = self.read.partition_point(|(piece, _)| *piece < (number, 0, len));
        let (piece, bytes) = &self.read[first];
        assert!((piece.0, piece.1) == (number, 0), "opening a checkpoint reads its heads");
        &bytes[..usize::try_from(len).expect("a head is at most 100 MB")]
    }

    /// A whole file as text.
    pub(crate) fn text(&self, path: &str) -> Maybe<&str> {
        let failed = |detail: &'static str| Error::new(ErrorKind::Io, detail).file(path);
        let number = self.number(path).ok_or_else(|| failed("is not among the files given"))?;
        let bytes = self.bytes(number, 0..self.size(number))?;
        core::str::from_utf8(bytes).map_err(|_| failed("is not text in UTF-8").into())
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
}

/// The part of a path that the user named, and what follows, if the path says so.
fn named_and_rest(path: &str) -> Option<(&str, &str)> {
    path.split_once("/./").or_else(|| Some((path.strip_suffix("/.")?, "")))
}

/// A path in a folder; the folder without a name is where paths begin.
pub(crate) fn join(folder: &str, path: &str) -> String {
    if folder.is_empty() { path.into() } else { format!("{folder}/{path}") }
}

/// The last part of a path.
pub(crate) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The path less its last part; empty for what lies at the top.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_what_files_lie_in() {
        let paths = ["run/checkpoint-2/a", "run/checkpoint-10/a", "run-2/b", "c"];
        let files = Files::new(paths.iter().map(|path| ((*path).to_owned(), 1)).collect());
        assert_eq!(files.roots(), ["run", "run-2", "c"]);
        assert_eq!(files.names("run").collect::<Vec<_>>(), ["checkpoint-10", "checkpoint-2"]);
        assert!(files.is_folder("run-2") && !files.is_folder("c") && files.is_file("c"));
    }

    #[test]
    fn a_path_may_say_what_was_named() {
        let paths = ["a/run/./checkpoint-2/x", "a/run/./y", "/b.safetensors/.", "a/other"];
        let files = Files::new(paths.iter().map(|path| ((*path).to_owned(), 1)).collect());
        assert_eq!(files.roots(), ["a/run", "/b.safetensors"]);
        assert!(files.is_file("a/run/checkpoint-2/x") && files.is_file("/b.safetensors"));
        assert_eq!(files.names("a").collect::<Vec<_>>(), ["other", "run", "run"]);
        assert_eq!(files.names("").collect::<Vec<_>>(), ["", "a", "a", "a"]);
    }

    #[test]
    fn what_is_missing_is_wanted_once() {
        let mut files = Files::new(vec![("a".into(), 5)]);
        assert!(files.bytes(0, 0..9).is_err() && files.bytes(0, 0..9).is_err());
        assert_eq!(files.wants(), [(0, 0, 5)]);
        files.give((0, 0, 5), b"hello".to_vec());
        assert_eq!(files.text("a").unwrap(), "hello");
        assert!(files.wants().is_empty());
    }
}
