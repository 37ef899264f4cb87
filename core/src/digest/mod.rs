//! BLAKE3 of a file whose bytes come in pieces, in any order, from any thread.
//!
//! BLAKE3 is a tree over chunks of 1 KiB (<https://github.com/BLAKE3-team/BLAKE3-specs>, section 2.1). A piece of a file is whole
//! subtrees and two ragged edges within a chunk; [`Part::of`] hashes the subtrees, which is nearly all the work and needs nothing
//! but the piece, and [`Digest::take`] puts parts together. The result is the standard hash, as `b3sum` prints it.

mod files;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{CHUNK_LEN, Hasher};

pub use files::{Digests, Parts};

const CHUNK: u64 = CHUNK_LEN as u64;

/// The hash of a file so far.
#[derive(Clone, Debug)]
pub struct Digest {
    len: u64,
    /// What is known, by where it begins; nothing overlaps.
    nodes: BTreeMap<u64, Node>,
}

/// What a piece adds to the hash of its file: plain data, much smaller than the piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part(Vec<(u64, Node)>);

/// A range of a file, hashed as far as it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    /// A subtree: where it ends, and its chaining value.
    Subtree(u64, ChainingValue),
    /// Bytes within a chunk.
    Edge(Vec<u8>),
}

impl Node {
    fn end(&self, start: u64) -> u64 {
        match self {
            Self::Subtree(end, _) => *end,
            Self::Edge(bytes) => start + bytes.len() as u64,
        }
    }
}

impl Part {
    /// The part of the piece that begins at byte `start` of a file of `len` bytes.
    ///
    /// # Panics
    /// If the piece reaches beyond the end of the file.
    #[must_use]
    pub fn of(len: u64, start: u64, bytes: &[u8]) -> Self {
        let end = start + bytes.len() as u64;
        assert!(end <= len, "a piece lies within its file");
        let mut nodes = Vec::new();
        let mut at = start;
        while at < end {
            let (stop, is_subtree) = match subtree(len, at, end) {
                Some(stop) => (stop, true),
                None => (end.min((at / CHUNK + 1) * CHUNK), false),
            };
            let piece = &bytes[offset(at - start)..offset(stop - start)];
            let node = if is_subtree { hashed(at, piece) } else { Node::Edge(piece.to_vec()) };
            nodes.push((at, node));
            at = stop;
        }
        Self(nodes)
    }

    /// As bytes, for a border to another language; [`Self::decode`] is the inverse.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (start, node) in &self.0 {
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&node.end(*start).to_le_bytes());
            match node {
                Node::Subtree(_, value) => bytes.extend_from_slice(value),
                Node::Edge(edge) => bytes.extend_from_slice(edge),
            }
        }
        bytes
    }

    /// `None` for what [`Self::encode`] did not make of a file of that length.
    #[must_use]
    pub fn decode(len: u64, mut bytes: &[u8]) -> Option<Self> {
        let mut nodes = Vec::new();
        while !bytes.is_empty() {
            let (start, rest) = bytes.split_first_chunk()?;
            let (end, rest) = rest.split_first_chunk()?;
            let (start, end) = (u64::from_le_bytes(*start), u64::from_le_bytes(*end));
            if start >= end || end > len {
                return None;
            }
            let node = if subtree(len, start, end) == Some(end) {
                let (value, rest) = rest.split_first_chunk()?;
                bytes = rest;
                Node::Subtree(end, *value)
            } else {
                let (edge, rest) = rest
                    .split_at_checked(usize::try_from(end - start).ok()?)
                    .filter(|_| end - start <= CHUNK)?;
                bytes = rest;
                Node::Edge(edge.to_vec())
            };
            nodes.push((start, node));
        }
        Some(Self(nodes))
    }
}

