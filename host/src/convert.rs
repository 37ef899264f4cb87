//! Write an adapter in another container: the core's plan over this machine's files.

use core::ops::Range;
use std::fs::{self, File};
use std::path::Path;

use mwa::convert::{Conversion, ConvertOptions, Target, crc32};
use mwa::report::HashedFile;
use mwa::safetensors::Header;
use mwa::{Error, ErrorKind, Readers, Result};
use serde::Serialize;

use crate::io::disk::{Disk, Opened, io_error, read_at, text_of, write_at};
use crate::io::scratch::Scratch;
use crate::io::staging::{ANOTHER, Staging, place_of, without_force};
use crate::io::url::{clean, is_elsewhere};
use crate::progress::{Progress, stopped};

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Converted {
    /// The files, by name.
    pub files: Vec<HashedFile>,
    /// Of second moments what is lost, where the means of rows and columns stand for matrices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank1: Option<Rank1>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What the means of rows and columns of matrices take, and lose.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rank1 {
    /// How many matrices are kept so.
    pub matrices: u64,
    /// Bytes of them, and what they would take whole, in F32.
    pub bytes: u64,
    /// See [`Rank1::bytes`].
    pub whole: u64,
    /// How far what is told of all of them is off, as a share of what it should be: √(Σ(v − v̂)² / Σv²).
    pub error: f64,
    /// The matrix that is the farthest off, and how far.
    pub worst: Option<(String, f64)>,
}

/// How the folder is called in which a single file is made.
const MAKING: &str = ".mwa-convert-";

