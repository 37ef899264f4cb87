//! DeepSpeed's ZeRO: f32 weights in flat partitions of the ranks, cut without regard to where tensors end.
//!
//! Stages 1 and 2 keep the whole model in 16 bits beside them, and lay the parameters of each group end to end over the ranks. Stage 3
//! gives each rank a part of every parameter, and has the model nowhere whole (DeepSpeed's `zero_to_fp32.py` reads both).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    Found, Opened, Part, Whole, alike, assembled, counted, no_squares, number, numbers, scalar, some, state,
    torn,
};
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, all, join, size};
use crate::format::torch::choose::{Chosen, entry};
use crate::format::torch::pickle::{Id, Node, Pickle, Tensor};
use crate::format::torch::{self, Lies, optimizer};
use crate::format::view::Piece;
use crate::text::index::Index;

/// How files end that hold a model, and an optimizer's part of a rank.
pub(super) const MODEL: &str = "_model_states.pt";
const OPTIMIZER: &str = "_optim_states.pt";
/// The model's key, which takes its weights as they are.
pub(super) const MODULE: &str = "module";
/// So many elements end to end are filled up to a multiple of this times the number of ranks.
const ALIGNMENT: u64 = 2;

/// What a model's file says.
#[derive(Default)]
pub(super) struct Model {
    /// The parameters that are trained, in the order in which they lie in each group.
    pub(super) groups: Vec<Vec<(String, Vec<u64>)>>,
    frozen: Vec<(String, Vec<u64>)>,
    /// Other names of parameters.
    pub(super) shared: Vec<(String, String)>,
    pub(super) buffers: Vec<String>,
    pub(super) step: Option<u64>,
    /// How many ranks have a part of it.
    ranks: Option<u64>,
    /// The tensors of the module, and the parts of frozen ones.
    pub(super) module: Vec<(String, Lies)>,
    fragments: Vec<(String, Lies)>,
}

/// What an optimizer's file says.
#[derive(Default)]
struct Shard {
    partitions: Vec<Lies>,
    count: Option<u64>,
    /// What is filled up behind each parameter of each group, in elements.
    paddings: Vec<Vec<u64>>,
    /// Of each group, which parameter has how many elements from where on, sorted.
    fragments: Vec<Vec<(String, u64, u64)>>,
    /// Where it counts steps, unless it does in a number.
    step: Option<Lies>,
    steps: Vec<u8>,
    counted: Option<f64>,
    /// Where the second moments of each partition lie, if these are wanted; and their decays.
    squares: Vec<Lies>,
    betas: Vec<Option<f64>>,
}

pub(super) fn open(files: &dyn Files, folder: &str, key: Option<&str>) -> Maybe<Opened> {
    let names = files.list(folder)?;
    let at = |error: Error| error.file(folder);
    let (models, optimizers) = sorted(&names).map_err(at)?;
    let read = |name: &&str| {
        let path = join(folder, name);
        Model::read(files, &path).map_err(|stop| stop.file(&path))
    };
    let is_whole = models.iter().all(|name| !name.contains("zero_pp_rank_"));
    match key {
        None => {}
        Some(MODULE) if is_whole => {
            // of rank 0: another would be one of the same rank, which sorted() refuses
            let model = read(&models[0])?;
            let path = join(folder, models[0]);
            let parts = Vec::from([(path.clone(), size(files, &path)?)]);
            let tensors = model.module.into_iter().map(|(name, lies)| whole(name, 0, lies)).collect();
            let notes = Vec::from([
                "the weights of DeepSpeed's module are taken, not the optimizer's f32 ones".into(),
            ]);
            return Ok(Opened { files: assembled(parts, tensors).map_err(at)?, step: model.step, notes });
        }
        Some(key) => {
            let help = if is_whole { "choose `module`, or leave it out" } else { "leave out --weights-key" };
            let detail = format!("has no weights under `{key}`");
            return Err(Error::new(ErrorKind::Input, detail).file(folder).help(help).into());
        }
    }
    let (mut read, shards) = ranks(files, folder, (&models, &optimizers), false)?;
    let parts = sized(files, folder, models.iter().chain(&optimizers))?;
    let ranks = shards.len() as u64;
    let fragments: Vec<_> = read.iter_mut().map(|model| core::mem::take(&mut model.fragments)).collect();
    let Model { groups, frozen, shared, module, step, .. } = read.swap_remove(0);
    let first = models.len();
    let mut tensors = if is_whole {
        flat(&groups, &shards, first).map_err(at)?
    } else {
        if fragments.len() as u64 != ranks {
            let detail =
                format!("has model files of {} ranks, but optimizer files of {ranks}", fragments.len());
            return Err(torn(detail).file(folder).into());
        }
        let mut tensors = parted(&groups, &shards, first).map_err(at)?;
        for (name, shape) in &frozen {
            tensors.push(unfrozen(name, shape, &fragments).map_err(at)?);
        }
        tensors
    };
    let masters = tensors.len() - if is_whole { 0 } else { frozen.len() };
    let others = rest(&mut tensors, module, &shared, 0);
    let notes = Vec::from([told(masters, is_whole, &others)]);
    Ok(Opened { files: assembled(parts, tensors).map_err(at)?, step, notes })
}

