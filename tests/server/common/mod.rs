//! What the tests of the server share: a `doozerd` process with a directory of its own ([`process`]), a connection that
//! speaks the protocol and says what it got as one line ([`wire`]), writers that know what they were promised ([`load`]);
//! the same of a cluster ([`cluster`], [`history`]); a network of their own ([`namespace`]); and waiting for a condition.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod cluster;
pub mod history;
pub mod load;
pub mod namespace;
pub mod process;
#[path = "../../shared/random.rs"]
mod random;
pub mod wire;

use std::time::{Duration, Instant};

pub use random::Random;

/// How long anything may take. Only what hangs takes as long: on a machine that is small and busy with other things a test takes
/// longer, and passes. No test judges by a shorter time; what has to be quick is for the simulator to judge, by its own clock.
pub const LIMIT: Duration = Duration::from_secs(600);

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
