//! The data directory: whose it is, which node it belongs to, and what it contains.
//!
//! ```text
//! lock      see `lock`
//! damaged/  what --salvage and recovery have set aside
//! others    see crate::log
//! ```
//! A process that can write into the directory can put a link, a FIFO or a huge file under each of these names. Invariants:
//! * the server opens regular files of this directory, and nothing else (`files`); it refuses to start beside anything odd;
//! * it reads no more of a file than can be valid, and writes into a file only when it has recognised what the file holds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::advertise::Own;
use super::attach::{self, attach};
use super::boot::{Decision, consult};
use super::disk::{Disk, is_full};
use super::files::{self, Wanted, cannot, refused};
use super::opening::Opening;
use super::{Options, StartError, lines, lock};
use crate::address::Address;
use crate::limits;
use crate::log::name::Name;
use crate::log::{self, Damage, Erase, FileInfo, Identity, Log, NodeId, Params, Salvage, Step};
use crate::replica::boot::{self, Finding, Held, Plan, ReadError, Refused, Told};
use crate::replica::handshake::{Challenges, Key};
use crate::replica::join::Joiner;
use crate::replica::members::FOUNDER;
use crate::replica::rebuild::Rebuild;
use crate::replica::{Line, Recovered, Standing};

/// Where files are set aside.
const DAMAGED: &str = "damaged";
/// How long to wait for the last writes of an earlier process.
const WRITES_PATIENCE: Duration = Duration::from_secs(30);
/// Letters of a node's id: base 32 of RFC 4648.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// An open data directory, and the data found in it.
pub struct Opened {
    /// The node, with the epoch of this boot.
    pub identity: Identity,
    /// The data from which the replica continues.
    pub recovered: Recovered,
    /// The disk, for writing.
    pub disk: Disk,
    /// The address at which others find the node.
    pub advertised: Address,
    /// Lines for the operator.
    pub report: Vec<String>,
    /// The source of the recovered revision, as the rest of the line that names the revision.
    pub recovery: String,
    /// The lock, held as long as the server runs.
    pub lock: File,
}

/// Opens the data directory, and creates it if it is missing. `own` are the node's own addresses. A node that belongs to no cluster
/// yet founds or joins one, which takes as long as the cluster is unreachable.
///
/// Writes nothing before it is clear that the node can start with what the directory contains.
///
/// # Errors
/// If the directory cannot be read or written, another server uses it, its data cannot be trusted, or the cluster refuses the node.
pub async fn open(options: &Options, own: &Own) -> Result<Opened, StartError> {
    let dir = &options.dir;
    let opening = Opening::watch(dir, super::say)?;
    make(dir).map_err(|e| cannot("make", dir, &e))?;
    let mut opener = Opener {
        options,
        opening,
        own,
        advertised: None,
        disk: Disk::new(dir),
        lock: None,
        report: Vec::new(),
        recovery: String::new(),
    };
    let (identity, recovered, advertised) = opener.open().await?;
    let Opener { disk, lock, report, recovery, .. } = opener;
    let lock = lock.expect("the directory was claimed before anything was written");
    Ok(Opened { identity, recovered, advertised, disk, report, recovery, lock })
}

/// Makes the directory, and those above it, durably: each directory is durable before anything is put into it.
fn make(dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for above in dir.ancestors().take_while(|d| !d.as_os_str().is_empty()) {
        if above.is_symlink() && !above.exists() {
            let text = format!("{} is a symbolic link that leads nowhere", above.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        if above.exists() {
            // A killed server may have made it without syncing it. Ignore the error if syncing is impossible here.
            match sync_parent(above) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
                    return Err(e);
                }
                _ => break,
            }
        }
        missing.push(above);
    }
    for missing in missing.into_iter().rev() {
        match fs::create_dir(missing) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_parent(missing)?,
        }
    }
    // Fails if the path is not a directory.
    fs::create_dir_all(dir)
}

