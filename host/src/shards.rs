//! One merge by several processes: each does a share of the jobs into a folder beside the output, and one puts all together.
//!
//! ```text
//! .NAME.mwa-shards/      beside the output NAME, which is not there before the end
//!   order.json           what is merged, made by whoever comes first; all others compare
//!   0.data 1.data …      the output files: each shard writes the ranges of its own jobs
//!   shard-3.json         shard 3 is done: what its jobs found, and the hashes of what they read and wrote
//! ```
//!
//! The plan is the same in every process, for it depends on heads, logs and options alone, and a job's bytes do not depend on who runs
//! it: so a shard that was killed is done again over what it left, and two that do the same do no harm. What comes before the jobs
//! that write (inputs compared, ranks and robust weights found) every process does by itself.

use core::ops::Range;
use core::str::FromStr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mwa::digest::{Digest, Part, hash};
use mwa::merge::{Findings, Found, Next};
use mwa::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::cpu;
use crate::engine::device::DeviceChoice;
use crate::engine::execute;
use crate::find::checkpoint::read_text;
use crate::find::choose::Choice;
use crate::io::disk::{io_error, text_of};
use crate::io::staging::{Staging, cannot_write, target_of, without_force};
use crate::io::store::Store;
use crate::io::url::is_elsewhere;
use crate::merge::{Planned, at_output};
use crate::options::{Machine, MergeOptions, Options};
use crate::own;
use crate::progress::Progress;
use crate::report::{HashedFile, REPORT, Report};

const ORDER: &str = "order.json";
/// The most shards that make sense: each reads all heads.
const MOST: u64 = 100_000;
/// What says nothing of the bytes, so that processes may differ in it.
const OWN: [&str; 3] = ["threads", "memory", "device"];

/// One of so many shards, `3/8`: the first is `0/8`, as arrays of jobs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    number: u64,
    of: u64,
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let whole = |text: &str| text.parse::<u64>().ok();
        let parts = text.split_once('/').and_then(|(number, of)| Some((whole(number)?, whole(of)?)));
        match parts {
            Some((number, of)) if number < of && of <= MOST => Ok(Self { number, of }),
            Some((_, of)) if of > 0 && of <= MOST => {
                Err(wrong(format!("the shards of {of} are 0/{of} to {}/{of}", of - 1)))
            }
            Some(_) => Err(wrong(format!("there are 1 to {MOST} shards"))),
            None => Err(wrong(format!("`{text}` is not a shard, such as 3/8"))),
        }
    }
}

fn wrong(detail: String) -> Error {
    Error::new(ErrorKind::Usage, detail)
        .help("give --shard I/N, I from 0 to N - 1, as $SLURM_ARRAY_TASK_ID counts from 0")
}

/// What is merged by shards.
#[derive(Clone, Debug)]
pub struct Sharded {
    /// Run folders, checkpoint folders, files.
    pub inputs: Vec<PathBuf>,
    /// The options that were given, by the names of the core's table; paths among them need be text.
    pub options: Map<String, Value>,
    /// Draw a picture of the weights, too.
    pub plot: bool,
}

/// What has been done.
#[derive(Clone, Debug, Serialize)]
pub struct Shared {
    /// The shard that was done now.
    pub shard: u64,
    /// Whether it had been done before, so that there was nothing to do.
    pub was_done: bool,
    /// How many there are.
    pub of: u64,
    /// Those that nobody has done yet.
    pub missing: Vec<u64>,
}

/// What everybody who takes part must agree on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    /// The version of the program.
    mwa: String,
    /// How many shards there are.
    of: u64,
    inputs: Vec<String>,
    options: Map<String, Value>,
    plot: bool,
    /// Where paths begin, if some are not absolute.
    folder: String,
    /// The files that are read: path, length, and when they were written.
    files: Vec<(String, u64, Option<u64>)>,
    /// Where the shards begin, in numbers of jobs, and where the last ends.
    borders: Vec<u64>,
    /// BLAKE3 of the report as far as it is known before: checkpoints, weights, outputs.
    plan: String,
}

impl Order {
    fn id(&self) -> String {
        hash(&serde_json::to_vec(self).expect("an order is plain data"))
    }
}

