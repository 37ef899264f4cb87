//! Files of `torch.save()`: the places of their tensors, read in place.
//!
//! A file is a zip of stored members: a pickle that names the tensors, and one member for the numbers of each storage. A
//! tensor is a view of a storage, so its bytes are a range of the file. Files from before torch 1.6 are pickles with the
//! storages behind them. The pickle is never executed (see `pickle.rs`).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, all};
use crate::format::safetensors::{Header, Tensor as Placed};
use crate::format::view::{SPAN_LIMIT, View};
use crate::format::{Catalog, Format, START};
use crate::text::index::Index;
use choose::{Chosen, choose};
use pickle::{Id, Node, Pickle, Storage, Tensor, Trouble, bad, refused};
use zip::Member;

pub(in crate::format) use zip::TAIL;

pub(in crate::format) mod choose;
pub(crate) mod frame;
pub mod optimizer;
pub(in crate::format) mod pickle;
#[cfg(test)]
mod tests;
pub(crate) mod write;
pub(crate) mod zip;

/// Files of `torch.save()`.
#[derive(Clone, Copy, Debug)]
pub struct Torch;

/// The longest pickle that is read, in bytes; that of 300,000 tensors is shorter.
pub(in crate::format) const PICKLE_LIMIT: u64 = 1 << 26;
/// The bytes in which the pickles of an old file are looked for first.
const FIRST: u64 = 1 << 16;
/// How an old file begins: a pickle of torch's magic number.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// All tensors together may be so many times as large as the file: names may share a storage, but not without end.
const SHARED: u64 = 16;

impl Format for Torch {
    fn claims(&self, name: &str, start: &[u8]) -> bool {
        let is_named = [".bin", ".pt", ".pth", ".pth.tar", ".ckpt"]
            .iter()
            .any(|end| name.to_ascii_lowercase().ends_with(end));
        // what is named so, but begins like safetensors, is safetensors
        let is_other = || Header::size(start, u64::MAX).is_err();
        start.starts_with(b"PK\x03\x04") || start.starts_with(MAGIC) || is_named && is_other()
    }

    fn open(&self, files: &dyn Files, path: &str, size: u64, key: Option<&str>) -> Maybe<Catalog> {
        let start = files.read(path, 0..START)?;
        if start.starts_with(b"PK\x03\x04") {
            open_zip(files, path, size, &mut |pickle| choose(pickle, key))
        } else if start.starts_with(MAGIC) {
            open_old(files, path, size, &mut |pickle| choose(pickle, key))
        } else {
            let what = match Header::size(&start, size) {
                Err(error) if size > 0 && error.detail().starts_with("is a") => error,
                _ => refused("is empty or damaged, or was written by something other than torch.save()")
                    .help("copy or download the file again, or give it the ending of what it is"),
            };
            let detail = what.detail().replace("a safetensors file", "a file of torch.save()");
            Err(Error::new(ErrorKind::Input, detail)
                .help(what.advice().unwrap_or_default().to_owned())
                .into())
        }
    }
}

/// The names of the files in a zip.
pub(crate) fn members_of(files: &dyn Files, path: &str, size: u64) -> Maybe<Vec<String>> {
    Ok(zip::members(files, path, size)?.into_iter().map(|member| member.name).collect())
}

/// Where a tensor lies in a file.
#[derive(Clone, Debug)]
pub(in crate::format) struct Lies {
    pub(in crate::format) dtype: Dtype,
    pub(in crate::format) shape: Vec<u64>,
    pub(in crate::format) start: u64,
    /// The way from one number to the next in each dimension, in bytes; none where they lie in order.
    pub(in crate::format) steps: Option<Vec<u64>>,
}

