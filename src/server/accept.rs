//! Decides who may connect: some connections are for clients, and some are reserved for peers.
//!
//! Each connection takes an open file, and the number of open files is limited. When clients have taken all of theirs, the server
//! accepts the next connection on probation: it stays once the other side has proved to be a node of the cluster. If it is a client,
//! or the proof comes too late, the server closes it. So a member's links come up again, and a new node can attach, however many
//! clients there are, and however many connections begin like a peer's.
//!
//! Where a secret is set, every connection begins as a stranger's, with a limit in time and number: see
//! [`crate::limits::STRANGERS_MAX`]. The replica keeps the time; a new stranger takes the place of an old one here. A stranger that
//! gets access becomes a client, and is closed if clients have all of their places.
//!
//! Each pass of the loop accepts up to [`ACCEPTS_TURN`] connections, however many wait in the kernel's backlog, and serves the
//! others in between. With one in each pass, a new connection waited for seconds behind a thousand others while passes were long.
//! How many connections are closed in a pass is limited likewise: see `closing`.

use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio_uring::net::{TcpListener, TcpStream};

use super::Shell;
use super::link::{Link, Trial};
use crate::limits::{ACCEPTS_TURN, FILES_RESERVED, PEER_PLACES, SECRET_PLACES, STRANGERS_MAX};

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
    /// 0 without a secret: then nobody is a stranger.
    strangers: usize,
}

impl Places {
    /// The places of a process that may open this many files. Some files are left for the log, which would fail for good without
    /// them. `secret` tells whether a secret is set.
    fn of(files: u64, secret: bool) -> Places {
        let all = usize::try_from(files.saturating_sub(FILES_RESERVED).max(files / 2)).unwrap_or(usize::MAX);
        let peers = PEER_PLACES.min(all / 4);
        let strangers = if secret { STRANGERS_MAX.min(all / 4).max(1) } else { 0 };
        Places { clients: all.saturating_sub(peers + strangers), peers, strangers }
    }

    /// The places of this process.
    pub fn of_this_process(secret: bool) -> Places {
        Places::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), secret)
    }

    /// Returns whether connections are strangers' at first.
    pub fn have_strangers(self) -> bool {
        self.strangers > 0
    }

    /// Returns how many places clients have that present no secret. The rest is kept for those that do.
    pub fn readers(self) -> usize {
        self.clients - SECRET_PLACES.min(self.clients / 4)
    }

    fn all(self) -> usize {
        self.clients + self.peers + self.strangers
    }
}

/// Raises the limit of open files to the hard limit, because each connection takes one.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If the system refuses, there are fewer places.
    let _raised = setrlimit(Resource::Nofile, limit);
}

/// Takes connections out of the backlog, a few in each pass of the loop.
pub struct Door {
    listener: TcpListener,
    /// The same socket.
    backlog: std::net::TcpListener,
    /// How many more this pass may accept.
    left: usize,
}

impl Door {
    /// The door of a listener.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Door> {
        let backlog = listener.try_clone()?;
        Ok(Door { listener: TcpListener::from_std(listener), backlog, left: 0 })
    }

    /// Returns the next connection. The first of a pass is accepted by the ring, which gets the submission when the runtime parks.
    async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        if self.left > 0 && self.has_more() {
            self.left -= 1;
            let (stream, from) = self.backlog.accept()?;
            return Ok((TcpStream::from_std(stream), from));
        }
        let accepted = self.listener.accept().await?;
        self.left = ACCEPTS_TURN - 1;
        Ok(accepted)
    }

    /// Returns whether a connection waits. Nobody else takes it, so accepting it does not block.
    fn has_more(&self) -> bool {
        let mut listener = [PollFd::new(&self.backlog, PollFlags::IN)];
        poll(&mut listener, Some(&Timespec::default())).is_ok() && listener[0].revents().contains(PollFlags::IN)
    }
}

