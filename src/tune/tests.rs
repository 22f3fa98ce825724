//! Machines that are made up: what is said of each.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use rustix::io::Errno;
use tempfile::TempDir;

use super::machine::{Asked, Direct, Machine, cores, ranges};
use super::{Finding, Verdict, findings, is_bad};

const NVME: &str = "sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/nvme0n1";
const CARD: &str = "sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0";
const CPU: &str = "sys/devices/system/cpu";

/// A machine's files, and what it answers when it is asked.
struct Made {
    root: TempDir,
    asked: Asked,
}

impl Made {
    /// A machine that shows nothing, and whose io_uring and O_DIRECT work.
    fn bare() -> Made {
        let asked = Asked {
            dir: "/var/lib/doozer".into(),
            device: (259, 2),
            holder: None,
            ring: Ok(()),
            direct: Direct::Yes(Some(512)),
            listen: None,
            coalescing: |_| None,
        };
        Made { root: TempDir::new().unwrap(), asked }
    }

    fn file(&self, path: &str, text: &str) -> &Made {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn files(&self, dir: &str, files: &[(&str, &str)]) -> &Made {
        for (name, text) in files {
            self.file(&format!("{dir}/{name}"), text);
        }
        self
    }

    /// A link, relative as those of `/sys` are.
    fn link(&self, path: &str, target: &str) -> &Made {
        let link = self.root.path().join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up: PathBuf = path.split('/').skip(1).map(|_| "..").collect();
        symlink(up.join(target), link).unwrap();
        self
    }

    fn remove(&self, path: &str) -> &Made {
        let path = self.root.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        self
    }

    fn examined(self, core: Option<usize>) -> Result<Vec<Finding>, String> {
        let machine = Machine::new(self.root.path(), self.asked);
        findings(&machine, core)
    }

    /// Examined, with what is known of one knob.
    #[track_caller]
    fn knob(self, core: Option<usize>, knob: &str) -> Finding {
        of(&self.examined(core).unwrap(), knob).clone()
    }

    /// Four cores; an NVMe disk with a queue for each and power-loss protection, a partition of it with the data; a card
    /// whose one queue core 3 serves; and all set up for a server on core 3.
    fn bare_metal() -> Made {
        let mut made = Made::bare();
        made.asked.coalescing = |_| Some("Adaptive RX: off  TX: off\nrx-usecs:\t0\nrx-frames:\tn/a\n".into());
        made.file("proc/sys/kernel/osrelease", "6.12.9\n")
            .file("proc/sys/kernel/io_uring_disabled", "0\n")
            .file("proc/2/comm", "kthreadd\n")
            .file("proc/sys/kernel/numa_balancing", "1\n")
            .file("sys/devices/system/node/node0/cpulist", "0-3\n")
            .file("proc/cpuinfo", "flags\t\t: fpu tsc constant_tsc\n")
            .file("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
            .file("proc/self/status", "Name:\tdoozerd\nCpus_allowed_list:\t0-3\n")
            .file("proc/self/limits", LIMITS)
            .file("proc/sys/net/core/busy_read", "0\n")
            .file("proc/sys/net/core/busy_poll", "0\n")
            .file("proc/net/route", ROUTES)
            .file("proc/interrupts", INTERRUPTS)
            .file("proc/self/mountinfo", MOUNTS)
            .files(
                "sys/devices/system/clocksource/clocksource0",
                &[("current_clocksource", "tsc\n"), ("available_clocksource", "tsc hpet acpi_pm \n")],
            )
            .files(
                "sys/kernel/mm/transparent_hugepage",
                &[("enabled", "always [madvise] never\n"), ("defrag", "always defer defer+madvise [madvise] never\n")],
            )
            .file(&format!("{CPU}/isolated"), "3\n");
        for core in 0..4 {
            made.files(
                &format!("{CPU}/cpu{core}"),
                &[
                    ("cpufreq/scaling_governor", "performance\n"),
                    ("topology/thread_siblings_list", &format!("{core}\n")),
                    ("cpuidle/state0/name", "POLL\n"),
                    ("cpuidle/state0/latency", "0\n"),
                    ("cpuidle/state0/disable", "0\n"),
                    ("cpuidle/state1/name", "C1\n"),
                    ("cpuidle/state1/latency", "2\n"),
                    ("cpuidle/state1/disable", "0\n"),
                    ("cpuidle/state2/name", "C6\n"),
                    ("cpuidle/state2/latency", "133\n"),
                    ("cpuidle/state2/disable", if core == 3 { "1\n" } else { "0\n" }),
                ],
            );
        }
        // The disk.
        made.file(&format!("{NVME}/nvme0n1p2/partition"), "2\n")
            .files(
                &format!("{NVME}/queue"),
                &[
                    ("rotational", "0\n"),
                    ("scheduler", "[none] mq-deadline kyber\n"),
                    ("write_cache", "write through\n"),
                    ("fua", "0\n"),
                ],
            )
            .link("sys/dev/block/259:2", &format!("{NVME}/nvme0n1p2"))
            .link("sys/class/block/nvme0n1p2", &format!("{NVME}/nvme0n1p2"));
        for (queue, irq) in (0..4).zip(51..) {
            made.file(&format!("{NVME}/mq/{queue}/cpu_list"), &format!("{queue}\n"))
                .file(&format!("proc/irq/{irq}/effective_affinity_list"), &format!("{queue}\n"));
        }
        let controller = NVME.strip_suffix("/nvme/nvme0/nvme0n1").unwrap();
        for irq in 50..55 {
            made.file(&format!("{controller}/msi_irqs/{irq}"), "msix\n");
        }
        // A bridge above it has interrupts, too; they are none of the disk's.
        made.file("sys/devices/pci0000:00/0000:00:1d.0/msi_irqs/24", "msi\n");
        // The card.
        made.link("sys/class/net/eno1", &format!("{CARD}/net/eno1"))
            .link(&format!("{CARD}/net/eno1/device"), CARD)
            .files(&format!("{CARD}/net/eno1"), &[("napi_defer_hard_irqs", "0\n"), ("gro_flush_timeout", "0\n")])
            .file(&format!("{CARD}/msi_irqs/60"), "msix\n")
            .file(&format!("{CARD}/msi_irqs/61"), "msix\n")
            .file("proc/irq/61/effective_affinity_list", "3\n");
        made
    }
}

const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
";

/// The server's network is 10.0.0.0/24 on eno1, the default route goes there; eno2 is another, with a worse default.
const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eno2\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0
eno1\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eno1\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eno2\t0001A8C0\t00000000\t0001\t0\t0\t200\t00FFFFFF\t0\t0\t0
";

const INTERRUPTS: &str = "\
           CPU0       CPU1       CPU2       CPU3
  9:          0          4          0          0  IR-IO-APIC    9-fasteoi   acpi
 24:          7          0          0          0  IR-PCI-MSI 475136-edge      pcieport
 50:         12          0          0          0  IR-PCI-MSIX-0000:3d:00.0    0-edge      nvme0q0
 51:      98231          0          0          0  IR-PCI-MSIX-0000:3d:00.0    1-edge      nvme0q1
 52:          0      90112          0          0  IR-PCI-MSIX-0000:3d:00.0    2-edge      nvme0q2
 53:          0          0      81121          0  IR-PCI-MSIX-0000:3d:00.0    3-edge      nvme0q3
 54:          0          0          0      77777  IR-PCI-MSIX-0000:3d:00.0    4-edge      nvme0q4
 60:          1          0          0          0  IR-PCI-MSIX-0000:01:00.0    0-edge      eno1
 61:          0          0          0      12345  IR-PCI-MSIX-0000:01:00.0    1-edge      eno1-TxRx-0
LOC:   10933835   10969452   10933835   10969452  Local timer interrupts
ERR:          0
";

const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 259:1 / / rw,relatime shared:1 - btrfs /dev/nvme0n1p1 rw
31 27 259:2 / /var/lib rw,noatime shared:5 - ext4 /dev/nvme0n1p2 rw
";

#[track_caller]
fn of<'a>(all: &'a [Finding], knob: &str) -> &'a Finding {
    let mut named = all.iter().filter(|f| f.knob == knob);
    let found = named.next().unwrap_or_else(|| panic!("nothing is said of {knob}"));
    assert_eq!(named.next(), None);
    found
}

