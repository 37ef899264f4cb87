//! Files in memory, all there at once, and small checkpoints to put among them.

use core::ops::Range;
use std::borrow::Cow;

use mwa::files::{Kind, Stop};
use mwa::safetensors::Header;
use mwa::{Dtype, Error, ErrorKind, Files, Maybe};

/// A config that suits [`adapter`].
pub(crate) const CONFIG: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}"#;

/// Files by path, each once.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Vec<(String, Vec<u8>)>);

impl Memory {
    /// Put a file there, in place of one of the same path.
    pub(crate) fn write(&mut self, path: &str, bytes: &[u8]) {
        self.0.retain(|(other, _)| other != path);
        self.0.push((path.into(), bytes.into()));
    }

    fn find(&self, path: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == path).map(|(_, bytes)| bytes.as_slice())
    }
}

impl Files for Memory {
    fn kind(&self, path: &str) -> Maybe<Kind> {
        let inside = format!("{path}/");
        Ok(match self.find(path) {
            Some(bytes) => Kind::File(bytes.len() as u64),
            None if self.0.iter().any(|(other, _)| other.starts_with(&inside)) => Kind::Folder,
            None => Kind::Missing,
        })
    }

    fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        let inside = format!("{folder}/");
        let names = self.0.iter().filter_map(|(path, _)| path.strip_prefix(&inside)?.split('/').next());
        let mut names: Vec<_> = names.map(String::from).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        assert!(!path.split('/').any(|part| part == ".."), "{path} leads out of the folder");
        let Some(bytes) = self.find(path) else {
            return Err(Stop::Failed(Error::new(ErrorKind::Io, "is not there").file(path)));
        };
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Cow::Borrowed(&bytes[at(range.start)..at(range.end).max(at(range.start))]))
    }
}

/// What files in memory answer: they are never read later.
pub(crate) fn now<T>(answer: Maybe<T>) -> Result<T, Error> {
    answer.map_err(|stop| match stop {
        Stop::Failed(error) => error,
        Stop::Later => panic!("it is to be read later, but all is there"),
    })
}

/// The head of a file with these tensors, and zeros or `value` for their numbers.
pub(crate) fn safetensors(tensors: &[(&str, Dtype, Vec<u64>)], value: u8) -> Vec<u8> {
    let tensors = tensors.iter().map(|(name, dtype, shape)| (String::from(*name), *dtype, shape.clone()));
    let header = Header::layout(tensors, Default::default()).expect("they make a file");
    let mut bytes = header.to_bytes();
    bytes.resize(usize::try_from(header.file_len()).expect("it is small"), value);
    bytes
}

/// A LoRA adapter of rank 2 with one module.
pub(crate) fn adapter(value: u8) -> Vec<u8> {
    let [a, b] = ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"];
    safetensors(&[(a, Dtype::F32, vec![2, 3]), (b, Dtype::F32, vec![4, 2])], value)
}
