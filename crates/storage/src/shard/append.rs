//! Rows into the log.

use super::Shard;
use crate::batch::event_range;
use crate::error::{Result, StorageError};
use crate::logs::{Log, SEGMENTS_OF_A_BOUND};
use crate::payload;
use crate::ring::Attached;
use arrow_array::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::{EventTime, SeqNo};
use weir_log::{Ack, Append, AppendError, Appended, Idempotency, Progress, RecordKind};

/// Bytes on their way into a log with a bound.
struct Appending<'a> {
    of: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Shard {
    /// Appends one record, whole or not at all, and returns as `ack` asks. The batch has the
    /// stream's columns in order. Waits while `uncommitted_bytes_max` of log wait for parts.
    ///
    /// # Errors
    /// [`StorageError::CommitStalled`] instead of waiting where commits fail,
    /// [`StorageError::Memory`] where the process has none left; errors of the log as it gives
    /// them.
    pub async fn append(
        &self,
        batch: RecordBatch,
        idempotency: Option<Idempotency>,
        ack: Ack,
    ) -> Result<Appended> {
        self.append_record(batch, idempotency, None, ack).await
    }

    /// As [`Shard::append`], for who must know after a restart how far it has come: the newest progress
    /// of a writer is kept until it is forgotten, whatever becomes of the record.
    pub async fn append_as(&self, batch: RecordBatch, progress: Progress, ack: Ack) -> Result<Appended> {
        self.append_record(batch, None, Some(progress), ack).await
    }

    /// The newest durable progress of a writer.
    pub fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        self.log.progress(writer)
    }

    /// Everyone of whom a progress is kept.
    pub fn writers(&self) -> Vec<[u8; 16]> {
        self.log.writers()
    }

    /// Lets go of what is kept of a writer. Durable when it returns.
    pub async fn forget_progress(&self, writer: [u8; 16]) -> Result<()> {
        if self.progress(&writer).is_none() {
            return Ok(());
        }
        let zero = EventTime(0);
        let append = Append {
            kind: RecordKind::MARK,
            rows: 0,
            event_min: zero,
            event_max: zero,
            idempotency: None,
            progress: Some(Progress { writer, bytes: Bytes::new() }),
            payload: Bytes::new(),
            attachment: None,
        };
        let appended = self.log.own()?.append(append, Ack::Durable).await;
        appended.map(|_| ()).map_err(|e| self.append_error(e))
    }

    async fn append_record(
        &self,
        batch: RecordBatch,
        idempotency: Option<Idempotency>,
        progress: Option<Progress>,
        ack: Ack,
    ) -> Result<Appended> {
        let log = self.log.own()?;
        let batch = self.conform(batch)?;
        self.wait_for_room().await?;
        let payload = payload::encode(&batch, self.book.current(), self.options().log_codec)?;
        let _appending = self.hold_to_bytes(payload.len() as u64).await?;
        // Until the record is durable, or refused; see `ring`.
        let held = self.ctx.memory.reserve((batch.get_array_memory_size() + payload.len()) as u64)?;
        let (event_min, event_max) = event_range(&batch);
        let append = Append {
            kind: RecordKind::ROWS,
            rows: batch.num_rows() as u32,
            event_min,
            event_max,
            idempotency,
            progress,
            payload,
            attachment: Some(Attached::new(batch, held)),
        };
        log.append(append, ack).await.map_err(|e| self.append_error(e))
    }

    fn append_error(&self, e: AppendError) -> StorageError {
        match e {
            AppendError::Closed => self.closed_error(),
            e => e.into(),
        }
    }

    /// A group commit of all that was accepted before; returns the durable end that covers it.
    /// Of a dropped stream that is its end: whoever found it while it was there reads it whole.
    pub async fn sync(&self) -> Result<SeqNo> {
        let log = match &self.log {
            Log::Own(log) => log,
            Log::External(_) if self.is_dropped() => return Ok(self.durable_end()),
            Log::External(log) => return log.sync(self.id).await.map_err(|e| self.with_commit_error(e)),
        };
        match log.sync().await {
            Err(AppendError::Closed) if self.is_dropped() => {
                self.close().await;
                Ok(self.durable_end())
            }
            other => Ok(other?),
        }
    }

    /// Rows that do not come may wait for others that do not get into parts.
    fn with_commit_error(&self, e: StorageError) -> StorageError {
        match (e, self.commit_error.lock().as_deref()) {
            (StorageError::LogAway { what }, Some(why)) => {
                StorageError::LogAway { what: format!("{what}; rows can not be moved to parts: {why}") }
            }
            (e, _) => e,
        }
    }

    /// The batch with exactly the stream's schema, or what does not fit.
    pub(super) fn conform(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema = &self.schema;
        let misfit = |what: String| StorageError::Schema { what };
        if batch.num_rows() == 0 || batch.num_rows() > u32::MAX as usize {
            return Err(misfit(format!("{} rows in one record, 1 to {} fit", batch.num_rows(), u32::MAX)));
        }
        if batch.schema_ref() == schema {
            return Ok(batch);
        }
        if batch.num_columns() != schema.fields().len() {
            return Err(misfit(format!(
                "{} columns, the stream has {}",
                batch.num_columns(),
                schema.fields().len()
            )));
        }
        for (have, want) in batch.schema_ref().fields().iter().zip(schema.fields()) {
            if have.name() != want.name() || have.data_type() != want.data_type() {
                return Err(misfit(format!(
                    "column {} of type {}, the stream has {} of type {}",
                    have.name(),
                    have.data_type(),
                    want.name(),
                    want.data_type()
                )));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
            .map_err(|e| misfit(e.to_string()))
    }

    /// Where the log may have so many bytes and no more: those of the append count until it has ended.
    async fn hold_to_bytes(&self, bytes: u64) -> Result<Option<Appending<'_>>> {
        let Some(limit_bytes) = self.options().log_bytes_max else { return Ok(None) };
        let all = self.appending.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let appending = Appending { of: &self.appending, bytes };
        if self.log_bytes().saturating_add(all) <= limit_bytes - limit_bytes / SEGMENTS_OF_A_BOUND {
            return Ok(Some(appending));
        }
        let Some(shard) = self.me.upgrade() else { return Err(StorageError::Closed) };
        let make = move || shard.make_room(all, limit_bytes);
        tokio::task::spawn_blocking(make)
            .await
            .map_err(|e| StorageError::Worker { doing: "making room in the log", reason: e.to_string() })??;
        Ok(Some(appending))
    }

    async fn wait_for_room(&self) -> Result<()> {
        if !self.has_parts() {
            return Ok(());
        }
        loop {
            let shrunk = self.backlog.shrunk.notified();
            tokio::pin!(shrunk);
            // Counted from here on, so that nothing between the check and the wait is missed.
            shrunk.as_mut().enable();
            let (uncommitted_bytes, limit_bytes) =
                (self.backlog.bytes(), self.options().uncommitted_bytes_max);
            if uncommitted_bytes < limit_bytes {
                return Ok(());
            }
            if self.closed.load(Ordering::SeqCst) {
                return Err(self.closed_error());
            }
            if let Some(reason) = self.commit_error.lock().clone() {
                return Err(StorageError::CommitStalled { uncommitted_bytes, limit_bytes, reason });
            }
            shrunk.await;
        }
    }
}
