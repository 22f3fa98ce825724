//! `doozer`, the command.
fn main() {}
