//! The blocks of code of the project's pages do what the pages say, also at the second time.
//!
//! A reader pastes a block, as it is, into the shell that ran the block before it; tomorrow again, with what is left from today. So does
//! this: each block, in the order of its page, line by line into an interactive bash on a terminal. A new block fails the test until
//! [`PAGES`] says how to run it, or why not.
//!
//! Every line has to end with exit status 0, and a comment at its end may promise more ([`Promise`]):
//!
//! ```text
//! # prints one                                    one of the lines that it prints is "one"
//! # prints a revision: …                          one is a number
//! # prints an id: …                               one is a node's id
//! # prints the story: "leads" and "taken out"     both are in what it prints
//! # fails with "REV_MISMATCH", exit status 1      "REV_MISMATCH" is, and its exit status is 1
//! # exit status 1 if …                            its exit status is 0 or 1
//! ```
//!
//! All this runs in namespaces of its own, so that the ports and addresses which the pages name are free, and so that nothing outlives the
//! test; where they are not permitted, the test says so and passes. `cargo build --release` takes minutes: unless the environment has
//! `DOOZER_TEST_README=release`, the programs are those that were built for the tests, and cargo is not asked.

mod page;
mod promise;
mod terminal;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use page::{Block, blocks, markdown};
use promise::Promise;
use terminal::{Prompt, Terminal};

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It is typed into the terminal of its page.
    Typed,
    /// Its last line does not end by itself: it is typed into a terminal of its own, says this when it is ready, and is ended with Ctrl-C
    /// when the page is done.
    Stays {
        ready: &'static str,
        /// Its exit status after Ctrl-C.
        status: i32,
    },
    /// Each line is typed on a machine of its own, and stays there.
    Machines { ready: &'static str },
    /// It has so many lines, and they are not run, for this reason.
    Not(usize, &'static str),
    /// It is not run here: `.ci/run` has the same commands.
    Ci,
}

/// A page, and how its blocks begin.
struct Page {
    path: &'static str,
    /// Whether a reader has the programs in the `PATH` from the beginning.
    installed: bool,
    blocks: &'static [(&'static str, How)],
}

const HELLO: &str = "say hello";