/// A shard that is done.
#[derive(Serialize, Deserialize)]
struct Done {
    order: String,
    /// How many jobs on elements, and what they found together.
    tallied: u64,
    non_finite: u64,
    underflowed: u64,
    /// What the others found: number, and the bits of the numbers.
    found: Vec<(u64, Vec<u64>)>,
    /// Parts of hashes in hex: of the files of each input, and of the outputs.
    read: Vec<Vec<String>>,
    written: Vec<String>,
}

/// A merge by shards, planned.
struct Begun<'a> {
    planned: Planned,
    store: Store,
    next: Next,
    order: Order,
    /// What shards call the order.
    id: String,
    how: MergeOptions,
    machine: Machine,
    out: &'a Path,
    /// The folder that shards share.
    claim: PathBuf,
}

/// Do one shard of a merge into `out`; [`finish`] puts all together.
///
/// # Errors
/// As [`crate::merge()`]; [`ErrorKind::Output`] where shards of another merge are under way for the same output.
pub fn shard(
    wanted: &Sharded,
    share: Share,
    machine: Machine,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Shared> {
    let begun = Begun::new(wanted, share.of, machine, out, progress)?;
    begun.agree()?;
    let was_done = begun.done(share.number)?.is_some();
    if !was_done {
        begun.run(share.number, progress)?;
    }
    Ok(Shared { shard: share.number, was_done, of: share.of, missing: begun.missing() })
}

/// Put together what all shards of a merge into `out` have done; with `complete`, do here what is missing. What is finished
/// already, by an earlier call or by another process meanwhile, is noted and well.
///
/// # Errors
/// [`ErrorKind::Output`] where there is neither a merge nor shards, or some are missing; as [`crate::merge()`].
pub fn finish(out: &Path, machine: Machine, complete: bool, progress: &dyn Progress) -> Result<Report> {
    let claim = claim_of(out)?;
    let before = stamp(out);
    if !claim.join(ORDER).is_file() {
        return done_before(out, progress).ok_or_else(|| no_shards(out));
    }
    if let Some(report) = published(&claim, out) {
        // whoever finished it was killed right after, or is about to do the same
        remove(&claim)?;
        return Ok(report);
    }
    put_together(out, machine, complete, progress).or_else(|error| {
        // another process may have put the same together, and be clearing its shards away
        for _ in 0..50 {
            if error.kind() == ErrorKind::Stopped {
                break;
            }
            if !claim.join(ORDER).is_file() {
                let report = done_before(out, progress).ok_or(error)?;
                // what was begun here after the other had cleared it away
                let _ = remove(&claim);
                return Ok(report);
            }
            if stamp(out) == before {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(error)
    })
}

/// What tells whether another merge has taken the place of `out`.
fn stamp(out: &Path) -> Option<(SystemTime, Vec<u8>)> {
    let path = out.join(REPORT);
    Some((fs::metadata(&path).ok()?.modified().ok()?, fs::read(&path).ok()?))
}

/// The report of a merge that is there, which is said.
fn done_before(out: &Path, progress: &dyn Progress) -> Option<Report> {
    let report = serde_json::from_str(&fs::read_to_string(out.join(REPORT)).ok()?).ok()?;
    progress.note(&format!("{} is merged already: no shards of a merge into it are left", out.display()));
    Some(report)
}

/// Remove the folder of the shards, as others may do at the same time: first what says that there are any.
fn remove(claim: &Path) -> Result<()> {
    let _ = fs::remove_file(claim.join(ORDER));
    match fs::remove_dir_all(claim) {
        Err(error) if error.kind() != io::ErrorKind::NotFound || claim.exists() => {
            Err(cannot_write(claim, &error))
        }
        _ => Ok(()),
    }
}

fn put_together(out: &Path, machine: Machine, complete: bool, progress: &dyn Progress) -> Result<Report> {
    let (claim, order) = ordered(out)?;
    if !order.folder.is_empty() && order.folder != here()? {
        let detail = format!("its shards name their inputs from {}", order.folder);
        return Err(Error::new(ErrorKind::Usage, detail)
            .file(out.display().to_string())
            .help(format!("cd {} first, or give absolute paths to all shards", order.folder)));
    }
    let inputs = order.inputs.iter().map(PathBuf::from).collect();
    let wanted = Sharded { inputs, options: order.options.clone(), plot: order.plot };
    let begun = Begun::new(&wanted, order.of, machine, out, progress)?;
    begun.compare(&order)?;
    let missing = begun.missing();
    if complete {
        for number in &missing {
            begun.run(*number, progress)?;
        }
    } else if !missing.is_empty() {
        let list: Vec<_> = missing.iter().take(20).map(|number| format!("{number}/{}", order.of)).collect();
        let more = if missing.len() > list.len() { ", …" } else { "" };
        let detail =
            format!("{} of {} shards are not done: {}{more}", missing.len(), order.of, list.join(", "));
        return Err(Error::new(ErrorKind::Output, detail).file(out.display().to_string()).help(format!(
            "run these with --shard, the options as before; or do all that is missing here: mwa finish {} --complete",
            out.display()
        )));
    }
    let report = begun.join(progress)?;
    // the merge is there: what is left of the shards is litter
    if let Err(error) = remove(&claim) {
        progress.note(&error.to_string());
    }
    Ok(report)
}

/// How many shards the merge into `out` was begun with, if it is under way.
///
/// # Errors
/// [`ErrorKind::Output`] where what lies there cannot be read.
pub fn shards_of(out: &Path) -> Result<Option<u64>> {
    // what is wrong with the name is told by who begins
    match claim_of(out) {
        Ok(claim) if claim.join(ORDER).is_file() => Ok(Some(ordered(out)?.1.of)),
        _ => Ok(None),
    }
}

/// Give up a merge by shards: nothing is left of it. Whether there was anything.
///
/// # Errors
/// What the system refuses.
pub fn abort_shards(out: &Path) -> Result<bool> {
    let claim = claim_of(out)?;
    let is_there = claim.is_dir();
    remove(&claim)?;
    Ok(is_there)
}

/// The folder that the shards of an output share.
fn claim_of(out: &Path) -> Result<PathBuf> {
    let place = target_of(out)?;
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        let detail = "cannot be the name of a folder";
        return Err(Error::new(ErrorKind::Output, detail).file(out.display().to_string()));
    };
    Ok(parent.join(format!(".{}.mwa-shards", name.to_string_lossy())))
}

/// The report of what lies at `out`, if its files are those that the shards wrote, under their other name.
fn published(claim: &Path, out: &Path) -> Option<Report> {
    let report: Report = serde_json::from_str(&fs::read_to_string(out.join(REPORT)).ok()?).ok()?;
    let is_same = |(file, output): (usize, &HashedFile)| {
        is_one_file(&claim.join(format!("{file}.data")), &out.join(&output.name))
    };
    (!report.outputs.is_empty() && report.outputs.iter().enumerate().all(is_same)).then_some(report)
}

#[cfg(unix)]
fn is_one_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok();
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Not known here: the merge is told to be there already, and stays.
#[cfg(not(unix))]
fn is_one_file(_: &Path, _: &Path) -> bool {
    false
}

fn no_shards(out: &Path) -> Error {
    Error::new(ErrorKind::Output, "no shards of a merge into it are here")
        .file(out.display().to_string())
        .help("first run mwa merge … --shard I/N for each of N shards, with this as their output")
}

fn ordered(out: &Path) -> Result<(PathBuf, Order)> {
    let claim = claim_of(out)?;
    let path = claim.join(ORDER);
    if !path.is_file() {
        return Err(no_shards(out));
    }
    let order = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        let detail = format!("is not the order of a merge by shards of this version: {error}");
        Error::new(ErrorKind::Output, detail).file(path.display().to_string()).help(another(out))
    })?;
    Ok((claim, order))
}

