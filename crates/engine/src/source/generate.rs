//! Rows of a RANDOM stream: columns with a DEFAULT are computed, the others drawn by type.

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::physical_expr::PhysicalExpr;
use std::fmt;
use std::sync::Arc;
use weir_base::{Clock, Code, Error, Result, Rng};
use weir_format::types::Type;
use weir_plan::StreamError;
use weir_storage::TIME_COLUMN;

/// Makes up rows.
pub trait RowGenerator: Send + Sync + fmt::Debug {
    /// A batch of `rows` rows with all columns of the stream.
    fn generate(&self, rows: usize) -> Result<RecordBatch>;
}

/// Draws by type; evaluates defaults over what was drawn.
#[derive(Debug)]
pub struct TypedGenerator {
    schema: SchemaRef,
    /// The same columns, all nullable: what expressions see while columns are still missing.
    draft: SchemaRef,
    /// By column, over `schema`; may read columns to the left and columns without default.
    defaults: Vec<Option<Arc<dyn PhysicalExpr>>>,
    clock: Arc<dyn Clock>,
    rng: Arc<Rng>,
}

/// Length of drawn strings, in characters.
const STRING_CHARS: u64 = 16;
/// Elements of drawn arrays and maps, at most.
const ELEMENTS_MAX: u64 = 4;

impl TypedGenerator {
    pub fn new(
        schema: SchemaRef,
        defaults: Vec<Option<Arc<dyn PhysicalExpr>>>,
        clock: Arc<dyn Clock>,
        rng: Arc<Rng>,
    ) -> Self {
        assert_eq!(schema.fields().len(), defaults.len(), "one default, or none, for each column");
        let nullable = |f: &Arc<Field>| f.as_ref().clone().with_nullable(true);
        let draft = Arc::new(Schema::new(schema.fields().iter().map(nullable).collect::<Vec<_>>()));
        TypedGenerator { schema, draft, defaults, clock, rng }
    }

    fn draw(&self, field: &Field, n: usize) -> Result<ArrayRef> {
        if field.name() == TIME_COLUMN {
            let now = Int64Array::from_value(self.clock.now_ms(), n);
            let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
            return cast(&now, &ms).and_then(|t| cast(&t, field.data_type())).map_err(failed);
        }
        if let Some(Type::Enum(_, values)) = Type::of_field(field).map(|t| t.inner().clone()) {
            let pick = || values.get(self.rng.below(values.len().max(1) as u64) as usize);
            let names: StringArray = (0..n).map(|_| pick().map(|(name, _)| name.to_string())).collect();
            return Ok(Arc::new(names));
        }
        self.draw_type(field.data_type(), n)
    }

