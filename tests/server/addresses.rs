//! Addresses: where a node says that others find it, how names and addresses are reached, and who is not spoken to.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::cluster::{Cluster, dying_with_us, fresh_address, together};
use crate::common::namespace::{ip, within};
use crate::common::process::{Server, Setup};
use crate::common::wire::*;
use crate::common::{LIMIT, eventually};
use doozer::client::{self, Options};
use doozer::wire::{ErrCode, Request as Asked, Response, Verb};

/// What a node advertises: in `/ctl`, in its log and in the line that says hello.
#[track_caller]
fn advertised(server: &Server) -> String {
    let mut c = server.connect();
    let id = String::from_utf8(c.call(&bare(Verb::SelfId)).value.unwrap()).unwrap();
    let addr = c.call(&get(&format!("/ctl/node/{id}/addr"))).value.unwrap();
    let addr = String::from_utf8(addr).unwrap();
    server.says(&format!("advertises {addr} to clients and peers"));
    server.says(&format!("doozer -a 'doozer:?ca={}' find /ctl", addr.replace('%', "%25")));
    addr
}

fn setup() -> Setup {
    Setup::new().run_by(dying_with_us())
}

/// A name service for this namespace: the file of hosts is the test's own, and the name server answers nothing for minutes.
struct Names {
    hosts: tempfile::NamedTempFile,
    server: UdpSocket,
}

impl Names {
    fn new() -> Names {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let resolv = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(resolv.path(), "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").unwrap();
        let bind = |from: &std::path::Path, to: &str| {
            let status = Command::new("mount").arg("--bind").arg(from).arg(to).status().unwrap();
            assert!(status.success(), "{to}");
        };
        bind(hosts.path(), "/etc/hosts");
        bind(resolv.path(), "/etc/resolv.conf");
        // A switch of the name service that goes elsewhere would not ask that server.
        let switch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(switch.path(), "hosts: files dns\n").unwrap();
        if std::path::Path::new("/etc/nsswitch.conf").exists() {
            bind(switch.path(), "/etc/nsswitch.conf");
        }
        Names { hosts, server: UdpSocket::bind("127.0.0.1:53").unwrap() }
    }

    fn add(&mut self, line: &str) {
        let mut hosts = std::fs::OpenOptions::new().append(true).open(self.hosts.path()).unwrap();
        writeln!(hosts, "{line}").unwrap();
    }

    /// Waits until the name server is asked for a name that begins so.
    fn is_asked_for(&self, name: &str) {
        self.server.set_read_timeout(Some(LIMIT)).unwrap();
        loop {
            let mut question = [0; 512];
            let got = self.server.recv(&mut question).expect("the name server is asked");
            if question[..got].windows(name.len()).any(|part| part == name.as_bytes()) {
                return;
            }
        }
    }
}

