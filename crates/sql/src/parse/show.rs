//! SHOW, DESCRIBE, EXISTS and SYSTEM.
//!
//! Not here: what they answer (engine).

use super::cursor::Cursor;
use super::definitions;
use super::lex::{self, Kind, Tok};
use crate::ast::{DescribeTarget, JobObject, Like, Name, ObjectKind, Show, Statement, System, ViewVerb};
use sqlparser::tokenizer::Token;
use weir_base::Error;

pub fn show(c: &mut Cursor) -> Result<Statement, Error> {
    if c.looks(&["FULL"]) || c.looks(&["EXTENDED"]) {
        return Err(c.not_implemented("SHOW FULL and SHOW EXTENDED"));
    }
    if let Some(show) = definitions::show(c)? {
        return Ok(Statement::Show(show));
    }
    if let Some(object) = job_object(c, &["CREATE"]) {
        return Ok(Statement::Show(Show::CreateJob { object, name: c.name("the name of a task or alert")? }));
    }
    if c.eat(&["CREATE"]) {
        let object = object_kind(c, false)?;
        let name = match object {
            Some(ObjectKind::Database) => {
                Name { database: None, name: c.identifier("the name of a database")? }
            }
            _ => c.name("the name of a stream or view")?,
        };
        return Ok(Statement::Show(Show::Create { object, name }));
    }
    let Some(what) = c.eat_any(&[
        "DATABASES",
        "SCHEMAS",
        "STREAMS",
        "TABLES",
        "VIEWS",
        "COLUMNS",
        "FIELDS",
        "FUNCTIONS",
        "SETTINGS",
        "PROCESSLIST",
        "TASKS",
        "ALERTS",
    ]) else {
        let word = c.peek().and_then(Tok::word).map(str::to_ascii_uppercase);
        return Err(match word {
            Some(word) => {
                let known = [
                    "FORMAT",
                    "DISKS",
                    "STORAGE",
                    "DICTIONARIES",
                    "USERS",
                    "ROLES",
                    "GRANTS",
                    "ACCESS",
                    "INDEX",
                    "INDEXES",
                    "KEYS",
                    "ENGINES",
                    "CLUSTERS",
                    "CLUSTER",
                    "PRIVILEGES",
                    "MATERIALIZED",
                    "PROFILES",
                    "QUOTAS",
                    "POLICIES",
                    "CURRENT",
                    "ENABLED",
                    "CHANGED",
                    "MERGES",
                    "FILESYSTEM",
                    "TEMPORARY",
                    "SETTING",
                ];
                if known.contains(&word.as_str()) {
                    c.not_implemented(&format!("SHOW {word}"))
                } else {
                    c.expected("DATABASES, STREAMS, TABLES, VIEWS, COLUMNS, FUNCTIONS, SETTINGS, PROCESSLIST or CREATE")
                }
            }
            None => c.expected("what to show, for example STREAMS"),
        });
    };
    let show = match what {
        "DATABASES" | "SCHEMAS" => Show::Databases { like: like(c)? },
        "FUNCTIONS" => Show::Functions { like: like(c)? },
        "SETTINGS" => Show::Settings { like: like(c)? },
        "PROCESSLIST" => Show::ProcessList,
        "COLUMNS" | "FIELDS" => {
            if !c.eat(&["FROM"]) {
                c.expect(&["IN"])?;
            }
            let mut of = c.name("the name of a stream")?;
            if c.eat(&["FROM"]) || c.eat(&["IN"]) {
                if of.database.is_some() {
                    return Err(c.expected("one database, not two"));
                }
                of.database = Some(c.identifier("the name of a database")?);
            }
            Show::Columns { of, like: like(c)? }
        }
        _ => {
            let database = if c.eat(&["FROM"]) || c.eat(&["IN"]) {
                Some(c.identifier("the name of a database")?)
            } else {
                None
            };
            let like = like(c)?;
            match what {
                "TASKS" => Show::Jobs { object: JobObject::Task, database, like },
                "ALERTS" => Show::Jobs { object: JobObject::Alert, database, like },
                _ => Show::Relations { database, like, views_only: what == "VIEWS" },
            }
        }
    };
    if c.looks(&["WHERE"]) || c.looks(&["LIMIT"]) {
        return Err(
            c.not_implemented(&format!("SHOW {what} with WHERE or LIMIT (select from system.* instead)"))
        );
    }
    Ok(Statement::Show(show))
}

pub fn like(c: &mut Cursor) -> Result<Option<Like>, Error> {
    let negated = c.eat(&["NOT"]);
    let Some(word) = c.eat_any(&["LIKE", "ILIKE"]) else {
        return if negated { Err(c.expected("LIKE or ILIKE")) } else { Ok(None) };
    };
    let pattern = c.string("a pattern in quotes")?;
    Ok(Some(Like { pattern, case_insensitive: word == "ILIKE", negated }))
}

