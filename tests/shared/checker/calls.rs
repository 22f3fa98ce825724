//! What clients ask: connections, mutations, and the calls that are not answered yet.

use doozer::wire::{ErrCode, Request, Verb};

use super::Moment;
use super::model::{Body, GlobId, Kind, Model, PathId};
use super::names::{is_glob, is_path, name};

/// Largest value of a file.
pub const VALUE_MAX: usize = 1 << 20;

/// A connection of a client to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn(pub(super) usize);

/// A request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub(super) slot: usize,
    /// A slot is used again.
    pub(super) serial: u64,
}

pub struct Connection {
    pub client: usize,
    pub node: usize,
    /// The highest revision that its server is known to have reached.
    pub known: i64,
    /// The last of its mutations, in the order of the history: its number and revision.
    pub applied: Option<(u32, i64)>,
}

/// What became of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not answered.
    Open,
    /// It was acknowledged, perhaps with a revision.
    Done(Option<i64>),
    /// It was certainly not applied.
    Refused(ErrCode),
    /// Nobody can tell.
    Unknown,
}

pub struct Mutation {
    pub conn: Conn,
    pub kind: Kind,
    pub path: PathId,
    /// What it compares with.
    pub rev: i64,
    pub body: Body,
    /// Whether its value tells whose it is.
    pub is_named: bool,
    pub called: Moment,
    /// Place of its call, and of its answer, in the order of all that happened.
    pub asked_at: u64,
    pub answered_at: u64,
    pub answered: Moment,
    /// The highest revision that anyone had been told of when it was called.
    pub floor: i64,
    pub outcome: Outcome,
    /// The revision that it is, once that is known.
    pub found: Option<i64>,
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub enum What {
    Mutation(u32),
    /// A mutation that has to be refused with this.
    Faulty(ErrCode),
    /// A read that has to be refused with this, before anything else is looked at.
    Wrong(ErrCode),
    BadGlob(Box<[u8]>),
    /// `None`: not a path.
    Get(Option<PathId>),
    Stat(Option<PathId>),
    Getdir(Option<PathId>, i32),
    Walk(GlobId, i32),
    Wait(GlobId, i64),
    Rev,
    Sync,
    /// What is not judged.
    Other,
}

/// A call that is not answered.
pub struct Asked {
    pub conn: Conn,
    pub called: Moment,
    pub asked_at: u64,
    /// The highest revision that anyone had been told of, and that its server was known to have reached.
    pub floor: i64,
    pub known: i64,
    /// The revision that it reads at.
    pub at: Option<i64>,
    pub verb: Option<Verb>,
    pub what: What,
}

/// What a mutation says, if it is one that can be applied.
pub struct Said {
    pub kind: Kind,
    pub path: PathId,
    pub rev: i64,
    pub body: Body,
    pub name: Option<u64>,
}

/// What a mutation says, or with what it has to be refused.
pub fn mutation(model: &mut Model, verb: Verb, request: &Request<'_>) -> Result<Said, ErrCode> {
    if verb == Verb::Nop {
        return Ok(Said { kind: Kind::Nop, path: model.path(b"/"), rev: -1, body: Body::of(b""), name: None });
    }
    let (Some(path), Some(rev)) = (request.path, request.rev) else { return Err(ErrCode::MissingArg) };
    if !is_path(path) {
        return Err(ErrCode::BadPath);
    }
    let value = request.value.filter(|_| verb == Verb::Set).unwrap_or_default();
    if value.len() > VALUE_MAX {
        return Err(ErrCode::Other);
    }
    let kind = if verb == Verb::Set { Kind::Set } else { Kind::Del };
    Ok(Said { kind, path: model.path(path), rev, body: Body::of(value), name: name(value) })
}

/// What a request asks for that is no mutation.
pub fn read(model: &mut Model, verb: Verb, request: &Request<'_>) -> What {
    let path = |model: &mut Model, path: &[u8]| is_path(path).then(|| model.path(path));
    match (verb, request.path, request.offset) {
        (Verb::Rev, ..) => What::Rev,
        (Verb::Sync, ..) => What::Sync,
        (Verb::Get, Some(p), _) => What::Get(path(model, p)),
        (Verb::Stat, p, _) => What::Stat(path(model, p.unwrap_or_default())),
        (Verb::Getdir, Some(p), Some(offset)) => What::Getdir(path(model, p), offset),
        (Verb::Walk, Some(p), Some(_)) if !is_glob(p) => What::BadGlob(p.into()),
        (Verb::Walk, Some(_), Some(offset)) if offset < 0 => What::Wrong(ErrCode::Range),
        (Verb::Walk, Some(p), Some(offset)) => What::Walk(model.glob(p), offset),
        (Verb::Wait, Some(p), _) if request.rev.is_some() && !is_glob(p) => What::BadGlob(p.into()),
        (Verb::Wait, Some(p), _) if request.rev.is_some() => {
            What::Wait(model.glob(p), request.rev.unwrap_or_default().max(1))
        }
        (Verb::Get | Verb::Getdir | Verb::Walk | Verb::Wait, ..) => What::Wrong(ErrCode::MissingArg),
        _ => What::Other,
    }
}
