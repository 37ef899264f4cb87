//! The command line as a function: parse arguments, call the library, print.

#[cfg(unix)]
use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use anstyle::{AnsiColor, Style};
use clap::{CommandFactory as _, Parser as _};
use indicatif::{ProgressBar, ProgressStyle};
use mwa::extract::ExtractRank;
use mwa::{Error, ErrorKind, SearchOptions, readable};
use serde::Serialize;

use crate::cli::arguments::{Cli, Command, Show};
use crate::cli::show;
use crate::cli::signals;
use crate::cli::{manual, memory};
use crate::engine::cpu::MEMORY;
use crate::engine::pool::lock;
use crate::io::disk::{io_error, text_of};
use crate::io::open::raise_limit;
use crate::io::room;
use crate::io::staging::Staging;
use crate::options::{Machine, MergeOptions, Options};
use crate::plot::svg::is_ours;
use crate::progress::Progress;
use crate::recover::Wanted;
use crate::search::{CommandEvaluator, Evaluator, Evaluators, SearchReport, ServerEvaluator, Tried, Watch};
use crate::shards::Sharded;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// `EX_TEMPFAIL`: the same may go well another time.
const AGAIN: u8 = 75;

/// Do what the arguments say, the first of which is the program's own name, and return the exit code: 0 done, 1 failed,
/// 2 wrong usage, 75 where the same may go well another time, 128 and the signal's number when a signal stopped it: 130 for Ctrl-C.
///
/// Prints to standard output and standard error, and a merge takes over SIGINT, SIGTERM and SIGHUP: for a process that does nothing else.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    // a file over the size limit is an error of the write, not the end of the process
    #[cfg(unix)]
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::signal::SIGXFSZ, &LIMIT_REACHED) {
        eprintln!("note: a file size limit will not be reported: {error}");
    }
    let arguments: Vec<_> = arguments.into_iter().collect();
    let command = match Cli::try_parse_from(&arguments) {
        Ok(parsed) => parsed.command,
        Err(error) => {
            let given = arguments.iter().take_while(|it| *it != "--");
            if error.use_stderr() && given.clone().any(|it| it == "--json") {
                print_facts(&unparsed(&error));
            }
            // help and version come this way too, with exit code 0
            let printed = told(error.print().and_then(|()| std::io::stdout().flush()));
            return match printed {
                _ if error.use_stderr() => USAGE,
                Ok(()) => DONE,
                Err(error) => {
                    complain(&error, false);
                    FAILED
                }
            };
        }
    };
    raise_limit();
    let json = match &command {
        Command::Merge { show, .. }
        | Command::Finish { show, .. }
        | Command::Search { show, .. }
        | Command::Weights { show, .. }
        | Command::Inspect { show, .. }
        | Command::Convert { show, .. }
        | Command::Moments { show, .. }
        | Command::Verify { show, .. }
        | Command::Aggregate { show, .. }
        | Command::Recover { show, .. }
        | Command::Apply { show, .. }
        | Command::Extract { show, .. }
        | Command::Masks { show, .. }
        | Command::Devices { show } => show.json,
        Command::Completions { .. } | Command::Man { .. } => false,
    };
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            complain(&error, json);
            match error.kind() {
                ErrorKind::Usage => USAGE,
                ErrorKind::Stopped => signals::exit_code(),
                _ if error.is_transient() => AGAIN,
                _ => FAILED,
            }
        }
    }
}

