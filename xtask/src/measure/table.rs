// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables, on a terminal and in Markdown.

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

/// Three significant digits.
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
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("### {}\n\n", escape(&self.title));
        text += &line(self.head.iter().map(|c| escape(c)).collect());
        let rule = (0..self.head.len()).map(|at| if at < self.numbers { "---" } else { "--:" }.to_owned());
        text += &line(rule.collect());
        for row in &self.rows {
            text += &line(row.iter().map(|c| escape(c)).collect());
        }
        text
    }
}

/// Escapes Markdown's special characters.
pub fn escape(text: &str) -> String {
    let special = |c| if r"\|<*`[".contains(c) { vec!['\\', c] } else { vec![c] };
    text.chars().flat_map(special).collect()
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
        assert!(table.markdown().contains("a\\|b") && table.markdown().contains("\\<NATIVE"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.123, 1.5, 12.34, 123.4, 12345.6].map(number), ["0.12", "1.50", "12.3", "123", "12346"]);
    }
}
