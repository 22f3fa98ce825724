//! The leader is lost, in every way in which one can be. Clients of the other nodes write on, soon, and see no error; what was under
//! way is done once.

use doozer::wire::{ErrCode, Request, Verb};

use super::seeds;
use crate::client::{Load, Plan};
use crate::world::{LIMIT, World};

/// Clients of these nodes were refused nothing, and lost nothing.
#[track_caller]
fn unharmed(world: &World, nodes: &[usize]) {
    for client in world.clients.iter().filter(|client| nodes.contains(&client.node)) {
        assert_eq!((client.readonly, client.unknown, client.lost), (0, 0, 0), "{}", client.describe());
    }
}

/// A cluster under load, its leader, and the others.
fn busy(seed: u64, voters: usize) -> (World, usize, Vec<usize>) {
    let mut world = World::cluster(seed, voters);
    world.load(0..voters, Load { window: 8, pause: 1_000, ..Load::default() });
    for host in 0..voters {
        world.add_client(host, Plan::Watch);
    }
    world.run(1_000);
    let leader = world.find_leader();
    let others = (0..voters).filter(|host| *host != leader).collect();
    (world, leader, others)
}

/// The kernel of a killed process closes its connections, and that is how the others know at once.
pub fn when_the_leader_is_killed_others_write_on_within_300_ms() {
    for seed in seeds(4, 0..20) {
        let (mut world, leader, others) = busy(100 + seed, 3);
        world.kill(leader);
        world.all_write(&others, 300);
        unharmed(&world, &others);
        world.start(leader);
        world.write(leader, 1_000);
        world.finish();
    }
}

/// With disks that take as long as a turn of the candidates, two of them stand at the same time, and nobody wins. They try again at
/// once, instead of waiting for the time-out of an election, or for two.
pub fn when_the_leader_is_killed_and_disks_are_slow_the_first_election_that_fails_is_not_the_last() {
    for voters in [3, 5] {
        let mut waited: Vec<u64> = Vec::new();
        for seed in seeds(2, 0..8) {
            let (mut world, leader, others) = busy(150 + seed, voters);
            for host in 0..voters {
                world.disk(host).latency = (20_000, 140_000);
            }
            world.run(500);
            world.kill(leader);
            let term = world.term();
            waited.push(world.until(5_000, "another leads", |world| world.term() > term && world.leader().is_some()));
            world.all_write(&others, 3_000);
            unharmed(&world, &others);
        }
        assert!(waited.iter().all(|ms| *ms < 1_200), "{voters} nodes waited for {waited:?} ms");
    }
}

/// A machine without power says nothing: the others wait for the time-out of an election.
pub fn when_the_leader_goes_dark_others_write_on_within_a_second_or_two() {
    for seed in seeds(2, 0..10) {
        let (mut world, leader, others) = busy(200 + seed, 3);
        world.power_off(leader);
        world.all_write(&others, 2_000);
        unharmed(&world, &others);
        world.finish();
    }
}

/// The leader's process hangs, with all its connections open, and wakes up long after another was elected. It must not answer with
/// what it then believes to know, and its clients' writes are done once.
pub fn a_leader_that_hung_finds_another_in_its_place() {
    for seed in seeds(2, 0..10) {
        let (mut world, leader, others) = busy(300 + seed, 3);
        world.pause(leader);
        world.all_write(&others, 2_000);
        world.run(5_000 * (seed % 3));
        unharmed(&world, &others);
        // Asked while it hangs; what was acknowledged by then has to be in the answer.
        let client = world.add_client(leader, Plan::Hand);
        world.until(1_000, "the kernel takes connections for it", |world| world.clients[client].is_connected());
        world.ask(client, &Request::new(Verb::Sync));
        let floor = world.checker.acknowledged();
        world.resume(leader);
        world.until(LIMIT, "SYNC is answered", |world| !world.clients[client].answers.is_empty());
        let answer = &world.clients[client].answers[0];
        assert!(answer.err == Some(ErrCode::Readonly) || answer.rev >= Some(floor), "{answer:?}, not {floor}");
        world.write(leader, 2_000);
        world.finish();
    }
}

