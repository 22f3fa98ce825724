//! Counts the instructions of the operations that a request is made of, and compares them with the record in the tree.
//!
//!     cargo bench -p doozer-bench                 all of it: table, and status 1 if something became dearer
//!     cargo bench -p doozer-bench -- store glob   those whose names hold one of these
//!     cargo bench -p doozer-bench -- --record     what was counted becomes the record
//!
//! Wall time differs by half within an hour on the machines that this runs on; the number of instructions does not differ at
//! all. So each operation runs under valgrind, in a process of its own: this program, called with `--measure`.
//!
//! In reading order:
//! * [`operations`]: what is counted, one file for each module of the server. Setting up is not in the count.
//! * [`callgrind`]: how it is counted.
//! * [`comparison`]: what was counted beside what is recorded, as a table, with a verdict.
//! * [`record`]: the file in which the counts are kept, for each version of the compiler.

#![allow(clippy::disallowed_methods, reason = "a benchmark is made of files")]

mod callgrind;
mod comparison;
mod operations;
mod record;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;
use comparison::Comparison;
use operations::Operation;
use record::Record;

/// The server's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts the instructions of single operations under valgrind, and compares them with the record.
#[derive(Parser)]
#[command(name = "cargo bench -p doozer-bench --")]
struct Args {
    /// Only operations whose names hold one of these.
    only: Vec<String>,
    /// Make what is counted the record for this compiler.
    #[arg(long)]
    record: bool,
    /// The record.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/record/instructions.toml"))]
    file: PathBuf,
    /// Runs one operation in this process.
    #[arg(long, value_name = "NAME", hide = true)]
    measure: Option<String>,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.measure {
        Some(name) => measure(name).map(|()| true),
        None => run(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("cargo bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(name: &str) -> Result<(), String> {
    let operation = operations::all().into_iter().find(|one| one.name == name);
    callgrind::run(operation.ok_or_else(|| format!("there is no operation {name}"))?.prepare);
    Ok(())
}

/// Counts, and says whether nothing is wrong.
fn run(args: &Args) -> Result<bool, String> {
    let chosen = |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part.as_str()));
    let operations: Vec<Operation> = operations::all().into_iter().filter(|one| chosen(one.name)).collect();
    if operations.is_empty() {
        return Err(format!("no operation has a name that holds {}", args.only.join(" or ")));
    }
    let compiler = compiler()?;
    let mut record = Record::read(&args.file)?;
    let recorded = record.of(&compiler, chosen);
    let counted = callgrind::count(&operations)?;
    let comparison = Comparison::new(&counted, &recorded);
    println!("Instructions per operation, {compiler}\n\n{comparison}");
    if args.record {
        record.replace(&compiler, &counted, chosen);
        record.write(&args.file)?;
        println!("recorded in {}", args.file.display());
        return Ok(true);
    }
    if let Some(lack) = record.lack(&compiler, &comparison.unrecorded()) {
        eprintln!("cargo bench: {} {lack}", args.file.display());
    }
    Ok(comparison.passes())
}

/// Version and target of the compiler: another one makes other instructions.
fn compiler() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").output().map_err(|e| format!("rustc -vV: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let version = text.lines().find(|line| line.starts_with("rustc "));
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    match (version, host) {
        (Some(version), Some(host)) => Ok(format!("{version} {host}")),
        _ => Err(format!("rustc -vV said: {text}")),
    }
}
