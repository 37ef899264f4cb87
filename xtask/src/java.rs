//! The Java package: built, tested and measured with Maven, by the newest JDK that is here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::count::{Count, missing};
use crate::run::{Result, of_tests, output, root, run, target};
use crate::{c, component};

/// The oldest JDK that will do.
const OLDEST: u32 = 17;
/// The oldest that can call the native library.
const CALLS_NATIVE: u32 = 22;
/// The module that Chicory's compiler takes: it knows no SIMD.
const MODULE: &str = "mwa.plain.module.wasm";

/// What every runtime makes of the sample run; the README shows it.
pub(crate) const SAMPLE: &str = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";

/// A JDK.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Jdk {
    version: u32,
    home: PathBuf,
}

/// `cargo xtask build java`: the jar, and its documentation without warnings.
pub(crate) fn build() -> Result {
    let jdks = ready()?;
    component::build()?;
    place()?;
    run(maven(&jdks, &["package", "javadoc:javadoc", "-DskipTests"]))?;
    println!("built {}", folder().join("target").display());
    Ok(())
}

/// `cargo xtask test java`
pub(crate) fn test(count: &mut Count) -> Result {
    match ready() {
        Ok(_) => component::build()?,
        Err(why) => return missing("java", &why, count),
    }
    test_built(count)
}

/// The package's tests, where Java and Maven are; the core module is built already.
pub(crate) fn test_if_there(count: &mut Count) -> Result {
    match ready() {
        Ok(_) => test_built(count),
        Err(why) => missing("java", &why, count),
    }
}

/// The classes of the package and of its tests, and what they need; the Java that runs them.
pub(crate) fn classes() -> Result<(PathBuf, String)> {
    let jdks = ready()?;
    place()?;
    let list = folder().join("target/classpath");
    let write = format!("-Dmdep.outputFile={}", list.display());
    run(maven(&jdks, &["test-compile", "dependency:build-classpath", &write]))?;
    let needed = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let own =
        ["target/test-classes", "target/classes"].map(|place| folder().join(place).display().to_string());
    let between = if cfg!(windows) { ";" } else { ":" };
    let java = jdks.last().map_or("java".into(), |jdk| jdk.home.join("bin/java"));
    Ok((java, [&own[0], &own[1], needed.trim()].join(between)))
}

/// Measure whole merges of the checkpoints in a run beside the native program, in one process that is warm.
pub(crate) fn bench(run_folder: &Path, rounds: usize) -> Result {
    let jdks = match ready() {
        Ok(jdks) => jdks,
        Err(why) => {
            println!("not measured: Java, {why}");
            return Ok(());
        }
    };
    component::build()?;
    let (java, classes) = classes()?;
    let library = if calls_native(&jdks) { library().display().to_string() } else { String::new() };
    let mut bench = Command::new(java);
    if calls_native(&jdks) {
        bench.arg("--enable-native-access=ALL-UNNAMED");
    }
    bench.args(["-Xmx200m", "-cp", &classes, "mwa.Bench"]).arg(run_folder).arg(target().join("release/mwa"));
    bench.arg(library).arg(rounds.to_string()).arg(target().join("bench/out")).current_dir(folder());
    run(bench)
}

fn calls_native(jdks: &[Jdk]) -> bool {
    jdks.last().is_some_and(|jdk| jdk.version >= CALLS_NATIVE)
}

/// The library of `cargo xtask build c`.
fn library() -> PathBuf {
    target().join("c/lib").join(library_name("mwa"))
}

fn library_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn test_built(count: &mut Count) -> Result {
    let jdks = ready()?;
    place()?;
    let mut options = vec!["package".to_owned(), "javadoc:javadoc".into()];
    if calls_native(&jdks) {
        let library = match of_tests(&format!("deps/{}", library_name("mwa_c"))) {
            Some(library) => library,
            None => c::build().map(|()| library())?,
        };
        options.push(format!("-Dmwa.test.library={}", library.display()));
    }
    let words: Vec<_> = options.iter().map(String::as_str).collect();
    lane(maven(&jdks, &words), count)?;
    // the classes that the newest JDK has made, on the oldest Java that runs them
    if let [oldest, _, ..] = &jdks[..] {
        let java = format!("-Djvm={}", oldest.home.join("bin/java").display());
        lane(maven(&jdks, &["surefire:test", &java, "-Dtest=MergeTest"]), count)?;
    }
    example(&jdks, count)
}

/// The program of the documentation, with the jar as a user has it, on the oldest Java.
fn example(jdks: &[Jdk], count: &mut Count) -> Result {
    let out = target().join("java-example");
    let _ = fs::remove_dir_all(&out);
    let mut example = Command::new(jdks[0].home.join("bin/java"));
    let between = if cfg!(windows) { ";" } else { ":" };
    example.arg("-cp").arg(["bindings/java/target/*", "bindings/java/target/lib/*"].join(between));
    example.args(["bindings/java/examples/Merge.java", "examples/sample-run"]).arg(&out).current_dir(root());
    let said = output(example)?;
    print!("{said}");
    let is_right = said.lines().last().is_some_and(|line| line.starts_with(SAMPLE));
    *(if is_right { &mut count.passed } else { &mut count.failed }) += 1;
    Ok(())
}

