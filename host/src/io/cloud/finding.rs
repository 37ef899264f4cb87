//! Finding: the core asks again until nothing is left to be fetched; all that it wants at a time is fetched at once.

use core::ops::Range;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::stream::{self, StreamExt as _};
use mwa::files::{Kind, last, parent};
use mwa::{Maybe, Stop};

use super::{Entries, Entry, Failure, Object, entries, look, runtime};
use crate::engine::pool::lock;
use crate::io::url::is_url;

/// Requests at a time.
const AT_ONCE: usize = 64;

/// What lies elsewhere, as far as it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Remote(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What lies in folders; none where there is no such folder.
    folders: HashMap<String, Result<Entries, Failure>>,
    /// What was looked for by itself.
    files: HashMap<String, Result<Option<Object>, Failure>>,
    pieces: HashMap<(String, u64, u64), Result<Vec<u8>, Failure>>,
    wanted: Vec<Want>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    Folder(String),
    File(String),
    Piece(String, Range<u64>),
}

enum Got {
    Folder(Result<Entries, Failure>),
    File(Result<Option<Object>, Failure>),
    Piece(Result<Vec<u8>, Failure>),
}

impl Remote {
    pub(crate) fn kind(&self, path: &str) -> Maybe<Kind> {
        Ok(match lock(&self.0).find(path)? {
            None => Kind::Missing,
            Some(Entry::Folder) => Kind::Folder,
            Some(Entry::File(object)) => Kind::File(object.len()),
        })
    }

    pub(crate) fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        let folder = folder.trim_end_matches('/');
        let mut state = lock(&self.0);
        let mut names: Vec<_> = state.entries(folder)?.keys().cloned().collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(crate) fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        let mut state = lock(&self.0);
        let Some(Entry::File(object)) = state.find(path)? else {
            return Err(Failure::Missing.of(path).into());
        };
        let range = range.start.min(object.len())..range.end.min(object.len());
        match state.pieces.get(&(path.to_owned(), range.start, range.end)) {
            Some(Ok(bytes)) => Ok(Cow::Owned(bytes.clone())),
            Some(Err(failure)) => Err(failure.clone().of(path).into()),
            None => Err(state.want(Want::Piece(path.to_owned(), range))),
        }
    }

    /// The object that was found at a path.
    pub(crate) fn object(&self, path: &str) -> Option<Object> {
        match lock(&self.0).find(path) {
            Ok(Some(Entry::File(object))) => Some(object),
            _ => None,
        }
    }

    /// Fetch all that was asked for.
    pub(crate) fn settle(&self) {
        let wanted = core::mem::take(&mut lock(&self.0).wanted);
        let mut tasks = Vec::new();
        for want in wanted {
            let object = if let Want::Piece(path, _) = &want { self.object(path) } else { None };
            tasks.push(async move {
                let got = match (&want, object) {
                    (Want::Folder(path), _) => Got::Folder(entries(path.clone()).await),
                    (Want::File(path), _) => Got::File(look(path.clone()).await),
                    (Want::Piece(_, range), Some(object)) => Got::Piece(object.whole(range.clone()).await),
                    (Want::Piece(..), None) => Got::Piece(Err(Failure::Missing)),
                };
                (want, got)
            });
        }
        let done: Vec<_> =
            runtime().block_on(stream::iter(tasks).buffer_unordered(AT_ONCE).collect::<Vec<_>>());
        let mut state = lock(&self.0);
        for (want, got) in done {
            match (want, got) {
                (Want::Folder(path), Got::Folder(got)) => drop(state.folders.insert(path, got)),
                (Want::File(path), Got::File(got)) => drop(state.files.insert(path, got)),
                (Want::Piece(path, range), Got::Piece(got)) => {
                    state.pieces.insert((path, range.start, range.end), got);
                }
                _ => unreachable!("each answer is to its question"),
            }
        }
    }
}

impl State {
    fn want(&mut self, want: Want) -> Stop {
        if !self.wanted.contains(&want) {
            self.wanted.push(want);
        }
        Stop::Later
    }

    /// What lies in a folder, once that is known.
    fn entries(&mut self, folder: &str) -> Maybe<&Entries> {
        if !self.folders.contains_key(folder) {
            return Err(self.want(Want::Folder(folder.to_owned())));
        }
        match &self.folders[folder] {
            Ok(entries) => Ok(entries),
            Err(failure) => Err(failure.clone().of(folder).into()),
        }
    }

    /// What lies at a path.
    fn find(&mut self, path: &str) -> Maybe<Option<Entry>> {
        let path = path.trim_end_matches('/');
        if !is_url(path) {
            return Ok(None);
        }
        let above = parent(path);
        // a list of the folder above tells of all that is in it; whether that may be listed is not known of what the user named
        if is_url(above) && self.is_folder(above) {
            return Ok(self.entries(above)?.get(last(path)).cloned());
        }
        if self.is_file(above) {
            return Ok(None);
        }
        // a folder and a file of one name can both be there, and the folder is meant: a file's name has an ending
        let has_ending = last(path).contains('.') && is_url(above);
        let order = if has_ending { [false, true] } else { [true, false] };
        for is_folder in order {
            if is_folder {
                if !self.entries(path)?.is_empty() {
                    return Ok(Some(Entry::Folder));
                }
            } else if is_url(above) {
                match self.files.get(path) {
                    None => return Err(self.want(Want::File(path.to_owned()))),
                    Some(Ok(Some(object))) => return Ok(Some(Entry::File(object.clone()))),
                    Some(Ok(None)) => {}
                    Some(Err(failure)) => return Err(failure.clone().of(path).into()),
                }
            }
        }
        Ok(None)
    }

    /// Whether a path is known to be a file, so that nothing is in it.
    fn is_file(&self, path: &str) -> bool {
        let listed = self.folders.get(parent(path)).and_then(|above| above.as_ref().ok());
        let is_listed = matches!(listed.and_then(|entries| entries.get(last(path))), Some(Entry::File(_)));
        is_listed || matches!(self.files.get(path), Some(Ok(Some(_))))
    }

    /// Whether a path is known to be a folder.
    fn is_folder(&self, path: &str) -> bool {
        if let Some(known) = self.folders.get(path) {
            return known.as_ref().is_ok_and(|entries| !entries.is_empty());
        }
        let listed = self.folders.get(parent(path)).and_then(|above| above.as_ref().ok());
        matches!(listed.and_then(|entries| entries.get(last(path))), Some(Entry::Folder))
    }
}
