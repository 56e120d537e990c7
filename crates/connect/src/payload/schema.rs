//! Payloads that have a schema: Avro and Protobuf, with a schema of ours or of a registry.

use super::decode::{Decoded, Failed, Messages};
use super::registry::{Registry, SubjectStrategy};
use crate::http::NoAnswer;
use crate::settings::bad;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::Code;
use weir_base::error::did_you_mean;
use weir_format::avro::{AvroRows, AvroSchema, AvroWriter};
use weir_format::protobuf::{ProtobufRows, ProtobufSchema, ProtobufWriter};
use weir_format::types::Type;
use weir_format::{DecodedBatch, FormatError, FormatSettings};
use weir_plan::{SchemaText, StreamError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Avro,
    Protobuf,
}

impl Language {
    pub fn name(self) -> &'static str {
        match self {
            Language::Avro => "Avro",
            Language::Protobuf => "Protobuf",
        }
    }
}

/// What a message is taken apart by.
#[derive(Debug, Clone)]
pub(crate) enum MessageSchema {
    Avro(AvroSchema),
    Protobuf(ProtobufSchema),
}

fn refused(e: FormatError) -> StreamError {
    bad(e.to_string())
}

/// Name of a schema's text where it has none of its own.
const MAIN: &str = "schema";

impl MessageSchema {
    /// `name[:Message]` of the schemas there are.
    ///
    /// # Errors
    /// 36 where there is none, or it is of another language.
    fn named(
        language: Language,
        name: &str,
        all: &BTreeMap<String, SchemaText>,
    ) -> Result<Self, StreamError> {
        let (name, message) = match name.split_once(':') {
            Some((name, message)) => (name, Some(message)),
            None => (name, None),
        };
        let Some(schema) = all.get(name) else {
            let hint = did_you_mean(name, all.keys().map(String::as_str));
            return Err(bad(format!(
                "format_schema: there is no format schema {name}{hint}; CREATE FORMAT SCHEMA {name} AS '…' TYPE {}",
                language.name()
            )));
        };
        if schema.language != language.name() {
            return Err(bad(format!(
                "format_schema {name} is one of {}, and data_format says {}",
                schema.language,
                language.name()
            )));
        }
        let told = |e: FormatError| bad(format!("format_schema {name}: {e}"));
        match language {
            Language::Avro => AvroSchema::parse(&schema.text).map(MessageSchema::Avro).map_err(told),
            Language::Protobuf => {
                let texts = all.iter().filter(|(_, s)| s.language == "Protobuf");
                let texts = texts.map(|(name, s)| (name.clone(), s.text.clone())).collect();
                ProtobufSchema::parse(&texts, name, message).map(MessageSchema::Protobuf).map_err(told)
            }
        }
    }

    /// As a registry tells it; `texts` are those it names, by name.
    pub fn of_registry(
        language: Language,
        text: &str,
        mut texts: BTreeMap<String, String>,
    ) -> Result<Self, StreamError> {
        match language {
            Language::Avro => AvroSchema::parse_with(&texts.into_values().collect::<Vec<_>>(), text)
                .map(MessageSchema::Avro)
                .map_err(refused),
            Language::Protobuf => {
                texts.insert(MAIN.to_owned(), text.to_owned());
                ProtobufSchema::first(&texts, MAIN).map(MessageSchema::Protobuf).map_err(refused)
            }
        }
    }

    pub fn columns(&self) -> Result<Vec<(String, Type)>, StreamError> {
        match self {
            MessageSchema::Avro(s) => s.columns().map_err(refused),
            MessageSchema::Protobuf(s) => s.columns().map_err(refused),
        }
    }

    fn full_name(&self) -> &str {
        match self {
            MessageSchema::Avro(s) => s.full_name(),
            MessageSchema::Protobuf(s) => s.full_name(),
        }
    }
}

/// Where schemas come from.
#[derive(Debug)]
enum Source {
    /// Every message has this one.
    Fixed(MessageSchema),
    /// A message begins with the number of its own. What is written has the one that was named, or the newest.
    Registry { registry: Registry, named: Option<(MessageSchema, String)> },
}

/// A payload format with schemas.
#[derive(Debug)]
pub(crate) struct SchemaFormat {
    language: Language,
    /// `data_format`, as it is spelled.
    pub name: &'static str,
    /// A message of Protobuf has its length before it.
    delimited: bool,
    source: Source,
    topic: String,
}

