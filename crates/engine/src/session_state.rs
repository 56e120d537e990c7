//! DataFusion's session state as Weir's queries need it: our functions, our limits.
//!
//! One base state is made at start; a query's own differs in threads, batch size and memory.

use crate::settings::QuerySettings;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use std::path::PathBuf;
use std::sync::Arc;
use weir_base::{Result, err};

/// Every function, made by `server` out of its function families.
#[derive(Debug, Clone, Default)]
pub struct FunctionSet {
    pub scalars: Vec<Arc<ScalarUDF>>,
    pub aggregates: Vec<Arc<AggregateUDF>>,
    pub infos: Vec<FunctionInfo>,
}

/// A function's line in `system.functions`.
#[derive(Debug, Clone)]
pub struct FunctionInfo {
    pub name: String,
    pub aliases: Vec<String>,
    pub is_aggregate: bool,
    /// For example `to_start_of_hour(time[, zone])`.
    pub usage: String,
    pub docs: String,
}

/// Makes the states of queries.
pub(crate) struct States {
    base: SessionState,
}

impl States {
    pub fn new(
        functions: &FunctionSet,
        objects: Arc<dyn ObjectStore>,
        spill_dir: Option<PathBuf>,
    ) -> Result<Self> {
        let mut config = SessionConfig::new().with_information_schema(false);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".into());
        options.sql_parser.enable_ident_normalization = false;
        let mode = match spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir]),
            None => DiskManagerMode::Disabled,
        };
        let env = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()
            .map_err(|e| err!(LogicalError, "no runtime for queries: {e}"))?;
        crate::scan::register_parts(&env, objects);
        let mut base = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(env)
            .with_default_features()
            .build();
        let refused = |e| err!(LogicalError, "a function could not be registered: {e}");
        // A state made from this one registers every function anew, in no order: a name that the
        // engine's own functions also answer to would be ours or theirs by chance.
        for f in &functions.scalars {
            for name in std::iter::once(f.name()).chain(f.aliases().iter().map(String::as_str)) {
                if let Some(theirs) = base.scalar_functions().get(name).cloned() {
                    base.deregister_udf(theirs.name()).map_err(refused)?;
                }
            }
        }
        for f in &functions.aggregates {
            for name in std::iter::once(f.name()).chain(f.aliases().iter().map(String::as_str)) {
                if let Some(theirs) = base.aggregate_functions().get(name).cloned() {
                    base.deregister_udaf(theirs.name()).map_err(refused)?;
                }
            }
        }
        for f in &functions.scalars {
            base.register_udf(f.clone()).map_err(refused)?;
        }
        for f in &functions.aggregates {
            base.register_udaf(f.clone()).map_err(refused)?;
        }
        Ok(States { base })
    }

    /// For expressions of DDL and for planning that no query's limits bind.
    pub fn base(&self) -> &SessionState {
        &self.base
    }

    /// A query's own state. Its memory limit is set where it runs.
    pub fn for_query(&self, settings: &QuerySettings) -> SessionState {
        let config = self
            .base
            .config()
            .clone()
            .with_target_partitions(settings.threads_max)
            .with_batch_size(settings.block_rows_max);
        SessionStateBuilder::new_from_existing(self.base.clone()).with_config(config).build()
    }
}
