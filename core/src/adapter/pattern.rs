//! Does a Python regular expression match a module's name? PEFT's pattern fields have such keys.
//!
//! What Python's `re` has and names of modules can want: literals, `.`, classes, `\d \w \s \b` and their opposites, anchors,
//! groups, alternatives, repeats. Looking around, back-references and flags are errors. A pattern is matched by sets
//! of positions, so that none takes longer than length of pattern × length of name squared. A library for this would
//! be a quarter of the WebAssembly component.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::Chars;

/// A pattern that was read.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Node);

#[derive(Clone, Debug)]
enum Node {
    /// One character of these ranges, or of none of them.
    Class(Vec<(char, char)>, bool),
    Start,
    End,
    /// Between a letter, digit or underscore and something else, or not.
    Boundary(bool),
    All(Vec<Self>),
    Any(Vec<Self>),
    /// From … to how many times.
    Repeat(Box<Self>, u32, Option<u32>),
}

const DIGIT: &[(char, char)] = &[('0', '9')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
const SPACE: &[(char, char)] = &[('\t', '\r'), (' ', ' ')];

/// Deeper nesting is refused: reading and matching recurse.
const MOST_DEPTH: usize = 50;

impl Pattern {
    /// Read a pattern; an error says in words what is wrong with it.
    pub(super) fn new(text: &str) -> Result<Self, &'static str> {
        let mut reader = Reader { rest: text.chars().peekable(), depth: 0 };
        let node = reader.alternatives()?;
        if reader.rest.next().is_some() { Err("there is a `)` too many") } else { Ok(Self(node)) }
    }

    /// Whether it matches all of `name`, or all behind one of its dots: `^(.*\.)?(pattern)$`.
    pub(super) fn matches_end(&self, name: &str) -> bool {
        // a class takes one character: from behind, most names are told apart at once, and most patterns are nothing else
        let mut nodes =
            if let Node::All(nodes) = &self.0 { nodes.as_slice() } else { core::slice::from_ref(&self.0) };
        let mut behind = name.chars().rev();
        while let [before @ .., Node::Class(ranges, is_negated)] = nodes {
            if !behind.next().is_some_and(|c| is_of_class(c, ranges, *is_negated)) {
                return false;
            }
            nodes = before;
        }
        if nodes.is_empty() {
            return behind.next().is_none_or(|c| c == '.');
        }
        let name: Vec<char> = name.chars().collect();
        let starts = (0..=name.len()).map(|at| at == 0 || name[at - 1] == '.').collect();
        self.0.ends(&name, starts)[name.len()]
    }
}

impl Node {
    /// Where matches end that begin at one of `starts`; a place is the number of characters before it.
    fn ends(&self, name: &[char], starts: Vec<bool>) -> Vec<bool> {
        let only = |keep: &dyn Fn(usize) -> bool| {
            starts.iter().enumerate().map(|(at, is_start)| *is_start && keep(at)).collect()
        };
        if !starts.contains(&true) {
            return starts;
        }
        match self {
            Self::Class(ranges, is_negated) => {
                let mut ends = vec![false; starts.len()];
                for (at, c) in name.iter().enumerate() {
                    ends[at + 1] = starts[at] && is_of_class(*c, ranges, *is_negated);
                }
                ends
            }
            Self::Start => only(&|at| at == 0),
            Self::End => only(&|at| at == name.len()),
            Self::Boundary(is_boundary) => {
                let is_word = |at: Option<usize>| {
                    let c = at.and_then(|at| name.get(at)).copied();
                    c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
                };
                only(&|at| (is_word(at.checked_sub(1)) != is_word(Some(at))) == *is_boundary)
            }
            Self::All(nodes) => nodes.iter().fold(starts, |starts, node| node.ends(name, starts)),
            Self::Any(nodes) => {
                let mut ends = vec![false; starts.len()];
                for node in nodes {
                    join(&mut ends, &node.ends(name, starts.clone()));
                }
                ends
            }
            Self::Repeat(node, least, most) => {
                let mut last = starts;
                for _ in 0..*least {
                    let next = node.ends(name, last.clone());
                    if next == last {
                        break;
                    }
                    last = next;
                }
                let mut ends = last.clone();
                for _ in *least..most.unwrap_or(u32::MAX) {
                    last = node.ends(name, last);
                    if !join(&mut ends, &last) {
                        break;
                    }
                }
                ends
            }
        }
    }
}

