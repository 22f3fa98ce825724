//! The shell: the replica's sockets, disk, clock and core. The only place that names tokio-uring.
//!
//! The server has one thread and one ring. Each connection has two tasks (`link`); the log's writer, the preparation of segments
//! and the snapshot have one task each (`disk`). One more task, woken by any of them, ends the turn: it runs after the tasks that
//! were awake before it, so requests that arrived together are carried out together. The kernel gets the submissions when the
//! runtime parks.
//!
//! * `directory`: the data directory: identity, recovery. `lock`: its lock. `files`: what it opens there, and what it refuses.
//! * `listen`, `advertise`: where the node listens, and which address it gives to others.
//! * `attach`, `boot`: how a new node finds its cluster. `dial`: connections to peers. `original`: servers that cannot be joined.
//! * `ring`: whether io_uring works, and if not, why.
//! * `pin`, `poll`: the core, and how it waits.
//! * `accept`: who may connect. `closing`: how many connections are closed at a time. `farewell`: what a stopping server waits for.
//! * `lines`, `repeats`: the operator's log. `stop`: signals. Each of the two has a thread of its own, for which the loop never
//!   waits.
//! * [`boot`]: the name service of another cluster, where the nodes of this one find each other.
//! * `buffer`, `signal`: building blocks of the tasks.

// This floor is where time, randomness and files come in.
#![allow(clippy::disallowed_methods, reason = "the server is the floor that may name the clock and files")]

mod accept;
mod advertise;
mod attach;
pub mod boot;
mod buffer;
mod closing;
mod dial;
pub mod directory;
mod disk;
mod farewell;
mod files;
mod lines;
mod link;
mod listen;
pub mod lock;
mod opening;
mod original;
mod pin;
mod poll;
mod repeats;
mod ring;
mod signal;
mod stop;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio_uring::net::TcpStream;

use crate::address::{Address, Advertise, Listen};
use crate::limits;
use crate::log::Identity;
use crate::replica::desk::Secrets;
use crate::replica::{Conn, Fate, Replica};
use buffer::Pool;
use closing::Closing;
pub use lines::{finish, say};
use link::{Link, Trial};
pub use ring::try_ring;
use signal::Signal;
use stop::StopRequests;

/// Exit status when the disk fails while the server runs (EX_IOERR of sysexits.h).
pub const EXIT_IO: i32 = 74;
/// Name of a cluster that is founded without a name.
pub const CLUSTER_DEFAULT: &str = "local";

/// Connections that the kernel holds before the server accepts them.
const BACKLOG: i32 = 4096;
/// How long a connection is silent before the kernel probes its peer, and the time between two probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on.
    pub listen: Listen,
    /// The address at which others find the node, if it differs from the one it listens on.
    pub advertise: Option<Advertise>,
    /// The data directory.
    pub dir: PathBuf,
    /// Size of the log's new files, in bytes: a multiple of [`crate::limits::BLOCK`], from [`crate::limits::SEGMENT_MIN`] to
    /// [`crate::limits::SEGMENT`].
    pub segment: u64,
    /// The core to pin the server to.
    pub core: Option<usize>,
    /// How long the core polls for more after an event before it sleeps.
    pub busy_poll: Duration,
    /// Name of the cluster: a new cluster gets it, and an existing one must have it.
    pub cluster: Option<String>,
    /// How many past revisions stay readable.
    pub history: u64,
    /// Time between two writes of `/ctl/node/<id>/applied`; zero means never.
    pub pulse: Duration,
    /// The secrets that grant access.
    pub secrets: Secrets,
    /// Addresses of nodes through which to join a cluster.
    pub attach: Vec<Address>,
    /// URI of the cluster that serves as name service.
    pub boot: Option<String>,
    /// Time between two signs of life from the leader.
    pub heartbeat: Duration,
    /// How long a follower waits for a sign of life from the leader before it stands for election.
    pub election: Duration,
    /// How long a member may be silent before it is taken out of its slot.
    pub timeout: Duration,
    /// Whether to keep the data before damage, and give up the rest.
    pub salvage: bool,
    /// The program's version.
    pub version: String,
}

/// Why a server did not start: one line, with the remedy.
#[derive(Debug)]
pub struct StartError {
    line: String,
    status: u8,
}

impl StartError {
    /// An error of the machine or of the flags.
    pub fn new(line: String) -> StartError {
        StartError { line, status: crate::replica::boot::EXIT_START }
    }

    /// An error with another exit status than 1.
    pub fn with_status(line: String, status: u8) -> StartError {
        StartError { line, status }
    }

    /// The system refuses to start a thread.
    fn no_thread(e: &std::io::Error) -> StartError {
        StartError::new(format!(
            "cannot start a thread: {e}; allow more (ulimit -u, TasksMax= of systemd, the pids limit of a container)"
        ))
    }

