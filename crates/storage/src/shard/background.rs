//! When commits, merges and retention run. Thin: each does one synchronous step elsewhere.
//!
//! A commit is due by rows, bytes or age of what waits; a failed one is repeated after a
//! pause that doubles. Ends when the shard is closed or no longer used.

use super::plan::MergeMode;
use super::{Shard, StorageType};
use crate::error::{Result, StorageError};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use weir_base::SeqNo;

/// How often retention, expiry and leftovers are looked at.
const UPKEEP_MS: u64 = 5_000;
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 10_000;

impl Shard {
    pub(super) fn start_background(self: &Arc<Self>) {
        let Some(runtime) = &self.ctx.runtime else { return };
        if self.has_parts() {
            runtime.spawn(commit_loop(Arc::downgrade(self)));
        }
        runtime.spawn(upkeep_loop(Arc::downgrade(self)));
    }

    /// Commits all that was durable in the log at the call. `SYSTEM FLUSH STREAM`.
    ///
    /// # Errors
    /// [`StorageError::NoParts`] for streams without parts, else what stopped the commit.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        self.need_parts("a flush")?;
        let target = self.sync().await?;
        blocking(self, "a flush", move |shard| {
            while shard.version().committed_end < target {
                if !shard.commit_once()? {
                    break;
                }
            }
            shard.retain_once()
        })
        .await
    }

    /// Merges until nothing is left to merge and applies TTL. `SYSTEM MERGE STREAM`.
    ///
    /// # Errors
    /// As [`Shard::flush`].
    pub async fn merge(self: &Arc<Self>) -> Result<()> {
        self.need_parts("a merge")?;
        blocking(self, "a merge", |shard| {
            while shard.merge_once(MergeMode::ToRest)? {}
            shard.collect_garbage();
            Ok(())
        })
        .await
    }

    /// [`Shard::truncate_once`] off the caller's thread.
    pub async fn truncate(self: &Arc<Self>) -> Result<()> {
        self.sync().await?;
        blocking(self, "a truncation", |shard| shard.truncate_once()).await
    }

    fn need_parts(&self, what: &'static str) -> Result<()> {
        let storage_type = match self.storage_type {
            StorageType::Hybrid => return Ok(()),
            StorageType::Streaming => "streaming",
            StorageType::Memory => "memory",
        };
        Err(StorageError::NoParts { storage_type, what })
    }

    /// Time until a commit is due; zero if it is. Tells the backlog when to wake the committer before.
    fn commit_due_in(&self) -> Option<Duration> {
        let options = self.options();
        let due = SeqNo(self.version().committed_end.0.saturating_add(options.flush_threshold_count));
        // First said, then looked: what is added in between is seen or wakes.
        self.backlog.due_at(due, options.flush_threshold_bytes);
        let oldest = self.backlog.oldest()?;
        if self.backlog.is_hurried()
            || self.durable_end() >= due
            || self.backlog.bytes() >= options.flush_threshold_bytes
        {
            return Some(Duration::ZERO);
        }
        let age = self.ctx.clock.monotonic().saturating_sub(oldest);
        Some(Duration::from_millis(options.flush_threshold_ms).saturating_sub(age))
    }
}

/// For a user who waits.
async fn blocking<T: Send + 'static>(
    shard: &Arc<Shard>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Shard>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let shard = shard.clone();
    tokio::task::spawn_blocking(move || work(&shard))
        .await
        .map_err(|e| StorageError::Worker { doing, reason: e.to_string() })?
}

/// Runs a step in one of the process's slots for such work.
async fn in_slot(
    shard: &Weak<Shard>,
    slots: fn(&Shard) -> &Semaphore,
    doing: &'static str,
    step: fn(&Arc<Shard>) -> Result<bool>,
) -> Option<Result<bool>> {
    let shard = shard.upgrade()?;
    let _slot = slots(&shard).acquire().await.ok()?;
    Some(yielding(&shard, doing, step).await)
}

/// For nobody in particular: on a thread of its own, which gives way to those that answer a client.
/// What waits for a commit is bounded, so whoever waits for room gives the core back.
async fn yielding(
    shard: &Arc<Shard>,
    doing: &'static str,
    step: fn(&Arc<Shard>) -> Result<bool>,
) -> Result<bool> {
    let (done, heard) = oneshot::channel();
    let shard = shard.clone();
    let runtime = Handle::current();
    // The step itself, which reports what fails in it, has not run.
    let failed = |reason: String| {
        tracing::warn!(doing, reason, "background work of a shard did not run and will be repeated");
        StorageError::Worker { doing, reason }
    };
    weir_base::thread::spawn_yielding("weir-commit", move || {
        let _runtime = runtime.enter();
        let outcome = step(&shard);
        // The shard first: who hears may be waiting for the last holder to let go.
        drop(shard);
        let _ = done.send(outcome);
    })
    .map_err(|e| failed(e.to_string()))?;
    heard.await.unwrap_or_else(|_| Err(failed("the thread panicked".into())))
}

async fn commit_loop(shard: Weak<Shard>) {
    let Some((backlog, mut closing)) = shard.upgrade().map(|s| (s.backlog.clone(), s.closing.subscribe()))
    else {
        return;
    };
    let mut retry_ms = RETRY_MS_MIN;
    loop {
        let Some(due) = shard.upgrade().map(|s| s.commit_due_in()) else { return };
        let wait = async {
            match due {
                Some(Duration::ZERO) => {}
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep(due.max(Duration::from_millis(1))) => {}
                        () = backlog.grown.notified() => {}
                    }
                }
                None => backlog.grown.notified().await,
            }
        };
        tokio::select! {
            () = wait => {}
            _ = closing.changed() => return,
        }
        let is_due = shard.upgrade().map(|s| s.commit_due_in() == Some(Duration::ZERO));
        match is_due {
            None => return,
            Some(false) => continue,
            Some(true) => {}
        }
        let outcome = in_slot(
            &shard,
            |s| &s.ctx.slots.commits,
            "a commit",
            |s| {
                let done = s.commit_once()?;
                s.retain_once()?;
                Ok(done)
            },
        );
        match outcome.await {
            None => return,
            Some(Ok(_)) => retry_ms = RETRY_MS_MIN,
            Some(Err(_)) => {
                // Reported and counted by the commit itself.
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(retry_ms)) => {}
                    _ = closing.changed() => return,
                }
                retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
            }
        }
    }
}

async fn upkeep_loop(shard: Weak<Shard>) {
    let Some(mut closing) = shard.upgrade().map(|s| s.closing.subscribe()) else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(UPKEEP_MS)) => {}
            _ = closing.changed() => return,
        }
        // One merge at a time over all streams; the next round goes on with the next.
        loop {
            let merged = in_slot(
                &shard,
                |s| &s.ctx.slots.merges,
                "a merge",
                |s| {
                    s.retain_once()?;
                    s.collect_garbage();
                    if *s.closing.borrow() { Ok(false) } else { s.merge_once(MergeMode::Tiered) }
                },
            );
            match merged.await {
                None => return,
                Some(Ok(true)) => {}
                Some(Ok(false)) => break,
                Some(Err(e)) => {
                    tracing::warn!(error = %e, "upkeep of a shard failed and will be repeated");
                    break;
                }
            }
        }
    }
}
