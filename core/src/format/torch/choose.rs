//! Which of the dictionaries in a pickle are the weights.
//!
//! Training toolkits save a model among its optimizer, counters and losses, and often a running average of it too. One set of
//! weights is taken, and the others are named; optimizer states are never weights.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::pickle::{Id, Node, Pickle, Tensor, bad, refused};
use crate::error::{Error, ErrorKind, Result};
use crate::text::index::Index;

/// Keys under which toolkits save the weights, in the order in which they are preferred (formats of Lightning and timm,
/// icefall and fairseq, DeepSpeed, and plain scripts).
const KEYS: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_avg",
    "state_dict_ema",
];
/// Keys under which they count optimizer steps, in the order in which they are preferred; epochs come last.
const COUNTERS: [&str; 8] =
    ["global_step", "batch_idx_train", "num_updates", "iter_num", "iteration", "iter", "step", "epoch"];
/// Keys under which they leave what they measured on held-out data, and what it is called here.
const MEASURES: [(&str, &str); 5] = [
    ("valid_loss", "eval_loss"),
    ("val_loss", "eval_loss"),
    ("dev_loss", "eval_loss"),
    ("eval_loss", "eval_loss"),
    ("metric", "eval_metric"),
];
/// How words of keys begin whose tensors are the trainer's own, and not weights.
const STATES: [&str; 7] = ["optim", "sched", "scaler", "sampler", "rng", "amp", "callback"];
/// The entry that every optimizer of torch has in its state.
const GROUPS: &str = "param_groups";
/// Dictionaries in dictionaries are followed so deep.
const DEPTH: usize = 16;
/// Most names that are given to tensors: a pickle can name one tensor very often with few bytes.
const NAMES: usize = 1 << 20;

/// The weights of a pickle.
#[derive(Debug)]
pub(in crate::format) struct Chosen<'a> {
    pub(super) tensors: Vec<(String, &'a Tensor)>,
    /// The step that the trainer counted.
    pub(super) step: Option<u64>,
    /// The name of their dictionary, if they have one of their own.
    pub(super) key: Option<String>,
    /// The dictionaries that they lie in, and how the names of the tensors of each begin.
    pub(super) places: Vec<(Id, String)>,
    /// What the trainer measured of these weights.
    pub(super) told: Vec<(String, f64)>,
    pub(super) notes: Vec<String>,
}

