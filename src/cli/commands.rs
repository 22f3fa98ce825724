//! What each command does.

use std::ffi::OsString;
use std::io::{self, BufWriter, Read, StdoutLock, Write};

use tokio::time::{sleep, timeout};

use super::Failure;
use super::args::{Command, Invocation};
use super::stats;
use crate::client::{CLOBBER, Change, Client, Error, Event, MISSING, Stat};
use crate::limits::FRAME_MAX;

/// Where a server is, if nobody says.
const URI_DEFAULT: &str = "doozer:?ca=127.0.0.1:8046";

const _: () = assert!(CLOBBER == -1 && MISSING == 0, "the help says so");

/// Carries out a command. `env` tells the environment.
pub fn run(invocation: &Invocation, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    let from_env = |name| env(name).map(|v| v.to_string_lossy().into_owned()).filter(|v| !v.is_empty());
    let uri = invocation.uri.clone().or_else(|| from_env("DOOZER_URI"));
    let uri = uri.unwrap_or_else(|| URI_DEFAULT.to_owned());
    let boot = invocation.boot.clone().or_else(|| from_env("DOOZER_BOOT_URI"));
    // Before there is a connection that would wait for whoever types it.
    let body = match invocation.command {
        Command::Add { .. } | Command::Set { .. } => read_body()?,
        _ => Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::System)?;
    let result = runtime.block_on(async {
        let work = async {
            let client = connect(&uri, boot.as_deref()).await?;
            let out = BufWriter::new(io::stdout().lock());
            Session { client, out, rev: invocation.rev }.carry_out(&invocation.command, body).await
        };
        match invocation.limit {
            Some(limit) => timeout(limit, work).await.unwrap_or(Err(Failure::TimedOut(limit))),
            None => work.await,
        }
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    result
}

async fn connect(uri: &str, boot: Option<&str>) -> Result<Client, Error> {
    match boot {
        Some(boot) => Client::connect_via(uri, boot).await,
        None => Client::connect(uri).await,
    }
}

/// All of stdin; a little more than any server takes, so that the error is the client's to word.
fn read_body() -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    io::stdin().lock().take(FRAME_MAX as u64 + 1).read_to_end(&mut body).map_err(Failure::Stdin)?;
    Ok(body)
}

struct Session {
    client: Client,
    out: BufWriter<StdoutLock<'static>>,
    /// `-r`
    rev: Option<i64>,
}

impl Session {
    async fn carry_out(mut self, command: &Command, body: Vec<u8>) -> Result<(), Failure> {
        match command {
            Command::Add { path } => {
                let rev = self.client.set(path, MISSING, body).await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::Set { path, rev } => {
                let rev = self.client.set(path, *rev, body).await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::Get { path } => {
                let file = self.client.get(path, self.rev).await?;
                if !file.exists() {
                    return Err(Failure::Missing);
                }
                self.out.write_all(&file.value).map_err(Failure::Stdout)?;
            }
            Command::Del { path, rev } => self.client.del(path, *rev).await?,
            Command::Find { path } => self.find(path).await?,
            Command::Stat { path } => match self.client.stat(path, self.rev).await? {
                Stat::Missing => return Err(Failure::Missing),
                Stat::File { rev, len } => self.say(&format!("{rev} {len}\n"))?,
                Stat::Directory { entries } => self.say(&format!("d {entries}\n"))?,
            },
            Command::Touch { path } => {
                let file = self.client.get(path, None).await?;
                self.client.set(path, file.rev, file.value).await?;
            }
            Command::Rev => {
                let rev = self.client.rev().await?;
                self.say(&format!("{rev}\n"))?;
            }
            Command::SelfId => {
                let id = self.client.self_id().await?;
                self.say(&format!("{id}\n"))?;
            }
            Command::Stats { json, interval } => {
                let mut stats = self.client.stats().await?;
                if let Some(interval) = interval {
                    let earlier = stats;
                    sleep(*interval).await;
                    stats = self.client.stats().await?.since(&earlier);
                }
                self.say(&if *json { stats::json(&stats) } else { stats::table(&stats) })?;
            }
            Command::Nop => self.client.nop().await?,
            Command::Wait { glob } => {
                let rev = self.revision().await?;
                let event = self.client.wait(glob, rev).await?;
                self.event(&event)?;
            }
            Command::Watch { glob } => {
                let rev = self.revision().await?;
                let mut events = self.client.watch(glob, rev);
                while let Some(event) = events.next().await {
                    self.event(&event?)?;
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

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.out.write_all(line.as_bytes()).map_err(Failure::Stdout)
    }

    /// Prints an event at once: whoever reads it may be waiting for it.
    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let change = match event.change {
            Change::Set => "set",
            Change::Del => "del",
            Change::Nop => "nop",
        };
        self.say(&format!("{} {} {change} {}\n", event.path, event.rev, event.value.len()))?;
        self.out.write_all(&event.value).map_err(Failure::Stdout)?;
        self.say("\n")?;
        self.out.flush().map_err(Failure::Stdout)
    }

    /// Prints a tree, depth first: one listing is open for each directory on the way down.
    async fn find(&mut self, path: &str) -> Result<(), Failure> {
        let rev = Some(self.revision().await?);
        let root = self.client.stat(path, rev).await?;
        if root == Stat::Missing {
            return Err(Failure::Missing);
        }
        self.say(&format!("{path}\n"))?;
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
            let (name, stat) = entry?;
            let path = format!("{prefix}/{name}");
            self.say(&format!("{path}\n"))?;
            if let Stat::Directory { .. } = stat {
                let entries = self.client.entries(&path, rev);
                open.push((path, entries));
            }
        }
        Ok(())
    }
}
