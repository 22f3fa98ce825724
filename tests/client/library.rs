//! The client against servers that misbehave as told: what becomes of each call when a connection is cut, garbled, or
//! silent.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use crate::fake::{Asked, Fake, PATIENCE, Peer, frame, rev, set_event};
use doozer::client::{Change, Client, Entry, ErrCode, Error, Event, File, Lost, Options, Stale, Stat, WhenStale};
use doozer::wire::{Response, Verb};
use tokio::time::timeout;

/// Options whose patience suits a test.
fn options(fakes: &[&Fake]) -> Options {
    let addresses = fakes.iter().map(|f| f.address.to_string());
    Options::new(addresses.map(|a| a.parse().expect("an address")))
        .expect("at least one")
        .retry_for(Duration::from_secs(5))
}

async fn connect(fake: &Fake) -> Client {
    options(&[fake]).connect().await.expect("a connection")
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

fn event(rev: i64, path: &str, value: &str) -> Event {
    Event { rev, path: path.into(), value: value.into(), change: Change::Set }
}

/// What a server with a counter for a store would answer, as far as these tests ask.
fn plain(peer: &mut Peer) {
    while let Some(asked) = peer.next() {
        match asked.verb {
            Verb::Rev | Verb::Set | Verb::Sync => peer.answer(&asked, rev(7)),
            Verb::Get => peer.answer(&asked, Response { value: Some(asked.path.as_bytes()), ..rev(7) }),
            _ => peer.answer(&asked, Response::default()),
        }
    }
}

#[tokio::test]
async fn each_verb_sends_its_fields_and_reads_its_answer() {
    let fake = Fake::start(|_, peer| {
        peer.knows_sync();
        let a = peer.expect(Verb::Get);
        assert_eq!((a.path.as_str(), a.rev), ("/a", Some(5)));
        peer.answer(&a, Response { value: Some(b"body"), ..rev(3) });
        let a = peer.expect(Verb::Get);
        assert_eq!(a.rev, None);
        peer.answer(&a, rev(0));
        let a = peer.expect(Verb::Set);
        assert_eq!((a.path.as_str(), a.rev, a.value.as_slice()), ("/a", Some(-1), &b"v"[..]));
        peer.answer(&a, rev(9));
        let a = peer.expect(Verb::Del);
        assert_eq!((a.path.as_str(), a.rev), ("/a", Some(9)));
        peer.answer(&a, Response::default());
        let a = peer.expect(Verb::Nop);
        peer.answer(&a, Response::default());
        let a = peer.expect(Verb::Rev);
        peer.answer(&a, rev(11));
        let a = peer.expect(Verb::Sync);
        peer.answer(&a, rev(12));
        let a = peer.expect(Verb::SelfId);
        peer.answer(&a, Response { value: Some(b"ABC"), ..Response::default() });
        for (n, len) in [(-2, 3), (0, 0), (4, 5)] {
            let a = peer.expect(Verb::Stat);
            peer.answer(&a, Response { len: Some(len), ..rev(n) });
        }
        let a = peer.expect(Verb::Wait);
        assert_eq!((a.path.as_str(), a.rev), ("/**", Some(4)));
        peer.answer(&a, Response { flags: Some(8), value: Some(b""), ..set_event(4, "/x", "") });
        let a = peer.expect(Verb::Wait);
        peer.answer(&a, Response { flags: Some(0), ..set_event(5, "/", "") });
        let a = peer.expect(Verb::Walk);
        assert_eq!((a.path.as_str(), a.offset, a.rev), ("/*", Some(2), None));
        peer.answer(&a, set_event(3, "/c", "C"));
        let a = peer.expect(Verb::Getdir);
        assert_eq!((a.path.as_str(), a.offset, a.rev), ("/", Some(0), Some(8)));
        peer.answer(&a, Response { path: Some(b"ctl"), ..Response::default() });
        let a = peer.expect(Verb::Access);
        assert_eq!(a.value, b"pw");
        peer.fail(&a, ErrCode::Other, "permission denied");
    });
    let c = connect(&fake).await;
    assert_eq!(c.get("/a", Some(5)).await.unwrap(), File { rev: 3, value: b"body".to_vec() });
    assert!(!c.get("/a", None).await.unwrap().exists());
    assert_eq!(c.set("/a", -1, "v").await.unwrap(), 9);
    c.del("/a", 9).await.unwrap();
    c.nop().await.unwrap();
    assert_eq!(c.rev().await.unwrap(), 11);
    assert_eq!(c.sync().await.unwrap(), 12);
    assert_eq!(c.self_id().await.unwrap(), "ABC");
    assert_eq!(c.stat("/d", None).await.unwrap(), Stat::Directory { entries: 3 });
    assert_eq!(c.stat("/m", None).await.unwrap(), Stat::Missing);
    assert_eq!(c.stat("/f", None).await.unwrap(), Stat::File { rev: 4, len: 5 });
    let deleted = Event { change: Change::Del, ..event(4, "/x", "") };
    assert_eq!(c.wait("/**", 4).await.unwrap(), deleted);
    assert_eq!(c.wait("/**", 5).await.unwrap(), Event { change: Change::Nop, ..event(5, "/", "") });
    let entry = Entry { path: "/c".into(), rev: 3, value: b"C".to_vec() };
    assert_eq!(c.walk_at("/*", 2, None).await.unwrap(), entry);
    assert_eq!(c.getdir_at("/", 0, Some(8)).await.unwrap(), "ctl");
    let denied = c.access("pw").await.unwrap_err();
    assert_eq!(denied.to_string(), "OTHER: permission denied");
}

#[tokio::test]
async fn the_connection_ends_with_the_last_handle() {
    let (gone, going) = mpsc::channel();
    let fake = Fake::start(move |_, peer| {
        plain(peer);
        gone.send(()).unwrap();
    });
    let client = connect(&fake).await;
    let watch = client.watch("/**", 1);
    assert_eq!(soon(client.clone().rev()).await.unwrap(), 7);
    drop(client);
    assert!(going.try_recv().is_err(), "the watch is a handle, too");
    drop(watch);
    let told = tokio::task::spawn_blocking(move || going.recv_timeout(PATIENCE));
    soon(told).await.unwrap().unwrap();
    drop(fake);
}

#[tokio::test]
async fn answers_out_of_order_reach_their_callers() {
    let fake = Fake::start(|_, peer| {
        let asked: Vec<_> = (0..100).map(|_| peer.expect(Verb::Get)).collect();
        let mut tags: Vec<_> = asked.iter().map(|a| a.tag).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 100, "tags are unique");
        let answers = asked.iter().rev().map(|a| frame(a, Response { value: Some(a.path.as_bytes()), ..rev(1) }));
        peer.raw(&answers.collect::<Vec<_>>().concat());
        peer.ignore();
    });
    let client = connect(&fake).await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.get(&format!("/{n}"), None).await })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(soon(call).await.unwrap().unwrap().value, format!("/{n}").into_bytes());
    }
}

