//! Run a merge of files through the sandbox: read ranges, hand them in, write what comes out.

use mwa::safetensors::Header;
use mwa::{AdapterConfig, Error, ErrorKind, Float, Input, Read, Result, Shard, Write, report};

use super::{Checkpoint, Dtype, Found, Head, Limits, Merge, Recipe, Sandbox, Space, Span, Weighing, world};
use crate::engine::product::{Merged, create, hash};
use crate::find::checkpoint;
use crate::io::disk::InputFile;
use crate::io::staging::Staging;
use crate::io::store::Store;
use crate::options::{MergeOptions, REPORT};
use crate::progress::Progress;

/// What is merged: checkpoints, as the host plans with them, and their weights.
pub(crate) struct Work<'a> {
    pub(crate) checkpoints: &'a [checkpoint::Checkpoint],
    pub(crate) inputs: &'a [Input],
    pub(crate) weights: &'a [f64],
    pub(crate) how: &'a MergeOptions,
    /// The outputs, where their layout does not depend on the data: the component must come to the same.
    pub(crate) expected: Option<&'a [Shard]>,
}

/// Merge inside the component into the staging folder.
///
/// The guest reads heads and configs itself and plans by itself.
pub(crate) fn run(
    work: &Work<'_>,
    staging: &Staging,
    notes: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Merged> {
    let sandbox = Sandbox::find(Limits::default())?;
    let recipe = work.recipe()?;
    let mut merge = sandbox.open(&work.heads()?, &recipe)?;
    let files = || work.checkpoints.iter().flat_map(|checkpoint| &checkpoint.files);
    let rounds = if recipe.residual
        || matches!(work.how.merge.space, crate::Space::Product(Some(mwa::Rank::Energy(_))))
    {
        2
    } else {
        1
    };
    progress.start(rounds * files().map(InputFile::len).sum::<u64>());
    let mut buffers = Vec::new();
    // the outputs, and a store that can write them; none before the guest knows them
    let mut laid = None;
    let unwritten = Store::new(work.sources(), Vec::new());
    while let Some(job) = merge.next()? {
        if progress.stopped() {
            return Err(Error::new(ErrorKind::Stopped, "stopped; nothing was written"));
        }
        let store = laid.as_ref().map_or(&unwritten, |(_, store)| store);
        let merged = work.run_job(&mut merge, job.number, &job.reads, store, &mut buffers)?;
        let mut rest = merged.as_slice();
        for span in &job.writes {
            let (shards, store) = match &laid {
                Some(laid) => laid,
                None => laid.insert(work.lay(&mut merge, staging)?),
            };
            let (piece, after) = rest.split_at(length(span).min(rest.len()));
            let (file, range) = (span.file as usize, span.start..span.end);
            if file >= shards.len() || piece.len() != length(span) {
                return Err(astray());
            }
            store.write(&Write { file, range }, piece)?;
            rest = after;
        }
        progress.advance(job.reads.iter().map(|span| length(span) as u64).sum());
    }
    let (shards, store) = match laid {
        Some(laid) => laid,
        None => work.lay(&mut merge, staging)?,
    };
    notes.extend(merge.notes()?.into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>());
    let (hashes, input_hashes) = hash(&store, shards.len(), work.how.machine, progress)?;
    let found = Found { paths: Vec::new(), inputs: input_hashes.clone(), outputs: hashes.clone() };
    let mut merged = Merged { shards, hashes, input_hashes, distance: None, config: None };
    for text in merge.try_texts(&found)?? {
        match text.name.as_str() {
            "adapter_config.json" => merged.config = Some(text.content),
            REPORT => {
                let report: report::Report = serde_json::from_str(&text.content).map_err(|_| astray())?;
                merged.distance = report.residual;
            }
            _ => {}
        }
    }
    Ok(merged)
}

impl<'a> Work<'a> {
    fn sources(&self) -> Vec<&'a [InputFile]> {
        self.checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice()).collect()
    }

    fn heads(&self) -> Result<Vec<Checkpoint>> {
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
        let dtype = match self.how.merge.dtype {
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
            weighing: Weighing::Exact(self.weights.to_vec()),
            space: self.how.merge.space.into(),
            strict: self.how.merge.strict,
            residual: self.how.merge.residual,
            dtype,
            allow_cross_run: self.how.merge.allow_cross_run,
            allow_non_finite: self.how.merge.allow_non_finite,
            rewrite: true,
            chunk: None,
        })
    }

    /// Create the outputs as the guest lays them out, and write their heads.
    fn lay(&self, merge: &mut Merge, staging: &Staging) -> Result<(Vec<Shard>, Store<'a>)> {
        let planned = merge.outputs()?;
        let named = self.inputs.last().map_or(&[][..], |newest| &newest.files);
        let shard = |(output, newest): (&super::Output, &Shard)| {
            let header = Header::parse(&output.head, output.length)?;
            Ok(Shard { name: newest.name.clone(), header })
        };
        let shards: Vec<_> = planned.iter().zip(named).map(shard).collect::<Result<_>>()?;
        let is_same = |(output, ours): (&super::Output, &Shard)| output.head == ours.header.to_bytes();
        let expected = self.expected.unwrap_or(&shards);
        if planned.len() != named.len() || !planned.iter().zip(expected).all(is_same) {
            let detail = "wasm: the component is of another version than this program";
            return Err(Error::new(ErrorKind::Device, detail)
                .help("build it again with `cargo xtask build component`"));
        }
        let store = Store::new(self.sources(), create(&shards, staging)?);
        for (file, shard) in shards.iter().enumerate() {
            let head = shard.header.to_bytes();
            store.write(&Write { file, range: 0..head.len() as u64 }, &head)?;
        }
        Ok((shards, store))
    }

    /// Run a job that reads ranges of the inputs, which the guest chose.
    fn run_job(
        &self,
        merge: &mut Merge,
        number: u64,
        reads: &[Span],
        store: &Store<'_>,
        buffers: &mut Vec<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        buffers.resize_with(reads.len(), Vec::new);
        for (span, buffer) in reads.iter().zip(&mut *buffers) {
            let (input, number) = (span.input as usize, span.file as usize);
            let files = self.checkpoints.get(input).map(|checkpoint| &checkpoint.files);
            let file = files.and_then(|files| files.get(number)).ok_or_else(astray)?;
            if span.end > file.header.file_len() || span.start > span.end {
                return Err(astray());
            }
            buffer.resize(length(span), 0);
            store.read(&Read { input, file: number, range: span.start..span.end }, buffer)?;
        }
        let chunks: Vec<_> = buffers.iter().map(Vec::as_slice).collect();
        merge.run(number, &chunks)
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
