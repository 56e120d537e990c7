//! Aggregates that keep all values of a group in the order of the rows: `group_array`,
//! `group_concat`, `moving_sum`, `moving_avg`.
//!
//! Rows of all groups lie in one set of columns and are sorted by (group, order) when a result is
//! wanted: an entry costs what its values do.

use super::events::delta_sum;
use super::own::{Own, constant, number};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, ListArray, PrimitiveArray,
    StringBuilder, StructArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortColumn, SortOptions, concat, lexsort_to_indices, take};
use arrow::datatypes::ArrowNativeTypeOp;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// Rows of a piece that is not joined with the next.
const PIECE_ROWS_MAX: usize = 1 << 20;

#[derive(Debug, Clone)]
enum Finish {
    /// The first so many.
    Array {
        most: Option<usize>,
    },
    /// Sums over the last so many values, of all without a number.
    MovingSum {
        window: Option<usize>,
    },
    /// The same, over the number of values in a window.
    MovingAvg {
        window: Option<usize>,
    },
    Concat {
        separator: String,
    },
    /// The last so many.
    Last {
        most: usize,
    },
    /// What values rose by.
    DeltaSum,
}

#[derive(Debug)]
struct Collected {
    finish: Finish,
    /// Arguments before the columns that say the order.
    arguments: usize,
    options: Vec<SortOptions>,
    value_type: DataType,
    order_types: Vec<DataType>,
    /// The group of each row, and batches of its value and order.
    groups: Vec<u32>,
    pieces: Vec<Vec<ArrayRef>>,
    bytes: usize,
}

fn order_fields(types: &[DataType]) -> Fields {
    types.iter().enumerate().map(|(i, t)| Field::new(i.to_string(), t.clone(), true)).collect()
}

fn size_of_piece(piece: &[ArrayRef]) -> usize {
    piece.iter().map(|a| a.get_array_memory_size()).sum()
}

impl Collected {
    fn of(args: &AccumulatorArgs<'_>, finish: Finish) -> Result<Self> {
        let order_types =
            args.order_bys.iter().map(|o| o.expr.data_type(args.schema)).collect::<Result<Vec<_>>>()?;
        Ok(Collected {
            finish,
            arguments: args.exprs.len(),
            options: args.order_bys.iter().map(|o| o.options).collect(),
            value_type: args.exprs[0].data_type(args.schema)?,
            order_types,
            groups: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
        })
    }

    /// Takes rows in that are kept; they are copied, so that nothing else stays alive.
    fn push(
        &mut self,
        columns: &[ArrayRef],
        kept: &UInt32Array,
        group: impl Fn(usize) -> usize,
    ) -> Result<()> {
        if kept.is_empty() {
            return Ok(());
        }
        self.groups.extend(kept.values().iter().map(|row| group(*row as usize) as u32));
        let piece =
            columns.iter().map(|c| take(c, kept, None)).collect::<std::result::Result<Vec<_>, _>>()?;
        self.bytes += size_of_piece(&piece);
        self.pieces.push(piece);
        // As a binary counter: few pieces, and every row is copied few times.
        while let [.., before, last] = self.pieces.as_slice()
            && before[0].len() <= 2 * last[0].len()
            && before[0].len() < PIECE_ROWS_MAX
        {
            let both = before
                .iter()
                .zip(last)
                .map(|(a, b)| concat(&[a.as_ref(), b.as_ref()]))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            self.bytes += size_of_piece(&both);
            self.bytes -= size_of_piece(before) + size_of_piece(last);
            self.pieces.truncate(self.pieces.len() - 2);
            self.pieces.push(both);
        }
        Ok(())
    }

    fn update(
        &mut self,
        arrays: &[ArrayRef],
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let nulls = arrays[0].logical_nulls();
        let kept = (0..arrays[0].len() as u32).filter(|row| {
            let row = *row as usize;
            nulls.as_ref().is_none_or(|n| n.is_valid(row))
                && filter.is_none_or(|f| f.is_valid(row) && f.value(row))
        });
        let kept = UInt32Array::from_iter_values(kept);
        let mut columns = vec![arrays[0].clone()];
        columns.extend_from_slice(&arrays[self.arguments..self.arguments + self.order_types.len()]);
        self.push(&columns, &kept, group)
    }

