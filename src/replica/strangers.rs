//! What the log says about strangers: the first lines at once, and then one line with a count.
//!
//! A stranger can cause events as fast as connections open, each with other words. So the lines are limited here, where they arise:
//! no text is kept for more than a few of them, and members' lines never wait behind them.

use std::collections::BTreeMap;

use crate::limits::{STRANGER_LINES, STRANGERS_TOLD};

/// Length of a window, in milliseconds. A window passes [`STRANGER_LINES`] lines.
const WINDOW_MS: u64 = 10_000;
/// A window that leaves out nothing new is reported only if it leaves out this many: a misconfigured node tries again and again.
const MANY: u64 = 100;

/// The lines about nodes and strangers that were refused a link.
#[derive(Debug, Default)]
pub struct Refused {
    /// The last line about each, so that the log says it once.
    told: BTreeMap<String, String>,
    /// When the window ends; `None` if none is open.
    ends_ms: Option<u64>,
    said: usize,
    counted: u64,
    /// True if a counted line was new.
    news: bool,
    last: String,
}

impl Refused {
    /// Somebody was refused. Returns the line, unless the log has it already, or the window has passed enough lines.
    pub fn tell(&mut self, now_ms: u64, of: &str, line: String) -> Option<String> {
        self.ends_ms.get_or_insert(now_ms + WINDOW_MS);
        let news = self.told.get(of) != Some(&line);
        if !news || self.said >= STRANGER_LINES {
            self.counted += 1;
            self.news |= news;
            self.last = line;
            return None;
        }
        self.said += 1;
        self.told.insert(of.to_owned(), line.clone());
        while self.told.len() > STRANGERS_TOLD {
            self.told.pop_first();
        }
        Some(line)
    }

    /// Forgets what was said about a node, because it is linked now.
    pub fn forget(&mut self, of: &str) {
        self.told.remove(of);
    }

    /// Time has passed. Returns the line with the count of a window that is over.
    pub fn tick(&mut self, now_ms: u64) -> Option<String> {
        self.ends_ms.take_if(|ends| *ends <= now_ms)?;
        self.said = 0;
        let (counted, news) = (std::mem::take(&mut self.counted), std::mem::take(&mut self.news));
        let last = std::mem::take(&mut self.last);
        (news || counted >= MANY)
            .then(|| format!("{counted} more links were refused within {} s, the last: {last}", WINDOW_MS / 1_000))
    }
}

/// Counts events of one kind: the first is said at once, and those that follow within a window are counted.
#[derive(Debug, Default)]
pub struct Tally {
    ends_ms: Option<u64>,
    counted: u64,
}

impl Tally {
    /// So many events have happened. Returns true if they are to be said now.
    pub fn count(&mut self, now_ms: u64, events: u64) -> bool {
        if self.ends_ms.is_none() {
            self.ends_ms = Some(now_ms + WINDOW_MS);
            self.counted = events - 1;
            return true;
        }
        self.counted += events;
        false
    }

    /// Time has passed. Returns how many events were counted in a window that is over, and its length in seconds.
    pub fn tick(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        if self.ends_ms.is_none_or(|ends| ends > now_ms) {
            return None;
        }
        let counted = std::mem::take(&mut self.counted);
        // More may follow: the next window says none of them at once.
        self.ends_ms = (counted > 0).then_some(now_ms + WINDOW_MS);
        (counted > 0).then_some((counted, WINDOW_MS / 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger with a new name in each greeting must fill neither the log nor the memory, and the log must say how many came.
    #[test]
    fn new_names_fill_the_log() {
        let mut refused = Refused::default();
        let tell = |refused: &mut Refused, i: u64| refused.tell(i / 100, &i.to_string(), format!("refused {i}"));
        let said = (0..100_000).filter(|i| tell(&mut refused, *i).is_some()).count();
        assert_eq!((said, refused.told.len()), (STRANGER_LINES, STRANGER_LINES));
        assert_eq!(refused.tick(WINDOW_MS - 1), None);
        let line = format!("{} more links were refused within 10 s, the last: refused 99999", 100_000 - STRANGER_LINES);
        assert_eq!(refused.tick(WINDOW_MS), Some(line));
        assert_eq!(refused.tick(2 * WINDOW_MS), None);
        for window in 0..1_000 {
            for i in 0..20 {
                refused.tell(window * WINDOW_MS, &format!("{window} {i}"), format!("refused {window} {i}"));
            }
            assert!(refused.tick((window + 1) * WINDOW_MS).is_some());
        }
        assert_eq!(refused.told.len(), STRANGERS_TOLD);
    }

    /// A node with the wrong settings tries for days: the log says so once.
    #[test]
    fn a_node_that_tries_again_fills_the_log() {
        let mut refused = Refused::default();
        let mut said = 0;
        for i in 0..1_000 {
            said += usize::from(refused.tell(i * 2_000, "node", "refused node".into()).is_some());
            said += usize::from(refused.tick(i * 2_000 + 1_000).is_some());
        }
        assert_eq!(said, 1);
        refused.forget("node");
        assert!(refused.tell(2_000_000, "node", "refused node".into()).is_some());
    }

    /// The first event is said, the others are counted, window by window, until a window is quiet.
    #[test]
    fn every_event_is_a_line() {
        let mut tally = Tally::default();
        assert_eq!((0..1_000).filter(|i| tally.count(*i, 1)).count(), 1);
        assert_eq!(tally.tick(WINDOW_MS - 1), None);
        assert_eq!(tally.tick(WINDOW_MS), Some((999, 10)));
        assert!(!tally.count(WINDOW_MS + 5, 3));
        assert_eq!(tally.tick(2 * WINDOW_MS), Some((3, 10)));
        assert_eq!(tally.tick(3 * WINDOW_MS), None);
        assert!(tally.count(3 * WINDOW_MS, 2));
        assert_eq!(tally.tick(4 * WINDOW_MS), Some((1, 10)));
    }
}
