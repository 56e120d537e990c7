//! Lets the sources of one query hand out their history in one order.
//!
//! Sources whose live rows are wanted in one order as well tell each other, once all of them have come to
//! their live rows, where their next one stands and how far append time has come without any.
//!
//! Each source says where its next row stands; the least goes, up to the next one's place.
//! A source that is past its history, or gone, holds nobody back. All sources of a query are
//! opened before the first is polled, and one task polls all that wait.

use super::merge::Key;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(super) struct ReplayGate(Mutex<Vec<Entry>>);

#[derive(Debug, Default)]
struct Entry {
    head: Head,
    waker: Option<Waker>,
    /// It gives live rows in order with others; `None` inside while it has not come to them.
    together: bool,
    live: Option<Live>,
    /// Nothing follows.
    left: bool,
}

/// What a source says of its live rows.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub head: Option<Key>,
    /// Its other rows will be appended after this.
    pub frontier_us: i64,
}

#[derive(Debug, Default)]
enum Head {
    /// Not read yet.
    #[default]
    Unknown,
    At(Key),
    Done,
}

/// One source's place at the gate. Dropping it counts as done.
#[derive(Debug)]
pub(super) struct Seat {
    gate: Arc<ReplayGate>,
    index: usize,
}

impl ReplayGate {
    /// `together`: live rows are wanted in order with those of others who say the same.
    pub fn seat(self: &Arc<Self>, together: bool) -> Seat {
        let mut all = self.0.lock();
        all.push(Entry { together, ..Entry::default() });
        Seat { gate: self.clone(), index: all.len() - 1 }
    }
}

impl Seat {
    pub fn index(&self) -> usize {
        self.index
    }

    /// Waits until `key` is the least of all. Ready with the next least: rows below it may go.
    pub fn poll_turn(&self, key: Key, cx: &mut Context<'_>) -> Poll<Option<Key>> {
        let mut wake = Vec::new();
        let turn = {
            let mut all = self.gate.0.lock();
            self.set(&mut all, Head::At(key.clone()), &mut wake);
            let mut bound: Option<Key> = None;
            let mut blocked = false;
            let together = all[self.index].together;
            for (i, entry) in all.iter().enumerate().filter(|(i, _)| *i != self.index) {
                debug_assert_ne!(i, self.index);
                // While the query is drained: the other one has not heard of it yet.
                blocked |= together && entry.together && entry.live.is_some() && !entry.left;
                match &entry.head {
                    Head::Unknown => blocked = true,
                    Head::At(other) if *other < key => blocked = true,
                    Head::At(other) => {
                        if bound.as_ref().is_none_or(|b| other < b) {
                            bound = Some(other.clone());
                        }
                    }
                    Head::Done => {}
                }
            }
            if blocked {
                all[self.index].waker = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(bound)
            }
        };
        wake.into_iter().for_each(Waker::wake);
        turn
    }

    /// Says where the next live row stands and gives what the least of the others says; `None` where one of
    /// them has not come to its live rows.
    pub fn live(&self, own: Live) -> Option<Live> {
        let mut all = self.gate.0.lock();
        all[self.index].live = Some(own);
        let mut least = Live { head: None, frontier_us: i64::MAX };
        for entry in all.iter().enumerate().filter(|(i, _)| *i != self.index).map(|(_, e)| e) {
            if !entry.together || entry.left {
                continue;
            }
            let Live { head, frontier_us } = entry.live.as_ref()?;
            least.frontier_us = least.frontier_us.min(*frontier_us);
            if let Some(head) = head
                && least.head.as_ref().is_none_or(|h| head < h)
            {
                least.head = Some(head.clone());
            }
        }
        Some(least)
    }

    /// The rows that are durable now are all there is: they go as history does.
    pub fn drains(&self) {
        let mut all = self.gate.0.lock();
        if all[self.index].together {
            (all[self.index].live, all[self.index].head) = (None, Head::Unknown);
        }
    }

    /// Nothing follows.
    pub fn leave(&self) {
        self.done();
        self.gate.0.lock()[self.index].left = true;
    }

    /// The next row is being read: who stands later must wait for it.
    pub fn unknown(&self) {
        self.gate.0.lock()[self.index].head = Head::Unknown;
    }

    pub fn done(&self) {
        let mut wake = Vec::new();
        self.set(&mut self.gate.0.lock(), Head::Done, &mut wake);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Waits until every source is past its history.
    pub fn poll_all_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut all = self.gate.0.lock();
        if all.iter().all(|e| matches!(e.head, Head::Done)) {
            return Poll::Ready(());
        }
        all[self.index].waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn set(&self, all: &mut [Entry], head: Head, wake: &mut Vec<Waker>) {
        let same = match (&all[self.index].head, &head) {
            (Head::At(a), Head::At(b)) => a == b,
            (Head::Done, Head::Done) => true,
            _ => false,
        };
        if !same {
            all[self.index].head = head;
            let others = all.iter_mut().enumerate().filter(|(i, _)| *i != self.index);
            wake.extend(others.filter_map(|(_, e)| e.waker.take()));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}
