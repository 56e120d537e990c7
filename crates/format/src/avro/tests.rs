use super::*;
use crate::tests::{encode, schema};
use crate::{FormatSettings, decoder, encoder};
use arrow_array::RecordBatch;

/// Rows of values, as JSON.
fn json(batch: &RecordBatch) -> String {
    String::from_utf8(encode("JSONEachRow", batch, &FormatSettings::default()).unwrap()).unwrap()
}

fn rows_of(json: &str, columns: &[(&str, &str)]) -> RecordBatch {
    let mut d = decoder("JSONEachRow", schema(columns), &FormatSettings::default()).unwrap();
    d.push(json.as_bytes().to_vec().into()).unwrap();
    d.finish().unwrap();
    d.next_batch(usize::MAX).unwrap().unwrap().batch
}

fn written(
    json: &str,
    columns: &[(&str, &str)],
    avro: &AvroSchema,
) -> Result<Vec<Vec<u8>>, crate::FormatError> {
    let batch = rows_of(json, columns);
    let writer = AvroWriter::new(&batch.schema(), avro.clone(), &FormatSettings::default())?;
    let (mut out, mut all) = (Vec::new(), Vec::new());
    writer.write(&batch, &mut out, |out| all.push(std::mem::take(out)))?;
    Ok(all)
}

fn read(
    values: &[Vec<u8>],
    avro: &AvroSchema,
    columns: &[(&str, &str)],
) -> Result<RecordBatch, crate::FormatError> {
    let mut rows = AvroRows::new(schema(columns), &FormatSettings::default());
    values.iter().try_for_each(|v| rows.push(avro, v))?;
    Ok(rows.finish()?.batch)
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"state","type":{"type":"enum","name":"State","symbols":["NEW","PAID"]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"day","type":["null",{"type":"int","logicalType":"date"}]},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"sku","type":"string"},{"name":"n","type":"int"}]}}},
    {"name":"tags","type":{"type":"map","values":"string"}},
    {"name":"to","type":["null",{"type":"record","name":"Place","fields":[
        {"name":"city","type":"string"},{"name":"zip","type":["null","string"]}]}]},
    {"name":"before","type":["null","Place"]}]}"#;

#[test]
fn columns_are_those_of_the_schema() {
    let columns = AvroSchema::parse(ORDER).unwrap().columns().unwrap();
    let told: Vec<String> = columns.iter().map(|(n, t)| format!("{n} {t}")).collect();
    assert_eq!(
        told.join(", "),
        "id int64, state string, price decimal(10, 2), at datetime64(6, 'UTC'), day nullable(date), \
         lines array(tuple(sku string, n int32)), tags map(string, string), \
         to tuple(city string, zip nullable(string)), before tuple(city string, zip nullable(string))"
    );
}

#[test]
fn values_go_out_and_come_back() {
    let avro = AvroSchema::parse(ORDER).unwrap();
    let columns = [
        ("id", "int64"),
        ("state", "string"),
        ("price", "decimal(10, 2)"),
        ("at", "datetime64(6, 'UTC')"),
        ("day", "nullable(date)"),
        ("lines", "array(tuple(sku string, n int32))"),
        ("tags", "map(string, string)"),
        ("to", "tuple(city string, zip nullable(string))"),
        ("before.city", "string"),
        ("before_zip", "nullable(string)"),
    ];
    let rows = "{\"id\":-7,\"state\":\"PAID\",\"price\":-1234.5,\"at\":\"2026-11-27 10:00:00.000001\",\"day\":\"1969-12-31\",\"lines\":[{\"sku\":\"a\",\"n\":1},{\"sku\":\"\",\"n\":-2}],\"tags\":{\"k\":\"v\"},\"to\":{\"city\":\"Ulm\",\"zip\":null},\"before.city\":\"Bonn\",\"before_zip\":\"1\"}\n\
                {\"id\":9223372036854775807,\"state\":\"NEW\",\"price\":99999999.99,\"at\":\"1900-01-01 00:00:00.000000\",\"day\":null,\"lines\":[],\"tags\":{},\"to\":{\"city\":\"\",\"zip\":\"x\"},\"before.city\":\"\",\"before_zip\":null}\n";
    let values = written(rows, &columns, &avro).unwrap();
    let back = read(&values, &avro, &columns).unwrap();
    assert_eq!(json(&back), json(&rows_of(rows, &columns)));
}

/// A reader gets what it names, whoever wrote it.
#[test]
fn schemas_evolve() {
    let v1 = AvroSchema::parse(
        r#"{"type":"record","name":"r","fields":[{"name":"id","type":"int"},{"name":"gone","type":"string"}]}"#,
    )
    .unwrap();
    let v2 = AvroSchema::parse(
        r#"{"type":"record","name":"r","fields":[{"name":"new","type":["null","double"]},{"name":"id","type":"long"}]}"#,
    )
    .unwrap();
    let old = written("{\"id\":1,\"gone\":\"x\"}", &[("id", "int32"), ("gone", "string")], &v1).unwrap();
    let new =
        written("{\"new\":0.5,\"id\":5000000000}", &[("new", "nullable(float64)"), ("id", "int64")], &v2)
            .unwrap();
    let mut rows = AvroRows::new(schema(&[("id", "int64"), ("new", "float64")]), &FormatSettings::default());
    rows.push(&v1, &old[0]).unwrap();
    rows.push(&v2, &new[0]).unwrap();
    let got = rows.finish().unwrap();
    assert_eq!(json(&got.batch), "{\"id\":1,\"new\":0}\n{\"id\":5000000000,\"new\":0.5}\n");
    let absent = got.absent[1].as_ref().unwrap();
    assert!(absent.value(0) && !absent.value(1));
}

