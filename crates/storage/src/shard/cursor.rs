//! A reader of one shard from a position on: history, then the tail, without a seam.
//!
//! Pulled: nothing is kept for a cursor but its position. Rows come from the ring, else the
//! log, else parts; history of a reader that says so from parts first. A waiting cursor is woken by the durable end moving, not by a timer.

use super::Shard;
use super::replay::Replay;
use super::wanted::{Reading, Wanted};
use crate::batch::TailBatch;
use crate::error::{Result, StorageError};
use crate::external::before;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use weir_base::SeqNo;

/// Log bytes decoded ahead for one cursor.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct TailCursor {
    shard: Arc<Shard>,
    reading: Arc<Reading>,
    position: SeqNo,
    ready: VecDeque<TailBatch>,
    replay: Option<Replay>,
    durable: watch::Receiver<SeqNo>,
    closing: watch::Receiver<bool>,
}

impl Shard {
    /// A reader of the rows from `from` on. Costs nothing until read.
    pub fn tail(self: &Arc<Self>, from: SeqNo) -> TailCursor {
        self.tail_of(from, Wanted::default())
    }

    /// The same with what is `wanted` only.
    pub fn tail_of(self: &Arc<Self>, from: SeqNo, wanted: Wanted) -> TailCursor {
        TailCursor {
            shard: self.clone(),
            reading: Reading::new(self, wanted),
            position: from,
            ready: VecDeque::new(),
            replay: None,
            durable: self.log.watch_durable_end(),
            closing: self.closing.subscribe(),
        }
    }
}

impl TailCursor {
    /// The next row to be returned has this sequence number or, where rows were removed, a
    /// later one.
    pub fn position(&self) -> SeqNo {
        self.position
    }

    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// The next rows, in sequence order; waits for some. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StorageError::Truncated`] if retention has passed the position; it names the oldest
    /// row held. [`StorageError::Closed`] after the shard was closed, [`StorageError::Dropped`]
    /// after its stream was dropped, whatever was still to be read.
    pub async fn next(&mut self) -> Result<TailBatch> {
        loop {
            self.still_there()?;
            // Marks the value seen, so that a later one ends the wait below.
            let durable = *self.durable.borrow_and_update();
            if let Some(batch) = self.in_memory()? {
                return Ok(batch);
            }
            if self.position < durable.max(self.shard.durable_end()) {
                self.fetch(When::Live).await?;
                continue;
            }
            tokio::select! {
                moved = self.durable.changed() => if moved.is_err() {
                    return Err(self.shard.closed_error());
                },
                _ = self.closing.wait_for(|closing| *closing) => return Err(self.shard.closed_error()),
            }
        }
    }

    /// The next rows if there are any; reads the disk where they are not in memory.
    pub async fn try_next(&mut self) -> Result<Option<TailBatch>> {
        self.still_there()?;
        while self.position < self.shard.durable_end() {
            if let Some(batch) = self.in_memory()? {
                return Ok(Some(batch));
            }
            self.fetch(When::History).await?;
        }
        Ok(None)
    }

    /// Like [`TailCursor::try_next`] for callers that may block, such as tests without a
    /// runtime.
    pub fn try_next_blocking(&mut self) -> Result<Option<TailBatch>> {
        while self.position < self.shard.durable_end() {
            if let Some(batch) = self.in_memory()? {
                return Ok(Some(batch));
            }
            let (reading, replay) = (&self.reading, self.replay.take());
            let fetched = fetch(&self.shard, reading, self.position, replay, When::Blocking)?;
            self.take(fetched);
        }
        Ok(None)
    }

    /// A dropped stream's files go when its readers let go, so a cursor lets go soon.
    fn still_there(&self) -> Result<()> {
        if self.shard.is_dropped() { Err(StorageError::Dropped) } else { Ok(()) }
    }

    fn in_memory(&mut self) -> Result<Option<TailBatch>> {
        let batch = match self.ready.pop_front() {
            Some(batch) => batch,
            None => {
                // After TRUNCATE the ring may hold rows that are gone.
                self.position = self.position.max(self.shard.version().floor);
                match self.shard.recent(self.position) {
                    Some(batch) => self.reading.pick(batch)?,
                    None => return Ok(None),
                }
            }
        };
        self.position = batch.end().expect("batches have rows");
        Ok(Some(batch))
    }

