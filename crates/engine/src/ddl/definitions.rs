//! Named collections and format schemas: made, changed, dropped, shown.
//!
//! Not here: what a setting means (`connect`), what a schema describes (`weir_format`).

use super::create::check_name;
use super::show::{literal, matches, quote};
use crate::engine::Statement;
use crate::outcome::{Done, Outcome};
use crate::secrets::HIDDEN;
use crate::system::Columns;
use std::collections::BTreeMap;
use weir_base::{Code, Error, Result, err};
use weir_catalog::{
    CatalogError, CollectionEntry, Dependents, Event, FormatSchema, NamedCollection, SchemaLanguage, Snapshot,
};
use weir_format::avro::AvroSchema;
use weir_format::protobuf::ProtobufSchema;
use weir_sql::ast::{CollectionSetting, Definition, DefinitionObject, Like};

/// The text of a schema.
const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// A collection's keys and values together.
const COLLECTION_BYTES_MAX: usize = 1 << 20;

pub(crate) async fn change_definition(cx: &Statement, change: Definition) -> Result<Done> {
    let snapshot = cx.shared.catalog.snapshot();
    match change {
        Definition::CreateCollection { name, or_replace, if_not_exists, entries } => {
            check_name("named collection", &name)?;
            if snapshot.collections.contains_key(&name) && !or_replace {
                return if if_not_exists { Ok(cx.done()) } else { Err(exists("named collection", &name)) };
            }
            set_collection(cx, name, with(BTreeMap::new(), entries)?).await
        }
        Definition::AlterCollection { name, if_exists, set, delete } => {
            let Some(before) = snapshot.collections.get(&name) else {
                return if if_exists {
                    Ok(cx.done())
                } else {
                    Err(CatalogError::UnknownCollection { name }.into())
                };
            };
            let mut entries = before.entries.clone();
            for key in delete {
                if entries.remove(&key).is_none() {
                    return Err(err!(BadArguments, "named collection {name} has no {key}"));
                }
            }
            // What is set anew takes the place of what was.
            for one in &set {
                entries.remove(&one.key);
            }
            set_collection(cx, name, with(entries, set)?).await
        }
        Definition::CreateFormatSchema { name, or_replace, if_not_exists, text, language } => {
            check_name("format schema", &name)?;
            if snapshot.format_schemas.contains_key(&name) && !or_replace {
                return if if_not_exists { Ok(cx.done()) } else { Err(exists("format schema", &name)) };
            }
            let language = match language.to_ascii_lowercase().as_str() {
                "avro" => SchemaLanguage::Avro,
                "protobuf" => SchemaLanguage::Protobuf,
                _ => {
                    return Err(err!(
                        BadArguments,
                        "a format schema is of TYPE Protobuf or Avro, not {language}"
                    ));
                }
            };
            if text.len() > SCHEMA_BYTES_MAX {
                return Err(err!(
                    BadArguments,
                    "a schema of {} bytes; at most {SCHEMA_BYTES_MAX} are taken",
                    text.len()
                ));
            }
            let schema = FormatSchema { language, text };
            check_schema(&snapshot, &name, &schema)?;
            let event = Event::SetFormatSchema { name: name.clone(), schema };
            cx.shared.apply(event, Dependents::Refuse).await?;
            forget(cx, "format_schema", &name);
            Ok(cx.done())
        }
        Definition::Drop { object, name, if_exists } => {
            let event = match object {
                DefinitionObject::NamedCollection => Event::DropCollection { name },
                DefinitionObject::FormatSchema => {
                    refuse_imported(&snapshot, &name)?;
                    Event::DropFormatSchema { name }
                }
            };
            match cx.shared.apply(event, Dependents::Refuse).await {
                Err(CatalogError::UnknownCollection { .. } | CatalogError::UnknownFormatSchema { .. })
                    if if_exists => {}
                other => {
                    other?;
                }
            }
            Ok(cx.done())
        }
    }
}

fn exists(what: &str, name: &str) -> Error {
    err!(BadArguments, "{what} {name} exists already; use IF NOT EXISTS, or CREATE OR REPLACE")
}

fn with(
    mut entries: BTreeMap<String, CollectionEntry>,
    set: Vec<CollectionSetting>,
) -> Result<NamedCollection> {
    for CollectionSetting { key, value, overridable } in set {
        if key == "named_collection" {
            return Err(err!(BadArguments, "a named collection can not name another one"));
        }
        if entries.insert(key.clone(), CollectionEntry { value, overridable }).is_some() {
            return Err(err!(BadArguments, "{key} is given twice"));
        }
    }
    let bytes: usize = entries.iter().map(|(k, e)| k.len() + e.value.len()).sum();
    if bytes > COLLECTION_BYTES_MAX {
        return Err(err!(
            BadArguments,
            "a named collection of {bytes} bytes; at most {COLLECTION_BYTES_MAX} are taken"
        ));
    }
    Ok(NamedCollection { entries })
}