/// Whether a character is in one of the ranges, or in none.
fn is_of_class(c: char, ranges: &[(char, char)], is_negated: bool) -> bool {
    ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != is_negated
}

/// Add `more` to `ends`; whether there was something new.
fn join(ends: &mut [bool], more: &[bool]) -> bool {
    let mut is_new = false;
    for (end, more) in ends.iter_mut().zip(more) {
        is_new |= *more && !*end;
        *end |= *more;
    }
    is_new
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    depth: usize,
}

impl Reader<'_> {
    fn alternatives(&mut self) -> Result<Node, &'static str> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err("it is nested too deeply");
        }
        let mut all = vec![self.sequence()?];
        while self.rest.next_if_eq(&'|').is_some() {
            all.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Any(all) })
    }

    fn sequence(&mut self) -> Result<Node, &'static str> {
        let mut nodes = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let node = match c {
                '(' => self.group()?,
                '[' => self.class()?,
                '.' => Node::Class(vec![('\n', '\n')], true),
                '^' => Node::Start,
                '$' => Node::End,
                '*' | '+' | '?' => return Err("there is nothing to repeat"),
                '\\' => self.escape()?,
                c => Node::Class(vec![(c, c)], false),
            };
            nodes.push(self.repeats(node)?);
        }
        Ok(Node::All(nodes))
    }

    fn group(&mut self) -> Result<Node, &'static str> {
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                Some(':') => {}
                Some('P') if self.rest.next_if_eq(&'<').is_some() => {
                    while self.rest.next().is_some_and(|c| c != '>') {}
                }
                _ => return Err("it looks around, or sets flags"),
            }
        }
        let node = self.alternatives()?;
        self.rest.next_if_eq(&')').map(|_| node).ok_or("a `)` is missing")
    }

    /// The node, repeated if a repeat follows; whether that is greedy does not matter for a match of all.
    fn repeats(&mut self, node: Node) -> Result<Node, &'static str> {
        let Some((least, most, rest)) = counts(self.rest.clone()) else { return Ok(node) };
        self.rest = rest;
        if most.is_some_and(|most| most < least) {
            return Err("a repeat's least is more than its most");
        }
        self.rest.next_if_eq(&'?');
        match counts(self.rest.clone()) {
            Some(_) => Err("it repeats a repeat"),
            None => Ok(Node::Repeat(Box::new(node), least, most)),
        }
    }

    fn escape(&mut self) -> Result<Node, &'static str> {
        match self.rest.next().ok_or("it ends in a backslash")? {
            'b' => Ok(Node::Boundary(true)),
            'B' => Ok(Node::Boundary(false)),
            'A' => Ok(Node::Start),
            'Z' => Ok(Node::End),
            c => match escaped_class(c) {
                Some((ranges, is_negated)) => Ok(Node::Class(ranges.to_vec(), is_negated)),
                None => literal(c).map(|c| Node::Class(vec![(c, c)], false)),
            },
        }
    }

    /// `[…]`, its first bracket read.
    fn class(&mut self) -> Result<Node, &'static str> {
        const OPEN: &str = "a `]` is missing";
        let is_negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let c = self.rest.next().ok_or(OPEN)?;
            let from = match c {
                ']' if !ranges.is_empty() => return Ok(Node::Class(ranges, is_negated)),
                '\\' => {
                    let c = self.rest.next().ok_or(OPEN)?;
                    match escaped_class(c) {
                        Some((more, false)) => {
                            ranges.extend_from_slice(more);
                            continue;
                        }
                        Some((_, true)) => return Err("it has an opposite of a class within a class"),
                        None => literal(c)?,
                    }
                }
                c => c,
            };
            let mut ahead = self.rest.clone();
            let to = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(to)) if to != ']' => {
                    self.rest = ahead;
                    if to == '\\' { literal(self.rest.next().ok_or(OPEN)?)? } else { to }
                }
                _ => from,
            };
            if to < from {
                return Err("a range of characters ends before it begins");
            }
            ranges.push((from, to));
        }
    }
}