fn another(out: &Path) -> String {
    format!(
        "finish that with the mwa and the options that it was begun with, or give it up to begin anew: mwa finish {} --abort",
        out.display()
    )
}

/// What to do where a merge lies in the place that shards are under way for: `--force` now would be another merge than theirs.
fn in_the_way(error: Error, out: &Path) -> Error {
    let out = out.display();
    let way_out = format!(
        "move {out} away and do the same again, or keep it and give the shards up: mwa finish {out} --abort"
    );
    without_force(error, way_out)
}

/// What differs between two orders' options, as each has it.
fn differing(a: &Order, b: &Order) -> [String; 2] {
    fn text(value: &Value) -> String {
        match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        }
    }
    let given = |order: &Order| {
        let mut options = order.options.clone();
        options.extend(order.plot.then(|| ("plot".to_owned(), Value::Bool(true))));
        options
    };
    let (a, b) = (given(a), given(b));
    let names: BTreeSet<_> = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).collect();
    [&a, &b].map(|own| {
        let each = names.iter().map(|name| {
            let flag = name.replace('_', "-");
            match own.get(*name) {
                None => format!("no --{flag}"),
                Some(Value::Bool(true)) => format!("--{flag}"),
                Some(value) => format!("--{flag} {}", text(value)),
            }
        });
        each.collect::<Vec<_>>().join(" and ")
    })
}

