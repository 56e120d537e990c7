//! CREATE MATERIALIZED VIEW, ALTER VIEW, what drops one, and SYSTEM … VIEW.
//!
//! Not here: how a view runs (`view`), the rules of what depends on what (`weir_catalog`).

use super::create::{CreateError, check, check_name, column_of_field, complete_columns};
use crate::engine::{Shared, Statement};
use crate::outcome::Done;
use crate::settings::{check_all, known};
use crate::streams::Prepared;
use crate::view::{Steer, ViewSpec, bind};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;
use weir_base::{Error, Result, err};
use weir_catalog::{CatalogError, ColumnDef, Dependents, Event, Relation, RelationKind, RelationName};
use weir_plan::WEIGHT_COLUMN;
use weir_sql::ast::{CreateMaterializedView, Name, ViewChange, ViewVerb};

const INNER: &str = ".inner.target-id.";

/// Whether a stream was made for a view.
pub(super) fn is_internal(name: &str) -> bool {
    name.starts_with(INNER)
}

pub(crate) async fn create_materialized_view(cx: &Statement, create: CreateMaterializedView) -> Result<Done> {
    let name = cx.full_name(&create.name);
    check_name("view", &name.name)?;
    let snapshot = cx.shared.catalog.snapshot();
    snapshot.expect_database(&name.database)?;
    if snapshot.relation(&name.database, &name.name).is_some() {
        if create.if_not_exists {
            return Ok(cx.done());
        }
        return Err(CatalogError::RelationExists { name }.into());
    }
    check_all(&create.settings)?;
    let id = cx.shared.new_id();
    let inner = create.into.is_none();
    let target = match &create.into {
        Some(into) => cx.full_name(into),
        None => RelationName::new(&name.database, format!("{INNER}{id}")),
    };
    let mut view = Relation {
        id,
        database: name.database.clone(),
        name: name.name.clone(),
        kind: RelationKind::MaterializedView {
            select: create.select,
            resolve_in: cx.session_database().to_owned(),
            depends_on: Vec::new(),
            target: target.clone(),
            inner,
            settings: create.settings,
            paused: false,
        },
        columns: Vec::new(),
        comment: create.comment,
        created_ms: cx.shared.world.clock.now_ms(),
    };
    let spec = ViewSpec::of(&view).expect("it was made as one");
    let bound = bind(&cx.shared, &spec)?;
    let made = if inner {
        let columns = bound.columns().map(|f| column_of_field(&f)).collect::<Result<Vec<_>>>()?;
        Some(inner_stream(cx, &target, columns)?)
    } else {
        cx.shared.views.check(&cx.shared, &spec)?;
        None
    };
    let rows_of = match &made {
        Some(made) => made.columns.clone(),
        None => snapshot.expect_relation(&target.database, &target.name)?.columns.clone(),
    };
    view.columns = rows_of.into_iter().map(|c| ColumnDef { default: None, ..c }).collect();
    depend_on(&mut view, bound.used());
    drop(bound);
    let shared = cx.shared.clone();
    // A client that goes away leaves a whole view, or none.
    let task = cx.shared.config.compute.spawn(make(shared, view, made));
    match task.await.map_err(|e| err!(LogicalError, "the creation ended without an answer: {e}"))? {
        Err(CreateError::Catalog(CatalogError::RelationExists { .. })) if create.if_not_exists => {}
        other => other?,
    }
    Ok(cx.done())
}

fn depend_on(view: &mut Relation, used: Vec<RelationName>) {
    if let RelationKind::MaterializedView { depends_on, .. } = &mut view.kind {
        *depends_on = used;
    }
}

/// The stream for the rows of a view that names none.
fn inner_stream(cx: &Statement, name: &RelationName, mut columns: Vec<ColumnDef>) -> Result<Relation> {
    let changelog = columns.iter().any(|c| c.name == WEIGHT_COLUMN);
    complete_columns(name, &mut columns, changelog, false)?;
    let mode = changelog.then(|| ("mode".to_owned(), "changelog".to_owned()));
    let relation = Relation {
        id: cx.shared.new_id(),
        database: name.database.clone(),
        name: name.name.clone(),
        kind: RelationKind::Stream {
            order_by: None,
            partition_by: None,
            primary_key: None,
            ttl: None,
            indexes: Vec::new(),
            settings: mode.into_iter().collect(),
        },
        columns,
        comment: String::new(),
        created_ms: cx.shared.world.clock.now_ms(),
    };
    check(cx, &relation)?;
    Ok(relation)
}