/// Makes the name of a directory durable.
fn sync_parent(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Returns whether the directory's file system is in memory, and so loses all data when the machine restarts.
fn is_in_memory(dir: &Path) -> bool {
    // The numbers of tmpfs and ramfs in statfs(2).
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
    rustix::fs::statfs(dir).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|number| IN_MEMORY.contains(&number)))
}

/// Waits until the writes of an earlier process have ended. A server that was killed may have had one in flight; the kernel still
/// carries it out, and it must not interfere with the recovery. The server locks each file that it writes to, and the write in
/// flight keeps the file open.
async fn wait_for_last_writes(dir: &Path) -> Result<(), StartError> {
    let deadline = Instant::now() + WRITES_PATIENCE;
    let wait = |e: &io::Error| cannot("wait for the last writes to", dir, e);
    for entry in fs::read_dir(dir).map_err(|e| wait(&e))? {
        let entry = entry.map_err(|e| wait(&e))?;
        let path = entry.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // What is odd is refused later, with everything else.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !matches!(log::name::parse(name), Name::Segment(_)) || !is_file {
            continue;
        }
        let file = files::open_to_read(&path).map_err(|e| refused(dir, &unread(name, &e)))?;
        while let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK || Instant::now() > deadline {
                return Err(wait(&e.into()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// Makes the refusal for a file that cannot be read.
fn unread(file: &str, e: &io::Error) -> Refused {
    let error = read_error(e);
    let found = if error.denied { Finding::Denied } else { Finding::Unreadable };
    Refused::for_all(found, format!("file {file}: cannot be read: {error}. Nothing was changed."))
}

fn read_error(e: &io::Error) -> ReadError {
    ReadError { denied: e.kind() == io::ErrorKind::PermissionDenied, said: e.to_string() }
}

/// The operator has given no address but this node's own.
fn only_myself() -> StartError {
    StartError::new(attach::Failure::OnlyMyself.to_string())
}

struct Opener<'a> {
    options: &'a Options,
    opening: Opening,
    own: &'a Own,
    /// The address at which others find the node, once it is settled.
    advertised: Option<Address>,
    disk: Disk,
    lock: Option<File>,
    report: Vec<String>,
    recovery: String,
}

impl Opener<'_> {
    async fn open(&mut self) -> Result<(Identity, Recovered, Address), StartError> {
        let dir = &self.options.dir;
        self.lock = lock::take(dir, false)?;
        if self.lock.is_none() {
            // A directory that is refused does not even get a lock file. After locking, look again.
            let plan = self.look()?;
            self.settle_address(&plan)?;
            self.lock = lock::take(dir, true)?;
        }
        wait_for_last_writes(dir).await?;
        let (mut identity, recovered) = loop {
            let began = Instant::now();
            let plan = self.look()?;
            self.settle_address(&plan)?;
            self.claim().await?;
            match plan {
                Plan::Salvage(identity, damage) => {
                    self.report.push(format!("salvage: {damage}"));
                    let salvage = damage.salvage.as_ref().expect("a salvage is possible");
                    self.salvage(&identity, salvage).await?;
                }
                plan => break self.carry_out(plan, began).await?,
            }
        };
        identity.begin_boot(recovered.epoch());
        let advertised = self.advertise(&mut identity)?;
        self.write_identity(&identity).await?;
        Ok((identity, recovered, advertised))
    }

    /// Finds the address at which others find this node, unless it depends on the node that lets this one in. Changes nothing.
    fn settle_address(&mut self, plan: &Plan) -> Result<(), StartError> {
        let (identity, joins) = match plan {
            Plan::Resume(identity, _) | Plan::Begin(identity) | Plan::Salvage(identity, _) => (Some(identity), false),
            Plan::ComeBack(identity, _) | Plan::Join(identity) => (Some(identity), true),
            Plan::Attach(_) => (None, true),
            Plan::New => (None, !self.options.attach.is_empty() || self.options.boot.is_some()),
        };
        self.advertised = self.own.settled(identity.map_or("", |identity| identity.advertised.as_str()));
        if self.advertised.is_none() && !joins {
            let peers = identity.iter().flat_map(|identity| &identity.peers);
            let peers: Vec<Address> = peers.filter_map(|peer| peer.parse().ok()).collect();
            self.advertised = Some(self.own.by_route(self.options.attach.iter().chain(&peers))?);
        }
        Ok(())
    }

    /// Returns the address at which others find this node; keeps it for the next start, and reports it.
    fn advertise(&mut self, identity: &mut Identity) -> Result<Address, StartError> {
        let advertised = match self.advertised.take() {
            Some(advertised) => advertised,
            // The name service has let this node found a cluster.
            None => self.own.by_route([])?,
        };
        let text = advertised.to_string();
        self.report.push(match identity.advertised.as_str() {
            before if before.is_empty() || before == text => format!("advertises {text} to clients and peers"),
            before => format!("advertises {text} to clients and peers, and no longer {before}"),
        });
        identity.advertised = text;
        Ok(advertised)
    }

    /// Decides what to do with the directory's contents. Changes nothing.
    fn look(&self) -> Result<Plan, StartError> {
        let told = Told {
            cluster: self.options.cluster.as_deref(),
            attaches: self.options.attach.iter().any(|address| !self.own.is_known_as(address)),
            salvage: self.options.salvage,
            history: self.options.history,
            keep: limits::KEEP,
            seed: seed()?,
        };
        let mut read = reader(&self.options.dir);
        let mut read = |name: &str, offset: u64, into: &mut [u8]| {
            self.opening.returned();
            read(name, offset, into)
        };
        boot::look(&told, &self.listing()?, &mut read).map_err(|why| refused(&self.options.dir, &why))
    }

    /// Claims the directory for this process: writes its id into the lock, and finds out how files can be written.
    async fn claim(&mut self) -> Result<(), StartError> {
        let dir = &self.options.dir;
        self.opening.returned();
        lock::say_whose(self.lock.as_ref().expect("it is locked")).map_err(|e| cannot("lock", dir, &e))?;
        self.disk.probe().await.map_err(|e| cannot("write to", dir, &e))?;
        let line = format!(
            "the file system of {} refuses O_DIRECT: the log is written with buffered writes and fdatasync, which is slower",
            dir.display()
        );
        if !self.disk.is_direct() && !self.report.contains(&line) {
            self.report.push(line);
        }
        let line = format!(
            "the file system of {} is kept in memory: nothing of the data survives a restart of the machine; for data that \
             does, choose a directory on a disk with -d",
            dir.display()
        );
        if is_in_memory(dir) && !self.report.contains(&line) {
            self.report.push(line);
        }
        Ok(())
    }

    async fn carry_out(&mut self, plan: Plan, began: Instant) -> Result<(Identity, Recovered), StartError> {
        let dir = self.options.dir.display();
        let (mut identity, nameless) = match plan {
            Plan::Resume(identity, held) => {
                let recovered = self.resume(&identity, *held, began).await?;
                return Ok((identity, recovered));
            }
            Plan::New => (self.new_node().await?, None),
            Plan::Attach(damage) => {
                super::say(&format!(
                    "the data in {dir} cannot be used: {}; this node attaches as a new one, and moves the data to {DAMAGED}/ there \
                     when a node of the cluster has let it in",
                    damage.what()
                ));
                // The damaged identity stays until then, so this one is not written.
                (self.newcomer()?, Some(damage))
            }
            // With its old raft id the node might deny what it has acknowledged.
            Plan::ComeBack(mut identity, damage) => {
                super::say(&format!(
                    "the data in {dir} cannot be used: {}; this node comes back from the others, and moves the data to {DAMAGED}/ \
                     there when they have let it in",
                    damage.what()
                ));
                leave(&mut identity);
                self.write_identity(&identity).await?;
                (identity, None)
            }
            Plan::Join(identity) | Plan::Begin(identity) => (identity, None),
            Plan::Salvage(..) => unreachable!("it was carried out, and looked again"),
        };
        if identity.raft_id == 0 {
            self.join(&mut identity, nameless.as_deref()).await?;
        }
        let recovered = self.begin(&identity).await?;
        Ok((identity, recovered))
    }

    /// Makes the identity of a new node: it founds a cluster, joins one, or asks the name service. Writes nothing.
    fn newcomer(&self) -> Result<Identity, StartError> {
        let mut identity = self.founder()?;
        let (attach, boot) = (&self.options.attach, &self.options.boot);
        if !attach.is_empty() || boot.is_some() {
            (identity.raft_id, identity.cluster_id) = (0, 0);
            (identity.voters, identity.voter) = (0, false);
            identity.peers = attach.iter().map(Address::to_string).collect();
            if self.options.cluster.is_none() && boot.is_none() {
                identity.cluster.clear();
            }
        }
        Ok(identity)
    }

    async fn new_node(&mut self) -> Result<Identity, StartError> {
        // Refused before anything is written: later starts would take the directory for that of a node which is to join.
        let is_own = |address: &Address| self.own.is_known_as(address) || self.advertised.as_ref() == Some(address);
        let (attach, boot) = (&self.options.attach, &self.options.boot);
        if !attach.is_empty() && boot.is_none() && attach.iter().all(is_own) {
            return Err(only_myself());
        }
        let identity = self.newcomer()?;
        if identity.raft_id == FOUNDER {
            super::say(&format!(
                "founding cluster {}; to join one that is there, start with an empty directory and -a",
                identity.cluster
            ));
        }
        // Write the identity before telling anyone: a node that crashes on the way to its cluster comes back as the same node.
        self.write_identity(&identity).await?;
        Ok(identity)
    }

    /// Asks the name service where the cluster is. Returns no addresses if this node must found it; `identity` is prepared for
    /// that.
    async fn consult(&self, uri: &str, identity: &mut Identity) -> Result<Vec<Address>, StartError> {
        let node = identity.node.escape_ascii().to_string();
        let _waits = self.opening.elsewhere();
        let decision = consult(uri, &identity.cluster, &node, &|line| super::say(line)).await;
        match decision.map_err(|why| StartError::new(format!("-b {uri}: {why}")))? {
            Decision::Attach(addresses) => Ok(addresses.iter().filter_map(|address| address.parse().ok()).collect()),
            Decision::Found => {
                super::say(&format!("the name service has this node found cluster {}", identity.cluster));
                let founder = self.founder()?;
                *identity = Identity { node: identity.node, cluster: identity.cluster.clone(), ..founder };
                self.write_identity(identity).await?;
                Ok(Vec::new())
            }
        }
    }

    /// Asks the cluster to register this node, which has no data of the cluster, or none that it may use. Data stays where it is
    /// until another node has let this one in: only then is it sure that there is a cluster to get the data from.
    ///
    /// `nameless` is the damage of the identity, if `identity` is a new one that replaces it.
    async fn join(&mut self, identity: &mut Identity, nameless: Option<&Damage>) -> Result<(), StartError> {
        let mut addresses = self.options.attach.clone();
        let peers = identity.peers.iter().filter_map(|peer| peer.parse::<Address>().ok());
        addresses.extend(peers.filter(|peer| !self.options.attach.contains(peer)));
        addresses.retain(|address| Some(address) != self.advertised.as_ref());
        // A node that holds data does not ask the name service, which could let it found a cluster.
        if addresses.is_empty()
            && nameless.is_none()
            && let Some(uri) = &self.options.boot
        {
            addresses = self.consult(uri, identity).await?;
            if identity.raft_id != 0 {
                return Ok(());
            }
        }
        let nobody = |damage| refused(&self.options.dir, &boot::nobody(damage));
        if addresses.is_empty() {
            return Err(match nameless {
                Some(damage) => nobody(damage),
                None if !self.options.attach.is_empty() => only_myself(),
                None => StartError::new(format!(
                    "{} holds a node that has not joined its cluster: give the address of a node of that with -a, or choose another \
                     directory with -d",
                    self.options.dir.display()
                )),
            });
        }
        if self.options.attach.is_empty() && self.options.boot.is_none() && identity.cluster_id == 0 {
            let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
            super::say(&format!(
                "this node has not joined its cluster yet, and attaches to {}, as an earlier start was told; to found a cluster \
                 instead, choose another directory with -d",
                addresses.join(", ")
            ));
        }
        let joiner = Joiner {
            node: identity.node,
            incarnation: identity.incarnation,
            // A node that no cluster has let in yet is of none, whatever an earlier start was told.
            cluster: if identity.cluster_id == 0 {
                self.options.cluster.clone().unwrap_or_default()
            } else {
                identity.cluster.clone()
            },
            cluster_id: identity.cluster_id,
            key: Key::of_secret(&self.options.secrets.read_write),
            addr: String::new(),
        };
        let waits = self.opening.elsewhere();
        let mut challenges = Challenges::new(&random()?);
        let asked = attach(&joiner, &mut challenges, self.own, self.advertised.as_ref(), &addresses, &mut |text| {
            lines::log(&Line { text, of_others: true })
        })
        .await;
        drop(waits);
        let welcome = asked.map_err(|failure| match (failure, nameless) {
            (attach::Failure::OnlyMyself, Some(damage)) => nobody(damage),
            (failure, _) => StartError::new(failure.to_string()),
        })?;
        // A crash here leaves what it finds: the node asks again, and sets aside what is left.
        for file in self.listing()? {
            if nameless.is_some() || file.name != log::name::IDENTITY {
                self.set_aside(&file.name, identity)?;
            }
        }
        self.disk.sync_dir().await.map_err(|e| self.error("sync the directory", &e))?;
        self.advertised = Some(welcome.advertised);
        identity.raft_id = welcome.raft_id;
        identity.cluster_id = welcome.cluster_id;
        identity.cluster = welcome.cluster;
        identity.peers = addresses.iter().map(Address::to_string).collect();
        self.write_identity(identity).await
    }

    fn error(&self, what: &str, e: &io::Error) -> StartError {
        StartError::new(format!("cannot {what} in {}: {e}", self.options.dir.display()))
    }

    fn listing(&self) -> Result<Vec<FileInfo>, StartError> {
        let dir = &self.options.dir;
        let list = |e: &io::Error| cannot("list", dir, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| list(&e))? {
            let Ok(name) = entry.map_err(|e| list(&e))?.file_name().into_string() else { continue };
            let wanted = match log::name::parse(&name) {
                Name::Other if name == DAMAGED => Wanted::Directory,
                Name::Other => continue,
                _ => Wanted::File,
            };
            let Some(meta) = files::look(dir, &name).map_err(|e| refused(dir, &unread(&name, &e)))? else { continue };
            files::check(dir, &name, &meta, wanted).map_err(|why| refused(dir, &why))?;
            if wanted == Wanted::File {
                found.push(FileInfo { name, length: meta.len() });
            }
        }
        Ok(found)
    }

    // ---- founding ----

    /// Makes the identity of a new node that founds a cluster.
    fn founder(&self) -> Result<Identity, StartError> {
        Ok(Identity {
            node: new_node_id()?,
            raft_id: FOUNDER,
            boot_epoch: 0,
            incarnation: 0,
            cluster: self.options.cluster.clone().unwrap_or_else(|| super::CLUSTER_DEFAULT.into()),
            cluster_id: new_cluster_id()?,
            voters: 1,
            voter: true,
            peers: Vec::new(),
            advertised: String::new(),
        })
    }

    /// Begins the empty log of a node that never ran.
    async fn begin(&mut self, identity: &Identity) -> Result<Recovered, StartError> {
        let mut log = Log::create(Params { segment_size: self.options.segment, node: identity.node });
        self.prepare(&mut log).await?;
        let (machine, start) = Rebuild::new(identity.node, self.options.history).founded(identity.raft_id, seed()?);
        self.describe(identity);
        self.recovery = ": a new data directory".into();
        Ok(Recovered { machine, start, log, snapshot: 0, snapshot_bytes: 0 })
    }

    /// Makes the segment that the log asks for.
    async fn prepare(&mut self, log: &mut Log) -> Result<(), StartError> {
        if let Some(prepare) = log.wants_segment() {
            let generation = prepare.generation;
            let _large = self.opening.elsewhere();
            self.disk.prepare(prepare, 0).await.map_err(|e| self.error("make a segment of the log", &e))?;
            log.prepared(generation);
        }
        Ok(())
    }

    // ---- identity ----

    async fn write_identity(&self, identity: &Identity) -> Result<(), StartError> {
        write_identity(&self.disk, identity).await.map_err(|e| self.error("write the identity file", &e))
    }

    // ---- recovery ----

    /// Continues with the data in the files.
    async fn resume(&mut self, identity: &Identity, held: Held, began: Instant) -> Result<Recovered, StartError> {
        let found = &held.found;
        for step in &found.steps {
            self.step(step, identity).await?;
        }
        self.describe(identity);
        if let Some(torn) = &found.torn {
            self.report.push(format!(
                "cut a write that was not finished, and so never acknowledged: {}, {} bytes at {}",
                torn.file, torn.length, torn.offset
            ));
        }
        if let Some((file, damage)) = &found.fell_back {
            self.report
                .push(format!("the snapshot {file} is damaged ({damage}); an older one and the log stand in for it"));
        }
        let s = &found.statistics;
        self.recovery = format!(
            " in {} ms, from {} records of a snapshot ({}) and {} records of the log ({})",
            began.elapsed().as_millis(),
            s.snapshot_records,
            size(s.snapshot_bytes),
            s.records,
            size(s.bytes),
        );
        Ok(held.resume(Params { segment_size: self.options.segment, node: identity.node }))
    }

    fn describe(&mut self, identity: &Identity) {
        self.report.push(format!(
            "data in {} (node {}, cluster {})",
            fs::canonicalize(&self.options.dir).unwrap_or_else(|_| self.options.dir.clone()).display(),
            identity.node.escape_ascii(),
            identity.cluster,
        ));
    }

    async fn step(&self, step: &Step, identity: &Identity) -> Result<(), StartError> {
        self.opening.returned();
        match step {
            Step::Erase(erase) => self.erase(erase).await,
            Step::Sync(name) => files::open_to_read(&self.disk.path(name))
                .and_then(|file| file.sync_all())
                .map_err(|e| self.error(&format!("sync {name}"), &e)),
            Step::SetAside(name) => self.set_aside(name, identity),
            Step::Remove(name) => match fs::remove_file(self.disk.path(name)) {
                // An earlier probe of the disk left the file, and this start's probe removed it.
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error(&format!("remove {name}"), &e)),
                _ => Ok(()),
            },
            Step::SyncDirectory => self.disk.sync_dir().await.map_err(|e| self.error("sync the directory", &e)),
        }
    }

    async fn erase(&self, erase: &Erase) -> Result<(), StartError> {
        let Erase { file, offset, length } = erase;
        self.disk.erase(file, *offset, *length).await.map_err(|e| self.error(&format!("erase a part of {file}"), &e))
    }

    // ---- salvage ----

    async fn salvage(&mut self, identity: &Identity, salvage: &Salvage) -> Result<(), StartError> {
        for name in &salvage.set_aside {
            self.set_aside(name, identity)?;
        }
        for name in &salvage.copy {
            let _large = self.opening.elsewhere();
            let to = self.aside(name, identity)?;
            files::copy(&self.disk.path(name), &to)
                .map_err(|e| self.error(&format!("copy {name} to {}", to.display()), &e))?;
        }
        self.disk.sync_dir().await.map_err(|e| self.error("sync the directory", &e))?;
        self.sync_aside()?;
        for erase in &salvage.erase {
            self.erase(erase).await?;
        }
        if salvage.new_log {
            let mut log = Log::create(Params { segment_size: self.options.segment, node: identity.node });
            self.prepare(&mut log).await?;
        }
        Ok(())
    }

    fn set_aside(&self, name: &str, identity: &Identity) -> Result<(), StartError> {
        let to = self.aside(name, identity)?;
        fs::rename(self.disk.path(name), &to).map_err(|e| self.error(&format!("move {name} to {}", to.display()), &e))
    }

    /// Makes the files that were set aside durable.
    fn sync_aside(&self) -> Result<(), StartError> {
        File::open(self.disk.path(DAMAGED))
            .and_then(|dir| dir.sync_all())
            .map_err(|e| self.error("sync the directory of damaged files", &e))
    }

    /// Returns the name under which a file is set aside; no two boots use the same name.
    fn aside(&self, name: &str, identity: &Identity) -> Result<std::path::PathBuf, StartError> {
        let dir = self.disk.path(DAMAGED);
        match fs::create_dir(&dir) {
            // [`Opener::listing`] has made sure that it is a directory.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.error("make the directory for damaged files", &e));
            }
            _ => {}
        }
        let mut to = dir.join(format!("{}-{name}", identity.boot_epoch));
        let mut more = 1;
        // A link that leads nowhere takes its name, too.
        while to.symlink_metadata().is_ok() {
            more += 1;
            to = dir.join(format!("{}.{more}-{name}", identity.boot_epoch));
        }
        Ok(to)
    }
}

