// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest case: a shell script whose header comments say what it needs. `guest-tests/README.md` documents the header.

use crate::driver::MODULE;
use crate::host_steps::Step;
use crate::qemu::RELEASES;
use crate::stats::Assertion;
use crate::vm::{Attach, QUEUES};
use crate::watch::Bounds;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The driver of a UFS host controller.
pub const UFS_DRIVER: &str = "ufshcd";
/// What its disk needs of the guest's kernel.
pub const UFS_NEEDS: [&str; 3] = ["CONFIG_SCSI_UFSHCD_PCI", "CONFIG_SCSI_UFS_CRYPTO", "CONFIG_BLK_DEV_SD"];

/// A parsed case.
#[derive(Debug, Default)]
pub struct Case {
    /// File name without `.sh`.
    pub name: String,
    /// The script.
    pub script: PathBuf,
    /// One line about it.
    pub description: String,
    /// More options for the device.
    pub device: Vec<String>,
    /// Options for the device in one boot only, with that boot's number.
    pub device_in_boot: Vec<(u32, Vec<String>)>,
    /// How many times the guest boots.
    pub boots: u32,
    /// Size of the fresh image.
    pub image: u64,
    /// Logical units of a UFS host controller, each with an image of that size.
    pub luns: u32,
    /// Module to load first, with its parameters, or `none`.
    pub driver: String,
    /// How the device is attached.
    pub attach: Attach,
    /// The Debian release whose QEMU it runs on.
    pub qemu: Option<String>,
    /// Kernel symbols and commands without which it is skipped.
    pub needs: Vec<String>,
    /// Its own time limit.
    pub timeout: Option<Duration>,
    /// Whether the disk is behind a root port.
    pub root_port: bool,
    /// Request queues.
    pub queues: u16,
    /// Request queues and their size, for QEMU alone: the device uses its personality's. No size: QEMU's default.
    pub rings: Option<(u16, Option<u16>)>,
    /// How many times the device is killed and restarted while the guest runs.
    pub kills: u32,
    /// The host's steps. The guest asks for them one by one, in this order.
    pub host: Vec<Step>,
    /// Limits on what the device uses.
    pub bounds: Bounds,
    /// Runs only with `--long`.
    pub long: bool,
    /// Whether the verifier runs over the image afterwards.
    pub check_fscrypt: bool,
    /// What the verifier must report: the device is broken on purpose.
    pub wrong: Option<Wrong>,
    /// Whether requests may fail and file systems find errors, by what the kernel says.
    pub errors: bool,
    /// What must hold for the device's statistics.
    pub stats: Vec<Assertion>,
}

/// What the verifier must find on the image of a device that is broken on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its words about a data unit.
    pub words: String,
    /// How many of all data units are wrong, in percent, rounded down.
    pub share: RangeInclusive<u64>,
}

impl Default for Wrong {
    fn default() -> Self {
        Self { words: String::new(), share: 0..=0 }
    }
}

impl Case {
    /// Reads a case.
    pub fn read(script: &Path) -> Result<Self> {
        let text = fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?;
        Self::parse(name(script), script, &text).with_context(|| format!("{}", script.display()))
    }

    fn parse(name: String, script: &Path, text: &str) -> Result<Self> {
        let mut case = Self {
            name,
            script: script.to_path_buf(),
            boots: 1,
            image: 256 << 20,
            luns: 1,
            driver: MODULE.to_owned(),
            queues: QUEUES,
            ..Self::default()
        };
        for line in text.lines().take_while(|l| l.starts_with('#')) {
            let Some((key, value)) = line.strip_prefix("# ").and_then(|l| l.split_once(':')) else { continue };
            case.header(key, value.trim()).with_context(|| format!("in the line `{line}`"))?;
        }
        ensure!(!case.description.is_empty(), "the header has no line `# case: what it shows`");
        ensure!(
            case.kills == 0 || case.attach == Attach::VhostUserBlk,
            "`kills` needs `attach: vhost-user-blk`: QEMU reconnects only there"
        );
        ensure!(
            case.qemu.is_none() || case.attach == Attach::VhostUserBlk && case.kills == 0,
            "`qemu` needs `attach: vhost-user-blk` and no `kills`: older QEMUs support nothing else"
        );
        ensure!(
            case.host.is_empty() || case.kills == 0 && case.boots == 1,
            "`host` needs a device that keeps running: no `kills`, and one boot"
        );
        ensure!(
            case.kills == 0 && case.host.is_empty() || case.bounds.calm.is_none(),
            "`kills`, `host` and `calm` use the port progress: a case can have only one of them"
        );
        ensure!(
            case.attach != Attach::Ufs || case.driver == UFS_DRIVER && case.rings.is_none() && !case.root_port,
            "`attach: ufs` cannot be combined with `driver`, `rings` and `root-port`: there is one driver, one queue and no bridge"
        );
        ensure!(
            (1..=8).contains(&case.luns) && (case.luns == 1 || case.attach == Attach::Ufs),
            "`luns` is 1 to 8 and needs `attach: ufs`"
        );
        ensure!(case.boots >= 1, "a case has at least one boot");
        if let Some(wrong) = &case.wrong {
            ensure!(case.check_fscrypt, "`expect-wrong` needs `check: fscrypt`");
            ensure!(!wrong.words.is_empty() && wrong.share != (0..=0), "`expect-wrong` and `wrong-share` go together");
        }
        if let Some((boot, _)) = case.device_in_boot.iter().find(|(boot, _)| !(1..=case.boots).contains(boot)) {
            bail!("`device-{boot}`, but the case has boots 1 to {}", case.boots);
        }
        Ok(case)
    }

