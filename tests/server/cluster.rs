//! A cluster while nothing breaks: starting in any order, growing and shrinking under load, standbys, restarts, moving, and
//! requests that mean the same on every node. What the writers were told is compared with what all nodes remember.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::cluster::*;
use crate::common::eventually;
use crate::common::history::{Call, Event, Op, Outcome, Watch, check, judge, read, untroubled};
use crate::common::process::Setup;
use crate::common::wire::*;
use doozer::log::Identity;
use doozer::wire::peer::PREAMBLE;
use doozer::wire::{ErrCode, Verb};
use rustix::process::Signal;

/// Asserts that a server refused to start with status 1, in one line that holds all of `words`.
#[track_caller]
fn one_line(refused: &crate::common::process::Exited, words: &[&str]) {
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    for word in words {
        assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
    }
}

/// The value of a file, as a node has it now.
#[track_caller]
fn value(c: &mut Client, path: &str) -> String {
    String::from_utf8(c.call(&get(path)).value.expect("a value, if only an empty one")).unwrap()
}

// ---- the check itself ----

/// Each of these lies, told to the check, has to be seen by it: else it would see nothing in a broken cluster either.
#[test]
fn the_check_of_the_histories_overlooks_a_lie() {
    type Lie = (&'static str, &'static str, fn(&mut Vec<Call>, &mut Vec<Event>) -> Option<()>);
    fn acknowledged(calls: &mut [Call], is: fn(&Op) -> bool) -> Option<&mut Call> {
        // One that others precede.
        calls.iter_mut().rev().find(|call| is(&call.op) && call.outcome() == Outcome::Done)
    }
    fn set_by(calls: &mut [Call]) -> Option<&mut Call> {
        acknowledged(calls, |op| op.verb == Verb::Set)
    }
    fn reply(call: &mut Call) -> &mut Reply {
        call.reply.as_mut().expect("it is answered")
    }
    fn place(call: &Call) -> Option<usize> {
        usize::try_from(call.reply.as_ref()?.rev? - 1).ok()
    }
    fn refused(code: ErrCode) -> Option<Reply> {
        Some(Reply { err_code: Some(code.code()), ..Reply::default() })
    }
    let lies: &[Lie] = &[
        ("a lost write", "is two things", |calls, events| {
            let at = place(set_by(calls)?)?;
            events[at] = Event { flags: 4, path: "/elsewhere".into(), value: Vec::new() };
            Some(())
        }),
        ("a write that is done twice", "applied twice", |calls, events| {
            let again = events[place(set_by(calls)?)?].clone();
            events.push(again);
            Some(())
        }),
        ("a write with another revision", "revision ", |calls, _| {
            let rev = &mut reply(set_by(calls)?).rev;
            *rev = rev.map(|rev| rev - 1);
            Some(())
        }),
        ("another value", "is two things", |calls, events| {
            events[place(set_by(calls)?)?].value.push(b'!');
            Some(())
        }),
        ("another path", "is two things", |calls, events| {
            events[place(set_by(calls)?)?].path.push('x');
            Some(())
        }),
        ("a write that nobody made", "nobody asked for", |_, events| {
            events.push(Event { flags: 4, path: "/h/nobody".into(), value: b"nobody".to_vec() });
            Some(())
        }),
        ("READONLY, and done", "refused, and applied", |calls, _| {
            set_by(calls)?.reply = refused(ErrCode::Readonly);
            Some(())
        }),
        ("a mismatch, and done", "refused, and applied", |calls, _| {
            let cas = |op: &Op| op.verb == Verb::Set && op.rev > Some(0);
            acknowledged(calls, cas)?.reply = refused(ErrCode::RevMismatch);
            Some(())
        }),
        ("a mismatch without a reason", "is newer than", |calls, _| {
            let mismatch = Some(ErrCode::RevMismatch.code());
            let call = calls.iter_mut().find(|call| call.reply.as_ref().is_some_and(|r| r.err_code == mismatch))?;
            call.op.path = "/h/cas/never".into();
            Some(())
        }),
        ("a lost deletion", "", |calls, events| {
            let own = |op: &Op| op.verb == Verb::Del && op.path.starts_with("/h/own/");
            let path = &acknowledged(calls, own)?.op.path;
            let at = events.iter().position(|event| event.flags == 8 && event.path == *path)?;
            events[at] = Event { flags: 8, path: "/elsewhere".into(), value: Vec::new() };
            Some(())
        }),
        ("a nop too few", "", |_, events| {
            let at = events.iter().position(|event| event.path == "/")?;
            events[at] = Event { flags: 8, path: "/elsewhere".into(), value: Vec::new() };
            Some(())
        }),
        ("a nop too many", "nobody can have made", |_, events| {
            events.push(Event { flags: 0, path: "/".into(), value: Vec::new() });
            Some(())
        }),
        ("two writes of a connection in the other order", "in the wrong order", |calls, _| {
            let writer = set_by(calls)?.writer;
            // They were sent with its first requests, before the first answer.
            let is = |c: &&mut Call| c.writer == writer && c.op.verb == Verb::Set && c.op.rev == Some(-1);
            let mut of_one = calls.iter_mut().filter(is).filter(|c| place(c).is_some());
            let (a, b) = (of_one.next()?, of_one.next()?);
            std::mem::swap(&mut a.sent, &mut b.sent);
            Some(())
        }),
        ("a compare-and-set that found something else", "was applied to what was of revision", |calls, events| {
            // The file was there: if it had been deleted meanwhile, it would be right.
            let was_there = |call: &Call| {
                let before = place(call).map_or(&[][..], |at| &events[..at]);
                before.iter().rev().find(|event| event.path == call.op.path).is_some_and(|event| event.flags == 4)
            };
            let is = |op: &Op| op.verb == Verb::Set && op.path.starts_with("/h/cas/") && op.rev > Some(0);
            calls.iter_mut().rev().find(|call| is(&call.op) && was_there(call))?.op.rev = Some(0);
            Some(())
        }),
        ("a stale SYNC", "it was asked", |calls, _| {
            reply(acknowledged(calls, |op| op.verb == Verb::Sync)?).rev = Some(1);
            Some(())
        }),
        ("a read of what was never there", "", |calls, _| {
            let call = calls.iter_mut().rev().find(|c| c.op.verb == Verb::Get && place(c).is_some_and(|at| at > 0))?;
            let rev = &mut reply(call).rev;
            *rev = rev.map(|rev| rev + 1);
            Some(())
        }),
        ("a read of the distant past", "that /h/shared/1 is of revision", |calls, events| {
            let at = events.iter().position(|event| event.path == "/h/shared/1" && event.flags == 4)?;
            let call = acknowledged(calls, |op| op.verb == Verb::Get && op.path == "/h/shared/1" && op.rev.is_none())?;
            let (rev, value) = (i64::try_from(at + 1).ok(), Some(events[at].value.clone()));
            call.reply = Some(Reply { rev, value, ..Reply::default() });
            Some(())
        }),
        ("a directory that ends early", "has no entry", |calls, _| {
            let is = |op: &Op| op.verb == Verb::Getdir && op.rev.is_some();
            acknowledged(calls, is)?.reply = refused(ErrCode::Range);
            Some(())
        }),
        ("a walk that ends early", "matches no file", |calls, _| {
            let is = |op: &Op| op.verb == Verb::Walk && op.rev.is_some();
            acknowledged(calls, is)?.reply = refused(ErrCode::Range);
            Some(())
        }),
        ("an event that is skipped", "that the first event that", |calls, _| {
            let call = acknowledged(calls, |op| op.verb == Verb::Wait && op.path == "/h/**")?;
            let rev = call.reply.as_ref()?.rev?;
            // It was not asked from there on, but from the revision before, which matches too, or from much earlier.
            call.op.rev = Some((rev - 30).max(1));
            Some(())
        }),
        ("an error", "not an answer to this", |calls, _| {
            set_by(calls)?.reply = refused(ErrCode::Other);
            Some(())
        }),
    ];
    let _turn = together();
    let cluster = Cluster::new(1).up(1);
    let load = cluster.load(&[0], 4, 2_000);
    load.gets_on(&[0], 3_000);
    let calls = load.stop();
    let checked = check(&calls, &cluster);
    assert!(checked.acknowledged > 3_000 && checked.refused > 100, "{checked:?}");
    let events = read(&cluster, 0);
    for (what, complaint, lie) in lies {
        let (mut calls, mut events) = (calls.clone(), events.clone());
        lie(&mut calls, &mut events).unwrap_or_else(|| panic!("no occasion to tell of {what}"));
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&calls, &events)));
        let Err(panic) = judged else { panic!("the check does not see {what}") };
        let said = panic.downcast_ref::<String>().expect("a message");
        assert!(said.contains(complaint), "of {what} it says: {said}");
    }
    // A lost connection to a node that was up, and one to a node that was down.
    untroubled(&calls, &[]);
    let mut lost = calls;
    (lost[0].reply, lost[0].lost) = (None, true);
    assert!(catch_unwind(|| untroubled(&lost, &[])).is_err(), "a lost connection goes unseen");
    let down = Downtime { node: 0, from: lost[0].sent, until: None };
    untroubled(&lost, &[down]);
    assert!(catch_unwind(|| untroubled(&lost, &[Downtime { node: 1, ..down }])).is_err(), "another node was down");
}

