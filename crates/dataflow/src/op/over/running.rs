//! Aggregates over all rows of a partition up to and with each row.
//!
//! NULL counts for nothing, except to `first_value` and `last_value`. Integer sums wrap as they do in
//! other aggregations.

use super::values::Values;
use super::{arrow, eval, plan};
use crate::operator::OpError;
use crate::state::rows::{Flag, Layout, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow_schema::{DataType, Schema};
use std::sync::Arc;
use weir_plan::{OverFunction, OverKind};

pub(super) enum Running {
    Count {
        n: usize,
    },
    /// Of the type of the result.
    Sum {
        output: DataType,
        low: usize,
        /// The upper half of a decimal.
        high: usize,
        any: Flag,
    },
    Avg {
        sum: usize,
        n: usize,
    },
    /// The least or greatest value.
    Best {
        values: Values,
        greatest: bool,
        any: Flag,
    },
    First {
        values: Values,
        any: Flag,
        skips_nulls: bool,
    },
    Last,
    /// The last one that is not NULL.
    Latest {
        values: Values,
        any: Flag,
    },
}

impl Running {
    pub fn new(
        kind: &OverKind,
        f: &OverFunction,
        input: &Schema,
        layout: &mut Layout,
    ) -> Result<Self, OpError> {
        let arg = f.arg.as_ref().map(|a| a.data_type(input)).transpose().map_err(eval)?;
        let typed = || arg.clone().ok_or_else(|| plan(format!("{f} has no argument")));
        Ok(match kind {
            OverKind::Count => Running::Count { n: layout.word(0) },
            OverKind::Sum => {
                let output = f.output.data_type().clone();
                match output {
                    DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(..) => {}
                    other => return Err(plan(format!("{f} as {other}"))),
                }
                let zero = if output == DataType::Float64 { 0f64.to_bits() } else { 0 };
                Running::Sum { output, low: layout.word(zero), high: layout.word(0), any: layout.flag() }
            }
            OverKind::Avg => Running::Avg { sum: layout.word(0f64.to_bits()), n: layout.word(0) },
            OverKind::Min | OverKind::Max => Running::Best {
                values: Values::new(&typed()?, 1, true, layout).map_err(plan)?,
                greatest: *kind == OverKind::Max,
                any: layout.flag(),
            },
            OverKind::First | OverKind::Earliest => Running::First {
                values: Values::new(&typed()?, 1, false, layout).map_err(plan)?,
                any: layout.flag(),
                skips_nulls: *kind == OverKind::Earliest,
            },
            OverKind::Latest => Running::Latest {
                values: Values::new(&typed()?, 1, false, layout).map_err(plan)?,
                any: layout.flag(),
            },
            OverKind::Last => Running::Last,
            OverKind::RowNumber | OverKind::Lag { .. } => return Err(plan(format!("{f} as an aggregate"))),
        })
    }

    pub fn kept(&self) -> Option<&Values> {
        match self {
            Running::Best { values, .. } | Running::First { values, .. } | Running::Latest { values, .. } => {
                Some(values)
            }
            _ => None,
        }
    }

    pub fn values(&mut self) -> Option<&mut Values> {
        match self {
            Running::Best { values, .. } | Running::First { values, .. } | Running::Latest { values, .. } => {
                Some(values)
            }
            _ => None,
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Running::Best { values, .. } | Running::First { values, .. } | Running::Latest { values, .. } => {
                values.bytes()
            }
            _ => 0,
        }
    }

    /// Takes rows in and gives what the aggregate is after each.
    pub fn rows(
        &mut self,
        state: &mut RowStore,
        groups: &[u32],
        arg: Option<ArrayRef>,
        filter: Option<BooleanArray>,
    ) -> Result<ArrayRef, OpError> {
        let nulls = arg.as_ref().and_then(|a| a.nulls().cloned());
        let passes = |row: usize| filter.as_ref().is_none_or(|f| f.is_valid(row) && f.value(row));
        let counts = |row: usize| passes(row) && nulls.as_ref().is_none_or(|n| n.is_valid(row));
        let rows = groups.iter().copied().enumerate();
        let of = |a: Option<ArrayRef>| a.ok_or_else(|| plan("an aggregate without its argument"));
        Ok(match self {
            Running::Count { n } => {
                let count = |(row, group): (usize, u32)| {
                    let n = state.word_mut(group, *n);
                    *n += u64::from(counts(row));
                    *n as i64
                };
                Arc::new(rows.map(count).collect::<Int64Array>())
            }
            Running::Sum { output, low, high, any } => {
                let arg = arrow::compute::cast(&of(arg)?, output).map_err(arrow)?;
                match output {
                    DataType::Float64 => {
                        let values = arg.as_primitive::<Float64Type>().values();
                        let sum = rows.map(|(row, group): (usize, u32)| {
                            if counts(row) {
                                let word = state.word_mut(group, *low);
                                *word = (f64::from_bits(*word) + values[row]).to_bits();
                                state.set_flag(group, *any);
                            }
                            state.flag(group, *any).then(|| f64::from_bits(state.word(group, *low)))
                        });
                        Arc::new(sum.collect::<Float64Array>())
                    }
                    DataType::Decimal128(precision, scale) => {
                        let values = arg.as_primitive::<Decimal128Type>().values();
                        let sum = rows.map(|(row, group): (usize, u32)| {
                            let held = i128::from(state.word(group, *high) as i64) << 64
                                | i128::from(state.word(group, *low));
                            if !counts(row) {
                                return state.flag(group, *any).then_some(held);
                            }
                            let sum = held.wrapping_add(values[row]);
                            *state.word_mut(group, *low) = sum as u64;
                            *state.word_mut(group, *high) = (sum >> 64) as u64;
                            state.set_flag(group, *any);
                            Some(sum)
                        });
                        let sum = sum.collect::<Decimal128Array>();
                        Arc::new(sum.with_precision_and_scale(*precision, *scale).map_err(arrow)?)
                    }
                    t => {
                        // Two's complement: signed and unsigned integers add alike.
                        let signed = *t == DataType::Int64;
                        let values: Vec<u64> = if signed {
                            arg.as_primitive::<Int64Type>().values().iter().map(|v| *v as u64).collect()
                        } else {
                            arg.as_primitive::<UInt64Type>().values().to_vec()
                        };
                        let sum = rows.map(|(row, group): (usize, u32)| {
                            if counts(row) {
                                let word = state.word_mut(group, *low);
                                *word = word.wrapping_add(values[row]);
                                state.set_flag(group, *any);
                            }
                            state.flag(group, *any).then(|| state.word(group, *low))
                        });
                        if signed {
                            Arc::new(sum.map(|v| v.map(|v| v as i64)).collect::<Int64Array>())
                        } else {
                            Arc::new(sum.collect::<UInt64Array>())
                        }
                    }
                }
            }
            Running::Avg { sum, n } => {
                let arg = arrow::compute::cast(&of(arg)?, &DataType::Float64).map_err(arrow)?;
                let values = arg.as_primitive::<Float64Type>().values();
                let avg = rows.map(|(row, group): (usize, u32)| {
                    if counts(row) {
                        let word = state.word_mut(group, *sum);
                        *word = (f64::from_bits(*word) + values[row]).to_bits();
                        *state.word_mut(group, *n) += 1;
                    }
                    let n = state.word(group, *n);
                    (n > 0).then(|| f64::from_bits(state.word(group, *sum)) / n as f64)
                });
                Arc::new(avg.collect::<Float64Array>())
            }
            Running::Best { values, greatest, any } => {
                let arg = of(arg)?;
                let null = values.encode(&arrow_array::new_null_array(arg.data_type(), 1)).map_err(arrow)?;
                let now = values.encode(&arg).map_err(arrow)?;
                let mut out = values.collector(groups.len());
                for (row, group) in rows {
                    let held = state.flag(group, *any);
                    if counts(row) && (!held || values.beats(state, group, &now, row, *greatest)) {
                        values.set(state, group, 0, &now, row);
                        state.set_flag(group, *any);
                        out.push(&now, row);
                    } else if held {
                        values.get(state, group, 0, &mut out);
                    } else {
                        out.push(&null, 0);
                    }
                }
                values.column(out).map_err(arrow)?
            }
            Running::First { values, any, skips_nulls } => {
                let arg = of(arg)?;
                let null = values.encode(&arrow_array::new_null_array(arg.data_type(), 1)).map_err(arrow)?;
                let now = values.encode(&arg).map_err(arrow)?;
                let mut out = values.collector(groups.len());
                for (row, group) in rows {
                    if state.flag(group, *any) {
                        values.get(state, group, 0, &mut out);
                    } else if if *skips_nulls { counts(row) } else { passes(row) } {
                        values.set(state, group, 0, &now, row);
                        state.set_flag(group, *any);
                        out.push(&now, row);
                    } else {
                        out.push(&null, 0);
                    }
                }
                values.column(out).map_err(arrow)?
            }
            Running::Latest { values, any } => {
                let arg = of(arg)?;
                let null = values.encode(&arrow_array::new_null_array(arg.data_type(), 1)).map_err(arrow)?;
                let now = values.encode(&arg).map_err(arrow)?;
                let mut out = values.collector(groups.len());
                for (row, group) in rows {
                    if counts(row) {
                        values.set(state, group, 0, &now, row);
                        state.set_flag(group, *any);
                        out.push(&now, row);
                    } else if state.flag(group, *any) {
                        values.get(state, group, 0, &mut out);
                    } else {
                        out.push(&null, 0);
                    }
                }
                values.column(out).map_err(arrow)?
            }
            Running::Last if filter.is_none() => of(arg)?,
            Running::Last => return Err(plan("last_value with a condition")),
        })
    }
}
