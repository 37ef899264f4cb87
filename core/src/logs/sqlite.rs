//! Tables of an SQLite database, from its bytes: rows as its file format has them, no queries, no indexes.
//!
//! <https://www.sqlite.org/fileformat2.html>: pages of one size; a table is a tree of them, whose leaves hold records; what does
//! not fit into a leaf goes on in a chain of pages. A record is a head of types and the values behind it.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};

/// How such files begin.
pub(crate) const START: &[u8] = b"SQLite format 3\0";
/// No tree is deeper: each level has at least two pages below a page.
const DEEPEST: usize = 40;
/// The rest of a CREATE TABLE after its columns begins with one of these.
const CONSTRAINTS: [&str; 5] = ["constraint", "primary", "foreign", "unique", "check"];

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// NULL, a blob, or a column that was added after the row.
    Nothing,
    Whole(i64),
    Real(f64),
    Text(String),
}

impl Cell {
    #[expect(clippy::cast_precision_loss, reason = "columns of floats store whole values as integers")]
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Whole(value) => Some(*value as f64),
            Self::Real(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn whole(&self) -> Option<i64> {
        if let Self::Whole(value) = self { Some(*value) } else { None }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// A database.
pub(crate) struct Database<'a> {
    bytes: &'a [u8],
    /// Bytes of a page, and those of them that are used.
    page: usize,
    usable: usize,
}

impl<'a> Database<'a> {
    /// The database in a file; none in a file of another kind, or one that writes no UTF-8.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..100).filter(|head| head.starts_with(START))?;
        let page = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 1 << 16,
            size => usize::from(size),
        };
        let usable = page.checked_sub(usize::from(head[20]))?;
        let is_good = page.is_power_of_two() && page >= 512 && usable >= 480 && matches!(head[59], 0 | 1);
        is_good.then_some(Self { bytes, page, usable })
    }

    /// Give each row of a table to `take`, with these columns in this order; whether there are such a table and such columns.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] where the file is damaged or cut.
    pub(crate) fn rows(
        &self,
        table: &str,
        columns: &[&str],
        take: &mut dyn FnMut(Vec<Cell>),
    ) -> Result<bool> {
        let damaged = || {
            Error::new(ErrorKind::Input, "is a damaged SQLite database, or was cut".to_owned())
                .help("copy it when nothing writes to it: sqlite3 mlflow.db '.backup copy.db'")
        };
        let mut root = None;
        // type, name, table, page, SQL
        self.each(1, &mut |record| {
            let row: Vec<Cell> = (0..5).map(|at| value(record, at)).collect::<Option<_>>()?;
            if row[0].text() == Some("table") && row[1].text() == Some(table) {
                root = Some((usize::try_from(row[3].whole()?).ok()?, row[4].text()?.to_owned()));
            }
            Some(())
        })
        .ok_or_else(damaged)?;
        let Some((root, sql)) = root else { return Ok(false) };
        let there = names(&sql);
        let places = columns.iter().map(|wanted| there.iter().position(|name| name == wanted));
        let Some(places) = places.collect::<Option<Vec<_>>>() else { return Ok(false) };
        self.each(root, &mut |record| {
            take(places.iter().map(|at| value(record, *at)).collect::<Option<_>>()?);
            Some(())
        })
        .ok_or_else(damaged)?;
        Ok(true)
    }

    /// Give each record of a tree to `take`; `None` where the tree is damaged, or `take` says so.
    fn each(&self, root: usize, take: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
        // no page is in a tree twice, and no record has another's bytes
        let mut left = (self.bytes.len() / self.page, self.bytes.len());
        self.below(root, DEEPEST, &mut left, take)
    }

    fn below(
        &self,
        number: usize,
        deep: usize,
        left: &mut (usize, usize),
        take: &mut dyn FnMut(&[u8]) -> Option<()>,
    ) -> Option<()> {
        (left.0, _) = (left.0.checked_sub(1)?, deep.checked_sub(1)?);
        let page = self.page(number)?;
        // the first page begins with the file's own head
        let head = page.get(if number == 1 { 100 } else { 0 }..)?;
        let cells = usize::from(u16::from_be_bytes(*head.get(3..)?.first_chunk()?));
        let is_leaf = match head.first()? {
            13 => true,
            5 => false,
            _ => return None,
        };
        let places = head.get(if is_leaf { 8 } else { 12 }..)?;
        for cell in 0..cells {
            let place = usize::from(u16::from_be_bytes(*places.get(2 * cell..)?.first_chunk()?));
            let cell = page.get(place..)?;
            if is_leaf {
                let record = self.record(cell)?;
                left.1 = left.1.checked_sub(record.len())?;
                take(&record)?;
            } else {
                self.below(pointer(cell)?, deep - 1, left, take)?;
            }
        }
        if is_leaf { Some(()) } else { self.below(pointer(head.get(8..)?)?, deep - 1, left, take) }
    }

    fn page(&self, number: usize) -> Option<&'a [u8]> {
        let start = number.checked_sub(1)?.checked_mul(self.page)?;
        self.bytes.get(start..start.checked_add(self.page)?)
    }

    /// The record of a cell in a leaf, with what lies on other pages.
    fn record(&self, cell: &[u8]) -> Option<Vec<u8>> {
        let (len, cell) = varint(cell)?;
        let (_, cell) = varint(cell)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= self.bytes.len())?;
        let (most, least) = (self.usable - 35, (self.usable - 12) * 32 / 255 - 23);
        let here = if len <= most {
            len
        } else {
            Some(least + (len - least) % (self.usable - 4)).filter(|here| *here <= most).unwrap_or(least)
        };
        let mut record = cell.get(..here)?.to_vec();
        let mut next = if here < len { pointer(cell.get(here..)?)? } else { 0 };
        while record.len() < len {
            let page = self.page(next)?.get(..self.usable)?;
            next = pointer(page)?;
            let part = (len - record.len()).min(page.len() - 4);
            record.extend_from_slice(&page[4..4 + part]);
        }
        Some(record)
    }
}

