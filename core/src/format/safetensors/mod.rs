//! The safetensors format: bytes of a file's head to a checked [`Header`], and back.
//!
//! A file is an 8-byte little-endian length n, n bytes of JSON, then the data that the JSON's offsets tile exactly.
//! Dtypes come from the `safetensors` crate. Its own reader holds offsets as `usize` (which ends at 4 GiB on wasm32),
//! wants the whole file in memory and accepts duplicate names; its writer orders metadata at random. So heads are
//! read and written here, with 64-bit offsets, and the tests hold the result against that crate.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use serde_json::{Map, Value};

use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe};
use crate::format::view::View;
use crate::format::{Catalog, Format, START};
use crate::text::index::Index;
use crate::text::json::quoted;

pub use text_map::TextMap;

mod text_map;

/// Files in this format. It claims every file, so it comes last: it says what a file is that is none.
#[derive(Clone, Copy, Debug)]
pub struct Safetensors;

impl Format for Safetensors {
    fn claims(&self, _: &str, _: &[u8]) -> bool {
        true
    }

    fn open(&self, files: &dyn Files, path: &str, size: u64, _: Option<&str>) -> Maybe<Catalog> {
        let head = Header::size(&files.read(path, 0..START)?, size)?;
        let header = Header::parse(&files.read(path, 0..head.max(START))?, size)?;
        // kohya's scripts write it
        let step = header.metadata().get("ss_steps").and_then(|step| step.parse().ok());
        Ok(Catalog { header, step, key: None, told: Vec::new(), notes: Vec::new() })
    }
}

/// Longest header that is read, in bytes. The format's own reader stops here too.
pub const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name, any UTF-8.
    pub name: String,
    /// The type of each element.
    pub dtype: Dtype,
    /// The shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where the bytes lie in the file, counted from its first byte.
    pub range: Range<u64>,
}

impl Tensor {
    /// Bytes of data.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether the tensor holds no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// The tensors of a file and where they lie: the head of a safetensors file, or what another format says.
///
/// Invariant: tensors are sorted by offset and have distinct names; each range is exactly what dtype and shape need. Those of a
/// safetensors file tile the data section without hole or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Shared, for a run keeps the head of a file in several places, and it may have a million tensors.
    tensors: Arc<[Tensor]>,
    metadata: TextMap,
    data_start: u64,
    /// The length of the file, where it is not safetensors.
    other: Option<u64>,
    /// Invariant: sorted by range; all lie beyond the end of the file. Shared as the tensors are.
    views: Arc<[View]>,
    /// For a file beside the weights: the folder in which it lies, as its tensors' names begin here, not in the file.
    beside: Option<String>,
}

impl Header {
    /// How many bytes of the file [`Header::parse`] needs: 8 plus the JSON's length.
    ///
    /// `start` is the beginning of the file (8 bytes, more lets it recognise what else the file may be); `file_len` its
    /// whole length in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Header`] when the file is empty, cut short, or not safetensors at all; says what it is if known.
    pub fn size(start: &[u8], file_len: u64) -> Result<u64> {
        if let Some((what, help)) = other_format(start) {
            return Err(bad(format!("is {what}, not a safetensors file")).help(help));
        }
        let Some(length) = start.first_chunk() else {
            let what =
                if file_len == 0 { "is empty".into() } else { format!("is only {file_len} bytes long") };
            return Err(bad(format!("{what}; a safetensors file has at least 8"))
                .help("copy or download the file again"));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER && is_text(start) {
            return Err(bad("is a text file, not a safetensors file").help("give a file with weights"));
        }
        if length > MAX_HEADER {
            return Err(bad(format!(
                "is not a safetensors file, or its start is damaged: it declares a header of {length} bytes, and the limit is \
                 {MAX_HEADER}"
            ))
            .help("give a file with weights, or copy or download this one again"));
        }
        if length + 8 > file_len {
            return Err(bad(format!(
                "declares a header of {length} bytes, but the file is {file_len} bytes long"
            ))
            .help("the file is cut short: copy or download it again"));
        }
        Ok(length + 8)
    }

    /// Parse and check the head of a file.
    ///
    /// `bytes` holds at least the first [`Header::size`] bytes; `file_len` is the length of the whole file.
    ///
    /// # Errors
    /// [`ErrorKind::Header`], naming the tensor, for anything that the format forbids, duplicate names included.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self> {
        let data_start = Self::size(bytes, file_len)?;
        let json = usize::try_from(data_start).ok().and_then(|end| bytes.get(8..end));
        let json = json.ok_or_else(|| bad("was not read up to the end of its header"))?;
        let json = str::from_utf8(json).map_err(|error| {
            bad(format!("has a damaged header: {error}")).help("copy or download the file again")
        })?;
        let entries: Entries = serde_json::from_str(json).map_err(|error| {
            bad(format!("has a damaged header: {error}")).help("copy or download the file again")
        })?;
        let mut tensors = Vec::with_capacity(entries.tensors.len());
        for (name, entry) in entries.tensors {
            let tensor = entry.check(name, data_start)?;
            tensors.push(tensor);
        }
        // stable: empty tensors at one offset keep the file's order, so that a head is rewritten as it was
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        let mut end = data_start;
        for tensor in &tensors {
            if tensor.range.start != end {
                let what = if tensor.range.start < end {
                    "overlaps the tensor before it"
                } else {
                    "leaves a hole before it"
                };
                let (start, want) = (tensor.range.start - data_start, end - data_start);
                return Err(bad(format!("{what}: it starts at byte {start} of the data, expected {want}"))
                    .tensor(&tensor.name)
                    .help(DAMAGED));
            }
            end = tensor.range.end;
        }
        if end != file_len {
            let what = if end > file_len { "cut short" } else { "followed by extra bytes" };
            return Err(bad(format!("is {what}: its header describes {end} bytes, the file has {file_len}"))
                .help("copy or download the file again"));
        }
        Ok(Self {
            tensors: tensors.into(),
            metadata: entries.metadata,
            data_start,
            other: None,
            views: Arc::default(),
            beside: None,
        })
    }

