//! Schemas: of Avro's text to what values are walked by, to columns, and from columns.

use super::read::child;
use crate::FormatError;
use crate::kind::{Kind, Shape};
use crate::paths::{targets, unused};
use crate::types::Type;
use arrow_schema::SchemaRef;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// A schema of Avro whose values are records.
#[derive(Debug, Clone)]
pub struct AvroSchema {
    pub(super) fields: Arc<[(String, Arc<Node>)]>,
    full_name: String,
    text: String,
}

/// One level of a schema.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Arc<Node>),
    Map(Arc<Node>),
    Union(Vec<Arc<Node>>),
    Record(Arc<[(String, Arc<Node>)]>),
    Date,
    /// Times since the epoch, in units of 10^-digits seconds.
    Timestamp(u8),
    /// Big-endian two's complement; of so many bytes, or with their number before them.
    Decimal {
        precision: u8,
        scale: u8,
        fixed: Option<usize>,
    },
    Uuid,
}

fn refused(what: impl std::fmt::Display) -> FormatError {
    FormatError::Schema { name: "Avro", what: what.to_string() }
}

impl AvroSchema {
    /// # Errors
    /// A text that is no schema of a record, or one that holds itself.
    pub fn parse(text: &str) -> Result<AvroSchema, FormatError> {
        Self::parse_with(&[], text)
    }

    /// Of a text that names types of others, which may name each other's, in any order.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_with(others: &[String], text: &str) -> Result<AvroSchema, FormatError> {
        let json: Value = serde_json::from_str(text).map_err(refused)?;
        let mut build = Build::default();
        let mut left: Vec<Value> =
            others.iter().map(|o| serde_json::from_str(o)).collect::<Result<_, _>>().map_err(refused)?;
        // Each pass takes those whose names are known by then.
        while !left.is_empty() {
            let (before, mut failed) = (left.len(), None);
            left.retain(|other| {
                let known = build.named.clone();
                build.node(other, "").map(drop).is_err_and(|e| {
                    build.named = known;
                    failed.get_or_insert(e);
                    true
                })
            });
            if let Some(e) = failed.filter(|_| left.len() == before) {
                return Err(e);
            }
        }
        let root = build.node(&json, "")?;
        let Node::Record(fields) = &*root else {
            return Err(refused("a message is a record, this schema is none"));
        };
        Ok(AvroSchema { fields: fields.clone(), full_name: build.name_of(&root), text: text.to_owned() })
    }

    /// The schema in which rows of these columns can be written.
    pub fn of_columns(schema: &SchemaRef, record: &str) -> Result<AvroSchema, FormatError> {
        let mut names = Names::default();
        let mut fields = Vec::new();
        for field in schema.fields() {
            let kind = Kind::of_field(field);
            check_name(field.name())?;
            let ty = names.type_of(&kind, field.name());
            fields.push(json!({ "name": field.name(), "type": ty }));
        }
        AvroSchema::parse(&json!({ "type": "record", "name": record, "fields": fields }).to_string())
    }

    /// A column that no field is for.
    pub fn unknown(&self, columns: &SchemaRef) -> Option<String> {
        let names: Vec<String> = columns.fields().iter().map(|f| f.name().clone()).collect();
        let targets = targets(&names, &self.fields, &child);
        unused(names.len(), &targets).map(|i| names[i].clone())
    }

    /// Name of the record, with its namespace.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A column for each field.
    ///
    /// # Errors
    /// A field whose type no column has.
    pub fn columns(&self) -> Result<Vec<(String, Type)>, FormatError> {
        let column = |(name, node): &(String, Arc<Node>)| match type_of(node) {
            Ok(ty) => Ok((name.clone(), ty)),
            Err(what) => Err(refused(format!("field {name} is {what}, which no column can be"))),
        };
        self.fields.iter().map(column).collect()
    }
}

