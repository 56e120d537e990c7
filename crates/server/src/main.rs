//! The binary `weir`: server, client, demo, check, backup, restore.
//!
//! The only crate that names the concrete runtime, the function families and the object
//! store, and hands them to the engine.
#![allow(clippy::disallowed_types, reason = "listeners and the client's connection are opened here")]

mod allocator;
mod backup;
mod check;
mod client;
mod config_file;
mod data_dir;
mod demo;
mod memory_limit;
mod options;
mod parts;
mod serve;
mod web_hook;
mod wiring;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Streams and their history under one SQL.
#[derive(Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server on a data directory, until SIGTERM or Ctrl-C
    Server(Box<options::ServerArgs>),
    /// Ask a server: interactively, or one statement with -q
    Client(client::ClientArgs),
    /// Watch a live stream and a query over it on a server of its own; leaves nothing behind
    Demo(demo::DemoArgs),
    /// Verify every checksum and invariant of a data directory whose server does not run; changes nothing
    Check(check::CheckArgs),
    /// Write a data directory whose server does not run to a directory or an object store
    Backup(backup::BackupArgs),
    /// Make a data directory from a backup
    Restore(backup::RestoreArgs),
}

fn main() -> ExitCode {
    // A usage error ends in here with code 2.
    match Cli::parse().command {
        Command::Server(args) => ended(serve::main(*args)),
        Command::Check(args) => check::main(&args),
        Command::Backup(args) => ended(backup::backup(&args)),
        Command::Restore(args) => ended(backup::restore(&args)),
        Command::Client(args) => client::main(args),
        Command::Demo(args) => demo::main(args),
    }
}

fn ended(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weir: {e}");
            ExitCode::FAILURE
        }
    }
}
