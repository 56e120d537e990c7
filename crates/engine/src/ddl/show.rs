//! SHOW, DESCRIBE, EXISTS, and the text a relation could be created with again.

use super::{definitions, jobs, views};
use crate::engine::Statement;
use crate::externals::Externals;
use crate::outcome::Outcome;
use crate::settings::SETTINGS;
use crate::streams::column_type;
use crate::system::{Columns, Context, TABLES, processes};
use std::collections::BTreeMap;
use weir_base::{Result, err};
use weir_catalog::{ColumnDef, Relation, RelationKind, SYSTEM_DATABASE};
use weir_format::Spelling;
use weir_format::types::Type;
use weir_sql::ast::{Like, Name, ObjectKind, Show};
use weir_storage::TIME_COLUMN;

pub(crate) fn is_view(kind: &RelationKind) -> bool {
    matches!(kind, RelationKind::View { .. } | RelationKind::MaterializedView { .. })
}

pub(crate) fn engine_name(kind: &RelationKind) -> &'static str {
    match kind {
        RelationKind::Stream { .. } => "Stream",
        RelationKind::External { .. } => "ExternalStream",
        RelationKind::Random { .. } => "Random",
        RelationKind::View { .. } => "View",
        RelationKind::MaterializedView { .. } => "MaterializedView",
    }
}

pub(crate) fn show(cx: &Statement, show: Show) -> Result<Outcome> {
    let snapshot = cx.shared.catalog.snapshot();
    match show {
        Show::Databases { like } => {
            let names = snapshot.databases.keys().filter(|n| matches(&like, n));
            cx.rows(Columns::default().text("name", names))
        }
        Show::Relations { database, like, views_only } => {
            let database = database.as_deref().unwrap_or(cx.session_database());
            let mut names: Vec<String> = snapshot
                .expect_database(database)?
                .relations
                .values()
                .filter(|r| !views_only || is_view(&r.kind))
                .filter(|r| cx.settings.internal_streams || !views::is_internal(&r.name))
                .map(|r| r.name.clone())
                .collect();
            if database == SYSTEM_DATABASE && !views_only {
                names = TABLES.iter().map(|(n, _)| (*n).to_owned()).chain(["numbers".to_owned()]).collect();
            }
            names.retain(|n| matches(&like, n));
            cx.rows(Columns::default().text("name", names))
        }
        Show::Jobs { object, database, like } => jobs::show_jobs(cx, object, database, &like),
        Show::Definitions { object, like } => definitions::show(cx, object, &like),
        Show::CreateDefinition { object, name } => definitions::show_create(cx, object, &name),
        Show::CreateJob { object, name } => jobs::show_create(cx, object, &name),
        Show::Create { object: Some(ObjectKind::Database), name } => {
            snapshot.expect_database(&name.name)?;
            let text = format!("CREATE DATABASE {}", quote(&name.name));
            cx.rows(Columns::default().text("statement", [text]))
        }
        Show::Create { name, .. } => {
            let name = cx.full_name(&name);
            let relation = snapshot.expect_relation(&name.database, &name.name)?;
            let text = create_text(relation, &cx.shared.externals, cx.settings.format.spelling);
            cx.rows(Columns::default().text("statement", [text]))
        }
        Show::Columns { of, like } => {
            let columns: Vec<Described> =
                described(cx, &of)?.into_iter().filter(|c| matches(&like, &c.name)).collect();
            cx.rows(
                Columns::default()
                    .text("field", columns.iter().map(|c| &c.name))
                    .text("type", columns.iter().map(|c| &c.type_name))
                    .text("default", columns.iter().map(|c| &c.default_expression)),
            )
        }
        Show::Functions { like } => {
            let infos = cx.shared.config.functions.infos.iter().filter(|f| matches(&like, &f.name));
            let all: Vec<_> = infos.collect();
            cx.rows(
                Columns::default()
                    .text("name", all.iter().map(|f| &f.name))
                    .flag("is_aggregate", all.iter().map(|f| f.is_aggregate))
                    .text("syntax", all.iter().map(|f| &f.usage)),
            )
        }
        Show::Settings { like } => {
            let all: Vec<_> = SETTINGS.iter().filter(|s| matches(&like, s.name)).collect();
            let value = |name: &str, default: &str| {
                let set = cx.session.settings.get(name).or_else(|| cx.shared.config.settings.get(name));
                set.map_or(default, String::as_str).to_owned()
            };
            cx.rows(
                Columns::default()
                    .text("name", all.iter().map(|s| s.name))
                    .text("type", all.iter().map(|s| s.kind.name()))
                    .text("value", all.iter().map(|s| value(s.name, s.default))),
            )
        }
        Show::ProcessList => cx.rows(processes(&context(cx))?),
    }
}

