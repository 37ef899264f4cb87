//! What the command line prints: tables with bars, summaries, notes.

use core::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::engine::gpu::Found;
use crate::search::{SearchReport, Tried};
use crate::shards::Shared;
use crate::verify::{Checked, State, Verified};
use mwa::inspection::Summary;
use mwa::report::{Distance, HashedFile, Report, labels};
use mwa::{Inspection, readable};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const BAR: Style = AnsiColor::Cyan.on_default();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Widest bar, in characters.
const BAR_WIDTH: usize = 24;
/// A narrower bar shows nothing.
const LEAST_BAR: usize = 4;
/// The column of a table of weights that says where metrics are from.
const SOURCE: usize = 3;
/// The most lines of notes that are read after a result.
const MOST_NOTES: usize = 3;

/// The checkpoints of a report as a table: name, step, metric and its source, what is left of updates, weight with a bar.
pub(crate) fn weights_table(report: &Report) -> String {
    let metric = report.weighting.metric.as_deref();
    // a method that asks for no weights has no bars either
    let has_bars = report.weighting.instead_of_weights().is_none();
    let has_metric = report.inputs.iter().any(|input| input.metric.is_some());
    let mut rows = vec![vec!["checkpoint".to_owned(), "step".into()]];
    if has_metric {
        rows[0].extend([readable(metric.unwrap_or("metric")).into_owned(), "from".into()]);
    }
    let has_updates = report.inputs.iter().any(|input| input.update.is_some());
    if has_updates {
        rows[0].push("update".into());
    }
    rows[0].push("weight".into());
    for (input, label) in report.inputs.iter().zip(labels(&report.inputs)) {
        let mut row = vec![
            readable(label).into_owned() + if input.role.is_some() { " (base)" } else { "" },
            input.step.map_or_else(|| "–".into(), |step| step.to_string()),
        ];
        if has_metric {
            row.push(input.metric.map_or_else(|| "–".into(), significant));
            row.push(readable(input.source.as_deref().unwrap_or_default()).into_owned());
        }
        row.extend(input.update.map(|update| format!("{update:.4}")));
        row.push(report.weighting.shown(input));
        rows.push(row);
    }
    let widths_of = |rows: &[Vec<String>]| -> Vec<usize> {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (0..rows[0].len()).map(width).collect()
    };
    let room = |widths: &[usize]| widths.iter().map(|width| width + 2).sum::<usize>() - 2;
    // a terminal too narrow for all columns shows those that matter most
    let has_source = has_metric && columns().is_none_or(|columns| room(&widths_of(&rows)) <= columns);
    if has_metric && !has_source {
        rows.iter_mut().for_each(|row| drop(row.remove(SOURCE)));
    }
    // text columns lean left, numbers right
    let is_text = |column: usize| column == 0 || (has_source && column == SOURCE);
    let widths = widths_of(&rows);
    let largest = report.inputs.iter().map(|input| input.weight.abs()).fold(0.0, f64::max);
    // a terminal too narrow for the bars would break every line
    let taken = widths.iter().map(|width| width + 2).sum::<usize>() + 1;
    let free = columns().map_or(BAR_WIDTH, |columns| columns.saturating_sub(taken).min(BAR_WIDTH));
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let pad = " ".repeat(widths[column] - cell.chars().count());
            line += &if is_text(column) { format!("{gap}{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
        }
        text += &match i.checked_sub(1).map(|i| report.inputs[i].weight) {
            None => format!("{BOLD}{line}{BOLD:#}\n"),
            Some(_) if free < LEAST_BAR || !has_bars => format!("{line}\n"),
            Some(weight) => format!("{line}  {BAR}{}{BAR:#}\n", bar(weight, largest, free)),
        };
    }
    text
}

/// How wide the terminal is; none when standard output is something else.
fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(width.0.into())
}

