//! The name service: who founds a cluster and who attaches, with a real server as the cluster that is asked.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::LIMIT;
use crate::common::process::{Server, Setup};
use crate::common::wire::*;
use doozer::server::boot::{Decision, announce, consult};
use doozer::wire::Verb;

const CLUSTER: &str = "west";

/// Runs to its end, within the limit.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
}

fn uri(server: &Server) -> String {
    format!("doozer:?ca={}", server.addr())
}

fn decide(uri: &str, node: &str) -> Result<Decision, String> {
    run(consult(uri, CLUSTER, node, &|_| {}))
}

/// A node that asks, on a thread of its own, and what it says.
struct Asking {
    thread: JoinHandle<Result<Decision, String>>,
    lines: Receiver<String>,
}

impl Asking {
    fn start(uri: &str, node: &str) -> Asking {
        let (uri, node) = (uri.to_owned(), node.to_owned());
        let (said, lines) = channel();
        let thread =
            std::thread::spawn(move || run(consult(&uri, CLUSTER, &node, &|line| said.send(line.to_owned()).unwrap())));
        Asking { thread, lines }
    }

    /// Waits for a line that holds all of these.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| words.iter().all(|word| line.contains(word))) {
            let line = self.lines.recv_timeout(LIMIT);
            said.push(line.unwrap_or_else(|_| panic!("no line holds all of {words:?}: {said:?}")));
        }
    }

    /// What it has decided.
    #[track_caller]
    fn decided(self) -> Decision {
        self.thread.join().unwrap().unwrap()
    }
}

fn attach(address: &str) -> Decision {
    Decision::Attach(vec![address.to_owned()])
}

#[track_caller]
fn file(server: &Server, path: &str) -> String {
    String::from_utf8(server.connect().call(&get(path)).value.unwrap_or_default()).unwrap()
}

/// Two founders of one cluster are two clusters, each of which acknowledges writes that the other never sees.
#[test]
fn of_all_that_ask_at_once_one_founds_and_the_others_attach_to_it() {
    let service = Setup::new().start();
    let uri = uri(&service);
    let nodes: Vec<_> = (0..8)
        .map(|n| {
            let uri = uri.clone();
            std::thread::spawn(move || {
                let (id, address) = (format!("NODE{n}"), format!("10.0.0.{n}:8046"));
                let decision = decide(&uri, &id).unwrap();
                if decision == Decision::Found {
                    run(announce(&uri, CLUSTER, &id, &address));
                }
                (id, address, decision)
            })
        })
        .collect();
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.join().unwrap()).collect();
    let founders: Vec<_> = nodes.iter().filter(|(_, _, decision)| *decision == Decision::Found).collect();
    let [(founder, address, _)] = founders[..] else { panic!("not one founder: {nodes:?}") };
    assert_eq!(file(&service, "/ctl/boot/west"), *founder);
    assert!(nodes.iter().all(|(id, _, decision)| id == founder || *decision == attach(address)), "{nodes:?}");
}

/// A founder that loses its power at the wrong moment would leave a cluster that nobody ever founds.
#[test]
fn a_founder_that_comes_back_still_founds_and_the_others_wait_for_it() {
    let service = Setup::new().start();
    let uri = uri(&service);
    assert_eq!(decide(&uri, "AAAA"), Ok(Decision::Found));
    let other = Asking::start(&uri, "BBBB");
    other.says(&["cluster west", "AAAA", "/ctl/boot/west"]);
    assert_eq!(decide(&uri, "AAAA"), Ok(Decision::Found));
    run(announce(&uri, CLUSTER, "AAAA", "10.0.0.1:8046"));
    assert_eq!(other.decided(), attach("10.0.0.1:8046"));
}

/// The node that was to found may never come back: the remedy that the waiting ones name has to work.
#[test]
fn a_waiting_node_founds_when_the_founder_is_deleted() {
    let service = Setup::new().start();
    let uri = uri(&service);
    assert_eq!(decide(&uri, "AAAA"), Ok(Decision::Found));
    let other = Asking::start(&uri, "BBBB");
    other.says(&["AAAA"]);
    service.connect().call(&del("/ctl/boot/west", -1));
    assert_eq!(other.decided(), Decision::Found);
    assert_eq!(file(&service, "/ctl/boot/west"), "BBBB");
}

