//! Exact sums of clients, which are combined in any order and any tree to the same bytes, and divided in the end.
//!
//! A sum is a folder with one file: a whole number of 64 bits for each element, on scales that the base fixes, and in its head
//! who is in it. What lies beside the base comes along, so that the last one who combines needs nothing else.

use std::path::{Path, PathBuf};
use std::slice;

use mwa::digest::hash;
use mwa::exact::{MOST_SAMPLES, exponent, mean, quantised};
use mwa::report::{CARD, CONFIG, Contribution, Dropped, HashedFile, Input, Partials, REPORT, Report, Round};
use mwa::safetensors::{Header, Tensor, TextMap};
use mwa::{Dtype, Error, ErrorKind, Float, Result, Shard, Space};
use serde::{Deserialize, Serialize};

use super::tensors::{Making, PIECE, Place, Tensors, elements, open, pieces};
use super::{Client, RoundOptions, card, choose, hashed, uncounted, usage};
use crate::find::checkpoint::{Checkpoint, read_text};
use crate::io::disk::InputFile;
use crate::io::staging::{Staging, leads_out};
use crate::merge::{Planned, close, path_from};
use crate::options::{MergeOptions, Options};
use crate::progress::{Progress, stopped};

/// The file of a sum, in its folder.
pub(super) const FILE: &str = "mwa-partial.safetensors";
/// What its head is called in its metadata.
const HEAD: &str = "mwa.partial";
/// What the rows of a report call the model that scales come from, and a sum.
const BASE: &str = "base";
const SUM: &str = "partial";

/// Who is in a sum, and what it is a sum of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// What the base was, by its content.
    base: String,
    /// The clients and their samples, by name.
    clients: Vec<(String, u64)>,
    /// The files of the model, with their metadata.
    files: Vec<(String, TextMap)>,
    /// Its tensors.
    tensors: Vec<Row>,
}

/// A tensor of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// Which of the files it is in.
    file: usize,
    dtype: Dtype,
    /// Its scale; none for what is copied.
    exponent: Option<i32>,
}

impl Head {
    fn samples(&self) -> u64 {
        self.clients.iter().map(|(_, samples)| samples).sum()
    }

    /// The head of the file that holds such a sum.
    fn header(&self, shape: impl Fn(&str) -> Vec<u64>) -> Result<Header> {
        let dtype = |row: &Row| if row.exponent.is_some() { Dtype::I64 } else { row.dtype };
        let tensors = self.tensors.iter().map(|row| (row.name.clone(), dtype(row), shape(&row.name)));
        let text = serde_json::to_string(self).expect("names and numbers are JSON");
        Header::layout(tensors, vec![(HEAD.to_owned(), text)].into())
    }
}

/// Make a sum of clients, or do with sums what is asked for; `None` where no sums are meant.
pub(super) fn aggregate(
    options: &Options,
    round: &RoundOptions,
    how: &MergeOptions,
    (clients, dropped): (&[Client], &[Dropped]),
    out: &Path,
    progress: &dyn Progress,
) -> Result<Option<Report>> {
    let is_sum = |client: &&Client| file_of(&client.path).is_some();
    let sums = clients.iter().filter(is_sum).count();
    if sums == 0 && !round.partial {
        return Ok(None);
    }
    if let (Some(one), true) = (clients.iter().find(is_sum), sums < clients.len()) {
        let other = clients.iter().find(|client| !is_sum(client)).expect("there are fewer sums than clients");
        let detail = format!("{} is a sum of clients, and {} is a client", one.name, other.name);
        return Err(usage(
            &detail,
            "sum the clients first: mwa aggregate CLIENTS… --partial --base MODEL -o SUM",
        ));
    }
    refuse(options, round, how, sums > 0)?;
    let work = if sums > 0 {
        if round.samples.is_some() || round.staleness.is_some() {
            return Err(usage("sums tell their samples themselves", "leave --samples and --staleness out"));
        }
        if round.base.is_some() {
            return Err(usage("sums bring their scales along", "leave out --base"));
        }
        let paths: Vec<_> = clients.iter().map(|client| client.path.clone()).collect();
        if round.partial { Work::Combine(paths) } else { Work::Finish(paths, how.merge.dtype) }
    } else {
        let base = round.base.clone().ok_or_else(|| {
            usage("a sum needs the model of this round, whose values fix its scales", "give it: --base MODEL")
        })?;
        round.base_here("a sum takes along what lies beside it")?;
        // whatever keeps clients from being averaged keeps them from being summed
        let plain = RoundOptions { partial: false, ..round.clone() };
        Planned::new(choose(options, &plain, clients, dropped)?, how)?;
        let mut named = Vec::new();
        for client in clients {
            named.push((client.name.clone(), client.path.clone(), whole(client)?));
        }
        Work::Sum(named, base)
    };
    let mut report = work.report(dropped);
    report.notes.extend(uncounted(clients).filter(|_| sums == 0));
    let staging = Staging::begin(out, how.force, &[])?;
    let threads = how.machine.threads();
    work.run(&mut report, options.adapter.as_deref(), &staging, threads, progress)?;
    if how.sha256 {
        staging.add_sha256(report.outputs.iter_mut().chain(&mut report.companions), progress)?;
    }
    for input in &mut report.inputs {
        input.path = path_from(staging.target(), Path::new(&input.path))?;
    }
    let mut texts = vec![(REPORT.to_owned(), report.to_json())];
    if !round.partial {
        texts.push((CARD.to_owned(), card(&report, &staging.path(CONFIG))?));
    }
    close(staging, &texts, progress)?;
    Ok(Some(report))
}