/// Eighths of a block, so that near weights look different; the largest weight is `width` characters.
fn bar(weight: f64, largest: f64, width: usize) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and 8 × BAR_WIDTH"
    )]
    let eighths =
        if largest > 0.0 { (weight.abs() / largest * (width * 8) as f64).round() as usize } else { 0 };
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{}{part}", if weight < 0.0 { "−" } else { "" }, "█".repeat(eighths / 8))
}

/// Five significant digits, without a tail of zeros for whole numbers.
fn significant(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value}");
    }
    if (1e-3..1e6).contains(&value.abs()) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 8")]
        let decimals = (4 - value.abs().log10().floor() as i32).clamp(0, 8) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.4e}")
    }
}

/// Notes, one a line, each once; if `is_brief` not more than a person reads.
pub(crate) fn notes(notes: &[String], is_brief: bool) -> String {
    let mut told: Vec<&String> = Vec::new();
    for note in notes {
        if !told.contains(&note) {
            told.push(note);
        }
    }
    let line = |text: &str| format!("{DIM}note:{DIM:#} {text}\n");
    let shown = if is_brief && told.len() > MOST_NOTES { MOST_NOTES - 1 } else { told.len() };
    if shown < told.len() {
        // what is lost is not to be hidden
        told.sort_by_key(|note| !["left out", "dropped"].iter().any(|word| note.contains(word)));
    }
    let mut text: String = told[..shown].iter().map(|note| line(&readable(note))).collect();
    if shown < told.len() {
        text += &line(&format!("there are {} more notes; --verbose shows them", told.len() - shown));
    }
    text
}

/// The weights of a report, and what to expect of them.
pub(crate) fn weights(report: &Report) -> String {
    weighed(report) + &advice(report)
}

/// Where pictures are, and their tables.
pub(crate) fn drawn(files: &[String]) -> String {
    let names = match files {
        [] => return String::new(),
        [only] => readable(only).into_owned(),
        [others @ .., last] => format!("{} and {}", readable(&others.join(", ")), readable(last)),
    };
    format!("{DIM}drawn in {names}{DIM:#}\n")
}

/// Which checkpoints, the table of their weights, and how these were made.
fn weighed(report: &Report) -> String {
    let chosen = report
        .selected
        .as_ref()
        .map_or_else(String::new, |selected| format!("{DIM}chosen: {}{DIM:#}\n", readable(&selected.line)));
    let ranking = report.ranking.as_ref().map_or_else(Vec::new, |it| it.describe(&labels(&report.inputs)));
    let groups = report.describe_groups();
    let ranking: String =
        ranking.iter().chain(&groups).map(|line| format!("{DIM}  {}{DIM:#}\n", readable(line))).collect();
    format!(
        "{chosen}{}{DIM}weights: {}{DIM:#}\n{ranking}",
        weights_table(report),
        readable(&report.weighting.describe())
    )
}

/// Why little is to be expected of a merge, one reason a line.
fn advice(report: &Report) -> String {
    report.advice.iter().map(|advice| format!("{BOLD}advice:{BOLD:#} {}\n", readable(&advice.text))).collect()
}

/// How far the result is from the average of what the adapters do, and whether that is good or bad.
fn residual(report: &Report, distance: &Distance) -> String {
    let describe = distance.describe();
    let (share, worst) = describe.split_once(" (").unwrap_or((&describe, ""));
    let is_far = report.advice.iter().any(|advice| advice.about == "residual");
    let is_nothing = share == "0 %";
    let text = match report.space.as_str() {
        "product" if is_nothing => "keeps all of what the adapters do on average",
        "product" => &format!("at this rank {share} of what the adapters do on average is lost"),
        _ if is_nothing => "averaging factors is exact here",
        _ if is_far => &format!(
            "averaging factors changes what the adapters do by {share}, which is much: see the advice"
        ),
        _ => &format!("averaging factors changes what the adapters do by {share}, which is little"),
    };
    let worst =
        if worst.is_empty() || is_nothing { String::new() } else { format!("  ({}\n", readable(worst)) };
    format!("  {text}\n{worst}")
}

