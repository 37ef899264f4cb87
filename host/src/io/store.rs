//! The files of a merge, those read and those written, for all threads of an engine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use mwa::safetensors::Header;
use mwa::{Read, Result, Write};

use crate::engine::pool::share;
use crate::io::disk::{self, InputFile, io_error};
use crate::io::hash::hash_of;
use crate::io::open::OpenFiles;
use crate::options::Machine;
use crate::progress::{Progress, stopped};

/// A file of an input.
struct Source {
    path: PathBuf,
    /// What puts its views in order, if it has any.
    views: Option<Header>,
    /// Its number among the open files.
    number: usize,
}

/// The files of each input, and those of the output, which exist already.
pub(crate) struct Store {
    inputs: Vec<Vec<Source>>,
    outputs: Vec<PathBuf>,
    open: OpenFiles,
    /// The number of the first output among the open files.
    first: usize,
}

impl Store {
    /// Nothing is written yet.
    pub(crate) fn new<'a>(inputs: impl Iterator<Item = &'a [InputFile]>) -> Self {
        let mut number = 0;
        let mut source = |file: &InputFile| {
            number += 1;
            let views = (!file.header.is_in_place()).then(|| file.header.clone());
            Source { path: file.path.clone(), views, number: number - 1 }
        };
        let inputs = inputs.map(|files| files.iter().map(&mut source).collect()).collect();
        Self { inputs, outputs: Vec::new(), open: OpenFiles::new(), first: number }
    }

    /// Files that are read as they lie, each an input of its own.
    #[cfg(feature = "wasm")]
    pub(crate) fn plain(paths: impl ExactSizeIterator<Item = PathBuf>) -> Self {
        let first = paths.len();
        let source = |(number, path)| vec![Source { path, views: None, number }];
        let inputs = paths.enumerate().map(source).collect();
        Self { inputs, outputs: Vec::new(), open: OpenFiles::new(), first }
    }

    /// Write to the files at these places.
    pub(crate) fn write_to(&mut self, outputs: Vec<PathBuf>) {
        self.outputs = outputs;
    }

    /// Fill `bytes` with those of `read`.
    pub(crate) fn read(&self, read: &Read, bytes: &mut [u8]) -> Result<()> {
        let Source { path, views, number } = &self.inputs[read.input][read.file];
        let start = read.range.start;
        let fill = |file: &File| match views {
            Some(header) => header.read(start, bytes, |at, into| disk::read_at(file, into, at)),
            None => disk::read_at(file, bytes, start),
        };
        self.open.with(*number, || disk::regular(path), fill).map_err(|error| cannot_read(path, &error))
    }

    /// Write `bytes` at the beginning of `write`.
    pub(crate) fn write(&self, write: &Write, bytes: &[u8]) -> Result<()> {
        self.output(write.file, |file| disk::write_at(file, bytes, write.range.start))
    }

    /// Bring all outputs to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        (0..self.outputs.len()).try_for_each(|file| self.output(file, File::sync_all))
    }

    /// SHA-256 in hex of the files that have none yet, of each input and of the output.
    pub(crate) fn hash(
        &self,
        inputs: &mut [Vec<Option<String>>],
        outputs: &mut [Option<String>],
        machine: Machine,
        progress: &dyn Progress,
    ) -> Result<()> {
        let read = inputs.iter_mut().zip(&self.inputs).flat_map(|(hashes, files)| {
            hashes.iter_mut().zip(files).map(|(hash, source)| (hash, Hashed::Input(source)))
        });
        let written = outputs.iter_mut().enumerate().map(|(file, hash)| (hash, Hashed::Output(file)));
        let missing: Vec<_> = read.chain(written).filter(|(hash, _)| hash.is_none()).collect();
        let hashed = |(): &mut (), _, (hash, file): (&mut Option<String>, Hashed<'_>)| {
            let read = |file: &File| hash_of(file, progress);
            let found = match file {
                Hashed::Output(file) => self.output(file, read)?,
                Hashed::Input(Source { path, number, .. }) => self
                    .open
                    .with(*number, || disk::regular(path), read)
                    .map_err(|error| cannot_read(path, &error))?,
            };
            *hash = Some(found.ok_or_else(stopped)?);
            Ok(())
        };
        share((0..).zip(missing), machine.threads(), progress, hashed).map(drop)
    }

    fn output<T>(&self, file: usize, work: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        let open = || File::options().read(true).write(true).open(&self.outputs[file]);
        self.open
            .with(self.first + file, open, work)
            .map_err(|error| io_error("cannot write the merged file", &error))
    }
}

/// A file that is hashed by itself.
enum Hashed<'a> {
    Input(&'a Source),
    Output(usize),
}

fn cannot_read(path: &Path, error: &io::Error) -> mwa::Error {
    io_error("cannot read it", error).file(path.display().to_string())
}
