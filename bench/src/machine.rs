//! The machine: its cores, the disk that holds a directory, and which core takes that disk's interrupts.
//!
//! A write is done when the disk's interrupt has been handled. On the core that takes the interrupt, the server that
//! waits for it goes on at once; on another one it has to be woken across cores first, and under a hypervisor that costs
//! a third of the latency. So that core is the server's by default.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::date::utc;
use crate::failure::{Context, Failure};
use crate::mount::Mount;

/// Nodes of a cluster.
pub const NODES: usize = 3;

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    /// The server's.
    pub server: usize,
    /// The client's.
    pub client: usize,
    /// Those of a cluster's nodes; none for a node that may run anywhere.
    pub nodes: [Option<usize>; NODES],
    /// Why.
    pub reason: String,
}

/// Where a cluster's nodes are to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Where the kernel puts them.
    Free,
    /// On these cores, from the first again when there are no more.
    On(Vec<usize>),
}

impl FromStr for Placing {
    type Err = String;

    fn from_str(text: &str) -> Result<Placing, String> {
        if text == "free" {
            return Ok(Placing::Free);
        }
        let cores = text.split(',').map(str::parse).collect::<Result<_, _>>();
        cores.map(Placing::On).map_err(|_| "neither `free` nor numbers of cores, such as 1,0,0".to_string())
    }
}

/// What a record has to say of the machine that it was made on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Seconds since 1970.
    pub unix_time: u64,
    /// The same as a date, in UTC.
    pub measured_at: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model.
    pub processor: String,
    /// Cores that may be used.
    pub cores_usable: Vec<usize>,
    /// Physical memory in bytes.
    pub memory: u64,
    /// The file system of the data.
    pub data: Option<Mount>,
    /// Where the disk of the data is in `/sys`, if it has a block device.
    pub disk: Option<PathBuf>,
    /// Who ran where.
    pub cores: Cores,
}

impl Machine {
    /// Describes this machine.
    pub fn describe(dir: &Path, cores: &Cores) -> Machine {
        let line = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let found = text.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.trim() == name));
            found.map(|(_, value)| value.trim().to_string())
        };
        let memory = line("/proc/meminfo", "MemTotal").and_then(|m| m.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unix_time = now.map_or(0, |d| d.as_secs());
        Machine {
            unix_time,
            measured_at: utc(unix_time),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores_usable: usable().unwrap_or_default(),
            memory: memory.unwrap_or(0) * 1024,
            data: Mount::of(dir),
            disk: block_device(dir),
            cores: cores.clone(),
        }
    }
}

/// Pins the calling thread, and those that it starts later, to `core`.
///
/// # Errors
/// The process may not run there.
pub fn pin(core: usize) -> Result<(), Failure> {
    let usable = usable()?;
    if !usable.contains(&core) {
        return Err(Failure::new(format!("core {core}: this process may use the cores {usable:?}")));
    }
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).context(format!("cannot pin to core {core}"))
}

/// Runs `body` on a thread that is pinned to `core`. Child processes are not to be started there: they would inherit
/// the pinning.
///
/// # Errors
/// Those of `body`, and when the process may not run on that core.
pub fn on_core<T: Send>(core: usize, body: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let run = || {
            pin(core)?;
            body()
        };
        scope.spawn(run).join().unwrap_or_else(|_| Err(Failure::new("the client's thread panicked")))
    })
}

