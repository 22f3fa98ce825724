//! Disks that do not answer. No error comes of it, so only the clock tells: the node says which disk it is, refuses what it cannot do,
//! and leaves the lead to others.

use doozer::limits::{DISK_FILE_MS, DISK_REFUSED_MS, DISK_SAID_MS};
use doozer::wire::{ErrCode, Request, Verb};

use super::seeds;
use crate::boot::Sizes;
use crate::client::{Load, Plan};
use crate::node::Flags;
use crate::world::{LIMIT, World, set};

/// Time between two ticks, and a bit: an age is known to that.
const TICK_MS: u64 = 100;

/// A cluster under load, a follower, and the leader.
fn busy(seed: u64, voters: usize) -> (World, usize, usize) {
    let mut world = World::cluster(seed, voters);
    world.load(0..voters, Load { window: 8, pause: 1_000, ..Load::default() });
    world.run(1_000);
    let leader = world.find_leader();
    let follower = (0..voters).find(|host| *host != leader).expect("another");
    (world, leader, follower)
}

/// New writes are refused at once, certainly, and with the reason.
#[track_caller]
fn refuses(world: &mut World, host: usize) {
    let answer = world.call(host, &set("/refused", -1, b""), 100);
    assert_eq!(answer.err, Some(ErrCode::Readonly), "{answer:?}");
    assert!(answer.detail.contains("the disk of this node is stuck") && answer.detail.contains("/data"), "{answer:?}");
}

fn figure(world: &mut World, host: usize, name: &str) -> u64 {
    world.nodes[host].replica().expect("it runs").stats().figure(name).expect("a figure")
}

/// What is under way waits, for nobody knows what becomes of it. What comes later is refused; reads go on.
pub fn a_single_node_with_a_stuck_disk_says_so_and_refuses_writes() {
    let mut world = World::cluster(3_000, 1);
    world.write(0, 1_000);
    world.disk(0).stalled = true;
    let (first, second) = (world.add_client(0, Plan::Hand), world.add_client(0, Plan::Hand));
    world.until(LIMIT, "they are connected", |world| [first, second].iter().all(|c| world.clients[*c].is_connected()));
    let began = world.now();
    world.ask(first, &set("/first", -1, b"1"));
    world.run(300);
    // It is not in the write that is under way, so it can be taken back.
    world.ask(second, &set("/second", -1, b"2"));
    let said = world.until(2_000, "it says so", |world| world.has_said(0, "the disk is stuck", began));
    assert!(300 + said <= DISK_SAID_MS + TICK_MS, "after {} ms", 300 + said);
    assert!(figure(&mut world, 0, "log_write_age_ms") >= DISK_SAID_MS);
    world.until(2_000, "what was not begun is refused", |world| !world.clients[second].answers.is_empty());
    assert!(world.now() - began <= DISK_REFUSED_MS + TICK_MS, "after {} ms", world.now() - began);
    let answer = world.clients[second].answers.remove(0);
    assert_eq!(answer.err, Some(ErrCode::Readonly), "{answer:?}");
    assert!(answer.detail.contains("/data"), "{answer:?}");
    refuses(&mut world, 0);
    assert_eq!(figure(&mut world, 0, "writable"), 0);
    assert!(world.clients[first].answers.is_empty(), "nobody knows yet");
    let rev = world.call(0, &Request::new(Verb::Rev), 100);
    assert!(rev.rev > Some(0), "{rev:?}");
    world.disk(0).stalled = false;
    world.until(1_000, "the first is acknowledged", |world| !world.clients[first].answers.is_empty());
    assert_eq!(world.clients[first].answers[0].err, None);
    world.write(0, 1_000);
    assert_eq!((figure(&mut world, 0, "writable"), figure(&mut world, 0, "log_write_age_ms")), (1, 0));
    world.until(5_000, "it says that it is over", |world| world.has_said(0, "the disk works again", began));
    world.finish();
}

