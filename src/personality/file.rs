// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The file of a personality: the TOML, and its checks.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};

use super::Personality;
use super::fields::{Description, FIELDS};

/// Reads a file's text.
///
/// # Errors
/// What is wrong with which field, and what is allowed. The caller names the file.
pub(super) fn parse(name: &str, text: &str) -> Result<Personality> {
    let description = description(text)?;
    description.check_marks()?;
    let mut engine = Personality { name: name.to_owned(), ..Personality::default() };
    description.apply(&mut engine, false)?;
    let Description { summary, unknown, differs, .. } = description;
    Ok(Personality { summary, unknown, differs, ..engine })
}

pub(super) fn description(text: &str) -> Result<Description> {
    // The message shows the line, and ends with a line break.
    toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))
}

impl Description {
    /// The lists may name only existing fields, and must not contradict the values.
    fn check_marks(&self) -> Result<()> {
        let marks = [("unknown", &self.unknown), ("differs", &self.differs)];
        let sources: BTreeSet<_> = self.source.keys().cloned().collect();
        for (list, fields) in marks.into_iter().chain([("[source]", &sources)]) {
            if let Some(field) = fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
                bail!("{list} names {field:?}, which is no field of an engine; allowed are {}", FIELDS.join(", "));
            }
        }
        let given = self.given();
        if let Some(field) = self.unknown.iter().find(|field| given.contains(&field.as_str())) {
            bail!("{field} has a value and is in the list unknown; remove one of them");
        }
        Ok(())
    }
}
