//! `doozerd`, the server: flags and environment in, exit status out.

mod args;

use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

use doozer::limits::CLUSTER_NAME_MAX;
use doozer::replica::desk::Secrets;
use doozer::server::{self, Options};
use doozer::tune;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match args::parse() {
        args::Command::Serve(args) => *args,
        args::Command::Tune(args) => return tune(args),
    };
    if args.version {
        println!("doozerd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let options = match options(args) {
        Ok(options) => options,
        Err(line) => {
            server::say(&line);
            return ExitCode::FAILURE;
        }
    };
    match server::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            server::say(&e.to_string());
            ExitCode::from(e.status())
        }
    }
}

/// Examines the machine: 0 if nothing is bad, 1 if something is, 2 if it cannot be examined so.
fn tune(args: args::TuneArgs) -> ExitCode {
    let options = tune::Options { dir: args.dir, core: args.core, listen: args.listen };
    let findings = match tune::examine(&options) {
        Ok(findings) => findings,
        Err(line) => {
            server::say(&line);
            return ExitCode::from(2);
        }
    };
    let text = if args.json { tune::json(&findings) } else { tune::text(&findings) };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who has read enough may go: `| head`.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            server::say(&format!("cannot print what was found: {e}"));
            ExitCode::from(2)
        }
        _ => ExitCode::from(u8::from(tune::is_bad(&findings))),
    }
}

/// What the flags and the environment mean, or one line that says what is wrong with them.
fn options(args: args::Args) -> Result<Options, String> {
    if args.fill.is_some() {
        server::say("-fill is accepted and has no effect: this server does not need it");
    }
    if args.web.is_some() {
        server::say("-w is accepted and has no effect: there is no web view");
    }
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| format!("-{name} {value}: give a number of seconds, 0 or more"))
    };
    let timeout = seconds("timeout", args.timeout)?;
    if args.heartbeat > args.election / 2 {
        return Err(format!(
            "-heartbeat {}: with -election {} it can be at most {}, or followers take a leader that lives for dead",
            args.heartbeat,
            args.election,
            args.election / 2
        ));
    }
    let election = Duration::from_millis(args.election);
    if timeout < 4 * election {
        return Err(format!(
            "-timeout {}: give at least {} seconds, four times -election",
            args.timeout,
            4.0 * election.as_secs_f64()
        ));
    }
    if let Some(name) = &args.cluster {
        let valid = |c: u8| c.is_ascii_alphanumeric() || c == b'.' || c == b'-';
        if name.is_empty() || name.len() > CLUSTER_NAME_MAX || !name.bytes().all(valid) {
            return Err(format!("-c {name}: give 1 to {CLUSTER_NAME_MAX} letters, digits, dots and hyphens"));
        }
    }
    let secrets = Secrets { read_write: secret("DOOZER_RWSECRET"), read_only: secret("DOOZER_ROSECRET") };
    if secrets.read_write.is_empty() && !secrets.read_only.is_empty() {
        return Err("DOOZER_ROSECRET is set and DOOZER_RWSECRET is not, so everyone could write; set DOOZER_RWSECRET too, or neither".into());
    }
    Ok(Options {
        pulse: seconds("pulse", args.pulse)?,
        listen: args.listen,
        dir: args.dir,
        core: args.core,
        busy_poll: Duration::from_micros(args.busy_poll),
        cluster: args.cluster,
        history: args.history,
        secrets,
        attach: args.attach,
        // A variable that is there and empty is as good as none.
        boot: args.boot.filter(|uri| !uri.is_empty()),
        heartbeat: Duration::from_millis(args.heartbeat),
        election,
        timeout,
        salvage: args.salvage,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn secret(name: &str) -> Vec<u8> {
    std::env::var_os(name).map(OsStringExt::into_vec).unwrap_or_default()
}