/// What the report in `folder` did with sums, again into `out`.
pub(crate) fn again(
    folder: &Path,
    report: &Report,
    kind: Partials,
    out: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Report> {
    let role = |input: &Input| input.round.as_ref().map(|it| it.role.clone()).unwrap_or_default();
    let of_role = |wanted: &'static str| report.inputs.iter().filter(move |it| role(it) == wanted);
    let paths: Vec<_> = of_role(SUM).map(|input| folder.join(&input.path)).collect();
    let work = match kind {
        Partials::Finished => Work::Finish(paths, report.dtype()?),
        Partials::Summed if !paths.is_empty() => Work::Combine(paths),
        Partials::Summed => {
            let base = of_role(BASE).next();
            let base = base.ok_or_else(|| Error::new(ErrorKind::Input, "names no base of its sum"))?;
            let client = |input: &Input| {
                let samples = input.round.as_ref().and_then(|it| it.samples).unwrap_or_default();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it was whole when it was written"
                )]
                let samples = samples as u64;
                (input.name.clone(), folder.join(&input.path), samples)
            };
            Work::Sum(of_role("client").map(client).collect(), folder.join(&base.path))
        }
    };
    let mut again = work.report(&[]);
    let staging = Staging::begin(out, false, &[])?;
    work.run(&mut again, report.adapter.as_deref(), &staging, threads, progress)?;
    Ok(again)
}

/// The file of a sum at a path, if one is there.
fn file_of(path: &Path) -> Option<PathBuf> {
    let inside = path.join(FILE);
    if inside.is_file() {
        return Some(inside);
    }
    (path.is_file() && path.file_name().is_some_and(|name| name == FILE)).then(|| path.to_owned())
}

/// Samples as reports have them; there are few enough.
fn real(samples: u64) -> f64 {
    f64::from(u32::try_from(samples).unwrap_or(u32::MAX))
}