    async fn fetch(&mut self, when: When) -> Result<()> {
        if let Some(replay) = self.replay.as_mut().filter(|r| r.serves(self.position, when))
            && let Some(ahead) = replay.ahead()
        {
            match ahead.next().await? {
                Some(batch) => {
                    replay.passed(&batch);
                    self.ready.push_back(batch);
                }
                None => replay.leave_ahead(),
            }
            return Ok(());
        }
        let (shard, position, replay) = (self.shard.clone(), self.position, self.replay.take());
        let reading = self.reading.clone();
        let fetched = tokio::task::spawn_blocking(move || fetch(&shard, &reading, position, replay, when))
            .await
            .map_err(|e| StorageError::Worker { doing: "a read", reason: e.to_string() })??;
        self.take(fetched);
        Ok(())
    }

    fn take(&mut self, fetched: Fetched) {
        self.ready = fetched.batches;
        self.replay = fetched.replay;
        if self.ready.is_empty() {
            self.position = self.position.max(fetched.next);
        }
    }
}

/// Who reads: leaves out what the reader can do without, and whether decoding may run elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    History,
    Live,
    /// History, on the caller's thread.
    Blocking,
}

struct Fetched {
    batches: VecDeque<TailBatch>,
    /// Where to go on if there were no rows.
    next: SeqNo,
    replay: Option<Replay>,
}

/// Reads on from `position`, which is below the durable end, from log or parts. Blocks. Gives a
/// replay without rows where these are decoded ahead.
fn fetch(
    shard: &Arc<Shard>,
    reading: &Arc<Reading>,
    position: SeqNo,
    replay: Option<Replay>,
    when: When,
) -> Result<Fetched> {
    let position = position.max(shard.version().floor);
    if let Some(mut replay) = replay.filter(|r| r.serves(position, when)) {
        if when != When::Blocking && replay.ahead().is_some() {
            return Ok(Fetched { batches: VecDeque::new(), next: position, replay: Some(replay) });
        }
        return match replay.next()? {
            Some(batch) => {
                Ok(Fetched { batches: VecDeque::from([batch]), next: position, replay: Some(replay) })
            }
            None => Ok(Fetched { batches: VecDeque::new(), next: replay.end(), replay: None }),
        };
    }
    let end = shard.durable_end();
    if position >= end {
        return Ok(Fetched { batches: VecDeque::new(), next: position, replay: None });
    }
    if when != When::Live && reading.wanted.parts_first && Replay::is_straight(shard, position) {
        let replay = Replay::open(shard, reading, position, when)?;
        if replay.end() > position {
            return fetch(shard, reading, position, Some(replay), when);
        }
    }
    match read_log(shard, position, end) {
        Ok((batches, next)) => {
            let batches = batches.into_iter().map(|b| reading.pick(b)).collect::<Result<_>>()?;
            Ok(Fetched { batches, next, replay: None })
        }
        Err(StorageError::Truncated { .. }) if shard.has_parts() => {
            let replay = Replay::open(shard, reading, position, when)?;
            // The log drops rows only after they are in parts.
            assert!(replay.end() > position, "row {position} is neither in the log nor in parts");
            fetch(shard, reading, position, Some(replay), when)
        }
        // TRUNCATE came between the look at the floor and the read.
        Err(StorageError::Truncated { .. }) if shard.version().floor > position => {
            fetch(shard, reading, position, None, when)
        }
        Err(StorageError::Truncated { asked, .. }) => {
            Err(StorageError::Truncated { asked, oldest: shard.oldest() })
        }
        Err(e) => Err(e),
    }
}

/// Rows of the log from `from` to before `end`, a bounded amount, and where to go on.
pub(super) fn read_log(shard: &Shard, from: SeqNo, end: SeqNo) -> Result<(VecDeque<TailBatch>, SeqNo)> {
    let mut batches = VecDeque::new();
    let mut next = from;
    if let Some(batch) = shard.recent(from) {
        batches.push_back(batch);
    } else {
        let (read, read_to) = shard.log.read(from, READ_BYTES, &shard.book)?;
        batches.extend(read.into_iter().map(|(rows, _)| rows));
        next = read_to;
    }
    // Records are whole, but the end may have moved on since the caller looked.
    batches.retain(|b: &TailBatch| b.rows() > 0 && b.sn(0) < end);
    if let Some(last) = batches.back_mut() {
        *last = before(last, end);
        next = last.end().expect("not empty");
    } else if next == from {
        // Nothing but marks without rows up to the end.
        next = end;
    }
    Ok((batches, next))
}
