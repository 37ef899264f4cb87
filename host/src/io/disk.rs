//! The files of this machine: what lies where, byte ranges, and whether an input changes underneath.

use core::ops::Range;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use mwa::files::Kind;
use mwa::safetensors::Header;
use mwa::{Error, ErrorKind, Files, Maybe, Readers, Result, Stop};

use crate::engine::pool::lock;
use crate::io::cloud::{Object, Remote};
use crate::io::open::{is_beyond_limit, soft_limit};
use crate::io::url::{is_elsewhere, is_url};

/// An input file.
#[derive(Debug)]
pub(crate) struct InputFile {
    /// The file as it was found.
    pub(crate) path: PathBuf,
    /// Its tensors, and where their bytes are.
    pub(crate) header: Header,
    lies: Lies,
}

/// Where a file lies, with enough to notice that another takes its place.
#[derive(Debug)]
enum Lies {
    Here(Stamp),
    Elsewhere(Object),
}

/// Enough to notice that a file was replaced or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Fail if the file is another by now.
    fn check(&self, path: &Path) -> Result<()> {
        let at = |error: Error| error.file(path.display().to_string());
        let now = fs::metadata(path).map_err(|error| at(io_error("vanished while it was read", &error)))?;
        if Self::of(&now) == *self {
            return Ok(());
        }
        Err(changed(path))
    }
}

/// A file is no longer what it was.
pub(crate) fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Io, "changed while it was read")
        .file(path.display().to_string())
        .help("merge again when nothing writes to it any more")
}

impl InputFile {
    /// A file that the core opened on this disk.
    pub(crate) fn of(file: mwa::checkpoint::File, disk: &Disk) -> Self {
        let lies = match disk.remote.object(&file.path) {
            Some(object) => Lies::Elsewhere(object),
            None => Lies::Here(disk.stamp(&file.path)),
        };
        Self { path: path_of(&file.path), header: file.header, lies }
    }

    /// Open a file by itself.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let disk = Disk::default();
        let text = text_of(path)?;
        let file = disk.now(|| mwa::checkpoint::File::open(&disk, &Readers::ALL, &text))?;
        Ok(Self::of(file, &disk))
    }

    /// Some tensors of a file, as `header` names them.
    pub(crate) fn lying(path: &Path, header: Header) -> Result<Self> {
        let failed = |error| io_error("cannot open it", &error).file(path.display().to_string());
        let stamp = Stamp::of(&fs::metadata(path).map_err(failed)?);
        Ok(Self { path: path.to_owned(), header, lies: Lies::Here(stamp) })
    }

    /// Its length in bytes, when it was first looked at.
    pub(crate) fn len(&self) -> u64 {
        match &self.lies {
            Lies::Here(stamp) => stamp.len,
            Lies::Elsewhere(object) => object.len(),
        }
    }

    /// What it is in a store, if it lies in one.
    pub(crate) fn object(&self) -> Option<&Object> {
        match &self.lies {
            Lies::Here(_) => None,
            Lies::Elsewhere(object) => Some(object),
        }
    }

    /// Fail if the file is no longer what its head was read from.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        match &self.lies {
            Lies::Here(stamp) => stamp.check(&self.path),
            // each request has asked for the one that was found
            Lies::Elsewhere(_) => Ok(()),
        }
    }
}

/// A file that is open, wherever it lies.
#[derive(Debug)]
pub(crate) enum Opened {
    Here(File),
    Elsewhere(Object),
}

impl Opened {
    /// Open a file to be read, that a stranger may have named.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        if is_elsewhere(path) {
            Object::open(path).map(Self::Elsewhere)
        } else {
            open_regular(path).map(Self::Here)
        }
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Here(file) => Ok(file.metadata()?.len()),
            Self::Elsewhere(object) => Ok(object.len()),
        }
    }

    pub(crate) fn by_ref(&self) -> Bytes<'_> {
        match self {
            Self::Here(file) => Bytes::Here(file),
            Self::Elsewhere(object) => Bytes::Elsewhere(object),
        }
    }
}

/// What bytes are read from.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'a> {
    Here(&'a File),
    Elsewhere(&'a Object),
}

impl Bytes<'_> {
    /// Fill `buffer` from byte `offset` on.
    pub(crate) fn read_at(self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Here(file) => read_at(file, buffer, offset),
            Self::Elsewhere(object) => object.read_at(buffer, offset),
        }
    }

    /// The same with what is there of it: how many bytes, 0 at the end.
    pub(crate) fn read_some_at(self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Here(file) => read_some_at(file, buffer, offset),
            Self::Elsewhere(object) => {
                let left = object.len().saturating_sub(offset);
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                object.read_at(&mut buffer[..count], offset).map(|()| count)
            }
        }
    }
}

/// Open a file to be read that a stranger named, in a report or an index: a pipe or a device would be waited for.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    regular(path).map_err(|error| {
        let error = if error.get_ref().is_some() {
            Error::new(ErrorKind::Input, NOT_REGULAR)
        } else {
            io_error("cannot open it", &error)
        };
        error.file(path.display().to_string())
    })
}

/// The same, with an error as the system gives it.
pub(crate) fn regular(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        let at_once = rustix::fs::OFlags::NONBLOCK.bits();
        options.custom_flags(at_once.try_into().expect("a flag of the system's own calls"));
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NOT_REGULAR)) }
}

const NOT_REGULAR: &str = "is not a regular file";

