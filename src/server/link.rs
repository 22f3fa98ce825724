//! A connection: one task that receives, one that sends.
//!
//! The receiver keeps one receive posted and hands the received bytes to the replica, which finds the frames in place. The sender
//! takes all output of a turn and sends it at once. An operation in flight is never dropped: to close a link, the server shuts its
//! socket down, which ends both tasks; the last of them tells the replica. Bytes received before are still handed to the replica,
//! because a mutation is applied even if its sender has gone.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::buf::{BoundedBuf, IoBuf};
use tokio_uring::net::TcpStream;

use super::buffer::Buffer;
use super::signal::Signal;
use super::{Shell, accept};
use crate::limits::CLOSES_TURN;
use crate::replica::{Conn, Output, Then};
use crate::wire::peer::PREAMBLE;

/// A send buffer larger than this is not kept; each connection has two.
const KEEP: usize = 8 << 10;

/// Time between two attempts to get room for a request.
const ROOM_PATIENCE: Duration = Duration::from_millis(1);

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// The replica's name for it.
    pub conn: Conn,
    /// There may be something to send.
    pub send: Signal,
    /// Receiving may go on.
    pub resume: Signal,
    closed: Cell<bool>,
    /// The connection has had its turn to be closed: see `closing`.
    may_close: Cell<bool>,
    trial: Cell<Trial>,
    /// Number of tasks that have not ended.
    tasks: Cell<u8>,
    stream: Stream,
}

/// What a connection must still show, so that it may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Nothing.
    Over,
    /// That it comes from a peer, or has access: see [`crate::limits::STRANGERS_MAX`].
    Stranger,
    /// That it comes from a peer, and soon: see `accept`.
    Probation,
}

struct Stream(TcpStream);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Link {
    /// Serves an accepted or dialed connection, which the replica knows as `conn`.
    pub fn start(shell: &Rc<Shell>, conn: Conn, stream: TcpStream, trial: Trial) -> Rc<Link> {
        let link = Rc::new(Link {
            conn,
            send: Signal::default(),
            resume: Signal::default(),
            closed: Cell::new(false),
            may_close: Cell::new(false),
            trial: Cell::new(trial),
            tasks: Cell::new(2),
            stream: Stream(stream),
        });
        shell.links.borrow_mut().insert(conn, Rc::clone(&link));
        let (s, l) = (Rc::clone(shell), Rc::clone(&link));
        tokio_uring::spawn(async move {
            l.receive(&s).await;
            l.end_task(&s);
        });
        let (s, l) = (Rc::clone(shell), Rc::clone(&link));
        tokio_uring::spawn(async move {
            l.send(&s).await;
            l.end_task(&s);
        });
        link
    }

    /// Returns whether the connection is open and has not proved yet that it comes from a peer, though it must.
    pub fn on_probation(&self) -> bool {
        self.trial.get() == Trial::Probation && !self.closed.get()
    }

    /// Returns whether the other side has neither proved to be a peer, nor got access, though it must.
    pub fn is_stranger(&self) -> bool {
        self.trial.get() == Trial::Stranger
    }

