// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench -p scattered-xts`: AES-256-XTS beside OpenSSL in the same run, and the expansion of a key.
//!
//! All that is in one table takes turns, so that a drift of the machine favours nobody; medians of the rounds are
//! printed. Look at the ratios: absolute figures of a shared machine mean little. `-- --full` prints every combination.

use std::hint::black_box;
use std::time::{Duration, Instant};

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use scattered_xts::{Dun, Implementation, KEY_BYTES, XtsKey};
use vm_memory::VolatileSlice;

const ROUNDS: usize = 15;
/// Time of one measurement.
const SLICE: Duration = Duration::from_millis(8);
const PAGE: usize = 4096;
/// Bytes of either side for [`Layout::Cold`]: more than the caches hold.
const COLD: usize = 64 << 20;

/// Where source and target lie.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// One buffer, at a page.
    InPlace,
    /// Two buffers, each at a page.
    Apart,
    /// The source so many bytes past a page.
    Off(usize),
    /// The source in pages here and there.
    Pages,
    /// Each request with memory that was not used for long.
    Cold,
}

impl Layout {
    const ALL: [Self; 6] = [Self::Apart, Self::InPlace, Self::Off(1), Self::Off(16), Self::Pages, Self::Cold];

    fn name(self) -> String {
        match self {
            Self::InPlace => "in place".into(),
            Self::Apart => "from page to page".into(),
            Self::Off(by) => format!("source off by {by}"),
            Self::Pages => "source in 4 KiB pieces".into(),
            Self::Cold => "cold memory".into(),
        }
    }
}

/// What is measured. Without an implementation: OpenSSL.
#[derive(Clone, Copy)]
struct Case {
    implementation: Option<Implementation>,
    encrypt: bool,
    unit: usize,
    request: usize,
    layout: Layout,
}

/// Page-aligned memory that is never freed: the program is short.
fn memory(bytes: usize, fill: u8) -> VolatileSlice<'static> {
    let memory = vec![fill; bytes + PAGE].leak();
    let skip = memory.as_ptr().align_offset(PAGE);
    VolatileSlice::from(&mut memory[skip..skip + bytes])
}

