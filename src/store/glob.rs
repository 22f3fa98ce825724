//! Globs: paths whose components may also hold `?` (one character), `*` (any run inside a component) and `**` (any
//! run, slashes included).
//!
//! A run of two or more stars is one `**`: they pair from the left, and a `*` beside a `**` adds nothing to it. The
//! pattern then is a row of characters to consume, `c0 c1 … ck-1`, and before each (and at the end) at most one star. As an
//! automaton: state `i` means that `c0…ci-1` were consumed, a star before `ci` is a loop on state `i`, and there are no
//! empty moves. A set of states is a row of bits, and a byte of the path moves all of them at once:
//!
//! ```text
//! states' = ((states & takes[byte]) << 1) | (states & loops[byte])
//! ```
//!
//! So a match costs (bytes of the path) x (words of states): a usual pattern has one word, the longest possible has 65,
//! and no pattern makes it any worse. The states after a directory's path can be kept and continued with each of its
//! entries' names, which lets a walk leave out a subtree as soon as no state is left.
//!
//! Before any of it, literal text is compared as such: a pattern without wildcards has no automaton at all, and the
//! components before the first `**` tell a walk which names it has to look at (`Glob::head`).

use super::path::{self, Alphabet, Path};
use crate::faults::{self, Fault};

/// A compiled glob.
#[derive(Clone, Debug)]
pub struct Glob {
    text: Box<str>,
    /// The text with each run of stars written as one token: the key in the index of waiters.
    tokens: Box<str>,
    /// For each component up to the first with `**`: where its literal start lies in `text`, and whether that is all of it.
    head: Box<[Head]>,
    /// None when there is no wildcard.
    automaton: Option<Automaton>,
}

/// Not a glob: see the module's description for what is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadGlob;

impl std::fmt::Display for BadGlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("invalid glob pattern")
    }
}

impl std::error::Error for BadGlob {}

/// Token of `?`.
pub(super) const ONE: u8 = b'?';
/// Token of `*`.
pub(super) const STAR: u8 = b'*';
/// Token of `**`; a byte that no path and no glob holds.
pub(super) const STARS: u8 = b'+';

/// The bytes of globs.
static GLOB_BYTES: Alphabet = path::alphabet(b"*?");

#[derive(Clone, Copy, Debug)]
struct Head {
    start: usize,
    end: usize,
    exact: bool,
}

/// So many steps of an automaton, each of a byte over a word of states, cost what looking at an entry does.
pub(super) const WORD_STEPS: usize = 256;

/// Bytes that a path may hold, as numbers from 0: the columns of the table `takes`.
const CLASSES: usize = 65;

const fn class(byte: u8) -> usize {
    match byte {
        b'/' => 0,
        b'.' => 1,
        b'-' => 2,
        b'0'..=b'9' => 3 + (byte - b'0') as usize,
        b'A'..=b'Z' => 13 + (byte - b'A') as usize,
        b'a'..=b'z' => 39 + (byte - b'a') as usize,
        _ => CLASSES,
    }
}

#[derive(Clone, Debug)]
struct Automaton {
    /// Words in a set of states.
    words: usize,
    /// For class c, words `c * words ..`: the states that a byte of this class moves to the next.
    takes: Box<[u64]>,
    /// The states with a loop for any byte but the slash, then those with a loop for the slash too (in both).
    loops: Box<[u64]>,
    /// The number of characters to consume: the state that accepts.
    last: usize,
    /// Literal characters before the first wildcard.
    literal: usize,
}

impl Glob {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// [`BadGlob`] if it is not a path with wildcards, or longer than a path may be.
    pub fn new(pattern: &[u8]) -> Result<Glob, BadGlob> {
        if !path::is_path_of(pattern, &GLOB_BYTES) {
            return Err(BadGlob);
        }
        let text: Box<str> = std::str::from_utf8(pattern).map_err(|_| BadGlob)?.into();
        if !pattern.iter().any(|&b| b == b'*' || b == b'?') {
            let head = head(pattern);
            return Ok(Glob { tokens: text.clone(), text, head, automaton: None });
        }
        let tokens = tokens(&text);
        let automaton = Some(Automaton::new(tokens.as_bytes()));
        Ok(Glob { head: head(pattern), tokens, text, automaton })
    }