/// The leader loses the others, but not its clients: they are refused, certainly, until it is back. The others write on.
pub fn a_leader_that_is_cut_off_refuses_writes_and_serves_reads() {
    for seed in seeds(2, 0..10) {
        let (mut world, leader, others) = busy(400 + seed, 3);
        world.isolate(leader);
        world.all_write(&others, 2_000);
        unharmed(&world, &others);
        world.until(5_000, "it knows", |world| world.has_said(leader, "no quorum", 0));
        let nop = world.call(leader, &Request::new(Verb::Nop), 100);
        assert_eq!(nop.err, Some(ErrCode::Readonly), "at once, for it knows: {nop:?}");
        let sync = world.call(leader, &Request::new(Verb::Sync), 100);
        assert_eq!(sync.err, Some(ErrCode::Readonly), "{sync:?}");
        let rev = world.call(leader, &Request::new(Verb::Rev), 100);
        assert!(rev.rev > Some(0), "reads go on: {rev:?}");
        world.heal_all();
        world.write(leader, 3_000);
        world.finish();
    }
}

/// A leader that is told to stop hands over first: nobody waits for an election.
pub fn a_leader_that_stops_hands_over_first() {
    for seed in seeds(2, 0..5) {
        let (mut world, leader, others) = busy(500 + seed, 3);
        world.stop(leader);
        world.all_write(&others, 150);
        unharmed(&world, &others);
        world.finish();
    }
}

/// One node after the other is stopped and started, as for a new version.
pub fn a_rolling_restart_is_not_noticed_by_the_clients_of_others() {
    let (mut world, ..) = busy(600, 3);
    for host in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != host).collect();
        let harmed = |world: &World| -> usize {
            let there = world.clients.iter().filter(|client| others.contains(&client.node));
            there.map(|client| client.readonly + client.unknown + client.lost).sum()
        };
        let before = harmed(&world);
        world.stop(host);
        world.until(LIMIT, "it has stopped", |world| !world.nodes[host].is_up());
        world.run(500);
        world.start(host);
        world.write(host, 2_000);
        world.run(500);
        assert_eq!(harmed(&world), before, "while node {host} was started anew");
    }
    world.finish();
}

/// The whole cluster loses power at once, in the middle of its writes, and comes up again: nothing that was acknowledged is missing.
pub fn all_are_killed_at_once_and_come_up_again() {
    let (mut world, ..) = busy(700, 3);
    for round in 0..10 {
        for host in 0..3 {
            if round % 2 == 0 { world.kill(host) } else { world.power_off(host) }
        }
        world.run(100);
        for host in 0..3 {
            world.start(host);
        }
        world.all_write(&[0, 1, 2], 3_000);
        world.run(300);
    }
    world.finish();
}

/// The leader is lost again and again while writes of clients at followers are under way: each is done once.
pub fn outstanding_writes_survive_one_leader_after_the_other() {
    let (mut world, ..) = busy(800, 5);
    for round in 0..12 {
        let leader = world.find_leader();
        match round % 4 {
            0 => world.kill(leader),
            1 => world.pause(leader),
            2 => world.isolate(leader),
            _ => world.power_off(leader),
        }
        let others: Vec<usize> = (0..5).filter(|host| *host != leader).collect();
        let terms = world.term();
        world.until(5_000, "another leads", |world| world.term() > terms);
        world.all_write(&others, 3_000);
        match round % 4 {
            1 => world.resume(leader),
            2 => world.heal_all(),
            _ => world.start(leader),
        }
        world.run(500);
    }
    world.finish();
}

/// The disk of the leader is full: it hands over. When it has room again, and the disk of its successor is full, it is the one who can
/// lead, and has to be known as that.
pub fn a_disk_that_has_room_again_may_lead_again() {
    let mut world = World::cluster(950, 3);
    for round in 0..4 {
        let leader = world.find_leader();
        for host in 0..3 {
            world.disk(host).full = host == leader;
        }
        let mut written = 0;
        while world.leader() == Some(leader) {
            world.fill(leader, 1, 1_000_000);
            world.run(60);
            written += 1;
            assert!(written < 100, "round {round}: node {leader} does not hand over");
        }
        world.run(2_000);
    }
    world.finish();
}
