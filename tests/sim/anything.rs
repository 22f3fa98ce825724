//! Requests of every kind, right ones and such as are to be refused: what a client asks that tries everything.
//!
//! The paths are few, and some lie below others: so there are files where a directory is to be, and directories where a file is.
//! One directory has more entries than a node keeps in one row, and a crowd of files is more than a listing looks at at once.

use doozer::limits;
use doozer::wire::{Request, Verb};

use crate::chance::Chance;
use crate::checker;

/// Directory of the crowd.
pub const CROWD: &str = "/crowd";
/// Entries of the wide directory.
const WIDE: u64 = 100;

/// A request, with what it holds.
#[derive(Debug, Default)]
pub struct Anything {
    verb: Option<i32>,
    path: Option<String>,
    value: Option<Vec<u8>>,
    offset: Option<i32>,
    rev: Option<i64>,
}

impl Anything {
    /// Something to be asked of a cluster whose history has come to revision `now`; a value that is written gets the next name.
    pub fn pick(chance: &mut Chance, now: i64, names: &mut u64) -> Anything {
        let kind = chance.below(20);
        let verb = match kind {
            0..5 => Verb::Set,
            5..7 => Verb::Del,
            7..9 => Verb::Get,
            9..11 => Verb::Stat,
            11..14 => Verb::Getdir,
            14..18 => Verb::Walk,
            18 => Verb::Wait,
            _ => Verb::SelfId,
        };
        let writes = matches!(verb, Verb::Set | Verb::Del);
        let globs = matches!(verb, Verb::Walk | Verb::Wait);
        let rev = match chance.below(8) {
            0 => chance.pick(&[0, -1, -2, -3, -7, i64::MIN]),
            1 | 2 if writes => now + i64::try_from(chance.below(3)).expect("small"),
            3 | 4 if !writes => (now - i64::try_from(chance.below(60)).expect("small")).max(1),
            _ if writes => -1,
            _ => now + 1,
        };
        let mut request = Anything {
            verb: Some(verb.code()),
            path: Some(if globs { glob(chance) } else { path(chance) }),
            value: None,
            offset: Some(i32::try_from(chance.below(6)).expect("small") - 1),
            rev: (writes || verb == Verb::Wait || chance.once_in(2)).then_some(rev),
        };
        if verb == Verb::Set && !chance.once_in(10) {
            *names += 1;
            let size = if chance.once_in(200) { limits::VALUE_MAX + 1 } else { chance.index(100) };
            request.value = Some(checker::value(*names, size));
        }
        if matches!(verb, Verb::Getdir | Verb::Walk) {
            let large = i32::try_from(chance.below(2 * WIDE)).expect("small");
            match chance.below(4) {
                0 => (request.path, request.offset) = (Some(wide(verb)), Some(large)),
                1 => (request.path, request.offset) = (Some(crowd(verb, chance)), Some(12 * large)),
                _ => {}
            }
        }
        // The crowd is the first that was written: what is looked for may lie behind more events than are looked at at once.
        if verb == Verb::Wait && chance.once_in(4) {
            let began = 15 + i64::try_from(chance.below(40)).expect("small");
            (request.path, request.rev) = (Some(format!("{CROWD}/2???")), Some(began));
        }
        match chance.below(30) {
            0 => request.path = None,
            1 => request.rev = None,
            2 => request.offset = None,
            3 => request.verb = chance.pick(&[None, Some(0), Some(42)]),
            _ => {}
        }
        request
    }

    /// One of many that together are more work than a node does in a turn: it is for more than all that match.
    pub fn laborious(nth: usize) -> Anything {
        let path = Some(format!("{CROWD}/*{}", nth % 10));
        Anything { verb: Some(Verb::Walk.code()), path, offset: Some(1_000), ..Anything::default() }
    }

    pub fn request(&self) -> Request<'_> {
        let Anything { verb, path, value, offset, rev } = self;
        let path = path.as_ref().map(|path| path.as_bytes());
        Request { tag: None, verb: *verb, path, value: value.as_deref(), offset: *offset, rev: *rev }
    }

    /// The path or glob.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Whether it changes something, if it is carried out.
    pub fn writes(&self) -> bool {
        self.verb == Some(Verb::Set.code()) || self.verb == Some(Verb::Del.code())
    }

    /// Whether it may not be answered for long.
    pub fn waits(&self) -> bool {
        self.verb == Some(Verb::Wait.code())
    }
}

fn path(chance: &mut Chance) -> String {
    let place = match chance.below(12) {
        0 => chance.pick(&["/", "/any", "/any/w", "/load", CROWD]),
        1 => chance.pick(&["", "any/a", "/any/", "/any//a", "/any/_", "/any/*", "//"]),
        2..5 => return format!("/any/w/{}", chance.below(WIDE)),
        5 => return format!("{CROWD}/{}", chance.below(3_000)),
        _ => chance.pick(&[
            "/any/a",
            "/any/a/b",
            "/any/a/b/c",
            "/any/a-",
            "/any/a-/b",
            "/any/a.b",
            "/any/a0/b",
            "/any/-",
            "/any/long-enough-to-need-a-second-word-of-states-in-every-matcher-of-globs/1",
            "/any/long-enough-to-need-a-second-word-of-states-in-every-matcher-of-globs/11",
            "/any/long-enough-to-need-a-second-word-of-states-in-every-matcher-of-globs/2",
        ]),
    };
    place.to_owned()
}

fn glob(chance: &mut Chance) -> String {
    if chance.once_in(6) {
        return path(chance);
    }
    let bad = chance.once_in(12);
    let any = if bad { &["", "any/*", "/any/", "//", "/any/[a]"][..] } else { &GLOBS[..] };
    any[chance.index(any.len())].to_owned()
}

const GLOBS: [&str; 18] = [
    "/any/**",
    "/any/*",
    "/any/*/*",
    "/any/a/**",
    "/any/a*",
    "/any/a?",
    "/any/?/b",
    "/any/a*/b",
    "/any/*/b/*",
    "/*/a/b",
    "/**b",
    "/any/w/*1",
    "/any/a",
    "/**/***",
    // More characters than a machine word has bits: the first ones take part in what the last ones decide.
    "/any/long-enough-to-need-a-second-word-of-states-in-every-matcher-of-globs/*",
    "/any/long-enough-to-need-a-second-word-of-states-in-every-matcher-of-globs/?1*",
    "/*/long-enough-to-need-a-second-word-of-*-in-every-matcher-of-globs/**",
    "/**/*-????????-??-????-?-??????-????-??-??????-??-?????-???????-??-?????/*",
];

fn wide(verb: Verb) -> String {
    if verb == Verb::Walk { "/any/w/*" } else { "/any/w" }.to_owned()
}

fn crowd(verb: Verb, chance: &mut Chance) -> String {
    let tail = if verb == Verb::Walk { chance.pick(&["/*", "/**", "/*7", "**"]) } else { "" };
    format!("{CROWD}{tail}")
}