/// The files of this machine. It remembers what they were when they were first looked at, so that nothing is asked twice.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What lies at paths, with a stamp where that is a file.
    kinds: Mutex<HashMap<String, (Kind, Option<Stamp>)>>,
    /// What is in folders.
    lists: Mutex<HashMap<String, Vec<String>>>,
    /// What lies in stores.
    remote: Remote,
}

impl Disk {
    /// What the core makes of these files. It is asked again when what lies elsewhere was fetched that it wanted.
    pub(crate) fn now<T>(&self, mut ask: impl FnMut() -> Maybe<T>) -> Result<T> {
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Later) => self.remote.settle(),
            }
        }
    }

    /// What a file was when it was first looked at.
    fn stamp(&self, path: &str) -> Stamp {
        let known = lock(&self.kinds).get(path).and_then(|(_, stamp)| stamp.clone());
        known.expect("the core asks what a file is before it reads it")
    }
}

#[cfg(feature = "wasm")]
impl Disk {
    /// Fail if a file is no longer what it was when it was first looked at.
    pub(crate) fn check_unchanged(&self, path: &str) -> Result<()> {
        self.stamp(path).check(&path_of(path))
    }
}

impl Files for Disk {
    fn kind(&self, path: &str) -> Maybe<Kind> {
        if is_url(path) {
            return self.remote.kind(path);
        }
        if let Some((kind, _)) = lock(&self.kinds).get(path) {
            return Ok(*kind);
        }
        let found = match fs::metadata(path_of(path)) {
            Ok(metadata) if metadata.is_dir() => (Kind::Folder, None),
            Ok(metadata) if metadata.is_file() => (Kind::File(metadata.len()), Some(Stamp::of(&metadata))),
            Ok(_) => (Kind::Other, None),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                (Kind::Missing, None)
            }
            Err(error) => return Err(io_error("cannot open it", &error).file(path).into()),
        };
        Ok(lock(&self.kinds).entry(path.to_owned()).or_insert(found).0)
    }

    fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        if is_url(folder) {
            return self.remote.list(folder);
        }
        if let Some(names) = lock(&self.lists).get(folder) {
            return Ok(names.clone());
        }
        let failed = |error: io::Error| io_error("cannot list it", &error).file(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(path_of(folder)).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        lock(&self.lists).insert(folder.to_owned(), names.clone());
        Ok(names)
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        if is_url(path) {
            return self.remote.read(path, range);
        }
        let read = || {
            let mut file = regular(&path_of(path))?;
            file.seek(io::SeekFrom::Start(range.start))?;
            let mut bytes = Vec::new();
            file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map(Cow::Owned).map_err(|error| io_error("cannot read it", &error).file(path).into())
    }

    fn identity(&self, path: &str) -> Maybe<String> {
        if is_url(path) {
            return Ok(path.trim_end_matches('/').to_owned());
        }
        let place = fs::canonicalize(path_of(path));
        place
            .map(|place| place.display().to_string())
            .map_err(|error| io_error("cannot open it", &error).file(path).into())
    }
}

/// What lies at a path, wherever that is.
pub(crate) fn kind_of(path: &Path) -> Result<Kind> {
    let (disk, text) = (Disk::default(), text_of(path)?);
    disk.now(|| disk.kind(&text))
}

/// A path as the core knows it.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Input, "has a name that is not UTF-8")
            .file(path.display().to_string())
            .help("rename it, or give it through a link with another name")
    })?;
    Ok(if cfg!(windows) { text.replace('\\', "/") } else { text.to_owned() })
}

/// A path as the system knows it.
pub(crate) fn path_of(path: &str) -> PathBuf {
    PathBuf::from(if path.is_empty() { "." } else { path })
}

/// Fill `buffer` from byte `offset` of `file` on, leaving the file's position alone where the system can.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            let n =
                std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], offset + done as u64)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += n;
        }
        Ok(())
    }
}

/// As [`read_at`], but what is there of it: how many bytes, 0 at the end.
pub(crate) fn read_some_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, buffer, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, buffer, offset);
}

/// Write all of `bytes` at byte `offset` of `file`.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            done += std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset + done as u64)?;
        }
        Ok(())
    }
}

/// An operating system error with what was being done.
pub(crate) fn io_error(doing: &str, error: &io::Error) -> Error {
    // a store says by itself what was wrong
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return error.clone();
    }
    if is_beyond_limit(error) {
        let limit = soft_limit().map_or(String::new(), |limit| format!(", now {limit}"));
        return Error::new(ErrorKind::Io, format!("{doing}: {error}")).help(format!(
            "raise the limit on open files (ulimit -n{limit}), or close some in other programs"
        ));
    }
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => Some("check the permissions of the file and of its folder"),
        io::ErrorKind::FileTooLarge => {
            Some("raise the limit on file sizes (ulimit -f), or write to another file system")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space, or write elsewhere")
        }
        _ => None,
    };
    // temporary files have names that nobody has heard of
    let error = error.to_string();
    let error = error.split(" at path \"").next().unwrap_or(&error);
    let made = Error::new(ErrorKind::Io, format!("{doing}: {error}"));
    if let Some(help) = help { made.help(help) } else { made }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_name_the_limit() {
        let error = io_error("cannot open it", &io::Error::from_raw_os_error(24));
        let limit = soft_limit().map_or(String::new(), |limit| format!(", now {limit}"));
        let help =
            format!("raise the limit on open files (ulimit -n{limit}), or close some in other programs");
        assert_eq!(error.advice(), Some(&*help));
    }
}