/// A wildcard is another machine to each node that dials it. A node that listens on one finds an address by itself, or does not start.
#[test]
fn a_node_advertises_a_wildcard() {
    if !within(module_path!(), "a_node_advertises_a_wildcard") {
        return;
    }
    ip(&[], "link set lo up\n");
    let refused = setup().listen(":20500").refused();
    let said = refused.stderr;
    assert_eq!((refused.status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("no address that others can reach") && said.contains("-advertise HOST:PORT"), "{said}");
    ip(&[], "link add d0 type veth peer name e0\naddr add 10.99.0.1/24 dev d0\nlink set d0 up\nlink set e0 up\n");
    for listen in ["0.0.0.0:20500", "[::]:20500", ":20500"] {
        let server = setup().listen(listen).start();
        assert_eq!(advertised(&server), "10.99.0.1:20500", "-l {listen}");
    }
    // Which of two it is only the operator knows, unless there is a default route.
    ip(&[], "addr add 10.98.0.1/24 dev e0\n");
    let refused = setup().listen(":20500").refused();
    let said = refused.stderr;
    assert_eq!((refused.status, said.lines().count()), (Some(1), 1), "{said}");
    for word in ["10.99.0.1:20500", "10.98.0.1:20500", "-advertise HOST:PORT"] {
        assert!(said.contains(word), "{said}");
    }
    let server = setup().listen(":20500").flags(["-advertise", "db-1.example"]).start();
    assert_eq!(advertised(&server), "db-1.example:20500");
    drop(server);
    ip(&[], "route add default via 10.98.0.254\n");
    assert_eq!(advertised(&setup().listen(":20500").start()), "10.98.0.1:20500");
}

/// An address that changes with the routes of the moment: the others lose the node at its next restart.
#[test]
fn a_restart_without_a_changes_the_address() {
    if !within(module_path!(), "a_restart_without_a_changes_the_address") {
        return;
    }
    ip(
        &[],
        "link set lo up\nlink add d0 type veth peer name e0\naddr add 10.77.0.2/24 dev d0\naddr add 10.88.0.2/24 dev e0\n\
         link set d0 up\nlink set e0 up\nroute add default via 10.77.0.254\n",
    );
    let first = setup().listen("10.88.0.2:20500").start();
    let second = setup().listen("0.0.0.0:20501");
    let server = second.clone().flags(["-a", "10.88.0.2:20500"]).start();
    assert_eq!(advertised(&server), "10.88.0.2:20501", "from where it reached the node that let it in");
    server.stop();
    let server = second.start();
    assert_eq!(advertised(&server), "10.88.0.2:20501");
    server.stop();
    drop(first);
    // The machine loses the address that the node advertised: the node advertises another one, and says so.
    ip(&[], "addr del 10.88.0.2/24 dev e0\n");
    let server = second.start();
    server.says("advertises 10.77.0.2:20501 to clients and peers, and no longer 10.88.0.2:20501");
}

/// The operator's word is advertised as it is. That it has changed is said.
#[test]
fn an_advertised_name_is_looked_up() {
    let _turn = together();
    let setup = setup();
    let server = setup.clone().flags(["-advertise", "nobody.invalid:4711"]).start();
    assert_eq!(advertised(&server), "nobody.invalid:4711");
    server.stop();
    let server = setup.clone().flags(["-advertise", "[2001:db8::1]:1"]).start();
    server.says("and no longer nobody.invalid:4711");
    assert_eq!(advertised(&server), "[2001:db8::1]:1");
    server.stop();
    for (flags, word) in [
        (["-advertise", "0.0.0.0:8046"], "-advertise `0.0.0.0:8046`"),
        (["-advertise", "::1"], "write [::1]:8046"),
        (["-a", ":8046"], "write HOST:8046"),
        (["-a", "10.0.0.1:x"], "-a `10.0.0.1:x`"),
    ] {
        let refused = setup.clone().flags(flags).refused();
        assert_eq!((refused.status, refused.stderr.lines().count()), (Some(1), 1), "{}", refused.stderr);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
}

/// A name server that does not answer stops nothing: not a stop, and not the way to a node whose name is known.
#[test]
fn a_silent_name_server_stops_the_server() {
    if !within(module_path!(), "a_silent_name_server_stops_the_server") {
        return;
    }
    ip(
        &[],
        "link set lo up\nlink add d0 type veth peer name e0\naddr add 10.99.0.1/24 dev d0\nlink set d0 up\nlink set e0 up\n\
         route add default via 10.99.0.254\n",
    );
    let mut names = Names::new();
    for flags in [["-l", "slow-l.test:20501"].as_slice(), &["-a", "slow-a.test:20500"]] {
        let listen = if flags[0] == "-l" { flags[1] } else { ":20501" };
        let rest = if flags[0] == "-l" { &[][..] } else { flags };
        let server = setup().listen(listen).flags(rest).spawn();
        names.is_asked_for(flags[1].split('.').next().unwrap());
        let stopped = server.stop();
        assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
        assert!(stopped.stderr.contains("stopped before"), "{}", stopped.stderr);
    }
    // Among the nodes to attach to there is one whose name is looked up in vain, and one that has no name yet.
    let first = setup().listen("10.99.0.1:20500").start();
    let second = setup().listen(":20501");
    let server = second.clone().flags(["-a", "slow-b.test:20500", "-a", "n1.test:20500"]).spawn();
    names.is_asked_for("slow-b");
    server.says("the look-up of the name slow-b.test takes longer");
    drop(server);
    names.add("10.99.0.1 n1.test");
    let server = second.flags(["-a", "slow-c.test:20500", "-a", "n1.test:20500"]).start();
    assert_eq!(advertised(&server), "10.99.0.1:20501");
    // As a member it goes on to dial a name that nobody knows, and serves meanwhile.
    drop(first);
    names.is_asked_for("slow-c");
    assert!(server.connect().rev() > 0);
    let stopped = server.stop();
    assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
}

/// A host whose IPv6 address leads nowhere is reached at its IPv4 address, by nodes and by clients.
#[test]
fn a_dead_aaaa_hides_a_live_a() {
    if !within(module_path!(), "a_dead_aaaa_hides_a_live_a") {
        return;
    }
    // Packets to fd98::99 go out to nobody.
    ip(
        &[],
        "link set lo up\nlink add d0 type veth peer name e0\nlink set d0 up\nlink set e0 up\naddr add fd98::1/64 dev d0 nodad\n\
         neigh add fd98::99 lladdr 02:00:00:00:00:99 dev d0 nud permanent\n",
    );
    let mut names = Names::new();
    names.add("fd98::99 n1.test\n127.0.0.1 n1.test");
    let _first = setup().listen("127.0.0.1:20500").start();
    let second = setup().listen("127.0.0.1:20501").flags(["-a", "n1.test:20500"]).start();
    second.says("attached to cluster local by the node at n1.test:20500");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options::parse("n1.test:20500").unwrap().connect_timeout(Duration::from_secs(3600));
        let connected = tokio::time::timeout(LIMIT, options.connect()).await.expect("in time");
        assert!(connected.unwrap().rev().await.unwrap() > 0);
    });
}

