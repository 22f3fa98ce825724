//! Limits how often the log repeats a line: further lines are counted, and the log says how many there were.
//!
//! The limit applies to every line, so no caller needs a counter of its own. Two lines are the *same* if their texts are equal, and
//! of one *kind* if they differ only in words with a digit (addresses, ids, numbers). The first line of each text and of each kind
//! opens a window of [`WINDOW_MS`]. A window passes [`SAME`] equal lines and [`KIND`] lines of a kind; at its end one line says how
//! many more there were. While the lines keep coming, the log gets only that one line per window.

use std::collections::BTreeMap;

use crate::limits;

/// Length of a window, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// Equal lines that a window passes.
const SAME: u32 = 3;
/// Lines of one kind that a window passes: enough for one about each node of a cluster.
const KIND: u32 = 64;
/// Texts and kinds remembered at once. All lines beyond them share one kind.
const REMEMBERED: usize = 1024;

const _: () = assert!(limits::NODES_MAX <= KIND as usize && SAME <= KIND);

/// The open windows.
#[derive(Debug, Default)]
pub struct Repeats {
    open: BTreeMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    ends_ms: u64,
    /// Lines that this window still passes.
    left: u32,
    /// Number of lines counted instead, and the last of them.
    counted: u64,
    last: String,
}

impl Repeats {
    /// Returns whether to log a line now. If not, the line is counted.
    pub fn allows(&mut self, now_ms: u64, line: &str) -> bool {
        // A text never begins with a line break, so it never equals a kind.
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

    /// Closes the windows that are over, or all of them. Returns a line for each window that counted any.
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
            // More may follow: the next window passes none of them.
            window.ends_ms = now_ms + WINDOW_MS;
            true
        });
        lines
    }

    /// When the next line of [`Repeats::end`] is due; `None` if there is none.
    pub fn due_ms(&self) -> Option<u64> {
        self.open.values().filter(|window| window.counted > 0).map(|window| window.ends_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that comes forty times in six seconds must not fill the log, and the log must say how often it came.
    #[test]
    fn the_same_line_floods_the_log() {
        let mut repeats = Repeats::default();
        let said = (0..40).filter(|i| repeats.allows(i * 150, "no room")).count();
        assert_eq!(said, 3);
        assert_eq!(repeats.due_ms(), Some(WINDOW_MS));
        assert!(repeats.end(WINDOW_MS - 1, false).is_empty());
        assert_eq!(repeats.end(WINDOW_MS, false), ["37 times more within 10 s, this or its like: no room"]);
        // The lines continue: the log gets one line per window.
        assert!((0..40).all(|i| !repeats.allows(WINDOW_MS + i, "no room")));
        assert_eq!(repeats.end(2 * WINDOW_MS, false).len(), 1);
        // After a quiet window, the line is logged at once again.
        assert!(repeats.end(3 * WINDOW_MS, false).is_empty());
        assert!(repeats.allows(3 * WINDOW_MS, "no room"));
    }

    /// Lines that differ only in a number flood the log too. But each node of a large cluster must get its own line.
    #[test]
    fn a_number_makes_a_line_another_kind() {
        let mut repeats = Repeats::default();
        let said = (0..1_000).filter(|i| repeats.allows(0, &format!("closed 10.0.0.1:{i}"))).count();
        assert_eq!(said, limits::NODES_MAX);
        assert!(repeats.allows(0, "another line 1"));
        let lines = repeats.end(WINDOW_MS, false);
        assert_eq!(lines, ["936 times more within 10 s, this or its like: closed 10.0.0.1:999"]);
    }

    /// Other people's words make endlessly many different lines: they must fill neither the memory nor the log.
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