/// What else has weights than what [`open`] takes: the module in 16 bits and the frozen weights beside it; of a model that is cut, the buffers of
/// the other ranks.
pub(super) fn copies(files: &dyn Files, folder: &str) -> Maybe<Vec<Opened>> {
    let names = files.list(folder)?;
    let at = |error: Error| error.file(folder);
    let (models, _) = sorted(&names).map_err(at)?;
    let is_whole = models.iter().all(|name| !name.contains("zero_pp_rank_"));
    let mut copies = Vec::new();
    for part in sized(files, folder, models.iter())? {
        let model = Model::read(files, &part.0).map_err(|stop| stop.file(&part.0))?;
        let Model { module, buffers, frozen, fragments, .. } = model;
        let module = module.into_iter().filter(|(name, _)| is_whole || buffers.contains(name));
        let is_frozen = |(name, lies): &(String, Lies)| {
            frozen.iter().any(|(it, shape)| it == name && *shape == lies.shape)
        };
        let frozen = fragments.into_iter().filter(|it| is_whole && is_frozen(it));
        for tensors in [module.collect::<Vec<_>>(), frozen.collect()] {
            let tensors = tensors.into_iter().map(|(name, lies)| whole(name, 0, lies)).collect();
            let files = assembled(Vec::from([part.clone()]), tensors).map_err(at)?;
            copies.push(Opened { files, step: None, notes: Vec::new() });
        }
    }
    Ok(copies)
}

/// The second moments, which lie as the f32 weights do.
pub(super) fn squares(files: &dyn Files, folder: &str) -> Maybe<Found> {
    let names = files.list(folder)?;
    let at = |error: Error| error.file(folder);
    let (models, optimizers) = sorted(&names).map_err(at)?;
    let (mut read, mut shards) = ranks(files, folder, (&models, &optimizers), true)?;
    for (name, shard) in optimizers.iter().zip(&mut shards) {
        let Shard { partitions, squares, .. } = shard;
        let fits = |(lies, squares): (&Lies, &Lies)| squares.shape[0] >= lies.shape[0];
        if squares.len() != partitions.len() || !partitions.iter().zip(&*squares).all(fits) {
            let detail = "keeps no `exp_avg_sq` of each of its partitions";
            return Err(no_squares(detail).file(join(folder, name)).into());
        }
        // they may be filled up at the end
        partitions.iter_mut().zip(squares).for_each(|(lies, squares)| lies.start = squares.start);
    }
    let Model { groups, shared, .. } = read.swap_remove(0);
    let is_whole = models.iter().all(|name| !name.contains("zero_pp_rank_"));
    let tensors = if is_whole { flat(&groups, &shards, 0) } else { parted(&groups, &shards, 0) };
    let mut tensors = tensors.map_err(at)?;
    rest(&mut tensors, Vec::new(), &shared, 0);
    let first = &shards[0];
    let step = first.step.as_ref().map_or(first.counted, |lies| scalar(lies, &first.steps));
    let counted = alike(first.betas.iter().copied()).zip(step);
    Ok(Found { parts: sized(files, folder, optimizers.iter())?, tensors, counted })
}

