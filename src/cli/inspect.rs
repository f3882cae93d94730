// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of `inspect`.

use std::path::PathBuf;

use clap::Args;
use scattered_xts::Dun;
use vhost_user_blk_crypto::digest::DigestAlgorithm;

use super::number;

/// Decrypt a piece of an image, compare it with a plaintext file, or print the digests of its ciphertext.
///
/// The key is the one that was programmed into the keyslot (for fscrypt: the derived one, not the master key). Exit
/// status: 0, or with --verify 1 when something differs; 2 on errors. Sizes take 0x..., K, M, G and T.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct InspectArgs {
    /// The image, a file or block device; it is only read
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,

    /// File with the key: 64 bytes, or 128 hexadecimal digits
    #[arg(long, value_name = "FILE", required_unless_present = "digest")]
    pub key_file: Option<PathBuf>,

    /// Bytes of a data unit
    #[arg(long, value_name = "BYTES", value_parser = number::data_unit)]
    pub data_unit: u64,

    /// Data unit number of the first data unit of the piece, decimal or 0x..., up to 256 bits
    #[arg(long, value_name = "N", value_parser = number::dun, required_unless_present = "digest")]
    pub dun: Option<Dun>,

    /// Where in the image the piece starts
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = number::size)]
    pub offset: u64,

    /// Bytes of the piece, whole data units [default: with --verify, as many as FILE needs]
    #[arg(long, value_name = "BYTES", value_parser = number::size, required_unless_present = "verify")]
    pub length: Option<u64>,

    /// Compare with this file instead of writing; zeroes may fill the last data unit
    #[arg(long, value_name = "FILE")]
    pub verify: Option<PathBuf>,

    /// Write to this file [default: standard output, unless --verify is given]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Encrypt the piece instead of decrypting it
    #[arg(long)]
    pub encrypt: bool,

    /// Print the digest of each data unit as it lies on the image, which needs no key: crc32c, xxhash64, sha256 or
    /// blake2b-256. A line has the offset in the image and the digest, in the order of its bytes
    #[arg(long, value_name = "ALGORITHM", conflicts_with_all = ["key_file", "dun", "verify", "output", "encrypt"])]
    pub digest: Option<DigestAlgorithm>,
}