/// Gives up a node's place in its cluster, so that it comes back with another raft id.
pub fn leave(identity: &mut Identity) {
    identity.incarnation += 1;
    identity.raft_id = 0;
    identity.boot_epoch = 0;
    identity.voter = false;
}

/// Records the node's role in its cluster.
pub fn stand(identity: &mut Identity, standing: Standing) {
    identity.voters = standing.voters;
    identity.voter = standing.voter;
    identity.peers = standing.peers;
}

/// Writes the identity, durably.
///
/// # Errors
/// If the disk fails or is full.
pub async fn write_identity(disk: &Disk, identity: &Identity) -> io::Result<()> {
    let write = async || -> io::Result<()> {
        let draft = disk.create(&log::name::temporary(log::name::IDENTITY)).await?;
        draft.write(identity.encode(), 0).await.0?;
        draft.commit(disk, log::name::IDENTITY).await
    };
    match write().await {
        // The disk is full, but the old identity's file can be overwritten.
        Err(e) if is_full(&e) && disk.path(log::name::IDENTITY).exists() => {
            disk.write_over(log::name::IDENTITY, identity.encode()).await
        }
        outcome => outcome,
    }
}

/// Returns a function that reads parts of the directory's files; it keeps each file open for the next part.
fn reader(dir: &Path) -> impl FnMut(&str, u64, &mut [u8]) -> Result<(), ReadError> {
    let mut open: Option<(String, File)> = None;
    let mut read = move |dir: &Path, name: &str, offset: u64, into: &mut [u8]| -> io::Result<()> {
        if open.as_ref().is_none_or(|(of, _)| of != name) {
            open = Some((name.to_string(), files::open_to_read(&dir.join(name))?));
        }
        match &open {
            Some((_, file)) => file.read_exact_at(into, offset),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    };
    move |name, offset, into| read(dir, name, offset, into).map_err(|e| read_error(&e))
}

fn new_node_id() -> Result<NodeId, StartError> {
    Ok(random::<16>()?.map(|byte| LETTERS[usize::from(byte % 32)]))
}

/// 0 means that the id is not known.
fn new_cluster_id() -> Result<u64, StartError> {
    seed().map(|number| number.max(1))
}

fn seed() -> Result<u64, StartError> {
    Ok(u64::from_le_bytes(random()?))
}

/// Returns random bytes of the system.
///
/// # Errors
/// If the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    match got {
        Ok(n) if n == N => Ok(bytes),
        Ok(_) => Err(StartError::new("the system gives no random numbers".into())),
        Err(e) => Err(StartError::new(format!("the system gives no random numbers: {e}"))),
    }
}

/// Formats a size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
