//! The command line.
//!
//! Flags may stand before and after the command and between its arguments: `-a URI`, `--a URI`, `-a=URI`. What begins
//! with a dash and a digit is an argument (the revision -1), and so is everything behind `--`.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use super::duration;
use super::help::{self, Topic};

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Explain the command, or all.
    Help(Option<&'static Topic>),
    /// Print the version.
    Version,
    /// Carry out a command.
    Run(Invocation),
}

/// A command and its flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    pub command: Command,
    /// `-a`
    pub uri: Option<String>,
    /// `-b`
    pub boot: Option<String>,
    /// `-r`; -1 is as if it were not given.
    pub rev: Option<i64>,
    /// `-t`
    pub limit: Option<Duration>,
    /// `-json`
    pub json: bool,
    /// `-rev`: print the revision as well.
    pub with_rev: bool,
}

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Add { path: String },
    Set { path: String, rev: i64 },
    Get { path: String },
    Del { path: String, rev: i64 },
    Find { path: String },
    Stat { path: String },
    Touch { path: String },
    Rev,
    SelfId,
    Stats { interval: Option<Duration> },
    Nop,
    Wait { glob: String },
    Watch { glob: String },
}

/// Why a command line makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    message: String,
    /// The command that was meant, if that much is clear.
    topic: Option<&'static Topic>,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic {
            Some(topic) => write!(f, "Error: {}: {}\n{}", topic.name, self.message, help::usage(topic)),
            None => write!(f, "Error: {}\n`doozer help` lists the commands.", self.message),
        }
    }
}

/// The commands that can print JSON.
const JSON: [&str; 6] = ["get", "find", "stat", "stats", "wait", "watch"];
/// The commands that print a revision only on request.
const WITH_REV: [&str; 2] = ["get", "touch"];

/// The flags as they come, each by its letter.
#[derive(Default)]
struct Flags {
    help: bool,
    version: bool,
    uri: Option<String>,
    boot: Option<String>,
    rev: Option<String>,
    limit: Option<String>,
    interval: Option<String>,
    json: bool,
    with_rev: bool,
}

/// Makes sense of a command line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, Usage> {
    let mut flags = Flags::default();
    let mut words = Vec::new();
    let mut arguments = arguments.into_iter().map(text);
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        if argument == "--" {
            for word in arguments.by_ref() {
                words.push(word?);
            }
        } else if let Some(flag) = as_flag(&argument) {
            flags.take(flag, &mut arguments)?;
        } else {
            words.push(argument);
        }
    }
    let mut words = words.into_iter();
    let Some(name) = words.next() else {
        return match () {
            () if flags.help => Ok(Action::Help(None)),
            () if flags.version => Ok(Action::Version),
            () => Err(general("no command is given")),
        };
    };
    let topic = find(&name)?;
    if flags.help {
        return Ok(Action::Help(Some(topic)));
    }
    if flags.version {
        return Ok(Action::Version);
    }
    command(topic, words.collect(), flags)
}

