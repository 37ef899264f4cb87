//! All of a torch file but its weights, so that its toolkit loads others that are put in their place.
//!
//! What stands beside the weights is written again value by value, from what the pickle was understood to say, and only what
//! `torch.load(weights_only=True)` reads. States of training, other sets of weights and objects are left out, by name.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::choose::{Chosen, choose, entry, holds_tensors, is_state, words_begin};
use super::pickle::{Id, Node, Pickle, Tensor};
use super::write::{ORDERED, storage, text, whole};
use super::{MAGIC, PICKLE_LIMIT, START, dtype, dtype_of, open_old, open_zip, place};
use crate::error::{Error, ErrorKind};
use crate::files::{Files, Maybe, last, size};
use crate::format::safetensors::Header;

/// Values in values are followed so deep.
const DEPTH: usize = 64;
/// Most values that are written: a pickle can name one value very often with few bytes.
const VALUES: usize = 1 << 20;
/// Tensors beside the weights are kept up to so many bytes each, and so many of them: they are counts and losses, and what is
/// larger is somebody's weights or state.
const TENSOR: u64 = 1 << 16;
const TENSORS: usize = 1 << 10;
/// So many names of what is left out are kept, and so many letters of each key in them.
const NAMES: usize = 10_000;
const NAME: usize = 200;
/// So many names are listed.
const LISTED: usize = 40;

/// A pickle with places for tensors.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// What belongs between the bytes, in their order.
    pub(crate) slots: Vec<Slot>,
    /// The tensors beside the weights, by their numbers.
    pub(crate) kept: Header,
    pub(crate) notes: Vec<String>,
}

/// A place in the pickle.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Where its own bytes begin, which are left out with it, and where they end.
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) what: What,
}

/// What is written there.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A tensor of the weights, an entry under the key before it.
    Weight(String),
    /// Entries of weights that the file has not.
    More,
    /// A tensor from beside the weights, by its number.
    Kept(usize),
}

/// Read what stands around the weights of a file, none if it is not torch's; `key` is the name of the weights that the user chose.
pub(crate) fn frame(files: &dyn Files, path: &str, key: Option<&str>) -> Maybe<Option<Frame>> {
    let start = files.read(path, 0..START)?;
    let size = size(files, path)?;
    let mut made = None;
    let catalog = if start.starts_with(b"PK\x03\x04") {
        open_zip(files, path, size, &mut |pickle| made_of(pickle, key, &mut made))
    } else if start.starts_with(MAGIC) {
        open_old(files, path, size, &mut |pickle| made_of(pickle, key, &mut made))
    } else {
        return Ok(None);
    };
    let kept = catalog.map_err(|stop| stop.file(path))?.header;
    Ok(made.map(|Made { bytes, slots, top, left, changed }| {
        let name = last(path);
        let mut notes = Vec::new();
        if !top.is_empty() {
            notes.push(format!("beside the weights stands what is in {name}: {}", listed(&top)));
        }
        if !changed.is_empty() {
            let what = listed(&changed);
            notes.push(format!("for torch.load(weights_only=True), of {name} are written {what}"));
        }
        if !left.is_empty() {
            notes.push(format!("left out of what {name} has beside the weights: {}", listed(&left)));
        }
        Frame { bytes, slots, kept, notes }
    }))
}

fn listed(names: &[String]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text += &format!(" and {} more", names.len() - LISTED);
    }
    text
}

/// What was written.
#[derive(Default)]
struct Made {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// The entries beside the weights that are kept.
    top: Vec<String>,
    left: Vec<String>,
    changed: Vec<String>,
}