/// Some tensors of a zip, under the names that `choose` gives them, sorted by these.
pub(in crate::format) fn picked(
    files: &dyn Files,
    path: &str,
    size: u64,
    choose: &mut Choose<'_>,
) -> Maybe<Vec<(String, Lies)>> {
    if !files.read(path, 0..START)?.starts_with(b"PK\x03\x04") {
        return Err(bad("is no file of torch.save(), as torch writes it since 1.6").into());
    }
    let header = open_zip(files, path, size, choose)?.header;
    let lies = |tensor: &Placed| {
        let (start, steps) = header.lies(tensor);
        let steps = steps.map(<[u64]>::to_vec);
        (tensor.name.clone(), Lies { dtype: tensor.dtype, shape: tensor.shape.clone(), start, steps })
    };
    let mut found: Vec<_> = header.tensors().iter().map(lies).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// The tensor that a zip is of.
pub(in crate::format) fn only(files: &dyn Files, path: &str, size: u64) -> Maybe<Lies> {
    let mut found = picked(files, path, size, &mut |pickle| match pickle.node(pickle.root) {
        Node::Tensor(tensor) => Ok(Chosen::plain(Vec::from([(String::new(), &**tensor)]))),
        _ => Err(bad("is no plain tensor there")),
    })?;
    Ok(found.remove(0).1)
}

/// What of a pickle is taken.
pub(in crate::format) type Choose<'c> = dyn for<'a, 'b> FnMut(&'a Pickle<'b>) -> Result<Chosen<'a>> + 'c;

fn open_zip(files: &dyn Files, path: &str, size: u64, choose: &mut Choose<'_>) -> Maybe<Catalog> {
    let members = zip::members(files, path, size)?;
    let pickled = members.iter().find(|member| member.name.ends_with("/data.pkl"));
    let pickled =
        pickled.ok_or_else(|| bad("is a zip, but not one that torch.save() wrote: it has no data.pkl"))?;
    let folder = pickled.name.strip_suffix("data.pkl").expect("find() looked for this end");
    let index = Index::new(members.iter().map(|member| member.name.as_str()));
    let member = |name: &str| index.place(&format!("{folder}{name}")).map(|place| &members[place]);
    let read = |member: &Member| {
        if member.len > PICKLE_LIMIT {
            return Err(
                bad(format!("has a pickle of {} bytes; the limit is {PICKLE_LIMIT}", member.len)).into()
            );
        }
        files.read(path, member.range(files, path)?)
    };
    if let Some(order) = member("byteorder")
        && &*read(order)? != b"little"
    {
        return Err(refused("was written on a big-endian machine")
            .help("load it there and save it as safetensors")
            .into());
    }
    let bytes = read(pickled)?;
    let pickle = Pickle::read(&bytes).map_err(Trouble::error)?;
    let chosen = choose(&pickle)?;
    // each storage is looked up once, however many tensors share it
    let mut storages: Vec<_> = chosen.tensors.iter().map(|(_, tensor)| tensor.storage).collect();
    storages.sort_unstable();
    storages.dedup();
    let place = |id: &Id| {
        let Node::Storage(storage) = pickle.node(*id) else { unreachable!("tensor() checked this") };
        let key = pickle.text(&storage.key);
        let found = member(&format!("data/{key}"));
        let found = found.ok_or_else(|| bad(format!("lacks the data of its storage {key}")))?;
        found.range(files, path)
    };
    let places = all(storages.iter().map(place))?;
    let range = |id: Id| places[storages.binary_search(&id).expect("all were looked up")].clone();
    catalog(&pickle, &chosen, range, size).map_err(Into::into)
}

/// A file from before 1.6: a magic number, a version, what the machine was like, the object, the keys of its storages; then
/// for each the number of its elements and the elements.
fn open_old(files: &dyn Files, path: &str, size: u64, choose: &mut Choose<'_>) -> Maybe<Catalog> {
    let mut len = FIRST;
    loop {
        let bytes = files.read(path, 0..len.min(size))?;
        match old_catalog(&bytes, size, choose) {
            Ok(catalog) => return Ok(catalog),
            Err(Trouble::Bad(error)) => return Err(error.into()),
            Err(Trouble::Short) if len >= size => return Err(Trouble::Short.error().into()),
            Err(Trouble::Short) if len >= PICKLE_LIMIT => {
                return Err(bad(format!("has a pickle of more than {PICKLE_LIMIT} bytes")).into());
            }
            Err(Trouble::Short) => len *= 16,
        }
    }
}

fn old_catalog(bytes: &[u8], size: u64, choose: &mut Choose<'_>) -> core::result::Result<Catalog, Trouble> {
    let mut at = MAGIC.len();
    for _ in ["version", "machine"] {
        at += Pickle::read(&bytes[at..])?.end;
    }
    let pickle = Pickle::read(&bytes[at..])?;
    at += pickle.end;
    let keys = Pickle::read(&bytes[at..])?;
    at += keys.end;
    let order = match keys.node(keys.root) {
        Node::List(items) => items.iter().map(|item| keys.text_of(*item)).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let order = order.ok_or_else(|| Trouble::Bad(bad("does not list its storages")))?;
    let known = pickle.storages();
    let index = Index::new(known.iter().map(|storage| pickle.text(&storage.key)));
    let mut ranges = Vec::new();
    let mut end = at as u64;
    for key in &order {
        let storage = index.place(key).map(|place| known[place]);
        let len = storage.and_then(|storage| {
            let (dtype, _) = class(pickle.text(&storage.class))?;
            storage.elements.checked_mul(dtype.bitsize() as u64 / 8)
        });
        let len = len.ok_or_else(|| Trouble::Bad(bad(format!("has a storage {key} of an unknown kind"))))?;
        let start = end + 8;
        end =
            start.checked_add(len).ok_or_else(|| Trouble::Bad(bad("has a storage larger than any file")))?;
        ranges.push(start..end);
    }
    if end != size {
        let detail = format!("is damaged: its pickle describes {end} bytes, the file has {size}");
        let error = Error::new(ErrorKind::Header, detail).help("copy or download the file again");
        return Err(Trouble::Bad(error));
    }
    let chosen = choose(&pickle).map_err(Trouble::Bad)?;
    let places = Index::new(order.iter().copied());
    for (name, tensor) in &chosen.tensors {
        let Node::Storage(storage) = pickle.node(tensor.storage) else {
            unreachable!("tensor() checked this")
        };
        if !places.has(pickle.text(&storage.key)) {
            return Err(Trouble::Bad(bad("lacks the data of its storage").tensor(name)));
        }
    }
    let range = |id: Id| {
        let Node::Storage(storage) = pickle.node(id) else { unreachable!("tensor() checked this") };
        ranges[places.place(pickle.text(&storage.key)).expect("checked above")].clone()
    };
    catalog(&pickle, &chosen, range, size).map_err(Trouble::Bad)
}

/// The chosen tensors with the places of their bytes; `range` gives that of a storage.
fn catalog(
    pickle: &Pickle<'_>,
    chosen: &Chosen<'_>,
    range: impl Fn(Id) -> Range<u64>,
    size: u64,
) -> Result<Catalog> {
    let (mut tensors, mut views) = (Vec::with_capacity(chosen.tensors.len()), Vec::new());
    let mut total = 0u64;
    for (name, tensor) in &chosen.tensors {
        let Node::Storage(storage) = pickle.node(tensor.storage) else {
            unreachable!("tensor() checked this")
        };
        let dtype = dtype_of(pickle, tensor, storage).map_err(|error| error.tensor(name))?;
        let place = place(dtype, tensor, range(tensor.storage)).map_err(|error| error.tensor(name))?;
        let made = |range| Placed { name: name.clone(), dtype, shape: tensor.shape.clone(), range };
        total = total.saturating_add(match place {
            Place::Range(range) => {
                let len = range.end - range.start;
                tensors.push(made(range));
                len
            }
            Place::View(view, len) => {
                views.push((made(0..0), view));
                len
            }
        });
    }
    if total / SHARED > size {
        let detail = format!("describes tensors of {total} bytes, many times what the file holds ({size})");
        return Err(bad(detail));
    }
    let metadata = Vec::from([("format".to_owned(), "pt".to_owned())]).into();
    let header = Header::placed(tensors, views, metadata, size)?;
    let (step, key, told) = (chosen.step, chosen.key.clone(), chosen.told.clone());
    Ok(Catalog { header, step, key, told, notes: chosen.notes.clone() })
}

/// The type of a tensor's elements.
fn dtype_of(pickle: &Pickle<'_>, tensor: &Tensor, storage: &Storage) -> Result<Dtype> {
    let class_name = pickle.text(&storage.class);
    let named = tensor.dtype.as_ref().map(|dtype| pickle.text(dtype));
    let dtype = match (named, class(class_name)) {
        (Some(named), _) => dtype(named),
        (None, Some((dtype, is_untyped))) if !is_untyped => Some(dtype),
        _ => None,
    };
    dtype.ok_or_else(|| {
        refused(format!("is of the kind {}, which cannot be merged", named.unwrap_or(class_name)))
            .help("save the tensors as plain numbers first: quantised and complex ones cannot be averaged")
    })
}

enum Place {
    Range(Range<u64>),
    /// A view, and the bytes of all its numbers.
    View(View, u64),
}

/// Where the numbers of a tensor lie, given the range of its storage.
fn place(dtype: Dtype, tensor: &Tensor, storage: Range<u64>) -> Result<Place> {
    let size = dtype.bitsize() as u64 / 8;
    let shape = &tensor.shape;
    let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
    let len = elements.and_then(|n| n.checked_mul(size));
    let start = tensor.offset.checked_mul(size).and_then(|offset| offset.checked_add(storage.start));
    let steps = tensor.stride.iter().map(|stride| stride.checked_mul(size)).collect::<Option<Vec<_>>>();
    let (Some(len), Some(start), Some(steps)) = (len, start, steps) else {
        return Err(bad(format!("of {dtype} {shape:?} is larger than any file can be")));
    };
    if len == 0 {
        return Ok(Place::Range(storage.start..storage.start));
    }
    let is_contiguous = is_contiguous(tensor);
    let span = if is_contiguous { Some(len) } else { View::span(shape, &steps, size) };
    let end = span.and_then(|span| start.checked_add(span)).filter(|end| *end <= storage.end);
    let Some(end) = end else {
        let holds = storage.end.saturating_sub(start);
        let detail =
            format!("of {dtype} {shape:?} reaches beyond its storage, which holds {holds} bytes for it");
        return Err(Error::new(ErrorKind::Header, detail)
            .help("the file is damaged: copy or download it again, or save it again"));
    };
    if is_contiguous {
        return Ok(Place::Range(start..end));
    }
    let span = end - start;
    let again = "save it again with its numbers in order: torch.save({name: x.contiguous() for name, x in \
                 torch.load(FILE, weights_only=True).items()}, FILE)";
    if len > span {
        let detail = format!("of {dtype} {shape:?} repeats the {span} bytes of its storage to {len}");
        return Err(refused(detail).help(again));
    }
    if span > SPAN_LIMIT {
        let detail = format!(
            "of {dtype} {shape:?} is a view with the strides {:?}, whose numbers lie {span} bytes apart; at most \
             {SPAN_LIMIT} are put in order",
            tensor.stride
        );
        return Err(refused(detail).help(again));
    }
    Ok(Place::View(View::strided(start, shape.clone(), steps, size), len))
}

/// Whether the numbers of a tensor lie side by side, the last dimension fastest.
fn is_contiguous(tensor: &Tensor) -> bool {
    let mut step = 1u64;
    for (dim, stride) in tensor.shape.iter().zip(&tensor.stride).rev() {
        if *dim != 1 && *stride != step {
            return false;
        }
        step = step.saturating_mul(*dim);
    }
    true
}

/// The element of a class of storages, and whether the tensor says it instead.
fn class(name: &str) -> Option<(Dtype, bool)> {
    Some(match name {
        "DoubleStorage" => (Dtype::F64, false),
        "FloatStorage" => (Dtype::F32, false),
        "HalfStorage" => (Dtype::F16, false),
        "BFloat16Storage" => (Dtype::BF16, false),
        "LongStorage" => (Dtype::I64, false),
        "IntStorage" => (Dtype::I32, false),
        "ShortStorage" => (Dtype::I16, false),
        "CharStorage" => (Dtype::I8, false),
        "ByteStorage" => (Dtype::U8, false),
        "BoolStorage" => (Dtype::BOOL, false),
        "UntypedStorage" => (Dtype::U8, true),
        _ => return None,
    })
}

/// The dtype that torch calls so.
pub(in crate::format) fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        _ => return None,
    })
}
