//! Checkpoints of training on several devices: which pieces of a tensor lie where in the files of the ranks.
//!
//! A layout gives the tensors of a checkpoint with their pieces. A tensor in one piece is a range of its file; any other is a
//! view, of the file with its first piece, that jobs read as if its numbers lay side by side. What does not hold together, as a save that was
//! interrupted leaves it, is refused.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, is_file, is_folder, join, size, text};
use crate::format::safetensors::{Header, Tensor};
use crate::format::torch::choose::{Chosen, entry};
use crate::format::torch::pickle::{Id, Node, Pickle};
use crate::format::torch::zip::{self, Sum};
use crate::format::torch::{self, Lies};
use crate::format::view::{Piece, View};
use crate::run::step::step_of_folder;
use crate::text::index::Index;

mod dcp;
mod universal;
mod zero;

/// How the ranks' files are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Dcp,
    Zero,
    Universal,
}

impl Layout {
    /// What it is, in words.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Dcp => "a torch distributed (DCP) checkpoint",
            Self::Zero => "a DeepSpeed ZeRO checkpoint",
            Self::Universal => "a universal checkpoint of DeepSpeed",
        }
    }
}

/// What a checkpoint of training holds.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Its files: path, length, and the tensors that begin there.
    pub(crate) files: Vec<(String, u64, Header)>,
    pub(crate) step: Option<u64>,
    pub(crate) notes: Vec<String>,
}

/// A tensor and its pieces, each of which names its file.
struct Whole {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    pieces: Vec<Piece>,
    /// Whether the pieces are of the tensor's numbers in a row.
    is_flat: bool,
}

/// A file that tensors lie in: its path, and its length in bytes.
type Part = (String, u64);

/// Second moments as a layout has them.
struct Found {
    /// Their files, of which the first tells of them.
    parts: Vec<Part>,
    tensors: Vec<Whole>,
    counted: Counted,
}

/// The decay of second moments, and how many steps they took; where the state tells it, and of all alike.
pub(crate) type Counted = Option<(f64, f64)>;

/// The second moments of a checkpoint.
#[derive(Debug)]
pub(crate) struct Squares {
    /// The file that tells of them: path, length, and a head by which jobs read the checkpoint's files.
    pub(crate) file: (String, u64, Header),
    /// Files that they lie in beside those of the checkpoint, behind which these are numbered.
    pub(crate) more: Vec<Part>,
    pub(crate) counted: Counted,
}

/// The most bytes of a file that names another.
const NAME_LIMIT: u64 = 4096;
/// The most pairs of pieces that are compared to see that none overlaps another.
const PAIRS: u64 = 1 << 26;
/// What to do about files that do not belong together.
const TORN: &str =
    "its save was interrupted, or files of two saves are mixed: leave this checkpoint out, or copy it again";

/// The layout of a folder and where it lies: there, or in the one of its folders that holds the model.
///
/// # Errors
/// What the system refuses, and a checkpoint that is named and missing.
pub(crate) fn find(files: &dyn Files, folder: &str) -> Maybe<Option<(Layout, String)>> {
    if !is_folder(files, folder)? {
        return Ok(None);
    }
    let names = files.list(folder)?;
    if let Some(layout) = layout(&names) {
        return Ok(Some((layout, folder.to_owned())));
    }
    let inner = |name: &str| {
        let path = join(folder, name);
        if !is_folder(files, &path)? {
            return Ok(None);
        }
        Ok(layout(&files.list(&path)?).map(|layout| (layout, path)))
    };
    // accelerate's, beside which the states of optimizers lie
    if let Some(name) = names.iter().find(|name| name.starts_with("pytorch_model_fsdp_")) {
        return inner(name);
    }
    // DeepSpeed's, by the last one saved, or the only one
    let latest = join(folder, "latest");
    if is_file(files, &latest)? {
        let tag = text(files, &latest, NAME_LIMIT)?.trim().to_owned();
        if names.contains(&tag) {
            return inner(&tag);
        }
        if crate::files::is_plain(&tag) && tag.starts_with("global_step") {
            let detail = format!("names {tag} as the last save, which is missing");
            return Err(Error::new(ErrorKind::Input, detail).file(latest).help(TORN).into());
        }
    }
    let mut saves = names.iter().filter(|name| name.starts_with("global_step"));
    match (saves.next(), saves.next()) {
        (Some(only), None) => inner(only),
        _ => Ok(None),
    }
}

