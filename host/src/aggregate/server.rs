//! The server's Adam: what the clients' mean is, made as any round, and then a step towards it, element by element.
//!
//! Its moments lie in a file beside the model that it leads to, and are found there in the next round, whose base that model is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mwa::report::{CARD, CONFIG, HashedFile, REPORT, Report, ServerStep};
use mwa::safetensors::{Header, Tensor, TextMap};
use mwa::server::Adam;
use mwa::{Dtype, Error, ErrorKind, Float, Result, Space};

use super::tensors::{Making, PIECE, Tensors, elements, open, pieces};
use super::{RoundOptions, card, hashed, usage};
use crate::io::disk::InputFile;
use crate::io::scratch::Scratch;
use crate::io::staging::{Staging, cannot_write, target_of};
use crate::merge::{close, path_from};
use crate::options::{MergeOptions, Options};
use crate::progress::{Progress, stopped};

/// The file of the moments.
const STATE: &str = "mwa-server.safetensors";
/// How the folder is called in which the clients' mean lies before the step.
const MEAN: &str = ".mwa-mean-";
/// The names of what the file of the moments tells.
const KIND: &str = "mwa.server";
const NUMBER: &str = "mwa.step";
/// What the names of the moments begin with.
const MOMENTS: [&str; 2] = ["first.", "second."];

/// The step that was asked for, if one was.
pub(super) fn asked(round: &RoundOptions, how: &MergeOptions) -> Result<Option<Adam>> {
    let Some(server) = &round.server else {
        let alone = [
            ("--beta1", round.beta1.is_some()),
            ("--beta2", round.beta2.is_some()),
            ("--tau", round.tau.is_some()),
            ("--state", round.state.is_some()),
        ];
        return match alone.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                Err(usage(&format!("{name} is of a server's Adam"), "add --server adam, or leave it out"))
            }
            None => Ok(None),
        };
    };
    if server != "adam" {
        return Err(usage(&format!("there is no server's optimizer `{server}`"), "use adam, or --momentum"));
    }
    if round.momentum.is_some() || round.previous.is_some() {
        let detail = "--server adam has moments of its own";
        return Err(usage(detail, "leave --momentum and --previous out"));
    }
    if round.base.is_none() {
        return Err(usage("--server adam needs the model of this round", "give it: --base MODEL"));
    }
    if how.merge.space != Space::Factors {
        let detail =
            "--server adam steps from the base's factors to the clients', and factors of products are others";
        return Err(usage(
            detail,
            "average factors (clients that train B alone are averaged exactly), or use another server",
        ));
    }
    let usual = Adam::default();
    let adam = Adam {
        rate: round.server_rate.unwrap_or(usual.rate),
        beta1: round.beta1.unwrap_or(usual.beta1),
        beta2: round.beta2.unwrap_or(usual.beta2),
        tau: round.tau.unwrap_or(usual.tau),
    };
    adam.check()?;
    Ok(Some(adam))
}

/// Aggregate, and take a step of Adam from the base towards what comes out.
pub(super) fn aggregate(
    adam: Adam,
    options: &Options,
    round: &RoundOptions,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    round.base_here("the moments are looked for beside it")?;
    let base = round.base.as_deref().expect("Adam was asked for with one");
    let state = state_of(round.state.as_deref(), base)?;
    let place = target_of(out)?;
    let parent = place.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
    // at its side, so that the ways to the inputs are the same
    let mean = Scratch::new(parent, MEAN).map_err(|error| cannot_write(parent, &error))?;
    let given = RoundOptions {
        server: None,
        server_rate: None,
        beta1: None,
        beta2: None,
        tau: None,
        state: None,
        ..round.clone()
    };
    let merge = mwa::MergeOptions { dtype: Some(Float::F32), ..how.merge };
    let mut report = super::aggregate(
        options,
        &given,
        &MergeOptions { merge, force: false, ..*how },
        mean.path(),
        progress,
    )?;
    let staging = Staging::begin(out, how.force, &[])?;
    let taken = Taken {
        adam,
        dtype: how.merge.dtype,
        base: base.to_owned(),
        state: state.clone(),
        adapter: options.adapter.clone(),
    };
    let threads = how.machine.threads();
    let (number, mut files) = taken.step(mean.path(), &staging, threads, progress)?;
    for file in &report.companions {
        files.push(staging.copy(&mean.path().join(&file.name), &file.name)?);
    }
    if how.sha256 {
        staging.add_sha256(&mut files, progress)?;
    }
    let told = |path: PathBuf| hashed(&path, path_from(staging.target(), &path)?, threads, progress);
    let state = state.map(told).transpose()?;
    if state.is_none() {
        report
            .notes
            .push(format!("there is no {STATE} beside {}: this is the server's first step", base.display()));
    }
    let Adam { rate, beta1, beta2, tau } = adam;
    let dtype = mwa::report::dtype_name(how.merge.dtype);
    let told = ServerStep { kind: "adam".into(), rate, beta1, beta2, tau, step: number, dtype, state };
    if let Some(round) = &mut report.round {
        round.server = Some(told);
    }
    report.companions = files;
    let card = card(&report, &mean.path().join(CONFIG))?;
    close(staging, &[(CARD.to_owned(), card), (REPORT.to_owned(), report.to_json())], progress)?;
    Ok(report)
}

