//! An append to an idle log: a group of one, written by who appends it.
//!
//! The caller's thread waits for the disk, so it must be a worker of a runtime that puts
//! another thread in its place meanwhile; elsewhere, and where several wait already, the
//! append is queued for the log's thread. With [`Ack::Written`] only the write is waited for:
//! the sync is left to the log's thread, or to whoever needs the core before.

use crate::writer::{Inner, Room, StoppedOnPanic, Unsynced};
use crate::{Ack, Append, AppendError, Appended};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Appenders that wait for the disk at once, over all logs: each takes a thread more.
const LEADERS_MAX: usize = 8;
static LEADERS: AtomicUsize = AtomicUsize::new(0);

pub(crate) enum Lead {
    Done(Result<Appended, AppendError>),
    /// Not idle, or not a thread that may wait.
    Queue(Append, Room),
}

/// One of [`LEADERS_MAX`].
struct Permit;

impl Permit {
    fn take() -> Option<Permit> {
        let free = |n: usize| (n < LEADERS_MAX).then_some(n + 1);
        LEADERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        LEADERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn may_wait() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

impl Inner {
    pub(crate) fn lead(self: &Arc<Self>, append: Append, ack: Ack, room: Room) -> Lead {
        if !may_wait() {
            return Lead::Queue(append, room);
        }
        let Some(_permit) = Permit::take() else { return Lead::Queue(append, room) };
        {
            let mut queue = self.queue.lock();
            if queue.closed || queue.busy || queue.unsynced || !queue.items.is_empty() {
                return Lead::Queue(append, room);
            }
            (queue.busy, queue.active) = (true, true);
        }
        Lead::Done(tokio::task::block_in_place(|| self.write_alone(append, ack, room)))
    }

    fn write_alone(self: &Arc<Self>, append: Append, ack: Ack, room: Room) -> Result<Appended, AppendError> {
        let _stopped = StoppedOnPanic(self);
        let mut writing = self.writing();
        let outcome = writing.core.write(vec![append]).and_then(|mut group| {
            self.metrics.count(&group);
            if ack == Ack::Written {
                let result = group.results()[0].clone();
                writing.unsynced = Some(Unsynced { group, _room: room });
                return result;
            }
            let committed = writing.core.commit(&mut group, self.observer());
            let result = group.into_results().remove(0);
            committed.and(result)
        });
        let unsynced = writing.unsynced.is_some();
        drop(writing);
        let mut queue = self.queue.lock();
        (queue.busy, queue.unsynced) = (false, unsynced);
        // It seals the log when this was the last append for a while.
        let has_thread = self.ensure_thread(&mut queue).is_ok();
        if unsynced || queue.closed || !queue.items.is_empty() {
            self.wake.notify_all();
        }
        if !has_thread && unsynced {
            queue.unsynced = false;
            drop(queue);
            drop(self.writing());
        }
        outcome
    }
}