    /// Returns the exit status for this error.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for StartError {}

/// Makes a panic log its message as [`say`] does, without waiting for stderr.
pub fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        lines::say_text(&format!("bug: {panic}"));
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            lines::say_text(&trace.to_string());
        }
        finish();
    }));
}

/// Says why the server cannot continue, and ends the process: the disk has failed, and nobody knows what is durable.
pub fn fatal(reason: &str) -> ! {
    say(&format!("fatal: {reason}"));
    finish();
    std::process::exit(EXIT_IO)
}

/// State that the server's tasks share.
struct Shell {
    replica: RefCell<Replica>,
    turn: Signal,
    /// There may be something to write to the log.
    write: Signal,
    /// A segment must be made ready.
    prepare: Signal,
    /// A snapshot is due.
    snapshot: Signal,
    links: RefCell<BTreeMap<Conn, Rc<Link>>>,
    /// The memory for receive buffers, beyond their first size.
    receive_clients: Pool,
    receive_peers: Pool,
    stopping: Cell<bool>,
    /// Number of sends under way.
    sending: Cell<usize>,
    /// How many times a client has taken a part of its output.
    taken: Cell<u64>,
    /// Writes of the log that have ended.
    writes: Cell<u64>,
    places: accept::Places,
    /// Connections that have not proved yet that they come from a peer, and the time at which each was accepted.
    probation: RefCell<VecDeque<(Instant, Weak<Link>)>>,
    /// The server is registered in `/ctl` and accepts clients.
    serving: Signal,
    /// The node may tell the operator that it is ready.
    announced: Signal,
    /// The node's role in its cluster has changed.
    standing: Signal,
    identity: RefCell<Identity>,
    heartbeat: Duration,
    election: Duration,
    busy_poll: Duration,
    dialer: dial::Dialer,
    closing: Closing,
    /// Bytes have come, or a write has ended.
    came: Signal,
    disk: disk::Disk,
    _lock: std::fs::File,
}

impl Shell {
    /// Closes a connection whose request is unfinished, because another needs the memory that it holds.
    fn close_unfinished(&self, conn: Conn) {
        let link = self.links.borrow().get(&conn).cloned();
        if let Some(link) = link {
            self.say(
                "closed a connection: the receive buffers have reached their limit, and its unfinished request has made no progress \
                 for the longest time",
            );
            link.close(self);
        }
    }

    /// Logs a line for the operator.
    fn say(&self, line: &str) {
        say(line);
    }
}

