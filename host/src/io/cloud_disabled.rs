//! Stand-in for object stores in a build without them: what lies there is refused, and the feature named.

use core::ops::Range;
use std::borrow::Cow;
use std::io;
use std::path::Path;

use mwa::files::Kind;
use mwa::merge::Merge;
use mwa::{Error, ErrorKind, Maybe, Result};

use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum Object {}

impl Object {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Err(refused(&path.display().to_string()))
    }

    pub(crate) fn len(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn identity(&self) -> String {
        match *self {}
    }

    pub(crate) fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        match *self {}
    }
}

/// Refuses all that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Remote;

impl Remote {
    pub(crate) fn kind(&self, path: &str) -> Maybe<Kind> {
        Err(refused(path).into())
    }

    pub(crate) fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        Err(refused(folder).into())
    }

    pub(crate) fn read(&self, path: &str, _: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        Err(refused(path).into())
    }

    pub(crate) fn object(&self, _: &str) -> Option<Object> {
        None
    }

    pub(crate) fn settle(&self) {
        unreachable!("without stores, nothing is asked for twice");
    }
}

/// Nothing is fetched.
pub(crate) struct Ahead<'a>(core::marker::PhantomData<&'a ()>);

impl<'a> Ahead<'a> {
    pub(crate) fn new(_: &'a Merge, _: Range<u64>, _: &'a Store, _: Machine) -> Option<Self> {
        None
    }

    pub(crate) fn until(&self, _: u64, _: &dyn Progress) -> Result<()> {
        Ok(())
    }

    pub(crate) fn done(&self, _: u64) {}
}

/// What is there already.
#[derive(Debug, Default)]
pub(crate) struct Fetched;

impl Fetched {
    pub(crate) fn take(&self, _: (usize, usize), _: u64, _: &mut [u8]) -> bool {
        false
    }
}

/// The error of a path in a store.
pub(crate) fn refused(path: &str) -> Error {
    Error::new(ErrorKind::Input, "lies in an object store, and this build of mwa cannot reach any")
        .file(path)
        .help("build mwa with its feature `cloud` (cargo install mwa-host --features cloud), or copy the files here")
}

/// Writing there, which is refused.
pub(crate) mod upload {
    use std::path::Path;

    use mwa::Result;

    use super::refused;
    use crate::progress::Progress;

    pub(crate) fn check(target: &Path) -> Result<()> {
        Err(refused(&target.display().to_string()))
    }

    pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
        Err(refused(&folder.display().to_string()))
    }

    pub(crate) fn publish(_: &Path, target: &Path, _: &dyn Progress) -> Result<Vec<String>> {
        Err(refused(&target.display().to_string()))
    }

    pub(crate) fn abort(target: &Path) -> Result<Vec<String>> {
        Err(refused(&target.display().to_string()))
    }
}