/// The paths and lengths of files.
fn sized<'n>(files: &dyn Files, folder: &str, names: impl Iterator<Item = &'n &'n str>) -> Maybe<Vec<Part>> {
    all(names.map(|name| {
        let path = join(folder, name);
        let len = size(files, &path)?;
        Ok((path, len))
    }))
}

/// Read the files of all ranks, which must be of one save; of optimizers the second moments too, if these are wanted.
fn ranks(
    files: &dyn Files,
    folder: &str,
    (models, optimizers): (&[&str], &[&str]),
    has_squares: bool,
) -> Maybe<(Vec<Model>, Vec<Shard>)> {
    let read = all(models.iter().map(|name| {
        let path = join(folder, name);
        Model::read(files, &path).map_err(|stop| stop.file(&path))
    }))?;
    let shards = all(optimizers.iter().map(|name| {
        let path = join(folder, name);
        Shard::read(files, &path, has_squares).map_err(|stop| stop.file(&path))
    }))?;
    let ranks = shards.len() as u64;
    for (name, shard) in optimizers.iter().zip(&shards) {
        let count = shard.count.or(read[0].ranks).unwrap_or(ranks);
        if count != ranks {
            let detail = format!("is of {count} ranks, but there are files of {ranks}");
            return Err(torn(detail).file(join(folder, name)).into());
        }
        if (&shard.steps, shard.counted) != (&shards[0].steps, shards[0].counted) {
            let detail = format!("has counted other steps than {}", optimizers[0]);
            return Err(torn(detail).file(join(folder, name)).into());
        }
    }
    if let Some((name, _)) = models.iter().zip(&read).find(|(_, model)| model.step != read[0].step) {
        let detail = format!("is of another step than {}", models[0]);
        return Err(torn(detail).file(join(folder, name)).into());
    }
    Ok((read, shards))
}

/// What is taken, and what is not.
fn told(masters: usize, is_whole: bool, others: &[String]) -> String {
    let way = if is_whole { " (--weights-key module takes the module's)" } else { "" };
    let others = from_module(others);
    format!("the f32 weights of DeepSpeed's optimizer are taken for {masters} tensors{way}{others}")
}

/// Which tensors are the module's.
pub(super) fn from_module(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; from the module: {}", some(others.iter().map(String::as_str))),
    }
}

/// Add what the module has and the optimizer does not: buffers, frozen weights, and other names of parameters. Gives what comes from the
/// module.
pub(super) fn rest(
    tensors: &mut Vec<Whole>,
    module: Vec<(String, Lies)>,
    shared: &[(String, String)],
    file: usize,
) -> Vec<String> {
    let index = Index::new(tensors.iter().map(|tensor| tensor.name.as_str()));
    let (mut added, mut others) = (Vec::new(), Vec::new());
    for (alias, name) in shared.iter().filter(|(alias, _)| !index.has(alias)) {
        let Some(at) = index.place(name) else { continue };
        let Whole { dtype, ref shape, ref pieces, is_flat, .. } = tensors[at];
        let (name, shape, pieces) = (alias.clone(), shape.clone(), pieces.clone());
        added.push(Whole { name, dtype, shape, pieces, is_flat });
    }
    for (name, lies) in module {
        let is_alias = shared.iter().any(|(alias, of)| *alias == name && index.has(of));
        if index.has(&name) || is_alias {
            continue;
        }
        others.push(name.clone());
        added.push(whole(name, file, lies));
    }
    tensors.extend(added);
    others
}

/// A tensor that lies in one place.
pub(super) fn whole(name: String, file: usize, lies: Lies) -> Whole {
    let Lies { dtype, shape, start, steps } = lies;
    let piece =
        Piece { file: Some(file), start, offsets: alloc::vec![0; shape.len()], sizes: shape.clone(), steps };
    Whole { name, dtype, shape, pieces: Vec::from([piece]), is_flat: false }
}

