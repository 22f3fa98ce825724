//! What is to be compared: data files, which also say what has to come out.
//!
//! Those that belong to this program are in `bench/definitions`; each key is explained in `bench/README.md`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};
use crate::machine::NODES;
use crate::system::Kind;

/// Those that come with the program.
const OWN: [(&str, &str); 2] =
    [("one", include_str!("../../definitions/one.toml")), ("three", include_str!("../../definitions/three.toml"))];

/// Most operations that are outstanding on a connection.
const OUTSTANDING_MAX: u16 = 1024;

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
    #[serde(default)]
    pub rates: Vec<f64>,
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

    fn check(&self) -> Result<(), Failure> {
        let wrong = |what: &str| Err(Failure::new(what));
        if self.nodes != 1 && self.nodes != NODES {
            return wrong("nodes are 1 or 3");
        }
        if self.rounds == 0 || !(self.seconds > 0.0 && self.warm_up >= 0.0) {
            return wrong("rounds and seconds are more than none");
        }
        if self.systems.is_empty() || self.systems.contains(&Kind::Floor) {
            return wrong("systems are doozer, zookeeper, etcd; the floor takes part in any case");
        }
        for (number, load) in self.loads.iter().enumerate() {
            let before = &self.loads[..number];
            let wrong = |what: &str| Err(Failure::new(what).within(&load.name));
            if before.iter().any(|other| other.name == load.name) {
                return wrong("two loads of this name");
            }
            if load.connections == 0 || load.files == 0 || !(1..=OUTSTANDING_MAX).contains(&load.outstanding) {
                return wrong("connections and files are at least 1, outstanding is 1 to 1024");
            }
            if let Some(shares) = &load.shares
                && !before.iter().any(|other| other.name == shares.of && other.paces().is_empty())
            {
                return wrong("shares are of a load before, which has no rates itself");
            }
            let alone = matches!(load.work, Work::FanOut | Work::HandOver);
            if alone && (load.outstanding != 1 || !load.paces().is_empty() || load.idle_watches > 0) {
                return wrong("fan-out and hand-over have one outstanding, no rates, and no idle watches");
            }
            if load.work == Work::HandOver && load.connections != 2 {
                return wrong("a lock is handed over between two connections");
            }
            if !load.paces().iter().all(|pace| pace.number() > 0.0) {
                return wrong("rates and shares are more than none");
            }
        }
        Ok(())
    }
}

/// How fast operations are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// So many a second.
    Rate(f64),
    /// This share of what another load has shown.
    Share(f64),
}

impl Pace {
    fn number(self) -> f64 {
        match self {
            Pace::Rate(number) | Pace::Share(number) => number,
        }
    }
}

impl Load {
    /// The rates at which operations are sent, one after the other; none if each waits for an answer.
    pub fn paces(&self) -> Vec<Pace> {
        let shares = self.shares.iter().flat_map(|shares| &shares.at);
        self.rates.iter().map(|&rate| Pace::Rate(rate)).chain(shares.map(|&share| Pace::Share(share))).collect()
    }
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
        Definition::parse(&good).unwrap();
        for (wrong, why) in [
            (good.replace("nodes=1", "nodes=2"), "nodes"),
            (good.replace("rounds=1", "rounds=0"), "rounds"),
            (good.replace("'doozer'", "'floor'"), "floor"),
            (format!("{good}connection=3\n"), "connection"),
            (format!("{good}{load}"), "two loads"),
            (format!("{good}outstanding=0\n"), "outstanding"),
            (format!("{good}shares={{of='a',at=[0.5]}}\n"), "a load before"),
            (format!("{good}rates=[0.0]\n"), "more than none"),
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