#[tokio::test]
async fn an_answer_that_arrives_byte_by_byte_is_whole() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.ask();
        for byte in frame(&asked, Response { value: Some(b"slow"), ..rev(1) }) {
            peer.raw(&[byte]);
        }
        peer.ignore();
    });
    let client = connect(&fake).await;
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, b"slow");
}

#[tokio::test]
async fn the_largest_answer_is_received() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.ask();
        peer.answer(&asked, Response { value: Some(&vec![7; 4_000_000]), ..rev(1) });
        plain(peer);
    });
    let client = connect(&fake).await;
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, vec![7; 4_000_000]);
    assert_eq!(soon(client.rev()).await.unwrap(), 7);
}

/// A watch must neither lose nor repeat an event, wherever in an answer the connection breaks.
#[tokio::test]
async fn a_watch_survives_a_cut_at_every_byte_of_an_answer() {
    let one = {
        let asked = crate::fake::Asked {
            tag: Some(0),
            verb: Verb::Wait,
            path: String::new(),
            value: vec![],
            offset: None,
            rev: None,
        };
        frame(&asked, set_event(10, "/a", "v")).len()
    };
    for cut in 0..one {
        let fake = Fake::start(move |n, peer| {
            let asked = peer.expect(Verb::Wait);
            if n == 0 {
                assert_eq!(asked.rev, Some(9));
                peer.event(&asked, 10, "/a", "v");
                let asked = peer.expect(Verb::Wait);
                assert_eq!(asked.rev, Some(11));
                peer.raw(&frame(&asked, set_event(11, "/b", "w"))[..cut]);
                peer.close();
            } else {
                assert_eq!(asked.rev, Some(11), "resumed behind the last event");
                peer.event(&asked, 11, "/b", "w");
                peer.ignore();
            }
        });
        let client = connect(&fake).await;
        let mut watch = client.watch("/**", 9);
        assert_eq!(soon(watch.next()).await.unwrap().unwrap(), event(10, "/a", "v"));
        assert_eq!(soon(watch.next()).await.unwrap().unwrap(), event(11, "/b", "w"), "cut at {cut}");
        assert_eq!(watch.next_rev(), 12);
    }
}

#[tokio::test]
async fn a_watch_goes_on_at_another_address() {
    // Whichever comes first serves one event and goes for good; the other serves the rest.
    let served = Arc::new(AtomicUsize::new(0));
    let script = |served: Arc<AtomicUsize>| {
        move |_, peer: &mut Peer| {
            let Some(asked) = peer.next() else { return };
            match served.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    assert_eq!(asked.rev, Some(1));
                    peer.event(&asked, 1, "/a", "");
                    peer.ask();
                    peer.close();
                }
                _ => {
                    assert_eq!(asked.rev, Some(2));
                    peer.event(&asked, 5, "/b", "");
                    peer.ignore();
                }
            }
        }
    };
    let (one, two) = (Fake::start(script(served.clone())), Fake::start(script(served.clone())));
    let client = options(&[&one, &two]).connect().await.unwrap();
    let mut watch = client.watch("/**", 1);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 1);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 5);
}

#[tokio::test]
async fn a_watch_waits_out_a_server_that_is_down_for_longer_than_reads_do() {
    let fake = Fake::start(|_, peer| {
        if let Some(asked) = peer.next() {
            peer.event(&asked, 1, "/a", "");
        }
        peer.ignore();
    });
    let address = fake.address;
    let client = options(&[&fake]).retry_for(Duration::ZERO).connect().await.unwrap();
    let mut watch = client.watch("/**", 1);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 1);
    drop(fake);
    // Nobody listens: reads give up, the watch does not.
    while !matches!(soon(client.rev()).await, Err(Error::Unreachable(_))) {}
    assert!(timeout(Duration::ZERO, watch.next()).await.is_err(), "no event, and no error");
    // It comes back by itself.
    let listener = std::net::TcpListener::bind(address).unwrap();
    let accepted = tokio::task::spawn_blocking(move || listener.accept().map(drop));
    soon(accepted).await.unwrap().unwrap();
}

#[tokio::test]
async fn too_late_on_resuming_is_an_item_and_the_end() {
    let fake = Fake::start(|n, peer| {
        let asked = peer.expect(Verb::Wait);
        if n == 0 {
            peer.event(&asked, 1, "/a", "");
            peer.ask();
        } else {
            assert_eq!(asked.rev, Some(2));
            peer.fail(&asked, ErrCode::TooLate, "");
            peer.ignore();
        }
    });
    let client = connect(&fake).await;
    let mut watch = client.watch("/**", 1);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 1);
    assert!(soon(watch.next()).await.unwrap().unwrap_err().is_too_late());
    assert!(soon(watch.next()).await.is_none());
    assert_eq!(watch.next_rev(), 2);
}

#[tokio::test]
async fn an_event_older_than_the_watch_is_not_believed() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.ask();
        peer.event(&asked, 4, "/a", "");
        peer.ignore();
    });
    let client = connect(&fake).await;
    let mut watch = client.watch("/**", 5);
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::BadAnswer { cause: Lost::Field(Verb::Wait, "rev"), .. }), "{error:?}");
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn no_event_is_lost_when_next_is_cancelled() {
    let (go, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let fake = Fake::start(move |_, peer| {
        let asked = peer.ask();
        going.lock().unwrap().recv().unwrap();
        peer.event(&asked, 1, "/a", "");
        let asked = peer.ask();
        assert_eq!(asked.rev, Some(2));
        peer.event(&asked, 2, "/b", "");
        peer.ignore();
    });
    let client = connect(&fake).await;
    let mut watch = client.watch("/**", 1);
    for _ in 0..10 {
        assert!(timeout(Duration::ZERO, watch.next()).await.is_err());
    }
    go.send(()).unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 1);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 2);
}

