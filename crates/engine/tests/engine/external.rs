//! External streams over a log that a test holds in its hands: partitions whose offsets have gaps, messages of
//! several rows, a partition that answers nothing, one that comes later, a sink with transactions. The power
//! fails in between (the log is elsewhere and keeps what it has).

use super::{Options, Server, table_mode};
use crate::views::wait_until;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray, new_null_array};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimestampMillisecondType};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;
use weir_base::disk::SimDisk;
use weir_base::{Code, SeqNo};
use weir_plan::{
    Connector, ExternalRead, ExternalReader, ExternalRows, ExternalScan, ExternalSpec, ExternalStream,
    ExternalWrite, ExternalWriter, LogTopic, Partition, Position, StreamError,
};

/// Rows of a message, all with one offset: key, value, and event time in milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub offset: u64,
    pub append_ms: i64,
    pub rows: Vec<(i64, i64, i64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub partitions: Vec<Vec<Message>>,
    /// Partitions that give nothing and do not say that they are at their end.
    pub stuck: BTreeSet<i32>,
    held: BTreeSet<i32>,
    /// Messages handed out at most, by partition.
    read: BTreeMap<i32, usize>,
    /// Rows of transactions and how far their writer had come, by name; and rows written without.
    committed: Vec<(i64, i64)>,
    reached: HashMap<String, Position>,
    /// Offsets below are gone.
    pub first: u64,
    /// Nobody answers.
    pub away: bool,
    /// So many flushes more, then they fail.
    flushes_left: Option<usize>,
}

/// What lies on the other side.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    inner: Arc<Mutex<Inner>>,
    moved: watch::Sender<u64>,
    kind: &'static str,
}

impl Elsewhere {
    /// To be the log of streams: what is written becomes messages.
    pub fn log(partitions: usize) -> Self {
        Elsewhere { kind: "kafka", ..Self::new(partitions) }
    }

    fn new(partitions: usize) -> Self {
        let inner = Inner { partitions: vec![Vec::new(); partitions], ..Inner::default() };
        Elsewhere { inner: Arc::new(Mutex::new(inner)), moved: watch::channel(0).0, kind: "elsewhere" }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.moved.send_modify(|n| *n += 1);
    }

    /// Appends a message; offsets leave gaps.
    pub fn append(&self, partition: usize, append_ms: i64, rows: &[(i64, i64, i64)]) {
        self.change(|inner| {
            inner.push(partition, append_ms, rows);
        });
    }
}

impl Inner {
    /// One past the offset of the message.
    fn push(&mut self, partition: usize, append_ms: i64, rows: &[(i64, i64, i64)]) -> SeqNo {
        let log = &mut self.partitions[partition];
        let offset = log.last().map_or(3, |m| m.offset + 2 + m.offset % 3);
        log.push(Message { offset, append_ms, rows: rows.to_vec() });
        SeqNo(offset + 1)
    }
}

#[async_trait::async_trait]
impl Connector for Elsewhere {
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn secrets(&self) -> &'static [&'static str] {
        &["door"]
    }
    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        Ok(Arc::new(Stream {
            log: self.clone(),
            payload: spec.payload,
            around: spec.around,
            transactional: spec.settings.contains_key("transactional")
                || spec.settings.get("delivery").is_some_and(|d| d == "exactly_once"),
        }))
    }
    async fn infer(&self, _: ExternalSpec) -> Result<SchemaRef, StreamError> {
        Err(StreamError { code: Code::NotImplemented, message: "name the columns".into() })
    }
}

#[derive(Debug)]
struct Stream {
    log: Elsewhere,
    payload: SchemaRef,
    around: SchemaRef,
    transactional: bool,
}

