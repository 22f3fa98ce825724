//! What one attacker costs all others: a table of attacks, each against a server, or a cluster, of its own.
//!
//! Innocent clients work before and during the attack. What is told of each attack: the longest time that a REV of theirs took, how many of
//! their SETs and GETs were answered against before, the most memory that the server had, and whether servers died, files changed, and
//! nodes lost their quorum. A server that dies is a result. At the end every server is killed and started again on its data, since an
//! attack may also lie in wait there.

mod attacks;
mod frames;
mod innocent;
mod swarm;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;

use attacks::{ATTACKS, Attack, On, Target};
use innocent::{Door, Seen};
use swarm::Stop;

use super::Bench;
use crate::child::{Launch, Server};
use crate::cluster::{Cluster, NodeId};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, megabytes};
use crate::machine::on_core;
use crate::process::memory;
use crate::say::say;

const NAME: &str = "hostile";
/// The secret, where one is set.
const SECRET: &str = "the secret of this run";
/// Innocent clients that set and get.
const WORKERS: usize = 4;
/// Time between two looks at the servers' memory.
const LOOK: Duration = Duration::from_millis(20);
/// The attacker gets the client's core only when nobody else wants it: it must not take it from the innocent clients.
const NICE: i32 = 19;
/// A REV may take so long, in seconds.
const REV_MOST: f64 = 0.05;
/// So much of their throughput is left to the innocent clients.
const LEFT: f64 = 0.9;
/// Memory may exceed what the page of the server says by this.
const MEMORY_MORE: f64 = 1.1;

/// Reads the name of an attack.
///
/// # Errors
/// If no attack has this name.
pub fn named(name: &str) -> Result<&'static str, String> {
    let names = || ATTACKS.iter().map(|attack| attack.name);
    names().find(|known| *known == name).ok_or_else(|| format!("one of: {}", names().collect::<Vec<_>>().join(", ")))
}

/// What came of an attack.
#[derive(Debug, Default)]
struct Outcome {
    /// The longest REV during it, and before it.
    longest: Duration,
    longest_before: Duration,
    /// SETs and GETs a second during it, in parts of those before.
    left: f64,
    /// The most memory of the server that was attacked, and how much it had before.
    peak: u64,
    before: u64,
    /// Connections of innocent clients that broke.
    broken: u64,
    /// Values and revisions that were not what was written.
    changed: u64,
    /// Servers that died, or do not start again, each with what is known of that.
    died: Vec<String>,
    /// Nodes that said that they had lost the quorum.
    lost_quorum: u64,
}

pub fn run(bench: &Bench, only: Option<&'static str>, report: &mut Report) -> Result<(), Failure> {
    for attack in ATTACKS.iter().filter(|attack| only.is_none_or(|name| name == attack.name)) {
        say(format_args!("{NAME}: {}: {}", attack.name, attack.what));
        let mut outcomes = Vec::new();
        for _ in 0..bench.rounds.unwrap_or(1) {
            outcomes.push(suffer(bench, attack).map_err(|e| e.within(attack.name))?);
        }
        tell(attack, &outcomes, report);
    }
    Ok(())
}

fn tell(attack: &Attack, outcomes: &[Outcome], report: &mut Report) {
    let name = attack.name;
    let mut add = |figure: &str, unit: Unit, of: &dyn Fn(&Outcome) -> f64, goal: Option<Goal>| {
        report.add_rounds(format!("{name}: {figure}"), unit, outcomes.iter().map(of));
        if let Some(goal) = goal {
            report.goal(goal);
        }
    };
    add("longest REV", Unit::Seconds, &|o| o.longest.as_secs_f64(), Some(Goal::AtMost(REV_MOST)));
    add("longest REV before", Unit::Seconds, &|o| o.longest_before.as_secs_f64(), None);
    add("SET and GET, of those before", Unit::Ratio, &|o| o.left, Some(Goal::AtLeast(LEFT)));
    let before = outcomes.iter().map(|o| o.before).min().unwrap_or(0);
    let most = MEMORY_MORE * megabytes(before + attack.holds as u64);
    add("most memory", Unit::Megabytes, &|o| megabytes(o.peak), Some(Goal::AtMost(most)));
    add("connections of others that broke", Unit::Count, &|o| float(o.broken), Some(Goal::AtMost(0.0)));
    add("files changed", Unit::Count, &|o| float(o.changed), Some(Goal::AtMost(0.0)));
    add("servers that died", Unit::Count, &|o| float(o.died.len() as u64), Some(Goal::AtMost(0.0)));
    if attack.on != On::One {
        add("nodes that lost the quorum", Unit::Count, &|o| float(o.lost_quorum), Some(Goal::AtMost(0.0)));
    }
    for died in outcomes.iter().flat_map(|outcome| &outcome.died) {
        report.remarks.push(format!("{name}: {died}"));
    }
}

