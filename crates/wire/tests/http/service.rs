//! A service of a few made-up statements, each for one thing a door must get right.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;
use weir_base::metrics::Registry;
use weir_base::{Result, err};
use weir_engine::outcome::InsertWriter;
use weir_engine::{Done, InsertHandle, Outcome, Progress, QueryHandle, Session};
use weir_format::types::Type;
use weir_format::{DecodedBatch, FormatSettings};
use weir_wire::QueryService;

pub struct Service {
    pub rows: Arc<AtomicU64>,
    pub cancelled: Arc<AtomicUsize>,
    started: Arc<AtomicUsize>,
    changed: Arc<(Mutex<()>, Condvar)>,
    live: broadcast::Sender<i64>,
    metrics: Arc<Registry>,
    released: Arc<tokio::sync::Notify>,
}

/// Counts when a result is dropped.
struct Guard {
    cancelled: Arc<AtomicUsize>,
    changed: Arc<(Mutex<()>, Condvar)>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cancelled.fetch_add(1, Ordering::SeqCst);
        self.changed.1.notify_all();
    }
}

impl Service {
    pub fn new() -> Service {
        Service {
            rows: Arc::default(),
            cancelled: Arc::default(),
            started: Arc::default(),
            changed: Arc::default(),
            live: broadcast::channel(64).0,
            metrics: Arc::default(),
            released: Arc::default(),
        }
    }

    /// Sends a row to every `LIVE` query.
    pub fn emit(&self, n: i64) {
        self.live.send(n).unwrap();
    }

    /// Lets one `HELD` query go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    fn wait(&self, what: &AtomicUsize, at_least: usize) {
        let mut held = self.changed.0.lock().unwrap();
        while what.load(Ordering::SeqCst) < at_least {
            let (next, timeout) = self.changed.1.wait_timeout(held, Duration::from_secs(10)).unwrap();
            assert!(!timeout.timed_out(), "waited 10 s for {at_least}");
            held = next;
        }
    }

    pub fn wait_started(&self, at_least: usize) {
        self.wait(&self.started, at_least);
    }

    /// How long it took until so many results were dropped.
    #[allow(clippy::disallowed_methods, reason = "measures the door")]
    pub fn wait_cancelled(&self, at_least: usize) -> Duration {
        let from = std::time::Instant::now();
        self.wait(&self.cancelled, at_least);
        from.elapsed()
    }

    fn rows(
        &self,
        text: &str,
        streaming: bool,
        format: Option<String>,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Outcome {
        let guard = Guard { cancelled: self.cancelled.clone(), changed: self.changed.clone() };
        let schema = if text == "SETTINGS" { words() } else { numbers() };
        self.started.fetch_add(1, Ordering::SeqCst);
        self.changed.1.notify_all();
        // The engine counts what it gives.
        let progress = Arc::new(Progress::default());
        let counted = progress.clone();
        Outcome::Rows(QueryHandle {
            query_id: String::new(),
            schema,
            streaming,
            format,
            format_settings: FormatSettings::default(),
            progress,
            warnings: vec![],
            batches: batches
                .map(move |b| {
                    let _held = &guard;
                    let rows = b.as_ref().map_or(0, |b: &RecordBatch| b.num_rows());
                    counted.result_rows.fetch_add(rows as u64, Ordering::Relaxed);
                    b
                })
                .boxed(),
        })
    }
}

fn numbers() -> SchemaRef {
    Arc::new(Schema::new(vec![Type::parse("int64").unwrap().field("n")]))
}

fn words() -> SchemaRef {
    Arc::new(Schema::new(vec![Type::parse("string").unwrap().field("s")]))
}

fn batch(from: i64, to: i64) -> RecordBatch {
    RecordBatch::try_new(numbers(), vec![Arc::new(Int64Array::from_iter_values(from..to)) as ArrayRef])
        .unwrap()
}

fn batches(rows: i64) -> Vec<Result<RecordBatch>> {
    (0..rows).step_by(10_000).map(|from| Ok(batch(from, rows.min(from + 10_000)))).collect()
}

