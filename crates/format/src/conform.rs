//! Arrays of any Arrow type into the storage of a column, with checks.
//!
//! For batches that come from Parquet and Arrow files, and for columns whose sender uses another
//! type than the stream. Overflow, bad text and nulls where none can be are errors. Times lose
//! digits beyond the column's precision, as they do in text.

use crate::arrow_stream::guarded;
use crate::column::Column;
use crate::fault::Fault;
use crate::kind::{Kind, Shape};
use crate::rows::{Header, Target};
use crate::text::whole_literal;
use crate::text::write::{Style, Writer};
use crate::view::View;
use crate::{DecodedBatch, FormatError, FormatSettings};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_cast::CastOptions;
use arrow_schema::{DataType, Field, SchemaRef};

/// A row takes a bit or more; batches of so many may have columns without any, such as nulls only.
const ROWS_UNBACKED_MAX: usize = 1 << 20;

/// The array with exactly `target` as its type, cast if needed.
pub(crate) fn to_storage(array: ArrayRef, target: &DataType) -> Result<ArrayRef, String> {
    if array.data_type() == target {
        return Ok(array);
    }
    let options = CastOptions { safe: false, ..Default::default() };
    let from = array.data_type().clone();
    arrow_cast::cast_with_options(&array, target, &options)
        .map_err(|e| format!("{from} can not become {target}: {e}"))
}

/// Pushes one value into a column of another type by way of its text. `Ok(false)`: it was null
/// and the column took its default.
pub(crate) fn through_text(
    view: &View,
    row: usize,
    to: &mut Column,
    s: &FormatSettings,
) -> Result<bool, Fault> {
    if view.is_null(row) {
        return to.push_null(s.null_as_default);
    }
    let mut text = Vec::new();
    Writer::new(Style::Plain, s).value(view, row, &mut text);
    match to.kind.shape {
        Shape::Array(_) | Shape::Map(..) | Shape::Tuple(_) => whole_literal(&text, to, s)?,
        _ => to.push_text(&text, s.best_effort_times)?,
    }
    Ok(true)
}

/// Brings batches of a file's schema to the schema asked for: columns by name, in any order.
pub(crate) struct Conform {
    schema: SchemaRef,
    kinds: Vec<Kind>,
    settings: FormatSettings,
    rows_before: u64,
}

impl Conform {
    pub fn new(schema: SchemaRef, settings: &FormatSettings) -> Conform {
        let kinds = schema.fields().iter().map(|f| Kind::of_field(f)).collect();
        Conform { schema, kinds, settings: settings.clone(), rows_before: 0 }
    }

    pub fn rows_before(&self) -> u64 {
        self.rows_before
    }

    /// Whether a file with these fields can be taken at all.
    pub fn header(&self, file: &SchemaRef) -> Result<Header, FormatError> {
        let given: Vec<String> = file.fields().iter().map(|f| f.name().clone()).collect();
        let names: Vec<String> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
        Header::match_names(&given, &names, self.settings.skip_unknown_fields).map_err(|stop| match stop {
            crate::fault::Stop::Bad(fault) => fault.at_row(1),
            crate::fault::Stop::More => FormatError::Truncated { row: 1 },
        })
    }

