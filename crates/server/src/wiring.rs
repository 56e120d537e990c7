//! Puts the parts of a server together: world, functions, runtime, engine.

use crate::backup::LiveBackups;
use crate::memory_limit::{accountable_bytes, resident_bytes};
use crate::options::ServerConfig;
use crate::web_hook::HttpHook;
use crate::{VERSION, parts};
use std::sync::Arc;
use tokio::runtime::Handle;
use weir_base::clock::Clock;
use weir_base::disk::{Disk, RealDisk, SnapshotDisk};
use weir_base::{ManualClock, Rng, SystemClock};
use weir_connect::FilesAccess;
use weir_dataflow::{DataflowRuntime, SpillSpace};
use weir_engine::{Engine, EngineConfig, FunctionInfo, FunctionSet, Users, World};

/// Where queries spill, below the data directory.
const SPILL_DIR: &str = "spill";

/// Opens the engine on the data directory, which must be locked already.
///
/// # Errors
/// One line that says what can not be opened.
pub fn open_engine(config: &ServerConfig, compute: &Handle, network: &Handle) -> Result<Arc<Engine>, String> {
    let disk = RealDisk::open(&config.data_dir)
        .map_err(|e| format!("can not use the data directory {}: {e}", config.data_dir.display()))?;
    // What queries of a killed process spilled is of no use to anyone.
    weir_base::Disk::remove_dir_all(&disk, SPILL_DIR)
        .map_err(|e| format!("can not empty {}: {e}", config.data_dir.join(SPILL_DIR).display()))?;
    let disk = Arc::new(SnapshotDisk::new(Arc::new(disk)));
    let (mut engine_config, world, runtime) = parts_of_engine(config, disk.clone(), compute, network)?;
    engine_config.backups = Some(Arc::new(LiveBackups::new(config, disk)));
    Engine::open(engine_config, world, runtime).map_err(|e| e.to_string())
}

/// What an engine on this disk is made of.
///
/// # Errors
/// As [`open_engine`].
pub fn parts_of_engine(
    config: &ServerConfig,
    disk: Arc<dyn Disk>,
    compute: &Handle,
    network: &Handle,
) -> Result<(EngineConfig, World, Arc<DataflowRuntime>), String> {
    let system = Arc::new(SystemClock::new());
    let test_clock = config.test_clock.then(|| Arc::new(ManualClock::new(system.now_us())));
    let clock: Arc<dyn Clock> = match &test_clock {
        Some(manual) => manual.clone(),
        None => system,
    };
    let rng = Arc::new(Rng::from_machine());
    let users = match &config.password {
        None => Users::default(),
        Some(password) => Users::with_password(password, &rng).map_err(|e| e.to_string())?,
    };
    let engine_config = EngineConfig {
        memory_limit_bytes: accountable_bytes(config.memory_limit_bytes, resident_bytes()),
        parts: parts::location(config.parts.as_ref(), compute.clone())?,
        checkpoints: parts::checkpoints(config.checkpoints.as_ref(), network)?,
        users,
        settings: config.settings.clone(),
        compute: compute.clone(),
        test_clock,
        functions: functions(clock.clone(), rng.clone()),
        queries_max: config.queries_max,
        spill_dir: Some(config.data_dir.join(SPILL_DIR)),
        web_hook: Some(Arc::new(HttpHook::new(config.remote_hosts.clone())?)),
        connectors: weir_connect::connectors(&FilesAccess {
            paths: config.allowed_paths.clone(),
            hosts: config.remote_hosts.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
        }),
        backups: None,
        version: VERSION.into(),
    };
    let world = World { disk, clock, rng };
    let space = SpillSpace::new(world.disk.clone(), format!("{SPILL_DIR}/state"));
    let runtime = Arc::new(DataflowRuntime::new(compute.clone()).spill_to(space));
    Ok((engine_config, world, runtime))
}

fn functions(clock: Arc<dyn Clock>, rng: Arc<Rng>) -> FunctionSet {
    let all = weir_function::functions(&weir_function::World { clock, rng });
    let infos = all
        .infos
        .into_iter()
        .map(|f| FunctionInfo {
            name: f.name,
            aliases: f.aliases.iter().map(|a| a.to_string()).collect(),
            is_aggregate: f.is_aggregate,
            usage: f.usage,
            docs: f.docs,
        })
        .collect();
    FunctionSet { scalars: all.scalars, aggregates: all.aggregates, infos }
}
