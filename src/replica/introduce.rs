//! The server's own files in `/ctl`: who it is, where it listens, and that it takes writes.
//!
//! They are ordinary mutations of the server itself, sent once there is a leader, and only those that are not as they should be: a
//! restart on the same address writes nothing. Clients are served when they are applied, so whoever asks finds them.

use super::batch::{Command, Registration};
use super::members::FOUNDER;
use super::requests::{Asker, Pending};
use super::{Config, Replica};
use crate::faults::{self, Fault};
use crate::store::{Lookup, Mutation, Path};

/// How far a server has made itself known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Introduced {
    No,
    /// The server's own entries of `/ctl` are on their way, up to this sequence number.
    Until(u64),
    Yes,
}

impl Replica {
    /// Writes the server's files in `/ctl`, those that are not as they should be, once it leads.
    pub(super) fn introduce(&mut self) {
        match self.introduced {
            Introduced::Yes => return,
            Introduced::Until(seq) => {
                if seq < self.pending_first {
                    self.introduced = Introduced::Yes;
                }
                return;
            }
            Introduced::No if self.leader().is_none() || self.is_closed() => return,
            Introduced::No => {}
        }
        let Config { id, node, raft_id, incarnation, cluster, addr, hostname, version, .. } = self.config.clone();
        let founding = self.machine.store.revision() == 0 && raft_id == FOUNDER;
        let known = self.machine.members.nodes().get(&raft_id);
        if known.is_none_or(|m| m.node != node || m.addr != addr) && self.log_takes(addr.len()) {
            let registration = Registration { raft_id, node, incarnation, addr: addr.as_bytes() };
            self.enqueue(Pending { asker: Asker::Own }, &Command::Register(registration));
        }
        let name = match self.machine.store.lookup(b"/ctl/name", self.machine.store.revision()) {
            Lookup::File { value, .. } => String::from_utf8_lossy(value).into_owned(),
            _ => cluster.clone(),
        };
        if founding {
            self.put("/ctl/name", &cluster);
        }
        self.put(&format!("/ctl/node/{id}/addr"), &addr);
        self.put(&format!("/ctl/node/{id}/hostname"), &hostname);
        self.put(&format!("/ctl/node/{id}/version"), &version);
        if founding {
            self.put("/ctl/cal/0", &id);
        }
        if Path::parse(format!("/ctl/ns/{name}/{id}").as_bytes()).is_some() {
            self.put(&format!("/ctl/ns/{name}/{id}"), &addr);
        }
        if !faults::is_armed(Fault::NeverWritable) {
            self.put(&format!("/ctl/node/{id}/writable"), "true");
        }
        self.introduced = Introduced::Until(self.pending_first + self.pending.len() as u64 - 1);
        // Nothing to say: it is known already.
        if self.pending.is_empty() {
            self.introduced = Introduced::Yes;
        }
    }

    /// Sets a file to a value, unless it has it. With a full disk it stays as it was: reads are served all the same.
    pub(super) fn put(&mut self, path: &str, value: &str) {
        let (path, value) = (path.as_bytes(), value.as_bytes());
        let store = &self.machine.store;
        if let Lookup::File { value: found, .. } = store.lookup(path, store.revision())
            && found == value
        {
            return;
        }
        if self.log_takes(path.len() + value.len()) {
            self.enqueue(Pending { asker: Asker::Own }, &Mutation::Set { path, rev: -1, value }.into());
        }
    }
}
