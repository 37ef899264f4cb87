//! Files whose host is asked across a border: what is asked is noted, what was answered is kept.

use alloc::borrow::Cow;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Kind, Maybe, Stop};

/// What a host is asked, of a path that the user named or of one that an answer before it led to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// What is it? The answer is [`Answer::File`], [`Answer::Folder`], [`Answer::Other`] or [`Answer::Missing`].
    Kind(String),
    /// What is in this folder? The answer is [`Answer::Names`].
    List(String),
    /// Where does it lead, links resolved? The answer is [`Answer::Place`].
    Place(String),
    /// What are the bytes of this file, from … to? The answer is [`Answer::Bytes`]: so many, or fewer where the file ends.
    Read(String, u64, u64),
}

/// What a host answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A regular file with this many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A pipe, a device or the like.
    Other,
    /// Nothing, or a link that leads to nothing.
    Missing,
    /// The names of all that lies in a folder, in any order.
    Names(Vec<String>),
    /// A path without links.
    Place(String),
    /// Bytes of a file.
    #[serde(skip)]
    Bytes(Vec<u8>),
    /// The system refuses: why, and what to do about it.
    Failed(String, Option<String>),
}

impl Question {
    /// The answer of a host whose files are at hand, such as a disk.
    ///
    /// # Panics
    /// If they say [`Stop::Later`].
    #[must_use]
    pub fn answer(&self, files: &dyn Files) -> Answer {
        let found = match self {
            Self::Kind(path) => files.kind(path).map(|kind| match kind {
                Kind::File(size) => Answer::File(size),
                Kind::Folder => Answer::Folder,
                Kind::Other => Answer::Other,
                Kind::Missing => Answer::Missing,
            }),
            Self::List(path) => files.list(path).map(Answer::Names),
            Self::Place(path) => files.identity(path).map(Answer::Place),
            Self::Read(path, start, end) => {
                files.read(path, *start..*end).map(|bytes| Answer::Bytes(bytes.into_owned()))
            }
        };
        found.unwrap_or_else(|stop| match stop {
            Stop::Failed(error) => {
                Answer::Failed(error.detail().to_string(), error.advice().map(String::from))
            }
            Stop::Later => unreachable!("files that are at hand are not read later"),
        })
    }

    /// The path that it is about.
    #[must_use]
    pub fn path(&self) -> &str {
        let (Self::Kind(path) | Self::List(path) | Self::Place(path) | Self::Read(path, ..)) = self;
        path
    }
}

/// The files as far as they were asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Sorted.
    known: Vec<(Question, Answer)>,
    wanted: RefCell<Vec<Question>>,
}

impl Asked {
    /// What to ask next: each once.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        let mut wanted = self.wanted.take();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Keep an answer.
    pub(super) fn keep(&mut self, question: Question, mut answer: Answer) -> Result<()> {
        let fits = match (&question, &mut answer) {
            (_, Answer::Failed(..))
            | (Question::Kind(_), Answer::File(_) | Answer::Folder | Answer::Other | Answer::Missing)
            | (Question::Place(_), Answer::Place(_)) => true,
            (Question::List(_), Answer::Names(names)) => {
                names.sort_unstable();
                names.dedup();
                true
            }
            (Question::Read(_, start, end), Answer::Bytes(bytes)) => {
                bytes.len() as u64 <= end.saturating_sub(*start)
            }
            _ => false,
        };
        if !fits {
            let error = Error::new(ErrorKind::Usage, "the answer does not fit the question");
            return Err(error.file(question.path()).help("answer each question in order, each in its way"));
        }
        if let Err(at) = self.place(&question) {
            self.known.insert(at, (question, answer));
        }
        Ok(())
    }

    fn place(&self, question: &Question) -> core::result::Result<usize, usize> {
        self.known.binary_search_by(|(known, _)| known.cmp(question))
    }

    /// What is known of it; else it is noted.
    fn answer(&self, question: Question) -> Maybe<&Answer> {
        match self.place(&question).map(|at| &self.known[at].1) {
            Ok(Answer::Failed(detail, help)) => {
                let error = Error::new(ErrorKind::Io, detail.clone()).file(question.path());
                Err(Stop::Failed(match help {
                    Some(help) => error.help(help.clone()),
                    None => error,
                }))
            }
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.wanted.borrow_mut().push(question);
                Err(Stop::Later)
            }
        }
    }
}

impl Files for Asked {
    fn kind(&self, path: &str) -> Maybe<Kind> {
        Ok(match self.answer(Question::Kind(path.to_string()))? {
            Answer::File(size) => Kind::File(*size),
            Answer::Folder => Kind::Folder,
            Answer::Other => Kind::Other,
            _ => Kind::Missing,
        })
    }

    fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        let answer = self.answer(Question::List(folder.to_string()))?;
        Ok(if let Answer::Names(names) = answer { names.clone() } else { Vec::new() })
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        let answer = self.answer(Question::Read(path.to_string(), range.start, range.end))?;
        Ok(if let Answer::Bytes(bytes) = answer { Cow::Borrowed(bytes) } else { Cow::Borrowed(&[]) })
    }

    fn identity(&self, path: &str) -> Maybe<String> {
        let answer = self.answer(Question::Place(path.to_string()))?;
        Ok(if let Answer::Place(place) = answer { place.clone() } else { path.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_asked_once() {
        let mut files = Asked::default();
        assert!(matches!(files.kind("a"), Err(Stop::Later)) && files.kind("a").is_err());
        assert_eq!(files.questions(), [Question::Kind("a".into())]);
        files.keep(Question::Kind("a".into()), Answer::File(5)).unwrap();
        assert_eq!(files.kind("a").unwrap(), Kind::File(5));
        assert!(files.questions().is_empty());
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let mut files = Asked::default();
        let read = || Question::Read("a".into(), 0, 2);
        let error = files.keep(read(), Answer::Folder).unwrap_err();
        assert_eq!(error.to_string(), "a: the answer does not fit the question");
        assert!(files.keep(read(), Answer::Bytes([1, 2, 3].into())).is_err(), "more than was asked for");
        files.keep(read(), Answer::Bytes([1].into())).unwrap();
        assert_eq!(*files.read("a", 0..2).unwrap(), [1]);
    }

    #[test]
    fn a_refusal_of_the_system_is_an_error_of_the_file() {
        let mut files = Asked::default();
        files.keep(Question::List("a".into()), Answer::Failed("no".into(), Some("ask".into()))).unwrap();
        let Err(Stop::Failed(error)) = files.list("a") else { panic!("it was refused") };
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Io, "a: no"));
        assert_eq!(error.advice(), Some("ask"));
    }
}
