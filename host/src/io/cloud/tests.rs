//! Merges from stores in memory that misbehave on order, and from a web server of this process: byte for byte the local ones.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use mwa::ErrorKind;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};

use super::store::Bucket;
use super::{Object, runtime, upload};
use crate::engine::pool::lock;
use crate::options::{MergeOptions, Options};
use crate::report::Report;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Every second read is refused for now.
    Busy,
    /// Every second body ends early, and its head says so.
    Cut,
    /// Every body ends early.
    CutAlways,
    /// Every second body is half as long as asked for, and nothing says so.
    Half,
    /// Every second answer is that of another range.
    Other,
    /// Every read of more than a head is refused for now.
    Down,
    /// Credentials have ended.
    Ended,
    /// Nobody may read.
    Closed,
    /// After so many reads, something else has taken the place of all.
    Replaced(usize),
    /// After so many changes, none is made any more: as if the process was killed there.
    Dead(usize),
    /// Every second change is made, and its answer lost.
    Lost,
}

/// A store in memory with a fault.
#[derive(Debug)]
struct Faulty {
    store: InMemory,
    fault: Mutex<Fault>,
    reads: AtomicUsize,
    /// How often each range was asked for: what fails every second time does so whatever other threads ask.
    asked: Mutex<BTreeMap<(Path, u64), usize>>,
    changes: AtomicUsize,
    /// Uploads that were begun and came to no end.
    uploads: Mutex<BTreeSet<String>>,
    /// Bytes that were given.
    given: AtomicUsize,
    /// Parts that were taken.
    parts: AtomicUsize,
}

impl Faulty {
    /// At an address, with the files of a folder.
    fn at(base: &str, folder: &FilePath, prefix: &str) -> Arc<Self> {
        let fault = Mutex::new(Fault::None);
        let store = Arc::new(Self {
            store: InMemory::new(),
            fault,
            reads: AtomicUsize::new(0),
            asked: Mutex::default(),
            changes: AtomicUsize::new(0),
            uploads: Mutex::default(),
            given: AtomicUsize::new(0),
            parts: AtomicUsize::new(0),
        });
        for (name, bytes) in files(folder) {
            let path = Path::from(format!("{prefix}/{name}"));
            runtime().block_on(store.store.put(&path, bytes.into())).unwrap();
        }
        Bucket::stand_in(base, &store);
        store
    }

    fn set(&self, fault: Fault) {
        *lock(&self.fault) = fault;
        self.reads.store(0, Ordering::Relaxed);
        self.changes.store(0, Ordering::Relaxed);
    }

    /// What becomes of a change.
    fn change<T>(&self, make: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        let fault = *lock(&self.fault);
        async move {
            if matches!(fault, Fault::Dead(after) if number >= after) {
                let (path, source) = (String::new(), "it is dead".into());
                return Err(Error::PermissionDenied { path, source });
            }
            let made = make.await?;
            if fault == Fault::Lost && number % 2 == 0 {
                return Err(generic("the connection was closed"));
            }
            Ok(made)
        }
    }

