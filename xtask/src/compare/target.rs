// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The targets: file systems, encrypted in different ways.

/// Keyslots of the disks that measure changes of keys; each has a disk of its own.
pub const KEYSLOTS: [u32; 6] = [1, 4, 16, 32, 256, 1024];
/// Those of them in a quick run.
pub const QUICK_KEYSLOTS: [u32; 2] = [1, 32];

/// A kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fs {
    /// ext4
    Ext4,
    /// f2fs
    F2fs,
    /// btrfs, whose encryption is in no kernel of kernel.org yet
    Btrfs,
}

impl Fs {
    /// Its name for mount.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::F2fs => "f2fs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The kernel symbol that it needs.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Ext4 => "CONFIG_EXT4_FS",
            Self::F2fs => "CONFIG_F2FS_FS",
            Self::Btrfs => "CONFIG_BTRFS_FS",
        }
    }
}

/// How its files are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// Not at all.
    Plain,
    /// fscrypt with `-o inlinecrypt` on the disk with keyslots.
    Native,
    /// fscrypt with `-o inlinecrypt` on a disk that refuses raw keys, so that blk-crypto-fallback encrypts.
    Fallback,
    /// fscrypt without `-o inlinecrypt` on the disk with keyslots.
    NoInlinecrypt,
    /// dm-crypt below the file system.
    DmCrypt,
    /// dm-inlinecrypt below the file system.
    DmInlinecrypt,
}

impl How {
    /// Its name in the names of targets and in the guest's script.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Native => "native",
            Self::Fallback => "fallback",
            Self::NoInlinecrypt => "no-inlinecrypt",
            Self::DmCrypt => "dm-crypt",
            Self::DmInlinecrypt => "dm-inlinecrypt",
        }
    }

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Plain => "not encrypted",
            Self::Native => "fscrypt, -o inlinecrypt, disk with keyslots",
            Self::Fallback => "fscrypt, -o inlinecrypt, disk without keyslots for raw keys: blk-crypto-fallback",
            Self::NoInlinecrypt => "fscrypt without -o inlinecrypt, disk with keyslots",
            Self::DmCrypt => "dm-crypt aes-xts-plain64, sectors of 4096",
            Self::DmInlinecrypt => "dm-inlinecrypt aes-xts-plain64, sectors of 4096",
        }
    }
}

/// What is to be found out with a target or a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What encryption costs, by the device or by the guest's CPU.
    Ordinary,
    /// What changes of keys cost.
    Churn,
    /// What the UFS host controller costs, beside virtio.
    Front,
}

/// One of the disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// The device with the user's options.
    Main,
    /// The same, but for hardware-wrapped keys alone: requests with a raw key fall back. All else is equal: driver,
    /// interrupts, limits.
    NoRawKeys,
    /// The same with this many keyslots.
    Keyslots(u32),
    /// The same without keyslots: each request carries its key.
    KeysInRequests,
    /// Another one with the user's options.
    Spare(u32),
    /// One front or the other, with one queue.
    Front {
        /// It is a UFS host controller.
        ufs: bool,
        /// It polls for work before it sleeps.
        polls: bool,
    },
}

impl Disk {
    /// Its serial number in the guest.
    pub fn serial(self) -> String {
        match self {
            Self::Main => "MAIN".to_owned(),
            Self::NoRawKeys => "NORAWKEYS".to_owned(),
            Self::Keyslots(n) => format!("KEYSLOTS{n}"),
            Self::KeysInRequests => "KEYSINREQUESTS".to_owned(),
            Self::Spare(n) => format!("SPARE{n}"),
            Self::Front { ufs, polls } => {
                format!("{}{}", if ufs { "UFS" } else { "VIRTIO" }, if polls { "POLL" } else { "" })
            }
        }
    }
}

/// A file system to measure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Name.
    pub name: String,
    /// Kind of file system.
    pub fs: Fs,
    /// How it is encrypted.
    pub how: How,
    /// Its disk.
    pub disk: Disk,
    /// What it is for.
    pub kind: Kind,
}

impl Target {
    fn ordinary(fs: Fs, how: How) -> Self {
        let disk = if how == How::Fallback { Disk::NoRawKeys } else { Disk::Main };
        Self { name: format!("{}/{}", fs.name(), how.name()), fs, how, disk, kind: Kind::Ordinary }
    }