/// The knobs that have this verdict.
fn with(all: &[Finding], verdict: Verdict) -> Vec<&str> {
    all.iter().filter(|f| f.verdict == verdict).map(|f| f.knob).collect()
}

/// A finding that asks for a change and has none to offer, or the other way round, is of no use.
#[track_caller]
fn remedies_fit(all: &[Finding]) {
    for f in all {
        match f.verdict {
            Verdict::Good => assert_eq!(f.remedy, None, "{f:?}"),
            Verdict::Bad | Verdict::Advice => assert!(f.remedy.is_some(), "{f:?}"),
            Verdict::Unknown => {}
        }
        assert!(!f.found.is_empty() && !f.wanted.is_empty() && !f.why.is_empty(), "{f:?}");
    }
}

/// Whoever has done all that is asked is to be told so, or the tool cries wolf.
#[test]
fn a_machine_where_all_is_right_gets_no_complaint() {
    let all = Made::bare_metal().examined(Some(3)).unwrap();
    for f in &all {
        assert_eq!(f.verdict, Verdict::Good, "{f:?}");
    }
    assert!(!is_bad(&all));
    remedies_fit(&all);
}

/// A laptop: its clock slows down, its core sleeps deep, its disk's cache forgets, its memory is swapped.
#[test]
fn a_laptop_is_told_what_costs_it_latency() {
    let made = Made::bare_metal();
    for core in 0..4 {
        made.file(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"), "powersave\n")
            .file(&format!("{CPU}/cpu{core}/cpufreq/energy_performance_preference"), "balance_power\n")
            .file(&format!("{CPU}/cpu{core}/cpuidle/state2/disable"), "0\n")
            .file(&format!("{CPU}/cpu{core}/topology/thread_siblings_list"), "0-3\n");
    }
    made.file(&format!("{CPU}/isolated"), "\n")
        .file(&format!("{NVME}/queue/write_cache"), "write back\n")
        .file(&format!("{NVME}/queue/fua"), "1\n")
        .file(&format!("{NVME}/queue/scheduler"), "none mq-deadline [bfq]\n")
        .file("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
        .file("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 8388604 0 -2\n")
        .file("proc/811/comm", "irqbalance\n")
        .file("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    let all = made.examined(Some(2)).unwrap();
    remedies_fit(&all);
    assert_eq!(with(&all, Verdict::Bad), ["clock source", "cpu governor", "idle states", "disk scheduler"]);
    let advice =
        ["isolated core", "sibling", "card interrupts", "irqbalance", "huge pages", "swap", "write cache"].as_slice();
    assert_eq!(with(&all, Verdict::Advice), advice);
    let remedy = |knob| of(&all, knob).remedy.clone().unwrap();
    assert_eq!(remedy("disk scheduler"), "echo none | sudo tee /sys/block/nvme0n1/queue/scheduler");
    assert_eq!(remedy("idle states"), "echo 1 | sudo tee /sys/devices/system/cpu/cpu2/cpuidle/state2/disable");
    assert!(remedy("clock source").starts_with("echo tsc |"));
    assert!(of(&all, "write cache").found.contains("FUA"));
}

/// What a container hides must neither end the program nor be taken for good or bad.
#[test]
fn where_nothing_is_shown_nothing_is_claimed() {
    let mut made = Made::bare();
    made.asked.direct = Direct::Unknown("not tried".into());
    made.asked.ring = Err(Errno::PERM.into());
    let all = made.examined(Some(1)).unwrap();
    remedies_fit(&all);
    assert_eq!(with(&all, Verdict::Bad), ["io_uring"]);
    assert_eq!(with(&all, Verdict::Advice), [""; 0]);
    assert_eq!(with(&all, Verdict::Good), [""; 0]);
    assert!(of(&all, "io_uring").remedy.as_ref().unwrap().contains("seccomp"));
}

/// A virtual machine: one queue of its disk, which interrupts core 1.
fn virtual_machine() -> Made {
    const VIRTIO: &str = "sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda";
    let mut made = Made::bare();
    (made.asked.dir, made.asked.device) = ("/data".into(), (254, 0));
    made.file("proc/cpuinfo", "flags\t\t: fpu tsc hypervisor\n")
        .file("proc/self/status", "Cpus_allowed_list:\t0-1\n")
        .file("proc/self/mountinfo", "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n")
        .file(
            "proc/interrupts",
            "           CPU0       CPU1
 35:       9999          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
 36:          3      43476 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 38:      90000          0 PCI-MSIX-0000:00:03.0   1-edge      virtio10-req.0
",
        )
        .file("sys/devices/pci0000:00/0000:00:02.0/msi_irqs/35", "msix\n")
        .file("sys/devices/pci0000:00/0000:00:02.0/msi_irqs/36", "msix\n")
        .file("proc/irq/36/effective_affinity_list", "1\n")
        .file("proc/irq/36/smp_affinity_list", "1\n")
        .file(&format!("{VIRTIO}/mq/0/cpu_list"), "0, 1\n")
        .file(&format!("{VIRTIO}/cache_type"), "write back\n")
        .files(
            &format!("{VIRTIO}/queue"),
            &[
                ("rotational", "1\n"),
                ("scheduler", "none [mq-deadline] kyber bfq\n"),
                ("write_cache", "write back\n"),
                ("fua", "0\n"),
            ],
        )
        .link("sys/dev/block/254:0", VIRTIO);
    made
}

#[test]
fn a_virtual_machine_is_not_blamed_for_what_its_host_decides() {
    let all = virtual_machine().examined(Some(1)).unwrap();
    remedies_fit(&all);
    assert!(!is_bad(&all), "{all:?}");
    for knob in ["cpu governor", "idle states", "disk", "card interrupts"] {
        assert_eq!(of(&all, knob).verdict, Verdict::Unknown, "{knob}");
    }
    assert_eq!(of(&all, "disk interrupts").verdict, Verdict::Good);
    assert_eq!(of(&all, "mount options").found, "discard");
    assert_eq!(of(&all, "write cache").found, "vda: write back, flushed after each write");
}

/// The wrong core costs a good part of the commit latency: it is found, and the right one is named.
#[test]
fn a_core_that_the_disk_does_not_interrupt_is_refused() {
    let wrong = virtual_machine().knob(Some(0), "disk interrupts");
    assert_eq!(wrong.verdict, Verdict::Bad);
    assert_eq!(wrong.remedy.unwrap(), "doozerd --core 1, or echo 0 | sudo tee /proc/irq/36/smp_affinity_list");
    let none = virtual_machine().knob(None, "disk interrupts");
    assert_eq!((none.verdict, none.remedy.as_deref()), (Verdict::Advice, Some("doozerd --core 1")));
    // The kernel does not let go of this one.
    let made = virtual_machine();
    let file = made.root.path().join("proc/irq/36/smp_affinity_list");
    fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(made.knob(Some(0), "disk interrupts").remedy.unwrap(), "doozerd --core 1");
    // A core that this process may not use is of no help.
    let made = virtual_machine();
    made.file("proc/self/status", "Cpus_allowed_list:\t0\n");
    let remedy = made.knob(None, "disk interrupts").remedy.unwrap();
    assert_eq!(remedy, "let the server use it, or echo 0 | sudo tee /proc/irq/36/smp_affinity_list");
    // Where the kernel does not say where an interrupt goes, it is where it went.
    let made = virtual_machine();
    made.remove("proc/irq");
    assert_eq!(made.knob(Some(1), "disk interrupts").verdict, Verdict::Good);
    // A disk without vectors of its own shows by its name.
    let made = virtual_machine();
    made.remove("sys/devices/pci0000:00/0000:00:02.0/msi_irqs").file(
        "proc/interrupts",
        "           CPU0       CPU1
 40:          5          0 IO-APIC 5-edge virtio1
 41:          0         90 IO-APIC 6-edge virtio10
",
    );
    assert_eq!(made.knob(Some(1), "disk interrupts").remedy.unwrap().split(',').next(), Some("doozerd --core 0"));
}

/// Some disks have fewer queues than the machine has cores: only the core that a queue interrupts will do.
#[test]
fn a_queue_that_two_cores_share_suits_one_of_them() {
    let shared = || {
        let made = Made::bare_metal();
        made.remove(&format!("{NVME}/mq/2")).remove(&format!("{NVME}/mq/3"));
        made.file(&format!("{NVME}/mq/0/cpu_list"), "0, 2\n").file(&format!("{NVME}/mq/1/cpu_list"), "1, 3\n");
        made
    };
    assert_eq!(shared().knob(Some(3), "disk interrupts").verdict, Verdict::Bad);
    assert_eq!(shared().knob(Some(1), "disk interrupts").verdict, Verdict::Good);
}

/// A core that the process may not use must not be judged as if it could.
#[test]
fn a_core_that_is_not_there_is_refused() {
    let refused = Made::bare_metal().examined(Some(4)).unwrap_err();
    assert!(refused.contains("0-3; choose one of them"), "{refused}");
}

/// The limits of a shell say nothing of a server that systemd has started.
#[test]
fn the_limits_are_those_of_the_server_that_runs() {
    let running = |comm: &str| {
        let mut made = Made::bare_metal();
        made.asked.holder = Some(4242);
        made.file("proc/4242/comm", comm)
            .file("proc/4242/status", "Cpus_allowed_list:\t1\n")
            .file("proc/4242/cgroup", "0::/system.slice/doozerd.service\n")
            .file("sys/fs/cgroup/system.slice/doozerd.service/memory.swap.max", "0\n")
            .file("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 8388604 0 -2\n")
            .file("proc/4242/limits", "Max open files 512 512 files\nMax locked memory 65536 65536 bytes\n");
        made.examined(None).unwrap()
    };
    let all = running("doozerd\n");
    assert_eq!(of(&all, "open files").verdict, Verdict::Bad);
    assert_eq!(of(&all, "memlock").verdict, Verdict::Advice);
    assert_eq!(of(&all, "swap").verdict, Verdict::Good);
    assert!(of(&all, "disk interrupts").found.ends_with("server: 1"), "{:?}", of(&all, "disk interrupts"));
    // Another process has its id by now.
    let all = running("bash\n");
    assert_eq!(of(&all, "open files").verdict, Verdict::Good);
    assert_eq!(of(&all, "swap").verdict, Verdict::Advice);
    assert!(of(&all, "disk interrupts").found.ends_with("; not pinned"));
}

/// To believe in a protection that is not there loses what was acknowledged.
#[test]
fn a_cache_that_the_kernel_was_told_to_trust_is_found() {
    let made = virtual_machine();
    made.file("sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda/queue/write_cache", "write through\n");
    assert_eq!(made.knob(None, "write cache").verdict, Verdict::Bad);
}

#[test]
fn mounts_that_lose_data_or_delay_it_are_found() {
    let mounted = |dir: &str, kind: &str, options: &str| {
        let mut made = Made::bare_metal();
        made.asked.dir = dir.into();
        let escaped = dir.replace(' ', "\\040");
        let line = format!("{MOUNTS}40 31 259:2 / {escaped} rw,relatime - {kind} /dev/nvme0n1p2 {options}\n");
        made.file("proc/self/mountinfo", &line);
        let all = made.examined(Some(3)).unwrap();
        (of(&all, "file system").verdict, of(&all, "mount options").verdict)
    };
    use Verdict::{Advice, Bad, Good};
    assert_eq!(mounted("/data", "ext4", "rw"), (Good, Good));
    assert_eq!(mounted("/my data", "xfs", "rw"), (Good, Good));
    assert_eq!(mounted("/data", "ext4", "rw,nobarrier"), (Good, Bad));
    assert_eq!(mounted("/data", "ext4", "rw,discard"), (Good, Advice));
    assert_eq!(mounted("/data", "tmpfs", "rw"), (Bad, Good));
    assert_eq!(mounted("/data", "proc", "rw"), (Bad, Good));
    assert_eq!(mounted("/data", "btrfs", "rw"), (Bad, Good));
    assert_eq!(mounted("/data", "btrfs", "rw,nodatacow"), (Advice, Good));
    assert_eq!(mounted("/data", "overlay", "rw"), (Advice, Good));
    assert_eq!(mounted("/data", "ext4", "ro"), (Good, Bad));
}

/// Below a mapping and a mirror are the disks that have to be looked at, each once.
#[test]
fn mapped_and_mirrored_disks_are_followed_to_the_bottom() {
    let mut made = Made::bare_metal();
    (made.asked.device, made.asked.dir) = ((253, 0), "/var/lib".into());
    const OTHER: &str = "sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda";
    const VIRTUAL: &str = "sys/devices/virtual/block";
    made.link("sys/dev/block/253:0", &format!("{VIRTUAL}/dm-0"))
        .link(&format!("{VIRTUAL}/dm-0/slaves/md0"), &format!("{VIRTUAL}/md0"))
        .link(&format!("{VIRTUAL}/md0/slaves/nvme0n1p2"), &format!("{NVME}/nvme0n1p2"))
        .link(&format!("{VIRTUAL}/md0/slaves/nvme0n1p3"), &format!("{NVME}/nvme0n1p3"))
        .link(&format!("{VIRTUAL}/md0/slaves/sda1"), &format!("{OTHER}/sda1"))
        .file(&format!("{NVME}/nvme0n1p3/partition"), "3\n")
        .file(&format!("{OTHER}/sda1/partition"), "1\n")
        .files(
            &format!("{OTHER}/queue"),
            &[("rotational", "1\n"), ("scheduler", "[bfq] none\n"), ("write_cache", "write through\n")],
        )
        .file(&format!("{OTHER}/device/scsi_disk/0:0:0:0/cache_type"), "write back\n");
    let all = made.examined(Some(3)).unwrap();
    assert_eq!(of(&all, "disk").found, "sda: turning, nvme0n1: solid state");
    assert_eq!(of(&all, "disk scheduler").found, "sda: bfq, nvme0n1: none");
    assert_eq!(of(&all, "disk scheduler").verdict, Verdict::Bad);
    assert_eq!(of(&all, "write cache").verdict, Verdict::Bad);
    assert_eq!(of(&all, "disk interrupts").verdict, Verdict::Unknown);
}

/// btrfs has a device number of its own, and a disk with two ways to it hangs on no controller in `/sys`.
#[test]
fn a_disk_is_found_by_its_mount_and_its_subsystem() {
    let mut made = Made::bare_metal();
    made.asked.device = (0, 33);
    const SUBSYSTEM: &str = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    made.remove("sys/class/block/nvme0n1p2")
        .link("sys/class/block/dm-0", "sys/devices/virtual/block/dm-0")
        .file("sys/devices/virtual/block/dm-0/dm/name", "vg-data\n")
        .link("sys/devices/virtual/block/dm-0/slaves/nvme0n1", &format!("{SUBSYSTEM}/nvme0n1"))
        .link(&format!("{SUBSYSTEM}/nvme0"), NVME.strip_suffix("/nvme0n1").unwrap())
        .file(&format!("{SUBSYSTEM}/nvme0n1/queue/scheduler"), "[none]\n")
        .file("proc/self/mountinfo", "27 1 0:32 /@ / rw - btrfs /dev/mapper/vg-data rw\n");
    for queue in 0..4 {
        made.file(&format!("{SUBSYSTEM}/nvme0n1/mq/{queue}/cpu_list"), &format!("{queue}\n"));
    }
    let all = made.examined(Some(3)).unwrap();
    assert_eq!(of(&all, "disk scheduler").found, "nvme0n1: none");
    assert_eq!(of(&all, "disk interrupts").verdict, Verdict::Good, "{:?}", of(&all, "disk interrupts"));
}

#[test]
fn the_card_is_the_one_that_has_the_address() {
    let card = |listen: Option<&str>| {
        let mut made = Made::bare_metal();
        made.asked.listen = listen.map(|ip| ip.parse().unwrap());
        made.asked.coalescing =
            |card| Some(format!("Adaptive RX: {}\nrx-usecs: 50\n", if card == "eno2" { "on" } else { "off" }));
        made.file("proc/net/if_inet6", "fd000000000000000000000000000002 04 40 00 80     eno2\n");
        made.link("sys/class/net/bond0/lower_eno1", &format!("{CARD}/net/eno1"));
        let found = made.knob(Some(3), "coalescing");
        (found.verdict, found.found)
    };
    assert_eq!(card(None), (Verdict::Bad, "eno1: rx-usecs 50".into()));
    assert_eq!(card(Some("10.0.0.7")), (Verdict::Bad, "eno1: rx-usecs 50".into()));
    assert_eq!(card(Some("192.168.1.5")), (Verdict::Advice, "eno2: adaptive".into()));
    assert_eq!(card(Some("fd00::2")), (Verdict::Advice, "eno2: adaptive".into()));
    assert_eq!(card(Some("127.0.0.1")), (Verdict::Good, "no card: loopback".into()));
}

/// Two cards that are bonded are one in the table of routes; what interrupts is below.
#[test]
fn a_bond_is_followed_to_its_cards() {
    let made = Made::bare_metal();
    made.file("proc/net/route", &ROUTES.replace("eno1", "bond0"))
        .link("sys/class/net/bond0/lower_eno1", &format!("{CARD}/net/eno1"));
    let found = made.knob(Some(3), "card interrupts");
    assert_eq!((found.verdict, found.found.as_str()), (Verdict::Good, "bond0: core 3 (eno1-TxRx-0)"));
}

#[test]
fn interrupts_that_wait_for_a_poll_are_found() {
    let deferred = |defer: &str, timeout: &str| {
        let made = Made::bare_metal();
        made.files(&format!("{CARD}/net/eno1"), &[("napi_defer_hard_irqs", defer), ("gro_flush_timeout", timeout)]);
        made.knob(Some(3), "deferred interrupts").verdict
    };
    assert_eq!(deferred("2", "200000"), Verdict::Bad);
    assert_eq!(deferred("2", "0"), Verdict::Good);
}

/// tuned holds the device open instead of switching states off; an eager powersave is nearly performance.
#[test]
fn other_ways_to_the_same_end_are_accepted() {
    let made = Made::bare_metal();
    made.file(&format!("{CPU}/cpu3/cpuidle/state2/disable"), "0\n")
        .file(&format!("{CPU}/cpu3/cpufreq/scaling_governor"), "powersave\n")
        .file(&format!("{CPU}/cpu3/cpufreq/energy_performance_preference"), "performance\n");
    fs::create_dir_all(made.root.path().join("dev")).unwrap();
    fs::write(made.root.path().join("dev/cpu_dma_latency"), 2i32.to_ne_bytes()).unwrap();
    let all = made.examined(Some(3)).unwrap();
    assert_eq!(of(&all, "idle states").verdict, Verdict::Good);
    assert_eq!(of(&all, "cpu governor").verdict, Verdict::Advice);
    // A wish of the core itself counts as well.
    let made = Made::bare_metal();
    made.file(&format!("{CPU}/cpu3/cpuidle/state2/disable"), "0\n")
        .file(&format!("{CPU}/cpu3/power/pm_qos_resume_latency_us"), "n/a\n");
    assert_eq!(made.knob(Some(3), "idle states").verdict, Verdict::Good);
}

#[test]
fn kernels_and_switches_that_keep_io_uring_away_are_found() {
    let version = |release: &str| {
        let made = Made::bare_metal();
        made.file("proc/sys/kernel/osrelease", release);
        made.knob(Some(3), "kernel").verdict
    };
    let verdicts = ["6.1.0-18-amd64\n", "6.0.19\n", "5.15.0-91-generic\n", "7.0-rc1\n"].map(version);
    assert_eq!(verdicts, [Verdict::Good, Verdict::Bad, Verdict::Bad, Verdict::Good]);
    let ring = |switch: &str, ring: std::io::Result<()>| {
        let mut made = Made::bare_metal();
        made.asked.ring = ring;
        made.file("proc/sys/kernel/io_uring_disabled", switch);
        let found = made.knob(Some(3), "io_uring");
        (found.verdict, found.remedy.unwrap_or_default())
    };
    let (verdict, remedy) = ring("2\n", Err(Errno::PERM.into()));
    assert_eq!((verdict, remedy.as_str()), (Verdict::Bad, "sudo sysctl -w kernel.io_uring_disabled=0"));
    // Root may, and the server's user may not.
    assert_eq!(ring("1\n", Ok(())).0, Verdict::Advice);
    // It is not switched off: the ring counts as locked memory, and the user may lock none.
    let (verdict, remedy) = ring("0\n", Err(Errno::NOMEM.into()));
    assert_eq!(verdict, Verdict::Bad);
    assert!(remedy.contains("LimitMEMLOCK"), "{remedy}");
}

#[test]
fn o_direct_is_judged_by_what_the_log_needs() {
    let direct = |direct| {
        let mut made = Made::bare_metal();
        made.asked.direct = direct;
        made.knob(Some(3), "O_DIRECT").verdict
    };
    let all = [Direct::Yes(None), Direct::Yes(Some(4096)), Direct::Yes(Some(8192)), Direct::Yes(Some(0)), Direct::No];
    assert_eq!(all.map(direct), [Verdict::Good, Verdict::Good, Verdict::Bad, Verdict::Bad, Verdict::Bad]);
}

#[test]
fn lists_of_cores_are_read_and_written() {
    assert_eq!(ranges(&cores("0-2, 5,7-8")), "0-2,5,7-8");
    assert_eq!(cores("").len(), 0);
    assert_eq!(ranges(&cores("")), "none");
}
