//! Checks whether io_uring works, and if not, says why and what to do.
//!
//! The server first sets a small ring up and submits a no-op, because a forbidden system call would otherwise look like a server
//! that does not answer. Then the runtime makes its own ring, of the full size. It may have to wait until the kernel has taken down
//! the ring of a killed server, which counts as locked memory until then.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use io_uring::{Builder, opcode};
use rustix::process::{Resource, getrlimit};

use super::StartError;

/// Submission queue entries of the ring; a turn with more of them submits in parts.
const ENTRIES: u32 = 2048;
/// Completion queue entries for each submission queue entry.
const COMPLETIONS: u32 = 8;
/// What the ring locks at least, in bytes: the entries of both queues, of 64 and 16 bytes.
const RING_BYTES: u64 = ENTRIES as u64 * (64 + 16 * COMPLETIONS as u64);
/// Submission queue entries of the trial ring.
const ENTRIES_TRIED: u32 = 8;
/// How long to wait for locked memory: on a busy machine the kernel needs seconds to take a ring down.
const PATIENCE: Duration = Duration::from_secs(10);
/// The times between two attempts. A failed attempt leaves a few files open, so there are only a few attempts.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The oldest kernel that the server supports.
const OLDEST: (u32, u32) = (6, 1);

fn builder(entries: u32) -> Builder {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_cqsize(COMPLETIONS * entries);
    ring
}

/// Makes the runtime. Waits up to 10 s if too little locked memory is free.
///
/// # Errors
/// If io_uring is unavailable: one line with the reason and the remedy.
pub fn runtime() -> Result<tokio_uring::Runtime, StartError> {
    let refused = |refusal: &Refusal| StartError::new(refusal.line(&Facts::of_this_machine()));
    let may_fit = getrlimit(Resource::Memlock).current.is_none_or(|bytes| bytes >= RING_BYTES);
    let deadline = Instant::now() + if may_fit { PATIENCE } else { Duration::ZERO };
    let mut pause = RETRY;
    loop {
        let refusal = match tried_runtime() {
            Ok(runtime) => return Ok(runtime),
            Err(refusal) => refusal,
        };
        if refusal.error.kind() != io::ErrorKind::OutOfMemory || Instant::now() >= deadline {
            return Err(refused(&refusal));
        }
        sleep(pause);
        pause = (2 * pause).min(RETRY_MAX);
    }
}

fn tried_runtime() -> Result<tokio_uring::Runtime, Refusal> {
    attempt(ENTRIES_TRIED)?;
    tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES).uring_builder(&builder(ENTRIES)))
        .map_err(|error| Refusal { call: Call::Setup, error })
}

/// Sets a ring of the server's size up, carries out a no-op, and takes the ring down.
///
/// # Errors
/// The kernel's error, if any of the system calls fails.
pub fn try_ring() -> io::Result<()> {
    attempt(ENTRIES).map_err(|refusal| refusal.error)
}

fn attempt(entries: u32) -> Result<(), Refusal> {
    let refused = |call| move |error| Refusal { call, error };
    let mut ring = builder(entries).build(entries).map_err(refused(Call::Setup))?;
    // SAFETY: a no-op has neither a buffer nor a file.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|e| refused(Call::Enter)(io::Error::other(e)))?;
    ring.submit_and_wait(1).map_err(refused(Call::Enter))?;
    Ok(())
}

/// The system calls that the server needs. The server registers nothing with the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Setup,
    Enter,
}

#[derive(Debug)]
struct Refusal {
    call: Call,
    error: io::Error,
}

/// The facts that tell the reasons of a refusal apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// The kernel's release, and its first two numbers.
    release: String,
    version: Option<(u32, u32)>,
    /// `kernel.io_uring_disabled`.
    disabled: Option<u8>,
    /// True if a seccomp filter is in force.
    filtered: bool,
    /// Locked memory that this process may use, in bytes.
    memlock: Option<u64>,
}