/// What beside the name of a format says how it is meant.
pub(crate) struct SchemaArgs<'a> {
    pub format_schema: Option<&'a str>,
    pub schemas: &'a BTreeMap<String, SchemaText>,
    /// The registry, made for the language.
    pub registry: Option<Registry>,
    pub topic: &'a str,
}

/// The languages' names as formats.
pub(crate) fn language_of(format: &str) -> Option<(Language, &'static str)> {
    let all =
        [(Language::Avro, "Avro"), (Language::Protobuf, "Protobuf"), (Language::Protobuf, "ProtobufSingle")];
    all.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(format))
}

impl SchemaFormat {
    /// `None`: there is no schema, so a message of Avro has to bring its own.
    ///
    /// # Errors
    /// 36 where the schema is missing or does not fit the columns.
    pub fn new(
        language: Language,
        name: &'static str,
        args: SchemaArgs<'_>,
        columns: &Schema,
    ) -> Result<Option<Self>, StreamError> {
        let named =
            args.format_schema.map(|n| MessageSchema::named(language, n, args.schemas)).transpose()?;
        if let Some(schema) = &named {
            check_columns(schema, args.format_schema.unwrap_or_default(), columns)?;
        }
        let text = args.format_schema.map(|n| n.split(':').next().unwrap_or(n));
        let text = text.and_then(|n| args.schemas.get(n)).map(|s| s.text.clone());
        let source = match (args.registry, named) {
            (Some(registry), named) => Source::Registry { registry, named: named.zip(text) },
            (None, Some(schema)) => Source::Fixed(schema),
            (None, None) if language == Language::Avro => return Ok(None),
            (None, None) => {
                return Err(bad(format!(
                    "data_format='{name}' needs format_schema='schema:Message' (CREATE FORMAT SCHEMA makes one), or \
                     kafka_schema_registry_url"
                )));
            }
        };
        let delimited = name == "Protobuf" && matches!(source, Source::Fixed(_));
        Ok(Some(SchemaFormat { language, name, delimited, source, topic: args.topic.to_owned() }))
    }

    /// The columns of a message.
    ///
    /// # Errors
    /// Whatever keeps it from finding out.
    pub async fn columns(&self) -> Result<Vec<(String, Type)>, StreamError> {
        match &self.source {
            Source::Fixed(schema) | Source::Registry { named: Some((schema, _)), .. } => schema.columns(),
            Source::Registry { registry, named: None } => {
                let subject = self.subject(registry.strategy(), None)?;
                match registry.latest(&subject).await.map_err(NoAnswer::error)? {
                    Some((_, MessageSchema::Protobuf(s))) if s.all().len() > 1 => Err(bad(format!(
                        "subject {subject} has several messages; write the columns in CREATE EXTERNAL STREAM"
                    ))),
                    Some((_, schema)) => schema.columns(),
                    None => Err(bad(format!(
                        "the schema registry has no subject {subject}; write the columns in CREATE EXTERNAL STREAM"
                    ))),
                }
            }
        }
    }

    fn subject(
        &self,
        strategy: SubjectStrategy,
        schema: Option<&MessageSchema>,
    ) -> Result<String, StreamError> {
        let record = || {
            schema.map(|s| s.full_name().to_owned()).ok_or_else(|| {
                bad("which subject is meant depends on the record's name; give format_schema, or write the columns in \
                     CREATE EXTERNAL STREAM")
            })
        };
        Ok(match strategy {
            SubjectStrategy::Topic => format!("{}-value", self.topic),
            SubjectStrategy::Record => record()?,
            SubjectStrategy::TopicAndRecord => format!("{}-{}", self.topic, record()?),
        })
    }

