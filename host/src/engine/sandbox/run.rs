//! Merge files of this machine inside the sandbox: answer what the guest asks, read ranges, write what comes out.
//!
//! The guest alone reads heads, configs, logs, tables and pickles. It is not trusted: what it asks for must lie beside or under
//! what the user named, and what it writes must be where it said.

use std::path::Path;

use mwa::checkpoint::run_around;
use mwa::files::{is_inside, join, last};
use mwa::report::{COMPANIONS, HashedFile, REPORT, Report};
use mwa::{Error, ErrorKind, Float, Rank, Read, Result, Rule, Space, WeightRule, Write, border};
use serde_json::{Value, json};

use super::{
    Answer, Companion, Ending, Hash, Hashed, Hashes, Job, Limits, Output, Question, Sandbox, Session, Span,
    Step, Verb,
};
use crate::find::checkpoint::Checkpoint;
use crate::io::disk::{Disk, path_of, text_of};
use crate::io::staging::Staging;
use crate::io::store::Store;
use crate::merge::{at_output, beside, close, path_from};
use crate::options::{MergeOptions, Options};
use crate::progress::{Progress, stopped};

/// Merge into the folder `out`, which appears whole or not at all.
pub(crate) fn merge(
    options: &Options,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    let sandbox = Sandbox::find(Limits::default())?;
    let paths = options.inputs.iter().map(|path| text_of(path)).collect::<Result<Vec<_>>>()?;
    let session = sandbox.open(Verb::Merge, &paths, &told(options, how)?, None, true)?;
    let table = options.metrics_file.as_deref().map(text_of).transpose()?;
    let rules = options.weights_file.as_deref().map(text_of).transpose()?;
    // a checkpoint's logs lie in the folder of its run
    let base = options.role_base.clone();
    let runs = paths.iter().chain(&base).map(|path| run_around(path).to_owned());
    let moments = options.moments.iter().flat_map(|it| it.files.iter().cloned());
    let named = paths.iter().cloned().chain(table).chain(rules).chain(base.clone()).chain(moments);
    let allowed = runs.chain(named).collect();
    let mut guest = Guest {
        session,
        allowed,
        disk: Disk::default(),
        store: Store::plain([].into_iter(), false),
        begun: None,
    };
    guest.jobs(how, out, progress).map_err(|error| at_output(error, out))?;
    guest.finish(how, out, progress)
}

/// A merge of the guest's, and the files that it is about.
struct Guest {
    session: Session,
    /// Files, and folders with all that is in them, which it may ask about.
    allowed: Vec<String>,
    disk: Disk,
    store: Store,
    /// The output, once it is laid out.
    begun: Option<Begun>,
}

/// The output, which the guest laid out.
struct Begun {
    staging: Staging,
    report: Report,
    outputs: Vec<Output>,
}

