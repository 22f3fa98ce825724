//! Brings the faults of a mix upon a world, each kind by a chance of its own, so that leaving one out changes the others little; and
//! takes them away again. What must not happen is kept from happening here: that more disks are harmed than the cluster promises
//! to survive, and that its slots are emptied meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use doozer::wire::{Request, Verb};

use crate::chance::Chance;
use crate::mix::{Kind, Mix};
use crate::net::{Chaos, Host};
use crate::world::{World, set};

/// What is to happen next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Strike(Kind),
    /// What is over: see [`Relief`].
    Relief(Relief),
    /// Processes that have ended are started again.
    Supervise,
    /// Somebody reads.
    Read,
}

/// What ends a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Relief {
    Start(Host),
    Resume(Host),
    Heal(Host, Host),
    HealAll,
    Disk(Host),
    Way(Host, Host),
    Frames,
    Snapshots(Host),
}

/// See the module.
pub struct Weather {
    mix: Mix,
    chances: BTreeMap<Kind, Chance>,
    /// What happens when, by time in milliseconds and by number.
    plan: BTreeSet<(u64, u64, Turn)>,
    planned: u64,
    /// Hosts that are to stay down until they are started.
    down: BTreeSet<Host>,
    /// Hosts whose disks do not have what they had, with the process that may still not know it.
    harmed: BTreeMap<Host, u32>,
    /// How often each kind came.
    pub strikes: BTreeMap<Kind, u64>,
}

impl Weather {
    pub fn new(seed: u64, mix: &Mix, now: u64) -> Weather {
        let chances = mix.faults.keys().map(|kind| (*kind, Chance::new(seed ^ ((*kind as u64 + 1) << 40)))).collect();
        let mut weather = Weather {
            mix: mix.clone(),
            chances,
            plan: BTreeSet::new(),
            planned: 0,
            down: BTreeSet::new(),
            harmed: BTreeMap::new(),
            strikes: BTreeMap::new(),
        };
        for kind in mix.faults.keys() {
            weather.next_strike(*kind, now);
        }
        weather.at(now + 1_000, Turn::Supervise);
        weather.at(now + 2_000, Turn::Read);
        weather
    }

    /// Lets there be faults until this time, in milliseconds.
    pub fn rage(&mut self, world: &mut World, until: u64) {
        while let Some((at, _, turn)) = self.plan.pop_first() {
            if at >= until {
                break;
            }
            world.run(at.saturating_sub(world.now()));
            match turn {
                Turn::Strike(kind) => {
                    if let Some(mut chance) = self.chances.remove(&kind) {
                        *self.strikes.entry(kind).or_default() += 1;
                        self.strike(world, kind, &mut chance);
                        self.chances.insert(kind, chance);
                    }
                    self.next_strike(kind, world.now());
                }
                Turn::Relief(relief) => self.relieve(world, &relief),
                Turn::Read => {
                    let host = usize::try_from(self.planned).expect("a small number") % world.nodes.len();
                    world.must_read(host);
                    self.at(world.now() + 100 * self.mix.flags.heartbeat_ms, Turn::Read);
                }
                Turn::Supervise => {
                    for host in 0..world.nodes.len() {
                        world.replace_refused_disk(host);
                        if !world.nodes[host].is_up() && !self.down.contains(&host) && world.nodes[host].process > 0 {
                            world.start(host);
                        }
                    }
                    self.at(world.now() + 1_000, Turn::Supervise);
                }
            }
        }
        world.run(until.saturating_sub(world.now()));
    }

    fn at(&mut self, ms: u64, turn: Turn) {
        self.planned += 1;
        self.plan.insert((ms, self.planned, turn));
    }

    fn next_strike(&mut self, kind: Kind, now: u64) {
        if let (Some(mean), Some(chance)) = (self.mix.faults.get(&kind), self.chances.get_mut(&kind)) {
            let wait = chance.wait(*mean).max(1);
            self.at(now + wait, Turn::Strike(kind));
        }
    }

