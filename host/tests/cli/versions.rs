//! What earlier releases wrote is still understood, and what later ones wrote is refused in plain words.
//!
//! `data/reports/VERSION` has merges as that release left them, with their inputs. They are never changed: bytes of a merge and
//! the report's format are promises (`docs/versions.md`). `MWA_REMAKE=1` adds those of this version, where there are none.

use std::fs;
use std::path::{Path, PathBuf};

use snapbox::{assert_data_eq, str};

use crate::place::Place;

/// The merges that are kept of each release: a folder, and what wrote it.
const KEPT: [(&str, &str); 3] = [
    ("factors", "merge run -o factors --select all"),
    ("product", "merge run -o product --weights 0.5,0.2,0.3 --select all --space product --rank 1 --sha256"),
    ("median", "merge run -o median --select all --scheme geometric-median --dtype f32"),
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/data/reports")
}

/// Copy files below a folder into a place.
fn copy(from: &Path, place: &Place, to: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{to}{}", entry.file_name().display());
        if entry.path().is_dir() {
            copy(&entry.path(), place, &format!("{name}/"));
        } else {
            place.write(&name, fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn merges_of_each_release_are_verified_by_this_one() {
    let own = data().join(env!("CARGO_PKG_VERSION"));
    if std::env::var_os("MWA_REMAKE").is_some() && !own.exists() {
        let place = Place::with_run();
        for (_, how) in KEPT {
            let ran = place.mwa(how);
            assert_eq!(ran.code, Some(0), "{how}: {}", ran.err);
        }
        let kept = KEPT.map(|(folder, _)| folder);
        for (path, (bytes, _)) in place.tree() {
            let inner = path.strip_prefix(place.path("")).unwrap();
            if let Some(bytes) = bytes.filter(|_| kept.iter().chain(&["run"]).any(|it| inner.starts_with(it)))
            {
                let to = own.join(inner);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(to, bytes).unwrap();
            }
        }
    }
    let releases: Vec<_> = fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!releases.is_empty());
    for release in releases {
        let place = Place::new();
        copy(&release, &place, "");
        for (folder, _) in KEPT {
            let ran = place.mwa(&format!("verify {folder}"));
            assert_eq!(ran.code, Some(0), "{} {folder}: {}{}", release.display(), ran.out, ran.err);
        }
    }
}

#[test]
fn a_report_of_a_later_release_is_refused_whatever_else_it_says() {
    let place = Place::with_run();
    place.merges("run --select all");
    let own = format!(r#""mwa": "{}""#, env!("CARGO_PKG_VERSION"));
    // a patch of this series changes neither reports nor bytes
    let [major, minor] = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")];
    place.edit("out/mwa-report.json", &own, &format!(r#""mwa": "{major}.{minor}.999""#));
    assert_eq!(place.mwa("verify out").code, Some(0));
    place.write("out/mwa-report.json", r#"{"mwa": "99.0.1", "merges": ["in another form"]}"#);
    assert_data_eq!(
        place.fails("verify out"),
        str![[r#"
error: out/mwa-report.json: was written by mwa 99.0.1, whose reports mwa [..] does not know
help: verify it with mwa 99.0.1 or newer

"#]]
    );
}

#[test]
fn a_journal_of_a_later_format_is_refused() {
    let place = Place::with_run();
    let search = "search run --select all -o best --goal min --budget 2 --resume --evaluate false";
    place.write("best.search.jsonl", "{\"mwa_search\": 2, \"trials\": \"in another form\"}\n");
    assert_data_eq!(
        place.fails(search),
        str![[r#"
error: best.search.jsonl: is a journal of format 2, and this mwa knows formats up to 1
help: go on with the mwa that began it or a newer one, or begin anew by --force without --resume

"#]]
    );
}
