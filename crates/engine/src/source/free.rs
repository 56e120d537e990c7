//! History in no order: whatever any shard has decoded.
//!
//! All shards are read at once. How far each has come is not a sequence number, so the source
//! stands where it began until all of it has been given.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::task::{Context, Poll};
use weir_storage::{HistoryScan, StorageError, TailBatch};

type Read = BoxFuture<'static, (HistoryScan, Result<Option<TailBatch>, StorageError>)>;

pub(super) struct FreeHistory {
    /// `None` = given to the end.
    shards: Vec<Option<Read>>,
    /// The shard asked first.
    turn: usize,
}

fn read(mut scan: HistoryScan) -> Read {
    async move {
        let rows = scan.next().await;
        (scan, rows)
    }
    .boxed()
}

impl FreeHistory {
    pub fn new(scans: impl IntoIterator<Item = HistoryScan>) -> Self {
        FreeHistory { shards: scans.into_iter().map(|s| Some(read(s))).collect(), turn: 0 }
    }

    /// Rows and their shard; `None` after the last.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<(usize, TailBatch)>, StorageError>> {
        let n = self.shards.len();
        for k in 0..n {
            let shard = (self.turn + k) % n;
            let Some(reading) = &mut self.shards[shard] else { continue };
            let Poll::Ready((scan, rows)) = reading.poll_unpin(cx) else { continue };
            match rows? {
                None => self.shards[shard] = None,
                Some(rows) => {
                    self.shards[shard] = Some(read(scan));
                    self.turn = shard + 1;
                    return Poll::Ready(Ok(Some((shard, rows))));
                }
            }
        }
        if self.shards.iter().all(Option::is_none) { Poll::Ready(Ok(None)) } else { Poll::Pending }
    }
}
