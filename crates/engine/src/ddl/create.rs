//! CREATE DATABASE, STREAM and VIEW.

use super::external;
use super::show::is_view;
use crate::engine::{Shared, Statement};
use crate::externals::is_surrounding;
use crate::outcome::Done;
use crate::random;
use crate::streams::{NOW, Prepared, alias_columns, column_type, stored_schema};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use std::sync::Arc;
use uuid::Uuid;
use weir_base::{Code, Error, Result, err};
use weir_catalog::{
    CatalogError, ColumnDef, ColumnDefault, DefaultKind, Dependents, Event, IndexDef, Relation, RelationKind,
    RelationName,
};
use weir_format::types::Type;
use weir_plan::WEIGHT_COLUMN;
use weir_sql::ast::{ColumnSpec, CreateStream, DefaultWord, Name, Settings, StreamKind};
use weir_storage::TIME_COLUMN;

pub(crate) async fn create_database(
    cx: &Statement,
    name: String,
    if_not_exists: bool,
    comment: String,
) -> Result<Done> {
    check_name("database", &name)?;
    let event = Event::CreateDatabase { name, comment };
    match cx.shared.apply(event, Dependents::Refuse).await {
        Err(CatalogError::DatabaseExists { .. }) if if_not_exists => {}
        other => {
            other?;
        }
    }
    Ok(cx.done())
}

