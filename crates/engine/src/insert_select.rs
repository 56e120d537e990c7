//! `INSERT … SELECT`: a query into a stream, columns by position.
//!
//! Over a query with an end it ends with it. Over one without, it runs until a LIMIT is reached,
//! its client leaves or it is killed: what the query gives is appended as it comes, all that
//! came while the last append was on its way in one record, and nothing more is read ahead than
//! `output_buffer_bytes_max`.

use crate::engine::Statement;
use crate::execute::{Target, note_written, run_streaming, target, writer};
use crate::expr::convert_column;
use crate::ingest::StreamWriter;
use crate::outcome::{Done, InsertWriter};
use crate::query::{QueryEntry, start_bounded};
use crate::session::QueryMode;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_base::{Error, Result, err};
use weir_catalog::RelationName;
use weir_format::DecodedBatch;

/// `bounded` makes every stream in the query a snapshot, whatever the session says.
pub(crate) async fn insert_select(
    cx: &Statement,
    name: &RelationName,
    columns: Option<&[String]>,
    query: &sqlparser::ast::Query,
    bounded: bool,
) -> Result<Done> {
    let target = target(cx, name, columns)?;
    let state = cx.state()?;
    let scope = Arc::new(cx.scope());
    let options = cx.bind_options(bounded || cx.settings.mode == QueryMode::Table);
    let bound = weir_sql::bind::bind_query(query, &*scope, &state, &options)?;
    let given = bound.schema.fields().len();
    if given != target.columns.len() {
        return Err(err!(
            IncorrectQuery,
            "the SELECT gives {given} columns, the insert into {name} takes {}: {}",
            target.columns.len(),
            target.columns.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        ));
    }
    let unbounded = bound.unbounded;
    if unbounded && cx.settings.idempotent_id.is_some() {
        return Err(err!(
            BadArguments,
            "idempotent_id needs the same rows in the same blocks each time, which a query without end does \
             not give; leave it out"
        ));
    }
    let entry = cx.register(unbounded)?;
    let insert = Insert {
        writer: writer(cx, &target, &entry)?,
        wrap: cx.settings.cast_overflow_wrap,
        source: bound.schema.clone(),
        target,
    };
    let done = if unbounded {
        let block_rows_max = cx.settings.insert_block_rows_max;
        let rows = run_streaming(cx, entry.clone(), bound, &state, scope).await?.batches;
        insert.follow(&entry, rows, block_rows_max).await?
    } else {
        let rows = start_bounded(entry.clone(), bound.plan, &state, &cx.shared.config.compute).await?;
        insert.load(rows).await?
    };
    note_written(&entry, &done);
    Ok(done)
}

struct Insert {
    writer: StreamWriter,
    wrap: bool,
    /// The query's columns.
    source: SchemaRef,
    target: Target,
}

impl Insert {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let arrays = batch
            .columns()
            .iter()
            .zip(self.source.fields())
            .zip(&self.target.columns)
            .map(|((array, from), (_, to))| convert_column(array, from, to, self.wrap))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.target.schema.clone(), arrays, &options)
            .map_err(|e| err!(TypeMismatch, "the rows do not fit {}: {e}", self.target.name))?;
        let absent = vec![None; batch.num_columns()];
        self.writer.write(DecodedBatch { batch, absent }).await
    }

    async fn load(mut self, mut rows: BoxStream<'static, Result<RecordBatch>>) -> Result<Done> {
        while let Some(batch) = rows.next().await {
            self.write(batch?).await?;
        }
        Box::new(self.writer).finish().await
    }

    async fn follow(
        mut self,
        entry: &QueryEntry,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
        block_rows_max: usize,
    ) -> Result<Done> {
        let durable = entry.writing();
        let mut taken = 0;
        while let Some(first) = rows.next().await {
            let ended = match self.block(first, &mut rows, block_rows_max, &mut taken).await {
                Ok(ended) => ended,
                Err(e) => return Err(self.writer.abandon(e).await),
            };
            self.writer.commit().await?;
            let (kept_rows, kept_bytes) = self.writer.kept();
            entry.progress.written_rows.store(kept_rows, Ordering::Relaxed);
            entry.progress.written_bytes.store(kept_bytes, Ordering::Relaxed);
            durable.send_replace(taken);
            if ended {
                break;
            }
        }
        Box::new(self.writer).finish().await
    }

    /// Writes a batch and all that is there behind it, up to a block; whether that was the end.
    async fn block(
        &mut self,
        first: Result<RecordBatch>,
        rows: &mut BoxStream<'static, Result<RecordBatch>>,
        block_rows_max: usize,
        taken: &mut u64,
    ) -> Result<bool, Error> {
        let mut next = first;
        let mut pending = 0;
        loop {
            let batch = next?;
            pending += batch.num_rows();
            *taken += batch.num_rows() as u64;
            self.write(batch).await?;
            if pending >= block_rows_max {
                return Ok(false);
            }
            next = match rows.next().now_or_never() {
                None => return Ok(false),
                Some(None) => return Ok(true),
                Some(Some(batch)) => batch,
            };
        }
    }
}
