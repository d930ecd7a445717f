//! A short run of every fuzz target, the same each time: seeds, cases that once failed, and what a small
//! mutator makes of them. No panic, no hang, no growth. `cargo xtask fuzz` goes further, with libFuzzer.
//!
//! `RESMGR_FUZZ_RUNS=N` sets the executions of each target, `RESMGR_FUZZ_SEED=N` begins elsewhere.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use cri_resmgr::fuzz::{FuzzTarget, TARGETS};
use peak_alloc::PeakAlloc;
use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What one execution may allocate at a time, beyond a multiple of its input: tables of regular
/// expressions, a topology, a configuration.
const MOST_BYTES: usize = 32 << 20;
/// When a target is taken to hang; the slowest takes a hundredth.
const LIMIT: Duration = Duration::from_secs(300);

/// xorshift64*: enough to choose where to hit.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % below.max(1)
    }

    fn octet(&mut self) -> u8 {
        // Edges more often than the rest.
        const EDGES: [u8; 12] = [
            0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b':', b',', b'{', b'*', b'=',
        ];
        match self.roll(3) {
            0 => EDGES[self.roll(EDGES.len())],
            _ => u8::try_from(self.roll(256)).unwrap(),
        }
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(input.len() + 1);
            let len = self.roll(9).min(input.len() - at);
            match self.roll(6) {
                0 if at < input.len() => input[at] = self.octet(),
                1 if at < input.len() => input[at] ^= 1 << self.roll(8),
                2 => input.insert(at, self.octet()),
                3 => drop(input.drain(at..at + len)),
                4 => {
                    let part = input[at..at + len].to_vec();
                    let to = self.roll(input.len() + 1);
                    input.splice(to..to, part);
                }
                _ => {
                    let second = &corpus[self.roll(corpus.len())];
                    let from = self.roll(second.len() + 1);
                    let part = second[from..].iter().copied().take(40);
                    input.splice(at..at, part);
                }
            }
        }
        input.truncate(4096);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The inputs that once failed.
fn regressions(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/regressions")
        .join(target);
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

fn execute(target: FuzzTarget, input: &[u8], current: &Mutex<Vec<u8>>) {
    input.clone_into(&mut current.lock().unwrap());
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.run)(input);
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(
        peak <= MOST_BYTES + 256 * input.len(),
        "{peak} bytes allocated for an input of {}",
        input.len()
    );
}

fn campaign(target: FuzzTarget, current: &Mutex<Vec<u8>>) {
    let mut corpus: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    corpus.extend(regressions(target.name));
    for input in &corpus {
        execute(target, input, current);
    }
    let mut dice = Dice(number("RESMGR_FUZZ_SEED", 0x5eed) | 1);
    for run in 0..number("RESMGR_FUZZ_RUNS", 2000) {
        let mut input = corpus[dice.roll(corpus.len())].clone();
        dice.mutate(&mut input, &corpus);
        execute(target, &input, current);
        // Some of what was made is built on further.
        if run % 8 == 0 && corpus.len() < 500 {
            corpus.push(input);
        }
    }
}

#[test]
fn no_target_panics_hangs_or_grows() {
    for target in TARGETS {
        let current = Arc::new(Mutex::new(Vec::new()));
        let (done, wait) = mpsc::channel::<()>();
        let worker = std::thread::spawn({
            let current = Arc::clone(&current);
            move || {
                campaign(*target, &current);
                drop(done);
            }
        });
        let hangs = wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if hangs || worker.join().is_err() {
            let input = current
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let shown = input.escape_ascii();
            panic!("{} fails, hangs: {hangs}, on b\"{shown}\"", target.name);
        }
    }
}