impl Guest {
    fn jobs(&mut self, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<()> {
        let mut buffers = Vec::new();
        let mut sizes = Vec::new();
        while let Some(step) = self.session.next()? {
            if progress.stopped() {
                return Err(stopped());
            }
            let job = match step {
                Step::Look(questions) => {
                    let answers = questions.iter().map(|question| self.answer(question));
                    let answers = answers.collect::<Result<Vec<_>>>()?;
                    self.session.tell(&answers)?;
                    continue;
                }
                Step::Work(job) => job,
            };
            if sizes.is_empty() {
                sizes = self.sources(how)?;
                progress.start(sizes.iter().sum());
            }
            self.read(&job, &sizes, &mut buffers)?;
            let chunks: Vec<_> = buffers[..job.reads.len()].iter().map(Vec::as_slice).collect();
            let merged = match self.session.run(job.number, &chunks) {
                Err(_) if self.session.again()? => {
                    self.begun = None;
                    sizes.clear();
                    continue;
                }
                merged => merged?,
            };
            if !job.writes.is_empty() && self.begun.is_none() {
                self.begin(how, out)?;
            }
            self.write(&job, &merged)?;
            progress.advance(job.reads.iter().map(|span| length(span) as u64).sum());
        }
        if self.begun.is_none() { self.begin(how, out) } else { Ok(()) }
    }

    /// What the system says of a path.
    fn answer(&self, question: &Question) -> Result<Answer> {
        let question = border::Question::from(question);
        let is_allowed = self.allowed.iter().any(|place| holds(place, question.path()));
        if is_allowed { Ok(question.answer(&self.disk).into()) } else { Err(astray()) }
    }

    /// The files with weights, which the guest has found; their sizes.
    fn sources(&mut self, how: &MergeOptions) -> Result<Vec<u64>> {
        let inputs = self.session.inputs()?;
        let size = |path: &String| match self.answer(&Question::Kind(path.clone()))? {
            Answer::File(size) => Ok(size),
            _ => Err(astray()),
        };
        let sizes = inputs.iter().map(size).collect::<Result<Vec<_>>>()?;
        let files: Vec<_> = inputs.iter().map(|path| path_of(path)).zip(sizes.iter().copied()).collect();
        self.store = Store::plain(files.into_iter(), how.sha256);
        Ok(sizes)
    }

    fn read(&self, job: &Job, sizes: &[u64], buffers: &mut Vec<Vec<u8>>) -> Result<()> {
        buffers.resize_with(job.reads.len().max(buffers.len()), Vec::new);
        for (span, buffer) in job.reads.iter().zip(buffers) {
            let input = span.file as usize;
            if sizes.get(input).is_none_or(|size| span.end > *size) || span.start > span.end {
                return Err(astray());
            }
            buffer.resize(length(span), 0);
            let read = Read { input, file: 0, range: span.start..span.end };
            self.store.read(&read, buffer, !job.writes.is_empty())?;
        }
        Ok(())
    }

    /// Create the outputs as the guest lays them out, and write their heads.
    fn begin(&mut self, how: &MergeOptions, out: &Path) -> Result<()> {
        let report: Report = serde_json::from_str(&self.session.report()?).map_err(|_| astray())?;
        let checkpoints: Vec<_> = report.inputs.iter().map(|row| checkpoint(&row.name)).collect();
        let staging = Staging::begin(out, how.force, &checkpoints)?;
        let outputs = self.session.outputs()?;
        for output in &outputs {
            staging.create(&output.name, output.length)?;
        }
        self.store.write_to(outputs.iter().map(|output| (staging.path(&output.name), output.length)));
        for (file, output) in outputs.iter().enumerate() {
            self.store.write(&Write { file, range: 0..output.head.len() as u64 }, &output.head)?;
        }
        self.begun = Some(Begun { staging, report, outputs });
        Ok(())
    }

    fn write(&self, job: &Job, merged: &[u8]) -> Result<()> {
        let outputs = self.begun.as_ref().map_or(&[][..], |begun| &begun.outputs);
        let mut rest = merged;
        for span in &job.writes {
            let (piece, after) = rest.split_at_checked(length(span)).ok_or_else(astray)?;
            let (file, range) = (span.file as usize, span.start..span.end);
            if outputs.get(file).is_none_or(|output| range.end > output.length) {
                return Err(astray());
            }
            self.store.write(&Write { file, range }, piece)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(astray()) }
    }

    fn finish(mut self, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<Report> {
        let inputs = self.session.inputs()?;
        let Begun { staging, report, outputs: _ } = self.begun.take().ok_or_else(astray)?;
        let hashes = self
            .store
            .sync()
            .and_then(|()| self.store.hashes(how.machine, progress))
            .map_err(|error| at_output(error, out))?;
        for path in &inputs {
            self.disk.check_unchanged(path)?;
        }
        let texts = self.session.texts()?.into_iter().map(|text| (text.name, text.content));
        // the guest chooses among what may lie in a checkpoint, and nothing else
        let is_known = |it: &Companion| {
            let within =
                |row: &mwa::report::Input| it.path.strip_prefix(&join(&row.name, "")).is_some_and(is_inside);
            let is_its_own = it.path == it.name || it.path.ends_with(&format!("/{}", it.name));
            COMPANIONS.contains(&last(&it.name)) && is_its_own && report.inputs.iter().any(within)
        };
        let known = self.session.companions()?.into_iter().filter(is_known);
        let known: Vec<_> = known.map(|it| (it.name, path_of(&it.path))).collect();
        let (companions, notes) = beside(&staging, &texts.collect::<Vec<_>>(), &known, how, progress)?;
        let way = |row: &mwa::report::Input| path_from(staging.target(), &path_of(&row.name));
        let hash = |it: mwa::merge::Hash| Hash { blake3: it.blake3, sha256: it.sha256 };
        let hashed = |it: HashedFile| Hashed {
            name: it.name,
            bytes: it.bytes,
            hash: Hash { blake3: it.blake3, sha256: it.sha256 },
        };
        let ending = Ending {
            paths: report.inputs.iter().map(way).collect::<Result<_>>()?,
            left_out: Vec::new(),
            notes,
            hashes: Some(Hashes {
                inputs: hashes.inputs.into_iter().flatten().map(hash).collect(),
                outputs: hashes.outputs.into_iter().map(hash).collect(),
                companions: companions.into_iter().map(hashed).collect(),
            }),
        };
        let texts = self.session.try_finish(&ending)??;
        let texts: Vec<_> = texts.into_iter().map(|text| (text.name, text.content)).collect();
        let (_, report) = texts.iter().find(|(name, _)| name == REPORT).ok_or_else(astray)?;
        let report = serde_json::from_str(report).map_err(|_| astray())?;
        close(staging, &texts, progress)?;
        Ok(report)
    }
}

/// A checkpoint as far as the place of the output is concerned.
fn checkpoint(name: &str) -> Checkpoint {
    let path = path_of(name);
    let folder = path.is_dir().then(|| path.clone());
    Checkpoint { path, files: Vec::new(), folder, companions: Vec::new() }
}

/// What was wanted, as every face says it.
fn told(options: &Options, how: &MergeOptions) -> Result<String> {
    let Options {
        inputs: _,
        adapter,
        weights_key,
        choose,
        // the rule says it
        scheme: _,
        metrics_file,
        weights_file,
        metrics_from,
        base: _,
        role_base,
        moments,
        model: _,
    } = options;
    let mwa::ChooseOptions {
        select,
        metric,
        combine,
        questions,
        rule,
        blend,
        averaging,
        run_weights,
        drop_bad,
        allow_cross_run,
    } = choose;
    let mwa::MergeOptions {
        dtype,
        blend: _,
        space,
        strict,
        residual,
        allow_cross_run: across,
        allow_non_finite,
        rewrite,
        shard_size,
    } = how.merge;
    let dtype = match dtype {
        None => Value::Null,
        Some(dtype @ (Float::F32 | Float::BF16 | Float::F16)) => {
            dtype.dtype().to_string().to_lowercase().into()
        }
        Some(other) => {
            let detail = format!("wasm: the component writes no {}", other.dtype());
            return Err(Error::new(ErrorKind::Usage, detail));
        }
    };
    let (space, rank, energy) = match space {
        Space::Factors => ("factors", Value::Null, None),
        Space::Product(rank) => match rank {
            None | Some(Rank::Inputs) => ("product", Value::Null, None),
            Some(Rank::Fixed(rank)) => ("product", rank.into(), None),
            Some(Rank::Full) => ("product", "full".into(), None),
            Some(Rank::Energy(share)) => ("product", "auto".into(), Some(share)),
        },
    };
    let mut told = json!({
        "steps": select.steps.map(|(first, last)| [first, last]),
        "every": select.every, "last": select.last, "top": select.top,
        "select": select.pick.map(mwa::Pick::name),
        "adapter": adapter, "weights_key": weights_key, "metrics_from": metrics_from, "drop_bad": drop_bad,
        "smooth": metric.smooth, "metric_tolerance": metric.tolerance, "strict_metrics": metric.strict,
        "space": space, "rank": rank, "energy": energy, "strict": strict, "residual": residual.word(),
        "allow_cross_run": *allow_cross_run || across, "dtype": dtype,
        "allow_non_finite": allow_non_finite, "rewrite": rewrite, "shard_size": shard_size,
    });
    told["method"] = blend.name().into();
    told["base"] = json!(role_base);
    if let mwa::Blend::Trimmed(outliers) = blend {
        told["outliers"] = json!(outliers);
    }
    if let Some(scale) = blend.scale() {
        told["scale"] = json!(scale);
    }
    if let mwa::Blend::Consensus(_, agreeing) = blend {
        told["mask_lambda"] = json!(agreeing.lambda);
        told["agree"] = agreeing.least.into();
    }
    if let Some(mwa::Curvature { power, epsilon, normalise }) = blend.curvature() {
        told["power"] = json!(power);
        told["epsilon"] = json!(epsilon);
        if matches!(blend, mwa::Blend::Curved(_)) {
            told["normalise"] = normalise.name().into();
        }
        let files = moments.as_ref().map_or(&[][..], |it| &it.files);
        told["moments"] = if files.is_empty() { Value::Null } else { json!(files) };
    }
    if let Some(trimming) = blend.trimming() {
        told["density"] = json!(trimming.density);
        let per = if trimming.is_by_tensor { mwa::DensityPer::Tensor } else { mwa::DensityPer::Model };
        told["density_per"] = per.name().into();
    }
    match rule {
        _ if !blend.weighs() => {}
        WeightRule::Explicit(weights) => told["weights"] = json!(weights),
        WeightRule::Scheme { scheme, penalty } => {
            told["scheme"] = scheme.name.into();
            told["penalty"] = json!(penalty);
            let mwa::Averaging { curve, floor, positions, correct_for_lr, ema_decay, ema_per } = averaging;
            told["curve"] = json!(curve.map(mwa::Curve::name));
            told["floor"] = json!(floor);
            told["positions"] = json!(positions.map(mwa::Positions::name));
            told["correct_for_lr"] = json!(correct_for_lr);
            told["ema_decay"] = json!(ema_decay);
            told["run_weights"] = json!(run_weights);
            told["ema_per"] = json!(ema_per.map(mwa::Per::name));
        }
        WeightRule::Robust { scheme, robust, .. } => {
            told["scheme"] = scheme.name.into();
            match robust.rule {
                Rule::Krum | Rule::MultiKrum => told["outliers"] = robust.outliers.into(),
                Rule::Flag => told["subspace"] = robust.subspace.into(),
                Rule::GeometricMedian => {}
            }
        }
    }
    told["metric"] = json!(metric.name);
    told["questions"] = json!(questions);
    told["combine"] = json!(combine.map(mwa::Combine::name));
    told["goal"] = json!(metric.goal.map(|goal| goal.to_string()));
    told["metrics_file"] = json!(metrics_file.as_deref().map(text_of).transpose()?);
    told["weights_file"] = json!(weights_file.as_deref().map(text_of).transpose()?);
    Ok(told.to_string())
}

/// Whether a path is this place, or lies in it.
fn holds(place: &str, path: &str) -> bool {
    path == place || path.strip_prefix(&join(place, "")).is_some_and(is_inside)
}

fn length(span: &Span) -> usize {
    usize::try_from(span.end.saturating_sub(span.start)).unwrap_or(usize::MAX)
}

/// The guest is not trusted: what it asks for is checked.
fn astray() -> Error {
    Error::new(
        ErrorKind::Device,
        "wasm: the component asked for a file or bytes that this merge does not need",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_ask_about_what_lies_in_a_run() {
        for (place, path, is_allowed) in [
            ("runs", "runs/a/checkpoint-1/x", true),
            ("runs", "runs", true),
            ("runs", "runs-2/x", false),
            ("runs", "runs/../secret", false),
            ("..", "../runs/x", true),
            ("..", "../../secret", false),
            ("", "run/x", true),
            ("", "/etc/passwd", false),
            ("", "../secret", false),
            ("/", "/run/x", true),
        ] {
            assert_eq!(holds(place, path), is_allowed, "{place} {path}");
        }
    }
}
