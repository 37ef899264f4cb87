//! What a host must be able to do with files: a disk, a page's files and an object store look alike from here.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use crate::error::{Error, ErrorKind};

/// Files by path. Paths are what the user gave and what was found in it; names in them are parted by `/`.
///
/// A store that may not wait, such as a page's, notes what is asked for and answers [`Stop::Later`]; when it has read that, it
/// is asked the same again. What the system refuses is [`Stop::Failed`], never "there is no such file".
pub trait Files {
    /// What a path is.
    ///
    /// # Errors
    /// When the system does not say.
    fn kind(&self, path: &str) -> Maybe<Kind>;

    /// The names of all that lies in a folder, sorted, each once.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn list(&self, folder: &str) -> Maybe<Vec<String>>;

    /// Bytes of a file, as far as the file goes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>>;

    /// The same text for two paths that lead to one place.
    ///
    /// # Errors
    /// When the system does not say.
    fn identity(&self, path: &str) -> Maybe<String> {
        Ok(path.to_string())
    }
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with this many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A pipe, a device or the like: reading it might wait for ever.
    Other,
    /// Nothing is there, or a link that leads to nothing.
    Missing,
}

/// Why something cannot be had now.
#[derive(Clone, Debug)]
pub enum Stop {
    /// It must be read first, and is noted as wanted.
    Later,
    /// It is bad.
    Failed(Error),
}

/// Something that may have to be read first.
pub type Maybe<T> = core::result::Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// Name the file, unless a callee already named one.
    #[must_use]
    pub fn file(self, name: &str) -> Self {
        match self {
            Self::Later => Self::Later,
            Self::Failed(error) => Self::Failed(error.file(name)),
        }
    }
}

/// What is wrong with a pipe or a device: opening it might wait for ever.
pub(crate) const NO_FILE: &str = "is neither a file nor a folder";

/// All results, or the reason why not. Everything is asked for before the first thing that must be read stops this.
pub(crate) fn all<T>(results: impl IntoIterator<Item = Maybe<T>>) -> Maybe<Vec<T>> {
    let mut found = Vec::new();
    let mut later = false;
    for result in results {
        match result {
            Ok(value) => found.push(value),
            Err(Stop::Later) => later = true,
            // what comes before it may be worse
            Err(Stop::Failed(_)) if later => {}
            Err(failed) => return Err(failed),
        }
    }
    if later { Err(Stop::Later) } else { Ok(found) }
}

/// What was found; nothing if it failed, where that says nothing of what is wanted.
pub(crate) fn told<T>(result: Maybe<T>) -> Maybe<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Stop::Failed(_)) => Ok(None),
        Err(Stop::Later) => Err(Stop::Later),
    }
}

/// Whether a path is a regular file. A pipe or a device in its place is refused.
pub(crate) fn is_file(files: &dyn Files, path: &str) -> Maybe<bool> {
    match files.kind(path)? {
        Kind::File(_) => Ok(true),
        Kind::Folder | Kind::Missing => Ok(false),
        Kind::Other => Err(Error::new(ErrorKind::Input, NO_FILE).file(path).into()),
    }
}

/// Whether a path is a folder.
pub(crate) fn is_folder(files: &dyn Files, path: &str) -> Maybe<bool> {
    Ok(files.kind(path)? == Kind::Folder)
}

/// Those of the paths that are folders, all asked for at once.
pub(crate) fn folders(files: &dyn Files, paths: impl IntoIterator<Item = String>) -> Maybe<Vec<String>> {
    let each = paths.into_iter().map(|path| Ok(is_folder(files, &path)?.then_some(path)));
    Ok(all(each)?.into_iter().flatten().collect())
}

/// Bytes of a regular file.
pub(crate) fn size(files: &dyn Files, path: &str) -> Maybe<u64> {
    let refused = |detail: &'static str| Error::new(ErrorKind::Input, detail).file(path);
    match files.kind(path)? {
        Kind::File(size) => Ok(size),
        Kind::Folder => Err(refused("is a folder where a file is wanted").into()),
        Kind::Other => Err(refused(NO_FILE).into()),
        Kind::Missing => Err(refused("does not exist").into()),
    }
}

