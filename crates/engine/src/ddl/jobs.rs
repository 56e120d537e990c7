//! CREATE TASK, CREATE ALERT, what drops and shows them, and SYSTEM … TASK, SYSTEM … ALERT.
//!
//! Not here: how they run (`view`).

use super::create::check_name;
use super::show::{literal, matches, quote};
use crate::engine::{Shared, Statement};
use crate::outcome::{Done, Outcome};
use crate::settings::check_all;
use crate::system::Columns;
use crate::view::{BATCH_ROWS_MAX, ViewSpec, bind, check_task, forget_task};
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_catalog::{CatalogError, Dependents, Event, Job, JobKind, RelationName};
use weir_sql::ast::{CreateJob, JobObject, JobSpec, Like, Name, ViewVerb};

/// More often is a view's work.
const EVERY_US_MIN: i64 = 100_000;

fn word(object: JobObject) -> &'static str {
    match object {
        JobObject::Task => "task",
        JobObject::Alert => "alert",
    }
}

fn is(object: JobObject, job: &Job) -> bool {
    job.word() == word(object)
}

pub(crate) async fn create_job(cx: &Statement, create: CreateJob) -> Result<Done> {
    let name = cx.full_name(&create.name);
    let object = match create.spec {
        JobSpec::Task { .. } => JobObject::Task,
        JobSpec::Alert { .. } => JobObject::Alert,
    };
    check_name(word(object), &name.name)?;
    let snapshot = cx.shared.catalog.snapshot();
    snapshot.expect_database(&name.database)?;
    let before = snapshot.job(&name).cloned();
    match &before {
        Some(job) if !is(object, job) => {
            return Err(err!(StreamAlreadyExists, "{name} is the name of an {} already", job.word()));
        }
        Some(_) if create.if_not_exists => return Ok(cx.done()),
        Some(_) if !create.or_replace => return Err(CatalogError::RelationExists { name }.into()),
        _ => {}
    }
    check_all(&create.settings)?;
    let kind = kind(cx, create.spec)?;
    let mut job = Job {
        id: cx.shared.new_id(),
        database: name.database.clone(),
        name: name.name.clone(),
        kind,
        select: create.select,
        resolve_in: cx.session_database().to_owned(),
        depends_on: Vec::new(),
        settings: create.settings,
        comment: create.comment,
        created_ms: cx.shared.world.clock.now_ms(),
        paused: false,
    };
    job.depends_on = match ViewSpec::of_alert(&job) {
        Some(spec) => bind(&cx.shared, &spec)?.used(),
        None => check_task(&cx.shared, &job)?,
    };
    let shared = cx.shared.clone();
    // A client that goes away leaves all of it, or nothing.
    let task = cx.shared.config.compute.spawn(make(shared, job, before));
    task.await.map_err(|e| err!(LogicalError, "the creation ended without an answer: {e}"))??;
    Ok(cx.done())
}

fn kind(cx: &Statement, spec: JobSpec) -> Result<JobKind> {
    Ok(match spec {
        JobSpec::Task { every_us, timeout_us, target } => {
            if every_us < EVERY_US_MIN {
                return Err(err!(
                    BadArguments,
                    "SCHEDULE {} us is below the {EVERY_US_MIN} us that tasks can have; use a materialized view for \
                     what is to be there at once",
                    every_us
                ));
            }
            JobKind::Task { every_us, timeout_us, target: cx.full_name(&target) }
        }
        JobSpec::Alert { url, batch_rows, batch_wait_us, limit } => {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return Err(err!(
                    BadArguments,
                    "CALL '{url}' is no URL of a web hook; it begins with https:// or http://"
                ));
            }
            if batch_rows > BATCH_ROWS_MAX {
                return Err(err!(
                    BadArguments,
                    "BATCH {batch_rows} EVENTS are more than the {BATCH_ROWS_MAX} of a call"
                ));
            }
            if cx.shared.config.web_hook.is_none() {
                return Err(err!(NotImplemented, "this server has no way to call a URL; alerts need one"));
            }
            JobKind::Alert { url, batch_rows, batch_wait_us: batch_wait_us.unwrap_or_default(), limit }
        }
    })
}

async fn make(shared: Arc<Shared>, job: Job, before: Option<Arc<Job>>) -> Result<()> {
    // The catalog first: what a stop leaves of the one before is of nobody at the next start.
    let event = Event::CreateJob { job: job.clone(), replace: before.is_some() };
    shared.apply(event, Dependents::Ignore).await?;
    if let Some(before) = before {
        end(&shared, &before).await;
    }
    let Some(spec) = ViewSpec::of_alert(&job) else {
        shared.views.schedule(&shared, Arc::new(job));
        return Ok(());
    };
    if let Err(e) = shared.views.begun(&shared, spec).await {
        shared.apply(Event::DropJob { name: job.full_name() }, Dependents::Ignore).await?;
        end(&shared, &job).await;
        return Err(e);
    }
    Ok(())
}

/// Ends what runs of a task or an alert that no event names any more.
pub(super) async fn end(shared: &Arc<Shared>, job: &Job) {
    match job.kind {
        JobKind::Task { .. } => {
            shared.views.task_dropped(job.id).await;
            forget_task(shared, job).await;
        }
        JobKind::Alert { .. } => {
            if let Err(e) = shared.views.dropped(&shared.queries, job.id).await {
                tracing::debug!(alert = %job.full_name(), error = %e, "a dropped alert had ended before");
            }
        }
    }
}

