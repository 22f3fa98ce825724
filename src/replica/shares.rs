//! Shares of a turn: how much each connection may ask in a turn of the loop.
//!
//! A turn has two budgets for requests that come without waiting: one for light requests, whose cost is known at once (REV, GET, SET
//! and the like), and one for those that search (GETDIR, WALK, WAIT). A connection that finds its budget used up, or that has had
//! more than its share, waits in a rotation. Each turn takes connections from the front of the rotation and grants them a share. One
//! that wants more goes to the end. So each of many greedy connections gets as much as the others, however many requests each of
//! them has sent. A few small requests of each connection never wait: they come before everything that searches.
//!
//! A request is charged what it has cost, even if that is more than was left. The connection then has a debt, and pays it with the
//! shares of later turns. If the turn has no room for all whom it has granted a share, the others keep theirs and come first in the
//! next turn.
//!
//! What the rotation and the searches get in a turn is the *pace*. It falls to the least as soon as a connection outside the rotation
//! asks something, and grows by a sixteenth with each turn in which nobody does. So the work for greedy connections that delays a
//! client is a small part of the time since somebody last asked: clients keep their throughput beside them, and the greedy
//! connections get all the time that nobody else needs.
//!
//! Invariant: a paused connection that waits for its turn is in one of the two queues, exactly once.

use std::collections::VecDeque;

use super::session::{Conn, Pause, Sessions};
use crate::faults::{self, Fault};
use crate::limits;

const LIGHT_TURN: isize = limits::LIGHT_TURN.cast_signed();
const PACE_MIN: isize = limits::PACE_MIN.cast_signed();
const PACE_MAX: isize = limits::PACE_MAX.cast_signed();
const SHARE_TURN: isize = limits::SHARE_TURN.cast_signed();
const FREE_TURN: isize = limits::FREE_TURN.cast_signed();

/// A connection that had to wait does not change the pace for this many turns: it is one of the greedy ones.
const CALM: u64 = 256;

/// What a request is, as far as its cost can be known before it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Its cost is what it is charged for.
    Light,
    /// It may visit very many entries.
    Search,
}

/// A session's part in the turns.
#[derive(Debug, Default)]
pub struct Share {
    /// The last turn in which it asked something, and what its requests have cost in it.
    turn: u64,
    spent: isize,
    /// What is left of its grant, or below zero: its debt.
    left: isize,
    /// The last turn in which the grant is valid.
    granted: u64,
    /// The last turn in which it had to wait, if it ever had to.
    waited: Option<u64>,
    /// True while it is in a queue.
    waits: bool,
}

/// The budgets of a turn, and the connections that wait for theirs.
#[derive(Debug)]
pub struct Shares {
    /// The number of the turn.
    turn: u64,
    light: isize,
    searches: isize,
    pace: isize,
    /// What is left of the turn for sessions with a grant.
    granted: isize,
    /// True if a connection outside the rotation has asked something in this turn.
    asked: bool,
    /// Those who have a grant that the turn had no room for, and all others who wait.
    first: VecDeque<Conn>,
    rotation: VecDeque<Conn>,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares {
            turn: 0,
            light: 0,
            searches: 0,
            pace: PACE_MAX,
            granted: 0,
            asked: false,
            first: VecDeque::new(),
            rotation: VecDeque::new(),
        }
    }
}

impl Shares {
    /// Returns how much greedy connections and searches may cost in this turn.
    pub fn pace(&self) -> isize {
        self.pace
    }

    /// Returns whether a connection waits for its turn.
    pub fn has_waiting(&self) -> bool {
        !self.rotation.is_empty() || !self.first.is_empty()
    }

    /// Begins a turn: its budgets are there, and the first of those who wait continue.
    pub fn begin_turn(&mut self, sessions: &mut Sessions) {
        self.turn += 1;
        self.pace = if std::mem::take(&mut self.asked) {
            PACE_MIN
        } else {
            (self.pace + self.pace / limits::PACE_GROWTH).min(PACE_MAX)
        };
        // What the last turn has cost too much, this one has less.
        self.light = self.light.clamp(-LIGHT_TURN, 0) + LIGHT_TURN;
        self.searches = self.searches.clamp(-PACE_MAX, 0) + self.pace;
        self.granted = self.granted.clamp(-PACE_MAX, 0) + self.pace;
        if faults::is_armed(Fault::StarvedForEver) {
            self.first.clear();
            self.rotation.clear();
        }
        if self.has_waiting() {
            self.grant(sessions);
        }
    }

