//! The project tests itself: the shape of its sources (`floors`), and the checker with which other tests judge what a cluster has
//! told its clients (`histories`).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests, which also read the sources")]

#[path = "../shared/checker.rs"]
mod checker;
mod floors;
mod histories;
