//! Memory and CPU time of a process, from `/proc`.

use std::time::{Duration, Instant};

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
    Ok(time(ticks.own))
}

/// Bytes that a process has had written to disks.
///
/// # Errors
/// There is no such process, or it is not ours.
pub fn written(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/io");
    let text = std::fs::read_to_string(&path).context(&path)?;
    parse_io(&text).ok_or_else(|| Failure::new(format!("{path}: no write_bytes in it")))
}

fn parse_io(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// CPU time in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    own: u64,
    /// Of children that have ended.
    children: u64,
}

/// User and system time. The second field is the program's name, which may hold anything.
fn parse_stat(text: &str) -> Option<Ticks> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let mut both = || Some(fields.next()?? + fields.next()??);
    Some(Ticks { own: both()?, children: both()? })
}

fn time(ticks: u64) -> Duration {
    let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    tick * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// CPU time that was not ours, since some beginning: what other programs on the machine took makes every figure worse.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    at: Instant,
    /// In ticks, by all processes and by this one and its children.
    all: u64,
    ours: u64,
    /// In ticks, by other guests of the machine.
    stolen: u64,
}

impl Others {
    /// Begins. All children that are started later are to have ended when it is asked again.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn begin() -> Result<Others, Failure> {
        let read = |path: &str| std::fs::read_to_string(path).context(path);
        let not_understood = || Failure::new("/proc/stat: not understood");
        let (all, stolen) = parse_total(&read("/proc/stat")?).ok_or_else(not_understood)?;
        let own = parse_stat(&read("/proc/self/stat")?).ok_or_else(not_understood)?;
        Ok(Others { at: Instant::now(), all, ours: own.own + own.children, stolen })
    }

    /// Since the beginning, in hundredths of one core: what other processes took, and what other guests took.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn since(&self) -> Result<(f64, f64), Failure> {
        let now = Others::begin()?;
        let wall = now.at.duration_since(self.at).as_secs_f64();
        let percent = |ticks: u64| 100.0 * time(ticks).as_secs_f64() / wall;
        let ours = now.ours.saturating_sub(self.ours);
        let others = now.all.saturating_sub(self.all).saturating_sub(ours);
        Ok((percent(others), percent(now.stolen.saturating_sub(self.stolen))))
    }
}

/// Ticks of all processes (user, nice and system; interrupts belong to nobody), and those stolen.
fn parse_total(text: &str) -> Option<(u64, u64)> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
    Some((fields.get(..3)?.iter().sum(), *fields.get(7)?))
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

    /// What was cancelled, or written to a socket, is not on a disk.
    #[test]
    fn only_what_goes_to_a_disk_counts_as_written() {
        let text =
            "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 8192\ncancelled_write_bytes: 7\n";
        assert_eq!(parse_io(text), Some(8192));
        assert_eq!(parse_io("wchar: 2\n"), None);
    }

    /// A zombie has no memory: that is no measurement of 0.
    #[test]
    fn a_process_without_memory_is_not_one_of_zero_bytes() {
        assert_eq!(parse_status("Name:\tdoozerd\nState:\tZ (zombie)\n"), None);
    }

    /// A program may be named `a) S 1 2 3`.
    #[test]
    fn the_name_does_not_shift_the_fields() {
        let text = "4711 (a) S 1 2 3) S 1 4711 4711 0 -1 4194304 100 0 0 0 250 31 7 5 20 0 1 0 100 1000 10\n";
        assert_eq!(parse_stat(text), Some(Ticks { own: 281, children: 12 }));
    }

    #[test]
    fn interrupts_and_idle_time_are_nobodys() {
        let text = "cpu  100 20 3 1000 50 7 9 4 0 0\ncpu0 50 10 1 500 25 3 4 2 0 0\n";
        assert_eq!(parse_total(text), Some((123, 4)));
        assert_eq!(parse_total("cpu  100 20\n"), None);
    }

    /// What a child of ours burns is not the neighbours'.
    #[test]
    fn a_child_that_has_ended_is_ours() {
        let before = Others::begin().unwrap();
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", burn]).status().unwrap().success());
        let after = Others::begin().unwrap();
        assert!(after.ours > before.ours, "{before:?} {after:?}");
        before.since().unwrap();
    }

    #[test]
    fn our_own_process_is_read() {
        let own = memory(std::process::id()).unwrap();
        assert!(own.resident > 0 && own.peak >= own.resident, "{own:?}");
        cpu(std::process::id()).unwrap();
    }
}