    /// The first `n` messages.
    pub fn decode(
        &self,
        messages: &Messages,
        n: usize,
        schema: &SchemaRef,
        settings: &FormatSettings,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Decoded, Failed> {
        let mut rows = match self.language {
            Language::Avro => AnyRows::Avro(AvroRows::new(schema.clone(), settings)),
            Language::Protobuf => AnyRows::Protobuf(ProtobufRows::new(schema.clone(), settings)),
        };
        let mut counts = Vec::with_capacity(n);
        for (index, payload) in messages.iter().take(n).enumerate() {
            let Some(payload) = payload else {
                counts.push(0);
                continue;
            };
            // Whatever is wrong, it is with the message.
            let bad = |e: StreamError| Failed::Bad {
                index,
                error: StreamError { code: Code::CannotParseInput, ..e },
            };
            let count = match &self.source {
                Source::Fixed(schema) => rows
                    .push(schema, payload, self.delimited)
                    .map_err(|e| bad(super::decode::not_parsed(&e)))?,
                Source::Registry { registry, .. } => {
                    let (id, rest) = framed(payload).map_err(bad)?;
                    let schema = registry.schema(id, runtime).map_err(|e| match e {
                        NoAnswer::Away(e) => Failed::Away(e),
                        NoAnswer::Refused(e) => Failed::Refused(e),
                        NoAnswer::Bad(e) => bad(e),
                    })?;
                    let (schema, rest) = located(&schema, rest).map_err(bad)?;
                    rows.push(&schema, rest, false).map_err(|e| bad(super::decode::not_parsed(&e)))?
                }
            };
            counts.push(count);
        }
        let DecodedBatch { batch, absent } =
            rows.finish().map_err(|e| Failed::Bad { index: 0, error: super::decode::not_parsed(&e) })?;
        let one_each = counts.iter().all(|c| *c == 1);
        Ok(Decoded { batch, absent, rows: (!one_each).then_some(counts) })
    }

    /// Makes ready to write rows of some columns; waits for the registry, on a thread that may.
    ///
    /// # Errors
    /// 36 where the columns do not fit the schema, 210 where the registry does not answer.
    pub fn writer(
        &self,
        columns: &SchemaRef,
        runtime: impl Fn() -> tokio::runtime::Handle,
    ) -> Result<SchemaWriter, StreamError> {
        let (schema, frame) = match &self.source {
            Source::Fixed(schema) => (schema.clone(), Vec::new()),
            Source::Registry { registry, named } => {
                let found = runtime().block_on(self.to_write(registry, named.as_ref(), columns));
                let (id, schema) = found.map_err(NoAnswer::error)?;
                let mut frame = vec![0];
                frame.extend(id.to_be_bytes());
                if let MessageSchema::Protobuf(s) = &schema {
                    place(&s.path(), &mut frame);
                }
                (schema, frame)
            }
        };
        let settings = FormatSettings::default();
        let kind = match schema {
            MessageSchema::Avro(s) => Kind::Avro(AvroWriter::new(columns, s, &settings).map_err(refused)?),
            MessageSchema::Protobuf(s) => {
                Kind::Protobuf(ProtobufWriter::new(columns, s, &settings).map_err(refused)?)
            }
        };
        Ok(SchemaWriter { kind, frame, delimited: self.delimited })
    }

    /// The schema that was named, or else the newest of the subject, or else one made of the columns.
    async fn to_write(
        &self,
        registry: &Registry,
        named: Option<&(MessageSchema, String)>,
        columns: &SchemaRef,
    ) -> Result<(u32, MessageSchema), NoAnswer> {
        if let Some((schema, text)) = named {
            let subject = self.subject(registry.strategy(), Some(schema)).map_err(NoAnswer::Bad)?;
            return Ok((registry.register(&subject, text).await?, schema.clone()));
        }
        let subject = self.subject(registry.strategy(), None).map_err(NoAnswer::Bad)?;
        match registry.latest(&subject).await? {
            // Of several messages the first that has all columns.
            Some((id, MessageSchema::Protobuf(first))) => {
                let all = first.all();
                let fits = all.into_iter().find(|m| m.unknown(columns).is_none());
                return Ok((id, MessageSchema::Protobuf(fits.unwrap_or(first))));
            }
            Some(found) => return Ok(found),
            None => {}
        }
        if self.language == Language::Protobuf {
            return Err(NoAnswer::Bad(bad(format!(
                "the schema registry has no subject {subject}; register its schema, or give format_schema"
            ))));
        }
        let schema = AvroSchema::of_columns(columns, "row").map_err(|e| NoAnswer::Bad(refused(e)))?;
        let id = registry.register(&subject, schema.text()).await?;
        Ok((id, MessageSchema::Avro(schema)))
    }
}

/// Columns that no field gives would always be empty: a slip of the pen.
fn check_columns(schema: &MessageSchema, name: &str, columns: &Schema) -> Result<(), StreamError> {
    let columns = Arc::new(columns.clone());
    let unknown = match schema {
        MessageSchema::Avro(s) => s.unknown(&columns),
        MessageSchema::Protobuf(s) => s.unknown(&columns),
    };
    let Some(column) = unknown else { return Ok(()) };
    let fields: Vec<String> =
        schema.columns().map(|c| c.into_iter().map(|(n, _)| n).collect()).unwrap_or_default();
    let hint = did_you_mean(&column, fields.iter().map(String::as_str));
    Err(bad(format!("format_schema {name} has no field for column {column}{hint}")))
}

enum AnyRows {
    Avro(AvroRows),
    Protobuf(ProtobufRows),
}

impl AnyRows {
    fn push(&mut self, schema: &MessageSchema, payload: &[u8], delimited: bool) -> Result<u32, FormatError> {
        match (self, schema) {
            (AnyRows::Avro(rows), MessageSchema::Avro(schema)) => rows.push(schema, payload).map(|()| 1),
            (AnyRows::Protobuf(rows), MessageSchema::Protobuf(schema)) if delimited => {
                rows.push_delimited(schema, payload)
            }
            (AnyRows::Protobuf(rows), MessageSchema::Protobuf(schema)) => {
                rows.push(schema, payload).map(|()| 1)
            }
            _ => Err(FormatError::Schema { name: "message", what: "it is of another language".into() }),
        }
    }

