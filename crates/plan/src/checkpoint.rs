//! What a query needs to be stopped at any moment and to go on: where its state is kept, and where it
//! stood.
//!
//! A checkpoint (an epoch) is the state of every operator and the place in every log where it was taken.
//! Results go on after it: each says the [`Position`] it is complete to. Who restores an epoch works
//! through the rows again, leaves out what was written before, and passes every such position exactly.
//!
//! Not here: how files are written (`engine`), what is in them (`dataflow`).

use crate::NodeId;
use std::fmt;
use std::io;
use std::sync::Arc;
use weir_base::SeqNo;

/// How far one source was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePosition {
    /// Per shard, the first sequence number not taken in.
    pub next: Vec<SeqNo>,
    /// Everything appended up to this (microseconds since the epoch) was known to be among it;
    /// `i64::MIN` = nobody asked.
    pub frontier_us: i64,
    /// Its history was over.
    pub backfilled: bool,
}

/// How far a query has come, by source in the order of its plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    pub sources: Vec<SourcePosition>,
    /// The clock has made results leave since the last row was taken in.
    pub ticked: bool,
}

impl SourcePosition {
    /// Every row that is taken in there is taken in here. A shard that only one of them knows came later, and is
    /// one of which nothing was taken in.
    fn takes_in(&self, other: &SourcePosition) -> bool {
        let next = |p: &SourcePosition, i: usize| p.next.get(i).copied().unwrap_or(SeqNo::ZERO);
        (0..self.next.len().max(other.next.len())).all(|i| next(other, i) <= next(self, i))
    }

    /// No row is taken in here that is not there.
    fn within(&self, other: &SourcePosition) -> bool {
        other.takes_in(self) && self.frontier_us <= other.frontier_us && self.backfilled <= other.backfilled
    }
}

impl Position {
    /// Whether a query that stands at `other` has passed this position, or stands there. Positions of one
    /// query follow each other, so of any two one is within the other.
    pub fn within(&self, other: &Position) -> bool {
        let same = |a: &SourcePosition, b: &SourcePosition| a.takes_in(b) && b.takes_in(a);
        let same_rows = self.sources.iter().zip(&other.sources).all(|(a, b)| same(a, b));
        let ticked = !self.ticked || other.ticked || !same_rows;
        self.sources.len() == other.sources.len()
            && self.sources.iter().zip(&other.sources).all(|(a, b)| a.within(b))
            && ticked
    }

    /// Little-endian: version (1), flags (1 = ticked), number of sources (u16); each: flags
    /// (1 = backfilled), number of shards (u16), frontier (i64), next (u64 a shard).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.ticked)];
        out.extend((self.sources.len() as u16).to_le_bytes());
        for source in &self.sources {
            out.push(u8::from(source.backfilled));
            out.extend((source.next.len() as u16).to_le_bytes());
            out.extend(source.frontier_us.to_le_bytes());
            source.next.iter().for_each(|n| out.extend(n.0.to_le_bytes()));
        }
        out
    }

    /// The reverse of [`Position::encode`]; `None` if the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Option<Position> {
        let (head, mut rest) = bytes.split_first_chunk::<4>()?;
        if head[0] != VERSION || head[1] > 1 {
            return None;
        }
        let mut position = Position { sources: Vec::new(), ticked: head[1] == 1 };
        for _ in 0..u16::from_le_bytes([head[2], head[3]]) {
            let (head, after) = rest.split_first_chunk::<11>()?;
            let shards = usize::from(u16::from_le_bytes([head[1], head[2]]));
            let frontier_us = i64::from_le_bytes(head[3..].try_into().expect("eight bytes"));
            let (numbers, after) = after.split_at_checked(shards * 8)?;
            let next = numbers
                .chunks_exact(8)
                .map(|n| SeqNo(u64::from_le_bytes(n.try_into().expect("eight bytes"))))
                .collect();
            position.sources.push(SourcePosition { next, frontier_us, backfilled: head[0] == 1 });
            rest = after;
        }
        rest.is_empty().then_some(position)
    }
}

const VERSION: u8 = 1;

/// Files of one query's checkpoints, each written once. Calls block; they are made from threads that may.
pub trait CheckpointStore: Send + Sync + fmt::Debug {
    /// Begins a file; it is there for [`Self::open`] and [`Self::list`] once it is finished.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn CheckpointFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn CheckpointRead>>;
    /// Names, in no order. A file that a crash left half written may be among them.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Of a file that is not there: nothing.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Whether bytes cost more here than the time to compress them.
    fn is_far(&self) -> bool {
        false
    }
}

/// A file being written. Dropped unfinished it is not there.
pub trait CheckpointFile: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns its length once it is durable.
    fn finish(self: Box<Self>) -> io::Result<u64>;
}

/// A finished file.
pub trait CheckpointRead: Send + Sync + fmt::Debug {
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Makes a query one that can be stopped at any moment and goes on where it stood.
#[derive(Debug, Clone)]
pub struct Lasting {
    pub store: Arc<dyn CheckpointStore>,
    /// Up to which positions results have been written. Those past the epoch that is restored are passed
    /// one after the other, and the sink hears of each ([`crate::Sink::passed`]).
    pub written: Vec<Position>,
}

/// Rows of one shard of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsAt {
    pub node: NodeId,
    /// Its place among the source's shards.
    pub shard: usize,
    /// The first row, and one past the last.
    pub from: SeqNo,
    pub end: SeqNo,
}

/// What is known of a query's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckpointStatus {
    /// The newest complete one; 0 = none.
    pub epoch: u64,
    /// Bytes written for it, and bytes of all files that it needs.
    pub written_bytes: u64,
    pub bytes: u64,
    /// From the barrier to the moment it was durable, microseconds; of that the query stood still.
    pub took_us: u64,
    pub stopped_us: u64,
    /// When it was complete, microseconds since the epoch.
    pub at_us: i64,
    /// From where on rows may be asked for once more, by source: the oldest epoch that is kept stood there.
    pub needs: Vec<(NodeId, SourcePosition)>,
    /// Why the query did not go on from a newer epoch, if it did not.
    pub passed_over: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next: &[u64], frontier_us: i64, backfilled: bool) -> SourcePosition {
        SourcePosition { next: next.iter().map(|n| SeqNo(*n)).collect(), frontier_us, backfilled }
    }

    #[test]
    fn positions_come_back_and_other_bytes_do_not() {
        let all = [
            Position::default(),
            Position { sources: vec![at(&[], i64::MIN, false)], ticked: true },
            Position { sources: vec![at(&[0, u64::MAX], -1, true), at(&[7], 9, false)], ticked: false },
        ];
        for position in all {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert_eq!(Position::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Position::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn positions_follow_each_other() {
        let position = |next: &[u64], ticked| Position { sources: vec![at(next, 5, true)], ticked };
        let (a, b) = (position(&[1, 2], false), position(&[1, 3], false));
        assert!(a.within(&a) && a.within(&b) && !b.within(&a));
        // What the clock did at one place lies between that place and the next.
        let ticked = position(&[1, 2], true);
        assert!(a.within(&ticked) && !ticked.within(&a) && ticked.within(&b));
        // A shard came since, of which nothing was taken in, then something.
        let (more, further) = (position(&[1, 2, 0], false), position(&[1, 2, 1], false));
        assert!(a.within(&more) && more.within(&a) && !ticked.within(&more));
        assert!(a.within(&further) && !further.within(&a) && ticked.within(&further));
    }
}