fn context(cx: &Statement) -> Context {
    Context {
        shared: cx.shared.clone(),
        spelling: cx.settings.format.spelling,
        database: cx.session_database().to_owned(),
    }
}

/// One line of DESCRIBE.
struct Described {
    name: String,
    type_name: String,
    default_type: &'static str,
    default_expression: String,
    comment: String,
    codec: String,
}

fn described_column(c: &ColumnDef, spelling: Spelling) -> Described {
    let default = c.default.as_ref();
    Described {
        name: c.name.clone(),
        type_name: column_type(&c.type_name).map_or_else(|_| c.type_name.clone(), |t| t.name(spelling)),
        default_type: default.map_or("", |d| crate::system::default_word(d.kind)),
        default_expression: default.map_or_else(String::new, |d| d.expression.clone()),
        comment: c.comment.clone(),
        codec: c.codec.clone().unwrap_or_default(),
    }
}

fn described_schema(schema: &arrow::datatypes::Schema, spelling: Spelling) -> Vec<Described> {
    let of_field = |f: &std::sync::Arc<arrow::datatypes::Field>| Described {
        name: f.name().clone(),
        type_name: Type::of_field(f).map_or_else(|| f.data_type().to_string(), |t| t.name(spelling)),
        default_type: "",
        default_expression: String::new(),
        comment: String::new(),
        codec: String::new(),
    };
    schema.fields().iter().map(of_field).collect()
}

fn described(cx: &Statement, name: &Name) -> Result<Vec<Described>> {
    let spelling = cx.settings.format.spelling;
    let full = cx.full_name(name);
    if full.database == SYSTEM_DATABASE {
        let table = crate::system::table(&cx.shared, &full.name, spelling, cx.session_database())?;
        return Ok(described_schema(&table.schema(), spelling));
    }
    let snapshot = cx.shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&full.database, &full.name)?;
    Ok(relation.columns.iter().map(|c| described_column(c, spelling)).collect())
}

fn describe(cx: &Statement, columns: &[Described]) -> Result<Outcome> {
    cx.rows(
        Columns::default()
            .text("name", columns.iter().map(|c| &c.name))
            .text("type", columns.iter().map(|c| &c.type_name))
            .text("default_type", columns.iter().map(|c| c.default_type))
            .text("default_expression", columns.iter().map(|c| &c.default_expression))
            .text("comment", columns.iter().map(|c| &c.comment))
            .text("codec_expression", columns.iter().map(|c| &c.codec))
            .text("ttl_expression", columns.iter().map(|_| "")),
    )
}

pub(crate) fn describe_relation(cx: &Statement, name: &Name) -> Result<Outcome> {
    describe(cx, &described(cx, name)?)
}

pub(crate) fn describe_query(cx: &Statement, query: &sqlparser::ast::Query) -> Result<Outcome> {
    let bound = cx.bind(query, false)?;
    describe(cx, &described_schema(&bound.schema, cx.settings.format.spelling))
}

