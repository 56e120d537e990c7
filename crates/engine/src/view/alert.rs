//! The end of an alert's query: its rows called out, some at a time.
//!
//! ```text
//! rows -> wait until there are as many as a call has, or the first has waited long enough -> one call
//!      -> again and again until it is taken -> delivered: a checkpoint may stand behind them
//! ```
//!
//! Invariants
//! - a checkpoint counts only once all rows before it were taken: each is delivered at least once;
//! - what waits is bounded: the query waits while a call is not taken.
//!
//! Not here: the network ([`WebHook`]).

use crate::Progress as QueryProgress;
use crate::query::Late;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use weir_base::{Clock, Code, Error, MemoryBudget, Reservation, Result, err};
use weir_catalog::RelationName;
use weir_format::{FormatSettings, ResultStats};
use weir_plan::{Durable, Element, Epoch, LateRows, Sink, StreamError};

/// Rows of one call at most.
pub(crate) const BATCH_ROWS_MAX: u64 = 10_000;
/// Bytes that wait for a call; it goes sooner then.
const WAITING_BYTES_MAX: u64 = 4 << 20;
/// Between two attempts of a call: doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// How long a wait for the clock goes on without looking at it.
const CLOCK_LOOK: Duration = Duration::from_millis(100);

/// Calls a URL; implemented by `server`.
#[async_trait::async_trait]
pub trait WebHook: Send + Sync {
    /// POSTs JSON; gives the status.
    ///
    /// # Errors
    /// Why there is no answer, in a line.
    async fn post(&self, url: &str, body: Bytes) -> std::result::Result<u16, String>;
}

/// When an alert calls, and whom.
#[derive(Debug, Clone)]
pub(crate) struct AlertSpec {
    pub url: String,
    pub batch_rows: u64,
    pub batch_wait: Duration,
    /// So many calls in so long.
    pub limit: Option<(u64, Duration)>,
}

/// What is seen of an alert's calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub delivered: AtomicU64,
    pub delivered_rows: AtomicU64,
    /// Rows over the limit, which nobody was told.
    pub suppressed_rows: AtomicU64,
    /// Attempts that were not taken.
    pub failed: AtomicU64,
    /// Of the last attempt; 0 = there was no answer.
    pub last_status: AtomicU64,
    pub last_error: Mutex<String>,
}

pub(super) struct AlertSink {
    to: mpsc::Sender<(RecordBatch, Reservation)>,
    sent: u64,
    taken: watch::Receiver<u64>,
    memory: Arc<MemoryBudget>,
    progress: Arc<QueryProgress>,
    late: Late,
}

/// Who an alert is, for those it calls.
pub(super) struct Caller {
    pub name: RelationName,
    pub id: Uuid,
    pub spec: AlertSpec,
    pub calls: Arc<Calls>,
    pub hook: Arc<dyn WebHook>,
    pub clock: Arc<dyn Clock>,
    /// How many of its rows are delivered.
    pub written: watch::Sender<u64>,
}

impl AlertSink {
    pub fn new(caller: Caller, memory: Arc<MemoryBudget>, progress: Arc<QueryProgress>, late: Late) -> Self {
        let (to, from) = mpsc::channel(1);
        let (told, taken) = watch::channel(0);
        tokio::spawn(Calling::new(caller, told).run(from));
        AlertSink { to, sent: 0, taken, memory, progress, late }
    }
}

fn gone() -> StreamError {
    StreamError { code: Code::QueryWasCancelled, message: "the alert has ended".into() }
}

#[async_trait::async_trait]
impl Sink for AlertSink {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        let Element::Rows(rows) = element else { return Ok(()) };
        let n = rows.batch.num_rows() as u64;
        let bytes = rows.batch.get_array_memory_size() as u64;
        let held = self.memory.reserve(bytes).map_err(|e| StreamError {
            code: Code::MemoryLimitExceeded,
            message: format!("rows to be called out: {e}; raise max_memory_usage"),
        })?;
        for counter in [&self.progress.given_rows, &self.progress.taken_rows, &self.progress.result_rows] {
            counter.fetch_add(n, Ordering::Relaxed);
        }
        self.sent += n;
        self.to.send((rows.batch, held)).await.map_err(|_| gone())
    }

    async fn barrier(&mut self, _epoch: Epoch) -> Result<Durable, StreamError> {
        let (mut taken, sent) = (self.taken.clone(), self.sent);
        Ok(Box::pin(
            async move { taken.wait_for(|rows| *rows >= sent).await.map(|_| ()).map_err(|_| gone()) },
        ))
    }

    async fn late(&mut self, rows: LateRows) -> Result<(), StreamError> {
        self.late.take(rows).await
    }
}

/// Makes the calls; ends with the sink.
struct Calling {
    caller: Caller,
    told: watch::Sender<u64>,
    taken: u64,
    waiting: Vec<RecordBatch>,
    held: Vec<Reservation>,
    rows: usize,
    bytes: u64,
    /// When the first of them came, by the clock.
    first_us: i64,
    /// Calls since the limit's time began.
    since_us: i64,
    since: u64,
    /// Rows left out since the last call.
    left_out: u64,
}

impl Calling {
    fn new(caller: Caller, told: watch::Sender<u64>) -> Self {
        Calling {
            caller,
            told,
            taken: 0,
            waiting: Vec::new(),
            held: Vec::new(),
            rows: 0,
            bytes: 0,
            first_us: 0,
            since_us: i64::MIN,
            since: 0,
            left_out: 0,
        }
    }

