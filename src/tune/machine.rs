//! What is known of a machine, wherever it comes from: tests make their own below another root.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What files do not tell.
pub struct Asked {
    /// The data directory, or the nearest one above it that is there: absolute, and without links.
    pub dir: PathBuf,
    /// The device of its file system (`st_dev`): major and minor number.
    pub device: (u32, u32),
    /// The process that has written its id into the data directory's lock; it may be gone.
    pub holder: Option<u32>,
    /// Whether a ring like the server's can be had, or why not.
    pub ring: std::io::Result<()>,
    /// Whether a file of the data directory can be opened with O_DIRECT.
    pub direct: Direct,
    /// The address to listen on; none for all of them.
    pub listen: Option<IpAddr>,
    /// What `ethtool -c` says of a card, if it is there.
    pub coalescing: fn(&str) -> Option<String>,
}

/// Whether O_DIRECT is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direct {
    /// Yes; with what alignment of offsets, if the kernel says.
    Yes(Option<u32>),
    /// The file system refuses it.
    No,
    /// It could not be tried.
    Unknown(String),
}

/// A machine.
pub struct Machine {
    root: PathBuf,
    /// What files do not tell.
    pub asked: Asked,
}

impl Machine {
    /// The machine whose `/proc` and `/sys` are below `root`.
    pub fn new(root: impl Into<PathBuf>, asked: Asked) -> Machine {
        Machine { root: root.into(), asked }
    }

    /// A file's text, without the white space around it. Paths here have no leading slash: `proc/swaps`.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes(path)?).trim().to_string();
        Some(text)
    }

    /// A file's bytes.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.root.join(path)).ok()
    }

    /// A file's number.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a directory, in order; none if it is not there.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Whether there is such a file or directory.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    /// Whether its owner may write to a file; the kernel shows so which settings it takes.
    pub fn takes_writes(&self, path: impl AsRef<Path>) -> bool {
        fs::metadata(self.root.join(path)).is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
    }

    /// Where a path leads, links followed.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.root).ok()?;
        let path = fs::canonicalize(self.root.join(path)).ok()?;
        Some(path.strip_prefix(root).ok()?.to_path_buf())
    }

    /// Which of the words of a file is chosen: `b` of `a [b] c`.
    pub fn chosen(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = self.read(path)?;
        let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        Some(chosen.map_or_else(|| text.clone(), String::from))
    }

    /// Whether this is a virtual machine, as far as the processor says.
    pub fn is_virtual(&self) -> bool {
        let text = self.read("proc/cpuinfo").unwrap_or_default();
        text.lines().any(|l| l.starts_with("flags") && l.split_whitespace().any(|flag| flag == "hypervisor"))
    }

    /// Whether `/proc` has all processes of the machine, and not only those of a container: the kernel's own are among them.
    pub fn shows_all_processes(&self) -> bool {
        self.read("proc/2/comm").is_some_and(|name| name == "kthreadd")
    }

    /// The server that runs on the data directory.
    pub fn running(&self) -> Option<u32> {
        self.asked.holder.filter(|pid| self.read(format!("proc/{pid}/comm")).is_some_and(|name| name == "doozerd"))
    }

    /// Where `/proc` has the process whose limits count: the server that runs, else this one.
    pub fn process(&self) -> String {
        self.running().map_or_else(|| "proc/self".into(), |pid| format!("proc/{pid}"))
    }

    /// The cores that this process may use; empty if that cannot be said.
    pub fn usable_cores(&self) -> BTreeSet<usize> {
        self.allowed("proc/self")
    }

    /// The core that the running server is pinned to.
    pub fn pinned_to(&self) -> Option<usize> {
        let allowed = self.allowed(&format!("proc/{}", self.running()?));
        allowed.first().copied().filter(|_| allowed.len() == 1)
    }

    fn allowed(&self, process: &str) -> BTreeSet<usize> {
        let status = self.read(format!("{process}/status")).unwrap_or_default();
        let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
        list.map(cores).unwrap_or_default()
    }
}

/// The cores of a list such as `0-2,5`.
pub fn cores(list: &str) -> BTreeSet<usize> {
    let parts = list.split(',').map(str::trim).filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    parts.flatten().collect()
}

/// A set of cores as `0-2,5`; `none` if it is empty.
pub fn ranges(cores: &BTreeSet<usize>) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let parts = parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    let text = parts.collect::<Vec<_>>().join(",");
    if text.is_empty() { "none".into() } else { text }
}