    /// All that is there.
    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let listed: Vec<_> = runtime().block_on(self.store.list(None).collect());
        let read = |meta: Result<ObjectMeta>| {
            let at = meta.unwrap().location;
            let bytes =
                runtime().block_on(async { self.store.get(&at).await.unwrap().bytes().await.unwrap() });
            (at.to_string(), bytes.to_vec())
        };
        listed.into_iter().map(read).collect()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "test", source: text.to_owned().into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.change(self.store.put_opts(at, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = *lock(&self.fault);
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let start = if let Some(GetRange::Bounded(range)) = &options.range { range.start } else { 0 };
        let times = {
            let mut asked = lock(&self.asked);
            let times = asked.entry((at.clone(), start)).or_default();
            *times += 1;
            *times
        };
        let (odd, head) = (times % 2 == 1, options.head);
        let secret = "Error performing GET https://me:pw@store/a?X-Amz-Signature=abc - Server returned non-2xx status code: ";
        match fault {
            Fault::Busy if odd => return Err(generic(&format!("{secret}503 Service Unavailable"))),
            Fault::Down if !head => return Err(generic(&format!("{secret}503 Service Unavailable"))),
            Fault::Ended => return Err(generic(&format!("{secret}400 Bad Request: ExpiredToken"))),
            Fault::Closed => {
                let source = format!("{secret}403 Forbidden: AccessDenied").into();
                return Err(Error::PermissionDenied { path: at.to_string(), source });
            }
            Fault::Other if odd && !head => {
                if let Some(GetRange::Bounded(range)) = &mut options.range
                    && range.start > 0
                {
                    *range = range.start - 1..range.end - 1;
                }
            }
            Fault::Replaced(after) if number >= after => {
                let bytes = self.store.get(at).await?.bytes().await?;
                self.store.put(at, bytes.into()).await?;
            }
            _ => {}
        }
        let result = self.store.get_opts(at, options).await?;
        if head {
            return Ok(result);
        }
        let (meta, range, attributes) =
            (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let extensions = result.extensions.clone();
        let bytes = result.bytes().await?;
        self.given.fetch_add(bytes.len(), Ordering::Relaxed);
        let half = bytes.slice(..bytes.len() / 2);
        let body: Vec<Result<_>> = match fault {
            Fault::Cut | Fault::CutAlways if odd || fault == Fault::CutAlways => {
                vec![Ok(half), Err(generic("the connection was closed"))]
            }
            Fault::Half if odd => vec![Ok(half)],
            _ => vec![Ok(bytes)],
        };
        let payload = GetResultPayload::Stream(stream::iter(body).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        if matches!(*lock(&self.fault), Fault::Dead(after) if number >= after) {
            return stream::once(async { Err(generic("it is dead")) }).boxed();
        }
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let id = self.change(self.store.create_multipart(path)).await?;
        lock(&self.uploads).insert(id.clone());
        Ok(id)
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        self.parts.fetch_add(1, Ordering::Relaxed);
        self.change(self.store.put_part(path, id, part, data)).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.change(async {
            let done = self.store.complete_multipart(path, id, parts).await?;
            lock(&self.uploads).remove(id);
            Ok(done)
        })
        .await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.change(async {
            self.store.abort_multipart(path, id).await?;
            lock(&self.uploads).remove(id);
            Ok(())
        })
        .await
    }
}

/// All files below a folder, by their path in it.
fn files(folder: &FilePath) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner)).unwrap().map(|entry| entry.unwrap()) {
            let name = mwa::files::join(&inner, entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(name);
            } else {
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn sample() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sample-run")
}

fn named(paths: &[&str]) -> Options {
    let inputs = paths.iter().map(PathBuf::from).collect();
    let given = match paths {
        [_, _, _] => r#"{"weights": [0.2, 0.3, 0.5]}"#,
        _ => r#"{"last": 3, "metric": "eval_loss"}"#,
    };
    let given = mwa::Options::parse(given).unwrap();
    Options::new(inputs, &given).unwrap()
}

/// Merge, and the files that came of it but for card and report, which name their inputs.
fn merged(paths: &[&str], how: &MergeOptions) -> mwa::Result<(Report, BTreeMap<String, Vec<u8>>)> {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let report = crate::merge(&named(paths), how, &out, &());
    if report.is_err() {
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "a failure leaves nothing");
    }
    let report = report?;
    let text = fs::read_to_string(out.join("mwa-report.json")).unwrap();
    assert!(!text.contains("Signature") && !text.contains("pw@"), "{text}");
    let mut all = files(&out);
    all.retain(|name, _| !["README.md", "mwa-report.json"].contains(&name.as_str()));
    Ok((report, all))
}

fn local() -> (Report, BTreeMap<String, Vec<u8>>) {
    merged(&[sample().to_str().unwrap()], &MergeOptions::default()).unwrap()
}

#[test]
fn a_run_in_a_store_merges_to_the_bytes_of_the_local_one_whatever_fails_for_a_while() {
    let store = Faulty::at("s3://mwa-faults", &sample(), "runs/sample");
    let (here, bytes) = local();
    for fault in [Fault::None, Fault::Busy, Fault::Cut, Fault::Half] {
        store.set(fault);
        let (there, remote) = merged(&["s3://mwa-faults/runs/sample"], &MergeOptions::default()).unwrap();
        assert!(remote == bytes, "{fault:?}");
        for (here, there) in here.inputs.iter().zip(&there.inputs) {
            assert_eq!(there.path, format!("s3://mwa-faults/runs/sample/{}", mwa::files::last(&here.name)));
            assert_eq!((there.weight, there.step), (here.weight, here.step));
            let (a, b) = (&here.files[0], &there.files[0]);
            assert_eq!((&a.blake3, a.bytes), (&b.blake3, b.bytes), "{fault:?}");
            assert!(b.identity.as_deref().is_some_and(|identity| identity.starts_with("etag ")), "{b:?}");
        }
        assert_eq!(here.outputs, there.outputs);
    }
}

#[test]
fn each_byte_is_fetched_about_once() {
    let store = Faulty::at("s3://mwa-once", &sample(), "run");
    merged(&["s3://mwa-once/run"], &MergeOptions::default()).unwrap();
    let given = store.given.load(Ordering::Relaxed);
    let weights = fs::metadata(sample().join("checkpoint-1000/adapter_model.safetensors")).unwrap().len();
    let texts: usize = files(&sample())
        .iter()
        .filter(|(name, _)| !name.ends_with(".safetensors"))
        .map(|(_, it)| it.len())
        .sum();
    let heads = 3 * (256 << 10); // what is read around the heads, for their hashes
    let most = 3 * usize::try_from(weights).unwrap() + 2 * texts + heads + 10 * (100 << 10);
    assert!(given <= most, "{given} bytes, where {most} would do");
}

#[test]
fn local_and_distant_checkpoints_are_merged_together() {
    let _store = Faulty::at("gs://mwa-mixed", &sample(), "run");
    let sample = sample();
    let path = |step: u32| sample.join(format!("checkpoint-{step}")).display().to_string();
    let all = |third: &str| merged(&[&path(900), &path(950), third], &MergeOptions::default());
    let (_, here) = all(&path(1000)).unwrap();
    let (report, there) = all("gs://mwa-mixed/run/checkpoint-1000").unwrap();
    assert_eq!(here, there);
    assert!(report.inputs[0].files[0].identity.is_none() && report.inputs[2].files[0].identity.is_some());
    // product space, whose jobs read whole modules, with little memory
    let given =
        mwa::Options::parse(r#"{"space": "product", "rank": 4, "memory": 1048576, "sha256": true}"#).unwrap();
    let how = MergeOptions::new(&given).unwrap();
    let product = |third: &str| merged(&[&path(900), &path(950), third], &how).unwrap().1;
    assert!(product(&path(1000)) == product("gs://mwa-mixed/run/checkpoint-1000"));
}

#[test]
fn what_lasts_is_an_error_that_says_what_to_do_and_no_secret() {
    let store = Faulty::at("s3://mwa-lasting", &sample(), "run");
    let tell = |fault, is_transient: bool, told: &str, help: &str| {
        store.set(fault);
        let error = merged(&["s3://mwa-lasting/run"], &MergeOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.is_transient(), is_transient, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains(help)), "{:?}", error.advice());
        assert!(error.at_file().is_some_and(|file| file.starts_with("s3://mwa-lasting/run")), "{error}");
        assert!(!error.to_string().contains("Signature") && !error.to_string().contains("pw@"), "{error}");
    };
    tell(Fault::Down, true, "cannot be reached now", "try again");
    tell(Fault::CutAlways, true, "cannot be reached now", "try again");
    tell(Fault::Ended, true, "credentials have ended", "try again");
    tell(Fault::Closed, false, "AccessDenied", "AWS_ACCESS_KEY_ID");
    // after the heads were read, while the tensors are
    tell(Fault::Replaced(40), false, "changed while it was read", "merge again");
}

#[test]
fn an_answer_of_another_range_is_refused() {
    let store = Faulty::at("s3://mwa-ranges", &sample(), "run");
    let path = "s3://mwa-ranges/run/checkpoint-1000/adapter_model.safetensors";
    let object = Object::open(FilePath::new(path)).unwrap();
    store.set(Fault::Other);
    store.reads.store(1, Ordering::Relaxed);
    let mut buffer = [0; 100];
    let error = object.read_at(&mut buffer, 17 << 10).unwrap_err();
    assert!(error.to_string().contains("another range came"), "{error}");
    let beyond = object.read_at(&mut buffer, object.len() - 10).unwrap_err();
    assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn long_ranges_and_many_threads_get_the_right_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> =
        (0..(70_u32 << 20) / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(folder.path().join("a.bin"), &bytes).unwrap();
    let store = Faulty::at("gs://mwa-long", folder.path(), "x");
    store.set(Fault::Half);
    let object = Object::open(FilePath::new("gs://mwa-long/x/a.bin")).unwrap();
    let check = |range: Range<usize>| {
        let mut buffer = vec![0; range.len()];
        object.read_at(&mut buffer, range.start as u64).unwrap();
        assert!(buffer == bytes[range.clone()], "{range:?}");
    };
    check(1..bytes.len());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for i in 0..20 {
                    let start = (thread * 20 + i) * 900_001 % (bytes_len() - 300_000);
                    check(start..start + 1 + i * 10_000);
                }
            });
        }
    });
}

