//! Tensors of checkpoints by name, read in pieces, and files of tensors that are written in pieces.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use mwa::report::HashedFile;
use mwa::safetensors::{Header, Tensor};
use mwa::{Error, ErrorKind, OpenOptions, Read, Readers, Result};

use crate::find::checkpoint::Checkpoint;
use crate::io::disk::{Disk, InputFile, io_error, text_of, write_at};
use crate::io::hash::blake3_of;
use crate::io::staging::Staging;
use crate::io::store::Store;
use crate::progress::Progress;

/// Elements that are read at a time.
pub(super) const PIECE: u64 = 1 << 18;

/// A tensor, and the file of its checkpoint that holds it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    input: usize,
    file: usize,
    pub(super) tensor: &'a Tensor,
}

/// The tensors of some checkpoints.
pub(super) struct Tensors<'a> {
    files: Vec<&'a [InputFile]>,
    store: Store,
    places: Vec<HashMap<&'a str, Place<'a>>>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(checkpoints: impl Iterator<Item = &'a [InputFile]> + Clone) -> Self {
        let store = Store::new(checkpoints.clone(), false);
        let files: Vec<_> = checkpoints.collect();
        let places = files.iter().enumerate().map(|(input, files)| {
            let of = |(file, it): (usize, &'a InputFile)| {
                let place = move |tensor: &'a Tensor| (tensor.name.as_str(), Place { input, file, tensor });
                it.header.tensors().iter().map(place)
            };
            files.iter().enumerate().flat_map(of).collect()
        });
        let places = places.collect();
        Self { files, store, places }
    }

    /// A tensor of a checkpoint, with the shape that it has in another.
    pub(super) fn like(&self, input: usize, other: &Tensor) -> Result<Place<'a>> {
        let place = self.places[input].get(other.name.as_str()).copied();
        let at = |kind: ErrorKind, detail: String| {
            let file = self.files[input].first().map(|it| it.path.display().to_string()).unwrap_or_default();
            Error::new(kind, detail).file(file).tensor(&*other.name)
        };
        let place = place.ok_or_else(|| at(ErrorKind::Names, "is missing".into()))?;
        if place.tensor.shape != other.shape {
            let detail = format!("has the shape {:?}, and {:?} elsewhere", place.tensor.shape, other.shape);
            return Err(at(ErrorKind::Shape, detail));
        }
        Ok(place)
    }

    /// The shape of a tensor of a checkpoint.
    pub(super) fn shape(&self, input: usize, name: &str) -> Vec<u64> {
        self.places[input].get(name).map(|place| place.tensor.shape.clone()).unwrap_or_default()
    }

    /// How many tensors a checkpoint has.
    pub(super) fn count(&self, input: usize) -> usize {
        self.places[input].len()
    }

    /// Elements of a tensor that have `size` bytes each, from one on.
    pub(super) fn read(
        &self,
        place: Place<'_>,
        (from, count): (u64, u64),
        size: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let size = size as u64;
        let start = place.tensor.range.start + from * size;
        bytes.resize(usize::try_from(count * size).expect("a piece is in memory"), 0);
        let read = Read { input: place.input, file: place.file, range: start..start + count * size };
        self.store.read(&read, bytes, false)
    }

    /// Fail if a file is no longer what it was.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.files.iter().flat_map(|files| files.iter()).try_for_each(InputFile::check_unchanged)
    }
}

/// How many elements a tensor has.
pub(super) fn elements(tensor: &Tensor) -> u64 {
    tensor.shape.iter().product()
}

/// The pieces of so many elements: where each begins, and how many there are in it.
pub(super) fn pieces(count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count.div_ceil(PIECE)).map(move |i| (i * PIECE, PIECE.min(count - i * PIECE)))
}

/// A checkpoint on this machine.
pub(super) fn open(path: &Path, adapter: Option<&str>) -> Result<Checkpoint> {
    let disk = Disk::default();
    let wanted = OpenOptions { adapter: adapter.map(str::to_owned), ..OpenOptions::default() };
    let path = text_of(path)?;
    let found = disk.now(|| mwa::Checkpoint::open(&disk, &Readers::ALL, &path, &wanted))?;
    Checkpoint::of(found, &disk)
}

/// A file in the making.
pub(super) struct Making {
    name: String,
    pub(super) header: Header,
    file: File,
}

impl Making {
    pub(super) fn new(staging: &Staging, name: &str, header: Header) -> Result<Self> {
        let file = staging.create(name, header.file_len())?;
        let making = Self { name: name.into(), header, file };
        making.write(0, &making.header.to_bytes())?;
        Ok(making)
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let failed = |error| io_error("cannot write it", &error).file(self.name.clone());
        write_at(&self.file, bytes, at).map_err(failed)
    }

    /// Bring it to the disk, and hash it.
    pub(super) fn finish(
        self,
        staging: &Staging,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<HashedFile> {
        let failed = |error| io_error("cannot write it", &error).file(self.name.clone());
        self.file.sync_all().map_err(failed)?;
        let blake3 = blake3_of(&staging.path(&self.name), threads, progress)?;
        Ok(HashedFile { blake3, ..HashedFile::unhashed(self.name, self.header.file_len()) })
    }
}