/// One round of one attack.
fn suffer(bench: &Bench, attack: &Attack) -> Result<Outcome, Failure> {
    let mut victims = Victims::start(bench, attack)?;
    let (addr, pid) = (victims.attacked()?.addr(), victims.attacked()?.pid());
    let door = Door { addr, secret: attack.secret.then_some(SECRET) };
    let target = Target { door, quick: bench.quick };
    let mut outcome = Outcome::default();
    let seen = Seen::default();
    victims.said();
    let attacked = on_core(bench.cores.client, || {
        let revs = innocent::write_witnesses(&mut door.enter()?)?;
        // An attack that kills the server while it is prepared has killed it.
        let prepared = (attack.prepare)(target).and_then(|()| course(bench, attack, target, pid, &seen, &mut outcome));
        Ok((revs, prepared))
    });
    let (revs, went) = attacked.map_err(|e| victims.explain(e))?;
    outcome.lost_quorum = victims.said().iter().filter(|line| line.contains("no quorum")).count() as u64;
    outcome.broken = seen.broken.load(Ordering::Relaxed);
    outcome.changed = seen.changed.load(Ordering::Relaxed);
    outcome.died = victims.kill();
    if let Err(e) = went
        && outcome.died.is_empty()
    {
        return Err(victims.explain(e));
    }
    match victims.revive() {
        Ok(()) => {
            for addr in victims.addrs()? {
                outcome.changed += innocent::changed(&mut Door { addr, ..door }.enter()?, &revs)?;
            }
        }
        Err(e) => outcome.died.push(format!("it does not start again: {e}")),
    }
    drop(victims);
    bench.clear()?;
    Ok(outcome)
}

/// The innocent clients work, the attack comes, and ends.
fn course(
    bench: &Bench,
    attack: &Attack,
    target: Target,
    pid: u32,
    seen: &Seen,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let time = if bench.quick { Duration::from_millis(300) } else { Duration::from_secs(6) };
    let (stop, end) = (Stop::default(), Stop::default());
    // The kernel's figure is gone with the process.
    let look = |peak: &mut u64| memory(pid).map_or((), |memory| *peak = memory.peak.max(*peak));
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let end = &end;
            scope.spawn(move || seen.work(target.door, number, end));
        }
        scope.spawn(|| seen.probe(target.door, attack.fresh, &end));
        // The first requests warm up.
        end.rest(time / 4);
        seen.longest.store(0, Ordering::Relaxed);
        let rate = |began: Instant, before: u64| {
            float(seen.answered.load(Ordering::Relaxed) - before) / began.elapsed().as_secs_f64()
        };
        let (began, before) = (Instant::now(), seen.answered.load(Ordering::Relaxed));
        end.rest(time);
        let without = rate(began, before);
        look(&mut outcome.before);
        outcome.longest_before = Duration::from_nanos(seen.longest.swap(0, Ordering::Relaxed));
        let attacking = scope.spawn(|| {
            // Of this thread alone.
            let _outcome = setpriority_process(None, NICE);
            (attack.act)(target, &stop)
        });
        let (began, before) = (Instant::now(), seen.answered.load(Ordering::Relaxed));
        while began.elapsed() < time {
            look(&mut outcome.peak);
            std::thread::park_timeout(LOOK);
        }
        outcome.left = rate(began, before) / without.max(1.0);
        stop.set();
        let attacked = attacking.join().unwrap_or_else(|_| Err(Failure::new("the attacker panicked")));
        // What the attacker's connections leave behind is cleared away meanwhile.
        end.rest(time / 6);
        look(&mut outcome.peak);
        end.set();
        attacked
    })?;
    outcome.longest = Duration::from_nanos(seen.longest.load(Ordering::Relaxed));
    Ok(())
}

/// What is attacked.
enum Victims {
    One(Box<Single>),
    Three { cluster: Cluster, attacked: NodeId },
}

/// A server, and how it is started again.
struct Single {
    program: PathBuf,
    launch: Launch,
    /// None while it is down.
    server: Option<Server>,
}

impl Victims {
    fn start(bench: &Bench, attack: &Attack) -> Result<Victims, Failure> {
        let secret = attack.secret.then(|| SECRET.to_string());
        if attack.on == On::One {
            let launch = Launch {
                dir: bench.scratch.path(NAME),
                listen: ([127, 0, 0, 1], 0).into(),
                core: Some(bench.cores.server),
                attach: None,
                flags: Vec::new(),
                secret,
            };
            let program = bench.doozerd.clone();
            let server = Some(Server::launch(&program, &launch)?);
            return Ok(Victims::One(Box::new(Single { program, launch, server })));
        }
        let mut cluster = bench.cluster_with(NAME, &[], secret)?;
        let leader = cluster.leader()?.node;
        let attacked = if attack.on == On::Leader { leader } else { cluster.others(leader)[0] };
        Ok(Victims::Three { cluster, attacked })
    }

