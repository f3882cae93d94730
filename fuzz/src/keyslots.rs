// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands and encrypted requests in any order, compared with a small model that encrypts with OpenSSL.

use arbitrary::{Arbitrary, Result, Unstructured};
use test_driver::data::FILL;
use test_driver::wire::*;

use crate::disks::DiskKind;
use crate::guest::{CONTROL, Cut, Guest, KEYSLOTS, Setting, driver_features, with_guest};
use crate::model::{Key, edge, extent, refusals, transfer};
use crate::wire::{Program, Request, all, key, number};

/// Of the smallest disk.
const SECTORS: u64 = 128;

#[derive(Debug, Arbitrary)]
struct Input {
    disk: DiskKind,
    /// Commands go to the request queues.
    in_band: bool,
    /// When the disk's completions arrive.
    looks: [u8; 8],
}

#[derive(Debug, Clone)]
enum Op {
    Program(Program),
    Evict(u32),
    Transfer {
        write: bool,
        sector: u64,
        len: u32,
        crypto: Option<(u32, [u64; 4])>,
        seed: u8,
    },
    /// The driver is removed and loaded again.
    Reset,
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=15)? {
            0..=3 => Self::Program(Program::arbitrary(u)?),
            4 => Self::Evict(number(u, 4)? as u32),
            5 => Self::Reset,
            _ => {
                let plain = u.ratio(1, 5)?;
                let dun = if u.arbitrary()? { edge(u)? } else { [number(u, 9)?, number(u, 2)?, 0, number(u, 1)?] };
                Self::Transfer {
                    write: u.arbitrary()?,
                    sector: number(u, SECTORS)?,
                    len: if u.ratio(1, 10)? { u.int_in_range(0..=9000)? } else { 512 * u.int_in_range(0..=24)? },
                    crypto: if plain { None } else { Some((number(u, 4)? as u32, dun)) },
                    seed: u.arbitrary()?,
                }
            }
        })
    }
}

struct Model {
    slots: [Option<Key>; KEYSLOTS as usize],
    disk: Vec<u8>,
}

impl Model {
    fn program(&mut self, program: &Program) -> Vec<u8> {
        let mut refusals = refusals(program);
        // A wrapped key would have to be one that the device has made.
        if program.key_type == 2 || program.key_size != 64 || program.slot >= KEYSLOTS.into() {
            refusals.push(IOERR);
        }
        if !refusals.is_empty() {
            // The slot keeps what it has.
            return refusals;
        }
        if let Some(slot) = self.slots.get_mut(program.slot as usize) {
            *slot = Some(Key::new(key(program.key), program));
        }
        vec![OK]
    }

    /// The status, and the data read.
    fn transfer(&mut self, write: bool, sector: u64, data: &[u8], crypto: Option<(u32, [u64; 4])>) -> (u8, Vec<u8>) {
        let Some(at) = extent(sector, data.len(), self.disk.len()) else { return (IOERR, vec![]) };
        let key = match crypto {
            None => None,
            Some((slot, dun)) => match self.slots.get(slot as usize) {
                None => return (IOERR, vec![]),
                Some(None) => return (NOKEY, vec![]),
                Some(Some(key)) if key.fits(dun, data.len()) => Some((key, dun)),
                Some(Some(_)) => return (IOERR, vec![]),
            },
        };
        (OK, transfer(&mut self.disk[at], write, data, key))
    }
}

struct Run<'g> {
    guest: &'g mut Guest,
    model: Model,
    in_band: bool,
}

fn check(run: &mut Run<'_>, number: usize, op: &Op, cut: &Cut) {
    let Run { guest, model, in_band } = run;
    let commands = if *in_band { number / 2 % 2 } else { CONTROL };
    match op {
        Op::Program(program) => {
            let request = Request { readable: program.command(PROGRAM), room: 1 };
            let expected = model.program(program);
            let (status, _) = guest.request(commands, &request, cut);
            assert!(expected.contains(&status), "{op:?}: {status}, not {expected:?}");
        }
        Op::Evict(slot) => {
            let request = Request { readable: evict(*slot), room: 1 };
            let expected = match model.slots.get_mut(*slot as usize) {
                Some(slot) => {
                    *slot = None;
                    OK
                }
                None => IOERR,
            };
            assert_eq!(guest.request(commands, &request, cut).0, expected, "{op:?}");
        }
        Op::Transfer { write, sector, len, crypto, seed } => {
            let data: Vec<u8> = (0..*len).map(|i| (i as u8).wrapping_mul(*seed) ^ (i >> 8) as u8).collect();
            let mut readable = match *crypto {
                None => header(if *write { OUT } else { IN }, *sector),
                Some((slot, dun)) => crypto_header(if *write { CRYPTO_OUT } else { CRYPTO_IN }, *sector, slot, dun),
            };
            let room = if *write { 1 } else { len + 1 };
            if *write {
                readable.extend(&data);
            }
            let (status, read) = guest.request(number % 2, &Request { readable, room }, cut);
            let (expected, bytes) = model.transfer(*write, *sector, &data, *crypto);
            assert_eq!(status, expected, "{op:?}");
            if expected == OK && !write {
                assert!(read == bytes, "{op:?}: wrong data");
            } else {
                assert!(read.iter().all(|&byte| byte == FILL), "{op:?}: a failed request has written");
            }
        }
        Op::Reset => {
            guest.set_features(driver_features(*in_band));
            model.slots = [None; KEYSLOTS as usize];
        }
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(Input { disk, in_band, looks }) = Input::arbitrary(&mut u) else { return };
    let ops = all::<(Op, Cut)>(u, 40);
    with_guest(Setting { features: driver_features(in_band), disk, ..Setting::plain(32) }, |guest| {
        guest.clear_disk();
        let model = Model { slots: [None; KEYSLOTS as usize], disk: vec![0; guest.disk as usize] };
        let mut run = Run { guest, model, in_band };
        for (number, (op, cut)) in ops.iter().enumerate() {
            run.guest.device.schedule(&looks);
            check(&mut run, number, op, cut);
        }
    });
}