    pub fn batch(&mut self, batch: &RecordBatch) -> Result<DecodedBatch, FormatError> {
        let header = self.header(&batch.schema())?;
        let rows = batch.num_rows();
        self.backed(batch)?;
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; self.kinds.len()];
        let mut absent: Vec<Option<BooleanArray>> = vec![None; self.kinds.len()];
        for (place, target) in header.targets.iter().enumerate() {
            if let Target::Column(i) = *target {
                let (array, nulls) = self.column(batch.column(place), &batch.schema().fields()[place], i)?;
                arrays[i] = Some(array);
                absent[i] = nulls;
            }
        }
        for i in &header.missing {
            let mut column = Column::new(&self.kinds[*i]);
            (0..rows).for_each(|_| column.push_default());
            arrays[*i] = Some(self.finish(&mut column, *i)?);
            absent[*i] = (rows > 0).then(|| BooleanArray::from(vec![true; rows]));
        }
        self.rows_before += rows as u64;
        let arrays = arrays.into_iter().map(|a| a.expect("given or missing")).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| {
                FormatError::Encode {
                    column: String::new(),
                    what: format!("columns do not make a batch: {e}"),
                }
            })?;
        Ok(DecodedBatch { batch, absent })
    }

    /// Refuses rows that no bytes stand for: a few bytes would be read as gigabytes of defaults.
    fn backed(&self, batch: &RecordBatch) -> Result<(), FormatError> {
        let (mut rows, bytes) = (batch.num_rows(), batch.get_array_memory_size());
        if batch.num_columns() == 0 {
            // Of a file whose columns nobody wants, by however many batches they come.
            rows = rows.saturating_add(self.rows_before as usize);
        }
        if rows <= ROWS_UNBACKED_MAX.max(bytes.saturating_mul(8)) {
            return Ok(());
        }
        Err(FormatError::Parse {
            row: self.rows_before + 1,
            column: None,
            what: format!(
                "a batch claims {rows} rows and has {bytes} bytes of columns; send fewer rows a batch"
            ),
            text: String::new(),
        })
    }

    fn bad(&self, i: usize, what: String) -> FormatError {
        FormatError::Parse {
            row: self.rows_before + 1,
            column: Some(self.schema.field(i).name().clone()),
            what,
            text: String::new(),
        }
    }

    fn finish(&self, column: &mut Column, i: usize) -> Result<ArrayRef, FormatError> {
        let field = self.schema.field(i);
        let array = column.finish(self.settings.utf8_replace).map_err(|e| FormatError::Parse {
            row: self.rows_before + e.row as u64 + 1,
            column: Some(field.name().clone()),
            what: "not UTF-8; set input_utf8='replace' to take it anyway".to_owned(),
            text: String::from_utf8_lossy(&e.bytes).chars().take(100).collect(),
        })?;
        to_storage(array, field.data_type()).map_err(|what| self.bad(i, what))
    }

    /// Column `i` from an array of a file, and which rows took the default for a null.
    fn column(
        &self,
        array: &ArrayRef,
        file_field: &Field,
        i: usize,
    ) -> Result<(ArrayRef, Option<BooleanArray>), FormatError> {
        let (kind, field) = (&self.kinds[i], self.schema.field(i));
        let source = Kind::of_field(file_field);
        if castable(array.data_type(), kind) {
            let mut array = array.clone();
            let mut absent = None;
            if !field.is_nullable() && array.null_count() > 0 {
                if !self.settings.null_as_default {
                    let row = (0..array.len()).find(|r| array.is_null(*r)).unwrap_or(0);
                    return Err(FormatError::Parse {
                        row: self.rows_before + row as u64 + 1,
                        column: Some(field.name().clone()),
                        what: format!("null for {}, which is not nullable", kind.ty),
                        text: String::new(),
                    });
                }
                let mask = null_mask(&array);
                array = to_target(&array, field.data_type()).map_err(|w| self.bad(i, w))?;
                let mut default = Column::new(kind);
                default.push_default();
                let default = self.finish(&mut default, i)?;
                let pick: Vec<(usize, usize)> =
                    (0..array.len()).map(|r| if array.is_null(r) { (1, 0) } else { (0, r) }).collect();
                array = arrow_select::interleave::interleave(&[array.as_ref(), default.as_ref()], &pick)
                    .map_err(|e| self.bad(i, e.to_string()))?;
                absent = Some(mask);
            }
            let array = to_target(&array, field.data_type()).map_err(|w| self.bad(i, w))?;
            return Ok((array, absent));
        }
        // By way of text: every type reads every other's or says why not.
        let stored = guarded(self.rows_before + 1, || crate::view::stored(&source, array))
            .map_err(|e| self.bad(i, e.to_string()))?;
        let view = View::new(&source, &stored);
        let mut column = Column::new(kind);
        let mut absent = vec![false; array.len()];
        for (row, absent) in absent.iter_mut().enumerate() {
            *absent = !through_text(&view, row, &mut column, &self.settings)
                .map_err(|f| f.in_column(field.name()).at_row(self.rows_before + row as u64 + 1))?;
        }
        let any = absent.iter().any(|a| *a);
        Ok((self.finish(&mut column, i)?, any.then(|| BooleanArray::from(absent))))
    }
}

fn null_mask(array: &ArrayRef) -> BooleanArray {
    (0..array.len()).map(|r| Some(array.is_null(r))).collect()
}

/// Whether Arrow's own cast means the same as our types do.
fn castable(from: &DataType, kind: &Kind) -> bool {
    use DataType::*;
    let target = kind.ty.storage();
    if *from == target || from.equals_datatype(&target) {
        return true;
    }
    if let Dictionary(_, value) = from {
        return castable(value, kind);
    }
    match (&kind.shape, from) {
        (Shape::String, Utf8 | LargeUtf8 | Utf8View)
        | (
            Shape::Bytes,
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_),
        )
        | (Shape::String, Binary | LargeBinary | BinaryView)
        | (Shape::Date, Date64)
        | (Shape::Time(_), Timestamp(..)) => true,
        (
            Shape::Int8
            | Shape::Int16
            | Shape::Int32
            | Shape::Int64
            | Shape::UInt8
            | Shape::UInt16
            | Shape::UInt32
            | Shape::UInt64
            | Shape::Ipv4,
            f,
        ) => f.is_integer(),
        (Shape::Float32 | Shape::Float64, f) => f.is_numeric() && !matches!(f, Decimal256(..)),
        (Shape::Decimal { .. }, f) => {
            f.is_integer() || matches!(f, Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
        }
        (Shape::Array(items), List(f) | LargeList(f) | FixedSizeList(f, _)) => {
            castable(f.data_type(), items) && (items.nullable || !f.is_nullable())
        }
        _ => false,
    }
}

/// Casts where [`castable`] said so. A time without a zone is UTC, whatever the column's zone.
fn to_target(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, String> {
    if let (DataType::Timestamp(_, None), DataType::Timestamp(unit, Some(_))) = (array.data_type(), target) {
        let array = to_storage(array.clone(), &DataType::Timestamp(*unit, Some("UTC".into())))?;
        return to_storage(array, target);
    }
    to_storage(array.clone(), target)
}
