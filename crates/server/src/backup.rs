//! `weir backup`, `BACKUP TO` and `weir restore`: a data directory as it was at one instant, as a directory or below
//! a prefix of an object store. A server that runs goes on meanwhile.
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
use crate::options::{RemoteParts, ServerConfig};
use place::Place;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_base::disk::{Disk, DiskFile, OpenMode, RealDisk, SnapshotDisk, parent, read_exact_at};
use weir_base::{Clock, Error, SystemClock, err};
use weir_engine::{BackedUp, Backups, Report};
use xxhash_rust::xxh3::Xxh3;

const MANIFEST: &str = "weir-backup.json";
const FORMAT_VERSION: u32 = 1;
/// Bytes in memory at a time.
const PIECE_BYTES: u64 = 8 << 20;
/// Of a data directory, what is of the running process only, and files that others put there.
const LEFT_OUT: &[&str] = &["LOCK", "spill", "user_files"];

#[derive(clap::Args, Debug)]
pub struct BackupArgs {
    /// Directory of a server that does not run; one that runs is asked with the statement BACKUP TO
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
    let to = empty_place(&args.to, || args.remote.at(&args.to))?;
    let manifest = write(&open(dir)?, dir, &report, &to, &|_| {})?;
    println!(
        "{} streams, {} files, {} bytes are in {}",
        manifest.streams.len(),
        manifest.files.len(),
        manifest.stored_bytes(),
        args.to
    );
    Ok(())
}

fn empty_place(name: &str, remote: impl Fn() -> RemoteParts) -> Result<Place, String> {
    let to = Place::open(name, remote)?;
    if !to.is_empty()? {
        return Err(format!("{name} holds something already; choose another place"));
    }
    Ok(to)
}

impl Manifest {
    fn stored_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.stored_bytes).sum()
    }
}

/// Writes all files of a disk that nobody changes, then the manifest. `copied` hears of each file.
fn write(
    disk: &dyn Disk,
    dir: &Path,
    report: &Report,
    to: &Place,
    copied: &dyn Fn(&str),
) -> Result<Manifest, String> {
    let mut paths = Vec::new();
    files(disk, "", &mut paths).map_err(|e| format!("can not list {}: {e}", dir.display()))?;
    let mut entries = Vec::new();
    for path in paths {
        let failed = |e: std::io::Error| format!("can not read {}/{path}: {e}", dir.display());
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let bytes = file.len_bytes().map_err(failed)?;
        let stored_bytes = without_zeros(&*file, bytes).map_err(failed)?;
        let xxh3 = to.put(&path, &*file, stored_bytes)?;
        copied(&path);
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
    Ok(manifest)
}

/// Backups of a server's own data directory while it runs.
pub struct LiveBackups {
    data_dir: PathBuf,
    /// Parts or checkpoints lie elsewhere.
    remote: bool,
    disk: Arc<SnapshotDisk>,
}

impl LiveBackups {
    pub fn new(config: &ServerConfig, disk: Arc<SnapshotDisk>) -> Self {
        let remote = config.parts.is_some() || config.checkpoints.is_some();
        LiveBackups { data_dir: config.data_dir.clone(), remote, disk }
    }
}

fn remote_args(options: &BTreeMap<String, String>) -> Result<RemoteArgs, Error> {
    let mut args = RemoteArgs {
        endpoint: None,
        region: "us-east-1".into(),
        key_env: "AWS_ACCESS_KEY_ID".into(),
        secret_env: "AWS_SECRET_ACCESS_KEY".into(),
    };
    for (name, value) in options {
        let value = value.clone();
        match name.as_str() {
            "endpoint" => args.endpoint = Some(value),
            "region" => args.region = value,
            "key_env" => args.key_env = value,
            "secret_env" => args.secret_env = value,
            _ => {
                let all = ["endpoint", "region", "key_env", "secret_env"];
                let hint = weir_base::error::did_you_mean(name, all);
                return Err(err!(
                    UnknownSetting,
                    "BACKUP has no setting {name}{hint}; it has {}",
                    all.join(", ")
                ));
            }
        }
    }
    Ok(args)
}

#[async_trait::async_trait]
impl Backups for LiveBackups {
    async fn backup(&self, to: &str, options: &BTreeMap<String, String>) -> Result<BackedUp, Error> {
        if self.remote {
            return Err(err!(
                NotImplemented,
                "parts or checkpoints of this server lie in an object store (--parts-url, --checkpoints-url), which a \
                 backup does not copy; keep versions of that prefix there"
            ));
        }
        let remote = remote_args(options)?;
        let (dir, disk, to) = (self.data_dir.clone(), self.disk.clone(), to.to_owned());
        let (answer, answered) = tokio::sync::oneshot::channel();
        // A thread of its own: it takes long, and reads with a runtime of its own.
        let work = move || {
            // Who asked may have left; the backup is made all the same.
            let _ = answer.send(live(&dir, &disk, &to, &remote));
        };
        std::thread::Builder::new()
            .name("backup".into())
            .spawn(work)
            .map_err(|e| err!(LogicalError, "can not start a thread for the backup: {e}"))?;
        answered.await.map_err(|_| err!(LogicalError, "the backup stopped on a bug"))?
    }
}

fn live(dir: &Path, disk: &SnapshotDisk, to: &str, remote: &RemoteArgs) -> Result<BackedUp, Error> {
    let failed = |e: String| err!(CannotWriteFile, "BACKUP TO '{to}': {e}");
    if !to.contains("://") && is_below(Path::new(to), dir) {
        return Err(err!(
            BadArguments,
            "BACKUP TO '{to}' lies in the data directory itself; choose another place"
        ));
    }
    let place = empty_place(to, || remote.at(to)).map_err(|e| err!(BadArguments, "BACKUP TO '{to}': {e}"))?;
    let snapshot = disk.snapshot(is_kept).map_err(|e| match e.kind() {
        std::io::ErrorKind::ResourceBusy => {
            err!(TooManyQueries, "another backup is being taken; wait until it has ended")
        }
        _ => failed(format!("can not list {}: {e}", dir.display())),
    })?;
    let snapshot = Arc::new(snapshot);
    let report = check::of_disk(dir, snapshot.clone(), &|problem| {
        tracing::warn!(problem, "a backup finds");
    });
    let report = report.map_err(failed)?;
    if let Some(first) = report.problems.first() {
        return Err(failed(format!(
            "the data directory does not check ({} problems, the first: {first}); a backup of it would not restore \
             what was lost: mend that first",
            report.problems.len()
        )));
    }
    let manifest = write(&*snapshot, dir, &report, &place, &|path| snapshot.release(path)).map_err(|e| {
        failed(format!("{e}; what is there is no backup. Try again into another place, with less going on"))
    })?;
    Ok(BackedUp {
        streams: manifest.streams.len() as u64,
        files: manifest.files.len() as u64,
        bytes: manifest.stored_bytes(),
    })
}

/// Whether a directory, which may not be there yet, lies in another one.
fn is_below(path: &Path, dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().any(|at| at.canonicalize().is_ok_and(|at| at == dir))
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

/// Whether a backup has a path.
fn is_kept(path: &str) -> bool {
    !LEFT_OUT.contains(&path) && !path.ends_with(".tmp")
}

/// Paths of all files that a data directory is made of.
fn files(disk: &dyn Disk, dir: &str, into: &mut Vec<String>) -> std::io::Result<()> {
    for entry in disk.list(dir)? {
        let path = join(dir, &entry.name);
        if !is_kept(&path) {
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