    fn draw_type(&self, data_type: &DataType, n: usize) -> Result<ArrayRef> {
        let u = || self.rng.u64();
        macro_rules! numbers {
            ($array:ty, $native:ty) => {
                Arc::new((0..n).map(|_| Some(u() as $native)).collect::<$array>())
            };
        }
        Ok(match data_type {
            DataType::Boolean => Arc::new((0..n).map(|_| Some(u() & 1 == 1)).collect::<BooleanArray>()),
            DataType::Int8 => numbers!(Int8Array, i8),
            DataType::Int16 => numbers!(Int16Array, i16),
            DataType::Int32 => numbers!(Int32Array, i32),
            DataType::Int64 => numbers!(Int64Array, i64),
            DataType::UInt8 => numbers!(UInt8Array, u8),
            DataType::UInt16 => numbers!(UInt16Array, u16),
            DataType::UInt32 => numbers!(UInt32Array, u32),
            DataType::UInt64 => numbers!(UInt64Array, u64),
            DataType::Float32 => {
                Arc::new((0..n).map(|_| Some(self.rng.f64() as f32)).collect::<Float32Array>())
            }
            DataType::Float64 => Arc::new((0..n).map(|_| Some(self.rng.f64())).collect::<Float64Array>()),
            DataType::Decimal128(p, s) => {
                let bound = 10u64.saturating_pow(u32::from(*p).min(18));
                let values = (0..n).map(|_| Some(i128::from(self.rng.below(bound))));
                let drawn: Decimal128Array = values.collect();
                Arc::new(drawn.with_precision_and_scale(*p, *s).map_err(failed)?)
            }
            DataType::Utf8 => Arc::new((0..n).map(|_| Some(self.word())).collect::<StringArray>()),
            DataType::FixedSizeBinary(width) => {
                let mut bytes = vec![0; *width as usize];
                let values = (0..n).map(|_| {
                    self.rng.fill(&mut bytes);
                    Some(bytes.clone())
                });
                Arc::new(
                    FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, *width).map_err(failed)?,
                )
            }
            // Days of the last 50 years or so; instants of the last 24 hours.
            DataType::Date32 => {
                let days: Int32Array = (0..n).map(|_| Some(self.rng.below(20_000) as i32)).collect();
                cast(&days, &DataType::Date32).map_err(failed)?
            }
            DataType::Timestamp(..) => {
                let now = self.clock.now_ms();
                let ms: Int64Array = (0..n).map(|_| Some(now - self.rng.below(86_400_000) as i64)).collect();
                let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
                cast(&ms, &utc).and_then(|t| cast(&t, data_type)).map_err(failed)?
            }
            DataType::Binary => {
                let words = StringArray::from_iter((0..n).map(|_| Some(self.word())));
                cast(&words, &DataType::Binary).map_err(failed)?
            }
            DataType::List(item) => {
                let lengths: Vec<usize> = (0..n).map(|_| self.rng.below(ELEMENTS_MAX + 1) as usize).collect();
                let values = self.draw(item, lengths.iter().sum())?;
                let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
                Arc::new(
                    arrow::array::ListArray::try_new(item.clone(), offsets, values, None).map_err(failed)?,
                )
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|f| self.draw(f, n)).collect::<Result<_>>()?;
                Arc::new(arrow::array::StructArray::try_new(fields.clone(), columns, None).map_err(failed)?)
            }
            DataType::Map(entries, sorted) => {
                let lengths: Vec<usize> = (0..n).map(|_| self.rng.below(ELEMENTS_MAX + 1) as usize).collect();
                let pairs = self.draw_type(entries.data_type(), lengths.iter().sum())?;
                let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
                let pairs = arrow::array::AsArray::as_struct(&pairs).clone();
                let map = arrow::array::MapArray::try_new(entries.clone(), offsets, pairs, None, *sorted);
                Arc::new(map.map_err(failed)?)
            }
            // NULL for what has no random form: a DEFAULT says better.
            other => new_null_array(other, n),
        })
    }

    fn word(&self) -> String {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
        let (low, high) = (self.rng.u64(), self.rng.u64());
        (0..STRING_CHARS)
            .map(|i| {
                let bits = if i < 8 { low >> (8 * i) } else { high >> (8 * (i - 8)) };
                LETTERS[(bits & 31) as usize] as char
            })
            .collect()
    }
}

fn failed(e: arrow::error::ArrowError) -> Error {
    Error::new(Code::LogicalError, format!("random rows: {e}"))
}

impl RowGenerator for TypedGenerator {
    fn generate(&self, rows: usize) -> Result<RecordBatch> {
        let fields = self.schema.fields();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let mut columns = Vec::with_capacity(fields.len());
        for (field, default) in fields.iter().zip(&self.defaults) {
            columns.push(match default {
                Some(_) => new_null_array(field.data_type(), rows),
                None => self.draw(field, rows)?,
            });
        }
        for (i, default) in self.defaults.iter().enumerate() {
            let Some(default) = default else { continue };
            let draft = RecordBatch::try_new_with_options(self.draft.clone(), columns.clone(), &options)
                .map_err(failed)?;
            let value = default
                .evaluate(&draft)
                .and_then(|v| v.into_array(rows))
                .map_err(|e| Error::from(StreamError::from(e)))?;
            columns[i] = if value.data_type() == fields[i].data_type() {
                value
            } else {
                cast(&value, fields[i].data_type()).map_err(failed)?
            };
        }
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::ScalarValue;
    use weir_base::ManualClock;

    #[test]
    fn every_type_can_be_made_up() {
        let names = [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float32",
            "float64",
            "decimal(20, 3)",
            "string",
            "date",
            "datetime",
            "datetime64(6)",
            "uuid",
            "ipv4",
            "ipv6",
            "enum8('a' = 1, 'b' = 2)",
            "array(int32)",
            "map(string, int8)",
            "tuple(a int8, b string)",
            "nullable(int64)",
            "low_cardinality(string)",
            "array(array(string))",
        ];
        let mut fields: Vec<Field> =
            names.iter().enumerate().map(|(i, t)| Type::parse(t).unwrap().field(&format!("c{i}"))).collect();
        fields.push(Type::parse("datetime64(3)").unwrap().field(TIME_COLUMN));
        let schema = Arc::new(Schema::new(fields));
        let n = schema.fields().len();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        let make = TypedGenerator::new(schema, vec![None; n], clock, Arc::new(Rng::seeded(7)));
        let batch = make.generate(50).unwrap();
        assert_eq!(batch.num_rows(), 50);
        let times = batch.column(n - 1);
        assert_eq!(
            ScalarValue::try_from_array(times, 49).unwrap(),
            ScalarValue::TimestampMillisecond(Some(1_700_000_000_000), Some("UTC".into()))
        );
        make.generate(0).unwrap();
    }
}
