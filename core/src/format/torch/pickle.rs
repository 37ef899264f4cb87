//! What a pickle says, without doing it: tensors, containers, numbers and texts are kept, everything else is a placeholder.
//!
//! A pickle is a program for a small stack machine (CPython's `Lib/pickletools.py` lists its instructions). Nothing is
//! imported, called or executed here: the few constructors that torch uses for tensors and dictionaries are known by
//! name, and whatever else is built becomes a [`Node::Other`] that holds nothing.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::error::{Error, ErrorKind};

/// Most values that one pickle may make, so that it cannot fill the memory: 300,000 tensors need fewer.
const VALUES: usize = 1 << 22;
/// The same of a table of a checkpoint's chunks, each of which is about 50: those of 1,000 ranks are many.
pub(in crate::format) const TABLE_VALUES: usize = 1 << 24;

/// A value: its place in the [`Pickle`].
pub(in crate::format) type Id = u32;

/// What a pickle made.
#[derive(Debug)]
pub(in crate::format) struct Pickle<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    /// The dictionaries that calls made, with the names of their classes.
    classes: Vec<(Id, Range<u32>)>,
    /// Dictionaries with what they were told of themselves.
    pub(in crate::format) attributes: Vec<(Id, Id)>,
    /// What it all comes to.
    pub(in crate::format) root: Id,
    /// Where its bytes end.
    pub(in crate::format) end: usize,
}

/// A value of a pickle.
#[derive(Clone, Debug)]
pub(in crate::format) enum Node {
    /// Bytes and others: nothing that anybody asks for.
    Plain,
    /// None.
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Where the text lies in the pickle.
    Text(Range<u32>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name that Python would import: module and name, in the pickle.
    Global(Range<u32>, Range<u32>),
    Storage(Storage),
    /// Apart, for it is thrice as large as any other.
    Tensor(Box<Tensor>),
    /// Something else; its name in the pickle, and whether a tensor went into it.
    Other {
        name: Range<u32>,
        holds_tensor: bool,
        /// What made it, and of what.
        function: Id,
        arguments: Id,
        /// What it was told of itself.
        state: Option<Id>,
    },
    /// Where a list of arguments begins on the stack.
    Mark,
}

/// Numbers in a row, somewhere in the file.
#[derive(Clone, Debug)]
pub(in crate::format) struct Storage {
    /// The name of its class, such as `FloatStorage`, in the pickle.
    pub(in crate::format) class: Range<u32>,
    /// Its name in the file.
    pub(in crate::format) key: Range<u32>,
    pub(in crate::format) elements: u64,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(in crate::format) struct Tensor {
    pub(in crate::format) storage: Id,
    /// In elements.
    pub(in crate::format) offset: u64,
    pub(in crate::format) shape: Vec<u64>,
    pub(in crate::format) stride: Vec<u64>,
    /// The name of the dtype, such as `float8_e4m3fn`, in the pickle; the storage's class says it otherwise.
    pub(in crate::format) dtype: Option<Range<u32>>,
}

/// Why a pickle could not be read.
#[derive(Debug)]
pub(in crate::format) enum Trouble {
    /// It goes on beyond the bytes at hand.
    Short,
    /// It is not what torch writes.
    Bad(Error),
}

impl Trouble {
    /// What is wrong when there are no more bytes.
    pub(in crate::format) fn error(self) -> Error {
        match self {
            Self::Short => bad("ends in the middle of its pickle"),
            Self::Bad(error) => error,
        }
    }
}

impl<'a> Pickle<'a> {
    /// Read one pickle from the beginning of `bytes`.
    pub(in crate::format) fn read(bytes: &'a [u8]) -> core::result::Result<Self, Trouble> {
        Self::read_most(bytes, VALUES)
    }

    /// The same of at most so many values.
    pub(in crate::format) fn read_most(bytes: &'a [u8], most: usize) -> core::result::Result<Self, Trouble> {
        let (nodes, stack, memo) = (Vec::new(), Vec::new(), Vec::new());
        let (classes, attributes) = (Vec::new(), Vec::new());
        let mut machine =
            Machine { bytes, at: 0, nodes, stack, memo, classes, attributes, repeated: 0, most };
        let root = machine.run()?;
        let Machine { at, nodes, classes, attributes, .. } = machine;
        Ok(Self { bytes, nodes, classes, attributes, root, end: at })
    }

