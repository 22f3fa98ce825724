//! Decides who may connect: some connections are for clients, and some are reserved for peers.
//!
//! Each connection takes an open file, and the number of open files is limited. When clients have taken all of theirs, the server
//! accepts the next connection on probation: it stays once the other side has proved to be a node of the cluster. If it is a client,
//! or the proof comes too late, the server closes it. So a member's links come up again, and a new node can attach, however many
//! clients there are, and however many connections begin like a peer's.

use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio_uring::net::TcpListener;

use super::Shell;
use super::link::Link;
use crate::limits::{FILES_RESERVED, PEER_PLACES};

/// How long a connection on probation may take to prove that it comes from a peer.
const PROBATION: Duration = Duration::from_secs(1);
/// The same while another connection waits for the place: enough for bytes from the other side of the world that were sent before
/// the server accepted.
const PROBATION_SHORT: Duration = Duration::from_millis(100);
/// Time between two attempts to find a free place.
const RETRY: Duration = Duration::from_millis(5);
/// Time to the next attempt after accepting has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections clients and peers may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    clients: usize,
    peers: usize,
}

impl Places {
    /// The places of a process that may open this many files. Some files are left for the log, which would fail for good without
    /// them.
    fn of(files: u64) -> Places {
        let all = usize::try_from(files.saturating_sub(FILES_RESERVED).max(files / 2)).unwrap_or(usize::MAX);
        let peers = PEER_PLACES.min(all / 4);
        Places { clients: all - peers, peers }
    }

    /// The places of this process.
    pub fn of_this_process() -> Places {
        Places::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn all(self) -> usize {
        self.clients + self.peers
    }
}

/// Raises the limit of open files to the hard limit, because each connection takes one.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If the system refuses, there are fewer places.
    let _raised = setrlimit(Resource::Nofile, limit);
}

/// Accepts connections until the server stops.
pub async fn accept(shell: &Rc<Shell>, listener: TcpListener) {
    let places = shell.places;
    while !shell.stopping.get() {
        if shell.replica.borrow().connections() >= places.all() {
            make_place(shell).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                if shell.stopping.get() {
                    return;
                }
                let (all, peers) = {
                    let replica = shell.replica.borrow();
                    (replica.connections(), replica.peer_connections())
                };
                let clients = all.saturating_sub(peers + probationers(shell));
                let conn = shell.replica.borrow_mut().open();
                let link = Link::start(shell, conn, stream, clients >= places.clients);
                if link.on_probation() {
                    // This task must not keep the connection's file open.
                    let link = Rc::downgrade(&link);
                    shell.probation.borrow_mut().push_back((Instant::now(), Weak::clone(&link)));
                    let s = Rc::clone(shell);
                    tokio_uring::spawn(async move {
                        tokio::time::sleep(PROBATION).await;
                        link.upgrade().into_iter().for_each(|link| turn_away(&s, &link));
                    });
                }
            }
            Err(e) => {
                shell.say(&format!("cannot accept connections: {e}; raise the limit of open files (ulimit -n)"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns how many connections are on probation.
fn probationers(shell: &Shell) -> usize {
    let mut probation = shell.probation.borrow_mut();
    probation.retain(|(_, link)| link.upgrade().is_some_and(|link| link.on_probation()));
    probation.len()
}

/// Called when all places are taken: ends the oldest probation that has lasted long enough.
async fn make_place(shell: &Shell) {
    if probationers(shell) == 0 {
        shell.say(&format!(
            "cannot accept more connections: all {} places are taken; raise the limit of open files (ulimit -n)",
            shell.places.all()
        ));
        return tokio::time::sleep(PAUSE).await;
    }
    let oldest = shell.probation.borrow().front().map(|(since, link)| (*since, link.upgrade()));
    if let Some((since, Some(link))) = oldest
        && since.elapsed() >= PROBATION_SHORT
    {
        turn_away(shell, &link);
        // The place becomes free when both of the connection's tasks have ended.
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(RETRY).await;
}

/// Closes a connection that is still on probation.
pub fn turn_away(shell: &Shell, link: &Link) {
    if link.on_probation() {
        shell.say(&format!(
            "closed a new connection: clients have all of their {} places, and {} more are kept for nodes of the cluster; raise \
             the limit of open files (ulimit -n)",
            shell.places.clients, shell.places.peers
        ));
        link.close(shell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few open files must not all go to clients, and many must not raise the peers' share.
    #[test]
    fn peers_have_no_place() {
        assert_eq!(Places::of(80), Places { clients: 30, peers: 10 });
        assert_eq!(Places::of(200), Places { clients: 102, peers: 34 });
        let many = Places::of(1 << 20);
        assert_eq!(many.peers, PEER_PLACES);
        assert_eq!(many.all() as u64, (1 << 20) - FILES_RESERVED);
        assert!(Places::of(u64::MAX).clients > 1 << 40);
    }
}
