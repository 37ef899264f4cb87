//! The step of a checkpoint: one source for all, so that no epoch is weighed against steps.

use crate::run::checkpoint::Checkpoint;
use crate::run::log::Logs;

/// Give all checkpoints their steps from one source: what they hold (their own logs, the metadata of their weights), or
/// else their names. Where neither is there for all, the source that more of them have counts, and the others have none.
pub(crate) fn settle(checkpoints: &mut [Checkpoint], logs: &Logs) {
    let held = |it: &Checkpoint| logs.step(&it.name).or(it.counted);
    let holding = checkpoints.iter().filter(|it| held(it).is_some()).count();
    let naming = checkpoints.iter().filter(|it| named(it).is_some()).count();
    let is_held = holding == checkpoints.len() || holding > naming;
    for checkpoint in checkpoints {
        checkpoint.step = if is_held { held(checkpoint) } else { named(checkpoint) };
    }
}

/// The step that the name gives.
fn named(checkpoint: &Checkpoint) -> Option<u64> {
    if checkpoint.folder.is_some() {
        step_of_folder(checkpoint.label())
    } else {
        step_of_file(checkpoint.label())
    }
}

/// The step that a folder's name gives; `None` when it is not a checkpoint's name.
///
/// `checkpoint-N` (Trainer and what builds on it), `epoch_N` and `step_N` (torchtune), `step-N` (litgpt), `global_stepN`.
#[must_use]
pub fn step_of_folder(name: &str) -> Option<u64> {
    ["checkpoint-", "epoch_", "step_", "step-", "global_step"]
        .iter()
        .find_map(|prefix| number(name.strip_prefix(prefix)?))
}

/// The step or epoch that a file's name gives: `NAME-000010`, `NAME-step00000050` (kohya), `0000100_adapters` (MLX),
/// `NAME_000000500` (ai-toolkit).
#[must_use]
pub fn step_of_file(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    if let Some(step) = stem.strip_suffix("_adapters").and_then(number) {
        return Some(step);
    }
    let (_, last) = stem.rsplit_once(['-', '_'])?;
    number(last.strip_prefix("step").unwrap_or(last))
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_steps() {
        assert_eq!(step_of_folder("checkpoint-1000"), Some(1000));
        assert_eq!(step_of_folder("epoch_2"), Some(2));
        for other in
            ["checkpoint-500-merged", "tmp-checkpoint-500", "checkpoint-500.bak", "checkpoint-", "best"]
        {
            assert_eq!(step_of_folder(other), None, "{other}");
        }
        assert_eq!(step_of_file("cat-step00000050.safetensors"), Some(50));
        assert_eq!(step_of_file("cat-000010.safetensors"), Some(10));
        assert_eq!(step_of_file("0000100_adapters.safetensors"), Some(100));
        assert_eq!(step_of_file("adapters.safetensors"), None);
    }
}
