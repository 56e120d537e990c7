//! Aggregates of maps, key by key: `sum_map`, `min_map`, `max_map`.

use super::own::Own;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, StructArray,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, EmitTo, GroupsAccumulator};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an entry costs beside its key.
const ENTRY_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Sum,
    Min,
    Max,
}

/// One map a group.
#[derive(Debug)]
struct ByKey {
    kind: Kind,
    keys: RowConverter,
    /// Int64, UInt64 or Float64.
    wide: DataType,
    output: DataType,
    /// Ascending, values in words.
    held: Vec<BTreeMap<Box<[u8]>, u64>>,
    bytes: usize,
}

/// Key and value type of a map.
fn parts(map: &DataType) -> Result<(DataType, DataType)> {
    if let DataType::Map(entries, _) = map
        && let DataType::Struct(fields) = entries.data_type()
        && let [key, value] = fields.as_ref()
    {
        return Ok((key.data_type().clone(), value.data_type().clone()));
    }
    plan_err!("illegal type {map} of an argument of an aggregate over maps; it takes a map")
}

fn widened(value: &DataType) -> Result<DataType> {
    Ok(match value {
        t if t.is_unsigned_integer() => DataType::UInt64,
        t if t.is_integer() => DataType::Int64,
        t if t.is_floating() => DataType::Float64,
        other => {
            return plan_err!(
                "illegal type {other} of the values of a map; sum_map and its like take numbers"
            );
        }
    })
}

fn with_values(map: &DataType, value: DataType) -> DataType {
    let DataType::Map(entries, sorted) = map else { return map.clone() };
    let DataType::Struct(fields) = entries.data_type() else { return map.clone() };
    let fields: Fields =
        vec![fields[0].clone(), Arc::new(fields[1].as_ref().clone().with_data_type(value))].into();
    DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(DataType::Struct(fields))), *sorted)
}

fn words(array: &ArrayRef, wide: &DataType) -> Result<UInt64Array> {
    let array = cast(array, wide)?;
    Ok(match wide {
        DataType::UInt64 => array.as_primitive::<UInt64Type>().clone(),
        DataType::Int64 => array.as_primitive::<Int64Type>().unary(|v| v as u64),
        _ => array.as_primitive::<Float64Type>().unary(f64::to_bits),
    })
}

fn values(words: impl Iterator<Item = u64>, wide: &DataType) -> ArrayRef {
    match wide {
        DataType::UInt64 => Arc::new(UInt64Array::from_iter_values(words)),
        DataType::Int64 => Arc::new(Int64Array::from_iter_values(words.map(|v| v as i64))),
        _ => Arc::new(Float64Array::from_iter_values(words.map(f64::from_bits))),
    }
}

impl ByKey {
    fn of(args: &AccumulatorArgs<'_>, kind: Kind, groups: usize) -> Result<Self> {
        let (key, value) = parts(&args.exprs[0].data_type(args.schema)?)?;
        Ok(ByKey {
            kind,
            keys: RowConverter::new(vec![SortField::new(key)])?,
            wide: widened(&value)?,
            output: args.return_field.data_type().clone(),
            held: vec![BTreeMap::new(); groups],
            bytes: 0,
        })
    }

    fn join(&self, a: u64, b: u64) -> u64 {
        let least = match self.wide {
            DataType::UInt64 => a <= b,
            DataType::Int64 => a as i64 <= b as i64,
            _ => f64::from_bits(a).total_cmp(&f64::from_bits(b)).is_le(),
        };
        match self.kind {
            Kind::Sum if self.wide == DataType::Float64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
            Kind::Sum => a.wrapping_add(b),
            Kind::Min if least => a,
            Kind::Max if !least => a,
            Kind::Min | Kind::Max => b,
        }
    }

    fn take(&mut self, group: usize, keys: &ArrayRef, values: &ArrayRef) -> Result<()> {
        let rows = self.keys.convert_columns(std::slice::from_ref(keys))?;
        let words = words(values, &self.wide)?;
        for (key, word) in rows.iter().zip(&words) {
            let Some(word) = word else { continue };
            let joined = self.held[group].get(key.as_ref()).map(|held| self.join(*held, word));
            match (self.held[group].get_mut(key.as_ref()), joined) {
                (Some(held), Some(joined)) => *held = joined,
                _ => {
                    self.bytes += key.as_ref().len() + ENTRY_BYTES;
                    self.held[group].insert(key.as_ref().into(), word);
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, maps: &ArrayRef, group: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let maps = maps.as_map();
        for row in (0..maps.len()).filter(|row| maps.is_valid(*row)) {
            if let Some(group) = group(row) {
                let entries = maps.value(row);
                self.take(group, entries.column(0), entries.column(1))?;
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], group: impl Fn(usize) -> usize) -> Result<()> {
        let (keys, values) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            self.take(group(row), &keys.value(row), &values.value(row))?;
        }
        Ok(())
    }

    /// Keys and values of the first `n` groups, and how many each has.
    fn columns(&self, n: usize) -> Result<(ArrayRef, ArrayRef, OffsetBuffer<i32>)> {
        let parser = self.keys.parser();
        let held = &self.held[..n];
        let mut keys = self.keys.convert_rows(held.iter().flat_map(|m| m.keys()).map(|k| parser.parse(k)))?;
        let words = held.iter().flat_map(|m| m.values().copied());
        let offsets = OffsetBuffer::from_lengths(held.iter().map(BTreeMap::len));
        Ok((keys.pop().expect("one field"), values(words, &self.wide), offsets))
    }

    fn results(&self, n: usize) -> Result<ArrayRef> {
        let (keys, values, offsets) = self.columns(n)?;
        let DataType::Map(entries, sorted) = &self.output else { return plan_err!("a map was promised") };
        let DataType::Struct(fields) = entries.data_type() else { return plan_err!("a map was promised") };
        let values = cast(&values, fields[1].data_type())?;
        let all = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, all, None, *sorted)?))
    }

