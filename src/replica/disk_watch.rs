//! Watches the disk: what it was asked to do, and for how long.
//!
//! A disk that does not answer returns no error: a write just does not end. Nothing that depends on this node's log can proceed
//! then, and only the clock reveals it. The replica reacts in four steps, each after a longer time:
//!
//! | after | what the node does |
//! |---|---|
//! | [`limits::DISK_SLOW_MS`] | tells the others (`FLAG_STUCK`), so nobody hands leadership to it |
//! | [`limits::DISK_HAND_OVER_MS`] | hands over if it leads, and if enough of the others have working disks |
//! | [`limits::DISK_SAID_MS`] | tells the operator |
//! | [`limits::DISK_REFUSED_MS`] | refuses new writes with READONLY and the reason |
//!
//! A segment or a snapshot is large and may take longer: it counts as stuck after [`limits::DISK_FILE_MS`], and writes are refused
//! only if the log has no room without it.
//!
//! Time advances in ticks, so an age is accurate to one tick. Time in which the loop was held up does not count
//! ([`DiskWatch::stalled`]): the disk may have finished its work without the loop noticing.

use crate::limits;

/// Work that the disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A write of the log.
    Write,
    /// The making of the log's next segment.
    Segment,
    /// Writing a part of a snapshot, or renaming its file.
    Snapshot,
}

impl Work {
    const ALL: [Work; 3] = [Work::Write, Work::Segment, Work::Snapshot];

    /// Returns after how many milliseconds the operator is told.
    fn said_after(self) -> u64 {
        if self == Work::Write { limits::DISK_SAID_MS } else { limits::DISK_FILE_MS }
    }

    fn name(self) -> &'static str {
        match self {
            Work::Write => "a write of the log",
            Work::Segment => "the making of a log segment",
            Work::Snapshot => "a write of a snapshot",
        }
    }

    /// Says what the delay means for users.
    fn effect(self) -> &'static str {
        match self {
            Work::Write => "reads go on, writes wait, and new writes are refused if it lasts",
            Work::Segment => "writes go on as long as the present segment has room",
            Work::Snapshot => "the log grows until it is done",
        }
    }
}

/// The work under way, and what the operator was told about it.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    /// The time at which each kind of work began, in the order of [`Work::ALL`].
    since: [Option<u64>; 3],
    /// What the operator was told about each kind, until the problem is over.
    said: [Option<Said>; 3],
    /// True while the log has no room until the next segment is ready.
    starved: bool,
}

/// A problem that the operator was told about.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// How long the slowest piece of work took, or has taken.
    longest_ms: u64,
    /// When the work ended; `None` while it is under way.
    ended: Option<u64>,
}

impl DiskWatch {
    /// The disk starts some work.
    pub(super) fn begin(&mut self, work: Work, now_ms: u64) {
        self.since[work as usize] = Some(now_ms);
    }

    /// The disk has finished the work, or has failed with an error.
    pub(super) fn end(&mut self, work: Work, now_ms: u64) {
        let age = self.age(work, now_ms);
        self.since[work as usize] = None;
        if let Some(said) = &mut self.said[work as usize] {
            said.longest_ms = said.longest_ms.max(age);
            said.ended = Some(now_ms);
        }
    }

    /// The loop was held up for this many milliseconds, and nobody knows what the disk did meanwhile.
    pub(super) fn stalled(&mut self, ms: u64) {
        for since in self.since.iter_mut().flatten() {
            *since += ms;
        }
    }

    /// Sets whether the log waits for the next segment.
    pub(super) fn set_starved(&mut self, starved: bool) {
        self.starved = starved;
    }

    fn age(&self, work: Work, now_ms: u64) -> u64 {
        self.since[work as usize].map_or(0, |since| now_ms.saturating_sub(since))
    }

    /// Returns how long the current write of the log has taken, in milliseconds; 0 without one.
    pub(super) fn write_age_ms(&self, now_ms: u64) -> u64 {
        self.age(Work::Write, now_ms)
    }

    fn is_starving(&self, now_ms: u64) -> bool {
        self.starved && self.age(Work::Segment, now_ms) >= limits::DISK_FILE_MS
    }

    /// Returns whether the others should not rely on this disk.
    pub(super) fn is_slow(&self, now_ms: u64) -> bool {
        self.write_age_ms(now_ms) >= limits::DISK_SLOW_MS || self.is_starving(now_ms)
    }

    /// Returns whether a leader should hand over.
    pub(super) fn should_hand_over(&self, now_ms: u64) -> bool {
        self.write_age_ms(now_ms) >= limits::DISK_HAND_OVER_MS || self.is_starving(now_ms)
    }

    /// Returns whether writes are refused.
    pub(super) fn is_stuck(&self, now_ms: u64) -> bool {
        self.write_age_ms(now_ms) >= limits::DISK_REFUSED_MS || self.is_starving(now_ms)
    }

