//! Hash files whose bytes pass through several threads: pieces queue up in file order, and nobody waits for a turn.

pub(crate) mod sha256;
#[cfg(target_arch = "x86_64")]
pub(crate) mod sha_ni;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;

use mwa::Result;

use crate::io::disk::{io_error, open_regular, read_some_at};
use crate::io::hash::sha256::Sha256;
use crate::progress::{Progress, stopped};

/// Bytes of a file; whoever owns them gets them back when the piece is dropped.
pub(crate) type Piece = Box<dyn AsRef<[u8]> + Send>;

/// Hashes of files, each of which takes pieces in file order. Kept under a lock, which no thread holds while it hashes.
#[derive(Default)]
pub(crate) struct Hashes {
    files: Vec<Queue>,
    /// The files whose next piece is there while nobody works on them.
    ready: VecDeque<usize>,
    is_closed: bool,
}

struct Queue {
    /// `None` while a thread works on it.
    hash: Option<Sha256>,
    /// By where they begin in the file.
    waiting: BTreeMap<u64, Piece>,
}

/// A hash and the piece at its turn, for one thread to work on.
pub(crate) struct Claim {
    file: usize,
    hash: Sha256,
    piece: Piece,
}

/// A hash that took its piece.
pub(crate) struct Worked {
    file: usize,
    hash: Sha256,
}

impl Hashes {
    /// The number of a new hash, which has taken `head` already.
    pub(crate) fn add(&mut self, head: &[u8]) -> usize {
        let mut hash = Sha256::new();
        hash.update(head);
        self.files.push(Queue { hash: Some(hash), waiting: BTreeMap::new() });
        self.files.len() - 1
    }

    /// Queue the piece that begins at byte `start` of a file; or give it back, to be dropped without the lock.
    pub(crate) fn put(&mut self, file: usize, start: u64, piece: Piece) -> Option<Piece> {
        if self.is_closed {
            return Some(piece);
        }
        let queue = &mut self.files[file];
        if queue.hash.as_ref().is_some_and(|hash| hash.len() == start) {
            self.ready.push_back(file);
        }
        queue.waiting.insert(start, piece)
    }

    /// Work for one thread, if there is any: of one file, or of up to two `at_once`, which cost a thread less than one
    /// after the other and leave less to other threads.
    pub(crate) fn claim(&mut self, at_once: usize) -> Vec<Claim> {
        let claim = |file: usize| {
            let queue = &mut self.files[file];
            let hash = queue.hash.take().expect("nobody works on a ready file");
            let piece = queue.waiting.remove(&hash.len()).expect("a ready file has its next piece");
            Claim { file, hash, piece }
        };
        self.ready.drain(..at_once.min(self.ready.len())).map(claim).collect()
    }

    /// Take back what was worked on.
    pub(crate) fn give_back(&mut self, worked: Vec<Worked>) {
        for Worked { file, hash } in worked {
            let queue = &mut self.files[file];
            if queue.waiting.contains_key(&hash.len()) {
                self.ready.push_back(file);
            }
            queue.hash = Some(hash);
        }
    }

    /// Take no more pieces, and give back those that wait, to be dropped without the lock: their owners may want it.
    pub(crate) fn close(&mut self) -> Vec<Piece> {
        self.is_closed = true;
        self.ready.clear();
        self.files.iter_mut().flat_map(|queue| core::mem::take(&mut queue.waiting).into_values()).collect()
    }

    /// The digest of a file in hex.
    ///
    /// # Panics
    /// If a thread works on it.
    pub(crate) fn finish(&mut self, file: usize) -> String {
        self.files[file].hash.take().expect("all threads have come to their end").finish()
    }
}

impl Claim {
    /// Hash the pieces of one claim or two, and let go of them.
    pub(crate) fn work(mut claims: Vec<Self>) -> Vec<Worked> {
        match claims.as_mut_slice() {
            [a, b] => Sha256::update_two(&mut a.hash, (*a.piece).as_ref(), &mut b.hash, (*b.piece).as_ref()),
            more => more.iter_mut().for_each(|claim| claim.hash.update((*claim.piece).as_ref())),
        }
        claims.into_iter().map(|Self { file, hash, .. }| Worked { file, hash }).collect()
    }
}

/// SHA-256 of a whole file, in hex.
pub(crate) fn hash_file(path: &Path, progress: &dyn Progress) -> Result<String> {
    let failed = |error: io::Error| io_error("cannot read it", &error).file(path.display().to_string());
    hash_of(&open_regular(path)?, progress).map_err(failed)?.ok_or_else(stopped)
}

/// The same of an open file, from its beginning, wherever others who share it are; `None` when the caller wants to stop.
pub(crate) fn hash_of(file: &File, progress: &dyn Progress) -> io::Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while !progress.stopped() {
        match read_some_at(file, &mut buffer, at) {
            Ok(0) => return Ok(Some(hash.finish())),
            Ok(count) => {
                hash.update(&buffer[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_give_the_hashes_of_the_files() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 31 % 251) as u8).collect();
        let mut whole = Sha256::new();
        whole.update(&bytes);
        let expected = whole.finish();
        for at_once in [1, 2] {
            let mut hashes = Hashes::default();
            let files: Vec<_> = (0..3).map(|_| hashes.add(&bytes[..100])).collect();
            assert!(hashes.claim(at_once).is_empty(), "nothing is there yet");
            for start in [700, 100, 400] {
                for &file in &files {
                    hashes.put(file, start as u64, Box::new(bytes[start..start + 300].to_vec()));
                }
                // only the second brings the first bytes, and then work goes on to what came before
                let claims = hashes.claim(at_once);
                assert_eq!(claims.is_empty(), start == 700);
                hashes.give_back(Claim::work(claims));
            }
            loop {
                let claims = hashes.claim(at_once);
                if claims.is_empty() {
                    break;
                }
                hashes.give_back(Claim::work(claims));
            }
            assert!(files.iter().all(|&file| hashes.finish(file) == expected));
        }
    }
}