const fn bytes_len() -> usize {
    70 << 20
}

#[test]
fn paths_that_are_not_there_and_folders_that_are_empty_are_told() {
    let _store = Faulty::at("s3://mwa-gone", &sample(), "run");
    let tell = |path: &str| merged(&[path], &MergeOptions::default()).unwrap_err().to_string();
    assert_eq!(tell("s3://mwa-gone/rnu"), "s3://mwa-gone/rnu: does not exist");
    assert_eq!(
        tell("s3://mwa-gone/run/checkpoint-1000/x.safetensors"),
        "s3://mwa-gone/run/checkpoint-1000/x.safetensors: does not exist"
    );
    let report = crate::weights(&named(&["s3://mwa-gone/run/"])).unwrap();
    assert_eq!(report.inputs.len(), 3);
    let given = mwa::Options::default();
    let seen = crate::inspect(FilePath::new("s3://mwa-gone/run/checkpoint-1000"), &given).unwrap();
    assert_eq!(seen.path, "s3://mwa-gone/run/checkpoint-1000");
}

/// A web server of this process: its files, and what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serve a folder as a model hub does: the way to a file is signed, and ends after so many uses.
    fn hub(folder: PathBuf, uses: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        let signed = Arc::new(Mutex::new(Signed::new()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (folder, told, signed) = (folder.clone(), Arc::clone(&told), Arc::clone(&signed));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some((path, range)) = request(&mut stream) {
                        lock(&told).push(path.clone());
                        let answer = answer(&folder, &path, range, &mut lock(&signed), uses);
                        if stream.write_all(&answer).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }
}

/// The path and the range of the next request on a connection.
fn request(stream: &mut TcpStream) -> Option<(String, Option<Range<usize>>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1)?.to_owned();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let range = range.and_then(|range| {
        let (start, last) = range.split_once('-')?;
        Some(start.parse().ok()?..last.parse::<usize>().ok()? + 1)
    });
    Some((path, range))
}

/// Of each file, the number of its signature and how often that was used.
type Signed = BTreeMap<String, (usize, usize)>;

fn answer(
    folder: &FilePath,
    path: &str,
    range: Option<Range<usize>>,
    signed: &mut Signed,
    uses: usize,
) -> Vec<u8> {
    let plain = |status: &str, more: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{more}\r\n").into_bytes()
    };
    let (file, query) = path.split_once('?').unwrap_or((path, ""));
    let Some(file) = file.strip_prefix("/resolve/") else {
        // where it lies in truth
        let Ok(bytes) = fs::read(folder.join(file.trim_start_matches("/cdn/"))) else {
            return plain("404 Not Found", "");
        };
        let signed = signed.entry(file.trim_start_matches("/cdn/").to_owned()).or_default();
        if query != format!("Signature={}", signed.0) || signed.1 >= uses {
            return plain("403 Forbidden", "");
        }
        signed.1 += 1;
        let range = range.unwrap();
        if range.start >= bytes.len() {
            return plain(
                "416 Range Not Satisfiable",
                &format!("content-range: bytes */{}\r\n", bytes.len()),
            );
        }
        let range = range.start..range.end.min(bytes.len());
        let tag = bytes.len();
        let mut answer = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {}-{}/{}\r\netag: \"t{tag}\"\r\n\r\n",
            range.len(),
            range.start,
            range.end - 1,
            bytes.len()
        )
        .into_bytes();
        answer.extend_from_slice(&bytes[range]);
        return answer;
    };
    let Ok(found) = fs::metadata(folder.join(file)) else { return plain("404 Not Found", "") };
    if !found.is_file() {
        return plain("404 Not Found", "");
    }
    let signed = signed.entry(file.to_owned()).or_default();
    *signed = (signed.0 + 1, 0);
    let (hash, len) = ("ab".repeat(32), found.len());
    plain(
        "302 Found",
        &format!(
            "location: /cdn/{file}?Signature={}\r\nx-linked-etag: \"{hash}\"\r\nx-linked-size: {len}\r\n",
            signed.0
        ),
    )
}

