//! A violation's text: what is wrong, and about each thing concerned a line that says what is known of it.

use doozer::wire::{ErrCode, Response, Verb};

use super::calls::{Mutation, Outcome};
use super::claims::Claim;
use super::model::{Body, Kind, PathId};
use super::{Answered, Checker, Conn, Moment, calls};

/// What is wrong, and with what. It becomes text only when it is kept.
pub struct Fault {
    what: String,
    about: Vec<About>,
}

/// Something that a violation is about.
pub enum About {
    Mutation(u32),
    Event(i64),
    /// What became of a path around a revision.
    Path(PathId, i64),
    /// Who was told that this revision exists.
    Telling(i64),
    Asked(Asked),
    Claim(Claim, i64),
    Text(String),
}

/// A call that was no mutation.
pub struct Asked {
    pub conn: Conn,
    pub verb: Option<Verb>,
    pub called: Moment,
    pub answered: Option<Moment>,
}

pub fn asked(asked: &calls::Asked) -> Asked {
    Asked { conn: asked.conn, verb: asked.verb, called: asked.called, answered: None }
}

impl Fault {
    pub fn new(what: String) -> Fault {
        Fault { what, about: Vec::new() }
    }

    pub fn and(mut self, about: About) -> Fault {
        self.about.push(about);
        self
    }

    /// Who has told what is wrong.
    pub fn told(self, by: String) -> Fault {
        self.and(About::Text(format!("by {by}")))
    }
}

/// An answer that the protocol does not know, or not for what was asked.
pub fn strange(what: &str, answer: &Response<'_>) -> Fault {
    let Response { flags, rev, path, value, len, err_code, err_detail, .. } = answer;
    let (path, detail) = (path.map(text), err_detail.map(text));
    let value = value.map(|value| format!("{} ({} bytes)", text(&value[..value.len().min(32)]), value.len()));
    let error = err_code.map(|code| ErrCode::try_from(code).map_or(code.to_string(), |code| code.to_string()));
    Fault::new(format!(
        "{what}: flags {flags:?}, rev {rev:?}, path {path:?}, value {value:?}, len {len:?}, error {error:?} {detail:?}"
    ))
}

