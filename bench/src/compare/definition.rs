//! What is to be compared: data files, which also say what has to come out.
//!
//! Those that belong to this program are in `bench/definitions`; each key is explained in `bench/README.md`.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};
use crate::machine::NODES;
use crate::system::{Kind, twice};

/// Those that come with the program.
const OWN: [(&str, &str); 2] =
    [("one", include_str!("../../definitions/one.toml")), ("three", include_str!("../../definitions/three.toml"))];

/// The file beside those of the loads that is written to count all writes.
pub const COUNTER: &str = "count";
/// Idle watches on each of their connections.
pub const IDLE_WATCHES_EACH: usize = 100;

/// As many as `--rounds` takes.
const ROUNDS_MAX: u32 = 1000;
/// Below that nothing may be answered.
const SECONDS_MIN: f64 = 0.001;
/// A day.
const SECONDS_MAX: f64 = 86_400.0;
/// Bytes of a name: with more there is no room for it in the pictures.
const NAME_MAX: usize = 32;
/// Bytes of a value: ZooKeeper takes requests of less than 1 MiB (`jute.maxbuffer`), the path and the header included.
const VALUE_MAX: usize = 1_000_000;
/// Files, which have six digits.
const FILES_MAX: usize = 1_000_000;
/// Bytes of all files of a load, which the client holds, and each server, too.
const TREE_MAX: usize = 1 << 30;
/// Connections: a client has 28,000 ports for each address, in Linux's default.
const CONNECTIONS_MAX: usize = 20_000;
/// Most operations that are outstanding on a connection.
const OUTSTANDING_MAX: u16 = 1024;
/// And on all of them.
const OUTSTANDING_ALL_MAX: usize = 1_000_000;
/// Bytes of their values: `doozerd` holds so much that it has received.
const OUTSTANDING_BYTES_MAX: usize = doozer::limits::RECEIVE_MAX;
/// Watches, 100 on a connection.
const IDLE_WATCHES_MAX: usize = 1_000_000;
/// Operations a second.
const RATE_MIN: f64 = 0.1;
/// A client of one thread sends no more than a tenth of that.
const RATE_MAX: f64 = 10_000_000.0;
/// The rate that it is a share of may be small.
const SHARE_MIN: f64 = 0.001;
/// Of an operation.
const REVISIONS_MAX: f64 = 1000.0;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// Nodes of each system.
    pub nodes: usize,
    /// The systems, in the order of their turns.
    pub systems: Vec<Kind>,
    /// Rounds, each of a turn of every system.
    pub rounds: u32,
    /// Seconds of a turn that are measured.
    pub seconds: f64,
    /// Seconds before that.
    pub warm_up: f64,
    /// The loads, one after the other.
    #[serde(rename = "load")]
    pub loads: Vec<Load>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Overwrites of random files.
    Set,
    /// Reads of random files.
    Get,
    /// Nine reads and an overwrite.
    Mixed,
    /// Compare-and-set of one file by all.
    CompareAndSet,
    /// A change of one file that all connections watch; lasts until the last one has been told.
    FanOut,
    /// A lock that two connections take from each other; lasts from its release until the other has it.
    HandOver,
}

/// Which node is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// The one that leads.
    #[default]
    Leader,
    /// All, by as many connections each.
    Spread,
}

/// One load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Its name; no other one has it.
    pub name: String,
    /// What is asked.
    pub work: Work,
    /// Bytes of a value.
    #[serde(default = "value")]
    pub value: usize,
    /// Files that are written and read.
    #[serde(default = "one")]
    pub files: usize,
    /// Connections.
    #[serde(default = "one")]
    pub connections: usize,
    /// Operations outstanding on each.
    #[serde(default = "one_slot")]
    pub outstanding: u16,
    /// Which node is asked.
    #[serde(default)]
    pub at: At,
    /// Watches of files that do not change.
    #[serde(default)]
    pub idle_watches: usize,
    /// Operations are sent at these rates a second, whether those before are answered or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Vec<f64>>,
    /// The same, as shares of the rate that the system has in another load.
    #[serde(default)]
    pub shares: Option<Shares>,
    /// What has to come out.
    pub assert: Assert,
}