/// The step of a report again, from the mean that was made again in `mean` into the folder `out`: what it wrote.
pub(crate) fn again(
    folder: &Path,
    report: &Report,
    told: &ServerStep,
    mean: &Path,
    out: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<HashedFile>> {
    let role = |input: &&mwa::report::Input| input.round.as_ref().is_some_and(|it| it.role == "base");
    let base = report.inputs.iter().find(role).ok_or_else(|| {
        Error::new(ErrorKind::Input, "names no base that its server could have stepped from")
    })?;
    let ServerStep { rate, beta1, beta2, tau, .. } = *told;
    let adam = Adam { rate, beta1, beta2, tau };
    adam.check()?;
    let taken = Taken {
        adam,
        dtype: told.float()?,
        base: folder.join(&base.path),
        state: told.state.as_ref().map(|state| folder.join(&state.name)),
        adapter: report.adapter.clone(),
    };
    let staging = Staging::begin(out, false, &[])?;
    taken.step(mean, &staging, threads, progress).map(|(_, files)| files)
}

/// Where the moments are, unless this is the first step.
fn state_of(given: Option<&Path>, base: &Path) -> Result<Option<PathBuf>> {
    if let Some(given) = given {
        let path = if given.is_dir() { given.join(STATE) } else { given.to_owned() };
        return if path.is_file() {
            Ok(Some(path))
        } else {
            Err(Error::new(ErrorKind::Input, "does not exist").file(path.display().to_string()).help(
                "--state is the mwa-server.safetensors beside the model of a round before; a first step has none",
            ))
        };
    }
    let folder = if base.is_dir() { base } else { base.parent().unwrap_or(Path::new("")) };
    let path = folder.join(STATE);
    Ok(path.is_file().then_some(path))
}

/// A step that is taken.
struct Taken {
    adam: Adam,
    /// The dtype of what comes out; that of the base without.
    dtype: Option<Float>,
    base: PathBuf,
    state: Option<PathBuf>,
    adapter: Option<String>,
}

impl Taken {
    /// From the base towards the mean in a folder: the number of the step, and the files that it wrote, moments last.
    fn step(
        &self,
        mean: &Path,
        staging: &Staging,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<(u64, Vec<HashedFile>)> {
        let base = open(&self.base, self.adapter.as_deref())?;
        let mean = open(mean, self.adapter.as_deref())?;
        let state = self.state.as_deref().map(InputFile::open).transpose()?;
        let before = state.as_ref().map_or(Ok(0), number)?;
        let step = self.adam.step(before + 1);
        let state: Vec<_> = state.into_iter().collect();
        let tensors = Tensors::new([&*mean.files, &*base.files, &*state].into_iter());
        let home = mean.folder.as_deref().unwrap_or(Path::new(""));
        let mut moments = Vec::new();
        let mut makings = Vec::new();
        for file in &mean.files {
            for tensor in file.header.tensors().iter().filter(|it| Float::of(it.dtype).is_some()) {
                let moment =
                    |start: &&str| (format!("{start}{}", tensor.name), Dtype::F32, tensor.shape.clone());
                moments.extend(MOMENTS.iter().map(moment));
                tensors.like(1, tensor)?;
            }
            let dtype = |tensor: &Tensor| match (Float::of(tensor.dtype), self.dtype) {
                (None, _) => tensor.dtype,
                (Some(_), Some(wanted)) => wanted.dtype(),
                (Some(_), None) => tensors.like(1, tensor).map_or(tensor.dtype, |it| it.tensor.dtype),
            };
            let name =
                file.path.strip_prefix(home).unwrap_or(&file.path).to_string_lossy().replace('\\', "/");
            makings.push(Making::new(staging, &name, file.header.in_dtypes(dtype)?)?);
        }
        if !state.is_empty() && tensors.count(2) != moments.len() {
            let detail = format!("has {} moments, and the model {}", tensors.count(2), moments.len());
            let path = self.state.as_ref().expect("it was opened");
            return Err(Error::new(ErrorKind::Names, detail)
                .file(path.display().to_string())
                .help("it is of another model: name the one beside the base (--state), or remove it"));
        }
        let told = [(KIND.to_owned(), "adam".to_owned()), (NUMBER.to_owned(), (before + 1).to_string())];
        let header = Header::layout(moments, told.into_iter().collect::<TextMap>())?;
        let moments = Making::new(staging, STATE, header)?;
        let laid = moments.header.tensors().iter().map(|it| (it.name.as_str(), it)).collect();
        let piece = Piece { step, tensors: &tensors, has_state: !state.is_empty(), moments: &moments, laid };
        for making in &makings {
            for tensor in making.header.tensors() {
                if progress.stopped() {
                    return Err(stopped());
                }
                piece.tensor(making, tensor)?;
            }
        }
        tensors.check_unchanged()?;
        let mut files = Vec::new();
        for making in makings.into_iter().chain([moments]) {
            files.push(making.finish(staging, threads, progress)?);
        }
        Ok((before + 1, files))
    }
}

/// The number of the step that left these moments.
fn number(state: &InputFile) -> Result<u64> {
    let metadata = state.header.metadata();
    let number =
        metadata.get(KIND).filter(|kind| *kind == "adam").and_then(|_| metadata.get(NUMBER)?.parse().ok());
    number.ok_or_else(|| {
        Error::new(ErrorKind::Input, "holds no moments of a server's Adam")
            .file(state.path.display().to_string())
            .help("--state is the mwa-server.safetensors that a round with --server adam wrote")
    })
}

/// What a step does to each tensor.
struct Piece<'a> {
    step: mwa::server::Step,
    /// The mean, the base, and the moments before, if there are any.
    tensors: &'a Tensors<'a>,
    has_state: bool,
    moments: &'a Making,
    /// Where each moment goes.
    laid: HashMap<&'a str, &'a Tensor>,
}

impl Piece<'_> {
    /// Write a tensor, and its moments.
    fn tensor(&self, making: &Making, tensor: &Tensor) -> Result<()> {
        let mean = self.tensors.like(0, tensor)?;
        let Some(float) = Float::of(tensor.dtype) else {
            let mut bytes = Vec::new();
            for piece in pieces(tensor.len()) {
                self.tensors.read(mean, piece, 1, &mut bytes)?;
                making.write(tensor.range.start + piece.0, &bytes)?;
            }
            return Ok(());
        };
        let at = |kind: ErrorKind, detail: &'static str| Error::new(kind, detail).tensor(&*tensor.name);
        let base = self.tensors.like(1, tensor)?;
        let of_base = Float::of(base.tensor.dtype)
            .ok_or_else(|| at(ErrorKind::Dtype, "is no float in the base, and one in the clients'"))?;
        let names = MOMENTS.map(|start| format!("{start}{}", tensor.name));
        let mut before = Vec::new();
        let mut after = Vec::new();
        for name in &names {
            let made = self.laid[name.as_str()];
            if self.has_state {
                let place = self.tensors.like(2, made)?;
                if place.tensor.dtype != Dtype::F32 {
                    return Err(Error::new(ErrorKind::Dtype, "is a moment that is not in F32").tensor(name));
                }
                before.push(place);
            }
            after.push(made.range.start);
        }
        let [mut values, mut model, mut first, mut second] = [const { Vec::<u8>::new() }; 4];
        let mut out = Vec::with_capacity(usize::try_from(PIECE).unwrap_or_default() * float.bytes());
        for (from, count) in pieces(elements(tensor)) {
            self.tensors.read(mean, (from, count), 4, &mut values)?;
            self.tensors.read(base, (from, count), of_base.bytes(), &mut model)?;
            for (moment, i) in [(&mut first, 0), (&mut second, 1)] {
                match before.get(i) {
                    Some(place) => self.tensors.read(*place, (from, count), 4, moment)?,
                    None => {
                        moment.clear();
                        moment.resize(values.len(), 0);
                    }
                }
            }
            out.clear();
            out.resize(usize::try_from(count).expect("a piece is in memory") * float.bytes(), 0);
            let words = values.chunks_exact(4).zip(model.chunks_exact(of_base.bytes()));
            let moments = first.chunks_exact_mut(4).zip(second.chunks_exact_mut(4));
            for (((value, model), (first, second)), out) in
                words.zip(moments).zip(out.chunks_exact_mut(float.bytes()))
            {
                let (mut m, mut v) = (Float::F32.near(first), Float::F32.near(second));
                let next = self.step.take(of_base.near(model), Float::F32.near(value), &mut m, &mut v);
                Float::F32.put(m, first);
                Float::F32.put(v, second);
                float.put(next, out);
                if !(m.is_finite() && v.is_finite() && float.value(out).is_finite()) {
                    return Err(at(
                        ErrorKind::Overflow,
                        "the server's step leads to a value that is too large",
                    )
                    .help("take smaller steps (--server-rate), or a wider dtype (--dtype f32)"));
                }
            }
            making.write(tensor.range.start + from * float.bytes() as u64, &out)?;
            self.moments.write(after[0] + from * 4, &first)?;
            self.moments.write(after[1] + from * 4, &second)?;
        }
        Ok(())
    }
}