    /// Returns whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    fn end_task(&self, shell: &Shell) {
        self.tasks.set(self.tasks.get() - 1);
        if self.tasks.get() == 0 {
            shell.links.borrow_mut().remove(&self.conn);
            shell.replica.borrow_mut().close(self.conn);
            shell.turn.set();
        }
    }

    /// Ends the connection: nothing more is sent, and both tasks end.
    pub fn close(&self, shell: &Shell) {
        if self.closed.replace(true) {
            return;
        }
        shell.replica.borrow_mut().leave(self.conn);
        // This fails only if the connection is already down.
        let _down = self.stream.0.shutdown(Shutdown::Both);
        self.send.set();
        self.resume.set();
        shell.turn.set();
    }

    /// Waits until it is the connection's turn to be closed, unless it was before. A link to a known peer need not wait.
    async fn turn_to_close(&self, shell: &Shell) {
        if !self.may_close.get() && !self.closed.get() && !shell.replica.borrow().knows_peer(self.conn) {
            shell.closing.turn().await;
            self.may_close.set(true);
        }
    }

    async fn receive(&self, shell: &Shell) {
        let mut buffer = Buffer::new(&shell.receive_clients, self.conn);
        loop {
            let room = buffer.bytes().len();
            let (received, slice) = self.stream.0.read(buffer.lend().slice(room..)).await;
            buffer.received(slice.into_inner());
            // A stopping server accepts input only from its peers, with whom it finishes what is under way.
            if shell.stopping.get() && !shell.replica.borrow_mut().is_peer(self.conn) {
                return;
            }
            let got = match received {
                _ if self.closed.get() && buffer.bytes().len() == room => return,
                Ok(0) => {
                    self.turn_to_close(shell).await;
                    shell.replica.borrow_mut().end_of_stream(self.conn);
                    return shell.turn.set();
                }
                Ok(got) => got,
                Err(_) => {
                    self.turn_to_close(shell).await;
                    return self.close(shell);
                }
            };
            if self.on_probation() && is_client(buffer.bytes()) {
                self.turn_to_close(shell).await;
                return accept::turn_away(shell, self);
            }
            shell.came.set();
            let mut used = 0;
            let needed = loop {
                let receipt = shell.replica.borrow_mut().receive(self.conn, &buffer.bytes()[used..]);
                used += receipt.consumed;
                shell.turn.set();
                match receipt.then {
                    Then::More { needed } => break needed,
                    Then::Close => return,
                    Then::Paused => {
                        buffer.pause();
                        self.resume.wait().await;
                    }
                }
            };
            if self.closed.get() {
                return;
            }
            if self.trial.get() != Trial::Over && !self.stands_trial(shell) {
                self.turn_to_close(shell).await;
                return accept::turn_away(shell, self);
            }
            if buffer.is_large() {
                buffer.stranger = self.is_stranger();
                if shell.replica.borrow().knows_peer(self.conn) {
                    buffer.move_to(&shell.receive_peers);
                }
            }
            let mut result = buffer.make_room(used, got, needed);
            while let Err(refused) = result {
                // A few make way in each pass, and their memory is free once their tasks have ended.
                shell.closing.turn().await;
                for conn in buffer.make_way(refused, CLOSES_TURN) {
                    shell.close_unfinished(conn);
                }
                if self.closed.get() {
                    return;
                }
                tokio::time::sleep(ROOM_PATIENCE).await;
                result = buffer.make_room(0, 0, needed);
            }
        }
    }

    /// Ends the trial if the other side has shown who it is. Returns false if there is no place for it.
    fn stands_trial(&self, shell: &Shell) -> bool {
        let known = {
            let replica = shell.replica.borrow();
            replica.knows_peer(self.conn) || (shell.places.have_strangers() && !replica.is_stranger(self.conn))
        };
        if !known {
            return true;
        }
        self.trial.set(Trial::Over);
        shell.replica.borrow_mut().is_peer(self.conn) || !accept::clients_exceed(shell)
    }

    async fn send(&self, shell: &Shell) {
        let mut buffer = Vec::new();
        loop {
            self.send.wait().await;
            loop {
                if self.closed.get() {
                    return;
                }
                let (output, piece) = shell.replica.borrow_mut().next_output(self.conn, &mut buffer);
                match output {
                    Output::Nothing => break,
                    Output::Finish => {
                        self.turn_to_close(shell).await;
                        return self.close(shell);
                    }
                    Output::Send => {
                        shell.sending.set(shell.sending.get() + 1);
                        let sent = if piece.is_empty() {
                            let (sent, mut sent_buffer) = self.write(shell, buffer).await;
                            sent_buffer.clear();
                            buffer = if sent_buffer.capacity() > KEEP { Vec::new() } else { sent_buffer };
                            sent
                        } else {
                            self.write(shell, piece).await.0
                        };
                        shell.sending.set(shell.sending.get() - 1);
                        if sent.is_err() {
                            self.turn_to_close(shell).await;
                            return self.close(shell);
                        }
                        shell.replica.borrow_mut().sent(self.conn);
                        shell.turn.set();
                    }
                }
            }
        }
    }

    /// Sends all bytes, and counts each part that a client takes.
    async fn write<B: IoBuf>(&self, shell: &Shell, mut buffer: B) -> (io::Result<()>, B) {
        let (mut at, len) = (0, buffer.bytes_init());
        while at < len {
            let (written, slice) = self.stream.0.write(buffer.slice(at..)).submit().await;
            buffer = slice.into_inner();
            match written {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(n) => at += n,
                Err(e) => return (Err(e), buffer),
            }
            if !shell.replica.borrow_mut().is_peer(self.conn) {
                shell.taken.set(shell.taken.get() + 1);
            }
        }
        (Ok(()), buffer)
    }
}

/// Returns whether the first bytes on a connection are not those of a peer.
fn is_client(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREAMBLE.len());
    bytes[..known] != PREAMBLE[..known]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer's bytes may come one by one; a client's first byte must show that it is a client's.
    #[test]
    fn a_client_is_taken_for_a_peer() {
        let mut bytes = PREAMBLE.to_vec();
        bytes.extend_from_slice(b"more");
        for n in 0..=bytes.len() {
            assert!(!is_client(&bytes[..n]));
        }
        for client in [&b"\0"[..], b"\0\0\0\x10", b"\xD0doozer!", b"GET / HTTP/1.1"] {
            assert!(is_client(client));
        }
    }
}
