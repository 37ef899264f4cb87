//! Split CSV text into rows of cells: quotes, CRLF, and commas, semicolons or tabs between cells.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};

/// One row and the line on which it begins, from 1.
#[derive(Debug, PartialEq)]
pub(crate) struct Cells {
    pub(crate) line: usize,
    pub(crate) cells: Vec<String>,
}

/// All rows that are not blank; cells are trimmed unless quoted.
pub(crate) fn rows(text: &str) -> Result<Vec<Cells>> {
    let separator = separator(text);
    let mut rows = Vec::new();
    let mut cells = Vec::new();
    let mut cell = String::new();
    let (mut line, mut start) = (1, 1);
    let mut was_quoted = false;
    let mut letters = text.chars().peekable();
    loop {
        match letters.next() {
            Some('"') if cell.trim().is_empty() && !was_quoted => {
                let opened = line;
                cell.clear();
                was_quoted = true;
                loop {
                    match letters.next() {
                        Some('"') if letters.peek() == Some(&'"') => cell.extend(letters.next()),
                        Some('"') => break,
                        Some(letter) => {
                            line += usize::from(letter == '\n');
                            cell.push(letter);
                        }
                        None => {
                            let detail = format!("line {opened}: a quoted cell is never closed");
                            return Err(Error::new(ErrorKind::Metric, detail));
                        }
                    }
                }
            }
            Some(letter) if letter != separator && letter != '\n' => {
                if !(was_quoted && letter.is_whitespace()) {
                    cell.push(letter);
                }
            }
            end => {
                let is_blank =
                    end != Some(separator) && cells.is_empty() && !was_quoted && cell.trim().is_empty();
                if !is_blank {
                    cells.push(if was_quoted { core::mem::take(&mut cell) } else { cell.trim().into() });
                }
                cell.clear();
                was_quoted = false;
                if end == Some(separator) {
                    continue;
                }
                if !cells.is_empty() {
                    rows.push(Cells { line: start, cells: core::mem::take(&mut cells) });
                }
                line += 1;
                start = line;
                if end.is_none() {
                    return Ok(rows);
                }
            }
        }
    }
}

/// What stands most often in the first line.
fn separator(text: &str) -> char {
    let header = text.trim_start().lines().next().unwrap_or_default();
    // max_by_key takes the last of equals: the comma.
    [';', '\t', ','].into_iter().max_by_key(|mark| header.matches(*mark).count()).unwrap_or(',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Vec<(usize, Vec<String>)> {
        rows(text).unwrap().into_iter().map(|row| (row.line, row.cells)).collect()
    }

    fn row(line: usize, cells: &[&str]) -> (usize, Vec<String>) {
        (line, cells.iter().map(|cell| String::from(*cell)).collect())
    }

    #[test]
    fn splits_rows_and_keeps_empty_cells() {
        let expected = [row(1, &["step", "loss"]), row(3, &["10", ""]), row(4, &["", "2"])];
        assert_eq!(plain("step,loss\r\n\r\n10, \r\n,2"), expected);
        assert_eq!(plain("step;loss\n\n10;\n;2\n"), expected);
        assert_eq!(plain("step\tloss\n\n10\t\n\t2\n\n"), expected);
        assert!(plain("").is_empty() && plain("\n \n").is_empty());
    }

    #[test]
    fn quotes_hold_separators_lines_and_quotes() {
        let text = "name,\"a, \"\"b\"\"\"\n\"x\ny\" ,1\nz,2";
        assert_eq!(plain(text), [row(1, &["name", "a, \"b\""]), row(2, &["x\ny", "1"]), row(4, &["z", "2"])]);
        assert_eq!(rows("a,b\n1,\"2").unwrap_err().detail(), "line 2: a quoted cell is never closed");
    }
}
