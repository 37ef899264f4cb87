//! torch.distributed.checkpoint (FSDP, torchtitan, accelerate, Megatron's torch_dist): a pickled table of chunks, and files of a rank each
//! in which every chunk is what `torch.save()` writes of one tensor.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use super::{
    Counted, Found, Opened, Part, TORN, Whole, alike, assembled, no_squares, number, numbers, some, state,
    steps, torn,
};
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Kind, Maybe, all, is_file, is_inside, join, last, leads_out};
use crate::format::torch::choose::{Chosen, entry};
use crate::format::torch::optimizer::{self, SQUARES};
use crate::format::torch::pickle::{Id, Node, Pickle, TABLE_VALUES, Trouble};
use crate::format::torch::zip::{self, Sum};
use crate::format::torch::{self, PICKLE_LIMIT};
use crate::format::view::Piece;
use crate::text::index::Index;

/// The table of what lies where.
const TABLE: &str = ".metadata";
/// Around a chunk's numbers lie a pickle in front and a directory behind: so many bytes are read of each at once.
const HEAD: u64 = 4096;
/// Dictionaries that programs put around their model's.
const AROUND: [&str; 7] = ["app", "state_dict", "model_state_dict", "model", "module", "net", "network"];
/// How words of names begin whose tensors are the trainer's own.
const STATES: [&str; 11] = [
    "optim",
    "sched",
    "lr_sched",
    "scaler",
    "sampler",
    "rng",
    "dataloader",
    "train_state",
    "chained",
    "common_state",
    "rerun_state",
];
/// Megatron's names of the optimizer's own weights begin so, after which the model's names follow.
const MASTERS: &str = "optimizer.state.fp32_param.";

/// A tensor of the table.
struct Listed<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<u64>,
    /// Where each chunk begins, and its sizes.
    chunks: Vec<(Vec<u64>, Vec<u64>)>,
}

/// Where something lies.
struct Stored<'a> {
    name: &'a str,
    /// None for what is no tensor.
    offsets: Option<Vec<u64>>,
    file: &'a str,
    start: u64,
    len: u64,
    is_transformed: bool,
}

/// What a table says.
struct Table<'a> {
    tensors: Vec<Listed<'a>>,
    /// The names of what is no tensor.
    objects: Vec<&'a str>,
    /// Sorted by name and offsets.
    stored: Vec<Stored<'a>>,
    /// The names by which the dictionaries lead to a tensor, by its name, sorted.
    paths: Vec<(&'a str, Vec<&'a str>)>,
}

/// Read a folder's table: its path and bytes.
fn read<'f>(files: &'f dyn Files, folder: &str) -> Maybe<(String, Cow<'f, [u8]>)> {
    let path = join(folder, TABLE);
    if !is_file(files, &path)? {
        let detail = "has no .metadata, which is written last";
        return Err(Error::new(ErrorKind::Input, detail).file(folder).help(TORN).into());
    }
    let bytes = crate::files::bytes(files, &path, PICKLE_LIMIT)?;
    Ok((path, bytes))
}

pub(super) fn open(files: &dyn Files, folder: &str, key: Option<&str>) -> Maybe<Opened> {
    let (path, bytes) = read(files, folder)?;
    let at = |error: Error| error.file(&*path);
    let pickle = Pickle::read_most(&bytes, TABLE_VALUES).map_err(Trouble::error).map_err(at)?;
    let table = Table::read(&pickle).map_err(at)?;
    let mut notes = Vec::new();
    let names = table.check(files, folder, &path, &mut notes)?;
    let (kept, masters) = table.kept(key).map_err(|error| error.file(folder))?;
    notes.extend(table.left_out(&kept));
    if let Some((count, was)) = masters {
        notes.push(format!(
            "the optimizer's f32 weights are taken for {count} of {} tensors, which the model has as {was} \
             (--weights-key model takes the model's)",
            kept.len()
        ));
    }
    let (parts, tensors) = table.placed(files, folder, (&path, bytes.len()), &names, kept)?;
    let files = assembled(parts, tensors).map_err(at)?;
    Ok(Opened { files, step: None, notes })
}

