//! A federated round: what clients returned, merged by samples and staleness into the next model.
//!
//! Files are kept until the round closes and are summed in the order of the clients' names, so that no order of arrival
//! shows in the bytes. What the server adds (the model that was sent, the model before it) is part of the same sum.

pub(crate) mod partial;
pub(crate) mod server;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mwa::federated::{Discount, Roles, Rule, Told, shares};
use mwa::merge::{Chosen, Round};
use mwa::options::Kind;
use mwa::report::{self, Contribution, Dropped, HashedFile, Report, Weighting};
use mwa::{Error, ErrorKind, OpenOptions, Readers, Result, WeightRule};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::engine::device::DeviceChoice;
use crate::find::checkpoint::{Checkpoint, is_own_weights, is_weights, read_text};
use crate::find::choose::Choice;
use crate::find::meant;
use crate::io::disk::{Disk, io_error, text_of};
use crate::io::hash::blake3_of;
use crate::io::staging::Staging;
use crate::io::url::{clean, is_elsewhere, place};
use crate::merge::Planned;
use crate::options::{MergeOptions, Options};
use crate::progress::Progress;

/// What a round is told beside its files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundOptions {
    /// The samples of each client, in the order in which they are given.
    pub samples: Option<Vec<f64>>,
    /// How many rounds ago each client was sent its model, in the same order.
    pub staleness: Option<Vec<f64>>,
    /// A file that tells all that, client by client.
    pub manifest: Option<PathBuf>,
    /// `fedavg`, `fedbuff` or `fedfix`.
    pub rule: Option<String>,
    /// `constant`, `polynomial[:A]` or `hinge[:A,B]`.
    pub discount: Option<String>,
    /// The staleness above which a client is left out.
    pub max_staleness: Option<f64>,
    /// The time of a round, for `fedfix`.
    pub period: Option<f64>,
    /// The model that clients were sent.
    pub base: Option<PathBuf>,
    /// The model before it, for momentum.
    pub previous: Option<PathBuf>,
    /// The share of the last step that is taken again; 0 unless given.
    pub momentum: Option<f64>,
    /// By how much of the clients' mean update the model moves; 1 unless given, and 0.1 with `adam`.
    pub server_rate: Option<f64>,
    /// `adam`: the server's optimizer; a plain step, with momentum if that is given, without.
    pub server: Option<String>,
    /// What Adam keeps of the mean of updates; 0.9 unless given.
    pub beta1: Option<f64>,
    /// What it keeps of the mean of their squares; 0.99 unless given.
    pub beta2: Option<f64>,
    /// Below which it does not blow small updates up; 0.001 unless given.
    pub tau: Option<f64>,
    /// Its moments, where they do not lie beside the base.
    pub state: Option<PathBuf>,
    /// Write an exact sum that is combined with others, instead of a model.
    pub partial: bool,
    /// The largest norm of a client's update.
    pub clip: Option<f64>,
}

impl RoundOptions {
    /// Read a JSON object of that.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what it cannot be.
    pub fn parse(text: &str) -> Result<Self> {
        let usage = |detail: String| Error::new(ErrorKind::Usage, detail);
        let given: Map<String, Value> = serde_json::from_str(text)
            .map_err(|_| usage("what a round is told is no JSON object with options by name".into()))?;
        for (name, value) in &given {
            let Some((_, kind)) = TOLD.iter().find(|(known, _)| known == name) else {
                let error = usage(format!("a round has no option `{name}`"));
                return Err(match mwa::closest(name, TOLD.map(|(known, _)| known)) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("the names are those of `mwa aggregate --help`, with _ for -"),
                });
            };
            // one by one, so that it is known which does not fit
            let alone = Map::from_iter([(name.clone(), value.clone())]);
            if serde_json::from_value::<Self>(Value::Object(alone)).is_err() {
                return Err(usage(format!("option {name}: {value} does not fit; it must be {kind}")));
            }
        }
        serde_json::from_value(Value::Object(given)).map_err(|error| usage(error.to_string()))
    }
}