// ---- starting ----

/// Nodes that are started before the one that they attach to keep trying, say so, and become members all the same.
#[test]
fn the_order_of_starting_matters() {
    let _turn = together();
    let mut cluster = Cluster::new(3);
    let founder = cluster.addr(0).to_string();
    // Nobody has founded the cluster yet.
    for node in [2, 1] {
        let early = cluster.setup(node).clone().flags(["-a", &founder]).spawn();
        early.says(&founder);
        early.kill();
    }
    cluster.start_all(&[0, 2, 1]);
    cluster.grow(3);
    assert_eq!(cluster.members(), [0, 1, 2]);
    cluster.leader();
    for via in 0..3 {
        let mut c = cluster.connect(via);
        c.call(&bare(Verb::Sync)).revision();
        assert_eq!(value(&mut c, "/ctl/name"), "local");
        for node in 0..3 {
            let (id, addr) = (cluster.id(node), cluster.addr(node).to_string());
            assert_eq!(value(&mut c, &format!("/ctl/node/{id}/addr")), addr, "via node {via}");
            assert_eq!(value(&mut c, &format!("/ctl/node/{id}/writable")), "true", "via node {via}");
        }
    }
}

/// When its data is damaged, a node has only its identity to go by: whether it is a member, of how many, and where the others are.
/// Each of these changes without the others.
#[test]
fn a_directory_knows_less_of_the_others_than_its_node() {
    let _turn = together();
    let mut cluster = Cluster::new(3);
    let knows = |cluster: &Cluster, node: usize, voters: u32, voter: bool, others: &[usize]| {
        let mut peers: Vec<String> = others.iter().map(|other| cluster.addr(*other).to_string()).collect();
        peers.sort_unstable();
        eventually(&format!("node {node} has written down {voters} members at {peers:?}"), || {
            let known = Identity::decode(&cluster.setup(node).read("node")).ok()?;
            ((known.voters, known.voter, known.peers) == (voters, voter, peers.clone())).then_some(())
        });
    };
    cluster.start(0);
    knows(&cluster, 0, 1, true, &[]);
    cluster.start(1);
    knows(&cluster, 0, 1, true, &[1]);
    knows(&cluster, 1, 1, false, &[0]);
    cluster.start(2);
    knows(&cluster, 0, 1, true, &[1, 2]);
    knows(&cluster, 1, 1, false, &[0, 2]);
    cluster.grow(3);
    for (node, others) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
        knows(&cluster, node, 3, true, &others);
    }
}

