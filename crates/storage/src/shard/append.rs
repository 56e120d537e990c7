//! Rows into the log.

use super::Shard;
use crate::batch::event_range;
use crate::error::{Result, StorageError};
use crate::payload;
use arrow_array::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_base::SeqNo;
use weir_log::{Ack, Append, Appended, Idempotency, RecordKind};

impl Shard {
    /// Appends one record, whole or not at all, and returns as `ack` asks. The batch has the
    /// stream's columns in order. Waits while `uncommitted_bytes_max` of log wait for parts.
    ///
    /// # Errors
    /// [`StorageError::CommitStalled`] instead of waiting where commits fail; errors of the
    /// log as it gives them.
    pub async fn append(
        &self,
        batch: RecordBatch,
        idempotency: Option<Idempotency>,
        ack: Ack,
    ) -> Result<Appended> {
        let batch = self.conform(batch)?;
        self.wait_for_room().await?;
        let payload = payload::encode(&batch, self.book.current(), self.options().log_codec)?;
        let (event_min, event_max) = event_range(&batch);
        let append = Append {
            kind: RecordKind::ROWS,
            rows: batch.num_rows() as u32,
            event_min,
            event_max,
            idempotency,
            payload,
            attachment: Some(Arc::new(batch)),
        };
        Ok(self.log.append(append, ack).await?)
    }

    /// A group commit of all that was accepted before; returns the durable end that covers it.
    pub async fn sync(&self) -> Result<SeqNo> {
        Ok(self.log.sync().await?)
    }

    /// The batch with exactly the stream's schema, or what does not fit.
    fn conform(&self, batch: RecordBatch) -> Result<RecordBatch> {
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
                return Err(StorageError::Closed);
            }
            if let Some(reason) = self.commit_error.lock().clone() {
                return Err(StorageError::CommitStalled { uncommitted_bytes, limit_bytes, reason });
            }
            shrunk.await;
        }
    }
}
