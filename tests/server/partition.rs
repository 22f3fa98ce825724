//! Partitions between real processes: each node in a network namespace of its own, on one bridge, and for each pair and
//! direction a switch. Whoever is connected, over whatever detour, to a majority, keeps writing; whoever is not, reads on;
//! after healing all is as if nothing had been.
//!
//! A switch is the sender's entry for the receiver's hardware address: while it is wrong, the packets go nowhere, and nobody
//! is told. The tests reach every node at all times.
//!
//! Each test runs itself again in a user and network namespace of its own, where it may do this without privileges and
//! without a trace in the machine's own network: all that it makes is gone with its processes. Where that is not permitted
//! it says so and passes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::cluster::*;
use crate::common::history::{Outcome, Watch, check, untroubled};
use crate::common::namespace::{ip, within};
use crate::common::process::Setup;
use crate::common::wire::*;
use crate::common::{LIMIT, Random, eventually};
use doozer::client::{Client, Options, WhenStale};
use doozer::wire::Verb;

/// A network of nodes, with a switch for each pair and direction.
struct Net {
    /// Each holds the namespace of a node.
    holders: Vec<Child>,
}

const PORT: u16 = 8046;

/// The servers, and what asks them, share two cores: one that is slow because of that is not to be taken for one that is cut off.
const PATIENT: &[&str] = &["-election", "1000"];

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap())
}

fn hardware(node: usize) -> String {
    format!("02:00:00:00:00:{:02x}", node + 1)
}

/// Nobody's.
const NOWHERE: &str = "02:00:00:00:ff:ff";

impl Net {
    fn new(nodes: usize) -> Net {
        ip(&[], "link set lo up\nlink add hub type bridge\nlink set hub up\naddr add 10.0.0.254/24 dev hub\n");
        let hold = |node: usize| {
            let mut command = Command::new("unshare");
            command.args(["-n", "sh", "-c", "echo held && exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut holder = command.spawn().unwrap();
            let mut said = String::new();
            BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "held\n");
            let (pid, mac) = (holder.id(), hardware(node));
            ip(
                &[],
                &format!(
                    "link add to{node} type veth peer name eth0 address {mac} netns {pid}\nlink set to{node} master hub up\n"
                ),
            );
            holder
        };
        let net = Net { holders: (0..nodes).map(hold).collect() };
        for node in 0..nodes {
            net.ip(node, &format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", address(node)));
        }
        net.heal();
        net
    }

    /// The command that enters a node's namespace.
    fn entering(&self, node: usize) -> Vec<String> {
        ["nsenter", "-t", &self.holders[node].id().to_string(), "-n"].map(String::from).to_vec()
    }

    fn ip(&self, node: usize, commands: &str) {
        let prefix = self.entering(node);
        ip(&prefix.iter().map(String::as_str).collect::<Vec<_>>(), commands);
    }

    /// A cluster of all nodes, not yet started.
    fn cluster(&self, flags: &[&str]) -> Cluster {
        let node = |node: usize| {
            let addr = SocketAddr::from((address(node), PORT));
            let mut prefix = self.entering(node);
            prefix.extend(dying_with_us().iter().map(|word| (*word).to_string()));
            (addr, Setup::new().listen(addr).run_by(prefix))
        };
        Cluster::of((0..self.holders.len()).map(node).collect()).flags(flags)
    }

    /// Lets packets pass from node to node in these directions, and in no other.
    fn only_one_way(&self, ways: &BTreeSet<(usize, usize)>) {
        let count = self.holders.len();
        for from in 0..count {
            let mut commands = String::new();
            for to in (0..count).filter(|to| *to != from) {
                let at = if ways.contains(&(from, to)) { hardware(to) } else { NOWHERE.to_string() };
                commands += &format!("neigh replace {} lladdr {at} dev eth0 nud permanent\n", address(to));
            }
            self.ip(from, &commands);
        }
    }

    /// Leaves just these links, both ways.
    fn only(&self, links: &[(usize, usize)]) {
        self.only_one_way(&links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect());
    }

    /// All but these directions.
    fn all_but(&self, ways: &[(usize, usize)]) {
        let count = self.holders.len();
        let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        self.only_one_way(&all.filter(|way| !ways.contains(way)).collect());
    }

    fn heal(&self) {
        self.all_but(&[]);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _killed = holder.kill();
            let _ended = holder.wait();
        }
    }
}

/// The groups of nodes that reach each other over these links, by whatever detour.
fn groups(count: usize, links: &[(usize, usize)]) -> Vec<BTreeSet<usize>> {
    let mut groups: Vec<BTreeSet<usize>> = (0..count).map(|node| BTreeSet::from([node])).collect();
    for (a, b) in links {
        let (with_a, rest): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.contains(a) || group.contains(b));
        groups = rest;
        groups.push(with_a.into_iter().flatten().collect());
    }
    groups
}