fn find(cx: &Statement, object: JobObject, name: &Name) -> Result<Arc<Job>> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let job = snapshot.job(&name).filter(|job| is(object, job));
    job.cloned().ok_or_else(|| {
        let all = snapshot.jobs().filter(|j| is(object, j) && j.database == name.database);
        let names: Vec<String> = all.map(|j| j.name.clone()).collect();
        let hint = weir_base::error::did_you_mean(&name.name, names.iter().map(String::as_str));
        err!(UnknownStream, "{} {name} does not exist{hint}", word(object))
    })
}

pub(crate) async fn drop_job(
    cx: &Statement,
    object: JobObject,
    name: &Name,
    if_exists: bool,
) -> Result<Done> {
    let job = match find(cx, object, name) {
        Err(_) if if_exists => return Ok(cx.done()),
        found => found?,
    };
    let shared = cx.shared.clone();
    let task = cx.shared.config.compute.spawn(async move {
        shared.apply(Event::DropJob { name: job.full_name() }, Dependents::Ignore).await?;
        end(&shared, &job).await;
        Ok::<_, CatalogError>(())
    });
    task.await.map_err(|e| err!(LogicalError, "the removal ended without an answer: {e}"))??;
    Ok(cx.done())
}

pub(crate) async fn steer_job(
    cx: &Statement,
    object: JobObject,
    verb: ViewVerb,
    name: &Name,
) -> Result<Done> {
    let job = find(cx, object, name)?;
    let what = super::views::steer_of(cx, verb)?;
    let shared = cx.shared.clone();
    // A client that goes away leaves it as it asked for.
    let task = cx.shared.config.compute.spawn(async move {
        let still = super::views::stands_still(what);
        if still == Some(false) {
            keep_still(&shared, &job, false).await?;
        }
        match job.kind {
            JobKind::Task { .. } => shared.views.steer_task(job.id, what).await?,
            JobKind::Alert { .. } => shared.views.steer(&shared.queries, job.id, what).await?,
        }
        if still == Some(true) {
            keep_still(&shared, &job, true).await?;
        }
        Ok::<_, Error>(())
    });
    task.await.map_err(|e| err!(LogicalError, "the change ended without an answer: {e}"))??;
    Ok(cx.done())
}

async fn keep_still(shared: &Arc<Shared>, job: &Job, still: bool) -> Result<()> {
    let (id, name) = (job.id, job.full_name());
    let now = shared.catalog.snapshot();
    let Some(job) = now.job(&name).filter(|j| j.id == id && j.paused != still) else { return Ok(()) };
    let event = Event::CreateJob { job: Job { paused: still, ..Job::clone(job) }, replace: true };
    let still_there = move |now: &weir_catalog::Snapshot| match now.job(&name) {
        Some(job) if job.id == id => Ok(()),
        _ => Err(CatalogError::UnknownJob { name }),
    };
    shared.apply_checked(event, Dependents::Ignore, still_there).await?;
    Ok(())
}

pub(super) fn show_jobs(
    cx: &Statement,
    object: JobObject,
    database: Option<String>,
    like: &Option<Like>,
) -> Result<Outcome> {
    let snapshot = cx.shared.catalog.snapshot();
    let database = database.as_deref().unwrap_or(cx.session_database());
    let jobs = snapshot.expect_database(database)?.jobs.values();
    let names = jobs.filter(|j| is(object, j) && matches(like, &j.name)).map(|j| j.name.clone());
    cx.rows(Columns::default().text("name", names.collect::<Vec<_>>()))
}

pub(super) fn show_create(cx: &Statement, object: JobObject, name: &Name) -> Result<Outcome> {
    let job = find(cx, object, name)?;
    cx.rows(Columns::default().text("statement", [create_text(&job)]))
}

fn ident(name: &RelationName) -> String {
    format!("{}.{}", quote(&name.database), quote(&name.name))
}

/// `5s`, `1500ms`: the longest unit that says it exactly.
fn interval(us: i64) -> String {
    let units = [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
    let (size, unit) = units.into_iter().find(|(size, _)| us % size == 0).expect("one divides all");
    format!("{}{unit}", us / size)
}

/// A statement that makes it anew.
pub(crate) fn create_text(job: &Job) -> String {
    let name = ident(&job.full_name());
    let mut out = match &job.kind {
        JobKind::Task { every_us, timeout_us, target } => {
            let timeout = timeout_us.map(|us| format!(" TIMEOUT {}", interval(us))).unwrap_or_default();
            format!("CREATE TASK {name} SCHEDULE {}{timeout} INTO {}", interval(*every_us), ident(target))
        }
        JobKind::Alert { url, batch_rows, batch_wait_us, limit } => {
            let mut out = format!("CREATE ALERT {name} BATCH {batch_rows} EVENTS");
            if *batch_wait_us > 0 {
                out += &format!(" WITH TIMEOUT {}", interval(*batch_wait_us));
            }
            if let Some((calls, per)) = limit {
                out += &format!(" LIMIT {calls} ALERTS PER {}", interval(*per));
            }
            out + &format!(" CALL {}", literal(url))
        }
    };
    if !job.comment.is_empty() {
        out += &format!(" COMMENT {}", literal(&job.comment));
    }
    out + &format!(" AS {}{}", job.select, super::show::settings_text(&job.settings))
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn intervals_are_written_as_they_are_read() {
        let cases = [
            (1, "1us"),
            (1_500_000, "1500ms"),
            (5_000_000, "5s"),
            (120_000_000, "2m"),
            (7_200_000_000, "2h"),
        ];
        for (us, text) in cases {
            assert_eq!(interval(us), text);
        }
    }
}
