//! Limits how often the log repeats a line: further lines are counted, and the log says how many there were.
//!
//! The limit applies to every line, so no caller needs a counter of its own. Two lines are the *same* if their texts are equal, and
//! of one *kind* if they differ only in words with a digit (addresses, ids, numbers). The first line of each text and of each kind
//! opens a window of [`WINDOW_MS`]. A window passes [`SAME`] equal lines and [`KIND`] lines of a kind; at its end one line says how
//! many more there were. While the lines keep coming, the log gets only that one line per window.
//!
//! The number of windows is bounded. When all are taken, further lines share one more window, and endlessly many different lines
//! silence all that share it. Therefore lines with words of other machines form a class with windows of its own. Nothing that another
//! machine sends can suppress a line of the node itself.

use std::collections::BTreeMap;

use crate::limits;

/// Length of a window, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// Equal lines that a window passes.
const SAME: u32 = 3;
/// Lines of one kind that a window passes: enough for one about each node of a cluster.
const KIND: u32 = 64;
/// Texts and kinds of the node's own lines remembered at once. The program has fewer kinds of lines than that.
const OWN: usize = 1024;
/// Texts and kinds of lines with words of others remembered at once: enough for one about each node of a cluster, and a few kinds.
const OTHERS: usize = 96;
/// The key of the window that all lines share that find no window of their own. No text and no kind equals it: a text has no line
/// break, and a kind is longer.
const SHARED: &str = "\n";

const _: () = assert!(limits::NODES_MAX <= KIND as usize && limits::NODES_MAX < OTHERS && SAME <= KIND);

/// Whose words a line contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Only those of this program, its operator and its machine.
    Own,
    /// Also those of other nodes, or of strangers.
    Others,
}

/// The open windows.
#[derive(Debug, Default)]
pub struct Repeats {
    own: Windows,
    others: Windows,
}

/// The open windows of a class, by text and by kind.
type Windows = BTreeMap<String, Window>;

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
    pub fn allows(&mut self, now_ms: u64, class: Class, line: &str) -> bool {
        let (windows, most) = match class {
            Class::Own => (&mut self.own, OWN),
            Class::Others => (&mut self.others, OTHERS),
        };
        // A text never begins with a line break, so it never equals a kind.
        let mut kind = String::from("\n");
        for word in line.split(' ') {
            let varies = word.bytes().any(|byte| byte.is_ascii_digit());
            kind.push_str(if varies { "#" } else { word });
            kind.push(' ');
        }
        let knows = |windows: &Windows, key: &str| windows.contains_key(key);
        // A line that finds no window of its own takes one place in the shared one, not two.
        let missing = usize::from(!knows(windows, &kind)) + usize::from(!knows(windows, line));
        let shared = usize::from(knows(windows, SHARED));
        if windows.len() - shared + missing > most {
            return take(windows, now_ms, SHARED, KIND, line);
        }
        take(windows, now_ms, &kind, KIND, line) && take(windows, now_ms, line, SAME, line)
    }

    /// Closes the windows that are over, or all of them. Returns a line for each window that counted any.
    pub fn end(&mut self, now_ms: u64, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for windows in [&mut self.own, &mut self.others] {
            windows.retain(|key, window| {
                if window.ends_ms > now_ms && !all {
                    return true;
                }
                let counted = std::mem::take(&mut window.counted);
                if counted == 0 {
                    return false;
                }
                let (within, last) = (WINDOW_MS / 1000, &window.last);
                lines.push(match (key.as_str(), counted) {
                    (SHARED, 1) => format!("1 more line within {within} s was left out: {last}"),
                    (SHARED, n) => format!("{n} more lines within {within} s were left out, the last: {last}"),
                    (_, 1) => format!("once more within {within} s, this or its like: {last}"),
                    (_, n) => format!("{n} times more within {within} s, this or its like: {last}"),
                });
                // More may follow: the next window passes none of them.
                window.ends_ms = now_ms + WINDOW_MS;
                true
            });
        }
        lines
    }

    /// When the next line of [`Repeats::end`] is due; `None` if no lines are held back.
    pub fn due_ms(&self) -> Option<u64> {
        let windows = self.own.values().chain(self.others.values());
        windows.filter(|window| window.counted > 0).map(|window| window.ends_ms).min()
    }
}

