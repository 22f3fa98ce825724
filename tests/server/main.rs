//! `doozerd` as its users have it: processes, alone and in clusters, on real disks and sockets. Each file has the tests of one topic.
//!
//! All of them are one program, for each program that cargo builds costs a minute of compiling and linking. A new topic is a
//! module here, not a file beside this folder.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of real processes")]

mod addresses;
mod boot;
mod cluster;
mod common;
mod damage;
mod disk;
mod durability;
mod failover;
mod hostile;
mod odd_files;
mod operator_log;
mod partition;
mod protocol;
mod protocol_access;
mod protocol_frames;
mod protocol_wait;
mod repair;
mod startup;
mod stats;
mod strangers;
mod together;
mod tune;
