//! Tensors parted into files of a size, as Hugging Face parts them, and what such files are called.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};

/// The ending of what is parted.
const ENDING: &str = ".safetensors";

/// What the file would be called that is one of several: `model-00002-of-00003.safetensors` is of `model.safetensors`.
pub(crate) fn whole_name(name: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let stem = name.strip_suffix(ENDING).and_then(|stem| stem.rsplit_once("-of-"));
    let parts =
        stem.and_then(|(stem, count)| stem.rsplit_once('-').map(|(stem, number)| (stem, [number, count])));
    match parts {
        Some((stem, counts)) if counts.iter().all(|it| digits(it)) => format!("{stem}{ENDING}"),
        _ => name.into(),
    }
}

/// Part tensors into files of at most `limit` bytes each, in their order, and name these; `of` says what a tensor is called and its bytes. One
/// that is larger is a file by itself, which stands before that in the making; all that is as `huggingface_hub` does it.
///
/// # Errors
/// [`ErrorKind::Usage`] for an adapter of several files, which nobody loads.
pub(crate) fn parted<T>(
    whole: &str,
    tensors: Vec<T>,
    limit: u64,
    of: impl Fn(&T) -> (&str, u64),
) -> Result<Vec<(String, Vec<T>)>> {
    let mut is_adapter = ["adapter_model", "pytorch_lora_weights", "adapters"]
        .iter()
        .any(|stem| whole.strip_suffix(ENDING) == Some(stem));
    let (mut files, mut open, mut filled, mut total) = (Vec::new(), Vec::new(), 0, 0_u64);
    for tensor in tensors {
        let (name, bytes) = of(&tensor);
        is_adapter |= ["lora_", "hada_", "lokr_"].iter().any(|part| name.contains(part));
        total = total.saturating_add(bytes);
        if bytes > limit {
            files.push(Vec::from([tensor]));
            continue;
        }
        if filled + bytes > limit {
            files.push(core::mem::take(&mut open));
            filled = 0;
        }
        filled += bytes;
        open.push(tensor);
    }
    if !open.is_empty() || files.is_empty() {
        files.push(open);
    }
    let count = files.len();
    if count > 1 && is_adapter {
        let detail = format!("would be {count} files, but programs load an adapter from one file");
        return Err(Error::new(ErrorKind::Usage, detail)
            .file(whole)
            .help(format!("leave out --shard-size, or give one from {total} bytes on")));
    }
    let stem = whole.strip_suffix(ENDING).unwrap_or(whole);
    let name = |number| match count {
        1 => whole.into(),
        _ => format!("{stem}-{number:05}-of-{count:05}{ENDING}"),
    };
    Ok(files.into_iter().zip(1_usize..).map(|(file, number)| (name(number), file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;

    /// What huggingface_hub 2.4 makes of such sizes, by `split_state_dict_into_shards_factory`.
    #[test]
    fn files_are_those_of_hugging_face() {
        for (sizes, limit, expected) in [
            (&[6, 10, 30, 2, 2][..], 10, &[&[0][..], &[2], &[1], &[3, 4]][..]),
            (&[6, 6, 2, 6, 2, 2], 10, &[&[0], &[1, 2], &[3, 4, 5]]),
            (&[6, 10, 30, 2, 2], 100, &[&[0, 1, 2, 3, 4]]),
            (&[5, 5, 5, 5], 10, &[&[0, 1], &[2, 3]]),
            (&[0, 11, 0, 10, 0, 1], 10, &[&[1], &[0, 2, 3, 4], &[5]]),
            (&[20, 30], 10, &[&[0], &[1]]),
        ] {
            let tensors = sizes.iter().copied().enumerate().collect::<Vec<_>>();
            let files = parted("model.safetensors", tensors, limit, |(_, bytes)| ("w", *bytes)).unwrap();
            let found: Vec<Vec<_>> =
                files.iter().map(|(_, file)| file.iter().map(|(i, _)| *i).collect()).collect();
            assert_eq!(found, expected, "{sizes:?}");
            for (number, (name, _)) in files.iter().enumerate() {
                let several = format!("model-{:05}-of-{:05}.safetensors", number + 1, files.len());
                assert_eq!(*name, if files.len() == 1 { "model.safetensors".into() } else { several });
                assert_eq!(whole_name(name), "model.safetensors");
            }
        }
    }

    #[test]
    fn names_that_count_nothing_stay() {
        for name in
            ["a-of-b.safetensors", "run-7.safetensors", "model-1-of-.safetensors", "m-00001-of-00002.bin"]
        {
            assert_eq!(whole_name(name), name);
        }
    }

    #[test]
    fn adapters_stay_whole() {
        let whole = |name: &'static str, limit| {
            parted("style.safetensors", vec![name, name], limit, |name| (name, 10)).map(|files| files.len())
        };
        assert_eq!(whole("layer.weight", 10), Ok(2));
        assert_eq!(whole("layer.lora_A.weight", 20), Ok(1));
        let error = whole("layer.lora_A.weight", 10).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str(), error.advice()),
            (
                ErrorKind::Usage,
                "style.safetensors: would be 2 files, but programs load an adapter from one file",
                Some("leave out --shard-size, or give one from 20 bytes on")
            )
        );
    }
}
