//! Files in object stores and on web servers: looked up, read by ranges that many threads ask for at once, and written by parts.
//!
//! All requests run on a runtime of two threads of its own. Whoever wants bytes asks and is called when they are there
//! ([`Object::fetch`]), or waits ([`Object::read_at`]). Every answer is compared with what was asked for: its length, its place, and
//! whether the object is still the one whose head was read.

mod ahead;
mod finding;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod upload;
mod web;

use core::ops::Range;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use mwa::{Error, ErrorKind, Result};
use tokio::runtime::Runtime;

use crate::engine::pool::lock;
use crate::io::disk::changed;
use crate::io::url::{is_url, scrubbed};

pub(crate) use ahead::{Ahead, Fetched};
pub(crate) use finding::Remote;
use store::Bucket;
use web::Page;

/// Most bytes of one request: fewer requests are cheaper, and a broken one is not much to ask for again.
const REQUEST: u64 = 32 << 20;
/// How often a request is tried that failed for no lasting reason, beyond what the store's client tries by itself.
const TRIES: u32 = 5;
/// Small reads fetch so many bytes, for the next is likely to follow.
const NEARBY: u64 = 64 << 10;
/// The largest read that is kept for the next.
const KEPT: u64 = 16 << 20;
/// Bytes of all reads that are kept.
const ALL_KEPT: u64 = 128 << 20;

/// What carries out requests.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // who has chosen another before us is welcome to it
        let _ = rustls::crypto::ring::default_provider().install_default();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("mwa-fetch")
            .enable_all()
            .build()
            .expect("two threads can be started")
    })
}

/// An object as it was when it was first looked at.
#[derive(Clone, Debug)]
pub(crate) struct Object(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    len: u64,
    identity: Identity,
    lies: Lies,
}

/// Where an object lies.
#[derive(Debug)]
enum Lies {
    Bucket(Bucket, object_store::path::Path),
    Page(Page),
}

/// What a request comes to.
type Outcome<T> = core::result::Result<T, Failure>;

/// What tells an object from what may take its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity {
    /// As HTTP has it, quotes included.
    etag: Option<String>,
    version: Option<String>,
    /// In hex, where the server says it.
    sha256: Option<String>,
    modified: Option<String>,
}

impl Identity {
    /// For the report: the kind first.
    fn told(&self) -> String {
        let kinds = [("sha256", &self.sha256), ("version", &self.version), ("etag", &self.etag)];
        let known = kinds.into_iter().find_map(|(kind, value)| Some((kind, value.as_ref()?)));
        let known = known.or_else(|| Some(("modified", self.modified.as_ref()?)));
        known.map_or_else(|| "size".into(), |(kind, value)| format!("{kind} {}", value.trim_matches('"')))
    }
}

/// Why a request failed.
#[derive(Clone, Debug)]
enum Failure {
    /// Nothing is there.
    Missing,
    /// Something else is there by now.
    Changed,
    /// It may go well another time.
    Transient(String),
    /// It will not.
    Final(String, Option<&'static str>),
}

impl Failure {
    /// The same of a file that is read, in words.
    fn of(self, url: &str) -> Error {
        self.told(url, "vanished while it was read", "cannot be read")
    }

    /// The same of a file that is written.
    fn while_writing(self, url: &str) -> Error {
        self.told(url, "vanished while it was written", "cannot be written")
    }