#[test]
fn what_does_not_fit_says_so_and_leaves_the_rows_before() {
    let field = |ty: &str| {
        AvroSchema::parse(&format!(r#"{{"type":"record","name":"r","fields":[{{"name":"a","type":{ty}}}]}}"#))
            .unwrap()
    };
    let long = field("\"long\"");
    let array = field(r#"{"type":"array","items":"null"}"#);
    // (schema, column, bytes, part of the error)
    let cases: [(&AvroSchema, &str, &[u8], &str); 9] = [
        (&long, "int8", &[0x80, 2], "out of range of int8"),
        (&long, "array(int8)", &[2], "can not be read as array(int8)"),
        (&long, "int64", &[0x80], "ends early"),
        (&long, "int64", &[2, 0], "1 bytes are left behind the value"),
        (&long, "int64", &[0xff; 11], "more than 64 bits"),
        (&field("\"string\""), "string", &[2, 0xff], "not UTF-8"),
        (&field("\"string\""), "string", &[0xfe, 0xff, 0xff, 0xff, 0x0f, 1], "ends early"),
        (&field(r#"["null","int"]"#), "nullable(int32)", &[4], "branch 2 of a union of 2"),
        // Many items that take no byte.
        (&array, "array(nullable(int8))", &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0], "items that take no byte"),
    ];
    for (avro, column, bytes, part) in cases {
        let mut rows = AvroRows::new(schema(&[("a", column)]), &FormatSettings::default());
        let good = AvroSchema::parse(r#"{"type":"record","name":"r","fields":[]}"#).unwrap();
        rows.push(&good, &[]).unwrap();
        let e = rows.push(avro, bytes).unwrap_err().to_string();
        assert!(e.contains(part) && e.contains("row 2"), "{column} {bytes:?}: {e}");
        assert_eq!(rows.finish().unwrap().batch.num_rows(), 1);
    }
    for (json, columns, part) in [
        ("{\"a\":null}", [("a", "nullable(int64)")], "use a union with null"),
        ("{\"b\":1}", [("b", "int64")], "has no field b"),
    ] {
        let e = written(json, &columns, &long).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
}

#[test]
fn schemas_that_name_each_other_come_in_any_order() {
    let record = |name: &str, ty: &str| {
        format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"x","type":"{ty}"}}]}}"#)
    };
    let others = [record("B", "C"), record("A", "B"), record("C", "int")];
    let main = r#"{"type":"record","name":"M","fields":[{"name":"a","type":"A"},{"name":"c","type":"C"}]}"#;
    let schema = AvroSchema::parse_with(&others, main).unwrap();
    let told: Vec<String> = schema.columns().unwrap().iter().map(|(n, t)| format!("{n} {t}")).collect();
    assert_eq!(told, ["a tuple(x tuple(x tuple(x int32)))", "c tuple(x int32)"]);
    let missing = AvroSchema::parse_with(&others[..2], main).unwrap_err().to_string();
    assert!(missing.contains("there is no type C"), "{missing}");
}

#[test]
fn schemas_that_can_not_be_used_say_why() {
    let deep = (0..200).fold("\"int\"".to_owned(), |t, _| format!(r#"{{"type":"array","items":{t}}}"#));
    let wide = (0..40).fold(r#"{"type":"record","name":"r0","fields":[]}"#.to_owned(), |inner, i| {
        let name = format!("r{i}");
        format!(
            r#"{{"type":"record","name":"r{}","fields":[{{"name":"a","type":{inner}}},{{"name":"b","type":"{name}"}}]}}"#,
            i + 1
        )
    });
    let cases = [
        ("\"string\"", "a message is a record"),
        (r#"{"type":"record","name":"r","fields":[{"name":"a","type":"r"}]}"#, "holds itself"),
        (r#"{"type":"record","name":"r","fields":[{"name":"a","type":["null","r"]}]}"#, "holds itself"),
        ("{", "EOF"),
        (&format!(r#"{{"type":"record","name":"r","fields":[{{"name":"a","type":{deep}}}]}}"#), ""),
        (&wide, "more than"),
    ];
    for (text, part) in cases {
        let e = AvroSchema::parse(text).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
}

/// Files of other codecs, written by the same code that reads them in other systems.
#[test]
fn files_are_read_in_every_codec() {
    let columns = [("id", "int64"), ("name", "nullable(string)")];
    let rows = "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":null}\n";
    let s = FormatSettings::default();
    for (name, bytes) in [
        ("null", &include_bytes!("../../testdata/avro/null.avro")[..]),
        ("deflate", include_bytes!("../../testdata/avro/deflate.avro")),
        ("snappy", include_bytes!("../../testdata/avro/snappy.avro")),
        ("zstandard", include_bytes!("../../testdata/avro/zstandard.avro")),
    ] {
        let batch = crate::tests::decode_all("Avro", &schema(&columns), bytes, &s)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(json(&batch), rows, "{name}");
        let mut flipped = bytes.to_vec();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        assert!(crate::tests::decode_all("Avro", &schema(&columns), &flipped, &s).is_err(), "{name}");
    }
    let mut e = encoder("Avro", schema(&[("a b", "int64")]), &s).unwrap();
    assert!(e.begin(&mut Vec::new()).unwrap_err().to_string().contains("rename the column"));
}