    /// Grants shares to those who have waited longest, as many as the turn has room for. They continue.
    fn grant(&mut self, sessions: &mut Sessions) {
        let waiting = self.first.len() + self.rotation.len();
        let grant = (self.pace / waiting.cast_signed()).max(PACE_MIN);
        let mut left = self.granted;
        for _ in 0..waiting {
            if left <= 0 {
                break;
            }
            let Some(conn) = self.first.pop_front().or_else(|| self.rotation.pop_front()) else { break };
            let Some(session) = sessions.get(conn) else { continue };
            let share = &mut session.share;
            share.left = (share.left + grant).min(2 * grant);
            left -= grant;
            if share.left > 0 {
                share.waits = false;
                share.granted = self.turn + 1;
                sessions.resume(conn, Pause::Turn);
            } else {
                self.rotation.push_back(conn);
            }
        }
    }

    /// Charges a request to its session's share. Returns false if the session has to wait: see [`Shares::wait`].
    pub fn charge(&mut self, share: &mut Share, cost: usize, weight: Weight) -> bool {
        let cost = cost.cast_signed();
        if share.turn != self.turn {
            (share.turn, share.spent) = (self.turn, 0);
        }
        if share.granted >= self.turn {
            let may = share.left > 0 && self.granted > 0;
            if may {
                share.left -= cost;
                self.granted -= cost;
            }
            return may;
        }
        let has_share = share.spent < SHARE_TURN || !self.has_waiting();
        let is_free = share.spent + cost <= FREE_TURN;
        match weight {
            Weight::Light if is_free || has_share && self.light > 0 => {
                self.light -= cost;
                self.asked |= share.waited.is_none_or(|waited| waited + CALM < self.turn);
            }
            Weight::Search if is_free && self.searches > -PACE_MAX || has_share && self.searches > 0 => {
                self.searches -= cost;
            }
            Weight::Light | Weight::Search => return false,
        }
        share.spent += cost;
        true
    }

    /// Charges what a request of this turn has cost beside what was known before.
    pub fn pay(&mut self, share: &mut Share, cost: isize) {
        if share.granted >= self.turn {
            share.left -= cost;
            self.granted -= cost;
        } else {
            share.spent += cost;
            self.searches -= cost;
        }
    }

    /// Returns how much a session's search may cost at once.
    pub fn allowance(&self, share: &Share) -> isize {
        if share.granted >= self.turn { share.left.min(self.granted) } else { self.searches }
    }

