//! Which statement it is, and those that are short.
//!
//! Invariants
//! - A statement that is known and not done gives code 48 with its name, never 62.
//!
//! Not here: CREATE (`ddl`), SHOW, DESCRIBE, SYSTEM (`show`), queries (`query`).

use super::cursor::Cursor;
use super::split::{Piece, take_format};
use super::{Limits, ddl, definitions, reserved, show};
use crate::ast::{
    ExplainKind, Insert, InsertSource, JobObject, Name, ObjectKind, Parsed, Settings, Statement,
};
use sqlparser::tokenizer::Token;
use std::collections::HashSet;
use weir_base::Error;
use weir_base::error::did_you_mean;

/// First words of statements that are answered with code 48.
const NOT_DONE: &[&str] = &[
    "ALTER", "DELETE", "UPDATE", "GRANT", "REVOKE", "ATTACH", "DETACH", "CHECK", "RESTORE", "MOVE", "UNDROP",
    "EXCHANGE", "BEGIN", "START", "COMMIT", "ROLLBACK", "WATCH", "MERGE", "REPLACE", "VALUES", "CALL",
    "COPY", "PARALLEL", "EXECUTE", "PREPARE",
];

const DONE: &[&str] = &[
    "SELECT",
    "WITH",
    "FROM",
    "INSERT",
    "CREATE",
    "ALTER",
    "DROP",
    "TRUNCATE",
    "RENAME",
    "SHOW",
    "DESCRIBE",
    "DESC",
    "EXISTS",
    "USE",
    "KILL",
    "SET",
    "SYSTEM",
    "OPTIMIZE",
    "EXPLAIN",
    "SUBSCRIBE",
    "RECOVER",
    "UNSUBSCRIBE",
    "BACKUP",
];

/// One statement from its tokens.
///
/// # Errors
/// Code 62 or 48, with line and column.
pub fn statement(text: &str, piece: Piece, limits: &Limits) -> Result<Parsed, Error> {
    let Piece { mut toks, data, end } = piece;
    let format = if data.is_none() { take_format(&mut toks) } else { None };
    let mut settings = Settings::new();
    let mut cursor = Cursor { text, toks: &toks, at: 0, end, limits };
    let statement = one(&mut cursor, &mut settings, data)?;
    cursor.optional_settings(&mut settings)?;
    cursor.expect_end()?;
    if let Some(key) = settings.keys().find(|k| reserved::is_reserved(k)) {
        return Err(
            weir_base::err!(UnknownSetting, "setting {key} is reserved").at(toks[0].line, toks[0].column)
        );
    }
    Ok(Parsed { statement, settings, format })
}

