//! One server per data directory: a lock that ends with the process, however it ends.
#![allow(clippy::disallowed_methods, reason = "taken before the disk handle is opened")]

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

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

/// Locks a directory for who only reads it; nothing in it changes.
///
/// # Errors
/// One line: it is not there, or its server runs.
pub fn lock_to_read(dir: &Path) -> Result<Option<DataDirLock>, String> {
    if !dir.is_dir() {
        return Err(format!("there is no data directory {}", dir.display()));
    }
    // Without the file no server has ever run on it.
    let Ok(mut file) = File::open(dir.join(LOCK_FILE)) else { return Ok(None) };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(format!(
            "the data directory {} is in use by process {}; stop it first, or ask it: BACKUP TO '…' takes a backup while \
             it runs",
            dir.display(),
            pid.trim()
        ));
    }
    Ok(Some(DataDirLock(file)))
}

/// # Errors
/// One line where a directory holds anything.
pub fn expect_empty(dir: &Path) -> Result<(), String> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(format!("{} is not empty; restore into a directory that is not there", dir.display()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("can not use {}: {e}", dir.display())),
    }
}

/// Where a directory is made ready before it has its name.
///
/// # Errors
/// One line: one that was begun before is in the way.
pub fn staging(dir: &Path) -> Result<PathBuf, String> {
    let name = dir.file_name().ok_or_else(|| format!("{} is no name of a directory", dir.display()))?;
    let mut name = name.to_owned();
    name.push(".restoring");
    let staging = dir.with_file_name(name);
    if staging.exists() {
        return Err(format!(
            "{} was left by a restore that was stopped, or one runs; remove it if none does",
            staging.display()
        ));
    }
    Ok(staging)
}

pub fn discard(staging: &Path) {
    if let Err(e) = std::fs::remove_dir_all(staging) {
        eprintln!("weir: can not remove {}: {e}", staging.display());
    }
}

/// Gives what was made ready its name.
///
/// # Errors
/// One line that says where it lies now.
pub fn settle(staging: &Path, dir: &Path) -> Result<(), String> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let renamed = match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::fs::rename(staging, dir).and_then(|()| File::open(parent)?.sync_all()),
    };
    renamed.map_err(|e| {
        format!("all files are in {}, which can not be renamed to {}: {e}", staging.display(), dir.display())
    })
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
