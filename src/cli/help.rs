//! What the command says about itself.

use std::fmt::Write;

/// A command's name, its arguments, and what it does.
#[derive(Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: &'static str,
    /// Names of its arguments.
    pub takes: &'static [&'static str],
    brief: &'static str,
    text: &'static str,
}

const fn topic(name: &'static str, takes: &'static [&'static str], brief: &'static str, text: &'static str) -> Topic {
    Topic { name, takes, brief, text }
}

const GLOB: &str = "\
A GLOB is a path that may hold
  ?    one character of a name
  *    any characters within a name, also none
  **   any characters, slashes too, also none
";

const RECORD: &str = "\
An event is printed as

  PATH REV set|del|nop LEN
  BODY

where LEN is the number of bytes of BODY, and a newline follows it. A body may hold newlines, so count bytes, or use

  -json         print an event as a JSON object on one line, with `path`, `rev`, `kind` (set, del or nop), `len`,
                `body` (in base64), and `text`: the body as it is, if it is UTF-8
";

/// All commands, in the order in which they are listed.
pub static TOPICS: [Topic; 14] = [
    topic(
        "add",
        &["PATH"],
        "create a file",
        "\
Creates the file at PATH with the body that is read from stdin, and prints its revision.
A closed stdin is an error; for an empty body, use </dev/null.
If there is such a file already, the exit status is 1.
",
    ),
    topic(
        "set",
        &["PATH", "REV"],
        "write a file",
        "\
Sets the file at PATH to the body that is read from stdin, and prints its new revision.
A closed stdin is an error; for an empty body, use </dev/null.
If the file has changed since REV, nothing is written and the exit status is 1.

REV is the revision that the file is known to have, 0 if there is none, or -1 to write in any case.
",
    ),
    topic(
        "get",
        &["PATH"],
        "print a file",
        "\
Prints the body of the file at PATH, and nothing else.
With -r, prints it as it was at that revision; if that is still to come, waits for it.

  -rev          print the file's revision and the body's length in bytes on a line before the body
  -json         print a JSON object on one line, with `path`, `rev`, `len`, `body` (in base64), and `text`: the body
                as it is, if it is UTF-8
",
    ),
    topic(
        "del",
        &["PATH", "REV"],
        "delete a file",
        "\
Deletes the file at PATH.
If the file has changed since REV, nothing is deleted and the exit status is 1.

REV is the revision that the file is known to have, or -1 to delete it in any case.
",
    ),
    topic(
        "find",
        &["PATH"],
        "list a tree",
        "\
Prints PATH and the path of every file and directory below it, one on a line, a directory before what it holds.
All of it is as of one revision: that of -r, or the current one. No path holds a newline.

  -json         print a JSON object on each line, as `stat` does
",
    ),
    topic(
        "stat",
        &["PATH"],
        "print a file's revision and length",
        "\
Prints the revision and the length of the file at PATH, or `d` and the number of entries if it is a directory.
With -r, prints what was there at that revision.

  -json         print a JSON object on one line, with `kind` (file or directory), `path`, and `rev` and `len`,
                or `entries`
",
    ),
    topic(
        "touch",
        &["PATH"],
        "give a file a new revision",
        "\
Writes the file at PATH again with the body that it has, so that it gets a new revision and everyone who waits for it
hears of it. A file that does not exist is created, empty.
If somebody else writes the file at the same moment, theirs stands and the exit status is 1.

  -rev          print the new revision
",
    ),
    topic("rev", &[], "print the current revision", "Prints the current revision of the store.\n"),
    topic("self", &[], "print the server's id", "Prints the id of the server that answers.\n"),
    topic(
        "stats",
        &[],
        "print what the server measures of itself",
        "\
Prints figures of the server that answers, and how long the stages of its clients' commits took and how large its
batches were: how many were counted, and the values that 50 %, 90 %, 99 % and 99.9 % of them do not exceed, in
microseconds where they are times. Counted is since the server was started.

  -i DURATION   count for so long instead, from now on (10s)
  -json         print it as JSON, with times in nanoseconds

  gather      from the receipt of a batch's first command until it is proposed, or sent to the leader
  submit      until its write, and its messages to the others, are on their way
  write       until it is durable here
  replicate   until a majority has it
  apply       until it is applied
  forward     where another node leads: from its being sent there until it is applied here
  answer      until the last answer is handed to its connection
",
    ),
    topic(
        "nop",
        &[],
        "make a revision",
        "Makes a new revision that changes nothing. The protocol does not tell which, so nothing is printed.\n",
    ),
    topic(
        "wait",
        &["GLOB"],
        "print the next change",
        "\
Waits for a change of a file whose path matches GLOB, and prints it.
With -r, the first change at or after that revision, which may have been already; else at or after the current one.

  -t DURATION   wait no longer than that (1m30s, 200ms); then the exit status is 2
",
    ),
    topic(
        "watch",
        &["GLOB"],
        "print changes as they happen",
        "\
Prints every change of a file whose path matches GLOB, for ever.
With -r, the changes begin with that revision; else with the current one. None is lost or repeated when the connection
is lost and another is found. If no server in reach can tell what is new, a warning on stderr says so.
",
    ),
    topic(
        "help",
        &["COMMAND"],
        "explain a command",
        "Prints what COMMAND does; without one, what commands there are.\n",
    ),
];

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|t| t.name == name)
}

