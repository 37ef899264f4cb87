//! PyTorch `.bin` files: their tensors as a safetensors file. Nothing in a pickle is ever executed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use mwa::format::{Catalog, Format};
use mwa::safetensors::Header;
use mwa::{Dtype, Error, ErrorKind, Files, Maybe, Result};
use pytorch_reader::{DType, PytorchError, PytorchReader};
use tempfile::TempPath;

use crate::io::disk::io_error;

/// Files that [`is_pickle`], by their names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pickle;

impl Format for Pickle {
    fn claims(&self, name: &str, _: &[u8]) -> bool {
        is_pickle(Path::new(name))
    }

    fn open(&self, _: &dyn Files, path: &str, _: u64, _: Option<&str>) -> Maybe<Catalog> {
        Ok(Catalog { header: header(Path::new(path))?, step: None, notes: Vec::new() })
    }
}

/// Whether a file of this name is read as a pickle.
pub(crate) fn is_pickle(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| ["bin", "pt", "pth"].iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// The head that the file would have as safetensors.
pub(crate) fn header(path: &Path) -> Result<Header> {
    let reader = open(path)?;
    let tensors = reader.tensors().iter().map(|(name, tensor)| {
        let shape = tensor.shape().iter().map(|&dim| dim as u64).collect();
        (name.clone(), dtype(tensor.dtype()), shape)
    });
    Header::layout(tensors, vec![("format".into(), "pt".into())].into())
}

/// Write the tensors to a temporary safetensors file with the head that [`header`] gave.
pub(crate) fn convert(path: &Path, header: &Header) -> Result<TempPath> {
    let reader = open(path)?;
    let failed = |error: std::io::Error| io_error("cannot unpack it to the temporary folder", &error);
    let (file, temporary) = tempfile::Builder::new()
        .prefix("mwa-")
        .suffix(".safetensors")
        .tempfile()
        .map_err(failed)?
        .into_parts();
    let mut file: BufWriter<File> = BufWriter::new(file);
    file.write_all(&header.to_bytes()).map_err(failed)?;
    for tensor in header.tensors() {
        let source = reader.get(&tensor.name).expect("header() listed this reader's own tensors");
        let bytes = source.read().map_err(|error| {
            Error::new(ErrorKind::Input, format!("cannot be read: {error}")).tensor(&*tensor.name)
        })?;
        file.write_all(&bytes).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(temporary)
}

fn open(path: &Path) -> Result<PytorchReader> {
    PytorchReader::new(path).map_err(|error| match error {
        PytorchError::Io(error) => io_error("cannot read it", &error),
        error => Error::new(ErrorKind::Input, format!("is not a pickle of plain tensors: {error}"))
            .help("pickles are never executed; save the tensors alone, best as safetensors"),
    })
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
