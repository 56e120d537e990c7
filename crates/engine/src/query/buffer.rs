//! The output of a streaming query on its way to the client: a queue bounded in bytes.
//!
//! A full queue makes the query wait, and with it its cursor in the log. A batch larger than
//! the whole limit goes through alone.

use super::late::LateWriter;
use super::registry::{QueryEntry, QueryRegistry};
use crate::Progress;
use arrow::array::RecordBatch;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use weir_base::{Clock, Code};
use weir_plan::{Durable, Element, Epoch, LateRows, Sink, StreamError};

/// Batches in the queue, whatever their size.
const BATCHES_MAX: usize = 1_024;
/// A permit stands for so many bytes.
const PERMIT_BYTES: u64 = 1_024;

type Item = (RecordBatch, OwnedSemaphorePermit);

pub(super) struct BufferSink {
    to: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    permits: u32,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    late: Late,
    /// Of a query that keeps checkpoints: rows sent, and those that its client has taken.
    sent: u64,
    taken: Option<watch::Receiver<u64>>,
}

/// Where late rows of the query are noted.
pub(crate) struct Late {
    pub query_id: Arc<str>,
    pub registry: Weak<QueryRegistry>,
    pub writer: Option<LateWriter>,
}

impl Late {
    pub fn of(entry: &QueryEntry) -> Self {
        Late {
            query_id: entry.spec.query_id.as_str().into(),
            registry: entry.registry(),
            writer: entry.late_writer(),
        }
    }

    pub async fn take(&mut self, rows: LateRows) -> Result<(), StreamError> {
        if let Some(registry) = self.registry.upgrade() {
            registry.late.add(&self.query_id, &rows);
        }
        match &mut self.writer {
            None => Ok(()),
            Some(writer) => writer.write(&rows.kept).await.map_err(|e| StreamError {
                code: e.code,
                message: format!("late_rows_stream: {}", e.message),
            }),
        }
    }
}

pub(super) fn buffer(
    bytes_max: u64,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    late: Late,
    taken: Option<watch::Receiver<u64>>,
) -> (BufferSink, mpsc::Receiver<Item>) {
    let permits = (bytes_max / PERMIT_BYTES).clamp(1, 1 << 30) as u32;
    let (to, from) = mpsc::channel(BATCHES_MAX);
    let room = Arc::new(Semaphore::new(permits as usize));
    (BufferSink { to, room, permits, progress, clock, late, sent: 0, taken }, from)
}

/// Bytes that are this batch's own: a slice counts for its rows only.
fn size_of(batch: &RecordBatch) -> u64 {
    let column = |c: &Arc<dyn arrow::array::Array>| {
        c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(column).sum()
}

#[async_trait::async_trait]
impl Sink for BufferSink {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        let Element::Rows(rows) = element else { return Ok(()) };
        let gone = || StreamError { code: Code::QueryWasCancelled, message: "the reader is gone".into() };
        let wanted = size_of(&rows.batch).div_ceil(PERMIT_BYTES).clamp(1, u64::from(self.permits)) as u32;
        let n = rows.batch.num_rows() as u64;
        let (room, place) = match self.room.clone().try_acquire_many_owned(wanted) {
            Ok(room) => (Some(room), self.to.try_reserve().ok()),
            Err(_) => (None, None),
        };
        match (room, place) {
            (Some(room), Some(place)) => place.send((rows.batch, room)),
            (room, _) => {
                // For who asks why nothing comes.
                self.progress.full_since_us.store(self.clock.now_us(), Ordering::Relaxed);
                let waited = async {
                    let room = match room {
                        Some(room) => room,
                        None => self.room.clone().acquire_many_owned(wanted).await.map_err(|_| gone())?,
                    };
                    self.to.send((rows.batch, room)).await.map_err(|_| gone())
                };
                tokio::select! {
                    sent = waited => sent?,
                    () = self.to.closed() => return Err(gone()),
                }
                self.progress.full_since_us.store(0, Ordering::Relaxed);
            }
        }
        self.sent += n;
        self.progress.given_rows.fetch_add(n, Ordering::Relaxed);
        self.progress.result_rows.fetch_add(n, Ordering::Relaxed);
        Ok(())
    }

    /// What was sent is its client's once that has come back for more.
    async fn barrier(&mut self, _epoch: Epoch) -> Result<Durable, StreamError> {
        let (taken, sent) = (self.taken.clone(), self.sent);
        Ok(Box::pin(async move {
            let Some(mut taken) = taken else { return Ok(()) };
            let gone = || StreamError { code: Code::QueryWasCancelled, message: "the reader is gone".into() };
            taken.wait_for(|rows| *rows >= sent).await.map(|_| ()).map_err(|_| gone())
        }))
    }

    async fn late(&mut self, rows: LateRows) -> Result<(), StreamError> {
        self.late.take(rows).await
    }
}