/// Levels of a schema, and its nodes with every named type put in where it is used.
const DEPTH_MAX: usize = 100;
const NODES_MAX: usize = 100_000;

#[derive(Default)]
struct Build {
    /// Named types that were met; `None` while one is being built.
    named: HashMap<String, Option<Arc<Node>>>,
    /// Levels and nodes of what was built.
    sizes: HashMap<*const Node, (usize, usize)>,
}

impl Build {
    fn name_of(&self, node: &Arc<Node>) -> String {
        let is = |named: &Option<Arc<Node>>| named.as_ref().is_some_and(|n| Arc::ptr_eq(n, node));
        self.named.iter().find(|(_, named)| is(named)).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    /// The node of a type within a namespace; `""` = none.
    fn node(&mut self, json: &Value, namespace: &str) -> Result<Arc<Node>, FormatError> {
        let node = self.unmeasured(json, namespace)?;
        let parts: Vec<&Arc<Node>> = match &*node {
            Node::Array(of) | Node::Map(of) => vec![of],
            Node::Union(branches) => branches.iter().collect(),
            Node::Record(fields) => fields.iter().map(|(_, node)| node).collect(),
            _ => Vec::new(),
        };
        let (mut depth, mut nodes) = (1, 1);
        for part in parts {
            let (d, n) = self.sizes.get(&Arc::as_ptr(part)).copied().unwrap_or((1, 1));
            (depth, nodes) = (depth.max(d + 1), nodes + n);
        }
        if depth > DEPTH_MAX || nodes > NODES_MAX {
            return Err(refused(format!(
                "a schema of more than {DEPTH_MAX} levels or {NODES_MAX} fields in all"
            )));
        }
        self.sizes.insert(Arc::as_ptr(&node), (depth, nodes));
        Ok(node)
    }

    fn unmeasured(&mut self, json: &Value, namespace: &str) -> Result<Arc<Node>, FormatError> {
        match json {
            Value::String(name) => match primitive(name) {
                Some(node) => Ok(Arc::new(node)),
                None => {
                    let name = full_name(name, namespace)?;
                    match self.named.get(&name) {
                        Some(Some(node)) => Ok(node.clone()),
                        Some(None) => Err(refused(format!("{name} holds itself; no column can hold that"))),
                        None => Err(refused(format!("there is no type {name}"))),
                    }
                }
            },
            Value::Array(branches) => {
                let branches =
                    branches.iter().map(|b| self.node(b, namespace)).collect::<Result<Vec<_>, _>>()?;
                if branches.iter().any(|b| matches!(**b, Node::Union(_))) {
                    return Err(refused("a union within a union"));
                }
                Ok(Arc::new(Node::Union(branches)))
            }
            Value::Object(object) => self.object(object, namespace),
            other => Err(refused(format!("a type is a name, a list or an object, not {other}"))),
        }
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<Arc<Node>, FormatError> {
        let of = object.get("type").ok_or_else(|| refused("an object without its \"type\""))?;
        let part =
            |what: &str| object.get(what).ok_or_else(|| refused(format!("{of} without its \"{what}\"")));
        let Value::String(word) = of else { return self.node(of, namespace) };
        let logical = object.get("logicalType").and_then(Value::as_str).unwrap_or_default();
        match word.as_str() {
            "array" => return Ok(Arc::new(Node::Array(self.node(part("items")?, namespace)?))),
            "map" => return Ok(Arc::new(Node::Map(self.node(part("values")?, namespace)?))),
            "record" | "error" | "enum" | "fixed" => {}
            name => {
                let Some(plain) = primitive(name) else { return self.unmeasured(of, namespace) };
                return Ok(Arc::new(refined(plain, logical, object)?));
            }
        }
        let space = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let name = part("name")?.as_str().unwrap_or_default();
        let name = full_name(name, space)?;
        if self.named.insert(name.clone(), None).is_some() {
            return Err(refused(format!("type {name} is told twice")));
        }
        let node = match word.as_str() {
            "enum" => {
                let symbols = part("symbols")?.as_array().into_iter().flatten();
                Node::Enum(symbols.filter_map(Value::as_str).map(str::to_owned).collect())
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|n| usize::try_from(n).ok());
                let size =
                    size.ok_or_else(|| refused(format!("the size of {name} is no number of bytes")))?;
                refined(Node::Fixed(size), logical, object)?
            }
            _ => {
                let space = name.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
                let all = part("fields")?.as_array().ok_or_else(|| refused("\"fields\" is no list"))?;
                let mut fields: Vec<(String, Arc<Node>)> = Vec::with_capacity(all.len());
                for field in all {
                    let get = |what: &str| {
                        field
                            .get(what)
                            .ok_or_else(|| refused(format!("a field of {name} without its \"{what}\"")))
                    };
                    let field_name = get("name")?.as_str().unwrap_or_default();
                    check_name(field_name)?;
                    if fields.iter().any(|(n, _)| n == field_name) {
                        return Err(refused(format!("field {field_name} of {name} is told twice")));
                    }
                    fields.push((field_name.to_owned(), self.node(get("type")?, &space)?));
                }
                Node::Record(fields.into())
            }
        };
        let node = Arc::new(node);
        self.named.insert(name, Some(node.clone()));
        Ok(node)
    }
}

fn primitive(word: &str) -> Option<Node> {
    Some(match word {
        "null" => Node::Null,
        "boolean" => Node::Bool,
        "int" => Node::Int,
        "long" => Node::Long,
        "float" => Node::Float,
        "double" => Node::Double,
        "bytes" => Node::Bytes,
        "string" => Node::String,
        _ => return None,
    })
}

/// A type as its logical type says. One that is not known is passed over, as the
/// specification has it.
fn refined(plain: Node, logical: &str, object: &Map<String, Value>) -> Result<Node, FormatError> {
    let digits = match logical {
        "timestamp-millis" | "local-timestamp-millis" => Some(3),
        "timestamp-micros" | "local-timestamp-micros" => Some(6),
        "timestamp-nanos" | "local-timestamp-nanos" => Some(9),
        _ => None,
    };
    Ok(match (plain, logical, digits) {
        (Node::Long, _, Some(digits)) => Node::Timestamp(digits),
        (Node::Int, "date", _) => Node::Date,
        (Node::String, "uuid", _) => Node::Uuid,
        (plain @ (Node::Bytes | Node::Fixed(_)), "decimal", _) => {
            let number = |what: &str| {
                object.get(what).map_or(Some(0), |v| v.as_u64().and_then(|n| u8::try_from(n).ok()))
            };
            let (precision, scale) = (number("precision"), number("scale"));
            let fixed = if let Node::Fixed(n) = plain { Some(n) } else { None };
            match (precision, scale) {
                (Some(precision @ 1..=38), Some(scale)) if scale <= precision => {
                    Node::Decimal { precision, scale, fixed }
                }
                _ => {
                    return Err(refused(
                        "a decimal whose digits are not 1 to 38, or fewer than those after the point",
                    ));
                }
            }
        }
        (plain, ..) => plain,
    })
}

/// A name with its namespace.
fn full_name(name: &str, namespace: &str) -> Result<String, FormatError> {
    let full = match name.contains('.') || namespace.is_empty() {
        true => name.trim_start_matches('.').to_owned(),
        false => format!("{namespace}.{name}"),
    };
    full.split('.').try_for_each(check_name)?;
    Ok(full)
}

fn type_of(node: &Node) -> Result<Type, String> {
    Ok(match node {
        Node::Null => return Err("null".into()),
        Node::Bool => Type::Bool,
        Node::Int => Type::Int32,
        Node::Long => Type::Int64,
        Node::Float => Type::Float32,
        Node::Double => Type::Float64,
        Node::Bytes | Node::Fixed(_) => Type::Bytes,
        Node::String | Node::Enum(_) => Type::String,
        Node::Uuid => Type::Uuid,
        Node::Date => Type::Date,
        Node::Timestamp(digits) => Type::DateTime64(*digits, Some("UTC".into())),
        Node::Decimal { precision, scale, .. } => Type::Decimal(*precision, *scale),
        Node::Array(items) => Type::Array(Box::new(type_of(items)?)),
        Node::Map(values) => Type::Map(Box::new(Type::String), Box::new(type_of(values)?)),
        Node::Record(fields) => {
            let field = |(name, node): &(String, Arc<Node>)| Ok((Some(name.as_str().into()), type_of(node)?));
            Type::Tuple(fields.iter().map(field).collect::<Result<Vec<_>, String>>()?.into())
        }
        Node::Union(branches) => {
            let some: Vec<_> = branches.iter().filter(|b| !matches!(***b, Node::Null)).collect();
            match some.as_slice() {
                [one] if some.len() == branches.len() => type_of(one)?,
                [one] => match type_of(one)? {
                    // These can not be null: nothing is an empty one.
                    whole @ (Type::Array(_) | Type::Map(..) | Type::Tuple(_)) => whole,
                    ty => ty.into_nullable(),
                },
                _ => return Err("a union of several types".into()),
            }
        }
    })
}

/// Avro's names are letters, digits and underscores.
fn check_name(name: &str) -> Result<(), FormatError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
        return Err(refused(format!(
            "a field can not be named '{name}'; rename the column, or give a schema"
        )));
    }
    Ok(())
}

