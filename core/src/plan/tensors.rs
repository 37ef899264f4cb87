//! The tensors of several files, by name.

use alloc::format;
use alloc::vec::Vec;

use super::{Input, Shard};
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::text::index::Index;

/// A tensor of an input: which file, and its entry.
pub(crate) type Found<'a> = (usize, &'a Tensor);

/// The tensors of several files, by name.
pub(crate) struct Tensors<'a> {
    all: Vec<Found<'a>>,
    index: Index<'a>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(files: &'a [Shard]) -> Self {
        let mut all = Vec::new();
        for (i, file) in files.iter().enumerate() {
            all.extend(file.header.tensors().iter().map(|tensor| (i, tensor)));
        }
        let index = Index::new(all.iter().map(|(_, tensor)| tensor.name.as_str()));
        Self { all, index }
    }

    /// Those of an input, none of them in two files.
    pub(crate) fn distinct(input: &'a Input) -> Result<Self> {
        let tensors = Self::new(&input.files);
        let Some(twice) = tensors.index.repeated() else { return Ok(tensors) };
        let (second, tensor) = tensors.all[twice];
        let (first, _) = tensors.find(&tensor.name).unwrap_or((second, tensor));
        let (a, b) = (&input.files[first].name, &input.files[second].name);
        let detail = format!("lies in two files of the checkpoint, {a} and {b}");
        Err(Error::new(ErrorKind::Header, detail).file(&*input.name).tensor(&*tensor.name))
    }

    pub(crate) fn find(&self, name: &str) -> Option<Found<'a>> {
        self.index.place(name).map(|place| self.all[place])
    }

    /// All, sorted by name.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = Found<'a>> {
        self.index.sorted().iter().map(|(_, place)| self.all[*place])
    }
}