    /// How long a fault lasts.
    fn lasts(&self, chance: &mut Chance) -> u64 {
        let most = chance.pick(&[20, 200, 1_000, 5_000, 30_000]);
        chance.below(most.min(self.mix.longest)) + 1
    }

    fn relief(&mut self, world: &World, chance: &mut Chance, relief: Relief) {
        let lasts = self.lasts(chance);
        self.at(world.now() + lasts, Turn::Relief(relief));
    }

    /// A host, as often the leader's as any other.
    fn victim(world: &World, chance: &mut Chance) -> Host {
        let any = chance.index(world.nodes.len());
        if chance.once_in(2) { world.leader().unwrap_or(any) } else { any }
    }

    fn pair(world: &World, chance: &mut Chance) -> Option<(Host, Host)> {
        let a = Self::victim(world, chance);
        let others = world.nodes.len() - 1;
        (others > 0).then(|| (a, (a + 1 + chance.index(others)) % world.nodes.len()))
    }

    fn strike(&mut self, world: &mut World, kind: Kind, chance: &mut Chance) {
        let host = Self::victim(world, chance);
        match kind {
            Kind::Kill | Kind::Power | Kind::Leave => self.end(world, host, kind, chance),
            Kind::Crash => {
                if world.nodes[host].runs() {
                    let most = chance.pick(&[4, 30, 300]);
                    world.nodes[host].doom = Some(u32::try_from(chance.below(most)).expect("a small number"));
                }
            }
            Kind::Pause => {
                if world.nodes[host].runs() {
                    world.pause(host);
                    self.relief(world, chance, Relief::Resume(host));
                }
            }
            Kind::Stop => {
                if world.nodes[host].runs() {
                    world.stop(host);
                }
            }
            Kind::Blackout => {
                for host in 0..world.nodes.len() {
                    if !chance.once_in(4) {
                        let kind = chance.pick(&[Kind::Kill, Kind::Power]);
                        self.end(world, host, kind, chance);
                    }
                }
            }
            Kind::Cut | Kind::OneWay => {
                if let Some((a, b)) = Self::pair(world, chance) {
                    if kind == Kind::Cut {
                        world.cut(a, b)
                    } else {
                        world.cut_way(a, b)
                    }
                    self.relief(world, chance, Relief::Heal(a, b));
                }
            }
            Kind::Isolate => {
                world.isolate(host);
                self.relief(world, chance, Relief::HealAll);
            }
            Kind::Shape => self.shape(world, chance),
            Kind::Break => {
                if let Some((a, b)) = Self::pair(world, chance) {
                    world.break_between(a, b);
                }
            }
            Kind::SlowWay => {
                if let Some((a, b)) = Self::pair(world, chance) {
                    let slow = chance.pick(&[(1_000, 20_000), (80_000, 300_000), (500_000, 900_000)]);
                    world.net.set_delay(a, b, slow);
                    self.relief(world, chance, Relief::Way(a, b));
                }
            }
            Kind::Frames => {
                let often = chance.pick(&[10, 100, 1_000, 3_000]);
                world.net.chaos =
                    Chaos { lost: chance.below(often), twice: chance.below(often), overtaken: chance.below(often) };
                self.relief(world, chance, Relief::Frames);
            }
            Kind::Clock => {
                let off = chance.pick(&[1_000, 50_000, 400_000]);
                world.nodes[host].clock = 1_000_000 - off + chance.below(2 * off + 1);
            }
            Kind::SlowDisk | Kind::StuckDisk | Kind::DiskError | Kind::FullDisk => {
                self.strike_disk(world, host, kind, chance)
            }
            Kind::Flip | Kind::LostSector | Kind::Corrupt | Kind::Wipe => self.harm(world, host, kind, chance),
            Kind::Slots => self.slots(world, host, chance),
            Kind::Snapshot => {
                if let Some(replica) = world.nodes[host].replica() {
                    replica.hurry(usize::MAX, 1);
                    self.at(world.now() + 2 * self.mix.flags.heartbeat_ms, Turn::Relief(Relief::Snapshots(host)));
                }
            }
        }
    }