/// The number of a page.
fn pointer(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()
}

/// A number of one to nine bytes, and what is behind it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(8).enumerate() {
        value = value << 7 | u64::from(byte & 127);
        if byte & 128 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    let last = bytes.get(8)?;
    Some((value << 8 | u64::from(*last), &bytes[9..]))
}

/// A column of a record; nothing behind its last.
fn value(record: &[u8], column: usize) -> Option<Cell> {
    let (size, mut types) = varint(record)?;
    let size = usize::try_from(size).ok()?;
    types = types.get(..size.checked_sub(record.len() - types.len())?)?;
    let mut body = record.get(size..)?;
    for at in 0.. {
        if types.is_empty() {
            return Some(Cell::Nothing);
        }
        let (kind, rest) = varint(types)?;
        types = rest;
        let len = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => usize::try_from((kind - 12) / 2).ok()?,
        };
        let bytes = body.get(..len)?;
        body = &body[len..];
        if at < column {
            continue;
        }
        return Some(match kind {
            8 | 9 => Cell::Whole(i64::from(kind == 9)),
            1..=6 => {
                let sign = if bytes[0] & 128 == 0 { 0 } else { -1 };
                Cell::Whole(bytes.iter().fold(sign, |value: i64, byte| value << 8 | i64::from(*byte)))
            }
            7 => Cell::Real(f64::from_be_bytes(*bytes.first_chunk()?)),
            0 => Cell::Nothing,
            kind if kind % 2 == 0 => Cell::Nothing,
            _ => Cell::Text(core::str::from_utf8(bytes).ok()?.to_owned()),
        });
    }
    None
}

/// The names of the columns that a CREATE TABLE makes.
fn names(sql: &str) -> Vec<String> {
    let mut names = Vec::new();
    let Some((_, inner)) = sql.split_once('(') else { return names };
    let (mut deep, mut quote, mut part) = (0, None, String::new());
    for c in inner.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`' | '\'') => quote = Some(c),
            (None, '[') => quote = Some(']'),
            (None, '(') => deep += 1,
            (None, ')') if deep > 0 => deep -= 1,
            (None, ',' | ')') if deep == 0 => {
                let text = part.trim();
                let first = text.split_whitespace().next().unwrap_or_default();
                if CONSTRAINTS.iter().any(|it| first.eq_ignore_ascii_case(it)) {
                    break;
                }
                names.push(first.trim_matches(['"', '`', '\'', '[', ']']).to_owned());
                part.clear();
                if c == ')' {
                    break;
                }
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const DATABASE: &[u8] = include_bytes!("data/mlflow.db");

    fn all(table: &str, columns: &[&str]) -> Result<Option<Vec<Vec<Cell>>>> {
        let mut rows = Vec::new();
        let database = Database::new(DATABASE).unwrap();
        Ok(database.rows(table, columns, &mut |row| rows.push(row))?.then_some(rows))
    }

    #[test]
    fn every_row_is_found_in_trees_and_chains_of_pages() {
        // 64 rows on pages of 512 bytes: a tree
        let rows = all("many", &["number", "half", "text", "later"]).unwrap().unwrap();
        assert_eq!(rows.len(), 64);
        for (i, row) in (0i64..).zip(&rows) {
            let number = (i - 32) * i64::pow(10, u32::try_from(i % 16).unwrap());
            let text = "é".repeat(usize::try_from(i * i / 32).unwrap());
            assert_eq!(row[0], Cell::Whole(number), "{i}");
            assert_eq!(row[1].number(), Some(i as f64 / 2.0), "{i}: whole values are stored as integers");
            assert_eq!(row[2], Cell::Text(text), "{i}: the longest is over several pages");
            assert_eq!(row[3], Cell::Nothing, "the column is younger than the rows");
        }
    }

    #[test]
    fn what_is_not_there_is_none_and_what_is_damaged_is_said() {
        assert_eq!(all("nothing", &["x"]).unwrap(), None);
        assert_eq!(all("many", &["other"]).unwrap(), None);
        assert!(Database::new(b"no such file").is_none());
        let mut bytes = DATABASE.to_vec();
        // cut, it must be an error and no part of the rows
        for len in (100..bytes.len()).step_by(509) {
            let database = Database::new(&bytes[..len]).unwrap();
            let read = database.rows("many", &["number"], &mut |_| {});
            assert!(!matches!(read, Ok(true)), "{len}");
        }
        // any byte may be anything: no panic, no endless walk
        for at in (0..bytes.len()).step_by(7) {
            let before = core::mem::replace(&mut bytes[at], 0xa5);
            if let Some(database) = Database::new(&bytes) {
                drop(database.rows("many", &["text"], &mut |_| {}));
            }
            bytes[at] = before;
        }
    }

    #[test]
    fn columns_are_named_in_every_way_of_quoting() {
        let sql = "CREATE TABLE \"m\" (\"key\" VARCHAR(250) NOT NULL, value FLOAT, [a b] INT, `c` TEXT DEFAULT 'x,y)', \
                   CONSTRAINT k PRIMARY KEY (\"key\", value))";
        assert_eq!(names(sql), vec!["key", "value", "a", "c"]);
        assert_eq!(names("CREATE TABLE t (x)"), vec!["x"]);
        assert!(names("nonsense").is_empty());
    }
}