    /// Returns the reason why writes are refused.
    pub(super) fn reason(&self, dir: &str, now_ms: u64) -> String {
        let work = if self.is_starving(now_ms) { Work::Segment } else { Work::Write };
        let (name, age) = (work.name(), self.age(work, now_ms));
        format!("the disk of this node is stuck: {name} in {dir} has taken {age} ms so far; try another node, or later")
    }

    /// Adds the lines that the operator should read now: one when some work does not end, and one when it has ended. If the disk
    /// gets stuck again within [`limits::DISK_WELL_MS`], no line says that it works in between.
    pub(super) fn tell(&mut self, dir: &str, now_ms: u64, lines: &mut Vec<String>) {
        for work in Work::ALL {
            let (name, age) = (work.name(), self.age(work, now_ms));
            let late = age >= work.said_after();
            match &mut self.said[work as usize] {
                said @ None if late => {
                    *said = Some(Said { longest_ms: age, ended: None });
                    lines.push(format!(
                        "the disk is stuck: {name} in {dir} has taken {age} ms so far; {}",
                        work.effect()
                    ));
                }
                Some(said) if late => said.ended = None,
                said @ Some(Said { ended: Some(_), .. }) => {
                    let Some(Said { longest_ms, ended: Some(ended) }) = *said else { continue };
                    if now_ms.saturating_sub(ended) >= limits::DISK_WELL_MS {
                        *said = None;
                        lines.push(format!("the disk works again: {name} in {dir} had taken about {longest_ms} ms"));
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watch: &mut DiskWatch, now: u64) -> Vec<String> {
        let mut lines = Vec::new();
        watch.tell("/data", now, &mut lines);
        lines
    }

    /// The others must know before a leader chooses one of them, and the operator must know before writes are refused.
    #[test]
    fn each_step_comes_after_the_one_before() {
        let mut watch = DiskWatch::default();
        watch.begin(Work::Write, 100);
        let steps = |now: u64| [watch.is_slow(now), watch.should_hand_over(now), watch.is_stuck(now)];
        assert_eq!(steps(100 + limits::DISK_SLOW_MS - 1), [false; 3]);
        assert_eq!(steps(100 + limits::DISK_SLOW_MS), [true, false, false]);
        assert_eq!(steps(100 + limits::DISK_HAND_OVER_MS), [true, true, false]);
        assert_eq!(steps(100 + limits::DISK_REFUSED_MS), [true; 3]);
        watch.end(Work::Write, 9_999);
        assert_eq!([watch.is_slow(9_999), watch.is_stuck(9_999)], [false; 2]);
    }

    /// A disk whose every write takes long would fill the operator's log with two lines for each write.
    #[test]
    fn a_disk_that_is_slow_again_and_again_is_said_once() {
        let mut watch = DiskWatch::default();
        let (mut now, mut said) = (0, Vec::new());
        for _ in 0..10 {
            watch.begin(Work::Write, now);
            for _ in 0..30 {
                now += 50;
                said.extend(told(&mut watch, now));
            }
            watch.end(Work::Write, now);
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("/data") && said[0].contains("a write of the log"), "{said:?}");
        assert_eq!(told(&mut watch, now + limits::DISK_WELL_MS - 1), [""; 0]);
        let over = told(&mut watch, now + limits::DISK_WELL_MS);
        assert!(over.len() == 1 && over[0].contains("works again") && over[0].contains("1500 ms"), "{over:?}");
        assert_eq!(told(&mut watch, now + 60_000), [""; 0]);
    }

    /// A process that was stopped for a minute finds its disk idle: nothing was stuck.
    #[test]
    fn time_in_which_the_loop_did_not_run_is_not_the_disks() {
        let mut watch = DiskWatch::default();
        watch.begin(Work::Write, 1_000);
        watch.stalled(60_000);
        assert_eq!(watch.write_age_ms(61_050), 50);
        assert_eq!(told(&mut watch, 61_050), [""; 0]);
    }

    /// A slow segment does not matter as long as the current one has room.
    #[test]
    fn a_segment_in_the_making_refuses_writes_only_when_the_log_has_no_room() {
        let mut watch = DiskWatch::default();
        watch.begin(Work::Segment, 0);
        assert_eq!(told(&mut watch, limits::DISK_FILE_MS - 1), [""; 0]);
        assert!(told(&mut watch, limits::DISK_FILE_MS)[0].contains("the making of a log segment"));
        assert!(!watch.is_stuck(limits::DISK_FILE_MS));
        watch.set_starved(true);
        assert!(watch.is_stuck(limits::DISK_FILE_MS) && !watch.is_stuck(limits::DISK_FILE_MS - 1));
        let reason = watch.reason("/data", limits::DISK_FILE_MS);
        assert!(reason.contains("the making of a log segment in /data"), "{reason}");
    }
}