pub(crate) fn exists(cx: &Statement, object: ObjectKind, name: &Name) -> Result<Outcome> {
    let snapshot = cx.shared.catalog.snapshot();
    let there = match object {
        ObjectKind::Database => snapshot.databases.contains_key(&name.name),
        _ => {
            let full = cx.full_name(name);
            match snapshot.relation(&full.database, &full.name) {
                Some(r) => object != ObjectKind::View || is_view(&r.kind),
                None => {
                    full.database == SYSTEM_DATABASE
                        && object != ObjectKind::View
                        && (full.name == "numbers" || TABLES.iter().any(|(n, _)| *n == full.name))
                }
            }
        }
    };
    cx.rows(Columns::default().flag("result", [there]))
}

pub(super) fn matches(like: &Option<Like>, name: &str) -> bool {
    let Some(like) = like else { return true };
    let found = if like.case_insensitive {
        like_matches(&like.pattern.to_lowercase(), &name.to_lowercase())
    } else {
        like_matches(&like.pattern, name)
    };
    found != like.negated
}

/// SQL LIKE: `%` any text, `_` one character, `\` takes the next as it is. In time
/// proportional to pattern times text.
fn like_matches(pattern: &str, text: &str) -> bool {
    let mut tokens: Vec<(char, bool)> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => tokens.push((chars.next().unwrap_or('\\'), false)),
            c => tokens.push((c, c == '%' || c == '_')),
        }
    }
    // reachable[i]: the first i tokens match the text so far.
    let mut reachable = vec![false; tokens.len() + 1];
    reachable[0] = true;
    let skip_any = |reachable: &mut Vec<bool>| {
        for (i, token) in tokens.iter().enumerate() {
            if reachable[i] && *token == ('%', true) {
                reachable[i + 1] = true;
            }
        }
    };
    skip_any(&mut reachable);
    for c in text.chars() {
        let mut next = vec![false; tokens.len() + 1];
        for (i, token) in tokens.iter().enumerate().filter(|(i, _)| reachable[*i]) {
            match token {
                ('%', true) => next[i] = true,
                ('_', true) => next[i + 1] = true,
                (wanted, _) => next[i + 1] |= *wanted == c,
            }
        }
        skip_any(&mut next);
        reachable = next;
    }
    reachable[tokens.len()]
}