/// The whole cluster is started by one script, all at once; the founder comes last.
#[test]
fn a_node_gives_up_when_the_founder_is_late() {
    let _turn = together();
    let mut cluster = Cluster::new(3);
    let attaching: Vec<_> = [1, 2]
        .map(|node| cluster.setup(node).clone().flags(["-a", &cluster.addr(0).to_string()]).spawn())
        .into_iter()
        .collect();
    for node in &attaching {
        node.says(&cluster.addr(0).to_string());
    }
    cluster.start(0);
    let addresses = [cluster.addr(1), cluster.addr(2)];
    for (node, addr) in attaching.iter().zip(addresses) {
        // They came by themselves, and take writes.
        eventually("a node that was early serves", || {
            let mut c = Client::over(std::net::TcpStream::connect(addr).ok()?);
            c.try_raw(&framed(&set("/early", -1, node.pid().to_string().as_bytes())));
            c.try_next()?.rev
        });
    }
    let early = value(&mut cluster.connect(0), "/early");
    assert_eq!(early, attaching[1].pid().to_string());
}

/// A node of one cluster that is sent to another must not mix their data; both sides say why.
#[test]
fn a_node_joins_a_cluster_of_another_name() {
    let _turn = together();
    let cluster = Cluster::new(1).up(1);
    let stray = Setup::new().listen(fresh_address()).flags(["-c", "other-name", "-a", &cluster.addr(0).to_string()]);
    one_line(&stray.refused(), &["other-name", "local", "leave -c away"]);
    cluster.server(0).says("other-name");
    assert!(!value(&mut cluster.connect(0), "/ctl/name").contains("other"));
    assert_eq!(cluster.slots().len(), 1);
    // That remedy works, on the same directory.
    let via = cluster.addr(0).to_string();
    let without =
        Setup::new().on_directory_of(&stray).listen(fresh_address()).run_by(dying_with_us()).flags(["-a", &via]);
    without.start().says("attached to cluster local");
}

/// A copied command line gives a node its own address to attach to. It is told so, and the directory is still good for a new cluster.
#[test]
fn a_node_attaches_to_itself() {
    let addr = fresh_address();
    let node = Setup::new().listen(addr).run_by(dying_with_us());
    for flags in [vec![addr.to_string()], vec!["10.0.0.9:1".into(), "-advertise".into(), "10.0.0.9:1".into()]] {
        let flags = std::iter::once("-a".to_owned()).chain(flags);
        one_line(&node.clone().flags(flags).refused(), &["its own", "-a"]);
        assert_eq!(node.files("node"), [""; 0]);
    }
    node.start().says("founding");
}

/// A node that has not joined its cluster yet never founds one by itself. The operator is told where it tries, and why.
#[test]
fn a_node_tries_an_address_that_nobody_gave_it() {
    let (addr, away) = (fresh_address(), fresh_address().to_string());
    let node = Setup::new().listen(addr).run_by(dying_with_us());
    let first = node.clone().flags(["-a", &away]).spawn();
    first.says("cannot attach");
    first.kill();
    let again = node.spawn();
    let line = again.says("earlier start");
    assert!(line.contains(&away) && line.contains("-d"), "{line}");
}

/// Whoever does not know the secret must not become a part of the cluster; those that know it serve only clients that do.
#[test]
fn a_node_without_the_secret_is_let_in() {
    let _turn = together();
    let mut cluster = Cluster::new(2).env("DOOZER_RWSECRET", "s3cret");
    cluster.start_all(&[0, 1]);
    for secret in ["", "wrong"] {
        let stray = Setup::new().listen(fresh_address()).flags(["-a", &cluster.addr(0).to_string()]);
        one_line(&stray.env("DOOZER_RWSECRET", secret).refused(), &["DOOZER_RWSECRET"]);
    }
    cluster.server(0).says("DOOZER_RWSECRET");
    for node in 0..2 {
        let mut c = cluster.connect(node);
        assert_eq!(c.ask(&set("/x", -1, b"1")), "OTHER \"permission denied\"");
        assert_eq!(c.ask(&access("wrong")), "OTHER \"permission denied\"");
        assert_eq!(c.ask(&access("s3cret")), "ok");
        let made = c.put("/x", b"2");
        assert_eq!(c.ask(&get("/x")), format!("rev={made} value=\"2\""));
    }
}

