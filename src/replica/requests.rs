//! Requests: each is checked in the protocol's order and carried out, or begun.
//!
//! Reads and waits go to the desk. Mutations are checked as far as no state is needed for it and taken into the batch; what
//! depends on the state is decided when they are applied, at their place in the order of all. An invariant: a request that
//! was taken is answered, a request for which there is no room is not taken, and comes again.

use super::batch::Command;
use super::desk::{Charged, Desk, Op};
use super::machine::Rejected;
use super::members::{Denied, SLOTS};
use super::membership;
use super::mesh::{FLAG_FULL, Mesh};
use super::quorum::no_quorum;
use super::session::{Conn, Sessions};
use super::{Config, Replica};
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::Room;
use crate::store::{Glob, Lookup, Mutation, Path, Refused};
use crate::wire::peer::{Frame, Refusal};
use crate::wire::{ErrCode, Request, Response, Verb};

/// Records that a batch is written with: term, vote and commit; the entry; and, behind it, those of an election.
pub(super) const RECORDS: usize = 4;
/// More than the headers of a batch and of one more command.
pub(super) const GATHER_OVERHEAD: usize = 256;

/// A command of this server that is on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) asker: Asker,
}

/// Who is to hear of a command's outcome.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    /// Nobody: the server itself.
    Own,
    /// A client's mutation.
    Client { conn: Conn, tag: Option<i32>, answer_rev: bool },
    /// A node that wants to be registered.
    Joiner(Conn),
}

/// What has become of a request that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is carried out, or begun.
    Yes,
    /// There is no room for it now: it has to come again once the connection is resumed.
    NoRoom,
    /// Its connection has had its share of the turn, and is paused: the request has to come again.
    NoTurn,
}

impl Replica {
    /// Carries out a request of this many bytes, or begins to.
    pub(super) fn request(&mut self, conn: Conn, request: &Request<'_>, bytes: usize) -> Taken {
        let tag = request.tag;
        let verb = request.verb.and_then(|verb| Verb::try_from(verb).ok());
        let (access, gone) = match self.desk.charge(&self.machine.store, conn, verb, request, bytes) {
            Charged::Paid { access, gone } => (access, gone),
            Charged::Waits => return Taken::NoTurn,
            Charged::Closed => return Taken::Yes,
        };
        let Some(verb) = verb else {
            self.desk.fail(conn, tag, ErrCode::UnknownVerb);
            return Taken::Yes;
        };
        if gone && !matches!(verb, Verb::Set | Verb::Del | Verb::Nop) {
            return Taken::Yes;
        }
        let allowed = match verb {
            Verb::Set | Verb::Del | Verb::Nop => access.write,
            Verb::Get | Verb::Stat | Verb::Getdir | Verb::Walk | Verb::Wait | Verb::Sync | Verb::Stats => access.read,
            Verb::Rev | Verb::SelfId | Verb::Access => true,
        };
        if !allowed {
            self.desk.fail_other(conn, tag, "permission denied");
            return Taken::Yes;
        }
        let (path, rev) = (request.path, request.rev);
        match verb {
            Verb::Set | Verb::Del | Verb::Nop => return self.mutation(conn, verb, request),
            Verb::Rev => {
                let rev = Some(self.machine.store.revision());
                self.desk.sessions.reply(conn, &Response { tag, rev, ..Response::default() });
            }
            Verb::SelfId => {
                let value = Some(self.config.id.as_bytes());
                self.desk.sessions.reply(conn, &Response { tag, value, ..Response::default() });
            }
            Verb::Stats => {
                let text = self.stats().encode();
                let value = Some(text.as_bytes());
                self.desk.sessions.reply(conn, &Response { tag, value, ..Response::default() });
            }
            Verb::Access => self.access(conn, tag, request.value.unwrap_or_default()),
            Verb::Sync if self.closed => self.desk.sessions.reply(conn, &no_quorum(tag)),
            Verb::Sync => {
                self.syncs.push((conn, tag));
                self.desk.asked(conn);
            }
            Verb::Stat => self.read(conn, tag, Op::Stat, path.unwrap_or_default(), rev),
            Verb::Get => match path {
                Some(path) => self.read(conn, tag, Op::Get, path, rev),
                None => self.desk.fail(conn, tag, ErrCode::MissingArg),
            },
            Verb::Getdir => match (path, request.offset) {
                (Some(path), Some(offset)) => self.read(conn, tag, Op::Getdir(offset), path, rev),
                _ => self.desk.fail(conn, tag, ErrCode::MissingArg),
            },
            Verb::Walk => match (path, request.offset) {
                (Some(path), Some(offset)) => self.walk(conn, tag, path, offset, rev),
                _ => self.desk.fail(conn, tag, ErrCode::MissingArg),
            },
            Verb::Wait => match (path, rev) {
                (Some(path), Some(rev)) => {
                    self.desk.wait(&mut self.machine.store, conn, tag, path, rev);
                }
                _ => self.desk.fail(conn, tag, ErrCode::MissingArg),
            },
        }
        Taken::Yes
    }

