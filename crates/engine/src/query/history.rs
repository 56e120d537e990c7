//! What is remembered of queries: those that ended, and what was to be said of any.
//!
//! In memory and bounded by rows and bytes; the oldest go first, and a restart forgets all.
//!
//! Not here: what runs now (`registry`).

use crate::Progress;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weir_base::{Clock, Code, Error};

/// A row of `system.query_log`.
#[derive(Debug, Clone)]
pub struct FinishedQuery {
    pub about: QueryAbout,
    /// Microseconds since the Unix epoch.
    pub started_us: i64,
    pub duration: Duration,
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
    pub result_rows: u64,
    pub memory_peak_bytes: u64,
    /// Whether it was understood and began; an error may have come before.
    pub began: bool,
    pub error: Option<(Code, String)>,
}

/// A row of `system.query_warnings`.
#[derive(Debug, Clone)]
pub struct QueryWarning {
    pub at_us: i64,
    pub query_id: String,
    pub query: String,
    pub warning: String,
}

/// Which statement it is.
#[derive(Debug, Clone)]
pub struct QueryAbout {
    pub query_id: String,
    pub user: String,
    pub database: String,
    pub text: String,
    /// `Select`, `Insert`, `Create`, …; empty for text that does not parse.
    pub kind: &'static str,
    pub streaming: bool,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct HistoryBounds {
    pub log_rows_max: usize,
    pub log_bytes_max: usize,
    pub warnings_rows_max: usize,
}

#[derive(Debug)]
struct Bounded<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Bounded { queue: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Bounded<T> {
    fn push(&mut self, item: T, bytes: usize, rows_max: usize, bytes_max: usize) {
        self.queue.push_back((item, bytes));
        self.bytes += bytes;
        while self.queue.len() > rows_max || self.bytes > bytes_max {
            let Some((_, bytes)) = self.queue.pop_front() else { break };
            self.bytes -= bytes;
        }
    }
}

#[derive(Debug)]
pub struct QueryHistory {
    bounds: HistoryBounds,
    clock: Arc<dyn Clock>,
    finished: Mutex<Bounded<FinishedQuery>>,
    warnings: Mutex<Bounded<QueryWarning>>,
}

impl QueryHistory {
    pub fn new(bounds: HistoryBounds, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(QueryHistory { bounds, clock, finished: Mutex::default(), warnings: Mutex::default() })
    }

