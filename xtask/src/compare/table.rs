// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's tables, and how they look on a terminal, in Markdown and in HTML.

use super::load::{Latency, Load};
use super::results::{Results, Sample, Series};
use super::verdict::Way;
use crate::bench::statistics;

/// A table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its title.
    pub title: String,
    /// The heads of its columns.
    pub head: Vec<&'static str>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
    /// Columns from this one on are numbers, set to the right.
    pub numbers: usize,
}

/// Who encrypted each target, and how that is known.
pub fn verdicts(results: &Results) -> Table {
    let rows = results.verdicts.iter().map(|(target, verdict)| {
        let how = match target.keyslots() {
            Some(1) => format!("{}, 1 keyslot", target.how.title()),
            Some(n) => format!("{}, {n} keyslots", target.how.title()),
            None => target.how.title().to_owned(),
        };
        let way = match &verdict.problem {
            None => verdict.way.title().to_owned(),
            Some(problem) => format!("{}: WRONG, {problem}", verdict.way.title()),
        };
        vec![target.name.clone(), way, how, verdict.kernel.clone(), verdict.device.clone()]
    });
    Table {
        title: "Who encrypted".to_owned(),
        head: vec!["target", "ran as", "what", "the kernel said", "the device counted"],
        rows: rows.collect(),
        numbers: 5,
    }
}

/// One table for each load.
pub fn measurements(results: &Results) -> Vec<Table> {
    results
        .groups()
        .into_iter()
        .map(|(load, group)| Table {
            title: format!("{} ({})", load.title(), load.name()),
            head: head(load),
            rows: group.iter().map(|series| row(results, series)).collect(),
            numbers: 2,
        })
        .collect()
}

fn head(load: &Load) -> Vec<&'static str> {
    let base = if load.is_churn() { "x fallback" } else { "x plain" };
    let mut head = vec!["target", "ran as", load.unit(), "min..max", base];
    if *load != Load::Untar {
        head.extend(["p50 us", "p95 us", "p99 us"]);
    }
    head.extend(["guest CPU s/GB", "device CPU s/GB"]);
    if load.is_churn() {
        head.extend(["programs/s", "hit rate"]);
    }
    head
}

fn row(results: &Results, series: &Series) -> Vec<String> {
    let way = results.verdicts.iter().find(|(t, _)| *t == series.target).map(|(_, v)| v.way);
    let summary = statistics::summary(&series.speeds());
    let latency = |which: fn(&Latency) -> f64| series.latency(which).map_or("-".to_owned(), |us| format!("{us:.0}"));
    let mut row = vec![
        series.target.name.clone(),
        way.map_or("?", Way::title).to_owned(),
        summary.map(|s| number(s.median)).unwrap_or_default(),
        summary.map(|s| format!("{}..{}", number(s.min), number(s.max))).unwrap_or_default(),
        results.ratio(series).map_or("-".to_owned(), |r| format!("{r:.2}")),
    ];
    if *series.load != Load::Untar {
        row.extend([latency(|l| l.p50), latency(|l| l.p95), latency(|l| l.p99)]);
    }
    row.push(format!("{:.2}", series.median(Sample::guest_cpu_per_gb)));
    row.push(format!("{:.2}", series.median(Sample::device_cpu_per_gb)));
    if series.load.is_churn() {
        row.push(number(series.median(Sample::programs)));
        row.push(series.hit_rate().map_or("-".to_owned(), |r| format!("{:.1} %", 100.0 * r)));
    }
    row
}

/// What programming a key costs, in a sentence each.
pub fn costs(results: &Results) -> Vec<String> {
    [(false, "reads"), (true, "writes")]
        .iter()
        .filter_map(|(writing, what)| {
            let cost = results.cost_of_a_program(*writing)?;
            Some(format!(
                "Random {what} of 4 KiB, one after the other: {:.0} us when the key is in a slot, and {:.0} us more for each \
                 key that is programmed (straight line through {} measurements).",
                cost.request, cost.program, cost.points
            ))
        })
        .collect()
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Table {
    /// For the terminal.
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.enumerate().map(|(at, cell)| match at < self.numbers {
                true => format!("{cell:<0$}", width(at)),
                false => format!("{cell:>0$}", width(at)),
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned() + "\n"
        };
        let mut text = format!("{}\n{}", self.title, line(&mut self.head.iter().copied()));
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }

    /// For Markdown.
    pub fn markdown(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("### {}\n\n", self.title);
        text += &line(self.head.iter().map(|c| cell(c)).collect());
        let rule = (0..self.head.len()).map(|at| if at < self.numbers { "---" } else { "--:" }.to_owned());
        text += &line(rule.collect());
        for row in &self.rows {
            text += &line(row.iter().map(|c| cell(c)).collect());
        }
        text
    }

    /// For HTML.
    pub fn html(&self) -> String {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.enumerate().map(|(at, cell)| {
                let class = if at < self.numbers { "" } else { " class=\"n\"" };
                let mark = match cell.split(':').next() {
                    Some("NATIVE") => format!("<b class=\"native\">{}</b>", escape(cell)),
                    Some("FALLBACK") => format!("<b class=\"fallback\">{}</b>", escape(cell)),
                    Some("MIXED") => format!("<b class=\"bad\">{}</b>", escape(cell)),
                    _ => escape(cell),
                };
                format!("<{tag}{class}>{mark}</{tag}>")
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let class = if self.numbers < self.head.len() { "" } else { " class=\"words\"" };
        let title = escape(&self.title);
        let mut text = format!("<div class=\"scroll\"><table{class}>\n<caption>{title}</caption>\n<thead>");
        text += &cells("th", &mut self.head.iter().copied());
        text += "</thead>\n<tbody>\n";
        for row in &self.rows {
            text += &cells("td", &mut row.iter().map(String::as_str));
        }
        text + "</tbody>\n</table></div>\n"
    }
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn tables_have_a_cell_for_each_column() {
        let results = results();
        let tables = measurements(&results);
        assert_eq!(tables.len(), results.groups().len());
        for table in tables.iter().chain([&verdicts(&results)]) {
            assert!(
                !table.rows.is_empty() && table.rows.iter().all(|r| r.len() == table.head.len()),
                "{}",
                table.title
            );
            assert_eq!(table.markdown().lines().count(), table.rows.len() + 4);
            assert_eq!(table.text().lines().count(), table.rows.len() + 2);
            assert_eq!(table.html().matches("<tr>").count(), table.rows.len() + 1);
        }
    }

    #[test]
    fn text_is_escaped() {
        let table = Table {
            title: "a<b".into(),
            head: vec!["x", "y"],
            rows: vec![vec!["a|b".into(), "<NATIVE".into()]],
            numbers: 1,
        };
        assert!(table.markdown().contains("a\\|b"));
        assert!(table.html().contains("a&lt;b") && table.html().contains("&lt;NATIVE"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.123, 1.5, 12.34, 123.4, 12345.6].map(number), ["0.12", "1.50", "12.3", "123", "12346"]);
    }
}