/// A link-local address has its interface behind it, by name or by number.
#[test]
fn a_link_local_address_is_refused() {
    if !within(module_path!(), "a_link_local_address_is_refused") {
        return;
    }
    ip(
        &[],
        "link set lo up\nlink add d0 type veth peer name e0\nlink set d0 up\nlink set e0 up\naddr add fe80::99/64 dev d0 nodad\n",
    );
    let server = setup().listen("[fe80::99%d0]:20500").start();
    assert_eq!(advertised(&server), "[fe80::99%d0]:20500");
    let second = setup().listen("[::1]:20501").flags(["-a", "[fe80::99%d0]:20500"]).start();
    second.says("attached to cluster local by the node at [fe80::99%d0]:20500");
    // What /sys shows belongs to the namespace in which it was mounted; address, number of the interface in hexadecimal, …, its name.
    let known = std::fs::read_to_string("/proc/net/if_inet6").unwrap();
    let line = known.lines().find(|line| line.ends_with(" d0")).unwrap();
    let number = u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for zone in ["d0", &number] {
            let uri = format!("doozer:?ca=[fe80::99%25{zone}]:20500");
            let connected = tokio::time::timeout(LIMIT, client::Client::connect(&uri)).await.expect("in time");
            assert!(connected.unwrap().rev().await.unwrap() > 0, "{uri}");
        }
        let wrong = client::Client::connect("[fe80::99%d7]:20500").await.unwrap_err().to_string();
        assert!(wrong.contains("no network interface d7"), "{wrong}");
    });
}