/// `STREAM`, `TABLE`, `VIEW`, `DATABASE` if one stands before a name.
fn object_kind(c: &mut Cursor, temporary: bool) -> Result<Option<ObjectKind>, Error> {
    if temporary {
        let _ = c.eat(&["TEMPORARY"]);
    }
    let is_name = c.peek_nth(1).is_none_or(|t| t.identifier().is_none());
    if is_name {
        return Ok(None);
    }
    let other = [
        "DICTIONARY",
        "USER",
        "ROLE",
        "FUNCTION",
        "MATERIALIZED",
        "ROW",
        "QUOTA",
        "SETTINGS",
        "FORMAT",
        "DISK",
    ];
    if let Some(word) = other.iter().find(|w| c.looks(&[w])) {
        return Err(c.not_implemented(&format!("this statement for {word}")));
    }
    let _ = c.eat_any(&["EXTERNAL", "RANDOM", "MUTABLE"]);
    Ok(c.eat_any(&["STREAM", "TABLE", "VIEW", "DATABASE"]).map(|word| match word {
        "VIEW" => ObjectKind::View,
        "DATABASE" => ObjectKind::Database,
        _ => ObjectKind::Stream,
    }))
}

pub fn exists(c: &mut Cursor) -> Result<Statement, Error> {
    let object = object_kind(c, true)?.unwrap_or(ObjectKind::Stream);
    let name = match object {
        ObjectKind::Database => Name { database: None, name: c.identifier("the name of a database")? },
        _ => c.name("the name of a stream or view")?,
    };
    Ok(Statement::Exists { object, name })
}

pub fn describe(c: &mut Cursor) -> Result<Statement, Error> {
    let _ = object_kind(c, false)?;
    if c.looks_token(&Token::LParen) || c.looks(&["SELECT"]) || c.looks(&["WITH"]) {
        let query = c.take_until(|c, i| c.toks[i].is("SETTINGS"));
        let inner = match query {
            [first, inner @ .., last] if first.is_token(&Token::LParen) && last.is_token(&Token::RParen) => {
                inner
            }
            whole => whole,
        };
        return Ok(Statement::Describe(DescribeTarget::Query(c.query_of(inner)?)));
    }
    let from = c.at;
    let calls = c.peek().is_some_and(|t| t.identifier().is_some())
        && c.peek_nth(1).is_some_and(|t| t.is_token(&Token::LParen));
    if calls {
        // A table function has the columns of SELECT * FROM it.
        c.at = c.after(from + 1);
        let at = &c.toks[from];
        let word = |text: &str| Tok { kind: Kind::Sql(Token::make_word(text, None)), ..at.clone() };
        let star = Tok { kind: Kind::Sql(Token::Mul), ..at.clone() };
        let mut toks = vec![word("SELECT"), star, word("FROM")];
        toks.extend_from_slice(&c.toks[from..c.at]);
        return Ok(Statement::Describe(DescribeTarget::Query(c.query_of(&toks)?)));
    }
    Ok(Statement::Describe(DescribeTarget::Relation(
        c.name("the name of a stream or view, or a query in parentheses")?,
    )))
}

/// These words and `TASK` or `ALERT`, before a name.
fn job_object(c: &mut Cursor, words: &[&str]) -> Option<JobObject> {
    [("TASK", JobObject::Task), ("ALERT", JobObject::Alert)].into_iter().find_map(|(word, object)| {
        let named = c.peek_nth(words.len() + 1).is_some_and(|t| t.identifier().is_some());
        (named && c.eat(&[words, &[word]].concat())).then_some(object)
    })
}

/// `SYSTEM verb [MATERIALIZED] VIEW v`, `SYSTEM verb TASK t`, `SYSTEM verb ALERT a`.
fn view(c: &mut Cursor) -> Result<Option<System>, Error> {
    let verbs = [
        ("PAUSE", ViewVerb::Pause),
        ("RESUME", ViewVerb::Resume),
        ("UNPAUSE", ViewVerb::Resume),
        ("RECOVER", ViewVerb::Recover),
        ("CHECKPOINT", ViewVerb::Checkpoint),
        ("SYNC", ViewVerb::Sync),
        ("DRAIN", ViewVerb::Drain),
    ];
    for (word, verb) in verbs {
        if c.eat(&[word, "VIEW"]) || c.eat(&[word, "MATERIALIZED", "VIEW"]) {
            return Ok(Some(System::View { verb, name: c.name("the name of a view")? }));
        }
        let of_tasks = matches!(verb, ViewVerb::Pause | ViewVerb::Resume);
        if let Some(object) = job_object(c, &[word]) {
            if object == JobObject::Task && !of_tasks {
                return Err(c.not_implemented(&format!("SYSTEM {word} TASK")));
            }
            let name = c.name("the name of a task or alert")?;
            return Ok(Some(System::Job { object, verb, name }));
        }
    }
    Ok(None)
}