    fn read(&mut self, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: Option<i64>) {
        self.desk.read(&mut self.machine.store, conn, tag, op, path, rev);
    }

    fn walk(&mut self, conn: Conn, tag: Option<i32>, glob: &[u8], offset: i32, rev: Option<i64>) {
        if Glob::new(glob).is_err() {
            self.desk.bad_glob(conn, tag, glob);
        } else if offset < 0 {
            self.desk.fail(conn, tag, ErrCode::Range);
        } else {
            self.read(conn, tag, Op::Walk(offset), glob, rev);
        }
    }

    fn access(&mut self, conn: Conn, tag: Option<i32>, secret: &[u8]) {
        let Some(session) = self.desk.sessions.get(conn) else { return };
        if self.config.secrets.grant(secret, &mut session.access) {
            // What the empty secret grants, everyone has.
            if !secret.is_empty() {
                self.desk.sessions.known(conn);
            }
            self.desk.sessions.reply(conn, &Response { tag, ..Response::default() });
            return;
        }
        self.desk.fail_other(conn, tag, "permission denied");
        if self.config.secrets.are_set() {
            self.desk.sessions.delay(conn);
            if self.guesses.count(self.now_ms, 1) {
                let from = self.desk.sessions.get(conn).map(|session| &*session.from).filter(|from| !from.is_empty());
                let from = from.map_or(String::new(), |from| format!(" from {from}"));
                self.lines.push(format!(
                    "a client{from} presented a wrong secret: it has another DOOZER_RWSECRET or DOOZER_ROSECRET than this node"
                ));
            }
        }
    }

    /// Takes a mutation into the batch. The access has been checked.
    fn mutation(&mut self, conn: Conn, verb: Verb, request: &Request<'_>) -> Taken {
        let tag = request.tag;
        if self.is_stuck() {
            self.disk_full(conn, tag);
            return Taken::Yes;
        }
        if self.disk_stuck {
            let reason = self.disk.reason(&self.config.dir, self.now_ms);
            let refusal = Response::error(tag, ErrCode::Readonly, Some(reason.as_bytes()));
            self.desk.sessions.reply(conn, &refusal);
            return Taken::Yes;
        }
        if self.is_closed() {
            self.desk.fail(conn, tag, ErrCode::Readonly);
            return Taken::Yes;
        }
        let command = if verb == Verb::Nop {
            Mutation::Nop
        } else {
            let (Some(path), Some(rev)) = (request.path, request.rev) else {
                self.desk.fail(conn, tag, ErrCode::MissingArg);
                return Taken::Yes;
            };
            let Some(parsed) = Path::parse(path) else {
                self.desk.fail(conn, tag, ErrCode::BadPath);
                return Taken::Yes;
            };
            if parsed.is_too_deep() && !(verb == Verb::Del && self.exists(path)) {
                let (levels, most) = (parsed.levels(), limits::LEVELS_MAX);
                self.desk.fail_other(conn, tag, &format!("path too deep: {levels} levels, the limit is {most}"));
                return Taken::Yes;
            }
            match verb {
                Verb::Del => Mutation::Del { path, rev },
                _ => Mutation::Set { path, rev, value: request.value.unwrap_or_default() },
            }
        };
        if let Mutation::Set { path, rev, .. } | Mutation::Del { path, rev } = command
            && faults::is_armed(Fault::ComparedOnArrival)
            && let Lookup::File { rev: now, .. } = self.machine.store.lookup(path, self.machine.store.revision())
            && (0..now).contains(&rev)
        {
            self.desk.fail(conn, tag, ErrCode::RevMismatch);
            return Taken::Yes;
        }
        let (path, value) = match command {
            Mutation::Set { path, value, .. } => (path.len(), value.len()),
            Mutation::Del { path, .. } => (path.len(), 0),
            Mutation::Nop => (0, 0),
        };
        if value > limits::VALUE_MAX {
            let detail = format!("value too large: {value} bytes, the limit is {}", limits::VALUE_MAX);
            self.desk.fail_other(conn, tag, &detail);
            return Taken::Yes;
        }
        let mut new_slot = false;
        if request.path.is_some_and(|path| path.starts_with(SLOTS)) {
            match self.slot(&command) {
                Ok(new) => new_slot = new,
                Err(detail) => {
                    self.desk.fail_other(conn, tag, &detail);
                    return Taken::Yes;
                }
            }
        }
        if !self.gather.fits(path, value, limits::BATCH_SOFT) {
            return Taken::NoRoom;
        }
        if !self.log_takes(path + value) {
            if !self.is_full() {
                return Taken::NoRoom;
            }
            self.disk_full(conn, tag);
            return Taken::Yes;
        }
        let asker = Asker::Client { conn, tag, answer_rev: verb == Verb::Set };
        let seq = self.enqueue(Pending { asker }, &command.into());
        if new_slot {
            self.new_slots = (self.new_slots.0 + 1, seq);
        }
        self.desk.asked(conn);
        Taken::Yes
    }

