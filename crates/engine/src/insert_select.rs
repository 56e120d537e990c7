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
use weir_base::{Code, Error, Result, err};
use weir_catalog::RelationName;
use weir_format::DecodedBatch;
use weir_plan::WEIGHT_COLUMN;
use weir_storage::TIME_COLUMN;

/// `bounded` makes every stream in the query a snapshot, whatever the session says.
pub(crate) async fn insert_select(
    cx: &Statement,
    name: &RelationName,
    columns: Option<&[String]>,
    query: &sqlparser::ast::Query,
    bounded: bool,
) -> Result<Done> {
    let mut target = target(cx, name, columns)?;
    let state = cx.state()?;
    let scope = Arc::new(cx.scope());
    let options = cx.bind_options(bounded || cx.settings.mode == QueryMode::Table);
    let bound = weir_sql::bind::bind_query(query, &*scope, &state, &options)?;
    if columns.is_none() {
        target = with_weight(cx, target, &bound.schema)?;
    }
    let given = bound.schema.fields().len();
    if given != target.columns.len() {
        return Err(err!(
            IncorrectQuery,
            "the SELECT gives {given} columns, the insert into {name} takes {}: {}",
            target.columns.len(),
            target.columns.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        ));
    }
    if cx.settings.log_writer.is_some() {
        return Err(err!(
            NotImplemented,
            "INSERT … SELECT is several records; log_writer and its position are for rows that come with the statement"
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
        let rows = run_streaming(cx, entry.clone(), bound, &state, scope, None).await?.batches;
        insert.follow(&entry, rows, block_rows_max).await?
    } else {
        let rows = start_bounded(entry.clone(), bound.plan, &state, &cx.shared.config.compute).await?;
        insert.load(rows).await?
    };
    note_written(&entry, &done);
    Ok(done)
}

/// Rows of a changelog bring their weight, behind the columns a stream declares.
fn with_weight(cx: &Statement, plain: Target, rows: &SchemaRef) -> Result<Target> {
    let mut columns: Vec<String> = plain.columns.iter().map(|(n, _)| n.clone()).collect();
    let own = columns.len();
    let more: Vec<&str> = rows.fields().iter().skip(own).map(|f| f.name().as_str()).collect();
    if !matches!(more.as_slice(), [WEIGHT_COLUMN] | [WEIGHT_COLUMN, TIME_COLUMN]) {
        return Ok(plain);
    }
    columns.extend(more.iter().map(|n| (*n).to_owned()));
    target(cx, &plain.name, Some(&columns)).map_err(|e| match e.code {
        Code::UnknownIdentifier => err!(
            IncorrectQuery,
            "the SELECT gives rows that take back others, which {} does not keep; create it with SETTINGS \
             mode='changelog', or leave EMIT CHANGELOG out",
            plain.name
        ),
        _ => e,
    })
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
