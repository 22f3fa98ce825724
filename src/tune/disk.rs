//! From the data directory down to its disks, and what is in the way of a durable write there.

use std::path::{Path, PathBuf};

use super::machine::{Direct, Machine};
use super::{Finding, Knob, Verdict};
use crate::limits::BLOCK;

/// File systems that write in place what was written before: all that a commit needs.
const IN_PLACE: &[&str] = &["ext4", "xfs"];
/// Those that write to another place each time, and then their own data as well.
const COPYING: &[&str] = &["btrfs", "zfs", "bcachefs", "nilfs2", "f2fs"];
/// Those that keep nothing.
const FLEETING: &[&str] = &["tmpfs", "ramfs", "devtmpfs"];
/// The kernel's own, which hold no data.
const KERNELS: &[&str] = &["proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "devpts", "mqueue"];

/// A whole disk, below all partitions and mappings.
pub struct Disk {
    /// Its name: `nvme0n1`.
    pub name: String,
    /// Where it is in `sys`.
    pub path: PathBuf,
    /// Where that is which interrupts for it.
    pub controllers: Vec<PathBuf>,
}

/// A mounted file system.
struct Mount {
    at: PathBuf,
    device: (u32, u32),
    kind: String,
    source: String,
    options: Vec<String>,
}

/// The disks that hold the data; none if they are not known.
pub fn disks(machine: &Machine) -> Vec<Disk> {
    let mut found = Vec::new();
    if let Some(device) = block_device(machine) {
        below(machine, &device, &mut found);
    }
    found
}

/// The block device of the data directory's file system. Some have a number of their own instead; then the mount tells.
fn block_device(machine: &Machine) -> Option<PathBuf> {
    let numbered = |(major, minor): (u32, u32)| machine.resolve(format!("sys/dev/block/{major}:{minor}"));
    numbered(machine.asked.device).or_else(|| {
        let mount = mount(machine)?;
        numbered(mount.device).or_else(|| {
            let name = mount.source.strip_prefix("/dev/")?;
            let mapped = name.strip_prefix("mapper/").and_then(|mapped| {
                let mut all = machine.list("sys/class/block").into_iter();
                all.find(|dm| machine.read(format!("sys/class/block/{dm}/dm/name")).as_deref() == Some(mapped))
            });
            machine.resolve(format!("sys/class/block/{}", mapped.as_deref().unwrap_or(name)))
        })
    })
}

/// Adds the disks that a block device is made of.
fn below(machine: &Machine, device: &Path, found: &mut Vec<Disk>) {
    let whole = if machine.has(device.join("partition")) { device.parent().unwrap_or(device) } else { device };
    let parts = machine.list(whole.join("slaves"));
    for part in &parts {
        if let Some(part) = machine.resolve(whole.join("slaves").join(part)) {
            below(machine, &part, found);
        }
    }
    let name = whole.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if parts.is_empty() && found.iter().all(|disk| disk.path != whole) {
        found.push(Disk { name: name.into(), path: whole.into(), controllers: controllers(machine, whole) });
    }
}

/// An NVMe disk that may be reached in several ways hangs on all of their controllers; any other, where it is.
fn controllers(machine: &Machine, disk: &Path) -> Vec<PathBuf> {
    let subsystem =
        disk.parent().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("nvme-subsys")));
    let Some(subsystem) = subsystem else { return vec![disk.into()] };
    let is_controller = |name: &&String| {
        name.strip_prefix("nvme").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let names = machine.list(subsystem);
    names.iter().filter(is_controller).filter_map(|name| machine.resolve(subsystem.join(name))).collect()
}

/// The file system that the data directory is on, as `/proc` lists it.
fn mount(machine: &Machine) -> Option<Mount> {
    let table = machine.read("proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(parse_mount);
    // Of two on the same place, the later one is seen.
    mounts.filter(|mount| machine.asked.dir.starts_with(&mount.at)).max_by_key(|mount| mount.at.as_os_str().len())
}

/// A line such as `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let (before, after): (Vec<&str>, Vec<&str>) = (before.split(' ').collect(), after.split(' ').collect());
    let (major, minor) = before.get(2)?.split_once(':')?;
    let options = before.get(5)?.split(',').chain(after.get(2).unwrap_or(&"").split(','));
    Some(Mount {
        at: unescape(before.get(4)?).into(),
        device: (major.parse().ok()?, minor.parse().ok()?),
        kind: (*after.first()?).into(),
        source: unescape(after.get(1)?),
        options: options.map(String::from).collect(),
    })
}