/// The names of [`RoundOptions`], and what each must be.
const TOLD: [(&str, Kind); 18] = [
    ("samples", Kind::Numbers),
    ("staleness", Kind::Numbers),
    ("manifest", Kind::Path),
    ("rule", Kind::Text),
    ("discount", Kind::Text),
    ("max_staleness", Kind::Number(None)),
    ("period", Kind::Number(None)),
    ("base", Kind::Path),
    ("previous", Kind::Path),
    ("momentum", Kind::Number(None)),
    ("server_rate", Kind::Number(None)),
    ("server", Kind::Text),
    ("beta1", Kind::Number(None)),
    ("beta2", Kind::Number(None)),
    ("tau", Kind::Number(None)),
    ("state", Kind::Path),
    ("partial", Kind::Switch),
    ("clip", Kind::Number(None)),
];

/// A client's row of a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    file: PathBuf,
    client: Option<String>,
    samples: Option<f64>,
    staleness: Option<f64>,
    time: Option<f64>,
    sent: Option<PathBuf>,
}

/// A manifest that is one JSON object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    clients: Vec<Row>,
}

/// A client.
struct Client {
    name: String,
    path: PathBuf,
    told: Told,
    /// Whether its samples were told.
    is_counted: bool,
    sent: Option<PathBuf>,
}

/// The manifest of a round's folder.
const MANIFEST: &str = "manifest.json";
/// The power of the polynomial discount, and slope and free rounds of the hinge, as their papers have them.
const POWER: f64 = 0.5;
const HINGE: (f64, f64) = (10.0, 4.0);

impl RoundOptions {
    /// The same, without the secrets of addresses.
    fn cleaned(&self) -> Self {
        let of = |path: &Option<PathBuf>| path.as_deref().map(clean);
        Self {
            base: of(&self.base),
            previous: of(&self.previous),
            manifest: of(&self.manifest),
            state: of(&self.state),
            ..self.clone()
        }
    }

    /// Refuse a base that lies in a store, for what looks at files beside it.
    fn base_here(&self, why: &str) -> Result<()> {
        match self.base.as_deref().filter(|base| is_elsewhere(base)) {
            None => Ok(()),
            Some(base) => {
                Err(usage(&format!("{} lies in a store, and {why}", base.display()), "copy the base here"))
            }
        }
    }
}

/// Merge what the clients at `options.inputs` returned into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// [`ErrorKind::Usage`] for numbers that do not belong together, and those of [`crate::merge()`].
pub fn aggregate(
    options: &Options,
    round: &RoundOptions,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    if how.machine.device == DeviceChoice::Wasm {
        return Err(usage("the sandbox merges runs, no rounds", "aggregate on another device"));
    }
    let round = &round.cleaned();
    if round.period.is_some() && round.rule.as_deref() != Some(Rule::FedFix.name()) {
        let rule = round.rule.as_deref().unwrap_or(Rule::default().name());
        return Err(usage(
            &format!("--period says nothing to the rule {rule}"),
            "leave it out, or use --rule fedfix",
        ));
    }
    let inputs: Vec<_> = options.inputs.iter().map(|input| clean(input)).collect();
    let (clients, mut dropped) = clients(&inputs, round)?;
    let others = clients.iter().flat_map(|client| [Some(&client.path), client.sent.as_ref()]);
    let named = [&round.base, &round.previous, &round.manifest, &round.state];
    let others = others.chain(named.map(Option::as_ref));
    Staging::make_way(out, how.force, others.flatten().map(PathBuf::as_path), progress)?;
    if let Some(done) = partial::aggregate(options, round, how, (&clients[..], &dropped[..]), out, progress)?
    {
        return Ok(done);
    }
    if let Some(adam) = server::asked(round, how)? {
        return server::aggregate(adam, options, round, how, out, progress);
    }
    let mut clients = clients;
    loop {
        let choice = choose(options, round, &clients, &dropped)?;
        let mut planned = Planned::new(choice, how)?;
        let error = match planned.run(how, out, progress) {
            Err(error) if options.choose.drop_bad => error,
            done => return done,
        };
        let place = |path: &Path| clients.iter().position(|client| client.path == path);
        let bad = planned.bad_input(&error).and_then(|(path, bad)| Some((place(&path)?, bad.reason)));
        let (bad, reason) = bad.ok_or(error)?;
        dropped.push(Dropped { name: clients.remove(bad).name, reason });
    }
}

/// The model card of a report, beside this config if there is one.
fn card(report: &Report, config: &Path) -> Result<String> {
    let config = if config.is_file() { mwa::AdapterConfig::parse(&read_text(config)?).ok() } else { None };
    Ok(mwa::card(report, config.as_ref(), None))
}

