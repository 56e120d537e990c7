//! One shard's cursor, read by polling: a read that was begun is kept between polls, so that
//! asking several shards at once loses none.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use weir_base::SeqNo;
use weir_storage::{Shard, StorageError, TailBatch, TailCursor, Wanted};

type Read = (TailCursor, Result<Option<TailBatch>, StorageError>);

enum State {
    Idle(TailCursor),
    Reading {
        what: Mode,
        read: BoxFuture<'static, Read>,
    },
    /// Only within `poll`.
    Moved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Ends (`None`) when there is nothing durable left.
    History,
    /// Waits for rows.
    Live,
}

pub(super) struct ShardReader {
    shard: Arc<Shard>,
    wanted: Wanted,
    state: State,
    /// Where the next read begins, as far as known.
    position: SeqNo,
}

impl ShardReader {
    pub fn new(shard: Arc<Shard>, from: SeqNo, wanted: Wanted) -> Self {
        let state = State::Idle(shard.tail_of(from, wanted.clone()));
        ShardReader { shard, wanted, state, position: from }
    }

    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    pub fn position(&self) -> SeqNo {
        self.position
    }

    /// Goes on from `from` after an error.
    pub fn reset(&mut self, from: SeqNo) {
        self.state = State::Idle(self.shard.tail_of(from, self.wanted.clone()));
        self.position = from;
    }

    /// The next rows. The mode may only change once a history read has ended.
    pub fn poll(
        &mut self,
        mode: Mode,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<TailBatch>, StorageError>> {
        if let State::Idle(_) = self.state {
            let State::Idle(mut cursor) = std::mem::replace(&mut self.state, State::Moved) else {
                unreachable!("checked above")
            };
            let read = async move {
                let rows = match mode {
                    Mode::History => cursor.try_next().await,
                    Mode::Live => cursor.next().await.map(Some),
                };
                (cursor, rows)
            };
            self.state = State::Reading { what: mode, read: read.boxed() };
        }
        let State::Reading { what, read } = &mut self.state else {
            unreachable!("a panic left the reader without its cursor")
        };
        debug_assert_eq!(*what, mode, "a live read cannot be turned into a history read");
        let (cursor, rows) = ready!(read.poll_unpin(cx));
        self.position = cursor.position();
        self.state = State::Idle(cursor);
        Poll::Ready(rows)
    }
}
