//! Who may do what: the two secrets, what a connection is granted, and that nothing is checked before that.

use crate::common::process::{Setup, shared};
use crate::common::wire::*;
use doozer::wire::{Request, Verb};

const DENIED: &str = "OTHER \"permission denied\"";

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum May {
    Nothing,
    Read,
    Write,
}

/// Tries every verb, well and badly put, and checks that it is allowed or denied as `may` says.
#[track_caller]
fn may(c: &mut Client, may: May) {
    let reads = [
        get("/ctl/name"),
        stat("/ctl/name"),
        getdir("/ctl", 0),
        walk("/ctl/name", 0),
        wait("/ctl/name", 1),
        bare(Verb::Stats),
        // Denied before anything else is looked at.
        bare(Verb::Get),
        bare(Verb::Getdir),
        bare(Verb::Walk),
        bare(Verb::Wait),
        walk("bad", -1),
        wait("bad", 1),
        get("bad"),
        getdir("/missing", 0),
        get("/").at(i64::MIN),
    ];
    let writes = [
        set("/access", -1, b"x"),
        del("/access", -1),
        bare(Verb::Nop),
        bare(Verb::Set),
        bare(Verb::Del),
        set("bad", -1, b""),
        set("/ctl", -1, b""),
        set("/ctl/name/below", -1, b""),
        set("/ctl/name", 0, b""),
        del("/ctl", -1),
    ];
    let all = reads.iter().map(|r| (r, may != May::Nothing)).chain(writes.iter().map(|r| (r, may == May::Write)));
    for (request, allowed) in all {
        let said = c.ask(request);
        assert_eq!(said != DENIED, allowed, "{may:?} {request:?}: {said}");
    }
    if may == May::Nothing {
        // Also where the answer would have to wait.
        assert_eq!(c.ask(&get("/ctl/name").at(i64::MAX)), DENIED);
        assert_eq!(c.ask(&wait("/**", i64::MAX)), DENIED);
    }
    // These need no access.
    assert!(c.call(&bare(Verb::Rev)).revision() > 0);
    assert_eq!(c.call(&bare(Verb::SelfId)).value.unwrap().len(), 16);
    assert_eq!(c.ask(&Request::default()), "UNKNOWN_VERB");
}

/// With no secret set, everyone may do everything, and the empty secret is the right one.
#[test]
fn without_secrets_someone_is_locked_out() {
    let mut c = Client::connect(shared());
    may(&mut c, May::Write);
    assert_eq!(c.ask(&access("")), "ok");
    assert_eq!(c.ask(&bare(Verb::Access)), "ok");
    assert_eq!(c.ask(&access("").tag(3)), "tag=3");
    assert_eq!(c.ask(&access("guess")), DENIED);
    assert_eq!(c.ask(&access("\0")), DENIED);
    may(&mut c, May::Write);
}

/// With both secrets set, a stranger may do nothing; what was granted stays, and is its connection's alone.
#[test]
fn with_both_secrets_a_stranger_gets_in() {
    let server = Setup::new().env("DOOZER_RWSECRET", "write!").env("DOOZER_ROSECRET", "read").start();
    let mut c = server.connect();
    may(&mut c, May::Nothing);
    let wrong = ["", "r", "rea", "readx", "Read", "write", "write!!", "write!\0", "readwrite!", "\0"];
    for guess in wrong {
        // A connection waits longer after each wrong secret.
        assert_eq!(server.connect().ask(&access(guess)), DENIED, "{guess:?}");
    }
    assert_eq!(c.ask(&bare(Verb::Access)), DENIED, "an absent secret is the empty one");
    may(&mut c, May::Nothing);
    assert_eq!(c.ask(&access("read")), "ok");
    may(&mut c, May::Read);
    assert_eq!(c.ask(&access("guess")), DENIED);
    may(&mut c, May::Read);
    assert_eq!(c.ask(&access("write!")), "ok");
    may(&mut c, May::Write);
    assert_eq!(c.ask(&access("read")), "ok");
    may(&mut c, May::Write);
    assert_eq!(c.ask(&access("")), DENIED);
    may(&mut c, May::Write);
    let mut other = server.connect();
    may(&mut other, May::Nothing);
    assert_eq!(other.ask(&access("write!")), "ok");
    may(&mut other, May::Write);
    // Requests behind an ACCESS in one write have what it grants.
    let mut third = server.connect();
    third.send_all(&[get("/ctl/name").tag(1), access("write!").tag(2), set("/x", -1, b"").tag(3)]);
    let said = third.recv_sorted(3);
    assert_eq!(said[..2], [format!("tag=1 {DENIED}"), "tag=2".into()]);
    assert!(said[2].starts_with("tag=3 rev="), "{said:?}");
    // The secrets are nobody's to read.
    let said = server.stop().stderr;
    assert!(!said.contains("write!"), "{said}");
}

/// With the read-write secret alone, strangers may read: the unset read-only secret is the empty one.
#[test]
fn with_only_the_read_write_secret_a_stranger_writes_or_cannot_read() {
    let server = Setup::new().env("DOOZER_RWSECRET", "w").start();
    let mut c = server.connect();
    may(&mut c, May::Read);
    assert_eq!(c.ask(&access("")), "ok");
    assert_eq!(c.ask(&bare(Verb::Access)), "ok");
    may(&mut c, May::Read);
    assert_eq!(c.ask(&access("x")), DENIED);
    assert_eq!(c.ask(&access("w")), "ok");
    may(&mut c, May::Write);
}

/// With the read-only secret alone the original lets everyone write. Ours does not start, and says why.
#[test]
fn with_only_the_read_only_secret_everyone_may_write() {
    for setup in [Setup::new(), Setup::new().env("DOOZER_RWSECRET", "")] {
        let refused = setup.env("DOOZER_ROSECRET", "hidden").refused();
        assert_eq!(refused.status, Some(1));
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("DOOZER_RWSECRET"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("hidden"), "{}", refused.stderr);
    }
}

/// A secret is any bytes.
#[test]
fn a_secret_that_is_no_text_cannot_be_presented() {
    use std::os::unix::ffi::OsStrExt;
    let secret = b"\xff\x01caf\xe9 =";
    let server = Setup::new().env("DOOZER_RWSECRET", std::ffi::OsStr::from_bytes(secret)).start();
    let mut c = server.connect();
    assert_eq!(c.ask(&set("/x", -1, b"")), DENIED);
    assert_eq!(c.ask(&Request { value: Some(secret), ..access("") }), "ok");
    may(&mut c, May::Write);
}
