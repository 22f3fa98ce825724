//! A system that takes part: what is made in it before it is measured, and how its writes are counted.

use std::net::SocketAddr;
use std::time::Instant;

use crate::codec::{Answer, Event, Operation};
use crate::compare::definition::{At, COUNTER, Load, Work};
use crate::compare::work::{path, value};
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;
use crate::system::{Kind, System};

/// Files that are being made at a time.
const AT_A_TIME: u16 = 64;

/// A system that runs.
pub struct Subject {
    /// Which.
    pub kind: Kind,
    /// It.
    pub system: Box<dyn System>,
    /// All our files are below this directory.
    root: String,
}

impl Subject {
    /// A system, in which all is to be made below `root`, which is not there.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn new(kind: Kind, system: Box<dyn System>, root: &str) -> Result<Subject, Failure> {
        let subject = Subject { kind, system, root: root.to_string() };
        if kind != Kind::Floor {
            let parents = if kind.has_parents() { vec![root.to_string()] } else { Vec::new() };
            let file = (subject.counter(), Vec::new());
            subject.make(parents.into_iter().map(|path| (path, Vec::new())).chain([file]).collect())?;
        }
        Ok(subject)
    }

    /// The directory of a load's files.
    pub fn dir(&self, load: &Load) -> String {
        format!("{}/{}", self.root, load.name)
    }

    fn counter(&self) -> String {
        format!("{}/{COUNTER}", self.root)
    }

    /// Makes what a load takes for granted.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(&self, load: &Load) -> Result<(), Failure> {
        let dir = self.dir(load);
        let mut files = Vec::new();
        if self.kind.has_parents() {
            files.push((dir.clone(), Vec::new()));
        }
        if load.work != Work::HandOver {
            files.extend((0..load.files).map(|number| (path(&dir, number), value(number, load.value))));
        }
        self.make(files)
    }

    /// Connects, as a load has it.
    ///
    /// # Errors
    /// The servers do not take the connections.
    pub fn connect(&self, at: At, conns: usize) -> Result<Engine, Failure> {
        Engine::connect(&self.addrs(at), self.kind.codec(), conns)
    }

    fn addrs(&self, at: At) -> Vec<SocketAddr> {
        let mut addrs = self.system.addrs();
        if at == At::Leader {
            addrs.truncate(1);
        }
        addrs
    }

    /// Makes files. The first is a parent of the others, if it is a parent.
    fn make(&self, files: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        let mut engine = self.connect(At::Leader, 1)?;
        let count = files.len();
        let mut making = Making { files, asked: 0, made: 0 };
        while making.made < count {
            // The first by itself, then as many as may be.
            let places = if making.made == 0 { 1 } else { usize::from(AT_A_TIME).min(count - making.made) };
            for slot in 0..u16::try_from(places).unwrap_or(AT_A_TIME) {
                engine.ask(&mut making, Place { conn: 0, slot });
            }
            engine.flush(0)?;
            while making.made < making.asked {
                engine.patiently(&mut making)?;
            }
        }
        engine.close()
    }

    /// Makes a write, and returns its number among all writes. Nothing may be outstanding.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn count(&self, engine: &mut Engine) -> Result<i64, Failure> {
        let mut count = Count { path: self.counter(), revision: None };
        engine.ask(&mut count, Place { conn: 0, slot: 0 });
        engine.flush(0)?;
        loop {
            engine.patiently(&mut count)?;
            if let Some(revision) = count.revision {
                return Ok(revision);
            }
        }
    }
}

struct Making {
    files: Vec<(String, Vec<u8>)>,
    asked: usize,
    made: usize,
}

impl Driver for Making {
    fn operation(&mut self, _: Place) -> Operation<'_> {
        let (path, value) = &self.files[self.asked];
        self.asked += 1;
        Operation::Create { path: path.as_bytes(), value }
    }

    fn event(&mut self, _: usize, event: &Event<'_>, _: Instant, _: &mut Vec<Place>) -> Result<(), Failure> {
        match event {
            Event::Answer { answer: Answer::Written { .. }, .. } => self.made += 1,
            other => return Err(Failure::new(format!("a file is not made: {other:?}"))),
        }
        Ok(())
    }
}

struct Count {
    path: String,
    revision: Option<i64>,
}

impl Driver for Count {
    fn operation(&mut self, _: Place) -> Operation<'_> {
        Operation::Set { path: self.path.as_bytes(), value: b"" }
    }

    fn event(&mut self, _: usize, event: &Event<'_>, _: Instant, _: &mut Vec<Place>) -> Result<(), Failure> {
        match event {
            Event::Answer { answer: Answer::Written { revision, .. }, .. } => self.revision = Some(*revision),
            // What a watch that stays has been told of what came before.
            Event::Woken { .. } => {}
            other => return Err(Failure::new(format!("a write is not counted: {other:?}"))),
        }
        Ok(())
    }
}
