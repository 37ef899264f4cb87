//! Find names among many: sorted, each with its place in the list that it came from.

use alloc::vec::Vec;
use core::cmp::Ordering;

/// The order of two names, as `cmp` has it: eight bytes at a time, for those of tensors begin alike for long, and a
/// WebAssembly module that is built for size compares byte by byte.
pub(crate) fn order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let (words, others) = (a.as_chunks::<8>().0, b.as_chunks().0);
    for (word, other) in words.iter().zip(others) {
        if u64::from_ne_bytes(*word) != u64::from_ne_bytes(*other) {
            return u64::from_be_bytes(*word).cmp(&u64::from_be_bytes(*other));
        }
    }
    let same = 8 * words.len().min(others.len());
    a[same..].cmp(&b[same..])
}

/// The names of a list, to find their places. One type serves all lists: each kind of map would be compiled again, and is
/// 5 kB of WebAssembly.
///
/// ```
/// let index = mwa::Index::new(["loss", "reward", "loss"].into_iter());
/// assert_eq!((index.place("reward"), index.place("kl")), (Some(1), None));
/// assert_eq!((index.is_first("loss", 0), index.is_first("loss", 2)), (true, false));
/// ```
#[derive(Clone, Debug)]
pub struct Index<'a>(Vec<(&'a str, usize)>);

impl<'a> Index<'a> {
    /// All names of a list.
    pub fn new(names: impl Iterator<Item = &'a str>) -> Self {
        let mut all: Vec<_> = names.zip(0..).collect();
        all.sort_unstable_by(|a, b| order(a.0, b.0).then(a.1.cmp(&b.1)));
        Self(all)
    }

    /// The place of a name; the first of several.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        let at = self.0.partition_point(|(other, _)| order(other, name).is_lt());
        self.0.get(at).filter(|(other, _)| order(other, name).is_eq()).map(|(_, place)| *place)
    }

    /// Whether the name is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// Whether the name does not occur before this place.
    #[must_use]
    pub fn is_first(&self, name: &str, place: usize) -> bool {
        self.place(name) == Some(place)
    }

    /// All, sorted by name, then by place.
    #[must_use]
    pub fn sorted(&self) -> &[(&'a str, usize)] {
        &self.0
    }

    /// The first place whose name occurs at an earlier one too.
    #[must_use]
    pub fn repeated(&self) -> Option<usize> {
        self.0.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_order_of_their_bytes() {
        let long = "base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight";
        let mut names: Vec<_> = (0..long.len()).map(|end| &long[..end]).collect();
        names.extend([
            "base_model.model.model.layers.2.",
            "base_mode\u{e9}",
            "\u{10ffff}",
            "baze",
            "Base_model.",
        ]);
        for a in &names {
            for b in &names {
                assert_eq!(order(a, b), a.cmp(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn finds_the_first_of_several() {
        let index = Index::new(["b", "a", "c", "a", "b"].into_iter());
        assert_eq!(index.sorted(), [("a", 1), ("a", 3), ("b", 0), ("b", 4), ("c", 2)]);
        assert_eq!((index.place("a"), index.place("b"), index.place("bb")), (Some(1), Some(0), None));
        assert_eq!(index.repeated(), Some(3));
        assert_eq!(Index::new(["b", "a"].into_iter()).repeated(), None);
    }
}