/// A shard that is done.
pub(crate) fn shared(shared: &Shared, folder: &str) -> String {
    let Shared { shard, was_done, of, missing } = shared;
    let done = if *was_done { "was done before" } else { "is done" };
    let rest = match missing.len() {
        0 => format!("all are: mwa finish {folder}"),
        1 => "1 is missing".into(),
        more => format!("{more} are missing"),
    };
    format!("{GOOD}shard{GOOD:#} {shard}/{of} of {BOLD}{folder}{BOLD:#} {done}; {rest}\n")
}

/// A merge by shards that was given up, if there was one.
pub(crate) fn given_up(was_there: bool, folder: &str) -> String {
    match was_there {
        true => format!("the shards of {BOLD}{folder}{BOLD:#} are removed\n"),
        false => format!("nothing to remove: no shards of a merge into {BOLD}{folder}{BOLD:#} are here\n"),
    }
}

/// A finished merge.
pub(crate) fn merged(report: &Report, folder: &str, seconds: f64) -> String {
    weighed(report) + &made(report, "checkpoint", folder, seconds)
}

/// A finished round.
pub(crate) fn aggregated(report: &Report, folder: &str, seconds: f64) -> String {
    let mut text = round_table(report);
    if let Some(round) = &report.round {
        let mut facts =
            vec![format!("{} clients, {} samples", round.clients, round.samples), round.rule.clone()];
        facts.extend((round.discount != "constant").then(|| format!("staleness {}", round.discount)));
        facts.extend(
            round.server.as_ref().map(|it| format!("{} step {}, rate {}", it.kind, it.step, it.rate)),
        );
        facts.extend((round.rate != 1.0).then(|| format!("server's rate {}", round.rate)));
        facts.extend((round.momentum != 0.0).then(|| format!("momentum {}", round.momentum)));
        facts.extend(round.clip.map(|clip| format!("norms up to {clip}")));
        facts.extend((report.weighting.scheme != round.rule).then(|| report.weighting.describe()));
        text += &format!("{DIM}round: {}{DIM:#}\n", readable(&facts.join("; ")));
    }
    text + &made(report, "model", folder, seconds)
}

/// A model that is whole again.
pub(crate) fn recovered(report: &Report, folder: &str, seconds: f64) -> String {
    let text = report.describe_recovered().map_or_else(String::new, |it| format!("{}\n", readable(&it)));
    text + &format!("{GOOD}recovered{GOOD:#} into {BOLD}{}{BOLD:#} in {seconds:.2} s\n", readable(folder))
        + &outputs(report)
}

/// A model with its adapter in it.
pub(crate) fn applied(report: &Report, folder: &str, seconds: f64) -> String {
    let mut text = String::new();
    if let Some(folded) = &report.folded {
        let names: Vec<_> = report.inputs.iter().rev().map(|input| readable(&input.name)).collect();
        let mut facts = vec![format!("{} of {}", counted(folded.modules, "module"), names.join(" into "))];
        facts.push(format!("{} changed", counted(folded.changed, "tensor")));
        facts.extend((folded.replaced > 0).then(|| format!("{} of them replaced whole", folded.replaced)));
        facts.extend(
            (!folded.added.is_empty()).then(|| format!("added: {}", readable(&folded.added.join(", ")))),
        );
        text = format!("{}\n", facts.join("; "));
    }
    text + &format!("{GOOD}folded{GOOD:#} into {BOLD}{}{BOLD:#} in {seconds:.2} s\n", readable(folder))
        + &outputs(report)
}

/// `1 module`, `2 modules`.
fn counted(count: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(count as u64), if count == 1 { "" } else { "s" })
}