/// The address of a member that is down is given to somebody else, who has founded a cluster of the same name there. The
/// others must not take him for their member, nor he them for his; and when the member is back elsewhere, it is theirs.
#[test]
fn a_stranger_at_a_members_address_is_taken_for_it() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let load = cluster.load(&[0, 1], 1, 150);
    let addr = cluster.addr(2);
    cluster.kill(2);
    let stranger = Setup::new().listen(addr).run_by(dying_with_us()).start();
    let mut c = stranger.connect();
    c.put("/stranger", b"his own");
    for node in [0, 1] {
        // It says whom it meets where the member was.
        eventually("the stranger is noticed", || {
            let said = cluster.stderr(node);
            said.lines().any(|line| line.contains(&addr.to_string()) && line.contains("refuse")).then_some(())
        });
    }
    load.gets_on(&[0, 1], 50);
    cluster.move_away(2);
    cluster.start(2);
    cluster.converges();
    // It counts, and he does not.
    load.gets_on(&[0, 1], 20);
    assert_eq!(c.ask(&walk("/h/**", 0)), "RANGE");
    assert_eq!(c.ask(&walk("/ctl/cal/*", 1)), "RANGE");
    for node in 0..3 {
        assert_eq!(cluster.connect(node).ask(&get("/stranger")), "rev=0 value=\"\"");
    }
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

/// Started with the address of a name service, nodes of a cluster find out by themselves who founds it, and where it is.
#[test]
fn the_name_service_brings_nobody_together() {
    let _turn = together();
    let names = Cluster::new(1).up(1);
    let uri = format!("doozer:?ca={}", names.addr(0));
    let mut cluster = Cluster::new(3).finding_each_other().flags(&["-c", "app", "-b", &uri]).up(3);
    let mut c = names.connect(0);
    let founder = value(&mut c, "/ctl/boot/app");
    let founder = cluster.node(&founder).unwrap_or_else(|| panic!("/ctl/boot/app names nobody: {founder:?}"));
    for node in 0..3 {
        assert_eq!(value(&mut cluster.connect(node), "/ctl/name"), "app");
    }
    let (path, addr) = (format!("/ctl/ns/app/{}", cluster.id(founder)), cluster.addr(founder).to_string());
    eventually("the founder's address is known by name", || (value(&mut c, &path) == addr).then_some(()));
    // The next one finds them too.
    let late = cluster.add();
    cluster.start(late);
    assert_eq!(value(&mut cluster.connect(late), "/ctl/name"), "app");
    assert_eq!(cluster.standbys(), [late]);
}

// ---- growing and shrinking ----

/// From one member to five and back, under load on every node that is there: nobody sees an error, and nothing is lost.
#[test]
fn a_client_notices_that_the_cluster_grows_or_shrinks() {
    let _turn = together();
    let mut cluster = Cluster::new(5);
    cluster.start(0);
    let mut loads = vec![cluster.load(&[0], 3, 150)];
    loads[0].gets_on(&[0], 100);
    cluster.start_all(&[1, 2]);
    // These write before they are members, and while they become it.
    loads.push(cluster.load(&[1, 2], 2, 150));
    cluster.grow(3);
    loads[1].gets_on(&[1, 2], 100);
    assert_eq!(cluster.members(), [0, 1, 2]);
    cluster.start_all(&[3, 4]);
    loads.push(cluster.load(&[3, 4], 1, 150));
    cluster.grow(5);
    let gets_on = |loads: &[crate::common::history::Load]| {
        loads[0].gets_on(&[0], 50);
        loads[1].gets_on(&[1, 2], 50);
        loads[2].gets_on(&[3, 4], 50);
    };
    gets_on(&loads);
    cluster.shrink(3);
    gets_on(&loads);
    cluster.shrink(1);
    gets_on(&loads);
    assert_eq!(cluster.members().len(), 1);
    let calls: Vec<Call> = loads.into_iter().flat_map(crate::common::history::Load::stop).collect();
    untroubled(&calls, &[]);
    let checked = check(&calls, &cluster);
    assert!(checked.acknowledged > 1_000 && checked.unknown == 0, "{checked:?}");
}

/// The member that leads is taken out of its slot by hand, by its own: the others go on, it stays as a standby, and is not
/// back in the slot before that is opened once more.
#[test]
fn a_leader_cannot_be_demoted() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    for _ in 0..3 {
        load.gets_on(&[0, 1, 2], 30);
        let leader = cluster.leader();
        let slots = cluster.slots();
        let (slot, _) = slots.iter().find(|(_, id)| *id == cluster.id(leader)).expect("the leader is a member");
        cluster.connect(leader).put(slot, b"");
        let others = cluster.others(&[leader]);
        eventually("another one leads", || others.contains(&cluster.leader()).then_some(()));
        load.gets_on(&[0, 1, 2], 30);
        assert_eq!(cluster.slots()[slot], "", "it was to be put out");
        let opened = cluster.connect(leader).put(slot, b"");
        let back = cluster.connect(others[0]).call(&wait(slot, opened + 1));
        assert_eq!(back.value.as_deref(), Some(cluster.id(leader).as_bytes()), "{back}");
    }
    cluster.has_members(3);
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// What would leave too few members within reach to go on, or would make of a slot what it is not, is refused with the
/// reason, and changes nothing; with everybody there the first of it is carried out.
#[test]
fn an_operator_can_stop_the_cluster() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let slot_of = |cluster: &Cluster, node: usize| {
        let slots = cluster.slots();
        slots.into_iter().find(|(_, id)| *id == cluster.id(node)).expect("a member").0
    };
    cluster.kill(2);
    let slot = slot_of(&cluster, 1);
    for via in [0, 1] {
        let mut c = cluster.connect(via);
        eventually("it knows", || {
            let said = cluster.stderr(via);
            let lost = |line: &str| line.contains(cluster.id(2)) && line.contains("lost");
            let gone = |line: &str| line.contains(&cluster.addr(2).to_string()) && line.contains("cannot reach");
            said.lines().any(|line| lost(line) || gone(line)).then_some(())
        });
        let slots = cluster.slots_at(via);
        let before = c.call(&bare(Verb::Sync)).revision();
        let occupied = cluster.id(0).as_bytes().to_vec();
        for request in [set(&slot, -1, b""), del(&slot, -1), set(&slot, -1, b"nobody"), set("/ctl/cal/7", 0, &occupied)]
        {
            let said = c.ask(&request);
            assert!(said.starts_with("OTHER \"") && said.len() > 20, "a reason is missing: {said}");
        }
        assert!(c.call(&set(&format!("{slot}/below"), -1, b"")).err_code.is_some());
        // A revision that does not fit is the reason before all others.
        for request in [set(&slot, 0, b""), del(&slot, 0)] {
            assert_eq!(c.ask(&request), "REV_MISMATCH", "the slot exists");
        }
        assert_eq!(c.rev(), before, "what is refused makes no revision");
        assert_eq!(cluster.slots_at(via), slots);
    }
    cluster.start(2);
    cluster.converges();
    let mut c = cluster.connect(0);
    eventually("with everybody there it may be emptied", || c.call(&set(&slot, -1, b"")).rev);
    c.put("/x", b"");
    assert_eq!(cluster.standbys(), [1]);
}

