//! The checker of histories is checked itself: for each thing that it watches over, a history that is right, and one that is wrong in
//! just this; and whole histories of servers that do everything at random, and right.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "shared/checker.rs"]
mod checker;
#[path = "checker/listings.rs"]
mod listings;
#[path = "checker/nameless.rs"]
mod nameless;
#[path = "checker/random.rs"]
mod random;
#[path = "checker/reads.rs"]
mod reads;
#[path = "checker/tale.rs"]
mod tale;
#[path = "checker/waits.rs"]
mod waits;
#[path = "checker/writes.rs"]
mod writes;