/// Samples as whole numbers.
fn whole(client: &Client) -> Result<u64> {
    let samples = client.told.samples;
    let is_whole = samples.fract() == 0.0 && samples >= 0.0 && samples < real(MOST_SAMPLES);
    if !is_whole {
        let detail = format!(
            "client {} tells of {samples} samples, and sums count whole ones below {MOST_SAMPLES}",
            client.name
        );
        return Err(Error::new(ErrorKind::Weights, detail)
            .help("give whole numbers, or merge the files themselves: without --partial"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was just checked")]
    Ok(samples as u64)
}

/// Refuse what a sum cannot do, with the reason.
fn refuse(options: &Options, round: &RoundOptions, how: &MergeOptions, is_combined: bool) -> Result<()> {
    const KEEP: &str = "keep the files, and merge them when the round closes: without --partial";
    const LATER: &str =
        "make the model first, then step from the base to it: mwa aggregate MODEL --base BASE …";
    let is_robust = matches!(options.choose.rule, mwa::WeightRule::Robust { .. });
    let has_discount = round.discount.as_deref().is_some_and(|it| it != "constant");
    let refused = [
        (is_robust, "--scheme compares each client with all others, and a sum has none of them", KEEP),
        (
            is_combined && options.scheme.is_some(),
            "sums are means by samples, and --scheme has nothing to weigh by",
            "leave out --scheme",
        ),
        (
            round.clip.is_some(),
            "--clip needs the norm of each update, which is known when all of a client was read",
            KEEP,
        ),
        (has_discount, "--discount makes fractions of samples, and sums count whole ones", KEEP),
        (
            round.rule.as_deref().is_some_and(|it| it != "fedavg"),
            "sums are means by samples (--rule fedavg)",
            KEEP,
        ),
        (how.merge.space != Space::Factors, "products are no sums of the tensors", KEEP),
        (how.merge.allow_non_finite, "NaN and infinity are no whole numbers", "leave out --allow-non-finite"),
        (
            options.choose.drop_bad && !is_combined,
            "--drop-bad leaves clients out that are in the sum by then",
            "sum the good ones",
        ),
        (
            round.partial && how.merge.dtype.is_some(),
            "a sum has no dtype: the model made of it does",
            "leave out --dtype until then",
        ),
        (round.momentum.is_some() || round.previous.is_some(), "a sum takes no step of its server", LATER),
        (round.server.is_some() || round.server_rate.is_some(), "a sum takes no step of its server", LATER),
        (
            round.beta1.is_some() || round.beta2.is_some() || round.tau.is_some() || round.state.is_some(),
            "a sum takes no step of its server",
            LATER,
        ),
    ];
    match refused.into_iter().find(|(is_asked, ..)| *is_asked) {
        Some((_, detail, help)) => Err(usage(detail, help)),
        None => Ok(()),
    }
}

/// What is done.
enum Work {
    /// Sum clients (name, path, samples) on the scales of a base.
    Sum(Vec<(String, PathBuf, u64)>, PathBuf),
    /// Combine sums into one.
    Combine(Vec<PathBuf>),
    /// Make a model of sums, in a dtype if that was asked for.
    Finish(Vec<PathBuf>, Option<Float>),
}

impl Work {
    /// The report, without what comes of the work.
    fn report(&self, dropped: &[Dropped]) -> Report {
        let row = |name: String, path: &Path, role: &str, samples: Option<u64>| Input {
            round: Some(Contribution {
                role: role.into(),
                samples: samples.map(real),
                ..Contribution::default()
            }),
            ..Input::named(name, path.display().to_string())
        };
        let (inputs, kind, dtype) = match self {
            Self::Sum(clients, base) => {
                let mut rows: Vec<_> = clients
                    .iter()
                    .map(|(name, path, samples)| row(name.clone(), path, "client", Some(*samples)))
                    .collect();
                rows.push(row(base.display().to_string(), base, BASE, None));
                (rows, Partials::Summed, None)
            }
            Self::Combine(paths) | Self::Finish(paths, _) => {
                let rows =
                    paths.iter().map(|path| row(path.display().to_string(), path, SUM, None)).collect();
                match self {
                    Self::Finish(_, dtype) => (rows, Partials::Finished, *dtype),
                    _ => (rows, Partials::Summed, None),
                }
            }
        };
        Report {
            dtype: mwa::report::dtype_name(dtype),
            round: Some(Round {
                rule: "fedavg".into(),
                discount: "constant".into(),
                rate: 1.0,
                partials: Some(kind),
                dropped: dropped.to_vec(),
                ..Round::default()
            }),
            notes: dropped.iter().map(|it| format!("{} is dropped: {}", it.name, it.reason)).collect(),
            ..Report::unweighed("fedavg", inputs)
        }
    }

    /// Do it, and fill in the report.
    fn run(
        &self,
        report: &mut Report,
        adapter: Option<&str>,
        staging: &Staging,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<()> {
        report.adapter = adapter.map(str::to_owned);
        let (counted, beside) = match self {
            Self::Sum(clients, base) => {
                let summed = sum(clients, base, adapter, staging, threads, progress)?;
                report.outputs = vec![summed.file];
                // the base is the last row
                report.inputs.last_mut().expect("a base was given").files = summed.base;
                (summed.head, summed.beside)
            }
            Self::Combine(paths) => {
                let sums = Sums::open(paths)?;
                report.outputs = vec![sums.combine(staging, threads, progress)?];
                sums.tell(&mut report.inputs);
                (sums.head.clone(), beside_sum(sums.first())?)
            }
            Self::Finish(paths, dtype) => {
                let sums = Sums::open(paths)?;
                let (files, texts) = sums.finish(*dtype, staging, threads, progress)?;
                report.outputs = files;
                for (name, text) in texts {
                    report.companions.push(staging.write(&name, text.as_bytes())?);
                }
                sums.tell(&mut report.inputs);
                (sums.head.clone(), beside_sum(sums.first())?)
            }
        };
        let (copied, left_out) = staging.copy_companions(&beside)?;
        report.companions.extend(copied);
        report.notes.extend(left_out);
        let samples = counted.samples();
        for input in &mut report.inputs {
            let told = input.round.as_ref().and_then(|it| it.samples);
            input.weight = told.map_or(0.0, |told| told / real(samples));
            if input.files.is_empty() {
                input.files = files_of(Path::new(&input.path), adapter, threads, progress)?;
            }
        }
        let round = report.round.as_mut().expect("reports of sums are of rounds");
        (round.clients, round.samples) = (counted.clients.len(), real(samples));
        Ok(())
    }
}

/// The files with weights at a path, hashed.
fn files_of(
    path: &Path,
    adapter: Option<&str>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<HashedFile>> {
    let files: Vec<(PathBuf, String)> = match file_of(path) {
        Some(file) => vec![(file, FILE.into())],
        None => {
            let found = open(path, adapter)?;
            let name = |file: &InputFile| {
                let inner = found.folder.as_deref().and_then(|folder| file.path.strip_prefix(folder).ok());
                let inner = inner.map(Path::to_path_buf).or_else(|| file.path.file_name().map(PathBuf::from));
                inner.unwrap_or_default().to_string_lossy().replace('\\', "/")
            };
            found.files.iter().map(|file| (file.path.clone(), name(file))).collect()
        }
    };
    files.into_iter().map(|(path, name)| hashed(&path, name, threads, progress)).collect()
}

/// Files that go beside weights: name and path.
type Beside = Vec<(String, PathBuf)>;

/// What lies beside the base and belongs beside every model made of it: name and path.
fn beside_base(base: &Checkpoint) -> Beside {
    let mut beside = base.companions.clone();
    if let Some(config) = base.folder.as_ref().map(|folder| folder.join(CONFIG))
        && config.is_file()
        && beside.iter().all(|(name, _)| name != CONFIG)
    {
        beside.push((CONFIG.into(), config));
    }
    beside.sort();
    beside
}

/// What lies beside a sum, as its report has it.
fn beside_sum(file: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let report = folder.join(REPORT);
    if !report.is_file() {
        return Ok(Vec::new());
    }
    let at = |error: serde_json::Error| {
        Error::new(ErrorKind::Input, format!("is not a merge report: {error}"))
            .file(report.display().to_string())
    };
    let told: Report = serde_json::from_str(&read_text(&report)?).map_err(at)?;
    let names = told.companions.into_iter().map(|file| file.name).filter(|name| mwa::files::is_inside(name));
    let found = names.map(|name| (name.clone(), folder.join(name))).filter(|(_, path)| path.is_file());
    let mut beside = Vec::new();
    for (name, path) in found {
        if leads_out(&path)?.is_none() {
            beside.push((name, path));
        }
    }
    Ok(beside)
}

/// A sum of clients.
struct Summed {
    head: Head,
    file: HashedFile,
    beside: Beside,
    /// The files of the base.
    base: Vec<HashedFile>,
}

/// Sum clients on the scales of a base.
fn sum(
    clients: &[(String, PathBuf, u64)],
    base: &Path,
    adapter: Option<&str>,
    staging: &Staging,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Summed> {
    let mut opened = Vec::new();
    for (_, path, _) in clients {
        opened.push(open(path, adapter)?);
    }
    let model = open(base, adapter)?;
    if let Some(file) = model.files.iter().find(|file| file.header.beside().is_some()) {
        return Err(Error::new(
            ErrorKind::Input,
            "lies beside the model's own weights, and sums are of these alone",
        )
        .file(file.path.display().to_string())
        .help("keep the files, and merge them when the round closes: without --partial"));
    }
    let tensors = Tensors::new(opened.iter().map(|it| it.files.as_slice()).chain([model.files.as_slice()]));
    let of_base = clients.len();
    let named: Vec<(String, u64)> =
        clients.iter().map(|(name, _, samples)| (name.clone(), *samples)).collect();
    let of_model = files_of(base, adapter, threads, progress)?;
    let fingerprint: String = of_model.iter().map(|file| file.blake3.as_str()).collect();
    let head = Head {
        base: hash(fingerprint.as_bytes()),
        clients: checked(named)?,
        files: names_of(&model),
        tensors: scales(&model, &tensors, of_base, progress)?,
    };
    let making = Making::new(staging, FILE, head.header(|name| tensors.shape(of_base, name))?)?;
    for tensor in making.header.tensors() {
        if progress.stopped() {
            return Err(stopped());
        }
        let places = (0..=of_base).map(|input| tensors.like(input, tensor)).collect::<Result<Vec<_>>>()?;
        let at = |input: usize, kind: ErrorKind, detail: String| {
            let path = clients.get(input).map_or(base, |(_, path, _)| path);
            Error::new(kind, detail).file(path.display().to_string()).tensor(&*tensor.name)
        };
        let Some(exponent) = row_of(&head, &tensor.name).and_then(|row| row.exponent) else {
            let differs = |input: usize| {
                at(input, ErrorKind::Differs, "is copied, never summed, but differs from the base".into())
            };
            copied(&tensors, &places, &making, tensor, differs)?;
            continue;
        };
        let mut bytes = Vec::new();
        for (from, count) in pieces(elements(tensor)) {
            let mut sums = vec![0i64; usize::try_from(count).expect("a piece is in memory")];
            for (input, (place, (_, _, samples))) in places.iter().zip(clients).enumerate() {
                let float = Float::of(place.tensor.dtype)
                    .ok_or_else(|| at(input, ErrorKind::Dtype, "is no float, and one in the base".into()))?;
                tensors.read(*place, (from, count), float.bytes(), &mut bytes)?;
                let samples = i64::try_from(*samples).expect("it is below 2^23");
                for (i, (sum, word)) in sums.iter_mut().zip(bytes.chunks_exact(float.bytes())).enumerate() {
                    let value = float.value(word);
                    let Some(steps) = quantised(value, exponent) else {
                        let (element, largest) = (from + i as u64, 2f64.powi(exponent));
                        return Err(if value.is_finite() {
                            at(input, ErrorKind::Overflow, format!("holds {value} at element {element}, beyond ±{largest}, the scale that the base fixes"))
                                .help("such an update is 256 times as large as the model: leave that client out, or keep the files and merge them without --partial")
                        } else {
                            at(input, ErrorKind::NonFinite, format!("holds {value} at element {element}"))
                                .help("the client has diverged: leave it out")
                        });
                    };
                    *sum += samples * steps;
                }
            }
            write_sums(&making, tensor, from, &sums)?;
        }
    }
    tensors.check_unchanged()?;
    let beside = beside_base(&model);
    Ok(Summed { head, file: making.finish(staging, threads, progress)?, beside, base: of_model })
}

/// Write whole numbers of a tensor from an element on.
fn write_sums(making: &Making, tensor: &Tensor, from: u64, sums: &[i64]) -> Result<()> {
    let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    making.write(tensor.range.start + from * 8, &bytes)
}

/// Copy a tensor that is the same everywhere; `differs` says of which it is not.
fn copied(
    tensors: &Tensors<'_>,
    places: &[Place<'_>],
    making: &Making,
    tensor: &Tensor,
    differs: impl Fn(usize) -> Error,
) -> Result<()> {
    let (mut first, mut other) = (Vec::new(), Vec::new());
    for piece in pieces(tensor.len()) {
        let (last, before) = places.split_last().expect("something is copied");
        tensors.read(*last, piece, 1, &mut first)?;
        for (input, place) in before.iter().enumerate() {
            if place.tensor.dtype != tensor.dtype {
                return Err(differs(input));
            }
            tensors.read(*place, piece, 1, &mut other)?;
            if other != first {
                return Err(differs(input));
            }
        }
        making.write(tensor.range.start + piece.0, &first)?;
    }
    Ok(())
}

/// Clients by name, none of them twice, and not too many samples.
fn checked(mut clients: Vec<(String, u64)>) -> Result<Vec<(String, u64)>> {
    clients.sort();
    if let Some(pair) = clients.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let detail = format!("client {} is in two sums", pair[0].0);
        return Err(Error::new(ErrorKind::Input, detail)
            .help("a client counts once in a round: leave one of them out"));
    }
    let samples =
        clients.iter().try_fold(0u64, |all, (_, samples)| all.checked_add(*samples)).unwrap_or(u64::MAX);
    if samples >= MOST_SAMPLES {
        let detail = format!(
            "the {} clients have {samples} samples together, and 64 bits hold sums of fewer than {MOST_SAMPLES}",
            clients.len()
        );
        return Err(Error::new(ErrorKind::Weights, detail)
            .help("count in larger units, such as batches: the mean depends on the shares alone"));
    }
    Ok(clients)
}

/// The files of a model as they will be called, with their metadata.
fn names_of(model: &Checkpoint) -> Vec<(String, TextMap)> {
    let name = |file: &InputFile| {
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match name.rsplit_once('.') {
            Some((stem, ending)) if ending != "safetensors" => {
                format!("{stem}.safetensors").replace("pytorch_model", "model")
            }
            _ => name,
        }
    };
    model.files.iter().map(|file| (name(file), file.header.metadata().clone())).collect()
}

/// The tensors of a model with their scales.
fn scales(
    model: &Checkpoint,
    tensors: &Tensors<'_>,
    input: usize,
    progress: &dyn Progress,
) -> Result<Vec<Row>> {
    let (mut rows, mut largest) = (Vec::new(), Vec::new());
    let mut bytes = Vec::new();
    for (number, file) in model.files.iter().enumerate() {
        for tensor in file.header.tensors() {
            if progress.stopped() {
                return Err(stopped());
            }
            let mut most = None;
            if let Some(float) = Float::of(tensor.dtype) {
                let place = tensors.like(input, tensor)?;
                let mut top = 0.0f64;
                for piece in pieces(elements(tensor)) {
                    tensors.read(place, piece, float.bytes(), &mut bytes)?;
                    for word in bytes.chunks_exact(float.bytes()) {
                        let value = float.value(word).abs();
                        if !value.is_finite() {
                            return Err(Error::new(ErrorKind::NonFinite, format!("holds {value}"))
                                .file(file.path.display().to_string())
                                .tensor(&*tensor.name)
                                .help("scales come from the base: give one that is whole"));
                        }
                        top = top.max(value);
                    }
                }
                most = Some(top);
            }
            largest.push(most);
            rows.push(Row { name: tensor.name.clone(), file: number, dtype: tensor.dtype, exponent: None });
        }
    }
    // a tensor that is all 0 (LoRA's B when training begins) has the scale of the whole model
    let whole = largest.iter().flatten().copied().fold(0.0, f64::max);
    let whole = if whole > 0.0 { whole } else { 1.0 };
    for (row, most) in rows.iter_mut().zip(largest) {
        row.exponent = most.map(|most| exponent(if most > 0.0 { most } else { whole }));
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// The row of a tensor, by its name; rows are sorted.
fn row_of<'a>(head: &'a Head, name: &str) -> Option<&'a Row> {
    let at = head.tensors.binary_search_by(|row| row.name.as_str().cmp(name)).ok()?;
    Some(&head.tensors[at])
}

/// Sums that belong together.
struct Sums {
    /// Each with its file.
    files: Vec<(PathBuf, InputFile)>,
    heads: Vec<Head>,
    /// The head of all together.
    head: Head,
}

impl Sums {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        let mut heads: Vec<Head> = Vec::new();
        for path in paths {
            let place = file_of(path).ok_or_else(|| {
                Error::new(ErrorKind::Input, "is no sum of clients").file(path.display().to_string())
            })?;
            let file = InputFile::open(&place)?;
            let damaged = |detail: String| {
                Error::new(ErrorKind::Input, detail)
                    .file(place.display().to_string())
                    .help("make the sum again: it was damaged or edited")
            };
            let text =
                file.header.metadata().get(HEAD).ok_or_else(|| damaged("says nothing of a sum".into()))?;
            let head: Head = serde_json::from_str(text)
                .map_err(|error| damaged(format!("has a damaged head: {error}")))?;
            check(&head, &file).map_err(damaged)?;
            if let Some(first) = heads.first() {
                let is_same =
                    first.base == head.base && first.files == head.files && first.tensors == head.tensors;
                if !is_same {
                    let detail = format!("is a sum on another model than {}", paths[0].display());
                    return Err(Error::new(ErrorKind::Input, detail)
                        .file(path.display().to_string())
                        .help("sums of one round are made with the same --base"));
                }
            }
            heads.push(head);
            files.push((path.clone(), file));
        }
        let clients = checked(heads.iter().flat_map(|head| head.clients.iter().cloned()).collect())?;
        let head = Head { clients, ..heads[0].clone() };
        if head.samples() == 0 {
            return Err(Error::new(
                ErrorKind::Weights,
                format!("the {} clients have 0 samples together", head.clients.len()),
            )
            .help("give the samples of each client"));
        }
        Ok(Self { files, heads, head })
    }

    /// The file of that with the first client: the same one, whoever came first.
    fn first(&self) -> &Path {
        let firsts = self.heads.iter().map(|head| head.clients.first());
        let (at, _) = firsts.enumerate().min_by(|(_, a), (_, b)| a.cmp(b)).expect("there is one");
        &self.files[at].1.path
    }

    /// Tell the rows of the sums how many samples are in each.
    fn tell(&self, rows: &mut [Input]) {
        for (row, head) in rows.iter_mut().zip(&self.heads) {
            if let Some(told) = &mut row.round {
                told.samples = Some(real(head.samples()));
            }
        }
    }

    fn tensors(&self) -> Tensors<'_> {
        Tensors::new(self.files.iter().map(|(_, file)| slice::from_ref(file)))
    }

    fn combine(&self, staging: &Staging, threads: usize, progress: &dyn Progress) -> Result<HashedFile> {
        let tensors = self.tensors();
        let making = Making::new(staging, FILE, self.head.header(|name| tensors.shape(0, name))?)?;
        for tensor in making.header.tensors() {
            if progress.stopped() {
                return Err(stopped());
            }
            let is_summed = row_of(&self.head, &tensor.name).is_some_and(|row| row.exponent.is_some());
            self.tensor(&tensors, tensor, is_summed, &making, |from, sums| {
                write_sums(&making, tensor, from, sums)
            })?;
        }
        tensors.check_unchanged()?;
        making.finish(staging, threads, progress)
    }

    /// The model, and what tells which of several files has which tensor.
    fn finish(
        &self,
        dtype: Option<Float>,
        staging: &Staging,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<(Vec<HashedFile>, Vec<mwa::merge::Text>)> {
        let tensors = self.tensors();
        let samples = self.head.samples();
        let mut makings = Vec::new();
        let mut shards = Vec::new();
        for (number, (name, metadata)) in self.head.files.iter().enumerate() {
            let rows = self.head.tensors.iter().filter(|row| row.file == number);
            let laid = rows.map(|row| {
                let dtype = match (row.exponent, dtype) {
                    (Some(_), Some(wanted)) => wanted.dtype(),
                    _ => row.dtype,
                };
                (row.name.clone(), dtype, tensors.shape(0, &row.name))
            });
            let header = Header::layout(laid, metadata.clone())?;
            shards.push(Shard { name: name.clone(), header: header.clone() });
            makings.push(Making::new(staging, name, header)?);
        }
        for making in &makings {
            for tensor in making.header.tensors() {
                if progress.stopped() {
                    return Err(stopped());
                }
                let row = row_of(&self.head, &tensor.name).expect("it was laid out of the rows");
                let float = Float::of(tensor.dtype);
                self.tensor(&tensors, tensor, row.exponent.is_some(), making, |from, sums| {
                    let (Some(exponent), Some(float)) = (row.exponent, float) else { return Ok(()) };
                    let mut bytes = vec![0; sums.len() * float.bytes()];
                    for (sum, word) in sums.iter().zip(bytes.chunks_exact_mut(float.bytes())) {
                        float.put(mean(*sum, samples, exponent), word);
                        if !float.value(word).is_finite() {
                            return Err(Error::new(
                                ErrorKind::Overflow,
                                format!("has a merged value too large for {}", tensor.dtype),
                            )
                            .tensor(&*tensor.name)
                            .help("ask for a wider dtype: --dtype f32 or bf16"));
                        }
                    }
                    making.write(tensor.range.start + from * float.bytes() as u64, &bytes)
                })?;
            }
        }
        tensors.check_unchanged()?;
        let mut files = Vec::new();
        for making in makings {
            files.push(making.finish(staging, threads, progress)?);
        }
        Ok((files, mwa::merge::shard_indexes(&shards)))
    }

    /// The sums of a tensor, piece by piece; or copy it.
    fn tensor(
        &self,
        tensors: &Tensors<'_>,
        tensor: &Tensor,
        is_summed: bool,
        making: &Making,
        mut write: impl FnMut(u64, &[i64]) -> Result<()>,
    ) -> Result<()> {
        let places =
            (0..self.files.len()).map(|input| tensors.like(input, tensor)).collect::<Result<Vec<_>>>()?;
        let at = |input: usize, kind: ErrorKind, detail: &'static str| {
            Error::new(kind, detail).file(self.files[input].0.display().to_string()).tensor(&*tensor.name)
        };
        if !is_summed {
            return copied(tensors, &places, making, tensor, |input| {
                at(input, ErrorKind::Differs, "is copied, never summed, but differs from the other sums")
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(PIECE).unwrap_or_default() * 8);
        for (from, count) in pieces(elements(tensor)) {
            let mut sums = vec![0i64; usize::try_from(count).expect("a piece is in memory")];
            for (input, place) in places.iter().enumerate() {
                tensors.read(*place, (from, count), 8, &mut bytes)?;
                for (sum, word) in sums.iter_mut().zip(bytes.chunks_exact(8)) {
                    let mut own = [0; 8];
                    own.copy_from_slice(word);
                    *sum = sum.checked_add(i64::from_le_bytes(own)).ok_or_else(|| {
                        at(input, ErrorKind::Overflow, "holds sums that no such clients have")
                            .help("make the sum again: it was damaged or edited")
                    })?;
                }
            }
            write(from, &sums)?;
        }
        Ok(())
    }
}

/// Whether the file of a sum holds what its head says; what does not fit.
fn check(head: &Head, file: &InputFile) -> core::result::Result<(), String> {
    let tensors = file.header.tensors();
    if tensors.len() != head.tensors.len() {
        return Err(format!("holds {} tensors, and its head tells of {}", tensors.len(), head.tensors.len()));
    }
    if !head.tensors.windows(2).all(|pair| pair[0].name < pair[1].name) {
        return Err("has a head whose tensors are not in order".into());
    }
    for tensor in tensors {
        let row = row_of(head, &tensor.name);
        let expected = row.map(|row| if row.exponent.is_some() { Dtype::I64 } else { row.dtype });
        let is_good = row.is_some_and(|row| {
            row.file < head.files.len()
                && (row.exponent.is_none() || Float::of(row.dtype).is_some())
                && row.exponent.is_none_or(|it| (-2000..=2000).contains(&it))
        });
        if expected != Some(tensor.dtype) || !is_good {
            return Err(format!("has a head that does not fit `{}`", tensor.name));
        }
    }
    if let Some((name, _)) =
        head.files.iter().find(|(name, _)| !mwa::files::is_inside(name) || name.contains('/'))
    {
        return Err(format!("names `{name}`, which is not a file in a folder"));
    }
    Ok(())
}
