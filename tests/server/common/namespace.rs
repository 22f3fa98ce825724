//! Tests in a network of their own: each runs itself again in a user, network and mount namespace, where it may do this without
//! privileges and without a trace in the machine's own network. All that it makes is gone with its processes. Where that is not
//! permitted it says so and passes.

use std::io::Write;
use std::process::{Command, Stdio};

use super::cluster::{dying_with_us, together};

/// Set for a test that runs in a namespace of its own.
const INSIDE: &str = "DOOZER_TEST_IN_A_NAMESPACE";

/// Runs the test of this name and of this module (`module_path!()`) again, in a namespace of its own. `true`: this is the one within, which is to do the work.
#[track_caller]
pub fn within(module: &str, test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let _turn = together();
    let mut unshare = ["unshare", "-r", "-n", "-m", "--kill-child", "--"].as_slice();
    let works = |unshare: &[&str]| {
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).args([
            "sh",
            "-c",
            "ip link set lo up && ip link add hub type bridge && exec nsenter -V",
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !works(unshare) {
        // Without user namespaces; that takes root.
        unshare = &["unshare", "-n", "-m", "--kill-child", "--"];
    }
    if !works(unshare) {
        eprintln!(
            "skipped: network namespaces cannot be had here (they take unshare, nsenter, ip, and root or user namespaces)"
        );
        return false;
    }
    let words: Vec<&str> = dying_with_us().iter().chain(unshare).copied().collect();
    let mut command = Command::new(words[0]);
    // The program holds the tests of several files: a test's name begins with that of its module.
    let module = module.split_once("::").map_or("", |(_, module)| module);
    let name = format!("{module}::{test}");
    command.args(&words[1..]).arg(std::env::current_exe().unwrap()).args([
        "--exact",
        &name,
        "--nocapture",
        "--include-ignored",
    ]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    false
}

/// Runs commands of `ip`.
#[track_caller]
pub fn ip(prefix: &[&str], commands: &str) {
    let mut words = prefix.iter().copied().chain(["ip", "-batch", "-"]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
}
