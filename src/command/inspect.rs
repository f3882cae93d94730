// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `inspect`: decrypts a piece of an image offline and compares it with what it should be. Users of inline encryption
//! otherwise do this check by hand.

mod compare;
mod key;

use std::fs::File;
use std::io::{IsTerminal, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use scattered_xts::Dun;
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::disk::are_same;
use vhost_user_blk_crypto::secret::forbid_core_dumps;

use crate::cli::InspectArgs;
use crate::cli::output::print;
use compare::Comparison;

/// Bytes per step; a multiple of every data unit size.
const STEP: usize = 1 << 20;

/// A piece of the image in whole data units, inside the image.
struct Piece {
    offset: u64,
    len: u64,
    unit: u64,
}

pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    if let Some(algorithm) = args.digest {
        return digests(args, algorithm);
    }
    let (Some(first), Some(key_file)) = (args.dun, &args.key_file) else { bail!("give --dun and --key-file") };
    // Before there is a key.
    forbid_core_dumps().context("cannot turn core dumps off")?;
    let (image, image_len) = open(&args.image)?;
    let expected = args.verify.as_deref().map(open).transpose()?;
    let piece = piece(args, first, image_len, expected.as_ref().map(|(_, len)| *len))?;
    let mut comparison = match (expected, &args.verify) {
        (Some((file, len)), Some(path)) => Some(Comparison::new(file, len, path, &piece)?),
        _ => None,
    };
    // Before the output is truncated.
    let key = key::read(key_file)?;
    let mut output = output(args, key_file)?;

    let mut buffer = vec![0; STEP];
    let mut done = 0;
    while done < piece.len {
        let len = (piece.len - done).min(STEP as u64) as usize; // at most STEP
        let data = &mut buffer[..len];
        let at = piece.offset + done;
        image.read_exact_at(data, at).with_context(|| format!("cannot read {} at {at}", args.image.display()))?;
        let dun = first.checked_add(done / piece.unit).context("a data unit number is 2^256 or more")?;
        let bits = piece.unit.ilog2() as u8; // at most 20
        if args.encrypt {
            key.encrypt(dun, bits, data)
        } else {
            key.decrypt(dun, bits, data)
        }
        if let Some(comparison) = &mut comparison {
            comparison.step(done, data)?;
        }
        if let Some(output) = &mut output {
            output.write_all(data).context("cannot write the output")?;
        }
        done += len as u64; // usize to u64 loses nothing
    }
    if let Some(output) = &mut output {
        output.flush().context("cannot write the output")?;
    }
    let Some(comparison) = comparison else { return Ok(ExitCode::SUCCESS) };
    let (same, report) = comparison.report(&piece, first);
    if same {
        return Ok(print(&format!("{report}\n"), ExitCode::SUCCESS));
    }
    // If this write fails, the exit status still reports the difference.
    let _ = writeln!(std::io::stderr(), "{report}");
    Ok(ExitCode::FAILURE)
}

/// `--digest`: a line for each data unit.
fn digests(args: &InspectArgs, algorithm: DigestAlgorithm) -> Result<ExitCode> {
    let (image, image_len) = open(&args.image)?;
    let piece = piece(args, Dun::new([0; 4]), image_len, None)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut unit = vec![0; piece.unit as usize]; // at most STEP
    for at in (piece.offset..piece.offset + piece.len).step_by(unit.len()) {
        image.read_exact_at(&mut unit, at).with_context(|| format!("cannot read {} at {at}", args.image.display()))?;
        let digest: String = algorithm.digest(&unit).iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{at} {digest}").context("cannot write the output")?;
    }
    out.flush().context("cannot write the output")?;
    Ok(ExitCode::SUCCESS)
}

/// A file or block device and its size.
fn open(path: &Path) -> Result<(File, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // Works for block devices, whose metadata has no size.
    let len = file.seek(SeekFrom::End(0)).with_context(|| format!("{} has no size", path.display()))?;
    file.rewind()?;
    Ok((file, len))
}

fn piece(args: &InspectArgs, first: Dun, image_len: u64, expected_len: Option<u64>) -> Result<Piece> {
    let (offset, unit) = (args.offset, args.data_unit);
    let len = match (args.length, expected_len) {
        (Some(len), _) => len,
        (None, Some(len)) => len.checked_next_multiple_of(unit).context("the file to compare with is too large")?,
        (None, None) => bail!("--length is missing"),
    };
    ensure!(len > 0, "the piece has 0 bytes; give a larger --length");
    ensure!(len.is_multiple_of(unit), "--length {len} is not a multiple of the data unit size {unit}");
    ensure!(
        len <= image_len && offset <= image_len - len,
        "{len} bytes at {offset} exceed the image, which has {image_len} bytes"
    );
    ensure!(first.checked_add(len / unit - 1).is_some(), "the last data unit's number is 2^256 or more");
    Ok(Piece { offset, len, unit })
}

fn output(args: &InspectArgs, key_file: &Path) -> Result<Option<Box<dyn Write>>> {
    if let Some(path) = &args.output {
        let context = || format!("cannot write to {}", path.display());
        // Truncate only after the check that this is no input.
        let options = File::options().write(true).create(true).truncate(false).mode(0o600).to_owned();
        let file = options.open(path).with_context(context)?;
        let ours = file.metadata()?;
        let inputs = [(Some(&args.image), "the image"), (args.verify.as_ref(), "the file of --verify")];
        let inputs = inputs.into_iter().filter_map(|(path, what)| Some((path?.as_path(), what)));
        for (input, what) in inputs.chain([(key_file, "the key file")]) {
            let theirs = input.metadata().with_context(|| format!("cannot get the status of {}", input.display()))?;
            ensure!(!are_same(&ours, &theirs), "--output is {what} itself; name another file");
        }
        if ours.is_file() {
            file.set_len(0).with_context(context)?;
        }
        return Ok(Some(Box::new(file)));
    }
    if args.verify.is_some() {
        return Ok(None);
    }
    let stdout = std::io::stdout();
    ensure!(
        !stdout.is_terminal(),
        "the data would go to the terminal; give --output FILE or --verify FILE, or pipe it, for example to xxd"
    );
    Ok(Some(Box::new(stdout)))
}
