//! The network card that the server is reached by, and what holds back what it has received.

use std::net::IpAddr;
use std::path::PathBuf;

use super::machine::Machine;
use super::{Finding, Knob};

/// Microseconds for which a card may hold back an interrupt before that is bad, and not a matter of taste.
const HOLD_MAX: u64 = 10;

/// What leads to the address that the server listens on.
pub enum Card {
    /// Nobody outside this machine reaches it.
    Loopback,
    /// A card, and what it is made of, in `sys`: more than one if cards are bonded.
    Found {
        /// Its name: `eth0`.
        name: String,
        /// Where the hardware is.
        devices: Vec<PathBuf>,
    },
    /// There is none, or it cannot be said.
    Unknown,
}

/// The card that has the server's address, or the one of the default route.
pub fn card(machine: &Machine) -> Card {
    let name = match machine.asked.listen {
        Some(ip) if ip.is_loopback() => return Card::Loopback,
        Some(IpAddr::V4(ip)) => route(machine, u32::from(ip)),
        Some(IpAddr::V6(ip)) => {
            let wanted: String = ip.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            let table = machine.read("proc/net/if_inet6").unwrap_or_default();
            let line = table.lines().find(|l| l.starts_with(&wanted));
            line.and_then(|l| l.split_whitespace().last()).map(String::from)
        }
        None => default_route(machine),
    };
    let Some(name) = name else { return Card::Unknown };
    let mut devices = Vec::new();
    hardware(machine, &name, &mut devices);
    Card::Found { name, devices }
}

/// Adds where the hardware of a card is, or of the cards that it joins or stands on.
fn hardware(machine: &Machine, name: &str, devices: &mut Vec<PathBuf>) {
    let dir = format!("sys/class/net/{name}");
    for lower in machine.list(&dir).iter().filter_map(|n| n.strip_prefix("lower_")) {
        hardware(machine, lower, devices);
    }
    devices.extend(machine.resolve(format!("{dir}/device")));
}

/// The card to an address: that of the narrowest network which holds it, and of those the one that costs least.
fn route(machine: &Machine, ip: u32) -> Option<String> {
    let table = machine.read("proc/net/route")?;
    let routes = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // As they lie in memory.
        let number =
            |i: usize| u32::from_str_radix(words.get(i)?, 16).ok().map(|n| u32::from_be_bytes(n.to_ne_bytes()));
        let (network, mask) = (number(1)?, number(7)?);
        let metric: u32 = words.get(6)?.parse().ok()?;
        (ip & mask == network).then(|| (mask, std::cmp::Reverse(metric), words[0].to_string()))
    });
    routes.max().map(|(.., name)| name)
}

fn default_route(machine: &Machine) -> Option<String> {
    let narrow = route(machine, 0);
    narrow.or_else(|| {
        let table = machine.read("proc/net/ipv6_route")?;
        let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|words| {
            let everything =
                words.first().is_some_and(|to| to.bytes().all(|b| b == b'0')) && words.get(1) == Some(&"00");
            everything && words.last() != Some(&"lo")
        })?;
        line.last().map(|name| (*name).to_string())
    })
}

pub fn findings(machine: &Machine, card: &Card) -> Vec<Finding> {
    vec![coalescing(machine, card), deferred(machine, card), busy_polling(machine)]
}

/// A value that `ethtool -c` prints: `rx-usecs: 3`.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

fn coalescing(machine: &Machine, card: &Card) -> Finding {
    let knob = Knob::new("coalescing", "rx-usecs 0, not adaptive", "a card that gathers messages holds them back");
    let name = match card {
        Card::Found { name, .. } => name,
        Card::Loopback => return knob.good("no card: loopback"),
        Card::Unknown => return knob.unknown("no card is known"),
    };
    let Some(text) = (machine.asked.coalescing)(name) else {
        return knob.judged(
            super::Verdict::Unknown,
            format!("{name}: ethtool does not say, or is missing"),
            Some(format!("ethtool -c {name}, of the package ethtool, as root")),
        );
    };
    let adaptive = text.lines().any(|l| l.trim().starts_with("Adaptive RX: on"));
    let change = format!("sudo ethtool -C {name} adaptive-rx off rx-usecs 0");
    match value(&text, "rx-usecs") {
        _ if adaptive => knob.advice(format!("{name}: adaptive"), change),
        Some(0) => knob.good(format!("{name}: rx-usecs 0")),
        Some(us) if us <= HOLD_MAX => knob.advice(format!("{name}: rx-usecs {us}"), change),
        Some(us) => knob.bad(format!("{name}: rx-usecs {us}"), change),
        None => knob.unknown(format!("{name}: the driver does not say")),
    }
}

/// With both set the kernel waits for a poll, or for the timer, before it looks at the card again.
fn deferred(machine: &Machine, card: &Card) -> Finding {
    let knob = Knob::new("deferred interrupts", "none", "what comes in waits for a timer");
    let name = match card {
        Card::Found { name, .. } => name,
        Card::Loopback => return knob.good("no card: loopback"),
        Card::Unknown => return knob.unknown("no card is known"),
    };
    let dir = format!("sys/class/net/{name}");
    let number = |file: &str| machine.number(format!("{dir}/{file}"));
    let (Some(defer), Some(timeout)) = (number("napi_defer_hard_irqs"), number("gro_flush_timeout")) else {
        return knob.unknown(format!("{name}: not said in /{dir}"));
    };
    match (defer, timeout) {
        (0, _) | (_, 0) => knob.good(format!("{name}: none")),
        _ => knob.bad(
            format!("{name}: {defer} times, by {timeout} ns"),
            format!("echo 0 | sudo tee /{dir}/napi_defer_hard_irqs /{dir}/gro_flush_timeout"),
        ),
    }
}

fn busy_polling(machine: &Machine) -> Finding {
    let knob = Knob::new("busy polling", "off", "the server waits in its ring, not in sockets");
    let number = |name: &str| machine.number(format!("proc/sys/net/core/{name}"));
    match (number("busy_read"), number("busy_poll")) {
        (Some(0), Some(0)) => knob.good("off"),
        (Some(read), Some(poll)) => knob.advice(
            format!("busy_read {read} us, busy_poll {poll} us"),
            "sudo sysctl -w net.core.busy_read=0 net.core.busy_poll=0",
        ),
        _ => knob.unknown("not said in /proc/sys/net/core"),
    }
}
