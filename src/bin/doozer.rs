//! The `doozer` command: see [`doozer::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    doozer::cli::run(std::env::args_os().skip(1))
}