    /// The disk is behind a UFS host controller, with the kernel's own driver.
    pub fn attach_ufs(&mut self) {
        self.attach = Attach::Ufs;
        self.driver = UFS_DRIVER.to_owned();
        self.device.push("--ufs".to_owned());
        self.needs.extend(UFS_NEEDS.map(str::to_owned));
    }

    /// The device's options in a boot; `@state/NAME` is a file in a directory that all boots share.
    pub fn device_options(&self, boot: u32, state: &Path) -> Vec<String> {
        let only = self.device_in_boot.iter().filter(|(n, _)| *n == boot).flat_map(|(_, options)| options);
        let place = |option: &String| match option.strip_prefix("@state/") {
            Some(name) => state.join(name).display().to_string(),
            None => option.clone(),
        };
        self.device.iter().chain(only).map(place).collect()
    }

    fn header(&mut self, key: &str, value: &str) -> Result<()> {
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "case" => self.description = value.to_owned(),
            "device" => self.device.extend(words()),
            "boots" => self.boots = value.parse().context("boots is a number")?,
            "image" => self.image = parse_size(value)?,
            "luns" => self.luns = value.parse().context("luns is a number")?,
            "driver" => {
                let name = value.split_whitespace().next().unwrap_or_default();
                ensure!([MODULE, "virtio_blk", "none"].contains(&name), "driver is {MODULE}, virtio_blk or none");
                self.driver = value.to_owned();
            }
            "attach" => {
                self.attach = match value {
                    "generic" => Attach::Generic,
                    "vhost-user-blk" => Attach::VhostUserBlk,
                    "ufs" => Attach::Ufs,
                    _ => bail!("attach is generic, vhost-user-blk or ufs"),
                };
                if self.attach == Attach::Ufs {
                    self.attach_ufs();
                }
            }
            "qemu" => {
                ensure!(RELEASES.contains(&value), "qemu is one of {}", RELEASES.join(", "));
                self.qemu = Some(value.to_owned());
            }
            "needs" => self.needs.extend(words()),
            "timeout" => self.timeout = Some(Duration::from_secs(value.parse().context("timeout is in seconds")?)),
            "queues" => self.queues = value.parse().context("queues is a number")?,
            "rings" => {
                let number = |text: &str| text.trim().parse::<u16>().context("rings is QUEUES or QUEUESxSIZE");
                let (queues, size) = value.split_once('x').map_or((value, None), |(q, s)| (q, Some(s)));
                self.rings = Some((number(queues)?, size.map(number).transpose()?));
            }
            "kills" => self.kills = value.parse().context("kills is a number")?,
            "host" => self.host.push(value.parse()?),
            "memory" => self.bounds.memory = Some(parse_size(value)?),
            "calm" => self.bounds.calm = Some(value.parse().context("calm is in percent")?),
            "long" => {
                ensure!(value == "yes", "the only value of long is yes");
                self.long = true;
            }
            "root-port" => {
                ensure!(value == "yes", "the only value of root-port is yes");
                self.root_port = true;
            }
            "check" => {
                ensure!(value == "fscrypt", "the only check is fscrypt");
                self.check_fscrypt = true;
            }
            "expect-wrong" => {
                ensure!(!value.is_empty(), "expect-wrong needs the words that the verifier must print");
                self.wrong.get_or_insert_default().words = value.to_owned();
            }
            "wrong-share" => {
                let number = |text: &str| text.parse::<u64>().context("wrong-share is in percent, such as 30-40");
                let (least, most) = value.split_once('-').unwrap_or((value, "100"));
                self.wrong.get_or_insert_default().share = number(least)?..=number(most)?;
            }
            "errors" => {
                ensure!(value == "expected", "the only value of errors is expected");
                self.errors = true;
            }
            "stat" => self.stats.push(value.parse()?),
            "SPDX-License-Identifier" => {}
            _ => {
                if let Some(boot) = key.strip_prefix("device-") {
                    let boot = boot.parse().context("device-N is for boot N: N is a number")?;
                    self.device_in_boot.push((boot, words().collect()));
                } else {
                    // Other comments may have colons, too.
                    ensure!(key.contains(' '), "there is no `{key}`; guest-tests/README.md has what there is");
                }
            }
        }
        Ok(())
    }
}