/// The files of models and those of optimizers, by rank.
fn sorted(names: &[String]) -> Result<(Vec<&str>, Vec<&str>)> {
    let other = |name: &str, what: &str| {
        let detail = format!("holds {name}: {what}, which is not read here");
        let help = "make a universal checkpoint of it with DeepSpeed's ds_to_universal.py, which is read";
        Err(Error::new(ErrorKind::Input, detail).help(help))
    };
    let (mut models, mut optimizers) = (Vec::new(), Vec::new());
    for name in names {
        let (ending, list) = if name.ends_with(MODEL) {
            (MODEL, &mut models)
        } else if name.ends_with(OPTIMIZER) {
            (OPTIMIZER, &mut optimizers)
        } else if name.starts_with("layer_") {
            return other(name, "a layer of a pipeline, or an expert");
        } else {
            continue;
        };
        let stem = &name[..name.len() - ending.len()];
        let Some((before, part)) = stem.rsplit_once("mp_rank_") else {
            return other(name, "a part of a model that is cut in an unknown way");
        };
        if part.parse() != Ok(0u64) {
            return other(name, "a part of a model that is cut by tensor parallelism");
        }
        let rank = match before {
            "" => Some(0u64),
            _ => before
                .trim_start_matches("bf16_")
                .strip_prefix("zero_pp_rank_")
                .and_then(|rank| rank.strip_suffix('_')?.parse().ok()),
        };
        match rank {
            Some(rank) => list.push((rank, before.starts_with("bf16_"), name.as_str())),
            None => return other(name, "a part of a mixture of experts"),
        }
    }
    for (list, what) in [(&mut models, MODEL), (&mut optimizers, OPTIMIZER)] {
        list.sort_unstable();
        if list.is_empty() {
            return Err(torn(format!("lacks its *{what} files")));
        }
        if let Some((at, (rank, _, name))) =
            list.iter().enumerate().find(|(at, (rank, ..))| *at as u64 != *rank)
        {
            let detail = if *rank < at as u64 {
                format!("has two files of rank {rank}, {name} among them")
            } else {
                format!("has no *{what} file of rank {at}: it did not finish")
            };
            return Err(torn(detail));
        }
    }
    let name = |(_, _, name)| name;
    Ok((models.into_iter().map(name).collect(), optimizers.into_iter().map(name).collect()))
}

/// Stages 1 and 2: the parameters of a group end to end over the partitions of the ranks.
fn flat(groups: &[Vec<(String, Vec<u64>)>], shards: &[Shard], file: usize) -> Result<Vec<Whole>> {
    let mut tensors = Vec::new();
    for (group, parameters) in groups.iter().enumerate() {
        let partitions = shards.iter().map(|shard| shard.partitions.get(group)).collect::<Option<Vec<_>>>();
        let partitions = partitions.ok_or_else(|| {
            torn(format!("has {} groups of parameters, but not of every rank", groups.len()))
        })?;
        let mut at = 0u64;
        let mut fragments: Vec<Vec<(String, u64, u64)>> = Vec::new();
        fragments.resize_with(shards.len(), Vec::new);
        for (number, (name, shape)) in parameters.iter().enumerate() {
            let count = count(name, shape)?;
            let mut pieces = Vec::new();
            let mut before = 0;
            for (rank, lies) in partitions.iter().enumerate() {
                let len = lies.shape[0];
                let (start, end) = (at.max(before), at.saturating_add(count).min(before + len));
                if start < end {
                    let place = lies.start + (start - before) * F32;
                    pieces.push(row(file + rank, place, start - at, end - start));
                    fragments[rank].push((name.clone(), start - before, end - start));
                }
                before += len;
            }
            tensors.push(rows(name, Dtype::F32, shape, pieces));
            let padding = shards[0].paddings.get(group).and_then(|paddings| paddings.get(number)).copied();
            at = at.saturating_add(count).saturating_add(padding.unwrap_or(0));
        }
        let have: u64 = partitions.iter().map(|lies| lies.shape[0]).sum();
        let unit = ALIGNMENT * shards.len() as u64;
        if at.div_ceil(unit) != have.div_ceil(unit) {
            let detail = format!("has {have} elements in group {group}, but its parameters have {at}");
            return Err(torn(detail));
        }
        for (rank, mut found) in fragments.into_iter().enumerate() {
            found.sort_unstable();
            if let Some(said) =
                shards[rank].fragments.get(group).filter(|said| !said.is_empty() && **said != found)
            {
                let odd = said
                    .iter()
                    .zip(&found)
                    .find(|(a, b)| a != b)
                    .map_or("its parameters", |(a, _)| a.0.as_str());
                let detail = format!(
                    "cuts group {group} otherwise than its partitions are long, at {odd}, in rank {rank}"
                );
                return Err(torn(detail));
            }
        }
    }
    Ok(tensors)
}

