//! Which cores the disk and the network card interrupt.
//!
//! A write is done when the disk's interrupt has been handled. On the core that takes it, the server that waits for it goes
//! on at once; on another it has to be woken across cores first. A disk with one queue interrupts one core, so the
//! server belongs there. A disk with a queue for each core interrupts the one that has sent the write: any will do. Between
//! these, `/sys/block/*/mq` says which queue a core sends to, and `/proc/irq` where that queue's interrupts go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::machine::{Machine, cores, ranges};
use super::network::Card;
use super::{Finding, Knob};

/// What in its name marks an interrupt that comes with no data.
const CONTROL: &[&str] = &["config", "event", "async", "misc", "mgmt", "mgmnt", "control", "ctrl", "cmd"];

/// One interrupt of a device.
pub struct Interrupt {
    number: u32,
    name: String,
    /// Where it goes.
    cores: BTreeSet<usize>,
}

impl Interrupt {
    /// Which of the device's queues it belongs to, counted from 0: `virtio1-req.0`, `nvme0q1`.
    fn queue(&self) -> Option<usize> {
        if let Some((_, n)) = self.name.rsplit_once("-req.") {
            return n.parse().ok();
        }
        self.name.strip_prefix("nvme")?.split_once('q')?.1.parse::<usize>().ok()?.checked_sub(1)
    }

    /// What moves it to a core; none if the kernel places it itself, as it does those of disks with queues for each core.
    fn moved_to(&self, machine: &Machine, core: usize) -> Option<String> {
        let file = format!("proc/irq/{}/smp_affinity_list", self.number);
        machine.takes_writes(&file).then(|| format!("echo {core} | sudo tee /{file}"))
    }

    /// Whether it comes with data, or with word of it.
    fn is_of_data(&self) -> bool {
        let admin = self.name.strip_prefix("nvme").and_then(|n| n.split_once('q')).is_some_and(|(_, q)| q == "0");
        !admin && !CONTROL.iter().any(|word| self.name.contains(word))
    }
}

/// The interrupts with which a device tells of data. It is at `device` in `sys`, or below that.
pub fn of(machine: &Machine, device: &Path) -> Vec<Interrupt> {
    let table = machine.read("proc/interrupts").unwrap_or_default();
    let numbers = device.ancestors().find_map(|above| {
        let vectors = machine.list(above.join("msi_irqs"));
        let single = machine.read(above.join("irq")).filter(|irq| irq != "0");
        // With vectors of its own, a device does not use the line that `irq` names.
        let names = if vectors.is_empty() { single.into_iter().collect() } else { vectors };
        let numbers: BTreeSet<u32> = names.iter().filter_map(|n| n.parse().ok()).collect();
        Some(numbers).filter(|numbers| !numbers.is_empty())
    });
    let mut lines = table.lines();
    let header: Vec<usize> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|c| c.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut found = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(number), Some(name)) = (words.first().and_then(|n| n.strip_suffix(':')?.parse().ok()), words.last())
        else {
            continue;
        };
        let named = || device.iter().any(|part| part.to_str() == Some(name));
        if !numbers.as_ref().map_or_else(named, |numbers| numbers.contains(&number)) {
            continue;
        }
        let counts: Vec<(u64, usize)> =
            words.iter().skip(1).zip(&header).map(|(n, &core)| (n.parse().unwrap_or(0), core)).collect();
        let busiest = counts.iter().max_by_key(|(n, _)| n).filter(|(n, _)| *n > 0).map(|(_, core)| *core);
        let listed = |file: &str| machine.read(format!("proc/irq/{number}/{file}")).map(|list| cores(&list));
        let effective = listed("effective_affinity_list").filter(|cores| !cores.is_empty());
        // Where the kernel does not say where they go, it is where they went; or where they may go.
        let cores = effective.or(busiest.map(|core| BTreeSet::from([core]))).or_else(|| listed("smp_affinity_list"));
        found.push(Interrupt { number, name: (*name).to_string(), cores: cores.unwrap_or_default() });
    }
    found.retain(Interrupt::is_of_data);
    found
}

pub fn findings(machine: &Machine, core: Option<usize>, disks: &[Disk], card: &Card) -> Vec<Finding> {
    vec![of_disks(machine, core, disks), of_card(machine, core, card), balancer(machine)]
}

/// The cores for which the interrupt of a write goes to the core that has sent it; none if that is not known.
fn suited(machine: &Machine, disk: &Disk, interrupts: &[Interrupt]) -> Option<BTreeSet<usize>> {
    if let [only] = interrupts {
        return Some(only.cores.clone());
    }
    let mq = disk.path.join("mq");
    let mut seen = BTreeSet::new();
    let mut suited = BTreeSet::new();
    // A core that stands at several queues writes to the first.
    for queue in machine.list(&mq) {
        let interrupt = interrupts.iter().find(|i| i.queue().is_some_and(|n| queue == n.to_string()))?;
        for core in cores(&machine.read(mq.join(&queue).join("cpu_list"))?) {
            if seen.insert(core) && interrupt.cores.contains(&core) {
                suited.insert(core);
            }
        }
    }
    Some(suited).filter(|_| !seen.is_empty())
}

fn summary(interrupts: &[Interrupt]) -> String {
    let to: BTreeSet<usize> = interrupts.iter().flat_map(|i| i.cores.iter().copied()).collect();
    let s = if to.len() == 1 { "" } else { "s" };
    let names = match interrupts {
        [] => return "none".into(),
        [only] => only.name.clone(),
        [first, .., last] => format!("{} to {}", first.name, last.name),
    };
    format!("core{s} {} ({names})", ranges(&to))
}

