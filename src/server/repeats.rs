//! A bound on how often the same is said: lines beyond it are counted, and the count is said instead.
//!
//! It applies to every line, so no caller needs a counter of its own. Two lines are the *same* if their text is, and of one
//! *kind* if they differ only in words with a digit (addresses, ids, numbers). Each text and each kind has a window of
//! [`WINDOW_MS`] that its first line opens. Within it, [`SAME`] equal lines and [`KIND`] lines of a kind are said; at its end,
//! one line says how many more there were. While they keep coming, that line is all that is said, once a window.

use std::collections::BTreeMap;

use crate::limits;

/// Length of a window, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// Equal lines that are said in a window.
const SAME: u32 = 3;
/// Lines of one kind that are said in a window: enough for one about each node of a cluster.
const KIND: u32 = 64;
/// Texts and kinds that are remembered at once. A line beyond them is of a kind that it shares with all such lines.
const REMEMBERED: usize = 1024;

const _: () = assert!(limits::NODES_MAX <= KIND as usize && SAME <= KIND);

/// What was said in the windows that are open.
#[derive(Debug, Default)]
pub struct Repeats {
    open: BTreeMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    ends_ms: u64,
    /// Lines that may still be said in it.
    left: u32,
    /// Lines that were counted instead, and the last of them.
    counted: u64,
    last: String,
}

impl Repeats {
    /// Whether a line is to be said now. If not, it is counted.
    pub fn allows(&mut self, now_ms: u64, line: &str) -> bool {
        // A text cannot begin with a line break, so a kind is never taken for one.
        let mut kind = String::from("\n");
        for word in line.split(' ') {
            let varies = word.bytes().any(|byte| byte.is_ascii_digit());
            kind.push_str(if varies { "#" } else { word });
            kind.push(' ');
        }
        self.take(now_ms, &kind, KIND, line) && self.take(now_ms, line, SAME, line)
    }

    fn take(&mut self, now_ms: u64, key: &str, most: u32, line: &str) -> bool {
        let key = if self.open.contains_key(key) || self.open.len() < REMEMBERED { key } else { "\n" };
        let fresh = Window { ends_ms: now_ms + WINDOW_MS, left: most, counted: 0, last: String::new() };
        let window = self.open.entry(key.to_owned()).or_insert(fresh);
        if window.left > 0 {
            window.left -= 1;
            return true;
        }
        window.counted += 1;
        line.clone_into(&mut window.last);
        false
    }

    /// Ends the windows that are over, or all of them, and returns a line for each in which lines were counted.
    pub fn end(&mut self, now_ms: u64, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        self.open.retain(|_, window| {
            if window.ends_ms > now_ms && !all {
                return true;
            }
            let counted = std::mem::take(&mut window.counted);
            if counted == 0 {
                return false;
            }
            let more = if counted == 1 { "once more".into() } else { format!("{counted} times more") };
            lines.push(format!("{more} within {} s, this or its like: {}", WINDOW_MS / 1000, window.last));
            // They may go on: the next window begins with nothing left.
            window.ends_ms = now_ms + WINDOW_MS;
            true
        });
        lines
    }

    /// When the next line of [`Repeats::end`] is due, if one is.
    pub fn due_ms(&self) -> Option<u64> {
        self.open.values().filter(|window| window.counted > 0).map(|window| window.ends_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that comes forty times in six seconds must not fill the log, nor its number get lost.
    #[test]
    fn the_same_line_floods_the_log() {
        let mut repeats = Repeats::default();
        let said = (0..40).filter(|i| repeats.allows(i * 150, "no room")).count();
        assert_eq!(said, 3);
        assert_eq!(repeats.due_ms(), Some(WINDOW_MS));
        assert!(repeats.end(WINDOW_MS - 1, false).is_empty());
        assert_eq!(repeats.end(WINDOW_MS, false), ["37 times more within 10 s, this or its like: no room"]);
        // It goes on: one line a window.
        assert!((0..40).all(|i| !repeats.allows(WINDOW_MS + i, "no room")));
        assert_eq!(repeats.end(2 * WINDOW_MS, false).len(), 1);
        // A quiet window, and it is said at once again.
        assert!(repeats.end(3 * WINDOW_MS, false).is_empty());
        assert!(repeats.allows(3 * WINDOW_MS, "no room"));
    }

    /// Lines that differ in a number alone flood as well; but each node of a large cluster must have its own.
    #[test]
    fn a_number_makes_a_line_another_kind() {
        let mut repeats = Repeats::default();
        let said = (0..1_000).filter(|i| repeats.allows(0, &format!("closed 10.0.0.1:{i}"))).count();
        assert_eq!(said, limits::NODES_MAX);
        assert!(repeats.allows(0, "another line 1"));
        let lines = repeats.end(WINDOW_MS, false);
        assert_eq!(lines, ["936 times more within 10 s, this or its like: closed 10.0.0.1:999"]);
    }

    /// Lines that hold others' words are as many as those like: neither memory nor the log may follow.
    #[test]
    fn words_of_others_fill_the_memory() {
        let mut repeats = Repeats::default();
        let letters = |mut i: u32| {
            let mut word = String::new();
            while i > 0 {
                word.push(char::from(b'a' + u8::try_from(i % 26).unwrap()));
                i /= 26;
            }
            word
        };
        let said = (1..100_000).filter(|i| repeats.allows(0, &letters(*i))).count();
        assert!(said <= REMEMBERED + limits::NODES_MAX, "{said}");
        assert!(repeats.open.len() <= REMEMBERED + 1);
        assert_eq!(repeats.end(0, true).len(), 1, "at the end of the server, too, what was counted is said");
    }
}
