//! CREATE.
//!
//! Clauses of a stream come in any order. Their expressions are checked to be expressions and
//! kept as written.
//!
//! Not here: whether types, columns and settings exist (engine).

use super::cursor::Cursor;
use super::definitions;
use super::jobs;
use super::lex::Tok;
use super::words::ends_operand;
use crate::ast::{
    ColumnSpec, CreateMaterializedView, CreateStream, DefaultWord, Settings, Statement, StreamKind,
    ViewChange,
};
use sqlparser::tokenizer::Token;
use std::collections::HashSet;
use weir_base::Error;

/// Objects other systems of this dialect have, answered with code 48.
pub const OTHER_OBJECTS: &[&str] = &[
    "SCHEDULED",
    "FUNCTION",
    "USER",
    "ROLE",
    "DICTIONARY",
    "FORMAT",
    "DISK",
    "STORAGE",
    "NAMED",
    "ROW",
    "POLICY",
    "QUOTA",
    "SETTINGS",
    "PROFILE",
    "INDEX",
    "AGGREGATE",
    "REMOTE",
    "LIVE",
    "WINDOW",
    "INPUT",
    "PLACEMENT",
    "WORKLOAD",
    "RESOURCE",
    "TEMPORARY",
    "SCHEMA",
    "TYPE",
    "SEQUENCE",
    "TRIGGER",
    "PYTHON",
    "JAVASCRIPT",
];

/// Clauses behind the columns of a stream.
const STREAM_CLAUSES: &[&str] =
    &["ENGINE", "ORDER", "PARTITION", "PRIMARY", "TTL", "SETTINGS", "COMMENT", "AS", "SAMPLE", "EMPTY"];

pub fn create(c: &mut Cursor, settings: &mut Settings) -> Result<Statement, Error> {
    let or_replace = c.eat(&["OR", "REPLACE"]);
    if c.eat(&["MATERIALIZED", "VIEW"]) {
        if or_replace {
            return Err(c.not_implemented(
                "CREATE OR REPLACE MATERIALIZED VIEW (DROP VIEW, or ALTER VIEW … MODIFY QUERY)",
            ));
        }
        return create_materialized_view(c);
    }
    if c.eat(&["TASK"]) {
        return jobs::create_task(c, or_replace);
    }
    if c.eat(&["ALERT"]) {
        return jobs::create_alert(c, or_replace);
    }
    if let Some(definition) = definitions::create(c, or_replace)? {
        return Ok(definition);
    }
    if let Some(word) = OTHER_OBJECTS.iter().find(|w| c.looks(&[w])) {
        let second = c.peek_nth(1).and_then(Tok::word).map(str::to_ascii_uppercase);
        let second = second.filter(|s| {
            let pairs = [
                "VIEW",
                "SCHEMA",
                "POLICY",
                "COLLECTION",
                "TABLE",
                "STREAM",
                "FUNCTION",
                "PROFILE",
                "MATERIALIZED",
            ];
            pairs.contains(&s.as_str())
        });
        let name = second.map_or_else(|| (*word).to_string(), |s| format!("{word} {s}"));
        return Err(c.not_implemented(&format!("CREATE {name}")));
    }
    if c.eat(&["DATABASE"]) {
        return create_database(c, settings);
    }
    if c.eat(&["VIEW"]) {
        return create_view(c, or_replace);
    }
    let kind = match c.eat_any(&["RANDOM", "EXTERNAL", "MUTABLE"]) {
        Some("RANDOM") => StreamKind::Random,
        Some("EXTERNAL") => StreamKind::External,
        Some("MUTABLE") => StreamKind::Mutable,
        _ => StreamKind::Stream,
    };
    if c.eat_any(&["STREAM", "TABLE"]).is_none() {
        return Err(c.expected("[RANDOM] STREAM, TABLE, VIEW or DATABASE"));
    }
    create_stream(c, settings, kind, or_replace)
}