/// A write whose answer is lost may have been carried out: to send it again could do it twice.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_never_sent_again() {
    let writes = Arc::new(AtomicUsize::new(0));
    let count = writes.clone();
    let fake = Fake::start(move |n, peer| {
        if n == 0 {
            peer.expect(Verb::Set);
            count.fetch_add(1, Ordering::SeqCst);
            peer.close();
        } else {
            while let Some(asked) = peer.next() {
                assert_eq!(asked.verb, Verb::Rev);
                peer.answer(&asked, rev(7));
            }
        }
    });
    let client = connect(&fake).await;
    let error = soon(client.set("/a", 0, "x")).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(soon(client.rev()).await.unwrap(), 7);
    assert_eq!(writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_write_in_flight_learns_that_its_outcome_is_unknown() {
    let fake = Fake::start(|n, peer| {
        if n == 0 {
            let kinds: Vec<Verb> = (0..3).map(|_| peer.ask().verb).collect();
            assert_eq!(kinds, [Verb::Set, Verb::Del, Verb::Nop]);
            peer.raw(&[0, 0, 0, 9, 8]);
            peer.close();
        } else {
            plain(peer);
        }
    });
    let c = connect(&fake).await;
    let (set, del, nop) = soon(async { tokio::join!(c.set("/a", 0, "x"), c.del("/a", 0), c.nop()) }).await;
    assert!(matches!(set, Err(Error::OutcomeUnknown { .. })), "{set:?}");
    assert!(matches!(del, Err(Error::OutcomeUnknown { .. })), "{del:?}");
    assert!(matches!(nop, Err(Error::OutcomeUnknown { .. })), "{nop:?}");
    assert_eq!(soon(c.set("/a", 0, "x")).await.unwrap(), 7, "the next write finds a new connection");
}

/// A frame of which the server cannot have received the end has certainly not been carried out.
#[tokio::test]
async fn a_write_that_was_not_sent_whole_is_sent_on_the_next_connection() {
    let fake = Fake::start(|n, peer| {
        if n == 0 {
            // Read nothing beyond the first request: the socket's buffers fill with the following ones.
            let asked = peer.ask();
            assert_eq!(asked.path, "/0");
            peer.answer(&asked, rev(1));
            peer.close();
        } else {
            plain(peer);
        }
    });
    let client = connect(&fake).await;
    let calls: Vec<_> = (0..16)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.set(&format!("/{n}"), 0, vec![0; 4_000_000]).await })
        })
        .collect();
    let mut results = Vec::new();
    for call in calls {
        results.push(soon(call).await.unwrap());
    }
    // What the kernel took is unknown; all that is behind it was sent again and answered.
    assert!(results[1..].iter().all(|r| matches!(r, Ok(7) | Err(Error::OutcomeUnknown { .. }))), "{results:?}");
    assert!(results[15].is_ok(), "64 MB fit no socket's buffers");
}