/// The last member's slot cannot be emptied or deleted, by whatever node it is asked for: the cluster would stop for good.
#[test]
fn the_last_member_can_be_taken_out() {
    let _turn = together();
    let cluster = Cluster::new(2).up(1);
    for via in 0..2 {
        let mut c = cluster.connect(via);
        let slots = cluster.slots_at(via);
        let before = c.call(&bare(Verb::Sync)).revision();
        for request in [set("/ctl/cal/0", -1, b""), del("/ctl/cal/0", -1)] {
            let said = c.ask(&request);
            assert!(said.starts_with("OTHER \"") && said.len() > 20, "a reason is missing: {said}");
        }
        assert_eq!(c.rev(), before, "what is refused makes no revision");
        assert_eq!(cluster.slots_at(via), slots);
        assert!(c.put("/goes/on", b"") > before);
    }
}

/// Slots may be opened long before there is somebody to move in. Until then they must not count: one member of three slots
/// is a cluster of one, not one that waits for a majority.
#[test]
fn an_open_slot_counts_towards_the_quorum() {
    let _turn = together();
    let mut cluster = Cluster::new(2);
    cluster.start(0);
    let mut c = cluster.connect(0);
    c.put("/ctl/cal/1", b"");
    c.put("/ctl/cal/2", b"");
    let made = c.put("/x", b"1");
    cluster.kill(0);
    cluster.start(0);
    let mut c = cluster.connect(0);
    assert_eq!(c.ask(&get("/x")), format!("rev={made} value=\"1\""));
    c.put("/x", b"2");
    // One standby moves into one of them, and the other one stays open.
    cluster.start(1);
    eventually("the standby moves in", || (cluster.members() == [0, 1]).then_some(()));
    let slots = cluster.slots();
    assert_eq!(slots.values().filter(|id| id.is_empty()).count(), 1, "{slots:?}");
    cluster.connect(1).put("/x", b"3");
}

/// A standby is no member and takes writes all the same; compare-and-set through it is the same as through a member, which
/// is where the original's replicas diverged.
#[test]
fn a_standby_refuses_a_write_or_makes_its_own_story_of_it() {
    let _turn = together();
    let cluster = Cluster::new(2).up(1);
    assert_eq!(cluster.standbys(), [1]);
    let (mut member, mut standby) = (cluster.connect(0), cluster.connect(1));
    for round in 0..20 {
        let path = format!("/standby/{round}");
        let made = standby.call(&set(&path, 0, b"by the standby")).revision();
        assert_eq!(member.ask(&get(&path)), format!("rev={made} value=\"by the standby\""));
        assert_eq!(member.ask(&set(&path, 0, b"")), "REV_MISMATCH");
        let again = member.call(&set(&path, made, b"by the member")).revision();
        assert_eq!(standby.ask(&set(&path, made, b"")), "REV_MISMATCH");
        assert_eq!(standby.call(&bare(Verb::Sync)).revision(), again);
        assert_eq!(standby.ask(&get(&path)), format!("rev={again} value=\"by the member\""));
        assert_eq!(standby.ask(&del(&path, again)), "ok");
        assert_eq!(member.ask(&get(&path)), "rev=0 value=\"\"");
    }
    let load = cluster.load(&[1], 3, 500);
    load.gets_on(&[1], 300);
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

// ---- any node takes any request ----

/// A write that one node has acknowledged is seen by a SYNC and a read at any other one, at once; and no SYNC makes a
/// revision.
#[test]
fn a_sync_misses_what_another_node_has_acknowledged() {
    let _turn = together();
    let cluster = Cluster::new(4).up(3);
    let mut at: Vec<Client> = (0..4).map(|node| cluster.connect(node)).collect();
    for round in 0..25 {
        for writer in 0..4 {
            for reader in 0..4 {
                let value = format!("{round} {writer}");
                let made = at[writer].put("/sync", value.as_bytes());
                // Both at once: the read must not overtake.
                let synced = at[reader].call(&bare(Verb::Sync)).revision();
                assert_eq!(synced, made, "node {reader}, after node {writer}");
                assert_eq!(at[reader].ask(&get("/sync")), format!("rev={made} value=\"{value}\""));
            }
        }
    }
}

/// A waiter at one node is woken by a write through any other one, with the revision that the writer was told.
#[test]
fn a_wait_sleeps_through_a_write_by_another_node() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let mut waiting: Vec<Client> = (0..3).map(|node| cluster.connect(node)).collect();
    let mut writing: Vec<Client> = (0..3).map(|node| cluster.connect(node)).collect();
    let mut next = cluster.converges() + 1;
    for round in 0..30 {
        for c in &mut waiting {
            c.send(&wait("/wake/*", next));
            // Of the future: it is answered when there is one.
            c.send(&get("/wake/up").at(next));
        }
        let made = writing[round % 3].put("/wake/up", round.to_string().as_bytes());
        assert_eq!(made, next);
        for c in &mut waiting {
            let expected = [
                format!("flags=4 rev={made} path=\"/wake/up\" value=\"{round}\""),
                format!("rev={made} value=\"{round}\""),
            ];
            assert_eq!(c.recv_sorted(2), expected);
        }
        next = made + 1;
    }
}