/// Rates of a load by those of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// Name of the other load.
    pub of: String,
    /// The shares.
    pub at: Vec<f64>,
}

/// What has to come out; else the run is no result. That values are those that were set, that revisions rise, and that
/// nothing is an error, is always so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assert {
    /// How many revisions an operation makes, in each store.
    pub revisions: f64,
    /// How many watches it wakes.
    #[serde(default)]
    pub wakes: u64,
}

fn value() -> usize {
    128
}

fn one() -> usize {
    1
}

fn one_slot() -> u16 {
    1
}

impl Definition {
    /// The definition of that name, or in that file.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub fn find(name: &str) -> Result<Definition, Failure> {
        let own = OWN.iter().find(|(own, _)| *own == name).map(|(_, text)| (*text).to_string());
        let text = match own {
            Some(text) => text,
            None => std::fs::read_to_string(Path::new(name)).context(format!("no definition {name}"))?,
        };
        Definition::parse(&text).map_err(|e| e.within(name))
    }

    /// The names of those that come with the program.
    pub fn own() -> Vec<String> {
        OWN.iter().map(|(name, _)| (*name).to_string()).collect()
    }

    fn parse(text: &str) -> Result<Definition, Failure> {
        let definition: Definition = toml::from_str(text).context("not understood")?;
        definition.check()?;
        Ok(definition)
    }

    /// Keeps these loads, and those by whose rates theirs are meant.
    ///
    /// # Errors
    /// There is no such load.
    pub fn keep(&mut self, only: &[String]) -> Result<(), Failure> {
        if only.is_empty() {
            return Ok(());
        }
        if let Some(wrong) = only.iter().find(|name| self.loads.iter().all(|load| load.name != **name)) {
            let all: Vec<_> = self.loads.iter().map(|load| &load.name).collect();
            return Err(Failure::new(format!("no load {wrong} in {}; there are {all:?}", self.name)));
        }
        let chosen = self.loads.iter().filter(|load| only.contains(&load.name));
        let of: Vec<String> = chosen.filter_map(|load| Some(load.shares.as_ref()?.of.clone())).collect();
        self.loads.retain(|load| only.contains(&load.name) || of.contains(&load.name));
        Ok(())
    }

    /// Whether it makes sense, as it is now.
    ///
    /// # Errors
    /// It does not; told is the key, what it is, and what it may be.
    pub fn check(&self) -> Result<(), Failure> {
        if self.nodes != 1 && self.nodes != NODES {
            return Err(Failure::new(format!("nodes is {}; it may be 1 or {NODES}", self.nodes)));
        }
        within("rounds", self.rounds, 1..=ROUNDS_MAX)?;
        within("seconds", self.seconds, SECONDS_MIN..=SECONDS_MAX)?;
        within("warm_up", self.warm_up, 0.0..=SECONDS_MAX)?;
        if self.systems.is_empty() || self.systems.contains(&Kind::Floor) {
            return Err(Failure::new(
                "systems are doozer, doozer-polling, zookeeper, etcd, one at least; the floor takes part in any case",
            ));
        }
        if let Some(twice) = twice(&self.systems) {
            return Err(Failure::new(format!("systems has {twice} twice")));
        }
        if self.loads.is_empty() {
            return Err(Failure::new("there is no load"));
        }
        for (number, load) in self.loads.iter().enumerate() {
            load.check(&self.loads[..number]).map_err(|e| e.within(&load.name))?;
        }
        Ok(())
    }
}

/// Whether a number may be what it is. One that is none is not.
fn within<T: PartialOrd + fmt::Display>(key: &str, found: T, allowed: RangeInclusive<T>) -> Result<(), Failure> {
    let (least, most) = (allowed.start(), allowed.end());
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(Failure::new(format!("{key} is {found}; it may be {least} to {most}")))
}

