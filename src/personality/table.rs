// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The table of built-in personalities.

use anyhow::Result;

use super::Personality;

const NOTES: &str = "\
?  no public source tells it: the value is that of ideal
*  the hardware differs in a way that cannot be emulated
All have AES-256-XTS. Sources are in the files, src/personality/NAME.toml.
";

/// All built-in personalities, one per line, and the notes.
///
/// # Errors
/// None, as the tests show.
pub fn table() -> Result<String> {
    let personalities = Personality::built_in()?;
    let mut columns: Vec<&str> = Personality::default().cells().into_iter().map(|(_, column, _)| column).collect();
    columns.retain(|column| !column.is_empty());
    columns.dedup();
    let header = ["NAME"].iter().chain(&columns).map(|name| (*name).to_owned()).collect();
    let row = |p: &Personality| {
        let cells = p.cells();
        [p.name.clone()].into_iter().chain(columns.iter().map(|column| cell(p, &cells, column))).collect()
    };
    let rows: Vec<_> = [header].into_iter().chain(personalities.iter().map(row)).collect();
    let summaries: Vec<_> = personalities.iter().map(|p| vec![p.name.clone(), p.summary.clone()]).collect();
    Ok(format!("{}\n{}\n{NOTES}", lines(&rows), lines(&summaries)))
}

/// The text in a column.
fn cell(p: &Personality, cells: &[(&str, &str, String)], column: &str) -> String {
    let of_column = || cells.iter().filter(|(_, of, _)| *of == column);
    let words: Vec<_> = of_column().map(|(.., text)| text.as_str()).filter(|text| !text.is_empty()).collect();
    let value = if words.is_empty() { "no".to_owned() } else { words.join(", ") };
    match of_column().map(|(field, ..)| (p.unknown.contains(*field), p.differs.contains(*field))).max() {
        Some((true, _)) => value + "?",
        Some((_, true)) => value + "*",
        _ => value,
    }
}

/// Columns as wide as their widest cell.
fn lines(rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