    /// Lay out a new file: tensors sorted by dtype (widest alignment first), then name, as the format's own writer does.
    ///
    /// # Errors
    /// [`ErrorKind::Header`] when a shape overflows or a name occurs twice.
    pub fn layout(
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<u64>)>,
        metadata: TextMap,
    ) -> Result<Self> {
        Self::layout_beside(tensors, metadata, None)
    }

    /// As [`Self::layout`], for a file that may lie beside the weights.
    pub(crate) fn layout_beside(
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<u64>)>,
        metadata: TextMap,
        beside: Option<&str>,
    ) -> Result<Self> {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut end = 0u64;
        let mut laid = Vec::with_capacity(tensors.len());
        if let Some(twice) = Index::new(tensors.iter().map(|(name, ..)| name.as_str())).repeated() {
            return Err(bad("occurs twice").tensor(&tensors[twice].0));
        }
        for (name, dtype, shape) in tensors {
            let size = byte_size(dtype, &shape).and_then(|size| end.checked_add(size));
            let next = size.ok_or_else(|| bad("is larger than any file can be").tensor(&name))?;
            laid.push(Tensor { name, dtype, shape, range: end..next });
            end = next;
        }
        let beside = beside.map(String::from);
        let mut header = Self {
            tensors: laid.into(),
            metadata,
            data_start: 0,
            other: None,
            views: Arc::default(),
            beside,
        };
        header.data_start = header.to_bytes().len() as u64;
        for tensor in Arc::make_mut(&mut header.tensors) {
            tensor.range = tensor.range.start + header.data_start..tensor.range.end + header.data_start;
        }
        Ok(header)
    }

    /// A file of the same tensors in other dtypes, laid out anew.
    ///
    /// # Errors
    /// As [`Self::layout`].
    pub fn in_dtypes(&self, of: impl Fn(&Tensor) -> Dtype) -> Result<Self> {
        let tensors = self.tensors.iter().map(|it| (it.name.clone(), of(it), it.shape.clone()));
        Self::layout_beside(tensors, self.metadata.clone(), self.beside())
    }

    /// Say where tensors lie in a file of another format. The ranges of `views` are given here: with each comes its tensor,
    /// whose own range does not count.
    ///
    /// # Errors
    /// [`ErrorKind::Header`] when a name occurs twice, or a tensor is larger than any file can be.
    pub(crate) fn placed(
        mut tensors: Vec<Tensor>,
        views: Vec<(Tensor, View)>,
        metadata: TextMap,
        file_len: u64,
    ) -> Result<Self> {
        let mut end = file_len;
        let mut all = Vec::with_capacity(views.len());
        for (tensor, view) in views {
            let len = byte_size(tensor.dtype, &tensor.shape);
            // apart from each other, so that no job reads across two of them
            let start = end.checked_add(VIEW_GAP);
            let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
            let range = range.ok_or_else(|| bad("is larger than any file can be").tensor(&tensor.name))?;
            end = range.end;
            all.push(View { range: range.clone(), ..view });
            tensors.push(Tensor { range, ..tensor });
        }
        if let Some(twice) = Index::new(tensors.iter().map(|tensor| tensor.name.as_str())).repeated() {
            return Err(bad("occurs twice").tensor(&tensors[twice].name));
        }
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        let tensors = tensors.into();
        Ok(Self { tensors, metadata, data_start: 0, other: Some(file_len), views: all.into(), beside: None })
    }

    /// Some tensors that lie in a file, under names of the caller's; their ranges may be any, and are for reading only.
    ///
    /// # Errors
    /// [`ErrorKind::Header`] when a name occurs twice.
    pub fn lying(tensors: Vec<Tensor>, metadata: TextMap, file_len: u64) -> Result<Self> {
        Self::placed(tensors, Vec::new(), metadata, file_len)
    }

    /// The same for a file beside the weights, in a folder such as `2_Dense/` or in none: the folder tells its tensors from
    /// others of their name.
    pub(crate) fn into_beside(mut self, folder: &str) -> Self {
        for tensor in Arc::make_mut(&mut self.tensors) {
            tensor.name.insert_str(0, folder);
        }
        self.beside = Some(folder.into());
        self
    }

    /// The same file, of which only the tensors are looked at that get a name here.
    pub(crate) fn renamed(&self, name: impl Fn(&Tensor) -> Option<String>) -> Self {
        let named =
            self.tensors.iter().filter_map(|tensor| Some(Tensor { name: name(tensor)?, ..tensor.clone() }));
        Self { tensors: named.collect(), other: Some(self.file_len()), ..self.clone() }
    }

    /// The same file with more tensors, which lie in it in other ways; their own ranges do not count.
    ///
    /// # Errors
    /// As [`Self::placed`].
    pub(crate) fn with_views(&self, views: Vec<(Tensor, View)>) -> Result<Self> {
        let end = self.views.last().map_or(self.file_len(), |view| view.range.end);
        let made = Self::placed(self.tensors.to_vec(), views, self.metadata.clone(), end)?;
        let views = self.views.iter().chain(made.views.iter()).cloned().collect();
        Ok(Self { views, other: Some(self.file_len()), ..made })
    }

    /// The folder of a file that lies beside the weights; empty for one in the same folder.
    #[must_use]
    pub fn beside(&self) -> Option<&str> {
        self.beside.as_deref()
    }

    /// The name of a tensor in the file itself.
    pub(crate) fn own_name<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.beside().unwrap_or_default()).unwrap_or(name)
    }

    /// Whether the file is safetensors, so that its bytes can be copied as they are.
    #[must_use]
    pub fn is_safetensors(&self) -> bool {
        self.other.is_none()
    }

    /// Whether all ranges are bytes of the file, so that nobody need ask [`Self::read`].
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.views.is_empty()
    }

    /// Whether the numbers of each piece of a tensor lie in order, so that jobs read no more than they need.
    pub(crate) fn is_in_order(&self) -> bool {
        self.views.iter().flat_map(|view| &view.pieces).all(|piece| piece.steps.is_none())
    }

    /// Where the first number of a tensor lies in the file itself, and the steps between numbers that lie in no order.
    pub(crate) fn lies(&self, tensor: &Tensor) -> (u64, Option<&[u64]>) {
        let at = self.views.binary_search_by(|view| view.range.start.cmp(&tensor.range.start));
        match at.ok().map(|at| self.views[at].pieces.as_slice()) {
            Some([only]) => (only.start, only.steps.as_deref()),
            _ => (tensor.range.start, None),
        }
    }

    /// Read the bytes of a job from `start` on: `read` fills a buffer from a place on in the file, or in another of the files of
    /// the checkpoint, by its number among them.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read<E>(
        &self,
        start: u64,
        into: &mut [u8],
        mut read: impl FnMut(Option<usize>, u64, &mut [u8]) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        match self.view(start) {
            Some(view) => view.read(start, into, read),
            None => read(None, start, into),
        }
    }

    /// Put bytes where [`Self::read`] finds those from `start` on; `read` is asked for what lies between numbers that are in no order.
    ///
    /// # Errors
    /// Those of `read` and `write`.
    pub(crate) fn write<E>(
        &self,
        start: u64,
        bytes: &[u8],
        read: impl FnMut(Option<usize>, u64, &mut [u8]) -> core::result::Result<(), E>,
        mut write: impl FnMut(Option<usize>, u64, &[u8]) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        match self.view(start) {
            Some(view) => view.write(start, bytes, read, write),
            None => write(None, start, bytes),
        }
    }

    /// What [`Self::read`] asks for, in its order: of which file, and what of it.
    pub(crate) fn reads(&self, range: &Range<u64>) -> Vec<(Option<usize>, Range<u64>)> {
        match self.view(range.start) {
            Some(view) => view.reads(range),
            None => Vec::from([(None, range.clone())]),
        }
    }

    /// The view that a place lies in.
    fn view(&self, start: u64) -> Option<&View> {
        let after = self.views.partition_point(|view| view.range.end <= start);
        self.views.get(after).filter(|view| view.range.contains(&start))
    }

    /// The bytes of the head: length, JSON with sorted metadata, spaces up to a multiple of 8. Reproducible.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut json = String::from("{");
        for (i, (key, value)) in self.metadata.pairs().iter().enumerate() {
            let start = if i == 0 { "\"__metadata__\":{" } else { "," };
            json += &format!("{start}{}:{}", quoted(key), quoted(value));
        }
        if !self.metadata.pairs().is_empty() {
            json.push('}');
        }
        for tensor in self.tensors.iter() {
            if json.len() > 1 {
                json.push(',');
            }
            let name = quoted(self.own_name(&tensor.name));
            let (start, end) = (tensor.range.start - self.data_start, tensor.range.end - self.data_start);
            let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            let (dtype, shape) = (tensor.dtype, shape.join(","));
            json += &format!(
                "{name}:{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
            );
        }
        json.push('}');
        while json.len() % 8 != 0 {
            json.push(' ');
        }
        let mut bytes = Vec::with_capacity(8 + json.len());
        bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    /// The tensors, sorted by where they lie in the file.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The `__metadata__` map.
    #[must_use]
    pub fn metadata(&self) -> &TextMap {
        &self.metadata
    }

    /// Where the data begins: the size of the head in bytes.
    #[must_use]
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The length of the whole file in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        let end = || self.tensors.last().map_or(self.data_start, |tensor| tensor.range.end);
        self.other.unwrap_or_else(end)
    }

    /// The tensor that holds byte `offset` of the file; a zero-sized one is never found.
    #[must_use]
    pub fn tensor_at(&self, offset: u64) -> Option<&Tensor> {
        let after = self.tensors.partition_point(|tensor| tensor.range.end <= offset);
        self.tensors.get(after).filter(|tensor| tensor.range.contains(&offset))
    }
}