impl Load {
    /// `before` are those that come before it.
    fn check(&self, before: &[Load]) -> Result<(), Failure> {
        let wrong = |what: &str| Err(Failure::new(what));
        self.check_name()?;
        if before.iter().any(|other| other.name == self.name) {
            return wrong("two loads of this name");
        }
        within("value", self.value, 0..=VALUE_MAX)?;
        within("files", self.files, 1..=FILES_MAX)?;
        within("files times value", self.files * self.value, 0..=TREE_MAX)?;
        within("connections", self.connections, 1..=CONNECTIONS_MAX)?;
        within("outstanding", self.outstanding, 1..=OUTSTANDING_MAX)?;
        let outstanding = self.connections * usize::from(self.outstanding);
        within("connections times outstanding", outstanding, 1..=OUTSTANDING_ALL_MAX)?;
        within("connections times outstanding times value", outstanding * self.value, 0..=OUTSTANDING_BYTES_MAX)?;
        within("idle_watches", self.idle_watches, 0..=IDLE_WATCHES_MAX)?;
        self.rates.iter().flatten().try_for_each(|&rate| within("rates", rate, RATE_MIN..=RATE_MAX))?;
        if let Some(shares) = &self.shares {
            if !before.iter().any(|other| other.name == shares.of && other.paces().is_empty()) {
                return wrong("shares are of a load before, which has no rates itself");
            }
            shares.at.iter().try_for_each(|&share| within("shares", share, SHARE_MIN..=1.0))?;
        }
        if self.rates.as_ref().is_some_and(Vec::is_empty) || self.shares.as_ref().is_some_and(|all| all.at.is_empty()) {
            return wrong("rates and shares hold one number at least, or are left out");
        }
        within("assert.revisions", self.assert.revisions, 0.0..=REVISIONS_MAX)?;
        within("assert.wakes", self.assert.wakes, 0..=CONNECTIONS_MAX as u64)?;
        let alone = matches!(self.work, Work::FanOut | Work::HandOver);
        if alone && (self.outstanding != 1 || !self.paces().is_empty() || self.idle_watches > 0) {
            return wrong("fan-out and hand-over have one outstanding, no rates, and no idle watches");
        }
        if self.work == Work::HandOver && self.connections != 2 {
            return wrong("a lock is handed over between two connections");
        }
        Ok(())
    }

    /// It becomes a part of paths.
    fn check_name(&self) -> Result<(), Failure> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.bytes().all(allowed) {
            let found = self.name.escape_debug();
            return Err(Failure::new(format!(
                "name is \"{found}\"; it may have 1 to {NAME_MAX} letters, digits and dashes"
            )));
        }
        if self.name == COUNTER {
            return Err(Failure::new(format!("name is {COUNTER}, which is the file that counts the writes")));
        }
        Ok(())
    }

    /// The rates at which operations are sent, one after the other; none if each waits for an answer.
    pub fn paces(&self) -> Vec<Pace> {
        let shares = self.shares.iter().flat_map(|shares| &shares.at);
        self.rates
            .iter()
            .flatten()
            .map(|&rate| Pace::Rate(rate))
            .chain(shares.map(|&share| Pace::Share(share)))
            .collect()
    }

    /// Connections that are open at a time, those of the watches and of those who look on included.
    pub fn open_files(&self) -> usize {
        self.connections + 2 + self.idle_watches.div_ceil(IDLE_WATCHES_EACH)
    }
}

