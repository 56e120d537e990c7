//! One server per data directory: a lock that ends with the process, however it ends.
#![allow(clippy::disallowed_methods, reason = "taken before the disk handle is opened")]

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

const LOCK_FILE: &str = "LOCK";

/// Held as long as the server runs.
#[derive(Debug)]
pub struct DataDirLock(#[allow(dead_code, reason = "the lock is the open file")] File);

/// Makes the directory if it is missing and locks it.
///
/// # Errors
/// One line: another server has it, and which; or why it can not be used.
pub fn lock(dir: &Path) -> Result<DataDirLock, String> {
    let unusable = |e: std::io::Error| {
        format!("can not use the data directory {}: {e}; choose another with --data-dir", dir.display())
    };
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK_FILE))
        .map_err(unusable)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // Who holds it may be between locking and writing; then the pid is just not known.
        let _ = file.read_to_string(&mut pid);
        let pid = pid.trim();
        let who = if pid.is_empty() { "another process".into() } else { format!("process {pid}") };
        return Err(format!(
            "the data directory {} is in use by {who}; stop it, or choose another with --data-dir",
            dir.display()
        ));
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(unusable)?;
    Ok(DataDirLock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let refused = lock(dir.path()).unwrap_err();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        lock(dir.path()).unwrap();
    }
}