    fn attacked(&self) -> Result<&Server, Failure> {
        match self {
            Victims::One(single) => single.server.as_ref().ok_or_else(|| Failure::new("the server is down")),
            Victims::Three { cluster, attacked } => cluster.server(*attacked),
        }
    }

    fn servers(&self) -> Vec<&Server> {
        match self {
            Victims::One(single) => single.server.iter().collect(),
            Victims::Three { cluster, .. } => cluster.all().filter_map(|node| cluster.server(node).ok()).collect(),
        }
    }

    fn addrs(&self) -> Result<Vec<std::net::SocketAddr>, Failure> {
        Ok(self.servers().into_iter().map(Server::addr).collect())
    }

    /// What they have said since they were last asked.
    fn said(&self) -> Vec<String> {
        self.servers().into_iter().flat_map(Server::said).collect()
    }

    /// Ends all with SIGKILL, and tells those that had ended already.
    fn kill(&mut self) -> Vec<String> {
        match self {
            Victims::One(single) => {
                let outcome = single.server.take().map_or(Ok(()), Server::kill);
                outcome.err().map(|e| e.to_string()).into_iter().collect()
            }
            Victims::Three { cluster, .. } => {
                cluster.all().filter_map(|node| cluster.kill(node).err()).map(|e| e.to_string()).collect()
            }
        }
    }

    /// Starts all again, on what they have.
    fn revive(&mut self) -> Result<(), Failure> {
        match self {
            Victims::One(single) => single.server = Some(Server::launch(&single.program, &single.launch)?),
            Victims::Three { cluster, .. } => {
                cluster.all().try_for_each(|node| cluster.restart(node))?;
                cluster.whole()?;
            }
        }
        Ok(())
    }

    fn explain(&self, e: Failure) -> Failure {
        match self {
            Victims::One(single) => match &single.server {
                Some(server) => server.explain(e),
                None => e,
            },
            Victims::Three { cluster, .. } => cluster.explain(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The page and the summary name the attack that a server did not survive; it is a missed goal, and no error.
    #[test]
    fn a_server_that_died_is_told_with_the_attack_that_killed_it() {
        let attack = ATTACKS.iter().find(|attack| attack.name == "join flood").unwrap();
        let died = Outcome { died: vec!["it had ended, with signal 6".into()], ..Outcome::default() };
        let alive = Outcome { left: 1.0, lost_quorum: 1, ..Outcome::default() };
        let mut report = Report::new(NAME, true);
        tell(attack, &[died, alive], &mut report);
        let figure = |name: &str| report.figures.iter().find(|figure| figure.name.ends_with(name)).unwrap();
        assert_eq!((figure("servers that died").measured, figure("servers that died").met), (0.5, Some(false)));
        assert_eq!((figure("of those before").measured, figure("of those before").met), (0.5, Some(false)));
        assert_eq!(figure("lost the quorum").met, Some(false));
        assert_eq!(figure("longest REV").met, Some(true));
        assert!(report.figures.iter().all(|figure| figure.name.starts_with("join flood: ")));
        assert_eq!(report.remarks, ["join flood: it had ended, with signal 6"]);
    }

    /// Only what was still running when it was killed had survived.
    #[test]
    fn a_server_that_has_ended_by_itself_had_died() {
        let victims = |then: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo listening on 127.0.0.1:1 >&2; echo last words >&2; {then}")]);
            let launch = Launch {
                dir: PathBuf::new(),
                listen: ([127, 0, 0, 1], 0).into(),
                core: None,
                attach: None,
                flags: Vec::new(),
                secret: None,
            };
            let server = Some(Server::start(command).unwrap());
            Victims::One(Box::new(Single { program: PathBuf::new(), launch, server }))
        };
        assert!(victims("exec sleep 1000").kill().is_empty());
        let mut dead = victims("exit 7");
        // Until the last line has come, it may still run.
        while dead.attacked().unwrap().line(LOOK).is_ok() {}
        let died = dead.kill();
        assert!(died.len() == 1 && died[0].contains("last words"), "{died:?}");
    }

    #[test]
    fn an_attack_is_chosen_by_its_name() {
        assert_eq!(named("half frames"), Ok("half frames"));
        assert!(named("nothing").unwrap_err().contains("hello flood"));
    }
}