    /// Begins to watch a statement; it is remembered when it ends.
    pub fn begin(self: &Arc<Self>, about: QueryAbout) -> Arc<QueryRecord> {
        Arc::new(QueryRecord {
            history: self.clone(),
            about: Mutex::new(about),
            progress: Arc::default(),
            started_us: self.clock.now_us(),
            started: self.clock.monotonic(),
            memory_peak_bytes: AtomicU64::new(0),
            began: AtomicBool::new(false),
            error: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Oldest first.
    pub fn finished(&self) -> Vec<FinishedQuery> {
        self.finished.lock().queue.iter().map(|(q, _)| q.clone()).collect()
    }

    /// Oldest first.
    pub fn warnings(&self) -> Vec<QueryWarning> {
        self.warnings.lock().queue.iter().map(|(w, _)| w.clone()).collect()
    }
}

/// One statement while it runs. Ends once, at the latest when the last holder lets go.
#[derive(Debug)]
pub struct QueryRecord {
    history: Arc<QueryHistory>,
    about: Mutex<QueryAbout>,
    pub progress: Arc<Progress>,
    started_us: i64,
    started: Duration,
    memory_peak_bytes: AtomicU64,
    began: AtomicBool,
    error: Mutex<Option<(Code, String)>>,
    ended: AtomicBool,
}

impl QueryRecord {
    pub fn is(&self, kind: &'static str) {
        self.about.lock().kind = kind;
    }

    pub fn kind(&self) -> &'static str {
        self.about.lock().kind
    }

    /// It was understood and runs from here on.
    pub fn begin(&self, streaming: bool) {
        self.about.lock().streaming = streaming;
        self.began.store(true, Ordering::Relaxed);
    }

    /// The first error is why it failed.
    pub fn fail(&self, e: &Error) {
        self.error.lock().get_or_insert_with(|| (e.code, e.message.clone()));
    }

    /// Leaves no trace (`log_queries=0`).
    pub fn forget(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub fn warn(&self, warning: &str) {
        let about = self.about.lock().clone();
        let bytes = about.text.len() + about.query_id.len() + warning.len() + size_of::<QueryWarning>();
        let row = QueryWarning {
            at_us: self.history.clock.now_us(),
            query_id: about.query_id,
            query: about.text,
            warning: warning.to_owned(),
        };
        let bounds = &self.history.bounds;
        self.history.warnings.lock().push(row, bytes, bounds.warnings_rows_max, bounds.log_bytes_max);
    }

    pub fn note_memory(&self, peak_bytes: u64) {
        self.memory_peak_bytes.fetch_max(peak_bytes, Ordering::Relaxed);
    }

    pub fn end(&self, memory_peak_bytes: u64) {
        self.note_memory(memory_peak_bytes);
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let row = FinishedQuery {
            about: self.about.lock().clone(),
            started_us: self.started_us,
            duration: self.history.clock.monotonic().saturating_sub(self.started),
            read_rows: load(&self.progress.read_rows),
            read_bytes: load(&self.progress.read_bytes),
            written_rows: load(&self.progress.written_rows),
            written_bytes: load(&self.progress.written_bytes),
            result_rows: load(&self.progress.result_rows),
            memory_peak_bytes: load(&self.memory_peak_bytes),
            began: self.began.load(Ordering::Relaxed),
            error: self.error.lock().clone(),
        };
        let bytes = row.about.text.len()
            + row.about.query_id.len()
            + row.error.as_ref().map_or(0, |(_, text)| text.len())
            + size_of::<FinishedQuery>();
        let bounds = &self.history.bounds;
        self.history.finished.lock().push(row, bytes, bounds.log_rows_max, bounds.log_bytes_max);
    }
}

impl Drop for QueryRecord {
    fn drop(&mut self) {
        self.end(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::{ManualClock, err};

    fn about(id: &str, text: &str) -> QueryAbout {
        QueryAbout {
            query_id: id.into(),
            user: "u".into(),
            database: "d".into(),
            text: text.into(),
            kind: "",
            streaming: false,
        }
    }

    #[test]
    fn the_newest_are_kept_within_rows_and_bytes() {
        let bounds = HistoryBounds { log_rows_max: 3, log_bytes_max: 4 << 10, warnings_rows_max: 2 };
        let clock = Arc::new(ManualClock::new(1_000));
        let history = QueryHistory::new(bounds, clock.clone());
        for id in ["a", "b", "c", "d"] {
            let record = history.begin(about(id, "select 1"));
            record.warn(id);
            clock.advance(Duration::from_secs(2));
        }
        let ids = || history.finished().into_iter().map(|q| q.about.query_id).collect::<Vec<_>>();
        assert_eq!(ids(), ["b", "c", "d"]);
        assert_eq!(history.finished()[0].duration, Duration::from_secs(2));
        assert_eq!(history.warnings().iter().map(|w| &w.warning).collect::<Vec<_>>(), ["c", "d"]);
        drop(history.begin(about("e", &"x".repeat(3_700))));
        assert_eq!(ids(), ["e"], "the others had to make room");
    }

    #[test]
    fn a_query_ends_once_with_its_first_error() {
        let bounds = HistoryBounds { log_rows_max: 10, log_bytes_max: 1 << 20, warnings_rows_max: 2 };
        let history = QueryHistory::new(bounds, Arc::new(ManualClock::new(0)));
        let record = history.begin(about("a", "select 1"));
        record.begin(true);
        record.fail(&err!(BadArguments, "first"));
        record.fail(&err!(LogicalError, "second"));
        record.end(7);
        record.end(9);
        drop(record);
        history.begin(about("b", "select 2")).forget();
        let [row] = history.finished().try_into().unwrap();
        assert_eq!(row.error.unwrap().1, "first");
        assert!(row.began && row.about.streaming && row.memory_peak_bytes == 7);
    }
}