/// What the kernel writes as `\040`, since blanks separate.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

pub fn findings(machine: &Machine, disks: &[Disk]) -> Vec<Finding> {
    let mount = mount(machine);
    let mut found = vec![file_system(machine, mount.as_ref()), options(mount.as_ref()), direct(machine)];
    found.extend([medium(machine, disks), scheduler(machine, disks), write_cache(machine, disks)]);
    found
}

fn file_system(machine: &Machine, mount: Option<&Mount>) -> Finding {
    let knob = Knob::new("file system", "ext4 or xfs", "they write in place: a commit is one write");
    let Some(mount) = mount else {
        return knob.unknown(format!("no mount is shown for {}", machine.asked.dir.display()));
    };
    let found = format!("{} on {}, at {}", mount.kind, mount.source, mount.at.display());
    match mount.kind.as_str() {
        kind if IN_PLACE.contains(&kind) => knob.good(found),
        kind if FLEETING.contains(&kind) => {
            knob.bad(format!("{found}: it is gone after a restart"), "-d: a directory on a disk")
        }
        kind if KERNELS.contains(&kind) => {
            knob.bad(format!("{found}: the kernel's own, which holds no data"), "-d: a directory on a disk")
        }
        "btrfs" if mount.options.iter().any(|o| o == "nodatacow") => {
            knob.advice(found, "-d: a directory on ext4 or xfs")
        }
        kind if COPYING.contains(&kind) => {
            knob.bad(format!("{found}: each write goes to another place"), "-d: a directory on ext4 or xfs")
        }
        "overlay" => knob.advice(format!("{found}: a container's own"), "-d: a volume, on ext4 or xfs"),
        _ => knob.advice(found, "-d: a directory on ext4 or xfs"),
    }
}

fn options(mount: Option<&Mount>) -> Finding {
    let knob =
        Knob::new("mount options", "barriers; no discard", "safety needs barriers; discards are in the way of writes");
    let Some(mount) = mount else { return knob.unknown("no mount is shown") };
    let at = mount.at.display();
    let has = |names: &[&str]| mount.options.iter().find(|o| names.contains(&o.as_str()));
    if let Some(found) = has(&["nobarrier", "barrier=0"]) {
        return knob.bad(
            format!("{found}: a power cut may take what was acknowledged"),
            format!("sudo mount -o remount,barrier=1 {at}"),
        );
    }
    if let Some(found) = has(&["ro"]) {
        return knob.bad(format!("{found}: nothing can be written"), format!("sudo mount -o remount,rw {at}"));
    }
    if let Some(found) = has(&["data=journal"]) {
        return knob.bad(
            format!("{found}: all is written twice, and not directly"),
            format!("data=ordered for {at} in /etc/fstab"),
        );
    }
    if let Some(found) = has(&["discard", "discard=async", "sync", "dirsync"]) {
        let instead = if found.starts_with("discard") { " and sudo systemctl enable --now fstrim.timer" } else { "" };
        return knob.advice(found.as_str(), format!("{at} without {found} in /etc/fstab{instead}"));
    }
    knob.good("none that matters")
}

fn direct(machine: &Machine) -> Finding {
    let knob = Knob::new("O_DIRECT", format!("in blocks of {BLOCK}"), "one write a commit, past the page cache");
    let fits = |align: &u32| *align > 0 && BLOCK.is_multiple_of(usize::try_from(*align).unwrap_or(usize::MAX));
    match &machine.asked.direct {
        Direct::Yes(None) => knob.good("yes"),
        Direct::Yes(Some(align)) if fits(align) => knob.good(format!("in blocks of {align}")),
        Direct::Yes(Some(0)) => knob.bad("no, the file system says", "-d: a directory on ext4 or xfs"),
        Direct::Yes(Some(align)) => knob.bad(format!("only in blocks of {align}"), "-d: a directory on another disk"),
        Direct::No => knob.bad("refused by the file system", "-d: a directory on ext4 or xfs"),
        Direct::Unknown(why) => knob.unknown(why.as_str()),
    }
}

