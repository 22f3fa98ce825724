//! SET with one outstanding while many waits are outstanding on other paths and globs, against without, in turns on
//! one server.

use doozer::wire::{Request, Response, Verb};

use super::{ALONE, Bench};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, micros};
use crate::traffic::value;

/// Waits on one connection.
const PER_CONN: u64 = 5000;
/// Sets before each round.
const WARM_UP: u64 = 500;
/// Tag of the request that ends what is sent ahead; those of the waits are below it.
const LAST: i32 = i32::MAX;

/// A quarter of the waits each.
fn glob(number: u64) -> String {
    match number % 4 {
        0 => format!("/other/{number}/name"),
        1 => format!("/other/{number}/*"),
        2 => format!("/w/*{number}"),
        _ => format!("/**/x{number}"),
    }
}

/// Files that each wake exactly one of the first four waits.
const WAKES: [&[u8]; 4] = [b"/other/0/name", b"/other/1/y", b"/w/a2", b"/q/x3"];

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let (waits, count) = (bench.count(100_000, 4000), bench.count(20_000, 500));
    let server = bench.server("waits")?;
    let value = value(0);
    let (without, with) = bench.client(&server, || {
        let mut client = Client::connect(server.addr())?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..bench.rounds() {
            client.time_sets(ALONE, &value, WARM_UP)?;
            without.push(client.time_sets(ALONE, &value, count)?);
            let mut waiters = wait(server.addr(), waits)?;
            client.time_sets(ALONE, &value, WARM_UP)?;
            with.push(client.time_sets(ALONE, &value, count)?);
            for waiter in &mut waiters {
                if !waiter.is_silent()? {
                    return Err(Failure::new("a wait was answered, though nothing happened there"));
                }
            }
            if round + 1 == bench.rounds() {
                wake(&mut client, &mut waiters[0])?;
            }
            waiters.into_iter().try_for_each(Client::close)?;
        }
        let writes = 2 * (WARM_UP + count) * u64::from(bench.rounds()) + WAKES.len() as u64;
        super::count_revisions(server.addr(), server.revision(), writes)?;
        Ok((without, with))
    })?;
    report.add_latencies("SET without", &without);
    report.add_latencies(&format!("SET with {waits} waits"), &with);
    let ratios = with.iter().zip(&without).map(|(with, without)| micros(with, 0.5) / micros(without, 0.5));
    report.add_rounds("SET p50 with / without", Unit::Ratio, ratios);
    report.goal(Goal::AtMost(1.1));
    server.terminate()?;
    bench.remove("waits")
}

/// Has `count` waits outstanding. What follows them on a connection is answered, so the server has them all.
fn wait(addr: std::net::SocketAddr, count: u64) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for first in (0..count).step_by(usize::try_from(PER_CONN).unwrap_or(1)) {
        let mut client = Client::connect(addr)?;
        let rev = client.revision()? + 1;
        for number in first..count.min(first + PER_CONN) {
            let (tag, glob) = (i32::try_from(number).ok(), glob(number));
            client.send(Request { tag, path: Some(glob.as_bytes()), rev: Some(rev), ..Request::new(Verb::Wait) });
        }
        client.send(Request { tag: Some(LAST), ..Request::new(Verb::Rev) });
        client.flush()?;
        let response = client.receive()?;
        if response.tag != Some(LAST) {
            return Err(Failure::new(format!("a wait was answered, though nothing happened there: {response:?}")));
        }
        clients.push(client);
    }
    Ok(clients)
}

/// Shows that the waits are real: one of each kind is woken.
fn wake(client: &mut Client, waiter: &mut Client) -> Result<(), Failure> {
    for (tag, path) in (0..).zip(WAKES) {
        let rev = client.set(path, b"woken")?;
        let expected = Response {
            tag: Some(tag),
            flags: Some(doozer::wire::FLAG_SET),
            rev: Some(rev),
            path: Some(path),
            value: Some(b"woken"),
            ..Response::default()
        };
        let response = waiter.receive()?;
        if response != expected {
            return Err(Failure::new(format!("a wait was answered with {response:?} instead of {expected:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_wait_is_there_and_each_is_another() {
        let all: std::collections::BTreeSet<String> = (0..1000).map(glob).collect();
        assert_eq!(all.len(), 1000);
        for (glob, wake) in (0..4).map(glob).zip(WAKES) {
            let (front, back) = glob.split_once('*').unwrap_or((&glob, ""));
            let wake = std::str::from_utf8(wake).unwrap();
            assert!(wake.starts_with(front) && wake.ends_with(back.trim_start_matches('*')), "{glob} {wake}");
        }
    }
}