/// Clients of three nodes race for a file: one wins, and everybody agrees who.
#[test]
fn a_race_through_three_nodes_has_two_winners() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let mut at: Vec<Client> = (0..3).map(|node| cluster.connect(node)).collect();
    let mut wins = BTreeSet::new();
    for round in 0..100 {
        let path = format!("/race/{round}");
        for (node, c) in at.iter_mut().enumerate() {
            c.send(&set(&path, 0, node.to_string().as_bytes()));
        }
        let said: Vec<Reply> = at.iter_mut().map(Client::recv).collect();
        let winners: Vec<usize> = (0..3).filter(|node| said[*node].err_code.is_none()).collect();
        assert_eq!(winners.len(), 1, "{said:?}");
        assert_eq!(said.iter().filter(|reply| reply.to_string() == "REV_MISMATCH").count(), 2, "{said:?}");
        let expected = format!("rev={} value=\"{}\"", said[winners[0]].revision(), winners[0]);
        for c in &mut at {
            c.call(&bare(Verb::Sync)).revision();
            assert_eq!(c.ask(&get(&path)), expected);
        }
        wins.insert(winners[0]);
    }
    assert!(wins.len() > 1, "it was no race: node {wins:?} has won every time");
}

/// Values of the largest size and paths of the longest go through every node, and too large a value is refused by every
/// node alike.
#[test]
fn a_large_value_is_too_large_for_a_peer() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let largest = crate::common::Random(8).bytes(doozer::limits::VALUE_MAX);
    let path = format!("/{}", "x".repeat(doozer::limits::PATH_MAX - 1));
    for via in 0..3 {
        let mut c = cluster.connect(via);
        for _ in 0..4 {
            c.send(&set(&path, -1, &largest));
        }
        let made = (0..4).map(|_| c.recv().revision()).max();
        for other in 0..3 {
            let mut c = cluster.connect(other);
            c.call(&bare(Verb::Sync)).revision();
            let said = c.call(&get(&path));
            assert!(
                (said.rev, said.value.as_ref()) == (made, Some(&largest)),
                "node {other}, after node {via}: {said}"
            );
        }
        let said = c.ask(&set("/x", -1, &vec![0; doozer::limits::VALUE_MAX + 1]));
        assert!(said.starts_with("OTHER \"value too large"), "{said}");
        c.put("/x", b"goes on");
    }
}

// ---- stopping and starting ----

/// One node after the other is stopped and started: clients of the others see nothing of it, and each node is up again
/// without being told where the others are.
#[test]
fn a_rolling_restart_is_noticed() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    let ids: Vec<String> = (0..3).map(|node| cluster.id(node).to_string()).collect();
    let load = cluster.load(&[0, 1, 2], 2, 100);
    for node in [1, 2, 0, 0, 1, 2] {
        load.gets_on(&[0, 1, 2], 20);
        let stopped = cluster.stop(node);
        assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
        load.gets_on(&cluster.live(), 20);
        cluster.start(node);
        cluster.converges();
    }
    load.gets_on(&[0, 1, 2], 20);
    let calls = load.stop();
    assert_eq!(ids, (0..3).map(|node| cluster.id(node).to_string()).collect::<Vec<_>>());
    assert_eq!(cluster.members(), [0, 1, 2]);
    untroubled(&calls, cluster.downtimes());
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// A leader that is told to stop hands over first: with so patient an election timeout, waiting for it would be seen.
#[test]
fn a_leader_that_stops_leaves_the_others_to_find_out() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-election", "10000"]).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 100);
    for _ in 0..3 {
        load.gets_on(&[0, 1, 2], 20);
        let leader = cluster.leader();
        let stopped = cluster.stop(leader);
        assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
        assert!(stopped.stderr.contains("handing over to"), "{}", stopped.stderr);
        let others = cluster.live();
        load.gets_on(&others, 20);
        let waited = |node: &usize| cluster.stderr(*node).contains("is out of reach");
        assert!(!others.iter().any(waited), "the leader was gone before another led");
        assert!(others.contains(&cluster.leader()));
        cluster.start(leader);
    }
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

/// All nodes are stopped, the last ones without a quorum, and started in another order: everything is there, and revisions
/// go on.
#[test]
fn a_full_stop_loses_something() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let mut calls = Vec::new();
    for (stop, start) in [([0, 1, 2], [2, 0, 1]), ([2, 1, 0], [0, 1, 2]), ([1, 2, 0], [1, 0, 2])] {
        let load = cluster.load(&[0, 1, 2], 1, 200);
        load.gets_on(&[0, 1, 2], 100);
        let last = cluster.connect(0).rev();
        for node in stop {
            let stopped = cluster.stop(node);
            assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
        }
        calls.extend(load.stop());
        cluster.start_all(&start);
        let checked = check(&calls, &cluster);
        assert!(checked.revision >= last, "the revision went back from {last}: {checked:?}");
        let mut c = cluster.connect(start[0]);
        assert!(eventually("it takes writes", || c.call(&set("/again", -1, b"")).rev) > last);
    }
    untroubled(&calls, cluster.downtimes());
    assert_eq!(cluster.members(), [0, 1, 2]);
}

