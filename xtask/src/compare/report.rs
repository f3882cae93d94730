// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report: on the terminal, as Markdown and as a self-contained HTML page.

use super::answer::{QUESTION, answer};
use super::charts::{self, Chapter};
use super::export;
use super::plan::Plan;
use super::results::Results;
use super::tables;
use crate::measure::header::Header;
use crate::measure::plot;
use crate::measure::table::escape;
use anyhow::{Context, Result};
use pulldown_cmark::{Options, Parser};
use std::fs;
use std::path::Path;

const TITLE: &str = "Encryption by the device and by the guest's CPU";
const CHURN: &str = "What a key costs";
const FRONTS: &str = "UFS beside virtio";
const FRONTS_EXPLAINED: &str = "the speed of the UFS host controller in relation to that of virtio with one queue, each with the \
    better of two pollings.";
/// The files of a report.
pub const FILES: [&str; 5] = ["report.html", "report.md", "results.json", "results.csv", "overview.svg"];

/// Writes all files of the report.
pub fn write(plan: &Plan, header: &Header, results: &Results, out: &Path) -> Result<()> {
    let json = serde_json::to_string(&export::json(plan, header, results))? + "\n";
    let markdown = markdown(header, results);
    let texts = [
        html(&markdown, &charts::chapters(results)?),
        markdown,
        json,
        export::csv(results),
        charts::overview(results, header)?,
    ];
    for (name, text) in FILES.iter().zip(texts) {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// For the terminal; the header was printed when the guest was up.
pub fn text(results: &Results) -> String {
    let mut text = answer(results).map_or(String::new(), |words| format!("{QUESTION}\n{words}\n\n"));
    text += &(tables::verdicts(results).text() + "\n");
    for table in tables::measurements(results) {
        text += &(table.text() + "\n");
    }
    for line in tables::costs(results) {
        text += &format!("{line}\n");
    }
    let fronts = tables::fronts(results);
    if !fronts.is_empty() {
        text += &format!("{FRONTS}: {FRONTS_EXPLAINED}\n");
        text.extend(fronts.iter().map(|line| format!("    {line}\n")));
    }
    for (target, reason) in &results.not_run {
        text += &format!("not run: {target}: {reason}\n");
    }
    for what in &results.failed {
        text += &format!("FAILED: {what}\n");
    }
    text
}

fn markdown(header: &Header, results: &Results) -> String {
    let mut text = format!("# {TITLE}\n\n");
    if let Some(words) = answer(results) {
        text += &format!("**{QUESTION}** {}\n\n", escape(&words));
    }
    if let Some(warning) = header.warning {
        text += &format!("> **Emulated.** {warning}\n\n");
    }
    for failed in &results.failed {
        let words: Vec<&str> = failed.split_whitespace().collect();
        text += &format!("> **FAILED:** {}\n\n", escape(&words.join(" ")));
    }
    text += "| | |\n| --- | --- |\n";
    for (name, value) in &header.lines {
        text += &format!("| {} | {} |\n", escape(name), escape(value));
    }
    text += &format!(
        "\n## Native or fallback\n\n{JUDGED}\n\n{}\n## Measurements\n\n{EXPLAINED}\n\n",
        tables::verdicts(results).markdown()
    );
    for table in tables::measurements(results) {
        text += &(table.markdown() + "\n");
    }
    let costs = tables::costs(results);
    if !costs.is_empty() {
        text += &format!("## {CHURN}\n\n");
        text.extend(costs.iter().map(|line| format!("- {line}\n")));
        text += "\n";
    }
    let fronts = tables::fronts(results);
    if !fronts.is_empty() {
        text += &format!("## {FRONTS}\n\n{FRONTS_EXPLAINED}\n\n");
        text.extend(fronts.iter().map(|line| format!("- {line}\n")));
        text += "\n";
    }
    if !results.not_run.is_empty() {
        text += "## Not run\n\n";
        text.extend(
            results.not_run.iter().map(|(target, reason)| format!("- {}: {}\n", escape(target), escape(reason))),
        );
    }
    text
}

const JUDGED: &str = "From what the guest's kernel said when a file system was made, and from what the device counted while it was \
    measured. If they contradict each other, the run fails.";
const EXPLAINED: &str = "Medians of all rounds. Ratios (x) are medians of the ratios round by round, to the same file system \
    without encryption or, for changes of keys, to the fallback. CPU time is for 10^9 bytes of the load: all that ran in the guest, \
    and the device's process on the host. A request's key was found in a slot (hit rate) when no program command came with it.";

/// A page of the Markdown text, with the pictures before the measurements.
fn html(markdown: &str, chapters: &[Chapter]) -> String {
    let mut body = String::new();
    pulldown_cmark::html::push_html(&mut body, Parser::new_ext(markdown, Options::ENABLE_TABLES));
    for (way, class) in [("NATIVE", "native"), ("FALLBACK", "fallback"), ("MIXED", "bad")] {
        body = body.replace(&format!("<td>{way}"), &format!("<td class=\"{class}\">{way}"));
    }
    body = body.replace("<blockquote>\n<p><strong>FAILED", "<blockquote class=\"bad\">\n<p><strong>FAILED");
    let mut pictures = String::new();
    for chapter in chapters {
        pictures += &format!("<h2>{}</h2>\n<p>{}</p>\n<div class=\"grid\">\n", chapter.title, chapter.words);
        pictures.extend(chapter.pictures.iter().map(|picture| format!("<figure>{}</figure>\n", picture.trim())));
        pictures += "</div>\n";
    }
    let numbers = "<h2>Measurements</h2>";
    body = body.replacen(numbers, &(pictures + numbers), 1);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{TITLE}</title>\n\
         <style>\n{STYLE}@media (prefers-color-scheme: dark) {{\n{DARK}{}\n}}\n</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        plot::dark_rules()
    )
}

const STYLE: &str = include_str!("report.css");
const DARK: &str = ":root { --paper: #15181c; --text: #e6e8eb; --muted: #9aa3ad; --line: #343a41; --box: #2c2413; --edge: #b98a2e;\n\
    --native: #f08a4b; --fallback: #6ea8e0; --bad: #ff8080; }\n";

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::results::tests::results;
    use super::*;

    fn header() -> Header {
        let lines = super::super::header::NAMES.iter().map(|n| ((*n).to_owned(), format!("a <{n}>"))).collect();
        Header { lines, warning: Some(super::super::header::TCG_WARNING) }
    }

    #[test]
    fn a_written_report_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(true, &[], Some(2), None);
        write(&plan, &header(), &results(), dir.path()).unwrap();
        assert_eq!(check::problems(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn what_failed_and_what_did_not_run_is_told() {
        let mut results = results();
        results.failed.push("ext4/native: words & counters".into());
        let (text, md) = (text(&results), markdown(&header(), &results));
        assert!(md.starts_with(&format!("# {TITLE}\n\n**{QUESTION}** More than 32")), "{md}");
        assert!(text.contains("FAILED: ext4/native") && text.contains("not run: f2fs/plain"));
        assert!(md.contains("**FAILED:** ext4/native"));
        let html = html(&md, &[]);
        assert!(html.contains("words &amp; counters") && html.contains("no &lt;f2fs&gt;"));
    }
}
