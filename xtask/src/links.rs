// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links in Markdown documents, and in the pages made from them.

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// A link or an image.
pub struct Link {
    /// Where it is in the text, brackets included.
    pub range: Range<usize>,
    /// Where it leads.
    pub target: String,
}

/// All links of a document that lead to a file of this repository.
pub fn links(text: &str) -> Vec<Link> {
    let parser = Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter();
    let links = parser.filter_map(|(event, range)| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(Link { range, target: dest_url.into_string() })
        }
        _ => None,
    });
    links.filter(|link| !link.target.contains("://") && !link.target.starts_with("mailto:")).collect()
}

/// A link's file and the anchor in it. No file: the document itself.
pub fn split(target: &str) -> (&str, Option<&str>) {
    target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)))
}

/// The path to which `target`, a file named in `document`, leads: without `..` and `.`.
pub fn resolve(document: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in document.parent().unwrap_or(Path::new("")).join(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

/// The anchors of a document's headings, as forges and mdBook make them.
fn anchors(text: &str) -> HashSet<String> {
    let (mut anchors, mut heading, mut times) = (HashSet::new(), None::<String>, HashMap::new());
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::Text(words) | Event::Code(words), Some(text)) => *text += &words,
            (Event::End(TagEnd::Heading(_)), Some(text)) => {
                let kept = |c: &char| c.is_alphanumeric() || "_- ".contains(*c);
                let anchor: String = text.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
                let before = times.entry(anchor.clone()).and_modify(|times| *times += 1).or_insert(0);
                anchors.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
                heading = None;
            }
            _ => {}
        }
    }
    anchors
}

/// Links of the documents in `root` whose file or anchor does not exist.
pub fn dead_in_repository(root: &Path) -> Result<Vec<String>> {
    let hidden = |name: &str| name.starts_with('.') || name == "target";
    let entries = WalkDir::new(root).min_depth(1).into_iter();
    let mut texts = BTreeMap::new();
    for entry in entries.filter_entry(|entry| !hidden(&entry.file_name().to_string_lossy())) {
        let path = entry?.into_path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.insert(path.strip_prefix(root)?.to_path_buf(), text);
        }
    }
    let mut dead = Vec::new();
    for (document, text) in &texts {
        for Link { target, .. } in links(text) {
            let (file, anchor) = split(&target);
            let path = if file.is_empty() { document.clone() } else { resolve(document, file) };
            let known = |anchor| texts.get(&path).is_some_and(|text| anchors(text).contains(anchor));
            if !root.join(&path).exists() || anchor.is_some_and(|anchor| !known(anchor)) {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    Ok(dead)
}

/// Links of the HTML pages in `root` whose file or anchor does not exist.
pub fn dead_in_pages(root: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for entry in WalkDir::new(root) {
        let path = entry?.into_path();
        // The error page is served in place of any other, so its links are not relative to itself.
        if path.extension().is_some_and(|extension| extension == "html") && !path.ends_with("404.html") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    let ids: BTreeMap<&PathBuf, HashSet<&str>> =
        pages.iter().map(|(path, text)| (path, attributes(text, "id").collect())).collect();
    let mut dead = Vec::new();
    for (page, text) in &pages {
        for target in attributes(text, "href").chain(attributes(text, "src")) {
            if target.contains(':') {
                continue;
            }
            let (file, anchor) = split(target);
            let path = if file.is_empty() { page.clone() } else { resolve(page, file) };
            let known = |anchor: &str| anchor.is_empty() || ids.get(&path).is_some_and(|ids| ids.contains(anchor));
            if !path.is_file() || anchor.is_some_and(|anchor| !known(anchor)) {
                dead.push(format!("{}: {target}", page.strip_prefix(root).unwrap_or(page).display()));
            }
        }
    }
    Ok(dead)
}

/// The values of an attribute in HTML, as mdBook writes it.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    text.split(&format!(" {name}=\""))
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .map(|(value, _)| value)
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_document_has_a_dead_link() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(dead_in_repository(root).unwrap(), [""; 0]);
    }

    #[test]
    fn dead_links_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("docs")).unwrap();
        fs::write(dir.path().join("README.md"), "# A `b-c`: d\n[x](docs/y.md#two) [z](https://z) `[code](no)`\n")
            .unwrap();
        let text = "## One\n[up](../README.md#a-b-c-d)\n| [gone](gone.md) |\n|-|\n| [here](#one) |\n\n    [code](no)\n";
        fs::write(dir.path().join("docs/y.md"), text).unwrap();
        assert_eq!(dead_in_repository(dir.path()).unwrap(), ["README.md: docs/y.md#two", "docs/y.md: gone.md"]);
    }

    #[test]
    fn dead_links_of_pages_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let page =
            r##"<h2 id="a">A</h2><a href="#a"></a><a href="b.html"></a><a href="#b"></a><img src="https://c/d">"##;
        fs::write(dir.path().join("a.html"), page).unwrap();
        assert_eq!(dead_in_pages(dir.path()).unwrap(), ["a.html: b.html", "a.html: #b"]);
    }
}