/// The bytes between two views, which hold nothing.
const VIEW_GAP: u64 = 64;

/// What to do about a header that contradicts itself.
const DAMAGED: &str = "the file is damaged: copy or download it again, or save it again";

/// Whether the beginning of a file is text; a character may be cut at its end.
fn is_text(start: &[u8]) -> bool {
    const LONGEST: usize = 4;
    let text = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    start.len() < text.len() + LONGEST
        && !text.contains(|letter: char| letter.is_control() && !letter.is_whitespace())
}

fn bad(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Header, detail)
}

/// Bytes that a tensor needs; `None` when that overflows or ends within a byte.
pub(crate) fn byte_size(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// What a file that is not safetensors is, and what to do about it.
fn other_format(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = start.trim_ascii_start();
    let begins = |prefix: &str| {
        text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if begins("version https://git-lfs") {
        Some(("a git-lfs pointer", "fetch the file itself: `git lfs pull`"))
    } else if begins("<!doctype") || begins("<html") {
        Some(("an HTML page", "the download failed: fetch the file itself, not the page that shows it"))
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9") {
        Some(("a PyTorch pickle file", "give it the ending .bin, or convert it to safetensors"))
    } else if start.starts_with(b"GGUF") {
        Some(("a GGUF file", "merge the adapters before converting them to GGUF"))
    } else {
        None
    }
}

/// The header's JSON, in file order, names checked to be distinct.
struct Entries {
    metadata: TextMap,
    tensors: Vec<(String, Entry)>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    fn check(self, name: String, data_start: u64) -> Result<Tensor> {
        let Self { dtype, shape, data_offsets: (start, end) } = self;
        let fail = |detail: String| Err(bad(detail).tensor(&name).help(DAMAGED));
        let Some(size) = byte_size(dtype, &shape) else {
            return fail(format!("has an impossible size: shape {shape:?} of {dtype}"));
        };
        if end.checked_sub(start) != Some(size) {
            return fail(format!(
                "of {dtype} {shape:?} needs {size} bytes, but its offsets are [{start}, {end}]"
            ));
        }
        match (start.checked_add(data_start), end.checked_add(data_start)) {
            (Some(start), Some(end)) => Ok(Tensor { name, dtype, shape, range: start..end }),
            _ => fail(format!("has offsets [{start}, {end}] beyond any file")),
        }
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> core::result::Result<Self, D::Error> {
        struct Head;
        impl<'de> Visitor<'de> for Head {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> core::result::Result<Entries, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                // a map that is compiled already
                let mut seen = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if seen.insert(name.clone(), Value::Null).is_some() {
                        return Err(A::Error::custom(format!("the key `{name}` occurs twice")));
                    }
                    let at = |error: A::Error| A::Error::custom(format!("`{name}`: {error}"));
                    if name == "__metadata__" {
                        metadata = map.next_value::<Option<TextMap>>().map_err(at)?;
                    } else {
                        let entry = map.next_value().map_err(at)?;
                        tensors.push((name, entry));
                    }
                }
                Ok(Entries { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(Head)
    }
}

#[cfg(test)]
mod tests;