fn usable() -> Result<Vec<usize>, Failure> {
    let set = sched_getaffinity(None).context("cannot ask which cores may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// A core other than `core`, if there is one: for a client of a server there.
///
/// # Errors
/// The kernel gives no answer.
pub fn apart(core: usize) -> Result<usize, Failure> {
    Ok(usable()?.into_iter().find(|&other| other != core).unwrap_or(core))
}

/// Chooses the cores for a benchmark whose data is in `dir`.
///
/// # Errors
/// A core that was asked for may not be used.
pub fn choose(
    dir: &Path,
    server: Option<usize>,
    client: Option<usize>,
    nodes: Option<&Placing>,
) -> Result<Cores, Failure> {
    let usable = usable()?;
    let on = nodes.map_or(&[][..], |nodes| if let Placing::On(cores) = nodes { cores } else { &[] });
    if let Some(wrong) = [server, client].iter().flatten().chain(on).find(|core| !usable.contains(core)) {
        return Err(Failure::new(format!(
            "core {wrong}: this process may use the cores {usable:?}; choose one of them"
        )));
    }
    let table = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let by_core = block_device(dir).map(|device| interrupts(&table, &device)).unwrap_or_default();
    let mut cores = assign(&usable, &by_core, server, client);
    cores.nodes = place(&usable, &cores, nodes);
    Ok(cores)
}

/// The first node is on the server's core, the others on cores that nobody has, then on the client's, then on the server's
/// again. With two cores that is the best that the floor of a cluster can have: two of three on the core that takes the
/// disk's interrupts, and neither core with all the work.
fn place(usable: &[usize], cores: &Cores, asked: Option<&Placing>) -> [Option<usize>; NODES] {
    let unused = usable.iter().copied().filter(|core| ![cores.server, cores.client].contains(core));
    let on = match asked {
        Some(Placing::Free) => return [None; NODES],
        Some(Placing::On(cores)) => cores.clone(),
        None => std::iter::once(cores.server).chain(unused).chain([cores.client]).collect(),
    };
    std::array::from_fn(|node| on.get(node % on.len().max(1)).copied())
}

fn assign(usable: &[usize], interrupts: &BTreeMap<usize, u64>, server: Option<usize>, client: Option<usize>) -> Cores {
    let busiest = usable
        .iter()
        .filter(|&&core| Some(core) != client || usable.len() == 1)
        .filter_map(|core| interrupts.get(core).map(|&n| (n, *core)))
        .filter(|&(n, _)| n > 0)
        .max_by_key(|&(n, core)| (n, std::cmp::Reverse(core)));
    let other = |than: Option<usize>| {
        let differs = usable.iter().copied().find(|&core| Some(core) != than);
        differs.or(usable.first().copied()).unwrap_or(0)
    };
    let (chosen, mut reason) = match (server, busiest) {
        (Some(core), _) => (core, "as asked".to_string()),
        (None, Some((n, core))) => (core, format!("core {core} took most interrupts of the data's disk ({n})")),
        (None, None) => (other(client), "the data's disk has no interrupts of its own in /proc/interrupts".to_string()),
    };
    let client = client.unwrap_or_else(|| other(Some(chosen)));
    if client == chosen {
        reason.push_str("; server and client share a core, so the figures mean little");
    }
    Cores { server: chosen, client, nodes: [None; NODES], reason }
}

/// The block device of a directory, as its place in `/sys/devices`; a whole disk, below any partition or mapping.
fn block_device(dir: &Path) -> Option<PathBuf> {
    let dev = std::fs::metadata(dir).ok()?.dev();
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let mut device = std::fs::canonicalize(link).ok()?;
    while let Some(below) = std::fs::read_dir(device.join("slaves")).ok().and_then(|mut d| d.next()?.ok()) {
        device = std::fs::canonicalize(below.path()).ok()?;
    }
    if device.join("partition").exists() {
        device.pop();
    }
    Some(device)
}

/// Interrupts of a device by core. The rows are named for the device or for what it hangs on: `virtio1-req.0` for
/// `…/virtio1/block/vda`, `nvme0q1` for `…/nvme/nvme0/nvme0n1`.
fn interrupts(table: &str, device: &Path) -> BTreeMap<usize, u64> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let cores: Vec<usize> = header.split_whitespace().filter_map(|c| c.strip_prefix("CPU")?.parse().ok()).collect();
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split_whitespace().collect()).collect();
    for part in device.iter().rev().filter_map(|p| p.to_str()) {
        let mut sums = BTreeMap::new();
        for row in rows.iter().filter(|row| row.iter().skip(1 + cores.len()).any(|name| is_of(name, part))) {
            for (core, count) in cores.iter().zip(row.iter().skip(1)) {
                *sums.entry(*core).or_insert(0) += count.parse::<u64>().unwrap_or(0);
            }
        }
        if sums.values().any(|&n| n > 0) {
            return sums;
        }
    }
    BTreeMap::new()
}