/// A whole file of at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::Input`] for what is not a regular file or is larger.
pub(crate) fn bytes<'a>(files: &'a dyn Files, path: &str, limit: u64) -> Maybe<Cow<'a, [u8]>> {
    let size = size(files, path)?;
    if size > limit {
        let detail = format!("has {size} bytes, far more than such a file needs; the limit is {limit}");
        return Err(Error::new(ErrorKind::Input, detail).file(path).into());
    }
    files.read(path, 0..size)
}

/// A whole file as text, of at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::Input`] for what is not a regular file, is larger, or is not UTF-8.
pub fn text<'a>(files: &'a dyn Files, path: &str, limit: u64) -> Maybe<Cow<'a, str>> {
    let no_text = || Error::new(ErrorKind::Input, "is not text in UTF-8").file(path);
    Ok(match bytes(files, path, limit)? {
        Cow::Borrowed(bytes) => Cow::Borrowed(core::str::from_utf8(bytes).map_err(|_| no_text())?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| no_text())?),
    })
}

/// Whether a path in a folder is a link that leads out of it.
pub(crate) fn leads_out(files: &dyn Files, folder: &str, path: &str) -> Maybe<bool> {
    let places = all([folder, path].map(|path| files.identity(path)))?;
    Ok(!is_within(&places[0], &places[1]))
}

/// Whether a place lies in a folder, both without links: what is published must be what is there. Links of a download
/// cache, from `snapshots/REVISION` to the `blobs` beside it, stay within what was downloaded.
#[must_use]
pub fn is_within(folder: &str, place: &str) -> bool {
    const PARTS: [char; 2] = ['/', '\\'];
    const SNAPSHOTS: &str = "snapshots";
    let is_in = |folder: &str| {
        let rest = place.strip_prefix(folder.trim_end_matches(PARTS));
        rest.is_some_and(|rest| rest.starts_with(PARTS))
    };
    let is_part = |at: usize| {
        let (before, after) = (&folder[..at], &folder[at + SNAPSHOTS.len()..]);
        before.ends_with(PARTS) && (after.is_empty() || after.starts_with(PARTS))
    };
    let cache = folder.rmatch_indices(SNAPSHOTS).map(|(at, _)| at).find(|at| is_part(*at));
    folder.is_empty() || is_in(folder) || cache.is_some_and(|at| is_in(&format!("{}blobs", &folder[..at])))
}

/// A path in a folder; the folder without a name is where paths begin.
#[must_use]
pub fn join(folder: &str, path: &str) -> String {
    match folder {
        "" => path.into(),
        _ if folder.ends_with('/') => format!("{folder}{path}"),
        _ => format!("{folder}/{path}"),
    }
}

/// The last part of a path.
#[must_use]
pub fn last(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// The path less its last part; empty for what lies where paths begin.
#[must_use]
pub fn parent(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => "",
    }
}

/// Whether a name leads to something in its folder, and nowhere else.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Whether a path leads to something in its folder, or in the folders in it, and nowhere else.
#[must_use]
pub fn is_inside(path: &str) -> bool {
    path.split('/').all(is_plain)
}

#[cfg(test)]
pub(crate) mod memory {
    //! Files in memory, which may answer "later" to everything that was not asked for before.

    use core::cell::RefCell;

    use super::*;

    /// Files by path, sorted.
    #[derive(Default)]
    pub(crate) struct Memory {
        pub(crate) files: Vec<(String, Vec<u8>)>,
        /// Paths that the system refuses to look at.
        pub(crate) refused: Vec<String>,
        /// Listed, but not there; or there, but no file.
        pub(crate) odd: Vec<(String, Kind)>,
        /// Whether what is read must be asked for twice.
        pub(crate) asks_again: bool,
        pub(crate) asked: RefCell<Vec<(String, Range<u64>)>>,
    }

    impl Memory {
        pub(crate) fn new<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
            let mut files: Vec<_> =
                files.into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect();
            files.sort();
            Self { files, ..Self::default() }
        }

        pub(crate) fn write(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
            self.files.retain(|(known, _)| known != path);
            self.files.push((path.to_string(), bytes.into()));
            self.files.sort();
        }

