// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parses the output of fstests' `check` while it runs.
//!
//! A test's line starts with its name; a time alone after it means that the test passed, `[not run]` comes with a
//! reason, anything else means that it failed. Lines up to the next test's tell more about a failure.

/// What became of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// What was wrong.
    Failed(String),
    /// Why it was not run.
    NotRun(String),
}

/// A test that ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Test {
    /// Such as `generic/368`.
    pub name: String,
    /// Its verdict.
    pub verdict: Verdict,
}

/// The text so far.
#[derive(Default)]
pub struct Output {
    /// The line that is not complete yet.
    rest: String,
    failing: Option<(String, Vec<String>)>,
    /// True once `check` has come to its summary.
    pub complete: bool,
}

impl Output {
    /// Takes more text and returns the tests that ended in it.
    pub fn feed(&mut self, text: &str) -> Vec<Test> {
        self.rest += text;
        let mut tests = vec![];
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let (line, rest) = (line.trim_end().to_owned(), rest.to_owned());
            self.rest = rest;
            self.line(&line, &mut tests);
        }
        // The next test has begun, so all is known about one that failed.
        if self.running().is_some() {
            tests.extend(self.failed());
        }
        tests
    }

    /// The end of the text: a failure that was still being described, and the test that was running, which fails.
    pub fn finish(&mut self, why: &str) -> Vec<Test> {
        let running = self.running().map(str::to_owned);
        let running = running.map(|name| Test { name, verdict: Verdict::Failed(why.to_owned()) });
        self.rest.clear();
        self.failed().into_iter().chain(running).collect()
    }

    /// The test that is running.
    pub fn running(&self) -> Option<&str> {
        test_name(&self.rest)
    }

    fn line(&mut self, line: &str, tests: &mut Vec<Test>) {
        if ["Ran: ", "Not run: ", "Failures: "].iter().any(|start| line.starts_with(start)) {
            self.complete = true;
        }
        if self.complete {
            tests.extend(self.failed());
            return;
        }
        let Some(name) = test_name(line) else {
            if let Some((_, lines)) = &mut self.failing {
                lines.push(line.to_owned());
            }
            return;
        };
        tests.extend(self.failed());
        let what = line[name.len()..].trim();
        let verdict = if let Some((_, reason)) = what.split_once("[not run]") {
            Verdict::NotRun(reason.trim().to_owned())
        } else if what == "[expunged]" {
            Verdict::NotRun("excluded by the checkout itself".to_owned())
        } else if what == "- unknown test, ignored" {
            Verdict::Failed("the checkout has no such test".to_owned())
        } else if is_time(what.rsplit(" ... ").next().unwrap_or_default()) {
            Verdict::Passed
        } else {
            self.failing = Some((name.to_owned(), vec![what.to_owned()]));
            return;
        };
        tests.push(Test { name: name.to_owned(), verdict });
    }

    fn failed(&mut self) -> Option<Test> {
        let (name, lines) = self.failing.take()?;
        Some(Test { name, verdict: Verdict::Failed(lines.join("\n").trim().to_owned()) })
    }
}

/// `12s`
fn is_time(text: &str) -> bool {
    text.trim().strip_suffix('s').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The name at the start of a test's line: a directory and a number.
fn test_name(line: &str) -> Option<&str> {
    let name = line.split_whitespace().next().filter(|name| line.starts_with(name))?;
    let (dir, number) = name.split_once('/')?;
    let good = dir.bytes().all(|b| b.is_ascii_alphanumeric())
        && number.len() >= 3
        && number.bytes().take(3).all(|b| b.is_ascii_digit());
    good.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FSTYP         -- ext4\nMKFS_OPTIONS  -- /dev/vdb\n\n\
        generic/395         9s\n\
        generic/396  7s ...  8s\n\
        generic/693       [not run] encryption policy unusable, missing kernel support\n\
        generic/582       [failed, exit status 1]- output mismatch (see /tmp/out/results/generic/582.out.bad)\n\
        \x20   --- tests/generic/582.out\n    ...\n\
        ext4/024        _check_dmesg: something found in dmesg (see /tmp/out/results/ext4/024.dmesg)\n\n\
        generic/999 - unknown test, ignored\n\
        Ran: ext4/024 generic/395\nFailures: generic/582\n";

    fn passed(name: &str) -> Test {
        Test { name: name.into(), verdict: Verdict::Passed }
    }

    #[test]
    fn every_verdict() {
        let mut output = Output::default();
        let tests = output.feed(TEXT);
        assert_eq!(tests[..2], [passed("generic/395"), passed("generic/396")]);
        assert!(matches!(&tests[2].verdict, Verdict::NotRun(why) if why.starts_with("encryption policy")));
        assert!(matches!(&tests[3].verdict, Verdict::Failed(why) if why.ends_with("...") && why.contains("mismatch")));
        assert!(matches!(&tests[4].verdict, Verdict::Failed(why) if why.contains("dmesg")));
        assert!(matches!(&tests[5].verdict, Verdict::Failed(why) if why.contains("no such test")));
        assert_eq!((tests.len(), output.complete, output.finish("x")), (6, true, vec![]));
    }

    #[test]
    fn in_pieces() {
        let mut output = Output::default();
        assert!(output.feed("generic/395      ").is_empty());
        assert_eq!(output.running(), Some("generic/395"));
        assert_eq!(output.feed("   9s\ngeneric/396 "), [passed("generic/395")]);
        assert!(output.feed("      [failed, exit status 1]\n    more\n").is_empty());
        let failed = |name: &str, why: &str| Test { name: name.into(), verdict: Verdict::Failed(why.into()) };
        assert_eq!(output.feed("generic/397 "), [failed("generic/396", "[failed, exit status 1]\n    more")]);
        assert_eq!(output.finish("too long"), [failed("generic/397", "too long")]);
        assert!(!output.complete && output.running().is_none());
    }
}
