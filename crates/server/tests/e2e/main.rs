//! The built binary, as a user runs it: a process, a directory, sockets.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the server, outside of it"
)]

mod adversary;
mod aggregates;
mod check;
mod client;
mod data;
mod edge;
mod expiry;
mod files;
mod fixtures;
mod http;
mod jobs;
mod kafka;
mod kill;
mod lasting;
mod life;
mod one_answer;
mod process;
mod proxy;
mod schemas;
mod slt;
mod spill;
mod stitch;
mod subscriptions;
mod tables;
mod topic_log;
mod united;
mod view_answer;
mod view_kill;
mod views;
mod why;
