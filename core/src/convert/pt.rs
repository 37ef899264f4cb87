//! A file that `torch.load(weights_only=True)` reads: a zip of stored members, a pickle that names the tensors first.
//!
//! The layout is that of `torch.save()`: `data.pkl`, `byteorder`, `data/0` and so on, each at a multiple of 64 bytes, `version`;
//! the pickle is that of a toolkit's own file with other tensors, or an `OrderedDict` of `_rebuild_tensor_v2` alone.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use super::matrix::{Made, Matrix};
use super::names::natural;
use super::{Output, Written};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::last;
use crate::format::safetensors::Header;
use crate::format::torch::frame::{Frame, Slot, What};
use crate::format::torch::write::{ORDERED, storage, text, whole};
use crate::logs::crc32;
use crate::text::index::Index;

/// Where tensors begin.
const ALIGNMENT: u64 = 64;

/// A file in the zip.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    /// Where its local header begins.
    header: u64,
    /// Where its bytes begin.
    start: u64,
    len: u64,
    crc: u32,
    /// The tensor that it is, whose checksum comes last.
    tensor: Option<usize>,
}

/// What is written when all numbers are known: their checksums.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    members: Vec<Member>,
    /// Where the directory begins.
    at: u64,
}

/// A file of all tensors of some of the files in `frame`, which has the number of its own file; without one, `key` is what they lie
/// under, a `.` for a dictionary in a dictionary.
pub(super) fn write(
    files: &[(String, Header)],
    taken: Range<usize>,
    name: &str,
    key: Option<&str>,
    frame: Option<(usize, &Frame)>,
    dtype: Option<Float>,
) -> Result<Written> {
    let mut tensors = Vec::new();
    for file in taken {
        let header = &files[file].1;
        for tensor in header.tensors() {
            let own = header.own_name(&tensor.name).to_owned();
            let made = Made::new(own, tensor.shape.clone(), Matrix::of(file, tensor)).to(dtype);
            if storage(made.dtype).is_none() {
                let detail = format!("is {}, for which torch has no storage of its own", made.dtype);
                return Err(Error::new(ErrorKind::Dtype, detail)
                    .tensor(&tensor.name)
                    .help("write safetensors, or another --dtype"));
            }
            tensors.push(made);
        }
    }
    tensors.sort_by(|a, b| natural(&a.name).cmp(natural(&b.name)));
    let weights = tensors.len();
    if let Some((file, frame)) = frame {
        for number in 0..frame.kept.tensors().len() {
            let own = number.to_string();
            let kept = frame.kept.tensors().iter().find(|it| it.name == own).expect("they are numbered");
            tensors.push(Made::new(kept.name.clone(), kept.shape.clone(), Matrix::of(file, kept)));
        }
    }
    let members = alloc::vec![None; tensors.len()];
    let mut pickled = Pickled { bytes: Vec::new(), made: &tensors, members, order: Vec::new() };
    match frame {
        Some((_, frame)) => pickled.framed(frame, weights),
        None => pickled.plain(key),
    }
    let Pickled { bytes: pickle, order, .. } = pickled;
    let mut tensors: Vec<_> = tensors.into_iter().map(Some).collect();
    let tensors = order.iter().filter_map(|place| tensors[*place].take()).collect::<Vec<_>>();
    let stem = last(name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    let mut head = Vec::new();
    let mut members = Vec::new();
    for (member, bytes) in [("data.pkl", pickle.as_slice()), ("byteorder", b"little")] {
        let placed = local(&mut head, 0, format!("{stem}/{member}"), bytes.len() as u64, crc32([bytes]));
        head.extend_from_slice(bytes);
        members.push(placed);
    }
    let mut placed = Vec::new();
    let mut at = head.len() as u64;
    // what lies between the numbers is written with them: a tensor is a header and its bytes
    let mut between = Vec::new();
    for (number, made) in tensors.into_iter().enumerate() {
        let mut header = Vec::new();
        let member = local(&mut header, at, format!("{stem}/data/{number}"), made.len(), 0);
        let member = Member { tensor: Some(number), ..member };
        at = member.start + member.len;
        between.push((member.header, header));
        placed.push((member.start, made));
        members.push(member);
    }
    let mut last = Vec::new();
    let version = local(&mut last, at, format!("{stem}/version"), 2, crc32([&b"3\n"[..]]));
    last.extend_from_slice(b"3\n");
    between.push((at, last));
    at = version.start + version.len;
    members.push(version);
    let tail = Tail { members, at };
    let len = at + tail.len();
    let output = Output { name: name.to_owned(), head, len, tensors: placed, between, tail: Some(tail) };
    Ok((Vec::from([output]), Vec::new(), Vec::new()))
}

/// Append the local header of a member that lies at `at` and on, filled up so that its data begins aligned.
fn local(bytes: &mut Vec<u8>, at: u64, name: String, len: u64, crc: u32) -> Member {
    let header = at + bytes.len() as u64;
    let is_large = len >= LARGE;
    let fixed = 30 + name.len() as u64 + if is_large { 20 } else { 0 };
    // a filling of its own, as torch writes it: two letters, a length, and that many bytes
    let fill = (ALIGNMENT - (header + fixed + 4) % ALIGNMENT) % ALIGNMENT;
    bytes.extend_from_slice(b"PK\x03\x04");
    bytes.extend(if is_large { 45u16 } else { 20 }.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(crc.to_le_bytes());
    let short = small(len);
    bytes.extend(short.to_le_bytes());
    bytes.extend(short.to_le_bytes());
    bytes.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    let extra = fixed - 30 - name.len() as u64 + 4 + fill;
    bytes.extend(u16::try_from(extra).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    if is_large {
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(16u16.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(len.to_le_bytes());
    }
    bytes.extend_from_slice(b"FB");
    let fill = usize::try_from(fill).unwrap_or(0);
    bytes.extend(u16::try_from(fill).unwrap_or(0).to_le_bytes());
    bytes.extend(core::iter::repeat_n(b'Z', fill));
    Member { name, header, start: at + bytes.len() as u64, len, crc, tensor: None }
}

/// What does not fit into four bytes stands in a record of its own.
const LARGE: u64 = 0xffff_ffff;

fn small(number: u64) -> u32 {
    u32::try_from(number.min(LARGE)).unwrap_or(u32::MAX)
}

impl Tail {
    fn len(&self) -> u64 {
        let numbers = alloc::vec![0; self.members.len()];
        self.bytes(&numbers).iter().map(|(_, bytes)| bytes.len() as u64).max().unwrap_or(0)
    }

    /// The directory, and the checksums in the headers, with their places; `crcs` has one for each tensor.
    pub(super) fn bytes(&self, crcs: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let mut patches = Vec::new();
        let mut directory = Vec::new();
        for Member { name, header, len, crc, tensor, .. } in &self.members {
            let mut crc = *crc;
            if let Some(tensor) = tensor {
                crc = crcs.get(*tensor).copied().unwrap_or(0);
                patches.push((header + 14, crc.to_le_bytes().to_vec()));
            }
            let mut extra = Vec::new();
            if *len >= LARGE {
                extra.extend(len.to_le_bytes());
                extra.extend(len.to_le_bytes());
            }
            if *header >= LARGE {
                extra.extend(header.to_le_bytes());
            }
            directory.extend_from_slice(b"PK\x01\x02");
            directory.extend(45u16.to_le_bytes());
            directory.extend(if extra.is_empty() { 20u16 } else { 45 }.to_le_bytes());
            directory.extend([0; 8]);
            directory.extend(crc.to_le_bytes());
            directory.extend(small(*len).to_le_bytes());
            directory.extend(small(*len).to_le_bytes());
            directory.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            let extra_len = if extra.is_empty() { 0 } else { extra.len() + 4 };
            directory.extend(u16::try_from(extra_len).unwrap_or(0).to_le_bytes());
            directory.extend([0; 10]);
            directory.extend(small(*header).to_le_bytes());
            directory.extend_from_slice(name.as_bytes());
            if !extra.is_empty() {
                directory.extend(1u16.to_le_bytes());
                directory.extend(u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
                directory.extend(extra);
            }
        }
        let (count, size) = (self.members.len() as u64, directory.len() as u64);
        let end = self.at + size;
        directory.extend_from_slice(b"PK\x06\x06");
        directory.extend(44u64.to_le_bytes());
        directory.extend(45u16.to_le_bytes());
        directory.extend(45u16.to_le_bytes());
        directory.extend([0; 8]);
        for number in [count, count, size, self.at] {
            directory.extend(number.to_le_bytes());
        }
        directory.extend_from_slice(b"PK\x06\x07");
        directory.extend(0u32.to_le_bytes());
        directory.extend(end.to_le_bytes());
        directory.extend(1u32.to_le_bytes());
        directory.extend_from_slice(b"PK\x05\x06");
        directory.extend([0; 4]);
        let short = u16::try_from(count).unwrap_or(u16::MAX);
        directory.extend(short.to_le_bytes());
        directory.extend(short.to_le_bytes());
        directory.extend(small(size).to_le_bytes());
        directory.extend(small(self.at).to_le_bytes());
        directory.extend([0; 2]);
        patches.push((self.at, directory));
        patches
    }
}

/// The pickle of the tensors, and the order in which their numbers are stored.
struct Pickled<'a> {
    bytes: Vec<u8>,
    made: &'a [Made],
    /// Which member each is, once it has a place.
    members: Vec<Option<usize>>,
    order: Vec<usize>,
}

impl Pickled<'_> {
    fn tensor(&mut self, place: usize) {
        let order = &mut self.order;
        let number = *self.members[place].get_or_insert_with(|| {
            order.push(place);
            order.len() - 1
        });
        let made = &self.made[place];
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(bytes, "storage");
        bytes.extend_from_slice(format!("ctorch\n{}\n", storage(made.dtype).unwrap_or_default()).as_bytes());
        text(bytes, &number.to_string());
        text(bytes, "cpu");
        whole(bytes, signed(made.shape.iter().product()));
        bytes.extend_from_slice(b"tQ");
        whole(bytes, 0);
        bytes.push(b'(');
        made.shape.iter().for_each(|dim| whole(bytes, signed(*dim)));
        bytes.extend_from_slice(b"t(");
        for place in 0..made.shape.len() {
            whole(bytes, signed(made.shape[place + 1..].iter().product()));
        }
        bytes.extend_from_slice(b"t\x89");
        bytes.extend_from_slice(ORDERED);
        bytes.extend_from_slice(b"tR");
    }

    /// An entry of the dictionary that is being filled.
    fn entry(&mut self, place: usize) {
        text(&mut self.bytes, &self.made[place].name);
        self.tensor(place);
        self.bytes.push(b's');
    }

    /// All tensors in a dictionary of their own, under a key or none.
    fn plain(&mut self, key: Option<&str>) {
        self.bytes.extend_from_slice(b"\x80\x02");
        let keys: Vec<_> = key.into_iter().flat_map(|key| key.split('.')).collect();
        for key in &keys {
            self.bytes.push(b'}');
            text(&mut self.bytes, key);
        }
        self.bytes.extend_from_slice(ORDERED);
        (0..self.made.len()).for_each(|place| self.entry(place));
        self.bytes.extend(core::iter::repeat_n(b's', keys.len()));
        self.bytes.push(b'.');
    }

    /// The weights, which are the first so many, in a frame.
    fn framed(&mut self, frame: &Frame, weights: usize) {
        let made = self.made;
        let index = Index::new(made[..weights].iter().map(|made| made.name.as_str()));
        let places = frame.slots.iter().filter_map(|slot| match &slot.what {
            What::Weight(name) => index.place(name),
            _ => None,
        });
        let mut has_place = alloc::vec![false; weights];
        places.for_each(|place| has_place[place] = true);
        let mut at = 0;
        for Slot { from, to, what } in &frame.slots {
            self.bytes.extend_from_slice(&frame.bytes[at..*from]);
            at = *to;
            match what {
                What::Weight(name) => {
                    if let Some(place) = index.place(name) {
                        self.bytes.extend_from_slice(&frame.bytes[*from..*to]);
                        self.tensor(place);
                        self.bytes.push(b's');
                    }
                }
                What::More => {
                    (0..weights).filter(|place| !has_place[*place]).for_each(|place| self.entry(place));
                }
                What::Kept(number) => self.tensor(weights + number),
            }
        }
        self.bytes.extend_from_slice(&frame.bytes[at..]);
    }
}