/// Runs a server until a request to stop, which ends the process with status 0.
///
/// # Errors
/// If the server cannot start.
pub fn run(options: Options) -> Result<(), StartError> {
    // This comes before the thread pins itself, since a new thread starts on the cores of the thread that starts it.
    lines::start()?;
    let stop = StopRequests::hear(options.core)?;
    dial::prepare(options.core)?;
    if let Some(core) = options.core {
        pin::pin(core)?;
        lines::keep_off(core);
    }
    accept::raise_file_limit();
    ring::runtime()?.block_on(async move {
        let listener = listen::listen(&options.listen).await?;
        let addr = listener
            .local_addr()
            .map_err(|e| StartError::new(format!("cannot tell the address of the listener: {e}")))?;
        let own = advertise::Own::new(addr, options.advertise.as_ref());
        let opened = directory::open(&options, &own).await?;
        say(&format!("listening on {addr}"));
        for line in &opened.report {
            say(line);
        }
        let advertised = opened.advertised;
        let places = accept::Places::of_this_process(options.secrets.are_set());
        let node = opened.identity.node.escape_ascii().to_string();
        let config = crate::replica::Config {
            id: node,
            node: opened.identity.node,
            raft_id: opened.identity.raft_id,
            epoch: opened.identity.boot_epoch,
            incarnation: opened.identity.incarnation,
            cluster: opened.identity.cluster.clone(),
            cluster_id: opened.identity.cluster_id,
            seeds: options.attach.iter().map(Address::to_string).collect(),
            earlier: opened.identity.peers.clone(),
            heartbeat_ms: millis(options.heartbeat),
            election_ms: millis(options.election),
            timeout_ms: millis(options.timeout),
            history: options.history,
            addr: advertised.to_string(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: options.version,
            secrets: options.secrets,
            challenges: directory::random()?,
            readers: places.readers(),
            pulse_ms: millis(options.pulse),
            segment: options.segment,
            dir: options.dir.display().to_string(),
            stopwatch: nanos,
        };
        let failed = |e| StartError::new(format!("cannot start the raft group: {e}"));
        let mut replica = Replica::new(config, opened.recovered).map_err(failed)?;
        replica.campaign().map_err(failed)?;
        let shell = Rc::new(Shell {
            replica: RefCell::new(replica),
            turn: Signal::default(),
            write: Signal::default(),
            prepare: Signal::default(),
            snapshot: Signal::default(),
            links: RefCell::new(BTreeMap::new()),
            receive_clients: Pool::new(limits::RECEIVE_MAX),
            receive_peers: Pool::new(limits::RECEIVE_PEERS),
            stopping: Cell::new(false),
            sending: Cell::new(0),
            taken: Cell::new(0),
            writes: Cell::new(0),
            places,
            probation: RefCell::new(VecDeque::new()),
            serving: Signal::default(),
            announced: Signal::default(),
            standing: Signal::default(),
            heartbeat: options.heartbeat,
            election: options.election,
            busy_poll: options.busy_poll,
            dialer: dial::Dialer::new(&options.attach, &opened.identity.peers),
            closing: Closing::default(),
            came: Signal::default(),
            disk: opened.disk,
            _lock: opened.lock,
            identity: RefCell::new(opened.identity),
        });
        let hello = format!("say hello with: doozer -a 'doozer:?ca={}' find /ctl", advertised.in_uri());
        if let Some(uri) = options.boot {
            let advertised = advertised.to_string();
            let (cluster, node) = {
                let identity = shell.identity.borrow();
                (identity.cluster.clone(), identity.node.escape_ascii().to_string())
            };
            tokio_uring::spawn(async move { boot::announce(&uri, &cluster, &node, &advertised).await });
        }
        serve(shell, listener, opened.recovery, hello, stop).await
    })
}

async fn serve(
    shell: Rc<Shell>,
    listener: std::net::TcpListener,
    recovery: String,
    hello: String,
    stop: StopRequests,
) -> Result<(), StartError> {
    let door = accept::Door::new(listener)
        .map_err(|e| StartError::new(format!("cannot listen: {e}; raise the limit of open files (ulimit -n)")))?;
    disk::start(&shell);
    let s = Rc::clone(&shell);
    tokio_uring::spawn(async move { turns(&s).await });
    let s = Rc::clone(&shell);
    tokio_uring::spawn(async move { s.closing.run(|most| close_aborted(&s, most)).await });
    let s = Rc::clone(&shell);
    tokio_uring::spawn(async move { clock(&s).await });
    let s = Rc::clone(&shell);
    tokio_uring::spawn(async move { remember(&s).await });
    if !shell.busy_poll.is_zero() {
        let s = Rc::clone(&shell);
        tokio_uring::spawn(async move { poll::poll(&s).await });
    }
    shell.turn.set();
    let s = Rc::clone(&shell);
    // Accept connections now: peers are needed before clients can be served. A connection's first bytes tell the two apart.
    tokio_uring::spawn(async move { accept::accept(&s, door).await });
    let (revision, unconfirmed) = {
        let replica = shell.replica.borrow();
        (replica.recovered_revision(), if replica.voters().len() > 1 { replica.unconfirmed() } else { 0 })
    };
    let rest = match unconfirmed {
        0 => String::new(),
        n => format!("; {n} entries behind that are applied when a majority confirms them"),
    };
    shell.say(&format!("recovered revision {revision}{recovery}{rest}"));
    let s = Rc::clone(&shell);
    tokio_uring::spawn(async move {
        s.announced.wait().await;
        s.say(&hello);
    });
    shell.serving.wait().await;
    stop.begin_serving();
    stop.wait().await;
    shell.replica.borrow_mut().begin_stop();
    shell.turn.set();
    // The server still serves clients meanwhile.
    while shell.replica.borrow().awaits_others() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shell.say("stopping: finishing what is in the log; a second signal ends it at once");
    shell.stopping.set(true);
    shell.turn.set();
    farewell::finish(&shell).await;
    shell.say(&format!("stopped at revision {}", shell.replica.borrow().revision()));
    finish();
    // Receives are still posted, and none may be dropped in flight: the end of the process ends them.
    std::process::exit(0)
}

/// Runs the task that ends the loop's turns.
async fn turns(shell: &Rc<Shell>) {
    let mut conns = Vec::new();
    let mut dials = Vec::new();
    let mut said = Vec::new();
    let (mut serving, mut announced) = (false, false);
    loop {
        shell.turn.wait().await;
        let more = {
            let mut replica = shell.replica.borrow_mut();
            replica.turn();
            let links = shell.links.borrow();
            replica.take_dirty(&mut conns);
            for conn in conns.drain(..) {
                if let Some(link) = links.get(&conn) {
                    link.send.set();
                }
            }
            if !shell.stopping.get() {
                replica.take_resumed(&mut conns);
                for conn in conns.drain(..) {
                    if let Some(link) = links.get(&conn) {
                        link.resume.set();
                    }
                }
            }
            if !serving && (replica.serving() || replica.is_stuck()) {
                serving = true;
                shell.serving.set();
            }
            if !announced && replica.is_announced() {
                announced = true;
                shell.announced.set();
            }
            if replica.has_write() {
                shell.write.set();
            }
            if replica.wants_segment() {
                shell.prepare.set();
            }
            if replica.wants_snapshot() {
                shell.snapshot.set();
            }
            if replica.has_aborted() {
                shell.closing.look();
            }
            replica.take_dials(&mut dials);
            replica.take_lines(&mut said);
            replica.has_work()
        };
        for line in said.drain(..) {
            lines::log(&line);
        }
        for addr in dials.drain(..) {
            let s = Rc::clone(shell);
            tokio_uring::spawn(async move { dial(&s, addr).await });
        }
        let removals = shell.replica.borrow_mut().take_removals();
        if !removals.is_empty() {
            let s = Rc::clone(shell);
            tokio_uring::spawn(async move { disk::remove(&s, removals).await });
        }
        let fate = shell.replica.borrow_mut().take_fate();
        match fate {
            Some(Fate::Rejoin) => rejoin(shell).await,
            Some(Fate::Restart) => {
                shell.say("another process has written in the name of this node: it starts again, as a later boot");
                start_again(shell);
            }
            None => {}
        }
        let fat = shell.replica.borrow_mut().over_output_limit();
        if let Some(link) = fat.and_then(|conn| shell.links.borrow().get(&conn).cloned()) {
            shell.say("closed a connection: the unsent output of all has reached its limit, and it took nothing, or had the most");
            link.close(shell);
        }
        if more {
            // Lets the runtime park, and so submit, before the next slice.
            let _done = tokio_uring::no_op().await;
            shell.turn.set();
        }
    }
}

/// Closes up to `most` connections that the replica has given up, and returns how many.
fn close_aborted(shell: &Shell, most: usize) -> usize {
    let mut conns = Vec::new();
    shell.replica.borrow_mut().take_aborted(most, &mut conns);
    for conn in &conns {
        let link = shell.links.borrow().get(conn).cloned();
        if let Some(link) = link {
            link.close(shell);
        }
    }
    conns.len()
}

async fn clock(shell: &Rc<Shell>) {
    let began = Instant::now();
    let mut interval = tokio::time::interval(shell.heartbeat);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        shell.replica.borrow_mut().tick(now);
        shell.turn.set();
        shell.standing.set();
    }
}