/// An adapter that was taken out of a model, module by module.
pub(crate) fn extracted(report: &Report, folder: &str, seconds: f64) -> String {
    let mut text = String::new();
    if let Some(distance) = &report.residual {
        let mut rows = vec![vec!["module".to_owned(), "rank".into(), "left over".into()]];
        for module in &distance.modules {
            let rank = module.rank.map_or_else(|| "–".into(), |rank| rank.to_string());
            let left = format!("{:.3} %", module.relative * 100.0);
            rows.push(vec![readable(&module.module).into_owned(), rank, left]);
        }
        text = table(&rows, &|column| column == 0);
        text +=
            &format!("{DIM}left over of all modules together: {}{DIM:#}\n", readable(&distance.describe()));
    }
    text + &format!("{GOOD}extracted{GOOD:#} into {BOLD}{}{BOLD:#} in {seconds:.2} s\n", readable(folder))
        + &outputs(report)
}

/// The clients of a round as a table, and what the server added.
fn round_table(report: &Report) -> String {
    let told: Vec<_> = report.inputs.iter().map(|input| input.round.clone().unwrap_or_default()).collect();
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), significant);
    let has_norms = told.iter().any(|it| it.norm.is_some());
    let has_cosines = told.iter().any(|it| it.cosine.is_some());
    let is_clipped = told.iter().any(|it| it.kept.is_some());
    let measure = report.weighting.metric.as_deref();
    let mut head = vec!["client".to_owned(), "samples".into(), "stale".into()];
    head.extend(has_norms.then(|| "norm".into()));
    head.extend(is_clipped.then(|| "kept".into()));
    head.extend(has_cosines.then(|| "cosine".into()));
    head.extend(measure.map(|name| readable(name).into_owned()));
    head.push("weight".into());
    let mut rows = vec![head];
    for (input, told) in report.inputs.iter().zip(&told) {
        let name = readable(&input.name);
        let name = if told.role == "client" { name.into_owned() } else { format!("{name} ({})", told.role) };
        let mut row = vec![name, number(told.samples), number(told.staleness)];
        row.extend(has_norms.then(|| number(told.norm)));
        row.extend(is_clipped.then(|| number(told.kept)));
        row.extend(has_cosines.then(|| number(told.cosine)));
        row.extend(measure.map(|_| number(input.metric)));
        row.push(format!("{:.4}", input.weight));
        rows.push(row);
    }
    table(&rows, &|column| column == 0)
}

/// What was written.
fn made(report: &Report, what: &str, folder: &str, seconds: f64) -> String {
    let folder = readable(folder);
    let mut text = String::new();
    let read: u64 = report.inputs.iter().flat_map(|input| &input.files).map(|file| file.bytes).sum();
    text += &format!(
        "{GOOD}merged{GOOD:#} {} {} ({}) into {BOLD}{folder}{BOLD:#} in {seconds:.2} s\n",
        report.merged(),
        if report.merged() == 1 { what.to_owned() } else { format!("{what}s") },
        bytes(read),
    );
    text + &outcome(report)
}

/// What came of a merge: how far it is off, the files, what to expect.
fn outcome(report: &Report) -> String {
    let residual = report.residual.as_ref().map_or_else(String::new, |distance| residual(report, distance));
    residual + &outputs(report) + &advice(report)
}

/// The files that were written.
fn outputs(report: &Report) -> String {
    let is_between =
        report.format.is_some() || report.round.as_ref().is_some_and(|round| round.server.is_some());
    files(if is_between { &report.companions } else { &report.outputs })
}

/// Files that were written, a line each.
fn files(files: &[HashedFile]) -> String {
    let line = |file: &HashedFile| {
        let (name, hash) = (readable(&file.name), file.blake3.get(..16).unwrap_or(&file.blake3));
        format!("  {name}  {}  {DIM}blake3 {hash}…{DIM:#}\n", bytes(file.bytes))
    };
    files.iter().map(line).collect()
}

