//! The commands of the guide, each run on the sample run or on what stands in for files of the reader's.
//!
//! Of every page that `docs/SUMMARY.md` names, the blocks of `sh` are run command by command, each without the output that an earlier
//! one left. A block that says `sh needs=WHAT` is left out, and commands of other tools (`cargo`, `npx`, …) are other tests' work.
//! A new page needs nothing but commands that work; files that they name stand in [`stand_ins`].
#![cfg(unix)]

mod stand_ins;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stand_ins::lay_out;

/// Programs whose commands other tests run, or nobody: they install, build, or need a network.
const OTHERS: [&str; 17] = [
    "b3sum",
    "cargo",
    "cc",
    "curl",
    "docker",
    "export",
    "git",
    "go",
    "java",
    "jco",
    "npm",
    "npx",
    "pip",
    "python -m mwa",
    "python3 -m venv",
    "sbatch",
    "sh install.sh",
];

/// A command, and the page that has it.
struct Shown {
    page: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The pages of the guide, as paths in the repository.
fn pages() -> Vec<String> {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let links = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.map(|link| link.strip_prefix("../").map_or_else(|| format!("docs/{link}"), str::to_owned)).collect()
}

/// Fenced blocks: what stands behind the fence, and the text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, body)), None) => *body += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// The commands of a block: lines, those that end in `\` with the next, without comments.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split("  #").next().unwrap_or_default().trim());
    let lines = lines.map(|line| line.split(" # ").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The command as it is run: this `mwa`, and a run where the page says `RUN`.
fn runnable(command: &str) -> Option<String> {
    let command = command.replace("cargo mwa", "mwa");
    let is_others = |name: &&str| command == **name || command.starts_with(&format!("{name} "));
    let is_ours_elsewhere = command.starts_with("target/")
        || command.starts_with("MWA_")
        || command.contains("examples/score.py");
    if OTHERS.iter().any(is_others)
        || is_ours_elsewhere
        || command.contains("--device gpu")
        || command.contains("--device wasm")
    {
        return None;
    }
    let words = command.split(' ').map(|word| match word {
        "RUN" | "RUN…" | "PATH…" | "ANYTHING" | "IN" => "examples/sample-run",
        "OUT" => "out",
        other => other,
    });
    let mut command = words.collect::<Vec<_>>().join(" ");
    // whether a search works shows after a few trials
    if command.starts_with("mwa search ") && !command.contains("--budget") {
        command += " --budget 4";
    }
    Some(command)
}

/// What a command writes, by the word behind `-o`.
fn outputs(command: &str) -> Vec<String> {
    let words: Vec<_> = command.split(' ').collect();
    words
        .windows(2)
        .filter(|pair| ["-o", "--output"].contains(&pair[0]))
        .map(|pair| pair[1].to_owned())
        .collect()
}

/// Run one command where `place` is; what it said if it failed.
fn run(command: &str, place: &Path) -> Result<(), String> {
    for output in outputs(command).iter().filter(|output| !output.contains(['/', '~'])) {
        let _ = fs::remove_dir_all(place.join(output));
        let _ = fs::remove_file(place.join(format!("{output}.search.jsonl")));
    }
    let program = Path::new(env!("CARGO_BIN_EXE_mwa")).parent().unwrap();
    let path = format!(
        "{}:{}:{}",
        place.join("bin").display(),
        program.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", command]).current_dir(place).env("PATH", path).env("HOME", place);
    let done = bash.output().map_err(|error| format!("bash: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", done.status, String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn every_command_of_the_guide_works() {
    let work = tempfile::tempdir().unwrap();
    let (mut ran, mut failures, mut elsewhere) = (0, Vec::new(), Vec::new());
    for (i, page) in pages().into_iter().enumerate() {
        let text = fs::read_to_string(root().join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let blocks = blocks(&text);
        let place: PathBuf = work.path().join(i.to_string());
        let shown = blocks.iter().filter(|(info, _)| info == "sh" || info.starts_with("sh needs="));
        let mut todo = Vec::new();
        for (info, block) in shown {
            for text in commands(block) {
                match runnable(&text).filter(|_| info == "sh") {
                    Some(text) => todo.push(Shown { page: page.clone(), text }),
                    None => elsewhere.push(format!("{page}: {text}")),
                }
            }
        }
        if todo.is_empty() {
            continue;
        }
        lay_out(&place, &page, &blocks);
        for Shown { page, text } in todo {
            ran += 1;
            if let Err(why) = run(&text, &place) {
                failures.push(format!("{page}: {text}\n  {}", why.trim().replace('\n', "\n  ")));
            }
        }
        let _ = fs::remove_dir_all(&place);
    }
    println!(
        "{ran} commands ran; {} are for other tools or need more:\n  {}",
        elsewhere.len(),
        elsewhere.join("\n  ")
    );
    assert!(failures.is_empty(), "{} of {ran} commands failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran >= 40, "only {ran} commands were found: the pages are read wrongly");
}

#[test]
fn what_fails_is_noticed_and_what_is_no_command_is_not_run() {
    let place = tempfile::tempdir().unwrap();
    assert!(run("mwa inspect nothing-here", place.path()).unwrap_err().contains("nothing-here"));
    let block = "mwa merge a \\\n  -o b   # why\n# only a comment\n\ncargo test\n";
    assert_eq!(commands(block), ["mwa merge a    -o b", "cargo test"]);
    assert_eq!(
        (runnable("cargo test"), runnable("mwa inspect RUN")),
        (None, Some("mwa inspect examples/sample-run".into()))
    );
    let page = "```sh\nmwa a\n```\n\n```sh needs=x\nmwa b\n```\n";
    assert_eq!(blocks(page), [("sh".into(), "mwa a\n".into()), ("sh needs=x".into(), "mwa b\n".into())]);
}

#[test]
fn the_table_of_the_report_has_every_field_and_no_other() {
    let text = fs::read_to_string(root().join("docs/reports.md")).unwrap();
    let table = text.split_once("| field |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let first = rows.flat_map(|row| {
        row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let told: Vec<_> = first.collect();
    let source = fs::read_to_string(root().join("core/src/merge/report.rs")).unwrap();
    let fields = source.split_once("pub struct Report {").unwrap().1.split_once("\n}").unwrap().0;
    let fields: Vec<_> =
        fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()).collect();
    for field in &fields {
        assert!(told.iter().any(|told| told == field), "docs/reports.md does not tell of `{field}`");
    }
    for told in &told {
        assert!(fields.contains(&told.as_str()), "docs/reports.md tells of `{told}`, which no report has");
    }
}
