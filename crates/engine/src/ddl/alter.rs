//! ALTER STREAM, DROP, TRUNCATE and RENAME.

use super::create::check_name;
use super::show::is_view;
use super::{jobs, views};
use crate::engine::Statement;
use crate::outcome::Done;
use crate::settings::stream::{STREAM_SETTINGS, StreamSettings};
use weir_base::error::did_you_mean;
use weir_base::{Error, Result, err};
use weir_catalog::{CatalogError, Dependents, Event, Relation, RelationKind, Snapshot};
use weir_sql::ast::{Name, ObjectKind, Settings};
use weir_storage::StreamOptions;

pub(super) fn dependents(cx: &Statement) -> Dependents {
    if cx.settings.check_dependents { Dependents::Refuse } else { Dependents::Ignore }
}

pub(crate) async fn drop_database(
    cx: &Statement,
    name: String,
    if_exists: bool,
    cascade: bool,
) -> Result<Done> {
    let snapshot = cx.shared.catalog.snapshot();
    let Some(database) = snapshot.databases.get(&name) else {
        if if_exists {
            return Ok(cx.done());
        }
        return Err(snapshot.expect_database(&name).map(drop).unwrap_err().into());
    };
    if name == weir_catalog::DEFAULT_DATABASE {
        return Err(err!(AccessDenied, "database default is built in and cannot be dropped"));
    }
    let mut relations: Vec<_> = database.relations.values().cloned().collect();
    let all_jobs: Vec<_> = database.jobs.values().cloned().collect();
    if cascade && cx.settings.check_dependents {
        for r in &relations {
            let used_by: Vec<_> =
                snapshot.dependents(&r.full_name()).into_iter().filter(|d| d.database != name).collect();
            if !used_by.is_empty() {
                return Err(CatalogError::HasDependents { name: r.full_name(), used_by }.into());
            }
        }
    }
    let check = if cascade { Dependents::Ignore } else { Dependents::Refuse };
    // What was created meanwhile goes with it; its files are removed at the next start.
    cx.shared.apply(Event::DropDatabase { name }, check).await?;
    // What reads and fills the rest first.
    for job in all_jobs {
        jobs::end(&cx.shared, &job).await;
    }
    relations.sort_by_key(|r| r.is_stored());
    for relation in relations {
        match relation.kind {
            RelationKind::MaterializedView { .. } => {
                if let Err(e) = cx.shared.views.dropped(&cx.shared.queries, relation.id).await {
                    tracing::debug!(view = %relation.full_name(), error = %e, "a dropped view had ended before");
                }
            }
            RelationKind::Stream { .. } => cx.shared.forget(relation.id),
            RelationKind::External { .. } => cx.shared.externals.forget(relation.id),
            RelationKind::Random { .. } | RelationKind::View { .. } => {}
        }
    }
    Ok(cx.done())
}

pub(crate) async fn drop_relation(
    cx: &Statement,
    object: ObjectKind,
    name: &Name,
    if_exists: bool,
) -> Result<Done> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let relation = match snapshot.expect_relation(&name.database, &name.name) {
        Ok(relation) => relation,
        Err(_) if if_exists => return Ok(cx.done()),
        Err(e) => return Err(e.into()),
    };
    if let RelationKind::MaterializedView { target, inner, .. } = &relation.kind {
        let target = inner.then(|| snapshot.expect_relation(&target.database, &target.name)).transpose()?;
        return views::drop_view(cx, relation.full_name(), relation.id, target.map(|t| t.id)).await;
    }
    if object == ObjectKind::View && !is_view(&relation.kind) {
        return Err(err!(UnknownStream, "{name} is a stream, not a view; use DROP STREAM {name}"));
    }
    let id = relation.is_stored().then_some(relation.id);
    match cx.shared.apply(Event::DropRelation { name }, dependents(cx)).await {
        Err(CatalogError::UnknownRelation { .. }) if if_exists => {}
        other => {
            other?;
            cx.shared.externals.forget(relation.id);
            if let Some(id) = id {
                cx.shared.forget(id);
            }
        }
    }
    Ok(cx.done())
}

