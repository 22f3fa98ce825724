//! `doozerd` as a process: started on a port and a directory of its own, killed when it is dropped.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wire::Client;
use super::{LIMIT, eventually};

const DOOZERD: &str = env!("CARGO_BIN_EXE_doozerd");

/// A log of small files: with files of the usual size the tests would write tens of GiB of zeros. A later flag takes precedence.
const SMALL_LOG: [&str; 2] = ["--segment", "8"];

/// An empty directory on the disk that the project is built on; gone when it is dropped.
pub fn temp_dir() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// How to start a server: again and again on the same directory, if need be.
#[derive(Clone)]
pub struct Setup {
    home: Option<Arc<TempDir>>,
    /// The data directory.
    pub dir: PathBuf,
    listen: String,
    flags: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    /// What stands before the program: a command that runs it.
    prefix: Vec<OsString>,
}

impl Setup {
    /// On a new directory, without flags.
    pub fn new() -> Setup {
        let home = temp_dir();
        Setup { dir: home.path().join("data"), home: Some(Arc::new(home)), ..Setup::at("") }
    }

    /// On this directory.
    pub fn at(dir: impl Into<PathBuf>) -> Setup {
        Setup {
            home: None,
            dir: dir.into(),
            listen: "127.0.0.1:0".into(),
            flags: Vec::new(),
            environment: Vec::new(),
            prefix: Vec::new(),
        }
    }

    /// With these flags beside `-l` and `-d`.
    pub fn flags<S: AsRef<OsStr>>(mut self, flags: impl IntoIterator<Item = S>) -> Setup {
        self.flags.extend(flags.into_iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Listening there.
    pub fn listen(mut self, address: impl ToString) -> Setup {
        self.listen = address.to_string();
        self
    }

    /// On the directory of another one.
    pub fn on_directory_of(mut self, other: &Setup) -> Setup {
        (self.home, self.dir) = (other.home.clone(), other.dir.clone());
        self
    }

    /// With this in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Setup {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Run by this command, which has to replace itself with what follows it.
    pub fn run_by<S: AsRef<OsStr>>(mut self, prefix: impl IntoIterator<Item = S>) -> Setup {
        self.prefix = prefix.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    fn command(&self) -> Command {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([OsStr::new(DOOZERD)]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words).args(["-l", &self.listen, "-d"]).arg(&self.dir).args(SMALL_LOG).args(&self.flags);
        clean(&mut command);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A server that is not known to run: it may refuse to.
    pub fn spawn(&self) -> Server {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let stderr = Lines::read(child.stderr.take().expect("a pipe"));
        Server { setup: self.clone(), child, stderr, addr: None }
    }

    /// A server that takes connections.
    #[track_caller]
    pub fn start(&self) -> Server {
        let mut server = self.spawn();
        let line = server.stderr.wait("say hello");
        let Some(line) = line else {
            panic!("the server did not come up: {}", server.exited().stderr);
        };
        assert!(line.contains("say hello"), "the server did not come up within {LIMIT:?}: {line}");
        server.addr = Some(listening(&server.stderr()));
        server
    }

    /// What a server says that does not start.
    #[track_caller]
    pub fn refused(&self) -> Exited {
        self.spawn().exited()
    }

    /// Waits until the server has made both of its first segments, and so no file is in the making.
    pub fn is_settled(&self) {
        eventually("the second segment", || (self.files(".log").len() == 2).then_some(()));
        eventually("nothing in the making", || self.files(".tmp").is_empty().then_some(()));
    }

    /// Bytes of a file of the data directory.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Puts a file into the data directory, in the place of what was there.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.join(name), bytes).unwrap();
    }

    /// Names of the data directory's files that end so, sorted.
    pub fn files(&self, end: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(end)).collect();
        names.sort();
        names
    }
}

/// What the tests are run with is not to reach the server.
fn clean(command: &mut Command) {
    for name in ["DOOZER_RWSECRET", "DOOZER_ROSECRET", "DOOZER_BOOT_URI", "DOOZER_URI"] {
        command.env_remove(name);
    }
}

fn listening(stderr: &str) -> SocketAddr {
    let line = stderr.lines().find_map(|line| line.split_once("listening on "));
    let (_, address) = line.unwrap_or_else(|| panic!("no line says where it listens: {stderr}"));
    address.trim().parse().unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// A process that has ended.
#[derive(Debug)]
pub struct Exited {
    /// Its status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All that it said on stderr.
    pub stderr: String,
}

/// A running server; it is killed when it is dropped.
pub struct Server {
    /// How it was started.
    pub setup: Setup,
    child: Child,
    stderr: Lines,
    addr: Option<SocketAddr>,
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("a server that takes connections")
    }

    /// A connection to it.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said on stderr up to now.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line on stderr that holds `what`.
    #[track_caller]
    pub fn says(&self, what: &str) -> String {
        match self.stderr.wait(what) {
            Some(line) if line.contains(what) => line,
            _ => panic!("it does not say {what:?}, but: {}", self.stderr()),
        }
    }

    /// Ends it as a power cut would, in the midst of what it does.
    pub fn kill(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.setup.clone()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("not 0"), signal).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub fn stop(self) -> Exited {
        self.signal(Signal::TERM);
        self.exited()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn exited(mut self) -> Exited {
        let status = eventually("the server ends", || self.child.try_wait().unwrap());
        eventually("stderr ends", || self.stderr.ended().then_some(()));
        Exited { status: status.code(), signal: status.signal(), stderr: self.stderr() }
    }

    /// Its resident memory, in MiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// CPU time that it has used, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _killed = self.child.kill();
            let _ended = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- stderr of the server\n{}----", self.stderr());
        }
    }
}

/// The lines that a process says, as they come.
#[derive(Clone)]
struct Lines(Arc<(Mutex<Said>, Condvar)>);

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Lines {
        let lines = Lines(Arc::default());
        let to = Arc::clone(&lines.0);
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                to.0.lock().unwrap().lines.push(text);
                to.1.notify_all();
                line.clear();
            }
            to.0.lock().unwrap().ended = true;
            to.1.notify_all();
        });
        lines
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.iter().fold(String::new(), |all, line| all + line + "\n")
    }

    fn ended(&self) -> bool {
        self.0.0.lock().unwrap().ended
    }

    /// The first line that holds `what`; the last one if that takes too long; `None` when none will come.
    fn wait(&self, what: &str) -> Option<String> {
        let (said, changed) = &*self.0;
        let found = |said: &Said| said.lines.iter().find(|line| line.contains(what)).cloned();
        let mut said = said.lock().unwrap();
        while found(&said).is_none() && !said.ended {
            let (guard, timeout) = changed.wait_timeout(said, LIMIT).unwrap();
            said = guard;
            if timeout.timed_out() {
                return said.lines.last().cloned();
            }
        }
        found(&said)
    }
}