impl Digest {
    /// Of a file of `len` bytes, none of which is known.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len, nodes: BTreeMap::new() }
    }

    /// The length of the file, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Take in a part of this file; what is known already is left as it is.
    pub fn take(&mut self, part: Part) {
        for (start, node) in part.0 {
            let before = self.nodes.range(..node.end(start)).next_back();
            if before.is_none_or(|(at, before)| before.end(*at) <= start) {
                self.insert(start, node);
            }
        }
    }

    /// All that is known, for another process.
    #[must_use]
    pub fn part(&self) -> Part {
        Part(self.nodes.iter().map(|(start, node)| (*start, node.clone())).collect())
    }

    /// Take in a piece.
    pub fn update(&mut self, start: u64, bytes: &[u8]) {
        self.take(Part::of(self.len, start, bytes));
    }

    fn insert(&mut self, start: u64, node: Node) {
        match node {
            Node::Edge(edge) => self.edge(start, edge),
            Node::Subtree(end, value) => self.subtree(start, end, value),
        }
    }

    /// Join an edge with those beside it; hash the chunk when it is whole.
    fn edge(&mut self, mut start: u64, mut edge: Vec<u8>) {
        let chunk = start / CHUNK * CHUNK;
        if let Some((&at, Node::Edge(before))) = self.nodes.range_mut(chunk..start).next_back()
            && at + before.len() as u64 == start
        {
            before.append(&mut edge);
            edge = core::mem::take(before);
            start = at;
            self.nodes.remove(&at);
        }
        let end = start + edge.len() as u64;
        if end < chunk + CHUNK
            && let Some(Node::Edge(after)) = self.nodes.get_mut(&end)
        {
            edge.append(after);
            self.nodes.remove(&end);
        }
        let end = start + edge.len() as u64;
        match subtree(self.len, start, end) {
            Some(_) => {
                let Node::Subtree(end, value) = hashed(start, &edge) else { unreachable!("it hashes") };
                self.subtree(start, end, value);
            }
            None => drop(self.nodes.insert(start, Node::Edge(edge))),
        }
    }

    /// Join a subtree with its sibling if that is there, and so on upwards, short of the root.
    fn subtree(&mut self, mut start: u64, mut end: u64, mut value: ChainingValue) {
        loop {
            let size = end - start;
            let sibling = start ^ size;
            let is_full = size.is_power_of_two() && start.is_multiple_of(size);
            let (first, last) = (start.min(sibling), start.max(sibling) + size);
            if !is_full || last > self.len || (first == 0 && last == self.len) {
                break;
            }
            let Some(Node::Subtree(stop, other)) = self.nodes.get(&sibling) else { break };
            if *stop != sibling + size {
                break;
            }
            let (left, right) = if sibling < start { (other, &value) } else { (&value, other) };
            value = merge_subtrees_non_root(left, right, Mode::Hash);
            self.nodes.remove(&sibling);
            (start, end) = (first, last);
        }
        self.nodes.insert(start, Node::Subtree(end, value));
    }

    /// Whether all bytes of a range are known.
    #[must_use]
    pub fn knows(&self, range: Range<u64>) -> bool {
        let first = self.nodes.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let mut at = range.start;
        for (&start, node) in self.nodes.range(first..range.end.max(first)) {
            if start > at {
                break;
            }
            at = at.max(node.end(start));
        }
        at >= range.end
    }

    /// The ranges that are not known yet, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = 0;
        for (&start, node) in &self.nodes {
            missing.push(at..start);
            at = node.end(start);
        }
        missing.push(at..self.len);
        missing.retain(|range| !range.is_empty());
        missing
    }

    /// The hash in hex; `None` while something is missing.
    #[must_use]
    pub fn finish(&self) -> Option<String> {
        if self.len <= CHUNK {
            return match self.nodes.get(&0) {
                Some(Node::Edge(bytes)) if bytes.len() as u64 == self.len => Some(hash(bytes)),
                None if self.len == 0 => Some(hash(&[])),
                _ => None,
            };
        }
        let middle = left_subtree_len(self.len);
        let (left, right) = (self.value(0, middle)?, self.value(middle, self.len)?);
        Some(merge_subtrees_root(&left, &right, Mode::Hash).to_string())
    }

    /// The chaining value of a subtree.
    fn value(&self, start: u64, end: u64) -> Option<ChainingValue> {
        match self.nodes.get(&start)? {
            Node::Subtree(stop, value) if *stop == end => Some(*value),
            // a single chunk has no children
            _ if end - start <= CHUNK => None,
            _ => {
                let middle = start + left_subtree_len(end - start);
                let (left, right) = (self.value(start, middle)?, self.value(middle, end)?);
                Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
            }
        }
    }
}