/// Stage 3: of each parameter an equal part in each rank, one after the other.
fn parted(groups: &[Vec<(String, Vec<u64>)>], shards: &[Shard], file: usize) -> Result<Vec<Whole>> {
    let ranks = shards.len() as u64;
    let mut tensors = Vec::new();
    let mut at = 0u64;
    for (name, shape) in groups.iter().flatten() {
        let count = count(name, shape)?;
        let part = count.div_ceil(ranks);
        let mut pieces = Vec::new();
        for (rank, shard) in shards.iter().enumerate() {
            let mut offset = part * rank as u64;
            let mut left = part.min(count.saturating_sub(offset));
            // a part may go on in the next partition
            let (mut before, mut from) = (0, at);
            for lies in &shard.partitions {
                let end = before + lies.shape[0];
                if left > 0 && from < end {
                    let len = left.min(end - from);
                    pieces.push(row(file + rank, lies.start + (from - before) * F32, offset, len));
                    (offset, left, from) = (offset + len, left - len, from + len);
                }
                before = end;
            }
        }
        tensors.push(rows(name, Dtype::F32, shape, pieces));
        at = at.saturating_add(part);
    }
    for (rank, shard) in shards.iter().enumerate() {
        let have: u64 = shard.partitions.iter().map(|lies| lies.shape[0]).sum();
        if have != at {
            let detail =
                format!("has {have} elements in rank {rank}, but its part of the parameters is {at}");
            return Err(torn(detail));
        }
    }
    Ok(tensors)
}

/// A frozen parameter of stage 3, of which each rank has a part.
fn unfrozen(name: &str, shape: &[u64], ranks: &[Vec<(String, Lies)>]) -> Result<Whole> {
    let count = count(name, shape)?;
    let mut pieces = Vec::new();
    let mut dtype = None;
    let mut offset = 0;
    for (rank, fragments) in ranks.iter().enumerate() {
        let found = fragments.iter().find(|(known, _)| known == name);
        let lies = found.map(|(_, lies)| lies).filter(|lies| lies.steps.is_none());
        let lies = lies.ok_or_else(|| torn(format!("lacks its part of rank {rank}")).tensor(name))?;
        let len = lies.shape.iter().product::<u64>().min(count - offset);
        if *dtype.get_or_insert(lies.dtype) != lies.dtype {
            return Err(torn(format!("is {} in rank {rank}, and not in all", lies.dtype)).tensor(name));
        }
        pieces.push(row(rank, lies.start, offset, len));
        offset += len;
    }
    Ok(rows(name, dtype.unwrap_or(Dtype::F32), shape, pieces))
}

/// Bytes of a number of the partitions.
const F32: u64 = 4;

/// How many numbers a tensor has.
fn count(name: &str, shape: &[u64]) -> Result<u64> {
    let count = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
    count.ok_or_else(|| torn("is larger than any file can be").tensor(name))
}

/// A tensor of which each piece is a row of its numbers.
fn rows(name: &str, dtype: Dtype, shape: &[u64], pieces: Vec<Piece>) -> Whole {
    Whole { name: name.to_owned(), dtype, shape: shape.to_vec(), pieces, is_flat: true }
}

/// A piece of a row of numbers.
fn row(file: usize, start: u64, offset: u64, len: u64) -> Piece {
    Piece { file: Some(file), start, offsets: Vec::from([offset]), sizes: Vec::from([len]), steps: None }
}