    async fn run(mut self, mut from: mpsc::Receiver<(RecordBatch, Reservation)>) {
        let ended = self.told.clone();
        let work = async {
            loop {
                let due = (self.rows > 0)
                    .then(|| self.first_us.saturating_add(self.caller.spec.batch_wait.as_micros() as i64));
                let clock = self.caller.clock.clone();
                tokio::select! {
                    biased;
                    came = from.recv() => {
                        let Some((batch, held)) = came else { return Ok(()) };
                        if batch.num_rows() == 0 {
                            continue;
                        }
                        if self.rows == 0 {
                            self.first_us = clock.now_us();
                        }
                        self.rows += batch.num_rows();
                        self.bytes += held.bytes();
                        self.waiting.push(batch);
                        self.held.push(held);
                        while self.rows as u64 >= self.caller.spec.batch_rows || self.bytes > WAITING_BYTES_MAX {
                            self.call().await?;
                        }
                    }
                    () = reached(clock.clone(), due) => self.call().await?,
                }
            }
        };
        tokio::select! {
            done = work => {
                if let Err::<(), Error>(e) = done {
                    tracing::error!(error = %e, "an alert stopped calling on a bug");
                }
            }
            // Nobody waits for it any more: what was not taken is made again from the checkpoint.
            () = ended.closed() => {}
        }
    }

    /// Calls with the first rows that wait, until they are taken.
    async fn call(&mut self) -> Result<()> {
        let joined = match &self.waiting[..] {
            [one] => one.clone(),
            all => concat_batches(&all[0].schema(), all)
                .map_err(|e| err!(LogicalError, "could not join the rows of a call: {e}"))?,
        };
        let n = joined.num_rows().min(self.caller.spec.batch_rows as usize);
        let rest = joined.slice(n, joined.num_rows() - n);
        let batch = joined.slice(0, n);
        if self.may_call() {
            let body = self.body(&batch)?;
            self.deliver(body).await;
            self.since += 1;
            self.left_out = 0;
            self.caller.calls.delivered.fetch_add(1, Ordering::Relaxed);
            self.caller.calls.delivered_rows.fetch_add(n as u64, Ordering::Relaxed);
        } else {
            self.left_out += n as u64;
            self.caller.calls.suppressed_rows.fetch_add(n as u64, Ordering::Relaxed);
        }
        self.taken += n as u64;
        self.told.send_replace(self.taken);
        self.caller.written.send_replace(self.taken);
        self.rows = rest.num_rows();
        self.first_us = self.caller.clock.now_us();
        if self.rows == 0 {
            (self.waiting, self.held, self.bytes) = (Vec::new(), Vec::new(), 0);
        } else {
            self.bytes = self.bytes * self.rows as u64 / (self.rows + n) as u64;
            self.waiting = vec![rest];
            // What is left came last.
            self.held.drain(..self.held.len() - 1);
        }
        Ok(())
    }

    fn may_call(&mut self) -> bool {
        let Some((calls, per)) = self.caller.spec.limit else { return true };
        let now_us = self.caller.clock.now_us();
        if self.since_us.saturating_add(per.as_micros() as i64) <= now_us {
            (self.since_us, self.since) = (now_us, 0);
        }
        self.since < calls
    }

    /// What is said: who, which call, and the rows.
    fn body(&self, batch: &RecordBatch) -> Result<Bytes> {
        let failed =
            |e: weir_format::FormatError| err!(LogicalError, "rows could not be written as JSON: {e}");
        let settings = FormatSettings::default();
        let mut encoder = weir_format::encoder("JSONEachRow", batch.schema(), &settings).map_err(failed)?;
        let mut lines = Vec::new();
        encoder.begin(&mut lines).map_err(failed)?;
        encoder.batch(batch, &mut lines).map_err(failed)?;
        encoder.end(&ResultStats::default(), &mut lines).map_err(failed)?;
        let head = serde_json::json!({
            "alert": self.caller.name.to_string(),
            "id": format!("{}-{}-{}", self.caller.id, self.first_us, self.taken),
            "time_us": self.caller.clock.now_us(),
            "suppressed_rows": self.left_out,
        });
        let mut out = head.to_string().into_bytes();
        out.pop();
        out.extend(b",\"rows\":[");
        let mut first = true;
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend(line);
        }
        out.extend(b"]}");
        Ok(Bytes::from(out))
    }

    async fn deliver(&self, body: Bytes) {
        let (calls, clock) = (&self.caller.calls, &self.caller.clock);
        let mut wait = RETRY_FIRST;
        loop {
            let answer = self.caller.hook.post(&self.caller.spec.url, body.clone()).await;
            calls.last_status.store(u64::from(*answer.as_ref().unwrap_or(&0)), Ordering::Relaxed);
            let why = match answer {
                Ok(status) if (200..300).contains(&status) => {
                    calls.last_error.lock().clear();
                    return;
                }
                Ok(status) => format!("{} answered {status}", self.caller.spec.url),
                Err(e) => format!("{} does not answer: {e}", self.caller.spec.url),
            };
            calls.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(alert = %self.caller.name, error = why, "a call was not taken and is tried again");
            *calls.last_error.lock() = why;
            let due = clock.now_us().saturating_add(wait.as_micros() as i64);
            reached(clock.clone(), Some(due)).await;
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }
}

/// Returns when the clock has come to a time; never for none. A test's clock is looked at again and again.
pub(super) async fn reached(clock: Arc<dyn Clock>, due_us: Option<i64>) {
    let Some(due_us) = due_us else { return std::future::pending().await };
    loop {
        let wait = due_us.saturating_sub(clock.now_us());
        if wait <= 0 {
            return;
        }
        tokio::time::sleep(Duration::from_micros(wait as u64).min(CLOCK_LOOK)).await;
    }
}