fn of_disks(machine: &Machine, core: Option<usize>, disks: &[Disk]) -> Finding {
    let knob = Knob::new("disk interrupts", "on the server's core", "else each write ends with a wake-up across cores");
    let mut found = Vec::new();
    let mut suits = machine.usable_cores();
    let mut single = None;
    for disk in disks {
        let interrupts = disk.controllers.iter().flat_map(|c| of(machine, c)).collect::<Vec<_>>();
        let Some(suited) = suited(machine, disk, &interrupts) else {
            let shown = if interrupts.is_empty() { "no interrupts shown".into() } else { summary(&interrupts) };
            return knob.unknown(format!("{}: {shown}", disk.name));
        };
        suits.retain(|core| suited.contains(core));
        found.push(format!("{}: {}", disk.name, summary(&interrupts)));
        single = single.or(<[_; 1]>::try_from(interrupts).ok().map(|[only]| only));
    }
    let every = suits == machine.usable_cores();
    let found = if every && suits.len() > 1 { format!("{}: any will do", found.join(", ")) } else { found.join(", ") };
    if disks.is_empty() {
        return knob.unknown("the data's disk is not known");
    }
    let best = best(machine, &suits);
    // The other way, where there is one interrupt to be moved.
    let or_move = |core| {
        let command = single.as_ref().and_then(|interrupt| interrupt.moved_to(machine, core));
        command.map(|command| format!(", or {command}")).unwrap_or_default()
    };
    match (core, best) {
        (Some(core), _) if suits.contains(&core) => knob.good(format!("{found}; server: {core}")),
        (Some(core), Some(best)) => {
            knob.bad(format!("{found}; server: {core}"), format!("doozerd --core {best}{}", or_move(core)))
        }
        (None, Some(best)) => knob.advice(format!("{found}; not pinned"), format!("doozerd --core {best}")),
        (_, None) => {
            let own = core.or_else(|| machine.usable_cores().last().copied());
            let moved = own.map(or_move).unwrap_or_default();
            knob.advice(format!("{found}; not for the server"), format!("let the server use it{moved}"))
        }
    }
}

/// Of the cores that suit, an isolated one; else the last: the first has the most other work on most machines.
fn best(machine: &Machine, suits: &BTreeSet<usize>) -> Option<usize> {
    let isolated = machine.read("sys/devices/system/cpu/isolated").map(|list| cores(&list)).unwrap_or_default();
    suits.intersection(&isolated).next().or(suits.last()).copied()
}

fn of_card(machine: &Machine, core: Option<usize>, card: &Card) -> Finding {
    let knob = Knob::new("card interrupts", "on the server's core", "else each message is a wake-up across cores");
    let Card::Found { name, devices } = card else {
        return match card {
            Card::Loopback => knob.good("no card: loopback"),
            _ => knob.unknown("no card is known"),
        };
    };
    let mut interrupts: Vec<Interrupt> = devices.iter().flat_map(|device: &PathBuf| of(machine, device)).collect();
    // What is sent needs no one to be woken; what comes in does.
    let incoming = |i: &Interrupt| {
        let name = i.name.to_ascii_lowercase();
        ["rx", "input", "comp"].iter().any(|word| name.contains(word))
    };
    if interrupts.iter().any(incoming) {
        interrupts.retain(incoming);
    }
    if interrupts.is_empty() {
        return knob.unknown(format!("{name}: no interrupts shown"));
    }
    let found = format!("{name}: {}", summary(&interrupts));
    let at_core = |core| interrupts.iter().filter(|i| i.cores.contains(&core)).count();
    match (core, interrupts.as_slice()) {
        (Some(core), all) if at_core(core) == all.len() => knob.good(found),
        (Some(core), [only]) => {
            let remedy = only.moved_to(machine, core).unwrap_or_else(|| go_there(machine, only));
            knob.advice(format!("{found}; server: {core}"), remedy)
        }
        (Some(core), _) => knob.advice(
            format!("{found}; server: {core}"),
            format!("ethtool -X {name} or -N {name}: steer the server's port to the queue of core {core}"),
        ),
        (None, [only]) => knob.advice(
            format!("{found}; not pinned"),
            format!("{}, if the disk's interrupts go there too", go_there(machine, only)),
        ),
        (None, _) => knob.unknown(format!("{found}; not pinned")),
    }
}

/// How the server gets to the core of an interrupt.
fn go_there(machine: &Machine, interrupt: &Interrupt) -> String {
    match interrupt.cores.intersection(&machine.usable_cores()).next() {
        Some(core) => format!("doozerd --core {core}"),
        None => format!("let the server use core {}", ranges(&interrupt.cores)),
    }
}

fn balancer(machine: &Machine) -> Finding {
    let knob = Knob::new("irqbalance", "not running", "it moves interrupts to other cores");
    let pids = machine.list("proc");
    let is = |pid: &&String| {
        pid.bytes().all(|b| b.is_ascii_digit())
            && machine.read(format!("proc/{pid}/comm")).is_some_and(|name| name == "irqbalance")
    };
    match pids.iter().find(is) {
        Some(pid) => knob.advice(
            format!("running, process {pid}"),
            "sudo systemctl disable --now irqbalance; or IRQBALANCE_BANNED_CPULIST",
        ),
        None if machine.shows_all_processes() => knob.good("not running"),
        None => knob.unknown("/proc does not show all processes"),
    }
}
