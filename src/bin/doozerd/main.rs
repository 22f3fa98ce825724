//! `doozerd`, the server: flags and environment in, exit status out.

mod args;

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

use doozer::address::{Address, AddressError, Advertise, Listen};
use doozer::limits::{CLUSTER_NAME_MAX, HISTORY_MAX};
use doozer::replica::desk::Secrets;
use doozer::server::{self, Options};
use doozer::tune;

/// The longest `-timeout`, in seconds: some thirty years.
const TIMEOUT_MAX: f64 = 1e9;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    server::say_panics();
    let status = match args::parse() {
        Ok(args::Command::Serve(args)) => serve(*args),
        Ok(args::Command::Tune(args)) => tune(args),
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        Err(help) => print(&render(&help), 0),
    };
    server::finish();
    status
}

fn serve(args: args::Args) -> ExitCode {
    if args.version {
        return print(&format!("doozerd {}\n", env!("CARGO_PKG_VERSION")), 0);
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
    print(&text, u8::from(tune::is_bad(&findings)))
}

/// Prints on stdout and returns `status`, or 2 if stdout cannot be written.
fn print(text: &str, status: u8) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Who has read enough may go: `| head`.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            server::say(&format!("cannot write to stdout: {e}"));
            ExitCode::from(2)
        }
        _ => ExitCode::from(status),
    }
}

/// Renders a help text, with colours if stdout is a terminal.
fn render(help: &clap::Error) -> String {
    let text = help.render();
    if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() }
}

/// What the flags and the environment mean, or one line that says what is wrong with them.
fn options(args: args::Args) -> Result<Options, String> {
    if args.fill.is_some() {
        server::say("-fill is accepted and has no effect: this server does not need it");
    }
    if args.web.is_some() {
        server::say("-w is accepted and has no effect: there is no web view");
    }
    for stray in &args.stray {
        server::say(&format!("the argument {} is ignored: it belongs to no flag", stray.display()));
    }
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| format!("-{name} {value}: give a number of seconds, 0 or more"))
    };
    let mut timeout = match args.timeout {
        given if given.is_finite() => seconds("timeout", given.clamp(0.0, TIMEOUT_MAX))?,
        given => seconds("timeout", given)?,
    };
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
        timeout = 4 * election;
        server::say(&format!(
            "-timeout {}: it is at least four times -election, and so taken as {} seconds",
            args.timeout,
            timeout.as_secs_f64()
        ));
    }
    if args.timeout > TIMEOUT_MAX {
        server::say(&format!("-timeout {}: it is at most {TIMEOUT_MAX} seconds, and so taken as that", args.timeout));
    }
    let history = args.history.nearest.clamp(1, HISTORY_MAX);
    if history != args.history.nearest {
        let given = args.history.given;
        server::say(&format!("-hist {given}: it is from 1 to {HISTORY_MAX}, and so taken as {history}"));
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
    let wrong = |flag: &str, e: AddressError| format!("{flag} {e}");
    let attach = args.attach.iter().map(|text| text.parse()).collect::<Result<Vec<Address>, AddressError>>();
    let advertise = args.advertise.map(|text| text.parse::<Advertise>()).transpose();
    Ok(Options {
        pulse: seconds("pulse", args.pulse)?,
        listen: args.listen.parse::<Listen>().map_err(|e| wrong("-l", e))?,
        advertise: advertise.map_err(|e| wrong("-advertise", e))?,
        dir: args.dir,
        segment: args.segment << 20,
        core: args.core,
        busy_poll: Duration::from_micros(args.busy_poll),
        cluster: args.cluster,
        history,
        secrets,
        attach: attach.map_err(|e| wrong("-a", e))?,
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