    fn strike_disk(&mut self, world: &mut World, host: Host, kind: Kind, chance: &mut Chance) {
        match kind {
            Kind::SlowDisk => {
                world.disk(host).latency = chance.pick(&[(500, 5_000), (2_000, 60_000), (20_000, 400_000)])
            }
            Kind::StuckDisk => world.disk(host).stalled = true,
            Kind::DiskError => {
                world.disk(host).failing = world.nodes[host].is_up();
                return;
            }
            Kind::FullDisk => (world.disk(host).full, world.disk(host).brimful) = (true, chance.once_in(2)),
            _ => unreachable!("{kind:?} is no fault of a disk"),
        }
        self.relief(world, chance, Relief::Disk(host));
    }

    /// A node's process ends, and is started again some time.
    fn end(&mut self, world: &mut World, host: Host, kind: Kind, chance: &mut Chance) {
        if !world.nodes[host].is_up() {
            return;
        }
        match kind {
            Kind::Power => world.power_off(host),
            _ => world.kill(host),
        }
        self.down.insert(host);
        if kind == Kind::Leave {
            // Long enough to be put out of its slot, and sometimes to be forgotten.
            let times = chance.pick(&[1, 2, 12]);
            let ms = (self.mix.flags.timeout_ms * times).min(40_000) + chance.below(5_000);
            self.at(world.now() + ms, Turn::Relief(Relief::Start(host)));
        } else {
            self.relief(world, chance, Relief::Start(host));
        }
    }

    fn relieve(&mut self, world: &mut World, relief: &Relief) {
        match *relief {
            Relief::Start(host) => {
                self.down.remove(&host);
                if !world.nodes[host].is_up() {
                    world.start(host);
                }
            }
            Relief::Resume(host) => {
                if world.nodes[host].paused {
                    world.resume(host);
                }
            }
            Relief::Heal(a, b) => world.heal(a, b),
            Relief::HealAll => world.heal_all(),
            Relief::Disk(host) => world.disk(host).heal(),
            Relief::Way(a, b) => world.net.clear_delay(a, b),
            Relief::Snapshots(host) => {
                let after = self.mix.flags.sizes.snapshot_after;
                if let Some(replica) = world.nodes[host].replica() {
                    replica.hurry(usize::MAX, after);
                }
            }
            Relief::Frames => world.net.chaos = Chaos::default(),
        }
    }

    // ---- harm ----

    /// Forgets the harm of disks whose nodes have noticed it, if there was anything to notice: they have run since.
    fn mend(&mut self, world: &World) {
        self.harmed.retain(|host, process| {
            let node = &world.nodes[*host];
            node.process == *process || node.running().is_none() || node.disk.corrupting
        });
    }

    /// Whether the members can spare this one for good: those that still have what they had are a majority without it.
    fn can_spare(&self, world: &World, host: Host) -> bool {
        !world.has_lost_its_majority(|other| other == host || self.harmed.contains_key(&other))
    }

    /// Whether more disks are harmed than the cluster promises to survive: when its members were fewer than was thought.
    pub fn is_too_much(&mut self, world: &World) -> bool {
        self.mend(world);
        // A member was spared, and another one is on its way out.
        let both = !self.harmed.is_empty() && world.is_changing_members();
        both || world.has_lost_its_majority(|host| self.harmed.contains_key(&host))
    }

