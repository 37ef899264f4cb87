//! The situations: small runs, happy and unhappy, that every face answers alike; how they are laid out and compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// One of `situations.json`; tests/situations/make.py explains them.
#[derive(Clone, Debug, Deserialize)]
pub struct Situation {
    /// Its name.
    pub situation: String,
    /// What it shows.
    pub why: String,
    /// What is merged, from its folder.
    pub paths: Vec<String>,
    /// The options by name.
    pub options: Map<String, Value>,
    /// Paths of files, and the places of their contents.
    files: BTreeMap<String, usize>,
    /// What the oracle's tensors are, where it makes any.
    pub oracle: Option<String>,
    #[serde(skip)]
    contents: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct All {
    blobs: Vec<Blob>,
    situations: Vec<Situation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Blob {
    Text(String),
    Base64(String),
}

/// The folder of the situations.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("situations")
}

/// All situations.
///
/// # Panics
/// If `situations.json` is not what make.py writes.
#[must_use]
pub fn situations() -> Vec<Situation> {
    let text = fs::read_to_string(folder().join("situations.json")).expect("situations.json is there");
    let all: All = serde_json::from_str(&text).expect("make.py wrote it");
    let contents: Vec<_> = all.blobs.iter().map(Blob::bytes).collect();
    let mut situations = all.situations;
    for situation in &mut situations {
        situation.contents = contents.clone();
    }
    situations
}

impl Situation {
    /// Put its files into a folder.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn lay_out(&self, folder: &Path) {
        for (path, place) in &self.files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("it is within the folder")).unwrap();
            fs::write(path, &self.contents[*place]).unwrap();
        }
    }

    /// What a face answered, as `golden.json` has it: `made` is the folder `out` beside the run, which must not exist after an error.
    ///
    /// # Errors
    /// If an error left something behind.
    ///
    /// # Panics
    /// If the output cannot be read.
    pub fn outcome(folder: &Path, answer: mwa::Result<()>) -> Result<Value, String> {
        let out = folder.join("out");
        match answer {
            Ok(()) => {
                let mut files = Map::new();
                let mut report = Value::Null;
                for name in names(&out) {
                    let bytes = fs::read(out.join(&name)).unwrap();
                    if name == "mwa-report.json" {
                        report = serde_json::from_slice(&bytes).expect("the report is JSON");
                    } else {
                        files.insert(name, sha256(&bytes).into());
                    }
                }
                Ok(relative(&json!({ "report": report, "files": files }), folder))
            }
            Err(_) if out.exists() => Err("an error left an output behind".into()),
            Err(error) => Ok(relative(
                &json!({ "error": {
                    "kind": error.kind().name(), "file": error.at_file(), "tensor": error.at_tensor(),
                    "detail": error.detail(), "help": error.advice(),
                } }),
                folder,
            )),
        }
    }
}

/// Names without the folder that the test happened to use, and no version.
fn relative(outcome: &Value, folder: &Path) -> Value {
    let prefix = format!("{}/", folder.display());
    let mut outcome: Value = serde_json::from_str(&outcome.to_string().replace(&prefix, "")).unwrap();
    if let Some(report) = outcome.get_mut("report").and_then(Value::as_object_mut) {
        report.remove("mwa");
    }
    outcome
}

/// What all faces must answer.
///
/// # Panics
/// If `golden.json` is not there.
#[must_use]
pub fn golden() -> Map<String, Value> {
    let text = fs::read_to_string(folder().join("golden.json")).expect("MWA_REMAKE=1 makes golden.json");
    serde_json::from_str(&text).expect("golden.json is JSON")
}

/// The first places where two answers differ, in words.
#[must_use]
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    fn walk(path: &str, expected: &Value, found: &Value, differ: &mut Vec<String>) {
        match (expected, found) {
            (Value::Object(a), Value::Object(b)) => {
                for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                    let none = &Value::Null;
                    walk(
                        &format!("{path}.{name}"),
                        a.get(name).unwrap_or(none),
                        b.get(name).unwrap_or(none),
                        differ,
                    );
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (i, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{path}[{i}]"), a, b, differ);
                }
            }
            (a, b) if a == b => {}
            (a, b) => differ.push(format!("{}: expected {a}, found {b}", path.trim_start_matches('.'))),
        }
    }
    let mut differ = Vec::new();
    walk("", expected, found, &mut differ);
    differ
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the output is a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of all tensors of safetensors files, as make.py makes it.
///
/// # Panics
/// If a file is not safetensors.
#[must_use]
pub fn digest(files: &[Vec<u8>]) -> String {
    let mut tensors = BTreeMap::new();
    for file in files {
        let head = safetensors::SafeTensors::deserialize(file).expect("it is a safetensors file");
        for (name, tensor) in head.tensors() {
            let shape: Vec<_> = tensor.shape().iter().map(ToString::to_string).collect();
            let told = format!("{name}\0{}\0{}\0", tensor.dtype(), shape.join(","));
            tensors.insert(name, [told.as_bytes(), tensor.data()].concat());
        }
    }
    sha256(&tensors.into_values().collect::<Vec<_>>().concat())
}

impl Blob {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => base64(text),
        }
    }
}

/// What make.py writes, and nothing else: no line breaks, padded.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').bytes();
    let digits = digits.map(|digit| ALPHABET.iter().position(|it| *it == digit).expect("a digit of base64"));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("masked"));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(base64("AAEC/f7/"), [0, 1, 2, 0xfd, 0xfe, 0xff]);
        assert_eq!(base64("bXdh"), b"mwa");
        assert_eq!(base64("bXc="), b"mw");
        assert_eq!(base64("bQ=="), b"m");
    }

    #[test]
    fn differences_are_told_by_place() {
        let (a, b) = (json!({"a": [1, {"b": 2}], "c": 3}), json!({"a": [1, {"b": 4}], "d": 3}));
        assert_eq!(
            differences(&a, &b),
            ["a[1].b: expected 2, found 4", "c: expected 3, found null", "d: expected null, found 3"]
        );
        assert!(differences(&a, &a).is_empty());
    }
}