/// A repeat, and what follows it. Braces are one as `{m}`, `{m,}`, `{,n}` or `{m,n}`; anything else is literal, as in Python.
fn counts(mut rest: Peekable<Chars<'_>>) -> Option<(u32, Option<u32>, Peekable<Chars<'_>>)> {
    let (least, most) = match rest.next()? {
        '*' => (0, None),
        '+' => (1, None),
        '?' => (0, Some(1)),
        '{' => {
            let least = number(&mut rest);
            let most = if rest.next_if_eq(&',').is_some() { number(&mut rest) } else { Some(least?) };
            if rest.next() != Some('}') {
                return None;
            }
            (least.unwrap_or(0), most)
        }
        _ => return None,
    };
    Some((least, most, rest))
}

fn number(rest: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let mut number = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        number = Some(number.unwrap_or(0u32).saturating_mul(10).saturating_add(digit));
        rest.next();
    }
    number
}

/// The class that `\c` stands for: its ranges, and whether it is their opposite.
fn escaped_class(c: char) -> Option<(&'static [(char, char)], bool)> {
    let ranges = match c.to_ascii_lowercase() {
        'd' => DIGIT,
        'w' => WORD,
        's' => SPACE,
        _ => return None,
    };
    Some((ranges, c.is_ascii_uppercase()))
}

/// The character that `\c` stands for.
fn literal(c: char) -> Result<char, &'static str> {
    match c {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        c if c.is_ascii_alphanumeric() => Err("it has an escape or a back-reference that is not known here"),
        c => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches_end(name)
    }

    /// Python: `re.match(rf"^(?:.*\.)?(?:{pattern})$", name)`.
    #[test]
    fn names_match_as_in_python() {
        for (pattern, name, wanted) in [
            ("q_proj", "model.layers.0.q_proj", true),
            ("q_proj", "model.my_q_proj", false),
            ("q_proj", "q_proj", true),
            (r"layers\.\d+\.(q|v)_proj", "model.layers.12.v_proj", true),
            (r"layers\.\d+\.(q|v)_proj", "model.layers.x.v_proj", false),
            (".*1.k_proj", "layers.1.k_proj", true),
            (r"layers\.[0-3]\..*", "layers.3.mlp.up", true),
            (r"layers\.[^0-3]\..*", "layers.3.mlp.up", false),
            (r"(?:a|bc){2,3}", "abca", true),
            (r"(?:a|bc){2,3}", "abcaa", false),
            (r"(?:a|bc){2}", "abc", true),
            ("a{,2}b", "aab", true),
            ("a{x}", "a{x}", true),
            ("(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            ("((a{0,1000}){0,1000}){0,1000}", "aaa", true),
            ("a??b+?", "abb", true),
            (r"^model\.q$", "model.q", true),
            (r"^q$", "model.q", false),
            (r"\bq\b", "a.q", true),
            (r"(?P<name>q|k)_[\w.-]+", "k_a-b.c", true),
            ("[]a]", "]", true),
            ("[a-]x", "-x", true),
            ("", "a.", true),
            ("q|", "a.q", true),
            ("é.", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} on {name}");
        }
    }

    #[test]
    fn what_is_not_read_is_an_error() {
        for pattern in [
            "(?=a)", "(a", "a)", "[a", "*a", r"(a)\1", "(?i)a", "a{3,2}", "a**", "a{2}{3}", "[b-a]", r"a\",
            r"\p",
        ] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::new(&"(".repeat(1000)).is_err());
    }
}
