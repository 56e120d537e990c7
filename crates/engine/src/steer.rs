//! SYSTEM, KILL QUERY and OPTIMIZE: what operators and tests steer the server with.

use crate::ddl;
use crate::engine::Statement;
use crate::outcome::{Done, Outcome};
use crate::streams::OpenStream;
use crate::system::{Columns, Context, processes};
use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Error, Result, err};
use weir_sql::ast::{Name, System};

/// `KILL QUERY … SYNC` waits this long for what it killed.
const KILL_WAIT: Duration = Duration::from_secs(10);

fn stream(cx: &Statement, name: &Name) -> Result<Arc<OpenStream>> {
    let name = cx.full_name(name);
    let snapshot = cx.shared.catalog.snapshot();
    let relation = snapshot.rows_of(snapshot.expect_relation(&name.database, &name.name)?)?;
    if !relation.is_stored() {
        return Err(err!(BadArguments, "{name} keeps no rows"));
    }
    cx.shared.streams.get(relation)
}

/// `BACKUP TO`. Goes on though the client leaves.
pub(crate) async fn backup(cx: &Statement, to: &str, options: BTreeMap<String, String>) -> Result<Outcome> {
    let config = &cx.shared.config;
    let backups = config
        .backups
        .clone()
        .ok_or_else(|| err!(NotImplemented, "this server has nothing to take backups with"))?;
    let place = to.to_owned();
    let task = config.compute.spawn(async move { backups.backup(&place, &options).await });
    let done = task.await.map_err(|e| err!(LogicalError, "the backup ended without an answer: {e}"))??;
    cx.rows(
        Columns::default()
            .text("place", [to])
            .uint("streams", [done.streams])
            .uint("files", [done.files])
            .uint("bytes", [done.bytes]),
    )
}

pub(crate) async fn system(cx: &Statement, system: System) -> Result<Done> {
    match system {
        System::SyncStream(name) => {
            for shard in stream(cx, &name)?.store.shards() {
                shard.sync().await.map_err(Error::from)?;
            }
        }
        System::CheckpointQuery(id) => cx.shared.subscriptions.checkpoint(&cx.shared, &id).await?,
        System::SyncQuery(id) => cx.shared.queries.sync(&id).await?,
        System::FlushStream(name) => {
            for shard in stream(cx, &name)?.store.shards() {
                shard.flush().await.map_err(Error::from)?;
            }
        }
        System::MergeStream(name) => return merge(cx, &name).await,
        System::Job { object, verb, name } => return ddl::steer_job(cx, object, verb, &name).await,
        System::View { verb, name } => return ddl::steer_view(cx, verb, &name).await,
        System::ClockAdvance { micros } => {
            let Some(clock) = &cx.shared.config.test_clock else {
                return Err(err!(
                    BadArguments,
                    "SYSTEM CLOCK ADVANCE needs a server started with --test-clock"
                ));
            };
            let by = u64::try_from(micros)
                .map_err(|_| err!(BadArguments, "the clock can not be advanced by {micros} microseconds"))?;
            clock.advance(Duration::from_micros(by));
        }
        System::DrainQuery(id) => {
            if cx.shared.config.test_clock.is_none() {
                return Err(err!(BadArguments, "SYSTEM DRAIN needs a server started with --test-clock"));
            }
            let queries = &cx.shared.queries;
            if !id.is_empty() {
                return queries.drain(&id).await.map(|()| cx.done());
            }
            for id in queries.streaming_ids() {
                // One that has ended by itself meanwhile is drained.
                let _ = queries.drain(&id).await;
            }
        }
    }
    Ok(cx.done())
}

pub(crate) async fn merge(cx: &Statement, name: &Name) -> Result<Done> {
    for shard in stream(cx, name)?.store.shards() {
        shard.merge().await.map_err(Error::from)?;
    }
    Ok(cx.done())
}

pub(crate) async fn kill_query(cx: &Statement, filter: &sqlparser::ast::Expr, sync: bool) -> Result<Outcome> {
    let context = Context {
        shared: cx.shared.clone(),
        spelling: cx.settings.format.spelling,
        database: cx.session_database().to_owned(),
    };
    let all = processes(&context)?.batch()?;
    let predicate = cx.shared.compiler().compile_expr(filter, &all.schema(), None)?;
    let kept = predicate.evaluate(&all)?;
    let kept = cast(&kept, &DataType::Boolean)
        .map_err(|_| err!(IllegalTypeOfArgument, "KILL QUERY WHERE {filter} is no condition"))?;
    let kept: &BooleanArray = kept.as_boolean();
    let column =
        |name: &str| all.column_by_name(name).expect("a column of system.queries").as_string::<i32>();
    let (ids, users, texts) = (column("query_id"), column("user"), column("query"));
    let chosen: Vec<usize> = (0..all.num_rows())
        .filter(|i| kept.is_valid(*i) && kept.value(*i) && ids.value(*i) != cx.query_id)
        .collect();
    let killed: Vec<_> = chosen.iter().filter_map(|i| cx.shared.queries.kill(ids.value(*i))).collect();
    let mut status = "waiting";
    if sync && tokio::time::timeout(KILL_WAIT, cx.shared.queries.gone(&killed)).await.is_ok() {
        status = "finished";
    }
    cx.rows(
        Columns::default()
            .text("kill_status", chosen.iter().map(|_| status))
            .text("query_id", chosen.iter().map(|i| ids.value(*i)))
            .text("user", chosen.iter().map(|i| users.value(*i)))
            .text("query", chosen.iter().map(|i| texts.value(*i))),
    )
}