    fn merge(&mut self, states: &[ArrayRef], group: impl Fn(usize) -> usize) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        let mut columns = vec![lists.values().clone()];
        if !self.order_types.is_empty() {
            let orders = states[1].as_list::<i32>();
            if orders.offsets() != lists.offsets() {
                return exec_err!("values and their order differ in number");
            }
            columns.extend_from_slice(orders.values().as_struct().columns());
        }
        let (mut of_row, mut kept) = (vec![0; lists.values().len()], Vec::new());
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            for at in lists.offsets()[row]..lists.offsets()[row + 1] {
                of_row[at as usize] = group(row);
                kept.push(at as u32);
            }
        }
        self.push(&columns, &UInt32Array::from(kept), |row| of_row[row])
    }

    fn whole(&self) -> Result<Vec<ArrayRef>> {
        (0..=self.order_types.len())
            .map(|c| {
                let all: Vec<&dyn Array> = self.pieces.iter().map(|p| p[c].as_ref()).collect();
                Ok(concat(&all)?)
            })
            .collect()
    }

    /// Columns by group and order, and the number of rows of each of `n` groups.
    fn sorted(&self, n: usize) -> Result<(Vec<ArrayRef>, Vec<usize>)> {
        let mut lengths = vec![0; n];
        self.groups.iter().filter(|g| (**g as usize) < n).for_each(|g| lengths[*g as usize] += 1);
        if self.pieces.is_empty() {
            let empty = std::iter::once(&self.value_type).chain(&self.order_types);
            return Ok((empty.map(arrow::array::new_empty_array).collect(), lengths));
        }
        let whole = self.whole()?;
        let groups: ArrayRef = Arc::new(UInt32Array::from(self.groups.clone()));
        let column = |values: &ArrayRef, options| SortColumn { values: values.clone(), options };
        let mut by = vec![column(&groups, None)];
        by.extend(whole[1..].iter().zip(&self.options).map(|(c, o)| column(c, Some(*o))));
        let rows = if by.len() > 1 {
            lexsort_to_indices(&by, None)?
        } else {
            // As they came.
            let mut rows: Vec<u32> = (0..self.groups.len() as u32).collect();
            rows.sort_by_key(|r| self.groups[*r as usize]);
            UInt32Array::from(rows)
        };
        let rows = rows.slice(0, lengths.iter().sum());
        let columns = whole.iter().map(|c| take(c, &rows, None)).collect::<std::result::Result<_, _>>()?;
        Ok((columns, lengths))
    }

    /// Gives up the rows of the first `n` groups.
    fn forget(&mut self, n: usize) -> Result<()> {
        let kept: Vec<u32> =
            (0..self.groups.len() as u32).filter(|r| self.groups[*r as usize] as usize >= n).collect();
        let groups = kept.iter().map(|r| self.groups[*r as usize] as usize - n).collect::<Vec<_>>();
        let whole = if kept.is_empty() { Vec::new() } else { self.whole()? };
        self.groups.clear();
        self.pieces.clear();
        self.bytes = 0;
        let of_row: std::collections::HashMap<u32, usize> = kept.iter().copied().zip(groups).collect();
        self.push(&whole, &UInt32Array::from(kept), |row| of_row[&(row as u32)])
    }

    fn results(&self, n: usize) -> Result<ArrayRef> {
        let (columns, lengths) = self.sorted(n)?;
        let values = &columns[0];
        match &self.finish {
            Finish::Array { most: None } => lists(values.clone(), &lengths),
            Finish::Array { most: Some(most) } => {
                let mut kept = Vec::new();
                let mut start = 0;
                for n in &lengths {
                    kept.extend(start as u32..(start + n.min(most)) as u32);
                    start += n;
                }
                let lengths: Vec<usize> = lengths.iter().map(|n| *n.min(most)).collect();
                lists(take(values, &UInt32Array::from(kept), None)?, &lengths)
            }
            Finish::Last { most } => {
                let mut kept = Vec::new();
                let mut start = 0;
                for n in &lengths {
                    kept.extend((start + n.saturating_sub(*most)) as u32..(start + n) as u32);
                    start += n;
                }
                let lengths: Vec<usize> = lengths.iter().map(|n| *n.min(most)).collect();
                lists(take(values, &UInt32Array::from(kept), None)?, &lengths)
            }
            Finish::DeltaSum => {
                let mut start = 0;
                let of_group = |n: &usize| {
                    start += n;
                    delta_sum(&values.slice(start - n, *n), &self.value_type)
                };
                let sums = lengths.iter().map(of_group).collect::<Result<Vec<_>>>()?;
                if sums.is_empty() {
                    return Ok(arrow::array::new_empty_array(&self.value_type));
                }
                ScalarValue::iter_to_array(sums)
            }
            Finish::MovingSum { window } => lists(
                match values.data_type() {
                    DataType::Int64 => moving::<Int64Type>(values, &lengths, *window),
                    DataType::UInt64 => moving::<UInt64Type>(values, &lengths, *window),
                    _ => moving::<Float64Type>(values, &lengths, *window),
                },
                &lengths,
            ),
            Finish::MovingAvg { window } => {
                let sums = moving::<Float64Type>(values, &lengths, *window);
                let per_row = lengths.iter().flat_map(|n| std::iter::repeat_n(window.unwrap_or(*n), *n));
                let sums = sums.as_primitive::<Float64Type>().values().iter().zip(per_row);
                lists(Arc::new(Float64Array::from_iter_values(sums.map(|(s, n)| s / n as f64))), &lengths)
            }
            Finish::Concat { separator } => {
                let values = values.as_string::<i32>();
                let mut out = StringBuilder::new();
                let mut start = 0;
                for n in &lengths {
                    let text: Vec<&str> = (start..start + n).map(|i| values.value(i)).collect();
                    start += n;
                    if text.is_empty() { out.append_null() } else { out.append_value(text.join(separator)) }
                }
                Ok(Arc::new(out.finish()))
            }
        }
    }

    fn states(&self, n: usize) -> Result<Vec<ArrayRef>> {
        let (mut columns, lengths) = self.sorted(n)?;
        let orders = columns.split_off(1);
        let mut states = vec![lists(columns.swap_remove(0), &lengths)?];
        if !orders.is_empty() {
            let orders = StructArray::try_new(order_fields(&self.order_types), orders, None)?;
            states.push(lists(Arc::new(orders), &lengths)?);
        }
        Ok(states)
    }
}