pub fn system(c: &mut Cursor) -> Result<Statement, Error> {
    if let Some(view) = view(c)? {
        return Ok(Statement::System(view));
    }
    if c.eat(&["CHECKPOINT", "QUERY"]) {
        return Ok(Statement::System(System::CheckpointQuery(c.string("a query id in quotes")?)));
    }
    let verb = c.eat_any(&["SYNC", "FLUSH", "MERGE", "CLOCK", "DRAIN"]);
    let system = match verb {
        Some("SYNC") if c.eat(&["QUERY"]) => System::SyncQuery(c.string("a query id in quotes")?),
        Some("SYNC") => System::SyncStream(stream(c)?),
        Some("FLUSH") if c.looks(&["LOGS"]) => return Err(c.not_implemented("SYSTEM FLUSH LOGS")),
        Some("FLUSH") => System::FlushStream(stream(c)?),
        Some("MERGE") => System::MergeStream(stream(c)?),
        Some("CLOCK") => {
            c.expect(&["ADVANCE"])?;
            System::ClockAdvance { micros: duration_micros(c)? }
        }
        Some("DRAIN") if c.eat(&["QUERY"]) => System::DrainQuery(c.string("a query id in quotes")?),
        Some("DRAIN") => System::DrainQuery(String::new()),
        _ => {
            let mut words = Vec::new();
            for n in 0..3 {
                match c.peek_nth(n).and_then(Tok::word) {
                    Some(word) => words.push(word.to_ascii_uppercase()),
                    None => break,
                }
            }
            const KNOWN: &[&str] = &[
                "PAUSE",
                "RESUME",
                "UNPAUSE",
                "ABORT",
                "RECOVER",
                "TRANSFER",
                "REBALANCE",
                "STOP",
                "START",
                "SET",
                "INSTALL",
                "UNINSTALL",
                "LIST",
                "CHECKPOINT",
                "RELOAD",
                "RESTART",
                "SHUTDOWN",
                "KILL",
                "THREAD",
                "RESTORE",
                "WAIT",
                "ENABLE",
                "DISABLE",
                "JEMALLOC",
                "UNFREEZE",
                "REFRESH",
                "LOAD",
                "UNLOAD",
            ];
            return Err(match words.first() {
                Some(first) if KNOWN.contains(&first.as_str()) => {
                    c.not_implemented(&format!("SYSTEM {}", words.join(" ")))
                }
                _ => c.expected(
                    "SYNC, FLUSH, MERGE, PAUSE, RESUME, RECOVER, CHECKPOINT, CLOCK ADVANCE or DRAIN",
                ),
            });
        }
    };
    Ok(Statement::System(system))
}

fn stream(c: &mut Cursor) -> Result<Name, Error> {
    if !c.eat(&["STREAM"]) {
        c.expect(&["TABLE"]).map_err(|_| c.expected("STREAM and its name"))?;
    }
    c.name("the name of a stream")
}

/// `5s` or `INTERVAL 5 SECOND`, in microseconds.
pub fn duration_micros(c: &mut Cursor) -> Result<i64, Error> {
    let (count, unit) = match c.peek().map(|t| &t.kind) {
        Some(Kind::Interval { count, unit }) => (count.clone(), *unit),
        _ if c.eat(&["INTERVAL"]) => match (c.peek().map(|t| &t.kind), c.peek_nth(1).and_then(Tok::word)) {
            (Some(Kind::Sql(Token::Number(count, _) | Token::SingleQuotedString(count))), Some(word)) => {
                let word = word.to_ascii_uppercase();
                let singular = word.strip_suffix('S').unwrap_or(&word).to_string();
                let Some(unit) = lex::UNITS.iter().find(|u| u.keyword == singular) else {
                    return Err(c.expected("a duration, for example 5s"));
                };
                c.at += 1;
                (count.clone(), *unit)
            }
            _ => return Err(c.expected("a duration, for example 5s")),
        },
        _ => return Err(c.expected("a duration, for example 5s")),
    };
    let micros = count
        .parse::<i64>()
        .ok()
        .zip(unit.nanos)
        .and_then(|(n, nanos)| n.checked_mul(nanos))
        .map(|n| n / 1000);
    let Some(micros) = micros else {
        return Err(c.expected("a duration of fixed length (ns to w) below 292 years"));
    };
    c.at += 1;
    Ok(micros)
}
