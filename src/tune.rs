//! `doozerd tune`: what of a machine stands in the way of a commit, or of its safety. It reads, and changes nothing.
//!
//! ```text
//! machine     what /proc and /sys show, below a root that tests replace; and what only the kernel itself can be asked
//! ask         asks it: a ring, a file without a name, a card's coalescing
//! kernel      version, io_uring, clock source
//! limits      locked memory, open files
//! cpu         clock rate, idle states, isolation, siblings
//! interrupts  which cores the disk and the card interrupt, and whether the server's is among them
//! memory      huge pages, swap, NUMA balancing
//! disk        from the data directory to its disks: file system, O_DIRECT, scheduler, write cache
//! network     coalescing, busy polling
//! print       lines and JSON
//! ```
//!
//! Invariants:
//! * nothing is written, made or changed, but for an open file without a name, of no bytes, in the data directory;
//! * what cannot be found out is [`Verdict::Unknown`], never guessed;
//! * [`Verdict::Bad`] is only what costs latency or safety for sure. What is a matter of taste, of the load or of money is
//!   [`Verdict::Advice`].
//!
//! `tuning/README.md` has the reasons at length, and what was measured.

// Like the server's, this floor looks at the world.
#![allow(clippy::disallowed_methods, reason = "what is examined is in files")]

mod ask;
mod cpu;
mod disk;
mod interrupts;
mod kernel;
mod limits;
mod machine;
mod memory;
mod network;
mod print;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use machine::Machine;
pub use print::{json, text};

/// What is known of how the server is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The data directory; the server's default, if none was named.
    pub dir: Option<PathBuf>,
    /// The core that the server is to be pinned to.
    pub core: Option<usize>,
    /// The address to listen on; the card that leads to the rest of the world is examined, if none was named.
    pub listen: Option<String>,
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It could not be found out, or says nothing on this machine.
    Unknown,
    /// May be better otherwise: to be weighed.
    Advice,
    /// Costs latency or safety for sure.
    Bad,
}

impl Verdict {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Unknown => "unknown",
            Verdict::Advice => "advice",
            Verdict::Bad => "bad",
        }
    }
}

/// One knob, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name; the same for a knob on every machine.
    pub knob: &'static str,
    /// What is.
    pub found: String,
    /// What should be.
    pub wanted: String,
    /// What that means.
    pub verdict: Verdict,
    /// Why it should be so.
    pub why: &'static str,
    /// The command that changes it, or what else to do.
    pub remedy: Option<String>,
}

/// A knob that has not been judged.
struct Knob {
    knob: &'static str,
    wanted: String,
    why: &'static str,
}

impl Knob {
    fn new(knob: &'static str, wanted: impl Into<String>, why: &'static str) -> Knob {
        Knob { knob, wanted: wanted.into(), why }
    }

    fn judged(self, verdict: Verdict, found: impl Into<String>, remedy: Option<String>) -> Finding {
        Finding { knob: self.knob, found: found.into(), wanted: self.wanted, verdict, why: self.why, remedy }
    }

    fn good(self, found: impl Into<String>) -> Finding {
        self.judged(Verdict::Good, found, None)
    }

    fn unknown(self, found: impl Into<String>) -> Finding {
        self.judged(Verdict::Unknown, found, None)
    }

    fn advice(self, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.judged(Verdict::Advice, found, Some(remedy.into()))
    }

    fn bad(self, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.judged(Verdict::Bad, found, Some(remedy.into()))
    }
}

/// Examines this machine.
///
/// # Errors
/// One line, when the options name what is not there.
pub fn examine(options: &Options) -> Result<Vec<Finding>, String> {
    let asked = ask::ask(options)?;
    findings(&Machine::new("/", asked), options.core)
}

/// Examines `machine` for a server that is to be pinned to `core`, or to that of the one that runs there.
fn findings(machine: &Machine, core: Option<usize>) -> Result<Vec<Finding>, String> {
    let usable = machine.usable_cores();
    if let Some(core) = core
        && !usable.is_empty()
        && !usable.contains(&core)
    {
        return Err(format!(
            "--core {core}: this process may use the cores {}; choose one of them",
            machine::ranges(&usable)
        ));
    }
    let core = core.or_else(|| machine.pinned_to());
    let disks = disk::disks(machine);
    let card = network::card(machine);
    let mut found = kernel::findings(machine);
    found.extend(limits::findings(machine));
    found.extend(cpu::findings(machine, core));
    found.extend(interrupts::findings(machine, core, &disks, &card));
    found.extend(memory::findings(machine));
    found.extend(disk::findings(machine, &disks));
    found.extend(network::findings(machine, &card));
    Ok(found)
}

/// Whether something is bad.
pub fn is_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.verdict == Verdict::Bad)
}