/// Clients of the others wait for a second at most, and nothing that they wrote is refused.
pub fn a_leader_whose_disk_is_stuck_hands_over_within_a_second() {
    for seed in seeds(2, 3_100..3_110) {
        let (mut world, leader, _) = busy(seed, 3);
        let others: Vec<usize> = (0..3).filter(|host| *host != leader).collect();
        world.disk(leader).stalled = true;
        let began = world.now();
        let took = world.until(2_000, "another leads", |world| world.leader().is_some_and(|now| now != leader));
        assert!(took <= 1_000, "after {took} ms");
        world.all_write(&others, 1_000);
        world.until(3_000, "all say whose disk it is", |world| {
            world.has_said(leader, "the disk is stuck", began)
                && others.iter().all(|other| world.has_said(*other, "is stuck, as it says", began))
        });
        world.run(1_500);
        refuses(&mut world, leader);
        for client in world.clients.iter().filter(|client| others.contains(&client.node)) {
            assert_eq!((client.readonly, client.unknown, client.lost), (0, 0, 0), "{}", client.describe());
        }
        assert!(!world.has_said(leader, "no quorum", began), "its disk is the reason");
        world.disk(leader).stalled = false;
        world.write(leader, 3_000);
        world.finish();
    }
}

/// The leader commits what this node sends, and this node does not learn of it: its clients are refused what was not sent. SYNC is
/// refused too, where what it asks for is not here.
pub fn a_follower_with_a_stuck_disk_refuses_writes_and_the_others_write_on() {
    for seed in seeds(1, 3_200..3_205) {
        let (mut world, leader, follower) = busy(seed, 3);
        let others: Vec<usize> = (0..3).filter(|host| *host != follower).collect();
        world.disk(follower).stalled = true;
        let began = world.now();
        world.run(DISK_REFUSED_MS + 2 * TICK_MS);
        assert!(world.has_said(follower, "the disk is stuck", began));
        refuses(&mut world, follower);
        let sync = world.call(follower, &Request::new(Verb::Sync), 500);
        assert_eq!(sync.err, Some(ErrCode::Readonly), "{sync:?}");
        assert!(sync.detail.contains("/data"), "{sync:?}");
        assert!(world.has_said(leader, "is stuck, as it says", began));
        world.run(15_000);
        assert!(!world.has_said(follower, "no quorum", began), "its disk is the reason");
        assert_eq!(world.leader(), Some(leader));
        world.all_write(&others, 500);
        for client in world.clients.iter().filter(|client| others.contains(&client.node)) {
            assert_eq!((client.readonly, client.unknown, client.lost), (0, 0, 0), "{}", client.describe());
        }
        world.disk(follower).stalled = false;
        world.write(follower, 3_000);
        world.finish();
    }
}

/// All are in reach, and nothing can be committed: the line names the disks, and comes soon.
pub fn a_leader_without_a_majority_of_working_disks_says_whose_are_stuck() {
    let (mut world, leader, _) = busy(3_300, 3);
    for host in (0..3).filter(|host| *host != leader) {
        world.disk(host).stalled = true;
    }
    let began = world.now();
    let line = "no quorum: 3 of 3 members in reach (2 of them with a stuck disk)";
    world.until(2_500, "it says so", |world| world.has_said(leader, line, began));
    let answer = world.call(leader, &set("/refused", -1, b""), 100);
    assert_eq!(answer.err, Some(ErrCode::Readonly), "{answer:?}");
    for host in 0..3 {
        world.disk(host).stalled = false;
    }
    world.all_write(&[0, 1, 2], 3_000);
    world.finish();
}

/// The log goes on in its present segment, and then it has no room: writes wait for the next segment, but not for ever.
pub fn a_stuck_segment_refuses_writes_when_the_log_has_no_room() {
    let sizes = Sizes { segment: 1 << 20, ..Sizes::default() };
    let mut world = World::with(3_400, 1, 1, Flags { sizes, ..Flags::default() });
    world.write(0, 1_000);
    world.run(1_000);
    world.disk(0).segments_stalled = true;
    let began = world.now();
    let client = world.add_client(0, Plan::Hand);
    world.until(LIMIT, "it is connected", |world| world.clients[client].is_connected());
    for file in 0..40 {
        world.ask(client, &set(&format!("/file/{file}"), -1, &[7; 100_000]));
    }
    world.until(2 * DISK_FILE_MS, "all are answered", |world| world.clients[client].answers.len() == 40);
    let answers = &world.clients[client].answers;
    let done = answers.iter().filter(|answer| answer.err.is_none()).count();
    assert!((5..40).contains(&done), "{done} of 40 are written");
    let refused = answers.iter().find(|answer| answer.err.is_some()).expect("one that is refused");
    assert_eq!(refused.err, Some(ErrCode::Readonly), "{refused:?}");
    assert!(refused.detail.contains("the making of a log segment in /data"), "{refused:?}");
    assert!(world.has_said(0, "the disk is stuck: the making of a log segment", began));
    world.disk(0).segments_stalled = false;
    world.write(0, 3_000);
    world.finish();
}
