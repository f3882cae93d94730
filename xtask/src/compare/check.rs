// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks that a report is complete: every form of it must have everything that was planned. It does not judge numbers.

use super::header::NAMES;
use super::report::FILES;
use crate::measure::table::escape;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What is missing in the report in `dir`.
pub fn problems(dir: &Path) -> Vec<String> {
    let mut problems = vec![];
    let mut texts = vec![];
    for name in FILES {
        match fs::read_to_string(dir.join(name)) {
            Ok(text) if !text.is_empty() => texts.push(text),
            Ok(_) => problems.push(format!("{name} is empty")),
            Err(e) => problems.push(format!("{name}: {e}")),
        }
    }
    let [html, markdown, json, csv, overview] = texts.as_slice() else { return problems };
    let Ok(json) = serde_json::from_str::<Value>(json) else {
        problems.push("results.json is not JSON".to_owned());
        return problems;
    };
    check_json(&json, &mut problems);
    check_csv(&json, csv, &mut problems);
    check_page(html, &mut problems);
    let for_html = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    for text in words(&json) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !html.contains(&for_html(&text)) {
            problems.push(format!("report.html does not say {text:?}"));
        }
        if !markdown.contains(&escape(&text)) {
            problems.push(format!("report.md does not say {text:?}"));
        }
    }
    if !overview.starts_with("<svg") || !overview.trim_end().ends_with("</svg>") {
        problems.push("overview.svg is not a picture".to_owned());
    }
    problems
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn word<'a>(json: &'a Value, name: &str) -> &'a str {
    json.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What the HTML page and the Markdown text must say.
fn words(json: &Value) -> Vec<String> {
    let header = json.get("header").and_then(Value::as_object);
    let header = header.into_iter().flatten().filter_map(|(_, v)| v.as_str());
    let warning =
        ["warning", "keyslots_for_per_extent_keys"].map(|n| word(json, n)).into_iter().filter(|w| !w.is_empty());
    let targets = list(json, "targets")
        .iter()
        .flat_map(|t| ["target", "ran_as", "kernel_said", "device_counted"].map(|n| word(t, n)));
    let titles = list(json, "results").iter().map(|r| word(r, "title"));
    let not_run = list(json, "not_run").iter().flat_map(|n| [word(n, "target"), word(n, "reason")]);
    let failed = list(json, "failed").iter().filter_map(Value::as_str);
    header.chain(warning).chain(targets).chain(titles).chain(not_run).chain(failed).map(str::to_owned).collect()
}

fn check_json(json: &Value, problems: &mut Vec<String>) {
    let empty = Value::Null;
    let header = json.get("header").unwrap_or(&empty);
    for name in NAMES.iter().filter(|name| word(header, name).is_empty()) {
        problems.push(format!("the report does not say its {name}"));
    }
    if word(header, "accelerator").starts_with("TCG") && word(json, "warning").is_empty() {
        problems.push("the report does not warn of emulation".to_owned());
    }
    let rounds = json.get("rounds").and_then(Value::as_u64).unwrap_or(0);
    let excused = |target: &str| {
        list(json, "not_run").iter().any(|n| word(n, "target") == target && !word(n, "reason").is_empty())
    };
    if list(json, "planned").is_empty() {
        problems.push("nothing was planned".to_owned());
    }
    for planned in list(json, "planned") {
        let (load, target) = (word(planned, "load"), word(planned, "target"));
        if excused(target) {
            continue;
        }
        let result = list(json, "results").iter().find(|r| word(r, "load") == load && word(r, "target") == target);
        let Some(result) = result else {
            problems.push(format!("{load} on {target} was planned, but is missing"));
            continue;
        };
        let samples = list(result, "samples");
        if samples.len() as u64 != rounds {
            problems.push(format!("{load} on {target}: {} measurements of {rounds}", samples.len()));
        }
        let positive = |sample: &Value, name: &str| sample.get(name).and_then(Value::as_f64).is_some_and(|n| n > 0.0);
        if samples.iter().any(|s| ["requests", "bytes", "seconds"].iter().any(|n| !positive(s, n))) {
            problems.push(format!("{load} on {target}: a measurement without a result"));
        }
        let verdict = list(json, "targets").iter().find(|t| word(t, "target") == target);
        let told = |t: &&Value| ["ran_as", "kernel_said", "device_counted"].iter().all(|n| !word(t, n).is_empty());
        if verdict.filter(told).is_none() {
            problems.push(format!("{target}: the report does not say whether it ran natively"));
        }
    }
}

