//! Arrays of any Arrow type into the storage of a column, with checks.
//!
//! For batches that come from Parquet and Arrow files, and for columns whose sender uses another
//! type than the stream. Nothing is lost silently: overflow, bad text and nulls where none can
//! be are errors.

use arrow_array::{Array, ArrayRef};
use arrow_cast::CastOptions;
use arrow_schema::DataType;

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
