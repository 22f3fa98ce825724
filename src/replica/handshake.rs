//! The handshake: two nodes prove to each other that they know the secret of the cluster, without sending it.
//!
//! [`crate::wire::peer`] describes the exchange, and what it does not promise. This file has no state beside that of one connection:
//! the mesh and an attaching node feed it the frames of the other side, and do what [`Step`] says.
//!
//! Invariants:
//! * a side says nothing about itself before the other side has proved the secret ([`Handshake::is_proved`]);
//! * a frame that is out of place ends the handshake: each stage takes exactly one frame, so a peer gets at most one answer a stage;
//! * proofs are compared by the crate that makes them, in a time that does not depend on how much of them is right.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::wire::peer::{self, Challenge, Frame, Hello, Proof, Route, VERSION};

/// What a proof is about, in front of the bytes that it covers. All labels have the same length.
type Label = [u8; 16];
const CHALLENGE: &Label = b"doozer challenge";
const DIALER: &Label = b"doozer dialer   ";
const ACCEPTOR: &Label = b"doozer acceptor ";
const DIALER_HELLO: &Label = b"doozer dialer's ";
const ACCEPTOR_HELLO: &Label = b"doozer acceptor'";
const CONFIRMED: &Label = b"doozer confirmed";

/// A secret, ready to make proofs with.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Key {
        Key(Hmac::new_from_slice(bytes).expect("HMAC takes a key of any length"))
    }

    /// Makes the key of a secret; `None` if the secret is empty, that is, not set.
    #[must_use]
    pub fn of_secret(secret: &[u8]) -> Option<Key> {
        (!secret.is_empty()).then(|| Key::new(secret))
    }

    fn over(&self, label: &Label, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(label);
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    fn prove(&self, label: &Label, parts: &[&[u8]]) -> Proof {
        self.over(label, parts).finalize().into_bytes().into()
    }

    fn verify(&self, label: &Label, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.over(label, parts).verify_slice(proof).is_ok()
    }
}

/// The challenges of a boot: nobody can predict them, and none comes twice.
#[derive(Clone, Debug)]
pub struct Challenges {
    key: Key,
    made: u64,
}

impl Challenges {
    /// `seed` is random, and known to nobody else.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Challenges {
        Challenges { key: Key::new(seed), made: 0 }
    }

    /// Makes the challenge of a new connection.
    pub fn make(&mut self) -> Challenge {
        self.made += 1;
        self.key.prove(CHALLENGE, &[&self.made.to_le_bytes()])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Dialer,
    Acceptor,
}

/// The frame that a side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Challenge,
    Proof,
    Hello,
    /// The acceptor's last.
    Confirmation,
}

/// What to do after a frame.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send this frame.
    Say(Frame<'static>),
    /// The acceptor has proved the secret: send it a hello with the seal of [`Handshake::seal`].
    Greet,
    /// The other side has said who it is. An acceptor that agrees answers with a sealed hello, a dialer with
    /// [`Handshake::confirm`].
    Greeted,
    /// The dialer has confirmed everything: the handshake is over.
    Confirmed,
}

/// Why the other side does not get further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unproved {
    /// Its proof is wrong.
    Secret,
    /// It began with a hello that contains something in the place of the secret, as versions before the handshake do.
    Earlier,
    /// It began with a hello without a secret.
    NoSecret,
    /// Its frames are not those of a handshake.
    Protocol,
}

impl Unproved {
    /// Returns the reason and the remedy for the operator of this node, about the other one.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Unproved::Secret => "it has another DOOZER_RWSECRET than this node: set the same on all nodes",
            Unproved::Earlier => {
                "it runs an earlier version of this program, which would send its DOOZER_RWSECRET in the clear: stop all nodes, then \
                 start them with this version"
            }
            Unproved::NoSecret => "it has no DOOZER_RWSECRET: set the same on all nodes",
            Unproved::Protocol => "it does not follow the handshake that DOOZER_RWSECRET asks for",
        }
    }
}

/// Why a node without a secret gets no link with one that has a secret, for the operator of the former.
pub const ONLY_THE_OTHER: &str = "it has a DOOZER_RWSECRET, and this node has none: set the same on all nodes";

/// One side of the handshake on one connection.
#[derive(Debug)]
pub struct Handshake {
    side: Side,
    stage: Stage,
    dialer: Challenge,
    acceptor: Challenge,
    /// The hellos that were sealed so far: the dialer's, then the acceptor's.
    hellos: Vec<u8>,
}

impl Handshake {
    /// Begins the handshake of the side that dialed; [`Handshake::opening`] is what it says first.
    #[must_use]
    pub fn dial(ours: Challenge) -> Handshake {
        let (side, stage) = (Side::Dialer, Stage::Challenge);
        Handshake { side, stage, dialer: ours, acceptor: Challenge::default(), hellos: Vec::new() }
    }