pub fn refuse_on_cluster(c: &Cursor) -> Result<(), Error> {
    if c.looks(&["ON", "CLUSTER"]) { Err(c.not_implemented("ON CLUSTER")) } else { Ok(()) }
}

fn create_database(c: &mut Cursor, settings: &mut Settings) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.identifier("the name of a database")?;
    refuse_on_cluster(c)?;
    let mut comment = String::new();
    loop {
        if c.eat(&["ENGINE"]) {
            engine(c)?;
        } else if c.eat(&["COMMENT"]) {
            comment = c.string("a comment in quotes")?;
        } else if c.looks(&["SETTINGS"]) {
            c.optional_settings(settings)?;
        } else {
            return Ok(Statement::CreateDatabase { name, if_not_exists, comment });
        }
    }
}

fn create_materialized_view(c: &mut Cursor) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.name("the name of a view")?;
    refuse_on_cluster(c)?;
    let into = if c.eat_any(&["INTO", "TO"]).is_some() {
        Some(c.name("the stream that takes the rows")?)
    } else {
        None
    };
    if c.looks_token(&Token::LParen) {
        return Err(c.not_implemented(
            "a column list in CREATE MATERIALIZED VIEW (name columns with AS in the SELECT instead)",
        ));
    }
    for (word, what) in
        [("ENGINE", "ENGINE"), ("POPULATE", "POPULATE (read history with SETTINGS seek_to='earliest')")]
    {
        if c.looks(&[word]) {
            return Err(c.not_implemented(&format!("CREATE MATERIALIZED VIEW … {what}")));
        }
    }
    let mut comment = String::new();
    if c.eat(&["COMMENT"]) {
        comment = c.string("a comment in quotes")?;
    }
    c.expect(&["AS"])?;
    let select = take_comment(&c.toks[c.at..], &mut comment);
    let (select, settings) = view_select(c, select)?;
    c.at = c.toks.len();
    let view = CreateMaterializedView { name, if_not_exists, into, select, settings, comment };
    Ok(Statement::CreateMaterializedView(view))
}

/// `… COMMENT 'text'` at the very end belongs to the view.
pub fn take_comment<'t>(select: &'t [Tok], comment: &mut String) -> &'t [Tok] {
    match select {
        [before @ .., word, text]
            if word.is("COMMENT") && text.string().is_some() && before.last().is_some_and(ends_operand) =>
        {
            *comment = text.string().unwrap_or_default().to_string();
            before
        }
        whole => whole,
    }
}

/// The SELECT of a view as written, and its settings apart.
pub fn view_select(c: &Cursor, toks: &[Tok]) -> Result<(String, Settings), Error> {
    if !toks.first().is_some_and(|t| t.is_any(&["SELECT", "WITH", "FROM"]) || t.is_token(&Token::LParen)) {
        return Err(c.expected("SELECT"));
    }
    let query = c.query_of(toks)?;
    let mut settings = super::reserved::user_settings(&query);
    settings.retain(|k, _| !super::reserved::is_reserved(k));
    let (mut depth, mut end) = (0i32, toks.len());
    for (i, tok) in toks.iter().enumerate() {
        depth += i32::from(tok.opens()) - i32::from(tok.closes());
        let begins =
            depth == 0 && tok.is("SETTINGS") && toks.get(i + 2).is_some_and(|t| t.is_token(&Token::Eq));
        if begins && i > 0 && ends_operand(&toks[i - 1]) {
            end = i;
        }
    }
    Ok((c.source(&toks[..end]).to_string(), settings))
}

