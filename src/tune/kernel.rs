//! The kernel: is it new enough, is io_uring to be had, what does asking for the time cost.

use super::machine::Machine;
use super::{Finding, Knob};

/// The oldest kernel that the server is made for.
const OLDEST: (u32, u32) = (6, 1);
/// Clocks that are read without entering the kernel.
const FAST_CLOCKS: &[&str] = &["tsc", "arch_sys_counter", "riscv_clocksource", "timebase", "tod"];
/// The same, of hypervisors: as fast where the host lets them.
const VIRTUAL_CLOCKS: &[&str] = &["kvm-clock", "hyperv_clocksource_tsc_page"];

pub fn findings(machine: &Machine) -> Vec<Finding> {
    vec![version(machine), io_uring(machine), clock(machine)]
}

fn version(machine: &Machine) -> Finding {
    let knob =
        Knob::new("kernel", format!("{}.{} or later", OLDEST.0, OLDEST.1), "the oldest that the server is made for");
    let Some(release) = machine.read("proc/sys/kernel/osrelease") else {
        return knob.unknown("not said in /proc/sys/kernel/osrelease");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => knob.good(release),
        (Some(_), Some(_)) => knob.bad(release, "install a later kernel"),
        _ => knob.unknown(release),
    }
}

fn io_uring(machine: &Machine) -> Finding {
    const ENABLE: &str = "sudo sysctl -w kernel.io_uring_disabled=0";
    let knob = Knob::new("io_uring", "enabled for all", "all input and output goes through it");
    let switch = machine.read("proc/sys/kernel/io_uring_disabled");
    match (&machine.asked.ring, switch.as_deref()) {
        (Ok(()), Some("1")) => knob.advice(
            "only for root and kernel.io_uring_group",
            format!("{ENABLE} (or have the server's user in that group)"),
        ),
        (Ok(()), _) => knob.good("enabled"),
        (Err(why), _) if why.kind() == std::io::ErrorKind::OutOfMemory => {
            knob.bad(format!("refused: {why}"), super::limits::MORE_MEMLOCK)
        }
        (Err(why), Some("1" | "2")) => knob.bad(format!("refused: {why}; switched off by sysctl"), ENABLE),
        (Err(why), _) => knob.bad(
            format!("refused: {why}"),
            "in a container: a seccomp profile that allows io_uring_setup and io_uring_enter",
        ),
    }
}

fn clock(machine: &Machine) -> Finding {
    const DIR: &str = "sys/devices/system/clocksource/clocksource0";
    let knob = Knob::new("clock source", "tsc, or its like", "to read another clock is a system call");
    let Some(current) = machine.read(format!("{DIR}/current_clocksource")) else {
        return knob.unknown(format!("not said in /{DIR}"));
    };
    if FAST_CLOCKS.contains(&current.as_str()) {
        return knob.good(current);
    }
    let available = machine.read(format!("{DIR}/available_clocksource")).unwrap_or_default();
    let fast = available.split_whitespace().find(|name| FAST_CLOCKS.contains(name));
    let remedy = match fast {
        Some(fast) => format!("echo {fast} | sudo tee /{DIR}/current_clocksource"),
        None => "sudo dmesg | grep -i -e tsc -e clocksource    # says why the kernel trusts no better one".into(),
    };
    if VIRTUAL_CLOCKS.contains(&current.as_str()) {
        return match fast {
            Some(_) => knob.advice(current, remedy),
            None => knob.good(current),
        };
    }
    knob.bad(current, remedy)
}
