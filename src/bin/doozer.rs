//! The `doozer` command: see [`doozer::cli`].

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use doozer::cli::Streams;
use rustix::io::fcntl_getfd;
use rustix::stdio::{stdin, stdout};

static STDIN: AtomicBool = AtomicBool::new(true);
static STDOUT: AtomicBool = AtomicBool::new(true);

/// Notes which standard streams are open before Rust's runtime replaces closed ones with `/dev/null`. The runtime opens `/dev/null`
/// for reading and writing, as Python's `subprocess.DEVNULL` and daemons do, so the two cannot be told apart afterwards.
extern "C" fn note_streams() {
    STDIN.store(fcntl_getfd(stdin()).is_ok(), Ordering::Relaxed);
    STDOUT.store(fcntl_getfd(stdout()).is_ok(), Ordering::Relaxed);
}

// SAFETY: the C library calls each function of this section once before `main`, on the only thread. This function makes two system
// calls and stores two flags; it needs nothing from Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_STREAMS: extern "C" fn() = note_streams;

fn main() -> ExitCode {
    let open = Streams { stdin: STDIN.load(Ordering::Relaxed), stdout: STDOUT.load(Ordering::Relaxed) };
    doozer::cli::run(std::env::args_os().skip(1), open)
}