/// Convert the adapter at `input` into `out`: a folder, or a file where its name ends like that of the only file to write.
///
/// # Errors
/// What is wrong with the input, what the container cannot hold, and an output that exists or cannot be written.
pub fn convert(
    input: &Path,
    options: &ConvertOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Converted> {
    let disk = Disk::default();
    let input = text_of(&clean(input))?;
    let plan = disk.now(|| Conversion::new(&disk, &Readers::ALL, &input, options))?;
    let names: Vec<_> = plan.outputs().map(|(name, _)| name.to_owned()).collect();
    let out = &*clean(out);
    let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let is_any = matches!(options.target, Target::Pt | Target::Safetensors);
    let is_file = match (names.as_slice(), out.to_str()) {
        // into a store, folders are written
        ([only], Some(text)) if !is_elsewhere(out) => {
            let is_alone = is_any || plan.texts.is_empty();
            is_alone && ending(only) == ending(text)
        }
        _ => false,
    };
    let format = match out.to_str().and_then(ending).as_deref() {
        Some("gguf") => Some(Target::Gguf),
        Some("safetensors") => Some(Target::Safetensors),
        Some("bin" | "pt" | "pth" | "ckpt") => Some(Target::Pt),
        _ => None,
    };
    if let (false, Some(format)) = (is_file, format) {
        let all = names.iter().chain(plan.texts.iter().map(|(name, _)| name));
        let all: Vec<_> = all.map(String::as_str).collect();
        let detail = format!("cannot be one file: what is written is {}", all.join(", "));
        let help = match options.target == format {
            true => "name a folder".to_owned(),
            false => format!("name a folder, or give --format {}", Target::NAMES[format as usize]),
        };
        return Err(Error::new(ErrorKind::Output, detail).file(out.display().to_string()).help(help));
    }
    Staging::check_outside(out, Path::new(&input))?;
    let files = if is_file { single(&plan, out, None, progress)? } else { folder(&plan, out, progress)? };
    let left_out = plan.texts.iter().filter(|_| is_file).map(|(name, _)| {
        format!("{name}, which PEFT wants beside the weights, is left out: into a folder it is copied along")
    });
    let notes = left_out.chain(plan.notes.iter().cloned()).collect();
    Ok(Converted { files, rank1: None, notes })
}

/// Take the second moments of the checkpoint at `input` out of the state of its optimizer, or of that at `state`, into the file `out`;
/// of matrices the means of their rows and columns alone if it is of rank 1.
///
/// # Errors
/// What is wrong with the checkpoint or the state, and an output that exists or cannot be written.
pub fn moments(
    input: &Path,
    state: Option<&Path>,
    is_rank1: bool,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Converted> {
    let disk = Disk::default();
    let input = text_of(&clean(input))?;
    let state = state.map(|path| text_of(&clean(path))).transpose()?;
    let plan = disk.now(|| Conversion::moments(&disk, &Readers::ALL, &input, state.as_deref(), is_rank1))?;
    let out = &*clean(out);
    if is_elsewhere(out) {
        return Err(Error::new(
            ErrorKind::Output,
            "lies in a store, and moments are written on this machine",
        )
        .file(out.display().to_string())
        .help("write them here, and copy them there"));
    }
    Staging::check_outside(out, Path::new(&input))?;
    if out.extension().is_none_or(|it| it != "safetensors") {
        return Err(Error::new(ErrorKind::Output, "is no name of a safetensors file")
            .file(out.display().to_string())
            .help("moments are one file: name it, such as moments.safetensors"));
    }
    let mut lost = is_rank1.then(Rank1::default);
    Ok(Converted { files: single(&plan, out, lost.as_mut(), progress)?, rank1: lost, notes: plan.notes })
}

/// Into a folder, which appears whole or not at all.
fn folder(plan: &Conversion, out: &Path, progress: &dyn Progress) -> Result<Vec<HashedFile>> {
    let staging = Staging::begin(out, false, &[]).map_err(|error| without_force(error, ANOTHER))?;
    let files = written(plan, &staging, out, progress)?;
    staging.publish(progress)?.iter().for_each(|note| progress.note(note));
    Ok(files)
}

/// Write all files into a folder in the making.
pub(crate) fn written(
    plan: &Conversion,
    staging: &Staging,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Vec<HashedFile>> {
    let mut files = Vec::new();
    for (number, (name, len)) in plan.outputs().enumerate() {
        let file = staging.create(name, len)?;
        files.push(
            write(plan, number, name, &file, None, progress)
                .map_err(|error| named(error, &out.join(name)))?,
        );
    }
    for (name, text) in &plan.texts {
        files.push(staging.write(name, text.as_bytes())?);
    }
    Ok(files)
}

/// Into a file, which appears whole or not at all.
fn single(
    plan: &Conversion,
    out: &Path,
    lost: Option<&mut Rank1>,
    progress: &dyn Progress,
) -> Result<Vec<HashedFile>> {
    let at = |error: Error| named(error, out);
    let failed = |error: std::io::Error| at(io_error("cannot write it", &error));
    Staging::check_around(out)?;
    if out.symlink_metadata().is_ok() {
        let error = Error::new(ErrorKind::Output, "exists already").file(out.display().to_string());
        return Err(error.help("choose another output file"));
    }
    let parent = std::path::absolute(out).map_err(failed)?;
    let parent = parent.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed)?;
    let scratch =
        Scratch::new(&place_of(parent)?.unwrap_or_else(|| parent.to_owned()), MAKING).map_err(failed)?;
    let making = scratch.path().join("file");
    let (_, len) = plan.outputs().next().expect("there is one");
    let file = File::options().read(true).write(true).create_new(true).open(&making).map_err(failed)?;
    file.set_len(len).map_err(failed)?;
    let name = out.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let written = write(plan, 0, name, &file, lost, progress).map_err(at)?;
    fs::hard_link(&making, out).or_else(|_| fs::rename(&making, out)).map_err(failed)?;
    Ok(vec![written])
}

fn named(error: Error, path: &Path) -> Error {
    if error.kind() == ErrorKind::Io { error.file(path.display().to_string()) } else { error }
}

/// The files that numbers are read from, each opened when it is first asked for.
pub(crate) struct Sources<'a> {
    files: &'a [(String, Header)],
    opened: Vec<Option<Opened>>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(files: &'a [(String, Header)]) -> Self {
        Self { files, opened: files.iter().map(|_| None).collect() }
    }

    /// The bytes of a range, as the head of the file has it.
    pub(crate) fn read(&mut self, file: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("a piece is in memory")];
        self.files[file].1.read(range.start, &mut bytes, |other, at, into| {
            let file = other.unwrap_or(file);
            let path = &self.files[file].0;
            if self.opened[file].is_none() {
                self.opened[file] = Some(Opened::new(Path::new(path))?);
            }
            let source = self.opened[file].as_ref().expect("it was opened");
            let read = source.by_ref().read_at(into, at);
            read.map_err(|error| io_error("cannot read it", &error).file(path.clone()))
        })?;
        Ok(bytes)
    }
}