fn check_csv(json: &Value, csv: &str, problems: &mut Vec<String>) {
    let mut lines = csv.lines();
    let columns = lines.next().unwrap_or_default().split(',').count();
    if columns < 10 || csv.lines().any(|l| l.split(',').count() != columns) {
        problems.push("results.csv: lines of different lengths".to_owned());
    }
    let samples: usize = list(json, "results").iter().map(|r| list(r, "samples").len()).sum();
    if lines.count() != samples {
        problems.push(format!("results.csv has not the {samples} measurements of results.json"));
    }
}

/// The page is complete, adapts to the reader's screen, and loads nothing.
fn check_page(html: &str, problems: &mut Vec<String>) {
    if !html.starts_with("<!DOCTYPE html>") || !html.trim_end().ends_with("</html>") {
        problems.push("report.html is cut off".to_owned());
    }
    for needed in ["prefers-color-scheme: dark", "width=device-width", "<svg", "<table"] {
        if !html.contains(needed) {
            problems.push(format!("report.html has no {needed}"));
        }
    }
    if html.matches("<svg").count() != html.matches("</svg>").count() {
        problems.push("report.html has an incomplete picture".to_owned());
    }
    // A namespace is a name, not an address.
    let rest = html.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "<script", "<link", "@import", "url("] {
        if rest.contains(outside) {
            problems.push(format!("report.html has {outside}, but it must be self-contained"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::super::report;
    use super::super::results::tests::results;
    use super::*;
    use crate::measure::header::Header;

    /// Writes a good report, spoils one file, and returns what the check says.
    fn spoiled(name: &str, spoil: impl Fn(&str) -> String) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let lines = NAMES.iter().map(|n| ((*n).to_owned(), format!("the {n}"))).collect();
        let header = Header { lines, warning: None };
        report::write(&Plan::new(true, &[], Some(2), None), &header, &results(), dir.path()).unwrap();
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, spoil(&text)).unwrap();
        problems(dir.path())
    }

    #[test]
    fn a_whole_report_passes() {
        assert_eq!(spoiled("results.csv", str::to_owned), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_found() {
        for (name, from, to) in [
            ("report.html", "</html>", ""),
            ("report.html", "prefers-color-scheme: dark", ""),
            ("report.html", "<main>", "<main><img src=\"https://example.org\">"),
            ("report.html", "the QEMU", ""),
            ("report.html", "ext4/dm-crypt", ""),
            ("report.md", "no \\<f2fs>", ""),
            ("report.md", "FALLBACK", "NATIVE"),
            ("results.json", "the host CPU", ""),
            ("results.json", "\"accelerator\":\"the accelerator\"", "\"accelerator\":\"TCG\""),
            ("results.json", "\"seconds\":1.0", "\"seconds\":0.0"),
            ("results.json", "\"rounds\":2", "\"rounds\":3"),
            ("results.json", "\"ran_as\":\"NATIVE\"", "\"ran_as\":\"\""),
            ("results.json", "{", "["),
            ("results.csv", ",NATIVE,", ",NATIVE,,"),
            ("overview.svg", "</svg>", ""),
        ] {
            let said = spoiled(name, |text| text.replace(from, to));
            assert!(!said.is_empty(), "{name} without {from:?} passes");
        }
        let last_line = spoiled("results.csv", |text| text.trim_end().rsplit_once('\n').unwrap().0.to_owned());
        assert!(!last_line.is_empty());
    }

    #[test]
    fn a_report_without_files_fails() {
        assert_eq!(problems(tempfile::tempdir().unwrap().path()).len(), FILES.len());
    }
}