pub(crate) async fn create_stream(cx: &Statement, create: CreateStream, settings: Settings) -> Result<Done> {
    let name = cx.full_name(&create.name);
    check_name("stream", &name.name)?;
    let snapshot = cx.shared.catalog.snapshot();
    snapshot.expect_database(&name.database)?;
    if let Some(existing) = snapshot.relation(&name.database, &name.name) {
        if create.if_not_exists {
            return Ok(cx.done());
        }
        if !create.or_replace {
            return Err(CatalogError::RelationExists { name }.into());
        }
        if is_view(&existing.kind) {
            return Err(err!(StreamAlreadyExists, "{name} is a view; drop it with DROP VIEW {name}"));
        }
    }
    match create.kind {
        StreamKind::Stream | StreamKind::Random | StreamKind::External => {}
        StreamKind::Mutable => {
            return Err(err!(
                NotImplemented,
                "CREATE MUTABLE STREAM is not supported yet: keyed streams come in a later version; \
                 use CREATE STREAM and changelog(stream, key)"
            ));
        }
    }
    let if_not_exists = create.if_not_exists;
    let replaced = snapshot.relation(&name.database, &name.name).map(|r| r.id);
    let as_select = create.as_select.clone();
    let relation = match create.kind {
        StreamKind::External => external::define(cx, &name, create, settings).await?,
        _ => define(cx, &name, create, settings).await?,
    };
    let id = relation.id;
    let made = make(&cx.shared, relation, replaced.is_some()).await;
    match made {
        Err(CreateError::Catalog(CatalogError::RelationExists { .. })) if if_not_exists => {
            return Ok(cx.done());
        }
        Err(e) => return Err(e.into()),
        Ok(()) => {}
    }
    if let Some(old) = replaced {
        cx.shared.externals.forget(old);
        cx.shared.forget(old);
    }
    match as_select {
        None => Ok(cx.done()),
        Some(query) => match cx.fill(&name, *query).await {
            Ok(done) => Ok(done),
            // The statement failed, so what it made goes again.
            Err(e) => {
                let event = Event::DropRelation { name };
                if cx.shared.apply(event, Dependents::Ignore).await.is_ok() {
                    cx.shared.forget(id);
                }
                Err(e)
            }
        },
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<CreateError> for Error {
    fn from(e: CreateError) -> Error {
        match e {
            CreateError::Catalog(e) => e.into(),
            CreateError::Other(e) => e,
        }
    }
}

/// Files first, the event second, in a task of its own: a client that goes away does not leave
/// one without the other.
async fn make(shared: &Arc<Shared>, relation: Relation, replace: bool) -> Result<(), CreateError> {
    let task_shared = shared.clone();
    let task = shared.config.compute.spawn(async move {
        let (shared, id, stored) = (task_shared, relation.id, relation.is_stored());
        if stored {
            let prepared = Prepared::new(&relation, &shared.compiler())?;
            let maker = shared.clone();
            tokio::task::spawn_blocking(move || maker.streams.create(id, prepared))
                .await
                .map_err(|e| err!(LogicalError, "creating files ended without an answer: {e}"))??;
        }
        let dependents = if replace { Dependents::Ignore } else { Dependents::Refuse };
        let event = Event::CreateRelation { relation, replace };
        if let Err(e) = shared.apply(event, dependents).await {
            if stored {
                shared.forget(id);
            }
            return Err(CreateError::Catalog(e));
        }
        Ok(())
    });
    task.await.map_err(|e| err!(LogicalError, "the creation ended without an answer: {e}"))?
}

/// The relation a CREATE STREAM describes, all checked.
async fn define(
    cx: &Statement,
    name: &RelationName,
    create: CreateStream,
    settings: Settings,
) -> Result<Relation> {
    let mut settings = settings;
    let mut columns = Vec::new();
    let (mut order_by, mut partition_by) = (create.order_by, create.partition_by);
    let (mut primary_key, mut ttl) = (create.primary_key, create.ttl);
    let mut indexes: Vec<IndexDef> = create
        .indexes
        .into_iter()
        .map(|(name, expression, type_text)| IndexDef { name, expression, type_text })
        .collect();
    let mut comment = create.comment;
    if let Some(like) = &create.like {
        let like = cx.full_name(like);
        let model = cx.shared.catalog.snapshot();
        let model = model.expect_relation(&like.database, &like.name)?;
        columns.clone_from(&model.columns);
        match &model.kind {
            RelationKind::Stream {
                order_by: o,
                partition_by: p,
                primary_key: k,
                ttl: t,
                indexes: i,
                settings: s,
            } => {
                order_by = order_by.or_else(|| o.clone());
                partition_by = partition_by.or_else(|| p.clone());
                primary_key = primary_key.or_else(|| k.clone());
                ttl = ttl.or_else(|| t.clone());
                indexes.extend(i.iter().cloned());
                for (name, value) in s {
                    settings.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            RelationKind::External { .. } | RelationKind::Random { .. } => {}
            RelationKind::MaterializedView { .. } | RelationKind::View { .. } => {
                for c in &mut columns {
                    c.default = None;
                }
            }
        }
        if comment.is_empty() {
            comment.clone_from(&model.comment);
        }
    }
    if let Some(query) = &create.as_select
        && create.columns.is_empty()
    {
        let bound = cx.bind(query, true)?;
        for field in bound.plan.schema().fields() {
            columns.push(column_of_field(field)?);
        }
    }
    for spec in create.columns {
        columns.push(column(cx, spec, &columns)?);
    }
    if columns.is_empty() {
        return Err(err!(
            IncorrectQuery,
            "stream {name} has no columns; write CREATE STREAM {} (a int32)",
            name.name
        ));
    }
    let changelog = settings.get("mode").is_some_and(|m| m.eq_ignore_ascii_case("changelog"));
    complete_columns(name, &mut columns, changelog, false)?;
    let kind = match create.kind {
        StreamKind::Random => {
            for (clause, given) in [("ORDER BY", &order_by), ("PARTITION BY", &partition_by), ("TTL", &ttl)] {
                if given.is_some() {
                    return Err(err!(IncorrectQuery, "a RANDOM stream keeps no rows and has no {clause}"));
                }
            }
            RelationKind::Random { settings }
        }
        _ => RelationKind::Stream { order_by, partition_by, primary_key, ttl, indexes, settings },
    };
    let mut relation = Relation {
        id: cx.shared.new_id(),
        database: name.database.clone(),
        name: name.name.clone(),
        kind,
        columns,
        comment,
        created_ms: cx.shared.world.clock.now_ms(),
    };
    // A name that stays, whatever becomes of the stream's.
    if let RelationKind::Stream { settings, .. } = &mut relation.kind
        && settings.get("logstore").is_some_and(|kept| kept.eq_ignore_ascii_case("kafka"))
        && !cx.shared.externals.effective(settings)?.contains_key("topic")
    {
        settings.insert("topic".into(), format!("{}.{}", name.database, name.name));
    }
    check(cx, &relation)?;
    make_log(cx, &mut relation).await?;
    Ok(relation)
}

/// Makes the topic that is to be a stream's log, if it is not there, and gives the stream as many shards as it has
/// partitions.
async fn make_log(cx: &Statement, relation: &mut Relation) -> Result<()> {
    let prepared = match &relation.kind {
        RelationKind::Stream { .. } => Prepared::new(relation, &cx.shared.compiler())?,
        _ => return Ok(()),
    };
    let Some(log) = prepared.log() else { return Ok(()) };
    let (name, asked) = (relation.full_name(), log.topic.partitions);
    let stream = cx.shared.externals.log_stream(&name, &log.settings, &prepared.schema)?;
    let there = stream.make_log(log.topic).await.map_err(Error::from)?;
    if asked.is_some_and(|asked| asked != there) {
        return Err(err!(
            BadArguments,
            "shards is {} and {stream:?} has {there} partitions: leave shards out, or name another topic",
            asked.unwrap_or(0)
        ));
    }
    if let RelationKind::Stream { settings, .. } = &mut relation.kind {
        settings.insert("shards".into(), there.to_string());
    }
    check(cx, relation)
}

/// Everything a stream's definition can be refused for, before anything is made.
pub(super) fn check(cx: &Statement, relation: &Relation) -> Result<()> {
    let compiler = cx.shared.compiler();
    match &relation.kind {
        RelationKind::Stream { order_by, primary_key, .. } => {
            if let Some(key) = primary_key {
                let key = crate::expr::split_list(key)?;
                let order = crate::expr::split_list(order_by.as_deref().unwrap_or(""))?;
                if order_by.is_some() && !order.starts_with(&key) {
                    return Err(err!(BadArguments, "PRIMARY KEY has to be the first columns of ORDER BY"));
                }
            }
            let prepared = Prepared::new(relation, &compiler)?;
            if let Some(log) = prepared.log() {
                cx.shared.externals.log_stream(&relation.full_name(), &log.settings, &prepared.schema)?;
            }
            Ok(())
        }
        RelationKind::Random { settings } => {
            random::Pace::parse(settings)?;
            let (schema, _, order) = stored_schema(relation)?;
            alias_columns(relation, &schema, &compiler)?;
            random::defaults(relation, &order, &schema, &compiler).map(drop)
        }
        RelationKind::External { .. } => cx.shared.externals.prepare(relation, &compiler).map(drop),
        RelationKind::MaterializedView { .. } | RelationKind::View { .. } => Ok(()),
    }
}

pub(super) fn column_of_field(field: &Field) -> Result<ColumnDef> {
    let t = Type::of_field(field).ok_or_else(|| {
        err!(UnknownType, "column {} of type {} fits no type of Weir", field.name(), field.data_type())
    })?;
    Ok(ColumnDef {
        name: field.name().clone(),
        type_name: t.to_string(),
        default: None,
        comment: String::new(),
        codec: None,
    })
}

pub(super) fn column(cx: &Statement, spec: ColumnSpec, before: &[ColumnDef]) -> Result<ColumnDef> {
    if spec.ttl.is_some() {
        return Err(err!(NotImplemented, "column {}: a TTL of one column is not supported yet", spec.name));
    }
    let default = spec.default.map(|(word, expression)| ColumnDefault {
        kind: match word {
            DefaultWord::Default => DefaultKind::Default,
            DefaultWord::Materialized => DefaultKind::Materialized,
            DefaultWord::Alias => DefaultKind::Alias,
        },
        expression,
    });
    let column_type = match (&spec.type_text, &default) {
        (Some(text), _) => Type::parse(text)
            .map_err(|e| Error::new(Code::UnknownType, format!("column {}: {e}", spec.name)))?,
        (None, Some(d)) => {
            let fields = before
                .iter()
                .map(|c| Ok(column_type(&c.type_name)?.field(&c.name)))
                .collect::<Result<Vec<_>>>()?;
            cx.shared.compiler().compile(&d.expression, &Arc::new(Schema::new(fields)))?.value_type
        }
        (None, None) => {
            return Err(err!(
                Syntax,
                "column {} has neither a type nor a default to take it from",
                spec.name
            ));
        }
    };
    let column_type = if spec.nullable { column_type.into_nullable() } else { column_type };
    Ok(ColumnDef {
        name: spec.name,
        type_name: column_type.to_string(),
        default,
        comment: spec.comment,
        codec: spec.codec,
    })
}

/// Names are free and unique, and `_tp_time` is there; in a changelog `_tp_delta` before it.
pub(super) fn complete_columns(
    stream: &RelationName,
    columns: &mut Vec<ColumnDef>,
    changelog: bool,
    external: bool,
) -> Result<()> {
    for (i, c) in columns.iter().enumerate() {
        if c.name == WEIGHT_COLUMN && !changelog {
            return Err(err!(
                BadArguments,
                "column name {WEIGHT_COLUMN} is reserved for the weight of rows; create {stream} with SETTINGS mode='changelog'"
            ));
        }
        let of_messages = external && is_surrounding(&c.name);
        if c.name.starts_with("_tp_") && c.name != TIME_COLUMN && c.name != WEIGHT_COLUMN && !of_messages {
            return Err(err!(
                BadArguments,
                "column name {} is reserved; only {TIME_COLUMN} can be declared",
                c.name
            ));
        }
        if columns[..i].iter().any(|other| other.name == c.name) {
            return Err(err!(BadArguments, "stream {stream} has two columns named {}", c.name));
        }
    }
    if changelog {
        let one = ColumnDefault { kind: DefaultKind::Default, expression: "1".into() };
        match columns.iter_mut().find(|c| c.name == WEIGHT_COLUMN) {
            Some(weight) => {
                let declared = column_type(&weight.type_name)?;
                let kept = weight.default.as_ref().is_none_or(|d| d.kind == DefaultKind::Default);
                if declared != Type::Int8 || !kept {
                    return Err(err!(BadArguments, "{WEIGHT_COLUMN} is the weight of a row, a stored int8"));
                }
                weight.default.get_or_insert(one);
            }
            None => {
                let weight = ColumnDef {
                    name: WEIGHT_COLUMN.into(),
                    type_name: Type::Int8.to_string(),
                    default: Some(one),
                    comment: String::new(),
                    codec: None,
                };
                let time = columns.iter().position(|c| c.name == TIME_COLUMN).unwrap_or(columns.len());
                columns.insert(time, weight);
            }
        }
    }
    let now = || ColumnDefault { kind: DefaultKind::Default, expression: NOW.into() };
    match columns.iter_mut().find(|c| c.name == TIME_COLUMN) {
        Some(time) => {
            if time.default.as_ref().is_some_and(|d| d.kind == DefaultKind::Alias) {
                return Err(err!(BadArguments, "{TIME_COLUMN} is kept with each row and can not be ALIAS"));
            }
            let declared = column_type(&time.type_name)?;
            let utc_ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
            if declared.is_nullable() || declared.storage() != utc_ms {
                return Err(err!(
                    IllegalTypeOfArgument,
                    "{TIME_COLUMN} has to be datetime64(3, 'UTC'), not {declared}"
                ));
            }
            time.default.get_or_insert_with(now);
        }
        None => columns.push(ColumnDef {
            name: TIME_COLUMN.into(),
            type_name: "datetime64(3, 'UTC')".into(),
            default: Some(now()),
            comment: String::new(),
            codec: Some("DoubleDelta, LZ4".into()),
        }),
    }
    Ok(())
}

pub(crate) async fn create_view(
    cx: &Statement,
    name: &Name,
    if_not_exists: bool,
    or_replace: bool,
    select: String,
    comment: String,
) -> Result<Done> {
    let name = cx.full_name(name);
    check_name("view", &name.name)?;
    let snapshot = cx.shared.catalog.snapshot();
    snapshot.expect_database(&name.database)?;
    if let Some(existing) = snapshot.relation(&name.database, &name.name) {
        if if_not_exists {
            return Ok(cx.done());
        }
        if !or_replace {
            return Err(CatalogError::RelationExists { name }.into());
        }
        if !matches!(existing.kind, RelationKind::View { .. }) {
            let what = if is_view(&existing.kind) { "VIEW" } else { "STREAM" };
            return Err(err!(StreamAlreadyExists, "{name} keeps rows; drop it with DROP {what} {name}"));
        }
    }
    let (bound, used) = cx.bind_select(&select)?;
    if used.contains(&name) {
        return Err(err!(BadArguments, "view {name} would read itself"));
    }
    let columns = bound.plan.schema().fields().iter().map(|f| column_of_field(f)).collect::<Result<_>>()?;
    let relation = Relation {
        id: cx.shared.new_id(),
        database: name.database.clone(),
        name: name.name.clone(),
        kind: RelationKind::View {
            select,
            resolve_in: cx.session_database().to_owned(),
            depends_on: used.into_iter().collect(),
        },
        columns,
        comment,
        created_ms: cx.shared.world.clock.now_ms(),
    };
    match make(&cx.shared, relation, or_replace).await {
        Err(CreateError::Catalog(CatalogError::RelationExists { .. })) if if_not_exists => Ok(cx.done()),
        other => {
            other?;
            Ok(cx.done())
        }
    }
}

const NAME_BYTES_MAX: usize = 200;

pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(['\0', '/']) {
        return Err(err!(
            BadArguments,
            "a {what} can not be called '{name}'; names have 1 to {NAME_BYTES_MAX} bytes and no slash"
        ));
    }
    Ok(())
}

/// A fresh id out of the world's randomness.
pub(crate) fn new_id(rng: &weir_base::Rng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
