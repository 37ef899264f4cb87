//! Writing into a store: a folder that is there whole, with its report, or not at all.
//!
//! A merge lies ready on this machine before the first byte goes out, so that what will be written is known by its hashes. These are
//! the order, and [`CLAIM`] holds it: put if nothing is there, it lets one order write at a place. Whoever finds a claim of the same
//! order is to write the same bytes, and goes on: a merge that was killed and begun again, or a second one beside it. Parts of large
//! files are seen by nobody before their file is completed; the report, by which a folder is a merge, is put last, when
//! all else was read back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use futures_util::FutureExt as _;
use mwa::report::{CARD, CONFIG, REPORT};
use mwa::{Error, ErrorKind, Result};
use object_store::multipart::PartId;
use object_store::{PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::store::{Bucket, failure};
use super::{Entry, Failure, Object, Outcome, again, entries, runtime};
use crate::engine::pool::{lock, share};
use crate::io::disk::{io_error, read_at};
use crate::io::hash::blake3_of;
use crate::progress::{Progress, stopped};

/// What is to be written at a place, by whoever writes there.
const CLAIM: &str = "mwa-order.json";
/// How the names begin of what a writer has begun.
const BEGUN: &str = "mwa-order.";
/// Bytes of a part, unless there would be too many parts; all parts but the last are of one size.
const PART: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// How many parts an object may have.
const MOST_PARTS: u64 = 10_000;
/// Parts on their way at a time.
const AT_ONCE: usize = 4;

/// What lies ready to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ready {
    name: String,
    bytes: u64,
    blake3: String,
}

/// The order of a place.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    mwa: String,
    files: Vec<Ready>,
}

/// The uploads that a writer has begun: name and what the store calls it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Begun {
    uploads: Vec<(String, String)>,
}

/// A folder in a store that is written.
struct Target {
    url: String,
    bucket: Bucket,
}

/// Refuse a place that holds something, unless it is what a merge left that was not finished.
pub(crate) fn check(target: &Path) -> Result<()> {
    Target::of(target)?.found().map(drop)
}

/// All that lies below a folder in a store, by its path in it.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    Ok(names_below(&folder.display().to_string())?.into_keys().collect())
}

fn names_below(place: &str) -> Result<BTreeMap<String, Object>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(inner) = folders.pop() {
        let url = mwa::files::join(place, inner.trim_end_matches('/'));
        let listed = runtime().block_on(entries(url.trim_end_matches('/').to_owned()));
        for (name, entry) in listed.map_err(|failure| failure.of(place))? {
            let name = format!("{inner}{name}");
            match entry {
                Entry::Folder => folders.push(name + "/"),
                Entry::File(object) => drop(found.insert(name, object)),
            }
        }
    }
    Ok(found)
}

/// Put a folder of this machine at `target`.
pub(crate) fn publish(folder: &Path, target: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    let target = Target::of(target)?;
    let order = order(folder, progress)?;
    let claimed = target.claim(&order)?;
    let own = format!("{BEGUN}{:016x}.json", nonce());
    let written = target.write(folder, &order, &own, progress);
    if let Err(error) = written {
        // another writer of the same bytes may have been quicker, and has taken the uploads away
        if target.is_done(&order, progress) {
            let _ = target.end(&own);
            return Ok(Vec::new());
        }
        // what cannot be taken away now is taken away by the next, or by --abort
        let _ = target.leave(&order, &own, claimed);
        return Err(error);
    }
    let mut notes = Vec::new();
    if let Err(error) = target.clear() {
        notes.push(format!(
            "{}: all is there, but not all traces of writing could be removed: {error}",
            target.url
        ));
    }
    Ok(notes)
}

/// Take away what a merge that was not finished has left at `target`; what was done, in words.
pub(crate) fn abort(target: &Path) -> Result<Vec<String>> {
    let target = Target::of(target)?;
    let names = target.names()?;
    if names.contains_key(REPORT) {
        let detail = "holds a merge that was finished; --abort takes away only what was not";
        return Err(Error::new(ErrorKind::Output, detail)
            .file(target.url)
            .help("remove it with the store's own tools"));
    }
    let Some(order) = target.read::<Order>(CLAIM)? else {
        return Ok(vec![format!("{}: no merge was begun there; nothing is to be taken away", target.url)]);
    };
    let mut removed = 0;
    for name in order.files.iter().map(|file| &file.name).filter(|name| names.contains_key(*name)) {
        target.remove(name)?;
        removed += 1;
    }
    let uploads = target.clear()?;
    Ok(vec![format!(
        "{}: what a merge has left is gone: {removed} files, {uploads} uploads that were begun, and its claim",
        target.url
    )])
}