/// Whether a folder named as a checkpoint holds one of these in a folder that is named so too.
pub(crate) fn is_around(files: &dyn Files, folder: &str) -> Maybe<bool> {
    let is_named = step_of_folder(crate::files::last(folder)).is_some();
    Ok(is_named && find(files, folder)?.is_some_and(|(_, place)| place != folder))
}

/// Whether these are the files of one of these, sound or not.
pub(crate) fn is_laid(names: &[String]) -> bool {
    layout(names).is_some()
}

fn layout(names: &[String]) -> Option<Layout> {
    let any = |is: &dyn Fn(&str) -> bool| names.iter().any(|name| is(name));
    if any(&|name| name.ends_with(".distcp")) {
        Some(Layout::Dcp)
    } else if !any(&|name| name.ends_with("_model_states.pt") || name.ends_with("_optim_states.pt")) {
        None
    } else if any(&|name| name == "zero") {
        Some(Layout::Universal)
    } else {
        Some(Layout::Zero)
    }
}

/// Open what [`find`] has found; `key` is the name of the weights that the user chose.
///
/// # Errors
/// What is wrong with it, by file and tensor.
pub(crate) fn open(
    files: &dyn Files,
    (layout, folder): &(Layout, String),
    key: Option<&str>,
) -> Maybe<Opened> {
    match layout {
        Layout::Dcp => dcp::open(files, folder, key),
        Layout::Zero => zero::open(files, folder, key),
        Layout::Universal => universal::open(files, folder, key),
    }
}

/// The copies of weights that stand beside those that [`open`] takes, in the model's dtype or of other ranks: who loads the checkpoint may take
/// these.
///
/// # Errors
/// As [`open`].
pub(crate) fn copies(files: &dyn Files, (layout, folder): &(Layout, String)) -> Maybe<Vec<Opened>> {
    match layout {
        Layout::Dcp => Ok(Vec::from([dcp::open(files, folder, Some("model"))?])),
        Layout::Zero => zero::copies(files, folder),
        Layout::Universal => universal::copies(files, folder),
    }
}

/// The checksums over numbers in `own` files of what [`find`] has found: of which file, of what in it, and where they stand; of files and
/// ranges of these that are `wanted`.
///
/// # Errors
/// What is wrong with the files.
pub(crate) fn sums(
    files: &dyn Files,
    (layout, folder): &(Layout, String),
    own: &[String],
    wanted: &dyn Fn(&str, &Range<u64>) -> bool,
) -> Maybe<Vec<(String, Sum)>> {
    if *layout == Layout::Dcp {
        return dcp::sums(files, folder, wanted);
    }
    let mut found = Vec::new();
    for path in own {
        let len = size(files, path)?;
        // the streams of before torch 1.6 have none
        if wanted(path, &(0..len)) && &*files.read(path, 0..2.min(len))? == b"PK" {
            let sums = zip::sums(files, path, len).map_err(|stop| stop.file(path))?;
            found.extend(sums.into_iter().map(|sum| (path.clone(), sum)));
        }
    }
    Ok(found)
}