#[tokio::test]
async fn a_write_that_meets_no_server_was_certainly_not_carried_out() {
    let fake = Fake::start(|_, peer| plain(peer));
    let client = options(&[&fake]).retry_for(Duration::ZERO).connect().await.unwrap();
    assert_eq!(client.rev().await.unwrap(), 7);
    drop(fake);
    // Until the loss of the connection has been noticed, a write would go out into the void.
    while !matches!(soon(client.rev()).await, Err(Error::Unreachable(_))) {}
    let error = soon(client.set("/a", 0, "")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_read_is_asked_again_but_not_for_ever() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fake = Fake::start(move |_, peer| {
        if peer.next().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        peer.close();
    });
    let client = connect(&fake).await;
    let error = soon(client.get("/killer", None)).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_read_is_answered_by_the_next_connection() {
    let fake = Fake::start(|n, peer| {
        if n == 0 {
            peer.ask();
            peer.close();
        } else {
            plain(peer);
        }
    });
    let client = connect(&fake).await;
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, b"/a");
}

#[tokio::test]
async fn garbage_is_an_error_and_not_a_panic_or_a_wait() {
    let garbage: [&[u8]; 9] = [
        &[0xff; 64],                        // a negative length
        &[0x7f, 0xff, 0xff, 0xff, 1, 2, 3], // a length of 2 GiB
        &[0, 0x40, 0, 1],                   // one over the limit
        &[0, 0, 0, 1, 0x07],                // wire type 7
        &[0, 0, 0, 2, 0x08, 0x80],          // a truncated varint
        &[0, 0, 0, 0],                      // no tag
        &[0, 0, 0, 2, 0x08, 0x63],          // somebody else's tag
        &[0, 0, 0, 2, 0x0a, 0],             // a tag of the wrong type
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ];
    for bytes in garbage {
        let fake = Fake::start(move |n, peer| {
            if n > 1 {
                return plain(peer);
            }
            peer.ask();
            peer.raw(bytes);
            peer.ignore();
        });
        let client = connect(&fake).await;
        let error = soon(client.get("/a", None)).await.unwrap_err();
        assert!(matches!(&error, Error::BadAnswer { cause, .. } if cause.is_malformed()), "{bytes:?}: {error:?}");
        let error = soon(client.set("/a", 0, "")).await.unwrap_err();
        assert!(matches!(&error, Error::OutcomeUnknown { cause, .. } if cause.is_malformed()), "{bytes:?}: {error:?}");
        assert_eq!(soon(client.rev()).await.unwrap(), 7, "and the next connection is as good as new");
    }
}

/// It comes before the request is sent, or after: neither may make the call wait, or be tried for ever.
#[tokio::test]
async fn garbage_in_place_of_a_greeting_fails_every_kind_of_call() {
    let fake = Fake::start(|_, peer| {
        peer.raw(b"SSH-2.0-OpenSSH_9.9\r\n");
        peer.ignore();
    });
    for _ in 0..20 {
        let client = options(&[&fake]).retry_for(PATIENCE * 2).connect().await.unwrap();
        let mut watch = client.watch("/**", 1);
        let event = soon(watch.next()).await.unwrap();
        assert!(matches!(event, Err(Error::BadAnswer { .. })), "{event:?}");
        let read = soon(client.rev()).await;
        assert!(matches!(read, Err(Error::BadAnswer { .. })), "{read:?}");
        let write = soon(client.nop()).await;
        assert!(matches!(write, Err(Error::OutcomeUnknown { .. } | Error::Disconnected { .. })), "{write:?}");
    }
}

/// With another address a call need not fail.
#[tokio::test]
async fn garbage_at_one_address_fails_calls_that_another_address_could_answer() {
    let bad = Fake::start(|_, peer| {
        if peer.next().is_none() {
            return;
        }
        peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.ignore();
    });
    let good = Fake::start(|_, peer| well(peer));
    for _ in 0..3 {
        let client = connect_to_first(&[&bad, &good], |o| o).await;
        let (get, wait) = soon(async { tokio::join!(client.get("/a", None), client.wait("/**", 9)) }).await;
        assert_eq!((get.unwrap().value, wait.unwrap().rev), (b"new".to_vec(), 9));
        let client = connect_to_first(&[&bad, &good], |o| o).await;
        assert_eq!(soon(client.watch("/**", 9).next()).await.unwrap().unwrap().rev, 9);
        // What it did with a write is not known.
        let client = connect_to_first(&[&bad, &good], |o| o).await;
        let error = soon(client.set("/a", 0, "")).await.unwrap_err();
        assert!(matches!(&error, Error::OutcomeUnknown { cause, .. } if cause.is_malformed()), "{error:?}");
        assert_eq!(soon(client.rev()).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_given_up() {
    let fake = Fake::start(|_, peer| peer.close());
    let client = options(&[&fake]).retry_for(Duration::from_millis(100)).connect().await.unwrap();
    for _ in 0..3 {
        let read = soon(client.rev()).await;
        assert!(matches!(read, Err(Error::Disconnected { .. })), "{read:?}");
        let write = soon(client.nop()).await;
        assert!(matches!(write, Err(Error::OutcomeUnknown { .. } | Error::Disconnected { .. })), "{write:?}");
    }
}

#[tokio::test]
async fn an_answer_that_lacks_what_it_must_have_fails_its_call_alone() {
    let fake = Fake::start(|_, peer| {
        while let Some(asked) = peer.next() {
            peer.answer(&asked, Response { len: Some(-1), ..Response::default() });
        }
    });
    let c = connect(&fake).await;
    let bad = |e: Error, field: &str| matches!(e, Error::BadAnswer { cause: Lost::Field(_, f), .. } if f == field);
    assert!(bad(c.rev().await.unwrap_err(), "rev"));
    assert!(bad(c.get("/", None).await.unwrap_err(), "rev"));
    assert!(bad(c.getdir_at("/", 0, None).await.unwrap_err(), "path"));
    assert!(bad(c.wait("/", 0).await.unwrap_err(), "flags"));
    c.nop().await.unwrap();
}

#[tokio::test]
async fn an_error_code_of_the_future_is_told_by_its_number() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.ask();
        peer.answer(&asked, Response { err_code: Some(55), err_detail: Some(b"new"), ..Response::default() });
        peer.ignore();
    });
    let client = connect(&fake).await;
    let error = soon(client.nop()).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown error 55: new");
    assert!(matches!(error, Error::UnknownCode { code: 55, .. }));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let fake = Fake::start(|_, peer| peer.ignore());
    let quick = Duration::from_secs(1);
    let client = options(&[&fake]).quiet_limit(quick).retry_for(quick).connect().await.unwrap();
    let read = soon(client.get("/a", None)).await.unwrap_err();
    assert!(matches!(read, Error::Disconnected { cause: Lost::Quiet(_), .. }), "{read:?}");
    let write = soon(client.set("/a", 0, "")).await.unwrap_err();
    assert!(matches!(write, Error::OutcomeUnknown { cause: Lost::Quiet(_), .. }), "{write:?}");
}

#[tokio::test]
async fn a_server_that_never_takes_the_secret_is_given_up() {
    let fake = Fake::start(|_, peer| peer.ignore());
    let options = options(&[&fake]).secret("s").connect_timeout(Duration::from_millis(20));
    let error = soon(options.connect()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

/// A wait may take days: as long as the server gives a sign of life, its silence means nothing.
#[tokio::test]
async fn a_wait_outlasts_the_quiet_limit_while_the_server_lives() {
    let fake = Fake::start(|n, peer| {
        assert_eq!(n, 0, "the connection was good all the time");
        let wait = peer.expect(Verb::Wait);
        for _ in 0..3 {
            let ping = peer.expect(Verb::Rev);
            peer.answer(&ping, rev(1));
        }
        peer.event(&wait, 2, "/a", "");
        peer.ignore();
    });
    let client = options(&[&fake]).quiet_limit(Duration::from_secs(5)).connect().await.unwrap();
    assert_eq!(soon(client.wait("/a", 1)).await.unwrap().rev, 2);
}

#[tokio::test]
async fn the_secret_is_presented_on_each_connection_before_anything_else() {
    let fake = Fake::start(|n, peer| {
        let asked = peer.expect(Verb::Access);
        assert_eq!(asked.value, b"s1");
        peer.answer(&asked, Response::default());
        if n == 0 {
            let asked = peer.expect(Verb::Access);
            assert_eq!(asked.value, b"s2");
            peer.answer(&asked, Response::default());
            peer.expect(Verb::Get);
            return;
        }
        let asked = peer.expect(Verb::Access);
        assert_eq!(asked.value, b"s2", "what was granted later is asked for again, too");
        peer.answer(&asked, Response::default());
        plain(peer);
    });
    let target = format!("{}&sk=s1", fake.uri());
    let client = Client::connect(&target).await.unwrap();
    soon(client.access("s2")).await.unwrap();
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, b"/a");
}

#[tokio::test]
async fn a_refused_secret_is_the_servers_error() {
    let fake = Fake::start(|_, peer| {
        if let Some(asked) = peer.next() {
            peer.fail(&asked, ErrCode::Other, "permission denied");
        }
        peer.ignore();
    });
    let error = options(&[&fake]).secret("wrong").connect().await.unwrap_err();
    let Error::Unreachable(unreachable) = &error else { panic!("{error:?}") };
    assert!(unreachable.is_refused());
    let address = fake.address;
    assert_eq!(error.to_string(), format!("cannot connect to {address}: OTHER: permission denied"));
}

#[tokio::test]
async fn a_watch_ends_when_its_secret_is_refused_on_reconnecting() {
    let fake = Fake::start(|n, peer| {
        let asked = peer.expect(Verb::Access);
        if n == 0 {
            peer.answer(&asked, Response::default());
            peer.expect(Verb::Wait);
        } else {
            peer.fail(&asked, ErrCode::Other, "permission denied");
        }
    });
    let client = options(&[&fake]).secret("s").connect().await.unwrap();
    let mut watch = client.watch("/**", 1);
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Unreachable(u) if u.is_refused()), "{error:?}");
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn a_walk_is_pinned_to_one_revision_and_in_order() {
    let fake = Fake::start(|_, peer| {
        let asked = peer.expect(Verb::Rev);
        peer.answer(&asked, rev(42));
        // Answer in pairs, the later first.
        while let (Some(a), Some(b)) = (peer.next(), peer.next()) {
            for asked in [b, a] {
                assert_eq!((asked.verb, asked.rev, asked.path.as_str()), (Verb::Walk, Some(42), "/**"));
                match asked.offset.unwrap() {
                    n @ 0..101 => peer.event(&asked, i64::from(n) + 1, &format!("/{n}"), "v"),
                    _ => peer.fail(&asked, ErrCode::Range, ""),
                }
            }
        }
    });
    let client = connect(&fake).await;
    let mut walk = client.walk("/**", None);
    for n in 0..101 {
        let entry = soon(walk.next()).await.unwrap().unwrap();
        assert_eq!(entry, Entry { path: format!("/{n}"), rev: n + 1, value: b"v".to_vec() });
        assert_eq!(walk.rev(), Some(42));
    }
    assert!(soon(walk.next()).await.is_none());
    assert!(soon(walk.next()).await.is_none());
}

#[tokio::test]
async fn a_walk_with_a_revision_does_not_ask_for_one() {
    let fake = Fake::start(|_, peer| {
        while let Some(asked) = peer.next() {
            assert_eq!((asked.verb, asked.rev), (Verb::Getdir, Some(3)));
            peer.fail(&asked, ErrCode::Noent, "");
        }
    });
    let client = connect(&fake).await;
    let mut names = client.getdir("/none", Some(3));
    assert_eq!(soon(names.next()).await.unwrap().unwrap_err().code(), Some(ErrCode::Noent));
    assert!(soon(names.next()).await.is_none());
}

#[tokio::test]
async fn a_walk_goes_on_where_its_connection_was_cut() {
    let fake = Fake::start(|n, peer| {
        let mut left = if n == 0 { 7 } else { usize::MAX };
        while let Some(asked) = peer.next() {
            if left == 0 {
                return peer.close();
            }
            left -= 1;
            match asked.offset.unwrap() {
                n @ 0..50 => peer.event(&asked, 1, &format!("/{n}"), ""),
                _ => peer.fail(&asked, ErrCode::Range, ""),
            }
        }
    });
    let client = connect(&fake).await;
    let mut walk = client.walk("/*", Some(9));
    let mut paths = Vec::new();
    while let Some(entry) = soon(walk.next()).await {
        paths.push(entry.unwrap().path);
    }
    assert_eq!(paths, (0..50).map(|n| format!("/{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_say_what_stands_at_each_name() {
    let fake = Fake::start(|_, peer| {
        while let Some(asked) = peer.next() {
            assert_eq!(asked.rev, Some(5));
            match (asked.verb, asked.offset, asked.path.as_str()) {
                (Verb::Getdir, Some(0), "/d") => {
                    peer.answer(&asked, Response { path: Some(b"f"), ..Response::default() });
                }
                (Verb::Getdir, Some(1), "/d") => {
                    peer.answer(&asked, Response { path: Some(b"g"), ..Response::default() });
                }
                (Verb::Stat, _, "/d/f") => peer.answer(&asked, Response { len: Some(3), ..rev(4) }),
                (Verb::Stat, _, "/d/g") => peer.answer(&asked, Response { len: Some(1), ..rev(-2) }),
                (Verb::Getdir, _, "/d") => peer.fail(&asked, ErrCode::Range, ""),
                _ => panic!("{asked:?}"),
            }
        }
    });
    let client = connect(&fake).await;
    let mut entries = client.entries("/d", Some(5));
    assert_eq!(soon(entries.next()).await.unwrap().unwrap(), ("f".into(), Stat::File { rev: 4, len: 3 }));
    assert_eq!(soon(entries.next()).await.unwrap().unwrap(), ("g".into(), Stat::Directory { entries: 1 }));
    assert!(soon(entries.next()).await.is_none());
}

#[tokio::test]
async fn a_cancelled_call_disturbs_no_other() {
    let fake = Fake::start(|_, peer| {
        let first = peer.expect(Verb::Get);
        let second = peer.expect(Verb::Rev);
        peer.answer(&first, rev(1));
        peer.answer(&second, rev(2));
        plain(peer);
    });
    let client = connect(&fake).await;
    let mut get = Box::pin(client.get("/a", None));
    assert!(timeout(Duration::ZERO, get.as_mut()).await.is_err());
    // The driver has taken it from the queue when a later call of ours is answered; here it is given up before that.
    tokio::task::yield_now().await;
    drop(get);
    assert!(matches!(soon(client.rev()).await, Ok(2 | 7)));
    assert_eq!(soon(client.rev()).await.unwrap(), 7);
}

/// The protocol cannot take a wait back: its tag, and the server's waiter, live as long as the connection.
#[tokio::test]
async fn abandoned_waits_do_not_pile_up_without_end() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let fake = Fake::start(move |_, peer| {
        count.fetch_add(1, Ordering::SeqCst);
        while let Some(asked) = peer.next() {
            if asked.verb == Verb::Rev {
                peer.answer(&asked, rev(1));
            }
        }
    });
    let client = connect(&fake).await;
    for _ in 0..3000 {
        let mut wait = Box::pin(client.wait("/never", 1));
        let pending = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_pending())).await;
        assert!(pending, "no event ever comes");
        // Answered: so the wait before it was sent.
        soon(client.rev()).await.unwrap();
    }
    let connections = connections.load(Ordering::SeqCst);
    assert!((2..=4).contains(&connections), "{connections} connections");
}

/// A server that has just gone is the worst of all addresses to go on with.
#[tokio::test]
async fn a_client_whose_connection_is_lost_goes_on_at_another_address() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let first = Fake::start(move |_, peer| {
        count.fetch_add(1, Ordering::SeqCst);
        let Some(asked) = peer.next() else { return };
        peer.answer(&asked, rev(1));
        // The second request finds it gone.
        peer.next();
        peer.close();
    });
    let second = Fake::start(|_, peer| well(peer));
    let client = connect_to_first(&[&first, &second], |o| o).await;
    assert_eq!(soon(client.rev()).await.unwrap(), 1);
    let before = connections.load(Ordering::SeqCst);
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, b"new");
    assert_eq!(client.server().to_string(), second.address.to_string());
    assert_eq!(connections.load(Ordering::SeqCst), before);
}