/// Names of records and enums have to differ.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn fresh(&mut self, wish: &str) -> String {
        let n = self.0.entry(wish.to_owned()).or_default();
        *n += 1;
        if *n == 1 { wish.to_owned() } else { format!("{wish}_{n}") }
    }

    fn type_of(&mut self, kind: &Kind, name: &str) -> Value {
        let ty = match &kind.shape {
            Shape::Bool => json!("boolean"),
            Shape::Int8 | Shape::Int16 | Shape::Int32 | Shape::UInt8 | Shape::UInt16 => json!("int"),
            Shape::Int64 | Shape::UInt32 | Shape::UInt64 => json!("long"),
            Shape::Float32 => json!("float"),
            Shape::Float64 => json!("double"),
            Shape::Decimal { precision, scale } => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
            Shape::Bytes => json!("bytes"),
            Shape::Date => json!({ "type": "int", "logicalType": "date" }),
            Shape::Time(t) => {
                let unit = match t.unit_digits {
                    0 | 3 => "timestamp-millis",
                    6 => "timestamp-micros",
                    _ => "timestamp-nanos",
                };
                json!({ "type": "long", "logicalType": unit })
            }
            Shape::Uuid => json!({ "type": "string", "logicalType": "uuid" }),
            // Names of an enum of ours need not be names of Avro.
            Shape::String | Shape::Ipv4 | Shape::Ipv6 | Shape::Enum(_) => json!("string"),
            Shape::Array(items) => json!({ "type": "array", "items": self.type_of(items, name) }),
            Shape::Map(_, values) => json!({ "type": "map", "values": self.type_of(values, name) }),
            Shape::Tuple(t) => {
                let mut fields = Vec::new();
                for (field, kind) in &t.fields {
                    let name = if t.named { field.clone() } else { format!("_{field}") };
                    fields.push(json!({ "name": name, "type": self.type_of(kind, &name) }));
                }
                let mut record = Map::new();
                record.insert("type".into(), json!("record"));
                record.insert("name".into(), json!(self.fresh(name)));
                record.insert("fields".into(), Value::Array(fields));
                Value::Object(record)
            }
            Shape::Nothing => return json!("null"),
        };
        if kind.nullable { json!(["null", ty]) } else { ty }
    }
}
