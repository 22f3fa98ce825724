//! Power cuts of a real server.

#![cfg(feature = "server")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

mod check;
#[path = "../common/mod.rs"]
mod common;
mod fuse;
mod image;
mod record;
mod run;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use check::{Known, check};
use common::Random;
use image::{Image, Lie, Replay, moments};
use libtest_mimic::{Arguments, Failed, Trial};
use record::{Files, Record};
use run::Run;

/// Set when this process has a mount namespace of its own.
const INSIDE: &str = "DOOZER_TEST_IN_A_NAMESPACE";

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list && std::env::var_os(INSIDE).is_none() {
        enter_namespace();
    }
    let trials = vec![Trial::test("try_out", try_out)];
    libtest_mimic::run(&arguments, trials).exit();
}

/// Goes on in a mount namespace of its own: nobody else sees what is mounted there, and all of it is gone with this process.
/// Where that is not permitted, goes on without.
fn enter_namespace() {
    for unshare in [["unshare", "-m"].as_slice(), &["unshare", "-r", "-m"]] {
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok_and(|status| status.success()) {
            let mut command = Command::new(unshare[0]);
            command.args(&unshare[1..]).arg("--").arg(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1));
            eprintln!("cannot enter a namespace: {}", command.env(INSIDE, "1").exec());
        }
    }
}

fn try_out() -> Result<(), Failed> {
    let began = Instant::now();
    let mut run = Run::new(None, Known::default(), true, 1);
    let server = run.start();
    eprintln!("started {:?}", began.elapsed());
    let load = run.load(server.addr(), 10);
    run.reach(3000);
    eprintln!("reached {:?}", began.elapsed());
    server.kill();
    load.join();
    eprintln!("{:?}", run.disk().files().keys().collect::<Vec<_>>());
    let (record, known) = run.end();
    eprintln!("ended {:?}, {} events, {} revisions", began.elapsed(), record.events.len(), known.history.len());
    let mut random = Random(7);
    let mut replay = Replay::new(&record, Lie::None);
    for at in moments(&record, 50, &mut random) {
        replay.advance(at);
        let t = Instant::now();
        let image = replay.cut(&mut random);
        let t1 = t.elapsed();
        let found = check(image.files.as_ref(), &known, at);
        eprintln!("{at} {:?} cut {t1:?} check {:?}: {found:?}", image.luck, t.elapsed());
    }
    Ok(())
}
