//! The guide: the pages that `docs/SUMMARY.md` names, as a site; and whether the links of all of them lead somewhere.
//!
//! Pages stay where they belong, beside what they are of, and their links work there. For the site they are laid out as in the
//! repository, and links to what is no page become links into the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Result, cargo, copy, output, root, run, target};

const SUMMARY: &str = "docs/SUMMARY.md";
/// The page that merges, once it is built; a part of the site.
const BUILT_PAGE: &str = "examples/browser/dist";
/// Where the repository shows files.
const SOURCES: &str = "https://github.com/mwa-merge/mwa";

/// `cargo xtask build docs`: the guide in `target/docs/site`, with the API's documentation, and the page if it is built.
pub(crate) fn build() -> Result {
    let faults = faults()?;
    if !faults.is_empty() {
        return Err(format!("links that lead nowhere:\n  {}", faults.join("\n  ")));
    }
    let pages = pages()?;
    for entry in fs::read_dir(root().join("docs")).into_iter().flatten().flatten() {
        let page = format!("docs/{}", entry.file_name().to_string_lossy());
        if page.ends_with(".md") && page != SUMMARY && !pages.contains(&page) {
            return Err(format!("{page} is not in {SUMMARY}: no reader of the guide would find it"));
        }
    }
    let book = target().join("docs");
    let _ = fs::remove_dir_all(book.join("src"));
    lay_out(&pages, &book.join("src"))?;
    copy(&root().join("docs/book.toml"), &book.join("book.toml"))?;
    let mut mdbook = Command::new(mdbook()?);
    mdbook.arg("build").arg(&book);
    run(mdbook)?;
    let site = book.join("site");
    run(cargo(["doc", "--no-deps", "--package", "mwa", "--package", "mwa-host", "--package", "mwa-gpu"]))?;
    copy_all(&target().join("doc"), &site.join("api"))?;
    let page = root().join(BUILT_PAGE);
    if page.is_dir() {
        copy_all(&page, &site.join("merger"))?;
    } else {
        println!("the page itself is not there: cargo xtask build page");
    }
    println!("built {}", site.join("index.html").display());
    Ok(())
}

/// mdBook from the PATH, or from crates.io into the target folder.
fn mdbook() -> Result<PathBuf> {
    let mut version = Command::new("mdbook");
    version.arg("--version");
    if output(version).is_ok() {
        return Ok("mdbook".into());
    }
    let tools = target().join("tools");
    let program = tools.join("bin").join(format!("mdbook{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        let install = [
            "install",
            "mdbook",
            "--version",
            "^0.5",
            "--locked",
            "--no-default-features",
            "--features",
            "search",
            "--root",
        ];
        let mut install = cargo(install);
        // its own, not the workspace's
        run({
            install.arg(&tools).current_dir(std::env::temp_dir());
            install
        })?;
    }
    Ok(program)
}

fn read(page: &str) -> Result<String> {
    fs::read_to_string(root().join(page)).map_err(|error| format!("{page}: {error}"))
}

/// The pages of the guide, by their paths in the repository.
fn pages() -> Result<BTreeSet<String>> {
    let summary = read(SUMMARY)?;
    Ok(links(&summary)
        .into_iter()
        .filter_map(|link| resolve(SUMMARY, link.target).map(|(page, _)| page))
        .collect())
}

/// A link in a page: where its target stands, and what it is.
struct Link<'a> {
    at: usize,
    target: &'a str,
}

/// The links of a page in Markdown, but for those in code.
fn links(text: &str) -> Vec<Link<'_>> {
    let (mut links, mut is_code, mut start) = (Vec::new(), false, 0);
    for line in text.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        if !is_code && !is_fence {
            let mut from = 0;
            while let Some(at) = line[from..].find("](").map(|at| from + at + 2) {
                let is_shown = line[..at].bytes().filter(|byte| *byte == b'`').count() % 2 == 0;
                if let Some(end) = line[at..].find(')').filter(|_| is_shown) {
                    links.push(Link { at: start + at, target: &line[at..at + end] });
                }
                from = at;
            }
        }
        is_code ^= is_fence;
        start += line.len();
    }
    links
}

/// The path in the repository and the anchor that a link of a page leads to; none where it leads elsewhere.
fn resolve(page: &str, target: &str) -> Option<(String, Option<String>)> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) =
        target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor.to_owned())));
    if path.is_empty() {
        return Some((page.to_owned(), anchor));
    }
    let mut parts: Vec<_> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    Some((parts.join("/"), anchor))
}

/// What a heading is called in links, as GitHub and mdBook have it.
fn anchor(heading: &str) -> String {
    let mut text = heading.trim().to_lowercase();
    // of a link its text is shown
    while let Some((before, rest)) = text.split_once("](") {
        let after = rest.split_once(')').map_or("", |(_, after)| after);
        text = format!("{}{after}", before.replacen('[', "", 1));
    }
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let (mut is_code, mut anchors) = (false, BTreeSet::new());
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if !is_code && line.len() > heading.len() && heading.starts_with(' ') {
            anchors.insert(anchor(heading));
        }
    }
    anchors
}