#[async_trait::async_trait]
impl ExternalStream for Stream {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        let inner = self.log.lock();
        if inner.away {
            return Err(StreamError { code: Code::NetworkError, message: "nobody answers".into() });
        }
        let all = inner.partitions.iter().enumerate();
        Ok(all
            .map(|(id, log)| Partition {
                id: id as i32,
                first: SeqNo(inner.first),
                // A gap at the end, as the mark of a transaction leaves one.
                end: SeqNo(log.last().map_or(0, |m| m.offset + 2)),
            })
            .collect())
    }

    async fn seek_time(&self, _: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        Ok(of.iter().map(|p| p.first).collect())
    }

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        Ok(Box::new(Reader {
            moved: self.log.moved.subscribe(),
            at: scan.from.iter().copied().collect(),
            told: BTreeMap::new(),
            follow: scan.follow,
            payload: self.payload.clone(),
            around: self.around.clone(),
            turn: 0,
            log: self.log.clone(),
        }))
    }

    async fn make_log(&self, _: LogTopic) -> Result<u32, StreamError> {
        Ok(self.log.lock().partitions.len() as u32)
    }

    async fn raw(&self, _: i32, _: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        Ok(None)
    }

    async fn write(&self, how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        Ok(Box::new(Writer { log: self.log.clone(), how, rows: Vec::new(), taken: BTreeMap::new() }))
    }

    fn is_transactional(&self) -> bool {
        self.transactional
    }
}

struct Reader {
    log: Elsewhere,
    moved: watch::Receiver<u64>,
    at: BTreeMap<i32, SeqNo>,
    /// Where the end of each partition was said.
    told: BTreeMap<i32, SeqNo>,
    follow: bool,
    payload: SchemaRef,
    around: SchemaRef,
    turn: usize,
}

impl Reader {
    /// As a broker does that is asked for offsets it does not have.
    fn check(&self) -> Result<(), StreamError> {
        if self.log.lock().away {
            return Err(StreamError { code: Code::NetworkError, message: "nobody answers".into() });
        }
        let inner = self.log.lock();
        for (id, at) in &self.at {
            let end = inner.partitions[*id as usize].last().map_or(0, |m| m.offset + 2);
            if at.0 > end {
                return Err(StreamError {
                    code: Code::SequenceOutOfRange,
                    message: format!("offset {at} is not there, the end is {end}"),
                });
            }
        }
        let first = inner.first;
        match self.at.values().find(|at| at.0 < first) {
            None => Ok(()),
            Some(at) => Err(StreamError {
                code: Code::SequenceOutOfRange,
                message: format!("offset {at} is gone, the oldest is {first}"),
            }),
        }
    }

    fn step(&mut self) -> Option<ExternalRead> {
        let mut inner = self.log.lock();
        let n = inner.partitions.len();
        if let Some(new) = (0..n as i32).find(|id| self.follow && !self.at.contains_key(id)) {
            self.at.insert(new, SeqNo(0));
            return Some(ExternalRead::Appeared(new));
        }
        self.turn += 1;
        for k in 0..n {
            let id = ((self.turn + k) % n) as i32;
            let Some(at) = self.at.get_mut(&id) else { continue };
            if inner.stuck.contains(&id) || inner.held.contains(&id) {
                continue;
            }
            let log = &inner.partitions[id as usize];
            let from = log.partition_point(|m| m.offset < at.0);
            // Batches of one to three messages.
            let some: Vec<Message> = log[from..].iter().take(1 + self.turn % 3).cloned().collect();
            let end = SeqNo(log.last().map_or(0, |m| m.offset + 2));
            if let Some(last) = some.last() {
                *at = SeqNo(last.offset + 1);
                *inner.read.entry(id).or_default() += some.len();
                return Some(ExternalRead::Rows(rows(id, &some, &self.payload, &self.around, *at)));
            }
            if self.told.insert(id, end) != Some(end) {
                *at = end;
                return Some(ExternalRead::CaughtUp { partition: id, at: end });
            }
        }
        None
    }
}

fn rows(
    partition: i32,
    some: &[Message],
    payload: &SchemaRef,
    around: &SchemaRef,
    next: SeqNo,
) -> ExternalRows {
    let all = || some.iter().flat_map(|m| m.rows.iter().map(move |r| (m, r)));
    let n = all().count();
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    for field in payload.fields().iter().chain(around.fields()) {
        let ints = |of: fn(&(i64, i64, i64)) -> i64| Int64Array::from_iter_values(all().map(|(_, r)| of(r)));
        let array: ArrayRef = match field.name().as_str() {
            "k" => Arc::new(ints(|r| r.0)),
            "v" => Arc::new(ints(|r| r.1)),
            "_tp_time" => {
                let times = TimestampMillisecondArray::from_iter_values(all().map(|(_, r)| r.2));
                Arc::new(times.with_timezone("UTC"))
            }
            _ => new_null_array(field.data_type(), n),
        };
        if matches!(field.data_type(), DataType::Map(..)) {
            continue;
        }
        columns.push((field.name().clone(), array, field.is_nullable()));
    }
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    ExternalRows {
        partition,
        absent: vec![None; batch.num_columns()],
        batch,
        sns: all().map(|(m, _)| m.offset as i64).collect(),
        append_us: all().map(|(m, _)| m.append_ms * 1_000).collect(),
        next,
    }
}