    /// A session has to wait for its turn. The caller pauses it.
    pub fn wait(&mut self, conn: Conn, share: &mut Share) {
        let keeps = share.granted >= self.turn && share.left > 0;
        share.left = if keeps { share.left } else { share.left.min(0) };
        share.granted = 0;
        share.waited = Some(self.turn);
        if !share.waits {
            share.waits = true;
            if keeps { &mut self.first } else { &mut self.rotation }.push_back(conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::session::Access;

    struct Crowd {
        shares: Shares,
        sessions: Sessions,
        conns: Vec<Conn>,
    }

    impl Crowd {
        fn new(count: usize) -> Crowd {
            let mut sessions = Sessions::default();
            let conns = (0..count).map(|_| sessions.open(Access::default())).collect();
            Crowd { shares: Shares::default(), sessions, conns }
        }

        fn open(&mut self) -> Conn {
            self.sessions.open(Access::default())
        }

        fn ask(&mut self, conn: Conn, cost: usize, weight: Weight) -> bool {
            let session = self.sessions.get(conn).unwrap();
            let may = self.shares.charge(&mut session.share, cost, weight);
            if !may {
                self.shares.wait(conn, &mut session.share);
                self.sessions.pause(conn, Pause::Turn);
            }
            may
        }

        /// Begins a turn, and returns who may continue.
        fn turn(&mut self) -> Vec<Conn> {
            self.shares.begin_turn(&mut self.sessions);
            let mut resumed = Vec::new();
            self.sessions.take_resumed(&mut resumed);
            resumed
        }
    }

    /// Forty connections that never stopped asking starved others for seconds, because those who had eaten kept their places. Each
    /// of them gets as much as the others, and what any other asks is carried out at once.
    #[test]
    fn greedy_connections_starve_others() {
        for (count, cost, weight) in
            [(4, 2, Weight::Light), (40, 2, Weight::Search), (40, 2000, Weight::Search), (1000, 2, Weight::Light)]
        {
            let mut crowd = Crowd::new(count);
            let quiet = crowd.open();
            let conns = crowd.conns.clone();
            let mut had = std::collections::BTreeMap::new();
            let mut running = conns.clone();
            let mut turns = 0;
            while had.len() < count || had.values().any(|had| *had < 50 * cost.max(64)) {
                running.extend(crowd.turn());
                turns += 1;
                assert!(turns < 4_000_000, "{count} with {cost}: {} were served", had.len());
                let mut total = 0;
                for conn in running.drain(..) {
                    while crowd.ask(conn, cost, weight) {
                        *had.entry(conn).or_insert(0) += cost;
                        total += cost;
                    }
                }
                let most = limits::LIGHT_TURN + 2 * limits::PACE_MAX + count * limits::FREE_TURN + 2 * cost.max(64);
                assert!(total <= most, "{count} with {cost}: a turn of {total}");
                if turns % 50 == 0 {
                    assert!(crowd.ask(quiet, 1, Weight::Light), "a light request does not wait");
                }
            }
            let (least, most) = (had.values().min().unwrap(), had.values().max().unwrap());
            let once = limits::LIGHT_TURN + 2 * cost.max(limits::PACE_MAX);
            assert!(most - least <= once, "{count} with {cost}: {least} to {most}");
        }
    }

    /// A search that has cost more than its share is paid for with the shares of later turns.
    #[test]
    fn who_exceeds_a_share_has_it_again_next_turn() {
        let mut crowd = Crowd::new(2);
        let [a, b] = crowd.conns[..] else { panic!() };
        crowd.turn();
        for conn in [a, b] {
            while crowd.ask(conn, 1, Weight::Search) {}
        }
        let mut had = [0, 0];
        for _ in 0..10_000 {
            for conn in crowd.turn() {
                let (who, cost) = if conn == a { (0, 3_000) } else { (1, 10) };
                while crowd.ask(conn, 1, Weight::Search) {
                    had[who] += cost;
                    let session = crowd.sessions.get(conn).unwrap();
                    crowd.shares.pay(&mut session.share, cost - 1);
                }
            }
        }
        let [a, b] = had;
        assert!((a - b).abs() < a / 10 && a > 1_000_000, "{a} and {b}");
    }

    /// What the server does for those who never stop asking must be a small part of the time between two requests of others.
    #[test]
    fn the_pace_falls_when_others_ask_and_grows_with_the_time() {
        let mut crowd = Crowd::new(1);
        let (greedy, quiet) = (crowd.conns[0], crowd.open());
        let mut running = vec![greedy];
        for _ in 0..1_000 {
            running.extend(crowd.turn());
            for conn in running.drain(..) {
                while crowd.ask(conn, 1, Weight::Search) {}
            }
        }
        assert_eq!(crowd.shares.pace(), PACE_MAX);
        assert!(crowd.ask(quiet, 1, Weight::Light));
        let mut since = 0;
        for _ in 0..200 {
            running.extend(crowd.turn());
            let pace = crowd.shares.pace();
            assert!(pace <= PACE_MIN + since / limits::PACE_GROWTH + 1, "{pace} after {since}");
            since += pace;
            for conn in running.drain(..) {
                // Those who had to wait do not count as others, whatever they ask.
                while crowd.ask(conn, 1, Weight::Light) {}
            }
        }
        assert_eq!(crowd.shares.pace(), PACE_MAX);
    }

    /// A connection that is closed while it waits must not take the place of another.
    #[test]
    fn the_closed_hold_up_the_rotation() {
        let mut crowd = Crowd::new(200);
        crowd.turn();
        for conn in crowd.conns.clone() {
            while crowd.ask(conn, 1, Weight::Search) {}
            crowd.ask(conn, 1, Weight::Search);
        }
        let last = *crowd.conns.last().unwrap();
        for conn in &crowd.conns[..199] {
            crowd.sessions.remove(*conn);
        }
        assert_eq!(crowd.turn(), [last]);
        assert!(!crowd.shares.has_waiting());
    }
}
