// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables, on a terminal, in Markdown and in HTML.

/// A table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its title.
    pub title: String,
    /// The heads of its columns.
    pub head: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
    /// Columns from this one on are numbers, set to the right.
    pub numbers: usize,
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
            cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
        };
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.enumerate().map(|(at, cell)| match at < self.numbers {
                true => format!("{cell:<0$}", width(at)),
                false => format!("{cell:>0$}", width(at)),
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned() + "\n"
        };
        let mut text = format!("{}\n{}", self.title, line(&mut self.head.iter().map(String::as_str)));
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
        text += &cells("th", &mut self.head.iter().map(String::as_str));
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
    use super::*;

    #[test]
    fn text_is_escaped() {
        let table = Table {
            title: "a<b".into(),
            head: vec!["x".into(), "y".into()],
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
