//! The cores: how fast they run when they are needed, how long they take to wake, and who else uses the server's.

use std::collections::BTreeSet;

use super::machine::{Machine, cores, ranges};
use super::{Finding, Knob};

const CPU: &str = "sys/devices/system/cpu";
/// Microseconds that an idle core may take to wake up; it sleeps once or more in each commit.
const WAKE_MAX: u64 = 10;

pub fn findings(machine: &Machine, core: Option<usize>) -> Vec<Finding> {
    // Without a core the server may run on any of them.
    let run_on = core.map_or_else(|| machine.usable_cores(), |core| BTreeSet::from([core]));
    vec![governor(machine, &run_on), idle(machine, &run_on), isolated(machine, core), sibling(machine, core)]
}

/// Values with the cores that have them: `performance`, or `powersave (cores 0-3), performance (core 4)`.
fn by_core(found: &[(usize, String)]) -> String {
    let values: BTreeSet<&String> = found.iter().map(|(_, value)| value).collect();
    let parts = values.iter().map(|value| {
        let of: BTreeSet<usize> = found.iter().filter(|(_, v)| v == *value).map(|(core, _)| *core).collect();
        format!("{value} (core{} {})", if of.len() == 1 { "" } else { "s" }, ranges(&of))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn governor(machine: &Machine, run_on: &BTreeSet<usize>) -> Finding {
    let knob = Knob::new("cpu governor", "performance", "a core that slowed down while it waited is slow to answer");
    let mut found = Vec::new();
    let mut worst = None;
    for &core in run_on {
        let dir = format!("{CPU}/cpu{core}/cpufreq");
        let Some(governor) = machine.read(format!("{dir}/scaling_governor")) else { continue };
        // The processor chooses by itself there, and can be told to choose speed.
        let preference = machine.read(format!("{dir}/energy_performance_preference"));
        let eager = governor == "powersave" && preference.as_deref() == Some("performance");
        if governor != "performance" {
            worst = worst.max(Some(!eager));
        }
        found.push((core, if eager { "powersave that prefers performance".into() } else { governor }));
    }
    let change = format!("echo performance | sudo tee /{CPU}/cpu*/cpufreq/scaling_governor");
    match worst {
        _ if found.is_empty() && machine.is_virtual() => knob.unknown("none here: the host's matter"),
        _ if found.is_empty() => knob.unknown("none: the firmware's matter"),
        None => knob.good(by_core(&found)),
        Some(false) => knob.advice(by_core(&found), change),
        Some(true) => knob.bad(by_core(&found), change),
    }
}

/// Microseconds that nobody's wish allows to be exceeded: that of whoever holds /dev/cpu_dma_latency, and the core's own.
fn wake_limit(machine: &Machine, core: usize) -> u64 {
    let held = machine.bytes("dev/cpu_dma_latency").and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    let held = held.and_then(|us| u64::try_from(us).ok()).unwrap_or(u64::MAX);
    let own = match machine.read(format!("{CPU}/cpu{core}/power/pm_qos_resume_latency_us")).as_deref() {
        Some("n/a") => 0,
        // No wish.
        Some("0") | None => u64::MAX,
        Some(us) => us.parse().unwrap_or(u64::MAX),
    };
    held.min(own)
}

fn idle(machine: &Machine, run_on: &BTreeSet<usize>) -> Finding {
    let knob =
        Knob::new("idle states", format!("{WAKE_MAX} us to wake, at most"), "the core sleeps and wakes in each commit");
    let mut found = Vec::new();
    let mut deep = BTreeSet::new();
    for &core in run_on {
        let limit = wake_limit(machine, core);
        let mut deepest = None;
        for state in machine.list(format!("{CPU}/cpu{core}/cpuidle")) {
            let dir = format!("{CPU}/cpu{core}/cpuidle/{state}");
            let (Some(name), Some(latency)) =
                (machine.read(format!("{dir}/name")), machine.number(format!("{dir}/latency")))
            else {
                continue;
            };
            if machine.read(format!("{dir}/disable")).is_some_and(|off| off != "0") || latency > limit {
                continue;
            }
            if latency > WAKE_MAX {
                deep.insert(state);
            }
            deepest = deepest.max(Some((latency, name)));
        }
        if let Some((latency, name)) = deepest {
            found.push((core, format!("{name}, {latency} us")));
        }
    }
    if found.is_empty() {
        return knob.unknown(if machine.is_virtual() { "none here: the host's matter" } else { "none shown" });
    }
    if deep.is_empty() {
        return match machine.is_virtual() {
            true => knob.unknown(format!("{}; as it says", by_core(&found))),
            false => knob.good(by_core(&found)),
        };
    }
    let cpus = run_on.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let all = if run_on.len() == 1 { format!("cpu{cpus}") } else { "cpu*".into() };
    let states = deep.iter().map(|state| format!("/{CPU}/{all}/cpuidle/{state}/disable")).collect::<Vec<_>>();
    knob.bad(by_core(&found), format!("echo 1 | sudo tee {}", states.join(" ")))
}

fn isolated(machine: &Machine, core: Option<usize>) -> Finding {
    let knob = Knob::new("isolated core", "the server's core", "no other thread is in the way there");
    let Some(list) = machine.read(format!("{CPU}/isolated")) else {
        return knob.unknown(format!("not said in /{CPU}/isolated"));
    };
    let isolated = cores(&list);
    let found = ranges(&isolated);
    match core {
        Some(core) if isolated.contains(&core) => knob.good(found),
        None if !isolated.is_empty() => knob.advice(found, format!("doozerd --core, one of {}", ranges(&isolated))),
        Some(core) => {
            // The first core keeps the time for all others, and so its tick.
            let tick = if core == 0 { String::new() } else { format!("nohz_full={core} ") };
            knob.advice(found, format!("isolcpus={core} {tick}rcu_nocbs={core} on the kernel's command line (tuning/kernel-command-line.md)"))
        }
        None => {
            knob.advice(found, "isolcpus= on the kernel's command line (tuning/kernel-command-line.md), and --core")
        }
    }
}

fn sibling(machine: &Machine, core: Option<usize>) -> Finding {
    let knob = Knob::new("sibling", "none, or idle", "hardware threads share units and caches");
    let Some(core) = core else {
        let active = machine.read(format!("{CPU}/smt/active"));
        return match active.as_deref() {
            Some("0") => knob.good("no core has one"),
            Some(_) => knob.unknown("cores have them; give a --core"),
            None => knob.unknown("not said in /sys"),
        };
    };
    let Some(list) = machine.read(format!("{CPU}/cpu{core}/topology/thread_siblings_list")) else {
        return knob.unknown("not said in /sys");
    };
    let others: BTreeSet<usize> = cores(&list).into_iter().filter(|&other| other != core).collect();
    let online = |other: &usize| machine.read(format!("{CPU}/cpu{other}/online")).is_none_or(|on| on != "0");
    match others.iter().find(|other| online(other)) {
        None => knob.good(format!("core {core} has none")),
        Some(other) => knob.advice(
            format!("core {core} shares its units with core {other}"),
            format!("echo 0 | sudo tee /{CPU}/cpu{other}/online"),
        ),
    }
}