    /// The pattern as it was given.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Whether the glob matches `path`, which has to be a valid path.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(automaton) = &self.automaton else {
            return *path == *self.text.as_bytes();
        };
        let literal = automaton.literal;
        if path.len() < literal || path[..literal] != self.text.as_bytes()[..literal] {
            return false;
        }
        let rest = &path[literal..];
        if automaton.words == 1 {
            return automaton.run_one(1 << literal, rest) & (1 << automaton.last) != 0;
        }
        let mut states = vec![0; automaton.words];
        states[literal / 64] = 1 << (literal % 64);
        automaton.run(&mut states, rest);
        automaton.accepts(&states)
    }

    /// What [`Glob::matches`] costs for `path` at most, in entries that could be looked at instead; beside the entry itself.
    pub(super) fn cost(&self, path: &[u8]) -> usize {
        path.len() * self.words() / WORD_STEPS
    }

    /// The one path that this glob matches, if it has no wildcards.
    pub fn exact(&self) -> Option<Path<'_>> {
        match self.automaton {
            None => Path::parse(self.text.as_bytes()),
            Some(_) => None,
        }
    }

    /// The pattern with each run of stars as one token.
    pub(super) fn tokens(&self) -> &str {
        &self.tokens
    }

    /// How the names at `depth` (0: the root's entries) have to start, and whether they have to be just that.
    pub(super) fn head(&self, depth: usize) -> (&str, bool) {
        match self.head.get(depth) {
            Some(head) => (&self.text[head.start..head.end], head.exact),
            None => ("", false),
        }
    }

    /// Words in a set of states.
    pub(super) fn words(&self) -> usize {
        self.automaton.as_ref().map_or(1, |a| a.words)
    }

    /// Makes `states` ([`Glob::words`] of them, zero) the set before the first byte of a path.
    pub(super) fn start(&self, states: &mut [u64]) {
        states[0] = 1;
    }

    /// Advances `states` over `bytes`. False when none is left: no path that starts so matches.
    pub(super) fn advance(&self, states: &mut [u64], bytes: &[u8]) -> bool {
        match &self.automaton {
            Some(automaton) => automaton.run(states, bytes),
            None => false,
        }
    }

    /// Whether a path that ends here matches.
    pub(super) fn accepts(&self, states: &[u64]) -> bool {
        self.automaton.as_ref().is_some_and(|a| a.accepts(states))
    }
}

impl Automaton {
    fn new(tokens: &[u8]) -> Automaton {
        let last = tokens.iter().filter(|&&t| t != STAR && t != STARS).count();
        let words = last / 64 + 1;
        let mut takes = vec![0u64; CLASSES * words].into_boxed_slice();
        let mut loops = vec![0u64; 2 * words].into_boxed_slice();
        // What `?` takes is put into all classes in the end: a pattern may be of nothing else.
        let mut any = vec![0u64; words];
        let mut state = 0;
        for &token in tokens {
            let (word, bit) = (state / 64, 1u64 << (state % 64));
            match token {
                STAR => loops[word] |= bit,
                STARS => {
                    loops[word] |= bit;
                    loops[words + word] |= bit;
                }
                ONE => {
                    any[word] |= bit;
                    state += 1;
                }
                literal => {
                    takes[class(literal) * words + word] |= bit;
                    state += 1;
                }
            }
        }
        let slash = usize::from(!faults::is_armed(Fault::QuestionMarkTakesSlash));
        for row in takes.chunks_exact_mut(words).skip(slash) {
            row.iter_mut().zip(&any).for_each(|(takes, any)| *takes |= any);
        }
        let literal = tokens.iter().take_while(|&&t| !matches!(t, ONE | STAR | STARS)).count();
        Automaton { words, takes, loops, last, literal }
    }

    fn run_one(&self, mut states: u64, bytes: &[u8]) -> u64 {
        for &byte in bytes {
            let Some(&takes) = self.takes.get(class(byte)) else { return 0 };
            let loops = self.loops[usize::from(byte == b'/')];
            states = ((states & takes) << 1) | (states & loops);
            if states == 0 {
                break;
            }
        }
        states
    }

    fn run(&self, states: &mut [u64], bytes: &[u8]) -> bool {
        if self.words == 1 {
            states[0] = self.run_one(states[0], bytes);
            return states[0] != 0;
        }
        let words = self.words;
        for &byte in bytes {
            let class = class(byte);
            if class == CLASSES {
                states.fill(0);
                return false;
            }
            let takes = &self.takes[class * words..][..words];
            let loops = &self.loops[usize::from(byte == b'/') * words..][..words];
            let (mut carry, mut any) = (0, 0);
            for ((states, &takes), &loops) in states.iter_mut().zip(takes).zip(loops) {
                let taken = *states & takes;
                *states = (taken << 1) | carry | (*states & loops);
                carry = taken >> 63;
                any |= *states;
            }
            if any == 0 {
                return false;
            }
        }
        true
    }

    fn accepts(&self, states: &[u64]) -> bool {
        states[self.last / 64] & (1 << (self.last % 64)) != 0
    }
}

/// Each run of stars as one token.
fn tokens(text: &str) -> Box<str> {
    let mut tokens = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '*' {
            tokens.push(c);
        } else if chars.next_if_eq(&'*').is_some() {
            while chars.next_if_eq(&'*').is_some() {}
            tokens.push(char::from(STARS));
        } else {
            tokens.push('*');
        }
    }
    tokens.into_boxed_str()
}

fn head(text: &[u8]) -> Box<[Head]> {
    let mut heads = Vec::new();
    let mut start = 1;
    while start < text.len() {
        let end = start + text[start..].iter().position(|&b| b == b'/').unwrap_or(text.len() - start);
        let component = &text[start..end];
        let literal = component.iter().position(|&b| b == b'*' || b == b'?').unwrap_or(component.len());
        heads.push(Head { start, end: start + literal, exact: literal == component.len() });
        // After a `**` the pattern's components are no longer the path's.
        if component.windows(2).any(|w| w == b"**") {
            break;
        }
        start = end + 1;
    }
    heads.into_boxed_slice()
}
