// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask book`: the documents as pages. They stay where they are in the repository, and link each other there; mdBook
//! gets copies in the same places, so that the same links lead from page to page.

use crate::links;
use crate::paths::Paths;
use crate::process::{command, find_program, run_logged};
use crate::{cache, progress};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The book's table of contents. Its links say which documents are pages.
const SUMMARY: &str = "docs/SUMMARY.md";
/// The example of `compare`: as a page of the book, which keeps its name, and with its charts, under another one.
const REPORT: [&str; 3] = ["docs/compare/report.md", "docs/compare/report.html", "docs/compare/charts.html"];
/// Files that are not documents, but may be linked from pages: they come along.
const FILES_IN: [&str; 2] = ["docs", "contrib"];

/// Makes the book; false when it has dead links.
pub fn run(paths: &Paths) -> Result<bool> {
    let program =
        find_program("mdbook").context("there is no mdbook; run this and try again: cargo install mdbook --locked")?;
    let (stage, out) = (paths.target.join("book-source"), paths.target.join("book"));
    cache::remove_tree(&stage)?;
    cache::remove_tree(&out)?;
    copy_pages(&paths.root, &stage.join("src"))?;
    for file in ["book.toml", "book.css"] {
        fs::copy(paths.root.join("docs").join(file), stage.join(file))
            .with_context(|| format!("cannot copy {file}"))?;
    }
    let mut mdbook = command(program);
    mdbook.arg("build").arg(&stage).arg("--dest-dir").arg(&out);
    progress::step("mdbook", || run_logged(&mut mdbook, &paths.fresh_log("book")))?;
    let dead = [links::dead_in_repository(&paths.root)?, links::dead_in_pages(&out)?].concat();
    dead.iter().for_each(|link| println!("dead link: {link}"));
    println!("{}", out.join("index.html").display());
    Ok(dead.is_empty())
}

/// The documents that are pages.
fn pages(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let text = fs::read_to_string(root.join(SUMMARY)).with_context(|| format!("cannot read {SUMMARY}"))?;
    Ok(links::links(&text).iter().map(|link| links::resolve(Path::new(SUMMARY), &link.target)).collect())
}

/// Copies the pages and what belongs to them.
fn copy_pages(root: &Path, to: &Path) -> Result<()> {
    let pages = pages(root)?;
    let mut files = BTreeSet::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {}", page.display()))?;
        let text = rewritten(&text, |link| {
            let (file, anchor) = links::split(link);
            let path = links::resolve(page, file);
            if file.is_empty() || pages.contains(&path) {
                return Some(as_index(file, anchor));
            }
            let here = FILES_IN.iter().any(|dir| path.starts_with(dir)) && root.join(&path).is_file();
            // mdBook makes a page's name of each link to a document.
            let comes_along = here && path.extension().is_none_or(|extension| extension != "md");
            comes_along.then(|| {
                files.insert(path);
                link.to_owned()
            })
        });
        let text = if page == Path::new(REPORT[0]) { with_charts(&text) } else { text };
        write(&to.join(as_index(&page.to_string_lossy(), None)), text.as_bytes())?;
    }
    write(&to.join(REPORT[2]), &fs::read(root.join(REPORT[1]))?)?;
    for file in files {
        write(&to.join(&file), &fs::read(root.join(&file))?)?;
    }
    let summary = fs::read_to_string(root.join(SUMMARY))?;
    let summary =
        rewritten(&summary, |link| Some(as_index(&links::resolve(Path::new(SUMMARY), link).to_string_lossy(), None)));
    write(&to.join("SUMMARY.md"), summary.as_bytes())
}

/// The report with a picture below its title, which leads to all charts.
fn with_charts(report: &str) -> String {
    let link = "[![Throughput in relation to no encryption](overview.svg)](charts.html)\n\n[All charts](charts.html)";
    report.replacen("\n\n", &format!("\n\n{link}\n\n"), 1)
}

/// A directory's README.md is its index.html, for which mdBook wants another name.
fn as_index(file: &str, anchor: Option<&str>) -> String {
    let file = match file.strip_suffix("README.md") {
        Some(directory) => format!("{directory}index.md"),
        None => file.to_owned(),
    };
    anchor.map_or_else(|| file.clone(), |anchor| format!("{file}#{anchor}"))
}

/// The text with other links; where `target` has none, the words of the link stay.
fn rewritten(text: &str, mut target: impl FnMut(&str) -> Option<String>) -> String {
    let (mut out, mut done) = (String::new(), 0);
    for link in links::links(text) {
        let source = &text[link.range.clone()];
        // Links inside others, and those that are not written as [words](target), stay as they are.
        let Some((words, _)) = source.rsplit_once("](").filter(|_| link.range.start >= done) else { continue };
        out += &text[done..link.range.start];
        out += &match target(&link.target) {
            Some(target) => format!("{words}]({target})"),
            None => words.trim_start_matches(['!', '[']).to_owned(),
        };
        done = link.range.end;
    }
    out + &text[done..]
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(path, bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn every_document_is_a_page() {
        let pages = pages(root()).unwrap();
        for entry in fs::read_dir(root().join("docs")).unwrap().flatten() {
            let path = Path::new("docs").join(entry.file_name());
            if path.extension().is_some_and(|extension| extension == "md") && path != Path::new(SUMMARY) {
                assert!(pages.contains(&path), "{SUMMARY} lacks {}", path.display());
            }
        }
        pages.iter().for_each(|page| assert!(root().join(page).is_file(), "{}", page.display()));
    }

    #[test]
    fn links_to_what_is_no_page_become_words() {
        let text = "[a](README.md#x) [`b`](../src/b.rs), ![c](c.svg)\n| [d](d.md) |\n";
        let page = |link: &str| (!link.contains("src")).then(|| as_index(links::split(link).0, links::split(link).1));
        assert_eq!(rewritten(text, page), "[a](index.md#x) `b`, ![c](c.svg)\n| [d](d.md) |\n");
    }

    #[test]
    fn copies_link_each_other() {
        let dir = tempfile::tempdir().unwrap();
        copy_pages(root(), dir.path()).unwrap();
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(text("index.md").contains("](docs/index.md)"));
        assert!(text("docs/index.md").contains("](../index.md"));
        assert!(text("SUMMARY.md").contains("](docs/compare/report.md)"));
        assert!(text("docs/compare/report.md").contains("](charts.html)"));
        assert!(
            ["overview.svg", "charts.html"].iter().all(|file| dir.path().join("docs/compare").join(file).is_file())
        );
        assert!(!text("docs/personalities.md").contains("src/personality)"), "source files are no pages");
        assert!(!text("CONTRIBUTING.md").contains("SUMMARY.md)"), "nor is the table of contents");
    }
}