#[test]
fn a_hub_is_asked_once_for_the_way_to_a_file_and_again_when_that_has_ended() {
    let sample = sample();
    let path = |step: u32| sample.join(format!("checkpoint-{step}")).display().to_string();
    let server = Server::hub(sample.join("checkpoint-1000"), usize::MAX);
    let there = format!("{}/resolve/adapter_model.safetensors?token=hidden-Signature", server.address);
    let file = path(1000) + "/adapter_model.safetensors";
    let (_, here) = merged(&[&path(900), &path(950), &file], &MergeOptions::default()).unwrap();
    let (report, distant) = merged(&[&path(900), &path(950), &there], &MergeOptions::default()).unwrap();
    assert!(here == distant);
    let input = &report.inputs[2];
    assert_eq!(input.path, format!("{}/resolve/adapter_model.safetensors", server.address));
    assert_eq!(input.files[0].identity.as_deref(), Some(format!("sha256 {}", "ab".repeat(32)).as_str()));
    let is_file = |asked: &&String| asked.split('?').next() == Some("/resolve/adapter_model.safetensors");
    let resolved = |asked: &[String]| asked.iter().filter(is_file).count();
    let asked = lock(&server.asked).clone();
    // for itself, and for what lies beside it
    assert!((1..=2).contains(&resolved(&asked)), "{asked:?}");

    // a way that ends after three uses is asked for again, and the file is the same
    let server = Server::hub(sample.join("checkpoint-1000"), 3);
    let url = format!("{}/resolve/adapter_model.safetensors", server.address);
    let object = Object::open(FilePath::new(&url)).unwrap();
    let bytes = fs::read(&file).unwrap();
    for at in (0..5).map(|i| i * 7000) {
        let mut buffer = [0; 50];
        object.clone().read_at_once(&mut buffer, at);
        assert_eq!(buffer, bytes[usize::try_from(at).unwrap()..][..50]);
    }
    let asked = lock(&server.asked).clone();
    assert!((2..=3).contains(&resolved(&asked)), "{asked:?}");
}