    fn told(self, url: &str, vanished: &'static str, cannot: &str) -> Error {
        let io = |detail: String| Error::new(ErrorKind::Io, detail).file(url);
        match self {
            Self::Missing => io(vanished.into()),
            Self::Changed => changed(Path::new(url)),
            Self::Transient(why) => io(format!("cannot be reached now: {}", short(&why)))
                .transient()
                .help("try again: what failed may be over; exit code 75 says so to programs"),
            Self::Final(why, help) => {
                let error = io(format!("{cannot}: {}", short(&why)));
                if let Some(help) = help { error.help(help) } else { error }
            }
        }
    }
}

/// Words of a server, as far as people read them, without secrets.
fn short(why: &str) -> String {
    let text = scrubbed(&why.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}

/// Try until it goes well or will not.
async fn again<T>(ask: impl Fn() -> BoxFuture<'static, Outcome<T>>) -> Outcome<T> {
    let mut wait = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
    for _ in 1..TRIES {
        match ask().await {
            Err(Failure::Transient(_)) => {}
            done => return done,
        }
        tokio::time::sleep(wait).await;
        wait *= 3;
    }
    ask().await
}

impl Object {
    /// The object at an address.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let url = path.to_str().filter(|url| is_url(url)).expect("the caller has seen that it is an address");
        match runtime().block_on(look(url.to_owned())) {
            Ok(Some(object)) => Ok(object),
            Ok(None) => Err(Error::new(ErrorKind::Input, "does not exist").file(url)),
            Err(failure) => Err(failure.of(url)),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.0.len
    }

    /// What tells it from others, for the report: a kind, and what the store says.
    pub(crate) fn identity(&self) -> String {
        self.0.identity.told()
    }

    /// Fetch a range, and tell `done` when it is there, on another thread.
    fn fetch(&self, range: Range<u64>, done: impl FnOnce(Result<Vec<u8>>) + Send + 'static) {
        let object = self.clone();
        runtime().spawn(async move {
            let fetched = object.whole(range).await.map_err(|failure| failure.of(&object.0.url));
            done(fetched);
        });
    }

    /// Fill `buffer` from byte `at` on, and wait for it.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at + buffer.len() as u64;
        if end > self.0.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let wide = at..end.max((at + NEARBY).min(self.0.len));
        let found = if wide.end - wide.start > KEPT {
            (at, Arc::new(self.wait(at..end)?))
        } else {
            self.kept(&(at..end), wide)?
        };
        let (start, bytes) = found;
        let from = usize::try_from(at - start).expect("it lies in memory");
        buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
        Ok(())
    }

    fn wait(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let object = self.clone();
        let fetched = runtime().block_on(async move { object.whole(range).await });
        fetched.map_err(|failure| io::Error::other(failure.of(&self.0.url)))
    }

    /// Bytes that hold `range`: those of an earlier read, or fetched as `wide`.
    fn kept(&self, range: &Range<u64>, wide: Range<u64>) -> io::Result<(u64, Arc<Vec<u8>>)> {
        static READS: LazyLock<Mutex<VecDeque<Kept>>> = LazyLock::new(Mutex::default);
        let holds = |kept: &Kept| {
            let end = kept.start + kept.bytes.len() as u64;
            kept.url == self.0.url
                && kept.identity == self.0.identity
                && kept.start <= range.start
                && range.end <= end
        };
        {
            let mut reads = lock(&READS);
            if let Some(at) = reads.iter().position(holds) {
                let kept = reads.remove(at).expect("it was found there");
                let found = (kept.start, Arc::clone(&kept.bytes));
                reads.push_front(kept);
                return Ok(found);
            }
        }
        let start = wide.start;
        let bytes = Arc::new(self.wait(wide)?);
        let mut reads = lock(&READS);
        let (url, identity) = (self.0.url.clone(), self.0.identity.clone());
        reads.push_front(Kept { url, identity, start, bytes: Arc::clone(&bytes) });
        let mut sum = 0;
        let fit = reads.iter().take_while(|kept| {
            sum += kept.bytes.len() as u64;
            sum <= ALL_KEPT
        });
        let fit = fit.count().max(1);
        reads.truncate(fit);
        Ok((start, bytes))
    }

    /// A range, by as many requests at once as it takes.
    async fn whole(&self, range: Range<u64>) -> Outcome<Vec<u8>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if range.end - range.start <= REQUEST {
            return self.request(range).await;
        }
        let starts = core::iter::successors(Some(range.start), |at| Some(at + REQUEST));
        let ranges = starts.take_while(|at| *at < range.end).map(|at| at..range.end.min(at + REQUEST));
        let pieces = try_join_all(ranges.map(|range| self.request(range))).await?;
        Ok(pieces.concat())
    }

    /// A range by one request, tried again as long as that may help.
    async fn request(&self, range: Range<u64>) -> Outcome<Vec<u8>> {
        again(|| {
            let (object, range) = (self.clone(), range.clone());
            async move {
                let bytes = match &object.0.lies {
                    Lies::Bucket(bucket, path) => bucket.get(path, range.clone(), &object.0.identity).await?,
                    Lies::Page(page) => page.get(range.clone(), object.0.len).await?,
                };
                // a body that agrees with its own head passes for whole everywhere else
                if bytes.len() as u64 == range.end - range.start {
                    Ok(bytes)
                } else {
                    Err(Failure::Transient(format!(
                        "{} bytes came where {} were asked for",
                        bytes.len(),
                        range.end - range.start
                    )))
                }
            }
            .boxed()
        })
        .await
    }
}

/// Bytes that were read.
struct Kept {
    url: String,
    identity: Identity,
    start: u64,
    bytes: Arc<Vec<u8>>,
}

/// The object at an address, if one is there.
async fn look(url: String) -> Outcome<Option<Object>> {
    let found = again(|| {
        let url = url.clone();
        async move {
            if web::is_web(&url) {
                let (page, len, identity) = Page::open(&url).await?;
                return Ok(Object(Arc::new(Inner { url, len, identity, lies: Lies::Page(page) })));
            }
            let (bucket, path) = Bucket::of(&url)?;
            let (len, identity) = bucket.head(&path).await?;
            Ok(Object(Arc::new(Inner { url, len, identity, lies: Lies::Bucket(bucket, path) })))
        }
        .boxed()
    });
    match found.await {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Missing) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What lies in a folder, by name.
type Entries = HashMap<String, Entry>;

/// What has a name in a folder.
#[derive(Clone, Debug)]
enum Entry {
    File(Object),
    Folder,
}

/// What lies in a folder; nothing where there is none.
async fn entries(folder: String) -> Outcome<Entries> {
    again(|| {
        let folder = folder.clone();
        async move {
            if web::is_web(&folder) { web::entries(&folder).await } else { store::entries(&folder).await }
        }
        .boxed()
    })
    .await
}
