//! `weir check`: looks at a data directory whose server does not run, and changes nothing in it.

use crate::data_dir;
use crate::options::ServerArgs;
use crate::wiring;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use weir_base::Disk;
use weir_base::disk::{Overlay, RealDisk};
use weir_engine::Report;

const STACK_BYTES: usize = 8 << 20;

#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// Directory of logs, parts and catalog; its server must not run
    #[arg(value_name = "DATA_DIR")]
    data_dir: PathBuf,
}

/// Ends with 0 where all is well, 1 where something does not check, 2 where it could not be looked at.
pub fn main(args: &CheckArgs) -> ExitCode {
    let told = |problem: &str| println!("problem: {problem}");
    match look(&args.data_dir, &told) {
        Err(e) => {
            eprintln!("weir: {e}");
            ExitCode::from(2)
        }
        Ok(report) => {
            report.notes.iter().for_each(|note| println!("note: {note}"));
            println!(
                "{} streams, {} shards, {} checkpoints, {} bytes read: {}",
                report.streams,
                report.shards,
                report.checkpoints,
                report.bytes,
                match report.problems.len() {
                    0 => "all is well".to_owned(),
                    1 => "1 problem".to_owned(),
                    n => format!("{n} problems"),
                }
            );
            if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// # Errors
/// One line: there is no data directory, or its server runs.
pub fn look(dir: &Path, told: &(dyn Fn(&str) + Send + Sync)) -> Result<Report, String> {
    let _lock = data_dir::lock_to_read(dir)?;
    look_locked(dir, told)
}

/// As [`look`], for who has the lock.
pub fn look_locked(dir: &Path, told: &(dyn Fn(&str) + Send + Sync)) -> Result<Report, String> {
    let disk =
        RealDisk::open(dir).map_err(|e| format!("can not read the data directory {}: {e}", dir.display()))?;
    of_disk(dir, Arc::new(disk), told)
}

/// A data directory as a disk has it, on which nothing changes. Blocks.
pub fn of_disk(
    dir: &Path,
    disk: Arc<dyn Disk>,
    told: &(dyn Fn(&str) + Send + Sync),
) -> Result<Report, String> {
    let config = ServerArgs { data_dir: Some(dir.to_owned()), ..ServerArgs::default() }.decide()?;
    let runtime = runtime()?;
    // What recovery would cut or remove stays as it is.
    let disk = Arc::new(Overlay::new(disk));
    let (engine, world, dataflow) =
        wiring::parts_of_engine(&config, disk, runtime.handle(), runtime.handle())?;
    Ok(runtime.block_on(weir_engine::check(&engine, &world, &*dataflow, told)))
}

pub fn runtime() -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|e| format!("can not start threads: {e}"))
}