/// `ALTER VIEW …`.
pub fn alter(c: &mut Cursor) -> Result<Statement, Error> {
    let _ = c.eat(&["MATERIALIZED"]);
    c.expect(&["VIEW"])?;
    let name = c.name("the name of a view")?;
    refuse_on_cluster(c)?;
    let change = if c.eat(&["RESET", "QUERY", "SETTING"]) {
        let mut names = vec![c.identifier("the name of a setting")?];
        while c.eat_token(&Token::Comma) {
            names.push(c.identifier("the name of a setting")?);
        }
        ViewChange::Reset(names)
    } else {
        c.expect(&["MODIFY"]).map_err(|_| {
            c.expected("MODIFY QUERY, MODIFY QUERY SETTING, RESET QUERY SETTING or MODIFY COMMENT")
        })?;
        if c.eat(&["COMMENT"]) {
            ViewChange::Comment(c.string("a comment in quotes")?)
        } else {
            c.expect(&["QUERY"]).map_err(|_| c.expected("QUERY, QUERY SETTING or COMMENT"))?;
            if c.eat(&["SETTING"]) {
                let mut settings = Settings::new();
                c.settings(&mut settings)?;
                ViewChange::Settings(settings)
            } else {
                let (select, settings) = view_select(c, &c.toks[c.at..])?;
                c.at = c.toks.len();
                ViewChange::Query { select, settings }
            }
        }
    };
    Ok(Statement::AlterView { name, change })
}

/// `ALTER STREAM …`, behind ALTER.
pub fn alter_stream(c: &mut Cursor) -> Result<Statement, Error> {
    let begin = c.at - 1;
    let _ = c.eat_any(&["STREAM", "TABLE"]);
    let name = c.name("the name of a stream")?;
    refuse_on_cluster(c)?;
    if !c.eat(&["MODIFY", "SETTING"]) {
        c.at = begin;
        return Err(
            c.not_implemented("ALTER STREAM is not implemented but for MODIFY SETTING; anything else")
        );
    }
    let mut settings = Settings::new();
    c.settings(&mut settings)?;
    Ok(Statement::AlterStream { name, settings })
}

fn create_view(c: &mut Cursor, or_replace: bool) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.name("the name of a view")?;
    refuse_on_cluster(c)?;
    if c.looks_token(&Token::LParen) {
        return Err(
            c.not_implemented("a column list in CREATE VIEW (name columns with AS in the SELECT instead)")
        );
    }
    let mut comment = String::new();
    if c.eat(&["COMMENT"]) {
        comment = c.string("a comment in quotes")?;
    }
    c.expect(&["AS"])?;
    let select = take_comment(&c.toks[c.at..], &mut comment);
    if !select.first().is_some_and(|t| t.is_any(&["SELECT", "WITH", "FROM"]) || t.is_token(&Token::LParen)) {
        return Err(c.expected("SELECT"));
    }
    c.query_of(select)?;
    c.at = c.toks.len();
    Ok(Statement::CreateView {
        name,
        if_not_exists,
        or_replace,
        select: c.source(select).to_string(),
        comment,
    })
}

fn create_stream(
    c: &mut Cursor,
    settings: &mut Settings,
    kind: StreamKind,
    or_replace: bool,
) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.name("the name of a stream")?;
    let _ = c.eat(&["UUID"]) && c.string("a uuid in quotes").is_ok();
    refuse_on_cluster(c)?;
    let mut stream = CreateStream {
        name,
        if_not_exists,
        or_replace,
        kind,
        columns: vec![],
        indexes: vec![],
        order_by: None,
        partition_by: None,
        primary_key: None,
        ttl: None,
        comment: String::new(),
        like: None,
        as_select: None,
    };
    if c.eat_token(&Token::LParen) {
        let mut seen = HashSet::new();
        while !c.eat_token(&Token::RParen) {
            let (start, before) = (c.at, stream.columns.len());
            element(c, &mut stream)?;
            if let Some(column) = stream.columns.get(before)
                && !seen.insert(column.name.clone())
            {
                return Err(c.toks[start].error(format!("column {} is declared twice", column.name)));
            }
            if !c.looks_token(&Token::RParen) {
                c.expect_token(&Token::Comma)?;
            }
        }
    }
    clauses(c, settings, &mut stream)?;
    Ok(Statement::CreateStream(stream))
}

