//! The files of a merge, those read and those written, for all threads of an engine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use mwa::{Read, Result, Write};

use crate::io::disk::{self, InputFile, io_error};
use crate::io::hash::sha256::Sha256;
use crate::io::open::OpenFiles;

/// The files of each input, and those of the output, which exist already.
pub(crate) struct Store<'a> {
    inputs: Vec<&'a [InputFile]>,
    /// The number of the first file of each input among those that are open; then come the outputs.
    first: Vec<usize>,
    outputs: Vec<PathBuf>,
    open: OpenFiles,
}

impl<'a> Store<'a> {
    pub(crate) fn new(inputs: Vec<&'a [InputFile]>, outputs: Vec<PathBuf>) -> Self {
        let mut count = 0;
        let mut numbered = |files: &&[InputFile]| {
            count += files.len();
            count - files.len()
        };
        let mut first: Vec<_> = inputs.iter().map(&mut numbered).collect();
        first.push(count);
        Self { inputs, first, outputs, open: OpenFiles::new() }
    }

    /// The files of each input.
    pub(crate) fn inputs(&self) -> &[&'a [InputFile]] {
        &self.inputs
    }

    /// Fill `bytes` with those of `read`.
    pub(crate) fn read(&self, read: &Read, bytes: &mut [u8]) -> Result<()> {
        let input = &self.inputs[read.input][read.file];
        let open = || File::open(input.data_path());
        self.open
            .with(self.first[read.input] + read.file, open, |file| {
                disk::read_at(file, bytes, read.range.start)
            })
            .map_err(|error| cannot_read(&input.path, &error))
    }

    /// Write `bytes` at the beginning of `write`.
    pub(crate) fn write(&self, write: &Write, bytes: &[u8]) -> Result<()> {
        self.output(write.file, |file| disk::write_at(file, bytes, write.range.start))
    }

    /// Bring all outputs to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        (0..self.outputs.len()).try_for_each(|file| self.output(file, File::sync_all))
    }

    /// SHA-256 of a file of an input, in hex.
    pub(crate) fn hash_input(&self, input: usize, file: usize) -> Result<String> {
        let source = &self.inputs[input][file];
        // what a converted file was made of is a file of its own
        let beyond = self.first[self.inputs.len()] + self.outputs.len();
        let number = self.first[input] + file + if source.is_original() { 0 } else { beyond };
        self.open
            .with(number, || File::open(&source.path), hash)
            .map_err(|error| cannot_read(&source.path, &error))
    }

    /// SHA-256 of an output, in hex.
    pub(crate) fn hash_output(&self, file: usize) -> Result<String> {
        self.output(file, hash)
    }

    fn output<T>(&self, file: usize, work: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        let open = || File::options().read(true).write(true).open(&self.outputs[file]);
        self.open
            .with(self.first[self.inputs.len()] + file, open, work)
            .map_err(|error| io_error("cannot write the merged file", &error))
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> mwa::Error {
    io_error("cannot read it", error).file(path.display().to_string())
}

/// Read from the beginning, wherever others who share the file are.
fn hash(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match disk::read_some_at(file, &mut buffer, at)? {
            0 => return Ok(hash.finish()),
            count => {
                hash.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
}
