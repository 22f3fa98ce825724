//! `doozer-bench compare`: doozerd beside ZooKeeper and etcd, under the same loads, on the same machine, by the same client.
//!
//! In reading order:
//! * [`definition`]: what is compared; data files.
//! * [`output`]: the files that the result goes to.
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
mod output;
mod result;
mod rounds;
mod subject;
mod table;
mod teller;
mod turn;
mod work;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::args::{Compare, Options};
use crate::failure::{Context, Failure};
use crate::files;
use crate::machine::{self, Machine, on_core};
use crate::process::Others;
use crate::say::{self, print};
use crate::scenario::find_doozerd;
use crate::scratch::Scratch;
use crate::system::{self, Ground, Kind, Start, remote};
use definition::Definition;
use output::{Output, When};
use result::{Comparison, Record, Version};
use rounds::Running;
use subject::Subject;

/// Seconds of a turn, and of its warm-up, with `--quick`.
const QUICK: (f64, f64) = (0.3, 0.1);

/// What a record says of where and how it was measured.
#[derive(Debug, Serialize, Deserialize)]
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
    let mut kept = Kept {
        outputs: Output::open_both([compare.record.as_deref(), compare.html.as_deref()])?,
        json: options.json,
        record: None,
        ended: false,
    };
    let count = definitions.len();
    for (number, definition) in (1..).zip(definitions) {
        let measured = ground(options, definition.nodes).and_then(|ground| {
            let machine = Machine::describe(&ground.scratch.path(""), &ground.cores);
            Ok((Setting { quick: options.quick, machine }, of(number, definition, &ground, compare)?))
        });
        let when = if number == count { When::AtTheEnd } else { When::Meanwhile };
        let added = measured.and_then(|(setting, comparison)| kept.add(setting, comparison, when));
        if let Err(e) = added {
            // Those before are results, whatever has become of this one; what is told is what came first.
            let _ended = kept.end();
            return Err(e);
        }
    }
    Ok(())
}

/// The page of a record that was kept before.
///
/// # Errors
/// The file cannot be read, or is not a record of `compare`.
pub fn page_of(record: &Path) -> Result<String, Failure> {
    let failed = || record.display().to_string();
    let json = std::fs::read_to_string(record).context(failed())?;
    let Record { setting, comparisons }: Record<Setting> = serde_json::from_str(&json).context(failed())?;
    Ok(html::page(&setting.machine, setting.quick, &comparisons))
}

/// What was measured so far, and where it goes.
struct Kept {
    /// The record, and the page.
    outputs: [Option<Output>; 2],
    /// Whether the record goes to stdout, too, at the end.
    json: bool,
    record: Option<Record<Setting>>,
    ended: bool,
}

impl Kept {
    /// Writes what is there now, with this comparison, to the files, then to stdout.
    ///
    /// # Errors
    /// One of them does not take it; the others have it then.
    fn add(&mut self, setting: Setting, comparison: Comparison, when: When) -> Result<(), Failure> {
        let table = comparison.to_string();
        let record = self.record.get_or_insert_with(|| Record { setting, comparisons: Vec::new() });
        record.comparisons.push(comparison);
        let written = self.write(when);
        let printed = if self.json { Ok(()) } else { print(table) };
        written.and(printed)
    }

    /// Writes what is there to what takes it but once.
    ///
    /// # Errors
    /// As for [`Kept::add`].
    fn end(&mut self) -> Result<(), Failure> {
        if self.ended { Ok(()) } else { self.write(When::AtTheEnd) }
    }

    fn write(&mut self, when: When) -> Result<(), Failure> {
        let Some(record) = &self.record else { return Ok(()) };
        self.ended = when == When::AtTheEnd;
        let json = serde_json::to_string(record).context("cannot write JSON")? + "\n";
        let [kept, page] = &mut self.outputs;
        let kept = kept.as_mut().map_or(Ok(()), |file| file.write(when, &json));
        let page = page.as_mut().map_or(Ok(()), |file| {
            let Record { setting, comparisons } = record;
            file.write(when, &html::page(&setting.machine, setting.quick, comparisons))
        });
        let printed = if self.json && when == When::AtTheEnd { print(json) } else { Ok(()) };
        kept.and(page).and(printed)
    }
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
    let within = |e: Failure| e.within(&definition.name);
    definition.check().map_err(within)?;
    if definition.nodes == 1 && options.node_cores.is_some() {
        return Err(within(Failure::new(
            "it has one node, and --node-cores is for three; --server-core is that one's",
        )));
    }
    remote::check(&compare.endpoints, &definition.systems, definition.nodes).map_err(within)?;
    for load in &definition.loads {
        files::check(&load.name, load.open_files()).map_err(within)?;
    }
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

/// Starts the systems, and measures; `number` is the definition's among those of this run.
fn of(number: usize, definition: Definition, ground: &Ground, compare: &Compare) -> Result<Comparison, Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Of another run or definition, in the same second, on servers that both have as endpoints, it is another one.
    let root = format!("/bench-{}-{}-{number}", now.as_secs(), std::process::id());
    // All that is started from here on has ended when the others' share is asked for.
    let others = Others::begin()?;
    let mut remarks: Vec<_> = ground.shared_core().into_iter().collect();
    remarks.iter().for_each(|remark| say(&definition, remark));
    let mut subjects = Vec::new();
    for &kind in &definition.systems {
        say(&definition, &format!("starting {kind}"));
        let remote = compare.endpoints.iter().find(|remote| remote.kind == kind);
        let started = match remote {
            Some(remote) => Start::Running(Box::new(remote.clone())),
            None => system::start(kind, ground)?,
        };
        match started {
            Start::Running(system) => {
                let subject = Subject::new(kind, system, &root).map_err(|e| e.within(&kind.to_string()))?;
                subjects.push(subject);
            }
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
    say::say(format_args!("{}: {what}", definition.name));
}