/// A node comes back on the address that it had, or on another one: it is the same node, in its slot, and the others find
/// it, also those that were down meanwhile.
#[test]
fn a_node_that_moves_is_lost() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let ids: Vec<String> = (0..3).map(|node| cluster.id(node).to_string()).collect();
    let slots = cluster.slots();
    let mut load = cluster.load(&[0, 1], 1, 150);
    load.gets_on(&[0, 1], 20);
    cluster.kill(2);
    load.gets_on(&[0, 1], 20);
    cluster.start(2);
    cluster.stop(2);
    cluster.move_away(2);
    cluster.start(2);
    assert_eq!(cluster.id(2), ids[2]);
    let path = format!("/ctl/node/{}/addr", ids[2]);
    let addr = cluster.addr(2).to_string();
    let mut c = cluster.connect(0);
    eventually("the others learn where it is", || (value(&mut c, &path) == addr).then_some(()));
    let mut calls = load.stop();
    // It counts: with one of the others down, there is no quorum without it.
    cluster.kill(0);
    load = cluster.load(&[1, 2], 1, 150);
    load.gets_on(&[1, 2], 50);
    cluster.start(0);
    calls.extend(load.stop());
    // All move at once but for one, which is where they find each other.
    cluster.kill_all(&[0, 1, 2]);
    cluster.move_away(0);
    cluster.move_away(1);
    cluster.start_all(&[0, 1, 2]);
    let leader = cluster.leader();
    cluster.connect(leader).put("/moved", b"");
    assert_eq!(cluster.slots(), slots);
    check(&calls, &cluster);
}

/// A machine is replaced by hand: its slot is emptied, and a new node, on the address of the old one but without its data,
/// moves in. The old id is not used again.
#[test]
fn a_node_that_has_lost_its_directory_is_taken_for_the_old_one() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let load = cluster.load(&[0, 1], 1, 150);
    let old = cluster.id(2).to_string();
    load.gets_on(&[0, 1], 20);
    cluster.kill(2);
    cluster.wipe(2);
    cluster.start(2);
    let new = cluster.id(2).to_string();
    assert_ne!(new, old);
    assert_eq!(cluster.standbys(), [2], "its slot is not yet free");
    let slots = cluster.slots();
    let (slot, _) = slots.iter().find(|(_, id)| **id == old).expect("the old one's slot");
    let emptied = cluster.connect(2).put(slot, b"");
    let taken = cluster.connect(0).call(&wait(slot, emptied + 1));
    assert_eq!(taken.value.as_deref(), Some(new.as_bytes()), "{taken}");
    load.gets_on(&[0, 1], 20);
    let mut calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    // It counts.
    cluster.kill(1);
    let load = cluster.load(&[0, 2], 1, 150);
    load.gets_on(&[0, 2], 50);
    cluster.start(1);
    calls.extend(load.stop());
    check(&calls, &cluster);
}

// ---- far behind ----

/// What the members' logs hold no more has to reach a new node, and one that was away for long, as a snapshot with all
/// of the history, while writes go on; and again from where it stopped when the new node dies in the midst of it.
#[test]
fn a_node_that_is_too_far_behind_never_catches_up() {
    const VALUES: usize = 100;
    let _turn = together();
    let mut cluster = Cluster::new(4);
    cluster.start_all(&[0, 1, 2]);
    cluster.grow(3);
    cluster.kill(2);
    let mut c = cluster.connect(0);
    let mut value = crate::common::Random(9).bytes(doozer::limits::VALUE_MAX);
    for i in 0..VALUES + 8 {
        if i < VALUES {
            value[..8].copy_from_slice(&i.to_le_bytes());
            c.send(&set(&format!("/large/{}", i % 100), -1, &value));
        }
        if i >= 8 {
            c.recv().revision();
        }
    }
    eventually("the members' logs begin later", || {
        let begins_later =
            |node: usize| !cluster.setup(node).files(".log").contains(&"0000000000000001.log".to_string());
        (begins_later(0) && begins_later(1)).then_some(())
    });
    let load = cluster.load(&[0, 1], 1, 100);
    cluster.spawn(3);
    let held = |cluster: &Cluster| {
        let entries = std::fs::read_dir(&cluster.setup(3).dir).into_iter().flatten();
        let snapshots = entries.filter_map(Result::ok).filter(|e| e.file_name().to_string_lossy().contains("snap"));
        snapshots.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>()
    };
    eventually("the new node is in the midst of a snapshot", || (held(&cluster) > 16 << 20).then_some(()));
    cluster.kill(3);
    // The one that died with half a snapshot is not waited for while another one needs one.
    let goal = cluster.connect(0).rev();
    cluster.start(2);
    let mut c = cluster.connect(2);
    eventually("the member catches up", || (c.rev() >= goal).then_some(()));
    cluster.start(3);
    cluster.server(3).says("snapshot");
    load.gets_on(&[0, 1], 20);
    let mut calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
    // Both count from now on.
    cluster.has_members(3);
    cluster.kill(1);
    let load = cluster.load(&[0, 2, 3], 1, 100);
    load.gets_on(&[0, 2, 3], 20);
    calls.extend(load.stop());
    cluster.start(1);
    check(&calls, &cluster);
}

// ---- what an operator sees ----

