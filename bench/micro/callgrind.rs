//! Counting: this program runs itself under callgrind, which counts while [`doozer_bench_counted`] is being called and else not.
//!
//! What would make two runs differ is taken away:
//! * The process has nothing of the caller's environment, and the operation runs on a thread of its own, whose stack begins at a
//!   page: the stack of a main thread begins behind the environment and the program's path.
//! * What looks at the processor or at the clock is told not to: [`ENVIRONMENT`].
//! * The operation runs once before it counts: what is set up on first use, and buffers that grow, are not in the count.
//!
//! Addresses are never random under valgrind, and the server's own code has no randomness.

use std::hint::black_box;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::comparison::Count;
use crate::operations::Operation;

/// The function's name in the binary.
const COUNTED: &str = "doozer_bench_counted";
/// What the process has for an environment.
///
/// * Makes glibc take the variants of `memcpy` and its like that every x86-64 has; `AVX2_Usable` is how versions before 2.33 spell
///   it. A string instruction (ERMS) would count for as many as it moves bytes.
/// * The allocator gives memory back by the clock. Here it gives none back.
const ENVIRONMENT: [(&str, &str); 2] = [
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX2_Usable,-AVX512VL,-SSSE3,-ERMS,-FSRM"),
    ("MIMALLOC_PURGE_DELAY", "-1"),
];

/// All that is called from here is counted. The name is how callgrind finds it.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
fn doozer_bench_counted(work: &mut dyn FnMut()) {
    work();
    // Else the call would be a jump, and the function over before what it calls.
    black_box(());
}

/// Sets an operation up and runs it, twice; the second time counts.
pub fn run(prepare: fn() -> Box<dyn FnMut()>) {
    let body = move || {
        let mut work = prepare();
        work();
        doozer_bench_counted(black_box(&mut *work));
        // What it has made is not to be unmade.
        std::mem::forget(work);
    };
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(body).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Counts the operations, as many at a time as there are cores.
///
/// # Errors
/// Valgrind is missing, or an operation failed.
pub fn count(operations: &[Operation]) -> Result<Vec<Count>, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("a temporary directory: {e}"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(operation) = operations.get(next.fetch_add(1, Ordering::Relaxed)) {
            let counted = count_one(operation, &dir.path().join(operation.name.replace('/', "-")));
            if counted.is_err() {
                next.store(operations.len(), Ordering::Relaxed);
            }
            counts.lock().expect("no worker panics").push(counted);
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(worker))));
    let counts: Result<Vec<Count>, String> = counts.into_inner().expect("no worker panics").into_iter().collect();
    let mut counts = counts?;
    counts.sort_by_key(|count| operations.iter().position(|one| one.name == count.name));
    Ok(counts)
}

fn count_one(operation: &Operation, out: &Path) -> Result<Count, String> {
    let this = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", &format!("--toggle-collect={COUNTED}")]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(this).args(["--measure", operation.name]).current_dir("/");
    valgrind.env_clear().envs(ENVIRONMENT);
    for kept in ["PATH", "VALGRIND_LIB"] {
        valgrind.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    let ended = valgrind.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            "valgrind is missing, which counts the instructions: apt-get install valgrind".to_owned()
        }
        _ => format!("valgrind: {e}"),
    })?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if !ended.status.success() {
        return Err(format!("{}: {} under valgrind: {said}", operation.name, ended.status));
    }
    let profile = std::fs::read_to_string(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let total = total(&profile).ok_or_else(|| format!("{}: valgrind counted nothing: {said}", operation.name))?;
    Ok(Count::new(operation.name, total, operation.times))
}

/// All instructions in a profile of callgrind's; `None` if there are none.
fn total(profile: &str) -> Option<u32> {
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    totals.trim().parse().ok().filter(|total| *total > 0)
}
