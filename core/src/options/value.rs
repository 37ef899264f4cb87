//! What an option can be: how its value is read from JSON, and how messages say what it should have been.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use serde_json::Value as Json;

use crate::dtype::Float;
use crate::logs::goal::Goal;
use crate::merge::report::dtype_named;
use crate::method::blend::{BlendName, DensityPer};
use crate::method::curved::Normalise;
use crate::method::product::Measure;
use crate::search::Method;
use crate::text::json;
use crate::text::span::Span;
use crate::text::spelling;
use crate::weigh::combine::Combine;
use crate::weigh::decay::{Curve, Per, Positions};
use crate::weigh::scheme::Scheme;
use crate::weigh::window::Pick;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// True or false.
    Switch,
    /// A whole number from 1 on.
    Count,
    /// A whole number from 0 on.
    Whole,
    /// Bytes.
    Bytes,
    /// Bytes of a file, with their unit.
    Size,
    /// A number, within the span if there is one.
    Number(Option<Span>),
    /// A text.
    Text,
    /// The path of a file; where there are no paths, what it holds.
    Path,
    /// One of some words.
    Word(&'static [&'static str]),
    /// Several texts.
    Texts,
    /// Several numbers.
    Numbers,
    /// Two steps, both included; either may be open.
    Steps,
    /// A whole number from 1 on, `auto` or `full`.
    Rank,
    /// A word, or the places of GPUs.
    Device,
}

/// Reads on after "it must be".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switch => "true or false",
            Self::Count => "a whole number from 1 on",
            Self::Whole => "a whole number from 0 on",
            Self::Bytes => "a whole number of bytes from 1 on",
            Self::Size => "a size from 1KB on and its unit, such as 5GB or 500MiB",
            Self::Number(Some(span)) => return write!(f, "a number, {span}"),
            Self::Number(None) => "a number",
            Self::Text => "a text",
            Self::Path => "the path of a file",
            Self::Word(words) => return f.write_str(&spelling::one_of(words)),
            Self::Texts => "a list of texts",
            Self::Numbers => "a list of numbers",
            Self::Steps => "a first and a last step, null for an open end",
            Self::Rank => "a whole number from 1 on, auto or full",
            Self::Device => "auto, cpu, gpu, the places of GPUs, or wasm",
        })
    }
}

/// The rank that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankChoice {
    /// This one in all modules.
    Fixed(usize),
    /// The smallest in each module that keeps a share of the squared norm.
    Auto,
    /// The sum of the inputs' ranks.
    Full,
}

/// A type of an option's value.
pub(super) trait Value: Sized {
    /// The value, if the JSON is one of this kind.
    fn read(value: &Json, kind: Kind) -> Option<Self>;
}

impl<T: Value> Value for Option<T> {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        T::read(value, kind).map(Some)
    }
}

impl Value for bool {
    fn read(value: &Json, _: Kind) -> Option<Self> {
        value.as_bool()
    }
}

impl Value for u64 {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        // JavaScript and NumPy may write 4.0 for 4
        let whole = value.as_u64().or_else(|| json::whole(value.as_f64()?))?;
        (!matches!(kind, Kind::Count | Kind::Bytes) || whole > 0).then_some(whole)
    }
}

impl Value for usize {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        u64::read(value, kind)?.try_into().ok()
    }
}

impl Value for f64 {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        let number = value.as_f64()?;
        match kind {
            Kind::Number(Some(span)) => span.contains(number).then_some(number),
            _ => Some(number),
        }
    }
}

impl Value for String {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Array(places) if kind == Kind::Device && !places.is_empty() => {
                let places = places.iter().map(|place| Some(place.as_u64()?.to_string()));
                format!("gpu:{}", places.collect::<Option<Vec<_>>>()?.join(","))
            }
            _ => return None,
        };
        let is_device = || ["auto", "cpu", "gpu", "wasm"].contains(&&*text) || text.starts_with("gpu:");
        (kind != Kind::Device || is_device()).then_some(text)
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        value.as_array()?.iter().map(|item| T::read(item, kind)).collect()
    }
}

impl Value for (u64, u64) {
    fn read(value: &Json, _: Kind) -> Option<Self> {
        let [first, last] = value.as_array()?.as_slice() else { return None };
        let end = |end: &Json, open| if end.is_null() { Some(open) } else { u64::read(end, Kind::Whole) };
        let (first, last) = (end(first, 0)?, end(last, u64::MAX)?);
        (first <= last).then_some((first, last))
    }
}

impl Value for RankChoice {
    fn read(value: &Json, _: Kind) -> Option<Self> {
        match value {
            Json::String(word) if word == "auto" => Some(Self::Auto),
            Json::String(word) if word == "full" => Some(Self::Full),
            value => usize::read(value, Kind::Count).map(Self::Fixed),
        }
    }
}

/// Words that their own type reads.
macro_rules! words {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn read(value: &Json, _: Kind) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
        })+
    };
}

words!(BlendName, DensityPer, Normalise, Goal, Scheme, Method, Measure, Pick, Combine, Curve, Positions, Per);

/// How large a file may be: `5GB` is 5·10⁹ bytes, as Hugging Face counts, and `5GiB` is 5·2³⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSize(pub u64);

impl FileSize {
    /// Less was meant to have a unit.
    const LEAST: u64 = 1000;

    /// Read it; `None` for what is no size, or none that a file could have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[number.len()..].to_ascii_lowercase();
        let base: u64 = if unit.ends_with("ib") { 1024 } else { 1000 };
        let powers = ["", "k", "m", "g", "t"];
        let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')) {
            None if !unit.is_empty() => None,
            power => powers.iter().position(|it| *it == power.unwrap_or_default()),
        };
        #[expect(clippy::cast_precision_loss, reason = "at most 2^40, a power of it or of ten")]
        let unit = base.pow(u32::try_from(power?).ok()?) as f64;
        let bytes = json::whole(libm::trunc(json::float(number.trim_end())? * unit))?;
        (bytes >= Self::LEAST).then_some(Self(bytes))
    }
}

impl Value for FileSize {
    fn read(value: &Json, kind: Kind) -> Option<Self> {
        match value {
            Json::String(text) => Self::parse(text),
            bytes => u64::read(bytes, kind).filter(|bytes| *bytes >= Self::LEAST).map(Self),
        }
    }
}

/// The dtype of the output; `None` keeps the widest of the inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputDtype(pub Option<Float>);

impl Value for OutputDtype {
    fn read(value: &Json, _: Kind) -> Option<Self> {
        match value.as_str()? {
            "keep" => Some(Self(None)),
            name => dtype_named(name).map(Some).map(Self),
        }
    }
}

/// Whether tensors are averaged by themselves, or what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpaceName {
    /// Each tensor by itself.
    #[default]
    Factors,
    /// LoRA's products.
    Product,
}

impl Value for SpaceName {
    fn read(value: &Json, _: Kind) -> Option<Self> {
        match value.as_str()? {
            "factors" => Some(Self::Factors),
            "product" => Some(Self::Product),
            _ => None,
        }
    }
}