/// The server that the tests of a file share, each on paths of its own. Nobody drops it: a shell waits for the end of
/// the test process, which closes its stdin, and then kills the server and removes its directory.
#[track_caller]
pub fn shared() -> SocketAddr {
    /// The servers by the files that use them. The children are kept for their stdin.
    static SHARED: Mutex<BTreeMap<&str, (SocketAddr, Child)>> = Mutex::new(BTreeMap::new());
    let file = Location::caller().file();
    // A server that does not start fails the tests that need it, and no other.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.entry(file).or_insert_with(start_shared).0
}

fn start_shared() -> (SocketAddr, Child) {
    const WATCH: &str = r#""$@" </dev/null & read -r _; kill -9 $!; rm -rf -- "$0""#;
    let home = temp_dir().keep();
    let mut command = Command::new("sh");
    command.args([OsStr::new("-c"), OsStr::new(WATCH), home.as_os_str(), OsStr::new(DOOZERD)]);
    command.args(["-l", "127.0.0.1:0", "-d"]).arg(home.join("data"));
    clean(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = Lines::read(child.stderr.take().expect("a pipe"));
    let up = lines.wait("say hello").is_some_and(|line| line.contains("say hello"));
    assert!(up, "the shared server did not come up: {}", lines.text());
    (listening(&lines.text()), child)
}

/// Runs the server with just these words, and waits for its end.
pub fn doozerd(words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(DOOZERD);
    command.args(words).stdin(Stdio::null());
    clean(&mut command);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