/// Write a file's head and its pieces, and hash them; `lost` is what matrices that are kept by means lose.
fn write(
    plan: &Conversion,
    number: usize,
    name: &str,
    file: &File,
    lost: Option<&mut Rank1>,
    progress: &dyn Progress,
) -> Result<HashedFile> {
    let failed = |error: std::io::Error| io_error("cannot write it", &error);
    let mut sources = Sources::new(&plan.inputs);
    let mut read = |input: usize, range: Range<u64>| sources.read(input, range);
    write_at(file, plan.head(number), 0).map_err(failed)?;
    for (at, bytes) in plan.between(number) {
        write_at(file, bytes, *at).map_err(failed)?;
    }
    let mut crcs: Vec<u32> = Vec::new();
    for piece in plan.pieces(number) {
        if progress.stopped() {
            return Err(stopped());
        }
        let bytes = plan.make(number, &piece, &mut read)?;
        write_at(file, &bytes, piece.at).map_err(failed)?;
        if plan.has_tail(number) {
            crcs.resize(crcs.len().max(piece.tensor + 1), 0);
            crcs[piece.tensor] = crc32(crcs[piece.tensor], &bytes);
        }
    }
    if let Some(lost) = lost {
        factored(plan, file, &mut read, lost, progress)?;
    }
    for (at, bytes) in plan.tail(number, &crcs) {
        write_at(file, &bytes, at).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut digest = mwa::digest::Digest::new(len);
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let part =
            usize::try_from((len - at).min(buffer.len() as u64)).expect("it is the buffer's length at most");
        read_at(file, &mut buffer[..part], at).map_err(failed)?;
        digest.update(at, &buffer[..part]);
        at += part as u64;
    }
    let blake3 = digest.finish().unwrap_or_default();
    Ok(HashedFile { blake3, ..HashedFile::unhashed(name.to_owned(), len) })
}

/// Write the means of rows and columns of matrices, and tell what they lose.
fn factored(
    plan: &Conversion,
    file: &File,
    read: &mut dyn FnMut(usize, core::ops::Range<u64>) -> Result<Vec<u8>>,
    lost: &mut Rank1,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = |error: std::io::Error| io_error("cannot write it", &error);
    let (mut off, mut all) = (0.0, 0.0);
    for matrix in &plan.factored {
        if progress.stopped() {
            return Err(stopped());
        }
        let made = matrix.make(read)?;
        for (at, bytes) in matrix.at.iter().zip(&made.means) {
            write_at(file, bytes, *at).map_err(failed)?;
        }
        let [rows, columns] = made.means.map(|bytes| bytes.len() as u64);
        (lost.matrices, lost.bytes) = (lost.matrices + 1, lost.bytes + rows + columns);
        lost.whole += rows / 4 * columns;
        (off, all) = (off + made.lost, all + made.whole);
        let error = share(made.lost, made.whole);
        if lost.worst.as_ref().is_none_or(|(_, most)| error > *most) {
            lost.worst = Some((matrix.name.clone(), error));
        }
    }
    lost.error = share(off, all);
    Ok(())
}

/// How large something is as a share of another thing, both squared.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).sqrt() } else { 0.0 }
}
