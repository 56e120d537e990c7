//! Schemas: of a text to a message's descriptor, and to columns.

use super::read::{child, fields};
use super::{TIMESTAMP, is_wrapper};
use crate::FormatError;
use crate::paths::{targets, unused};
use crate::types::Type;
use arrow_schema::SchemaRef;
use base64::Engine;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::collections::BTreeMap;

/// A message of a Protobuf schema.
#[derive(Debug, Clone)]
pub struct ProtobufSchema {
    pub(super) message: MessageDescriptor,
}

fn refused(what: impl std::fmt::Display) -> FormatError {
    FormatError::Schema { name: "Protobuf", what: what.to_string() }
}

/// Texts of schemas by name, also with `.proto` behind it.
struct Texts(BTreeMap<String, String>);

/// A schema that is told compiled, in base64: some clients register it so.
fn descriptor(text: &str) -> Option<FileDescriptorProto> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
    FileDescriptorProto::decode(bytes.as_slice()).ok()
}

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = self.0.get(name).or_else(|| self.0.get(name.strip_suffix(".proto")?));
        match text {
            Some(text) => match descriptor(text) {
                Some(file) => {
                    let file = FileDescriptorProto { name: Some(name.to_owned()), ..file };
                    Ok(File::from_file_descriptor_proto(file))
                }
                None => File::from_source(name, text),
            },
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl ProtobufSchema {
    /// The message of this name (`Outer.Inner` for one within another; with or without its package) in the
    /// schema `main`, which is one of `texts`; the others may be imported. Without a name it is the only one.
    ///
    /// # Errors
    /// A text that does not compile, or no such message.
    pub fn parse(
        texts: &BTreeMap<String, String>,
        main: &str,
        message: Option<&str>,
    ) -> Result<ProtobufSchema, FormatError> {
        let (pool, file) = compile(texts, main)?;
        let file = pool.get_file_by_name(&file).ok_or_else(|| refused("it compiles to nothing"))?;
        let mut all = Vec::new();
        file.messages().for_each(|m| collect(m, &mut all));
        let names = || all.iter().map(|m| m.full_name()).collect::<Vec<_>>().join(", ");
        let found = match message {
            Some(name) => {
                let tail = format!(".{name}");
                all.iter().find(|m| m.full_name() == name || m.full_name().ends_with(&tail))
            }
            None if file.messages().len() == 1 => all.first(),
            None => {
                return Err(refused(format!(
                    "{main} has several messages; name one as {main}:Message, of {}",
                    names()
                )));
            }
        };
        match found {
            Some(message) => Ok(ProtobufSchema { message: message.clone() }),
            None => Err(refused(format!(
                "{main} has no message {}; it has {}",
                message.unwrap_or_default(),
                names()
            ))),
        }
    }

    /// The first message of a schema; [`Self::at`] gives the others.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn first(texts: &BTreeMap<String, String>, main: &str) -> Result<ProtobufSchema, FormatError> {
        let (pool, file) = compile(texts, main)?;
        let message = pool.get_file_by_name(&file).and_then(|f| f.messages().next());
        message.map(|message| ProtobufSchema { message }).ok_or_else(|| refused("it has no message"))
    }

    /// All messages of the same file.
    pub fn all(&self) -> Vec<ProtobufSchema> {
        let mut all = Vec::new();
        self.message.parent_file().messages().for_each(|m| collect(m, &mut all));
        all.into_iter().map(|message| ProtobufSchema { message }).collect()
    }

    /// A column that no field is for.
    pub fn unknown(&self, columns: &SchemaRef) -> Option<String> {
        let names: Vec<String> = columns.fields().iter().map(|f| f.name().clone()).collect();
        let targets = targets(&names, &fields(&self.message), &child);
        unused(names.len(), &targets).map(|i| names[i].clone())
    }

    /// Whether a text compiles.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn check(texts: &BTreeMap<String, String>, main: &str) -> Result<(), FormatError> {
        compile(texts, main).map(|_| ())
    }

    /// Of the same file, the message at a place: the first number counts messages of the file, each next one
    /// those within the message before.
    ///
    /// # Errors
    /// There is none.
    pub fn at(&self, path: &[i32]) -> Result<ProtobufSchema, FormatError> {
        let place = |i: &i32| usize::try_from(*i).ok();
        let none = || refused(format!("it has no message at {path:?}"));
        let (first, rest) = path.split_first().ok_or_else(none)?;
        let file = self.message.parent_file();
        let mut message = place(first).and_then(|i| file.messages().nth(i)).ok_or_else(none)?;
        for i in rest {
            let inner = place(i).and_then(|i| message.child_messages().nth(i));
            message = inner.ok_or_else(none)?;
        }
        Ok(ProtobufSchema { message })
    }

    /// Where the message stands in its file, as [`Self::at`] takes it.
    pub fn path(&self) -> Vec<i32> {
        let mut path = Vec::new();
        let mut message = self.message.clone();
        loop {
            let parent = message.parent_message();
            let at = match &parent {
                Some(parent) => parent.child_messages().position(|m| m == message),
                None => message.parent_file().messages().position(|m| m == message),
            };
            path.push(at.unwrap_or(0) as i32);
            match parent {
                Some(parent) => message = parent,
                None => break,
            }
        }
        path.reverse();
        path
    }

    pub fn full_name(&self) -> &str {
        self.message.full_name()
    }

    /// A column for each field.
    ///
    /// # Errors
    /// A field whose type no column has.
    pub fn columns(&self) -> Result<Vec<(String, Type)>, FormatError> {
        let mut within = vec![self.message.full_name().to_owned()];
        self.message
            .fields()
            .map(|field| match type_of(&field, &mut within) {
                Ok(ty) => Ok((field.name().to_owned(), ty)),
                Err(what) => {
                    Err(refused(format!("field {} is {what}, which no column can be", field.name())))
                }
            })
            .collect()
    }
}