impl<'a> Chosen<'a> {
    /// Some tensors, under names of the caller's.
    pub(in crate::format) fn plain(tensors: Vec<(String, &'a Tensor)>) -> Self {
        Self { tensors, step: None, key: None, places: Vec::new(), told: Vec::new(), notes: Vec::new() }
    }
}

/// Find the weights; `key` is the name of their dictionary where the user chose one, with dots between names inside names.
pub(super) fn choose<'a>(pickle: &'a Pickle<'_>, key: Option<&str>) -> Result<Chosen<'a>> {
    let root = pickle.root;
    let Some(entries) = pickle.entries(root) else {
        return Err(bad(match pickle.node(root) {
            Node::Tensor(_) => "holds one tensor without a name, not a dictionary of tensors".to_owned(),
            Node::Other { name, .. } | Node::Global(_, name) if !name.is_empty() => {
                format!("holds an object (`{}`), not a dictionary of tensors", pickle.text(name))
            }
            _ => "holds no dictionary of tensors".to_owned(),
        }));
    };
    if entry(pickle, root, GROUPS).is_some() {
        return Err(bad("holds the state of an optimizer, not weights"));
    }
    let sets = sets(pickle, entries);
    let listed = || sets.iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    if let Some(key) = key {
        let found = key.split('.').try_fold(root, |at, name| entry(pickle, at, name));
        let found = found.filter(|id| holds_tensors(pickle, *id));
        return match found {
            Some(id) => taken(pickle, id, step(pickle, entries), Some(key), Vec::new()),
            None => {
                let error = Error::new(ErrorKind::Input, format!("has no weights under `{key}`"));
                Err(if sets.is_empty() {
                    error.help("its tensors are not in a dictionary of their own: leave out --weights-key")
                } else {
                    error.help(format!("choose one of these with --weights-key: {}", listed()))
                })
            }
        };
    }
    let is_flat = entries.iter().any(|(_, value)| matches!(pickle.node(*value), Node::Tensor(_)));
    let known = KEYS.iter().find_map(|key| sets.iter().find(|(name, _)| name == key));
    let only = if sets.len() == 1 && !is_flat { sets.first() } else { None };
    match known.or(only) {
        Some((key, id)) => {
            let mut chosen = taken(pickle, *id, step(pickle, entries), Some(key), Vec::new())?;
            let main = chosen.tensors.len();
            let mut left = Vec::new();
            for (name, id) in sets.iter().filter(|(name, _)| name != key) {
                let part = taken(pickle, *id, None, None, Vec::new()).ok().filter(|_| !is_average(name));
                let known = Index::new(chosen.tensors[..main].iter().map(|(name, _)| name.as_str()));
                // another part of the model, such as OpenNMT's generator, has names of its own
                let part = part.filter(|part| !part.tensors.iter().any(|(name, _)| known.has(name)));
                match part {
                    Some(part) => {
                        let named =
                            part.tensors.into_iter().map(|(inner, it)| (format!("{name}.{inner}"), it));
                        chosen.tensors.extend(named);
                        chosen.places.push((*id, format!("{name}.")));
                        // no file with one key is like it
                        chosen.key = chosen.key.map(|key| format!("{key}.{name}"));
                    }
                    None => left.push(format!("`{name}`")),
                }
            }
            if !left.is_empty() {
                let are = if left.len() == 1 { "is" } else { "are" };
                chosen.notes.push(format!(
                    "the weights under `{key}` of the training states are taken; {} {are} left out (choose with --weights-key)",
                    left.join(", ")
                ));
            }
            Ok(chosen)
        }
        None if sets.is_empty() || is_flat => taken(pickle, root, None, None, Vec::new()),
        None => Err(Error::new(ErrorKind::Input, format!("holds several sets of weights: {}", listed()))
            .help("choose one of these with --weights-key")),
    }
}

/// Whether a set of weights is named as an average or a copy of others.
fn is_average(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_ascii_alphabetic());
    words
        .any(|word| ["ema", "avg", "average", "averaged", "swa", "teacher", "target", "best"].contains(&word))
}

/// The entries that are dictionaries with tensors and no trainer's own.
fn sets<'a>(pickle: &Pickle<'a>, entries: &[(Id, Id)]) -> Vec<(&'a str, Id)> {
    let named = entries.iter().filter_map(|(key, value)| Some((pickle.text_of(*key)?, *value)));
    named
        .filter(|(name, value)| {
            matches!(pickle.node(*value), Node::Dict(_))
                && !is_state(pickle, name, *value)
                && holds_tensors(pickle, *value)
        })
        .collect()
}

/// Whether an entry is the trainer's own.
pub(super) fn is_state(pickle: &Pickle<'_>, name: &str, value: Id) -> bool {
    let is_named = || words_begin(name, &STATES);
    matches!(pickle.node(value), Node::Dict(_)) && (is_named() || entry(pickle, value, GROUPS).is_some())
}

/// Whether one of a name's words begins with one of these.
pub(super) fn words_begin(name: &str, parts: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_ascii_alphabetic());
    words.any(|word| parts.iter().any(|part| word.starts_with(part)))
}