/// A program that asks for one thing after the other counts on being served in that order, on whichever connection.
#[tokio::test]
async fn requests_are_sent_again_in_another_order() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let fake = Fake::start(move |n, peer| {
        let asked: Vec<Asked> = (0..8).map_while(|_| peer.next()).collect();
        if n == 0 {
            return peer.close();
        }
        *seen.lock().unwrap() = asked.iter().map(|asked| asked.path.clone()).collect();
        asked.iter().for_each(|asked| peer.answer(asked, Response { value: Some(b"x"), ..rev(7) }));
    });
    let client = connect(&fake).await;
    let paths: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    let calls: Vec<_> = paths.iter().map(|path| client.get(path, None)).collect();
    let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
    for call in &mut calls {
        assert!(timeout(Duration::ZERO, call.as_mut()).await.is_err(), "nothing is answered before all are sent");
    }
    for call in calls {
        soon(call).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), paths);
}

/// A crowded connection is given up for another, but not while a write is on its way: nobody would learn its outcome.
#[tokio::test]
async fn abandoned_waits_cost_a_write_its_answer() {
    let fake = Fake::start(|n, peer| {
        assert_eq!(n, 0, "the write would be of unknown outcome");
        let mut write = None;
        while let Some(asked) = peer.next() {
            match asked.verb {
                Verb::Set => write = Some(asked),
                Verb::Get => {
                    peer.answer(&write.take().expect("the write came first"), rev(7));
                    peer.answer(&asked, Response { value: Some(b"x"), ..rev(7) });
                }
                Verb::Rev => peer.answer(&asked, rev(1)),
                _ => {}
            }
        }
    });
    let client = connect(&fake).await;
    let writer = client.clone();
    let write = tokio::spawn(async move { writer.set("/a", 0, "x").await });
    for _ in 0..3000 {
        let mut wait = Box::pin(client.wait("/never", 1));
        let pending = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_pending())).await;
        assert!(pending, "no event ever comes");
        soon(client.rev()).await.unwrap();
    }
    soon(client.get("/a", None)).await.unwrap();
    assert_eq!(soon(write).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn callers_wait_while_too_much_is_queued() {
    let (go, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let fake = Fake::start(move |_, peer| {
        going.lock().unwrap().recv().unwrap();
        plain(peer);
    });
    let client = connect(&fake).await;
    // Far more than queue and socket take.
    let calls: Vec<_> = (0..2000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.set("/a", 0, vec![0; 20_000]).await })
        })
        .collect();
    tokio::task::yield_now().await;
    go.send(()).unwrap();
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap(), 7);
    }
}