fn run(command: Command) -> mwa::Result<u8> {
    match command {
        Command::Merge { output, abort: true, show, .. } => note(show, &crate::abort(&output)?),
        Command::Merge { inputs, output, plot, shard: Some(share), lines, given, show, .. } => {
            signals::stop_cleanly();
            let machine = Machine::new(&given.options)?;
            prepare(machine);
            let bar = Bar::new(show, false).with_lines(lines.progress.is_some());
            let wanted = Sharded { inputs: inputs.inputs, options: given.json, plot };
            let shared = crate::shard(&wanted, share, machine, &output, &bar)?;
            bar.end();
            let printed = print(show, &shared, || show::shared(&shared, &output.display().to_string()));
            written(printed, "the shard is done")?;
        }
        Command::Finish { output, complete, abort, given, show } => {
            signals::stop_cleanly();
            if abort {
                let was_there = crate::abort_shards(&output)?;
                let given_up = serde_json::json!({ "given_up": was_there });
                print(show, &given_up, || show::given_up(was_there, &output.display().to_string()))?;
                return Ok(DONE);
            }
            let start = Instant::now();
            let machine = Machine::new(&given.options)?;
            prepare(machine);
            let report = crate::finish(&output, machine, complete, &Bar::new(show, false))?;
            let printed = print(show, &report, || {
                show::merged(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            note(show, &report.notes);
            written_to(printed, &output)?;
        }
        Command::Merge { inputs, output, plot, abort: _, shard: None, lines, given, timings, show } => {
            signals::stop_cleanly();
            let start = Instant::now();
            let bar = Bar::new(show, timings.timings).with_lines(lines.progress.is_some());
            let how = MergeOptions { plot, ..given.merging()? };
            prepare(how.machine);
            let report = crate::merge(&given.choosing(inputs.inputs)?, &how, &output, &bar)?;
            let printed = print(show, &report, || {
                show::merged(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            note(show, &report.notes);
            written_to(printed, &output)?;
        }
        Command::Search { inputs, output, given, show } => {
            signals::stop_cleanly();
            let (how, wanted) = (given.merging()?, given.search.clone());
            prepare(how.machine);
            let line = Line::new(show);
            let report = searched(&given.choosing(inputs.inputs)?, &how, &wanted, &output, &line)?;
            line.end();
            let printed = print(show, &report, || show::searched(&report, &output.display().to_string()));
            note(show, &report.merge.notes);
            written_to(printed, &output)?;
        }
        Command::Weights { inputs, plot, given, show } => {
            let options = given.choosing(inputs.inputs)?;
            let report = match &plot {
                None => crate::weights(&options)?,
                Some(path) => {
                    // what is named by mistake may be a checkpoint
                    if path.extension().is_none_or(|ending| ending != "svg") {
                        return Err(Error::new(ErrorKind::Usage, "is not the name of an SVG file")
                            .file(path.display().to_string())
                            .help("give --plot a name that ends in .svg"));
                    }
                    Staging::check_around(path)?;
                    let is_other = |path: &Path| std::fs::read(path).is_ok_and(|it| !is_ours(&it));
                    if path.is_file() && is_other(path) {
                        return Err(Error::new(
                            ErrorKind::Output,
                            "exists already, and is no picture of mwa",
                        )
                        .file(path.display().to_string())
                        .help("give --plot another name"));
                    }
                    let (report, picture) = crate::drawn(&options)?;
                    write_file(path, picture.as_bytes())?;
                    report
                }
            };
            let drawn = plot.map(|path| path.display().to_string());
            print(show, &report, || show::weights(&report) + &show::drawn(drawn.as_slice()))?;
            note(show, &report.notes);
        }
        Command::Inspect { paths, given, show } => {
            // one bad path hides nothing about the others
            let (mut found, mut failures) = (Vec::new(), Vec::new());
            for path in &paths {
                match crate::inspect(path, &given.options) {
                    Ok(inspection) => found.push(inspection),
                    Err(error) => failures.push(error),
                }
            }
            if !found.is_empty() || failures.is_empty() {
                print(show, &found, || found.iter().map(show::inspection).collect())?;
            }
            note(show, &found.iter().flat_map(|found| found.notes.clone()).collect::<Vec<_>>());
            if let Some(last) = failures.pop() {
                failures.iter().for_each(|error| complain(error, false));
                return Err(last);
            }
        }
        Command::Convert { input, output, format, dtype, base, key, model, shard_size, show } => {
            signals::stop_cleanly();
            let dtype = match dtype.as_deref() {
                Some("f32") => Some(mwa::Float::F32),
                Some("bf16") => Some(mwa::Float::BF16),
                Some("f16") => Some(mwa::Float::F16),
                _ => None,
            };
            let base = base.map(|path| text_of(&path)).transpose()?;
            let options = mwa::convert::ConvertOptions {
                target: format.parse()?,
                dtype,
                base,
                name: file_name(&output),
                key,
                like: None,
                model,
                shard_size,
            };
            let converted = crate::convert(&input, &options, &output, &Bar::new(show, false))?;
            note(show, &converted.notes);
            let printed =
                print(show, &converted, || show::converted(&converted, &output.display().to_string()));
            written_to(printed, &output)?;
        }
        Command::Moments { input, output, state, rank1, show } => {
            signals::stop_cleanly();
            let taken = crate::moments(&input, state.as_deref(), rank1, &output, &Bar::new(show, false))?;
            note(show, &taken.notes);
            let printed = print(show, &taken, || show::converted(&taken, &output.display().to_string()));
            written_to(printed, &output)?;
        }
        Command::Verify { folder, given, timings, show } => {
            signals::stop_cleanly();
            let bar = Bar::new(show, timings.timings);
            let machine = Machine::new(&given.options)?;
            prepare(machine);
            let verified = crate::verify(&folder, machine, &bar)?;
            print(show, &verified, || show::verified(&verified))?;
            if !verified.is_good() {
                return Ok(FAILED);
            }
        }
        Command::Aggregate { inputs, output, round, given, timings, show } => {
            signals::stop_cleanly();
            let start = Instant::now();
            let bar = Bar::new(show, timings.timings);
            let how = given.merging()?;
            prepare(how.machine);
            let report = crate::aggregate(&given.choosing(inputs)?, &round.into(), &how, &output, &bar)?;
            note(show, &report.notes);
            let printed = print(show, &report, || {
                show::aggregated(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            written_to(printed, &output)?;
        }
        Command::Recover { model, lost, from, weights, copy_ends, output, force, show } => {
            signals::stop_cleanly();
            let start = Instant::now();
            let bar = Bar::new(show, false);
            let weights = match weights.as_deref() {
                None => None,
                Some([before, after]) => Some((*before, *after)),
                Some(other) => {
                    let detail = format!("--weights has {} of two numbers", other.len());
                    return Err(Error::new(ErrorKind::Usage, detail).help("give one for each: --weights A,B"));
                }
            };
            let how = MergeOptions { force, ..MergeOptions::default() };
            prepare(how.machine);
            let wanted = Wanted { lost, from, weights, copy_ends };
            let report = crate::recover(&model, &wanted, &how, &output, &bar)?;
            note(show, &report.notes);
            let printed = print(show, &report, || {
                show::recovered(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            written_to(printed, &output)?;
        }
        Command::Apply { adapter, base, output, given, show } => {
            signals::stop_cleanly();
            let start = Instant::now();
            let how = given.merging()?;
            prepare(how.machine);
            let report = crate::apply(&adapter, &base, &how, &output, &Bar::new(show, false))?;
            note(show, &report.notes);
            let printed = print(show, &report, || {
                show::applied(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            written_to(printed, &output)?;
        }
        Command::Extract { tuned, base, rank, error, base_name, output, given, show } => {
            signals::stop_cleanly();
            let start = Instant::now();
            let rank = ExtractRank::told(&rank, error)?;
            let how = given.merging()?;
            prepare(how.machine);
            let report = crate::extract(
                &tuned,
                &base,
                (rank, base_name.as_deref()),
                &how,
                &output,
                &Bar::new(show, false),
            )?;
            note(show, &report.notes);
            let printed = print(show, &report, || {
                show::extracted(&report, &output.display().to_string(), start.elapsed().as_secs_f64())
            });
            written_to(printed, &output)?;
        }
        Command::Masks { inputs, base, lambda, task, output, threads, show } => {
            signals::stop_cleanly();
            let usage = |detail: &str, help: &'static str| {
                Err(Error::new(ErrorKind::Usage, detail.to_owned()).help(help))
            };
            let machine = Machine { threads, ..Machine::default() };
            let how = MergeOptions { machine, ..MergeOptions::default() };
            prepare(how.machine);
            let bar = Bar::new(show, false);
            let folder = output.display().to_string();
            if let [verb, masks] = inputs.as_slice()
                && verb.as_os_str() == "apply"
            {
                let Some(task) = task else {
                    return usage(
                        "nothing says which model is wanted",
                        "name it: --task NAME, as mwa-masks.json calls it",
                    );
                };
                if lambda.is_some() {
                    return usage("--lambda says nothing to what is kept already", "leave it out");
                }
                let back = crate::unmask(masks, &task, base.as_deref(), &how, &output, &bar)?;
                note(show, &back.notes);
                let printed = print(show, &back, || show::unmasked(&back, &folder));
                written_to(printed, &output)?;
                return Ok(DONE);
            }
            if task.is_some() {
                return usage(
                    "--task is of models that are kept",
                    "give it with: mwa masks apply MASKS --task NAME -o OUT",
                );
            }
            let Some(base) = base else {
                return usage(
                    "masks are of what models changed of a base, which is not named",
                    "name it by --base",
                );
            };
            let tasks: Vec<_> = inputs.iter().map(std::path::PathBuf::as_path).collect();
            let lambdas = lambda.unwrap_or_else(|| vec![mwa::LAMBDA]);
            let kept = crate::masks(&tasks, &base, &lambdas, &how, &output, &bar)?;
            let printed = print(show, &kept, || show::masked(&kept, &folder));
            written_to(printed, &output)?;
        }
        Command::Devices { show } => {
            let found = crate::engine::gpu::devices();
            print(show, &found, || show::devices(&found))?;
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mwa", &mut script);
            write_out(&script)?;
        }
        Command::Man { command, output } => {
            let pages = manual::pages().map_err(|error| {
                Error::new(ErrorKind::Io, format!("cannot render the manual page: {error}"))
            })?;
            match output {
                Some(folder) => {
                    let failed =
                        |error| io_error("cannot make it", &error).file(folder.display().to_string());
                    std::fs::create_dir_all(&folder).map_err(failed)?;
                    for (name, page) in pages {
                        write_file(&folder.join(name), &page)?;
                    }
                }
                None => write_out(page_of(&pages, command.as_deref())?)?,
            }
        }
    }
    Ok(DONE)
}

/// The page of a command, or of the program.
fn page_of<'a>(pages: &'a [(String, Vec<u8>)], command: Option<&str>) -> mwa::Result<&'a [u8]> {
    let name = command.map_or_else(|| "mwa.1".into(), |command| format!("mwa-{command}.1"));
    let found = pages.iter().find(|(other, _)| *other == name);
    found.map(|(_, page)| page.as_slice()).ok_or_else(|| {
        let known = pages.iter().filter_map(|(name, _)| name.strip_prefix("mwa-")?.strip_suffix(".1"));
        Error::new(ErrorKind::Usage, format!("there is no command `{}`", command.unwrap_or_default()))
            .help(format!("pages are there for {}", known.collect::<Vec<_>>().join(", ")))
    })
}

/// Write a file that was asked for by name.
fn write_file(path: &Path, bytes: &[u8]) -> mwa::Result<()> {
    let failed = |error| io_error("cannot write it", &error).file(path.display().to_string());
    std::fs::write(path, bytes).map_err(failed)
}

/// Search with the evaluator that the options name.
fn searched(
    options: &Options,
    how: &MergeOptions,
    wanted: &SearchOptions,
    output: &Path,
    watch: &dyn Watch,
) -> mwa::Result<SearchReport> {
    let Some(scorer) =
        evaluator(wanted, "evaluate", wanted.evaluate.as_deref(), wanted.evaluate_server.as_deref())?
    else {
        return Err(Error::new(ErrorKind::Usage, "nothing says how candidates are scored")
            .help("give --evaluate 'python score.py {path}', or --evaluate-server COMMAND"));
    };
    let holdout = evaluator(wanted, "holdout", wanted.holdout.as_deref(), wanted.holdout_server.as_deref())?;
    let evaluators = Evaluators { search: &*scorer, holdout: holdout.as_deref() };
    crate::search::search(options, how, wanted, evaluators, output, watch)
}

/// Who scores by a command or by a server, if either is named.
fn evaluator(
    wanted: &SearchOptions,
    flag: &str,
    command: Option<&str>,
    server: Option<&str>,
) -> mwa::Result<Option<Box<dyn Evaluator>>> {
    let SearchOptions { timeout, workers, .. } = *wanted;
    Ok(match (command, server) {
        (Some(line), None) => Some(Box::new(CommandEvaluator::new(line, timeout))),
        (None, Some(line)) => Some(Box::new(ServerEvaluator::new(line, timeout, workers))),
        (Some(_), Some(_)) => {
            let detail = format!("--{flag} and --{flag}-server both say who scores");
            return Err(Error::new(ErrorKind::Usage, detail).help("leave one of them out"));
        }
        (None, None) => None,
    })
}

/// The name of an output that is a file of torch's; a folder gets one of its own.
fn file_name(output: &std::path::Path) -> Option<String> {
    let name = output.file_name()?.to_str()?;
    [".pt", ".pth", ".bin", ".ckpt"].iter().any(|end| name.ends_with(end)).then(|| name.to_owned())
}

/// Be ready to say what a merge on this machine needs, should memory run out.
fn prepare(machine: Machine) {
    memory::prepare();
    room::order(machine.threads(), machine.memory.unwrap_or(MEMORY));
}

/// Print a result as JSON or, unless quiet, as text.
fn print<T: Serialize>(show: Show, value: &T, text: impl FnOnce() -> String) -> mwa::Result<()> {
    if show.json {
        let mut json = serde_json::to_string_pretty(value).expect("results are plain data");
        json.push('\n');
        write_out(json.as_bytes())
    } else if show.quiet {
        Ok(())
    } else {
        write_out(text().as_bytes())
    }
}

/// Notes go to standard error; with `--json` they are in the result.
fn note(show: Show, notes: &[String]) {
    if !show.quiet && !show.json {
        let _ = anstream::stderr().write_all(show::notes(notes, !show.verbose).as_bytes());
    }
}

/// What became of printing a result: an error says that what was asked for is done.
fn written(printed: mwa::Result<()>, done: &str) -> mwa::Result<()> {
    printed.map_err(|error| error.help_instead(format!("{done}: only what was to be printed is lost")))
}

/// The same, where it is in a file or folder.
fn written_to(printed: mwa::Result<()>, output: &Path) -> mwa::Result<()> {
    written(printed, &format!("{} is written and whole", output.display()))
}

/// Write to standard output.
fn write_out(bytes: &[u8]) -> mwa::Result<()> {
    let mut out = anstream::stdout();
    told(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What became of writing to standard output; a reader that went away (`mwa … | head`) is not a failure.
fn told(written: std::io::Result<()>) -> mwa::Result<()> {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(io_error("cannot write it", &error).file("standard output"))
        }
        _ => Ok(()),
    }
}

/// Print an error for programs.
fn print_facts(error: &Error) {
    let facts = serde_json::json!({ "error": {
        "kind": error.kind().name(),
        "file": error.at_file(),
        "tensor": error.at_tensor(),
        "message": error.detail(),
        "help": error.advice(),
    }});
    // if that fails there is standard error, which is written anyway
    let _ = write_out(format!("{facts:#}\n").as_bytes());
}

/// What is wrong with arguments that could not be parsed, as any other error.
fn unparsed(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let line = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts: Vec<_> = text.split("\n\n").map(line).collect();
    let detail = parts[0].strip_prefix("error: ").unwrap_or(&parts[0]).to_owned();
    let tip = parts.iter().find_map(|part| part.strip_prefix("tip: "));
    let help = tip.unwrap_or("see mwa --help, or that of the command");
    Error::new(ErrorKind::Usage, detail).help(help.to_owned())
}

/// Print an error: where, what, and what to do.
fn complain(error: &Error, json: bool) {
    if json {
        print_facts(error);
    }
    const RED: Style = AnsiColor::Red.on_default().bold();
    const CYAN: Style = AnsiColor::Cyan.on_default().bold();
    let mut text = format!("{RED}error:{RED:#} {error}\n");
    if let Some(help) = error.advice() {
        text += &format!("{CYAN}help:{CYAN:#} {}\n", readable(help));
    }
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Set when a file size limit was reached; the failed write says so, too.
#[cfg(unix)]
static LIMIT_REACHED: AtomicBool = AtomicBool::new(false);

/// A progress bar on a terminal, for work that lasts over a second.
struct Bar {
    is_shown: bool,
    show: Show,
    timings: bool,
    begin: Instant,
    bar: OnceLock<ProgressBar>,
    /// For programs, if they want any.
    lines: Option<Mutex<Told>>,
}

/// What is told in lines of JSON.
#[derive(Default)]
struct Told {
    done: u64,
    total: u64,
    waiting: Option<String>,
    /// Seconds and bytes of the last line.
    last: (f64, u64),
}

impl Bar {
    fn new(show: Show, timings: bool) -> Self {
        let is_shown = !show.quiet && !show.json && std::io::stderr().is_terminal();
        Self { is_shown, show, timings, begin: Instant::now(), bar: OnceLock::new(), lines: None }
    }

    fn with_lines(mut self, is_wanted: bool) -> Self {
        if is_wanted {
            (self.is_shown, self.lines) = (false, Some(Mutex::default()));
        }
        self
    }

    /// Tell that the work is at its end, where its size was an estimate.
    fn end(&self) {
        self.tell(true, |told| (told.total, told.waiting) = (told.done, None));
    }

    /// Change what is told, and tell it if a second has passed or the work is at its end.
    fn tell(&self, is_end: bool, change: impl FnOnce(&mut Told)) {
        let Some(lines) = &self.lines else { return };
        let mut told = lock(lines);
        change(&mut told);
        let now = self.begin.elapsed().as_secs_f64();
        if now - told.last.0 < 1.0 && !is_end {
            return;
        }
        let speed = (told.done - told.last.1) as f64 / 1e9 / (now - told.last.0).max(1e-3);
        told.last = (now, told.done);
        let line = serde_json::json!({
            "seconds": (now * 1e3).round() / 1e3,
            "bytes": told.done,
            "total": told.total,
            "gb_per_s": (speed * 1e3).round() / 1e3,
            "waiting_for": told.waiting.take(),
        });
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

impl Progress for Bar {
    fn start(&self, bytes: u64) {
        self.tell(false, |told| told.total = bytes);
        let bar = if self.is_shown { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template(
            "{bar:32.cyan} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left",
        );
        bar.set_style(style.expect("the template is constant"));
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let _ = self.bar.set(bar);
    }

    fn waiting(&self, what: &str) {
        self.tell(false, |told| told.waiting = Some(what.to_owned()));
    }

    fn advance(&self, bytes: u64) {
        self.tell(false, |told| told.done += bytes);
        let Some(bar) = self.bar.get() else { return };
        bar.inc(bytes);
        if self.is_shown && bar.is_hidden() && self.begin.elapsed() > Duration::from_secs(1) {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
    }

    fn note(&self, text: &str) {
        note(self.show, &[text.to_owned()]);
    }

    fn timings(&self, timings: &[(&str, Duration)]) {
        self.tell(true, |told| told.waiting = None);
        if self.timings {
            let _ = anstream::stderr().write_all(show::timings(timings, self.begin.elapsed()).as_bytes());
        }
    }

    fn stopped(&self) -> bool {
        signals::stopped()
    }
}

/// A line on a terminal that says how far a search is.
struct Line {
    is_shown: bool,
    show: Show,
    begin: Instant,
    /// How many trials were known when it began.
    before: OnceLock<usize>,
    bar: ProgressBar,
}

impl Line {
    fn new(show: Show) -> Self {
        let is_shown = !show.quiet && !show.json && std::io::stderr().is_terminal();
        let bar = ProgressBar::hidden();
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is constant"));
        if is_shown {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        Self { is_shown, show, begin: Instant::now(), before: OnceLock::new(), bar }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Line {
    fn told(&self, tried: &[Tried], best: Option<usize>, budget: usize) {
        if self.is_shown {
            let done = tried.iter().filter(|row| row.score.is_some() || row.failed.is_some()).count();
            let before = *self.before.get_or_init(|| done);
            let best = best.map(|at| &tried[at]);
            self.bar.set_message(show::progress(done, done - before, budget, best, self.begin.elapsed()));
            self.bar.tick();
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| note(self.show, &[text.to_owned()]));
    }

    fn stopped(&self) -> bool {
        signals::stopped()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