    /// Begins the handshake of the side that was dialed, which waits for the other one.
    #[must_use]
    pub fn accept(ours: Challenge) -> Handshake {
        let (side, stage) = (Side::Acceptor, Stage::Challenge);
        Handshake { side, stage, dialer: Challenge::default(), acceptor: ours, hellos: Vec::new() }
    }

    /// Returns the dialer's first frame.
    #[must_use]
    pub fn opening(&self) -> Frame<'static> {
        Frame::Challenge(self.dialer)
    }

    /// Returns whether the other side has proved the secret.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        matches!(self.stage, Stage::Hello | Stage::Confirmation)
    }

    /// Returns whether the other side has said anything that belongs to the handshake.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.stage != Stage::Challenge
    }

    /// Takes a frame of the other side.
    ///
    /// # Errors
    /// If the other side does not prove the secret. Nothing more that it says counts.
    pub fn take(&mut self, key: &Key, frame: &Frame<'_>) -> Result<Step, Unproved> {
        let (step, next) = match (self.stage, self.side, frame) {
            (Stage::Challenge, Side::Dialer, Frame::Challenge(theirs)) => {
                self.acceptor = *theirs;
                (Step::Say(self.proof(key, DIALER)), Stage::Proof)
            }
            (Stage::Challenge, Side::Acceptor, Frame::Challenge(theirs)) => {
                self.dialer = *theirs;
                (Step::Say(Frame::Challenge(self.acceptor)), Stage::Proof)
            }
            (Stage::Challenge, _, Frame::Hello(hello)) if hello.secret.is_empty() && hello.version == VERSION => {
                return Err(Unproved::NoSecret);
            }
            (Stage::Challenge, _, Frame::Hello(_)) => return Err(Unproved::Earlier),
            (Stage::Proof, Side::Dialer, Frame::Proof(theirs)) => {
                self.check(key, ACCEPTOR, theirs)?;
                (Step::Greet, Stage::Hello)
            }
            (Stage::Proof, Side::Acceptor, Frame::Proof(theirs)) => {
                self.check(key, DIALER, theirs)?;
                (Step::Say(self.proof(key, ACCEPTOR)), Stage::Hello)
            }
            (Stage::Hello, side, Frame::Hello(hello)) => {
                // A hello of another version cannot be read, and is refused for that.
                if hello.version == VERSION {
                    let label = if side == Side::Dialer { ACCEPTOR_HELLO } else { DIALER_HELLO };
                    self.cover(hello);
                    self.check(key, label, hello.secret)?;
                }
                (Step::Greeted, Stage::Confirmation)
            }
            (Stage::Confirmation, Side::Acceptor, Frame::Proof(theirs)) => {
                self.check(key, CONFIRMED, theirs)?;
                (Step::Confirmed, Stage::Confirmation)
            }
            _ => return Err(Unproved::Protocol),
        };
        self.stage = next;
        Ok(step)
    }

    /// Seals this side's hello: returns what belongs into the field for the secret.
    pub fn seal(&mut self, key: &Key, hello: &Hello<'_>) -> Proof {
        self.cover(hello);
        let label = if self.side == Side::Dialer { DIALER_HELLO } else { ACCEPTOR_HELLO };
        key.prove(label, &self.parts())
    }

    /// Returns the dialer's last frame, behind which the link is up.
    #[must_use]
    pub fn confirm(&self, key: &Key) -> Frame<'static> {
        self.proof(key, CONFIRMED)
    }

    fn parts(&self) -> [&[u8]; 3] {
        [&self.dialer, &self.acceptor, &self.hellos]
    }

    fn proof(&self, key: &Key, label: &Label) -> Frame<'static> {
        Frame::Proof(key.prove(label, &self.parts()))
    }

    fn check(&self, key: &Key, label: &Label, proof: &[u8]) -> Result<(), Unproved> {
        if key.verify(label, &self.parts(), proof) { Ok(()) } else { Err(Unproved::Secret) }
    }

    /// Makes all further proofs cover a hello.
    fn cover(&mut self, hello: &Hello<'_>) {
        peer::encode(Route::default(), &Frame::Hello(Hello { secret: b"", ..*hello }), &mut self.hellos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Hello<'static> = Hello {
        version: VERSION,
        cluster: "local",
        node: *b"DDDDDDDDDDDDDDDD",
        raft_id: 1,
        epoch: 2,
        life: 3,
        incarnation: 4,
        cluster_id: 5,
        secret: b"",
        addr: "10.0.0.1:8046",
    };
    const A: Hello<'static> = Hello { node: *b"AAAAAAAAAAAAAAAA", raft_id: 2, addr: "10.0.0.2:8046", ..D };

    fn key(secret: &str) -> Key {
        Key::of_secret(secret.as_bytes()).unwrap()
    }

    /// A frame with its body, which outlives the side that made it.
    #[derive(Clone, Debug)]
    struct Sent(Vec<u8>);

    impl Sent {
        fn of(frame: &Frame<'_>) -> Sent {
            let mut bytes = Vec::new();
            peer::encode(Route::default(), frame, &mut bytes);
            Sent(bytes)
        }

        fn frame(&self) -> Frame<'_> {
            peer::decode(&self.0).unwrap().frame
        }
    }

    /// One side, with its secret and its hello.
    struct End {
        handshake: Handshake,
        key: Key,
        hello: Hello<'static>,
    }

    impl End {
        fn dialer(secret: &str, seed: u8) -> End {
            let handshake = Handshake::dial(Challenges::new(&[seed; 32]).make());
            End { handshake, key: key(secret), hello: D }
        }

        fn acceptor(secret: &str, seed: u8) -> End {
            let handshake = Handshake::accept(Challenges::new(&[seed; 32]).make());
            End { handshake, key: key(secret), hello: A }
        }

        /// Takes a frame, and returns the answer, as the mesh would send it.
        fn take(&mut self, sent: &Sent) -> Result<Option<Sent>, Unproved> {
            Ok(match self.handshake.take(&self.key, &sent.frame())? {
                Step::Say(frame) => Some(Sent::of(&frame)),
                Step::Greet => Some(self.greet()),
                Step::Greeted if self.handshake.side == Side::Acceptor => Some(self.greet()),
                Step::Greeted => Some(Sent::of(&self.handshake.confirm(&self.key))),
                Step::Confirmed => None,
            })
        }

        fn greet(&mut self) -> Sent {
            let seal = self.handshake.seal(&self.key, &self.hello);
            Sent::of(&Frame::Hello(Hello { secret: &seal, ..self.hello }))
        }
    }

    /// Runs a handshake; `meddle` may replace the frame of each number. Returns the frames and the outcome.
    fn run(
        dialer: &mut End,
        acceptor: &mut End,
        mut meddle: impl FnMut(usize, &Sent) -> Option<Sent>,
    ) -> (Vec<Sent>, Result<(), Unproved>) {
        let mut frames = Vec::new();
        let mut next = Sent::of(&dialer.handshake.opening());
        loop {
            let n = frames.len();
            frames.push(next.clone());
            let arrives = meddle(n, &next).unwrap_or(next);
            let taker = if n.is_multiple_of(2) { &mut *acceptor } else { &mut *dialer };
            match taker.take(&arrives) {
                Ok(Some(answer)) => next = answer,
                Ok(None) => return (frames, Ok(())),
                Err(why) => return (frames, Err(why)),
            }
        }
    }

    fn whole(seed: u8) -> Vec<Sent> {
        let (frames, outcome) = run(&mut End::dialer("s", seed), &mut End::acceptor("s", seed + 1), |_, _| None);
        assert_eq!((frames.len(), outcome), (7, Ok(())));
        frames
    }

    /// Two nodes with the same secret are linked after seven frames, and the secret is in none of them. With another secret the
    /// acceptor finds out first, and the dialer has said nothing of itself.
    #[test]
    fn a_wrong_secret_is_taken_or_the_secret_is_sent() {
        for frame in run(&mut End::dialer("open sesame", 1), &mut End::acceptor("open sesame", 2), |_, _| None).0 {
            assert!(!frame.0.windows(6).any(|bytes| bytes == b"sesame"));
        }
        let (frames, outcome) = run(&mut End::dialer("s", 1), &mut End::acceptor("t", 2), |_, _| None);
        assert_eq!((frames.len(), outcome), (3, Err(Unproved::Secret)));
        assert!(frames.iter().all(|frame| !matches!(frame.frame(), Frame::Hello(_))));
    }

    /// One who listens at a member's address cannot prove anything, and gets neither a hello nor the secret.
    #[test]
    fn a_dialer_greets_one_that_does_not_prove_the_secret() {
        let mut dialer = End::dialer("s", 1);
        let proof = dialer.take(&Sent::of(&Frame::Challenge([9; 32]))).unwrap().unwrap();
        assert!(matches!(proof.frame(), Frame::Proof(_)) && !dialer.handshake.is_proved());
        for answer in [proof.frame(), Frame::Proof([0; 32]), Frame::Hello(A), Frame::Ping] {
            let mut dialer = End::dialer("s", 1);
            dialer.take(&Sent::of(&Frame::Challenge([9; 32]))).unwrap();
            assert!(dialer.take(&Sent::of(&answer)).is_err(), "{answer:?}");
            assert!(!dialer.handshake.is_proved());
        }
    }

    /// Whatever is changed on the way is noticed: each bit of each frame counts, and so does each field of the hellos.
    #[test]
    fn a_changed_handshake_succeeds() {
        let frames = whole(1).len();
        for n in 0..frames {
            let change = |at: usize, sent: &Sent| {
                (at == n).then(|| match sent.frame() {
                    Frame::Challenge(mut bytes) => {
                        bytes[31] ^= 1;
                        Sent::of(&Frame::Challenge(bytes))
                    }
                    Frame::Proof(mut bytes) => {
                        bytes[0] ^= 1;
                        Sent::of(&Frame::Proof(bytes))
                    }
                    Frame::Hello(hello) => Sent::of(&Frame::Hello(Hello { cluster_id: 6, ..hello })),
                    other => panic!("{other:?}"),
                })
            };
            let outcome = run(&mut End::dialer("s", 1), &mut End::acceptor("s", 2), change).1;
            assert_eq!(outcome, Err(Unproved::Secret), "frame {n}");
        }
        type Change = fn(Hello<'_>) -> Hello<'_>;
        let changes: [Change; 7] = [
            |hello| Hello { node: *b"EEEEEEEEEEEEEEEE", ..hello },
            |hello| Hello { raft_id: 9, ..hello },
            |hello| Hello { epoch: 9, ..hello },
            |hello| Hello { life: 9, ..hello },
            |hello| Hello { incarnation: 9, ..hello },
            |hello| Hello { cluster: "other", ..hello },
            |hello| Hello { addr: "10.0.0.9:1", ..hello },
        ];
        for (n, change) in [4, 5].into_iter().flat_map(|n| changes.iter().map(move |change| (n, change))) {
            let meddle = |at: usize, sent: &Sent| match sent.frame() {
                Frame::Hello(hello) if at == n => Some(Sent::of(&Frame::Hello(change(hello)))),
                _ => None,
            };
            let outcome = run(&mut End::dialer("s", 1), &mut End::acceptor("s", 2), meddle).1;
            assert_eq!(outcome, Err(Unproved::Secret), "frame {n}");
        }
    }

    /// Frames of one connection are worth nothing on another, nor on the way back.
    #[test]
    fn an_old_or_reflected_frame_is_taken() {
        let (old, now) = (whole(1), whole(3));
        for (n, recorded) in old.iter().enumerate().skip(1) {
            let replay = |at: usize, _: &Sent| (at == n).then(|| recorded.clone());
            let outcome = run(&mut End::dialer("s", 3), &mut End::acceptor("s", 4), replay).1;
            assert!(outcome.is_err(), "frame {n} of another connection");
        }
        for (n, m) in (0..now.len()).flat_map(|n| (0..now.len()).map(move |m| (n, m))).filter(|(n, m)| n != m) {
            // A stranger chooses any challenge, so the answer to it must not help the stranger.
            let reflect = |at: usize, _: &Sent| (at == n).then(|| now[m].clone());
            let outcome = run(&mut End::dialer("s", 3), &mut End::acceptor("s", 4), reflect).1;
            assert!(outcome.is_err(), "frame {m} in the place of {n}");
        }
    }

    /// Each stage takes one frame and no other: a peer must not get an answer for every frame that it sends.
    #[test]
    fn a_frame_out_of_place_is_taken() {
        let frames = whole(1);
        for stage in 0..4 {
            for frame in [Frame::Ping, Frame::Join { incarnation: 0, addr: "a:1" }, Frame::Hello(D), frames[0].frame()]
            {
                let mut acceptor = End::acceptor("s", 2);
                frames.iter().step_by(2).take(stage).for_each(|done| drop(acceptor.take(done).unwrap()));
                let fits = stage == 0 && matches!(frame, Frame::Challenge(_));
                assert_eq!(acceptor.take(&Sent::of(&frame)).is_ok(), fits, "stage {stage}, {frame:?}");
            }
        }
    }

    /// A node of an earlier version must not get further, whether its secret is the right one or not, and its operator needs to know
    /// the reason.
    #[test]
    fn an_earlier_version_is_let_in_because_its_secret_is_right() {
        for (secret, why) in [(&b"s"[..], Unproved::Earlier), (b"t", Unproved::Earlier), (b"", Unproved::NoSecret)] {
            let hello = Sent::of(&Frame::Hello(Hello { secret, ..D }));
            assert_eq!(End::acceptor("s", 1).take(&hello).unwrap_err(), why);
            assert_eq!(End::dialer("s", 1).take(&hello).unwrap_err(), why);
        }
    }

    /// A challenge that comes twice would make a recorded proof good again.
    #[test]
    fn a_challenge_comes_twice() {
        let mut all = std::collections::BTreeSet::new();
        for seed in [1, 2] {
            let mut challenges = Challenges::new(&[seed; 32]);
            all.extend((0..1_000).map(|_| challenges.make()));
        }
        assert_eq!(all.len(), 2_000);
    }
}
