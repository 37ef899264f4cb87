//! The files of a merge, those read and those written, for all threads of an engine; each byte is hashed as it passes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use mwa::digest::{Digest, Part};
use mwa::merge::Hash;
use mwa::safetensors::Header;
use mwa::{Read, Result, Write};

use crate::engine::pool::{lock, share};
use crate::engine::timings::Timings;
use crate::io::cloud::{Fetched, Object};
use crate::io::disk::{self, Bytes, InputFile, io_error};
use crate::io::hash::{pieces, sha256};
use crate::io::open::OpenFiles;
use crate::io::write_back::WriteBack;
use crate::options::Machine;
use crate::progress::{Progress, stopped};

/// Bytes of a file in a store that are fetched for its hash alone, whatever its length.
const NEARLY: u64 = 16 << 20;

/// A file of an input.
struct Source {
    path: PathBuf,
    /// What puts its views in order, if it has any.
    views: Option<Header>,
    /// Its number among the open files.
    number: usize,
    /// What it is in a store, if it lies in one.
    object: Option<Object>,
    digest: Mutex<Digest>,
}

/// A file that is written.
struct Target {
    path: PathBuf,
    digest: Mutex<Digest>,
}

/// The hashes of each input's files, and of each output.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    pub(crate) inputs: Vec<Vec<Hash>>,
    pub(crate) outputs: Vec<Hash>,
}

/// The hashes of each input's files, for many merges of the same.
pub(crate) type Known = Arc<Vec<Vec<Hash>>>;

/// The files of each input, and those of the output, which exist already.
pub(crate) struct Store {
    inputs: Vec<Vec<Source>>,
    outputs: Vec<Target>,
    open: OpenFiles,
    /// The number of the first output among the open files.
    first: usize,
    /// Whether files are to have SHA-256 too.
    sha256: bool,
    /// The hashes of the inputs, where an earlier merge of the same files has made them.
    known: Option<Known>,
    back: WriteBack,
    /// What was fetched for the jobs that run now.
    fetched: Mutex<Option<Arc<Fetched>>>,
    pub(crate) timings: Timings,
}