fn one(c: &mut Cursor, settings: &mut Settings, data: Option<InsertSource>) -> Result<Statement, Error> {
    let Some(first) = c.peek() else { return Err(c.expected("a statement")) };
    if first.is_any(&["SELECT", "WITH", "FROM"]) || first.is_token(&Token::LParen) {
        return whole_query(c, settings);
    }
    let Some(word) = first.word() else { return Err(c.expected("a statement")) };
    let upper = word.to_ascii_uppercase();
    c.at += 1;
    match upper.as_str() {
        "INSERT" => insert(c, settings, data),
        "CREATE" => ddl::create(c, settings),
        "ALTER" if c.looks(&["VIEW"]) || c.looks(&["MATERIALIZED"]) => ddl::alter(c),
        "ALTER" if c.looks(&["STREAM"]) || c.looks(&["TABLE"]) => ddl::alter_stream(c),
        "ALTER" if c.looks(&["NAMED"]) || c.looks(&["FORMAT"]) => definitions::alter(c),
        "DROP" => drop(c),
        "TRUNCATE" => {
            if c.eat(&["DATABASE"]) || c.eat(&["ALL"]) {
                return Err(c.not_implemented("TRUNCATE of a database"));
            }
            let _ = c.eat_any(&["STREAM", "TABLE"]);
            let if_exists = c.if_exists();
            Ok(Statement::Truncate { name: c.name("the name of a stream")?, if_exists })
        }
        "RENAME" => rename(c),
        "SHOW" => show::show(c),
        "DESCRIBE" | "DESC" => show::describe(c),
        "EXISTS" => show::exists(c),
        "USE" => {
            let _ = c.eat(&["DATABASE"]);
            Ok(Statement::Use { database: c.identifier("the name of a database")? })
        }
        "KILL" => kill(c),
        "SET" => {
            if c.eat_any(&["ROLE", "DEFAULT", "TRANSACTION"]).is_some() {
                return Err(c.not_implemented("SET of roles and transactions"));
            }
            let mut set = Settings::new();
            c.settings(&mut set)?;
            if let Some(key) = set.keys().find(|k| reserved::is_reserved(k)) {
                return Err(
                    weir_base::err!(UnknownSetting, "setting {key} is reserved").at(first.line, first.column)
                );
            }
            Ok(Statement::Set(set))
        }
        "SYSTEM" => show::system(c),
        "OPTIMIZE" => {
            let _ = c.eat_any(&["STREAM", "TABLE"]);
            let name = c.name("the name of a stream")?;
            if c.looks(&["PARTITION"]) || c.looks(&["DEDUPLICATE"]) {
                return Err(c.not_implemented("OPTIMIZE with PARTITION or DEDUPLICATE"));
            }
            let _ = c.eat(&["FINAL"]);
            if c.looks(&["DEDUPLICATE"]) {
                return Err(c.not_implemented("OPTIMIZE with DEDUPLICATE"));
            }
            Ok(Statement::Optimize { name })
        }
        "EXPLAIN" => explain(c, settings),
        "SUBSCRIBE" => {
            c.expect(&["TO"])?;
            if !starts_query_here(c) {
                return Err(c.expected("SELECT"));
            }
            match whole_query(c, settings)? {
                Statement::Query(query) => Ok(Statement::Subscribe(query)),
                _ => Err(c.expected("SELECT")),
            }
        }
        "RECOVER" => {
            c.expect(&["FROM"])?;
            Ok(Statement::Recover {
                query_id: c.string("the id of a query that was subscribed to, in quotes")?,
            })
        }
        "UNSUBSCRIBE" => {
            c.expect(&["TO"])?;
            let query_id = c.string("the id of a query that was subscribed to, in quotes")?;
            Ok(Statement::Unsubscribe { query_id })
        }
        "BACKUP" => {
            if c.eat_any(&["ALL", "DATABASE", "STREAM", "TABLE"]).is_some() {
                c.at -= 1;
                return Err(c.expected("TO 'place' (a backup holds all there is)"));
            }
            c.expect(&["TO"])?;
            let to = c.string("where the backup goes, in quotes: a directory or s3://BUCKET/PREFIX")?;
            let mut settings = Settings::new();
            c.optional_settings(&mut settings)?;
            Ok(Statement::Backup { to, settings })
        }
        _ if NOT_DONE.contains(&upper.as_str()) => {
            c.at -= 1;
            let second = c.peek_nth(1).and_then(|t| t.word()).map(|w| format!(" {}", w.to_ascii_uppercase()));
            let second =
                second.filter(|_| matches!(upper.as_str(), "ALTER" | "ATTACH" | "DETACH" | "EXCHANGE"));
            Err(c.not_implemented(&format!("{upper}{}", second.unwrap_or_default())))
        }
        _ => {
            c.at -= 1;
            let mut error = c.expected("a statement (SELECT, INSERT, CREATE, DROP, SHOW, …)");
            error.message.push_str(&did_you_mean(&upper, DONE.iter().copied()));
            Err(error)
        }
    }
}

/// All that is left is a query; its own SETTINGS are the statement's.
fn whole_query(c: &mut Cursor, settings: &mut Settings) -> Result<Statement, Error> {
    let query = c.query_of(&c.toks[c.at..])?;
    c.at = c.toks.len();
    for (key, value) in reserved::user_settings(&query) {
        settings.insert(key, value);
    }
    Ok(Statement::Query(query))
}