/// Dials a peer.
async fn dial(shell: &Rc<Shell>, addr: String) {
    match shell.dialer.dial(&addr).await {
        Ok(stream) => {
            let conn = shell.replica.borrow_mut().dialed(&addr);
            Link::start(shell, conn, TcpStream::from_std(stream), Trial::Over);
        }
        Err(e) => shell.replica.borrow_mut().not_dialed(&addr, &e.to_string()),
    }
    shell.turn.set();
}

/// Writes the node's role in its cluster to the identity file when it changes: the role is needed when the data cannot be read.
async fn remember(shell: &Rc<Shell>) {
    loop {
        shell.standing.wait().await;
        let Some(standing) = shell.replica.borrow_mut().take_standing() else { continue };
        let identity = {
            let mut identity = shell.identity.borrow_mut();
            let before = identity.clone();
            directory::stand(&mut identity, standing);
            if *identity == before {
                continue;
            }
            identity.clone()
        };
        if let Err(e) = directory::write_identity(&shell.disk, &identity).await {
            shell.say(&format!("cannot write down who the other nodes are: {e}"));
        }
    }
}

/// Makes the node come back as a standby, with another raft id and without its data: replaces the process.
async fn rejoin(shell: &Rc<Shell>) {
    shell.say("this node was taken out of its cluster: it starts anew, and comes back as a standby");
    let identity = {
        let mut identity = shell.identity.borrow_mut();
        directory::leave(&mut identity);
        identity.clone()
    };
    if let Err(e) = directory::write_identity(&shell.disk, &identity).await {
        fatal(&format!("cannot write the identity file: {e}"));
    }
    start_again(shell);
}

/// Runs this program anew, in the same process.
fn start_again(shell: &Shell) {
    use std::os::unix::process::CommandExt as _;
    if shell.stopping.get() {
        // A request to stop came meanwhile, and the new process would not know of it.
        return;
    }
    finish();
    pin::unpin();
    let failed = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    fatal(&format!("cannot start anew: {failed}; start this server again"))
}

/// Returns the nanoseconds since the first call.
fn nanos() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