/// What is read, as it was named.
fn named(wanted: &Sharded) -> impl Iterator<Item = &Path> {
    let named = ["metrics_file", "weights_file", "metrics_from", "base"];
    let named = named.into_iter().filter_map(|name| wanted.options.get(name)?.as_str().map(Path::new));
    let moments = wanted.options.get("moments").and_then(|it| it.as_array()).into_iter().flatten();
    let moments = moments.filter_map(|path| path.as_str().map(Path::new));
    wanted.inputs.iter().map(PathBuf::as_path).chain(named).chain(moments)
}

/// Whether it depends on the folder that a process runs in what is merged.
fn is_relative(wanted: &Sharded) -> bool {
    named(wanted).any(Path::is_relative)
}

fn here() -> Result<String> {
    let failed = |error| io_error("cannot tell the folder that this program runs in", &error);
    text_of(&std::env::current_dir().map_err(failed)?)
}

impl<'a> Begun<'a> {
    fn new(
        wanted: &Sharded,
        of: u64,
        machine: Machine,
        out: &'a Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut options = wanted.options.clone();
        OWN.iter().for_each(|name| drop(options.remove(*name)));
        // the order in which they were given is nothing to agree on
        options.sort_keys();
        let given = mwa::Options::read(&options)?;
        refuse(&given, machine)?;
        if let Some(far) = named(wanted).chain([out]).find(|path| is_elsewhere(path)) {
            let detail =
                "lies in a store, and shards share files: they need a file system that all of them see";
            return Err(Error::new(ErrorKind::Usage, detail)
                .file(far.display().to_string())
                .help("leave out --shard: one process reads and writes stores, many ranges at once"));
        }
        // the same jobs, whatever the machine
        let alike = Machine { threads: Some(1), memory: None, device: DeviceChoice::Cpu };
        let how = MergeOptions { plot: wanted.plot, machine: alike, ..MergeOptions::new(&given)? };
        let choosing = Options::new(wanted.inputs.clone(), &given)?;
        let claim = claim_of(out)?;
        let refused = |error| if claim.join(ORDER).is_file() { in_the_way(error, out) } else { error };
        Staging::make_way(out, how.force, named(wanted), progress).map_err(refused)?;
        let mut planned = Planned::new(Choice::new(&choosing, &[], how.plot)?, &how)?;
        // said before any byte is read: whether the output may be there
        drop(Staging::begin(out, how.force, planned.checkpoints()).map_err(refused)?);
        let store = planned.store(&how);
        let next = execute::survey(planned.merge_mut(), &store, machine, progress)?;
        let mut plan = planned.merge().preview();
        plan.notes.clear();
        let order = Order {
            mwa: env!("CARGO_PKG_VERSION").to_owned(),
            of,
            inputs: wanted.inputs.iter().map(|path| text_of(path)).collect::<Result<_>>()?,
            options,
            plot: wanted.plot,
            folder: if is_relative(wanted) { here()? } else { String::new() },
            files: files(&planned)?,
            borders: borders(&planned, &next, of),
            plan: hash(plan.to_json().as_bytes()),
        };
        Ok(Self { planned, store, next, id: order.id(), order, how, machine, out, claim })
    }