/// The scripts of all cases, in the order of their names.
pub fn scripts(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut scripts: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    scripts.retain(|p| p.extension().is_some_and(|e| e == "sh"));
    scripts.sort();
    Ok(scripts)
}

/// A case's name: its file's, without `.sh`.
pub fn name(script: &Path) -> String {
    script.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A size with an optional K, M or G.
pub fn parse_size(text: &str) -> Result<u64> {
    let binary = parse_size::Config::new().with_binary();
    binary.parse_size(text).with_context(|| format!("{text:?} is not a size such as 256M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Case> {
        Case::parse("x".into(), Path::new("x.sh"), text)
    }

    #[test]
    fn a_full_header() {
        let text = "#!/bin/sh\n# SPDX-License-Identifier: MIT\n# case: many keys: 200 files\n# device: --keyslots 4\n\
            # device: --read-only\n# image: 1G\n# driver: virtio_blk\n# attach: vhost-user-blk\n\
            # needs: CONFIG_F2FS_FS mkfs.f2fs\n# timeout: 600\n# root-port: yes\n# queues: 4\n# rings: 1x32\n# check: fscrypt\n\
            # stat: keyslots.replace >= 196\n\necho\n# image: 7\n";
        let case = parse(text).unwrap();
        assert_eq!(case.description, "many keys: 200 files");
        assert_eq!(case.device, ["--keyslots", "4", "--read-only"]);
        assert_eq!((case.image, case.queues, case.check_fscrypt, case.root_port), (1 << 30, 4, true, true));
        assert_eq!(case.rings, Some((1, Some(32))));
        assert_eq!((case.driver.as_str(), case.attach), ("virtio_blk", Attach::VhostUserBlk));
        assert_eq!(case.needs, ["CONFIG_F2FS_FS", "mkfs.f2fs"]);
        assert_eq!((case.timeout, case.stats.len()), (Some(Duration::from_secs(600)), 1));
    }

    #[test]
    fn all_cases_have_good_headers() {
        let scripts = scripts(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tests/cases"))).unwrap();
        assert!(scripts.len() > 100);
        for script in scripts {
            Case::read(&script).unwrap();
            // The header ends at the first line that is no comment.
            let text = fs::read_to_string(&script).unwrap();
            let body = text.lines().skip_while(|line| line.starts_with('#'));
            let header = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            for (key, _) in body.filter_map(|line| line.strip_prefix("# ")?.split_once(": ")) {
                assert!(!header(key), "{}: `{key}` after the header", script.display());
            }
        }
    }

    #[test]
    fn the_case_that_contributors_copy() {
        let guide = include_str!("../../CONTRIBUTING.md");
        let lines = guide.lines().skip_while(|line| !line.starts_with("    # SPDX"));
        let text: String = lines.map_while(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
        let case = parse(&text).unwrap();
        assert_eq!(
            (case.device, case.check_fscrypt, case.stats.len()),
            (vec!["--keyslots".into(), "2".into()], true, 1)
        );
    }

    #[test]
    fn a_broken_device_has_words_and_a_share() {
        let wrong = |lines: &str| parse(&format!("# case: x\n# check: fscrypt\n{lines}")).map(|case| case.wrong);
        let share = |share| Some(Wrong { words: "zeros".into(), share });
        assert_eq!(wrong("# expect-wrong: zeros\n# wrong-share: 30-40\n").unwrap(), share(30..=40));
        assert_eq!(wrong("# wrong-share: 99\n# expect-wrong: zeros\n").unwrap(), share(99..=100));
        for lines in
            ["# expect-wrong: zeros\n", "# wrong-share: 30-40\n", "# expect-wrong: zeros\n# wrong-share: all\n"]
        {
            assert!(wrong(lines).is_err(), "{lines}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(parse("#!/bin/sh\n").is_err());
        for line in [
            "image: 5X",
            "driver: ext4",
            "attach: nvme",
            "check: all",
            "stat: a ~ 1",
            "queues: -1",
            "rings: 32x",
            "root-port: no",
            "errors: none",
            "stats: a > 1",
        ] {
            assert!(parse(&format!("# case: x\n# {line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn kills_need_a_frontend_that_reconnects() {
        let case = parse("# case: x\n# attach: vhost-user-blk\n# kills: 10\n# long: yes\n").unwrap();
        assert_eq!((case.kills, case.long), (10, true));
        for lines in ["# kills: 10", "# attach: vhost-user-blk\n# kills: many", "# long: no"] {
            assert!(parse(&format!("# case: x\n{lines}\n")).is_err(), "{lines}");
        }
    }

    #[test]
    fn old_qemus_have_vhost_user_blk_alone() {
        let case = parse("# case: x\n# attach: vhost-user-blk\n# qemu: bookworm\n# rings: 2\n").unwrap();
        assert_eq!((case.qemu.as_deref(), case.rings), (Some("bookworm"), Some((2, None))));
        for lines in ["# qemu: trixie", "# attach: vhost-user-blk\n# qemu: sid"] {
            assert!(parse(&format!("# case: x\n{lines}\n")).is_err(), "{lines}");
        }
    }

    #[test]
    fn a_ufs_controller_has_its_own_driver() {
        let case = parse("# case: x\n# attach: ufs\n# device: --keyslots 4\n").unwrap();
        assert_eq!((case.attach, case.driver.as_str()), (Attach::Ufs, "ufshcd"));
        assert_eq!(case.needs, UFS_NEEDS);
        assert_eq!(case.device, ["--ufs", "--keyslots", "4"]);
        assert_eq!(parse("# case: x\n# attach: ufs\n# luns: 2\n").unwrap().luns, 2);
        assert!(parse("# case: x\n# luns: 2\n").is_err());
        for line in ["driver: none", "rings: 1x32", "kills: 1", "luns: 0", "luns: 9"] {
            assert!(parse(&format!("# case: x\n# attach: ufs\n# {line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn steps_on_the_host_need_a_device_that_stays() {
        assert_eq!(parse("# case: x\n# host: hangup\n# host: ctl resize => told\n").unwrap().host.len(), 2);
        for lines in ["# host: nothing", "# host: hangup\n# boots: 2"] {
            assert!(parse(&format!("# case: x\n{lines}\n")).is_err(), "{lines}");
        }
        assert!(parse("# case: x\n# host: hangup\n# attach: vhost-user-blk\n# kills: 1\n").is_err());
    }

    #[test]
    fn bounds() {
        let case = parse("# case: x\n# memory: 58M\n# calm: 10\n").unwrap();
        assert_eq!((case.bounds.memory, case.bounds.calm), (Some(58 << 20), Some(10)));
        let kills = "# attach: vhost-user-blk\n# kills: 10\n# calm: 10";
        for lines in ["# memory: much", "# calm: very", kills] {
            assert!(parse(&format!("# case: x\n{lines}\n")).is_err(), "{lines}");
        }
    }

    #[test]
    fn several_boots() {
        let case = parse("# case: x\n# boots: 2\n# device: -a @state/f\n# device-2: -b c@state/f\n").unwrap();
        assert_eq!(case.device_options(1, Path::new("/s")), ["-a", "/s/f"]);
        assert_eq!(case.device_options(2, Path::new("/s")), ["-a", "/s/f", "-b", "c@state/f"]);
        assert_eq!((case.boots, parse("# case: x\n").unwrap().boots), (2, 1));
        for lines in ["# boots: 0", "# boots: two", "# device-2: -b", "# boots: 2\n# device-x: -b"] {
            assert!(parse(&format!("# case: x\n{lines}\n")).is_err(), "{lines}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512").unwrap(), 512);
        assert_eq!(parse_size("4k").unwrap(), 4096);
        assert!(parse_size("99999999999G").is_err() && parse_size("").is_err());
    }
}