        fn check(&self, path: &str) -> crate::error::Result<()> {
            if self.refused.iter().any(|refused| refused == path) {
                return Err(Error::new(ErrorKind::Io, "cannot open it: the disk fails").file(path));
            }
            Ok(())
        }
    }

    impl Files for Memory {
        fn kind(&self, path: &str) -> Maybe<Kind> {
            self.check(path)?;
            let odd = self.odd.iter().find(|(odd, _)| odd == path);
            let file = self.files.iter().find(|(known, _)| known == path);
            let inside = join(path, "");
            let is_folder = self.files.iter().any(|(known, _)| known.starts_with(&inside));
            Ok(match (odd, file) {
                (Some((_, kind)), _) => *kind,
                (_, Some((_, bytes))) => Kind::File(bytes.len() as u64),
                _ if is_folder => Kind::Folder,
                _ => Kind::Missing,
            })
        }

        fn list(&self, folder: &str) -> Maybe<Vec<String>> {
            self.check(folder)?;
            let inside = join(folder, "");
            let paths = self.files.iter().map(|(path, _)| path).chain(self.odd.iter().map(|(path, _)| path));
            let names = paths.filter_map(|path| path.strip_prefix(&inside)?.split('/').next());
            let mut names: Vec<_> = names.map(String::from).collect();
            names.sort();
            names.dedup();
            Ok(names)
        }

        fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
            self.check(path)?;
            let wanted = (path.to_string(), range.clone());
            if self.asks_again && !self.asked.borrow().contains(&wanted) {
                self.asked.borrow_mut().push(wanted);
                return Err(Stop::Later);
            }
            let (_, bytes) = self.files.iter().find(|(known, _)| known == path).expect("kind() says so");
            let end = usize::try_from(range.end).unwrap().min(bytes.len());
            Ok(Cow::Borrowed(&bytes[usize::try_from(range.start).unwrap().min(end)..end]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_put_together() {
        for (path, folder, name) in
            [("a/b", "a", "b"), ("b", "", "b"), ("/b", "/", "b"), ("a/b/", "a", "b"), ("./b", ".", "b")]
        {
            assert_eq!((parent(path), last(path)), (folder, name), "{path}");
        }
        assert_eq!([join("", "b"), join("/", "b"), join("a", "b")], ["b", "/b", "a/b"]);
    }

    #[test]
    fn links_may_lead_within_a_folder_or_a_download_cache() {
        for (folder, place, is_inside) in [
            ("/a/b", "/a/b/c", true),
            ("/a/b", "/a/bc", false),
            ("/", "/a", true),
            ("", "a", true),
            ("/hub/snapshots/1", "/hub/blobs/2", true),
            ("/hub/snapshots/1/2_Dense", "/hub/blobs/2", true),
            ("/hub/my-snapshots/1", "/hub/my-blobs/2", false),
            ("/hub/snapshots/1", "/hub/refs/2", false),
        ] {
            assert_eq!(is_within(folder, place), is_inside, "{folder} {place}");
        }
    }

    #[test]
    fn a_failure_waits_for_what_comes_before_it() {
        let failed = || Err(Stop::Failed(Error::new(ErrorKind::Io, "x")));
        assert!(matches!(all([Ok(1), Err(Stop::Later), failed()]), Err(Stop::Later)));
        assert!(matches!(all([Ok(1), failed(), Err(Stop::Later)]), Err(Stop::Failed(_))));
        assert_eq!(all([Ok(1), Ok(2)]).unwrap(), [1, 2]);
    }

    #[test]
    fn a_text_is_a_regular_file_of_bounded_size() {
        let mut files = memory::Memory::new([("a", b"hello".to_vec()), ("b", [0xff].into())]);
        files.odd.push(("pipe".into(), Kind::Other));
        let detail = |path, limit| match text(&files, path, limit) {
            Err(Stop::Failed(error)) => error.to_string(),
            Err(Stop::Later) => "later".into(),
            Ok(text) => text.into_owned(),
        };
        assert_eq!(detail("a", 5), "hello");
        assert_eq!(detail("a", 4), "a: has 5 bytes, far more than such a file needs; the limit is 4");
        assert_eq!(detail("b", 4), "b: is not text in UTF-8");
        assert_eq!(detail("pipe", 4), "pipe: is neither a file nor a folder");
        assert_eq!(detail("c", 4), "c: does not exist");
    }
}