#[tokio::test]
async fn a_request_that_no_server_takes_is_not_sent() {
    let fake = Fake::start(|_, peer| plain(peer));
    let client = connect(&fake).await;
    let error = client.set("/a", 0, vec![0; 4 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: 4_194_304, .. }), "{error:?}");
    assert_eq!(soon(client.rev()).await.unwrap(), 7);
}

#[tokio::test]
async fn the_name_service_knows_the_addresses_of_a_named_cluster() {
    let cluster = Fake::start(|_, peer| {
        let Some(asked) = peer.next() else { return };
        assert_eq!((asked.verb, asked.value.as_slice()), (Verb::Access, &b"pw"[..]));
        peer.answer(&asked, Response::default());
        plain(peer);
    });
    let address = cluster.address.to_string();
    let boot = Fake::start(move |_, peer| {
        while let Some(asked) = peer.next() {
            match (asked.verb, asked.path.as_str(), asked.offset) {
                (Verb::Rev, ..) => peer.answer(&asked, rev(9)),
                (Verb::Getdir, "/ctl/ns/c", Some(0)) => {
                    peer.answer(&asked, Response { path: Some(b"ID"), ..Response::default() });
                }
                (Verb::Getdir, "/ctl/ns/c", _) => peer.fail(&asked, ErrCode::Range, ""),
                (Verb::Getdir, ..) => peer.fail(&asked, ErrCode::Noent, ""),
                (Verb::Get, "/ctl/ns/c/ID", _) => {
                    peer.answer(&asked, Response { value: Some(address.as_bytes()), ..rev(3) });
                }
                _ => panic!("{asked:?}"),
            }
        }
    });
    let client = Client::connect_via("doozer:?cn=c&sk=pw", &boot.uri()).await.unwrap();
    assert_eq!(soon(client.rev()).await.unwrap(), 7);
    let error = Client::connect_via("doozer:?cn=other", &boot.uri()).await.unwrap_err();
    assert!(matches!(&error, Error::NotRegistered(name) if name == "other"), "{error:?}");
    let direct = Client::connect_via(&format!("{}&sk=pw", cluster.uri()), "doozer:?ca=nobody.invalid").await.unwrap();
    assert_eq!(soon(direct.rev()).await.unwrap(), 7);
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_its_reason() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::connect(&address.to_string()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot connect to {address}: Connection refused")), "{text}");
}

// ---- a server that hangs, or that lost the majority, while others are well ----

/// What a server answers that has lost the majority: reads and waits go on, nothing else does. Waits get no event.
fn cut_off(peer: &mut Peer) {
    peer.knows_sync();
    while let Some(asked) = peer.next() {
        without_majority(peer, &asked);
    }
}

fn without_majority(peer: &mut Peer, asked: &Asked) {
    match asked.verb {
        Verb::Set | Verb::Del | Verb::Nop | Verb::Sync => peer.fail(asked, ErrCode::Readonly, ""),
        Verb::Wait => {}
        Verb::Get => peer.answer(asked, Response { value: Some(b"old"), ..rev(3) }),
        _ => peer.answer(asked, rev(3)),
    }
}

/// What a server answers that is well; every wait gets an event.
fn well(peer: &mut Peer) {
    peer.knows_sync();
    while let Some(asked) = peer.next() {
        match asked.verb {
            Verb::Wait => peer.event(&asked, asked.rev.expect("a revision"), "/a", "new"),
            Verb::Get => peer.answer(&asked, Response { value: Some(b"new"), ..rev(7) }),
            Verb::Del | Verb::Nop => peer.answer(&asked, Response::default()),
            _ => peer.answer(&asked, rev(7)),
        }
    }
}

/// A client that is connected to the first of these servers.
async fn connect_to_first(fakes: &[&Fake], options: impl Fn(Options) -> Options) -> Client {
    let first = fakes[0].address.to_string();
    loop {
        let client = options(self::options(fakes)).connect().await.expect("a connection");
        // A connection begins with a random address.
        if client.server().to_string() == first {
            return client;
        }
    }
}

/// READONLY says that the write was certainly not carried out, so another server may carry it out.
#[tokio::test]
async fn a_write_that_is_refused_by_a_cut_off_server_is_done_by_another() {
    let (cut, good) = (Fake::start(|_, peer| cut_off(peer)), Fake::start(|_, peer| well(peer)));
    for _ in 0..4 {
        let client = connect_to_first(&[&cut, &good], |o| o).await;
        let (set, del, nop) =
            soon(async { tokio::join!(client.set("/a", 0, "x"), client.del("/a", 7), client.nop()) }).await;
        assert_eq!(set.unwrap(), 7);
        del.unwrap();
        nop.unwrap();
        assert_eq!(soon(client.sync()).await.unwrap(), 7);
        assert_eq!(client.server().to_string(), good.address.to_string());
    }
}

#[tokio::test]
async fn a_write_is_readonly_when_all_addresses_refuse_it() {
    let writes = Arc::new(AtomicUsize::new(0));
    let count = writes.clone();
    let counting = move |_: usize, peer: &mut Peer| {
        peer.knows_sync();
        while let Some(asked) = peer.next() {
            count.fetch_add(usize::from(asked.verb == Verb::Set), Ordering::SeqCst);
            without_majority(peer, &asked);
        }
    };
    let (one, two) = (Fake::start(counting.clone()), Fake::start(counting));
    let client = options(&[&one, &two]).readonly_for(Duration::from_millis(300)).connect().await.unwrap();
    let error = soon(client.set("/a", 0, "x")).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrCode::Readonly));
    assert!(writes.load(Ordering::SeqCst) > 1, "it is tried again for as long as it may");
    // The connection is as good as before.
    assert_eq!(soon(client.get("/a", None)).await.unwrap().value, b"old");
    let client = options(&[&one, &two]).readonly_for(Duration::ZERO).connect().await.unwrap();
    writes.store(0, Ordering::SeqCst);
    let error = soon(client.set("/a", 0, "x")).await.unwrap_err();
    assert_eq!((error.code(), writes.load(Ordering::SeqCst)), (Some(ErrCode::Readonly), 1));
}

