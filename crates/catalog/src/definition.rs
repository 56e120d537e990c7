//! What external streams refer to by name, and what belongs to the whole server: collections of settings, and
//! schemas of formats.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Settings under a name, secrets among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedCollection {
    pub entries: BTreeMap<String, CollectionEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionEntry {
    pub value: String,
    /// Who names the collection may give another value.
    pub overridable: bool,
}

/// The text of a schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormatSchema {
    pub language: SchemaLanguage,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaLanguage {
    Avro,
    Protobuf,
}

impl fmt::Display for SchemaLanguage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SchemaLanguage::Avro => "Avro",
            SchemaLanguage::Protobuf => "Protobuf",
        })
    }
}
