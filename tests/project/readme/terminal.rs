//! An interactive shell on a terminal, as somebody who types has it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};

/// What hangs for so long hangs for ever. `cargo build --release` is among what is waited for.
const LIMIT: Duration = Duration::from_secs(1200);

/// Prompts that nothing else prints.
const DONE: &str = "@<$?>@ ";
const MORE: &str = "@<+>@ ";

/// What the shell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Another command; the last one ended with this status.
    Done(i32),
    /// More of the command.
    More,
}

/// A terminal with a shell.
pub struct Terminal {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What was shown since the last line was typed.
    shown: Vec<u8>,
    shell: Child,
}

impl Terminal {
    /// Runs a command that becomes bash with the arguments that are added here.
    #[track_caller]
    pub fn open(mut command: Command) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let line = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        // What is typed is not shown, and what is printed is shown as it is.
        let mut modes = tcgetattr(&line).unwrap();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&line, OptionalActions::Now, &modes).unwrap();
        command.args(["--norc", "--noprofile", "--noediting", "-i"]);
        for name in ["DOOZER_URI", "DOOZER_BOOT_URI", "DOOZER_RWSECRET", "DOOZER_ROSECRET"] {
            command.env_remove(name);
        }
        command.env("PS1", DONE).env("PS2", MORE).env("TERM", "dumb").env("HISTFILE", "").env_remove("PROMPT_COMMAND");
        let line = File::from(line);
        command.stdin(line.try_clone().unwrap()).stdout(line.try_clone().unwrap()).stderr(line);
        let shell = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        // It holds the line, which ends with the shell.
        drop(command);
        let keyboard = File::from(keyboard);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = reader.read(&mut bytes) {
                if count == 0 || sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut terminal = Terminal { keyboard, screen, shown: Vec::new(), shell };
        terminal.prompt();
        terminal
    }

    /// Types a line, and returns what was shown until the next prompt.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> (String, Prompt) {
        self.begin(line);
        self.prompt()
    }

    /// Types a line.
    pub fn begin(&mut self, line: &str) {
        self.shown.clear();
        self.keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits until this was shown since the line was typed, by a command that goes on.
    #[track_caller]
    pub fn until(&mut self, word: &str) {
        self.wait(word, |shown| {
            assert!(prompted(shown).is_none(), "it has ended: {shown}");
            shown.contains(word).then_some(())
        });
    }

    /// Presses Ctrl-C; what was shown since the line was typed, and how it ended.
    #[track_caller]
    pub fn interrupt(&mut self) -> (String, i32) {
        self.keyboard.write_all(b"\x03").unwrap();
        match self.prompt() {
            (shown, Prompt::Done(status)) => (shown, status),
            (shown, Prompt::More) => panic!("a command that is not whole: {shown}"),
        }
    }

    #[track_caller]
    fn prompt(&mut self) -> (String, Prompt) {
        let found = self.wait("a prompt", |shown| {
            // What runs in the background may have printed something behind it.
            let (before, prompt) = prompted(shown)?;
            Some((before.to_owned(), prompt))
        });
        self.shown.clear();
        found
    }

    /// Waits until what is shown has this in it.
    #[track_caller]
    fn wait<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&self.shown)) {
                return found;
            }
            match self.screen.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
                Ok(more) => self.shown.extend(more),
                Err(e) => panic!("no {what:?} ({e}) in what is shown:\n{}", String::from_utf8_lossy(&self.shown)),
            }
        }
    }
}

/// What is before the last prompt, and what that is.
fn prompted(shown: &str) -> Option<(&str, Prompt)> {
    let (before, prompt) = shown.rsplit_once(">@ ")?.0.rsplit_once("@<")?;
    let prompt = if prompt == "+" { Prompt::More } else { Prompt::Done(prompt.parse().ok()?) };
    Some((before, prompt))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its jobs are told that the terminal is gone; what does not end by that ends with the namespace.
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}
