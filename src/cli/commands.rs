//! What each command does.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, IsTerminal, Read, Seek, StdinLock, StdoutLock, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::args::{Command, Invocation};
use super::explain::{self, Asked};
use super::paths::{check_glob, check_path};
use super::{Failure, Streams, json, stats};
use crate::client::{CLOBBER, Client, Error, Event, MISSING, Options, Stat, Watch, WhenStale};
use crate::limits::VALUE_MAX;

/// Where a server is, if nobody says.
const URI_DEFAULT: &str = "doozer:?ca=127.0.0.1:8046";

/// How long a server may take before the command tries another one in parallel.
const SLOW_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(CLOBBER == -1 && MISSING == 0, "the help says so");

/// Carries out a command. `env` tells the environment.
pub fn run(invocation: &Invocation, open: Streams, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    check(&invocation.command)?;
    let from_env = |name| env(name).map(|v| v.to_string_lossy().into_owned()).filter(|v| !v.is_empty());
    let uri = invocation.uri.clone().or_else(|| from_env("DOOZER_URI"));
    let uri = uri.unwrap_or_else(|| URI_DEFAULT.to_owned());
    let boot = invocation.boot.clone().or_else(|| from_env("DOOZER_BOOT_URI"));
    // Read the body first: a connection would have to wait while somebody types.
    let body = match &invocation.command {
        Command::Add { path } | Command::Set { path, .. } => read_body(path, open)?,
        _ => Vec::new(),
    };
    if !open.stdout {
        return Err(Failure::StdoutClosed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::System)?;
    let result = runtime.block_on(async {
        // The client, for the text of a failure.
        let asked = OnceCell::new();
        let work = async {
            let client = connect(&uri, boot.as_deref(), invocation.limit).await?;
            drop(asked.set(client.clone()));
            let out = BufWriter::new(io::stdout().lock());
            let (rev, json, with_rev) = (invocation.rev, invocation.json, invocation.with_rev);
            Session { client, out, rev, json, with_rev }.carry_out(&invocation.command, body).await
        };
        match invocation.limit {
            Some(limit) => {
                let late = || Err(Failure::TimedOut(limit, asked.get().map(Client::server)));
                timeout(limit, work).await.unwrap_or_else(|_| late())
            }
            None => work.await,
        }
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    result
}

/// Connects. `slow_after` is short enough that a server that hangs leaves time within `limit` for the others.
async fn connect(uri: &str, boot: Option<&str>, limit: Option<Duration>) -> Result<Client, Error> {
    let options = match boot {
        Some(boot) => Options::parse_via(uri, boot).await?,
        None => Options::parse(uri)?,
    };
    let shares = u32::try_from(options.count()).unwrap_or(u32::MAX).saturating_add(1);
    match limit.map(|limit| limit / shares) {
        Some(share) if share < SLOW_AFTER => options.slow_after(share).connect().await,
        _ => options.slow_after(SLOW_AFTER).connect().await,
    }
}

/// Refuses an invalid path. Servers do not always refuse it: some verbs treat a bad path as a missing file.
fn check(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Add { path }
        | Command::Set { path, .. }
        | Command::Get { path }
        | Command::Del { path, .. }
        | Command::Find { path }
        | Command::Stat { path }
        | Command::Touch { path } => check_path(path),
        Command::Wait { glob } | Command::Watch { glob } => check_glob(glob),
        Command::Rev | Command::SelfId | Command::Stats { .. } | Command::Nop => Ok(()),
    }
    .map_err(Failure::BadPath)
}

/// Reads all of stdin. Refuses a body that is larger than any server accepts, and reads no more of it than shows that.
fn read_body(path: &str, open: Streams) -> Result<Vec<u8>, Failure> {
    if !open.stdin {
        return Err(Failure::StdinClosed);
    }
    let mut body = Vec::new();
    let stdin = io::stdin().lock();
    if let Some(size) = unread(&stdin).filter(|size| *size > VALUE_MAX as u64) {
        return Err(explain::too_large(path, Some(size)));
    }
    if stdin.is_terminal() {
        // If stderr is closed, nobody would read this.
        drop(writeln!(
            io::stderr(),
            "Type the body of {path}; Ctrl-D at the start of a line ends it, Ctrl-C gives up."
        ));
    }
    stdin.take(VALUE_MAX as u64 + 1).read_to_end(&mut body).map_err(Failure::Stdin)?;
    if body.len() > VALUE_MAX { Err(explain::too_large(path, None)) } else { Ok(body) }
}

/// Returns how many bytes are left to read, if stdin is a regular file.
fn unread(stdin: &StdinLock<'_>) -> Option<u64> {
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(Metadata::is_file)?;
    Some(metadata.len().saturating_sub(file.stream_position().ok()?))
}

struct Session {
    client: Client,
    out: BufWriter<StdoutLock<'static>>,
    /// `-r`
    rev: Option<i64>,
    /// `-json`
    json: bool,
    /// `-rev`
    with_rev: bool,
}

impl Session {
    async fn carry_out(mut self, command: &Command, body: Vec<u8>) -> Result<(), Failure> {
        match command {
            Command::Add { path } => {
                let set = self.client.set(path, MISSING, body).await;
                let rev = self.or_explain(path, Asked::Create, set).await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::Set { path, rev } => {
                let set = self.client.set(path, *rev, body).await;
                let rev = self.or_explain(path, Asked::Change(*rev), set).await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::Get { path } => {
                let got = self.client.get(path, self.rev).await;
                let file = self.or_explain(path, Asked::Read(self.rev), got).await?;
                if !file.exists() {
                    return Err(explain::missing(path, self.rev));
                }
                if self.json {
                    self.say(&json::file(path, &file))?;
                } else {
                    if self.with_rev {
                        self.say(&format!("{} {}\n", file.rev, file.value.len()))?;
                    }
                    self.out.write_all(&file.value).map_err(Failure::Stdout)?;
                }
            }
            Command::Del { path, rev } => {
                let deleted = self.client.del(path, *rev).await;
                self.or_explain(path, Asked::Change(*rev), deleted).await?;
            }
            Command::Find { path } => self.find(path).await?,
            Command::Stat { path } => {
                let stat = self.client.stat(path, self.rev).await;
                match self.or_explain(path, Asked::Read(self.rev), stat).await? {
                    Stat::Missing => return Err(explain::missing(path, self.rev)),
                    stat if self.json => self.say(&json::stat(path, stat))?,
                    Stat::File { rev, len } => self.say(&format!("{rev} {len}\n"))?,
                    Stat::Directory { entries } => self.say(&format!("d {entries}\n"))?,
                }
            }
            Command::Touch { path } => {
                let got = self.client.get(path, None).await;
                let file = self.or_explain(path, Asked::Read(None), got).await?;
                let set = self.client.set(path, file.rev, file.value).await;
                let rev = self.or_explain(path, Asked::Touch(file.rev), set).await?;
                if self.with_rev {
                    self.say(&format!("{rev}\n"))?;
                }
            }
            Command::Rev => {
                let rev = self.client.rev().await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::SelfId => {
                let id = self.client.self_id().await?;
                self.say(&format!("{id}\n"))?;
            }
            Command::Stats { interval } => {
                let mut stats = self.client.stats().await?;
                if let Some(interval) = interval {
                    let earlier = stats;
                    sleep(*interval).await;
                    stats = self.client.stats().await?.since(&earlier);
                }
                self.say(&if self.json { stats::json(&stats) } else { stats::table(&stats) })?;
            }
            Command::Nop => {
                let nop = self.client.nop().await;
                nop.map_err(explain::nop)?;
            }
            Command::Wait { glob } => {
                let rev = self.revision().await?;
                let mut events = self.client.wait_with(glob, rev, WhenStale::Report);
                if let Some(event) = self.next_event(&mut events, glob).await? {
                    self.event(&event)?;
                }
            }
            Command::Watch { glob } => {
                let rev = self.revision().await?;
                let mut events = self.client.watch_with(glob, rev, WhenStale::Report);
                while let Some(event) = self.next_event(&mut events, glob).await? {
                    self.event(&event)?;
                }
            }
        }
        self.out.flush().map_err(Failure::Stdout)
    }

    /// That of `-r`, or the current one.
    async fn revision(&self) -> Result<i64, Failure> {
        match self.rev {
            Some(rev) => Ok(rev),
            None => Ok(self.client.rev().await?),
        }
    }

    /// Waits for the next event of a watch, and warns on stderr while events may be missing.
    async fn next_event(&self, events: &mut Watch, glob: &str) -> Result<Option<Event>, Failure> {
        while let Some(event) = events.next().await {
            if let Err(Error::Stale(why)) = &event {
                // If stderr is closed, nobody would read this.
                drop(writeln!(io::stderr(), "Warning: events may be missing until later: {why}"));
                continue;
            }
            let from = events.next_rev();
            return self.or_explain(glob, Asked::Read(Some(from)), event).await.map(Some);
        }
        Ok(None)
    }

    /// Returns the result of a call, or the reason why the command failed.
    async fn or_explain<T>(&self, path: &str, asked: Asked, result: Result<T, Error>) -> Result<T, Failure> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(explain::explain(&self.client, path, asked, error).await),
        }
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.out.write_all(line.as_bytes()).map_err(Failure::Stdout)
    }

    /// Prints an event at once: whoever reads it may be waiting for it.
    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        if self.json {
            self.say(&json::event(event))?;
        } else {
            let change = json::kind(event.change);
            self.say(&format!("{} {} {change} {}\n", event.path, event.rev, event.value.len()))?;
            self.out.write_all(&event.value).map_err(Failure::Stdout)?;
            self.say("\n")?;
        }
        self.out.flush().map_err(Failure::Stdout)
    }

    fn found(&mut self, path: &str, stat: Stat) -> Result<(), Failure> {
        if self.json { self.say(&json::stat(path, stat)) } else { self.say(&format!("{path}\n")) }
    }

    /// Prints a tree, depth first: one listing is open for each directory on the way down.
    async fn find(&mut self, path: &str) -> Result<(), Failure> {
        let rev = Some(self.revision().await?);
        let root = self.client.stat(path, rev).await;
        let root = self.or_explain(path, Asked::Read(rev), root).await?;
        if root == Stat::Missing {
            return Err(explain::missing(path, self.rev));
        }
        self.found(path, root)?;
        let mut open = Vec::new();
        if let Stat::Directory { .. } = root {
            // The root's path ends with the slash that others are given.
            let prefix = if path == "/" { "" } else { path };
            open.push((prefix.to_owned(), self.client.entries(path, rev)));
        }
        while let Some((prefix, entries)) = open.last_mut() {
            let Some(entry) = entries.next().await else {
                open.pop();
                continue;
            };
            let prefix = prefix.clone();
            let (name, stat) = self.or_explain(&prefix, Asked::Read(rev), entry).await?;
            let path = format!("{prefix}/{name}");
            self.found(&path, stat)?;
            if let Stat::Directory { .. } = stat {
                let entries = self.client.entries(&path, rev);
                open.push((path, entries));
            }
        }
        Ok(())
    }
}