impl Model {
    pub(super) fn read(files: &dyn Files, path: &str) -> Maybe<Self> {
        let mut model = Self::default();
        let len = size(files, path)?;
        let found = torch::picked(files, path, len, &mut |pickle| model.take(pickle))?;
        for (name, lies) in found {
            match name.split_at(1) {
                (OF_MODULE, name) => model.module.push((name.to_owned(), lies)),
                (_, name) => model.fragments.push((name.to_owned(), lies)),
            }
        }
        Ok(model)
    }

    fn take<'a>(&mut self, pickle: &'a Pickle<'_>) -> Result<Chosen<'a>> {
        let root = pickle.root;
        let of = |name| entry(pickle, root, name);
        let text = |id: &Id| pickle.text_of(*id).map(String::from);
        let mut tensors = Vec::new();
        for (mark, key) in [(OF_MODULE, MODULE), (OF_FROZEN, "frozen_param_fragments")] {
            for (name, value) in of(key).and_then(|id| pickle.entries(id)).unwrap_or_default() {
                match (pickle.text_of(*name), pickle.node(*value)) {
                    (Some(name), Node::Tensor(tensor)) => tensors.push((format!("{mark}{name}"), &**tensor)),
                    (Some(name), Node::Other { holds_tensor: true, .. }) => {
                        let detail = "is no plain tensor, and cannot be merged";
                        return Err(Error::new(ErrorKind::Input, detail).tensor(name));
                    }
                    _ => {}
                }
            }
        }
        let shapes = |id: Id| -> Option<Vec<(String, Vec<u64>)>> {
            let one = |(name, shape): &(Id, Id)| Some((text(name)?, numbers(pickle, *shape)?));
            pickle.entries(id)?.iter().map(one).collect()
        };
        let unknown = || {
            Error::new(ErrorKind::Header, "does not say the shapes of its parameters as DeepSpeed does")
                .help("gather it with the zero_to_fp32.py that DeepSpeed wrote beside it")
        };
        self.groups = match of("param_shapes").map(|id| (id, pickle.node(id))) {
            Some((_, Node::List(groups))) => groups.iter().map(|id| shapes(*id)).collect::<Option<_>>(),
            Some((id, Node::Dict(_))) => shapes(id).map(|group| Vec::from([group])),
            _ => None,
        }
        .ok_or_else(unknown)?;
        if let Some(id) = of("frozen_param_shapes").filter(|id| pickle.entries(*id).is_some()) {
            self.frozen = shapes(id).ok_or_else(unknown)?;
        }
        let shared = of("shared_params").and_then(|id| pickle.entries(id)).unwrap_or_default();
        self.shared = shared.iter().filter_map(|(alias, name)| Some((text(alias)?, text(name)?))).collect();
        if let Some(Node::List(names)) = of("buffer_names").map(|id| pickle.node(id)) {
            self.buffers = names.iter().filter_map(text).collect();
        }
        self.step = of("global_steps").and_then(|id| number(pickle, id));
        self.ranks = of("dp_world_size").and_then(|id| number(pickle, id));
        Ok(Chosen::plain(tensors))
    }
}

/// What a tensor is of, before its name.
const OF_MODULE: &str = "m";
const OF_FROZEN: &str = "f";
const OF_STEP: &str = "s";
const OF_SQUARES: &str = "q";

impl Shard {
    fn read(files: &dyn Files, path: &str, has_squares: bool) -> Maybe<Self> {
        let mut shard = Self::default();
        let len = size(files, path)?;
        for (name, lies) in torch::picked(files, path, len, &mut |pickle| shard.take(pickle, has_squares))? {
            if name == OF_STEP {
                shard.step = Some(lies);
                continue;
            }
            if lies.dtype != Dtype::F32 || lies.steps.is_some() || lies.shape.len() != 1 {
                let detail = format!("has a partition of {} {:?}, not a row of F32", lies.dtype, lies.shape);
                return Err(torn(detail).into());
            }
            if name.starts_with(OF_SQUARES) { &mut shard.squares } else { &mut shard.partitions }.push(lies);
        }
        if let Some(lies) = &shard.step {
            let bytes = lies.dtype.bitsize() as u64 / 8;
            shard.steps = files.read(path, lies.start..lies.start + bytes)?.into_owned();
        }
        Ok(shard)
    }

