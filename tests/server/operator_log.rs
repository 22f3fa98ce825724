//! What an operator reads while nothing is wrong. Each line of a healthy start, rolling restart, stop and growth of a cluster is one of a
//! list; whatever else is said there is noise, or not true.

use crate::common::cluster::*;
use crate::common::process::Setup;

/// Every start.
const START: &[&str] = &[
    "listening on *",
    "data in * (node *, cluster *)",
    "advertises * to clients and peers*",
    "recovered revision 0: a new data directory",
    "recovered revision * in * ms, from * records of a snapshot (*) and * records of the log (*)*",
    "say hello with: doozer -a 'doozer:?ca=*' find /ctl",
];
/// Every stop.
const STOP: &[&str] =
    &["stopping: finishing what is in the log; a second signal ends it at once", "stopped at revision *"];
/// The first node of a cluster.
const FOUNDING: &[&str] =
    &["founding cluster *; to join one that is there, start with an empty directory and -a", "this node leads (*)"];
/// Nodes that attach, and slots that are opened for them.
const GROWTH: &[&str] = &[
    "cannot reach *; trying again",
    "cannot attach yet: *",
    "attached to cluster * by the node at *: raft id *",
    "link to * is up",
    "leader is * in term *",
    "caught up with the cluster at revision *",
    "* is a standby now",
    "this node, *, is a standby now",
    "* is promoted into /ctl/cal/*: * members",
    "this node, *, is promoted into /ctl/cal/*: * members",
    "sending a snapshot of revision * to *",
    "sent a snapshot up to entry * to *",
    "receiving a snapshot up to entry * from *",
    "went on from the leader's snapshot: revision *",
];
/// Members that are stopped and started.
const RESTART: &[&str] = &[
    "handing over to *: this node stops",
    "this node leads (*)",
    "leader is * in term *",
    "the leader * is out of reach",
    "link to * is lost: that node was told to stop",
    "link to * is lost: the other side closed it",
    "link to * is up",
    "cannot reach the node at *: Connection refused *; trying again",
    "caught up with the cluster at revision *",
    "catching up: entry * of * is applied; reads are served meanwhile, as of revision *",
];
/// All of them are stopped: some are the last.
const FULL_STOP: &[&str] = &["without this node * of * members are left that have all that is committed: *"];

/// A line fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = line.strip_prefix(parts.next().expect("at least one")) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// Each line is one of these.
#[track_caller]
fn only(said: &str, lists: &[&[&str]]) {
    for line in said.lines() {
        let words = line.strip_prefix("doozerd: ").unwrap_or_else(|| panic!("whose line is that: {line}"));
        assert!(lists.concat().iter().any(|pattern| fits(pattern, words)), "{line:?} is said in\n{said}");
    }
}

/// These lines are there, in this order.
#[track_caller]
fn in_order(said: &str, patterns: &[&str]) {
    let mut lines = said.lines().map(|line| line.strip_prefix("doozerd: ").unwrap_or(line));
    for pattern in patterns {
        assert!(lines.any(|line| fits(pattern, line)), "{pattern:?} is not said, or not in its place, in\n{said}");
    }
}

#[test]
fn a_line_is_taken_for_another() {
    for (pattern, line, fit) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*c", "abc", true),
        ("a*c", "abcd", false),
        ("*b*", "abc", true),
        ("a*b*c", "acb", false),
    ] {
        assert_eq!(fits(pattern, line), fit, "{pattern} and {line}");
    }
}

/// A single node: what it says at its first start, at a later one, and when it stops.
#[test]
fn a_single_node_says_what_is_not_so() {
    let setup = Setup::new();
    let server = setup.start();
    server.connect().put("/x", b"x");
    let said = server.stop().stderr;
    only(&said, &[START, STOP, FOUNDING]);
    in_order(
        &said,
        &["founding*", "listening on*", "recovered revision 0*", "this node leads*", "say hello*", "stopped*"],
    );
    let said = setup.start().stop().stderr;
    only(&said, &[START, STOP, &["this node leads (*)"]]);
    in_order(&said, &["recovered revision * in*", "this node leads*", "say hello*", "stopping*", "stopped*"]);
    assert!(!said.contains("founding"), "{said}");
}

/// Three nodes, from their first start to the stop of all, with everything that an operator does to a healthy cluster in between.
#[test]
fn a_healthy_cluster_says_what_is_not_so() {
    let _turn = together();
    // Patient, for the machine may be busy: a node that hears nothing for that long would be right to say so.
    let mut cluster = Cluster::new(4).flags(&["-election", "3000"]);
    // The others attach to a node that serves; one that does not yet is worth a line.
    cluster.start(0);
    cluster.start_all(&[1, 2]);
    cluster.grow(3);
    cluster.converges();
    only(&cluster.stderr(0), &[START, FOUNDING, GROWTH]);
    for node in [1, 2] {
        only(&cluster.stderr(node), &[START, GROWTH]);
        in_order(&cluster.stderr(node), &["attached*", "recovered revision*", "caught up*", "say hello*"]);
    }
    // A rolling restart, as the README has it: what a node says meanwhile is of the restart of another.
    for node in 0..3 {
        let before: Vec<usize> = (0..3).map(|other| cluster.stderr(other).len()).collect();
        let said = cluster.stop(node).stderr[before[node]..].to_owned();
        only(&said, &[STOP, RESTART]);
        cluster.start(node);
        in_order(&cluster.stderr(node), &["recovered revision *", "caught up*", "say hello*"]);
        only(&cluster.stderr(node), &[START, RESTART]);
        for other in (0..3).filter(|other| *other != node) {
            only(&cluster.stderr(other)[before[other]..], &[RESTART]);
        }
    }
    // A node more.
    let before: Vec<usize> = (0..3).map(|node| cluster.stderr(node).len()).collect();
    cluster.start(3);
    cluster.converges();
    only(&cluster.stderr(3), &[START, GROWTH]);
    for (node, before) in before.into_iter().enumerate() {
        only(&cluster.stderr(node)[before..], &[GROWTH]);
    }
    // All stop, and start again.
    for node in 0..4 {
        let before = cluster.stderr(node).len();
        let said = cluster.stop(node).stderr[before..].to_owned();
        only(&said, &[STOP, RESTART, FULL_STOP, &["no quorum: *"]]);
    }
    cluster.start_all(&[0, 1, 2, 3]);
    cluster.converges();
    for node in 0..4 {
        only(&cluster.stderr(node), &[START, RESTART]);
        in_order(&cluster.stderr(node), &["recovered revision *", "caught up*", "say hello*"]);
    }
}
