//! Start other programs, showing what is started; where the repository lies, and its files.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use std::time::Instant;

/// What went wrong, for a person.
pub(crate) type Result<T = ()> = core::result::Result<T, String>;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the repository")
}

/// Where cargo builds, and where everything made here goes.
pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The cargo that runs this.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Copy a file, with the folder that it goes to.
pub(crate) fn copy(from: &Path, to: &Path) -> Result {
    let made = fs::create_dir_all(to.parent().expect("it lies in a folder"));
    let copied = made.and_then(|()| fs::copy(from, to));
    copied.map(drop).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

/// The files that are committed, or would be.
pub(crate) fn sources() -> Result<BTreeSet<PathBuf>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    Ok(output(list)?.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect())
}

/// Run to the end; failure is an error.
pub(crate) fn run(mut command: Command) -> Result {
    show(&command);
    let start = Instant::now();
    let status = command.status().map_err(|error| failed(&command, &error.to_string()))?;
    tell_time(start);
    if status.success() { Ok(()) } else { Err(failed(&command, &status.to_string())) }
}

/// Run to the end, passing each line of standard output through; whether it succeeded.
pub(crate) fn stream(mut command: Command, mut hear: impl FnMut(&str)) -> Result<bool> {
    show(&command);
    let start = Instant::now();
    let spawned = command.stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| failed(&command, &error.to_string()))?;
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        hear(text.trim_end());
        line.clear();
    }
    let status = child.wait().map_err(|error| failed(&command, &error.to_string()))?;
    tell_time(start);
    Ok(status.success())
}

/// Run quietly; standard output, or what standard error ended with.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let done = command.output().map_err(|error| failed(&command, &error.to_string()))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(failed(&command, said.trim().lines().last().unwrap_or("no message")))
}

/// Say how long something took, where anybody has waited.
fn tell_time(start: Instant) {
    let seconds = start.elapsed().as_secs();
    if seconds >= 20 {
        println!("({seconds} s)");
    }
}

fn show(command: &Command) {
    println!("$ {}", line(command));
}

fn failed(command: &Command, why: &str) -> String {
    format!("{}: {why}", line(command))
}

fn line(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = core::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The release binary.
pub(crate) fn build() -> Result {
    run(cargo(["build", "--release", "--package", "mwa-host"]))?;
    println!("built {}", binary().display());
    Ok(())
}

/// Where that is.
pub(crate) fn binary() -> PathBuf {
    target().join("release").join(format!("mwa{}", std::env::consts::EXE_SUFFIX))
}

/// Whether this process has run the tests of the workspace, which have built the program and the C library as they test them.
static IS_TESTED: AtomicBool = AtomicBool::new(false);

/// From now on other languages are compared with what was tested, which need not be built once more.
pub(crate) fn tested() {
    IS_TESTED.store(true, Ordering::Relaxed);
}

/// A file of the tests' build, if they have been run.
pub(crate) fn of_tests(name: &str) -> Option<PathBuf> {
    let file = target().join("debug").join(name);
    (IS_TESTED.load(Ordering::Relaxed) && file.is_file()).then_some(file)
}

/// The program that other languages are compared with.
pub(crate) fn compared() -> Result<PathBuf> {
    match of_tests(&format!("mwa{}", std::env::consts::EXE_SUFFIX)) {
        Some(program) => Ok(program),
        None => build().map(|()| binary()),
    }
}
