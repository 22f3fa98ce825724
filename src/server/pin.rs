//! Pins the serving thread to a core, and keeps other threads off that core.

use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::StartError;

/// The cores that the process could use at its start.
static GIVEN: OnceLock<CpuSet> = OnceLock::new();

/// Pins the calling thread, and the threads that the kernel makes for its ring, to `core`.
///
/// # Errors
/// When the process may not run on that core; the error names the cores that it may use.
pub fn pin(core: usize) -> Result<(), StartError> {
    let allowed =
        sched_getaffinity(None).map_err(|e| StartError::new(format!("cannot ask which cores may be used: {e}")))?;
    if core >= CpuSet::MAX_CPU || !allowed.is_set(core) {
        return Err(StartError::new(format!(
            "--core {core}: this process may use the cores {}; choose one of them",
            ranges(&allowed),
        )));
    }
    let _first = GIVEN.set(allowed);
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).map_err(|e| StartError::new(format!("cannot pin the server to core {core}: {e}")))
}

/// Lets the calling thread use all of the process's cores again; a program started in its place pins itself anew.
pub fn unpin() {
    if let Some(given) = GIVEN.get() {
        // If it fails, the new program's other threads share the core.
        let _refused = sched_setaffinity(None, given);
    }
}

/// Keeps the calling thread off a core, if it may use another.
pub fn keep_off(core: usize) {
    let Ok(mut cores) = sched_getaffinity(None) else { return };
    if core < CpuSet::MAX_CPU && cores.count() > 1 {
        cores.unset(core);
        // If it fails, the threads share the core.
        let _refused = sched_setaffinity(None, &cores);
    }
}

/// The cores of a set as `0-3,6`.
fn ranges(set: &CpuSet) -> String {
    let mut parts = Vec::new();
    let mut core = 0;
    while core < CpuSet::MAX_CPU {
        if set.is_set(core) {
            let first = core;
            while core + 1 < CpuSet::MAX_CPU && set.is_set(core + 1) {
                core += 1;
            }
            parts.push(if first == core { format!("{first}") } else { format!("{first}-{core}") });
        }
        core += 1;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error has to name the choice in a form that a person can read on a machine with many cores.
    #[test]
    fn cores_are_named_as_ranges() {
        let mut set = CpuSet::new();
        for core in [0, 1, 2, 5, 7, 8] {
            set.set(core);
        }
        assert_eq!(ranges(&set), "0-2,5,7-8");
    }

    /// A core that does not exist must be refused, not ignored.
    #[test]
    fn an_impossible_core_is_refused() {
        for core in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            let e = pin(core).unwrap_err().to_string();
            assert!(e.contains("choose one of them"), "{e}");
        }
    }
}
