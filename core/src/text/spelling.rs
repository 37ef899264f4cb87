//! Find the name that was probably meant, and list those there are.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// The known name closest to `wanted`: the same after `eval_`, or with a few letters wrong.
#[must_use]
pub fn closest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(wanted);
    let allowed = 1 + wanted.len() / 4;
    let distance = |name: &str| {
        let name = plain(name);
        let unprefixed =
            name.strip_prefix("eval_") == Some(&wanted) || wanted.strip_prefix("train_") == Some(&name);
        if unprefixed { 1 } else { edits(&wanted, &name) }
    };
    let near =
        known.into_iter().map(|name| (distance(name), name)).filter(|(distance, _)| *distance <= allowed);
    near.min().map(|(_, name)| name)
}

/// Names as a list in a sentence: "min or max", "f32, bf16 or f16".
pub(crate) fn one_of(names: &[&str]) -> String {
    match names {
        [names @ .., last] if !names.is_empty() => names.join(", ") + " or " + last,
        _ => names.concat(),
    }
}

/// Names with their separators and case levelled: `eval/Loss` is `eval_loss`.
fn plain(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' })
        .collect()
}

/// How many letters must be inserted, deleted or replaced to make `a` into `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            next.push((row[j] + usize::from(letter != *other)).min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["eval_accuracy", "eval_loss", "loss", "rewards/margins"];
        for (wanted, found) in [
            ("eval_los", Some("eval_loss")),
            ("eval/loss", Some("eval_loss")),
            ("accuracy", Some("eval_accuracy")),
            ("train_loss", Some("loss")),
            ("reward/margin", Some("rewards/margins")),
            ("bleu", None),
            ("", None),
        ] {
            assert_eq!(closest(wanted, known), found, "{wanted}");
        }
    }

    #[test]
    fn lists_names() {
        assert_eq!(one_of(&["a", "b", "c"]), "a, b or c");
        assert_eq!(one_of(&["a", "b"]), "a or b");
        assert_eq!(one_of(&["a"]), "a");
    }

    #[test]
    fn counts_edits() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
