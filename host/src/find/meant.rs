//! Which path was probably meant, where one does not exist.

use std::path::{Path, PathBuf};

use mwa::{Error, ErrorKind, closest};

/// The error of a path that is not there, with the path beside it that differs by a few letters.
pub(crate) fn suggest(error: Error) -> Error {
    let path = match error.at_file() {
        Some(file) if error.kind() == ErrorKind::Input && error.detail() == "does not exist" => {
            Path::new(file)
        }
        _ => return error,
    };
    match meant(path) {
        Some(near) => Error::new(error.kind(), error.detail().to_owned())
            .file(path.display().to_string())
            .help(format!("did you mean {}?", near.display())),
        None => error,
    }
}

/// The path with its first wrong part replaced by what is there, if that leads somewhere.
fn meant(path: &Path) -> Option<PathBuf> {
    let parents: Vec<_> = path.ancestors().collect();
    let at = parents.iter().position(|parent| parent.as_os_str().is_empty() || parent.exists())?;
    let (wrong, here) = (parents[..at].last()?, parents[at]);
    let listed = if here.as_os_str().is_empty() { Path::new(".") } else { here };
    let entries = listed.read_dir().ok()?.flatten();
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let near = closest(wrong.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    let rest = path.strip_prefix(wrong).ok()?;
    let near = if rest.as_os_str().is_empty() { here.join(near) } else { here.join(near).join(rest) };
    near.exists().then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_with_a_wrong_letter_is_replaced_if_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let here = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(here("runs/my-lora/checkpoint-100")).unwrap();
        for (wrong, right) in [
            ("runs/my-loar", Some("runs/my-lora")),
            ("run/my-lora/checkpoint-100", Some("runs/my-lora/checkpoint-100")),
            ("run/my-loar", None),
            ("runs/other", None),
        ] {
            assert_eq!(meant(&here(wrong)), right.map(here), "{wrong}");
        }
    }
}
