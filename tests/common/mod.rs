//! What the tests of the server share: a `doozerd` process with a directory of its own ([`process`]), a connection that
//! speaks the protocol and says what it got as one line ([`wire`]), writers that know what they were promised ([`load`]);
//! the same of a cluster ([`cluster`], [`history`]); and waiting for a condition.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod cluster;
pub mod history;
pub mod load;
pub mod process;
pub mod wire;

use std::time::{Duration, Instant};

/// How long anything may take: generous, for the machine may be small and busy.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Waits until `check` has an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A small generator of numbers, for what is to be arbitrary and yet the same on every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n + 8);
        while bytes.len() < n {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(n);
        bytes
    }
}
