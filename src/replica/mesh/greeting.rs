//! The greeting of a link: who the other side is, and with a secret the handshake before that.

use super::super::handshake::{Handshake, ONLY_THE_OTHER, Step, Unproved};
use super::{Mesh, Outcome, printable};
use crate::limits;
use crate::replica::members::Members;
use crate::replica::session::{Conn, Sessions};
use crate::wire::peer::{self, Frame, Hello, Refusal, Route, UNPROVED, VERSION};

/// After this many connections in a row that were closed without an answer to the challenge, the log says what that may mean.
const MUTE: u32 = 3;

impl Mesh {
    /// Makes the handshake of a new connection; `None` without a secret.
    pub(super) fn new_handshake(&mut self, dials: bool) -> Option<Box<Handshake>> {
        self.me.key.as_ref()?;
        let challenge = self.challenges.make();
        Some(Box::new(if dials { Handshake::dial(challenge) } else { Handshake::accept(challenge) }))
    }

    /// Says the first thing on a dialed connection.
    pub(super) fn begin_greeting(&mut self, sessions: &mut Sessions, conn: Conn) {
        match self.links.get(&conn).and_then(|link| link.handshake.as_ref()) {
            Some(handshake) => say_unproved(sessions, conn, &handshake.opening()),
            None => self.hello(sessions, conn),
        }
    }

    /// Says who this node is. Where a secret is set, the other side has proved it, and the hello is sealed.
    pub(super) fn hello(&mut self, sessions: &mut Sessions, conn: Conn) {
        let Mesh { me, links, .. } = self;
        let hello = Hello {
            version: VERSION,
            cluster: &me.cluster,
            node: me.node,
            raft_id: me.raft_id,
            epoch: me.epoch,
            life: me.life,
            incarnation: me.incarnation,
            cluster_id: me.cluster_id,
            secret: b"",
            addr: &me.addr,
        };
        let handshake = links.get_mut(&conn).and_then(|link| link.handshake.as_mut());
        let seal = me.key.as_ref().zip(handshake).map(|(key, handshake)| {
            assert!(handshake.is_proved(), "a hello to a stranger");
            handshake.seal(key, &hello)
        });
        assert_eq!(seal.is_some(), me.key.is_some(), "a hello without a seal");
        let hello = Hello { secret: seal.as_ref().map_or(&[], |seal| seal), ..hello };
        let route = Route { from: me.raft_id, to: 0, hops: 0 };
        sessions.append(conn, |out| peer::encode(route, &Frame::Hello(hello), out));
    }

    /// Answers the hello of a node that may be linked with.
    pub(super) fn greet_back(&mut self, sessions: &mut Sessions, conn: Conn, dialed: bool) {
        if !dialed {
            return self.hello(sessions, conn);
        }
        let Some(link) = self.links.get_mut(&conn) else { return };
        if let (Some(key), Some(handshake)) = (&self.me.key, link.handshake.take()) {
            let frame = handshake.confirm(key);
            self.say(sessions, conn, &frame);
        }
    }

