//! Read the JSON that Python writes: bare NaN and Infinity, a byte order mark, numbers inside strings.

use alloc::borrow::Cow;
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
        Some((done, total)) => total.trim().parse::<f64>().ok().and(done.trim().parse().ok()),
        None => text.parse().ok(),
    }
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
    fn tolerates_a_byte_order_mark() {
        assert_eq!(parse::<Value>("\u{feff}[1]").unwrap(), serde_json::json!([1]));
    }
}