impl Target {
    fn of(target: &Path) -> Result<Self> {
        let url = target.display().to_string();
        if super::web::is_web(&url) {
            let detail = "is on a web server, which cannot be written to";
            return Err(Error::new(ErrorKind::Output, detail)
                .file(url)
                .help("write to a folder, s3://, gs:// or az://"));
        }
        let (bucket, path) = Bucket::of(&url).map_err(|failure| failure.while_writing(&url))?;
        if path.as_ref().is_empty() {
            let detail = "is a whole bucket, not a folder in one";
            return Err(Error::new(ErrorKind::Output, detail).file(url).help("name a folder in it"));
        }
        Ok(Self { url, bucket })
    }

    fn at(&self, name: &str) -> Result<(String, object_store::path::Path)> {
        let url = format!("{}/{name}", self.url);
        let (_, path) = Bucket::of(&url).map_err(|failure| failure.while_writing(&url))?;
        Ok((url, path))
    }

    /// All objects below the place, by their path in it.
    fn names(&self) -> Result<BTreeMap<String, Object>> {
        names_below(&self.url)
    }

    /// What lies at the place, which is nothing but what an unfinished merge has left.
    fn found(&self) -> Result<BTreeMap<String, Object>> {
        let names = self.names()?;
        let refuse = |detail: String, help: &'static str| {
            Err(Error::new(ErrorKind::Output, detail).file(self.url.clone()).help(help))
        };
        if names.contains_key(REPORT) {
            return refuse(
                "exists already, and a store cannot put one folder in the place of another in one step"
                    .into(),
                "choose another output folder, or remove this one with the store's own tools",
            );
        }
        let order = if names.contains_key(CLAIM) { self.read::<Order>(CLAIM)? } else { None };
        let is_ours = |name: &str| {
            name.starts_with(BEGUN)
                || order.as_ref().is_some_and(|order| order.files.iter().any(|file| file.name == name))
        };
        match names.keys().find(|name| !is_ours(name)) {
            Some(other) => refuse(
                format!("holds {other}, which no unfinished merge has written"),
                "choose another output folder, or move that elsewhere",
            ),
            None => Ok(names),
        }
    }

    /// Let no other order be written there; whether the claim was made now.
    fn claim(&self, order: &Order) -> Result<bool> {
        let text = serde_json::to_vec_pretty(order).expect("it is plain data");
        let made = self.put(CLAIM, text, PutMode::Create);
        let there = self.read::<Order>(CLAIM)?;
        match there {
            // the answer may be lost while the claim is made: what is there tells
            Some(there) if there == *order => {}
            Some(_) => {
                let detail = "another merge is being written there, or was begun and not finished";
                return Err(Error::new(ErrorKind::Output, detail).file(self.url.clone()).help(
                    "choose another output folder; if none is running, take away what is left: mwa merge … --abort",
                ));
            }
            None => {
                // another merge may have come to its end just now
                self.found()?;
                made?;
                return Err(self.vanished());
            }
        }
        // another may have come to its end since it was looked
        if let Err(error) = self.found() {
            if made.is_ok() {
                let _ = self.remove(CLAIM);
            }
            return Err(error);
        }
        Ok(made.is_ok())
    }

    fn vanished(&self) -> Error {
        Error::new(ErrorKind::Io, "what was written there vanished: another process takes it away")
            .file(self.url.clone())
            .transient()
            .help("the same command again writes it; let one process at a time write there")
    }

    /// Write all files that are not there yet, read them back, and the report last.
    fn write(&self, folder: &Path, order: &Order, own: &str, progress: &dyn Progress) -> Result<()> {
        let mut begun = Begun::default();
        let note = |begun: &Begun| {
            let text = serde_json::to_vec(begun).expect("it is plain data");
            self.put(own, text, PutMode::Overwrite)
        };
        // first of all: another writer of the same that gives up leaves alone what somebody still writes
        note(&begun)?;
        let names = self.names()?;
        let is_there = |file: &&Ready| {
            let found = names.get(&file.name).is_some_and(|found| found.len() == file.bytes);
            found && self.check_back(file, progress).is_ok()
        };
        let missing = order.files.iter().filter(|file| !is_there(file));
        let (large, small): (Vec<_>, Vec<_>) = missing.partition(|file| file.bytes > PART);
        for file in &large {
            let (url, path) = self.at(&file.name)?;
            let id = runtime()
                .block_on(self.bucket.begin(&path))
                .map_err(|failure| failure.while_writing(&url))?;
            begun.uploads.push((file.name.clone(), id));
            // at once, or an upload of a process that is killed here would never be found again
            note(&begun)?;
        }
        let mut all_parts = Vec::new();
        for (file, (_, id)) in large.iter().zip(&begun.uploads) {
            all_parts.push(self.parts(folder, file, id, progress)?);
        }
        for ((file, (_, id)), parts) in large.iter().zip(&begun.uploads).zip(all_parts) {
            let (url, path) = self.at(&file.name)?;
            let done = runtime().block_on(self.bucket.complete(&path, id, parts));
            // an answer may be lost, or another writer of the same bytes was quicker: what is there decides
            self.check_back(file, progress).map_err(|error| match done {
                Err(failure) => failure.while_writing(&url),
                Ok(()) => error,
            })?;
        }
        for file in &small {
            if progress.stopped() {
                return Err(stopped());
            }
            if file.name == REPORT {
                let names = self.names()?;
                if !names.contains_key(CLAIM)
                    || order.files.iter().any(|it| it != *file && !names.contains_key(&it.name))
                {
                    return Err(self.vanished());
                }
            }
            let place = folder.join(&file.name);
            let bytes = fs::read(&place).map_err(|error| unreadable(&place, &error))?;
            self.put(&file.name, bytes, PutMode::Overwrite)?;
            self.check_back(file, progress)?;
        }
        Ok(())
    }

    /// Upload the parts of a file, some at a time.
    fn parts(&self, folder: &Path, file: &Ready, id: &str, progress: &dyn Progress) -> Result<Vec<PartId>> {
        let (url, path) = self.at(&file.name)?;
        let place = folder.join(&file.name);
        let source = File::open(&place).map_err(|error| unreadable(&place, &error))?;
        let size = file.bytes.div_ceil(MOST_PARTS).next_multiple_of(PART);
        let count = file.bytes.div_ceil(size);
        let done = Mutex::new(BTreeMap::new());
        share((0..count).map(|part| (part, ())), AT_ONCE, progress, |(): &mut (), part, ()| {
            progress.waiting(&url);
            let start = part * size;
            let len = usize::try_from(size.min(file.bytes - start)).expect("a part is in memory");
            let mut bytes = vec![0; len];
            read_at(&source, &mut bytes, start).map_err(|error| unreadable(&place, &error))?;
            let number = usize::try_from(part).expect("there are 10,000 at most");
            let put = self.bucket.put_part(&path, id, number, bytes);
            let put = runtime().block_on(put).map_err(|failure| failure.while_writing(&url))?;
            lock(&done).insert(part, put);
            Ok(())
        })?;
        Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect())
    }

    /// Fail unless an object holds what was written.
    fn check_back(&self, file: &Ready, progress: &dyn Progress) -> Result<()> {
        let (url, _) = self.at(&file.name)?;
        if blake3_of(Path::new(&url), AT_ONCE, progress)? == file.blake3 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "holds other bytes than were written")
            .file(url)
            .help("another process writes there, or the store is broken: choose another output folder"))
    }

    /// Whether the report of this order is there, so that all is.
    fn is_done(&self, order: &Order, progress: &dyn Progress) -> bool {
        let report = order.files.iter().find(|file| file.name == REPORT);
        report.is_some_and(|report| self.check_back(report, progress).is_ok())
    }

    /// After a failure: leave nothing that is this writer's, and nothing at all if it is the only one.
    fn leave(&self, order: &Order, own: &str, claimed: bool) -> Result<()> {
        self.end(own)?;
        let names = self.names()?;
        if !claimed
            || names.contains_key(REPORT)
            || names.keys().any(|name| name.starts_with(BEGUN) && name != CLAIM)
        {
            return Ok(());
        }
        for file in order.files.iter().filter(|file| names.contains_key(&file.name)) {
            self.remove(&file.name)?;
        }
        self.remove(CLAIM)
    }

    /// Take away all claims and uploads; how many uploads.
    fn clear(&self) -> Result<usize> {
        let names = self.names()?;
        let mut uploads = 0;
        for name in names.keys().filter(|name| name.starts_with(BEGUN) && *name != CLAIM) {
            uploads += self.end(name)?;
        }
        if names.contains_key(CLAIM) {
            self.remove(CLAIM)?;
        }
        Ok(uploads)
    }

    /// Abort the uploads of a writer, and forget them; how many there were.
    fn end(&self, writer: &str) -> Result<usize> {
        let Some(begun) = self.read::<Begun>(writer)? else { return Ok(0) };
        for (name, id) in &begun.uploads {
            let (_, path) = self.at(name)?;
            // one that was completed is gone
            let _ = runtime().block_on(self.bucket.abort(&path, id));
        }
        self.remove(writer)?;
        Ok(begun.uploads.len())
    }

    fn put(&self, name: &str, bytes: Vec<u8>, mode: PutMode) -> Result<()> {
        let (url, path) = self.at(name)?;
        runtime().block_on(self.bucket.put(&path, bytes, mode)).map_err(|failure| failure.while_writing(&url))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let (url, path) = self.at(name)?;
        match runtime().block_on(self.bucket.delete(&path)) {
            Ok(()) | Err(Failure::Missing) => Ok(()),
            Err(failure) => Err(failure.while_writing(&url)),
        }
    }

    /// A small text of ours, if it is there.
    fn read<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Option<T>> {
        let (url, _) = self.at(name)?;
        let found = runtime().block_on(async {
            let Some(object) = super::look(url.clone()).await? else { return Ok(None) };
            object.whole(0..object.len()).await.map(Some)
        });
        let text = match found {
            Ok(Some(text)) => text,
            Ok(None) | Err(Failure::Missing) => return Ok(None),
            Err(failure) => return Err(failure.of(&url)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::Output, format!("is not a claim of mwa's: {error}"))
                .file(url)
                .help("choose another output folder, or remove it with the store's own tools")
        })
    }
}