/// The second moments of the weights in a folder: there, or in the folder beside it that accelerate leaves the optimizer in.
pub(super) fn squares(files: &dyn Files, checkpoint: &str, folder: &str) -> Maybe<Found> {
    let number = last(folder).strip_prefix("pytorch_model_fsdp_").filter(|_| folder != checkpoint);
    let folder =
        &*number.map_or_else(|| folder.to_owned(), |it| join(checkpoint, &format!("optimizer_{it}")));
    let (path, bytes) = read(files, folder)?;
    let at = |error: Error| error.file(&*path);
    let pickle = Pickle::read_most(&bytes, TABLE_VALUES).map_err(Trouble::error).map_err(at)?;
    let table = Table::read(&pickle).map_err(at)?;
    let names = table.check(files, folder, &path, &mut Vec::new())?;
    let kept: Vec<_> =
        table.tensors.iter().filter_map(|listed| Some((squared(listed.name)?.to_owned(), listed))).collect();
    let Some((_, first)) = kept.first() else {
        let groups = table.groups(&[]);
        let detail = format!("holds no `exp_avg_sq`: {}", some(groups.iter().map(|(group, _)| *group)));
        let error = no_squares(detail).file(folder);
        let is_model = last(folder).starts_with("pytorch_model_fsdp_");
        let around = "give the folder around it, in which the optimizer's lies too";
        return Err(if is_model { error.help_instead(around) } else { error }.into());
    };
    let counted = table.counted(files, folder, first.name).map_err(|stop| stop.file(&path))?;
    let (parts, tensors) = table.placed(files, folder, (&path, bytes.len()), &names, kept)?;
    Ok(Found { parts, tensors, counted })
}

/// The checksums of chunks, where [`super::sums`] wants them.
pub(super) fn sums(
    files: &dyn Files,
    folder: &str,
    wanted: &dyn Fn(&str, &Range<u64>) -> bool,
) -> Maybe<Vec<(String, Sum)>> {
    let (path, bytes) = read(files, folder)?;
    let at = |error: Error| error.file(&*path);
    let pickle = Pickle::read_most(&bytes, TABLE_VALUES).map_err(Trouble::error).map_err(at)?;
    let table = Table::read(&pickle).map_err(at)?;
    let mut found = Vec::new();
    for stored in table.stored.iter().filter(|stored| stored.offsets.is_some()) {
        let (file, range) = (join(folder, stored.file), stored.start..stored.start + stored.len);
        if wanted(&file, &range) {
            let slice = Slice::new(files, &file, range)?;
            let sums = zip::sums(&slice, &file, stored.len).map_err(|stop| stop.file(&file))?;
            found.extend(sums.into_iter().map(|sum| (file.clone(), sum.behind(stored.start))));
        }
    }
    Ok(found)
}

/// The weight whose squares of gradients a tensor has: `optimizer.state.NAME.exp_avg_sq`, or as Megatron names it.
fn squared(name: &str) -> Option<&str> {
    // an application has its optimizer in a dictionary of its own
    let (_, rest) = name.split_once(".state.").filter(|(before, _)| before.split('.').any(is_state))?;
    rest.strip_suffix(SQUARES).or_else(|| rest.strip_prefix("exp_avg_sq."))
}

