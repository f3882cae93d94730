// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which Debian mirror to use: on Debian, the one that apt uses, so that a site's own mirror is used.

use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// A mirror, and the keyring that signs it when apt names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Base address, as apt writes it.
    pub uri: String,
    /// `Signed-By`, when it is a file.
    pub keyring: Option<PathBuf>,
}

/// The mirror from, in this order: the command line, DEBIAN_MIRROR, apt on Debian. `None`: mmdebstrap's default.
pub fn find(option: Option<&str>) -> Result<Option<Mirror>> {
    let given = option.map(str::to_owned).or_else(|| std::env::var("DEBIAN_MIRROR").ok());
    if let Some(uri) = given.filter(|u| !u.is_empty()) {
        return Ok(Some(Mirror { uri, keyring: default_keyring() }));
    }
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if os_field(&os, "ID") != Some("debian") {
        return Ok(None);
    }
    let Some(codename) = os_field(&os, "VERSION_CODENAME") else { return Ok(None) };
    Ok(from_apt(Path::new("/etc/apt"), codename))
}

/// Debian's keyring, where it is installed.
pub fn default_keyring() -> Option<PathBuf> {
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
}

fn os_field<'a>(os: &'a str, name: &str) -> Option<&'a str> {
    os.lines().find_map(|l| Some(l.strip_prefix(name)?.strip_prefix('=')?.trim_matches('"')))
}

/// The first source in apt's configuration that serves component `main` of suite `codename`.
fn from_apt(apt: &Path, codename: &str) -> Option<Mirror> {
    let mut files = vec![apt.join("sources.list")];
    let mut parts: Vec<PathBuf> =
        fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    parts.sort();
    files.extend(parts);
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let found = match file.extension()?.to_str()? {
            "list" => one_line(&text, codename),
            "sources" => deb822(&text, codename),
            _ => None,
        }?;
        resolve(found)
    })
}

/// Parses the one-line form: `deb [options] URI SUITE COMPONENT...`.
fn one_line(text: &str, codename: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let mut rest = line.split('#').next()?.trim().strip_prefix("deb")?;
        if !rest.starts_with([' ', '\t']) {
            return None;
        }
        rest = rest.trim_start();
        let mut keyring = None;
        if let Some(options) = rest.strip_prefix('[') {
            let (inside, after) = options.split_once(']')?;
            keyring = inside.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).and_then(key_file);
            rest = after;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [uri, suite, components @ ..] = words.as_slice() else { return None };
        is_archive(uri, &[suite], components, codename)
            .then(|| Mirror { uri: (*uri).to_owned(), keyring: keyring.or_else(default_keyring) })
    })
}

/// Parses deb822 stanzas: `Types:`, `URIs:`, `Suites:`, `Components:`, `Signed-By:`.
fn deb822(text: &str, codename: &str) -> Option<Mirror> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    lines.split(|l| l.trim().is_empty()).find_map(|stanza| {
        let field = |name: &str| {
            stanza.iter().find_map(|l| {
                let (n, value) = l.split_once(':')?;
                n.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let words = |name| field(name).unwrap_or("").split_whitespace().collect::<Vec<_>>();
        let enabled = !field("Enabled").is_some_and(|v| v.eq_ignore_ascii_case("no"));
        let uri = words("URIs").into_iter().next()?;
        (enabled
            && words("Types").contains(&"deb")
            && is_archive(uri, &words("Suites"), &words("Components"), codename))
        .then(|| Mirror {
            uri: uri.to_owned(),
            keyring: field("Signed-By").and_then(key_file).or_else(default_keyring),
        })
    })
}

fn is_archive(uri: &str, suites: &[&str], components: &[&str], codename: &str) -> bool {
    let known = ["http:", "https:", "file:", "copy:", "mirror+file:"];
    known.iter().any(|k| uri.starts_with(k)) && suites.contains(&codename) && components.contains(&"main")
}

fn key_file(value: &str) -> Option<PathBuf> {
    value.starts_with('/').then(|| PathBuf::from(value)).filter(|p| p.exists())
}

/// Follows `mirror+file:/list`, which Debian's cloud images use, to the first mirror of the list.
fn resolve(mirror: Mirror) -> Option<Mirror> {
    let Some(list) = mirror.uri.strip_prefix("mirror+file:") else { return Some(mirror) };
    let text = fs::read_to_string(list).ok()?;
    let uri = text.lines().find_map(|l| l.split('#').next()?.split_whitespace().next())?.to_owned();
    Some(Mirror { uri, ..mirror })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        from_apt(dir.path(), "bookworm").map(|m| m.uri)
    }

    #[test]
    fn one_line_form_skips_other_suites_and_third_parties() {
        let text = "# deb http://old.example/debian bookworm main\n\
            deb cdrom:[Debian]/ bookworm main\n\
            deb-src http://src.example/debian bookworm main\n\
            deb http://sec.example/debian-security bookworm-security main\n\
            deb http://cloud.example/apt sdk-bookworm main\n\
            deb [arch=amd64 signed-by=/nonexistent] http://lab.example/debian bookworm main contrib # ours\n";
        assert_eq!(found("sources.list", text).as_deref(), Some("http://lab.example/debian"));
    }

    #[test]
    fn deb822_form() {
        let text = "Types: deb\nURIs: https://third.example/x\nSuites: nodistro\nComponents: main\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n\n\
            Types: deb deb-src\n# comment\nURIs: http://lab.example/debian/\nSuites: bookworm bookworm-updates\n\
            Components: main\n";
        assert_eq!(found("sources.list.d/debian.sources", text).as_deref(), Some("http://lab.example/debian/"));
        assert_eq!(found("sources.list.d/debian.save", text), None);
    }

    #[test]
    fn mirror_list_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("mirrors");
        fs::write(&list, "# c\nhttp://first.example/debian priority:1\nhttp://second.example\n").unwrap();
        let text = format!("Types: deb\nURIs: mirror+file:{}\nSuites: bookworm\nComponents: main\n", list.display());
        assert_eq!(found("sources.list.d/d.sources", &text).as_deref(), Some("http://first.example/debian"));
    }
}