/// Accepts connections until the server stops.
pub async fn accept(shell: &Rc<Shell>, mut door: Door) {
    let places = shell.places;
    while !shell.stopping.get() {
        if shell.replica.borrow().connections() >= places.all() {
            make_place(shell).await;
            continue;
        }
        let is_full = places.have_strangers() && shell.replica.borrow().strangers() >= places.strangers;
        if is_full && !end_stranger(shell).await {
            continue;
        }
        match door.next().await {
            Ok((stream, from)) => {
                if shell.stopping.get() {
                    return;
                }
                let trial = if clients(shell) >= places.clients {
                    Trial::Probation
                } else if places.have_strangers() {
                    Trial::Stranger
                } else {
                    Trial::Over
                };
                let from = places.have_strangers().then(|| from.ip().to_canonical().to_string());
                let conn = shell.replica.borrow_mut().open_from(&from.unwrap_or_default());
                let link = Link::start(shell, conn, stream, trial);
                if link.on_probation() {
                    // This task must not keep the connection's file open.
                    let link = Rc::downgrade(&link);
                    shell.probation.borrow_mut().push_back((Instant::now(), Weak::clone(&link)));
                    let s = Rc::clone(shell);
                    tokio_uring::spawn(async move {
                        tokio::time::sleep(PROBATION).await;
                        link.upgrade()
                            .into_iter()
                            .filter(|link| link.on_probation())
                            .for_each(|link| turn_away(&s, &link));
                    });
                }
            }
            Err(e) => {
                shell.say(&format!("cannot accept connections: {e}; raise the limit of open files (ulimit -n)"));
                door.left = 0;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns how many connections clients have. Those of strangers, and those on probation, are not clients' yet.
fn clients(shell: &Shell) -> usize {
    let probation = probationers(shell);
    let replica = shell.replica.borrow();
    let unknown = if shell.places.have_strangers() { replica.strangers() } else { probation };
    replica.connections().saturating_sub(replica.peer_connections() + unknown)
}

/// Returns whether clients have more connections than places.
pub fn clients_exceed(shell: &Shell) -> bool {
    clients(shell) > shell.places.clients
}

/// Ends the oldest stranger that has had its time. Waits a moment, and returns false, if none has.
async fn end_stranger(shell: &Shell) -> bool {
    let ended = shell.replica.borrow_mut().evict_stranger();
    if ended {
        // The end of the turn closes it.
        shell.turn.set();
    } else {
        tokio::time::sleep(RETRY).await;
    }
    ended
}

/// Returns how many connections are on probation.
fn probationers(shell: &Shell) -> usize {
    let mut probation = shell.probation.borrow_mut();
    probation.retain(|(_, link)| link.upgrade().is_some_and(|link| link.on_probation()));
    probation.len()
}

/// Called when all places are taken: ends the oldest probation that has lasted long enough.
async fn make_place(shell: &Shell) {
    if shell.replica.borrow().strangers() > 0 {
        if end_stranger(shell).await {
            // The place becomes free when both of the connection's tasks have ended.
            tokio::time::sleep(RETRY).await;
        }
        return;
    }
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

/// Closes a connection for which there is no place: one that is still on probation, or a stranger that has become a client.
pub fn turn_away(shell: &Shell, link: &Link) {
    if !link.is_closed() {
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
    use std::cell::Cell;

    use super::*;

    /// Others must be served between the connections of a full backlog; and a backlog of a thousand must not take a thousand passes.
    #[test]
    fn a_full_backlog_is_accepted_in_one_go() {
        const MANY: usize = 100;
        tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let _waiting: Vec<_> = (0..MANY).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
            let mut door = Door::new(listener).unwrap();
            let accepted = Rc::new(Cell::new(0));
            let count = Rc::clone(&accepted);
            tokio_uring::spawn(async move {
                loop {
                    let _stream = door.next().await.unwrap();
                    count.set(count.get() + 1);
                }
            });
            let (mut passes, mut before) = (0, 0);
            while accepted.get() < MANY {
                // It is submitted, and done, once in a pass.
                tokio_uring::no_op().await.unwrap();
                passes += 1;
                let now = accepted.get();
                assert!(now - before <= 2 * ACCEPTS_TURN, "{} in pass {passes}", now - before);
                assert!(now <= (passes + 1) * ACCEPTS_TURN, "{now} in {passes} passes");
                before = now;
            }
            assert!(passes <= 2 * MANY / ACCEPTS_TURN, "{passes} passes");
        });
    }

    /// Few open files must not all go to clients, and many must not raise the peers' share.
    #[test]
    fn peers_have_no_place() {
        assert_eq!(Places::of(80, false), Places { clients: 30, peers: 10, strangers: 0 });
        assert_eq!(Places::of(200, false), Places { clients: 102, peers: 34, strangers: 0 });
        let many = Places::of(1 << 20, false);
        assert_eq!(many.peers, PEER_PLACES);
        assert_eq!(many.all() as u64, (1 << 20) - FILES_RESERVED);
        assert!(Places::of(u64::MAX, false).clients > 1 << 40);
    }

    /// Strangers have places of their own, and take none from peers and clients.
    #[test]
    fn strangers_take_the_places_of_peers_and_clients() {
        assert_eq!(Places::of(80, true), Places { clients: 20, peers: 10, strangers: 10 });
        let many = Places::of(20_064, true);
        let clients = 20_000 - PEER_PLACES - STRANGERS_MAX;
        assert_eq!(many, Places { clients, peers: PEER_PLACES, strangers: STRANGERS_MAX });
        for files in 8..300 {
            let (places, open) = (Places::of(files, true), Places::of(files, false));
            assert_eq!((places.all(), open.strangers), (open.all(), 0), "{files}");
            assert!(places.readers() <= places.clients && (files < 80 || places.readers() < places.clients));
            assert!(places.strangers > 0 && places.clients >= places.all() / 2, "{files}: {places:?}");
        }
    }
}