/// Who has become a member is said in a line with its id and its address, and is to be found in `/ctl`.
#[test]
fn an_operator_cannot_tell_who_is_in_the_cluster() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let leader = cluster.leader();
    let said = cluster.stderr(leader);
    for node in cluster.others(&[leader]) {
        let (id, addr) = (cluster.id(node), cluster.addr(node).to_string());
        let line = said.lines().find(|line| line.contains(id) && line.contains(&addr));
        assert!(line.is_some(), "no line tells of node {id} at {addr}: {said}");
    }
    let slots = cluster.slots();
    assert_eq!(slots.keys().collect::<Vec<_>>(), ["/ctl/cal/0", "/ctl/cal/1", "/ctl/cal/2"]);
    let ids: BTreeSet<&str> = (0..3).map(|node| cluster.id(node)).collect();
    assert_eq!(slots.values().map(String::as_str).collect::<BTreeSet<_>>(), ids);
}

/// A cluster that nobody uses must not write: neither revisions, which eat the history, nor the log.
#[test]
fn an_idle_cluster_writes() {
    let _turn = together();
    let cluster = Cluster::new(4).up(3);
    let written = |node: usize| {
        let io = std::fs::read_to_string(format!("/proc/{}/io", cluster.server(node).pid())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let all = || (0..4).map(written).collect::<Vec<_>>();
    let first = all();
    let rev = (0..50).map(|_| cluster.connect(0).put("/busy", b"")).max().unwrap();
    cluster.converges();
    eventually("what is counted is what is written", || {
        all().iter().zip(&first).all(|(now, then)| now > then).then_some(())
    });
    // The segment to come may still be in the making, and the last commit on its way.
    eventually("a moment without a write", || {
        let before = all();
        std::thread::sleep(Duration::from_millis(700));
        (all() == before).then_some(())
    });
    // On a busy machine there may be an election, which is written.
    eventually("reads, and a second of nothing, write nothing", || {
        let before = all();
        for node in (0..100).flat_map(|_| 0..4) {
            assert_eq!(cluster.syncs(node), rev);
        }
        std::thread::sleep(Duration::from_secs(1));
        (all() == before).then_some(())
    });
    assert_eq!(cluster.connect(0).rev(), rev);
}

// ---- the end ----

/// A write that no majority can commit must not hold up the end of the node that took it, and neither must a hand-over to a node
/// that does not answer.
#[test]
fn a_write_without_a_quorum_holds_up_the_end() {
    let _turn = together();
    let mut cluster = Cluster::new(2).up(2);
    cluster.hang(1);
    let mut c = cluster.connect(0);
    c.send(&set("/lost", -1, b"x"));
    // It is taken when what came behind it is answered.
    c.rev();
    let stopped = cluster.stop(0);
    assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
    assert!(
        stopped.stderr.contains("left unfinished: writes of clients that were not committed: 1;"),
        "{}",
        stopped.stderr
    );
}

/// Who asks a second time wants the end now. Here the first time takes long: a follower may wait 40 s for its leader.
#[test]
fn a_second_signal_is_ignored() {
    let _turn = together();
    let mut cluster = Cluster::new(2).flags(&["-election", "20000", "-timeout", "600"]).up(2);
    let mut c = cluster.connect(0);
    cluster.hang(1);
    c.send(&set("/lost", -1, b"x"));
    c.rev();
    cluster.server(0).signal(Signal::TERM);
    cluster.server(0).says("stopping");
    std::thread::sleep(Duration::from_millis(100));
    let stopped = cluster.stop(0);
    assert_eq!(stopped.status, Some(143), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("SIGTERM again"), "{}", stopped.stderr);
}

/// Connections that begin like a peer's, and prove nothing, take all places. A node that has proof must be let in all the same.
#[test]
fn strangers_that_begin_like_a_peer_lock_out_a_node() {
    let _turn = together();
    let few = ["sh", "-c", "ulimit -n 80 && exec \"$0\" \"$@\""];
    let first = Setup::new().run_by(few).start();
    let addr = first.addr();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Each sends what a peer begins with, nothing more, and comes again when it is closed.
        for _ in 0..80 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(addr) else { continue };
                    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let begun = stream.write_all(&PREAMBLE);
                    let waits = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
                    while begun.is_ok() && !over.load(Ordering::Relaxed) {
                        match stream.read(&mut [0; 512]) {
                            Ok(0) => break,
                            Err(e) if !waits(&e) => break,
                            _ => {}
                        }
                    }
                }
            });
        }
        let attached = catch_unwind(AssertUnwindSafe(|| {
            first.says("closed a new connection");
            let mut second = Setup::new().flags(["-a", &addr.to_string()]).start();
            for _ in 0..3 {
                let setup = second.kill();
                second = setup.start();
            }
        }));
        over.store(true, Ordering::Relaxed);
        attached.unwrap();
    });
}

/// Clients take all places for connections. A new node must be let in all the same, and a member be found by the others again.
#[test]
fn clients_lock_out_a_node() {
    let _turn = together();
    let few = ["sh", "-c", "ulimit -n 80 && exec \"$0\" \"$@\""];
    let first = Setup::new().run_by(few).start();
    let crowd: Vec<Client> = (0..120).map(|_| first.connect()).collect();
    let addr = first.addr().to_string();
    let mut second = Setup::new().flags(["-a", &addr]).start();
    for _ in 0..3 {
        let setup = second.kill();
        second = setup.start();
    }
    // With the last bytes of a client in hand it is closed, and not served in the place of a node.
    let mut client = first.connect();
    client.try_raw(&framed(&bare(Verb::Rev)));
    assert!(client.try_next().is_none());
    first.says("closed a new connection");
    // Not for want of files, which the log needs.
    assert!(!first.stderr().contains("cannot accept connections"), "{}", first.stderr());
    drop(crowd);
    assert!(second.connect().rev() > 0);
}