/// Open the second moments of a checkpoint in what [`find`] has found of it; `own` are the files that it has.
///
/// # Errors
/// What is wrong with them, and that there are none.
pub(crate) fn squares(
    files: &dyn Files,
    checkpoint: &str,
    (layout, folder): &(Layout, String),
    own: &[&str],
) -> Maybe<Squares> {
    let Found { parts, mut tensors, counted } = match layout {
        Layout::Dcp => dcp::squares(files, checkpoint, folder)?,
        Layout::Zero => zero::squares(files, folder)?,
        Layout::Universal => universal::squares(files, folder)?,
    };
    let at = |error: Error| error.file(folder);
    unwrapped(&mut tensors).map_err(at)?;
    let mut numbers: Vec<_> = parts.iter().map(|(path, _)| own.iter().position(|it| it == path)).collect();
    let (mut more, mut views) = (Vec::new(), Vec::with_capacity(tensors.len()));
    for mut whole in tensors {
        let (shape, size, _) = tiled(&mut whole).map_err(at)?;
        let Whole { name, dtype, shape: own_shape, mut pieces, .. } = whole;
        for piece in &mut pieces {
            let part = piece.file.expect("the reader names it");
            piece.file = Some(*numbers[part].get_or_insert_with(|| {
                more.push(parts[part].clone());
                own.len() + more.len() - 1
            }));
        }
        let tensor = Tensor { name, dtype, shape: own_shape, range: 0..0 };
        views.push((tensor, View { range: 0..0, shape, size, pieces, mean: None }));
    }
    let (path, len) = parts.into_iter().next().expect("one tells of them");
    let header = Header::placed(Vec::new(), views, Vec::new().into(), len).map_err(at)?;
    Ok(Squares { file: (path, len, header), more, counted })
}

/// There are no second moments.
fn no_squares(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, detail.into())
        .help("give them by --moments, or leave out --method: without second moments all checkpoints count alike in each element")
}

/// Whether a file is named as the ranks of a training name those with the states of their optimizers.
pub(crate) fn is_of_ranks(path: &str) -> bool {
    [".metadata", ".distcp", "_optim_states.pt", "exp_avg_sq.pt"].iter().any(|end| path.ends_with(end))
}

/// The one that all have, if they have one.
fn alike(mut betas: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let first = betas.next()??;
    betas.all(|beta| beta.is_some_and(|beta| beta.to_bits() == first.to_bits())).then_some(first)
}

/// A count of steps that is a number of Python's, as DeepSpeed's own optimizers keep it.
#[expect(clippy::cast_precision_loss, reason = "nobody takes 2^53 steps")]
fn counted(pickle: &Pickle<'_>, id: Id) -> Option<f64> {
    match pickle.node(id) {
        Node::Int(step) => Some(*step as f64),
        Node::Float(step) => Some(*step),
        _ => None,
    }
}

/// The count of steps that a file holds: a number, or a tensor of one; none where it is something else.
fn steps(files: &dyn Files, path: &str, len: u64) -> Maybe<Option<f64>> {
    let mut told = None;
    let found = torch::picked(files, path, len, &mut |pickle| {
        let root = entry(pickle, pickle.root, "param").unwrap_or(pickle.root);
        told = counted(pickle, root);
        let tensor = match pickle.node(root) {
            Node::Tensor(tensor) if tensor.shape.is_empty() => Some((String::new(), &**tensor)),
            _ => None,
        };
        Ok(Chosen::plain(tensor.into_iter().collect()))
    })?;
    let Some((_, lies)) = found.first() else { return Ok(told) };
    let bytes = files.read(path, lies.start..lies.start + lies.dtype.bitsize() as u64 / 8)?;
    Ok(scalar(lies, &bytes))
}

/// A tensor of one number.
fn scalar(lies: &Lies, bytes: &[u8]) -> Option<f64> {
    let float =
        Float::of(lies.dtype).filter(|float| bytes.len() == float.bytes() && lies.shape.is_empty())?;
    Some(float.value(bytes))
}

/// Put the tensors into the heads of the files with their first pieces. Names lose what wrappers of training put into them.
fn assembled(files: Vec<Part>, mut tensors: Vec<Whole>) -> Result<Vec<(String, u64, Header)>> {
    unwrapped(&mut tensors)?;
    let mut placed: Vec<_> = files.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for mut whole in tensors {
        let (sides, size, count) = tiled(&mut whole)?;
        let Whole { name, dtype, shape, mut pieces, .. } = whole;
        let tensor = Tensor { name, dtype, shape, range: 0..0 };
        let Some(first) = pieces.first() else {
            placed[0].0.push(tensor);
            continue;
        };
        let file = first.file.expect("the reader names it");
        if pieces.len() == 1 && first.steps.is_none() {
            let range = first.start..first.start + count * size;
            placed[file].0.push(Tensor { range, ..tensor });
            continue;
        }
        for piece in &mut pieces {
            piece.file = piece.file.filter(|other| *other != file);
        }
        placed[file].1.push((tensor, View { range: 0..0, shape: sides, size, pieces, mean: None }));
    }
    let made = |((path, len), (tensors, views)): (Part, (Vec<Tensor>, Vec<_>))| {
        let metadata = Vec::from([("format".to_owned(), "pt".to_owned())]).into();
        let header = Header::placed(tensors, views, metadata, len)?;
        Ok((path, len, header))
    };
    files.into_iter().zip(placed).map(made).collect()
}