impl<'a> Table<'a> {
    /// What tensors of the table are, and the files that they lie in, behind the table itself.
    fn placed(
        &self,
        files: &dyn Files,
        folder: &str,
        (path, len): (&str, usize),
        names: &[(&'a str, u64)],
        kept: Vec<(String, &Listed<'a>)>,
    ) -> Maybe<(Vec<Part>, Vec<Whole>)> {
        let at = |error: Error| error.file(path);
        let mut stored = Vec::new();
        for (_, listed) in &kept {
            for (offsets, _) in &listed.chunks {
                stored.push(self.find(listed.name, offsets).map_err(at)?);
            }
        }
        let mut used: Vec<&str> = stored.iter().map(|stored| stored.file).collect();
        used.sort_unstable();
        used.dedup();
        let mut parts = Vec::from([(path.to_owned(), len as u64)]);
        for name in &used {
            let len = names.iter().find(|(known, _)| known == name).map_or(0, |(_, len)| *len);
            parts.push((join(folder, name), len));
        }
        let read = |stored: &&Stored<'_>| {
            let file = join(folder, stored.file);
            let slice = Slice::new(files, &file, stored.start..stored.start + stored.len)?;
            torch::only(&slice, &file, stored.len)
                .map_err(|stop| match stop {
                    crate::files::Stop::Failed(error) => error.tensor(stored.name).into(),
                    later => later,
                })
                .map_err(|stop| stop.file(&file))
        };
        let read = all(stored.iter().map(read))?;
        let mut found = stored.iter().zip(read);
        let mut tensors = Vec::with_capacity(kept.len());
        for (name, listed) in kept {
            let mut pieces = Vec::with_capacity(listed.chunks.len());
            for (offsets, sizes) in &listed.chunks {
                let (stored, one) = found.next().expect("there is one for each chunk");
                if one.dtype != listed.dtype || one.shape != *sizes {
                    let detail = format!(
                        "is {} {:?} there, but {} {sizes:?} in .metadata",
                        one.dtype, one.shape, listed.dtype
                    );
                    return Err(torn(detail).file(join(folder, stored.file)).tensor(listed.name).into());
                }
                let file = used.binary_search(&stored.file).expect("all are in it") + 1;
                pieces.push(Piece {
                    file: Some(file),
                    start: stored.start + one.start,
                    offsets: offsets.clone(),
                    sizes: sizes.clone(),
                    steps: one.steps,
                });
            }
            let (dtype, shape) = (listed.dtype, listed.shape.clone());
            tensors.push(Whole { name, dtype, shape, pieces, is_flat: false });
        }
        Ok((parts, tensors))
    }

    /// The decay of the moments, and how many steps those of this tensor took.
    fn counted(&self, files: &dyn Files, folder: &str, name: &str) -> Maybe<Counted> {
        let lies = |stored: &&Stored<'_>| {
            let file = join(folder, stored.file);
            Slice::new(files, &file, stored.start..stored.start + stored.len)
                .map(|slice| (file, slice, stored.len))
        };
        let is_betas = |stored: &&Stored<'_>| stored.offsets.is_none() && stored.name.ends_with(".betas");
        let mut betas = Vec::new();
        for opened in all(self.stored.iter().filter(is_betas).map(|it| lies(&it)))? {
            let (file, slice, len) = opened;
            torch::picked(&slice, &file, len, &mut |pickle| {
                betas.push(optimizer::betas(pickle, pickle.root)[1]);
                Ok(Chosen::plain(Vec::new()))
            })?;
        }
        let step = name.strip_suffix(SQUARES).map(|name| format!("{name}.step"));
        let step =
            self.stored.iter().find(|stored| Some(stored.name) == step.as_deref() && !stored.is_transformed);
        let Some((beta, (file, slice, len))) =
            alike(betas.into_iter()).zip(step.map(|it| lies(&it)).transpose()?)
        else {
            return Ok(None);
        };
        Ok(steps(&slice, &file, len)?.map(|steps| (beta, steps)))
    }

    fn read(pickle: &'a Pickle<'_>) -> Result<Self> {
        let bad = || {
            Error::new(
                ErrorKind::Header,
                "is not the table of a torch distributed (DCP) checkpoint that is known here",
            )
            .help("save the checkpoint again with a newer torch, or gather it with torch's dcp_to_torch")
        };
        let root = state(pickle, pickle.root, "Metadata").ok_or_else(bad)?;
        let listed = |name| entry(pickle, root, name).and_then(|id| pickle.entries(id));
        let (mut tensors, mut objects) = (Vec::new(), Vec::new());
        for (name, value) in listed("state_dict_metadata").ok_or_else(bad)? {
            let name = pickle.text_of(*name).ok_or_else(bad)?;
            match state(pickle, *value, "TensorStorageMetadata") {
                Some(told) => {
                    tensors.push(Listed::read(pickle, name, told).ok_or_else(|| bad().tensor(name))??);
                }
                None => objects.push(name),
            }
        }
        let mut stored = Vec::new();
        for (index, info) in listed("storage_data").ok_or_else(bad)? {
            stored.push(Stored::read(pickle, *index, *info).ok_or_else(bad)?);
        }
        stored.sort_by(|a, b| (a.name, &a.offsets).cmp(&(b.name, &b.offsets)));
        let mut paths = Vec::new();
        for (name, path) in listed("planner_data").unwrap_or_default() {
            if let (Some(name), Node::Tuple(path) | Node::List(path)) =
                (pickle.text_of(*name), pickle.node(*path))
            {
                let texts: Option<Vec<_>> = path.iter().map(|id| pickle.text_of(*id)).collect();
                paths.extend(texts.map(|texts| (name, texts)));
            }
        }
        paths.sort_unstable();
        Ok(Self { tensors, objects, stored, paths })
    }

    /// That all files are there and as long as the table says, and that nothing lies upon anything else; their names and lengths.
    fn check(
        &self,
        files: &dyn Files,
        folder: &str,
        path: &str,
        notes: &mut Vec<String>,
    ) -> Maybe<Vec<(&'a str, u64)>> {
        let mut order: Vec<&Stored<'_>> = self.stored.iter().collect();
        order.sort_unstable_by_key(|stored| (stored.file, stored.start));
        let mut names: Vec<_> = order.iter().map(|stored| stored.file).collect();
        names.dedup();
        let sizes = all(names.iter().map(|name| {
            let file = join(folder, name);
            let refused = |detail: String, help: &'static str| {
                Err(Error::new(ErrorKind::Input, detail).file(path).help(help).into())
            };
            if !is_inside(name) {
                return refused(format!("names the file `{name}`, which is not in its folder"), TORN);
            }
            match files.kind(&file)? {
                Kind::File(_) if leads_out(files, folder, &file)? => refused(
                    format!("names {name}, which is a link out of the checkpoint"),
                    "put the file itself there",
                ),
                Kind::File(len) => Ok(len),
                _ => refused(format!("names {name}, which is missing: its rank did not finish"), TORN),
            }
        }))?;
        let found: Vec<(&'a str, u64)> = names.iter().copied().zip(sizes).collect();
        for (at, stored) in order.iter().enumerate() {
            let len = found[found.partition_point(|(name, _)| *name < stored.file)].1;
            let end = stored.start.checked_add(stored.len).filter(|end| *end <= len);
            let Some(end) = end else {
                let detail = format!(
                    "has {len} bytes, but by .metadata {} of them lie from byte {} on: the file is cut short",
                    stored.len, stored.start
                );
                return Err(torn(detail).file(join(folder, stored.file)).tensor(stored.name).into());
            };
            let next = order.get(at + 1).filter(|next| next.file == stored.file && next.start < end);
            if let Some(next) = next {
                let detail = format!("overlaps `{}` in {}", next.name, stored.file);
                return Err(torn(detail).file(path).tensor(stored.name).into());
            }
        }
        let unknown: Vec<_> = files
            .list(folder)?
            .into_iter()
            .filter(|name| name.ends_with(".distcp") && !names.contains(&name.as_str()))
            .collect();
        if !unknown.is_empty() {
            let names = some(unknown.iter().map(String::as_str));
            notes.push(format!("{folder}: .metadata does not name {names}, which belongs to another save"));
        }
        Ok(found)
    }

    /// The weights, by the names that they have in the model; and for how many the optimizer's own are taken, instead of which dtype.
    #[expect(clippy::type_complexity, reason = "it is said once")]
    fn kept(&self, key: Option<&str>) -> Result<(Vec<(String, &Listed<'a>)>, Option<(usize, Dtype)>)> {
        let mut kept: Vec<_> =
            self.tensors.iter().filter_map(|listed| Some((self.name(listed.name)?, listed))).collect();
        if let Some(odd) = key.filter(|key| *key != "model") {
            let detail = format!("has no weights under `{odd}`");
            return Err(
                Error::new(ErrorKind::Input, detail).help("leave out --weights-key, or choose `model`")
            );
        }
        if kept.is_empty() {
            let groups = self.groups(&[]);
            let detail = format!("holds no weights: {}", some(groups.iter().map(|(group, _)| *group)));
            return Err(Error::new(ErrorKind::Input, detail)
                .help("give the folder that the model was saved to, such as pytorch_model_fsdp_0"));
        }
        if key.is_some() {
            return Ok((kept, None));
        }
        // Megatron's alone
        let masters: Vec<_> = self
            .tensors
            .iter()
            .filter_map(|listed| Some((listed.name.split_once(MASTERS)?.1, listed)))
            .filter(|(_, listed)| listed.dtype == Dtype::F32)
            .collect();
        let index = Index::new(masters.iter().map(|(name, _)| *name));
        let mut taken = None;
        for (_, listed) in kept.iter_mut().filter(|(_, listed)| listed.dtype != Dtype::F32) {
            let master = index.place(listed.name).map(|at| masters[at].1);
            if let Some(master) = master.filter(|master| master.shape == listed.shape) {
                let (count, dtype) = taken.unwrap_or((0, listed.dtype));
                taken = Some((count + 1, dtype));
                *listed = master;
            }
        }
        Ok((kept, taken))
    }

    /// The name of a tensor in the model; none for what is the trainer's.
    fn name(&self, name: &'a str) -> Option<String> {
        let path =
            self.paths.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(|at| &self.paths[at].1);
        match path.and_then(|path| path.split_last()) {
            Some((last, before)) => {
                if before.iter().chain(before.is_empty().then_some(last)).any(|part| is_state(part)) {
                    return None;
                }
                let around = before.iter().take_while(|part| AROUND.contains(*part)).count();
                let parts: Vec<&str> = before[around..].iter().copied().chain([*last]).collect();
                Some(parts.join("."))
            }
            None => (!is_state(name)).then(|| name.to_owned()),
        }
    }

    /// What is left out, with how many tensors and other things: the trainer's by the first of its names, others by the last.
    fn groups(&self, kept: &[(String, &Listed<'a>)]) -> Vec<(&'a str, usize)> {
        // the optimizer's weights stand for the model's
        let both = |name: &'a str| [Some(name), name.split_once(MASTERS).map(|(_, name)| name)];
        let mut taken: Vec<_> = kept.iter().flat_map(|(_, listed)| both(listed.name)).flatten().collect();
        taken.sort_unstable();
        let label = |name: &'a str| match is_state(name) {
            true => name.split(['.', '/']).next().unwrap_or(name),
            false => name.split('/').next().and_then(|name| name.rsplit('.').next()).unwrap_or(name),
        };
        let tensors =
            self.tensors.iter().map(|listed| listed.name).filter(|name| taken.binary_search(name).is_err());
        let mut groups: Vec<_> = tensors.chain(self.objects.iter().copied()).map(label).collect();
        groups.sort_unstable();
        let mut counted: Vec<(&str, usize)> = Vec::new();
        for group in groups {
            match counted.last_mut().filter(|(last, _)| *last == group) {
                Some((_, count)) => *count += 1,
                None => counted.push((group, 1)),
            }
        }
        counted
    }

    fn left_out(&self, kept: &[(String, &Listed<'a>)]) -> Option<String> {
        let groups = self.groups(kept);
        if groups.is_empty() {
            return None;
        }
        let each: Vec<_> = groups.iter().map(|(group, count)| format!("`{group}` ({count})")).collect();
        Some(format!("the weights alone are taken; left out: {}", each.join(", ")))
    }

    /// Where a chunk lies.
    fn find(&self, name: &str, offsets: &Vec<u64>) -> Result<&Stored<'a>> {
        let order = |stored: &Stored<'_>| {
            stored.name.cmp(name).then_with(|| stored.offsets.as_ref().cmp(&Some(offsets)))
        };
        let Ok(at) = self.stored.binary_search_by(order) else {
            return Err(torn(format!("has a chunk at {offsets:?} that lies in no file")).tensor(name));
        };
        let stored = &self.stored[at];
        if stored.is_transformed {
            let detail = "is stored compressed or otherwise transformed";
            return Err(Error::new(ErrorKind::Input, detail)
                .tensor(name)
                .help("save the checkpoint without extensions of its storage writer"));
        }
        Ok(stored)
    }
}

impl<'a> Listed<'a> {
    fn read(pickle: &'a Pickle<'_>, name: &'a str, told: Id) -> Option<Result<Self>> {
        let properties = state(pickle, entry(pickle, told, "properties")?, "TensorProperties")?;
        let Node::Tuple(properties) = pickle.node(properties) else { return None };
        let Node::Global(_, dtype) = pickle.node(*properties.first()?) else { return None };
        let shape = numbers(pickle, entry(pickle, told, "size")?)?;
        let Node::List(list) = pickle.node(entry(pickle, told, "chunks")?) else { return None };
        let mut chunks = Vec::with_capacity(list.len());
        for chunk in list {
            let told = state(pickle, *chunk, "ChunkStorageMetadata")?;
            let of = |field| numbers(pickle, entry(pickle, told, field)?);
            chunks.push((of("offsets")?, of("sizes")?));
        }
        // ranks without a part of it write none
        if chunks.iter().any(|(_, sizes)| !sizes.contains(&0)) {
            chunks.retain(|(_, sizes)| !sizes.contains(&0));
        }
        let dtype = pickle.text(dtype);
        Some(match torch::dtype(dtype) {
            Some(dtype) => Ok(Self { name, dtype, shape, chunks }),
            None => {
                let detail = format!("is of the kind {dtype}, which cannot be merged");
                Err(Error::new(ErrorKind::Dtype, detail).tensor(name).help("save it as plain numbers first"))
            }
        })
    }
}

impl<'a> Stored<'a> {
    fn read(pickle: &'a Pickle<'_>, index: Id, info: Id) -> Option<Self> {
        let index = state(pickle, index, "MetadataIndex")?;
        let info = state(pickle, info, "_StorageInfo")?;
        let number = |field| number(pickle, entry(pickle, info, field)?);
        let transforms = entry(pickle, info, "transform_descriptors").map(|id| pickle.node(id));
        Some(Self {
            name: pickle.text_of(entry(pickle, index, "fqn")?)?,
            offsets: entry(pickle, index, "offset").and_then(|id| numbers(pickle, id)),
            file: pickle.text_of(entry(pickle, info, "relative_path")?)?,
            start: number("offset")?,
            len: number("length")?,
            is_transformed: !matches!(transforms, None | Some(Node::Nothing))
                && !matches!(transforms, Some(Node::List(all) | Node::Tuple(all)) if all.is_empty()),
        })
    }
}

/// Whether one of the words of a name is the trainer's.
fn is_state(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    STATES.iter().any(|state| first.starts_with(state))
}

/// A range of a file as a file, whose ends are read already.
struct Slice<'a> {
    files: &'a dyn Files,
    range: Range<u64>,
    head: Cow<'a, [u8]>,
    tail: Cow<'a, [u8]>,
}

impl<'a> Slice<'a> {
    fn new(files: &'a dyn Files, path: &str, range: Range<u64>) -> Maybe<Self> {
        let from = range.start.max(range.end.saturating_sub(torch::TAIL));
        let tail = files.read(path, from..range.end);
        // the end of a short chunk is all of it
        let head = if from == range.start {
            Ok(Cow::Borrowed(&[][..]))
        } else {
            files.read(path, range.start..range.end.min(range.start + HEAD))
        };
        let [head, tail]: [_; 2] = all([head, tail])?.try_into().expect("two were read");
        Ok(Self { files, range, head, tail })
    }
}

impl Files for Slice<'_> {
    fn kind(&self, _: &str) -> Maybe<Kind> {
        Ok(Kind::File(self.range.end - self.range.start))
    }

    fn list(&self, _: &str) -> Maybe<Vec<String>> {
        Ok(Vec::new())
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        let len = self.range.end - self.range.start;
        let (start, end) = (range.start.min(len), range.end.min(len));
        let within = |bytes: &'_ [u8], from: u64| {
            let [start, end] =
                [start, end].map(|at| at.checked_sub(from).and_then(|at| usize::try_from(at).ok()));
            start.zip(end).filter(|(start, end)| start <= end && *end <= bytes.len())
        };
        if let Some((start, end)) = within(&self.head, 0) {
            return Ok(Cow::Borrowed(&self.head[start..end]));
        }
        if let Some((start, end)) = within(&self.tail, len - self.tail.len() as u64) {
            return Ok(Cow::Borrowed(&self.tail[start..end]));
        }
        self.files.read(path, self.range.start + start..self.range.start + end.max(start))
    }

    fn identity(&self, path: &str) -> Maybe<String> {
        Ok(path.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_those_of_an_optimizer_wherever_that_lies() {
        for (name, expected) in [
            ("optimizer.state.layers.0.weight.exp_avg_sq", Some("layers.0.weight")),
            ("optim.state.layers.0.weight.exp_avg_sq", Some("layers.0.weight")),
            ("app.optim.state.net1.weight.exp_avg_sq", Some("net1.weight")),
            ("optimizer.state.exp_avg_sq.decoder.weight", Some("decoder.weight")),
            ("chained_0.optimizer.state.exp_avg_sq.decoder.weight", Some("decoder.weight")),
            ("optimizer.state.layers.0.weight.exp_avg", None),
            ("app.model.state.weight.exp_avg_sq", None),
            ("model.exp_avg_sq", None),
        ] {
            assert_eq!(squared(name), expected, "{name}");
        }
    }
}