/// The files of a folder in the order in which they are written: weights, what lies beside them, configs and indexes, the report.
fn order(folder: &Path, progress: &dyn Progress) -> Result<Order> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let place = folder.join(&inner);
        let failed =
            |error: std::io::Error| io_error("cannot list it", &error).file(place.display().to_string());
        for entry in fs::read_dir(&place).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = inner.join(entry.file_name());
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = entry.metadata().map_err(failed)?.len();
            let blake3 = blake3_of(&entry.path(), AT_ONCE, progress)?;
            let name = path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
            files.push(Ready { name, bytes, blake3 });
        }
    }
    let rank = |name: &str| match name {
        REPORT => 3,
        // by which programs take a folder for a model
        CONFIG | "config.json" => 2,
        _ if name.ends_with(".index.json") => 2,
        CARD => 1,
        _ if name.ends_with(".safetensors") => 0,
        _ => 1,
    };
    files.sort_by(|a, b| (rank(&a.name), &a.name).cmp(&(rank(&b.name), &b.name)));
    Ok(Order { mwa: env!("CARGO_PKG_VERSION").to_owned(), files })
}

/// A number that no other writer has.
fn nonce() -> u64 {
    use core::hash::{BuildHasher as _, Hasher as _};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    io_error("cannot read it", error).file(path.display().to_string())
}