fn clauses(c: &mut Cursor, settings: &mut Settings, stream: &mut CreateStream) -> Result<(), Error> {
    while !c.done() {
        let start = c.at;
        if c.eat(&["ENGINE"]) {
            engine(c)?;
        } else if c.eat(&["ORDER", "BY"]) {
            set_once(c, start, &mut stream.order_by, key)?;
        } else if c.eat(&["PARTITION", "BY"]) {
            set_once(c, start, &mut stream.partition_by, key)?;
        } else if c.eat(&["PRIMARY", "KEY"]) {
            set_once(c, start, &mut stream.primary_key, key)?;
        } else if c.eat(&["TTL"]) {
            set_once(c, start, &mut stream.ttl, ttl)?;
        } else if c.eat(&["COMMENT"]) {
            stream.comment = c.string("a comment in quotes")?;
        } else if c.looks(&["SETTINGS"]) {
            c.optional_settings(settings)?;
        } else if c.looks(&["SAMPLE", "BY"]) {
            return Err(c.not_implemented("SAMPLE BY"));
        } else if c.looks(&["EMPTY", "AS"]) {
            return Err(c.not_implemented("CREATE … EMPTY AS"));
        } else if c.eat(&["AS"]) {
            let query =
                c.peek().is_some_and(|t| t.is_any(&["SELECT", "WITH", "FROM"]) || t.is_token(&Token::LParen));
            if query {
                stream.as_select = Some(c.query_of(&c.toks[c.at..])?);
                c.at = c.toks.len();
            } else {
                stream.like = Some(c.name("a stream or SELECT")?);
            }
        } else {
            return Err(c.expected("ORDER BY, PARTITION BY, PRIMARY KEY, TTL, SETTINGS, COMMENT or AS"));
        }
    }
    Ok(())
}

fn set_once(
    c: &mut Cursor,
    start: usize,
    into: &mut Option<String>,
    read: impl FnOnce(&mut Cursor) -> Result<String, Error>,
) -> Result<(), Error> {
    let value = read(c)?;
    if into.replace(value).is_some() {
        let word = c.toks[start].word().unwrap_or_default().to_ascii_uppercase();
        return Err(c.toks[start].error(format!("{word} is given twice")));
    }
    Ok(())
}

/// `ENGINE = name(…)`: there is one engine, so it says nothing.
fn engine(c: &mut Cursor) -> Result<(), Error> {
    let _ = c.eat_token(&Token::Eq);
    c.identifier("the name of an engine")?;
    if c.looks_token(&Token::LParen) {
        c.at = c.after(c.at);
    }
    Ok(())
}

/// The expression of ORDER BY, PARTITION BY, PRIMARY KEY: `a`, `(a, b)`, or `a, b`.
fn key(c: &mut Cursor) -> Result<String, Error> {
    let from = c.at;
    let toks =
        c.take_until(|c, i| i > from && c.toks[i].is_any(STREAM_CLAUSES) && ends_operand(&c.toks[i - 1]));
    match toks {
        [open, close] if open.is_token(&Token::LParen) && close.is_token(&Token::RParen) => {
            Ok("tuple()".into())
        }
        _ => {
            let mut depth = 0i32;
            let list = toks.iter().any(|t| {
                depth += i32::from(t.opens()) - i32::from(t.closes());
                depth == 0 && t.is_token(&Token::Comma)
            });
            if !list {
                return c.expression_text(toks, "an expression");
            }
            let text = format!("({})", c.source(toks));
            super::parse_expr(&text).map_err(|e| toks[0].error(e.message))?;
            Ok(text)
        }
    }
}

