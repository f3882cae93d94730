// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of `completions`.

use clap::Args;
use clap_complete::Shell;

/// Print a script that lets a shell complete this program's options.
///
/// For example, in ~/.bashrc: source <(vhost-user-blk-crypto completions bash)
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The script for a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), env!("CARGO_PKG_NAME"), &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
