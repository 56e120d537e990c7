//! What an insert leaves out: defaults, materialized columns, event time, and the shard.

use crate::expr::{Compiled, Compiler};
use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, Int64Array, MapArray, RecordBatch, RecordBatchOptions,
    StringArray, StructArray, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, is_null};

use arrow::datatypes::{DataType, Int64Type, SchemaRef, UInt64Type};
use std::collections::HashSet;
use std::sync::Arc;
use weir_base::{Code, Error, Result, err};
use weir_catalog::DefaultKind;
use weir_format::types::Type;

/// What a column holds where an insert gives nothing.
#[derive(Debug, Clone)]
pub enum Fill {
    /// 0, '', the first name of an enum, NULL where nullable.
    TypeDefault,
    Default(Compiled),
    /// Computed for every row; not insertable.
    Materialized(Compiled),
}

#[derive(Debug, Clone)]
pub struct IngestColumn {
    pub name: String,
    pub column_type: Type,
    pub fill: Fill,
}

/// How one stream takes rows; made when the stream is opened, shared by all inserts.
#[derive(Debug)]
pub struct IngestPlan {
    schema: SchemaRef,
    columns: Vec<IngestColumn>,
    /// Positions in an order in which each expression finds its columns filled.
    fill_order: Vec<usize>,
    sharding: Option<Compiled>,
    shards: u32,
}

impl IngestPlan {
    /// # Errors
    /// `BadArguments` (36) where defaults refer to each other in a circle, or the sharding
    /// expression is no integer.
    pub fn new(
        schema: SchemaRef,
        columns: Vec<IngestColumn>,
        sharding: Option<Compiled>,
        shards: u32,
    ) -> Result<Self> {
        if let Some(s) = &sharding
            && !s.value_type.storage().is_integer()
        {
            return Err(err!(BadArguments, "sharding_expr gives {}, an integer is needed", s.value_type));
        }
        let fill_order = order_of_fills(&columns)?;
        Ok(IngestPlan { schema, columns, fill_order, sharding, shards })
    }

    /// Names that can be inserted, in order.
    pub fn insertable(&self) -> impl Iterator<Item = &IngestColumn> {
        self.columns.iter().filter(|c| !matches!(c.fill, Fill::Materialized(_)))
    }

    pub fn column(&self, name: &str) -> Option<&IngestColumn> {
        self.columns.iter().find(|c| c.name == name)
    }

    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Whether rows choose their own shard.
    pub fn has_sharding(&self) -> bool {
        self.sharding.is_some()
    }

    /// Whether rows choose their own shard, the same each time.
    pub fn sharding_is_deterministic(&self) -> bool {
        self.sharding.as_ref().is_some_and(|s| !s.volatile)
    }