/// Take what wrappers of training put into names out of them.
fn unwrapped(tensors: &mut [Whole]) -> Result<()> {
    for tensor in &mut *tensors {
        for wrapper in ["_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."] {
            if tensor.name.contains(wrapper) {
                tensor.name = tensor.name.replace(wrapper, "");
            }
        }
    }
    const PARALLEL: &str = "module.";
    if tensors.iter().all(|tensor| tensor.name.starts_with(PARALLEL)) {
        tensors.iter_mut().for_each(|tensor| drop(tensor.name.drain(..PARALLEL.len())));
    }
    if let Some(twice) = Index::new(tensors.iter().map(|tensor| tensor.name.as_str())).repeated() {
        let detail = "occurs twice once the names of wrappers are taken out";
        return Err(Error::new(ErrorKind::Names, detail).tensor(&tensors[twice].name));
    }
    Ok(())
}

/// See that its pieces tile a tensor: the shape that they are of, the bytes of a number, and how many there are.
fn tiled(whole: &mut Whole) -> Result<(Vec<u64>, u64, u64)> {
    let Whole { name, dtype, shape, pieces, is_flat } = whole;
    let size = dtype.bitsize() as u64 / 8;
    let count = shape.iter().try_fold(size, |n, dim| n.checked_mul(*dim)).map(|bytes| bytes / size.max(1));
    let count = count.ok_or_else(|| torn("is larger than any file can be").tensor(&*name))?;
    let sides = if *is_flat { Vec::from([count]) } else { shape.clone() };
    pieces.retain(|piece| !piece.sizes.contains(&0));
    tile(&sides, count, pieces).map_err(|detail| torn(detail).tensor(&*name))?;
    Ok((sides, size, count))
}

/// Whether pieces tile a shape of so many numbers; sorts them.
fn tile(shape: &[u64], count: u64, pieces: &mut [Piece]) -> core::result::Result<(), String> {
    pieces.sort_by(|a, b| a.offsets.cmp(&b.offsets));
    let mut sum = 0u64;
    for Piece { offsets, sizes, .. } in &*pieces {
        let fits = offsets.len() == shape.len()
            && sizes.len() == shape.len()
            && offsets
                .iter()
                .zip(sizes)
                .zip(shape)
                .all(|((from, len), side)| from.checked_add(*len).is_some_and(|end| end <= *side));
        if !fits {
            return Err(format!("is {shape:?}, but a piece of {sizes:?} begins at {offsets:?}"));
        }
        // none is larger than the whole
        sum = sum.saturating_add(sizes.iter().product());
    }
    let mut pairs = 0;
    for (at, one) in pieces.iter().enumerate() {
        for other in &pieces[at + 1..] {
            // they are sorted by where they begin
            if one
                .offsets
                .first()
                .zip(one.sizes.first())
                .is_some_and(|(from, len)| other.offsets[0] >= from + len)
            {
                break;
            }
            let meet = (0..shape.len()).all(|dim| {
                one.offsets[dim] < other.offsets[dim] + other.sizes[dim]
                    && other.offsets[dim] < one.offsets[dim] + one.sizes[dim]
            });
            if meet {
                return Err(format!("has pieces that overlap, at {:?} and {:?}", one.offsets, other.offsets));
            }
            pairs += 1;
            if pairs > PAIRS {
                return Err("is cut into too many pieces to compare them".into());
            }
        }
    }
    if sum != count {
        return Err(format!("has {count} numbers, but its pieces hold {sum}"));
    }
    Ok(())
}

/// Files that do not belong together.
fn torn(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Header, detail.into()).help(TORN)
}