/// A name as it can stand in SQL.
pub(crate) fn quote(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`")) }
}

pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A statement that makes the relation anew.
pub(crate) fn create_text(relation: &Relation, externals: &Externals, spelling: Spelling) -> String {
    let name = format!("{}.{}", quote(&relation.database), quote(&relation.name));
    let mut out = match &relation.kind {
        RelationKind::MaterializedView { select, target, inner, settings, .. } => {
            let mut out = format!("CREATE MATERIALIZED VIEW {name}");
            if !inner {
                out += &format!(" INTO {}.{}", quote(&target.database), quote(&target.name));
            }
            out += &format!(" AS {select}");
            out += &settings_text(settings);
            if !relation.comment.is_empty() {
                out += &format!("\nCOMMENT {}", literal(&relation.comment));
            }
            return out;
        }
        RelationKind::View { select, .. } => {
            let mut out = format!("CREATE VIEW {name} AS {select}");
            if !relation.comment.is_empty() {
                out += &format!("\nCOMMENT {}", literal(&relation.comment));
            }
            return out;
        }
        RelationKind::Stream { .. } => format!("CREATE STREAM {name}\n(\n"),
        RelationKind::External { .. } => format!("CREATE EXTERNAL STREAM {name}\n(\n"),
        RelationKind::Random { .. } => format!("CREATE RANDOM STREAM {name}\n(\n"),
    };
    let named = |c: &&ColumnDef| match relation.kind {
        RelationKind::External { time_in_payload: false, .. } => c.name != TIME_COLUMN,
        _ => true,
    };
    let mut lines: Vec<String> =
        relation.columns.iter().filter(named).map(|c| column_text(c, spelling)).collect();
    if let RelationKind::Stream { indexes, .. } = &relation.kind {
        lines.extend(
            indexes
                .iter()
                .map(|i| format!("  INDEX {} {} TYPE {}", quote(&i.name), i.expression, i.type_text)),
        );
    }
    out += &lines.join(",\n");
    out += "\n)";
    let shown;
    let settings = match &relation.kind {
        RelationKind::Stream { order_by, partition_by, primary_key, ttl, settings, .. } => {
            let clauses = [
                ("PARTITION BY", partition_by),
                ("PRIMARY KEY", primary_key),
                ("ORDER BY", order_by),
                ("TTL", ttl),
            ];
            for (clause, text) in clauses {
                if let Some(text) = text {
                    out += &format!("\n{clause} {}", parenthesised(text));
                }
            }
            shown = externals.shown_of_stream(settings);
            &shown
        }
        RelationKind::Random { settings } => settings,
        RelationKind::External { settings, .. } => {
            shown = externals.shown(settings);
            &shown
        }
        RelationKind::MaterializedView { .. } | RelationKind::View { .. } => unreachable!("returned above"),
    };
    out += &settings_text(settings);
    if !relation.comment.is_empty() {
        out += &format!("\nCOMMENT {}", literal(&relation.comment));
    }
    out
}

pub(super) fn settings_text(settings: &BTreeMap<String, String>) -> String {
    if settings.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = settings
        .iter()
        .map(|(k, v)| match v.parse::<i64>() {
            Ok(n) if n.to_string() == *v => format!("{k} = {v}"),
            _ => format!("{k} = {}", literal(v)),
        })
        .collect();
    format!("\nSETTINGS {}", pairs.join(", "))
}

/// A list of keys has to stand in parentheses, whatever way it was written.
fn parenthesised(text: &str) -> String {
    match crate::expr::split_list(text) {
        Ok(items) if items.len() > 1 && !text.trim_start().starts_with('(') => format!("({text})"),
        _ => text.to_owned(),
    }
}

fn column_text(c: &ColumnDef, spelling: Spelling) -> String {
    let described = described_column(c, spelling);
    let mut line = format!("  {} {}", quote(&c.name), described.type_name);
    if let Some(default) = &c.default {
        line += &format!(" {} {}", described.default_type, default.expression);
    }
    if !c.comment.is_empty() {
        line += &format!(" COMMENT {}", literal(&c.comment));
    }
    if let Some(codec) = &c.codec {
        line += &format!(" CODEC({codec})");
    }
    line
}

/// For `expect`s elsewhere: a relation that can be inserted into.
///
/// # Errors
/// `BadArguments` (36) for what keeps no rows, `AccessDenied` (497) for system tables.
pub(crate) fn expect_insertable(relation: &Relation) -> Result<()> {
    match relation.kind {
        RelationKind::Stream { .. } | RelationKind::External { .. } => Ok(()),
        RelationKind::Random { .. } => {
            Err(err!(BadArguments, "{} makes up its rows; nothing can be inserted", relation.full_name()))
        }
        RelationKind::MaterializedView { .. } | RelationKind::View { .. } => {
            Err(err!(BadArguments, "{} is a view; insert into the streams it reads", relation.full_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_sql_like() {
        let cases = [
            ("%", "", true),
            ("a%", "abc", true),
            ("a%", "ba", false),
            ("%b%", "abc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("a\\_c", "a_c", true),
            ("a\\_c", "abc", false),
            ("%a%b%", "xxaxxbxx", true),
            ("", "a", false),
            ("é_", "éa", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(like_matches(pattern, text), expected, "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn names_are_quoted_where_they_must() {
        assert_eq!(quote("a_1"), "a_1");
        assert_eq!(quote("1a"), "`1a`");
        assert_eq!(quote("a`b"), "`a\\`b`");
    }
}
