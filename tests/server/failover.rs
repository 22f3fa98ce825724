//! A cluster whose nodes die, hang and come back: kill -9 of any node at any moment, of all at once, the leader hung for
//! longer than an election, no quorum at all. What was acknowledged stays, what was on its way completes, late, exactly once.

use std::time::Duration;

use crate::common::cluster::*;
use crate::common::history::{Call, Load, Watch, check, untroubled};
use crate::common::wire::*;
use crate::common::{Random, eventually};
use doozer::limits::{SEGMENT_MIN, SNAPSHOT_AFTER, VALUE_MAX};
use doozer::wire::Verb;

// ---- the fire drill ----

/// One of three dies and does not come back: a standby takes its slot by itself. The dead one returns as a standby, and is
/// the next to move in.
#[test]
fn the_fire_drill() {
    let _turn = together();
    let mut cluster = Cluster::new(4).flags(&["-timeout", "2"]).up(3);
    let watch = Watch::start(&cluster, &[0, 1, 2, 3]);
    let load = cluster.load(&[0, 1, 2, 3], 1, 150);
    // A follower first, then the leader.
    for of_the_leader in [false, true] {
        load.gets_on(&[0, 1, 2, 3], 20);
        let leader = cluster.leader();
        let standby = cluster.standbys()[0];
        let mut members = cluster.members();
        members.retain(|node| (*node == leader) == of_the_leader);
        let victim = members[0];
        let slots = cluster.slots();
        let (slot, _) = slots.iter().find(|(_, id)| *id == cluster.id(victim)).expect("a member's slot");
        cluster.kill(victim);
        let survivors = cluster.live();
        eventually("the standby takes the slot", || {
            (cluster.slots().get(slot).map(String::as_str) == Some(cluster.id(standby))).then_some(())
        });
        load.gets_on(&survivors, 20);
        // It learns that it was taken out, says so, and serves as a standby.
        let id = cluster.id(victim).to_string();
        cluster.start(victim);
        assert_eq!(cluster.id(victim), id);
        assert_eq!(cluster.standbys(), [victim]);
        load.gets_on(&[0, 1, 2, 3], 20);
    }
    let calls = load.stop();
    cluster.has_members(3);
    untroubled(&calls, cluster.downtimes());
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// A member that hangs is taken out like one that died. When it wakes up it finds that out by itself, without a restart, and
/// serves what the others have done meanwhile.
#[test]
fn a_node_that_was_taken_out_in_its_sleep_never_notices() {
    let _turn = together();
    let mut cluster = Cluster::new(4).flags(&["-timeout", "2"]).up(3);
    let load = cluster.load(&[0, 1, 2, 3], 1, 150);
    for of_the_leader in [false, true] {
        load.gets_on(&[0, 1, 2, 3], 20);
        let leader = cluster.leader();
        let standby = cluster.standbys()[0];
        let victim = *cluster.members().iter().find(|node| (**node == leader) == of_the_leader).expect("one of them");
        cluster.hang(victim);
        let awake = cluster.live();
        eventually("the standby takes the slot", || cluster.members().contains(&standby).then_some(()));
        load.gets_on(&awake, 20);
        let made = cluster.connect(standby).put("/asleep", standby.to_string().as_bytes());
        cluster.wake(victim);
        let mut c = cluster.connect(victim);
        assert!(eventually("it answers SYNC", || c.call(&bare(Verb::Sync)).rev) >= made);
        assert_eq!(c.ask(&get("/asleep")), format!("rev={made} value=\"{standby}\""));
        assert_eq!(cluster.standbys(), [victim]);
        load.gets_on(&[0, 1, 2, 3], 20);
    }
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// With nobody to replace it, a member that is down is not missed: its slot is opened for it, it does not count meanwhile,
/// and it takes the slot again when it is back.
#[test]
fn a_member_that_was_down_for_long_stays_out() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-timeout", "2"]).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    load.gets_on(&[0, 1, 2], 20);
    cluster.kill(2);
    eventually("its slot is open", || cluster.slots().values().any(String::is_empty).then_some(()));
    load.gets_on(&[0, 1], 20);
    cluster.start(2);
    cluster.has_members(3);
    load.gets_on(&[0, 1, 2], 20);
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

// ---- kill -9 ----

/// Each node in turn is killed in the midst of writes, leader or not. The others' clients see no error, no duplicate, nothing lost.
#[test]
fn a_kill_is_noticed_by_clients_of_the_other_nodes() {
    kill_in_turn(9);
}

#[test]
#[ignore = "a soak: cargo soak"]
fn one_of_fifty_kills_is_noticed_by_clients_of_the_other_nodes() {
    kill_in_turn(50);
}

fn kill_in_turn(rounds: usize) {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    let load = cluster.load(&[0, 1, 2], 2, 150);
    let mut random = Random(10);
    let mut led = 0;
    for round in 0..rounds {
        let victim = round % 3;
        load.gets_on(&[0, 1, 2], 5 + random.below(15));
        led += usize::from(cluster.follows(victim) == Some(victim));
        cluster.kill(victim);
        load.gets_on(&cluster.live(), 5 + random.below(15));
        cluster.start(victim);
    }
    load.gets_on(&[0, 1, 2], 20);
    let calls = load.stop();
    assert!(led > 0, "the leader was hardly ever killed: {led} times");
    untroubled(&calls, cluster.downtimes());
    watch.stop(&cluster);
    let checked = check(&calls, &cluster);
    assert!(checked.acknowledged > 40 * rounds, "{checked:?}");
    assert_eq!(cluster.members(), [0, 1, 2]);
}

/// All nodes lose power at once, in the midst of writes, and some again while they start. What a majority had written is
/// there, what was acknowledged above all.
#[test]
fn a_power_cut_of_all_nodes_loses_a_write() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    let mut calls = Vec::new();
    let mut random = Random(11);
    for round in 0..6 {
        let load = cluster.load(&[0, 1, 2], 2, 400);
        load.gets_on(&[0, 1, 2], random.below(100));
        cluster.kill_all(&[0, 1, 2]);
        let mut order = vec![0, 1, 2];
        order.rotate_left(random.below(3));
        if round % 2 == 1 {
            order.iter().for_each(|node| cluster.spawn(*node));
            std::thread::sleep(Duration::from_micros(random.next() % 500_000));
            cluster.kill_all(&order);
        }
        cluster.start_all(&order);
        load.gets_on(&[0, 1, 2], 10);
        calls.extend(load.stop());
        untroubled(&calls, cluster.downtimes());
    }
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// Nodes are killed while they take snapshots, use their logs anew, and send each other what the logs hold no more.
#[test]
#[ignore = "a soak: cargo soak"]
fn a_kill_in_the_midst_of_snapshots_loses_a_write() {
    const SIZE: usize = 200_000;
    let _turn = alone();
    let mut cluster = Cluster::new(3).up(3);
    let load = cluster.heavy_load(&[0, 1, 2], 1, 60, SIZE);
    let mut random = Random(16);
    let acknowledged = |load: &Load| (0..3).map(|node| load.acknowledged(node)).sum::<usize>();
    // More than what makes a snapshot due, in bytes: of the requests, seven in ten are sets.
    let enough = usize::try_from(SNAPSHOT_AFTER * SEGMENT_MIN).unwrap() * 3 / 2 / SIZE * 10 / 7;
    while acknowledged(&load) < enough {
        let victim = random.below(3);
        load.gets_on(&cluster.live(), 10 + random.below(40));
        cluster.kill(victim);
        load.gets_on(&cluster.live(), 5 + random.below(60));
        cluster.start(victim);
    }
    load.gets_on(&[0, 1, 2], 5);
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
    for node in 0..3 {
        eventually("a snapshot", || cluster.setup(node).files(".snap").pop());
        assert!(cluster.setup(node).files(".log").len() <= 9, "{:?}", cluster.setup(node).files(".log"));
    }
}

/// A connection that is closed says that its process has died: the others do not wait for a timeout to elect another leader.
/// With so patient a timeout, waiting for it would be seen.
#[test]
fn a_dead_leader_is_waited_for() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-election", "10000"]).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 100);
    for _ in 0..4 {
        load.gets_on(&[0, 1, 2], 10);
        let leader = cluster.leader();
        cluster.kill(leader);
        load.gets_on(&cluster.live(), 10);
        // The end of its connections has told them, not an election's time-out.
        let gone = format!("the leader {}", cluster.id(leader));
        let told =
            |node: &usize| cluster.stderr(*node).lines().any(|l| l.contains(&gone) && l.contains("out of reach"));
        eventually("a node says that the leader is out of reach", || cluster.live().iter().any(told).then_some(()));
        cluster.start(leader);
        cluster.converges();
    }
    let calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    check(&calls, &cluster);
}

// ---- hung ----

/// The leader hangs for longer than an election. Writes of the others' clients that were on their way complete, late; when it
/// wakes up, it answers nothing on its old authority: neither a SYNC nor a compare-and-set nor a write that waited in its
/// sockets. And its own clients, whose server is up after all, lose nothing.
#[test]
fn a_leader_that_wakes_up_speaks_for_a_cluster_that_has_moved_on() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    for round in 0..5 {
        load.gets_on(&[0, 1, 2], 10);
        let hung = cluster.leader();
        let mut old = cluster.connect(hung);
        let before = old.put("/hung", b"before");
        cluster.hang(hung);
        let others = cluster.live();
        load.gets_on(&others, 20);
        let made = cluster.connect(others[0]).call(&set("/hung", before, b"after")).revision();
        // They wait in the socket of a leader that does not know yet that it is none.
        let requests = [bare(Verb::Sync), get("/hung"), set("/hung", before, b"late"), bare(Verb::Sync)];
        for (tag, request) in (0..).zip(&requests) {
            old.send(&request.tag(tag));
        }
        cluster.wake(hung);
        let mut said: Vec<Reply> = (0..4).map(|_| old.recv()).collect();
        said.sort_by_key(|reply| reply.tag);
        // A read alone may be of the past. What a SYNC answers may not.
        assert!(said[0].rev >= Some(made), "round {round}, made {made}: a stale SYNC: {}", said[0]);
        assert!(said[3].rev >= Some(made), "round {round}, made {made}: a stale SYNC: {}", said[3]);
        assert_eq!(said[2].to_string(), "tag=2 REV_MISMATCH", "round {round}");
        assert_eq!(old.ask(&get("/hung")), format!("rev={made} value=\"after\""));
        load.gets_on(&[0, 1, 2], 10);
    }
    let calls = load.stop();
    untroubled(&calls, &[]);
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// A follower that hangs is not waited for, and makes no election when it wakes up; and a leader that hangs for less than an
/// election goes on.
#[test]
fn a_follower_that_hangs_holds_the_others_up() {
    let _turn = together();
    let mut cluster = Cluster::new(3).flags(&["-election", "30000"]).up(3);
    let leader = cluster.leader();
    let load = cluster.load(&[0, 1, 2], 1, 150);
    for hung in [0, 1, 2] {
        load.gets_on(&[0, 1, 2], 10);
        cluster.hang(hung);
        let others = cluster.live();
        if hung != leader {
            load.gets_on(&others, 300);
        }
        cluster.wake(hung);
        load.gets_on(&[0, 1, 2], 10);
    }
    assert_eq!(cluster.leader(), leader, "an election for nothing");
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

// ---- no quorum ----

/// Whoever is left alone, leader or not, whether the others died or hang: its clients go on reading and waiting, writes are
/// refused with READONLY and not done, SYNC is refused, the connections stay; and when the others are back, everything goes
/// on by itself.
#[test]
fn a_node_without_a_quorum_is_of_no_use() {
    let _turn = together();
    let mut cluster = Cluster::new(3).up(3);
    let mut calls: Vec<Call> = Vec::new();
    for (round, (leads, dead)) in [(true, true), (false, true), (true, false), (false, false)].into_iter().enumerate() {
        let leader = cluster.leader();
        let left = if leads { leader } else { cluster.others(&[leader])[0] };
        let lost = cluster.others(&[left]);
        let load = cluster.load(&[left], 2, 150);
        load.gets_on(&[left], 30);
        let mut c = cluster.connect(left);
        let known = c.put("/known", round.to_string().as_bytes());
        let mut waiting = cluster.connect(left);
        waiting.send(&wait("/woken", known));
        for node in &lost {
            if dead {
                cluster.kill(*node);
            } else {
                cluster.hang(*node);
            }
        }
        cluster.refuses_writes(left);
        // Writers that come later meet READONLY; those before may have nothing but what was on its way.
        let late = cluster.load(&[left], 1, 150);
        late.is_refused(left, 10);
        for i in 0..20 {
            assert_eq!(c.ask(&set("/never", -1, i.to_string().as_bytes())), "READONLY");
            assert_eq!(c.ask(&del("/known", -1)), "READONLY");
            assert_eq!(c.ask(&bare(Verb::Nop)), "READONLY");
        }
        let said = c.ask(&bare(Verb::Sync));
        assert!(said.starts_with("READONLY"), "SYNC without a quorum: {said}");
        // Reads and waits go on, those of the past too.
        assert_eq!(c.ask(&get("/known")), format!("rev={known} value=\"{round}\""));
        assert_eq!(c.call(&wait("/known", known)).rev, Some(known));
        assert_eq!(c.ask(&get("/never")), "rev=0 value=\"\"");
        assert!(c.call(&walk("/ctl/cal/*", 0)).err_code.is_none());
        // One of the others is enough.
        if dead {
            cluster.start(lost[0]);
        } else {
            cluster.wake(lost[0]);
        }
        let healed = eventually("the same connection takes writes again", || c.call(&set("/woken", -1, b"")).rev);
        assert_eq!(waiting.recv().rev, Some(healed), "a wait that was there all the time");
        assert!(c.call(&bare(Verb::Sync)).revision() >= healed);
        load.gets_on(&[left], 10);
        if dead {
            cluster.start(lost[1]);
        } else {
            cluster.wake(lost[1]);
        }
        assert_eq!(cluster.connect(lost[1]).ask(&get("/never")), "rev=0 value=\"\"");
        calls.extend(late.stop());
        calls.extend(load.stop());
    }
    check(&calls, &cluster);
}

/// Two nodes of which one is gone have no majority: the one that is left must not go on alone; and five go on with three.
#[test]
fn a_minority_goes_on_or_a_majority_stops() {
    let _turn = together();
    let mut cluster = Cluster::new(5).up(5);
    let load = cluster.load(&[2, 3, 4], 1, 100);
    load.gets_on(&[2, 3, 4], 10);
    cluster.kill_all(&[0, 1]);
    load.gets_on(&[2, 3, 4], 20);
    let mut calls = load.stop();
    untroubled(&calls, cluster.downtimes());
    cluster.kill(2);
    let mut c = cluster.connect(3);
    cluster.refuses_writes(3);
    assert_eq!(c.ask(&set("/never", -1, b"")), "READONLY");
    cluster.start_all(&[0, 1, 2]);
    let load = cluster.load(&[0, 1, 2, 3, 4], 1, 100);
    load.gets_on(&[0, 1, 2, 3, 4], 20);
    calls.extend(load.stop());
    assert_eq!(c.ask(&get("/never")), "rev=0 value=\"\"");
    check(&calls, &cluster);
}

/// One write of a large file for which hundreds wait. To answer them took the leader longer than an election, and closed readers that
/// had done nothing wrong: all get the event, and the leader stays what it is.
#[test]
fn a_write_that_hundreds_wait_for_costs_the_leader_its_place() {
    let _turn = together();
    let cluster = Cluster::new(3).up(3);
    let leader = cluster.leader();
    let elections = || (0..3).map(|node| cluster.stderr(node).matches("this node leads").count()).sum::<usize>();
    let (before, value) = (elections(), vec![b'v'; VALUE_MAX]);
    let now = cluster.connect(leader).put("/large", b"small yet");
    let mut readers: Vec<Vec<Client>> = (0..6).map(|_| (0..50).map(|_| cluster.connect(leader)).collect()).collect();
    for reader in readers.iter_mut().flatten() {
        reader.send(&wait("/large", now + 1));
        // What is behind it is answered, so it is registered.
        assert_eq!(reader.ask(&bare(Verb::Access).tag(1)), "tag=1");
    }
    let reading: Vec<_> = readers
        .into_iter()
        .map(|readers| {
            std::thread::spawn(move || {
                readers.into_iter().map(|mut reader| reader.recv().revision()).collect::<Vec<_>>()
            })
        })
        .collect();
    let made = cluster.connect(leader).put("/large", &value);
    for reading in reading {
        assert_eq!(reading.join().unwrap(), [made; 50], "everybody gets the event");
    }
    assert_eq!((cluster.leader(), elections()), (leader, before), "nobody else was elected");
    assert!(!cluster.stderr(leader).contains("closed a connection"), "nobody was closed");
}