/// Each READONLY is an answer, and no attempt that failed: a read that met some of them still outlives the loss of a connection.
#[tokio::test]
async fn a_read_that_was_refused_is_given_up_with_the_next_lost_connection() {
    const REFUSED: usize = 3;
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, seen) = (asked.clone(), asked.clone());
    let cut = Fake::start(move |_, peer| {
        peer.knows_sync();
        while let Some(sync) = peer.next() {
            if count.fetch_add(1, Ordering::SeqCst) == REFUSED {
                return peer.close();
            }
            without_majority(peer, &sync);
        }
    });
    let other = Fake::start(move |_, peer| {
        peer.knows_sync();
        while let Some(sync) = peer.next() {
            match seen.load(Ordering::SeqCst) {
                0..=REFUSED => without_majority(peer, &sync),
                _ => peer.answer(&sync, rev(7)),
            }
        }
    });
    let client = connect_to_first(&[&cut, &other], |o| o.readonly_for(PATIENCE).slow_after(PATIENCE)).await;
    assert_eq!(soon(client.sync()).await.unwrap(), 7);
    assert_eq!(asked.load(Ordering::SeqCst), REFUSED + 1);
}

#[tokio::test]
async fn with_one_address_readonly_is_returned_at_once() {
    let fake = Fake::start(|n, peer| {
        assert_eq!(n, 0, "there is nowhere else to go");
        cut_off(peer);
    });
    let client = options(&[&fake]).readonly_for(PATIENCE * 2).connect().await.unwrap();
    assert_eq!(soon(client.nop()).await.unwrap_err().code(), Some(ErrCode::Readonly));
}

/// A write that the cut-off server has taken before may be carried out yet: moving to another server must not make it one of
/// unknown outcome, nor send it twice.
#[tokio::test]
async fn a_write_that_waits_for_its_answer_stays_where_it_is_when_the_client_moves() {
    let (go, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let cut = Fake::start(move |_, peer| {
        peer.knows_sync();
        let Some(first) = peer.next() else { return };
        assert_eq!(first.path, "/first");
        let second = peer.ask();
        without_majority(peer, &second);
        // The majority is back, and with it the first write's answer.
        if going.lock().unwrap().recv().is_ok() {
            peer.answer(&first, rev(5));
            peer.ignore();
        }
    });
    let good = Fake::start(|_, peer| {
        peer.knows_sync();
        while let Some(asked) = peer.next() {
            assert_ne!(asked.path, "/first", "it was sent again");
            peer.answer(&asked, rev(7));
        }
    });
    let client = connect_to_first(&[&cut, &good], |o| o).await;
    let mut first = Box::pin(client.set("/first", 0, "x"));
    let pending = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    tokio::task::yield_now().await;
    assert_eq!(soon(client.set("/second", 0, "x")).await.unwrap(), 7);
    assert_eq!(client.server().to_string(), good.address.to_string());
    go.send(()).unwrap();
    assert_eq!(soon(first).await.unwrap(), 5);
}

/// A watch on a server that lost the majority was stale for ever, without a word.
#[tokio::test]
async fn a_watch_leaves_a_server_that_lost_the_majority() {
    let (cut, good) = (Fake::start(|_, peer| cut_off(peer)), Fake::start(|_, peer| well(peer)));
    let quick = |o: Options| o.sync_every(Duration::from_millis(20));
    for when in [WhenStale::Move, WhenStale::Report] {
        let client = connect_to_first(&[&cut, &good], quick).await;
        let mut watch = client.watch_with("/**", 9, when);
        assert_eq!(soon(watch.next()).await.unwrap().unwrap(), event(9, "/a", "new"));
        assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 10);
    }
    let client = connect_to_first(&[&cut, &good], quick).await;
    assert_eq!(soon(client.wait("/**", 9)).await.unwrap().rev, 9, "a single wait, too");
}