    fn finish(&mut self) -> Result<DecodedBatch, FormatError> {
        match self {
            AnyRows::Avro(rows) => rows.finish(),
            AnyRows::Protobuf(rows) => rows.finish(),
        }
    }
}

/// The number of the schema, and what is behind it.
fn framed(payload: &[u8]) -> Result<(u32, &[u8]), StreamError> {
    match payload {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        _ => Err(StreamError {
            code: Code::CannotParseInput,
            message:
                "it does not begin with the number of a schema: it was written without a registry; give \
                      format_schema instead of kafka_schema_registry_url"
                    .into(),
        }),
    }
}

/// Of Protobuf the message whose place stands before it.
fn located<'a>(
    schema: &Arc<MessageSchema>,
    payload: &'a [u8],
) -> Result<(MessageSchema, &'a [u8]), StreamError> {
    let MessageSchema::Protobuf(of) = &**schema else { return Ok((MessageSchema::clone(schema), payload)) };
    let cut = || StreamError {
        code: Code::CannotParseInput,
        message: "it ends before it says which message of its schema it is".into(),
    };
    let mut rest = payload;
    let count = varint(&mut rest).ok_or_else(cut)?;
    if count == 0 {
        return Ok((MessageSchema::Protobuf(of.at(&[0]).map_err(refused)?), rest));
    }
    let mut path = Vec::new();
    for _ in 0..count {
        path.push(varint(&mut rest).and_then(|i| i32::try_from(i).ok()).ok_or_else(cut)?);
    }
    Ok((MessageSchema::Protobuf(of.at(&path).map_err(refused)?), rest))
}

/// Zigzag.
fn varint(input: &mut &[u8]) -> Option<i64> {
    let mut raw = 0u64;
    for (i, byte) in input.iter().take(10).enumerate() {
        raw |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            *input = &input[i + 1..];
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

/// The place of a message, as [`located`] reads it.
fn place(path: &[i32], out: &mut Vec<u8>) {
    let mut zigzag = |v: i64| {
        let mut raw = ((v << 1) ^ (v >> 63)) as u64;
        while raw >= 0x80 {
            out.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        out.push(raw as u8);
    };
    if path == [0] {
        return zigzag(0);
    }
    zigzag(path.len() as i64);
    path.iter().for_each(|i| zigzag((*i).into()));
}

enum Kind {
    Avro(AvroWriter),
    Protobuf(ProtobufWriter),
}

/// Writes rows, a message each.
pub(crate) struct SchemaWriter {
    kind: Kind,
    /// What stands before each message.
    frame: Vec<u8>,
    delimited: bool,
}

impl SchemaWriter {
    /// Appends a message for each row; `end` is called behind each.
    pub fn write(
        &self,
        rows: &RecordBatch,
        out: &mut Vec<u8>,
        mut end: impl FnMut(&mut Vec<u8>),
    ) -> Result<(), StreamError> {
        match &self.kind {
            Kind::Avro(writer) => {
                if rows.num_rows() > 0 {
                    out.extend(&self.frame);
                }
                let mut left = rows.num_rows();
                writer.write(rows, out, |out| {
                    end(out);
                    left -= 1;
                    if left > 0 {
                        out.extend(&self.frame);
                    }
                })
            }
            Kind::Protobuf(writer) => writer.write(rows, |message| {
                out.extend(&self.frame);
                if self.delimited {
                    ProtobufWriter::delimit(&message, out);
                } else {
                    out.extend(message);
                }
                end(out);
            }),
        }
        .map_err(|e| bad(format!("rows could not be written: {e}")))
    }
}
