//! A model's `config.json`, made to say which dtype is written: programs load a model in the dtype that its config names.

use alloc::string::String;

use crate::dtype::Float;

/// How configs name the dtype: transformers up to 4, and since.
const KEYS: [&str; 2] = ["\"torch_dtype\"", "\"dtype\""];
/// Their words for dtypes, of which the last part counts: `torch.float16` is one too.
const KNOWN: [&str; 4] = ["float64", "float32", "bfloat16", "float16"];

/// The config with each dtype in it, nested ones too, replaced by this one; none if none differs. All else stays as it is, to the byte.
pub(super) fn with_dtype(config: &str, dtype: Float) -> Option<String> {
    let wanted = match dtype {
        Float::F64 => KNOWN[0],
        Float::F32 => KNOWN[1],
        Float::BF16 => KNOWN[2],
        Float::F16 => KNOWN[3],
        _ => return None,
    };
    let (mut made, mut kept) = (String::new(), 0);
    let mut at = 0;
    while let Some(key) = KEYS.iter().filter_map(|key| Some((config[at..].find(key)? + at, key.len()))).min()
    {
        at = key.0 + key.1;
        // a quote that is escaped is inside of another text
        let is_key = !config[..key.0].ends_with('\\');
        let Some(value) = value_at(config, at).filter(|_| is_key) else { continue };
        let (start, end) = value;
        let word = config[start..end].trim_start_matches("torch.");
        at = end;
        if KNOWN.contains(&word) && word != wanted {
            made.push_str(&config[kept..end - word.len()]);
            made.push_str(wanted);
            kept = end;
        }
    }
    (kept > 0).then(|| made + &config[kept..])
}

/// Where the text begins and ends that follows a colon.
fn value_at(config: &str, at: usize) -> Option<(usize, usize)> {
    let rest = config[at..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let start = config.len() - rest.len();
    Some((start, start + rest.find('"')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_dtypes_of_a_config_are_replaced_and_nothing_else() {
        for (config, made) in [
            (r#"{"dtype": "float16", "n": 1}"#, Some(r#"{"dtype": "bfloat16", "n": 1}"#)),
            (r#"{"a":{"torch_dtype" :"torch.float32"}}"#, Some(r#"{"a":{"torch_dtype" :"torch.bfloat16"}}"#)),
            (
                r#"{"torch_dtype":"float32","x":{"dtype":"float16"}}"#,
                Some(r#"{"torch_dtype":"bfloat16","x":{"dtype":"bfloat16"}}"#),
            ),
            (r#"{"torch_dtype": "bfloat16"}"#, None),
            (r#"{"torch_dtype": null, "dtype": "auto"}"#, None),
            (r#"{"text": "\"dtype\": \"float16\"", "bnb_4bit_compute_dtype": "float16"}"#, None),
            (r#"{"dtype": "float1"#, None),
            ("", None),
        ] {
            assert_eq!(with_dtype(config, Float::BF16).as_deref(), made, "{config}");
        }
    }
}
