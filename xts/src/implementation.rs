// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The implementations of AES-XTS, and which of them this CPU can run.

use std::fmt;
use std::str::FromStr;

use crate::native::Kernel;

/// An implementation of AES-256-XTS. All have the same results, and take the same time for every key and every data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// x86-64: four blocks per instruction (VAES and VPCLMULQDQ on AVX-512 registers).
    Vaes512,
    /// x86-64: two blocks per instruction (VAES and VPCLMULQDQ on AVX2 registers).
    Vaes256,
    /// x86-64: one block per instruction.
    AesNi,
    /// 64-bit Arm with the AES instructions.
    Armv8,
    /// The `aes` crate: any CPU.
    Portable,
}

impl Implementation {
    /// All implementations, the fastest first, whether or not this CPU can run them.
    pub const ALL: [Self; 5] = [Self::Vaes512, Self::Vaes256, Self::AesNi, Self::Armv8, Self::Portable];

    /// The implementations that this CPU can run, the fastest first. The last one is [`Implementation::Portable`].
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|implementation| implementation.is_available())
    }

    /// The fastest implementation that this CPU can run.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// Whether this CPU can run the implementation.
    pub fn is_available(self) -> bool {
        self == Self::Portable || self.kernel().is_some()
    }

    /// The name, which [`str::parse`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vaes512 => "vaes-512",
            Self::Vaes256 => "vaes-256",
            Self::AesNi => "aes-ni",
            Self::Armv8 => "armv8",
            Self::Portable => "portable",
        }
    }

    /// The implementation's kernel, if it has one and this CPU can run it.
    pub(super) fn kernel(self) -> Option<&'static Kernel> {
        match self {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Vaes512 => crate::x86::vaes512::kernel(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::Vaes256 => crate::x86::vaes256::kernel(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Self::AesNi => crate::x86::aesni::kernel(),
            #[cfg(all(target_arch = "aarch64", not(miri)))]
            Self::Armv8 => crate::arm::armv8::kernel(),
            _ => None,
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Implementation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// No implementation has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such implementation; there are vaes-512, vaes-256, aes-ni, armv8 and portable")]
pub struct UnknownImplementation;

impl FromStr for Implementation {
    type Err = UnknownImplementation;

    fn from_str(name: &str) -> Result<Self, UnknownImplementation> {
        Self::ALL.into_iter().find(|implementation| implementation.name() == name).ok_or(UnknownImplementation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for implementation in Implementation::ALL {
            assert_eq!(implementation.to_string().parse(), Ok(implementation));
        }
        assert_eq!("VAES".parse::<Implementation>(), Err(UnknownImplementation));
        assert!(
            Implementation::ALL
                .iter()
                .all(|implementation| UnknownImplementation.to_string().contains(implementation.name()))
        );
    }

    #[test]
    fn the_fastest_is_the_first_and_portable_the_last() {
        let available: Vec<_> = Implementation::available().collect();
        assert_eq!(available.first(), Some(&Implementation::detect()));
        assert_eq!(available.last(), Some(&Implementation::Portable));
    }
}
