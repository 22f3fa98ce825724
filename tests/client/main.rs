//! The client library (`library`) and the `doozer` command (`cli`) against a server that does as a test tells it (`fake`).

mod cli;
mod fake;
mod library;