fn take(windows: &mut Windows, now_ms: u64, key: &str, most: u32, line: &str) -> bool {
    let fresh = || Window { ends_ms: now_ms + WINDOW_MS, left: most, counted: 0, last: String::new() };
    let window = windows.entry(key.to_owned()).or_insert_with(fresh);
    if window.left > 0 {
        window.left -= 1;
        return true;
    }
    window.counted += 1;
    line.clone_into(&mut window.last);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that comes forty times in six seconds must not fill the log, and the log must say how often it came.
    #[test]
    fn the_same_line_floods_the_log() {
        let mut repeats = Repeats::default();
        let said = (0..40).filter(|i| repeats.allows(i * 150, Class::Own, "no room")).count();
        assert_eq!(said, 3);
        assert_eq!(repeats.due_ms(), Some(WINDOW_MS));
        assert!(repeats.end(WINDOW_MS - 1, false).is_empty());
        assert_eq!(repeats.end(WINDOW_MS, false), ["37 times more within 10 s, this or its like: no room"]);
        // The lines continue: the log gets one line per window.
        assert!((0..40).all(|i| !repeats.allows(WINDOW_MS + i, Class::Own, "no room")));
        assert_eq!(repeats.end(2 * WINDOW_MS, false).len(), 1);
        // After a quiet window, the line is logged at once again.
        assert!(repeats.end(3 * WINDOW_MS, false).is_empty());
        assert!(repeats.allows(3 * WINDOW_MS, Class::Own, "no room"));
    }

    /// Lines that differ only in a number flood the log too. But each node of a large cluster must get its own line.
    #[test]
    fn a_number_makes_a_line_another_kind() {
        let mut repeats = Repeats::default();
        let said = (0..1_000).filter(|i| repeats.allows(0, Class::Own, &format!("closed 10.0.0.1:{i}"))).count();
        assert_eq!(said, limits::NODES_MAX);
        assert!(repeats.allows(0, Class::Own, "another line 1"));
        let lines = repeats.end(WINDOW_MS, false);
        assert_eq!(lines, ["936 times more within 10 s, this or its like: closed 10.0.0.1:999"]);
    }

    /// A different word for each number, without a digit.
    fn letters(mut i: u32) -> String {
        let mut word = String::new();
        while i > 0 {
            word.push(char::from(b'a' + u8::try_from(i % 26).unwrap()));
            i /= 26;
        }
        word
    }

    /// Other people's words make endlessly many different lines: they must fill neither the memory nor the log.
    #[test]
    fn words_of_others_fill_the_memory() {
        for class in [Class::Own, Class::Others] {
            let mut repeats = Repeats::default();
            let said = (1..100_000).filter(|i| repeats.allows(0, class, &letters(*i))).count();
            let (windows, most) = if class == Class::Own { (&repeats.own, OWN) } else { (&repeats.others, OTHERS) };
            assert_eq!((said, windows.len()), (most / 2 + KIND as usize, most + 1));
            let lines = repeats.end(0, true);
            assert_eq!(
                lines,
                [format!("{} more lines within 10 s were left out, the last: {}", 99_999 - said, letters(99_999))]
            );
        }
    }

    /// Whoever floods the log with words of their own must not silence the node: its own lines, which the operator waits for, still come,
    /// and those about the other nodes of the cluster have their own limit.
    #[test]
    fn a_stranger_silences_the_node() {
        let mut repeats = Repeats::default();
        let refused = |i: u32| format!("refused a link with node {}: it is of another cluster", letters(i));
        let said = (1..100_000).filter(|i| repeats.allows(u64::from(*i) * 4, Class::Others, &refused(*i))).count();
        assert!(said <= OTHERS + KIND as usize, "{said}");
        for line in ["SIGHUP changes nothing", "stopping: finishing", "stopped at revision 7", "fatal: the disk"] {
            assert!(repeats.allows(400_000, Class::Own, line), "{line}");
        }
    }

    /// When a large cluster starts, each node gets its line.
    #[test]
    fn the_nodes_of_a_cluster_are_taken_for_strangers() {
        let mut repeats = Repeats::default();
        let up = |i: u32| format!("link to {} (raft id {i}, 10.0.0.{i}:8046) is up", letters(i + 1_000));
        assert!((0..30).all(|i| repeats.allows(0, Class::Others, &up(i))));
        let lost = (0..64).filter(|i| repeats.allows(20_000, Class::Others, &up(*i))).count();
        assert_eq!(lost, limits::NODES_MAX);
    }
}