    /// Be the first with this order, or find that the first had the same.
    fn agree(&self) -> Result<()> {
        let failed = |error: io::Error| cannot_write(&self.claim, &error);
        fs::create_dir_all(&self.claim).map_err(failed)?;
        let path = self.claim.join(ORDER);
        if !path.is_file() {
            match self.json(&self.order)?.persist_noclobber(&path) {
                Ok(_) => return Ok(()),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error.error)),
            }
        }
        self.compare(&ordered(self.out)?.1)
    }

    /// Fail where another order than this one is being done.
    fn compare(&self, other: &Order) -> Result<()> {
        let own = &self.order;
        if own == other {
            return Ok(());
        }
        let changed = own.files.iter().find(|file| !other.files.contains(file));
        let detail = if own.mwa != other.mwa {
            format!("its shards are made by mwa {}, and this is {}", other.mwa, own.mwa)
        } else if own.of != other.of {
            format!("it is merged in {} shards, not in {}", other.of, own.of)
        } else if (&own.options, own.plot) != (&other.options, other.plot) {
            let [other, own] = differing(other, own);
            format!("its shards are merged with {other}, and this is with {own}")
        } else if own.inputs != other.inputs {
            format!("its shards merge {}, not {}", other.inputs.join(" "), own.inputs.join(" "))
        } else if own.folder != other.folder {
            format!("its shards name their inputs from {}, not from {}", other.folder, own.folder)
        } else if let Some((path, ..)) = changed {
            format!("its shards were begun when {path} was another file")
        } else {
            "its shards were begun when the run's logs or checkpoints were others".to_owned()
        };
        Err(Error::new(ErrorKind::Output, detail)
            .file(self.out.display().to_string())
            .help(another(self.out)))
    }

    /// A value as a file that is on the disk, but has no name yet.
    fn json(&self, value: &impl Serialize) -> Result<tempfile::NamedTempFile> {
        let write = || -> io::Result<tempfile::NamedTempFile> {
            let mut made = tempfile::NamedTempFile::new_in(&self.claim)?;
            made.write_all(&serde_json::to_vec(value)?)?;
            made.as_file().sync_all()?;
            Ok(made)
        };
        write().map_err(|error| cannot_write(&self.claim, &error))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.claim.join(format!("shard-{number}.json"))
    }

    fn data(&self, file: usize) -> PathBuf {
        self.claim.join(format!("{file}.data"))
    }

    /// What a shard has found, if it is done.
    fn done(&self, number: u64) -> Result<Option<Done>> {
        let path = self.path(number);
        if !path.is_file() {
            return Ok(None);
        }
        let done: Option<Done> = serde_json::from_str(&read_text(&path)?).ok();
        match done.filter(|done| done.order == self.id) {
            Some(done) => Ok(Some(done)),
            None => Err(foreign(&path)),
        }
    }

    fn missing(&self) -> Vec<u64> {
        // one list instead of so many questions
        let number = |name: &str| name.strip_prefix("shard-")?.strip_suffix(".json")?.parse::<u64>().ok();
        let entries = fs::read_dir(&self.claim).into_iter().flatten().flatten();
        let done: BTreeSet<_> = entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
        (0..self.order.of).filter(|number| !done.contains(number)).collect()
    }

    /// Do the jobs of a shard.
    fn run(&self, number: u64, progress: &dyn Progress) -> Result<()> {
        let at = usize::try_from(number).expect("few shards");
        let numbers = self.order.borders[at]..self.order.borders[at + 1];
        let mut paths = Vec::new();
        for (file, output) in self.planned.merge().outputs().iter().enumerate() {
            let (path, len) = (self.data(file), output.header.file_len());
            let create = || {
                let options =
                    File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
                // every shard gives it its length
                if options.metadata()?.len() == len { Ok(()) } else { options.set_len(len) }
            };
            create().map_err(|error: io::Error| cannot_write(&path, &error))?;
            paths.push((path, len));
        }
        // hashes of this shard alone
        let mut store = self.planned.store(&MergeOptions { sha256: false, ..self.how });
        store.write_to(paths.into_iter());
        let merge = self.planned.merge();
        progress.start(merge.bytes() / self.order.of);
        let found = store
            .writing_back(|| cpu::run(merge, numbers, &store, self.machine, progress))
            .map_err(|error| at_output(error, self.out))?;
        store.sync().map_err(|error| at_output(error, self.out))?;
        self.planned.check_unchanged()?;
        let (read, written) = store.parts();
        let (tallied, tally, others) = found.parts();
        let bits = |found: &Found| found.to_numbers().iter().map(|number| number.to_bits()).collect();
        let done = Done {
            order: self.id.clone(),
            tallied,
            non_finite: tally.non_finite,
            underflowed: tally.underflowed,
            found: others.iter().map(|(number, found)| (*number, bits(found))).collect(),
            read: read.iter().map(|files| files.iter().map(hex).collect()).collect(),
            written: written.iter().map(hex).collect(),
        };
        let persisted = self.json(&done)?.persist(self.path(number));
        persisted.map(drop).map_err(|error| cannot_write(&self.claim, &error.error))
    }

    /// Put together what all shards have found and written.
    fn join(mut self, progress: &dyn Progress) -> Result<Report> {
        let lens: Vec<_> = self.planned.merge().outputs().iter().map(|file| file.header.file_len()).collect();
        let mut written: Vec<_> = lens.iter().map(|len| Digest::new(*len)).collect();
        for number in 0..self.order.of {
            let path = self.path(number);
            let foreign = || foreign(&path);
            // it was there a moment ago
            let done = self.done(number)?.ok_or_else(foreign)?;
            let mut found = Findings::default();
            let tally = mwa::kernel::Tally { non_finite: done.non_finite, underflowed: done.underflowed };
            found.add_many(done.tallied, tally);
            for (job, bits) in &done.found {
                let numbers: Vec<_> = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
                found.add(*job, Found::from_numbers(&numbers).map_err(|_| foreign())?);
            }
            self.store.know(&done.read, part).ok_or_else(foreign)?;
            if done.written.len() != written.len() {
                return Err(foreign());
            }
            for ((digest, text), len) in written.iter_mut().zip(&done.written).zip(&lens) {
                digest.take(part(*len, text).ok_or_else(foreign)?);
            }
            self.planned.merge_mut().take(found).map_err(|_| foreign())?;
        }
        if let Next::Jobs(_) = self.next
            && self.planned.merge_mut().next()? != Next::Done
        {
            let detail = "what its shards have found is not all";
            return Err(Error::new(ErrorKind::Output, detail)
                .file(self.out.display().to_string())
                .help(another(self.out)));
        }
        // it was begun with --force, or without
        let begun = Staging::begin(self.out, self.how.force, self.planned.checkpoints());
        let staging = begun.map_err(|error| in_the_way(error, self.out))?;
        let mut paths = Vec::new();
        for (file, len) in lens.iter().enumerate() {
            let name = &self.planned.merge().outputs()[file].name;
            let (head, from) = (self.planned.merge().head(file), self.data(file));
            if fs::metadata(&from).map_or(0, |file| file.len()) != *len {
                let way_out =
                    format!("give the shards up and merge again: mwa finish {} --abort", self.out.display());
                return Err(Error::new(
                    ErrorKind::Output,
                    "is not whole: what the shards of this merge wrote is lost",
                )
                .file(from.display().to_string())
                .help(way_out));
            }
            let write = || {
                let data = File::options().write(true).open(&from)?;
                crate::io::disk::write_at(&data, &head, 0)?;
                data.sync_all()
            };
            write().map_err(|error| cannot_write(&from, &error))?;
            written[file].update(0, &head);
            staging.adopt(&from, name)?;
            paths.push((staging.path(name), *len));
        }
        // what lies there is read back: on a file system of several machines, that it was written says little
        self.store.write_to(paths.into_iter());
        let hashes = self.store.hashes(self.machine, progress).map_err(|error| at_output(error, self.out))?;
        for (file, (digest, hash)) in written.iter().zip(&hashes.outputs).enumerate() {
            if digest.finish().as_ref() != Some(&hash.blake3) {
                let name = &self.planned.merge().outputs()[file].name;
                let detail =
                    format!("{name} is not what its shards wrote: the file system has lost some of it");
                return Err(Error::new(ErrorKind::Output, detail).file(self.out.display().to_string()).help(format!(
                    "give the shards up (mwa finish {} --abort) and merge again, with no more shards than output files, so that no two machines write one file",
                    self.out.display()
                )));
            }
        }
        self.planned.finish(staging, hashes, &self.how, progress)
    }
}

