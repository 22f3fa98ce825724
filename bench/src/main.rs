//! `doozer-bench`: measures `doozerd` against the figures that it promises, and beside ZooKeeper and etcd.
//!
//! It starts the server itself, on a free port and an empty directory, and drives it with clients of its own, which are
//! leaner than the client library so that they are not what is measured. Every answer is checked, and the revision is
//! counted at the end: a run with an error or a miscount is no result, and ends with status 1.
//!
//! In reading order:
//! * [`args`]: the command line.
//! * [`scenario`]: what is measured, one file for each.
//! * [`figure`]: what comes out: figures, goals, spreads; as a table and as JSON.
//! * [`stages`]: where the time of a SET goes, as the server tells it.
//! * [`client`]: one connection, one request at a time; latency is measured here.
//! * [`pool`]: many connections with many requests each, on one thread; throughput is measured here.
//! * [`traffic`]: the requests that a pool sends, and what their answers have to be.
//! * [`floor`]: the server that does nothing but what durability asks for; alone, and three of them.
//! * [`cluster`]: three servers that are one: formed, hurt, and waited for until they are whole.
//! * [`compare`]: `doozerd` beside other systems. [`system`] is how each is started, [`codec`] how it is spoken to, and
//!   [`engine`] the many connections, the same for all; a [`link`] is one of them.
//! * [`child`], [`machine`], [`process`], [`scratch`]: servers as child processes, cores, memory and CPU time, disk; [`mount`]
//!   and [`date`]: what a record says of the file system and of the time.
//! * [`ending`]: what must not outlive a run; [`mod@say`]: what it says; [`files`]: how many may be open.

#![allow(clippy::disallowed_methods, reason = "a benchmark is made of clocks and files")]
// They panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod child;
mod client;
mod cluster;
mod codec;
mod compare;
mod date;
mod ending;
mod engine;
mod failure;
#[cfg(test)]
mod fake;
mod figure;
mod files;
mod floor;
mod link;
mod machine;
mod mount;
mod pool;
mod process;
mod say;
mod scenario;
mod scratch;
mod stages;
mod system;
mod traffic;

use std::process::ExitCode;

use args::{Args, What};
use clap::Parser;
use failure::Failure;
use say::{print, say};

fn main() -> ExitCode {
    let args = Args::parse();
    files::raise_limit();
    let outcome = match args.what {
        What::FloorServer { file, core, first_rev, peer } => floor::serve(&file, core, first_rev, &peer),
        What::EchoServer { core } => floor::echo(core),
        What::Guard { command } => child::guard(&command),
        What::Page { record } => compare::page_of(&record).and_then(print),
        What::Compare(compare) => ending::on_signals().and_then(|()| compare::run(&compare, &args.options)),
        what => ending::on_signals().and_then(|()| measure(&what, &args.options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(e);
            ExitCode::FAILURE
        }
    }
}

fn measure(what: &What, options: &args::Options) -> Result<(), Failure> {
    let bench = scenario::Bench::new(options)?;
    let mut record = figure::Record::new(bench.describe());
    let chosen = scenario::chosen(what);
    for &scenario in &chosen {
        say(scenario.name());
        match scenario.run(&bench) {
            Ok(report) => {
                if !options.json {
                    print(&report)?;
                }
                record.reports.push(report);
            }
            // The others are results all the same.
            Err(e) => {
                if chosen.len() > 1 {
                    say(format_args!("{}: {e}; going on with the next", scenario.name()));
                }
                record.failures.push(figure::Failed { scenario: scenario.name(), reason: e.to_string() });
                bench.clear()?;
            }
        }
    }
    if options.json {
        print(format_args!("{}\n", record.json()?))?;
    } else if chosen.len() > 1 {
        print(&record)?;
    }
    match &record.failures[..] {
        [] => Ok(()),
        failures => {
            let each: Vec<String> = failures.iter().map(ToString::to_string).collect();
            let count = if chosen.len() > 1 {
                format!("{} of {} failed: ", failures.len(), chosen.len())
            } else {
                String::new()
            };
            Err(Failure::new(count + &each.join("; ")))
        }
    }
}