/// What there is to say of a checkpoint but for its name and step.
fn facts(checkpoint: &Summary) -> String {
    let method = checkpoint.method.as_deref().or(checkpoint.container.as_deref());
    let method = readable(method.unwrap_or("no adapter config"));
    let ranks: Vec<_> = checkpoint.ranks.iter().map(u64::to_string).collect();
    let ranks = if ranks.is_empty() { String::new() } else { format!(", rank {}", ranks.join("/")) };
    let alpha = checkpoint.alpha.map_or_else(String::new, |alpha| format!(", alpha {alpha}"));
    let dtypes: Vec<_> =
        checkpoint.dtypes.iter().map(|(dtype, n)| format!("{n} {}", readable(dtype))).collect();
    format!(
        "{method}{ranks}{alpha}, {} parameters in {} tensors ({}), {}",
        grouped(checkpoint.parameters),
        checkpoint.tensors,
        dtypes.join(", "),
        bytes(checkpoint.bytes),
    )
}

/// `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let group = |(i, digit): (usize, char)| {
        let is_first = i == 0 || !(digits.len() - i).is_multiple_of(3);
        if is_first { vec![digit] } else { vec![',', digit] }
    };
    digits.chars().enumerate().flat_map(group).collect()
}

/// How far a search is, in a line; `new` of the trials were scored in `elapsed`.
pub(crate) fn progress(
    done: usize,
    new: usize,
    budget: usize,
    best: Option<&Tried>,
    elapsed: Duration,
) -> String {
    let mut text = format!("{done} of at most {budget} trials");
    if let Some((best, score)) = best.and_then(|best| Some((best, best.score?))) {
        text += &format!(", best {BOLD}{}{BOLD:#} (trial {}, {})", significant(score), best.number, best.by);
    }
    if new > 0 && done < budget {
        #[expect(clippy::cast_precision_loss, reason = "a few trials")]
        let left = elapsed.as_secs_f64() / new as f64 * (budget - done) as f64;
        text += &format!(", {} left", duration(left));
    }
    text
}

/// A finished conversion.
pub(crate) fn converted(converted: &crate::Converted, out: &str) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let lost = converted.rank1.as_ref().map_or_else(String::new, |rank1| {
        let worst = rank1.worst.as_ref().map_or_else(String::new, |(name, error)| {
            format!("; {} is off by most, {}", readable(name), percent(*error))
        });
        format!(
            "{} matrices by rows and columns: {} instead of {}, off by {} of their norm{worst}\n",
            rank1.matrices,
            bytes(rank1.bytes),
            bytes(rank1.whole),
            percent(rank1.error)
        )
    });
    format!("{GOOD}converted{GOOD:#} into {BOLD}{}{BOLD:#}\n{}{lost}", readable(out), files(&converted.files))
}

/// Masks: each model's share of bits, and what all of it takes.
pub(crate) fn masked(masks: &mwa::masks::Masks, folder: &str) -> String {
    let mut rows = vec![["model", "λ", "bits set"].map(String::from).to_vec()];
    #[expect(clippy::cast_precision_loss, reason = "a share is shown")]
    let share = |set: u64| format!("{:.1} %", 100.0 * set as f64 / masks.elements.max(1) as f64);
    rows.extend(
        masks
            .tasks
            .iter()
            .map(|task| vec![readable(&task.name).into_owned(), task.lambda.to_string(), share(task.set)]),
    );
    let mut sizes = vec![["", "bytes", ""].map(String::from).to_vec()];
    sizes.extend(masks.sizes().map(|(what, count)| vec![what.into(), count.to_string(), bytes(count)]));
    format!(
        "{}{}{GOOD}kept{GOOD:#} {} models in {BOLD}{}{BOLD:#}\n",
        table(&rows, &|column| column == 0),
        table(&sizes, &|column| column == 0),
        masks.tasks.len(),
        readable(folder)
    )
}