/// A file that was read or written whole, as reports have it.
fn hashed(path: &Path, name: String, threads: usize, progress: &dyn Progress) -> Result<HashedFile> {
    let failed = |error| io_error("cannot look at it", &error).file(path.display().to_string());
    let len = path.metadata().map_err(failed)?.len();
    let blake3 = blake3_of(path, threads, progress)?;
    Ok(HashedFile { blake3, ..HashedFile::unhashed(name, len) })
}

/// The clients of a round, by name, without those that are too stale, which come second.
fn clients(inputs: &[PathBuf], round: &RoundOptions) -> Result<(Vec<Client>, Vec<Dropped>)> {
    let mut clients = listed(inputs, round)?;
    clients.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.path.cmp(&b.path)));
    if let Some(pair) = clients.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let detail = format!("client {} is named twice", pair[0].name);
        return Err(usage(&detail, "a client counts once in a round: leave one of its files out"));
    }
    let Some(most) = round.max_staleness else { return Ok((clients, Vec::new())) };
    let (stale, fresh): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|client| client.told.staleness > most);
    if fresh.is_empty() {
        let detail = format!("all {} clients are staler than {most}", stale.len());
        return Err(Error::new(ErrorKind::Weights, detail).help("allow more: --max-staleness N"));
    }
    let reason = |client: &Client| format!("its staleness is {}, above {most}", client.told.staleness);
    let dropped = stale.iter().map(|client| Dropped { name: client.name.clone(), reason: reason(client) });
    let dropped = dropped.collect();
    Ok((fresh, dropped))
}

/// The clients as they were given: by a manifest, as files, or as what lies in a folder.
fn listed(inputs: &[PathBuf], round: &RoundOptions) -> Result<Vec<Client>> {
    let (mut paths, mut manifest) = (Vec::new(), round.manifest.clone());
    for input in inputs {
        match inside(input)? {
            Some(_) if manifest.is_none() && inputs.len() == 1 && input.join(MANIFEST).is_file() => {
                manifest = Some(input.join(MANIFEST));
            }
            Some(found) => paths.extend(found),
            None if !is_elsewhere(input) && !input.exists() => {
                let error = Error::new(ErrorKind::Input, "does not exist").file(input.display().to_string());
                let is_number = input.to_str().is_some_and(|text| text.parse::<f64>().is_ok());
                let told = [("--samples", &round.samples), ("--staleness", &round.staleness)];
                let told = told.into_iter().find_map(|(name, told)| Some((name, told.as_deref()?)));
                if let (true, Some((name, told))) = (is_number, told) {
                    let first = told.last().copied().unwrap_or_default();
                    return Err(error.help(format!(
                        "the numbers of {name} have commas between them: {name} {first},{}",
                        input.display()
                    )));
                }
                return Err(meant::suggest(error)
                    .help("give the folder of a round, or the files and folders of its clients"));
            }
            None => paths.push((input.display().to_string(), input.clone())),
        }
    }
    if let Some(manifest) = manifest {
        if round.manifest.is_some() && !inputs.is_empty() {
            return Err(usage(
                "the clients are named twice, by a manifest and by themselves",
                "give one of them",
            ));
        }
        if round.samples.is_some() || round.staleness.is_some() {
            let detail = format!("{} tells samples and staleness", manifest.display());
            return Err(usage(&detail, "leave --samples and --staleness out, or name the files themselves"));
        }
        return rows(&manifest);
    }
    if paths.is_empty() {
        return Err(Error::new(ErrorKind::Input, "there are no clients")
            .help("give the folder of a round, the files of its clients, or a manifest"));
    }
    let count = paths.len();
    let of = |values: &Option<Vec<f64>>, name: &str, usual: f64| {
        let values = values.clone().unwrap_or_else(|| vec![usual; count]);
        if values.len() == count {
            return Ok(values);
        }
        let names: Vec<_> = paths.iter().map(|(name, _)| name.as_str()).collect();
        let detail = format!("there are {} {name} for {count} clients: {}", values.len(), names.join(", "));
        Err(usage(&detail, "give one per client, in this order"))
    };
    let samples = of(&round.samples, "samples", 1.0)?;
    let staleness = of(&round.staleness, "numbers of staleness", 0.0)?;
    let told = samples.into_iter().zip(staleness);
    let told = told.map(|(samples, staleness)| Told { samples, staleness, time: None });
    let is_counted = round.samples.is_some();
    Ok(paths
        .into_iter()
        .zip(told)
        .map(|((name, path), told)| Client { name, path, told, is_counted, sent: None })
        .collect())
}

