//! Checks that no compiler makes: `cargo xtask floors` and `cargo xtask tidy`.
#![allow(clippy::disallowed_methods, reason = "a developer's tool: it reads the checkout it runs in")]

mod floors;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    let found = match std::env::args().nth(1).as_deref() {
        Some("floors") => floors::check(),
        Some("tidy") => tidy::check(),
        _ => {
            eprintln!("usage: cargo xtask floors | tidy");
            return ExitCode::from(2);
        }
    };
    match found {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for p in &problems {
                eprintln!("{p}");
            }
            eprintln!("{} problem(s)", problems.len());
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