fn lists(values: ArrayRef, lengths: &[usize]) -> Result<ArrayRef> {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None)?))
}

/// Sums over the last `window` values of each list.
fn moving<T: ArrowPrimitiveType>(values: &ArrayRef, lengths: &[usize], window: Option<usize>) -> ArrayRef
where
    T::Native: ArrowNativeTypeOp,
{
    let v = values.as_primitive::<T>().values();
    let mut out = Vec::with_capacity(v.len());
    let mut start = 0;
    for n in lengths {
        let mut sum = T::Native::ZERO;
        for i in start..start + n {
            sum = match window {
                // Added anew, so that nothing of what has left stays in a float.
                Some(w) if T::DATA_TYPE.is_floating() => {
                    let from = (i + 1).saturating_sub(w).max(start);
                    v[from..=i].iter().fold(T::Native::ZERO, |s, x| s.add_wrapping(*x))
                }
                Some(w) if i - start >= w => sum.add_wrapping(v[i]).sub_wrapping(v[i - w]),
                _ => sum.add_wrapping(v[i]),
            };
            out.push(sum);
        }
        start += n;
    }
    Arc::new(PrimitiveArray::<T>::from_iter_values(out))
}

impl Accumulator for Collected {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.update(arrays, None, |_| 0)
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.results(1)?, 0)
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.bytes + self.groups.capacity() * 4
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.states(1)?.iter().map(|s| ScalarValue::try_from_array(s, 0)).collect()
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.merge(states, |_| 0)
    }
}