/// Whether a row named `name` belongs to `device`: `virtio1-req.0` does to `virtio1`, `virtio10-req.0` does not. The
/// queues `-config` of virtio and `q0` of NVMe do no reading or writing.
fn is_of(name: &str, device: &str) -> bool {
    let Some(queue) = name.strip_prefix(device) else { return false };
    match queue.as_bytes() {
        [b'-', ..] => queue != "-config",
        [b'q', digits @ ..] => !digits.is_empty() && digits != b"0" && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
           CPU0       CPU1
 24:          1          0  IO-APIC   5-edge      ACPI:Ged
 35:       9999          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
 36:          3      43476 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 37:         40          2 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.1
 38:      90000          0 PCI-MSIX-0000:00:03.0   1-edge      virtio10-req.0
 50:     777777          0 PCI-MSI 1-edge      nvme0q0
 51:        100          0 PCI-MSI 1-edge      nvme0q1
 52:          0        200 PCI-MSI 1-edge      nvme0q2
LOC:     104630     106305   Local timer interrupts
ERR:          0
";

    fn of(device: &str) -> BTreeMap<usize, u64> {
        interrupts(TABLE, Path::new(device))
    }

    /// The rows of `virtio10` and the queues that move no data must not decide.
    #[test]
    fn only_the_queues_of_that_disk_are_counted() {
        let virtio = of("/sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda");
        assert_eq!(virtio, BTreeMap::from([(0, 43), (1, 43478)]));
        let nvme = of("/sys/devices/pci0000:00/0000:00:1f.0/nvme/nvme0/nvme0n1");
        assert_eq!(nvme, BTreeMap::from([(0, 100), (1, 200)]));
        assert_eq!(of("/sys/devices/virtual/block/zram0"), BTreeMap::new());
    }

    #[test]
    fn the_server_gets_the_core_of_the_interrupts_unless_told_otherwise() {
        let interrupts = BTreeMap::from([(0, 43), (1, 43478)]);
        let cores = |usable: &[usize], server, client| {
            let chosen = assign(usable, &interrupts, server, client);
            (chosen.server, chosen.client)
        };
        assert_eq!(cores(&[0, 1], None, None), (1, 0));
        assert_eq!(cores(&[0, 1], Some(0), None), (0, 1));
        assert_eq!(cores(&[0, 1, 2], None, Some(1)), (0, 1));
        assert_eq!(cores(&[0, 1, 2], None, Some(2)), (1, 2));
        // A core that we may not use is not chosen, busy as it may be.
        assert_eq!(cores(&[0, 2], None, None), (0, 2));
        assert_eq!(cores(&[2, 3], None, None), (2, 3));
    }

    /// Where there are cores enough, each node has its own, and the client, too.
    #[test]
    fn nodes_are_spread_over_the_cores_that_are_there() {
        let placed = |usable: &[usize], asked: Option<Placing>| {
            let cores = assign(usable, &BTreeMap::from([(1, 7)]), None, None);
            place(usable, &cores, asked.as_ref())
        };
        assert_eq!(placed(&[0, 1], None), [Some(1), Some(0), Some(1)]);
        assert_eq!(placed(&[0, 1, 2], None), [Some(1), Some(2), Some(0)]);
        assert_eq!(placed(&[0, 1, 2, 3, 4], None), [Some(1), Some(2), Some(3)]);
        assert_eq!(placed(&[1], None), [Some(1); 3]);
        assert_eq!(placed(&[0, 1], "free".parse().ok()), [None; 3]);
        assert_eq!(placed(&[0, 1], "1,0,0".parse().ok()), [Some(1), Some(0), Some(0)]);
        for wrong in ["", "1,", "x", "-1"] {
            assert!(wrong.parse::<Placing>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sharing_the_only_core_is_said() {
        let cores = assign(&[0], &BTreeMap::new(), None, None);
        assert_eq!((cores.server, cores.client), (0, 0));
        assert!(cores.reason.contains("share a core"), "{}", cores.reason);
    }

    #[test]
    fn a_thread_on_a_core_stays_there_and_the_caller_does_not() {
        let before = usable().unwrap();
        let last = *before.last().unwrap();
        assert_eq!(on_core(last, usable).unwrap(), [last]);
        assert_eq!(usable().unwrap(), before);
    }
}
