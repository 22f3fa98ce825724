//! The limits of the process: of the server that runs on the data directory, else of this one, started from the same shell.

use super::machine::Machine;
use super::{Finding, Knob};

/// Locked memory in bytes that a server's ring needs, rounded up from what was measured (tuning/README.md).
const MEMLOCK: u64 = 1 << 20;
/// How there is more of it.
pub const MORE_MEMLOCK: &str = "LimitMEMLOCK=64M in the unit; ulimit -l 65536 in a shell";
/// Open files below which clients are turned away early, and from which on nobody should be.
const FILES_FEW: u64 = 1024;
const FILES_MANY: u64 = 65_536;

pub fn findings(machine: &Machine) -> Vec<Finding> {
    let text = machine.read(format!("{}/limits", machine.process())).unwrap_or_default();
    let whose = match machine.running() {
        Some(pid) => format!("of process {pid}"),
        None => "of this shell".into(),
    };
    vec![memlock(machine, limit(&text, "Max locked memory"), &whose), files(limit(&text, "Max open files"), &whose)]
}

/// The soft and the hard limit, of which none is `u64::MAX`.
fn limit(text: &str, name: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let mut numbers = line.split_whitespace().map(|n| if n == "unlimited" { Some(u64::MAX) } else { n.parse().ok() });
    Some((numbers.next()??, numbers.next()??))
}

fn amount(n: u64) -> String {
    match n {
        u64::MAX => "unlimited".into(),
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}

fn memlock(machine: &Machine, found: Option<(u64, u64)>, whose: &str) -> Finding {
    let knob = Knob::new("memlock", "1 MiB or more", "the ring counts, unless it is root's");
    let Some((soft, _)) = found else {
        return knob.unknown("not said in /proc");
    };
    let found = format!("{} ({whose})", amount(soft));
    match machine.asked.ring {
        _ if soft >= MEMLOCK => knob.good(found),
        // It may be for this user only that it works.
        Ok(()) => knob.advice(found, MORE_MEMLOCK),
        Err(_) => knob.bad(found, MORE_MEMLOCK),
    }
}

/// The hard limit counts: the server raises its own to that.
fn files(found: Option<(u64, u64)>, whose: &str) -> Finding {
    const REMEDY: &str = "LimitNOFILE=262144 in the unit; ulimit -Hn 262144 in a root shell";
    let knob =
        Knob::new("open files", format!("{FILES_MANY} or more"), "each connection takes one; the hard limit counts");
    let Some((_, hard)) = found else {
        return knob.unknown("not said in /proc");
    };
    let found = if hard == u64::MAX { format!("unlimited ({whose})") } else { format!("{hard} ({whose})") };
    match hard {
        FILES_MANY.. => knob.good(found),
        FILES_FEW.. => knob.advice(found, REMEDY),
        _ => knob.bad(found, REMEDY),
    }
}
