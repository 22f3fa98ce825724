//! Memory: what may stop the server's thread while it only reads or writes its own.

use super::machine::Machine;
use super::{Finding, Knob};

pub fn findings(machine: &Machine) -> Vec<Finding> {
    vec![huge_pages(machine), swap(machine), numa_balancing(machine)]
}

fn huge_pages(machine: &Machine) -> Finding {
    const DIR: &str = "sys/kernel/mm/transparent_hugepage";
    let change = format!("echo madvise | sudo tee /{DIR}/enabled /{DIR}/defrag");
    let knob =
        Knob::new("huge pages", "madvise, or never", "to make one, memory is moved about while the server waits");
    let (Some(enabled), Some(defrag)) =
        (machine.chosen(format!("{DIR}/enabled")), machine.chosen(format!("{DIR}/defrag")))
    else {
        return knob.unknown(format!("not said in /{DIR}"));
    };
    let found = format!("{enabled}, defrag {defrag}");
    match (enabled.as_str(), defrag.as_str()) {
        ("always", "always") => knob.bad(found, change),
        ("always", _) => knob.advice(found, change),
        _ => knob.good(found),
    }
}

fn swap(machine: &Machine) -> Finding {
    let knob = Knob::new("swap", "none", "the tree is in memory; all wait for a page that is not");
    let Some(table) = machine.read("proc/swaps") else {
        return knob.unknown("not said in /proc/swaps");
    };
    let areas: Vec<&str> = table.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
    match areas.as_slice() {
        [] => knob.good("none"),
        _ if is_never_swapped(machine) => knob.good("none for the running server"),
        areas => knob.advice(areas.join(", "), "MemorySwapMax=0 in the unit; or sudo swapoff -a"),
    }
}

/// Whether the group of the server that runs may not use any swap.
fn is_never_swapped(machine: &Machine) -> bool {
    let Some(pid) = machine.running() else { return false };
    let groups = machine.read(format!("proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/"));
    group.is_some_and(|group| machine.number(format!("sys/fs/cgroup/{group}/memory.swap.max")) == Some(0))
}

fn numa_balancing(machine: &Machine) -> Finding {
    let knob = Knob::new("numa balancing", "off", "it takes pages away to see who misses them");
    let nodes = machine.list("sys/devices/system/node").iter().filter(|name| is_node(name)).count();
    match machine.number("proc/sys/kernel/numa_balancing") {
        _ if nodes == 1 => knob.good("one node"),
        Some(0) => knob.good("off"),
        Some(_) => knob.advice(format!("on, with {nodes} nodes"), "sudo sysctl -w kernel.numa_balancing=0"),
        None => knob.unknown("not said in /proc/sys/kernel/numa_balancing"),
    }
}

fn is_node(name: &str) -> bool {
    name.strip_prefix("node").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