    fn churn(disk: Disk) -> Self {
        let (name, how) = match disk {
            Disk::Keyslots(n) => (format!("churn/{n}"), How::Native),
            Disk::KeysInRequests => ("churn/none".to_owned(), How::Native),
            _ => ("churn/fallback".to_owned(), How::Fallback),
        };
        Self { name, fs: Fs::Ext4, how, disk, kind: Kind::Churn }
    }

    fn front(ufs: bool, polls: bool) -> Self {
        let disk = Disk::Front { ufs, polls };
        let name = format!("front/{}{}", if ufs { "ufs" } else { "virtio" }, if polls { "-polls" } else { "" });
        Self { name, fs: Fs::Ext4, how: How::Native, disk, kind: Kind::Front }
    }

    /// Whether it lies behind a UFS host controller.
    pub fn is_ufs(&self) -> bool {
        matches!(self.disk, Disk::Front { ufs: true, .. })
    }

    /// Its name in the guest.
    pub fn id(&self) -> String {
        self.name.replace('/', "-")
    }

    /// Its number of keyslots, if it is for key changes and the device encrypts.
    pub fn keyslots(&self) -> Option<u32> {
        match self.disk {
            Disk::Keyslots(n) => Some(n),
            _ => None,
        }
    }

    /// The target that it is compared with.
    pub fn base(&self) -> String {
        match self.kind {
            Kind::Ordinary => format!("{}/plain", self.fs.name()),
            Kind::Churn => "churn/fallback".to_owned(),
            Kind::Front => "front/virtio".to_owned(),
        }
    }

    /// Who must encrypt it. `None`: not known, because its encryption is not merged yet.
    pub fn expected(&self) -> Option<How> {
        (self.fs != Fs::Btrfs || self.how != How::Native).then_some(self.how)
    }

    /// The order in which file systems are made. The kernel logs each message once per boot; in this order, they show a
    /// fallback that should not be.
    pub fn setup_order(&self) -> u8 {
        match (self.how, self.expected()) {
            // After the targets that are compared with it.
            (How::Plain, _) if self.fs == Fs::Btrfs => 4,
            (How::Plain | How::DmCrypt | How::DmInlinecrypt, _) => 0,
            (How::Native, Some(_)) => 1,
            (_, None) => 2,
            _ => 3,
        }
    }
}

/// All targets, in the order of the report.
pub fn all(quick: bool) -> Vec<Target> {
    use How::{DmCrypt, DmInlinecrypt, Fallback, Native, NoInlinecrypt, Plain};
    let ext4: &[How] = match quick {
        true => &[Plain, Native, Fallback, DmCrypt],
        false => &[Plain, Native, Fallback, NoInlinecrypt, DmCrypt, DmInlinecrypt],
    };
    let mut targets: Vec<Target> = ext4.iter().map(|how| Target::ordinary(Fs::Ext4, *how)).collect();
    if !quick {
        targets.extend([Plain, Native, Fallback].map(|how| Target::ordinary(Fs::F2fs, how)));
    }
    targets.extend([Plain, Native].map(|how| Target::ordinary(Fs::Btrfs, how)));
    let keyslots: &[u32] = if quick { &QUICK_KEYSLOTS } else { &KEYSLOTS };
    targets.extend(keyslots.iter().map(|n| Target::churn(Disk::Keyslots(*n))));
    targets.extend([Disk::KeysInRequests, Disk::NoRawKeys].map(Target::churn));
    if !quick {
        let fronts = [(false, false), (false, true), (true, false), (true, true)];
        targets.extend(fronts.map(|(ufs, polls)| Target::front(ufs, polls)));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_bases_exist() {
        for quick in [true, false] {
            let targets = all(quick);
            for target in &targets {
                assert_eq!(targets.iter().filter(|t| t.name == target.name).count(), 1, "{}", target.name);
                assert!(targets.iter().any(|t| t.name == target.base()), "{}", target.name);
                assert!(!target.id().contains(['/', ' ']));
            }
        }
    }

    #[test]
    fn what_is_native_is_made_before_what_falls_back() {
        let order = |name: &str| all(false).iter().find(|t| t.name == name).unwrap().setup_order();
        assert!(order("churn/1024") < order("btrfs/native"));
        assert!(order("btrfs/native") < order("ext4/fallback"));
        assert!(order("btrfs/native") < order("btrfs/plain"));
        assert_eq!(order("churn/fallback"), order("ext4/no-inlinecrypt"));
    }
}
