//! Bytes that decide what is done next.

/// Zeros stand at its end.
pub(crate) struct Tape<'a>(pub(crate) &'a [u8]);

impl<'a> Tape<'a> {
    pub(crate) fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn choose(&mut self, count: usize) -> usize {
        usize::from(self.next()) % count.max(1)
    }

    /// So many of the next bytes as the next one says.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let length = usize::from(self.next()).min(self.0.len());
        let (now, rest) = self.0.split_at(length);
        self.0 = rest;
        now
    }
}