    pub(in crate::format) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// A text of the pickle.
    pub(in crate::format) fn text(&self, range: &Range<u32>) -> &'a str {
        core::str::from_utf8(&self.bytes[range.start as usize..range.end as usize])
            .expect("texts were checked when they were read")
    }

    /// The text that a value is.
    pub(in crate::format) fn text_of(&self, id: Id) -> Option<&'a str> {
        if let Node::Text(range) = self.node(id) { Some(self.text(range)) } else { None }
    }

    /// All storages that are named.
    pub(in crate::format) fn storages(&self) -> Vec<&Storage> {
        let storages = self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        });
        storages.collect()
    }

    /// The class of a dictionary that is not a plain one.
    pub(in crate::format) fn class_of(&self, id: Id) -> Option<&'a str> {
        let at = self.classes.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        Some(self.text(&self.classes[at].1))
    }

    /// The entries of a dictionary.
    pub(in crate::format) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        if let Node::Dict(entries) = self.node(id) { Some(entries) } else { None }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    memo: Vec<(u64, Id)>,
    classes: Vec<(Id, Range<u32>)>,
    attributes: Vec<(Id, Id)>,
    /// Values that were written out again, which a pickle can ask for with few bytes.
    repeated: usize,
    /// Most values that it may make.
    most: usize,
}

