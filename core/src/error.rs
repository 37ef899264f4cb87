//! The one error type: a kind, the place and the facts, the same in every language.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use crate::text::escape::readable;

/// A result whose error is [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// What went wrong, one word wide: a stable kind, where, the facts and what to do about it.
///
/// ```
/// use mwa::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Shape, "is [8, 4096], but run/checkpoint-100 has [16, 4096]")
///     .file("run/checkpoint-200/adapter_model.safetensors")
///     .tensor("layers.3.q_proj.lora_A.weight")
///     .help("only checkpoints of one run, with one rank, can be averaged");
/// assert_eq!(
///     error.to_string(),
///     "run/checkpoint-200/adapter_model.safetensors: tensor `layers.3.q_proj.lora_A.weight` \
///      is [8, 4096], but run/checkpoint-100 has [16, 4096]"
/// );
/// assert_eq!(error.kind().name(), "shape");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Facts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    kind: ErrorKind,
    file: Option<String>,
    tensor: Option<String>,
    detail: Cow<'static, str>,
    help: Option<Cow<'static, str>>,
    is_transient: bool,
}

/// The kinds of failure. Numbers and names never change their meaning between versions.
#[non_exhaustive]
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A safetensors header is malformed, or the file is not safetensors at all.
    Header = 1,
    /// A dtype that cannot be merged, or dtypes that cannot be combined.
    Dtype = 2,
    /// Shapes of one tensor differ between inputs, or make no sense for what the tensor is.
    Shape = 3,
    /// The inputs do not hold the same tensors.
    Names = 4,
    /// Adapter configs are unreadable or disagree.
    Config = 5,
    /// The adapter method (`peft_type`) may not be averaged.
    Method = 6,
    /// A metric is missing, ambiguous, diverged or unreadable.
    Metric = 7,
    /// Weights or the penalty are out of range.
    Weights = 8,
    /// An input with non-zero weight holds NaN or infinity.
    NonFinite = 9,
    /// A finite result does not fit the output dtype.
    Overflow = 10,
    /// Data that must be identical in every input is not.
    Differs = 11,
    /// The inputs are not checkpoints of one run.
    CrossRun = 12,
    /// An input path is not something that can be merged.
    Input = 13,
    /// The output cannot be written where it was asked for.
    Output = 14,
    /// The operating system refused to read or write.
    Io = 15,
    /// Options that contradict each other or lie out of range.
    Usage = 16,
    /// The caller asked to stop.
    Stopped = 17,
    /// A device was asked for that is not there, is refused, or failed.
    Device = 18,
    /// A mistake in this program, caught at the border to another language.
    Bug = 255,
}

impl ErrorKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Header,
        Self::Dtype,
        Self::Shape,
        Self::Names,
        Self::Config,
        Self::Method,
        Self::Metric,
        Self::Weights,
        Self::NonFinite,
        Self::Overflow,
        Self::Differs,
        Self::CrossRun,
        Self::Input,
        Self::Output,
        Self::Io,
        Self::Usage,
        Self::Stopped,
        Self::Device,
    ];

    /// The stable name, as reports and other languages show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Dtype => "dtype",
            Self::Shape => "shape",
            Self::Names => "names",
            Self::Config => "config",
            Self::Method => "method",
            Self::Metric => "metric",
            Self::Weights => "weights",
            Self::NonFinite => "non-finite",
            Self::Overflow => "overflow",
            Self::Differs => "differs",
            Self::CrossRun => "cross-run",
            Self::Input => "input",
            Self::Output => "output",
            Self::Io => "io",
            Self::Usage => "usage",
            Self::Stopped => "stopped",
            Self::Device => "device",
            Self::Bug => "bug",
        }
    }
}

impl Error {
    /// An error with its facts; `detail` reads on after "FILE: tensor `NAME` ".
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Facts {
            kind,
            file: None,
            tensor: None,
            detail: detail.into(),
            help: None,
            is_transient: false,
        }))
    }

    /// Name the file or checkpoint, unless a callee already named one.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>) -> Self {
        self.0.file.get_or_insert_with(|| name.into());
        self
    }

    /// Name another file, in place of one that means nothing to the user.
    #[must_use]
    pub fn file_instead(mut self, name: impl Into<String>) -> Self {
        self.0.file = Some(name.into());
        self
    }

    /// Say something else to do about it, in place of what a callee said.
    #[must_use]
    pub fn help_instead(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.0.help = Some(text.into());
        self
    }

    /// Name the tensor, unless a callee already named one.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.0.tensor.get_or_insert_with(|| name.into());
        self
    }

    /// With more behind the detail.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.0.detail.to_mut().push_str(more);
        self
    }

    /// Say what to do about it.
    #[must_use]
    pub fn help(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.0.help.get_or_insert_with(|| text.into());
        self
    }

    /// Say that the same may go well another time: a server was busy, or could not be reached.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.is_transient = true;
        self
    }

    /// Whether the same may go well another time.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.is_transient
    }

    /// The stable kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or checkpoint at fault, as the caller named it.
    #[must_use]
    pub fn at_file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// The tensor at fault.
    #[must_use]
    pub fn at_tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The facts alone, without place or help.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

/// For people: what is not for reading is escaped, as by [`readable`]. Programs take the facts one by one.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", readable(file))?;
        }
        if let Some(tensor) = &self.0.tensor {
            write!(f, "tensor `{}` ", readable(tensor))?;
        }
        f.write_str(&readable(&self.0.detail))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_by_number() {
        let numbers: alloc::vec::Vec<_> = ErrorKind::ALL.iter().map(|kind| *kind as u8).collect();
        assert_eq!(numbers, (1..=18).collect::<alloc::vec::Vec<_>>());
    }

    #[test]
    fn names_do_not_reach_a_terminal_raw_and_programs_get_them_as_they_are() {
        let error = Error::new(ErrorKind::Names, "is \x1b[2Jgone").file("a\nb").tensor("t\u{202e}");
        assert_eq!(alloc::format!("{error}"), r"a\nb: tensor `t\u{202e}` is \u{1b}[2Jgone");
        assert_eq!((error.at_file(), error.at_tensor()), (Some("a\nb"), Some("t\u{202e}")));
    }
}
