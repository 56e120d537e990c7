//! A few threads that help queries with large batches: fork and join, nothing else.
//!
//! The caller deals its work into jobs that own what they change, takes part itself and waits for the
//! last: a busy or missing helper costs time, never progress. What is asked of helpers is bounded by the
//! number of queries, each of which waits for its own round.
//!
//! Not here: how work is dealt (`op::aggregate`).

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Helping threads of one process.
pub struct Workers {
    shared: Arc<Shared>,
    threads: usize,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    asked: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// One entry for every helper that a round would like.
    rounds: VecDeque<Arc<dyn Help>>,
    closed: bool,
}

trait Help: Send + Sync {
    /// Does jobs of a round until none is left to begin.
    fn help(&self);
}

struct Round<T, R, F> {
    jobs: Vec<Mutex<Option<T>>>,
    results: Vec<Mutex<Option<std::thread::Result<R>>>>,
    next: AtomicUsize,
    left: Mutex<usize>,
    done: Condvar,
    run: F,
}

impl<T: Send, R: Send, F: Fn(T) -> R + Send + Sync> Help for Round<T, R, F> {
    fn help(&self) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else { return };
            let job = job.lock().take().expect("each number is given out once");
            let result = catch_unwind(AssertUnwindSafe(|| (self.run)(job)));
            *self.results[at].lock() = Some(result);
            let mut left = self.left.lock();
            *left -= 1;
            if *left == 0 {
                self.done.notify_all();
            }
        }
    }
}

impl Workers {
    /// For rounds of up to `threads`, the caller's among them.
    pub fn new(threads: usize) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        for n in 1..threads {
            let shared = shared.clone();
            // It gives way to threads that answer others. Without it the callers do all themselves.
            let helper =
                weir_base::thread::spawn_yielding(&format!("weir-helper-{n}"), move || shared.serve());
            if let Err(e) = helper {
                tracing::warn!(error = %e, "a helping thread could not be started");
            }
        }
        Arc::new(Workers { shared, threads })
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs every job and gives the results in the order of the jobs.
    ///
    /// # Panics
    /// When a job did, with what the first of them said.
    pub fn run<T, R, F>(&self, jobs: Vec<T>, run: F) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(T) -> R + Send + Sync + 'static,
    {
        let helpers = jobs.len().min(self.threads).saturating_sub(1);
        if helpers == 0 {
            return jobs.into_iter().map(run).collect();
        }
        let round = Arc::new(Round {
            left: Mutex::new(jobs.len()),
            results: jobs.iter().map(|_| Mutex::new(None)).collect(),
            jobs: jobs.into_iter().map(|j| Mutex::new(Some(j))).collect(),
            next: AtomicUsize::new(0),
            done: Condvar::new(),
            run,
        });
        {
            let mut waiting = self.shared.waiting.lock();
            for _ in 0..helpers {
                waiting.rounds.push_back(round.clone());
                self.shared.asked.notify_one();
            }
        }
        round.help();
        let mut left = round.left.lock();
        while *left > 0 {
            round.done.wait(&mut left);
        }
        drop(left);
        let results = round.results.iter().map(|r| r.lock().take().expect("every job has ended"));
        results.map(|r| r.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }
}

impl Shared {
    fn serve(&self) {
        loop {
            let round = {
                let mut waiting = self.waiting.lock();
                loop {
                    if waiting.closed {
                        return;
                    }
                    match waiting.rounds.pop_front() {
                        Some(round) => break round,
                        None => self.asked.wait(&mut waiting),
                    }
                }
            };
            round.help();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.waiting.lock().closed = true;
        self.shared.asked.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_and_results_keep_their_order() {
        for threads in [1, 2, 5] {
            let workers = Workers::new(threads);
            for n in [0u64, 1, 2, 100] {
                let got = workers.run((0..n).collect(), |i| i * i);
                assert_eq!(got, (0..n).map(|i| i * i).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_panic_in_a_job_is_the_callers_and_helpers_live_on() {
        let workers = Workers::new(3);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            workers.run((0..20).collect(), |i| {
                assert!(i != 7, "job seven");
                i
            })
        }));
        assert!(failed.is_err());
        assert_eq!(workers.run(vec![1, 2, 3], |i| i + 1), [2, 3, 4]);
    }
}