/// The same for many groups.
struct Groups {
    held: Collected,
    groups: usize,
}

impl Groups {
    fn emitted<T>(&mut self, emit_to: EmitTo, f: impl Fn(&Collected, usize) -> Result<T>) -> Result<T> {
        let n = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(n) => n,
        };
        let out = f(&self.held, n)?;
        self.held.forget(n)?;
        self.groups -= n;
        Ok(out)
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups = total;
        self.held.update(values, filter, |row| groups[row])
    }
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emitted(emit_to, Collected::results)
    }
    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.emitted(emit_to, Collected::states)
    }
    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.groups = total;
        self.held.merge(values, |row| groups[row])
    }
    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let nulls = values[0].logical_nulls();
        let kept = |row: usize| {
            nulls.as_ref().is_none_or(|n| n.is_valid(row))
                && filter.is_none_or(|f| f.is_valid(row) && f.value(row))
        };
        let lengths: Vec<usize> = (0..values[0].len()).map(|row| usize::from(kept(row))).collect();
        let rows = UInt32Array::from_iter_values((0..values[0].len() as u32).filter(|r| kept(*r as usize)));
        let orders = &values[self.held.arguments..self.held.arguments + self.held.order_types.len()];
        let mut states = vec![lists(take(&values[0], &rows, None)?, &lengths)?];
        if !orders.is_empty() {
            let columns =
                orders.iter().map(|o| take(o, &rows, None)).collect::<std::result::Result<Vec<_>, _>>()?;
            let orders = StructArray::try_new(order_fields(&self.held.order_types), columns, None)?;
            states.push(lists(Arc::new(orders), &lengths)?);
        }
        Ok(states)
    }
    fn size(&self) -> usize {
        self.held.bytes + self.held.groups.capacity() * 4
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let list = |t: DataType| DataType::new_list(t, true);
    let value = args.input_fields[0].data_type().clone();
    let mut all = vec![Arc::new(Field::new(format!("{}[values]", args.name), list(value), true))];
    if !args.ordering_fields.is_empty() {
        let types: Vec<DataType> = args.ordering_fields.iter().map(|f| f.data_type().clone()).collect();
        let orders = list(DataType::Struct(order_fields(&types)));
        all.push(Arc::new(Field::new(format!("{}[order]", args.name), orders, true)));
    }
    all
}

fn list_of_first(given: &[DataType]) -> Result<DataType> {
    Ok(DataType::new_list(given[0].clone(), true))
}

fn array(args: &AccumulatorArgs<'_>) -> Result<Collected> {
    let most = number(args, 1, "the size of group_array", u64::from(u32::MAX))?;
    Collected::of(args, Finish::Array { most })
}

fn window(args: &AccumulatorArgs<'_>) -> Result<Option<usize>> {
    number(args, 1, "the window of moving_sum and moving_avg", u64::from(u32::MAX))
}

fn moving_sum_of(args: &AccumulatorArgs<'_>) -> Result<Collected> {
    Collected::of(args, Finish::MovingSum { window: window(args)? })
}

fn moving_avg_of(args: &AccumulatorArgs<'_>) -> Result<Collected> {
    Collected::of(args, Finish::MovingAvg { window: window(args)? })
}

fn concat_of(args: &AccumulatorArgs<'_>) -> Result<Collected> {
    let separator = match constant(args, 1, "the separator")? {
        None => ",".to_owned(),
        Some(
            ScalarValue::Utf8(Some(s)) | ScalarValue::LargeUtf8(Some(s)) | ScalarValue::Utf8View(Some(s)),
        ) => s,
        Some(other) => return plan_err!("the separator of group_concat is a string, not {other}"),
    };
    Collected::of(args, Finish::Concat { separator })
}

