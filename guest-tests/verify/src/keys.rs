// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The master keys of a test run: the file `keys` in the results.
//!
//! One key per line, a word for its kind and the key in hexadecimal; `#` begins a comment.
//!
//! | kind | the bytes |
//! |---|---|
//! | `raw` | those added to the kernel |
//! | `hw-wrapped` | those imported into the hardware, before any wrapping |

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::fscrypt::MasterKey;
use crate::hex;

/// Reads the master keys.
pub fn read(path: &Path) -> Result<Vec<MasterKey>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

fn parse(text: &str) -> Result<Vec<MasterKey>> {
    let mut keys = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        keys.push(parse_line(line).with_context(|| format!("line {}", i + 1))?);
    }
    ensure!(!keys.is_empty(), "no keys in it");
    Ok(keys)
}

fn parse_line(line: &str) -> Result<MasterKey> {
    match line.split_once(' ') {
        Some(("raw", digits)) => MasterKey::from_raw(&hex::decode(digits.trim())?),
        Some(("hw-wrapped", digits)) => MasterKey::from_hw_wrapped(&hex::decode(digits.trim())?),
        _ => bail!("expected `raw` or `hw-wrapped` and the key in hexadecimal"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_comments() {
        let key = "11".repeat(64);
        assert_eq!(parse(&format!("# test\nraw {key} # one\n\nraw {key}\n")).expect("keys").len(), 2);
        let both = parse(&format!("raw {}\nhw-wrapped {}\n", "11".repeat(32), "11".repeat(32))).expect("keys");
        assert_ne!(both[0].identifier(), both[1].identifier());
        assert!(parse("# none\n").is_err());
        assert!(parse(&format!("hw-wrapped {key}")).is_err());
        assert!(parse(&format!("wrapped {key}")).is_err());
        assert!(parse("raw 1122").is_err());
    }
}
