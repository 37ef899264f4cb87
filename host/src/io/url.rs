//! Addresses of what lies elsewhere than on this machine: told from paths, and rid of secrets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use crate::engine::pool::lock;
use crate::io::disk::path_of;

/// How addresses of files elsewhere begin.
const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "abfs", "abfss", "https", "http"];

/// Whether a path is the address of something in a store.
pub(crate) fn is_url(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty())
}

/// The same of a path.
pub(crate) fn is_elsewhere(path: &Path) -> bool {
    path.to_str().is_some_and(is_url)
}

/// What addresses hold that nobody is to see: the part before the host, and the part after the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Secret {
    /// A name and a password, without the `@`.
    pub(crate) user: Option<String>,
    /// A signature or a token, without the `?`.
    pub(crate) query: Option<String>,
}

/// The secrets of addresses that were given, by the address without them.
static SECRETS: LazyLock<Mutex<HashMap<String, Secret>>> = LazyLock::new(Mutex::default);

/// A path as it may be shown and written down: an address without secrets, which are kept for [`secret_of`].
pub(crate) fn clean(path: &Path) -> PathBuf {
    let Some(text) = path.to_str().filter(|text| is_url(text)) else { return path.to_owned() };
    let (clean, secret) = parted(text);
    if secret != Secret::default() {
        lock(&SECRETS).insert(clean.clone(), secret);
    }
    path_of(&clean)
}

/// A log as it may be shown and written down: behind `#` a run of a database may be named.
pub(crate) fn clean_log(path: &str) -> String {
    let of = |path: &str| clean(Path::new(path)).display().to_string();
    match path.rsplit_once('#') {
        Some((file, run)) if is_url(file) => format!("{}#{run}", of(file)),
        _ => of(path),
    }
}

/// What was left out of an address that was given.
#[cfg_attr(not(any(feature = "cloud", test)), expect(dead_code, reason = "nothing is fetched without it"))]
pub(crate) fn secret_of(url: &str) -> Secret {
    lock(&SECRETS).get(url).cloned().unwrap_or_default()
}

/// An address without its secrets, and these.
fn parted(url: &str) -> (String, Secret) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (rest, None),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    // of Azure, the part before the `@` is the name of the container
    let (user, host) = match host.rsplit_once('@') {
        Some((user, host)) if !scheme.starts_with("abfs") && scheme != "az" => (Some(user.to_owned()), host),
        _ => (None, host),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let path = parts.iter().map(|part| format!("/{part}")).collect::<String>();
    (format!("{scheme}://{host}{path}"), Secret { user, query })
}

/// A text of a stranger's that may hold addresses, without what these hide.
#[cfg_attr(not(any(feature = "cloud", test)), expect(dead_code, reason = "nothing is fetched without it"))]
pub(crate) fn scrubbed(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '(' | '<' | '>' | ',');
    let word = |word: &str| match word.find("://") {
        Some(_) => {
            let (start, rest) = word.split_once("://").expect("it was found");
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{start}://{host}/{path}")
        }
        None => word.to_owned(),
    };
    text.split_inclusive(ends)
        .map(|part| {
            let end = part.char_indices().next_back().filter(|(_, c)| ends(*c));
            let (body, end) = end.map_or((part, ""), |(at, _)| part.split_at(at));
            word(body) + end
        })
        .collect()
}

/// What a report means by `path` that lies in `folder`: an address is one wherever the report lies.
pub(crate) fn place(folder: &Path, path: &str) -> PathBuf {
    if is_url(path) {
        return path.into();
    }
    let place = folder.join(path);
    if is_elsewhere(folder) { clean(&place) } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for (path, is) in [
            ("s3://bucket/run", true),
            ("https://host/a", true),
            ("az://container/a", true),
            ("s3://", false),
            ("runs/s3://x", false),
            ("ftp://host/a", false),
            ("C:/runs", false),
            ("/runs", false),
        ] {
            assert_eq!(is_url(path), is, "{path}");
        }
    }

    #[test]
    fn secrets_are_kept_apart_from_what_is_shown() {
        let clean = |path: &str| super::clean(Path::new(path)).display().to_string();
        assert_eq!(clean("s3://bucket/run/"), "s3://bucket/run");
        assert_eq!(clean("s3://bucket/merged/../run//a"), "s3://bucket/run/a");
        assert_eq!(clean("https://me:pw@host/a.safetensors?X-Sig=1#x"), "https://host/a.safetensors");
        let secret = secret_of("https://host/a.safetensors");
        assert_eq!(secret.user.as_deref(), Some("me:pw"));
        assert_eq!(secret.query.as_deref(), Some("X-Sig=1#x"));
        assert_eq!(
            clean("abfss://files@account.dfs.core.windows.net/a?sv=2"),
            "abfss://files@account.dfs.core.windows.net/a"
        );
        assert_eq!(clean("runs/a?b"), "runs/a?b");
        let told = "error (GET https://me:pw@host/a?sig=9) for \"https://h?k=1\", after 2";
        assert_eq!(scrubbed(told), "error (GET https://host/a) for \"https://h/\", after 2");
    }

    #[test]
    fn what_a_report_names_is_found_from_where_it_lies() {
        let place = |folder: &str, path: &str| super::place(Path::new(folder), path).display().to_string();
        assert_eq!(place("merged", "../run/a"), "merged/../run/a");
        assert_eq!(place("merged", "s3://b/run"), "s3://b/run");
        assert_eq!(place("s3://b/merged", "../run/a"), "s3://b/run/a");
    }
}
