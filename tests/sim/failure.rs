//! What a run that fails leaves: why, and when; and the search for a smaller one that fails as well.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::mix::{Less, Mix};
use crate::run::{self, Report};

/// How much a world that fails tells of what happened in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Nothing,
    Last,
    All,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the panic said, and where.
    pub why: String,
    /// The time in the simulated world, in microseconds.
    pub at: u64,
}

thread_local! {
    static TELL: Cell<Tell> = const { Cell::new(Tell::Last) };
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    static AT: Cell<u64> = const { Cell::new(0) };
}

/// How much is told on this thread.
pub fn tell() -> Tell {
    TELL.get()
}

/// A world that fails says when it did.
pub fn at(us: u64) {
    AT.set(us);
}

/// Panics on a thread that catches them are remembered and not printed.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| if CATCHING.get() { SAID.set(said(info)) } else { usual(info) }));
    });
}

fn said(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |at| format!("{}:{}: ", at.file(), at.line()));
    format!("{place}{}", info.payload_as_str().unwrap_or("something that is no text"))
}

/// Does what may panic; nothing is printed of that but what `tell` says.
fn catch<T>(tell: Tell, what: impl FnOnce() -> T) -> Result<T, Failure> {
    hush();
    let before = (TELL.replace(tell), CATCHING.replace(true));
    AT.set(0);
    let done = panic::catch_unwind(AssertUnwindSafe(what));
    TELL.set(before.0);
    CATCHING.set(before.1);
    done.map_err(|_| Failure { why: SAID.take(), at: AT.get() })
}

/// Runs a mix.
pub fn try_run(seed: u64, mix: &Mix, tell: Tell) -> Result<Report, Failure> {
    catch(tell, || run::run(seed, mix))
}

/// Tells a story, and says nothing of it.
#[cfg(feature = "faults")]
pub fn try_story(story: crate::stories::Story) -> Result<(), Failure> {
    catch(Tell::Nothing, story)
}

/// Leaves out of a failing run what it fails without, by at most so many more runs.
pub fn minimise(seed: u64, whole: &Mix, failure: Failure, mut runs: usize) -> (Less, Failure) {
    let mut found = (Less::default(), failure);
    let mut try_less = |less: Less, found: &mut (Less, Failure)| {
        if runs == 0 {
            return false;
        }
        runs -= 1;
        let failed = try_run(seed, &whole.but(&less), Tell::Nothing).err();
        let fails = failed.is_some();
        if let Some(failure) = failed {
            *found = (less, failure);
        }
        fails
    };
    let shorter = |found: &(Less, Failure)| Less { seconds: Some(found.1.at / 1_000_000 + 1), ..found.0.clone() };
    // What comes after the failure, and much of what comes at the end of a run, is of no interest.
    let less = shorter(&found);
    if less.seconds < Some(whole.seconds) {
        try_less(less, &mut found);
    }
    // Half of the kinds at a time, then one by one.
    let kinds: Vec<_> = whole.faults.keys().copied().collect();
    for part in kinds.chunks(kinds.len().div_ceil(2).max(1)) {
        let less = Less { without: [&found.0.without, part].concat(), ..found.0.clone() };
        try_less(less, &mut found);
    }
    for kind in kinds {
        if !found.0.without.contains(&kind) {
            let less = Less { without: [&found.0.without[..], &[kind]].concat(), ..found.0.clone() };
            try_less(less, &mut found);
        }
    }
    try_less(Less { bare: true, ..found.0.clone() }, &mut found);
    for clients in [1, 2, 4] {
        if clients < whole.clients.len() && try_less(Less { clients: Some(clients), ..found.0.clone() }, &mut found) {
            break;
        }
    }
    let less = shorter(&found);
    if less.seconds < Some(found.0.seconds.unwrap_or(whole.seconds)) {
        try_less(less, &mut found);
    }
    found
}