/// Files of the target first, then one event for both, then the view begins. One that cannot begin goes
/// again.
async fn make(shared: Arc<Shared>, view: Relation, target: Option<Relation>) -> Result<(), CreateError> {
    let made = target.as_ref().map(|t| t.id);
    if let Some(target) = &target {
        let prepared = Prepared::new(target, &shared.compiler())?;
        let (maker, id) = (shared.clone(), target.id);
        tokio::task::spawn_blocking(move || maker.streams.create(id, prepared))
            .await
            .map_err(|e| err!(LogicalError, "creating files ended without an answer: {e}"))??;
    }
    let event = match target {
        Some(target) => Event::CreateView { view: view.clone(), target },
        None => Event::CreateRelation { relation: view.clone(), replace: false },
    };
    if let Err(e) = shared.apply(event, Dependents::Refuse).await {
        made.into_iter().for_each(|id| shared.forget(id));
        return Err(CreateError::Catalog(e));
    }
    if let Err(e) = shared.views.created(&shared, &view).await {
        remove(&shared, view.full_name(), view.id, made, Dependents::Ignore).await?;
        return Err(CreateError::Other(e));
    }
    Ok(())
}

/// The catalog first: what a stop leaves of a view that no event names goes at the next start.
async fn remove(
    shared: &Arc<Shared>,
    name: RelationName,
    id: Uuid,
    target: Option<Uuid>,
    dependents: Dependents,
) -> Result<(), CatalogError> {
    shared.apply(Event::DropRelation { name }, dependents).await?;
    if let Err(e) = shared.views.dropped(&shared.queries, id).await {
        tracing::debug!(%id, error = %e, "a dropped view had ended before");
    }
    target.into_iter().for_each(|id| shared.forget(id));
    Ok(())
}

pub(super) async fn drop_view(
    cx: &Statement,
    name: RelationName,
    id: Uuid,
    target: Option<Uuid>,
) -> Result<Done> {
    let (shared, dependents) = (cx.shared.clone(), super::alter::dependents(cx));
    let task =
        cx.shared.config.compute.spawn(async move { remove(&shared, name, id, target, dependents).await });
    task.await.map_err(|e| err!(LogicalError, "the removal ended without an answer: {e}"))??;
    Ok(cx.done())
}

fn view_of(cx: &Statement, name: &Name) -> Result<Arc<Relation>> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&name.database, &name.name)?;
    match &relation.kind {
        RelationKind::MaterializedView { .. } => Ok(relation.clone()),
        RelationKind::View { .. } => Err(err!(
            BadArguments,
            "{name} is a view that keeps nothing; change it with CREATE OR REPLACE VIEW {name} AS …"
        )),
        RelationKind::Stream { .. } | RelationKind::External { .. } | RelationKind::Random { .. } => {
            Err(err!(BadArguments, "{name} is a stream, not a materialized view"))
        }
    }
}

pub(crate) async fn steer_view(cx: &Statement, verb: ViewVerb, name: &Name) -> Result<Done> {
    let view = view_of(cx, name)?;
    let what = steer_of(cx, verb)?;
    let shared = cx.shared.clone();
    // A client that goes away leaves it as it asked for.
    let task = cx.shared.config.compute.spawn(async move {
        if stands_still(what) == Some(false) {
            keep_still(&shared, &view, false).await?;
        }
        shared.views.steer(&shared.queries, view.id, what).await?;
        if stands_still(what) == Some(true) {
            keep_still(&shared, &view, true).await?;
        }
        Ok::<_, Error>(())
    });
    task.await.map_err(|e| err!(LogicalError, "the change ended without an answer: {e}"))??;
    Ok(cx.done())
}

/// Whether it stands still from then on, through restarts as well; `None` = as before.
pub(super) fn stands_still(what: Steer) -> Option<bool> {
    match what {
        Steer::Pause => Some(true),
        Steer::Resume | Steer::Recover => Some(false),
        Steer::Drop | Steer::Checkpoint | Steer::Sync | Steer::Drain => None,
    }
}

