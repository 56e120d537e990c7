//! `weir backup` and `weir restore`: a data directory whose server does not run, as a directory or below a prefix
//! of an object store.
//!
//! ```text
//! files, each with its checksum -> weir-backup.json last: a backup without it is none
//! weir-backup.json -> files into DATA_DIR.restoring, each checked -> renamed to DATA_DIR: whole, or not there
//! ```
//!
//! Not here: where bytes go ([`place`]).

mod place;

use crate::VERSION;
use crate::check;
use crate::data_dir;
use crate::options::RemoteParts;
use place::Place;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use weir_base::disk::{Disk, DiskFile, OpenMode, RealDisk, parent, read_exact_at};
use weir_base::{Clock, SystemClock};
use xxhash_rust::xxh3::Xxh3;

const MANIFEST: &str = "weir-backup.json";
const FORMAT_VERSION: u32 = 1;
/// Bytes in memory at a time.
const PIECE_BYTES: u64 = 8 << 20;
/// Of a data directory, what is of the running process only.
const LEFT_OUT: &[&str] = &["LOCK", "spill"];

#[derive(clap::Args, Debug)]
pub struct BackupArgs {
    /// Directory of a server that does not run
    #[arg(value_name = "DATA_DIR")]
    data_dir: PathBuf,
    /// Where the backup goes: a directory that is empty or not there, or s3://BUCKET/PREFIX
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    /// The backup: a directory, or s3://BUCKET/PREFIX
    #[arg(value_name = "FROM")]
    from: String,
    /// The data directory to make; it must be empty or not there
    #[arg(value_name = "DATA_DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Of an S3 service, for a backup that lies in one.
#[derive(clap::Args, Debug)]
pub struct RemoteArgs {
    /// Address of the S3 service, if it is not Amazon's
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of the S3 service
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// Environment variable with the S3 access key
    #[arg(long, value_name = "NAME", default_value = "AWS_ACCESS_KEY_ID")]
    key_env: String,
    /// Environment variable with the S3 secret key
    #[arg(long, value_name = "NAME", default_value = "AWS_SECRET_ACCESS_KEY")]
    secret_env: String,
}

impl RemoteArgs {
    fn at(&self, url: &str) -> RemoteParts {
        RemoteParts {
            url: url.to_owned(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            key_env: self.key_env.clone(),
            secret_env: self.secret_env.clone(),
        }
    }
}

/// What a backup holds. Written last.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    v: u32,
    weir: String,
    /// Microseconds since the epoch.
    time_us: i64,
    /// Up to where each stream goes.
    streams: Vec<StreamEnds>,
    files: Vec<FileEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamEnds {
    id: String,
    name: String,
    /// Per shard, one past the last row.
    ends: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileEntry {
    path: String,
    /// Length of the file; what is not stored of it is zeros at its end.
    bytes: u64,
    stored_bytes: u64,
    /// XXH3 of what is stored, in hexadecimal.
    xxh3: String,
}

/// # Errors
/// One line that names the file and what to do.
pub fn backup(args: &BackupArgs) -> Result<(), String> {
    let dir = &args.data_dir;
    let _lock = data_dir::lock_to_read(dir)?;
    let report = check::look_locked(dir, &|problem| eprintln!("problem: {problem}"))?;
    if !report.problems.is_empty() {
        return Err(format!(
            "{} does not check ({} problems, above); a backup of it would not restore what was lost: mend that first",
            dir.display(),
            report.problems.len()
        ));
    }
    let to = Place::open(&args.to, || args.remote.at(&args.to))?;
    if !to.is_empty()? {
        return Err(format!("{} holds something already; choose another place", args.to));
    }
    let disk = open(dir)?;
    let mut paths = Vec::new();
    files(&disk, "", &mut paths).map_err(|e| format!("can not list {}: {e}", dir.display()))?;
    let mut entries = Vec::new();
    for path in paths {
        let failed = |e: std::io::Error| format!("can not read {}/{path}: {e}", dir.display());
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let bytes = file.len_bytes().map_err(failed)?;
        let stored_bytes = without_zeros(&*file, bytes).map_err(failed)?;
        let xxh3 = to.put(&path, &*file, stored_bytes)?;
        entries.push(FileEntry { path, bytes, stored_bytes, xxh3: format!("{xxh3:016x}") });
    }
    let streams = report.ends.iter().map(|(id, ends)| StreamEnds {
        id: id.to_string(),
        name: report.names.get(id).cloned().unwrap_or_default(),
        ends: ends.iter().map(|end| end.0).collect(),
    });
    let manifest = Manifest {
        v: FORMAT_VERSION,
        weir: VERSION.into(),
        time_us: SystemClock::new().now_us(),
        streams: streams.collect(),
        files: entries,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| e.to_string())?;
    to.finish(MANIFEST, &text)?;
    let stored: u64 = manifest.files.iter().map(|f| f.stored_bytes).sum();
    println!(
        "{} streams, {} files, {stored} bytes are in {}",
        manifest.streams.len(),
        manifest.files.len(),
        args.to
    );
    Ok(())
}

/// # Errors
/// One line that names the file and what to do; the data directory is not there then.
pub fn restore(args: &RestoreArgs) -> Result<(), String> {
    let from = Place::open(&args.from, || args.remote.at(&args.from))?;
    let text = from.get_all(MANIFEST)?.ok_or_else(|| {
        format!("{} has no {MANIFEST}: it is no backup, or one that was not finished", args.from)
    })?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| format!("{}/{MANIFEST} is damaged: {e}", args.from))?;
    if manifest.v != FORMAT_VERSION {
        return Err(format!(
            "{} is a backup of version {}, this program reads {FORMAT_VERSION}; restore it with Weir {}",
            args.from, manifest.v, manifest.weir
        ));
    }
    let dir = &args.data_dir;
    data_dir::expect_empty(dir)?;
    let staging = data_dir::staging(dir)?;
    let done = fill(&from, &manifest, &args.from, &staging);
    if let Err(e) = done {
        data_dir::discard(&staging);
        return Err(e);
    }
    data_dir::settle(&staging, dir)?;
    println!("{} streams, {} files are in {}", manifest.streams.len(), manifest.files.len(), dir.display());
    Ok(())
}

fn fill(from: &Place, manifest: &Manifest, name: &str, staging: &Path) -> Result<(), String> {
    let disk = open(staging)?;
    for entry in &manifest.files {
        let failed = |e: std::io::Error| format!("can not write {}/{}: {e}", staging.display(), entry.path);
        disk.create_dir_all(parent(&entry.path)).map_err(failed)?;
        let file = disk.open(&entry.path, OpenMode::CreateNew).map_err(failed)?;
        let xxh3 = from.get(&entry.path, entry.stored_bytes, &*file)?;
        if format!("{xxh3:016x}") != entry.xxh3 {
            return Err(format!(
                "{name}/{} does not match its checksum; the backup is damaged there: use another one",
                entry.path
            ));
        }
        file.set_len(entry.bytes).and_then(|()| file.sync_data()).map_err(failed)?;
    }
    sync_dirs(&disk, "").map_err(|e| format!("can not write {}: {e}", staging.display()))
}

fn sync_dirs(disk: &dyn Disk, dir: &str) -> std::io::Result<()> {
    for entry in disk.list(dir)?.into_iter().filter(|e| e.is_dir) {
        sync_dirs(disk, &join(dir, &entry.name))?;
    }
    disk.sync_dir(dir)
}

fn open(dir: &Path) -> Result<RealDisk, String> {
    RealDisk::open(dir).map_err(|e| format!("can not use {}: {e}", dir.display()))
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Paths of all files that a data directory is made of.
fn files(disk: &dyn Disk, dir: &str, into: &mut Vec<String>) -> std::io::Result<()> {
    for entry in disk.list(dir)? {
        let path = join(dir, &entry.name);
        if LEFT_OUT.contains(&path.as_str()) || path.ends_with(".tmp") {
            continue;
        }
        if entry.is_dir { files(disk, &path, into)? } else { into.push(path) }
    }
    Ok(())
}

/// How much of a file there is before the zeros at its end: a log's segment is longer than its records.
fn without_zeros(file: &dyn DiskFile, bytes: u64) -> std::io::Result<u64> {
    let mut end = bytes;
    let mut piece = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(PIECE_BYTES);
        piece.resize((end - from) as usize, 0);
        read_exact_at(file, from, &mut piece)?;
        if let Some(last) = piece.iter().rposition(|b| *b != 0) {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// Hands a file on, piece by piece; gives the checksum of all.
fn pieces(
    file: &dyn DiskFile,
    bytes: u64,
    mut each: impl FnMut(Vec<u8>) -> Result<(), String>,
) -> Result<u64, String> {
    let mut hash = Xxh3::new();
    for from in (0..bytes).step_by(PIECE_BYTES as usize) {
        let mut piece = vec![0; PIECE_BYTES.min(bytes - from) as usize];
        read_exact_at(file, from, &mut piece).map_err(|e| format!("can not read it: {e}"))?;
        hash.update(&piece);
        each(piece)?;
    }
    Ok(hash.digest())
}