/// Judges each disk, and joins that to one finding: its verdict is the worst, its remedies those of the disks that need one.
fn each(knob: Knob, disks: &[Disk], judge: impl Fn(&Disk) -> (Verdict, String, Option<String>)) -> Finding {
    let judged: Vec<_> = disks.iter().map(judge).collect();
    let Some(worst) = judged.iter().map(|(verdict, ..)| *verdict).max() else {
        return knob.unknown("the data's disk is not known");
    };
    let found: Vec<String> =
        judged.iter().zip(disks).map(|((_, found, _), disk)| format!("{}: {found}", disk.name)).collect();
    let remedies: Vec<String> = judged.into_iter().filter_map(|(.., remedy)| remedy).collect();
    let remedy = Some(remedies.join("; ")).filter(|text| !text.is_empty());
    knob.judged(worst, found.join(", "), remedy)
}

fn is_virtual(machine: &Machine, disk: &Disk) -> bool {
    let hosted =
        disk.path.iter().any(|part| ["virtio", "vbd-", "VMBUS"].iter().any(|v| part.to_string_lossy().starts_with(v)));
    hosted || machine.is_virtual()
}

fn medium(machine: &Machine, disks: &[Disk]) -> Finding {
    let knob = Knob::new("disk", "solid state", "a turning disk takes milliseconds a write");
    each(knob, disks, |disk| {
        let turns = machine.number(disk.path.join("queue/rotational"));
        match turns {
            _ if disk.name.starts_with("loop") => (Verdict::Unknown, "a file as a disk: not examined".into(), None),
            _ if is_virtual(machine, disk) => (Verdict::Unknown, "virtual: the host's matter".into(), None),
            Some(0) => (Verdict::Good, "solid state".into(), None),
            Some(_) => (Verdict::Bad, "turning".into(), Some("-d: a directory on a solid state disk".into())),
            None => (Verdict::Unknown, "not said".into(), None),
        }
    })
}

fn scheduler(machine: &Machine, disks: &[Disk]) -> Finding {
    let knob = Knob::new("disk scheduler", "none", "one write at a time: there is nothing to order");
    each(knob, disks, |disk| {
        let file = disk.path.join("queue/scheduler");
        let change = Some(format!("echo none | sudo tee /sys/block/{}/queue/scheduler", disk.name));
        match machine.chosen(&file).as_deref() {
            Some("none" | "noop") => (Verdict::Good, "none".into(), None),
            // It holds a queue for one process while others wait, and takes locks for it at each request.
            Some("bfq") => (Verdict::Bad, "bfq".into(), change),
            Some(other) => (Verdict::Advice, other.into(), change),
            None => (Verdict::Unknown, "not said".into(), None),
        }
    })
}

/// A disk whose cache outlives a power cut, or that has none, says `write through`, and needs no flush. What the disk itself
/// says is shown by some drivers, beside what the kernel was told to believe.
fn write_cache(machine: &Machine, disks: &[Disk]) -> Finding {
    let knob = Knob::new("write cache", "write through", "else each commit waits until the cache is flushed");
    each(knob, disks, |disk| {
        let believed = machine.read(disk.path.join("queue/write_cache"));
        let own = machine.read(disk.path.join("cache_type")).or_else(|| {
            let scsi = disk.path.join("device/scsi_disk");
            machine.list(&scsi).first().and_then(|id| machine.read(scsi.join(id).join("cache_type")))
        });
        let file = format!("/sys/block/{}/queue/write_cache", disk.name);
        match (believed.as_deref(), own.as_deref()) {
            (Some("write through"), Some(own)) if own.starts_with("write back") => (
                Verdict::Bad,
                "write back, but the kernel was told otherwise and flushes nothing".into(),
                Some(format!("echo write back | sudo tee {file}")),
            ),
            (Some("write through"), _) => (Verdict::Good, "write through".into(), None),
            (Some(cache), _) => {
                let how = if machine.number(disk.path.join("queue/fua")) == Some(1) {
                    "passed by each write (FUA)"
                } else {
                    "flushed after each write"
                };
                let remedy = "a disk with power-loss protection; never `write through` by hand for one without";
                (Verdict::Advice, format!("{cache}, {how}"), Some(remedy.into()))
            }
            (None, _) => (Verdict::Unknown, "not said".into(), None),
        }
    })
}