#[async_trait::async_trait]
impl QueryService for Service {
    async fn execute(&self, session: &mut Session, text: &str, query_id: String) -> Result<Outcome> {
        let text = text.trim().trim_end_matches(';');
        let (text, format) = match text.split_once(" FORMAT ") {
            Some((text, format)) => (text, Some(format.to_owned())),
            None => (text, None),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let iter = |items: Vec<Result<RecordBatch>>| futures::stream::iter(items).boxed();
        let broken = || Err(err!(DivisionByZero, "division by zero"));
        Ok(match words.as_slice() {
            ["SELECT", n] => {
                let n: i64 = n.parse().unwrap();
                self.rows(text, false, format, iter(vec![Ok(batch(n, n + 1))]))
            }
            ["ROWS", n] => self.rows(text, false, format, iter(batches(n.parse().unwrap()))),
            ["BREAK", n] => {
                let mut items = batches(n.parse().unwrap());
                items.push(broken());
                self.rows(text, false, format, iter(items))
            }
            ["LIVE", "BREAK", n] => {
                let mut items = batches(n.parse().unwrap());
                items.push(broken());
                self.rows(text, true, format, iter(items))
            }
            ["LIVE"] => {
                let rows = futures::stream::unfold(self.live.subscribe(), |mut live| async {
                    let n = live.recv().await.ok()?;
                    Some((Ok(batch(n, n + 1)), live))
                });
                self.rows(text, true, format, rows.boxed())
            }
            ["HANG"] => self.rows(text, false, format, futures::stream::pending().boxed()),
            // Gives its row when it is asked the third time: each progress header asks once.
            ["SLOW"] => {
                let mut asked = 0;
                let third = futures::future::poll_fn(move |_| {
                    asked += 1;
                    if asked < 3 { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(batch(1, 2))) }
                });
                self.rows(text, false, format, futures::stream::once(third).boxed())
            }
            ["HELD"] => {
                let released = self.released.clone();
                let row = futures::stream::once(async move {
                    released.notified().await;
                    Ok(batch(1, 2))
                });
                self.rows(text, false, format, row.boxed())
            }
            ["SETTINGS"] => {
                let all: Vec<String> = session.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let column = Arc::new(StringArray::from(vec![all.join(",")])) as ArrayRef;
                let batch = RecordBatch::try_new(self::words(), vec![column]).unwrap();
                self.rows(text, false, format, iter(vec![Ok(batch)]))
            }
            ["SET", pair] => {
                let (name, value) = pair.split_once('=').unwrap();
                session.settings.insert(name.into(), value.into());
                Outcome::Done(Done { query_id, ..Done::default() })
            }
            ["FAIL", "60"] => return Err(err!(UnknownStream, "stream nope does not exist")),
            ["INSERT", ..] if session.read_only => {
                return Err(err!(ReadOnly, "GET only reads; send the statement with POST"));
            }
            ["INSERT", ..] => Outcome::Insert(Box::new(InsertHandle {
                query_id,
                format: format.unwrap_or_else(|| "Values".into()),
                format_settings: FormatSettings::default(),
                schema: numbers(),
                inline: vec![],
                batch_rows_max: 100_000,
                whole: false,
                writer: Box::new(Writer { rows: self.rows.clone(), written: 0 }),
            })),
            _ => return Err(err!(Syntax, "what is {text}?")),
        })
    }

    fn check_setting(&self, name: &str, _value: &str) -> Result<()> {
        match name {
            "nope" => Err(err!(UnknownSetting, "setting nope is not known")),
            _ => Ok(()),
        }
    }

    async fn is_streaming(&self, _session: &Session, text: &str) -> Result<bool> {
        Ok(text.starts_with("LIVE"))
    }

    fn metrics(&self) -> Arc<Registry> {
        self.metrics.clone()
    }
}

struct Writer {
    rows: Arc<AtomicU64>,
    written: u64,
}

#[async_trait::async_trait]
impl InsertWriter for Writer {
    async fn write(&mut self, batch: DecodedBatch) -> Result<()> {
        let rows = batch.batch.num_rows() as u64;
        self.written += rows;
        self.rows.fetch_add(rows, Ordering::SeqCst);
        Ok(())
    }
    async fn finish(self: Box<Self>) -> Result<Done> {
        Ok(Done { written_rows: self.written, ..Done::default() })
    }
}