/// Microseconds as seconds.
fn seconds(at: Moment) -> String {
    format!("{}.{:06} s", at / 1_000_000, at % 1_000_000)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// An event or a mutation in words.
pub fn event(kind: Kind, path: &[u8], body: &Body) -> String {
    match kind {
        Kind::Set => format!("SET {} \"{}\" ({} bytes)", text(path), text(body.front()), body.len()),
        Kind::Del => format!("DEL {}", text(path)),
        Kind::Nop => "NOP".into(),
    }
}

fn verb(verb: Option<Verb>) -> String {
    verb.map_or("a request".into(), |verb| format!("{verb:?}").to_uppercase())
}

impl Checker {
    pub(super) fn tell_story(&self, fault: &Fault) -> String {
        let mut lines = vec![fault.what.clone()];
        for about in &fault.about {
            match about {
                About::Mutation(id) => lines.push(self.mutation_story(*id)),
                About::Event(rev) => lines.push(self.event_story(*rev)),
                About::Path(path, rev) => lines.extend(self.path_story(*path, *rev)),
                About::Telling(rev) => lines.extend(self.telling_story(*rev)),
                About::Asked(asked) => lines.push(self.asked_story(asked)),
                About::Claim(claim, rev) => lines.extend(self.claim_story(claim, *rev)),
                About::Text(text) => lines.push(text.clone()),
            }
        }
        lines.join("\n    ")
    }

    fn who(&self, conn: Conn) -> String {
        let connection = &self.connections[conn.0];
        format!("client {} at node {}, connection {}", connection.client, connection.node, conn.0)
    }

    fn mutation_story(&self, id: u32) -> String {
        let mutation = &self.mutations[id as usize];
        let Mutation { conn, kind, path, rev, body, called, answered, outcome, found, .. } = mutation;
        let what = event(*kind, self.model.name(*path), body);
        let compares = if *kind == Kind::Nop { String::new() } else { format!(" if not newer than {rev}") };
        let became = match outcome {
            Outcome::Open => "not answered".into(),
            Outcome::Done(Some(rev)) => format!("acknowledged at {} as revision {rev}", seconds(*answered)),
            Outcome::Done(None) => format!("acknowledged at {}", seconds(*answered)),
            Outcome::Refused(code) => format!("refused with {code} at {}", seconds(*answered)),
            Outcome::Unknown => format!("with an unknown outcome since {}", seconds(*answered)),
        };
        let found = found.map_or(String::new(), |rev| format!(", found as revision {rev}"));
        format!("{}: {what}{compares}, called at {}, {became}{found}", self.who(*conn), seconds(*called))
    }

    fn event_story(&self, rev: i64) -> String {
        let Some(known) = self.model.event(rev) else { return format!("revision {rev} is not known") };
        let what = event(known.kind, self.model.name(known.path), &known.body);
        match known.author {
            Some(id) => format!("revision {rev}: {what}, asked for by {}", self.mutation_story(id)),
            None => format!("revision {rev}: {what}"),
        }
    }

    fn path_story(&self, path: PathId, rev: i64) -> Vec<String> {
        let events = self.model.around(path, rev).into_iter().map(|rev| self.event_story(rev));
        let state = format!("{} as of revision {rev}: {:?}", text(self.model.name(path)), self.model.state(path, rev));
        std::iter::once(state).chain(events).collect()
    }

    fn telling_story(&self, rev: i64) -> Option<String> {
        let telling = self.tellings.get(self.tellings.partition_point(|telling| telling.rev < rev))?;
        let (who, verb) = (self.who(telling.conn), verb(telling.verb));
        Some(format!("revision {} was told at {} by {verb} to {who}", telling.rev, seconds(telling.at)))
    }

    fn asked_story(&self, asked: &Asked) -> String {
        let answered = asked.answered.map_or(String::new(), |at| format!(", answered at {}", seconds(at)));
        format!("{}: {}, called at {}{answered}", self.who(asked.conn), verb(asked.verb), seconds(asked.called))
    }

    fn claim_story(&self, claim: &Claim, last: i64) -> Vec<String> {
        match *claim {
            Claim::File { path, .. }
            | Claim::Missing { path }
            | Claim::Directory { path, .. }
            | Claim::NotDirectory { path }
            | Claim::NotListed { dir: path, .. }
            | Claim::Listed { dir: path, .. }
            | Claim::Walked { path, .. }
            | Claim::Newer { path, .. }
            | Claim::BelowFile { path } => self.path_story(path, last),
            Claim::NotWalked { .. } | Claim::TooOld { .. } => Vec::new(),
            Claim::First { glob, from, .. } => {
                let all = (from..=last).filter(|rev| self.model.event(*rev).is_some());
                let is_match = |rev: &i64| {
                    let event = self.model.event(*rev).expect("it is known");
                    super::names::matches(self.model.pattern(glob), self.model.name(event.path))
                };
                all.filter(is_match).take(3).map(|rev| self.event_story(rev)).collect()
            }
        }
    }

    /// What an answer has said that is not so.
    pub(super) fn claimed(&self, answered: &Answered, (from, until): (i64, i64)) -> String {
        let name = |path: PathId| text(self.model.name(path));
        let glob = |glob| text(self.model.pattern(glob));
        let said = match &answered.claim {
            Claim::File { path, rev, len: None } => format!("{} is of revision {rev}", name(*path)),
            Claim::File { path, rev, len: Some(len) } => {
                format!("{} is of revision {rev}, with {len} bytes", name(*path))
            }
            Claim::Missing { path } => format!("{} is missing", name(*path)),
            Claim::Directory { path, entries: None } => format!("{} is a directory", name(*path)),
            Claim::Directory { path, entries: Some(n) } => format!("{} is a directory of {n} entries", name(*path)),
            Claim::NotDirectory { path } => format!("{} is a file", name(*path)),
            Claim::Listed { dir, name: entry, offset } => {
                format!("entry {offset} of {} is {}", name(*dir), text(entry))
            }
            Claim::NotListed { dir, offset } => format!("{} has no entry {offset}", name(*dir)),
            Claim::Walked { glob: g, offset, path, rev } => {
                format!("file {offset} that {} matches is {}, of revision {rev}", glob(*g), name(*path))
            }
            Claim::NotWalked { glob: g, offset } => format!("{} matches no file {offset}", glob(*g)),
            Claim::First { glob: g, from, rev } => {
                format!("the first event that {} matches from revision {from} on is {rev}", glob(*g))
            }
            Claim::TooOld { rev, history } => {
                format!("revision {rev} has left the history, which is of {history} revisions")
            }
            Claim::Newer { path, rev, .. } => format!("{} is newer than revision {rev}", name(*path)),
            Claim::BelowFile { path } => format!("{} is below a file", name(*path)),
        };
        if from == until {
            return format!("it is not so as of revision {from} that {said}");
        }
        format!("it was not so at any revision from {from} to {until} that {said}")
    }
}