fn foreign(path: &Path) -> Error {
    Error::new(ErrorKind::Output, "is not what a shard of this merge has found")
        .file(path.display().to_string())
        .help("remove it, and run that shard again")
}

/// What cannot be done in shards, with the way out.
fn refuse(given: &mwa::Options, machine: Machine) -> Result<()> {
    let refused =
        |detail: &'static str, help: &'static str| Err(Error::new(ErrorKind::Usage, detail).help(help));
    if given.drop_bad {
        return refused(
            "--drop-bad begins again without what one shard finds bad, which the others do not know",
            "leave it out; where a shard fails, name the checkpoints without the one that it names",
        );
    }
    match given.format.as_deref() {
        None | Some("keep") => {}
        Some(own::OWN) => return refused("--format own writes a merge as a whole", "leave out --shard"),
        Some(_) => {
            return refused("--format converts a merge as a whole", "merge in shards, then use mwa convert");
        }
    }
    if matches!(machine.device, DeviceChoice::Gpu(_) | DeviceChoice::Wasm) {
        return refused("shards are computed on CPUs", "leave out --device: the bytes are the same");
    }
    Ok(())
}

/// The files that are read, and what tells that they are still the same.
fn files(planned: &Planned) -> Result<Vec<(String, u64, Option<u64>)>> {
    let mut files = Vec::new();
    for file in planned.checkpoints().iter().flat_map(|checkpoint| &checkpoint.files) {
        let failed = |error| io_error("cannot look at it", &error).file(file.path.display().to_string());
        let modified = fs::metadata(&file.path).map_err(failed)?.modified().ok();
        let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let since = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        files.push((text_of(&file.path)?, file.len(), since));
    }
    Ok(files)
}

