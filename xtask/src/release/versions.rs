//! The version, in every place that states it.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::Result;

/// A version stands in a file between two texts, as often as the first is found.
struct Place {
    file: &'static str,
    before: &'static str,
    after: &'static str,
}

const fn place(file: &'static str, before: &'static str, after: &'static str) -> Place {
    Place { file, before, after }
}

/// Where versions stand; the first is the one that the others follow. The WIT package and the C library's ABI have numbers of
/// their own: docs/versions.md says when they change.
const PLACES: [Place; 9] = [
    place("Cargo.toml", "[workspace.package]\nversion = \"", "\""),
    place("Cargo.toml", "mwa = { path = \"core\", version = \"", "\""),
    place("Cargo.toml", "mwa-host = { path = \"host\", version = \"", "\""),
    place("Cargo.toml", "mwa-gpu = { path = \"host/gpu\", version = \"", "\""),
    place("wasm/web/package.json", "\"name\": \"mwa-merge\",\n  \"version\": \"", "\""),
    place("wasm/web/README.md", "npm install ./mwa-merge-", ".tgz"),
    place("bindings/java/pom.xml", "<artifactId>mwa-merge</artifactId>\n  <version>", "<"),
    place("bindings/c/mwa.pc", "\nVersion: ", "\n"),
    place("bindings/c/mwa-config-version.cmake", "set(PACKAGE_VERSION \"", "\""),
];

/// Locks, where packages without a source are ours.
const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];
/// Locks of npm, where the package of this repository has this version.
const NPM_LOCKS: [(&str, &str); 3] = [
    ("wasm/web/package-lock.json", "\n  \"version\": \""),
    ("wasm/web/package-lock.json", "\"name\": \"mwa-merge\",\n      \"version\": \""),
    ("examples/browser/package-lock.json", "\"name\": \"mwa-merge\",\n      \"version\": \""),
];
const CHANGELOG: &str = "CHANGELOG.md";
const UNRELEASED: &str = "## Unreleased\n";

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).map_err(|error| format!("{file}: {error}"))
}

fn all() -> impl Iterator<Item = Place> {
    PLACES.into_iter().chain(NPM_LOCKS.map(|(file, before)| place(file, before, "\"")))
}

/// What stands at a place.
fn at<'a>(text: &'a str, place: &Place) -> Result<&'a str> {
    let (_, rest) = text
        .split_once(place.before)
        .ok_or_else(|| format!("{}: `{}` is gone", place.file, place.before.trim()))?;
    rest.split_once(place.after).map(|(version, _)| version).ok_or_else(|| format!("{}: is cut", place.file))
}

/// The version of the tree.
pub(super) fn current(root: &Path) -> Result<String> {
    at(&read(root, PLACES[0].file)?, &PLACES[0]).map(str::to_owned)
}

/// The places whose version is another one, in words.
pub(crate) fn differing(root: &Path) -> Result<Vec<String>> {
    let current = current(root)?;
    let mut differ = Vec::new();
    for place in all() {
        let text = read(root, place.file)?;
        let found = at(&text, &place)?;
        if found != current {
            differ.push(format!("{}: {found}, not {current}", place.file));
        }
    }
    for file in LOCKS {
        let text = read(root, file)?;
        if locked(&text, &current) != text {
            differ.push(format!("{file}: our packages are not {current}"));
        }
    }
    Ok(differ)
}

/// That `version` is one, and newer than `before` or the same: the first release is of what the tree says already.
pub(super) fn follows(before: &str, version: &str) -> Result {
    let parts = |text: &str| -> Option<[u64; 3]> {
        let parts: Vec<_> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        parts.try_into().ok().filter(|parts: &[u64; 3]| parts.map(|part| part.to_string()).join(".") == text)
    };
    let new = parts(version).ok_or_else(|| format!("`{version}` is no version such as 0.2.0"))?;
    let old = parts(before).ok_or_else(|| format!("Cargo.toml: `{before}` is no version such as 0.2.0"))?;
    if new < old { Err(format!("{version} is older than {before}, which Cargo.toml has")) } else { Ok(()) }
}

/// Put `version` into every place of the tree at `root`, and date the changelog.
pub(super) fn set(root: &Path, version: &str) -> Result {
    let write = |file: &str, text: String| {
        fs::write(root.join(file), text).map_err(|error| format!("{file}: {error}"))
    };
    for place in all() {
        let text = read(root, place.file)?;
        let old = format!("{}{}{}", place.before, at(&text, &place)?, place.after);
        write(place.file, text.replacen(&old, &format!("{}{version}{}", place.before, place.after), 1))?;
    }
    for file in LOCKS {
        write(file, locked(&read(root, file)?, version))?;
    }
    let log = read(root, CHANGELOG)?;
    write(CHANGELOG, dated(&log, version, &today()?)?)
}

