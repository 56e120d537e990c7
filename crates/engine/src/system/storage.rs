//! Parts and log segments of every shard.

use super::{Columns, Context};
use crate::external_log::ExternalLog;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use weir_base::Result;
use weir_catalog::Relation;
use weir_storage::Shard;

fn shards(cx: &Context) -> Vec<(Arc<Relation>, Arc<Shard>)> {
    with_logs(cx).into_iter().map(|(relation, shard, _)| (relation, shard)).collect()
}

type OfShard = (Arc<Relation>, Arc<Shard>, Option<Arc<ExternalLog>>);

/// The same with the logs that others keep.
fn with_logs(cx: &Context) -> Vec<OfShard> {
    let snapshot = cx.shared.catalog.snapshot();
    let mut out = Vec::new();
    for relation in snapshot.relations().filter(|r| r.is_stored()) {
        // One that does not open shows its error in system.tables.
        let Ok(open) = cx.shared.streams.get(relation) else { continue };
        out.extend(open.store.shards().iter().map(|s| (relation.clone(), s.clone(), open.log.clone())));
    }
    out
}

pub(super) fn parts(cx: &Context) -> Result<Columns> {
    let all: Vec<_> = shards(cx)
        .into_iter()
        .flat_map(|(relation, shard)| {
            let id = shard.id();
            shard.parts().into_iter().map(move |part| (relation.clone(), id, part))
        })
        .collect();
    let file_name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    Ok(Columns::default()
        .text("database", all.iter().map(|(r, ..)| &r.database))
        .text("table", all.iter().map(|(r, ..)| &r.name))
        .uint("shard", all.iter().map(|(_, s, _)| u64::from(s.0)))
        .text("partition", all.iter().map(|(_, _, p)| &p.meta.partition))
        .text("name", all.iter().map(|(_, _, p)| file_name(&p.path)))
        .text("path", all.iter().map(|(_, _, p)| &p.path))
        .flag("active", all.iter().map(|_| true))
        .uint("rows", all.iter().map(|(_, _, p)| p.meta.rows))
        .uint("bytes_on_disk", all.iter().map(|(_, _, p)| p.meta.size_bytes))
        .uint("level", all.iter().map(|(_, _, p)| u64::from(p.meta.level)))
        .flag("is_sorted", all.iter().map(|(_, _, p)| p.meta.sorted))
        .int("sn_min", all.iter().map(|(_, _, p)| p.meta.sn_min.0 as i64))
        .int("sn_end", all.iter().map(|(_, _, p)| p.meta.sn_end.0 as i64))
        .time_ms("min_time", all.iter().map(|(_, _, p)| p.meta.event_min.0))
        .time_ms("max_time", all.iter().map(|(_, _, p)| p.meta.event_max.0)))
}

pub(super) fn log_segments(cx: &Context) -> Result<Columns> {
    let all: Vec<_> = shards(cx)
        .into_iter()
        .flat_map(|(relation, shard)| {
            let (id, durable, committed) = (shard.id(), shard.durable_end(), shard.committed_end());
            shard.segments().into_iter().map(move |s| (relation.clone(), id, s, durable, committed))
        })
        .collect();
    Ok(Columns::default()
        .text("database", all.iter().map(|a| &a.0.database))
        .text("table", all.iter().map(|a| &a.0.name))
        .uint("shard", all.iter().map(|a| u64::from(a.1.0)))
        .text("path", all.iter().map(|a| &a.2.path))
        .int("sn_min", all.iter().map(|a| a.2.base.0 as i64))
        .int("sn_end", all.iter().map(|a| a.2.end.0 as i64))
        .uint("bytes_on_disk", all.iter().map(|a| a.2.size_bytes))
        .flag("sealed", all.iter().map(|a| a.2.sealed))
        .time_ms("first_append_time", all.iter().map(|a| a.2.first_append_time.0 / 1_000))
        .time_ms("last_append_time", all.iter().map(|a| a.2.last_append_time.0 / 1_000))
        .int("shard_committed_end", all.iter().map(|a| a.4.0 as i64))
        .int("shard_durable_end", all.iter().map(|a| a.3.0 as i64)))
}

/// What each shard holds: rows from `sn_min` on, up to one before `sn_end`.
pub(super) fn shards_held(cx: &Context) -> Result<Columns> {
    let all: Vec<_> = with_logs(cx)
        .into_iter()
        .map(|(r, s, log)| {
            let (skipped, lost) = log.as_ref().map_or((0, 0), |log| log.missed(s.id()));
            let away = log.as_ref().and_then(|log| log.trouble());
            (r, s.stats(), s.dropped_rows() + lost, s.pinned(), skipped, away)
        })
        .collect();
    Ok(Columns::default()
        .text("database", all.iter().map(|a| &a.0.database))
        .text("table", all.iter().map(|a| &a.0.name))
        .uint("shard", all.iter().map(|a| u64::from(a.1.shard.0)))
        .int("sn_min", all.iter().map(|a| a.1.oldest.0 as i64))
        .int("sn_end", all.iter().map(|a| a.1.durable_end.0 as i64))
        .int("sn_committed", all.iter().map(|a| a.1.committed_end.0 as i64))
        .int_or_null("sn_pinned", all.iter().map(|a| a.3.map(|sn| sn.0 as i64)))
        .uint("rows", all.iter().map(|a| a.1.rows))
        .uint("parts", all.iter().map(|a| a.1.parts))
        .uint("part_bytes", all.iter().map(|a| a.1.part_bytes))
        .uint("log_bytes", all.iter().map(|a| a.1.log_bytes))
        .uint("uncommitted_bytes", all.iter().map(|a| a.1.uncommitted_bytes))
        .uint("dropped_rows", all.iter().map(|a| a.2))
        .uint("skipped_messages", all.iter().map(|a| a.4))
        .text_or_null("log_error", all.iter().map(|a| a.5.clone()))
        .text_or_null("commit_error", all.iter().map(|a| a.1.commit_error.clone())))
}

/// Who writes with a position of its own, and how far it has come.
pub(super) fn log_writers(cx: &Context) -> Result<Columns> {
    let all: Vec<_> = shards(cx)
        .into_iter()
        .flat_map(|(relation, shard)| {
            shard.writers().into_iter().filter_map(move |writer| {
                let position = shard.progress(&writer)?;
                Some((relation.clone(), shard.id(), uuid::Uuid::from_bytes(writer), position))
            })
        })
        .collect();
    Ok(Columns::default()
        .text("database", all.iter().map(|a| &a.0.database))
        .text("table", all.iter().map(|a| &a.0.name))
        .uint("shard", all.iter().map(|a| u64::from(a.1.0)))
        .uuid("writer", all.iter().map(|a| a.2))
        .text("position", all.iter().map(|a| STANDARD.encode(&a.3))))
}