/// The numbers of a list.
fn numbers(pickle: &Pickle<'_>, id: Id) -> Option<Vec<u64>> {
    let (Node::Tuple(items) | Node::List(items)) = pickle.node(id) else { return None };
    items.iter().map(|id| number(pickle, *id)).collect()
}

fn number(pickle: &Pickle<'_>, id: Id) -> Option<u64> {
    match pickle.node(id) {
        Node::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// What an object of a class says of itself.
fn state(pickle: &Pickle<'_>, id: Id, class: &str) -> Option<Id> {
    match pickle.node(id) {
        Node::Other { name, state, .. } if pickle.text(name) == class => *state,
        _ => None,
    }
}

/// The first few names.
fn some<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let count = names.len();
    let shown: Vec<_> = names.take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shape: &[u64], pieces: &[(&[u64], &[u64])]) -> core::result::Result<(), String> {
        let piece = |(offsets, sizes): &(&[u64], &[u64])| Piece {
            file: Some(0),
            start: 0,
            offsets: offsets.to_vec(),
            sizes: sizes.to_vec(),
            steps: None,
        };
        let mut pieces: Vec<_> = pieces.iter().map(piece).collect();
        tile(shape, shape.iter().product(), &mut pieces)
    }

    #[test]
    fn pieces_tile_a_tensor_or_are_refused() {
        assert_eq!(told(&[4, 6], &[(&[2, 0], &[2, 6]), (&[0, 3], &[2, 3]), (&[0, 0], &[2, 3])]), Ok(()));
        assert_eq!(told(&[], &[(&[], &[])]), Ok(()));
        for (pieces, why) in [
            (&[(&[0, 0][..], &[2, 6][..])][..], "has 24 numbers, but its pieces hold 12"),
            (&[(&[0, 0], &[3, 6]), (&[2, 0], &[2, 6])], "has pieces that overlap, at [0, 0] and [2, 0]"),
            (&[(&[0, 0], &[4, 3]), (&[1, 2], &[3, 4])], "has pieces that overlap, at [0, 0] and [1, 2]"),
            (&[(&[0, 0], &[4, 7])], "is [4, 6], but a piece of [4, 7] begins at [0, 0]"),
            (
                &[(&[u64::MAX, 0], &[4, 6])],
                "is [4, 6], but a piece of [4, 6] begins at [18446744073709551615, 0]",
            ),
            (&[(&[0], &[24])], "is [4, 6], but a piece of [24] begins at [0]"),
        ] {
            assert_eq!(told(&[4, 6], pieces), Err(why.into()));
        }
        // a scalar twice
        assert!(told(&[], &[(&[], &[]), (&[], &[])]).is_err());
    }

    /// A file of torch.save() that holds what a pickle makes.
    fn saved(pickle: &[u8]) -> Vec<u8> {
        let name = b"step/data.pkl";
        let [len, width] = [pickle.len(), name.len()].map(|it| u32::try_from(it).unwrap().to_le_bytes());
        // stored, without a sum
        let told = [&[0; 12][..], &len, &len, &width[..2], &[0; 2]].concat();
        let mut file = [b"PK\x03\x04\x14\0", &told[..], name, pickle].concat();
        let entry = [b"PK\x01\x02\x14\0\x14\0", &told[..], &[0; 14], name].concat();
        let [start, size] = [file.len(), entry.len()].map(|it| u32::try_from(it).unwrap().to_le_bytes());
        let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &size[..], &start, &[0; 2]].concat();
        file.extend([entry, end].concat());
        file
    }

    #[test]
    fn steps_are_counted_in_numbers_too() {
        for (pickle, expected) in [
            (&b"K\x03."[..], Some(3.0)),
            (b"G@\x08\0\0\0\0\0\0.", Some(3.0)),
            (b"}X\x05\0\0\0paramK\x03s.", Some(3.0)),
            (b"N.", None),
            (b"X\x01\0\0\x003.", None),
        ] {
            let file = saved(pickle);
            let len = file.len() as u64;
            let files = crate::files::memory::Memory::new([("step.pt", file)]);
            let Ok(found) = steps(&files, "step.pt", len) else { panic!("{pickle:?} is refused") };
            assert_eq!(found, expected, "{pickle:?}");
        }
    }
}