/// `TTL expr [DELETE]`.
fn ttl(c: &mut Cursor) -> Result<String, Error> {
    let from = c.at;
    let actions = ["DELETE", "RECOMPRESS", "TO", "WHERE", "GROUP", "SET"];
    let toks = c.take_until(|c, i| {
        c.toks[i].is_token(&Token::Comma)
            || i > from
                && ends_operand(&c.toks[i - 1])
                && (c.toks[i].is_any(STREAM_CLAUSES) || c.toks[i].is_any(&actions))
    });
    let text = c.expression_text(toks, "an expression, for example _tp_time + 7d")?;
    let _ = c.eat(&["DELETE"]);
    for word in ["WHERE", "RECOMPRESS", "TO", "GROUP", "SET"] {
        if c.looks(&[word]) {
            return Err(c.not_implemented(&format!("TTL … {word}")));
        }
    }
    Ok(text)
}

/// One element of the list in parentheses: a column, an index, a key.
fn element(c: &mut Cursor, stream: &mut CreateStream) -> Result<(), Error> {
    for (word, second) in
        [("CONSTRAINT", None), ("PROJECTION", None), ("FAMILY", None), ("WATERMARK", Some("FOR"))]
    {
        let follows = c.peek_nth(1).is_some_and(|t| t.identifier().is_some());
        if c.looks(&[word]) && follows && second.is_none_or(|s| c.looks(&[word, s])) && !is_column(c) {
            return Err(c.not_implemented(&format!("{word} in a stream's columns")));
        }
    }
    if c.looks(&["INDEX"])
        && c.peek_nth(2).is_some_and(|t| !t.is_token(&Token::Comma) && !t.is_token(&Token::RParen))
    {
        c.at += 1;
        return index(c, stream);
    }
    if c.looks(&["PRIMARY", "KEY"]) {
        let start = c.at;
        c.at += 2;
        let toks = c.take_until(|c, i| c.toks[i].is_token(&Token::Comma));
        let text = c.expression_text(toks, "an expression")?;
        return set_once(c, start, &mut stream.primary_key, |_| Ok(text));
    }
    let column = column(c, stream)?;
    stream.columns.push(column);
    Ok(())
}

/// `projection string`, with a type behind: a column whose name is such a word.
fn is_column(c: &Cursor) -> bool {
    c.peek_nth(2).is_none_or(|t| {
        t.is_token(&Token::Comma)
            || t.is_token(&Token::RParen)
            || t.is_any(&["DEFAULT", "MATERIALIZED", "ALIAS", "CODEC", "COMMENT", "TTL", "NULL", "NOT"])
    })
}

fn index(c: &mut Cursor, stream: &mut CreateStream) -> Result<(), Error> {
    let name = c.identifier("the name of an index")?;
    let from = c.at;
    let toks = c.take_until(|c, i| {
        c.toks[i].is_token(&Token::Comma)
            || i > from && c.toks[i].is_any(&["TYPE", "GRANULARITY", "UNIQUE", "STORING"])
    });
    let expression = c.expression_text(toks, "an expression to index")?;
    let kind = if c.eat(&["TYPE"]) {
        let from = c.at;
        c.identifier("the type of an index")?;
        if c.looks_token(&Token::LParen) {
            c.at = c.after(c.at);
        }
        c.source(&c.toks[from..c.at]).to_string()
    } else if stream.kind == StreamKind::Mutable {
        // UNIQUE and STORING (…): a mutable stream is refused as a whole, later.
        let _ = c.take_until(|c, i| c.toks[i].is_token(&Token::Comma));
        String::new()
    } else {
        return Err(c.expected("TYPE and the type of the index"));
    };
    if c.eat(&["GRANULARITY"]) {
        match c.peek().map(|t| &t.kind) {
            Some(super::lex::Kind::Sql(Token::Number(..))) => c.at += 1,
            _ => return Err(c.expected("a number")),
        }
    }
    stream.indexes.push((name, expression, kind));
    Ok(())
}