fn compile(texts: &BTreeMap<String, String>, main: &str) -> Result<(DescriptorPool, String), FormatError> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(texts.clone()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    let file = format!("{main}.proto");
    let told = |e: protox::Error| match e.file() {
        Some(of) if of != file => refused(format!("{of}: {e:#}")),
        _ => refused(format!("{e:#}")),
    };
    compiler.open_file(&file).map_err(told)?;
    Ok((compiler.descriptor_pool(), file))
}

fn collect(message: MessageDescriptor, all: &mut Vec<MessageDescriptor>) {
    let inner: Vec<_> = message.child_messages().filter(|m| !m.is_map_entry()).collect();
    all.push(message);
    inner.into_iter().for_each(|m| collect(m, all));
}

fn type_of(field: &FieldDescriptor, within: &mut Vec<String>) -> Result<Type, String> {
    if field.is_map()
        && let Kind::Message(entry) = field.kind()
    {
        let key = scalar_type(&entry.map_entry_key_field().kind(), within)?;
        let value = scalar_type(&entry.map_entry_value_field().kind(), within)?;
        return Ok(Type::Map(Box::new(key), Box::new(value)));
    }
    let ty = scalar_type(&field.kind(), within)?;
    if field.is_list() {
        return Ok(Type::Array(Box::new(ty)));
    }
    let nullable = field.supports_presence() && !field.is_required() && !matches!(ty, Type::Tuple(_));
    Ok(if nullable { ty.into_nullable() } else { ty })
}

fn scalar_type(kind: &Kind, within: &mut Vec<String>) -> Result<Type, String> {
    Ok(match kind {
        Kind::Double => Type::Float64,
        Kind::Float => Type::Float32,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Type::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Type::Int64,
        Kind::Uint32 | Kind::Fixed32 => Type::UInt32,
        Kind::Uint64 | Kind::Fixed64 => Type::UInt64,
        Kind::Bool => Type::Bool,
        Kind::String | Kind::Enum(_) => Type::String,
        Kind::Bytes => Type::Bytes,
        Kind::Message(m) if m.full_name() == TIMESTAMP => Type::DateTime64(9, Some("UTC".into())),
        Kind::Message(m) if is_wrapper(m) => {
            let value = m.get_field_by_name("value").map(|f| f.kind());
            return scalar_type(&value.unwrap_or(Kind::Bytes), within);
        }
        Kind::Message(m) => {
            if within.iter().any(|name| name == m.full_name()) {
                return Err(format!("{}, which holds itself", m.full_name()));
            }
            within.push(m.full_name().to_owned());
            let fields = m
                .fields()
                .map(|f| Ok((Some(f.name().into()), type_of(&f, within)?)))
                .collect::<Result<Vec<_>, String>>()?;
            within.pop();
            Type::Tuple(fields.into())
        }
    })
}