/// A cluster that is there is joined, whoever has founded it, and its other addresses are found too. A node that has lost
/// its data, and finds its own address, would wait for an answer from itself.
#[test]
fn known_addresses_are_attached_to_but_never_the_own_one() {
    let service = Setup::new().start();
    let uri = uri(&service);
    let mut connection = service.connect();
    for (node, address) in [("AAAA", "10.0.0.1:1"), ("BBBB", " example.org\n"), ("CCCC", ""), ("DDDD", "no address")] {
        assert_eq!(connection.call(&set(&format!("/ctl/ns/west/{node}"), 0, address.as_bytes())).err_code, None);
    }
    assert_eq!(connection.call(&set("/ctl/ns/eastern/XXXX", 0, b"10.0.0.9:9")).err_code, None);
    let both = Decision::Attach(vec!["10.0.0.1:1".to_owned(), "example.org:8046".to_owned()]);
    assert_eq!(decide(&uri, "CCCC"), Ok(both));
    assert_eq!(decide(&uri, "AAAA"), Ok(attach("example.org:8046")));
    assert_eq!(connection.call(&stat("/ctl/boot/west")).rev, Some(0), "nobody founds");
    assert_eq!(connection.call(&del("/ctl/ns/west/BBBB", -1)).err_code, None);
    assert_eq!(decide(&uri, "AAAA"), Ok(Decision::Found), "nobody else is there");
}

/// The server asks from its own runtime, whose tasks share one thread with its ring: what is asked there must not hang.
#[test]
fn the_name_service_is_asked_from_the_runtime_of_the_server() {
    let service = Setup::new().start();
    let uri = uri(&service);
    tokio_uring::start(async {
        let asked = async {
            assert_eq!(consult(&uri, CLUSTER, "AAAA", &|_| {}).await, Ok(Decision::Found));
            let founder = announce(&uri, CLUSTER, "AAAA", "10.0.0.1:8046");
            let (other, ()) = tokio::join!(consult(&uri, CLUSTER, "BBBB", &|_| {}), founder);
            assert_eq!(other, Ok(attach("10.0.0.1:8046")));
        };
        tokio::time::timeout(LIMIT, asked).await.expect("in time");
    });
}

/// After a power cut a name service comes up later than those who ask it. They say so, and not every second.
#[test]
fn a_name_service_that_is_away_is_asked_until_it_is_there() {
    let service = Setup::new().start();
    let (uri, address) = (uri(&service), service.addr());
    let setup = service.kill().listen(address);
    let first = Asking::start(&uri, "AAAA");
    first.says(&["cannot be asked about cluster west", &address.to_string()]);
    // More attempts fail for the same reason, which is not said again.
    assert_eq!(first.lines.recv_timeout(Duration::from_millis(2500)), Err(RecvTimeoutError::Timeout));
    let service = setup.start();
    assert_eq!(first.decided(), Decision::Found);
    let second = Asking::start(&uri, "BBBB");
    second.says(&["waiting", "AAAA"]);
    let setup = service.kill();
    second.says(&["cannot be asked about cluster west", &address.to_string()]);
    let _service = setup.start();
    second.says(&["waiting", "AAAA"]);
    run(announce(&uri, CLUSTER, "AAAA", "10.0.0.1:8046"));
    assert_eq!(second.decided(), attach("10.0.0.1:8046"));
}

/// A node that announces itself at each start would fill the history of the name service, and wake all who watch.
#[test]
fn an_address_is_written_only_when_it_is_another() {
    let service = Setup::new().start();
    let uri = uri(&service);
    let rev = || service.connect().call(&bare(Verb::Rev)).rev.unwrap();
    let before = rev();
    run(announce(&uri, CLUSTER, "AAAA", "10.0.0.1:8046"));
    run(announce(&uri, CLUSTER, "AAAA", "10.0.0.1:8046"));
    assert_eq!(rev(), before + 1);
    run(announce(&uri, CLUSTER, "AAAA", "10.0.0.2:8046"));
    assert_eq!((rev(), file(&service, "/ctl/ns/west/AAAA").as_str()), (before + 2, "10.0.0.2:8046"));
}

/// A node that is configured wrongly must not wait for ever for what cannot come, nor tell the secret.
#[test]
fn what_no_time_will_change_is_an_error_at_once() {
    let service = Setup::new().env("DOOZER_RWSECRET", "open").start();
    let uri = uri(&service);
    let error = |uri: &str, cluster: &str| run(consult(uri, cluster, "AAAA", &|_| {})).unwrap_err();
    assert!(error("doozer:?cn=x", CLUSTER).contains("names no address"));
    assert!(error("doozer:?ca=:", CLUSTER).contains("not an address"));
    for cluster in ["", "*", "a/b", "a b"] {
        assert!(error(&uri, cluster).contains("cannot be a name"), "{cluster:?}");
    }
    let refused = error(&format!("{uri}&sk=hunter2"), CLUSTER);
    assert!(refused.contains("permission denied") && !refused.contains("hunter2"), "{refused}");
    assert!(error(&uri, CLUSTER).contains("permission denied"));
    assert_eq!(decide(&format!("{uri}&sk=open"), "AAAA"), Ok(Decision::Found));
}
