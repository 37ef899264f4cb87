//! Run a merge of files through the sandbox: read ranges, hand them in, write what comes out.

use std::fs::File;

use mwa::{AdapterConfig, Error, ErrorKind, Float, Plan, Result};

use super::{Checkpoint, Dtype, Head, Limits, Merge, Recipe, Sandbox, Span, Weighing};
use crate::Progress;
use crate::checkpoint;
use crate::files::{self, InputFile, io_error};

/// What is merged: checkpoints, their weights, and what the host planned for them.
pub(crate) struct Work<'a> {
    pub(crate) checkpoints: &'a [checkpoint::Checkpoint],
    pub(crate) weights: &'a [f64],
    pub(crate) dtype: Option<Float>,
    pub(crate) plan: &'a Plan,
}

/// Merge inside the component into `outputs`; what the guest has to tell the user.
///
/// The guest reads heads and configs itself and plans by itself; its plan must be the host's.
pub(crate) fn run(work: &Work<'_>, outputs: &[File], progress: &dyn Progress) -> Result<Vec<String>> {
    let sandbox = Sandbox::find(Limits::default())?;
    let mut merge = sandbox.open(&work.inputs()?, &work.recipe()?)?;
    let planned = merge.outputs()?;
    for ((file, head), ours) in outputs.iter().zip(&planned).zip(work.plan.outputs()) {
        if head.head != ours.header.to_bytes() {
            return Err(Error::new(
                ErrorKind::Device,
                "wasm: the component is of another version than this program",
            )
            .help("build it again with `cargo xtask build component`"));
        }
        write(file, &head.head, 0)?;
    }
    let files = || work.checkpoints.iter().flat_map(|checkpoint| &checkpoint.files);
    progress.start(files().map(InputFile::len).sum());
    let mut desk = Vec::new();
    while let Some(job) = merge.next()? {
        if progress.stopped() {
            return Err(Error::new(ErrorKind::Stopped, "stopped; nothing was written"));
        }
        let merged = run_job(&mut merge, job.number, &job.reads, work, &mut desk)?;
        let mut rest = merged.as_slice();
        for span in &job.writes {
            let (piece, after) = rest.split_at(length(span).min(rest.len()));
            let file = outputs.get(span.file as usize).filter(|_| piece.len() == length(span));
            write(file.ok_or_else(astray)?, piece, span.start)?;
            rest = after;
        }
        progress.advance(job.reads.iter().map(|span| length(span) as u64).sum());
    }
    merge.notes()
}

impl Work<'_> {
    fn inputs(&self) -> Result<Vec<Checkpoint>> {
        let head = |file: &InputFile| {
            Ok(Head { name: file.name(), bytes: file.read_head()?, length: file.header.file_len() })
        };
        let input = |checkpoint: &checkpoint::Checkpoint| {
            Ok(Checkpoint {
                name: checkpoint.name.clone(),
                step: checkpoint.step,
                config: checkpoint.config.as_ref().map(AdapterConfig::text).map(Into::into),
                files: checkpoint.files.iter().map(head).collect::<Result<_>>()?,
            })
        };
        self.checkpoints.iter().map(input).collect()
    }

    fn recipe(&self) -> Result<Recipe> {
        let dtype = match self.dtype {
            None => None,
            Some(Float::F32) => Some(Dtype::F32),
            Some(Float::BF16) => Some(Dtype::Bf16),
            Some(Float::F16) => Some(Dtype::F16),
            Some(other) => {
                let detail = format!("wasm: the component writes no {}", other.dtype());
                return Err(Error::new(ErrorKind::Usage, detail));
            }
        };
        let weighing = Weighing::Exact(self.weights.to_vec());
        Ok(Recipe { weighing, dtype, allow_non_finite: false, rewrite: true, chunk: None })
    }
}

fn run_job(
    merge: &mut Merge,
    number: u64,
    reads: &[Span],
    work: &Work<'_>,
    desk: &mut Vec<Vec<u8>>,
) -> Result<Vec<u8>> {
    desk.resize_with(reads.len(), Vec::new);
    for (span, buffer) in reads.iter().zip(&mut *desk) {
        let checkpoint = work.checkpoints.get(span.input as usize).ok_or_else(astray)?;
        let file = checkpoint.files.get(span.file as usize).ok_or_else(astray)?;
        if span.end > file.header.file_len() || span.start > span.end {
            return Err(astray());
        }
        buffer.resize(length(span), 0);
        let failed = |error| io_error("cannot read it", &error).file(file.path.display().to_string());
        let data = File::open(file.data_path()).map_err(failed)?;
        files::read_at(&data, buffer, span.start).map_err(failed)?;
    }
    merge.run(number, desk)
}

fn length(span: &Span) -> usize {
    usize::try_from(span.end.saturating_sub(span.start)).unwrap_or(usize::MAX)
}

/// The guest is not trusted: what it asks for is checked.
fn astray() -> Error {
    Error::new(ErrorKind::Device, "wasm: the component asked for bytes that are not there")
}

fn write(file: &File, bytes: &[u8], start: u64) -> Result<()> {
    files::write_at(file, bytes, start).map_err(|error| io_error("cannot write the merged file", &error))
}
