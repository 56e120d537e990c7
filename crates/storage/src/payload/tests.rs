use super::*;
use arrow_array::builder::{ListBuilder, StringDictionaryBuilder};
use arrow_array::types::{Int8Type, Int32Type};
use arrow_array::{
    Array, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray,
    StructArray, TimestampMillisecondArray, UInt8Array,
};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// Many types in one batch, with nulls, dictionaries and nesting.
fn zoo(rows: usize) -> RecordBatch {
    let mut tags = StringDictionaryBuilder::<Int8Type>::new();
    let mut names = StringDictionaryBuilder::<Int32Type>::new();
    let mut lists = ListBuilder::new(arrow_array::builder::Int64Builder::new());
    for i in 0..rows {
        tags.append_value(["red", "green"][i % 2]);
        names.append_value(format!("name {}", i % 7));
        for j in 0..i % 3 {
            lists.values().append_value(j as i64);
        }
        lists.append(i % 5 != 0);
    }
    let inner: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("é{i}"))));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("i", Arc::new(Int64Array::from_iter_values(0..rows as i64)), false),
        (
            "f",
            Arc::new((0..rows).map(|i| (i % 4 != 0).then_some(i as f64 / 3.0)).collect::<Float64Array>()),
            true,
        ),
        ("s", Arc::new(StringArray::from_iter_values((0..rows).map(|i| "x".repeat(i % 9)))), false),
        ("b", Arc::new((0..rows).map(|i| Some(i % 3 == 0)).collect::<BooleanArray>()), true),
        ("u", Arc::new(UInt8Array::from_iter_values((0..rows).map(|i| i as u8))), false),
        ("tag", Arc::new(tags.finish()), true),
        ("name", Arc::new(names.finish()), true),
        ("list", Arc::new(lists.finish()), true),
        (
            "tuple",
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("t", DataType::Utf8, false)), inner)])),
            false,
        ),
        (
            "id",
            Arc::new(FixedSizeBinaryArray::try_from_iter((0..rows.max(1)).map(|i| [i as u8; 16])).unwrap()),
            false,
        ),
        (
            "d",
            Arc::new(
                Decimal128Array::from_iter_values((0..rows).map(|i| i as i128 * 1_000_003))
                    .with_precision_and_scale(38, 4)
                    .unwrap(),
            ),
            false,
        ),
        (
            "_tp_time",
            Arc::new(TimestampMillisecondArray::from_iter_values(0..rows as i64).with_timezone("UTC")),
            false,
        ),
    ];
    let fields: Vec<_> =
        columns.iter().map(|(n, c, nullable)| Field::new(*n, c.data_type().clone(), *nullable)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|c| c.1).collect()).unwrap()
}

#[test]
fn every_type_comes_back_as_it_was() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        for (offset, len) in [(0, 100), (13, 50), (99, 1)] {
            let batch = zoo(100).slice(offset, len);
            let book = SchemaBook::in_memory(&batch.schema()).unwrap();
            let bytes = encode(&batch, book.current(), codec).unwrap();
            assert_eq!(bytes.len() % ALIGN, 0);
            assert_eq!(decode(&bytes, &book).unwrap(), batch, "{codec:?} {offset} {len}");
        }
    }
}

#[test]
fn aligned_payloads_are_not_copied() {
    let batch = zoo(1000);
    let book = SchemaBook::in_memory(&batch.schema()).unwrap();
    let bytes = encode(&batch, book.current(), Codec::None).unwrap();
    // Place the payload on a 64-byte border, as the log does.
    let mut room = vec![0u8; bytes.len() + ALIGN];
    let skip = room.as_ptr().align_offset(ALIGN);
    room[skip..skip + bytes.len()].copy_from_slice(&bytes);
    let bytes = Bytes::from(room).slice(skip..skip + bytes.len());
    let decoded = decode(&bytes, &book).unwrap();
    let within = bytes.as_ptr_range();
    for buffer in decoded.column(0).to_data().buffers().iter().chain(decoded.column(2).to_data().buffers()) {
        assert!(within.contains(&buffer.as_ptr()));
    }
}

#[test]
fn damage_is_an_error_not_a_panic() {
    let batch = zoo(20);
    let book = SchemaBook::in_memory(&batch.schema()).unwrap();
    let bytes = encode(&batch, book.current(), Codec::None).unwrap();
    for cut in (0..bytes.len()).step_by(17) {
        assert!(decode(&bytes.slice(..cut), &book).is_err(), "cut at {cut}");
    }
    let other =
        SchemaBook::in_memory(&Arc::new(Schema::new(vec![Field::new("x", DataType::Int8, true)]))).unwrap();
    assert!(decode(&bytes, &other).unwrap_err().to_string().contains("unknown schema"));
}

#[test]
fn content_hash_is_of_values_not_of_memory() {
    let whole = zoo(60);
    let middle = whole.slice(20, 20);
    let rebuilt = {
        let book = SchemaBook::in_memory(&whole.schema()).unwrap();
        decode(&encode(&middle, book.current(), Codec::Zstd).unwrap(), &book).unwrap()
    };
    assert_eq!(content_hash(&middle).unwrap(), content_hash(&rebuilt).unwrap());
    assert_ne!(content_hash(&middle).unwrap(), content_hash(&whole.slice(21, 20)).unwrap());
    assert_ne!(content_hash(&middle).unwrap(), content_hash(&whole.slice(20, 19)).unwrap());
}