/// A model that was kept by its mask.
pub(crate) fn unmasked(back: &crate::Unmasked, folder: &str) -> String {
    let task = readable(&back.task);
    format!("{GOOD}gave{GOOD:#} {task} back in {BOLD}{}{BOLD:#}\n{}", readable(folder), files(&back.files))
}

/// `45 s`, `12 min`, `3.5 h`.
fn duration(seconds: f64) -> String {
    if seconds < 99.5 {
        format!("{seconds:.0} s")
    } else if seconds < 5970.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

/// A finished search: what was tried, the winner beside what it is compared with, and its merge.
pub(crate) fn searched(report: &SearchReport, folder: &str) -> String {
    let failed = report.trials.iter().filter(|row| row.failed.is_some()).count();
    let seconds: f64 = report.trials.iter().map(|row| row.seconds + row.merge_seconds).sum();
    let how = report.reason.as_deref().unwrap_or(&report.method);
    let mut text = format!("{DIM}search: {}{DIM:#}\n", readable(how));
    let better = if report.goal == "min" { "lower" } else { "higher" };
    text += &format!(
        "{DIM}{} trials{} by `{}`, {better} is better; {} of work, seed {}{DIM:#}\n",
        report.trials.len(),
        if failed > 0 { format!(" ({failed} failed)") } else { String::new() },
        readable(&report.evaluator),
        duration(seconds),
        report.seed
    );
    if let Some(why) = report.trials.iter().find_map(|row| row.failed.as_deref()) {
        text += &format!("{DIM}the first that failed: {}{DIM:#}\n", readable(why));
    }
    let is_held_out = report.holdout.is_some();
    let score = |score: Option<f64>| score.map_or_else(|| "–".into(), significant);
    let mut rows = vec![vec![String::new(), "score".into(), "trial".into(), "weights by".into()]];
    for row in &report.compared {
        let by = report.trials.get(row.trial - 1).map_or("", |trial| &trial.by);
        rows.push(vec![row.name.clone(), score(row.score), row.trial.to_string(), by.to_owned()]);
    }
    if is_held_out {
        rows[0].insert(2, "holdout".into());
        for (line, row) in rows[1..].iter_mut().zip(&report.compared) {
            line.insert(2, score(row.holdout));
        }
    }
    let last = rows[0].len() - 1;
    text += &table(&rows, &|column| column == 0 || column == last);
    for row in report.compared.iter().filter_map(|row| row.holdout_failed.as_deref()).take(1) {
        text += &format!("{DIM}holdout failed: {}{DIM:#}\n", readable(row));
    }
    if let Some(basin) = &report.basin {
        text += &format!("{basin}\n");
    }
    text += &drawn(&report.files);
    for doubt in &report.doubts {
        text += &format!("{BOLD}careful:{BOLD:#} {}\n", readable(doubt));
    }
    text + &weighed(&report.merge)
        + &format!("{GOOD}merged{GOOD:#} the winner into {BOLD}{}{BOLD:#}\n", readable(folder))
        + &outcome(&report.merge)
}

/// Cells in columns: text leans left, numbers right.
fn table(rows: &[Vec<String>], is_text: &dyn Fn(usize) -> bool) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            line += &if is_text(column) { format!("{gap}{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
        }
        line.trim_end().to_owned()
    };
    let lines = rows.iter().enumerate().map(|(at, row)| match at {
        0 => format!("{BOLD}{}{BOLD:#}\n", line(row)),
        _ => format!("{}\n", line(row)),
    });
    lines.collect()
}

