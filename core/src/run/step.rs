//! The step that a name gives: how trainers and people name checkpoints.

use crate::files::{last, parent};
use crate::format::{STEMS, stem};

/// How trainers name the folders of a run's checkpoints; `#` is a number, and where there are several the last counts.
/// Of the rows that a folder has, the first is taken.
const FOLDERS: [&str; 18] = [
    "checkpoint-#",
    "checkpoint_#",
    "global_step_#",
    "global_step#",
    "epoch_#",
    "epoch-#",
    "epoch#",
    "step_#",
    "step-#",
    "step#",
    "step#-unsharded",
    "iter_#",
    "iter-#",
    "ckpt-#",
    "ckpt_#",
    "epoch=#-step=#",
    "epoch-#-step-#",
    "#",
];

/// The row of folders that are nothing but a number: of a run's folders only.
pub(crate) const BARE: usize = FOLDERS.len() - 1;

/// How toolkits name the files of a run's checkpoints, less their endings; a `*` in front or at the end is anything, and noughts
/// are a number of as many digits. icefall, wenet, fairseq and timm, espnet, mmdet, detectron2, OpenNMT, kohya, Lightning, ai-toolkit,
/// mlx-lm, and what people write themselves.
const FILES: [&str; 30] = [
    "epoch-#",
    "epoch_#",
    "epoch#",
    "#epoch",
    "checkpoint#",
    "checkpoint-#",
    "checkpoint_#",
    "checkpoint_#_#",
    "checkpoint-epoch#",
    "checkpoint_epoch_#",
    "step-#",
    "step_#",
    "iter_#",
    "model_#",
    "model-#",
    "model_epoch_#",
    "ckpt_#",
    "ckpt-#",
    "ckpt#",
    "epoch=#-step=#",
    "epoch=#-step=#-*",
    "epoch=#",
    "epoch=#-*",
    "*_step_#",
    "*-step#",
    "*_epoch_#",
    "*-000000",
    "*_000000000",
    "0000000_adapters",
    "#",
];

/// How kohya ends the names of files that are no last ones.
const KOHYA: [&str; 2] = ["-000000", "-step00000000"];

/// The row of folders that a name belongs to, and the number in it.
pub(crate) fn folder_row(name: &str) -> Option<(usize, u64)> {
    row(&FOLDERS, name)
}

/// The row of files that a name belongs to, and the number in it; none for files that are no weights.
pub(crate) fn file_row(name: &str) -> Option<(usize, u64)> {
    let name = stem(name)?;
    // kohya calls a run so where it has no name
    let of_kohya = name.strip_prefix("last").filter(|rest| row(&KOHYA, rest).is_some());
    let mut words = of_kohya.unwrap_or(name).split(|letter: char| !letter.is_ascii_alphabetic());
    // an average of others, or one of them again
    if words.any(|word| ["avg", "ave", "best", "last", "swa"].contains(&word)) {
        return None;
    }
    row(&FILES, name)
}

fn row(rows: &[&str], name: &str) -> Option<(usize, u64)> {
    let mut found = rows.iter().enumerate().filter_map(|(i, row)| Some((i, fit(row, name, None)?)));
    found.next()
}

/// The last number of a name that a pattern fits.
fn fit(pattern: &str, name: &str, number: Option<u64>) -> Option<u64> {
    if pattern == "*" {
        return number;
    }
    let noughts = pattern.len() - pattern.trim_start_matches('0').len();
    if noughts > 0 {
        let (digits, rest) = name.split_at_checked(noughts)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_longer = rest.starts_with(|letter: char| letter.is_ascii_digit());
        return fit(
            &pattern[noughts..],
            rest,
            Some(digits.parse().ok().filter(|_| is_number && !is_longer)?),
        );
    }
    if let Some(after) = pattern.strip_prefix('*') {
        let mut starts = name.char_indices().map(|(at, _)| &name[at..]);
        return starts.find_map(|rest| fit(after, rest, number));
    }
    match (pattern.split_at_checked(1), name.split_at_checked(1)) {
        (None, None) => number,
        (Some(("#", after)), _) => {
            let rest = name.trim_start_matches(|letter: char| letter.is_ascii_digit());
            fit(after, rest, Some(name[..name.len() - rest.len()].parse().ok()?))
        }
        (Some((a, after)), Some((b, rest))) if a == b => fit(after, rest, number),
        _ => None,
    }
}

/// The step that a folder's name gives; `None` when it is not a checkpoint's name.
#[must_use]
pub fn step_of_folder(name: &str) -> Option<u64> {
    Some(folder_row(name)?.1)
}

/// The checkpoint that a path is or lies in, and its number: the nearest of path and parents whose name has one. A name that
/// no trainer gives counts for the path itself alone.
pub(crate) fn home(path: &str) -> Option<(&str, u64)> {
    let own = last(path);
    // the weights of a checkpoint folder, by themselves
    let is_known = stem(own).is_some_and(|stem| STEMS.contains(&stem));
    if let Some(number) = step_of_folder(own).or_else(|| file_row(own).map(|(_, number)| number)) {
        return Some((path, number));
    }
    let above = core::iter::successors(Some(parent(path)), |path| Some(parent(path)));
    let mut above = above.take_while(|path| !["", "/", "."].contains(path)).take(ABOVE);
    let numbered = |path| folder_row(last(path)).filter(|(row, _)| *row != BARE);
    let parents = above.find_map(|path| Some((path, numbered(path)?.1)));
    let named = if is_known { None } else { number_in(own).map(|number| (path, number)) };
    // what is in checkpoint-N is named after what it is
    parents.filter(|_| stem(own).is_none() || is_known).or(named).or(parents)
}