fn part(whole: VolatileSlice<'static>, at: usize, len: usize) -> VolatileSlice<'static> {
    whole.subslice(at, len).expect("inside")
}

impl Case {
    /// Pairs of source and target, which requests use in turn.
    fn places(&self) -> Vec<(Vec<VolatileSlice<'static>>, VolatileSlice<'static>)> {
        let len = self.request;
        match self.layout {
            Layout::InPlace => {
                let both = memory(len, 1);
                vec![(vec![both], both)]
            }
            Layout::Apart => vec![(vec![memory(len, 1)], memory(len, 2))],
            Layout::Off(by) => vec![(vec![part(memory(len + by, 1), by, len)], memory(len, 2))],
            Layout::Pages => {
                let (from, to) = (memory(4 * len, 1), memory(len, 2));
                let pages = len / PAGE;
                // Every page of the request somewhere else; 7 has no factor in common with the number of pages.
                let pieces = (0..pages).map(|page| part(from, (page * 7 % pages) * 4 * PAGE, PAGE)).collect();
                vec![(pieces, to)]
            }
            Layout::Cold => {
                let (from, to) = (memory(COLD, 1), memory(COLD, 2));
                (0..COLD / len).map(|at| (vec![part(from, at * len, len)], part(to, at * len, len))).collect()
            }
        }
    }

    fn prepare(self) -> Box<dyn FnMut()> {
        let places = &*self.places().leak();
        let key: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
        let mut turn = 0;
        let mut next = move || {
            turn = (turn + 1) % places.len();
            let (from, to) = &places[turn];
            (black_box(from.as_slice()), black_box(*to))
        };
        let bits = self.unit.trailing_zeros() as u8;
        if let Some(implementation) = self.implementation {
            let key = XtsKey::new(implementation, &key);
            let dun = Dun::new([7, 0, 0, 0]);
            return Box::new(move || {
                let (from, to) = next();
                if self.encrypt {
                    key.encrypt(dun, bits, from, &[to]);
                } else {
                    key.decrypt(dun, bits, from, &[to]);
                }
            });
        }
        let mut ctx = CipherCtx::new().expect("OpenSSL");
        let cipher = Cipher::aes_256_xts();
        if self.encrypt {
            ctx.encrypt_init(Some(cipher), Some(&key), None).expect("OpenSSL");
        } else {
            ctx.decrypt_init(Some(cipher), Some(&key), None).expect("OpenSSL");
        }
        Box::new(move || {
            let (from, to) = next();
            // A data unit is one call, with the key that the context has and a tweak of its own.
            let units =
                from.iter().flat_map(|piece| (0..piece.len() / self.unit).map(move |at| (piece, at * self.unit)));
            for (number, (piece, at)) in units.enumerate() {
                let tweak = Some(&(number as u128).to_le_bytes()[..]);
                if self.encrypt { ctx.encrypt_init(None, None, tweak) } else { ctx.decrypt_init(None, None, tweak) }
                    .expect("OpenSSL");
                let source = piece.ptr_guard().as_ptr().wrapping_add(at);
                let target = to.ptr_guard_mut().as_ptr().wrapping_add(number * self.unit);
                // SAFETY: both are memory of ours of that length, of which no other reference is in use. In place, they
                // are the same, which EVP_CipherUpdate allows, and the call below takes as one slice.
                unsafe {
                    if source == target.cast_const() {
                        let data = std::slice::from_raw_parts_mut(target, self.unit);
                        ctx.cipher_update_inplace(data, self.unit).expect("OpenSSL");
                    } else {
                        let source = std::slice::from_raw_parts(source, self.unit);
                        let target = std::slice::from_raw_parts_mut(target, self.unit);
                        ctx.cipher_update(source, Some(target)).expect("OpenSSL");
                    }
                }
            }
        })
    }

    /// OpenSSL takes a data unit in one piece.
    fn possible(&self) -> bool {
        self.implementation.is_some() || self.layout != Layout::Pages || self.unit <= PAGE
    }
}

/// Calls per second.
fn rate(action: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < SLICE {
        for _ in 0..4 {
            action();
        }
        calls += 4;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}

/// Medians of actions that take turns.
fn rates(actions: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let mut samples = vec![Vec::new(); actions.len()];
    for _ in 0..ROUNDS {
        for (action, samples) in actions.iter_mut().zip(&mut samples) {
            samples.push(rate(action));
        }
    }
    samples
        .into_iter()
        .map(|mut samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect()
}

/// One line: the implementations, then OpenSSL, in GB/s, with the ratio to OpenSSL.
fn line(label: &str, implementations: &[Implementation], case: Case) {
    let cases: Vec<_> = implementations
        .iter()
        .copied()
        .map(Some)
        .chain([None])
        .map(|implementation| Case { implementation, ..case })
        .collect();
    let possible: Vec<_> = cases.iter().filter(|case| case.possible()).collect();
    let measured = rates(&mut possible.iter().map(|case| case.prepare()).collect::<Vec<_>>());
    let theirs = measured.get(implementations.len());
    print!("{label:<34}");
    for (at, rate) in measured.iter().enumerate() {
        let gigabytes = rate * case.request as f64 / 1e9;
        match theirs {
            Some(theirs) if at < implementations.len() => {
                print!(" {gigabytes:>6.2} {:>5}", format!("{:.2}x", rate / theirs))
            }
            _ => print!(" {gigabytes:>6.2} {:>5}", ""),
        }
    }
    println!();
}

fn title(text: &str, implementations: &[Implementation]) {
    print!("\n{text:<34}");
    for name in implementations.iter().map(|implementation| implementation.name()).chain(["OpenSSL"]) {
        print!(" {name:>9}   ");
    }
    println!();
}

fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) }
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--full");
    let implementations: Vec<_> = Implementation::available().collect();
    let base = Case { implementation: None, encrypt: true, unit: 4096, request: 128 << 10, layout: Layout::Apart };
    println!("AES-256-XTS, one thread, GB/s, and how many times as fast as OpenSSL");
    if full {
        for layout in Layout::ALL {
            for request in [4 << 10, 128 << 10, 1 << 20] {
                title(&format!("{}, {}", size(request), layout.name()), &implementations);
                for (unit, encrypt) in [512, 4096, 65536].into_iter().flat_map(|unit| [(unit, true), (unit, false)]) {
                    if unit <= request {
                        let way = if encrypt { "encrypt" } else { "decrypt" };
                        let case = Case { encrypt, unit, request, layout, ..base };
                        line(&format!("  {way}, data unit {}", size(unit)), &implementations, case);
                    }
                }
            }
        }
    } else {
        title("request of 128 KiB", &implementations);
        for (unit, encrypt) in [512, 4096, 65536].into_iter().flat_map(|unit| [(unit, true), (unit, false)]) {
            let way = if encrypt { "encrypt" } else { "decrypt" };
            line(&format!("  {way}, data unit {}", size(unit)), &implementations, Case { unit, encrypt, ..base });
        }
        title("encrypt, request of", &implementations);
        for (request, unit) in [(4 << 10, 512), (4 << 10, 4096), (1 << 20, 512), (1 << 20, 4096)] {
            let label = format!("  {}, data unit {}", size(request), size(unit));
            line(&label, &implementations, Case { request, unit, ..base });
        }
        title("encrypt 128 KiB, data unit 4 KiB", &implementations);
        for layout in Layout::ALL {
            line(&format!("  {}", layout.name()), &implementations, Case { layout, ..base });
        }
    }
    expansion(&implementations);
}

fn expansion(implementations: &[Implementation]) {
    let key: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
    println!("\nexpansion of a key, ns");
    for &implementation in implementations {
        let rate = rates(&mut [Box::new(|| drop(black_box(XtsKey::new(implementation, black_box(&key)))))])[0];
        println!("{:<14}{:>7.0}", implementation.name(), 1e9 / rate);
    }
}