impl Bucket {
    async fn begin(&self, path: &object_store::path::Path) -> Outcome<String> {
        again(|| {
            let (bucket, path) = (self.clone(), path.clone());
            async move { bucket.parts.0.create_multipart(&path).await.map_err(|error| failure(&error)) }
                .boxed()
        })
        .await
    }

    async fn put_part(
        &self,
        path: &object_store::path::Path,
        id: &str,
        number: usize,
        bytes: Vec<u8>,
    ) -> Outcome<PartId> {
        let payload = object_store::PutPayload::from(bytes);
        again(|| {
            let (bucket, path, id, payload) = (self.clone(), path.clone(), id.to_owned(), payload.clone());
            async move {
                let put = bucket.parts.0.put_part(&path, &id, number, payload).await;
                put.map_err(|error| failure(&error))
            }
            .boxed()
        })
        .await
    }

    async fn complete(&self, path: &object_store::path::Path, id: &str, parts: Vec<PartId>) -> Outcome<()> {
        again(|| {
            let (bucket, path, id, parts) = (self.clone(), path.clone(), id.to_owned(), parts.clone());
            async move {
                let done = bucket.parts.0.complete_multipart(&path, &id, parts).await;
                done.map(drop).map_err(|error| failure(&error))
            }
            .boxed()
        })
        .await
    }

    async fn abort(&self, path: &object_store::path::Path, id: &str) -> Outcome<()> {
        let id = id.to_owned();
        self.parts.0.abort_multipart(path, &id).await.map_err(|error| failure(&error))
    }

    async fn put(&self, path: &object_store::path::Path, bytes: Vec<u8>, mode: PutMode) -> Outcome<()> {
        let payload = object_store::PutPayload::from(bytes);
        again(|| {
            let (bucket, path, payload) = (self.clone(), path.clone(), payload.clone());
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            async move {
                let put = bucket.store.put_opts(&path, payload, options).await;
                put.map(drop).map_err(|error| failure(&error))
            }
            .boxed()
        })
        .await
    }

    async fn delete(&self, path: &object_store::path::Path) -> Outcome<()> {
        use object_store::ObjectStoreExt as _;
        again(|| {
            let (bucket, path) = (self.clone(), path.clone());
            async move { bucket.store.delete(&path).await.map_err(|error| failure(&error)) }.boxed()
        })
        .await
    }
}