fn explain(c: &mut Cursor, settings: &mut Settings) -> Result<Statement, Error> {
    if c.eat(&["WHY"]) {
        return Ok(Statement::ExplainWhy { query_id: c.string("the id of a running query in quotes")? });
    }
    let kind = match c.eat_any(&["AST", "SYNTAX", "PLAN", "PIPELINE", "ESTIMATE", "QUERY", "TABLE"]) {
        None | Some("PLAN") => ExplainKind::Plan,
        Some("AST") => ExplainKind::Ast,
        Some("SYNTAX") => ExplainKind::Syntax,
        Some("PIPELINE") => ExplainKind::Pipeline,
        Some(other) => {
            c.at -= 1;
            return Err(c.not_implemented(&format!("EXPLAIN {other}")));
        }
    };
    if c.peek_nth(1).is_some_and(|t| t.is_token(&Token::Eq)) {
        return Err(c.not_implemented("EXPLAIN with options"));
    }
    if c.looks(&["EXPLAIN"]) {
        return Err(c.expected("a statement other than EXPLAIN"));
    }
    let statement = Box::new(one(c, settings, None)?);
    Ok(Statement::Explain { kind, statement })
}

fn insert(c: &mut Cursor, settings: &mut Settings, data: Option<InsertSource>) -> Result<Statement, Error> {
    c.expect(&["INTO"])?;
    if c.looks(&["FUNCTION"]) && !c.peek_nth(1).is_some_and(|t| t.is_token(&Token::LParen)) {
        return Err(c.not_implemented("INSERT INTO FUNCTION"));
    }
    // `stream` and `table` may be names too: INSERT INTO table VALUES …
    let is_name = c.peek_nth(1).is_none_or(|t| {
        t.is_any(&["VALUES", "SELECT", "WITH", "FORMAT", "SETTINGS"])
            || t.is_token(&Token::LParen)
            || t.is_token(&Token::Period)
    });
    if !is_name {
        let _ = c.eat_any(&["STREAM", "TABLE"]);
    }
    let target = c.name("the name of a stream")?;
    let starts_query =
        |n: usize| c.peek_nth(n).is_some_and(|t| t.is_any(&["SELECT", "WITH"]) || t.is_token(&Token::LParen));
    let columns =
        if c.looks_token(&Token::LParen) && !starts_query(1) { Some(column_list(c)?) } else { None };
    c.optional_settings(settings)?;
    let source = match data {
        Some(data) => {
            let words = match &data {
                InsertSource::Format { .. } => 2,
                _ => 1,
            };
            if c.at + words != c.toks.len() {
                return Err(c.expected("VALUES, FORMAT, SETTINGS or SELECT"));
            }
            c.at = c.toks.len();
            data
        }
        None if c.looks(&["FROM", "INFILE"]) => return Err(c.not_implemented("INSERT FROM INFILE")),
        None if c.done() => return Err(c.expected("VALUES, FORMAT or SELECT")),
        None if starts_query_here(c) => {
            let query = c.query_of(&c.toks[c.at..])?;
            c.at = c.toks.len();
            for (key, value) in reserved::user_settings(&query) {
                settings.insert(key, value);
            }
            InsertSource::Select(query)
        }
        None => return Err(c.expected("VALUES, FORMAT, SETTINGS or SELECT")),
    };
    Ok(Statement::Insert(Insert { target, columns, source }))
}

fn starts_query_here(c: &Cursor) -> bool {
    c.peek().is_some_and(|t| t.is_any(&["SELECT", "WITH", "FROM"]) || t.is_token(&Token::LParen))
}