/// What a path is.
pub(crate) fn inspection(found: &Inspection) -> String {
    let mut text = format!("{BOLD}{}{BOLD:#}\n", readable(&found.path));
    if let Some(known) = &found.known {
        text += &format!("  {}\n  {}\n", readable(&known.what), readable(&known.can));
    }
    // checkpoints of a run are alike but for their steps
    for alike in found.checkpoints.chunk_by(|a, b| facts(a) == facts(b)) {
        let (first, last) = (&alike[0], &alike[alike.len() - 1]);
        let name =
            |it: &Summary| readable(it.name.rsplit(['/', '\\']).next().unwrap_or(&it.name)).into_owned();
        let step = |it: &Summary| it.step.map_or_else(|| "–".into(), |step| step.to_string());
        let head = match alike.len() {
            1 if first.step.is_some() => format!("{}, step {}", name(first), step(first)),
            1 => name(first),
            count => format!(
                "{count} checkpoints, {} to {}, steps {} to {}",
                name(first),
                name(last),
                step(first),
                step(last)
            ),
        };
        let each = if alike.len() > 1 { " each" } else { "" };
        text += &format!("  {head}\n    {}{each}\n", facts(first));
        let Summary { base_model, target_modules, .. } = first;
        if let Some(base) = base_model {
            text += &format!("    of {}\n", readable(base));
        }
        if !target_modules.is_empty() {
            text += &format!("    in {}\n", readable(&target_modules.join(", ")));
        }
    }
    let verdicts: std::collections::BTreeSet<_> = found
        .checkpoints
        .iter()
        .filter_map(|checkpoint| Some((checkpoint.method.as_ref()?, checkpoint.verdict.as_ref()?)))
        .collect();
    for (method, verdict) in verdicts {
        text += &format!("  {}: {}\n", readable(method), readable(verdict));
    }
    let loose = found.checkpoints.iter().filter(|checkpoint| checkpoint.method.is_none());
    let containers: std::collections::BTreeSet<_> = loose.filter_map(|it| it.container.as_ref()).collect();
    for container in containers {
        text += &format!(
            "  {}: may be averaged with others of its run, and converted (mwa convert)\n",
            readable(container)
        );
    }
    if !found.metrics.is_empty() {
        text += &format!(
            "  {BOLD}metrics{BOLD:#}, how many of the {} checkpoints have one, and how well it tells them apart:\n",
            found.checkpoints.len()
        );
        let names: Vec<_> = found.metrics.iter().map(|metric| readable(&metric.name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, metric) in names.iter().zip(&found.metrics) {
            let apart =
                metric.separation.as_ref().map_or_else(String::new, |it| format!("  {}", separation(it)));
            text += &format!("    {name:width$}  {:>4}{apart}\n", metric.covered);
        }
    }
    for log in &found.logs {
        let metrics: Vec<_> = log.metrics.iter().map(|name| readable(name)).collect();
        text += &format!(
            "  {BOLD}{}{BOLD:#} ({}): {}\n",
            readable(&log.path),
            readable(&log.kind),
            metrics.join(", ")
        );
    }
    text
}

/// "range 0.240, noise 0.0446: 5.4, tells them apart".
fn separation(found: &mwa::Separation) -> String {
    let verdict = match found.separates {
        Some(true) => ", tells them apart",
        Some(false) => ", noise",
        None => "",
    };
    let (range, noise) = (significant(found.range), significant(found.noise));
    format!("range {range}, noise {noise}: {:.1}{verdict}", found.signal_to_noise)
}

/// The findings of a verification.
pub(crate) fn verified(verified: &Verified) -> String {
    let line = |file: &Checked| {
        let (style, word) = match file.state {
            State::Same => (GOOD, "same   "),
            State::Changed => (BAD, "changed"),
            State::Missing => (BAD, "missing"),
            State::Foreign => (BAD, "foreign"),
            State::Beside => (DIM, "beside "),
        };
        format!("{style}{word}{style:#}  {}\n", readable(&file.path))
    };
    let mut text: String = verified.outputs.iter().map(line).collect();
    let mut add = |files: &[Checked], one: &str, more: &str| {
        let (same, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.state == State::Same);
        text.extend(others.into_iter().map(line));
        if !same.is_empty() {
            let files = if same.len() == 1 { one } else { more };
            text += &format!("{GOOD}same   {GOOD:#}  {} {files}\n", same.len());
        }
    };
    add(&verified.companions, "file beside the weights", "files beside the weights");
    add(&verified.others, "", "");
    add(&verified.inputs, "input file", "input files");
    let is_changed = |file: &Checked| matches!(file.state, State::Changed | State::Missing);
    let is_here = !verified.outputs.iter().chain(&verified.companions).any(is_changed);
    text + &match verified.remade {
        Some(true) if verified.is_good() => {
            format!("{GOOD}verified{GOOD:#}: merging again gives the same bytes\n")
        }
        Some(true) if is_here => format!(
            "{BAD}differs{BAD:#}: merging again gives the same bytes, but files are here that the merge did not write, \
             and that may be loaded with them\n"
        ),
        Some(true) => {
            format!(
                "{BAD}differs{BAD:#}: merging again gives what the report says, but that is not what is here\n"
            )
        }
        Some(false) => format!("{BAD}differs{BAD:#}: merging again gives other bytes than the report says\n"),
        None => {
            let is_missing = |file: &&Checked| file.state == State::Missing;
            // of run/checkpoint-100/adapter_model.safetensors the run
            let place = |file: &Checked| file.path.rsplitn(3, ['/', '\\']).nth(2).map(str::to_owned);
            let all = verified.inputs.iter().all(|file| is_missing(&file));
            let first = verified.inputs.first().filter(|_| all).and_then(place);
            let help = first.map(|folder| {
                let folder = readable(&folder).into_owned();
                format!("help: the report looks for the run at {folder}: move it back there, or let a link lead to where it is\n")
            });
            format!(
                "{BAD}not merged again{BAD:#}: inputs are missing or have changed\n{}",
                help.unwrap_or_default()
            )
        }
    }
}

/// The GPUs, by the places that `--device gpu:…` takes.
pub(crate) fn devices(found: &[Found]) -> String {
    if found.is_empty() {
        return "no GPU was found; merges run on the CPU\n".into();
    }
    let row = |(place, device): (usize, &Found)| {
        let verdict = match &device.refused {
            None => format!("{GOOD}same bytes as the CPU{GOOD:#}"),
            Some(reason) => format!("{BAD}{}{BAD:#}", readable(reason)),
        };
        let (name, kind, driver) = (readable(&device.name), &device.kind, readable(&device.driver));
        format!("gpu:{place}  {BOLD}{name}{BOLD:#}, {kind}, driver {driver}\n       {verdict}\n")
    };
    found.iter().enumerate().map(row).collect()
}

/// Where the time of all threads went, and the time by the clock.
pub(crate) fn timings(timings: &[(&str, Duration)], elapsed: Duration) -> String {
    let rows = timings.iter().filter(|(_, time)| !time.is_zero());
    let rows = rows.map(|(name, time)| format!("{:>9.3} s  {name}\n", time.as_secs_f64()));
    rows.collect::<String>() + &format!("{:>9.3} s  by the clock\n", elapsed.as_secs_f64())
}

/// `237 kB`, `1.1 GB`: decimal units, three digits.
fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!((significant(1000.0).as_str(), significant(0.770_600_438).as_str()), ("1000", "0.77060"));
        assert_eq!(
            [0, 999, 1000, 116_736, 1_234_567].map(grouped).join(" "),
            "0 999 1,000 116,736 1,234,567"
        );
        assert_eq!(significant(12.345_678), "12.346");
        assert_eq!(significant(1.5e-7), "1.5000e-7");
        assert_eq!(
            (bytes(999).as_str(), bytes(237_400).as_str(), bytes(80_000_000).as_str()),
            ("999 B", "237 kB", "80.0 MB")
        );
    }

    #[test]
    fn bars_scale_to_the_largest() {
        assert_eq!(bar(1.0, 1.0, 24), "█".repeat(24));
        assert_eq!(bar(0.5, 1.0, 24), "█".repeat(12));
        assert_eq!(bar(0.0, 1.0, 24), "");
    }
}
