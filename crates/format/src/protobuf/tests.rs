use super::*;
use crate::tests::{decode_all, encode, schema};
use crate::{FormatError, FormatSettings};
use std::collections::BTreeMap;

const ORDERS: &str = r#"
    syntax = "proto3";
    package shop;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    import "places.proto";
    enum State { NEW = 0; PAID = 1; }
    message Order {
        message Line { string sku = 1; sint32 n = 2; }
        int64 id = 1;
        State state = 2;
        optional double price = 3;
        google.protobuf.Timestamp at = 4;
        repeated Line lines = 5;
        map<string, uint32> tags = 6;
        Place to = 7;
        google.protobuf.StringValue note = 8;
        bytes raw = 9;
        repeated fixed64 ids = 10;
    }
    message Other { Other self = 1; }
"#;

fn texts() -> BTreeMap<String, String> {
    let places =
        "syntax = \"proto3\"; package shop; message Place { string city = 1; optional string zip = 2; }";
    [("orders", ORDERS), ("places", places)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn order() -> ProtobufSchema {
    ProtobufSchema::parse(&texts(), "orders", Some("Order")).unwrap()
}

fn written(json: &str, columns: &[(&str, &str)], of: &ProtobufSchema) -> Result<Vec<Vec<u8>>, FormatError> {
    let s = FormatSettings::default();
    let batch = decode_all("JSONEachRow", &schema(columns), json.as_bytes(), &s).unwrap();
    let mut all = Vec::new();
    ProtobufWriter::new(&batch.schema(), of.clone(), &s)?.write(&batch, |m| all.push(m))?;
    Ok(all)
}

fn read(messages: &[Vec<u8>], columns: &[(&str, &str)], of: &ProtobufSchema) -> Result<String, FormatError> {
    let s = FormatSettings::default();
    let mut rows = ProtobufRows::new(schema(columns), &s);
    messages.iter().try_for_each(|m| rows.push(of, m))?;
    Ok(String::from_utf8(encode("JSONEachRow", &rows.finish()?.batch, &s)?).unwrap())
}

#[test]
fn columns_are_those_of_the_message() {
    let told: Vec<String> = order().columns().unwrap().iter().map(|(n, t)| format!("{n} {t}")).collect();
    assert_eq!(
        told.join(", "),
        "id int64, state string, price nullable(float64), at nullable(datetime64(9, 'UTC')), \
         lines array(tuple(sku string, n int32)), tags map(string, uint32), \
         to tuple(city string, zip nullable(string)), note nullable(string), raw bytes, ids array(uint64)"
    );
}

#[test]
fn messages_go_out_and_come_back() {
    let columns = [
        ("id", "int64"),
        ("state", "enum8('NEW' = 0, 'PAID' = 1)"),
        ("price", "nullable(float64)"),
        ("at", "datetime64(3, 'UTC')"),
        ("lines", "array(tuple(sku string, n int32))"),
        ("tags", "map(string, uint32)"),
        ("to.city", "string"),
        ("to_zip", "nullable(string)"),
        ("note", "nullable(string)"),
        ("raw", "string"),
        ("ids", "array(uint64)"),
    ];
    let rows = "{\"id\":-7,\"state\":\"PAID\",\"price\":0,\"at\":\"1969-12-31 23:59:59.999\",\"lines\":[{\"sku\":\"a\",\"n\":-1}],\"tags\":{\"a\":1,\"b\":2},\"to.city\":\"Ulm\",\"to_zip\":null,\"note\":\"\",\"raw\":\"x\",\"ids\":[1,18446744073709551615]}\n\
                {\"id\":0,\"state\":\"NEW\",\"price\":null,\"at\":\"2026-11-27 10:00:00.001\",\"lines\":[],\"tags\":{},\"to.city\":\"\",\"to_zip\":\"1\",\"note\":null,\"raw\":\"\",\"ids\":[]}\n";
    let messages = written(rows, &columns, &order()).unwrap();
    assert_eq!(read(&messages, &columns, &order()).unwrap(), rows);
    // With their lengths, several in one payload.
    let mut all = Vec::new();
    messages.iter().for_each(|m| ProtobufWriter::delimit(m, &mut all));
    let mut delimited = ProtobufRows::new(schema(&[("id", "int64")]), &FormatSettings::default());
    assert_eq!(delimited.push_delimited(&order(), &all).unwrap(), 2);
    let e = delimited.push_delimited(&order(), &all[..all.len() - 1]).unwrap_err();
    assert!(e.to_string().contains("ProtobufSingle"), "{e}");
    assert_eq!(delimited.finish().unwrap().batch.num_rows(), 2);
}

#[test]
fn what_is_not_there_is_absent() {
    let mut rows =
        ProtobufRows::new(schema(&[("price", "float64"), ("id", "int64")]), &FormatSettings::default());
    rows.push(&order(), &[]).unwrap();
    let got = rows.finish().unwrap();
    // A field of proto3 without presence is its zero.
    assert!(got.absent[0].as_ref().unwrap().value(0) && got.absent[1].is_none());
}

#[test]
fn what_does_not_fit_says_so() {
    let of = order();
    assert!(
        read(&[vec![0x08]], &[("id", "int64")], &of)
            .unwrap_err()
            .to_string()
            .contains("no message of shop.Order")
    );
    let big = written("{\"id\":300}", &[("id", "int64")], &of).unwrap();
    let e = read(&big, &[("id", "int8")], &of).unwrap_err().to_string();
    assert!(e.contains("column id") && e.contains("out of range of int8"), "{e}");
    let cases = [
        ("{\"nope\":1}", [("nope", "int64")], "no field nope"),
        ("{\"state\":\"LOST\"}", [("state", "string")], "'LOST' is no name of shop.State"),
        ("{\"tags\":1}", [("tags", "int64")], "repeated field tags"),
    ];
    for (json, columns, part) in cases {
        let e = written(json, &columns, &of).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
}

#[test]
fn schemas_that_can_not_be_used_say_why() {
    let parse = |main: &str, message| {
        ProtobufSchema::parse(&texts(), main, message).map(|_| ()).unwrap_err().to_string()
    };
    assert!(parse("orders", None).contains("shop.Order.Line"), "{}", parse("orders", None));
    assert!(parse("orders", Some("Ordr")).contains("shop.Order"));
    assert!(parse("nowhere", None).contains("nowhere.proto"), "{}", parse("nowhere", None));
    assert!(ProtobufSchema::parse(&texts(), "places", None).is_ok());
    let other = ProtobufSchema::parse(&texts(), "orders", Some("shop.Other")).unwrap();
    assert!(other.columns().unwrap_err().to_string().contains("holds itself"));
    let broken =
        BTreeMap::from([("b".to_owned(), "syntax = \"proto3\"; message M { strin a = 1; }".to_owned())]);
    let e = ProtobufSchema::check(&broken, "b").unwrap_err().to_string();
    assert!(e.contains("strin"), "{e}");
    // The place of a message, as registries tell it.
    let line = ProtobufSchema::parse(&texts(), "orders", Some("Order.Line")).unwrap();
    assert_eq!(line.path(), [0, 0]);
    assert_eq!(order().at(&[0, 0]).unwrap().full_name(), "shop.Order.Line");
    assert!(order().at(&[5]).is_err());
}