async fn keep_still(shared: &Arc<Shared>, view: &Relation, still: bool) -> Result<()> {
    let now = shared.catalog.snapshot();
    let found = now.relation(&view.database, &view.name).filter(|r| r.id == view.id);
    let Some(mut changed) = found.map(|r| Relation::clone(r)) else { return Ok(()) };
    match &mut changed.kind {
        RelationKind::MaterializedView { paused, .. } if *paused != still => *paused = still,
        _ => return Ok(()),
    }
    put(shared, changed).await
}

/// # Errors
/// Code 36 for what only tests can ask for.
pub(super) fn steer_of(cx: &Statement, verb: ViewVerb) -> Result<Steer> {
    Ok(match verb {
        ViewVerb::Pause => Steer::Pause,
        ViewVerb::Resume => Steer::Resume,
        ViewVerb::Recover => Steer::Recover,
        ViewVerb::Checkpoint => Steer::Checkpoint,
        ViewVerb::Sync => Steer::Sync,
        ViewVerb::Drain if cx.shared.config.test_clock.is_none() => {
            return Err(err!(BadArguments, "SYSTEM DRAIN needs a server started with --test-clock"));
        }
        ViewVerb::Drain => Steer::Drain,
    })
}

pub(crate) async fn alter_view(cx: &Statement, name: &Name, change: ViewChange) -> Result<Done> {
    let view = view_of(cx, name)?;
    let shared = cx.shared.clone();
    // It stands still while it is changed: nobody who goes away leaves it so.
    let task = cx.shared.config.compute.spawn(async move { alter(&shared, &view, change).await });
    task.await.map_err(|e| err!(LogicalError, "the change ended without an answer: {e}"))??;
    Ok(cx.done())
}

async fn alter(shared: &Arc<Shared>, view: &Relation, change: ViewChange) -> Result<()> {
    let mut changed = view.clone();
    let RelationKind::MaterializedView { select, settings, .. } = &mut changed.kind else {
        return Err(err!(LogicalError, "{} is no materialized view", view.full_name()));
    };
    let mut another_query = false;
    match change {
        ViewChange::Comment(text) => {
            changed.comment = text;
            return put(shared, changed).await;
        }
        ViewChange::Settings(new) => set(settings, new)?,
        ViewChange::Reset(names) => {
            for name in names {
                known(&name)?;
                settings.remove(&name);
            }
        }
        ViewChange::Query { select: new, settings: with } => {
            *select = new;
            set(settings, with)?;
            another_query = true;
        }
    }
    let spec = ViewSpec::of(&changed).expect("it was one");
    depend_on(&mut changed, bind(shared, &spec)?.used());
    // Before it stands still: what cannot be is refused while it runs on.
    shared.views.check(shared, &spec)?;
    if another_query {
        fits(shared, &spec).await?;
    }
    let views = &shared.views;
    let active = views.is_active(view.id);
    if active {
        views.steer(&shared.queries, view.id, Steer::Pause).await?;
    }
    let put = put(shared, changed).await;
    if active {
        views.steer(&shared.queries, view.id, Steer::Resume).await?;
    }
    put
}

fn set(settings: &mut BTreeMap<String, String>, new: BTreeMap<String, String>) -> Result<()> {
    check_all(&new)?;
    settings.extend(new);
    Ok(())
}

/// Whether another query can go on with a view's state.
async fn fits(shared: &Arc<Shared>, spec: &ViewSpec) -> Result<()> {
    let name = &spec.name;
    shared.views.fits(shared, spec).await.map_err(|e| {
        err!(
            BadArguments,
            "view {name} can not go on as this query: {}. CREATE MATERIALIZED VIEW with the new query under another \
             name and SETTINGS seek_to='earliest', DROP VIEW {name} once it has caught up, and RENAME it",
            e.message
        )
    })
}

async fn put(shared: &Arc<Shared>, changed: Relation) -> Result<()> {
    let (id, name) = (changed.id, changed.full_name());
    let event = Event::CreateRelation { relation: changed.clone(), replace: true };
    let still_there = move |now: &weir_catalog::Snapshot| match now.relation(&name.database, &name.name) {
        Some(r) if r.id == id => Ok(()),
        _ => Err(CatalogError::UnknownRelation { name, hint: String::new() }),
    };
    shared.apply_checked(event, Dependents::Ignore, still_there).await?;
    shared.views.changed(&changed)
}
