//! Run a merge of files through the sandbox: read ranges, hand them in, write what comes out.

use std::path::PathBuf;

use mwa::merge::{Closing, Merge, Text};
use mwa::report::{CARD, REPORT, Report};
use mwa::safetensors::Header;
use mwa::{AdapterConfig, Error, ErrorKind, Float, Read, Result, Shard, Write};

use super::{Checkpoint, Dtype, Found, Head, Limits, Measure, Recipe, Sandbox, Space, Span, Weighing, world};
use crate::engine::execute::Hashes;
use crate::find::checkpoint;
use crate::io::store::Store;
use crate::options::MergeOptions;
use crate::progress::{Progress, stopped};

/// What the guest has to say of its merge.
pub(crate) struct Guest {
    report: Report,
    texts: Vec<Text>,
}

/// Merge inside the component. The guest reads heads and configs itself, and checks and plans by itself.
pub(crate) fn run(
    ours: &Merge,
    checkpoints: &[checkpoint::Checkpoint],
    how: &MergeOptions,
    store: &mut Store,
    create: impl FnOnce(&[Shard]) -> Result<Vec<PathBuf>>,
    progress: &dyn Progress,
) -> Result<(Hashes, Option<Guest>)> {
    let sandbox = Sandbox::find(Limits::default())?;
    let recipe = recipe(ours, how)?;
    let mut merge = sandbox.open(&heads(ours, checkpoints, store)?, &recipe)?;
    let is_surveyed = matches!(how.merge.space, mwa::Space::Product(Some(mwa::Rank::Energy(_))));
    let rounds = if recipe.residual != Measure::Off || is_surveyed { 2 } else { 1 };
    let files = ours.chosen().inputs.iter().flat_map(|input| &input.files);
    progress.start(rounds * files.map(|file| file.header.file_len()).sum::<u64>());
    let mut buffers = Vec::new();
    let mut create = Some(create);
    // none before the guest knows them
    let mut shards = Vec::new();
    while let Some(job) = merge.next()? {
        if progress.stopped() {
            return Err(stopped());
        }
        read(ours, &job.reads, store, &mut buffers)?;
        let merged = merge.run(job.number, &buffers.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        if let Some(create) = create.take_if(|_| !job.writes.is_empty()) {
            shards = lay(ours, &mut merge, create, store)?;
        }
        let mut rest = merged.as_slice();
        for span in &job.writes {
            let (piece, after) = rest.split_at(length(span).min(rest.len()));
            let (file, range) = (span.file as usize, span.start..span.end);
            let fits = shards.get(file).is_some_and(|shard: &Shard| range.end <= shard.header.file_len());
            if !fits || piece.len() != length(span) {
                return Err(astray());
            }
            store.write(&Write { file, range }, piece)?;
            rest = after;
        }
        progress.advance(job.reads.iter().map(|span| length(span) as u64).sum());
    }
    if let Some(create) = create {
        shards = lay(ours, &mut merge, create, store)?;
    }
    store.sync()?;
    let mut inputs: Vec<_> =
        checkpoints.iter().map(|checkpoint| vec![None; checkpoint.files.len()]).collect();
    let mut outputs = vec![None; shards.len()];
    store.hash(&mut inputs, &mut outputs, how.machine, progress)?;
    let hashes = Hashes::known(inputs, outputs);
    let found = Found { paths: Vec::new(), inputs: hashes.inputs.clone(), outputs: hashes.outputs.clone() };
    let texts: Vec<Text> =
        merge.try_texts(&found)??.into_iter().map(|text| (text.name, text.content)).collect();
    let report = texts.iter().find(|(name, _)| name == REPORT).ok_or_else(astray)?;
    let report = serde_json::from_str(&report.1).map_err(|_| astray())?;
    Ok((hashes, Some(Guest { report, texts })))
}

impl Guest {
    /// Shard index and adapter config.
    pub(crate) fn texts(&self) -> Vec<Text> {
        self.texts.iter().filter(|(name, _)| ![CARD, REPORT].contains(&name.as_str())).cloned().collect()
    }

    /// Our report, with what the guest found out.
    pub(crate) fn finish(self, ours: &Merge, closing: Closing) -> Report {
        let mut report = ours.preview();
        report.residual = self.report.residual;
        report.outputs = self.report.outputs;
        report.companions = closing.companions;
        let news = self.report.notes.into_iter().chain(closing.notes);
        let news: Vec<_> = news.filter(|note| !report.notes.contains(note)).collect();
        report.notes.extend(news);
        for ((row, path), hashes) in report.inputs.iter_mut().zip(&closing.paths).zip(&closing.inputs) {
            row.path.clone_from(path);
            row.files.iter_mut().zip(hashes).for_each(|(file, hash)| file.sha256.clone_from(hash));
        }
        report.advise_residual();
        report
    }
}

fn heads(ours: &Merge, checkpoints: &[checkpoint::Checkpoint], store: &Store) -> Result<Vec<Checkpoint>> {
    let head = |input: usize, file: usize, shard: &Shard| {
        if !shard.header.is_safetensors() {
            let detail = "is not safetensors, which is all that the sandbox reads";
            return Err(Error::new(ErrorKind::Input, detail)
                .file(checkpoints[input].files[file].path.display().to_string())
                .help("convert it, or merge with --device cpu"));
        }
        let range = 0..shard.header.data_start();
        let mut bytes = vec![0; usize::try_from(range.end).expect("a head is at most 100 MB")];
        store.read(&Read { input, file, range }, &mut bytes)?;
        Ok(Head { name: shard.name.clone(), bytes, length: shard.header.file_len() })
    };
    let inputs = ours.chosen().inputs.iter().enumerate();
    let open = |(i, input): (usize, &mwa::Input)| {
        let files = input.files.iter().enumerate().map(|(f, shard)| head(i, f, shard));
        Ok(Checkpoint {
            name: input.name.clone(),
            step: ours.chosen().rows[i].step,
            config: ours.chosen().configs[i].as_ref().map(AdapterConfig::text).map(Into::into),
            files: files.collect::<Result<_>>()?,
        })
    };
    inputs.map(open).collect()
}

fn recipe(ours: &Merge, how: &MergeOptions) -> Result<Recipe> {
    let dtype = match how.merge.dtype {
        None => None,
        Some(Float::F32) => Some(Dtype::F32),
        Some(Float::BF16) => Some(Dtype::Bf16),
        Some(Float::F16) => Some(Dtype::F16),
        Some(other) => {
            let detail = format!("wasm: the component writes no {}", other.dtype());
            return Err(Error::new(ErrorKind::Usage, detail));
        }
    };
    Ok(Recipe {
        weighing: Weighing::Exact(ours.chosen().weights.values().to_vec()),
        space: how.merge.space.into(),
        strict: how.merge.strict,
        residual: how.merge.residual.into(),
        dtype,
        allow_cross_run: how.merge.allow_cross_run,
        allow_non_finite: how.merge.allow_non_finite,
        rewrite: ours.copied().is_none(),
        chunk: None,
    })
}

/// Create the outputs as the guest lays them out, and write their heads. Where our own layout does not depend on the data,
/// it must be the same.
fn lay(
    ours: &Merge,
    merge: &mut super::Merge,
    create: impl FnOnce(&[Shard]) -> Result<Vec<PathBuf>>,
    store: &mut Store,
) -> Result<Vec<Shard>> {
    let outputs = merge.outputs()?;
    let newest = &ours.chosen().inputs[ours.owner()].files;
    let shard = |(output, newest): (&super::Output, &Shard)| {
        let header = Header::parse(&output.head, output.length)?;
        Ok(Shard { name: newest.name.clone(), header })
    };
    // files that are copied have no head that the guest made
    let shards = match ours.copied() {
        Some(_) => ours.outputs().to_vec(),
        None => outputs.iter().zip(newest).map(shard).collect::<Result<Vec<_>>>()?,
    };
    let expected = ours.outputs();
    let is_same = |(shard, expected): (&Shard, &Shard)| {
        shard.header.file_len() == expected.header.file_len()
            && shard.header.tensors() == expected.header.tensors()
    };
    if outputs.len() != newest.len() || !shards.iter().zip(expected).all(is_same) {
        let detail = "wasm: the component is of another version than this program";
        return Err(
            Error::new(ErrorKind::Device, detail).help("build it again with `cargo xtask build component`")
        );
    }
    store.write_to(create(&shards)?);
    for (file, output) in outputs.iter().enumerate() {
        store.write(&Write { file, range: 0..output.head.len() as u64 }, &output.head)?;
    }
    Ok(shards)
}

/// Read ranges of the inputs, which the guest chose.
fn read(ours: &Merge, spans: &[Span], store: &Store, buffers: &mut Vec<Vec<u8>>) -> Result<()> {
    buffers.resize_with(spans.len(), Vec::new);
    for (span, buffer) in spans.iter().zip(buffers) {
        let (input, file) = (span.input as usize, span.file as usize);
        let shard = ours.chosen().inputs.get(input).and_then(|input| input.files.get(file));
        let len = shard.ok_or_else(astray)?.header.file_len();
        if span.end > len || span.start > span.end {
            return Err(astray());
        }
        buffer.resize(length(span), 0);
        store.read(&Read { input, file, range: span.start..span.end }, buffer)?;
    }
    Ok(())
}

impl From<mwa::Measure> for Measure {
    fn from(measure: mwa::Measure) -> Self {
        match measure {
            mwa::Measure::Auto => Self::Auto,
            mwa::Measure::Exact => Self::Exact,
            mwa::Measure::Sketch => Self::Sketch,
            mwa::Measure::Off => Self::Off,
        }
    }
}

impl From<mwa::Space> for Space {
    fn from(space: mwa::Space) -> Self {
        use world::exports::mwa::merge::merger::Rank;
        let rank = |rank| match rank {
            mwa::Rank::Inputs => Rank::Inputs,
            mwa::Rank::Fixed(rank) => Rank::Fixed(u32::try_from(rank).unwrap_or(u32::MAX)),
            mwa::Rank::Full => Rank::Full,
            mwa::Rank::Energy(share) => Rank::Energy(share),
        };
        match space {
            crate::Space::Factors => Self::Factors,
            crate::Space::Product(wanted) => Self::Product(wanted.map(rank)),
        }
    }
}

fn length(span: &Span) -> usize {
    usize::try_from(span.end.saturating_sub(span.start)).unwrap_or(usize::MAX)
}

/// The guest is not trusted: what it asks for is checked.
fn astray() -> Error {
    Error::new(ErrorKind::Device, "wasm: the component asked for bytes that are not there")
}
