//! Reads a stream of another Weir: a query without end for each shard, begun anew wherever it breaks off.

use super::remote::{Remote, ident};
use crate::http::NoAnswer;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weir_base::{Code, SeqNo};
use weir_format::types::Type;
use weir_format::{FormatSettings, decoder};
use weir_plan::{
    ExternalRead, ExternalReader, ExternalRows, ExternalScan, MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN,
    StreamError,
};

/// Batches of a shard that wait for the query.
const AHEAD: usize = 4;
/// A shard that is silent for so long is asked whether that was all.
const SILENCE: Duration = Duration::from_millis(100);
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A connection over which nothing comes for so long, while there is more, is given up.
const DEAF: Duration = Duration::from_secs(30);
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
const SN: &str = "_tp_sn";
const APPEND_TIME: &str = "_tp_append_time";

type Read = Result<ExternalRead, StreamError>;

pub(super) struct WeirReader {
    shards: BTreeMap<i32, mpsc::Receiver<Read>>,
    held: BTreeSet<i32>,
    trouble: Arc<Mutex<BTreeMap<i32, String>>>,
    /// Ended with the reader.
    _tasks: JoinSet<()>,
}

pub(super) fn start(
    remote: &Arc<Remote>,
    payload: &SchemaRef,
    around: &SchemaRef,
    scan: ExternalScan,
) -> WeirReader {
    let wanted = |f: &&Arc<Field>| scan.columns.as_ref().is_none_or(|names| names.contains(f.name()));
    let fields: Vec<Arc<Field>> =
        payload.fields().iter().chain(around.fields()).filter(wanted).cloned().collect();
    let schema = Arc::new(Schema::new(fields));
    let trouble: Arc<Mutex<BTreeMap<i32, String>>> = Arc::default();
    let (mut tasks, mut shards) = (JoinSet::new(), BTreeMap::new());
    for (shard, from) in scan.from {
        let (to, from_task) = mpsc::channel(AHEAD);
        let reading = Reading {
            remote: remote.clone(),
            shard,
            next: from,
            skipped: scan.skipped.get(&shard).cloned().unwrap_or_default(),
            schema: schema.clone(),
            to,
            trouble: trouble.clone(),
        };
        tasks.spawn(reading.run());
        shards.insert(shard, from_task);
    }
    WeirReader { shards, held: BTreeSet::new(), trouble, _tasks: tasks }
}

fn ended() -> StreamError {
    StreamError {
        code: Code::LogicalError,
        message: "a task that reads another Weir stopped on a bug".into(),
    }
}