#[tokio::test]
async fn a_watch_that_cannot_move_says_so_once_and_goes_on() {
    let healed = Arc::new(AtomicUsize::new(0));
    let is_healed = healed.clone();
    let script = move |_: usize, peer: &mut Peer| {
        peer.knows_sync();
        let mut waits = Vec::new();
        while let Some(asked) = peer.next() {
            let well = is_healed.load(Ordering::SeqCst) == 1;
            match asked.verb {
                Verb::Wait => waits.push(asked),
                Verb::Sync if well => {
                    peer.answer(&asked, rev(7));
                    for wait in waits.drain(..) {
                        peer.event(&wait, 9, "/a", "new");
                    }
                }
                _ => without_majority(peer, &asked),
            }
        }
    };
    let (one, two) = (Fake::start(script.clone()), Fake::start(script));
    for fakes in [&[&one][..], &[&one, &two]] {
        healed.store(0, Ordering::SeqCst);
        let client = options(fakes).sync_every(Duration::from_millis(20)).connect().await.unwrap();
        let (mut told, mut silent) = (client.watch_with("/**", 9, WhenStale::Report), client.watch("/**", 9));
        let error = soon(told.next()).await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Stale(Stale::NoMajority(at)) if *at == client.server()), "{error:?}");
        assert!(timeout(Duration::from_millis(100), told.next()).await.is_err(), "told twice");
        assert!(timeout(Duration::ZERO, silent.next()).await.is_err());
        healed.store(1, Ordering::SeqCst);
        assert_eq!(soon(told.next()).await.unwrap().unwrap().rev, 9);
        assert_eq!(soon(silent.next()).await.unwrap().unwrap().rev, 9);
    }
}

#[tokio::test]
async fn a_watch_that_stays_asks_for_nothing() {
    let fake = Fake::start(|_, peer| {
        peer.knows_sync();
        let wait = peer.expect(Verb::Wait);
        // Signs of life, and no SYNC.
        for _ in 0..5 {
            let ping = peer.expect(Verb::Rev);
            peer.answer(&ping, rev(1));
        }
        peer.event(&wait, 2, "/a", "");
        peer.ignore();
    });
    let quick = Duration::from_millis(10);
    let client = options(&[&fake]).sync_every(quick).quiet_limit(quick * 10).connect().await.unwrap();
    let mut watch = client.watch_with("/**", 1, WhenStale::Stay);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 2);
}

#[tokio::test]
async fn a_server_of_the_original_is_asked_for_sync_once() {
    let fake = Fake::start(|_, peer| {
        peer.knows_sync();
        let wait = peer.expect(Verb::Wait);
        let sync = peer.expect(Verb::Sync);
        peer.fail(&sync, ErrCode::UnknownVerb, "");
        for _ in 0..3 {
            let ping = peer.expect(Verb::Rev);
            peer.answer(&ping, rev(1));
        }
        peer.event(&wait, 2, "/a", "");
        peer.ignore();
    });
    let quick = Duration::from_millis(20);
    let client = options(&[&fake]).sync_every(quick).quiet_limit(quick * 5).connect().await.unwrap();
    let mut watch = client.watch_with("/**", 1, WhenStale::Report);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 2);
}

/// The kernel accepts connections for a process that is stopped, so only the missing answer shows it.
#[tokio::test]
async fn reads_and_waits_do_not_hang_with_a_server_that_hangs() {
    let (hung, good) = (Fake::start(|_, peer| peer.ignore()), Fake::start(|_, peer| well(peer)));
    // Long before the connection counts as lost.
    let patient = |o: Options| o.slow_after(Duration::from_millis(40)).quiet_limit(PATIENCE * 2);
    let client = connect_to_first(&[&hung, &good], patient).await;
    let (get, rev, wait) =
        soon(async { tokio::join!(client.get("/a", None), client.rev(), client.wait("/**", 9)) }).await;
    assert_eq!((get.unwrap().value, rev.unwrap(), wait.unwrap().rev), (b"new".to_vec(), 7, 9));
    let client = connect_to_first(&[&hung, &good], patient).await;
    let mut watch = client.watch("/**", 9);
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().rev, 9);
}

/// Bytes that never become an answer are no sign of life.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the server sends a byte every 20 ms; nobody waits for that")]
async fn reads_and_waits_do_not_hang_with_a_server_that_sends_a_byte_now_and_then() {
    let drips = Fake::start(|_, peer| {
        let Some(asked) = peer.next() else { return };
        for byte in frame(&asked, Response { value: Some(&[7; 1000]), ..rev(7) }) {
            peer.raw(&[byte]);
            std::thread::sleep(Duration::from_millis(20));
        }
        peer.ignore();
    });
    let good = Fake::start(|_, peer| well(peer));
    let patient = |o: Options| o.slow_after(Duration::from_millis(100)).quiet_limit(PATIENCE * 2);
    let client = connect_to_first(&[&drips, &good], patient).await;
    let (get, wait) = soon(async { tokio::join!(client.get("/a", None), client.wait("/**", 9)) }).await;
    assert_eq!((get.unwrap().value, wait.unwrap().rev), (b"new".to_vec(), 9));
}

/// A write that the hung server may have is not sent to another one, and does not keep the reads.
#[tokio::test]
async fn a_write_to_a_server_that_hangs_has_an_unknown_outcome_with_its_address() {
    let hung = Fake::start(|_, peer| peer.ignore());
    let good = Fake::start(|_, peer| {
        while let Some(asked) = peer.next() {
            assert_ne!(asked.path, "/w", "it was sent again");
            peer.answer(&asked, Response { value: Some(b"new"), ..rev(7) });
        }
    });
    let patient = |o: Options| o.slow_after(Duration::from_millis(40)).quiet_limit(Duration::from_millis(500));
    let client = connect_to_first(&[&hung, &good], patient).await;
    let (write, read) = soon(async { tokio::join!(client.set("/w", 0, "x"), client.get("/a", None)) }).await;
    assert_eq!(read.unwrap().value, b"new");
    let error = write.unwrap_err();
    let Error::OutcomeUnknown { address: Some(address), cause: Lost::Quiet(_) } = &error else { panic!("{error:?}") };
    assert_eq!(address.to_string(), hung.address.to_string());
    let text = error.to_string();
    assert!(text.contains(&format!("the connection to {} was lost", hung.address)), "{text}");
}

/// An address that does not answer must not take the time of those behind it.
#[tokio::test]
async fn connecting_does_not_hang_with_a_server_that_hangs() {
    let hung = Fake::start(|_, peer| peer.ignore());
    let good = Fake::start(|_, peer| {
        let Some(asked) = peer.next() else { return };
        assert_eq!(asked.verb, Verb::Access);
        peer.answer(&asked, Response::default());
        peer.ignore();
    });
    for _ in 0..4 {
        let options = options(&[&hung, &good]).secret("s").connect_timeout(PATIENCE * 2);
        let client = soon(options.slow_after(Duration::from_millis(20)).connect()).await.unwrap();
        assert_eq!(client.server().to_string(), good.address.to_string());
    }
}
