//! A running query as coded bytes: batches encoded in the format, then in the coding.
//!
//! Streaming: whatever is there leaves at once, a batch that is ready already goes with it,
//! nothing waits for company. Bounded: pieces of [`PIECE_BYTES`].
//! Dropping it cancels the query.

use super::answer::Chunk;
use super::coding::Encoder as Coder;
use super::exception::ExceptionTag;
use crate::formats;
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use weir_base::{Clock, Error, Result, err};
use weir_engine::{Progress, QueryHandle};
use weir_format::{BoxEncoder, ResultStats};

/// Encoded bytes that leave together at most, when more is ready.
const PIECE_BYTES: usize = 64 << 10;

enum Stage {
    Begin,
    Rows,
    Ended,
}

pub struct QueryResult {
    batches: BoxStream<'static, Result<RecordBatch>>,
    encoder: BoxEncoder,
    coder: Option<Coder>,
    pub progress: Arc<Progress>,
    pub streaming: bool,
    clock: Arc<dyn Clock>,
    started: Duration,
    stage: Stage,
    tag: ExceptionTag,
}

impl QueryResult {
    pub fn new(
        handle: QueryHandle,
        encoder: BoxEncoder,
        coder: Coder,
        clock: Arc<dyn Clock>,
        started: Duration,
        tag: ExceptionTag,
    ) -> QueryResult {
        QueryResult {
            batches: handle.batches,
            encoder,
            coder: Some(coder),
            progress: handle.progress,
            streaming: handle.streaming,
            clock,
            started,
            stage: Stage::Begin,
            tag,
        }
    }

    pub fn elapsed_ns(&self) -> u64 {
        self.clock.monotonic().saturating_sub(self.started).as_nanos() as u64
    }

    /// The next bytes to send, never empty; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut plain = Vec::new();
        loop {
            match self.stage {
                Stage::Begin => {
                    self.encoder.begin(&mut plain).map_err(formats::encode_failed)?;
                    self.stage = Stage::Rows;
                    if !self.streaming || plain.is_empty() {
                        continue;
                    }
                }
                Stage::Rows => {
                    let ready = if plain.is_empty() {
                        Some(self.batches.next().await)
                    } else if self.streaming {
                        self.batches.next().now_or_never()
                    } else {
                        Some(self.batches.next().await)
                    };
                    match ready {
                        Some(Some(batch)) => {
                            let batch = match batch {
                                Ok(batch) => batch,
                                // Rows before the error leave first; it comes with the next call.
                                Err(e) if !plain.is_empty() => {
                                    self.batches = futures::stream::iter([Err(e)]).boxed();
                                    return self.code(plain).map(Some);
                                }
                                Err(e) => return Err(e),
                            };
                            self.encoder.batch(&batch, &mut plain).map_err(formats::encode_failed)?;
                            if plain.len() < PIECE_BYTES {
                                continue;
                            }
                        }
                        Some(None) => {
                            let stats = ResultStats {
                                elapsed_ns: self.elapsed_ns(),
                                rows_read: self.progress.read_rows.load(Ordering::Relaxed),
                                bytes_read: self.progress.read_bytes.load(Ordering::Relaxed),
                                ..ResultStats::default()
                            };
                            self.encoder.end(&stats, &mut plain).map_err(formats::encode_failed)?;
                            self.stage = Stage::Ended;
                            continue;
                        }
                        None => {}
                    }
                }
                Stage::Ended => {
                    let Some(mut coder) = self.coder.take() else { return Ok(None) };
                    let mut last = coder.push(plain)?;
                    last.extend(coder.finish()?);
                    return Ok(Some(last.into()).filter(|l: &Bytes| !l.is_empty()));
                }
            }
            if !plain.is_empty() {
                return self.code(plain).map(Some);
            }
        }
    }

    fn code(&mut self, plain: Vec<u8>) -> Result<Bytes> {
        let coder = self.coder.as_mut().expect("only the end takes the coder");
        Ok(coder.push(plain)?.into())
    }

    /// The exception block in this result's coding, ending it.
    pub fn broken(&mut self, error: &Error) -> Bytes {
        let block = self.tag.block(error);
        let coded = self.coder.take().and_then(|mut coder| {
            let mut bytes = coder.push(block).ok()?;
            bytes.extend(coder.finish().ok()?);
            Some(bytes)
        });
        // A coder that fails too leaves only the cut; a fatal chunk must not be empty.
        coded.unwrap_or_else(|| b"\r\n".to_vec()).into()
    }

    async fn chunk(&mut self, stop: &CancellationToken) -> Option<Chunk> {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => Err(err!(QueryWasCancelled, "the server is shutting down; ask again when it is back")),
            next = self.next() => next,
        };
        match next {
            Ok(bytes) => bytes.map(Chunk::Data),
            Err(e) => Some(Chunk::Fatal(self.broken(&e))),
        }
    }

    /// What follows `first`, until the end or `stop`.
    pub fn chunks(self, first: Vec<Bytes>, stop: CancellationToken) -> BoxStream<'static, Chunk> {
        let rest = futures::stream::unfold(Some((self, stop)), |state| async move {
            let (mut result, stop) = state?;
            let chunk = result.chunk(&stop).await?;
            let next = matches!(chunk, Chunk::Data(_)).then_some((result, stop));
            Some((chunk, next))
        });
        futures::stream::iter(first.into_iter().map(Chunk::Data)).chain(rest).boxed()
    }
}

/// Runs a stream of chunks on another runtime, at most two chunks ahead of its reader.
pub fn run_on(
    compute: &tokio::runtime::Handle,
    mut chunks: BoxStream<'static, Chunk>,
) -> BoxStream<'static, Chunk> {
    let (send, receive) = tokio::sync::mpsc::channel(2);
    compute.spawn(async move {
        loop {
            // The reader going away must end the query also while it computes.
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = send.closed() => None,
            };
            let Some(chunk) = chunk else { return };
            if send.send(chunk).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receive).boxed()
}