/// A lock file in which packages without a source have `version`.
fn locked(text: &str, version: &str) -> String {
    let package = |package: &str| {
        let own = "\nversion = \"";
        match package.split_once(own).and_then(|(head, rest)| Some((head, rest.split_once('"')?.1))) {
            Some((head, rest)) if !package.contains("\nsource = ") && head.contains("name = ") => {
                // a crate of the fuzzers' own keeps its number
                let is_ours = !head.contains("\"mwa-fuzz\"");
                if is_ours { format!("{head}{own}{version}\"{rest}") } else { package.to_owned() }
            }
            _ => package.to_owned(),
        }
    };
    let mut parts = text.split("[[package]]");
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |text, part| text + "[[package]]" + &package(part))
}

/// The changelog whose unreleased changes are those of `version`.
fn dated(log: &str, version: &str, today: &str) -> Result<String> {
    if log.contains(&format!("\n## {version} ")) {
        return Ok(log.to_owned());
    }
    let (head, rest) =
        log.split_once(UNRELEASED).ok_or_else(|| format!("{CHANGELOG}: `{}` is gone", UNRELEASED.trim()))?;
    let changes = rest.split("\n## ").next().unwrap_or_default();
    if changes.trim().is_empty() {
        return Err(format!("{CHANGELOG}: nothing stands under `{}`", UNRELEASED.trim()));
    }
    Ok(format!("{head}{UNRELEASED}\n## {version} ({today})\n{rest}"))
}

/// Today in UTC, as 2026-01-31.
fn today() -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs();
    Ok(date(seconds / 86_400))
}

/// The date so many days after 1970-01-01: years of 365 or 366 days, months of theirs.
fn date(mut days: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::root;

    #[test]
    fn versions_are_in_step() {
        assert_eq!(differing(root()), Ok(Vec::new()));
    }

    #[test]
    fn a_version_is_set_everywhere_and_told_where_it_is_not() {
        let tree = crate::run::target().join("tmp/versions");
        for file in all().map(|place| place.file).chain(LOCKS).chain([CHANGELOG]) {
            fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
            fs::copy(root().join(file), tree.join(file)).unwrap();
        }
        fs::write(tree.join(CHANGELOG), "# Changelog\n\n## Unreleased\n\n- new\n").unwrap();
        set(&tree, "9.8.7").unwrap();
        assert_eq!((current(&tree), differing(&tree)), (Ok("9.8.7".into()), Ok(Vec::new())));
        let lock = fs::read_to_string(tree.join("Cargo.lock")).unwrap();
        assert!(
            lock.contains("name = \"mwa\"\nversion = \"9.8.7\"")
                && !lock.contains("name = \"serde\"\nversion = \"9.8.7\"")
        );
        for file in all().map(|place| place.file).chain(LOCKS) {
            let text = fs::read_to_string(tree.join(file)).unwrap();
            fs::write(tree.join(file), text.replacen("9.8.7", "9.8.6", 1)).unwrap();
            assert!(!differing(&tree).unwrap().is_empty(), "{file}");
            fs::write(tree.join(file), text).unwrap();
        }
    }

    #[test]
    fn only_newer_versions_follow() {
        for (version, is_good) in [
            ("0.1.0", true),
            ("0.1.1", true),
            ("1.0.0", true),
            ("0.0.9", false),
            ("1.0", false),
            ("v1.0.0", false),
            ("1.0.00", false),
        ] {
            assert_eq!(follows("0.1.0", version).is_ok(), is_good, "{version}");
        }
    }

    #[test]
    fn the_changelog_is_dated_once_and_not_when_nothing_changed() {
        let log = "# Changelog\n\n## Unreleased\n\n- new\n\n## 0.1.0 (2026-01-01)\n\n- all\n";
        let after = dated(log, "0.2.0", "2026-02-03").unwrap();
        assert_eq!(
            after,
            "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-02-03)\n\n- new\n\n## 0.1.0 (2026-01-01)\n\n- all\n"
        );
        assert_eq!(dated(&after, "0.2.0", "2026-02-04"), Ok(after.clone()));
        assert!(dated(&after, "0.3.0", "2026-02-04").is_err());
    }

    #[test]
    fn days_are_dates() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_453, "2025-12-31"),
            (20_785, "2026-11-28"),
        ] {
            assert_eq!(date(days), text);
        }
    }
}