fn column_list(c: &mut Cursor) -> Result<Vec<String>, Error> {
    c.expect_token(&Token::LParen)?;
    let mut columns = Vec::new();
    let mut seen = HashSet::new();
    loop {
        if c.looks_token(&Token::Mul) {
            if columns.is_empty() && c.peek_nth(1).is_some_and(|t| t.is_token(&Token::RParen)) {
                return Err(c.expected("column names (leave the list out for all columns)"));
            }
            return Err(c.not_implemented("INSERT with * EXCEPT"));
        }
        let column = c.identifier("the name of a column")?;
        if !seen.insert(column.clone()) {
            return Err(c.toks[c.at - 1].error(format!("column {column} is named twice")));
        }
        columns.push(column);
        if c.eat_token(&Token::RParen) {
            return Ok(columns);
        }
        c.expect_token(&Token::Comma)?;
    }
}

fn drop(c: &mut Cursor) -> Result<Statement, Error> {
    let _ = c.eat(&["TEMPORARY"]) || c.looks(&["MATERIALIZED", "VIEW"]) && c.eat(&["MATERIALIZED"]);
    if let Some(definition) = definitions::drop(c)? {
        return Ok(definition);
    }
    if let Some(word) = c.eat_any(&["TASK", "ALERT"]) {
        let object = if word == "TASK" { JobObject::Task } else { JobObject::Alert };
        let if_exists = c.if_exists();
        return Ok(Statement::DropJob { object, name: c.name("the name of a task or alert")?, if_exists });
    }
    let Some(object) = c.eat_any(&["STREAM", "TABLE", "VIEW", "DATABASE"]) else {
        let what = c.peek().and_then(|t| t.word()).map(str::to_ascii_uppercase);
        return Err(match what {
            Some(word) if ddl::OTHER_OBJECTS.contains(&word.as_str()) => {
                c.not_implemented(&format!("DROP {word}"))
            }
            _ => c.expected("STREAM, TABLE, VIEW or DATABASE"),
        });
    };
    let if_exists = c.if_exists();
    let statement = if object == "DATABASE" {
        let name = c.identifier("the name of a database")?;
        let cascade = c.eat(&["CASCADE"]);
        let _ = c.eat(&["RESTRICT"]);
        Statement::DropDatabase { name, if_exists, cascade }
    } else {
        let object = if object == "VIEW" { ObjectKind::View } else { ObjectKind::Stream };
        Statement::Drop { object, name: c.name("the name of a stream or view")?, if_exists }
    };
    if c.looks_token(&Token::Comma) {
        return Err(c.not_implemented("DROP of several objects"));
    }
    ddl::refuse_on_cluster(c)?;
    let _ = c.eat(&["SYNC"]) || c.eat(&["NO", "DELAY"]);
    Ok(statement)
}

fn rename(c: &mut Cursor) -> Result<Statement, Error> {
    if c.looks(&["DATABASE"]) || c.looks(&["DICTIONARY"]) {
        return Err(c.not_implemented("RENAME of databases and dictionaries"));
    }
    let _ = c.eat_any(&["STREAM", "TABLE", "VIEW"]);
    let mut pairs: Vec<(Name, Name)> = Vec::new();
    loop {
        let from = c.name("the name of a stream")?;
        c.expect(&["TO"])?;
        pairs.push((from, c.name("the new name")?));
        if !c.eat_token(&Token::Comma) {
            return Ok(Statement::Rename { pairs });
        }
    }
}

fn kill(c: &mut Cursor) -> Result<Statement, Error> {
    if c.looks(&["MUTATION"]) {
        return Err(c.not_implemented("KILL MUTATION"));
    }
    c.expect(&["QUERY"])?;
    ddl::refuse_on_cluster(c)?;
    c.expect(&["WHERE"])?;
    let filter = c.take_until(|c, i| {
        c.toks[i].is_any(&["SYNC", "ASYNC", "TEST"]) && super::words::ends_operand(&c.toks[i - 1])
    });
    if filter.is_empty() {
        return Err(c.expected("a condition on system.queries, for example query_id = 'x'"));
    }
    let filter = c.expression_of(filter)?;
    if c.looks(&["TEST"]) {
        return Err(c.not_implemented("KILL QUERY … TEST"));
    }
    let sync = c.eat(&["SYNC"]);
    let _ = !sync && c.eat(&["ASYNC"]);
    Ok(Statement::KillQuery { filter, sync })
}
