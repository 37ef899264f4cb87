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
use crate::io::disk::{self, InputFile, io_error};
use crate::io::hash::{pieces, sha256};
use crate::io::open::OpenFiles;
use crate::io::write_back::WriteBack;
use crate::options::Machine;
use crate::progress::{Progress, stopped};

/// A file of an input.
struct Source {
    path: PathBuf,
    /// What puts its views in order, if it has any.
    views: Option<Header>,
    /// Its number among the open files.
    number: usize,
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
            Source { path: file.path.clone(), views, number: number - 1, digest }
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
            vec![Source { path, views: None, number, digest: Mutex::new(Digest::new(len)) }]
        };
        Self::of(files.enumerate().map(source).collect(), first, sha256)
    }

    fn of(inputs: Vec<Vec<Source>>, first: usize, sha256: bool) -> Self {
        let (open, timings) = (OpenFiles::new(), Timings::default());
        let back = WriteBack::default();
        Self { inputs, outputs: Vec::new(), open, first, sha256, known: None, back, timings }
    }

    /// Write to the files at these places, each of which will have so many bytes.
    pub(crate) fn write_to(&mut self, outputs: impl Iterator<Item = (PathBuf, u64)>) {
        let target = |(path, len)| Target { path, digest: Mutex::new(Digest::new(len)) };
        self.outputs = outputs.map(target).collect();
    }

    /// Fill `bytes` with those of `read`, and hash them if they are to be.
    pub(crate) fn read(&self, read: &Read, bytes: &mut [u8], is_hashed: bool) -> Result<()> {
        let source = &self.inputs[read.input][read.file];
        let start = read.range.start;
        let fill = |file: &File| match &source.views {
            Some(header) => header.read(start, bytes, |at, into| disk::read_at(file, into, at)),
            None => disk::read_at(file, bytes, start),
        };
        Timings::time(&self.timings.read, || self.source(source, fill))?;
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
        let missing = |(file, hashed)| {
            let missing = lock(self.digest(hashed)).missing();
            missing.into_iter().flat_map(pieces).map(move |piece| (file as u64, (hashed, piece)))
        };
        let pieces = files.iter().enumerate().flat_map(missing);
        share(
            pieces,
            machine.threads(),
            progress,
            |buffer: &mut Vec<u8>, _, (file, piece): (&Hashed<'_>, _)| {
                buffer.resize(usize::try_from(piece.end - piece.start).expect("a piece is small"), 0);
                let fill = |file: &File| disk::read_at(file, buffer, piece.start);
                match file {
                    Hashed::Input(source) => self.source(source, fill)?,
                    Hashed::Output(output) => self.output(*output, fill)?,
                }
                self.hash(self.digest(file), piece.start, buffer);
                Ok(())
            },
        )?;
        let finish = |digest: &Mutex<Digest>| lock(digest).finish().expect("all pieces were hashed");
        let mut hashes: Vec<_> = files.iter().map(|file| Hash::from(finish(self.digest(file)))).collect();
        if self.sha256 {
            let work = files.iter().zip(&mut hashes).enumerate().map(|(number, work)| (number as u64, work));
            share(
                work,
                machine.threads(),
                progress,
                |(): &mut (), _, (file, hash): (&Hashed<'_>, &mut Hash)| {
                    let read = |file: &File| sha256(file, progress);
                    let found = match file {
                        Hashed::Input(source) => self.source(source, read)?,
                        Hashed::Output(output) => self.output(*output, read)?,
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

    fn digest<'a>(&'a self, file: &Hashed<'a>) -> &'a Mutex<Digest> {
        match file {
            Hashed::Input(source) => &source.digest,
            Hashed::Output(file) => &self.outputs[*file].digest,
        }
    }

    fn source<T>(&self, source: &Source, work: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        let Source { path, number, .. } = source;
        self.open.with(*number, || disk::regular(path), work).map_err(|error| cannot_read(path, &error))
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