    /// The stream's columns for rows that came with some of them.
    ///
    /// # Errors
    /// What an expression fails with; `TypeMismatch` (53) for a NULL where none can be;
    /// `BadArguments` (36) for a name an enum does not have.
    pub fn complete(&self, given: &RecordBatch, absent: &[Option<BooleanArray>]) -> Result<RecordBatch> {
        let rows = given.num_rows();
        let mut columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|c| match given.column_by_name(&c.name) {
                Some(array) => in_storage(array, c),
                None => Ok(default_array(&c.column_type, rows)),
            })
            .collect::<Result<_>>()?;
        for &i in &self.fill_order {
            let column = &self.columns[i];
            let position = given.schema_ref().index_of(&column.name).ok();
            let missing = position.map(|p| absent.get(p).and_then(Option::as_ref));
            if missing.is_some_and(|m| m.is_none()) {
                continue;
            }
            let (Fill::Default(expr) | Fill::Materialized(expr)) = &column.fill else {
                unreachable!("only expressions are in the order")
            };
            let now = self.batch(columns.clone(), rows)?;
            let filled = expr.evaluate(&now)?;
            columns[i] = match missing.flatten() {
                Some(mask) => zip(mask, &filled, &columns[i]).map_err(internal)?,
                None => filled,
            };
        }
        for (column, array) in self.columns.iter().zip(&columns) {
            check_values(column, array)?;
        }
        self.batch(columns, rows)
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        // Not checked for nulls before all defaults are in; `check_values` does it with a name.
        let options = RecordBatchOptions::new().with_row_count(Some(rows)).with_match_field_names(false);
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| err!(TypeMismatch, "rows do not fit the stream: {e}"))
    }

    /// Which shard each row of a completed batch belongs to; `None` where the rows do not say.
    pub fn shards_of(&self, batch: &RecordBatch) -> Result<Option<Vec<u32>>> {
        let Some(expr) = &self.sharding else { return Ok(None) };
        if self.shards == 1 {
            return Ok(None);
        }
        let values = expr.evaluate(batch)?;
        let shards = u64::from(self.shards);
        Ok(Some(if values.data_type() == &DataType::UInt64 {
            let values = values.as_primitive::<UInt64Type>();
            values.iter().map(|v| (v.unwrap_or(0) % shards) as u32).collect()
        } else {
            let values = cast(&values, &DataType::Int64).map_err(internal)?;
            let values: &Int64Array = values.as_primitive::<Int64Type>();
            values.iter().map(|v| v.unwrap_or(0).rem_euclid(shards as i64) as u32).collect()
        }))
    }
}

/// Times that were read in a session's zone, as the column keeps them: the same instants.
fn in_storage(array: &ArrayRef, column: &IngestColumn) -> Result<ArrayRef> {
    let storage = column.column_type.storage();
    if *array.data_type() == storage || !holds_times(&storage) {
        return Ok(array.clone());
    }
    cast(array, &storage).map_err(internal)
}

fn holds_times(t: &DataType) -> bool {
    match t {
        DataType::Timestamp(..) => true,
        DataType::List(f) | DataType::Map(f, _) => holds_times(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| holds_times(f.data_type())),
        _ => false,
    }
}

fn internal(e: impl std::fmt::Display) -> Error {
    Error::new(Code::LogicalError, e.to_string())
}

/// An order in which each expression comes after those of the columns it reads.
fn order_of_fills(columns: &[IngestColumn]) -> Result<Vec<usize>> {
    let mut order = Vec::new();
    let mut waiting: Vec<(usize, &Compiled)> = columns
        .iter()
        .enumerate()
        .filter_map(|(i, c)| match &c.fill {
            Fill::TypeDefault => None,
            Fill::Default(e) | Fill::Materialized(e) => Some((i, e)),
        })
        .collect();
    while !waiting.is_empty() {
        let open: HashSet<&str> = waiting.iter().map(|(i, _)| columns[*i].name.as_str()).collect();
        let (ready, rest): (Vec<_>, Vec<_>) = waiting
            .iter()
            .copied()
            .partition(|(_, e)| e.columns.iter().all(|name| !open.contains(name.as_str())));
        if ready.is_empty() {
            let names: Vec<_> = rest.iter().map(|(i, _)| columns[*i].name.as_str()).collect();
            return Err(err!(BadArguments, "defaults of {} refer to each other", names.join(", ")));
        }
        order.extend(ready.iter().map(|(i, _)| *i));
        waiting = rest;
    }
    Ok(order)
}

fn check_values(column: &IngestColumn, array: &ArrayRef) -> Result<()> {
    if !column.column_type.is_nullable() && array.logical_null_count() > 0 {
        let nulls = is_null(array).map_err(internal)?;
        let row = nulls.values().iter().position(|n| n).unwrap_or(0) + 1;
        return Err(err!(
            TypeMismatch,
            "column {} of type {} can not be NULL, as it is in row {row} of the block",
            column.name,
            column.column_type
        ));
    }
    let Type::Enum(_, names) = column.column_type.inner() else { return Ok(()) };
    let known: HashSet<&str> = names.iter().map(|(n, _)| &**n).collect();
    let values: &StringArray = array.as_string();
    match values.iter().flatten().find(|v| !known.contains(v)) {
        Some(value) => Err(err!(
            BadArguments,
            "column {} has no value '{value}'; it takes {}",
            column.name,
            column.column_type
        )),
        None => Ok(()),
    }
}