    fn harm(&mut self, world: &mut World, host: Host, kind: Kind, chance: &mut Chance) {
        self.mend(world);
        if self.harmed.contains_key(&host) || !self.can_spare(world, host) || world.nodes[host].process == 0 {
            return;
        }
        let was_up = world.nodes[host].is_up();
        if kind == Kind::Corrupt {
            world.disk(host).corrupting = was_up;
            if was_up {
                self.harmed.insert(host, world.nodes[host].process);
                world.note(host, "its next write is not what it should be");
            }
            return;
        }
        let wiped = kind == Kind::Wipe;
        if wiped && !world.lead_back(host) {
            return;
        }
        // What is lost at rest shows when it is read.
        if was_up && (wiped || chance.once_in(2)) {
            self.end(world, host, Kind::Kill, chance);
        }
        let what = match kind {
            Kind::Flip => world.nodes[host].disk.rot(chance),
            Kind::LostSector => world.nodes[host].disk.lose_sector(chance),
            _ => {
                world.disk(host).wipe();
                Some("everything".into())
            }
        };
        if let Some(what) = what {
            self.harmed.insert(host, world.nodes[host].process);
            let harmed: Vec<Host> = self.harmed.keys().copied().collect();
            world.note(host, &format!("its disk has lost {what} (harmed: {harmed:?}, members: {:?})", world.members()));
        }
    }

    // ---- slots ----

    fn slots(&mut self, world: &mut World, host: Host, chance: &mut Chance) {
        self.mend(world);
        if !world.nodes[host].runs() {
            return;
        }
        let path = format!("/ctl/cal/{}", chance.index(self.mix.voters + 2));
        let deletes = chance.once_in(3);
        if !self.harmed.is_empty() {
            return;
        }
        // An open slot where none was makes a larger cluster; one that was held makes a smaller one for a while.
        let open = set(&path, -1, b"");
        let request = if deletes { Request { value: None, verb: Some(Verb::Del.code()), ..open } } else { open };
        world.demand(host, &request);
    }

    // ---- shapes ----

    /// Everything is healed but for some ways, and whoever is connected to a majority writes, whoever is connected to anyone reads.
    fn shape(&mut self, world: &mut World, chance: &mut Chance) {
        self.calm(world);
        let mut order: Vec<Host> = (0..world.nodes.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, chance.index(i + 1));
        }
        // As often as not the leader is where it hurts.
        if let Some(at) = world.leader().and_then(|leader| order.iter().position(|host| *host == leader)) {
            let place = chance.pick(&[0, at, order.len() / 2]);
            order.swap(at, place);
        }
        let n = order.len();
        if n == 1 {
            return;
        }
        let chain = |order: &[Host]| order.windows(2).map(|two| (two[0], two[1])).collect::<Vec<_>>();
        let hub = |order: &[Host]| order[1..].iter().map(|host| (order[0], *host)).collect::<Vec<_>>();
        let (ways, name) = match chance.below(5) {
            0 => (chain(&order), "a chain"),
            1 => (hub(&order), "a hub"),
            2 => {
                let mut ways = chain(&order);
                ways.extend(order.first().copied().zip(order.last().copied()));
                (ways, "a ring")
            }
            3 => {
                // Two camps, each of which is whole.
                let (left, right) = order.split_at(1 + chance.index(n));
                let whole =
                    |camp: &[Host]| camp.iter().flat_map(|a| camp.iter().map(move |b| (*a, *b))).collect::<Vec<_>>();
                ([whole(left), whole(right)].concat(), "two camps")
            }
            _ => {
                // The leader keeps only its way to a hub.
                let (first, rest) = order.split_at(1);
                let mut ways = hub(rest);
                ways.extend(first.iter().copied().zip(rest.first().copied()));
                (ways, "a stale hub")
            }
        };
        world.note(0, &format!("the ways that are left are {name}: {ways:?}"));
        world.only(&ways);
        let dead = chance.once_in(3).then(|| Self::victim(world, chance)).filter(|host| world.nodes[*host].is_up());
        if let Some(dead) = dead {
            world.kill(dead);
            self.down.insert(dead);
        }
        world.settle();
        world.probe_all();
        if let Some(dead) = dead {
            self.down.remove(&dead);
            world.start(dead);
        }
        world.heal_all();
    }

    /// Nothing but what is healthy.
    fn calm(&mut self, world: &mut World) {
        self.plan.retain(|(_, _, turn)| !matches!(turn, Turn::Relief(Relief::Start(_))));
        self.down.clear();
        world.heal_everything();
    }
}