type Step<T> = core::result::Result<T, Trouble>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let instruction = self.take(1)?[0];
            if instruction == b'.' {
                return self.pop();
            }
            self.step(instruction)?;
            let lists = [self.nodes.len(), self.stack.len(), self.memo.len(), self.attributes.len()];
            if lists.into_iter().fold(self.repeated, usize::max) > self.most {
                let most = self.most;
                return Err(Trouble::Bad(bad(format!("makes more than {most} values in its pickle"))));
            }
        }
    }

    fn step(&mut self, instruction: u8) -> Step<()> {
        match instruction {
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'(' => self.push(Node::Mark),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.above_mark()?;
            }
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            b'N' => self.push(Node::Nothing),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => {
                let bytes = self.take(4)?;
                let value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                self.push(Node::Int(value.into()));
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            0x8a => {
                let len = self.number(1)?;
                self.long(len)?;
            }
            0x8b => {
                let len = self.number(4)?;
                self.long(len)?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let text = self.slice(&line).trim_end_matches('L');
                let value = text.parse().map_or(Node::Plain, Node::Int);
                self.push(value);
            }
            b'F' => {
                self.line()?;
                self.push(Node::Plain);
            }
            b'G' => {
                let value = f64::from_bits(self.number(8)?.swap_bytes());
                self.push(Node::Float(value));
            }
            b'X' | b'T' => {
                let len = self.number(4)?;
                self.push_text(len)?;
            }
            0x8c | b'U' => {
                let len = self.number(1)?;
                self.push_text(len)?;
            }
            0x8d => {
                let len = self.number(8)?;
                self.push_text(len)?;
            }
            b'V' | b'S' => {
                let line = self.line()?;
                self.push(Node::Text(line));
            }
            b'B' => {
                let len = self.number(4)?;
                self.push_bytes(len)?;
            }
            b'C' => {
                let len = self.number(1)?;
                self.push_bytes(len)?;
            }
            0x8e | 0x96 => {
                let len = self.number(8)?;
                self.push_bytes(len)?;
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.above_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let count = usize::from(instruction - 0x84);
                let from = self.stack.len().checked_sub(count).ok_or_else(broken)?;
                let items = self.stack.split_off(from);
                self.push(Node::Tuple(items));
            }
            b']' => self.push(Node::List(Vec::new())),
            0x8f => self.push(Node::Plain),
            0x91 => {
                self.above_mark()?;
                self.push(Node::Plain);
            }
            b'l' => {
                let items = self.above_mark()?;
                self.push(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.above_mark()?;
                self.append(&items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.above_mark()?;
                self.push(Node::Dict(Vec::new()));
                self.insert(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.insert(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) = (self.node(module)?, self.node(name)?) else {
                    return Err(broken());
                };
                let global = Node::Global(module.clone(), name.clone());
                self.push(global);
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.made(function, arguments, 0)?;
                self.push(made);
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                let made = self.made(class, arguments, 0)?;
                self.push(made);
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let items = self.above_mark()?;
                let arguments = self.add(Node::Tuple(items));
                let function = self.add(Node::Global(module, name.clone()));
                self.push(Node::Other { name, holds_tensor: false, function, arguments, state: None });
            }
            b'o' => {
                let items = self.above_mark()?;
                let [function, rest @ ..] = items.as_slice() else { return Err(broken()) };
                let Node::Global(_, name) = self.node(*function)? else { return Err(broken()) };
                let (function, name) = (*function, name.clone());
                let arguments = self.add(Node::Tuple(rest.to_vec()));
                self.push(Node::Other { name, holds_tensor: false, function, arguments, state: None });
            }
            // the state of an object: a dictionary of torch's has metadata there, and no tensor
            b'b' => {
                let told = self.pop()?;
                let object = self.top()?;
                match &mut self.nodes[object as usize] {
                    Node::Other { state, .. } => *state = Some(told),
                    Node::Dict(_) => self.attributes.push((object, told)),
                    _ => {}
                }
            }
            b'p' => {
                let line = self.line()?;
                let key = self.slice(&line).parse().map_err(|_| broken())?;
                self.remember(key)?;
            }
            b'q' => {
                let key = self.number(1)?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number(4)?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let line = self.line()?;
                let key = self.slice(&line).parse().map_err(|_| broken())?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.number(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)?;
                self.recall(key)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage);
            }
            other => {
                return Err(Trouble::Bad(bad(format!(
                    "has the instruction {other:#04x}, which torch does not write"
                ))));
            }
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(len).ok_or(Trouble::Short)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Trouble::Short)?;
        self.at = end;
        Ok(bytes)
    }

    fn skip(&mut self, len: usize) -> Step<()> {
        self.take(len).map(|_| ())
    }

    /// A number of up to eight bytes.
    fn number(&mut self, len: usize) -> Step<u64> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn int(&mut self, len: usize) -> Step<()> {
        let value = self.number(len)?;
        self.push(Node::Int(i64::try_from(value).map_err(|_| broken())?));
        Ok(())
    }

    /// A number of any length, lowest byte first, in two's complement.
    fn long(&mut self, len: u64) -> Step<()> {
        let bytes = self.take(usize::try_from(len).map_err(|_| Trouble::Short)?)?;
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
        let value = bytes.iter().rev().fold(sign, |value: i64, byte| value << 8 | i64::from(*byte));
        let value = if bytes.len() <= 8 { Node::Int(value) } else { Node::Plain };
        self.push(value);
        Ok(())
    }

    fn range(&mut self, len: u64) -> Step<Range<u32>> {
        let start = self.at;
        self.skip(usize::try_from(len).map_err(|_| Trouble::Short)?)?;
        let short = |at: usize| u32::try_from(at).map_err(|_| broken());
        Ok(short(start)?..short(self.at)?)
    }

    fn push_text(&mut self, len: u64) -> Step<()> {
        let range = self.range(len)?;
        let bytes = &self.bytes[range.start as usize..range.end as usize];
        // Python 2 wrote bytes where texts are meant
        let text = if core::str::from_utf8(bytes).is_ok() { Node::Text(range) } else { Node::Plain };
        self.push(text);
        Ok(())
    }

    fn push_bytes(&mut self, len: u64) -> Step<()> {
        self.range(len)?;
        self.push(Node::Plain);
        Ok(())
    }

    /// The rest of a line.
    fn line(&mut self) -> Step<Range<u32>> {
        let len = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').ok_or(Trouble::Short)?;
        let range = self.range(len as u64)?;
        self.skip(1)?;
        core::str::from_utf8(&self.bytes[range.start as usize..range.end as usize]).map_err(|_| broken())?;
        Ok(range)
    }

    fn slice(&self, range: &Range<u32>) -> &str {
        core::str::from_utf8(&self.bytes[range.start as usize..range.end as usize])
            .expect("texts were checked when they were read")
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        Id::try_from(self.nodes.len() - 1).expect("run() bounds the number of values")
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Step<Id> {
        self.stack.pop().ok_or_else(broken)
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(broken)
    }

    fn node(&self, id: Id) -> Step<&Node> {
        self.nodes.get(id as usize).ok_or_else(broken)
    }

    /// Everything above the last mark.
    fn above_mark(&mut self) -> Step<Vec<Id>> {
        let is_mark = |id: &Id| matches!(self.nodes[*id as usize], Node::Mark);
        let at = self.stack.iter().rposition(is_mark).ok_or_else(broken)?;
        let items = self.stack.split_off(at + 1);
        self.stack.pop();
        Ok(items)
    }

    fn append(&mut self, items: &[Id]) -> Step<()> {
        let list = self.top()?;
        match &mut self.nodes[list as usize] {
            Node::List(list) => list.extend_from_slice(items),
            Node::Other { .. } | Node::Plain => {}
            _ => return Err(broken()),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Step<()> {
        let dict = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err(broken());
        }
        match &mut self.nodes[dict as usize] {
            Node::Dict(entries) => entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Node::Other { .. } | Node::Plain => {}
            _ => return Err(broken()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Step<()> {
        let top = self.top()?;
        match self.memo.binary_search_by_key(&key, |(known, _)| *known) {
            Ok(at) => self.memo[at].1 = top,
            // keys are counted up, so this is nearly always the end
            Err(at) => self.memo.insert(at, (key, top)),
        }
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step<()> {
        let at = self.memo.binary_search_by_key(&key, |(known, _)| *known).map_err(|_| broken())?;
        self.stack.push(self.memo[at].1);
        Ok(())
    }

    /// `("storage", torch.FloatStorage, key, device, elements)`.
    fn storage(&self, id: Id) -> Step<Node> {
        let Node::Tuple(items) = self.node(id)? else { return Err(broken()) };
        let [_, class, key, _, elements, rest @ ..] = items.as_slice() else { return Err(broken()) };
        let nodes = (self.node(*class)?, self.node(*key)?, self.node(*elements)?);
        let (Node::Global(_, class), Node::Text(key), Node::Int(elements)) = nodes else {
            return Err(broken());
        };
        // before 1.6 a storage could be a view of another
        if rest.iter().any(|item| !matches!(self.nodes[*item as usize], Node::Nothing)) {
            return Err(Trouble::Bad(bad(
                "has storages that are views of others, as very old versions of torch wrote",
            )));
        }
        let elements = u64::try_from(*elements).map_err(|_| broken())?;
        Ok(Node::Storage(Storage { class: class.clone(), key: key.clone(), elements }))
    }

    /// What a call would make, if it is one of those that torch uses; a placeholder otherwise.
    fn made(&mut self, function: Id, given: Id, depth: u8) -> Step<Node> {
        let arguments = match self.node(given)? {
            Node::Tuple(items) => items.clone(),
            _ => Vec::new(),
        };
        self.repeated += arguments.len();
        let Node::Global(module, name) = self.node(function)?.clone() else {
            return Ok(self.placeholder(0..0, &arguments, function, given));
        };
        let made = match (self.slice(&module), self.slice(&name), arguments.as_slice()) {
            ("collections", "OrderedDict", [pairs]) => Node::Dict(self.pairs(*pairs)?),
            ("collections", "OrderedDict" | "defaultdict", _) => Node::Dict(Vec::new()),
            ("torch", "Size", [dims]) => self.node(*dims)?.clone(),
            (
                "torch._utils",
                "_rebuild_tensor" | "_rebuild_tensor_v2",
                [storage, offset, shape, stride, ..],
            ) => self.tensor(*storage, *offset, *shape, *stride, None)?,
            ("torch._utils", "_rebuild_tensor_v3", [storage, offset, shape, stride, _, _, dtype, ..]) => {
                let Node::Global(_, dtype) = self.node(*dtype)?.clone() else { return Err(broken()) };
                self.tensor(*storage, *offset, *shape, *stride, Some(dtype))?
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => {
                self.node(*data)?.clone()
            }
            ("torch._tensor", "_rebuild_from_type_v2", [inner, _, inner_arguments, ..]) if depth < 4 => {
                self.made(*inner, *inner_arguments, depth + 1)?
            }
            _ => self.placeholder(name.clone(), &arguments, function, given),
        };
        // it is pushed next
        if let (0, Node::Dict(_)) = (depth, &made) {
            self.classes.push((u32::try_from(self.nodes.len()).map_err(|_| broken())?, name));
        }
        self.repeated += match &made {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dict(entries) => entries.len(),
            Node::Tensor(tensor) => tensor.shape.len(),
            _ => 0,
        };
        Ok(made)
    }

    fn placeholder(&self, name: Range<u32>, items: &[Id], function: Id, arguments: Id) -> Node {
        let holds = |id: &Id| {
            matches!(
                self.nodes[*id as usize],
                Node::Tensor(_) | Node::Storage(_) | Node::Other { holds_tensor: true, .. }
            )
        };
        Node::Other { name, holds_tensor: items.iter().any(holds), function, arguments, state: None }
    }

    fn pairs(&self, id: Id) -> Step<Vec<(Id, Id)>> {
        let items = match self.node(id)? {
            Node::List(items) | Node::Tuple(items) => items,
            Node::Dict(entries) => return Ok(entries.clone()),
            _ => return Err(broken()),
        };
        let pair = |item: &Id| match self.node(*item)? {
            Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(broken()),
        };
        items.iter().map(pair).collect()
    }

    fn tensor(
        &self,
        storage: Id,
        offset: Id,
        shape: Id,
        stride: Id,
        dtype: Option<Range<u32>>,
    ) -> Step<Node> {
        let number = |id: Id| match self.node(id)? {
            Node::Int(value) => u64::try_from(*value).map_err(|_| broken()),
            _ => Err(broken()),
        };
        let numbers = |id: Id| match self.node(id)? {
            Node::Tuple(items) | Node::List(items) => items.iter().map(|item| number(*item)).collect(),
            _ => Err(broken()),
        };
        if !matches!(self.node(storage)?, Node::Storage(_)) {
            return Err(broken());
        }
        let (shape, stride): (Vec<_>, Vec<_>) = (numbers(shape)?, numbers(stride)?);
        if shape.len() != stride.len() {
            return Err(broken());
        }
        Ok(Node::Tensor(Box::new(Tensor { storage, offset: number(offset)?, shape, stride, dtype })))
    }
}

fn broken() -> Trouble {
    Trouble::Bad(bad("has a pickle that torch did not write"))
}

/// What cannot be merged as it is, for whoever says what to do about it.
pub(in crate::format) fn refused(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, detail.into())
}

/// What is wrong with a file that is not a pickle of tensors.
pub(in crate::format) fn bad(detail: impl Into<String>) -> Error {
    refused(detail).help("pickles are never executed; save the tensors alone, best as safetensors")
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn read(bytes: &[u8]) -> core::result::Result<Pickle<'_>, Trouble> {
        Pickle::read(bytes)
    }

    #[test]
    fn numbers_of_all_lengths_are_read() {
        for (bytes, expected) in [
            (&b"\x80\x02K\x07."[..], 7),
            (b"M\x01\x02.", 513),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x02\x00\x80.", -32768),
            (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
            (b"I42\n.", 42),
            (b"L42L\n.", 42),
        ] {
            let pickle = read(bytes).unwrap();
            assert!(matches!(pickle.node(pickle.root), Node::Int(value) if *value == expected), "{bytes:?}");
            assert_eq!(pickle.end, bytes.len());
        }
        let truth = read(b"\x88.").unwrap();
        assert!(matches!(truth.node(truth.root), Node::Bool(true)) && truth.end == 2);
    }

    #[test]
    fn what_is_built_by_others_is_a_placeholder() {
        let pickle = read(b"cos\nsystem\n(X\x02\x00\x00\x00lstR.").unwrap();
        let Node::Other { name, holds_tensor: false, .. } = pickle.node(pickle.root) else {
            panic!("{pickle:?}")
        };
        assert_eq!(pickle.text(name), "system");
    }

    #[test]
    fn a_dictionary_takes_its_entries_after_it_was_remembered() {
        let pickle = read(b"}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bh\x00u.").unwrap();
        let entries = pickle.entries(pickle.root).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(pickle.text_of(entries[0].0), Some("a"));
        assert_eq!(entries[1].1, pickle.root);
    }

    #[test]
    fn cut_pickles_want_more_and_broken_ones_are_refused() {
        let whole = b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s.";
        for end in 0..whole.len() {
            assert!(matches!(read(&whole[..end]), Err(Trouble::Short)), "{end}");
        }
        for bytes in [&b"."[..], b"a.", b"K\x01K\x02a.", b"t.", b"h\x07.", b"K\x01Q.", b"\xff.", b"(K\x01}u."]
        {
            assert!(matches!(read(bytes), Err(Trouble::Bad(_))), "{bytes:?}");
        }
    }

    #[test]
    fn values_are_bounded() {
        let mut bytes = vec![b'N'; VALUES + 1];
        bytes.push(b'.');
        assert!(matches!(read(&bytes), Err(Trouble::Bad(_))));
    }
}