fn command(topic: &'static Topic, words: Vec<String>, flags: Flags) -> Result<Action, Usage> {
    let wrong = |message: String| Usage { message, topic: Some(topic) };
    if topic.name == "help" && words.is_empty() {
        return Ok(Action::Help(None));
    }
    if words.len() != topic.takes.len() {
        return Err(wrong("wrong number of arguments".to_owned()));
    }
    let revision = |word: &str| word.parse().map_err(|_| wrong(format!("not a revision: `{word}`")));
    let time = |word: Option<&str>| match word.map(|word| (word, duration::parse(word))) {
        None => Ok(None),
        Some((_, Some(time))) if !time.is_zero() => Ok(Some(time)),
        Some((word, _)) => Err(wrong(format!("not a duration above 0, like 1m30s: `{word}`"))),
    };
    if flags.interval.is_some() && topic.name != "stats" {
        return Err(wrong("flag -i is for `stats` alone".to_owned()));
    }
    if flags.json && !JSON.contains(&topic.name) {
        return Err(wrong(format!("flag -json is for {} alone", list(&JSON))));
    }
    if flags.with_rev && matches!(topic.name, "nop" | "del") {
        return Err(wrong(format!("flag -rev: the answer to `{}` holds no revision", topic.name)));
    }
    if flags.with_rev && !WITH_REV.contains(&topic.name) {
        return Err(wrong(format!("flag -rev is for {} alone", list(&WITH_REV))));
    }
    let mut words = words.into_iter();
    let mut next = || words.next().unwrap_or_default();
    let command = match topic.name {
        "help" => return Ok(Action::Help(Some(find(&next())?))),
        "add" => Command::Add { path: next() },
        "set" => Command::Set { path: next(), rev: revision(&next())? },
        "get" => Command::Get { path: next() },
        "del" => Command::Del { path: next(), rev: revision(&next())? },
        "find" => Command::Find { path: next() },
        "stat" => Command::Stat { path: next() },
        "touch" => Command::Touch { path: next() },
        "rev" => Command::Rev,
        "self" => Command::SelfId,
        "stats" => Command::Stats { interval: time(flags.interval.as_deref())? },
        "nop" => Command::Nop,
        "wait" => Command::Wait { glob: next() },
        "watch" => Command::Watch { glob: next() },
        other => unreachable!("a command that is listed and not known: {other}"),
    };
    let rev = flags.rev.map(|word| revision(&word)).transpose()?.filter(|rev| *rev != -1);
    let limit = time(flags.limit.as_deref())?;
    if limit.is_some() && topic.name != "wait" {
        return Err(wrong("flag -t is for `wait` alone".to_owned()));
    }
    let Flags { uri, boot, json, with_rev, .. } = flags;
    Ok(Action::Run(Invocation { command, uri, boot, rev, limit, json, with_rev }))
}

/// Joins names of commands as in a sentence.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match &quoted[..] {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// What stands behind the dashes, if this is a flag.
fn as_flag(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix('-')?;
    let flag = flag.strip_prefix('-').unwrap_or(flag);
    // A dash alone and a negative number are arguments.
    flag.bytes().next().filter(|first| !first.is_ascii_digit()).map(|_| flag)
}

impl Flags {
    /// Takes a flag and, unless it stands behind a `=`, its value from the words that follow.
    fn take(&mut self, flag: &str, rest: &mut impl Iterator<Item = Result<String, Usage>>) -> Result<(), Usage> {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let place = match name {
            "h" | "help" => return switch(&mut self.help, name, value),
            "json" => return switch(&mut self.json, name, value),
            "rev" => return switch(&mut self.with_rev, name, value),
            "v" | "version" => return switch(&mut self.version, name, value),
            "a" => &mut self.uri,
            "b" => &mut self.boot,
            "r" => &mut self.rev,
            "t" => &mut self.limit,
            "i" => &mut self.interval,
            _ => return Err(general(&format!("there is no flag -{name}"))),
        };
        let value = match value {
            Some(value) => value,
            None => rest.next().ok_or_else(|| general(&format!("flag -{name} needs a value")))??,
        };
        *place = Some(value);
        Ok(())
    }
}

fn switch(place: &mut bool, name: &str, value: Option<String>) -> Result<(), Usage> {
    *place = match value.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            return Err(general(&format!("flag -{name} is true or false, not `{other}`")));
        }
    };
    Ok(())
}

fn text(argument: OsString) -> Result<String, Usage> {
    argument.into_string().map_err(|a| general(&format!("not UTF-8: {}", a.display())))
}

fn find(name: &str) -> Result<&'static Topic, Usage> {
    help::find(name).ok_or_else(|| general(&format!("there is no command `{name}`")))
}

