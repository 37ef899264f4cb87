//! Read the JSON that Python writes: bare NaN and Infinity, a byte order mark, numbers inside strings.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Above this, not every whole number is an f64, so none is read as a step.
const LARGEST_STEP: f64 = 9_007_199_254_740_992.0;

/// Parse JSON after [`quote_non_finite`]; the non-finite values arrive as strings for [`number`] to read.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&quote_non_finite(without_mark(text)))
}

/// The text without a leading byte order mark.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Put quotes around each bare `NaN`, `Infinity` and `-Infinity` outside of strings; no copy when there is
/// none.
///
/// Python's `json.dumps` writes them bare and `serde_json` refuses them.
pub(crate) fn quote_non_finite(text: &str) -> Cow<'_, str> {
    let mut quoted = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(word) =
                    ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| is_word(bytes, at, word))
                {
                    quoted.push_str(&text[copied..at]);
                    quoted.push('"');
                    quoted.push_str(word);
                    quoted.push('"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    quoted.push_str(&text[copied..]);
    Cow::Owned(quoted)
}

/// A value as text, without spaces. `Display` would do, but is another serialiser to compile.
pub(crate) fn text(value: &Value) -> String {
    serde_json::to_string(value).expect("values always serialise")
}

/// A text in quotes, escaped.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serialises")
}

/// An object as text, indented by two spaces.
pub(crate) fn pretty(fields: &Map<String, Value>) -> String {
    serde_json::to_string_pretty(fields).expect("string keys and values always serialise")
}

/// A number, or a string that holds one: `"0.25"`, `"NaN"`, and ms-swift's `"5/100"`, which is 5.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => number_in(text),
        _ => None,
    }
}

/// The number that a text holds, see [`number`].
pub(crate) fn number_in(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.split_once('/') {
        Some((done, total)) => float(total.trim()).and(float(done.trim())),
        None => float(text),
    }
}

/// What `str::parse` makes of a text, but by the parser of JSON: two of them are 15 kB of WebAssembly.
pub(crate) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let size = match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => f64::NAN,
        number => {
            let (mantissa, exponent) = number.split_once('e').unwrap_or((number, "0"));
            let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            let power = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let is_empty = whole.len() + part.len() == 0 || power.is_empty();
            if is_empty || [whole, part, power].iter().any(|text| !text.bytes().all(|it| it.is_ascii_digit()))
            {
                return None;
            }
            // JSON has no leading zeros, and digits on both sides of the point
            let whole = whole.trim_start_matches('0');
            let zero = if whole.is_empty() { "0" } else { "" };
            let json = format!("{zero}{whole}.{part}0e{exponent}");
            // the one thing left to be wrong is the size
            serde_json::from_str(&json).unwrap_or(f64::INFINITY)
        }
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// A whole number of training steps.
pub(crate) fn step(value: &Value) -> Option<u64> {
    number(value).and_then(whole)
}

/// The float as a whole number, where it is one.
pub(crate) fn whole(number: f64) -> Option<u64> {
    let fits = (0.0..=LARGEST_STEP).contains(&number) && libm::trunc(number) == number;
    #[expect(clippy::cast_possible_truncation, reason = "whole and at most 2^53, checked above")]
    fits.then_some(number as u64)
}

/// Whether `word` stands at `at` with no letter or digit on either side.
fn is_word(bytes: &[u8], at: usize, word: &str) -> bool {
    let joins = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    bytes[at..].starts_with(word.as_bytes())
        && !joins(at.checked_sub(1).and_then(|before| bytes.get(before)))
        && !joins(bytes.get(at + word.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_bare_non_finite_words() {
        let text = r#"{"a": NaN, "b": [-Infinity,Infinity], "NaN": "say \"NaN, Infinity\\", "c": -1}"#;
        let expected =
            r#"{"a": "NaN", "b": ["-Infinity","Infinity"], "NaN": "say \"NaN, Infinity\\", "c": -1}"#;
        assert_eq!(quote_non_finite(text), expected);
        let value: Value = parse(text).unwrap();
        assert!(number(&value["a"]).unwrap().is_nan());
        assert_eq!(number(&value["b"][0]), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn copies_nothing_without_need() {
        for text in ["", r#"{"loss": 1.5, "NaN": "NaN"}"#, "[NaNs, xNaN]", "\"unclosed \\"] {
            assert!(matches!(quote_non_finite(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn reads_numbers_in_strings() {
        assert_eq!(number_in(" 5/100 "), Some(5.0));
        assert_eq!(number_in("0.25"), Some(0.25));
        assert_eq!(number_in("a/100"), None);
        assert_eq!(number_in("5/b"), None);
        assert_eq!(number_in("0:00:10"), None);
        assert_eq!(step(&Value::from(7.0)), Some(7));
        assert_eq!(step(&Value::from(7.5)), None);
        assert_eq!(step(&Value::from(-1)), None);
    }

    #[test]
    fn floats_are_those_of_the_standard_library() {
        let same = |text: &str| {
            let (ours, theirs) = (float(text), text.parse::<f64>().ok());
            let is_nan = |it: Option<f64>| it.is_some_and(f64::is_nan);
            assert!(
                ours.map(f64::to_bits) == theirs.map(f64::to_bits) || is_nan(ours) && is_nan(theirs),
                "{text}: {ours:?}, not {theirs:?}"
            );
        };
        let words = "0 -0 +1 .5 -.5 1. 007 00.0 1e5 1E+5 1e-05 .e5 e5 . + - +- +-1 1e 1e+ 1.e1 1e5.5 1_0 0x10 inf -inf \
                     +Infinity INF nan NaN -nan infinit naninf ١ 1e400 -1e400 1e-400 0e999999999999 1e-999999999999 \
                     1e999999999999 4.9e-324 2.4703282292062327e-324 2.4703282292062328e-324 2.2250738585072011e-308 \
                     1.7976931348623158e308 1.7976931348623159e308 9007199254740993 9007199254740992.99999999999 \
                     123456789012345678901234567890 0.1 0.30000000000000004 8.5e-45 1e23 5e-324 1.00000000000000011102";
        words.split_whitespace().for_each(same);
        ["", " 1", "1 ", "\u{feff}1"].into_iter().for_each(same);
        let mut seed = 1u64;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(seed >> 33).expect("31 bits") % below
        };
        for _ in 0..20_000 {
            let value = f64::from_bits(u64::from(next(1 << 31)) << 33 | u64::from(next(1 << 31)) << 2);
            same(&format!("{value}"));
            same(&format!("{value:e}"));
            let letters = b"0123456789.eE+-";
            let letter = |next: &mut dyn FnMut(u32) -> u32| letters[next(15) as usize] as char;
            let length = 1 + next(24);
            same(&(0..length).map(|_| letter(&mut next)).collect::<String>());
            let digits: String = (0..length).map(|_| letters[next(10) as usize] as char).collect();
            same(&format!("{digits}.{digits}e-{}", next(340)));
        }
    }

    #[test]
    fn tolerates_a_byte_order_mark() {
        assert_eq!(parse::<Value>("\u{feff}[1]").unwrap(), serde_json::json!([1]));
    }
}