#[async_trait::async_trait]
impl ExternalReader for WeirReader {
    async fn next(&mut self) -> Result<ExternalRead, StreamError> {
        let held = &self.held;
        std::future::poll_fn(|cx| {
            for (_, from) in self.shards.iter_mut().filter(|(id, _)| !held.contains(id)) {
                if let std::task::Poll::Ready(read) = from.poll_recv(cx) {
                    return std::task::Poll::Ready(read.unwrap_or_else(|| Err(ended())));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError> {
        for (_, from) in self.shards.iter_mut().filter(|(id, _)| !self.held.contains(id)) {
            match from.try_recv() {
                Ok(read) => return read.map(Some),
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(ended()),
            }
        }
        Ok(None)
    }

    fn hold(&mut self, partition: i32, hold: bool) {
        if hold {
            self.held.insert(partition);
        } else {
            self.held.remove(&partition);
        }
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().values().next().cloned()
    }
}

struct Reading {
    remote: Arc<Remote>,
    shard: i32,
    next: SeqNo,
    skipped: BTreeSet<SeqNo>,
    /// Of the rows given.
    schema: SchemaRef,
    to: mpsc::Sender<Read>,
    trouble: Arc<Mutex<BTreeMap<i32, String>>>,
}

/// Nobody wants more.
struct Gone;

impl Reading {
    async fn run(mut self) {
        let mut wait = WAIT_MIN;
        loop {
            let before = self.next;
            let failed = match self.follow().await {
                Ok(Err(failed)) => failed,
                // Its query ended over there, by a restart or a KILL.
                Ok(Ok(())) => NoAnswer::Away(StreamError {
                    code: Code::NetworkError,
                    message: format!(
                        "{}: the query ended there",
                        self.remote.doing("could not go on reading")
                    ),
                }),
                Err(Gone) => return,
            };
            match failed {
                NoAnswer::Away(e) => {
                    self.trouble.lock().insert(self.shard, e.message);
                }
                NoAnswer::Refused(e) | NoAnswer::Bad(e) => {
                    // Who gave up hears it no more.
                    let _ = self.to.send(Err(e)).await;
                    return;
                }
            }
            if self.next > before {
                wait = WAIT_MIN;
            }
            tokio::select! {
                () = self.to.closed() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    fn asked(&self) -> Schema {
        let around = [MESSAGE_KEY_COLUMN, MESSAGE_HEADERS_COLUMN];
        let there = self.schema.fields().iter().filter(|f| !around.contains(&f.name().as_str())).cloned();
        let sn = Type::Int64.field(SN);
        let time = Type::DateTime64(6, Some("UTC".into())).field(APPEND_TIME);
        Schema::new(there.chain([Arc::new(sn), Arc::new(time)]).collect::<Vec<_>>())
    }

    /// Reads until the connection breaks off.
    async fn follow(&mut self) -> Result<Result<(), NoAnswer>, Gone> {
        let asked = Arc::new(self.asked());
        let columns: Vec<String> = asked.fields().iter().map(|f| ident(f.name())).collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE _tp_shard = {}",
            columns.join(", "),
            self.remote.stream(),
            self.shard
        );
        // Of the other shards nothing that is there already.
        let held = match self.remote.partitions().await {
            Ok(held) => held,
            Err(e) if e.code == Code::NetworkError => return Ok(Err(NoAnswer::Away(e))),
            Err(e) => return Ok(Err(NoAnswer::Bad(e))),
        };
        if let Some(gone) = held.iter().find(|p| p.id == self.shard && p.first > self.next) {
            return Ok(Err(NoAnswer::Bad(StreamError {
                code: Code::SequenceOutOfRange,
                message: format!(
                    "{}: shard {} holds rows from {}; row {} was to be read next, and retention has removed it. Start \
                     the query anew, or keep more log there",
                    self.remote.doing("could not go on reading"),
                    self.shard,
                    gone.first,
                    self.next
                ),
            })));
        }
        let from = held.iter().map(|p| if p.id == self.shard { self.next } else { p.end }.to_string());
        let from = from.collect::<Vec<_>>().join(",");
        let settings =
            [("default_format", "ArrowStream"), ("query_mode", "streaming"), ("seek_to", from.as_str())];
        let what = "could not read";
        let mut answer = match self.remote.send(what, &sql, &settings, None, false).await {
            Ok(answer) => answer,
            Err(e) => return Ok(Err(e)),
        };
        let mut rows = match decoder("ArrowStream", asked, &FormatSettings::default()) {
            Ok(rows) => rows,
            Err(e) => return Ok(Err(self.damaged(e))),
        };
        let (mut silence, mut silent, mut told) = (SILENCE, Duration::ZERO, false);
        loop {
            let chunk = match tokio::time::timeout(silence, answer.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(e)) => return Ok(Err(NoAnswer::away(&self.remote.doing(what), &e))),
                Err(_) => {
                    silent += silence;
                    silence = (silence * 2).min(SILENCE_MAX);
                    let all = match self.remote.partitions().await {
                        Ok(all) => all,
                        Err(e) => return Ok(Err(NoAnswer::Away(e))),
                    };
                    let end = all.iter().find(|p| p.id == self.shard).map(|p| p.end);
                    if end.is_some_and(|end| end > self.next) {
                        // There is more: the connection may be one in name only.
                        if silent >= DEAF {
                            return Ok(Err(self.damaged("rows there do not come")));
                        }
                    } else if !told {
                        told = true;
                        let at = self.next;
                        self.give(ExternalRead::CaughtUp { partition: self.shard, at }).await?;
                    }
                    continue;
                }
            };
            (silence, silent, told) = (SILENCE, Duration::ZERO, false);
            let Some(chunk) = chunk else { return Ok(Ok(())) };
            if let Err(e) = rows.push(chunk) {
                return Ok(Err(self.damaged(e)));
            }
            loop {
                match rows.next_batch(usize::MAX) {
                    Ok(Some(batch)) => {
                        self.trouble.lock().remove(&self.shard);
                        self.rows(&batch.batch).await?;
                    }
                    Ok(None) => break,
                    Err(e) => return Ok(Err(self.damaged(e))),
                }
            }
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> NoAnswer {
        let message = format!("{}: {what}", self.remote.doing("could not read"));
        NoAnswer::Away(StreamError { code: Code::NetworkError, message })
    }

    async fn give(&self, read: ExternalRead) -> Result<(), Gone> {
        self.to.send(Ok(read)).await.map_err(|_| Gone)
    }

    async fn rows(&mut self, batch: &RecordBatch) -> Result<(), Gone> {
        let sns = batch.column_by_name(SN).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let times =
            batch.column_by_name(APPEND_TIME).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let (Some(sns), Some(times)) = (sns, times) else { return Ok(()) };
        let wanted = |sn: i64| sn >= self.next.0 as i64 && !self.skipped.contains(&SeqNo(sn as u64));
        let keep: BooleanArray = sns.values().iter().map(|sn| Some(wanted(*sn))).collect();
        let next = sns.values().last().map_or(self.next, |sn| SeqNo(*sn as u64 + 1).max(self.next));
        let picked = |array: &dyn Array| arrow_select::filter::filter(array, &keep).ok();
        let n = keep.true_count();
        let columns: Option<Vec<_>> = self
            .schema
            .fields()
            .iter()
            .map(|field| match batch.column_by_name(field.name()) {
                Some(column) => picked(column),
                // A row there has no key and no headers.
                None => Some(weir_format::default_array(field, n)),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let made =
            columns.and_then(|c| RecordBatch::try_new_with_options(self.schema.clone(), c, &options).ok());
        let (Some(made), Some(sns), Some(times)) = (made, picked(sns), picked(times)) else {
            let message = "rows of another Weir do not fit their columns".to_owned();
            self.to.send(Err(StreamError { code: Code::LogicalError, message })).await.map_err(|_| Gone)?;
            return Err(Gone);
        };
        self.next = next;
        let rows = ExternalRows {
            partition: self.shard,
            absent: vec![None; made.num_columns()],
            batch: made,
            sns: sns.as_primitive::<Int64Type>().values().to_vec(),
            append_us: times.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            next,
        };
        self.give(ExternalRead::Rows(rows)).await
    }
}