/// BLAKE3 in hex of bytes that are all there.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// Where the largest subtree ends that begins at `at` and does not reach beyond `end`; `None` where none does, and for the
/// root of a file of one chunk.
fn subtree(len: u64, at: u64, end: u64) -> Option<u64> {
    let size = end - at;
    if !at.is_multiple_of(CHUNK) || size == 0 || len <= CHUNK || (size < CHUNK && end != len) {
        return None;
    }
    if at == 0 && end == len {
        return Some(left_subtree_len(len)); // the root is not to be hashed as a subtree
    }
    // a subtree is as long as where it begins is a multiple of, but that the last ones of a file are cut off
    let most = if at == 0 { u64::MAX } else { 1 << at.trailing_zeros() };
    if end == len && size <= most { Some(end) } else { Some(at + most.min(1 << size.ilog2())) }
}

fn hashed(start: u64, bytes: &[u8]) -> Node {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(start);
    hasher.update(bytes);
    Node::Subtree(start + bytes.len() as u64, hasher.finalize_non_root())
}

fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it lies within a piece")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> Vec<u8> {
        (0..251).cycle().step_by(31).take(len).collect()
    }

    /// Numbers that look random, the same every time.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn pieces_cut_anywhere_in_any_order_give_the_standard_hash() {
        let mut state = 7;
        for len in (0..2000).chain((2000..70_000).step_by(1013)).chain([1 << 17, (1 << 17) + 1, 300_000]) {
            let bytes = file(len);
            let most = [3, 700, 1024, 5000, 100_000][usize::try_from(next(&mut state) % 5).unwrap()];
            let mut cuts = Vec::new();
            let mut at = 0;
            while at < len {
                let stop = len.min(at + 1 + usize::try_from(next(&mut state)).unwrap() % most);
                cuts.push(at..stop);
                at = stop;
            }
            for i in (1..cuts.len()).rev() {
                cuts.swap(i, usize::try_from(next(&mut state)).unwrap() % (i + 1));
            }
            let mut digest = Digest::new(len as u64);
            for cut in cuts {
                assert_eq!(digest.finish(), None);
                let part = Part::of(len as u64, cut.start as u64, &bytes[cut]);
                assert_eq!(Part::decode(len as u64, &part.encode()), Some(part.clone()));
                digest.take(part);
            }
            assert_eq!(digest.finish(), Some(hash(&bytes)), "{len} bytes in pieces of up to {most}");
            assert!(digest.missing().is_empty());
        }
    }

    #[test]
    fn what_is_known_twice_counts_once_and_what_is_missing_is_told() {
        let bytes = file(10_000);
        let mut digest = Digest::new(10_000);
        digest.update(2000, &bytes[2000..5000]);
        digest.update(1500, &bytes[1500..6000]);
        digest.update(2100, &bytes[2100..2200]);
        let missing = digest.missing();
        assert!(digest.knows(2000..5000) && !digest.knows(1500..1501) && !digest.knows(4000..6001));
        assert!(
            missing.first() == Some(&(0..2000)) && missing.last() == Some(&(6000..10_000)),
            "{missing:?}"
        );
        for range in missing {
            digest.update(range.start, &bytes[offset(range.start)..offset(range.end)]);
        }
        assert_eq!((digest.missing(), digest.finish()), (Vec::new(), Some(hash(&bytes))));
    }

    #[test]
    fn a_long_file_in_order_takes_little_room() {
        let bytes = file(1 << 20);
        let mut digest = Digest::new(1 << 20);
        for (i, piece) in bytes.chunks(1000).enumerate() {
            digest.update(i as u64 * 1000, piece);
            assert!(digest.nodes.len() <= 12);
        }
        assert_eq!(digest.finish(), Some(hash(&bytes)));
    }

    #[test]
    fn parts_that_were_not_encoded_are_refused() {
        let part = Part::of(5000, 100, &file(3000)).encode();
        assert!(Part::decode(5000, &part[..part.len() - 1]).is_none());
        assert!(Part::decode(2000, &part).is_none(), "beyond the end of the file");
        assert!(Part::decode(5000, &[0; 16]).is_none(), "an empty range");
    }
}