/// Makes the fills of a stream's columns. `schema` is what expressions may refer to.
pub fn ingest_column(
    compiler: &Compiler,
    schema: &SchemaRef,
    column: &weir_catalog::ColumnDef,
    column_type: Type,
) -> Result<IngestColumn> {
    let in_context = |e: Error| Error { message: format!("column {}: {}", column.name, e.message), ..e };
    let compile = |text: &str| compiler.compile_as(text, schema, &column_type).map_err(in_context);
    let fill = match &column.default {
        None => Fill::TypeDefault,
        Some(d) => match d.kind {
            DefaultKind::Default => Fill::Default(compile(&d.expression)?),
            DefaultKind::Materialized => Fill::Materialized(compile(&d.expression)?),
            DefaultKind::Alias => {
                return Err(err!(LogicalError, "column {} is ALIAS and is not stored", column.name));
            }
        },
    };
    Ok(IngestColumn { name: column.name.clone(), column_type, fill })
}

/// `rows` times the type's default value.
pub fn default_array(column_type: &Type, rows: usize) -> ArrayRef {
    match column_type {
        t if t.is_nullable() => arrow::array::new_null_array(&t.storage(), rows),
        Type::LowCardinality(t) => default_array(t, rows),
        Type::Enum(_, names) => {
            let first = names.first().map_or("", |(n, _)| n);
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(first, rows)))
        }
        Type::Tuple(fields) => {
            let DataType::Struct(arrow_fields) = column_type.storage() else {
                unreachable!("a tuple is a struct")
            };
            let children = fields.iter().map(|(_, t)| default_array(t, rows)).collect();
            Arc::new(StructArray::new(arrow_fields, children, None))
        }
        Type::Map(k, v) => {
            let DataType::Map(entries, _) = column_type.storage() else { unreachable!("a map is a map") };
            let DataType::Struct(kv) = entries.data_type() else { unreachable!("of key and value") };
            let children = vec![default_array(k, 0), default_array(v, 0)];
            let empty = StructArray::new(kv.clone(), children, None);
            let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(0, rows));
            Arc::new(MapArray::new(entries, offsets, empty, None, false))
        }
        // All other storages are zeros: numbers 0, texts and arrays empty, times the epoch.
        t => {
            let data = ArrayData::new_null(&t.storage(), rows);
            let data = data.into_builder().nulls(None).build().expect("zeros are a value of the type");
            make_array(data)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_zeros_and_never_null() {
        let types = [
            "bool",
            "int8",
            "uint64",
            "float64",
            "decimal(10, 2)",
            "string",
            "date",
            "datetime",
            "datetime64(3)",
            "uuid",
            "ipv4",
            "ipv6",
            "enum8('a' = 1, 'b' = 2)",
            "array(int32)",
            "map(string, int32)",
            "tuple(a int32, b string)",
            "low_cardinality(string)",
            "array(tuple(int32, array(string)))",
        ];
        for name in types {
            let t = Type::parse(name).unwrap();
            let array = default_array(&t, 3);
            assert_eq!((array.len(), array.null_count()), (3, 0), "{name}");
            assert_eq!(array.data_type(), &t.storage(), "{name}");
        }
        let t = Type::parse("nullable(int32)").unwrap();
        assert_eq!(default_array(&t, 2).null_count(), 2);
        let t = Type::parse("enum8('a' = 1, 'b' = 2)").unwrap();
        assert_eq!(default_array(&t, 1).as_string::<i32>().value(0), "a");
    }
}