async fn set_collection(cx: &Statement, name: String, collection: NamedCollection) -> Result<Done> {
    cx.shared.apply(Event::SetCollection { name: name.clone(), collection }, Dependents::Refuse).await?;
    forget(cx, "named_collection", &name);
    Ok(cx.done())
}

/// Streams that name it take the new one from their next query on.
fn forget(cx: &Statement, setting: &str, name: &str) {
    let snapshot = cx.shared.catalog.snapshot();
    // A schema may be imported by another, and a collection may name it.
    let uses = |k: &str, v: &str| {
        k == setting && (setting == "format_schema" || v == name) || k == "named_collection"
    };
    cx.shared.externals.forget_all(&snapshot.externals_with(uses));
}

fn texts(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let protobuf = snapshot.format_schemas.iter().filter(|(_, s)| s.language == SchemaLanguage::Protobuf);
    protobuf.map(|(name, schema)| (name.clone(), schema.text.clone())).collect()
}

/// Whether the schema can be used, and those that import it still can.
fn check_schema(snapshot: &Snapshot, name: &str, schema: &FormatSchema) -> Result<()> {
    let bad = |e: weir_format::FormatError| err!(BadArguments, "format schema {name}: {e}");
    if schema.language == SchemaLanguage::Avro {
        return AvroSchema::parse(&schema.text).map(drop).map_err(bad);
    }
    let before = texts(snapshot);
    let mut after = before.clone();
    after.insert(name.to_owned(), schema.text.clone());
    ProtobufSchema::check(&after, name).map_err(bad)?;
    match broken(&before, &after) {
        None => Ok(()),
        Some((other, e)) => {
            Err(err!(BadArguments, "format schema {other}, which imports {name}, would be no more: {e}"))
        }
    }
}

/// A schema that compiles with some texts and not with others.
fn broken(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Option<(String, weir_format::FormatError)> {
    let gone = |name: &&String| after.contains_key(*name) && ProtobufSchema::check(before, name).is_ok();
    before.keys().filter(gone).find_map(|n| Some((n.clone(), ProtobufSchema::check(after, n).err()?)))
}

fn refuse_imported(snapshot: &Snapshot, name: &str) -> Result<()> {
    let before = texts(snapshot);
    let mut after = before.clone();
    after.remove(name);
    match broken(&before, &after) {
        None => Ok(()),
        Some((other, _)) => Err(Error::new(
            Code::HasDependents,
            format!("format schema {name} is imported by {other}; drop that first"),
        )),
    }
}

pub(super) fn show(cx: &Statement, object: DefinitionObject, like: &Option<Like>) -> Result<Outcome> {
    let snapshot = cx.shared.catalog.snapshot();
    match object {
        DefinitionObject::NamedCollection => {
            let names = snapshot.collections.keys().filter(|n| matches(like, n));
            cx.rows(Columns::default().text("name", names))
        }
        DefinitionObject::FormatSchema => {
            let all: Vec<_> = snapshot.format_schemas.iter().filter(|(n, _)| matches(like, n)).collect();
            cx.rows(
                Columns::default()
                    .text("name", all.iter().map(|(n, _)| n))
                    .text("type", all.iter().map(|(_, s)| s.language.to_string())),
            )
        }
    }
}

pub(super) fn show_create(cx: &Statement, object: DefinitionObject, name: &str) -> Result<Outcome> {
    let snapshot = cx.shared.catalog.snapshot();
    let text = match object {
        DefinitionObject::NamedCollection => {
            let unknown = || CatalogError::UnknownCollection { name: name.to_owned() };
            let collection = snapshot.collections.get(name).ok_or_else(unknown)?;
            let entries: Vec<String> = collection
                .entries
                .iter()
                .map(|(key, e)| {
                    let fixed = if e.overridable { "" } else { " NOT OVERRIDABLE" };
                    format!("{} = {}{fixed}", quote(key), literal(HIDDEN))
                })
                .collect();
            format!("CREATE NAMED COLLECTION {} AS {}", quote(name), entries.join(", "))
        }
        DefinitionObject::FormatSchema => {
            let unknown = || CatalogError::UnknownFormatSchema { name: name.to_owned() };
            let schema = snapshot.format_schemas.get(name).ok_or_else(unknown)?;
            format!(
                "CREATE FORMAT SCHEMA {} AS {} TYPE {}",
                quote(name),
                literal(&schema.text),
                schema.language
            )
        }
    };
    cx.rows(Columns::default().text("statement", [text]))
}