fn own(
    name: &'static str,
    result: fn(&[DataType]) -> Result<DataType>,
    one: fn(&AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>>,
    groups: fn(&AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>>,
) -> Own {
    Own::new(name, (1, 2), result, state, one).groups(groups).ordered()
}

/// `group_array(x[, most])`.
pub(super) fn group_array() -> Arc<AggregateUDF> {
    own(
        "group_array",
        list_of_first,
        |args| Ok(Box::new(array(args)?)),
        |args| Ok(Box::new(Groups { held: array(args)?, groups: 0 })),
    )
    .udaf()
}

/// What is summed, in the type of its sums.
fn widened(given: &[DataType]) -> Result<Vec<DataType>> {
    let mut taken = given.to_vec();
    taken[0] = match &given[0] {
        t if t.is_signed_integer() => DataType::Int64,
        t if t.is_unsigned_integer() || *t == DataType::Boolean => DataType::UInt64,
        t if t.is_numeric() || *t == DataType::Null => DataType::Float64,
        other => {
            return plan_err!(
                "illegal type {other} of argument 1 of moving_sum and moving_avg; it takes a number"
            );
        }
    };
    Ok(taken)
}

fn floats(given: &[DataType]) -> Result<Vec<DataType>> {
    let mut taken = widened(given)?;
    taken[0] = DataType::Float64;
    Ok(taken)
}

/// `moving_sum(x[, window])`.
pub(super) fn moving_sum() -> Arc<AggregateUDF> {
    own(
        "moving_sum",
        |given| list_of_first(&widened(given)?),
        |args| Ok(Box::new(moving_sum_of(args)?)),
        |args| Ok(Box::new(Groups { held: moving_sum_of(args)?, groups: 0 })),
    )
    .aliases(&["group_array_moving_sum"])
    .coerce(widened)
    .udaf()
}

/// `moving_avg(x[, window])`.
pub(super) fn moving_avg() -> Arc<AggregateUDF> {
    own(
        "moving_avg",
        |_| Ok(DataType::new_list(DataType::Float64, true)),
        |args| Ok(Box::new(moving_avg_of(args)?)),
        |args| Ok(Box::new(Groups { held: moving_avg_of(args)?, groups: 0 })),
    )
    .aliases(&["group_array_moving_avg"])
    .coerce(floats)
    .udaf()
}

/// `group_array_last(x, most)`.
pub(super) fn group_array_last() -> Arc<AggregateUDF> {
    fn of(args: &AccumulatorArgs<'_>) -> Result<Collected> {
        match number(args, 1, "the size of group_array_last", u64::from(u32::MAX))? {
            Some(most) => Collected::of(args, Finish::Last { most }),
            None => plan_err!("group_array_last takes a value and a size, group_array_last(2)(x)"),
        }
    }
    own(
        "group_array_last",
        list_of_first,
        |args| Ok(Box::new(of(args)?)),
        |args| Ok(Box::new(Groups { held: of(args)?, groups: 0 })),
    )
    .udaf()
}

/// `delta_sum(x)`.
pub(super) fn delta_sum_of_rows() -> Arc<AggregateUDF> {
    fn of(args: &AccumulatorArgs<'_>) -> Result<Collected> {
        Collected::of(args, Finish::DeltaSum)
    }
    let mut own = own(
        "delta_sum",
        |given| Ok(given[0].clone()),
        |args| Ok(Box::new(of(args)?)),
        |args| Ok(Box::new(Groups { held: of(args)?, groups: 0 })),
    );
    own.arguments = (1, 1);
    own.coerce(|given| match &given[0] {
        t if t.is_integer() || t.is_floating() => Ok(given.to_vec()),
        t if t.is_numeric() || *t == DataType::Null => Ok(vec![DataType::Float64]),
        other => plan_err!("illegal type {other} of argument 1 of delta_sum; it takes a number"),
    })
    .udaf()
}

/// `group_concat(x[, separator])`.
pub(super) fn group_concat() -> Arc<AggregateUDF> {
    own(
        "group_concat",
        |_| Ok(DataType::Utf8),
        |args| Ok(Box::new(concat_of(args)?)),
        |args| Ok(Box::new(Groups { held: concat_of(args)?, groups: 0 })),
    )
    .coerce(|given| Ok(vec![DataType::Utf8; given.len()]))
    .udaf()
}
