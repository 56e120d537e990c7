//! NAMED COLLECTION and FORMAT SCHEMA: CREATE, ALTER, DROP and SHOW.
//!
//! Not here: what keys and texts mean (engine).

use super::cursor::Cursor;
use super::ddl::refuse_on_cluster;
use super::show::like;
use crate::ast::{CollectionSetting, Definition, DefinitionObject, Show, Statement};
use sqlparser::tokenizer::Token;
use weir_base::Error;

const COLLECTION: &str = "the name of a named collection";
const SCHEMA: &str = "the name of a format schema";

/// The object that stands here, after `words`.
fn object(c: &mut Cursor, words: &[&str]) -> Option<DefinitionObject> {
    if c.eat(&[words, &["NAMED", "COLLECTION"]].concat()) {
        return Some(DefinitionObject::NamedCollection);
    }
    c.eat(&[words, &["FORMAT", "SCHEMA"]].concat()).then_some(DefinitionObject::FormatSchema)
}

fn name(c: &mut Cursor, object: DefinitionObject) -> Result<String, Error> {
    c.identifier(match object {
        DefinitionObject::NamedCollection => COLLECTION,
        DefinitionObject::FormatSchema => SCHEMA,
    })
}

/// Behind CREATE; `None` where it makes something else.
pub fn create(c: &mut Cursor, or_replace: bool) -> Result<Option<Statement>, Error> {
    let Some(object) = object(c, &[]) else { return Ok(None) };
    let if_not_exists = c.if_not_exists();
    let name = name(c, object)?;
    refuse_on_cluster(c)?;
    c.expect(&["AS"])?;
    Ok(Some(Statement::Definition(match object {
        DefinitionObject::NamedCollection => {
            Definition::CreateCollection { name, or_replace, if_not_exists, entries: entries(c)? }
        }
        DefinitionObject::FormatSchema => {
            let text = c.string("the text of the schema, in quotes")?;
            c.expect(&["TYPE"])?;
            let language = c.identifier("Protobuf or Avro")?;
            Definition::CreateFormatSchema { name, or_replace, if_not_exists, text, language }
        }
    })))
}

fn entries(c: &mut Cursor) -> Result<Vec<CollectionSetting>, Error> {
    let mut all = Vec::new();
    loop {
        let key = c.identifier("the name of a setting")?.to_ascii_lowercase();
        c.expect_token(&Token::Eq)?;
        let value = c.setting_value()?;
        let overridable = !c.eat(&["NOT", "OVERRIDABLE"]);
        if overridable {
            let _ = c.eat(&["OVERRIDABLE"]);
        }
        all.push(CollectionSetting { key, value, overridable });
        if !c.eat_token(&Token::Comma) {
            return Ok(all);
        }
    }
}

/// Behind ALTER.
pub fn alter(c: &mut Cursor) -> Result<Statement, Error> {
    if c.looks(&["FORMAT", "SCHEMA"]) {
        return Err(c.not_implemented("ALTER FORMAT SCHEMA (CREATE OR REPLACE FORMAT SCHEMA)"));
    }
    c.expect(&["NAMED", "COLLECTION"])?;
    let if_exists = c.if_exists();
    let name = c.identifier(COLLECTION)?;
    refuse_on_cluster(c)?;
    let set = if c.eat(&["SET"]) { entries(c)? } else { Vec::new() };
    let mut delete = Vec::new();
    if c.eat(&["DELETE"]) {
        loop {
            delete.push(c.identifier("the name of a setting")?.to_ascii_lowercase());
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
    }
    if set.is_empty() && delete.is_empty() {
        return Err(c.expected("SET or DELETE"));
    }
    Ok(Statement::Definition(Definition::AlterCollection { name, if_exists, set, delete }))
}

/// Behind DROP; `None` where it drops something else.
pub fn drop(c: &mut Cursor) -> Result<Option<Statement>, Error> {
    let Some(object) = object(c, &[]) else { return Ok(None) };
    let if_exists = c.if_exists();
    let name = name(c, object)?;
    refuse_on_cluster(c)?;
    Ok(Some(Statement::Definition(Definition::Drop { object, name, if_exists })))
}

/// Behind SHOW; `None` where it shows something else.
pub fn show(c: &mut Cursor) -> Result<Option<Show>, Error> {
    if let Some(object) = object(c, &["CREATE"]) {
        return Ok(Some(Show::CreateDefinition { object, name: name(c, object)? }));
    }
    let object = if c.eat(&["NAMED", "COLLECTIONS"]) {
        DefinitionObject::NamedCollection
    } else if c.eat(&["FORMAT", "SCHEMAS"]) {
        DefinitionObject::FormatSchema
    } else {
        return Ok(None);
    };
    Ok(Some(Show::Definitions { object, like: like(c)? }))
}
