// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hexadecimal text, as keys, nonces and UUIDs are written in the results.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Deserializer, de::Error};

/// Reads hexadecimal digits, two per byte.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    ensure!(text.bytes().all(|c| c.is_ascii_hexdigit()), "not hexadecimal: \"{text}\"");
    ensure!(text.len().is_multiple_of(2), "an odd number of hexadecimal digits");
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair)?;
            u8::from_str_radix(pair, 16).with_context(|| format!("not hexadecimal: \"{pair}\""))
        })
        .collect()
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Sixteen bytes: a nonce, a key identifier, or a UUID (whose dashes are ignored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes16(pub [u8; 16]);

impl<'de> Deserialize<'de> for Bytes16 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        match decode(&digits).map(<[u8; 16]>::try_from) {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            _ => Err(D::Error::custom(format!("\"{text}\" is not 16 bytes"))),
        }
    }
}

/// A 64-byte AES-256-XTS key.
pub fn decode_xts_key(text: &str) -> Result<[u8; 64]> {
    match decode(text)?.try_into() {
        Ok(key) => Ok(key),
        Err(bytes) => bail!("an AES-256-XTS key has 64 bytes, this one {}", Vec::len(&bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!(decode("00ff10Ab").expect("hex"), [0x00, 0xff, 0x10, 0xab]);
        assert_eq!(encode(&[0x00, 0xff, 0x10, 0xab]), "00ff10ab");
    }

    #[test]
    fn refuses_other_text() {
        for bad in ["0", "0g", "+1", "é0", " 0"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uuid_with_dashes() {
        let uuid: Bytes16 = serde_json::from_str("\"00112233-4455-6677-8899-aabbccddeeff\"").expect("uuid");
        assert_eq!(uuid.0[15], 0xff);
        assert!(serde_json::from_str::<Bytes16>("\"0011\"").is_err());
    }
}