#[test]
fn a_checkpoint_folder_on_a_web_server_is_found_by_the_names_in_it() {
    let server = Server::hub(sample(), usize::MAX);
    let folder = format!("{}/resolve/checkpoint-1000", server.address);
    let seen = crate::inspect(FilePath::new(&folder), &mwa::Options::default()).unwrap();
    let here = crate::inspect(&sample().join("checkpoint-1000"), &mwa::Options::default()).unwrap();
    let told = |seen: &crate::Inspection| {
        serde_json::to_value(seen).unwrap()["checkpoints"].as_array().map(Vec::len)
    };
    assert_eq!(told(&seen), told(&here));
    let missing = format!("{}/resolve/nothing", server.address);
    let error = crate::inspect(FilePath::new(&missing), &mwa::Options::default()).unwrap_err();
    assert!(error.to_string().ends_with("/resolve/nothing: does not exist"), "{error}");
}

impl Object {
    /// Read without what is kept.
    fn read_at_once(self, buffer: &mut [u8], at: u64) {
        let end = at + buffer.len() as u64;
        let bytes = runtime().block_on(async move { self.whole(at..end).await }).unwrap();
        buffer.copy_from_slice(&bytes);
    }
}

/// A folder with a report, a small file, and one of five parts.
fn ready(salt: u8) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap() ^ salt).collect();
    fs::create_dir(folder.path().join("inner")).unwrap();
    fs::write(folder.path().join("inner/model.safetensors"), large).unwrap();
    fs::write(folder.path().join("config.json"), [b'c', salt]).unwrap();
    fs::write(folder.path().join("mwa-report.json"), [b'r', salt]).unwrap();
    folder
}

