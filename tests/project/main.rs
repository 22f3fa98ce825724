//! The project tests itself: the shape of its sources (`floors`), the checker with which other tests judge what a cluster has
//! told its clients (`histories`), and the commands in its pages (`readme`).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests, which also read the sources")]

#[path = "../shared/checker.rs"]
mod checker;
mod floors;
mod histories;
#[cfg(all(feature = "server", feature = "cli"))]
mod readme;