fn synopsis(topic: &Topic) -> String {
    let mut line = topic.name.to_owned();
    for argument in topic.takes {
        line.push(' ');
        line.push_str(argument);
    }
    line
}

/// One line: how a command is written.
pub fn usage(topic: &Topic) -> String {
    format!("Use: doozer [flags] {}", synopsis(topic))
}

/// What a command does.
pub fn of(topic: &Topic) -> String {
    let mut text = format!("{}\n\n{}", usage(topic), topic.text);
    if matches!(topic.name, "wait" | "watch") {
        write!(text, "\n{GLOB}\n{RECORD}").expect("a string takes everything");
    }
    text
}

/// What commands and flags there are.
pub fn overview() -> String {
    let mut text = String::from(
        "\
Use: doozer [flags] COMMAND [arguments]

Commands:
",
    );
    for topic in &TOPICS {
        writeln!(text, "  {:<14}  {}", synopsis(topic), topic.brief).expect("a string takes everything");
    }
    text.push_str(
        "
Flags, before or after the command, with one dash or two:
  -a URI          the cluster (default: $DOOZER_URI, or else doozer:?ca=127.0.0.1:8046)
  -b URI          the name service that knows the cluster's addresses (default: $DOOZER_BOOT_URI)
  -r REV          read the store as it was at this revision; or wait from it on
  -t DURATION     for wait: how long at most
  -i DURATION     for stats: count for so long
  -json           for get, find, stat, stats, wait and watch: print JSON, one object a line
  -rev            for get and touch: print the revision, too
  -h              help, also on a command
  -v              print the version

A doozer URI is `doozer:?` and parameters with `&` in between: ca=HOST[:PORT] an address (any number of them), cn=NAME
the cluster's name, for -b, and sk=SECRET. In a shell, quote it. With several addresses, a server that hangs, or that
was cut off from the majority of its cluster, is left for another one.

Errors go to stderr, as `Error: NAME: DETAIL`, where NAME is the protocol's (NOENT, REV_MISMATCH, BAD_PATH, …), or as
`Error: DETAIL` if the server did not answer.

The exit status is 0 on success, 1 if a file had another revision than the one given, 127 if the command line makes no
sense, and 2 on any other error.
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_wide_terminal_and_ends_with_a_newline() {
        for text in TOPICS.iter().map(of).chain([overview()]) {
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text}");
            assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
        }
    }

    #[test]
    fn the_overview_names_every_command() {
        let overview = overview();
        assert!(TOPICS.iter().all(|t| overview.contains(&format!("\n  {} ", t.name))));
    }
}