/// Whether a dictionary holds a tensor, or one of the dictionaries in it does.
pub(super) fn holds_tensors(pickle: &Pickle<'_>, id: Id) -> bool {
    let is_tensor =
        |id: &Id| matches!(pickle.node(*id), Node::Tensor(_) | Node::Other { holds_tensor: true, .. });
    let mut level = Vec::from([id]);
    for _ in 0..DEPTH {
        let inner = level.iter().filter_map(|id| pickle.entries(*id)).flatten().map(|(_, value)| *value);
        let mut inner: Vec<_> = inner.collect();
        if inner.iter().any(is_tensor) {
            return true;
        }
        // each once, however often it is named
        inner.sort_unstable();
        inner.dedup();
        level = inner;
    }
    false
}

/// The value under a key.
pub(in crate::format) fn entry(pickle: &Pickle<'_>, dict: Id, name: &str) -> Option<Id> {
    let entries = pickle.entries(dict)?;
    entries.iter().rev().find(|(key, _)| pickle.text_of(*key) == Some(name)).map(|(_, value)| *value)
}

/// What the trainer measured, where the file says so; a best value so far is of other weights.
fn told(pickle: &Pickle<'_>) -> Vec<(String, f64)> {
    // fairseq keeps it among other things
    let places = [Some(pickle.root), entry(pickle, pickle.root, "extra_state")];
    let value = |(name, metric): &(&str, &str)| {
        let mut values = places.into_iter().flatten().filter_map(|place| entry(pickle, place, name));
        let value =
            values.find_map(|id| if let Node::Float(value) = pickle.node(id) { Some(*value) } else { None });
        Some((String::from(*metric), value?))
    };
    MEASURES.iter().filter_map(value).collect()
}

/// The step that the trainer counted.
fn step(pickle: &Pickle<'_>, entries: &[(Id, Id)]) -> Option<u64> {
    COUNTERS.iter().find_map(|counter| {
        let (_, value) = entries.iter().find(|(key, _)| pickle.text_of(*key) == Some(counter))?;
        if let Node::Int(value) = pickle.node(*value) { u64::try_from(*value).ok() } else { None }
    })
}

/// All tensors of a dictionary, with the names of the dictionaries in it before theirs.
fn taken<'a>(
    pickle: &'a Pickle<'_>,
    root: Id,
    step: Option<u64>,
    key: Option<&str>,
    notes: Vec<String>,
) -> Result<Chosen<'a>> {
    let told = told(pickle);
    let places = Vec::from([(root, String::new())]);
    let mut chosen = Chosen { tensors: Vec::new(), step, key: key.map(String::from), places, told, notes };
    let mut names = 0;
    take(pickle, root, "", DEPTH, &mut chosen, &mut names)?;
    if chosen.tensors.is_empty() {
        return Err(bad("holds no tensors"));
    }
    Ok(chosen)
}

fn take<'a>(
    pickle: &'a Pickle<'_>,
    dict: Id,
    prefix: &str,
    depth: usize,
    chosen: &mut Chosen<'a>,
    names: &mut usize,
) -> Result<()> {
    let entries = pickle.entries(dict).expect("only dictionaries are taken");
    *names += entries.len();
    if *names > NAMES || depth == 0 {
        return Err(bad("nests its dictionaries too deeply, or names too many tensors"));
    }
    for (key, value) in entries {
        let name = match (pickle.text_of(*key), pickle.node(*key)) {
            (Some(name), _) if dict == pickle.root && is_state(pickle, name, *value) => continue,
            (Some(name), _) => format!("{prefix}{name}"),
            (None, Node::Int(number)) => format!("{prefix}{number}"),
            _ => continue,
        };
        match pickle.node(*value) {
            Node::Tensor(tensor) => chosen.tensors.push((name, &**tensor)),
            Node::Dict(_) => take(pickle, *value, &format!("{name}."), depth - 1, chosen, names)?,
            Node::Other { name: class, holds_tensor: true, .. } => {
                let what = pickle.text(class);
                return Err(refused(format!("is made by `{what}`, which is not supported"))
                    .tensor(&name)
                    .help("save it as a plain tensor; quantised and distributed tensors cannot be averaged as they are"));
            }
            _ => {}
        }
    }
    Ok(())
}