fn general(message: &str) -> Usage {
    Usage { message: message.to_owned(), topic: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Action, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|usage| usage.to_string())
    }

    fn command(line: &str) -> Command {
        match parsed(line) {
            Ok(Action::Run(invocation)) => invocation.command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_command_is_understood() {
        let p = || "/p".to_owned();
        assert_eq!(command("add /p"), Command::Add { path: p() });
        assert_eq!(command("set /p 5"), Command::Set { path: p(), rev: 5 });
        assert_eq!(command("get /p"), Command::Get { path: p() });
        assert_eq!(command("del /p 0"), Command::Del { path: p(), rev: 0 });
        assert_eq!(command("find /p"), Command::Find { path: p() });
        assert_eq!(command("stat /p"), Command::Stat { path: p() });
        assert_eq!(command("touch /p"), Command::Touch { path: p() });
        assert_eq!(command("rev"), Command::Rev);
        assert_eq!(command("self"), Command::SelfId);
        assert_eq!(command("nop"), Command::Nop);
        assert_eq!(command("wait /p"), Command::Wait { glob: p() });
        assert_eq!(command("watch /p"), Command::Watch { glob: p() });
    }

    #[test]
    fn every_listed_command_is_known() {
        for topic in &help::TOPICS {
            let words = topic.takes.iter().map(|t| if *t == "COMMAND" { "rev" } else { "1" });
            let line: Vec<&str> = std::iter::once(topic.name).chain(words).collect();
            assert!(parsed(&line.join(" ")).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn a_negative_revision_is_an_argument_and_no_flag() {
        assert_eq!(command("set /p -1"), Command::Set { path: "/p".into(), rev: -1 });
        assert_eq!(command("del -a x /p -3"), Command::Del { path: "/p".into(), rev: -3 });
        assert_eq!(command("set -- /p -1"), Command::Set { path: "/p".into(), rev: -1 });
    }

    #[test]
    fn flags_stand_anywhere_with_one_dash_or_two() {
        let lines = [
            "-a u -b w -r 5 -t 2s wait /p",
            "wait -a u -b w -r 5 -t 2s /p",
            "wait /p -a u -b w -r 5 -t 2s",
            "--a u --b=w wait --r=5 /p --t=2s",
            "-a x -a=u -b=w wait -r 9 -r=5 /p -t=2000ms",
        ];
        for line in lines {
            let expected = Invocation {
                command: Command::Wait { glob: "/p".into() },
                uri: Some("u".into()),
                boot: Some("w".into()),
                rev: Some(5),
                limit: Some(Duration::from_secs(2)),
                json: false,
                with_rev: false,
            };
            assert_eq!(parsed(line), Ok(Action::Run(expected)), "{line}");
        }
    }

    #[test]
    fn a_uri_keeps_its_equals_signs() {
        let Ok(Action::Run(invocation)) = parsed("-a=doozer:?ca=x&sk=y rev") else { panic!() };
        assert_eq!(invocation.uri.as_deref(), Some("doozer:?ca=x&sk=y"));
    }

    #[test]
    fn revision_minus_1_means_none() {
        let Ok(Action::Run(invocation)) = parsed("-r -1 rev") else { panic!() };
        assert_eq!(invocation.rev, None);
    }

    #[test]
    fn help_and_version_need_no_command_and_win_over_it() {
        for line in ["-h", "--h", "-help", "--help", "help"] {
            assert_eq!(parsed(line), Ok(Action::Help(None)), "{line}");
        }
        for line in ["set -h", "-h set", "help set", "set /p -h"] {
            let Ok(Action::Help(Some(topic))) = parsed(line) else { panic!("{line}") };
            assert_eq!(topic.name, "set");
        }
        for line in ["-v", "--version", "-v rev", "rev -v"] {
            assert_eq!(parsed(line), Ok(Action::Version), "{line}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_says_why() {
        for (line, why) in [
            ("", "no command is given"),
            ("bogus", "there is no command `bogus`"),
            ("help bogus", "there is no command `bogus`"),
            ("bogus -h", "there is no command `bogus`"),
            ("-x rev", "there is no flag -x"),
            ("rev -a", "flag -a needs a value"),
            ("-h=maybe rev", "flag -h is true or false, not `maybe`"),
            ("get", "get: wrong number of arguments"),
            ("rev /p", "rev: wrong number of arguments"),
            ("set /p", "set: wrong number of arguments"),
            ("set /p five", "set: not a revision: `five`"),
            ("get /p -r five", "get: not a revision: `five`"),
            ("get /p -r 9223372036854775808", "get: not a revision: `9223372036854775808`"),
            ("wait /p -t 5", "wait: not a duration above 0, like 1m30s: `5`"),
            ("wait /p -t 0", "wait: not a duration above 0, like 1m30s: `0`"),
            ("get /p -t 5s", "get: flag -t is for `wait` alone"),
            ("get /p -i 5s", "get: flag -i is for `stats` alone"),
            ("rev -json", "rev: flag -json is for `get`, `find`, `stat`, `stats`, `wait` and `watch` alone"),
            ("rev -rev", "rev: flag -rev is for `get` and `touch` alone"),
            ("nop -rev", "nop: flag -rev: the answer to `nop` holds no revision"),
        ] {
            let told = parsed(line).unwrap_err();
            assert!(told.starts_with(&format!("Error: {why}\n")), "{line}: {told}");
        }
    }
}