/// A store without anything in it.
fn empty(base: &str) -> Arc<Faulty> {
    Faulty::at(base, tempfile::tempdir().unwrap().path(), "x")
}

fn expected(folder: &FilePath) -> BTreeMap<String, Vec<u8>> {
    files(folder).into_iter().map(|(name, bytes)| (format!("out/{name}"), bytes)).collect()
}

#[test]
fn a_writer_that_is_killed_at_any_step_and_begins_again_leaves_the_bytes_and_nothing_else() {
    let folder = ready(0);
    let target = FilePath::new("s3://mwa-killed/out");
    for after in 0.. {
        let store = empty("s3://mwa-killed");
        store.set(Fault::Dead(after));
        let died = upload::publish(folder.path(), target, &());
        let left = store.all();
        if left.contains_key("out/mwa-report.json") {
            let all = expected(folder.path());
            assert!(all.iter().all(|(name, bytes)| left.get(name) == Some(bytes)), "{after}");
            assert!(died.is_ok(), "{after}: what is there is there");
            if died.unwrap().is_empty() {
                assert!(after >= 8, "{after}");
                return;
            }
            continue;
        }
        assert!(died.is_err(), "{after}");
        store.set(Fault::None);
        // either begun again, or taken away
        if after % 2 == 0 {
            store.parts.store(0, Ordering::Relaxed);
            assert_eq!(upload::publish(folder.path(), target, &()).unwrap(), Vec::<String>::new(), "{after}");
            // what is there already is not sent again
            let sent = if left.contains_key("out/inner/model.safetensors") { 0 } else { 5 };
            assert_eq!(store.parts.load(Ordering::Relaxed), sent, "{after}");
            assert!(store.all() == expected(folder.path()), "{after}: {:?}", store.all().keys());
        } else {
            upload::abort(target).unwrap();
            assert!(store.all().is_empty(), "{after}: {:?}", store.all().keys());
        }
        // an upload that was begun by a step before its name was written down is what rules of buckets are for
        assert!(lock(&store.uploads).len() <= 1, "{after}: {:?}", lock(&store.uploads));
    }
}

#[test]
fn a_writer_whose_answers_are_lost_writes_all_the_same() {
    let folder = ready(0);
    let store = empty("gs://mwa-lost");
    store.set(Fault::Lost);
    upload::publish(folder.path(), FilePath::new("gs://mwa-lost/out"), &()).unwrap();
    assert!(store.all() == expected(folder.path()), "{:?}", store.all().keys());
}

