//! Memory and CPU time of a process, from `/proc`.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::failure::{Context, Failure};

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// Memory of a process.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> Result<Memory, Failure> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(&path)?;
    parse_status(&text).ok_or_else(|| Failure::new(format!("{path}: no VmRSS or VmHWM in it")))
}

fn parse_status(text: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|n| n * 1024)
    };
    Some(Memory { resident: kib("VmRSS")?, peak: kib("VmHWM")? })
}

/// CPU time of a process, all of its threads included, to the kernel's tick (mostly 10 ms).
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> Result<Duration, Failure> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).context(&path)?;
    let ticks = parse_stat(&text).ok_or_else(|| Failure::new(format!("{path}: not understood")))?;
    let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    Ok(tick * u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// User and system time in ticks. The second field is the program's name, which may hold anything.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_and_peak_are_read_in_bytes() {
        let text = "Name:\tdoozerd\nVmPeak:\t  999 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nThreads:\t1\n";
        assert_eq!(parse_status(text), Some(Memory { resident: 200 * 1024, peak: 300 * 1024 }));
    }

    /// A zombie has no memory: that is no measurement of 0.
    #[test]
    fn a_process_without_memory_is_not_one_of_zero_bytes() {
        assert_eq!(parse_status("Name:\tdoozerd\nState:\tZ (zombie)\n"), None);
    }

    /// A program may be named `a) S 1 2 3`.
    #[test]
    fn the_name_does_not_shift_the_fields() {
        let text = "4711 (a) S 1 2 3) S 1 4711 4711 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 1 0 100 1000 10\n";
        assert_eq!(parse_stat(text), Some(281));
    }

    #[test]
    fn our_own_process_is_read() {
        let own = memory(std::process::id()).unwrap();
        assert!(own.resident > 0 && own.peak >= own.resident, "{own:?}");
        cpu(std::process::id()).unwrap();
    }
}