/// So many nodes with the leader first, the others in their order.
fn leader_first(cluster: &Cluster) -> Vec<usize> {
    let leader = cluster.leader();
    let mut order = vec![leader];
    order.extend(cluster.others(&[leader]));
    order
}

/// The switches work as they say: else none of the tests below tests anything.
#[test]
fn a_switch_switches_nothing() {
    if !within(module_path!(), "a_switch_switches_nothing") {
        return;
    }
    let net = Net::new(3);
    let cluster = net.cluster(&[]);
    // Each node alone, founding a cluster of its own; asked from another node's namespace.
    let servers: Vec<_> = (0..3).map(|node| cluster.setup(node).start()).collect();
    let reaches = |from: usize, to: usize| {
        let mut words = net.entering(from);
        let uri = format!("doozer:?ca={}:{PORT}", address(to));
        words.extend(["timeout", "0.5", env!("CARGO_BIN_EXE_doozer"), "-a", &uri, "rev"].map(String::from));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    let ways = || {
        let pairs = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to);
        pairs.filter(|(from, to)| reaches(*from, *to)).collect::<Vec<_>>()
    };
    let all = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    assert_eq!(ways(), all);
    net.only(&[(0, 1), (1, 2)]);
    assert_eq!(ways(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
    // An answer that is lost is as good as none, in both directions.
    net.all_but(&[(2, 0)]);
    assert_eq!(ways(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
    net.heal();
    assert_eq!(ways(), all);
    // We reach all of them, whatever is cut.
    net.only(&[]);
    servers.iter().for_each(|server| assert!(server.connect().rev() > 0));
}

/// Three in a line, each in turn in the middle: the ends do not reach each other, and everybody goes on, whoever leads.
#[test]
fn a_chain_of_three_stops() {
    if !within(module_path!(), "a_chain_of_three_stops") {
        return;
    }
    let net = Net::new(3);
    let cluster = net.cluster(PATIENT).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    load.gets_on(&[0, 1, 2], 20);
    for middle in [1, 2, 0, 1] {
        let links: Vec<(usize, usize)> = (0..3).filter(|node| *node != middle).map(|node| (middle, node)).collect();
        net.only(&links);
        load.gets_on(&[0, 1, 2], 60);
    }
    // And with the leader at an end for certain.
    net.heal();
    let order = leader_first(&cluster);
    net.only(&[(order[0], order[1]), (order[1], order[2])]);
    load.gets_on(&[0, 1, 2], 60);
    net.heal();
    load.gets_on(&[0, 1, 2], 20);
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// Five in a line, with the leader at an end; then five around a hub, of which the leader is not the one.
#[test]
fn a_line_or_a_star_of_five_stops() {
    if !within(module_path!(), "a_line_or_a_star_of_five_stops") {
        return;
    }
    let all = [0, 1, 2, 3, 4];
    let net = Net::new(5);
    let cluster = net.cluster(PATIENT).up(5);
    let load = cluster.load(&all, 1, 100);
    load.gets_on(&all, 20);
    let n = leader_first(&cluster);
    net.only(&[(n[0], n[1]), (n[1], n[2]), (n[2], n[3]), (n[3], n[4])]);
    load.gets_on(&all, 40);
    // At once another line, without a moment of peace.
    net.only(&[(n[3], n[0]), (n[0], n[4]), (n[4], n[1]), (n[1], n[2])]);
    load.gets_on(&all, 40);
    let leader = leader_first(&cluster)[0];
    let hub = (leader + 1) % 5;
    net.only(&all.iter().filter(|node| **node != hub).map(|node| (hub, *node)).collect::<Vec<_>>());
    load.gets_on(&all, 40);
    net.heal();
    load.gets_on(&all, 10);
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// The hub was cut off for a while and has an old log, so nobody can elect it; then the leader dies, and all that is left of
/// the network goes through the hub: it has to carry the messages of an election that it cannot win.
#[test]
fn a_stale_hub_stops_those_around_it() {
    if !within(module_path!(), "a_stale_hub_stops_those_around_it") {
        return;
    }
    let net = Net::new(5);
    let mut cluster = net.cluster(PATIENT).up(5);
    let leader = cluster.leader();
    let hub = (leader + 2) % 5;
    let rest = cluster.others(&[leader, hub]);
    let load = cluster.load(&rest, 1, 150);
    let ways: Vec<(usize, usize)> =
        (0..5).filter(|node| *node != hub).flat_map(|node| [(node, hub), (hub, node)]).collect();
    net.all_but(&ways);
    load.gets_on(&rest, 100);
    net.only(&rest.iter().map(|node| (hub, *node)).collect::<Vec<_>>());
    cluster.kill(leader);
    load.gets_on(&rest, 60);
    let made = cluster.connect(hub).put("/hub", b"writes too");
    net.heal();
    cluster.start(leader);
    load.gets_on(&rest, 20);
    let calls = load.stop();
    untroubled(&calls, &[]);
    let mut c = cluster.connect(leader);
    c.call(&bare(Verb::Sync)).revision();
    assert_eq!(c.ask(&get("/hub")), format!("rev={made} value=\"writes too\""));
    check(&calls, &cluster);
}

/// Packets pass in one direction and are lost in the other, between the leader and a follower, each way, and between two
/// followers: nobody stops.
#[test]
fn a_one_way_loss_stops_a_node() {
    if !within(module_path!(), "a_one_way_loss_stops_a_node") {
        return;
    }
    let net = Net::new(3);
    let cluster = net.cluster(PATIENT).up(3);
    let load = cluster.load(&[0, 1, 2], 1, 150);
    load.gets_on(&[0, 1, 2], 20);
    for (from, to) in [(0, 1), (1, 0), (1, 2)] {
        let order = leader_first(&cluster);
        net.all_but(&[(order[from], order[to])]);
        load.gets_on(&[0, 1, 2], 60);
        net.heal();
        load.gets_on(&[0, 1, 2], 10);
    }
    // In a ring: each hears one of the others only, and is heard by the other one. No two can talk; nobody may lead, and
    // all comes back.
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// A node that hears nobody, or whom nobody hears, is as good as cut off. It must not hold up the others with elections
/// that it cannot win, nor come back with a term that deposes the leader.
#[test]
fn a_deaf_or_mute_node_unsettles_the_others() {
    if !within(module_path!(), "a_deaf_or_mute_node_unsettles_the_others") {
        return;
    }
    let net = Net::new(3);
    let cluster = net.cluster(PATIENT).up(3);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let (cut, stays) = (others[0], [leader, others[1]]);
    let load = cluster.load(&stays, 1, 150);
    for deaf in [true, false] {
        let ways: Vec<(usize, usize)> =
            stays.iter().map(|node| if deaf { (*node, cut) } else { (cut, *node) }).collect();
        net.all_but(&ways);
        cluster.refuses_writes(cut);
        load.gets_on(&stays, 60);
        net.heal();
        // Its clients go on by themselves.
        let mut c = cluster.connect(cut);
        eventually("it takes writes again", || c.call(&set("/back", -1, b"")).rev);
        load.gets_on(&stays, 10);
        assert_eq!(cluster.leader(), leader, "the leader was deposed for nothing");
    }
    let calls = load.stop();
    untroubled(&calls, &[]);
    check(&calls, &cluster);
}

/// Five are split, with the leader on the smaller side: the larger side goes on, the smaller one reads and refuses writes.
/// No write of the smaller side is lost if it was acknowledged, or done if it was refused.
#[test]
fn a_minority_writes_or_a_majority_does_not() {
    if !within(module_path!(), "a_minority_writes_or_a_majority_does_not") {
        return;
    }
    let net = Net::new(5);
    let cluster = net.cluster(PATIENT).up(5);
    let watch = Watch::start(&cluster, &[0, 1, 2, 3, 4]);
    let all = [0, 1, 2, 3, 4];
    let mut calls = Vec::new();
    for _ in 0..2 {
        let n = leader_first(&cluster);
        let (few, many) = (&n[..2], &n[2..]);
        let (few_load, many_load) = (cluster.load(few, 1, 100), cluster.load(many, 1, 100));
        few_load.gets_on(few, 20);
        many_load.gets_on(many, 20);
        let known = cluster.connect(few[1]).put("/known", b"to all");
        cluster.converges();
        let links: Vec<(usize, usize)> = few.iter().flat_map(|a| few.iter().map(move |b| (*a, *b))).collect();
        let others = many.iter().flat_map(|a| many.iter().map(move |b| (*a, *b)));
        net.only(&links.into_iter().chain(others).filter(|(a, b)| a != b).collect::<Vec<_>>());
        many_load.gets_on(many, 40);
        let unseen = cluster.connect(many[0]).put("/unseen", b"by the few");
        for node in few {
            cluster.refuses_writes(*node);
            let mut c = cluster.connect(*node);
            assert_eq!(c.ask(&set("/never", -1, b"")), "READONLY");
            let said = c.ask(&bare(Verb::Sync));
            assert!(said.starts_with("READONLY"), "SYNC on the smaller side: {said}");
            assert_eq!(c.ask(&get("/known")), format!("rev={known} value=\"to all\""));
            assert_ne!(c.call(&get("/unseen")).rev, Some(unseen));
        }
        let mut waiting = cluster.connect(few[0]);
        waiting.send(&wait("/unseen", unseen));
        net.heal();
        assert_eq!(waiting.recv().rev, Some(unseen), "a wait on the smaller side");
        few_load.gets_on(few, 20);
        many_load.gets_on(many, 20);
        let of_many = many_load.stop();
        untroubled(&of_many, &[]);
        let of_few = few_load.stop();
        assert!(of_few.iter().any(|call| call.outcome() == Outcome::Readonly), "the smaller side has met no READONLY");
        calls.extend(of_many);
        calls.extend(of_few);
    }
    all.iter().for_each(|node| assert_eq!(cluster.connect(*node).ask(&get("/never")), "rev=0 value=\"\""));
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// A client can reach a node that the others cannot: its writes were refused with READONLY and its watch was stale, though the
/// other addresses that it knows take the one and have the other.
#[test]
fn a_client_stays_with_a_node_that_was_cut_off() {
    if !within(module_path!(), "a_client_stays_with_a_node_that_was_cut_off") {
        return;
    }
    let net = Net::new(3);
    let cluster = net.cluster(&[]).up(3);
    let order = leader_first(&cluster);
    // A follower; then the leader itself.
    for cut in [order[1], leader_first(&cluster)[0]] {
        let others = cluster.others(&[cut]);
        cluster.converges();
        let addresses: Vec<String> = (0..3).map(|node| cluster.addr(node).to_string()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let at_the_cut_one = async || loop {
                let client: Client = Options::parse(&addresses.join(",")).unwrap().connect().await.unwrap();
                if client.server().to_string() == addresses[cut] {
                    return client;
                }
            };
            let (watcher, writer) = (at_the_cut_one().await, at_the_cut_one().await);
            let next = watcher.rev().await.unwrap() + 1;
            let mut watch = watcher.watch_with("/seen", next, WhenStale::Report);
            // What is in flight when the node is cut off may wait for the end of the cut; so this is sent when it knows.
            net.only(&[(others[0], others[1])]);
            cluster.refuses_writes(cut);
            let rev = tokio::time::timeout(LIMIT, writer.set("/seen", -1, "by the others")).await.unwrap().unwrap();
            let event = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap();
            assert_eq!((event.rev, &event.value[..]), (rev, &b"by the others"[..]));
            for client in [&watcher, &writer] {
                assert_ne!(client.server().to_string(), addresses[cut]);
            }
        });
        // The command begins with a random address.
        let uri = addresses.iter().map(|address| format!("ca={address}")).collect::<Vec<_>>().join("&");
        for _ in 0..12 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_doozer"));
            command.args(["-a", &format!("doozer:?{uri}"), "set", "/seen", "-1"]).stdin(Stdio::null());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        net.heal();
        cluster.syncs(cut);
    }
}

/// Links come and go at random, with now and then a killed node. At every step, each node that has a way to a majority takes
/// writes; at the end all agree.
#[test]
#[ignore = "a soak: cargo soak"]
fn a_network_without_rest_makes_nodes_disagree() {
    if !within(module_path!(), "a_network_without_rest_makes_nodes_disagree") {
        return;
    }
    let net = Net::new(5);
    let mut cluster = net.cluster(&[]).up(5);
    let watch = Watch::start(&cluster, &[0, 1, 2, 3, 4]);
    let all = [0, 1, 2, 3, 4];
    let load = cluster.load(&all, 1, 100);
    load.gets_on(&all, 20);
    let mut random = Random(14);
    let pairs: Vec<(usize, usize)> = (0..5).flat_map(|a| (a + 1..5).map(move |b| (a, b))).collect();
    let mut stopped = 0;
    for round in 0..12 {
        let density = 30 + random.below(50);
        let links: Vec<(usize, usize)> = pairs.iter().filter(|_| random.below(100) < density).copied().collect();
        let dead = (round % 4 == 3).then(|| random.below(5));
        net.only(&links);
        if let Some(dead) = dead {
            cluster.kill(dead);
        }
        let links: Vec<(usize, usize)> =
            links.into_iter().filter(|(a, b)| dead != Some(*a) && dead != Some(*b)).collect();
        for group in groups(5, &links) {
            if group.len() >= 3 {
                load.gets_on(&group.iter().copied().collect::<Vec<_>>(), 10);
            } else {
                stopped += 1;
            }
        }
        if let Some(dead) = dead {
            net.heal();
            cluster.start(dead);
        }
    }
    assert!(stopped > 2, "nobody was ever cut off: {stopped}");
    net.heal();
    load.gets_on(&all, 20);
    let calls = load.stop();
    watch.stop(&cluster);
    check(&calls, &cluster);
}

/// Everything at once, at random: links, kills, stops, hangs, slots that are emptied and opened. Now and then there is peace,
/// in which every node has to take writes again; at the end all agree. `DOOZER_TEST_ROUNDS` makes it longer, and
/// `DOOZER_TEST_SEED` other than the last time.
#[test]
#[ignore = "a soak: cargo soak"]
fn bad_luck_of_every_kind_makes_nodes_disagree() {
    if !within(module_path!(), "bad_luck_of_every_kind_makes_nodes_disagree") {
        return;
    }
    let number = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    let (rounds, mut random) = (number("DOOZER_TEST_ROUNDS", 3), Random(number("DOOZER_TEST_SEED", 15)));
    let all = [0, 1, 2, 3, 4];
    let net = Net::new(5);
    let mut cluster = net.cluster(&["-timeout", "2"]).up(3);
    let pairs: Vec<(usize, usize)> = (0..5).flat_map(|a| (a + 1..5).map(move |b| (a, b))).collect();
    let watch = Watch::start(&cluster, &all);
    let load = cluster.load(&all, 1, 80);
    for _ in 0..rounds {
        let mut done = Vec::new();
        for _ in 0..12 {
            let node = random.below(5);
            let live = cluster.live().contains(&node);
            let what = random.below(12);
            done.push((what, node));
            match what {
                0 | 1 if live => cluster.kill(node),
                2 if live => drop(cluster.stop(node)),
                3 if live => cluster.hang(node),
                4 | 5 if cluster.is_hung(node) => cluster.wake(node),
                4..=6 if cluster.is_down(node) => cluster.spawn(node),
                7 | 8 => {
                    let density = 20 + random.below(60);
                    let links: Vec<_> = pairs.iter().filter(|_| random.below(100) < density).copied().collect();
                    net.only(&links);
                }
                9 => net.all_but(&[(random.below(5), random.below(5)), (random.below(5), random.below(5))]),
                10 => net.heal(),
                11 if live => {
                    // Whether it is taken, refused or lost; nobody waits for the answer.
                    let mut c = cluster.connect(node);
                    c.try_raw(&framed(&set(&format!("/ctl/cal/{}", random.below(3)), -1, b"")));
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(20 + random.next() % 600));
        }
        eprintln!("then peace, after {done:?}");
        net.heal();
        let (down, hung): (Vec<_>, Vec<_>) = cluster.absent().into_iter().partition(|node| cluster.is_down(*node));
        hung.iter().for_each(|node| cluster.wake(*node));
        down.iter().for_each(|node| cluster.spawn(*node));
        all.iter().for_each(|node| cluster.serves(*node));
        load.gets_on(&all, 5);
        // Whatever slot was left open is opened anew, for everybody.
        for (slot, _) in cluster.slots().iter().filter(|(_, id)| id.is_empty()) {
            cluster.connect(0).put(slot, b"");
        }
        cluster.has_members(3);
    }
    let calls = load.stop();
    watch.stop(&cluster);
    check(&calls, &cluster);
}
