//! Tests of the floor as a whole: a log is written to a disk in memory, something happens to it, and it is recovered.

mod crash;
mod damaged;
mod disk;
mod fuzz;
mod room;
mod snapshots;
mod torn;