    /// Takes a frame of a peer that has not said yet who it is, or has not confirmed it.
    pub(super) fn greeting(
        &mut self,
        sessions: &mut Sessions,
        members: &Members,
        conn: Conn,
        bytes: &[u8],
    ) -> Outcome<'static> {
        let unsent = sessions.get(conn).map_or(0, |session| session.unsent());
        let Ok(received) = peer::decode(bytes) else { return Outcome::End };
        if unsent > limits::STRANGER_OUTPUT {
            return Outcome::End;
        }
        let Mesh { me, links, mute, .. } = self;
        let Some(link) = links.get_mut(&conn) else { return Outcome::End };
        if let Frame::Refuse { reason, detail } = received.frame {
            return self.refused(sessions, members, conn, reason, detail);
        }
        let (Some(key), Some(handshake)) = (&me.key, &mut link.handshake) else {
            return match received.frame {
                Frame::Hello(hello) => self.greeted(sessions, members, conn, &hello),
                Frame::Challenge(_) => self.turn_down(sessions, conn, None, ONLY_THE_OTHER),
                _ => Outcome::End,
            };
        };
        let step = handshake.take(key, &received.frame);
        if let Some(addr) = &link.dialed
            && handshake.has_begun()
        {
            mute.remove(addr);
        }
        match (step, received.frame) {
            (Ok(Step::Say(frame)), _) => {
                if handshake.is_proved() {
                    sessions.known(conn);
                }
                say_unproved(sessions, conn, &frame);
                Outcome::Done
            }
            (Ok(Step::Greet), _) => {
                self.hello(sessions, conn);
                Outcome::Done
            }
            (Ok(Step::Greeted), Frame::Hello(hello)) => self.greeted(sessions, members, conn, &hello),
            (Ok(Step::Confirmed), _) => {
                link.handshake = None;
                let peer = link.peer.clone();
                if let Some(peer) = peer.filter(|peer| peer.raft_id != 0) {
                    self.come_up(sessions, conn, &peer);
                }
                Outcome::Done
            }
            (Ok(Step::Greeted), _) => Outcome::End,
            (Err(why), Frame::Hello(hello)) if why == Unproved::Earlier => {
                // All that it says may be made up; but an operator who upgrades needs to know which node it is.
                self.turn_down(sessions, conn, Some(&hello), why.line())
            }
            (Err(why), _) => self.turn_down(sessions, conn, None, why.line()),
        }
    }

    /// Refuses a peer that has not proved the secret, and tells it nothing but that.
    fn turn_down(
        &mut self,
        sessions: &mut Sessions,
        conn: Conn,
        hello: Option<&Hello<'_>>,
        why: &str,
    ) -> Outcome<'static> {
        let dialed = self.links.get(&conn).and_then(|link| link.dialed.clone());
        let from = sessions.get(conn).map(|session| session.from.to_string()).unwrap_or_default();
        let who = match (&dialed, from.is_empty()) {
            (Some(addr), _) => format!("the node at {addr}"),
            (None, false) => format!("a node at {from}"),
            (None, true) => "a node".to_owned(),
        };
        let claims = match hello {
            Some(hello) if hello.version == VERSION => {
                let (node, addr) = (hello.node.escape_ascii(), printable(hello.addr));
                format!(" that calls itself {node} and says that it listens on {addr}")
            }
            _ => String::new(),
        };
        self.tell_of_stranger(&who, format!("refused a link with {who}{claims}: {why}"));
        self.pause_dial(dialed.as_ref());
        say_unproved(sessions, conn, &UNPROVED);
        Outcome::End
    }

    /// Returns why a node that has not proved the secret has refused this one, as far as this node can know.
    pub(super) fn refused_unproved(&self, reason: Refusal) -> &'static str {
        match (reason, self.me.key.is_some()) {
            (Refusal::Secret, true) => Unproved::Secret.line(),
            (Refusal::Secret, false) => {
                "it has a DOOZER_RWSECRET, and this node has none, or one of the two runs an earlier version of this program"
            }
            _ => "it has not proved that it knows the DOOZER_RWSECRET of this node, and gives no reason that counts",
        }
    }

    /// A connection is closed. If this node dialed it and got no answer to its challenge, the log says what that may mean: so do
    /// versions that know no handshake.
    pub(super) fn note_mute(&mut self, conn: Conn) {
        let Some(link) = self.links.get(&conn) else { return };
        let (Some(addr), Some(handshake)) = (&link.dialed, &link.handshake) else { return };
        if handshake.has_begun() {
            return;
        }
        let times = self.mute.entry(addr.clone()).or_insert(0);
        *times = times.saturating_add(1);
        if *times == MUTE {
            let addr = addr.clone();
            self.tell(
                &addr,
                &format!(
                    "the node at {addr} closes connections at once: if it runs an earlier version of this program, which does not know \
                     how to prove DOOZER_RWSECRET, stop all nodes, then start them with this version"
                ),
            );
        }
    }
}

/// Sends a frame that tells nothing about this node.
fn say_unproved(sessions: &mut Sessions, conn: Conn, frame: &Frame<'_>) {
    sessions.append(conn, |out| peer::encode(Route::default(), frame, out));
}