#[async_trait::async_trait]
impl ExternalReader for Reader {
    async fn next(&mut self) -> Result<ExternalRead, StreamError> {
        loop {
            self.moved.borrow_and_update();
            self.check()?;
            if let Some(read) = self.step() {
                return Ok(read);
            }
            self.moved
                .changed()
                .await
                .map_err(|e| StreamError { code: Code::IoError, message: e.to_string() })?;
        }
    }
    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError> {
        self.check()?;
        Ok(self.step())
    }
    fn hold(&mut self, partition: i32, hold: bool) {
        self.log.change(|inner| {
            if hold {
                inner.held.insert(partition);
            } else {
                inner.held.remove(&partition);
            }
        });
    }
    fn trouble(&self) -> Option<String> {
        None
    }
}

struct Writer {
    log: Elsewhere,
    how: ExternalWrite,
    rows: Vec<(i32, (i64, i64, i64))>,
    taken: BTreeMap<i32, SeqNo>,
}

#[async_trait::async_trait]
impl ExternalWriter for Writer {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        let of = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let (k, v) = (of("k"), of("v"));
        let times = rows.column_by_name("_tp_time").unwrap().as_primitive::<TimestampMillisecondType>();
        let partitions = rows.column_by_name("_tp_shard").map(|p| p.as_primitive::<Int32Type>());
        for i in 0..rows.num_rows() {
            let partition = partitions.map_or(0, |p| p.value(i));
            self.rows.push((partition, (k.value(i), v.value(i), times.value(i))));
        }
        Ok(())
    }

    async fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError> {
        let mut inner = self.log.lock();
        if inner.away {
            return Err(StreamError { code: Code::NetworkError, message: "nobody answers".into() });
        }
        if let Some(left) = &mut inner.flushes_left {
            if *left == 0 {
                return Err(StreamError { code: Code::NetworkError, message: "nobody takes it".into() });
            }
            *left -= 1;
        }
        for (partition, row) in self.rows.drain(..) {
            if self.log.kind == "kafka" {
                let end = inner.push(partition as usize, row.2, &[row]);
                self.taken.insert(partition, end);
            }
            inner.committed.push((row.0, row.1));
        }
        if let (ExternalWrite::Transactional(name), Some(at)) = (&self.how, at) {
            inner.reached.insert(name.clone(), at.clone());
        }
        drop(inner);
        self.log.change(|_| {});
        Ok(())
    }

    fn acknowledged(&self) -> Vec<(i32, SeqNo)> {
        self.taken.iter().map(|(id, end)| (*id, *end)).collect()
    }

    async fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        let ExternalWrite::Transactional(name) = &self.how else { return Ok(None) };
        Ok(self.log.lock().reached.get(name).cloned())
    }
}

const COLUMNS: &str = "(k int64, v int64) SETTINGS type='elsewhere'";

pub(crate) fn server(from: &Elsewhere) -> Server {
    let disk = Some(SimDisk::new(7));
    Server::with(Options { disk, connectors: vec![Arc::new(from.clone())], ..Options::default() })
}

pub(crate) const START_MS: i64 = 1_767_225_600_000;

/// The `n`th lot of messages: two to each partition, of one to three rows, 10 ms of event time a row.
fn feed(to: &Elsewhere, n: i64) {
    let partitions = to.lock().partitions.len() as i64;
    for i in 0..2 * partitions {
        let at = START_MS + (n * 2 * partitions + i) * 10;
        let rows: Vec<_> =
            (0..1 + (n + i) % 3).map(|r| ((n + i + r) % 5, n * 100 + i * 10 + r, at)).collect();
        to.append((i % partitions) as usize, at, &rows);
    }
}