/// How fast operations are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// So many a second.
    Rate(f64),
    /// This share of what another load has shown.
    Share(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_program_are_understood() {
        for name in Definition::own() {
            let definition = Definition::find(&name).unwrap();
            assert_eq!(definition.name, name);
            let readme = include_str!("../../README.md");
            for load in &definition.loads {
                assert!(readme.contains(&format!("`{}`", load.name)), "{} is not in the README", load.name);
            }
        }
    }

    /// A key that is misspelt would leave its default in force without a word.
    #[test]
    fn a_definition_that_makes_no_sense_is_refused() {
        let head = "name='x'\nabout=''\nnodes=1\nsystems=['doozer']\nrounds=1\nseconds=1.0\nwarm_up=0.0\n";
        let load = "[[load]]\nname='a'\nwork='set'\nassert.revisions=1.0\n";
        let good = format!("{head}{load}");
        let open = load.replace("'a'", "'b'");
        Definition::parse(&good).unwrap();
        for (wrong, why) in [
            (good.replace("nodes=1", "nodes=2"), "nodes"),
            (good.replace("rounds=1", "rounds=0"), "rounds"),
            (good.replace("'doozer'", "'floor'"), "floor"),
            (format!("{good}connection=3\n"), "connection"),
            (format!("{good}{load}"), "two loads"),
            (good.replace("seconds=1.0", "seconds=nan"), "seconds is NaN; it may be 0.001 to 86400"),
            (good.replace("seconds=1.0", "seconds=1e300"), "seconds"),
            (good.replace("warm_up=0.0", "warm_up=-1.0"), "warm_up is -1; it may be 0 to 86400"),
            (good.replace("warm_up=0.0", "warm_up=inf"), "warm_up is inf"),
            (good.replace("'doozer'", "'doozer','etcd','doozer'"), "doozer twice"),
            (good.replace("'doozer'", ""), "one at least"),
            (format!("{head}load=[]\n"), "no load"),
            (good.replace("name='a'", "name='../a'"), "letters, digits and dashes"),
            (good.replace("name='a'", "name=''"), "letters, digits and dashes"),
            (good.replace("name='a'", "name='count'"), "counts the writes"),
            (good.replace("revisions=1.0", "revisions=nan"), "assert.revisions is NaN"),
            (good.replace("revisions=1.0", "revisions=inf"), "assert.revisions is inf"),
            (good.replace("revisions=1.0", "revisions=-1.0"), "assert.revisions is -1"),
            (format!("{good}assert.wakes=9999999999\n"), "assert.wakes"),
            (format!("{good}value=1000001\n"), "value is 1000001; it may be 0 to 1000000"),
            (format!("{good}files=0\n"), "files is 0"),
            (format!("{good}files=10000000\n"), "files is 10000000"),
            (format!("{good}files=100000\nvalue=100000\n"), "files times value"),
            (format!("{good}connections=0\n"), "connections is 0"),
            (format!("{good}connections=100000\n"), "connections is 100000"),
            (format!("{good}connections=20000\noutstanding=1024\n"), "connections times outstanding is"),
            (format!("{good}connections=300\nvalue=1000000\n"), "outstanding times value"),
            (format!("{good}idle_watches=10000000\n"), "idle_watches"),
            (format!("{good}outstanding=0\n"), "outstanding"),
            (format!("{good}rates=[nan]\n"), "rates is NaN"),
            (format!("{good}rates=[1.0, inf]\n"), "rates is inf"),
            (format!("{good}rates=[]\n"), "one number at least"),
            (format!("{good}{open}shares={{of='a',at=[]}}\n"), "one number at least"),
            (format!("{good}{open}shares={{of='a',at=[1.5]}}\n"), "shares is 1.5; it may be 0.001 to 1"),
            (format!("{good}shares={{of='a',at=[0.5]}}\n"), "a load before"),
            (format!("{good}rates=[0.0]\n"), "rates is 0; it may be 0.1"),
            (good.replace("'set'", "'hand-over'"), "two connections"),
        ] {
            let e = Definition::parse(&wrong).unwrap_err().to_string();
            assert!(e.contains(why), "{wrong}\n{e}");
        }
    }

    /// What is kept must not lose what its rates are shares of.
    #[test]
    fn a_load_is_kept_with_the_one_that_it_refers_to() {
        let mut definition = Definition::find("one").unwrap();
        let open = definition.loads.iter().find(|load| load.shares.is_some()).unwrap().clone();
        definition.keep(std::slice::from_ref(&open.name)).unwrap();
        let names: Vec<_> = definition.loads.iter().map(|load| load.name.as_str()).collect();
        assert_eq!(names, [open.shares.unwrap().of.as_str(), &open.name]);
        assert!(definition.keep(&["nope".to_string()]).unwrap_err().to_string().contains("nope"));
    }
}