const COLUMN_OPTIONS: &[&str] = &["CODEC", "COMMENT", "TTL", "PRIMARY"];

fn column(c: &mut Cursor, stream: &mut CreateStream) -> Result<ColumnSpec, Error> {
    let mut name = c.identifier("the name of a column")?;
    while c.eat_token(&Token::Period) {
        name = format!("{name}.{}", c.identifier("the name of a column")?);
    }
    let mut column = ColumnSpec {
        name,
        type_text: None,
        default: None,
        codec: None,
        comment: String::new(),
        ttl: None,
        nullable: false,
    };
    let default_word = |t: &Tok| t.is_any(&["DEFAULT", "MATERIALIZED", "ALIAS", "EPHEMERAL"]);
    if !c.peek().is_some_and(default_word) {
        column.type_text = Some(type_text(c)?);
    }
    loop {
        let start = c.at;
        if c.eat(&["NOT", "NULL"]) {
            column.nullable = false;
        } else if c.eat(&["NULL"]) {
            column.nullable = true;
        } else if c.looks(&["EPHEMERAL"]) || c.looks(&["AUTO_INCREMENT"]) {
            return Err(
                c.not_implemented(&c.peek().and_then(Tok::word).unwrap_or_default().to_ascii_uppercase())
            );
        } else if c.looks(&["COLLATE"]) {
            return Err(c.not_implemented("COLLATE of a column"));
        } else if let Some(word) = c.eat_any(&["DEFAULT", "MATERIALIZED", "ALIAS"]) {
            let word = match word {
                "DEFAULT" => DefaultWord::Default,
                "MATERIALIZED" => DefaultWord::Materialized,
                _ => DefaultWord::Alias,
            };
            let from = c.at;
            let toks = c.take_until(|c, i| {
                c.toks[i].is_token(&Token::Comma)
                    || i > from && c.toks[i].is_any(COLUMN_OPTIONS) && ends_operand(&c.toks[i - 1])
            });
            let text = c.expression_text(toks, "an expression")?;
            if column.default.replace((word, text)).is_some() {
                return Err(c.toks[start].error(format!("column {} has two defaults", column.name)));
            }
        } else if c.eat(&["CODEC"]) {
            let open = c.at;
            c.expect_token(&Token::LParen)?;
            c.at = c.after(open);
            column.codec = Some(c.source(&c.toks[open + 1..c.at - 1]).to_string());
        } else if c.eat(&["COMMENT"]) {
            column.comment = c.string("a comment in quotes")?;
        } else if c.eat(&["TTL"]) {
            let from = c.at;
            let toks = c.take_until(|c, i| {
                c.toks[i].is_token(&Token::Comma)
                    || i > from && c.toks[i].is_any(COLUMN_OPTIONS) && ends_operand(&c.toks[i - 1])
            });
            column.ttl = Some(c.expression_text(toks, "an expression")?);
        } else if c.eat(&["PRIMARY", "KEY"]) {
            let name = column.name.clone();
            set_once(c, start, &mut stream.primary_key, |_| Ok(name))?;
        } else if c.looks_token(&Token::Comma) || c.looks_token(&Token::RParen) {
            return Ok(column);
        } else {
            return Err(c.expected("DEFAULT, MATERIALIZED, ALIAS, CODEC, COMMENT, TTL, NULL, ',' or ')'"));
        }
    }
}

/// A type as written: a word and perhaps a list in parentheses.
fn type_text(c: &mut Cursor) -> Result<String, Error> {
    let from = c.at;
    c.identifier("a type")?;
    // Types of two words: double precision, character varying and the like.
    while c.eat_any(&["PRECISION", "VARYING", "SIGNED", "UNSIGNED", "LARGE", "OBJECT"]).is_some() {}
    if c.looks_token(&Token::LParen) {
        c.at = c.after(c.at);
    }
    Ok(c.source(&c.toks[from..c.at]).to_string())
}