/// What lies in the folder of a round, by name; none where a path is a client's own.
fn inside(folder: &Path) -> Result<Option<Vec<(String, PathBuf)>>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let failed =
        |error: std::io::Error| io_error("cannot list it", &error).file(folder.display().to_string());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if is_own_weights(&name) || name == partial::FILE {
            return Ok(None);
        }
        if !name.starts_with('.') && (path.is_dir() || is_weights(&name)) {
            let stem = name.strip_suffix(".safetensors").or_else(|| name.strip_suffix(".bin"));
            found.push((stem.unwrap_or(&name).to_owned(), path));
        }
    }
    found.sort();
    Ok(Some(found))
}

/// The rows of a manifest: a JSON object, a list, or a row a line.
fn rows(path: &Path) -> Result<Vec<Client>> {
    let text = read_text(path)?;
    let rows: core::result::Result<Vec<Row>, serde_json::Error> = match text.trim_start().chars().next() {
        Some('[') => serde_json::from_str(&text),
        _ => serde_json::from_str::<Whole>(&text).map(|whole| whole.clients).or_else(|error| {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let rows: core::result::Result<Vec<Row>, _> = lines.map(serde_json::from_str).collect();
            rows.map_err(|line| {
                if text.trim().lines().count() > 1 && !text.contains("\"clients\"") { line } else { error }
            })
        }),
    };
    let at = |error: Error| error.file(path.display().to_string());
    let rows = rows.map_err(|error| {
        at(Error::new(ErrorKind::Input, format!("is no manifest of a round: {error}"))).help(
            "write {\"clients\": [{\"client\": \"a\", \"file\": \"a.safetensors\", \"samples\": 100, \"staleness\": 0}]}",
        )
    })?;
    if rows.is_empty() {
        return Err(at(Error::new(ErrorKind::Input, "names no clients")).help("add a row for each client"));
    }
    let counted = rows.iter().filter(|row| row.samples.is_some()).count();
    if let Some(row) = rows.iter().find(|row| row.samples.is_none()).filter(|_| counted > 0) {
        let name = row.client.clone().unwrap_or_else(|| row.file.display().to_string());
        let detail = format!("tells the samples of {counted} of {} clients, and none of {name}", rows.len());
        return Err(
            at(Error::new(ErrorKind::Input, detail)).help("give `samples` for each client, or for none")
        );
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let place = |path: &Path| -> Result<PathBuf> { Ok(place(folder, &text_of(&clean(path))?)) };
    let client = |row: Row| {
        Ok(Client {
            path: place(&row.file)?,
            name: row.client.unwrap_or_else(|| clean(&row.file).display().to_string()),
            told: Told {
                samples: row.samples.unwrap_or(1.0),
                staleness: row.staleness.unwrap_or(0.0),
                time: row.time,
            },
            is_counted: row.samples.is_some(),
            sent: row.sent.as_deref().map(place).transpose()?,
        })
    };
    rows.into_iter().map(client).collect()
}

/// Which files are summed, and with which weights.
fn choose(
    options: &Options,
    round: &RoundOptions,
    clients: &[Client],
    dropped: &[Dropped],
) -> Result<Choice> {
    if clients.is_empty() {
        return Err(Error::new(ErrorKind::Input, "no good client is left"));
    }
    let rule: Rule = round.rule.as_deref().map_or(Ok(Rule::default()), str::parse)?;
    let discount = discount(round.discount.as_deref())?;
    let robust = match options.choose.rule {
        WeightRule::Robust { scheme, robust, .. } => Some((scheme, robust)),
        WeightRule::Scheme { .. } if options.scheme.is_none() => None,
        _ => {
            let named =
                options.scheme.map_or_else(|| "weights".into(), |scheme| format!("--scheme {}", scheme.name));
            let detail = format!(
                "clients have no metric and are no checkpoints of one run: {named} has nothing to weigh by"
            );
            return Err(usage(
                &detail,
                "leave it out: clients count by --samples; or use --scheme flag, krum, multi-krum or geometric-median",
            ));
        }
    };
    let told: Vec<_> = clients.iter().map(|client| client.told).collect();
    let parts = shares(rule, discount, round.period, &told)?;
    let (rate, momentum) = (round.server_rate.unwrap_or(1.0), round.momentum.unwrap_or(0.0));
    check(round, rule, rate, momentum, clients)?;

    let disk = Disk::default();
    let wanted = OpenOptions { adapter: options.adapter.clone(), ..OpenOptions::default() };
    let open = |path: &Path| {
        let path = text_of(&clean(path))?;
        disk.now(|| mwa::Checkpoint::open(&disk, &Readers::ALL, &path, &wanted))
    };
    let mut found = Vec::new();
    for client in clients {
        found.push(open(&client.path)?);
    }
    // clients, then what they were sent, then the model before, then the model of this round: the last gives the output its names
    let mut sent: Vec<&Path> = clients.iter().filter_map(|client| client.sent.as_deref()).collect();
    sent.sort_unstable();
    sent.dedup();
    if let Some(base) = &round.base {
        sent.retain(|path| fs::canonicalize(path).ok() != fs::canonicalize(base).ok());
    }
    for path in &sent {
        found.push(open(path)?);
    }
    let previous = round.previous.as_ref().map(|path| open(path)).transpose()?;
    let previous = previous.map(|it| {
        found.push(it);
        found.len() - 1
    });
    let base = round.base.as_ref().map(|path| open(path)).transpose()?;
    let base = base.map(|it| {
        found.push(it);
        found.len() - 1
    });
    let place = |client: &Client| {
        let own = client.sent.as_deref().and_then(|path| sent.iter().position(|it| *it == path));
        own.map(|at| clients.len() + at).or(base)
    };
    let roles = Roles {
        clients: clients.len(),
        sent: if base.is_some() { clients.iter().filter_map(place).collect() } else { Vec::new() },
        base,
        previous,
        rate,
        momentum,
        clip: round.clip,
    };
    let weights = roles.weights(found.len(), &parts)?;
    let row = |(i, checkpoint): (usize, &mwa::Checkpoint)| {
        let role = match i {
            i if i < clients.len() => "client",
            i if Some(i) == base => "base",
            i if Some(i) == previous => "previous",
            _ => "sent",
        };
        let client = clients.get(i);
        let told = client.map(|client| client.told);
        let name = client.map_or(&checkpoint.name, |client| &client.name).clone();
        report::Input {
            round: Some(Contribution {
                role: role.into(),
                samples: told.map(|told| told.samples),
                staleness: told.map(|told| told.staleness),
                share: parts.get(i).copied(),
                ..Contribution::default()
            }),
            weight: weights.values()[i],
            ..report::Input::named(name, checkpoint.name.clone())
        }
    };
    let rows: Vec<_> = found.iter().enumerate().map(row).collect();
    let weighting = match robust {
        Some((scheme, robust)) => Weighting::robust(scheme, robust),
        None => Weighting { scheme: rule.name().into(), ..Weighting::explicit() },
    };
    let by_reference: Vec<_> = found.iter().collect();
    let mut chosen = Chosen::of(&by_reference, rows, weights, weighting);
    chosen.robust = robust.map(|(_, robust)| robust);
    chosen.adapter.clone_from(&options.adapter);
    chosen.notes = dropped.iter().map(|it| format!("{} is dropped: {}", it.name, it.reason)).collect();
    chosen.notes.extend(uncounted(clients).filter(|_| chosen.robust.is_none()));
    chosen.round = Some(Round {
        roles,
        shares: parts,
        told: report::Round {
            rule: rule.name().into(),
            discount: discount.to_string(),
            period: round.period.filter(|_| rule == Rule::FedFix),
            rate,
            momentum,
            clip: round.clip,
            clients: clients.len(),
            samples: told.iter().map(|told| told.samples).sum(),
            server: None,
            partials: None,
            dropped: dropped.to_vec(),
        },
    });
    let checkpoints = found.into_iter().map(|it| Checkpoint::of(it, &disk)).collect::<Result<Vec<_>>>()?;
    Ok(Choice { chosen, checkpoints: Arc::new(checkpoints), picture: None })
}

/// What to say where nobody told the samples of the clients.
fn uncounted(clients: &[Client]) -> Option<String> {
    let is_told = clients.len() < 2 || clients.iter().any(|client| client.is_counted);
    (!is_told).then(|| {
        format!("nothing says how many samples the {} clients had: they count alike (--samples N,N,…, or a manifest)", clients.len())
    })
}

/// Refuse numbers that go together with nothing.
fn check(round: &RoundOptions, rule: Rule, rate: f64, momentum: f64, clients: &[Client]) -> Result<()> {
    let is_positive = |value: f64| value.is_finite() && value > 0.0;
    if !is_positive(rate) {
        return Err(usage(&format!("the server's rate is {rate}"), "it must be above 0"));
    }
    if !(0.0..1.0).contains(&momentum) {
        return Err(usage(&format!("the momentum is {momentum}"), "it must be at least 0 and below 1"));
    }
    if let Some(clip) = round.clip.filter(|clip| !is_positive(*clip)) {
        return Err(usage(&format!("updates are clipped to norm {clip}"), "it must be above 0"));
    }
    if (momentum > 0.0) != round.previous.is_some() {
        let detail = "momentum needs the model before the one that was sent, and nothing else does";
        return Err(usage(detail, "give both --momentum and --previous, or neither"));
    }
    if round.base.is_none() {
        let stale = rule != Rule::FedAvg;
        let what = match () {
            () if stale => rule.name(),
            () if round.clip.is_some() => "clipping",
            () if rate != 1.0 => "a server's rate other than 1",
            () if momentum > 0.0 => "momentum",
            () if clients.iter().any(|client| client.sent.is_some()) => "a model that a client was sent",
            () => return Ok(()),
        };
        return Err(usage(&format!("{what} needs the model of this round"), "give it: --base MODEL"));
    }
    Ok(())
}

/// `polynomial:0.5` and the like.
fn discount(text: Option<&str>) -> Result<Discount> {
    let Some(text) = text else { return Ok(Discount::Constant) };
    let (name, numbers) = text.split_once(':').map_or((text, None), |(name, numbers)| (name, Some(numbers)));
    let numbers: Option<Vec<f64>> = numbers
        .map(|numbers| numbers.split(',').map(|number| number.parse().ok()).collect())
        .unwrap_or(Some(Vec::new()));
    let is_good = |value: &f64| value.is_finite() && *value >= 0.0;
    match (name, numbers.filter(|numbers| numbers.iter().all(is_good)).as_deref()) {
        ("constant", Some([])) => Ok(Discount::Constant),
        ("polynomial", Some([])) => Ok(Discount::Polynomial(POWER)),
        ("polynomial", Some([power])) => Ok(Discount::Polynomial(*power)),
        ("hinge", Some([])) => Ok(Discount::Hinge(HINGE.0, HINGE.1)),
        ("hinge", Some([slope, free])) => Ok(Discount::Hinge(*slope, *free)),
        _ => Err(usage(
            &format!("`{text}` is not a discount of staleness"),
            "use constant, polynomial, polynomial:A, hinge or hinge:A,B, with numbers from 0 on",
        )),
    }
}

fn usage(detail: &str, help: &'static str) -> Error {
    Error::new(ErrorKind::Usage, detail.to_owned()).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_round_is_told_is_named_where_it_does_not_fit() {
        let told = |text: &str| {
            let error = RoundOptions::parse(text).unwrap_err();
            format!("{error}; {}", error.advice().unwrap_or_default())
        };
        assert_eq!(told(r#"{"rul": "fedavg"}"#), "a round has no option `rul`; did you mean `rule`?");
        assert_eq!(
            told(r#"{"x-y": 1}"#),
            "a round has no option `x-y`; the names are those of `mwa aggregate --help`, with _ for -"
        );
        for (name, kind) in TOLD {
            // an object is none of them
            let wrong = format!(r#"{{"{name}": {{}}}}"#);
            assert_eq!(told(&wrong), format!("option {name}: {{}} does not fit; it must be {kind}; "));
            assert!(RoundOptions::parse(&format!(r#"{{"{name}": null}}"#)).is_ok() || name == "partial");
        }
        assert_eq!(
            told(r#"{"samples": [1, "a"]}"#),
            r#"option samples: [1,"a"] does not fit; it must be a list of numbers; "#
        );
        assert!(RoundOptions::parse(r#"{"samples": [1, 2.5], "partial": true, "rule": "fedavg"}"#).is_ok());
    }
}