fn made_of<'a>(
    pickle: &'a Pickle<'_>,
    key: Option<&str>,
    made: &mut Option<Made>,
) -> crate::error::Result<Chosen<'a>> {
    let places = choose(pickle, key)?.places;
    // the dictionaries around the weights
    let mut around = Vec::from([pickle.root]);
    for name in key.into_iter().flat_map(|key| key.split('.')) {
        around.extend(entry(pickle, around[around.len() - 1], name));
    }
    if key.is_some() {
        around.pop();
    }
    let mut attributes = pickle.attributes.clone();
    attributes.sort_by_key(|(id, _)| *id);
    let out = Made { bytes: b"\x80\x02".to_vec(), ..Made::default() };
    let mut writer = Writer { pickle, places, around, attributes, kept: Vec::new(), count: 0, out };
    let done = writer.value(pickle.root, "", DEPTH);
    // an object around the weights cannot be: they were found in dictionaries
    if done.is_ok() {
        if !writer.out.slots.iter().any(|slot| matches!(slot.what, What::More)) {
            let detail = "has more beside its weights, or deeper, than is written again";
            return Err(Error::new(ErrorKind::Input, detail).help(
                "take another --format, or name the key of the weights alone: mwa convert --format pt --key",
            ));
        }
        writer.out.bytes.push(b'.');
        let Writer { out, kept, .. } = writer;
        *made = Some(out);
        let named = |(number, (_, tensor)): (usize, (Id, &'a Tensor))| (format!("{number}"), tensor);
        return Ok(Chosen::plain(kept.into_iter().enumerate().map(named).collect()));
    }
    Ok(Chosen::plain(Vec::new()))
}

struct Writer<'a, 'b> {
    pickle: &'a Pickle<'b>,
    /// The dictionaries of the weights, and what the names of the tensors in them begin with.
    places: Vec<(Id, String)>,
    /// The dictionaries around them, from the root on.
    around: Vec<Id>,
    /// What dictionaries were told of themselves, the last of each behind its others.
    attributes: Vec<(Id, Id)>,
    kept: Vec<(Id, &'a Tensor)>,
    count: usize,
    out: Made,
}

/// The beginning of a key, which may be as long as a file.
fn shortened(key: &str) -> &str {
    key.char_indices().nth(NAME).map_or(key, |(end, _)| &key[..end])
}

/// Why a value cannot be written.
type Done = core::result::Result<(), String>;

impl Writer<'_, '_> {
    /// A dictionary, less what of it cannot be written.
    fn dict(&mut self, id: Id, path: &str, depth: usize) -> Done {
        let pickle = self.pickle;
        self.open(id, path);
        for (key, value) in pickle.entries(id).unwrap_or_default() {
            let name = self.name(*key, path);
            if let Some(why) = self.why_left(id, *key, *value) {
                self.leave(&name, why);
            } else {
                self.item(*key, &name, |it| it.value(*value, &name, depth));
            }
        }
        self.close(id, path, depth);
        Ok(())
    }

    /// A dictionary of weights.
    fn weights(&mut self, id: Id, prefix: &str, path: &str, depth: usize) -> Done {
        let pickle = self.pickle;
        let is_first = self.places.first().is_some_and(|(place, _)| *place == id);
        self.enter(depth)?;
        self.open(id, path);
        for (key, value) in pickle.entries(id).unwrap_or_default() {
            self.room()?;
            let name = self.name(*key, path);
            let own = match (pickle.text_of(*key), pickle.node(*key)) {
                (Some(own), _) => Some(format!("{prefix}{own}")),
                (None, Node::Int(number)) => Some(format!("{prefix}{number}")),
                _ => None,
            };
            if let Some(why) = self.why_left(id, *key, *value) {
                self.leave(&name, why);
                continue;
            }
            match (own, pickle.node(*value)) {
                (Some(own), Node::Tensor(_)) => {
                    let from = self.out.bytes.len();
                    match (pickle.text_of(*key), pickle.node(*key)) {
                        (None, Node::Int(number)) => whole(&mut self.out.bytes, *number),
                        (key, _) => text(&mut self.out.bytes, key.unwrap_or_default()),
                    }
                    let to = self.out.bytes.len();
                    self.out.slots.push(Slot { from, to, what: What::Weight(own) });
                }
                (Some(own), Node::Dict(_)) if holds_tensors(pickle, *value) => {
                    self.item(*key, &name, |it| it.weights(*value, &format!("{own}."), &name, depth - 1));
                }
                _ => self.item(*key, &name, |it| it.value(*value, &name, depth - 1)),
            }
        }
        if is_first {
            let at = self.out.bytes.len();
            self.out.slots.push(Slot { from: at, to: at, what: What::More });
        }
        self.close(id, path, depth);
        Ok(())
    }

    /// Begin a dictionary.
    fn open(&mut self, id: Id, path: &str) {
        match self.pickle.class_of(id) {
            Some("OrderedDict") => self.out.bytes.extend_from_slice(ORDERED),
            class => {
                self.out.bytes.push(b'}');
                if let Some(class) = class {
                    self.out.changed.push(format!("`{path}`, a {class}, as a plain dictionary"));
                }
            }
        }
    }

    /// Its attributes, such as the versions of modules that a `state_dict()` has.
    fn close(&mut self, id: Id, path: &str, depth: usize) {
        let end = self.attributes.partition_point(|(known, _)| *known <= id);
        let last = self.attributes[..end].last().filter(|(known, _)| *known == id);
        let Some(state) = last.map(|(_, state)| *state) else { return };
        if self.pickle.entries(state).is_none() {
            return;
        }
        if self.pickle.class_of(id) == Some("OrderedDict") {
            let mark = self.mark();
            match self.value(state, path, depth.saturating_sub(1)) {
                Ok(()) => self.out.bytes.push(b'b'),
                Err(_) => self.back(mark),
            }
        }
    }

    /// An entry, or nothing and its name among what is left out.
    fn item(&mut self, key: Id, name: &str, value: impl FnOnce(&mut Self) -> Done) {
        let mark = self.mark();
        let (lefts, changes) = (self.out.left.len(), self.out.changed.len());
        match self.value(key, name, 3).and_then(|()| value(self)) {
            Ok(()) => self.out.bytes.push(b's'),
            Err(why) => {
                self.back(mark);
                // what is in it is not named once more
                self.out.left.truncate(lefts);
                self.out.changed.truncate(changes);
                if self.out.top.last().is_some_and(|top| *top == format!("`{name}`")) {
                    self.out.top.pop();
                }
                self.leave(name, &why);
            }
        }
    }

    /// Name what is left out, as far as names are kept.
    fn leave(&mut self, name: &str, why: &str) {
        if self.out.left.len() < NAMES {
            self.out.left.push(format!("`{name}` ({why})"));
        }
    }

    fn mark(&self) -> (usize, usize, usize, usize) {
        (self.out.bytes.len(), self.out.slots.len(), self.kept.len(), self.count)
    }

    fn back(&mut self, (bytes, slots, kept, count): (usize, usize, usize, usize)) {
        self.out.bytes.truncate(bytes);
        self.out.slots.truncate(slots);
        self.kept.truncate(kept);
        self.count = count;
    }

    fn enter(&mut self, depth: usize) -> Done {
        self.count += 1;
        if depth == 0 || self.count > VALUES {
            return Err("it is too deep or too large".to_owned());
        }
        self.room()
    }

    /// A pickle can name one long text very often, too.
    fn room(&self) -> Done {
        if self.out.bytes.len() as u64 > PICKLE_LIMIT { Err("it is too large".to_owned()) } else { Ok(()) }
    }

    /// What an entry is called, from the root on.
    fn name(&self, key: Id, path: &str) -> String {
        let dot = if path.is_empty() { "" } else { "." };
        match (self.pickle.text_of(key), self.pickle.node(key)) {
            (Some(key), _) => format!("{path}{dot}{}", shortened(key)),
            (None, Node::Int(number)) => format!("{path}{dot}{number}"),
            _ => format!("{path}{dot}?"),
        }
    }

    /// Why an entry around the weights is not kept, if its name or what it holds says so; keeps account of the others.
    fn why_left(&mut self, dict: Id, key: Id, value: Id) -> Option<&'static str> {
        if !self.around.contains(&dict) {
            return None;
        }
        let is_place = self.places.iter().any(|(id, _)| *id == value) || self.around.contains(&value);
        let is_weight = self.places.iter().any(|(id, _)| *id == dict);
        let pickle = self.pickle;
        let name = pickle.text_of(key).unwrap_or_default();
        if is_place {
            return None;
        }
        let is_named = |parts: &[&str]| words_begin(name, parts);
        let has_groups = |id: &Id| entry(pickle, *id, "param_groups").is_some();
        let why = match pickle.node(value) {
            Node::Dict(_) if is_state(pickle, name, value) && !is_named(&["callback"]) => {
                "a state of training"
            }
            // fastai's
            Node::Dict(_) if name == "opt" && entry(pickle, value, "hypers").is_some() => {
                "a state of training"
            }
            Node::Dict(_) if !is_weight && holds_tensors(pickle, value) && !is_named(&["callback"]) => {
                "weights that are not merged"
            }
            // fairseq's history of optimizers is none of their states
            Node::List(items) | Node::Tuple(items)
                if is_named(&["optim"])
                    && items.iter().any(|id| has_groups(id) || holds_tensors(pickle, *id))
                    || is_named(&["sched", "scaler", "rng"]) && !items.is_empty() =>
            {
                "a state of training"
            }
            Node::Tensor(_) if !is_weight && is_named(&["optim", "sched", "scaler", "rng"]) => {
                "a state of training"
            }
            _ => {
                let is_listed = !(is_weight && matches!(pickle.node(value), Node::Tensor(_) | Node::Dict(_)));
                if is_listed && dict == pickle.root && !name.is_empty() {
                    self.out.top.push(format!("`{name}`"));
                }
                return None;
            }
        };
        Some(why)
    }

    /// Any value, whole.
    fn value(&mut self, id: Id, path: &str, depth: usize) -> Done {
        let pickle = self.pickle;
        self.enter(depth)?;
        match pickle.node(id) {
            node if self.plain(node) => {}
            Node::Text(range) => text(&mut self.out.bytes, pickle.text(range)),
            Node::Tuple(items) => {
                self.out.bytes.push(b'(');
                items.iter().try_for_each(|item| self.value(*item, path, depth - 1))?;
                self.out.bytes.push(b't');
            }
            Node::List(items) => {
                self.out.bytes.extend_from_slice(b"](");
                items.iter().try_for_each(|item| self.value(*item, path, depth - 1))?;
                self.out.bytes.push(b'e');
            }
            Node::Dict(_) => {
                let place = self.places.iter().find(|(place, _)| *place == id);
                return match place.map(|(_, prefix)| prefix.clone()) {
                    Some(prefix) => self.weights(id, &prefix, path, depth),
                    None => self.dict(id, path, depth - 1),
                };
            }
            Node::Tensor(tensor) => return self.tensor(id, tensor),
            Node::Global(module, name) => {
                let (module, name) = (pickle.text(module), pickle.text(name));
                if module != "torch" || dtype(name).is_none() {
                    return Err(format!("it is `{module}.{name}`"));
                }
                self.global(module, name);
            }
            Node::Other { function, arguments, state, .. } => {
                let Node::Global(module, name) = pickle.node(*function) else {
                    return Err("it is an object".to_owned());
                };
                let (module, name) = (pickle.text(module), pickle.text(name));
                match (module, name, state) {
                    ("argparse", "Namespace", Some(state)) if pickle.entries(*state).is_some() => {
                        // entries and attributes alike
                        self.out.bytes.extend_from_slice(b"ccollections\nOrderedDict\n");
                        self.dict(*state, path, depth - 1)?;
                        self.out.bytes.extend_from_slice(b"q\0\x85Rh\0b");
                        let what = "a Namespace, as a dictionary whose entries are attributes too";
                        self.out.changed.push(format!("`{path}`, {what}"));
                    }
                    ("__builtin__" | "builtins", "set" | "bytearray" | "complex", None)
                    | ("_codecs", "encode", None)
                    | ("torch", "device", None) => {
                        self.global(module, name);
                        self.value(*arguments, path, depth - 1)?;
                        self.out.bytes.push(b'R');
                    }
                    ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar", None) => {
                        self.number(*arguments).ok_or("it is no number of NumPy's that is known here")?;
                        self.out.changed.push(format!("`{path}`, a number of NumPy's, as a plain one"));
                    }
                    _ => return Err(format!("made by `{module}.{name}`")),
                }
            }
            _ => {
                return Err("it is of a kind that is not read here".to_owned());
            }
        }
        Ok(())
    }

    /// A number of NumPy's: its dtype, and its bytes as a text of Latin-1.
    fn number(&mut self, arguments: Id) -> Option<()> {
        let pickle = self.pickle;
        let items = |id: Id| if let Node::Tuple(items) = pickle.node(id) { Some(items) } else { None };
        let [dtype, bytes] = items(arguments)?.as_slice() else { return None };
        let (Node::Other { arguments: kind, state: Some(state), .. }, Node::Other { arguments: coded, .. }) =
            (pickle.node(*dtype), pickle.node(*bytes))
        else {
            return None;
        };
        let (kind, order) =
            (pickle.text_of(*items(*kind)?.first()?)?, pickle.text_of(*items(*state)?.get(1)?)?);
        let coded = pickle.text_of(*items(*coded)?.first()?)?;
        let bytes = coded.chars().map(|letter| u8::try_from(u32::from(letter)).ok());
        let bytes = bytes.collect::<Option<Vec<u8>>>()?;
        let node = match (kind, order) {
            ("f8", "<") => Node::Float(f64::from_le_bytes(*bytes.first_chunk()?)),
            ("f4", "<") => Node::Float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
            ("i8", "<") => Node::Int(i64::from_le_bytes(*bytes.first_chunk()?)),
            ("i4", "<") => Node::Int(i32::from_le_bytes(*bytes.first_chunk()?).into()),
            ("b1", "|") => Node::Bool(*bytes.first()? != 0),
            _ => return None,
        };
        self.plain(&node);
        Some(())
    }

    /// None, a truth or a number; whether it is one of these.
    fn plain(&mut self, node: &Node) -> bool {
        let bytes = &mut self.out.bytes;
        match node {
            Node::Nothing => bytes.push(b'N'),
            Node::Bool(value) => bytes.push(if *value { 0x88 } else { 0x89 }),
            Node::Int(value) => whole(bytes, *value),
            Node::Float(value) => {
                bytes.push(b'G');
                bytes.extend(value.to_be_bytes());
            }
            _ => return false,
        }
        true
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.bytes.extend_from_slice(format!("c{module}\n{name}\n").as_bytes());
    }

    /// A tensor from beside the weights.
    fn tensor(&mut self, id: Id, tensor: &Tensor) -> Done {
        let number = match self.kept.iter().position(|(kept, _)| *kept == id) {
            Some(number) => number,
            None => {
                let Node::Storage(of) = self.pickle.node(tensor.storage) else { return Err(String::new()) };
                let told = |error: crate::error::Error| format!("it {}", error.detail());
                let dtype = dtype_of(self.pickle, tensor, of).map_err(told)?;
                let len = of.elements.saturating_mul(dtype.bitsize() as u64 / 8);
                place(dtype, tensor, 0..len).map_err(told)?;
                let count = tensor.shape.iter().fold(1u64, |all, dim| all.saturating_mul(*dim));
                if storage(dtype).is_none() || count > TENSOR / 8 || self.kept.len() >= TENSORS {
                    return Err("a tensor that is none of the weights".to_owned());
                }
                let Node::Tensor(tensor) = self.pickle.node(id) else { return Err(String::new()) };
                self.kept.push((id, tensor));
                self.kept.len() - 1
            }
        };
        let at = self.out.bytes.len();
        self.out.slots.push(Slot { from: at, to: at, what: What::Kept(number) });
        Ok(())
    }
}
