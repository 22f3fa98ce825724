//! Attaching: how a node without a raft id asks a node of the cluster for one. Without a socket or a clock, like the replica.
//!
//! Each attempt has a connection of its own. Both sides say who they are, where a secret is set after they have proved that they know
//! it ([`super::handshake`]). Then the node asks to be registered. The answer comes when the cluster has committed the registration.
//! Asked twice, the cluster gives the same raft id: so whatever gets lost on the way, the node asks again.

use super::handshake::{Handshake, Key, ONLY_THE_OTHER, Step, Unproved};
use crate::limits::GREETING_MAX;
use crate::log::NodeId;
use crate::wire::peer::{self, BadFrame, Challenge, Frame, Hello, PREAMBLE, Refusal, Route, Split, VERSION};

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// Its own id.
    pub node: NodeId,
    /// How often it has set its data aside.
    pub incarnation: u64,
    /// The cluster that it wants to join, if it minds.
    pub cluster: String,
    /// That cluster's id, or 0.
    pub cluster_id: u64,
    /// The secret that admits a node to the cluster; `None` if none is set.
    pub key: Option<Key>,
    /// Where it listens.
    pub addr: String,
}

/// What a node of the cluster says to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is registered.
    Welcome {
        /// Its raft id.
        raft_id: u64,
        /// The cluster's id.
        cluster_id: u64,
        /// The cluster's name.
        cluster: String,
    },
    /// It is refused, and asking again will not help.
    Refused(String),
    /// It is to try again.
    Later(String),
}

impl Joiner {
    /// Begins an attempt on a new connection. `challenge` is random, and comes only once.
    pub fn attempt(&self, challenge: Challenge) -> Attempt {
        let handshake = self.key.as_ref().map(|_| Handshake::dial(challenge));
        Attempt { joiner: self.clone(), handshake, asked: false }
    }

    fn hello(&self) -> Hello<'_> {
        Hello {
            version: VERSION,
            cluster: &self.cluster,
            node: self.node,
            raft_id: 0,
            epoch: 0,
            life: 0,
            incarnation: self.incarnation,
            cluster_id: self.cluster_id,
            secret: b"",
            addr: &self.addr,
        }
    }

    fn objection(&self, hello: &Hello<'_>) -> Option<Answer> {
        if hello.version != VERSION {
            let version = hello.version;
            let why = format!(
                "it speaks version {version} of the peer protocol, not {VERSION}: run the same program everywhere"
            );
            return Some(Answer::Refused(why));
        }
        if !self.cluster.is_empty() && hello.cluster != self.cluster {
            return Some(Answer::Refused(format!("it is of cluster {}, not {}", hello.cluster, self.cluster)));
        }
        (hello.raft_id == 0).then(|| Answer::Later("it is not in a cluster itself yet".into()))
    }
}

/// One attempt to attach, on one connection.
#[derive(Debug)]
pub struct Attempt {
    joiner: Joiner,
    /// The handshake, until it is over; `None` without a secret.
    handshake: Option<Handshake>,
    /// True once the node has asked to be registered.
    asked: bool,
}

impl Attempt {
    /// What is sent first.
    pub fn opening(&self) -> Vec<u8> {
        let mut out = PREAMBLE.to_vec();
        match &self.handshake {
            Some(handshake) => peer::encode(ROUTE, &handshake.opening(), &mut out),
            None => peer::encode(ROUTE, &Frame::Hello(self.joiner.hello()), &mut out),
        }
        out
    }

    /// Takes what came: how much of it was used, and the answer, if it is there. What is to be sent is appended to `out`.
    ///
    /// # Errors
    /// When what came is nothing that a node of a cluster would say.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Answer>), BadFrame> {
        let mut used = 0;
        loop {
            let (size, whole) = match peer::split(&bytes[used..])? {
                Split::Whole { size } => (size, true),
                Split::Partial { needed } => (needed.unwrap_or(0), false),
            };
            if size > GREETING_MAX {
                return Err(BadFrame::TooLong(size));
            }
            if !whole {
                return Ok((used, None));
            }
            let frame = peer::decode(&bytes[used..used + size])?.frame;
            used += size;
            let answer = match frame {
                Frame::Refuse { reason, detail } => Some(self.refused(reason, detail)),
                frame if self.handshake.is_some() => self.shake(&frame, out),
                Frame::Hello(hello) if !self.asked => self.greeted(&hello, out),
                Frame::Welcome { raft_id, cluster_id, cluster } if self.asked && raft_id != 0 => {
                    Some(Answer::Welcome { raft_id, cluster_id, cluster: cluster.to_owned() })
                }
                _ => None,
            };
            if answer.is_some() {
                return Ok((used, answer));
            }
        }
    }

    /// Returns what it may mean that the other side has closed the connection.
    pub fn closed(&self) -> &'static str {
        match &self.handshake {
            Some(handshake) if !handshake.has_begun() => {
                "it closed the connection instead of proving DOOZER_RWSECRET; if it runs an earlier version of this program, stop all \
                 nodes, then start them with this version"
            }
            _ => "it closed the connection; is it a doozerd of this version?",
        }
    }

    fn shake(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Option<Answer> {
        let Attempt { joiner, handshake: Some(handshake), .. } = self else { return None };
        let key = joiner.key.as_ref()?;
        match (handshake.take(key, frame), frame) {
            (Ok(Step::Say(frame)), _) => peer::encode(ROUTE, &frame, out),
            (Ok(Step::Greet), _) => {
                let hello = joiner.hello();
                let seal = handshake.seal(key, &hello);
                peer::encode(ROUTE, &Frame::Hello(Hello { secret: &seal, ..hello }), out);
            }
            (Ok(Step::Greeted), Frame::Hello(hello)) => {
                peer::encode(ROUTE, &handshake.confirm(key), out);
                self.handshake = None;
                return self.greeted(hello, out);
            }
            (Ok(Step::Greeted | Step::Confirmed), _) => {}
            // Only a stranger takes this node's proof without having the same secret.
            (Err(Unproved::Secret), _) => {
                return Some(Answer::Later("it does not prove that it knows DOOZER_RWSECRET".into()));
            }
            (Err(why), _) => return Some(Answer::Later(why.line().into())),
        }
        None
    }

    fn greeted(&mut self, hello: &Hello<'_>, out: &mut Vec<u8>) -> Option<Answer> {
        let answer = self.joiner.objection(hello);
        if answer.is_none() {
            self.asked = true;
            let join = Frame::Join { incarnation: self.joiner.incarnation, addr: &self.joiner.addr };
            peer::encode(ROUTE, &join, out);
        }
        answer
    }

    fn refused(&self, reason: Refusal, detail: &str) -> Answer {
        if reason == Refusal::Secret {
            let why = match self.joiner.key {
                Some(_) => Unproved::Secret.line(),
                None => ONLY_THE_OTHER,
            };
            return Answer::Refused(why.into());
        }
        if self.handshake.as_ref().is_some_and(|handshake| !handshake.is_proved()) {
            return Answer::Later("it refuses, and does not prove that it knows DOOZER_RWSECRET".into());
        }
        let later = matches!(reason, Refusal::Unavailable | Refusal::Myself | Refusal::Other(_));
        if later { Answer::Later(detail.to_owned()) } else { Answer::Refused(detail.to_owned()) }
    }
}

const ROUTE: Route = Route { from: 0, to: 0, hops: 0 };