    fn states(&self, n: usize) -> Result<Vec<ArrayRef>> {
        let (keys, values, offsets) = self.columns(n)?;
        let list = |values: ArrayRef| -> Result<ArrayRef> {
            let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(item, offsets.clone(), values, None)?))
        };
        Ok(vec![list(keys)?, list(values)?])
    }

    fn forget(&mut self, n: usize) {
        for map in self.held.drain(..n) {
            self.bytes -= map.keys().map(|k| k.len() + ENTRY_BYTES).sum::<usize>();
        }
    }
}

impl Accumulator for ByKey {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.update(&arrays[0], |_| Some(0))
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.results(1)?, 0)
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.keys.size() + self.bytes
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.states(1)?.iter().map(|s| ScalarValue::try_from_array(s, 0)).collect()
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.merge(states, |_| 0)
    }
}

/// The same for many groups.
struct Groups(ByKey);

impl Groups {
    fn emitted<T>(&mut self, emit_to: EmitTo, f: impl Fn(&ByKey, usize) -> Result<T>) -> Result<T> {
        let n = match emit_to {
            EmitTo::All => self.0.held.len(),
            EmitTo::First(n) => n,
        };
        let out = f(&self.0, n)?;
        self.0.forget(n);
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
        self.0.held.resize(total, BTreeMap::new());
        let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        self.0.update(&values[0], |row| kept(row).then_some(groups[row]))
    }
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emitted(emit_to, ByKey::results)
    }
    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.emitted(emit_to, ByKey::states)
    }
    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.0.held.resize(total, BTreeMap::new());
        self.0.merge(values, |row| groups[row])
    }
    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = ByKey {
            kind: self.0.kind,
            keys: RowConverter::new(vec![SortField::new(parts(values[0].data_type())?.0)])?,
            wide: self.0.wide.clone(),
            output: self.0.output.clone(),
            held: vec![BTreeMap::new(); rows],
            bytes: 0,
        };
        let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        each.update(&values[0], |row| kept(row).then_some(row))?;
        each.states(rows)
    }
    fn size(&self) -> usize {
        self.0.keys.size() + self.0.bytes + self.0.held.capacity() * size_of::<BTreeMap<Box<[u8]>, u64>>()
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let list = |what: &str, t| {
        Arc::new(Field::new(format!("{}[{what}]", args.name), DataType::new_list(t, true), true)) as FieldRef
    };
    let of = parts(args.input_fields[0].data_type()).and_then(|(k, v)| Ok((k, widened(&v)?)));
    let (key, value) = of.unwrap_or((DataType::Null, DataType::Float64));
    vec![list("keys", key), list("values", value)]
}

/// `sum_map(m)`, `min_map(m)`, `max_map(m)`.
pub(super) fn maps() -> [Arc<AggregateUDF>; 3] {
    fn same(given: &[DataType]) -> Result<DataType> {
        parts(&given[0]).map(|_| given[0].clone())
    }
    let sums = |given: &[DataType]| Ok(with_values(&given[0], widened(&parts(&given[0])?.1)?));
    [
        Own::new("sum_map", (1, 1), sums, state, |args| Ok(Box::new(ByKey::of(args, Kind::Sum, 1)?)))
            .groups(|args| Ok(Box::new(Groups(ByKey::of(args, Kind::Sum, 0)?))))
            .udaf(),
        Own::new("min_map", (1, 1), same, state, |args| Ok(Box::new(ByKey::of(args, Kind::Min, 1)?)))
            .groups(|args| Ok(Box::new(Groups(ByKey::of(args, Kind::Min, 0)?))))
            .udaf(),
        Own::new("max_map", (1, 1), same, state, |args| Ok(Box::new(ByKey::of(args, Kind::Max, 1)?)))
            .groups(|args| Ok(Box::new(Groups(ByKey::of(args, Kind::Max, 0)?))))
            .udaf(),
    ]
}
