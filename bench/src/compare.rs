//! `doozer-bench compare`: doozerd beside ZooKeeper and etcd, under the same loads, on the same machine, by the same client.
//!
//! In reading order:
//! * [`definition`]: what is compared; data files.
//! * [`subject`]: a system that takes part, its files, and how its writes are counted.
//! * [`rounds`]: the systems, and the floor, in turns.
//! * [`turn`]: one system under one load for some seconds, and whether what came out is what is asserted.
//! * [`work`]: the operations of a load and what has to be answered; asked by [`closed`] or by [`open`] loops.
//! * [`teller`]: what the server itself tells of where the time goes.
//! * [`fan_out`], [`hand_over`], [`idle`]: the loads of watches and locks.
//! * [`result`]: medians, ratios, curves, and where the mean goes ([`breakdown`]); as a [`table`] and as a page of [`html`] with [`chart`]s.

mod breakdown;
mod chart;
mod closed;
mod definition;
mod fan_out;
mod hand_over;
mod html;
mod idle;
mod open;
mod result;
mod rounds;
mod subject;
mod table;
mod teller;
mod turn;
mod work;

use serde::Serialize;

use crate::args::{Compare, Options};
use crate::failure::{Context, Failure};
use crate::machine::{self, Machine, on_core};
use crate::process::Others;
use crate::scenario::find_doozerd;
use crate::scratch::Scratch;
use crate::system::{self, Ground, Kind, Start};
use definition::Definition;
use result::{Comparison, Record, Version};
use rounds::Running;
use subject::Subject;

/// Seconds of a turn, and of its warm-up, with `--quick`.
const QUICK: (f64, f64) = (0.3, 0.1);

/// What a record says of where and how it was measured.
#[derive(Debug, Serialize)]
struct Setting {
    quick: bool,
    machine: Machine,
}

/// Runs the definitions.
///
/// # Errors
/// The run is no result.
pub fn run(compare: &Compare, options: &Options) -> Result<(), Failure> {
    let names = if compare.definitions.is_empty() { Definition::own() } else { compare.definitions.clone() };
    let definitions = names.iter().map(|name| choose(name, compare, options)).collect::<Result<Vec<_>, Failure>>()?;
    let mut comparisons = Vec::new();
    let mut setting = None;
    for definition in definitions {
        let ground = ground(options, definition.nodes)?;
        let machine = Machine::describe(&ground.scratch.path(""), &ground.cores);
        setting.get_or_insert(Setting { quick: options.quick, machine });
        let comparison = of(definition, &ground, compare)?;
        if !options.json {
            print!("{comparison}");
        }
        comparisons.push(comparison);
    }
    let setting = setting.ok_or_else(|| Failure::new("nothing to compare"))?;
    let record = Record { setting, comparisons };
    let json = serde_json::to_string(&record).context("cannot write JSON")?;
    if let Some(path) = &compare.record {
        std::fs::write(path, format!("{json}\n")).context(path.display())?;
    }
    if let Some(path) = &compare.html {
        let page = html::page(&record.setting.machine, options.quick, &record.comparisons);
        std::fs::write(path, page).context(path.display())?;
    }
    if options.json {
        println!("{json}");
    }
    Ok(())
}

/// A definition, as the command line changes it.
fn choose(name: &str, compare: &Compare, options: &Options) -> Result<Definition, Failure> {
    let mut definition = Definition::find(name)?;
    definition.keep(&compare.only)?;
    if !compare.systems.is_empty() {
        definition.systems.clone_from(&compare.systems);
    }
    if options.quick {
        (definition.seconds, definition.warm_up) = QUICK;
        definition.rounds = 2;
    }
    definition.rounds = options.rounds.unwrap_or(definition.rounds);
    Ok(definition)
}

fn ground(options: &Options, nodes: usize) -> Result<Ground, Failure> {
    let scratch = Scratch::new(&options.dir)?;
    let placing = options.node_cores.as_ref();
    let cores = machine::choose(&scratch.path(""), options.server_core, options.client_core, placing)?;
    let doozerd = match find_doozerd(options.doozerd.as_deref()) {
        Err(e) if options.doozerd.is_some() => return Err(e),
        found => found.ok(),
    };
    Ok(Ground { scratch, cores, doozerd, nodes })
}

/// Starts the systems, and measures.
fn of(definition: Definition, ground: &Ground, compare: &Compare) -> Result<Comparison, Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let root = format!("/bench-{}", now.as_secs());
    // All that is started from here on has ended when the others' share is asked for.
    let others = Others::begin()?;
    let mut remarks = Vec::new();
    let mut subjects = Vec::new();
    for &kind in &definition.systems {
        say(&definition, &format!("starting {kind}"));
        let remote = compare.endpoints.iter().find(|remote| remote.kind == kind);
        let started = match remote {
            Some(remote) => Start::Running(Box::new(remote.clone())),
            None => system::start(kind, ground)?,
        };
        match started {
            Start::Running(system) => subjects.push(Subject::new(kind, system, &root)?),
            Start::Missing(remedy) => {
                let remark = format!("{kind} is not installed, and takes no part; to get it: {remedy}");
                say(&definition, &remark);
                remarks.push(remark);
            }
        }
    }
    if subjects.is_empty() {
        return Err(Failure::new("none of the systems is installed"));
    }
    // The floor of this machine says nothing of servers elsewhere.
    let floor = if compare.endpoints.is_empty() {
        let Start::Running(system) = system::start(Kind::Floor, ground)? else {
            return Err(Failure::new("no floor"));
        };
        Some(Subject::new(Kind::Floor, system, &root)?)
    } else {
        None
    };
    let versions = subjects.iter().map(|s| Version { system: s.kind, version: s.system.version() }).collect();
    let running = Running { definition: &definition, subjects, floor };
    let shown = on_core(ground.cores.client, || running.run())?;
    remarks.extend(shown.remarks());
    let floor = shown.floor();
    drop(running);
    let (taken, stolen) = others.since()?;
    remarks.push(format!(
        "other processes took {taken:.0} % of a core meanwhile, other guests of this machine {stolen:.0} %"
    ));
    Ok(Comparison { definition, versions, remarks, rows: shown.rows, floor })
}

fn say(definition: &Definition, what: &str) {
    eprintln!("doozer-bench: {}: {what}", definition.name);
}