    fn take<'a>(&mut self, pickle: &'a Pickle<'_>, has_squares: bool) -> Result<Chosen<'a>> {
        let root = entry(pickle, pickle.root, "optimizer_state_dict");
        let of = |name| entry(pickle, root?, name);
        let list = |id: Option<Id>| match id.map(|id| pickle.node(id)) {
            Some(Node::List(items) | Node::Tuple(items)) => Some(items.as_slice()),
            _ => None,
        };
        let partitions = list(of("single_partition_of_fp32_groups").or_else(|| of("fp32_flat_groups")));
        let partitions = partitions.ok_or_else(|| {
            Error::new(ErrorKind::Input, "has no f32 partitions, as ZeRO's stages 1 to 3 have them")
                .help("--weights-key module takes the weights of the module")
        })?;
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        for (group, id) in partitions.iter().enumerate() {
            let Node::Tensor(tensor) = pickle.node(*id) else {
                return Err(torn(format!("has no tensor as its partition {group}")));
            };
            // names are kept apart, and in order
            tensors.push((format!("{group:08}"), &**tensor));
        }
        self.count = of("partition_count")
            .and_then(|id| number(pickle, id).or_else(|| numbers(pickle, id)?.first().copied()));
        self.paddings = list(of("param_alignment_paddings"))
            .unwrap_or_default()
            .iter()
            .map(|id| numbers(pickle, *id).unwrap_or_default())
            .collect();
        for group in list(of("param_slice_mappings")).unwrap_or_default() {
            let fragment = |(name, told): &(Id, Id)| {
                let told = state(pickle, *told, "fragment_address")?;
                let of = |field| number(pickle, entry(pickle, told, field)?);
                Some((String::from(pickle.text_of(*name)?), of("start")?, of("numel")?))
            };
            let mut found: Vec<_> =
                pickle.entries(*group).unwrap_or_default().iter().filter_map(fragment).collect();
            found.sort_unstable();
            self.fragments.push(found);
        }
        // torch's own optimizers count in a tensor of each parameter, DeepSpeed's in a number
        let inner = of("base_optimizer_state").or_else(|| of("optimizer_state_dict"));
        let states = inner.and_then(|id| entry(pickle, id, "state")).and_then(|id| pickle.entries(id));
        for (group, state) in states.filter(|_| has_squares).into_iter().flatten() {
            if let (Some(group), Some(Node::Tensor(squares))) =
                (number(pickle, *group), entry(pickle, *state, "exp_avg_sq").map(|id| pickle.node(id)))
            {
                tensors.push((format!("{OF_SQUARES}{group:08}"), &**squares));
            }
        }
        for group in list(inner.and_then(|id| entry(pickle, id, "param_groups"))).unwrap_or_default() {
            self.betas.push(entry(pickle, *group, "betas").and_then(|id| optimizer::betas(pickle, id)[1]));
        }
        let step = states.and_then(|states| entry(pickle, states.first()?.1, "step"));
        match step.map(|id| pickle.node(id)) {
            Some(Node::Tensor(step)) if step.shape.is_empty() => {
                tensors.push((OF_STEP.to_owned(), &**step));
            }
            _ => self.counted = step.and_then(|id| counted(pickle, id)),
        }
        Ok(Chosen::plain(tensors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_in_numbers_too() {
        let start = b"}X\x14\0\0\0optimizer_state_dict}X\x10\0\0\0fp32_flat_groups]s";
        let inner = b"X\x14\0\0\0base_optimizer_state}X\x05\0\0\0state}K\0}X\x04\0\0\0step";
        for (step, expected) in [(&b"K\x03"[..], Some(3.0)), (b"G@\x08\0\0\0\0\0\0", Some(3.0)), (b"N", None)]
        {
            let bytes = [start, &inner[..], step, b"sssss."].concat();
            let pickle = Pickle::read(&bytes).unwrap_or_else(|_| panic!("it is sound"));
            let mut shard = Shard::default();
            shard.take(&pickle, true).unwrap();
            assert_eq!(shard.counted, expected, "{step:?}");
        }
    }
}