pub(crate) fn total(of: &Elsewhere) -> Vec<(i64, i64)> {
    let inner = of.lock();
    let rows = inner.partitions.iter().flatten().flat_map(|m| &m.rows);
    let mut all: Vec<(i64, i64)> = rows.map(|r| (r.0, r.1)).collect();
    all.sort_unstable();
    all
}

/// Returns once every view goes on.
pub(crate) fn runs(server: &Server) {
    wait_until("the views run", || {
        server.rows("SELECT count() FROM system.materialized_views WHERE state != 'Running'") == ["0"]
    });
}

#[test]
fn views_take_each_row_once_wherever_the_power_fails() {
    let log = Elsewhere::new(3);
    let mut server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    server.run("CREATE STREAM t (k int64, v int64) SETTINGS shards=2");
    let settings = "SETTINGS seek_to='earliest', checkpoint_interval=3600";
    server.run(&format!("CREATE MATERIALIZED VIEW kept INTO t AS SELECT k, v FROM e {settings}"));
    server.run(&format!(
        "CREATE MATERIALIZED VIEW counted AS SELECT k, count() AS c, sum(v) AS sv FROM e GROUP BY k \
         EMIT ON UPDATE {settings}"
    ));
    server.run(&format!(
        "CREATE MATERIALIZED VIEW windows AS SELECT window_start, count() AS c, sum(v) AS sv FROM tumble(e, 100ms) \
         GROUP BY window_start {settings}"
    ));
    let all_views = |server: &Server, what: &str| {
        for view in ["kept", "counted", "windows"] {
            server.run(&format!("SYSTEM {what} VIEW {view}"));
        }
    };
    for round in 0..12 {
        feed(&log, round);
        match round % 4 {
            0 => all_views(&server, "SYNC"),
            1 => all_views(&server, "CHECKPOINT"),
            2 => wait_until("some rows are there", || server.rows("SELECT count() > 0 FROM t") == ["true"]),
            _ => {}
        }
        if round == 6 {
            // It comes while they run.
            log.change(|inner| inner.partitions.push(Vec::new()));
        }
        server.power_fails();
        runs(&server);
    }
    let all = total(&log);
    all_views(&server, "SYNC");
    let kept: Vec<String> = all.iter().map(|(k, v)| format!("{k} {v}")).collect();
    assert_eq!(server.rows("SELECT k, v FROM t ORDER BY k, v"), kept);
    assert_eq!(server.rows("SELECT k, v FROM e ORDER BY k, v"), kept, "the bounded query sees the same");
    let bounded = server.rows("SELECT k, count(), sum(v) FROM e GROUP BY k ORDER BY k");
    assert_eq!(server.rows("SELECT k, max(c), max(sv) FROM counted GROUP BY k ORDER BY k"), bounded);
    let closed = server.rows("SELECT window_start, c, sv FROM windows ORDER BY window_start");
    let bounded =
        server.rows("SELECT window_start, count(), sum(v) FROM tumble(e, 100ms) GROUP BY window_start ORDER BY window_start");
    assert!(closed.len() > 3 && bounded.starts_with(&closed), "{closed:?}\n{bounded:?}");
}

#[test]
fn transactions_carry_how_far_a_view_has_come() {
    let log = Elsewhere::new(2);
    let mut server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    server.run(&format!("CREATE EXTERNAL STREAM out {COLUMNS}, transactional=1"));
    server.run(
        "CREATE MATERIALIZED VIEW v INTO out AS SELECT k, v FROM e SETTINGS seek_to='earliest', checkpoint_interval=3600",
    );
    for round in 0..10 {
        feed(&log, round);
        match round % 3 {
            0 => {
                server.run("SYSTEM CHECKPOINT VIEW v");
            }
            1 => wait_until("something was committed", || log.lock().committed.len() as i64 > round),
            _ => {}
        }
        server.power_fails();
        runs(&server);
    }
    let all = total(&log);
    wait_until("all is committed", || log.lock().committed.len() >= all.len());
    let mut committed = log.lock().committed.clone();
    committed.sort_unstable();
    assert_eq!(committed, all);
}