/// Run tests, and count them from the reports that they leave.
fn lane(maven: Command, count: &mut Count) -> Result {
    let reports = folder().join("target/surefire-reports");
    let _ = fs::remove_dir_all(&reports);
    let ran = run(maven);
    let found = counted(&reports)?;
    println!("Java: {found}");
    count.passed += found.passed;
    count.failed += found.failed;
    count.skipped += found.skipped;
    if found.failed == 0 { ran } else { Ok(()) }
}

fn counted(reports: &Path) -> Result<Count> {
    let mut count = Count::default();
    for entry in fs::read_dir(reports).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "xml") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let found = suite(&text).ok_or_else(|| format!("{}: is not a report of tests", path.display()))?;
        count.passed += found.passed;
        count.failed += found.failed;
        count.skipped += found.skipped;
    }
    Ok(count)
}

/// What the head of a report says, as in `<testsuite … tests="12" errors="0" skipped="1" failures="0">`.
fn suite(report: &str) -> Option<Count> {
    let (_, rest) = report.split_once("<testsuite ")?;
    let (head, _) = rest.split_once('>')?;
    let number = |name: &str| -> Option<u64> {
        let (_, rest) = head.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    let (failed, skipped) = (number("errors")? + number("failures")?, number("skipped")?);
    Some(Count {
        passed: number("tests")?.checked_sub(failed + skipped)?,
        failed,
        skipped,
        reasons: Vec::new(),
    })
}

/// Put the core module where Maven compiles it.
fn place() -> Result {
    let (from, to) = (component::folder().join(MODULE), folder().join("src/main/wasm").join(MODULE));
    let copied = fs::create_dir_all(to.parent().expect("it lies in a folder"))
        .and_then(|()| fs::read(&from))
        // written only when it is another: Maven goes by times
        .and_then(|bytes| {
            if fs::read(&to).is_ok_and(|there| there == bytes) { Ok(()) } else { fs::write(&to, bytes) }
        });
    copied.map_err(|error| format!("{}: {error}", from.display()))
}

fn folder() -> PathBuf {
    root().join("bindings/java")
}

fn maven(jdks: &[Jdk], arguments: &[&str]) -> Command {
    let mut maven = Command::new(if cfg!(windows) { "mvn.cmd" } else { "mvn" });
    maven.args(["--quiet", "--batch-mode"]).args(arguments).current_dir(folder());
    if let Some(newest) = jdks.last() {
        maven.env("JAVA_HOME", &newest.home);
        if newest.version >= 24 {
            // else it warns of libraries of its own
            maven.env(
                "MAVEN_OPTS",
                "--sun-misc-unsafe-memory-access=allow --enable-native-access=ALL-UNNAMED",
            );
        }
    }
    maven
}

/// The JDKs that will do, oldest first.
///
/// # Errors
/// Why there is none, or no Maven.
fn ready() -> Result<Vec<Jdk>> {
    let mut version = Command::new(if cfg!(windows) { "mvn.cmd" } else { "mvn" });
    version.arg("--version");
    output(version).map_err(|_| "no Maven: install it to build and test the Java package")?;
    let named = std::env::var_os("JAVA_HOME").map(PathBuf::from);
    let installed = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten().map(|entry| entry.path());
    let homes = named.into_iter().chain(installed).filter_map(|home| fs::canonicalize(home).ok());
    let mut jdks: Vec<_> = homes.filter_map(jdk).filter(|jdk| jdk.version >= OLDEST).collect();
    jdks.sort();
    jdks.dedup();
    if jdks.is_empty() {
        return Err(format!(
            "no JDK {OLDEST} or newer: name one by JAVA_HOME to build and test the Java package"
        ));
    }
    Ok(jdks)
}

/// A folder that is a JDK, not only a runtime.
fn jdk(home: PathBuf) -> Option<Jdk> {
    let release = fs::read_to_string(home.join("release")).ok()?;
    let version = version(&release)?;
    home.join("bin")
        .join(format!("javac{}", std::env::consts::EXE_SUFFIX))
        .is_file()
        .then_some(Jdk { version, home })
}

fn version(release: &str) -> Option<u32> {
    let line = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION=\""))?;
    line.split(['.', '"', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_counted() {
        let report = "<?xml?>\n<testsuite xmlns:xsi=\"x\" name=\"mwa.A\" time=\"1.2\" tests=\"12\" errors=\"1\" skipped=\"2\" failures=\"3\">";
        assert_eq!(suite(report), Some(Count { passed: 6, failed: 4, skipped: 2, reasons: Vec::new() }));
        assert_eq!(suite("<html>"), None);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"17.0.15\"\n"), Some(17));
        assert_eq!(version("JAVA_VERSION=\"25\""), Some(25));
        assert_eq!(version("JAVA_VERSION=\"1.8.0_402\""), Some(1));
        assert_eq!(version(""), None);
    }
}