/// The folder of the run that a checkpoint at this path belongs to: its logs are nowhere else.
#[must_use]
pub fn run_around(path: &str) -> &str {
    parent(home(path).map_or(path, |(home, _)| home))
}

/// So many folders lie between a checkpoint's folder and its weights.
const ABOVE: usize = 3;

/// The number in a name that people gave: after a word for steps, or else the last that is neither a part of a decimal nor
/// says how large the model is or which version or shard it is.
fn number_in(name: &str) -> Option<u64> {
    let name = stem(name).unwrap_or(name);
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let (mut found, mut at) = (None, 0);
    while let Some(start) = bytes[at..].iter().position(is_digit).map(|more| at + more) {
        let len = bytes[start..].iter().take_while(|byte| is_digit(byte)).count();
        at = start + len;
        let (before, after) = (&name[..start], &name[at..]);
        if before.ends_with("-of-") {
            return None;
        }
        let words = before.trim_end_matches(['-', '_', '=', ' ']).to_ascii_lowercase();
        let is_of = |ends: &[&str]| ends.iter().any(|end| words.ends_with(end));
        // a date; and what is stuck to a word, as in bf16, unless it counts
        let is_year = len == 4 && ["19", "20"].contains(&&name[start..start + 2]);
        if is_year && after.starts_with('-') && after[1..].starts_with(|letter: char| letter.is_ascii_digit())
        {
            return None;
        }
        let is_stuck = before.ends_with(|letter: char| letter.is_ascii_alphabetic())
            && !is_of(&["epoch", "step", "steps", "iter", "checkpoint", "ckpt"]);
        let is_decimal = before.ends_with('.') || after.starts_with('.');
        let is_version = words.rsplit(['-', '_', '.', ' ']).next() == Some("v");
        let is_size = after.starts_with(['b', 'B', 'm', 'M', 'k', 'K']);
        let number = name[start..at].parse().ok();
        match number {
            Some(number) if is_of(&["step", "steps", "iter", "iteration", "updates"]) => return Some(number),
            Some(number) if !(is_decimal || is_version || is_size || is_stuck) => found = Some(number),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_steps() {
        for (name, step) in [
            ("checkpoint-1000", 1000),
            ("epoch_2", 2),
            ("global_step_300", 300),
            ("step1-unsharded", 1),
            ("7", 7),
        ] {
            assert_eq!(step_of_folder(name), Some(step), "{name}");
        }
        for other in
            ["checkpoint-500-merged", "tmp-checkpoint-500", "checkpoint-500.bak", "checkpoint-", "best", ""]
        {
            assert_eq!(step_of_folder(other), None, "{other}");
        }
    }

    #[test]
    fn files_of_toolkits_have_rows() {
        for (name, number) in [
            ("9.pt", 9),
            ("3epoch.pth", 3),
            ("checkpoint_3_500.pt", 500),
            ("checkpoint-12.pth.tar", 12),
            ("demo_step_2000.pt", 2000),
            ("style-step00000500.safetensors", 500),
            ("epoch=3-step=1200.ckpt", 1200),
            ("model_0004999.pth", 4999),
            ("style-000007.safetensors", 7),
            ("me_LoRA_000000250.safetensors", 250),
            ("0000100_adapters.safetensors", 100),
            ("epoch=0-step=4-val_loss=0.36.ckpt", 4),
        ] {
            assert_eq!(file_row(name).map(|(_, number)| number), Some(number), "{name}");
        }
        for other in [
            "final.pt",
            "avg_5.pt",
            "valid.acc.best.pth",
            "checkpoint_best.pt",
            "9.yaml",
            "9",
            "best_step_3.pt",
            "style-00007.safetensors",
            "style-0000070.safetensors",
            "last.ckpt",
            "adapters.safetensors",
        ] {
            assert_eq!(file_row(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_lies_in_a_checkpoint() {
        for (path, found) in [
            ("run/checkpoint-300/adapter_model", Some(("run/checkpoint-300", 300))),
            ("run/global_step_100/actor/huggingface", Some(("run/global_step_100", 100))),
            ("run/checkpoint-300/model.safetensors", Some(("run/checkpoint-300", 300))),
            ("run/checkpoint-300", Some(("run/checkpoint-300", 300))),
            ("exp/9.pt", Some(("exp/9.pt", 9))),
            ("cat-step00000050.safetensors", Some(("cat-step00000050.safetensors", 50))),
            ("cat-000010.safetensors", Some(("cat-000010.safetensors", 10))),
            ("0000100_adapters.safetensors", Some(("0000100_adapters.safetensors", 100))),
            ("epoch3-best", Some(("epoch3-best", 3))),
            ("lora-300", Some(("lora-300", 300))),
            ("epoch=3-step=1200-v1.ckpt", Some(("epoch=3-step=1200-v1.ckpt", 1200))),
            ("epoch=3-val_loss=0.25.ckpt", Some(("epoch=3-val_loss=0.25.ckpt", 3))),
            ("adapters.safetensors", None),
            ("model-00001-of-00002.safetensors", None),
            ("llama-7b-v2", None),
            ("step500-epoch-3-mine", Some(("step500-epoch-3-mine", 500))),
            ("lora-12-34", Some(("lora-12-34", 34))),
            ("bf16", None),
            ("CKPT+2024-01-01+00", None),
            ("a/final", None),
        ] {
            assert_eq!(home(path), found, "{path}");
        }
    }

    #[test]
    fn a_checkpoint_belongs_to_the_run_around_it() {
        for (path, run) in [
            ("all/run/checkpoint-300", "all/run"),
            ("run/checkpoint-300/actor/huggingface", "run"),
            ("exp/9.pt", "exp"),
            ("a/final", "a"),
            ("checkpoint-300", ""),
        ] {
            assert_eq!(run_around(path), run, "{path}");
        }
    }
}