const PAGES: &[Page] = &[
    Page {
        path: "README.md",
        installed: false,
        blocks: &[
            ("cargo build --release", How::Stays { ready: HELLO, status: 0 }),
            ("target/release/doozer watch", How::Stays { ready: "", status: 130 }),
            ("export PATH=", How::Typed),
            ("cargo test\n", How::Ci),
            ("doozerd -l 10.0.0.1:8046", How::Machines { ready: HELLO }),
            ("export DOOZER_URI='doozer:?ca=10.0.0.1:8046", How::Typed),
            ("export DOOZER_URI='doozer:?ca=127.0.0.1:8102", How::Typed),
            ("doozerd tune", How::Typed),
            ("cargo soak", How::Ci),
            ("cargo sim", How::Not(5, "minutes to build, and hours; `cargo test` runs the simulator too")),
            ("cargo test --features faults", How::Ci),
        ],
    },
    Page {
        path: "bench/README.md",
        installed: true,
        blocks: &[
            (
                "cargo build --release --bin doozerd",
                How::Not(5, "twenty minutes; tests of doozer-bench parse its command lines"),
            ),
            ("readlink -f /sys/class/block", How::Typed),
            ("cargo bench -p doozer-bench", How::Not(3, "it takes valgrind, and minutes to build")),
            (
                "apt-get install",
                How::Not(5, "it takes root, and an hour; tests of doozer-bench parse its command lines"),
            ),
            (
                "target/release/doozer-bench compare --record",
                How::Not(1, "an hour; tests of doozer-bench parse its command line"),
            ),
            ("for RECORD in", How::Not(1, "it takes doozer-bench, whose tests make the same pages")),
        ],
    },
    Page {
        path: "tuning/README.md",
        installed: true,
        blocks: &[
            ("doozerd tune", How::Typed),
            ("sudo install", How::Not(10, "it takes root, systemd and a machine of one's own")),
        ],
    },
    Page {
        path: "tuning/kernel-command-line.md",
        installed: true,
        blocks: &[("cat /proc/cmdline", How::Not(3, "a machine that was started with these parameters"))],
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// How each block of a page is run.
#[track_caller]
fn plan(page: &Page) -> Vec<(Block, How)> {
    let mut left = page.blocks.iter();
    let find = |block: Block| match left.next() {
        Some((begin, how)) if block.text.starts_with(begin) => (block, *how),
        next => panic!(
            "{}: a block is {:?}, not the one that begins with {:?}: say in PAGES how it is run, or why it is not",
            page.path,
            block.text,
            next.map(|(begin, _)| begin)
        ),
    };
    let plan = blocks(&read(page.path)).into_iter().map(find).collect();
    assert!(left.len() == 0, "{}: blocks that it does not have: {left:?}", page.path);
    plan
}

/// A block that nobody has thought of is one that nobody runs.
#[test]
fn every_block_is_run_or_has_a_reason() {
    let ci = read(".ci/run").replace(" --locked", "");
    for page in PAGES {
        for (block, how) in plan(page) {
            match how {
                How::Ci => {
                    for line in block.lines() {
                        assert!(
                            ci.lines().any(|command| command == line),
                            "{}: .ci/run does not have {line:?}",
                            page.path
                        );
                    }
                }
                How::Not(lines, _) => assert_eq!(block.lines().count(), lines, "{}: {}", page.path, block.text),
                _ => block.lines().for_each(|line| drop(promised(line))),
            }
        }
    }
    for path in markdown(root()) {
        let known = PAGES.iter().any(|page| Path::new(page.path) == path);
        let text = read(path.to_str().unwrap());
        assert!(known || blocks(&text).is_empty(), "{}: it has blocks of code, and is not in PAGES", path.display());
    }
}

/// What is no command has to be said to be something else.
#[test]
fn the_client_library_is_added_as_the_page_says() {
    let text = read("README.md");
    let line = text.lines().find(|line| line.starts_with("doozer = {")).unwrap();
    let manifest = read("Cargo.toml");
    let features = line.split_once("features = [").unwrap().1.split_once(']').unwrap().0;
    for feature in features.split(',').map(|feature| feature.trim().trim_matches('"')) {
        assert!(manifest.contains(&format!("\n{feature} = [")), "no feature {feature}");
    }
}

fn promised(line: &str) -> Promise {
    Promise::of(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Set for the test that runs in namespaces of its own.
const INSIDE: &str = "DOOZER_TEST_IN_A_NAMESPACE";

/// The addresses of the three machines.
const NETWORK: &str = "ip link set lo up && for n in 1 2 3; do ip addr add 10.0.0.$n/32 dev lo || exit; done && ";

/// Runs the test of this name again, in namespaces of its own. `true`: this is the one within, which is to do the work.
#[track_caller]
fn within(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let flags = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let unshare = |more: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(more).args(flags).args(["sh", "-c", &format!("{NETWORK}{script}"), "sh"]);
        command
    };
    // Without privileges if possible.
    let ways: [&[&str]; 2] = [&["--map-root-user"], &[]];
    let tried = "mount --bind /tmp /var/lib && setsid --version";
    let works = |way: &&&[&str]| {
        let mut command = unshare(way, tried);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(way) = ways.iter().find(works) else {
        eprintln!("skipped: no namespaces here (this takes unshare, setsid, ip, and root or user namespaces)");
        return false;
    };
    let mut command = unshare(way, "exec \"$@\"");
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    false
}

/// What a reader has: the sources, in which the programs are built, and machines.
struct Desk {
    home: PathBuf,
    /// Where that is gone at the end.
    _home: Option<tempfile::TempDir>,
}

impl Desk {
    fn new() -> Desk {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Cargo builds what lies elsewhere once more, and keeps both.
        let own = (!released()).then(|| tempfile::TempDir::new_in(parent).unwrap());
        let desk = Desk { home: own.as_ref().map_or(parent.join("readme"), |own| own.path().into()), _home: own };
        if desk.home.exists() {
            std::fs::remove_dir_all(&desk.home).unwrap();
        }
        let sources = desk.sources();
        std::fs::create_dir_all(&sources).unwrap();
        let link = |from: &Path, to: PathBuf| std::os::unix::fs::symlink(from, to).unwrap();
        for entry in std::fs::read_dir(root()).unwrap() {
            let entry = entry.unwrap();
            // What the pages' commands make must not be made in the real ones.
            if !["target", "doozer-data", ".git"].iter().any(|name| entry.file_name() == *name) {
                link(&entry.path(), sources.join(entry.file_name()));
            }
        }
        if released() {
            link(&root().join("target"), sources.join("target"));
            return desk;
        }
        let built = desk.built();
        std::fs::create_dir_all(&built).unwrap();
        for (name, program) in [("doozerd", env!("CARGO_BIN_EXE_doozerd")), ("doozer", env!("CARGO_BIN_EXE_doozer"))] {
            link(Path::new(program), built.join(name));
        }
        let cargo = desk.home.join("bin/cargo");
        std::fs::create_dir(cargo.parent().unwrap()).unwrap();
        std::fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = 'build --release' ] || { echo \"cargo $*?\"; exit 1; }\n")
            .unwrap();
        std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
        desk
    }

    fn sources(&self) -> PathBuf {
        self.home.join("sources")
    }

    fn built(&self) -> PathBuf {
        self.sources().join("target/release")
    }

    /// A terminal in the sources.
    fn terminal(&self, installed: bool) -> Terminal {
        self.shell(&["bash"], installed)
    }

    /// A terminal of a machine, which has the programs, and a disk of its own at the usual place.
    fn machine(&self, number: usize) -> Terminal {
        let disk = self.home.join(format!("machine-{number}"));
        std::fs::create_dir_all(&disk).unwrap();
        let disk = disk.to_str().unwrap();
        let script = "mount --bind \"$0\" /var/lib && exec bash \"$@\"";
        self.shell(&["unshare", "--mount", "sh", "-c", script, disk], true)
    }

    fn shell(&self, words: &[&str], installed: bool) -> Terminal {
        let built = installed.then(|| self.built());
        let own = self.home.join("bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(built.into_iter().chain([own]).chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("env");
        // Whoever runs these tests in the background of a shell hands them an ignored SIGINT, and Ctrl-C would do nothing.
        command
            .args(["--default-signal", "setsid", "--ctty"])
            .args(words)
            .current_dir(self.sources())
            .env("PATH", path)
            .env_remove(INSIDE);
        Terminal::open(command)
    }
}

fn released() -> bool {
    std::env::var("DOOZER_TEST_README").is_ok_and(|how| how == "release")
}

/// Types a line, which has to end as it promises.
#[track_caller]
fn run(terminal: &mut Terminal, page: &Page, line: &str) {
    let promise = promised(line);
    let (output, prompt) = terminal.line(line);
    eprintln!("{}: {line}\n{output}", page.path);
    if let Prompt::Done(status) = prompt {
        promise.check(&output, status).unwrap_or_else(|e| panic!("{}: {line}\n{output}\n{e}", page.path));
    }
}

/// A line that goes on until Ctrl-C.
struct Staying {
    terminal: Terminal,
    line: String,
    status: i32,
}

impl Staying {
    #[track_caller]
    fn start(mut terminal: Terminal, line: &str, ready: &str, status: i32) -> Staying {
        terminal.begin(line);
        if !ready.is_empty() {
            terminal.until(ready);
        }
        Staying { terminal, line: line.to_owned(), status }
    }

    #[track_caller]
    fn end(mut self, page: &Page) {
        let promise = promised(&self.line);
        promise.words().iter().for_each(|word| self.terminal.until(word));
        let (output, status) = self.terminal.interrupt();
        eprintln!("{}: {}\n{output}", page.path, self.line);
        assert_eq!(status, self.status, "{}: {}\n{output}", page.path, self.line);
        promise.check(&output, 0).unwrap_or_else(|e| panic!("{}: {}\n{output}\n{e}", page.path, self.line));
    }
}

/// Types all blocks of a page.
#[track_caller]
fn paste(desk: &Desk, page: &Page) {
    let mut terminal = desk.terminal(page.installed);
    let mut staying = Vec::new();
    for (block, how) in plan(page) {
        match how {
            How::Typed => block.lines().for_each(|line| run(&mut terminal, page, line)),
            How::Stays { ready, status } => {
                let mut own = desk.terminal(page.installed);
                let lines: Vec<&str> = block.lines().collect();
                let (last, before) = lines.split_last().unwrap();
                before.iter().for_each(|line| run(&mut own, page, line));
                staying.push(Staying::start(own, last, ready, status));
            }
            How::Machines { ready } => {
                let start = |(number, line)| Staying::start(desk.machine(number), line, ready, 0);
                staying.extend((1..).zip(block.lines()).map(start));
            }
            How::Not(..) | How::Ci => {}
        }
    }
    staying.into_iter().for_each(|staying| staying.end(page));
}

/// What a reader pastes works today, and tomorrow again.
#[test]
fn the_blocks_of_all_pages_can_be_pasted_twice() {
    let module = module_path!().split_once("::").map_or(String::new(), |(_, module)| format!("{module}::"));
    if !within(&format!("{module}the_blocks_of_all_pages_can_be_pasted_twice")) {
        return;
    }
    let desk = Desk::new();
    for _ in ["today", "tomorrow"] {
        PAGES.iter().for_each(|page| paste(&desk, page));
    }
}