#[test]
fn a_failure_leaves_nothing_and_what_others_began_is_left_to_them() {
    let (one, other) = (ready(0), ready(1));
    let target = FilePath::new("s3://mwa-others/out");
    let store = empty("s3://mwa-others");
    store.set(Fault::Dead(3));
    upload::publish(one.path(), target, &()).unwrap_err();
    store.set(Fault::None);
    let before = store.all();
    assert!(before.contains_key("out/mwa-order.json"), "{:?}", before.keys());
    let error = upload::publish(other.path(), target, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Output);
    assert!(error.to_string().contains("another merge is being written there"), "{error}");
    assert!(error.advice().unwrap().contains("--abort"));
    assert!(store.all() == before);
    upload::check(target).unwrap();
    upload::abort(target).unwrap();
    assert!(store.all().is_empty());
    // something of a stranger's is neither written over nor taken away
    let strange = Path::from("out/mine.txt");
    runtime().block_on(store.store.put(&strange, PutPayload::from_static(b"mine"))).unwrap();
    let error = upload::check(target).unwrap_err();
    assert!(error.to_string().contains("holds mine.txt"), "{error}");
    upload::publish(one.path(), target, &()).unwrap_err();
    upload::abort(target).unwrap();
    assert_eq!(store.all().into_keys().collect::<Vec<_>>(), ["out/mine.txt"]);
}

#[test]
fn two_writers_of_the_same_leave_it_once() {
    let folder = ready(0);
    let target = FilePath::new("gs://mwa-two/out");
    for _ in 0..20 {
        let store = empty("gs://mwa-two");
        let write = || upload::publish(folder.path(), target, &());
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(write);
            (write(), a.join().unwrap())
        });
        assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
        let all = store.all();
        let weights = |name: &&String| !name.contains("mwa-order");
        assert!(expected(folder.path()).keys().eq(all.keys().filter(weights)), "{:?}", all.keys());
    }
}

#[test]
fn a_merge_goes_from_store_to_store_and_is_verified_there() {
    let store = Faulty::at("s3://mwa-whole", &sample(), "runs/sample");
    let (here, bytes) = local();
    let (from, out) = ("s3://mwa-whole/runs/sample", FilePath::new("s3://mwa-whole/merged"));
    let report = crate::merge(&named(&[from]), &MergeOptions::default(), out, &()).unwrap();
    assert_eq!(report.outputs, here.outputs);
    let mut there: BTreeMap<_, _> = store
        .all()
        .into_iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix("merged/")?.to_owned(), bytes)))
        .collect();
    let report = there.remove("mwa-report.json").unwrap();
    assert!(there.remove("README.md").is_some() && there == bytes);
    let again = crate::merge(&named(&[from]), &MergeOptions::default(), out, &()).unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
    let machine = MergeOptions::default().machine;
    let verified = crate::verify(out, machine, &()).unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!(verified.inputs.len(), 3);
    // an input that another took the place of, and an output
    let put = |name: &str, bytes: Vec<u8>| {
        runtime().block_on(store.store.put(&Path::from(name), bytes.into())).unwrap();
    };
    put("merged/adapter_model.safetensors", vec![0; bytes["adapter_model.safetensors"].len()]);
    let verified = crate::verify(out, machine, &()).unwrap();
    assert!(verified.outputs[0].state == crate::State::Changed && !verified.is_good());
    put("merged/adapter_model.safetensors", bytes["adapter_model.safetensors"].clone());
    let newest = "runs/sample/checkpoint-1000/adapter_model.safetensors";
    put(newest, store.all()[newest].clone());
    let inputs = crate::verify(out, machine, &()).unwrap().inputs;
    let text = String::from_utf8(report).unwrap();
    let changed = inputs.iter().filter(|it| it.state == crate::State::Changed).count();
    assert_eq!(changed, usize::from(text.contains("checkpoint-1000")), "{inputs:?}");
    put("merged/strange.safetensors", vec![1]);
    let others = crate::verify(out, machine, &()).unwrap().others;
    assert_eq!(
        others.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(),
        ["s3://mwa-whole/merged/strange.safetensors"]
    );
}
