//! Resident memory with a large tree, and the time to recover it.
//!
//! Recovery is the time from exec until the server has answered a first REV. Before it the kernel is told to forget what
//! it has cached of the data, so that this is read from the disk.

use super::{Bench, check_load, large, load};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, megabytes};
use crate::process;
use crate::scratch::{SnapshotWatch, forget_cached, usage};
use crate::traffic::Layout;

const NAME: &str = "memory";

pub fn run(bench: &Bench, flat: bool, report: &mut Report) -> Result<(), Failure> {
    let mut layout = large(bench);
    if flat {
        layout = Layout { per_directory: layout.files, ..layout };
    }
    let mut server = bench.server(NAME)?;
    let dir = bench.scratch.path(NAME);
    let empty = process::memory(server.pid())?;
    let mut watch = SnapshotWatch::new(&dir)?;
    let driven = load(bench, &server, layout)?;
    watch.settle()?;
    let loaded = process::memory(server.pid())?;
    report.add("resident, empty", Unit::Megabytes, megabytes(empty.resident));
    report.add(format!("resident, {} files", layout.files), Unit::Megabytes, megabytes(loaded.resident));
    report.goal(Goal::AtMost(350.0));
    report.add("the most while loading", Unit::Megabytes, megabytes(loaded.peak));
    report.add("loading", Unit::PerSecond, driven.rate());
    report.add("data on the disk", Unit::Megabytes, megabytes(usage(&dir)?));

    let mut recoveries = [Vec::new(), Vec::new()];
    let mut memories = Vec::new();
    for _ in 0..bench.rounds() {
        for (killed, times) in [false, true].into_iter().zip(&mut recoveries) {
            let before = Client::connect(server.addr())?.revision()?;
            if killed {
                server.kill()?;
            } else {
                server.terminate()?;
            }
            forget_cached(&dir)?;
            server = bench.server(NAME)?;
            times.push(server.ready_after().as_secs_f64());
            memories.push(process::memory(server.pid())?);
            if server.revision() < before {
                return Err(Failure::new(format!("revision {} after {before}: it went back", server.revision())));
            }
            check_load(&server, layout)?;
        }
    }
    for (name, times) in ["recovery after SIGTERM", "recovery after kill -9"].into_iter().zip(recoveries) {
        report.add_rounds(name, Unit::Seconds, times);
        report.goal(Goal::AtMost(3.0));
    }
    report.add_rounds("resident after recovery", Unit::Megabytes, memories.iter().map(|m| megabytes(m.resident)));
    report.goal(Goal::AtMost(350.0));
    report.add_rounds("the most while recovering", Unit::Megabytes, memories.iter().map(|m| megabytes(m.peak)));
    server.terminate()?;
    bench.remove(NAME)
}
