//! `weir server` as a child process.

use crate::http::Door;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub struct Server {
    child: Child,
    /// Table mode.
    pub table: Door,
    /// Streaming mode.
    pub streaming: Door,
}

impl Server {
    /// Starts on free ports and returns when the server says that it is ready.
    pub fn start(data_dir: &Path) -> Server {
        Self::start_with(data_dir, &[])
    }

    pub fn start_with(data_dir: &Path, options: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .arg("server")
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--http-port", "0", "--http-streaming-port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let ready = loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(" ready") => break line,
                Some(Ok(_)) => {}
                _ => panic!("the server ended before it was ready: {:?}", child.wait()),
            }
        };
        // Keeps the pipe empty, so that the server never blocks on printing.
        std::thread::spawn(move || lines.for_each(drop));
        let mut addresses = ready
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("http://"))
            .map(|a| Door { address: a.trim_end_matches(['/', ',']).to_owned() });
        let table = addresses.next().expect("the ready line names the table port");
        let streaming = addresses.next().expect("the ready line names the streaming port");
        Server { child, table, streaming }
    }

    pub fn query(&self, sql: &str) -> String {
        self.table.query(sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.end();
    }

    /// `kill -9`, of one that another is to take the place of.
    pub fn end(&mut self) {
        self.child.kill().expect("the server runs");
        self.child.wait().expect("the server can be waited for");
    }

    /// SIGTERM; returns the exit code.
    pub fn stop(mut self) -> Option<i32> {
        signal(self.child.id(), Signal::TERM);
        self.child.wait().expect("the server can be waited for").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Also when a test panics: no process is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process of ours");
    kill_process(pid, signal).unwrap_or_else(|e| panic!("could not send {signal:?} to {pid:?}: {e}"));
}
