//! Find names among many: sorted, each with its place in the list that it came from.

use alloc::vec::Vec;

/// The names of a list. One type serves all lists: each map of its own would be compiled again.
#[derive(Clone, Debug)]
pub(crate) struct Index<'a>(Vec<(&'a str, usize)>);

impl<'a> Index<'a> {
    pub(crate) fn new(names: impl Iterator<Item = &'a str>) -> Self {
        let mut all: Vec<_> = names.zip(0..).collect();
        all.sort_unstable();
        Self(all)
    }

    /// The place of a name; the first of several.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        let at = self.0.partition_point(|(other, _)| *other < name);
        self.0.get(at).filter(|(other, _)| *other == name).map(|(_, place)| *place)
    }

    /// Whether the name is among them.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// All, sorted by name, then by place.
    pub(crate) fn sorted(&self) -> &[(&'a str, usize)] {
        &self.0
    }

    /// The first place whose name occurs at an earlier one too.
    pub(crate) fn repeated(&self) -> Option<usize> {
        self.0.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_of_several() {
        let index = Index::new(["b", "a", "c", "a", "b"].into_iter());
        assert_eq!(index.sorted(), [("a", 1), ("a", 3), ("b", 0), ("b", 4), ("c", 2)]);
        assert_eq!((index.place("a"), index.place("b"), index.place("bb")), (Some(1), Some(0), None));
        assert_eq!(index.repeated(), Some(3));
        assert_eq!(Index::new(["b", "a"].into_iter()).repeated(), None);
    }
}