pub(crate) async fn truncate(cx: &Statement, name: &Name, if_exists: bool) -> Result<Done> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let relation = match snapshot.expect_relation(&name.database, &name.name) {
        Ok(relation) => relation,
        Err(_) if if_exists => return Ok(cx.done()),
        Err(e) => return Err(e.into()),
    };
    if let RelationKind::MaterializedView { target, .. } = &relation.kind {
        return Err(err!(
            BadArguments,
            "{name} is a view: its rows are in {target} and its state would not know; drop it and create it again"
        ));
    }
    if !relation.is_stored() {
        return Err(err!(BadArguments, "{name} keeps no rows and can not be truncated"));
    }
    let open = cx.shared.streams.get(relation)?;
    open.store.truncate().await.map_err(Error::from)?;
    cx.shared.apply(Event::Truncated { name }, Dependents::Ignore).await?;
    Ok(cx.done())
}

/// Settings of a stream that take effect while it is there.
const CHANGEABLE: &[&str] = &[
    "flush_threshold_bytes",
    "flush_threshold_count",
    "flush_threshold_ms",
    "logstore_codec",
    "logstore_on_error",
    "logstore_retention_bytes",
    "logstore_retention_ms",
    "part_codec",
    "tail_ring_bytes_max",
    "uncommitted_bytes_max",
];

pub(crate) async fn alter_stream(cx: &Statement, name: &Name, new: Settings) -> Result<Done> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let mut changed = Relation::clone(snapshot.expect_relation(&name.database, &name.name)?);
    let RelationKind::Stream { settings, .. } = &mut changed.kind else {
        return Err(err!(
            BadArguments,
            "{name} is no stream that keeps rows here; of a view it is ALTER VIEW {name} MODIFY QUERY SETTING"
        ));
    };
    for key in new.keys() {
        if !CHANGEABLE.contains(&key.as_str()) {
            let known = STREAM_SETTINGS.iter().any(|s| s.name == key);
            let hint = if known { String::new() } else { did_you_mean(key, CHANGEABLE.iter().copied()) };
            return Err(err!(
                NotImplemented,
                "setting {key} of stream {name} can not be changed{hint}; these can: {}",
                CHANGEABLE.join(", ")
            ));
        }
    }
    settings.extend(new);
    let parsed = StreamSettings::parse(settings)?;
    let open = cx.shared.streams.get(&changed)?;
    let (id, of) = (changed.id, name.clone());
    let still_there = move |now: &Snapshot| match now.relation(&of.database, &of.name) {
        Some(r) if r.id == id => Ok(()),
        _ => Err(CatalogError::UnknownRelation { name: of, hint: String::new() }),
    };
    let event = Event::CreateRelation { relation: changed, replace: true };
    cx.shared.apply_checked(event, Dependents::Ignore, still_there).await?;
    // What an index asked for stays.
    let bloom_filter_columns = open.store.options().bloom_filter_columns;
    open.store.set_options(StreamOptions { bloom_filter_columns, ..parsed.options });
    if let (Some(log), Some(said)) = (&open.log, &parsed.log) {
        log.set_skip(said.skip);
    }
    Ok(cx.done())
}

pub(crate) async fn rename(cx: &Statement, pairs: &[(Name, Name)]) -> Result<Done> {
    let mut full = Vec::with_capacity(pairs.len());
    for (from, to) in pairs {
        let from = cx.full_name(from);
        check_name("stream", &to.name)?;
        // A bare new name stays in the old one's database.
        let database = to.database.clone().unwrap_or_else(|| from.database.clone());
        full.push((from, weir_catalog::RelationName::new(database, &to.name)));
    }
    let after = cx.shared.apply(Event::Rename { pairs: full.clone() }, dependents(cx)).await?;
    for relation in full.iter().filter_map(|(_, to)| after.relation(&to.database, &to.name)) {
        if matches!(relation.kind, RelationKind::MaterializedView { .. }) {
            cx.shared.views.changed(relation)?;
        }
    }
    Ok(cx.done())
}