impl Facts {
    fn of_this_machine() -> Facts {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
        let filter = read("/proc/self/status");
        let filter = filter.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
        Facts {
            version: numbers.next().zip(numbers.next()),
            disabled: read("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            filtered: filter.is_some_and(|mode| mode != "0"),
            memlock: getrlimit(Resource::Memlock).current,
            release,
        }
    }
}

impl Refusal {
    /// Returns a line with the reason and the remedy.
    fn line(&self, facts: &Facts) -> String {
        use io::ErrorKind::{InvalidInput, OutOfMemory, PermissionDenied, Unsupported};
        let Refusal { call, error } = self;
        let name = match call {
            Call::Setup => "io_uring_setup",
            Call::Enter => "io_uring_enter",
        };
        let (reason, remedy) = match (call, error.kind(), facts.disabled) {
            (Call::Setup, OutOfMemory, _) => {
                let may = facts.memlock.map_or_else(|| "no limit".into(), |bytes| format!("{} KiB", bytes >> 10));
                let reason = format!("this user may lock {may} of memory, and too little of that is free for the ring");
                (reason, "allow 1 MiB for each server of the user (ulimit -l, LimitMEMLOCK= of systemd)")
            }
            (Call::Setup, PermissionDenied, Some(2)) => {
                ("kernel.io_uring_disabled is 2: it is switched off".into(), "set it to 0 (sysctl -w)")
            }
            (Call::Setup, PermissionDenied, Some(1)) => (
                "kernel.io_uring_disabled is 1: it is for a group only".into(),
                "add the user to the group that kernel.io_uring_group names, or set kernel.io_uring_disabled to 0",
            ),
            (_, PermissionDenied | Unsupported, _) if facts.filtered => (
                format!("a seccomp filter forbids {name}"),
                "allow io_uring_setup and io_uring_enter there: for a container another profile (--security-opt \
                 seccomp=FILE), for a systemd unit SystemCallFilter=",
            ),
            (_, PermissionDenied, _) => {
                (format!("a security module forbids {name}"), "allow it there: the kernel's log and audit log name it")
            }
            (Call::Setup, Unsupported | InvalidInput, _) if facts.version.is_none_or(|version| version < OLDEST) => {
                (format!("the kernel {} is too old", facts.release), "run 6.1 or a later one")
            }
            (Call::Setup, Unsupported, _) => {
                (format!("the kernel {} was built without it", facts.release), "run one with CONFIG_IO_URING")
            }
            _ => (format!("{name} failed"), "see the kernel's log (dmesg)"),
        };
        format!("io_uring is unavailable: {reason} ({error}); {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(call: Call, errno: i32, facts: &Facts) -> String {
        Refusal { call, error: io::Error::from_raw_os_error(errno) }.line(facts)
    }

    /// Each reason has its own remedy; the remedy for another reason would mislead the operator.
    #[test]
    fn the_remedy_is_that_of_another_reason() {
        let plain = Facts { release: "6.12.1".into(), version: Some((6, 12)), disabled: Some(0), ..Facts::default() };
        let filtered = Facts { filtered: true, ..plain.clone() };
        let off = Facts { disabled: Some(2), ..filtered.clone() };
        let group = Facts { disabled: Some(1), ..filtered.clone() };
        let old = Facts { release: "5.4.0".into(), version: Some((5, 4)), disabled: None, ..Facts::default() };
        let tight = Facts { memlock: Some(64 << 10), ..plain.clone() };
        use Call::{Enter, Setup};
        for (call, errno, facts, words) in [
            (Setup, libc::EPERM, &off, ["io_uring_disabled is 2", "set it to 0"]),
            (Setup, libc::EPERM, &group, ["io_uring_disabled is 1", "io_uring_group"]),
            (Setup, libc::EPERM, &filtered, ["seccomp filter forbids io_uring_setup", "--security-opt"]),
            (Setup, libc::ENOSYS, &filtered, ["seccomp filter forbids io_uring_setup", "--security-opt"]),
            (Enter, libc::EPERM, &filtered, ["seccomp filter forbids io_uring_enter", "SystemCallFilter="]),
            (Enter, libc::EPERM, &off, ["seccomp filter forbids io_uring_enter", "SystemCallFilter="]),
            (Setup, libc::EACCES, &plain, ["security module forbids io_uring_setup", "audit"]),
            (Setup, libc::ENOSYS, &old, ["5.4.0 is too old", "6.1"]),
            (Setup, libc::EINVAL, &old, ["5.4.0 is too old", "6.1"]),
            (Setup, libc::ENOSYS, &plain, ["6.12.1 was built without", "CONFIG_IO_URING"]),
            (Setup, libc::ENOMEM, &tight, ["64 KiB", "LimitMEMLOCK="]),
            (Setup, libc::EMFILE, &plain, ["io_uring_setup failed", "os error 24"]),
        ] {
            let line = line(call, errno, facts);
            for word in words {
                assert!(line.contains(word), "{word:?} is not in: {line}");
            }
        }
    }
}