#[test]
fn a_view_whose_rows_nobody_takes_says_so_and_goes_on_when_somebody_does() {
    let log = Elsewhere::new(1);
    let server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    server.run(&format!("CREATE EXTERNAL STREAM out {COLUMNS}"));
    server.run("CREATE MATERIALIZED VIEW v INTO out AS SELECT k, v FROM e SETTINGS seek_to='earliest'");
    log.change(|inner| inner.flushes_left = Some(0));
    log.append(0, START_MS, &[(1, 1, START_MS)]);
    wait_until("the view says why it waits", || {
        let seen = server.rows("SELECT state, last_error FROM system.materialized_views");
        seen[0].starts_with("Backoff") && seen[0].contains("nobody takes it")
    });
    log.change(|inner| inner.flushes_left = None);
    wait_until("its row is there", || log.lock().committed.contains(&(1, 1)));
    let e = server.error("SELECT count() FROM out SETTINGS shards='4'");
    assert!(e.message.contains("partition 4"), "{e}");
}

#[test]
fn messages_that_are_gone_before_a_view_came_back_stop_it() {
    let log = Elsewhere::new(1);
    let server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    server.run("CREATE MATERIALIZED VIEW v AS SELECT k, v FROM e SETTINGS seek_to='earliest'");
    feed(&log, 0);
    server.run("SYSTEM SYNC VIEW v");
    server.run("SYSTEM PAUSE VIEW v");
    feed(&log, 1);
    log.change(|inner| inner.first = inner.partitions[0].last().map_or(0, |m| m.offset));
    // It may be found while the view starts, or right after.
    let _ = server.execute(&mut table_mode(), "SYSTEM RESUME VIEW v");
    wait_until("the view says so", || {
        let seen = server.rows("SELECT state, last_error FROM system.materialized_views");
        seen[0].starts_with("Error") && seen[0].contains("is gone")
    });
    // A query that begins there begins with what there is, and is told.
    let mut tail = server.tail("SELECT k FROM e SETTINGS seek_to='3'");
    assert_eq!(tail.take(1).len(), 1);
    let warned =
        "SELECT count() > 0 FROM system.query_warnings WHERE warning LIKE '%holds no message before%'";
    assert_eq!(server.rows(warned), ["true"]);
}

#[test]
fn a_partition_that_answers_nothing_holds_others_back_within_a_bound() {
    let log = Elsewhere::new(2);
    let server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    log.change(|inner| inner.stuck.extend([1]));
    let messages = 40_000;
    let wide: Vec<(i64, i64, i64)> = (0..30).map(|i| (i, 1, START_MS)).collect();
    for i in 0..messages {
        log.append(0, START_MS + i, &wide);
    }
    server.run(
        "CREATE MATERIALIZED VIEW v AS SELECT window_start, count() AS c FROM tumble(e, 1s) GROUP BY window_start \
         SETTINGS seek_to='earliest'",
    );
    wait_until("the other one is not read any more", || log.lock().held.contains(&0));
    let read = log.lock().read[&0];
    assert!(read < messages as usize / 2, "{read} of {messages} messages wait");
    log.append(1, START_MS + messages, &[(0, 1, START_MS + 5_000)]);
    log.change(|inner| inner.stuck.clear());
    wait_until("all are read", || log.lock().read.get(&0) == Some(&(messages as usize)));
}

#[test]
fn a_silent_partition_does_not_hold_windows_open() {
    let log = Elsewhere::new(2);
    let server = server(&log);
    server.run(&format!("CREATE EXTERNAL STREAM e {COLUMNS}"));
    let mut tail = server.tail(
        "SELECT window_start, count() FROM tumble(e, 1s) GROUP BY window_start SETTINGS watermark_idle_timeout_ms=200",
    );
    wait_until("it reads", || {
        server.rows("SELECT count() FROM system.queries WHERE is_streaming AND state = 'Running'") == ["1"]
    });
    log.append(1, START_MS, &[(1, 1, START_MS)]);
    // Later by far: the other partition is idle at that time.
    for i in 0..3 {
        log.append(0, START_MS + 1_000 * i, &[(1, 1, START_MS + 1_000 * i)]);
    }
    assert_eq!(tail.take(1), ["2026-01-01T00:00:00Z 2"]);
    let _ = server.execute(&mut table_mode(), "KILL QUERY WHERE is_streaming");
}