/// The links that lead nowhere, of all pages and of what lies beside them in docs/.
fn faults() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for page in pages()?.iter().map(String::as_str).chain([SUMMARY]) {
        let text = read(page)?;
        for link in links(&text) {
            let Some((to, anchor)) = resolve(page, link.target) else { continue };
            if !root().join(&to).exists() {
                faults.push(format!("{page}: {}", link.target));
            } else if let Some(anchor) = anchor.filter(|_| to.ends_with(".md"))
                && !anchors(&read(&to)?).contains(&anchor)
            {
                faults.push(format!("{page}: {} has no such heading", link.target));
            }
        }
    }
    Ok(faults)
}

/// Where a page lies in the site's sources: what a folder shows first is its index.
fn place(page: &str) -> String {
    page.strip_suffix("README.md").map_or_else(|| page.to_owned(), |folder| format!("{folder}index.md"))
}

/// Put pages, and the pictures that they show, where mdBook reads them.
fn lay_out(pages: &BTreeSet<String>, to: &Path) -> Result {
    for page in pages.iter().map(String::as_str).chain([SUMMARY]) {
        let text = read(page)?;
        let (mut laid, mut done) = (String::new(), 0);
        for link in links(&text) {
            let Some((path, anchor)) = resolve(page, link.target) else { continue };
            let target = if link.target.starts_with('#') {
                continue;
            } else if pages.contains(&path) {
                // the summary moves to the root of the sources
                let up = if page == SUMMARY { 0 } else { page.matches('/').count() };
                format!("{}{}", "../".repeat(up), place(&path))
            } else if path.ends_with(".svg") {
                copy(&root().join(&path), &to.join(&path))?;
                continue;
            } else {
                let kind = if root().join(&path).is_dir() { "tree" } else { "blob" };
                format!("{SOURCES}/{kind}/main/{path}")
            };
            laid += &text[done..link.at];
            laid += &target;
            laid += &anchor.map_or_else(String::new, |anchor| format!("#{anchor}"));
            done = link.at + link.target.len();
        }
        laid += &text[done..];
        // what a test wants to know of a block is nothing to a reader
        let mut laid: String = laid
            .split_inclusive('\n')
            .map(|line| if line.starts_with("```sh needs=") { "```sh\n" } else { line })
            .collect();
        laid += match page {
            "core/README.md" => "\n[The API](../api/mwa/index.html) has everything in detail.\n",
            "host/README.md" => "\n[The API](../api/mwa_host/index.html) has everything in detail.\n",
            "examples/browser/README.md" if root().join(BUILT_PAGE).is_dir() => {
                "\n[Open it here](../../merger/index.html).\n"
            }
            _ => "",
        };
        let file = to.join(if page == SUMMARY { "SUMMARY.md".into() } else { place(page) });
        let written = fs::create_dir_all(file.parent().expect("it lies in a folder"))
            .and_then(|()| fs::write(&file, laid));
        written.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result {
    for entry in fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))?.flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_all(&path, &to) } else { copy(&path, &to) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_somewhere() {
        assert_eq!(faults(), Ok(Vec::new()));
        assert!(pages().unwrap().len() > 20);
    }

    #[test]
    fn links_are_found_but_not_in_code() {
        let text = "a [b](c.md#d) `[x](y)` ![e](f.svg)\n```sh\n[no](no)\n```\n[g](h)\n";
        assert_eq!(links(text).iter().map(|link| link.target).collect::<Vec<_>>(), ["c.md#d", "f.svg", "h"]);
        assert!(links(text).iter().all(|link| text[link.at..].starts_with(link.target)));
        assert_eq!(
            resolve("docs/a.md", "../tests/README.md#x"),
            Some(("tests/README.md".into(), Some("x".into())))
        );
        assert_eq!(resolve("docs/a.md", "#x"), Some(("docs/a.md".into(), Some("x".into()))));
        assert_eq!(resolve("docs/a.md", "https://example.org/a.md"), None);
    }

    #[test]
    fn headings_are_called_as_in_links() {
        for (heading, is) in [
            ("How it compares", "how-it-compares"),
            ("The ABI of `x`, y", "the-abi-of-x-y"),
            ("A [b](c) d", "a-b-d"),
        ] {
            assert_eq!(anchor(heading), is);
        }
        assert_eq!(anchors("# A\n```\n# B\n```\n#no\n"), BTreeSet::from(["a".into()]));
    }

    #[test]
    fn pages_are_laid_out_with_links_that_lead_on() {
        let to = target().join("tmp/laid-out");
        let _ = fs::remove_dir_all(&to);
        lay_out(&pages().unwrap(), &to).unwrap();
        let read = |file: &str| fs::read_to_string(to.join(file)).unwrap();
        assert!(
            read("SUMMARY.md").contains("](index.md)") && read("SUMMARY.md").contains("](docs/weights.md)")
        );
        assert!(read("docs/weights.md").contains("](../index.md#the-formula)"));
        assert!(
            read("index.md").contains(&format!("]({SOURCES}/")) || !read("index.md").contains("](examples/)")
        );
        assert!(to.join("docs/sample-weights.svg").is_file());
        assert!(!read("host/index.md").contains("needs=") && read("host/index.md").contains("api/mwa_host"));
    }
}