/// Where each of so many shards begins, so that all read about as much.
fn borders(planned: &Planned, next: &Next, of: u64) -> Vec<u64> {
    let merge = planned.merge();
    let Next::Jobs(numbers) = next else { return vec![0; usize::try_from(of).expect("few shards") + 1] };
    let elements = merge.elements();
    // pieces of alike jobs: their numbers, and what they read and write
    let mut pieces: Vec<(Range<u64>, u64)> = Vec::new();
    let mut at = numbers.start;
    while at < numbers.end {
        let alike = if elements.contains(&at) { merge.alike(at) } else { at..at + 1 };
        let each = merge.job(at).bytes();
        pieces.push((at..alike.end, each * (alike.end - at)));
        at = alike.end;
    }
    let total: u128 = pieces.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
    let (mut found, mut passed, mut pieces) = (vec![numbers.start], 0_u128, pieces.iter().peekable());
    for border in 1..of {
        let wanted = total * u128::from(border) / u128::from(of);
        while let Some((_, bytes)) = pieces.peek()
            && passed + u128::from(*bytes) <= wanted
        {
            passed += u128::from(*bytes);
            pieces.next();
        }
        found.push(pieces.peek().map_or(numbers.end, |(jobs, bytes)| {
            let share = (wanted - passed) * u128::from(jobs.end - jobs.start) / u128::from(*bytes).max(1);
            jobs.start + u64::try_from(share).expect("less than all jobs")
        }));
    }
    found.push(numbers.end);
    found
}

/// A part of a hash as text.
fn hex(part: &Part) -> String {
    part.encode().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The inverse, of a file of that length.
fn part(len: u64, text: &str) -> Option<Part> {
    let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<_> = text.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?;
    Part::decode(len, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_from_zero() {
        assert_eq!("3/8".parse(), Ok(Share { number: 3, of: 8 }));
        for (wrong, says) in [
            ("8/8", "the shards of 8 are 0/8 to 7/8"),
            ("0/0", "there are 1 to 100000 shards"),
            ("3", "`3` is not a shard, such as 3/8"),
            ("-1/8", "`-1/8` is not a shard, such as 3/8"),
        ] {
            assert_eq!(wrong.parse::<Share>().unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn parts_of_hashes_are_text() {
        let bytes = vec![7; 5000];
        let made = Part::of(5000, 100, &bytes[100..4000]);
        assert_eq!(part(5000, &hex(&made)), Some(made));
        assert_eq!(part(5000, "0g"), None);
    }
}