/// Address translation: nobody reaches a node where it says that it is. It is reached where the operator said, also after restarts.
#[test]
fn nodes_behind_address_translation_lose_each_other() {
    let _turn = together();
    let addresses: Vec<SocketAddr> = (0..3).map(|_| fresh_address()).collect();
    // Nobody listens on the port of discarding.
    let setup = |node: usize| setup().listen(addresses[node]).flags(["-advertise", &format!("127.0.0.{}:9", 7 + node)]);
    let told = |node: usize| {
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != node);
        let flags = others.flat_map(|(_, addr)| ["-a".to_string(), addr.to_string()]);
        setup(node).flags(if node == 0 { Vec::new() } else { flags.collect() })
    };
    let nodes = (0..3).map(|node| (addresses[node], told(node)));
    let mut cluster = Cluster::of(nodes.collect()).finding_each_other().up(3);
    let leader = cluster.leader();
    cluster.kill(leader);
    let write = |cluster: &Cluster, node: usize| {
        eventually("it takes writes", || {
            let said = cluster.connect(node).ask(&set("/x", -1, b"x"));
            said.starts_with("rev=").then_some(())
        });
    };
    for node in cluster.others(&[leader]) {
        write(&cluster, node);
    }
    cluster.start(leader);
    for node in 0..3 {
        write(&cluster, node);
    }
}

/// A server that dies of a frame with a negative length, as the original does, and answers ordinary requests as the original does.
struct FakeOriginal {
    address: SocketAddr,
    dead: Arc<AtomicBool>,
    asked: Arc<Mutex<usize>>,
}

impl FakeOriginal {
    fn start() -> FakeOriginal {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (dead, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (is_dead, answered) = (Arc::clone(&dead), Arc::clone(&asked));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                loop {
                    let mut length = [0; 4];
                    if stream.read_exact(&mut length).is_err() {
                        break;
                    }
                    let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else {
                        is_dead.store(true, Ordering::SeqCst);
                        return;
                    };
                    let mut body = vec![0; length];
                    if stream.read_exact(&mut body).is_err() {
                        break;
                    }
                    let request = Asked::decode(&body).unwrap();
                    let mut answer = Vec::new();
                    match request.verb {
                        Some(verb) if verb == Verb::Rev.code() => {
                            let rev = Response { rev: Some(7), ..Response::default() };
                            Response { tag: request.tag, ..rev }.encode(&mut answer);
                        }
                        _ => Response::error(request.tag, ErrCode::UnknownVerb, None).encode(&mut answer),
                    }
                    stream.write_all(&answer).unwrap();
                    *answered.lock().unwrap() += 1;
                }
            }
        });
        FakeOriginal { address, dead, asked }
    }

    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
}

/// The original takes the first bytes of the peer protocol for a negative length, and dies.
#[test]
fn an_original_dies_of_being_attached_to() {
    let _turn = together();
    let original = FakeOriginal::start();
    let address = original.address.to_string();
    let refused = setup().flags(["-a", &address]).refused();
    let said = refused.stderr;
    assert_eq!((refused.status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&address) && said.contains("original") && said.contains("cannot be joined"), "{said}");
    assert!(original.is_alive());
    assert_eq!(*original.asked.lock().unwrap(), 1);
    // A node that has its data dials the addresses of `-a` as a peer.
    let (first, second) = (setup().start(), setup());
    second.clone().flags(["-a", &first.addr().to_string()]).start().stop();
    drop(first);
    let server = second.flags(["-a", &address]).spawn();
    server.says("original doozerd");
    assert!(original.is_alive());
    assert!(*original.asked.lock().unwrap() >= 2);
}

/// An address is of no use to others if it is one of loopback: who listens on it alone says so, and nobody else.
#[test]
fn loopback_is_advertised_by_a_server_that_listens_elsewhere() {
    let _turn = together();
    let server = setup().start();
    let addr: SocketAddr = advertised(&server).parse().unwrap();
    assert_eq!(addr, server.addr());
    let attached = setup().listen("0.0.0.0:0").flags(["-a", &addr.to_string()]).spawn();
    let advertises = eventually("it starts, or says why not", || {
        let said = attached.stderr();
        let line = said.lines().find(|line| line.contains("advertises ") || line.contains("-advertise"))?;
        Some(line.to_owned())
    });
    if let Some((_, rest)) = advertises.split_once(" advertises ") {
        let addr: SocketAddr = rest.split(' ').next().unwrap().parse().unwrap();
        assert!(!matches!(addr.ip(), IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified()), "{advertises}");
    }
}