impl Store {
    /// Nothing is written yet.
    pub(crate) fn new<'a>(inputs: impl Iterator<Item = &'a [InputFile]>, sha256: bool) -> Self {
        let mut number = 0;
        let mut source = |file: &InputFile| {
            number += 1;
            let views = (!file.header.is_in_place()).then(|| file.header.clone());
            let digest = Mutex::new(Digest::new(file.len()));
            let object = file.object().cloned();
            Source { path: file.path.clone(), views, number: number - 1, object, digest }
        };
        let inputs = inputs.map(|files| files.iter().map(&mut source).collect()).collect();
        Self::of(inputs, number, sha256)
    }

    /// The same, with the hashes of the inputs, if they are known: then these are not hashed.
    pub(crate) fn knowing(self, known: Option<Known>) -> Self {
        Self { known, ..self }
    }

    /// Files of that many bytes that are read as they lie, each an input of its own.
    #[cfg(feature = "wasm")]
    pub(crate) fn plain(files: impl ExactSizeIterator<Item = (PathBuf, u64)>, sha256: bool) -> Self {
        let first = files.len();
        let source = |(number, (path, len))| {
            vec![Source { path, views: None, number, object: None, digest: Mutex::new(Digest::new(len)) }]
        };
        Self::of(files.enumerate().map(source).collect(), first, sha256)
    }

    fn of(inputs: Vec<Vec<Source>>, first: usize, sha256: bool) -> Self {
        let (open, timings) = (OpenFiles::new(), Timings::default());
        let (back, fetched) = (WriteBack::default(), Mutex::default());
        Self { inputs, outputs: Vec::new(), open, first, sha256, known: None, back, fetched, timings }
    }

    /// Write to the files at these places, each of which will have so many bytes.
    pub(crate) fn write_to(&mut self, outputs: impl Iterator<Item = (PathBuf, u64)>) {
        let target = |(path, len)| Target { path, digest: Mutex::new(Digest::new(len)) };
        self.outputs = outputs.map(target).collect();
    }

    /// Whether anything is to be fetched from a store.
    #[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "nothing lies elsewhere without it"))]
    pub(crate) fn is_fetching(&self) -> bool {
        self.inputs.iter().flatten().any(|source| source.object.is_some())
    }

    /// What a file of an input is in a store, if it is read from there as it lies.
    #[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "nothing lies elsewhere without it"))]
    pub(crate) fn object(&self, (input, file): (usize, usize)) -> Option<&Object> {
        let source = &self.inputs[input][file];
        source.object.as_ref().filter(|_| source.views.is_none())
    }

    /// Take from there what is there.
    #[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "nothing is fetched without it"))]
    pub(crate) fn fetched_by(&self, fetched: Option<Arc<Fetched>>) {
        *lock(&self.fetched) = fetched;
    }

    /// Fill `bytes` with those of `read`, and hash them if they are to be.
    pub(crate) fn read(&self, read: &Read, bytes: &mut [u8], is_hashed: bool) -> Result<()> {
        let source = &self.inputs[read.input][read.file];
        let start = read.range.start;
        let fetched = if source.object.is_some() { lock(&self.fetched).clone() } else { None };
        if !fetched.is_some_and(|fetched| fetched.take((read.input, read.file), start, bytes)) {
            Timings::time(&self.timings.read, || match &source.views {
                // the pieces of a tensor may lie in several files of the checkpoint
                Some(header) => header.read(start, bytes, |other, at, into| {
                    let source = other.map_or(source, |other| &self.inputs[read.input][other]);
                    self.source(source, |file| file.read_at(into, at))
                }),
                None => self.source(source, |file| file.read_at(bytes, start)),
            })?;
        }
        if is_hashed && self.known.is_none() && source.views.is_none() {
            self.hash(&source.digest, start, bytes);
        }
        Ok(())
    }

    /// Write `bytes` at the beginning of `write`.
    pub(crate) fn write(&self, write: &Write, bytes: &[u8]) -> Result<()> {
        let start = write.range.start;
        Timings::time(&self.timings.write, || {
            self.output(write.file, |file| disk::write_at(file, bytes, start))
        })?;
        self.back.wrote(write.file, bytes.len() as u64);
        self.hash(&self.outputs[write.file].digest, start, bytes);
        Ok(())
    }

    /// Do `work`, and meanwhile bring to the disk what it writes.
    pub(crate) fn writing_back<T>(&self, work: impl FnOnce() -> T) -> T {
        struct End<'a>(&'a WriteBack);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end(); // after a panic too
            }
        }
        thread::scope(|scope| {
            let sync = |file| self.with_output(file, File::sync_data);
            // without a thread more, all of it is left for the end
            let _ = thread::Builder::new().spawn_scoped(scope, move || self.back.run(sync));
            let _end = End(&self.back);
            work()
        })
    }

    /// Hash a piece while it is in a cache, unless it was read before.
    fn hash(&self, digest: &Mutex<Digest>, start: u64, bytes: &[u8]) {
        Timings::time(&self.timings.hash, || {
            let len = {
                let digest = lock(digest);
                if digest.knows(start..start + bytes.len() as u64) {
                    return;
                }
                digest.file_len()
            };
            let part = Part::of(len, start, bytes); // not under the lock: it is all the work
            lock(digest).take(part);
        });
    }

    /// Bring all outputs to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let sync = || (0..self.outputs.len()).try_for_each(|file| self.output(file, File::sync_all));
        self.back.result().map_err(cannot_write)?;
        Timings::time(&self.timings.sync, sync)
    }

    /// The hashes of all files; what no job has read or written of them is read now.
    pub(crate) fn hashes(&self, machine: Machine, progress: &dyn Progress) -> Result<Hashes> {
        let unknown = if self.known.is_none() { self.inputs.as_slice() } else { &[] };
        let inputs = unknown.iter().flatten().map(Hashed::Input);
        let files: Vec<_> = inputs.chain((0..self.outputs.len()).map(Hashed::Output)).collect();
        // the rest of a file in a store may be long to fetch: what the store says of it tells it from others
        let is_skipped = |file: &Hashed<'_>| {
            let digest = lock(self.digest(file));
            let missing: u64 = digest.missing().iter().map(|range| range.end - range.start).sum();
            let is_far = matches!(file, Hashed::Input(source) if source.object.is_some());
            is_far && !self.sha256 && missing > NEARLY.max(digest.file_len() / 4)
        };
        let skipped: Vec<_> = files.iter().map(is_skipped).collect();
        let missing = |(file, hashed): (usize, _)| {
            let missing = if skipped[file] { Vec::new() } else { lock(self.digest(hashed)).missing() };
            missing.into_iter().flat_map(pieces).map(move |piece| (file as u64, (hashed, piece)))
        };
        let pieces = files.iter().enumerate().flat_map(missing);
        share(
            pieces,
            machine.threads(),
            progress,
            |buffer: &mut Vec<u8>, _, (file, piece): (&Hashed<'_>, _)| {
                buffer.resize(usize::try_from(piece.end - piece.start).expect("a piece is small"), 0);
                match file {
                    Hashed::Input(source) => {
                        self.source(source, |file| file.read_at(buffer, piece.start))?;
                    }
                    Hashed::Output(output) => {
                        self.output(*output, |file| disk::read_at(file, buffer, piece.start))?;
                    }
                }
                self.hash(self.digest(file), piece.start, buffer);
                Ok(())
            },
        )?;
        let finish = |digest: &Mutex<Digest>| lock(digest).finish().expect("all pieces were hashed");
        let hash = |(file, is_skipped): (&Hashed<'_>, &bool)| {
            let identity = match file {
                Hashed::Input(source) => source.object.as_ref().map(Object::identity),
                Hashed::Output(_) => None,
            };
            let blake3 = if *is_skipped { String::new() } else { finish(self.digest(file)) };
            Hash { identity, ..Hash::from(blake3) }
        };
        let mut hashes: Vec<_> = files.iter().zip(&skipped).map(hash).collect();
        if self.sha256 {
            let work = files.iter().zip(&mut hashes).enumerate().map(|(number, work)| (number as u64, work));
            share(
                work,
                machine.threads(),
                progress,
                |(): &mut (), _, (file, hash): (&Hashed<'_>, &mut Hash)| {
                    let found = match file {
                        Hashed::Input(source) => self.source(source, |file| sha256(file, progress))?,
                        Hashed::Output(output) => {
                            self.output(*output, |file| sha256(Bytes::Here(file), progress))?
                        }
                    };
                    hash.sha256 = Some(found.ok_or_else(stopped)?);
                    Ok(())
                },
            )?;
        }
        let mut hashes = hashes.into_iter();
        let of_input = |files: &Vec<Source>| hashes.by_ref().take(files.len()).collect();
        let inputs = unknown.iter().map(of_input).collect();
        let inputs = self.known.as_ref().map_or(inputs, |known| known.to_vec());
        Ok(Hashes { inputs, outputs: hashes.collect() })
    }

    /// What is known of the hashes so far, for another process: of the files of each input, and of the outputs.
    pub(crate) fn parts(&self) -> (Vec<Vec<Part>>, Vec<Part>) {
        let part = |digest: &Mutex<Digest>| lock(digest).part();
        let of_input = |files: &Vec<Source>| files.iter().map(|file| part(&file.digest)).collect();
        (
            self.inputs.iter().map(of_input).collect(),
            self.outputs.iter().map(|file| part(&file.digest)).collect(),
        )
    }

    /// Take in what another process knows of the inputs, as `read` makes it of text; `None` if it is not of these.
    pub(crate) fn know(
        &self,
        inputs: &[Vec<String>],
        read: impl Fn(u64, &str) -> Option<Part>,
    ) -> Option<()> {
        let is_alike = inputs.iter().map(Vec::len).eq(self.inputs.iter().map(Vec::len));
        let pairs = self.inputs.iter().flatten().zip(inputs.iter().flatten());
        for (source, text) in pairs {
            let mut digest = lock(&source.digest);
            let part = read(digest.file_len(), text)?;
            digest.take(part);
        }
        is_alike.then_some(())
    }

    fn digest<'a>(&'a self, file: &Hashed<'a>) -> &'a Mutex<Digest> {
        match file {
            Hashed::Input(source) => &source.digest,
            Hashed::Output(file) => &self.outputs[*file].digest,
        }
    }

    fn source<T>(&self, source: &Source, work: impl FnOnce(Bytes<'_>) -> io::Result<T>) -> Result<T> {
        let Source { path, number, object, .. } = source;
        let done = match object {
            Some(object) => work(Bytes::Elsewhere(object)),
            None => self.open.with(*number, || disk::regular(path), |file| work(Bytes::Here(file))),
        };
        done.map_err(|error| cannot_read(path, &error))
    }

    fn output<T>(&self, file: usize, work: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        self.with_output(file, work).map_err(cannot_write)
    }

    fn with_output<T>(&self, file: usize, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let open = || File::options().read(true).write(true).open(&self.outputs[file].path);
        self.open.with(self.first + file, open, work)
    }
}

/// A file that is hashed to its end.
enum Hashed<'a> {
    Input(&'a Source),
    Output(usize),
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn cannot_write(error: io::Error) -> mwa::Error {
    io_error("cannot write the merged file", &error)
}

fn cannot_read(path: &Path, error: &io::Error) -> mwa::Error {
    io_error("cannot read it", error).file(path.display().to_string())
}
