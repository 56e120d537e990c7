//! SETTINGS and defaults of RANDOM streams.
//!
//! Not here: the generator and the source (`source`).

use crate::expr::Compiler;
use crate::settings::Kind;
use crate::streams::column_type;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::error::did_you_mean;
use weir_base::{Error, Result, err};
use weir_catalog::Relation;
use weir_storage::TIME_COLUMN;

/// How fast rows are made up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// 0 = as many as are asked for.
    pub rows_per_second: f64,
    pub interval_ms: u64,
    /// 0 = without end.
    pub rows_max: u64,
}

const NAMES: [&str; 4] = ["eps", "interval_time", "max_events", "shards"];

impl Pace {
    /// # Errors
    /// 115 for an unknown name, 36 for a bad value.
    pub fn parse(settings: &BTreeMap<String, String>) -> Result<Self> {
        let mut pace = Pace { rows_per_second: 1_000.0, interval_ms: 5, rows_max: 0 };
        for (name, value) in settings {
            match name.as_str() {
                "eps" => {
                    Kind::Float.check(name, value)?;
                    let eps: f64 = value.parse().expect("checked");
                    // Below one row a day or so, as in the dialect: no pace at all.
                    pace.rows_per_second = if eps < 0.00001 { 0.0 } else { eps };
                }
                "interval_time" => {
                    Kind::UInt.check(name, value)?;
                    pace.interval_ms = value.parse::<u64>().expect("checked").max(1);
                }
                "max_events" => {
                    Kind::UInt.check(name, value)?;
                    pace.rows_max = value.parse().expect("checked");
                }
                "shards" if value == "1" => {}
                "shards" => {
                    return Err(err!(
                        NotImplemented,
                        "a RANDOM stream with {value} shards is not supported yet"
                    ));
                }
                other => {
                    let hint = did_you_mean(other, NAMES);
                    return Err(err!(UnknownSetting, "a RANDOM stream has no setting {other}{hint}"));
                }
            }
        }
        Ok(pace)
    }
}

/// The DEFAULT expressions of a RANDOM stream's columns; `_tp_time`'s own is the generator's.
pub(crate) fn defaults(
    relation: &Relation,
    order: &[usize],
    schema: &SchemaRef,
    compiler: &Compiler,
) -> Result<Vec<Option<Arc<dyn PhysicalExpr>>>> {
    order
        .iter()
        .map(|i| {
            let column = &relation.columns[*i];
            match &column.default {
                Some(d) if column.name != TIME_COLUMN => {
                    let compiled = compiler
                        .compile_as(&d.expression, schema, &column_type(&column.type_name)?)
                        .map_err(|e| Error {
                            message: format!("column {}: {}", column.name, e.message),
                            ..e
                        })?;
                    Ok(Some(compiled.physical))
                }
                _ => Ok(None),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_random_streams() {
        let parse = |name: &str, value: &str| Pace::parse(&BTreeMap::from([(name.into(), value.into())]));
        assert_eq!(parse("eps", "2.5").unwrap().rows_per_second, 2.5);
        assert_eq!(parse("eps", "0.000001").unwrap().rows_per_second, 0.0);
        assert_eq!(parse("max_events", "7").unwrap().rows_max, 7);
        assert_eq!(parse("esp", "1").unwrap_err().code.number(), 115);
        assert_eq!(parse("eps", "fast").unwrap_err().code.number(), 36);
    }
}