    fn exists(&self, path: &[u8]) -> bool {
        !matches!(self.machine.store.lookup(path, self.machine.store.revision()), Lookup::Missing)
    }

    /// Returns whether a mutation below `/ctl/cal` makes a new slot, or the reason why it is refused.
    fn slot(&mut self, mutation: &Mutation<'_>) -> Result<bool, String> {
        let members = &self.machine.members;
        if let Mutation::Set { path, value: &[], rev } | Mutation::Del { path, rev } = *mutation
            && let Some(detail) = membership::objection(members, path, rev, |id| self.mesh.reaches(id))
        {
            return Err(detail);
        }
        let new = matches!(mutation, Mutation::Set { path, .. } if members.is_new_slot(path));
        if new {
            if self.pending_first > self.new_slots.1 {
                self.new_slots.0 = 0;
            }
            if members.slots().len() + self.new_slots.0 >= limits::SLOTS_MAX {
                return Err(format!(
                    "refused: /ctl/cal has {} slots, no more are allowed; delete some",
                    limits::SLOTS_MAX
                ));
            }
        }
        Ok(new)
    }

    fn disk_full(&mut self, conn: Conn, tag: Option<i32>) {
        let dir = &self.config.dir;
        let detail = format!("disk full: there is no room for the log in {dir}; make room there and write again");
        self.desk.fail_other(conn, tag, &detail);
    }

    /// There is no room for writes: in this node's log, without which it cannot tell what became of them, or in the leader's.
    fn is_full(&self) -> bool {
        self.log.room() == Room::Full || self.mesh.flags(self.group.leader()) & FLAG_FULL != 0
    }

    /// Whether a batch with so many bytes more, behind what is staged, is sure to find its place in the log; in that of the leader,
    /// if that is another, as far as it has said.
    pub(super) fn log_takes(&self, bytes: usize) -> bool {
        !self.is_full()
            && (!self.group.is_leader() || self.log.can_accept(RECORDS, self.gather.len() + bytes + GATHER_OVERHEAD))
    }

    pub(super) fn enqueue(&mut self, pending: Pending, command: &Command<'_>) -> u64 {
        self.stages.received();
        let seq = self.gather.push(command);
        assert_eq!(seq, self.pending_first + self.pending.len() as u64, "a pending one for each");
        self.pending.push_back(pending);
        seq
    }
}

/// Answers a node that wanted to be registered.
pub(super) fn welcome(
    mesh: &mut Mesh,
    sessions: &mut Sessions,
    conn: Conn,
    config: &Config,
    outcome: Result<i64, Rejected>,
) {
    match outcome {
        Ok(id) => {
            let (raft_id, cluster_id, cluster) = (id.cast_unsigned(), config.cluster_id, &config.cluster[..]);
            mesh.say(sessions, conn, &Frame::Welcome { raft_id, cluster_id, cluster });
        }
        Err(Rejected::Members(denied)) => {
            let reason = if denied == Denied::Crowded { Refusal::Unavailable } else { Refusal::NotMember };
            mesh.refuse(sessions, conn, reason, denied.detail());
        }
        Err(Rejected::Store(_)) => unreachable!("a registration does not touch the store"),
    }
}

/// Answers a client's mutation with its outcome.
pub(super) fn answer(desk: &mut Desk, conn: Conn, tag: Option<i32>, answer_rev: bool, outcome: Result<i64, Rejected>) {
    let response = match outcome {
        Ok(rev) => {
            let answer_rev = answer_rev || faults::is_armed(Fault::DeletionWithRevision);
            Response { tag, rev: answer_rev.then_some(rev), ..Response::default() }
        }
        Err(Rejected::Members(denied)) => Response::error(tag, ErrCode::Other, Some(denied.detail().as_bytes())),
        Err(Rejected::Store(refused)) => {
            let code = match refused {
                Refused::BadPath => ErrCode::BadPath,
                Refused::NotDir => ErrCode::Notdir,
                Refused::RevMismatch => ErrCode::RevMismatch,
                Refused::IsDir => ErrCode::Isdir,
            };
            Response::error(tag, code, None)
        }
    };
    desk.answered(conn, &response);
}
