//! Floor 4: scalar and aggregate functions under Weir's names.
//!
//! One table per family, one line per function: name, aliases, arguments, docs. What
//! DataFusion computes with ClickHouse's result is taken from there under our name; the rest
//! is here. The binder turns `toStartOfHour` into `to_start_of_hour` before looking here.
//!
//! Not here: operators and casts (`sql::bind`), functions over a stream's past (`lag`, …).

mod aggregate;
mod array;
mod convert;
mod datetime;
mod hash;
mod json;
mod logic;
mod math;
mod scalar;
mod string;

use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use std::sync::Arc;

/// A function's line in `system.functions` and the documentation.
#[derive(Debug, Clone)]
pub struct FunctionInfo {
    pub name: String,
    pub aliases: Vec<String>,
    pub is_aggregate: bool,
    /// For example `to_start_of_hour(time[, zone])`.
    pub usage: String,
    pub docs: String,
}

/// What the functions need of the world.
#[derive(Debug, Clone)]
pub struct World {
    pub clock: Arc<dyn weir_base::Clock>,
    pub rng: Arc<weir_base::Rng>,
}

/// Every function, for registration.
pub struct Functions {
    pub scalars: Vec<Arc<ScalarUDF>>,
    pub aggregates: Vec<Arc<AggregateUDF>>,
    pub infos: Vec<FunctionInfo>,
}

/// All functions under Weir's names, with aliases.
pub fn functions(world: &World) -> Functions {
    let families = [
        convert::functions(),
        datetime::functions(world),
        string::functions(),
        json::functions(),
        array::functions(),
        math::functions(world),
        logic::functions(),
        hash::functions(world),
    ];
    let mut infos = Vec::new();
    let mut scalars = Vec::new();
    for f in families.into_iter().flatten() {
        infos.push(f.info());
        scalars.push(Arc::new(ScalarUDF::new_from_impl(f)));
    }
    for (udf, usage, docs) in scalar::borrowed() {
        infos.push(FunctionInfo {
            name: udf.name().to_owned(),
            aliases: udf.aliases().to_vec(),
            is_aggregate: false,
            usage: usage.to_owned(),
            docs: docs.to_owned(),
        });
        scalars.push(udf);
    }
    let mut aggregates = Vec::new();
    for (udaf, usage, docs) in aggregate::functions() {
        infos.push(FunctionInfo {
            name: udaf.name().to_owned(),
            aliases: udaf.aliases().to_vec(),
            is_aggregate: true,
            usage: usage.to_owned(),
            docs: docs.to_owned(),
        });
        aggregates.push(udaf);
    }
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    Functions { scalars, aggregates, infos }
}

/// Registers all functions; ours replace DataFusion's of the same name.
///
/// # Errors
/// As the registry's, which refuses nothing today.
pub fn register(
    world: &World,
    registry: &mut dyn FunctionRegistry,
) -> datafusion::error::Result<Vec<FunctionInfo>> {
    let all = functions(world);
    for f in all.scalars {
        registry.register_udf(f)?;
    }
    for f in all.aggregates {
        registry.register_udaf(f)?;
    }
    Ok(all.infos)
}
