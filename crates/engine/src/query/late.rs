//! Rows that streaming queries left out as late: which they were, and the stream that takes them.
//!
//! Which they were is remembered of the newest 1000 rows of each of the last 64 queries that had any.
//! Into `late_rows_stream` they go through ingest, each lot durable before the query goes on.
//!
//! Not here: who is late.

use crate::engine::Statement;
use crate::execute::{Target, target, writer};
use crate::expr::convert_column;
use crate::ingest::{StreamWriter, default_array};
use crate::outcome::InsertWriter;
use crate::query::QueryEntry;
use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions, new_empty_array};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_catalog::RelationName;
use weir_format::DecodedBatch;
use weir_plan::{LateRows, StreamNode, StreamPlan};

const ROWS_MAX: usize = 1_000;
const QUERIES_MAX: usize = 64;

/// A row of `system.late_rows`. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    pub query_id: Arc<str>,
    pub shard: i32,
    pub sn: i64,
    pub event_time_ns: i64,
    pub watermark_ns: i64,
}

/// The newest late rows of queries.
#[derive(Debug, Default)]
pub struct LateLog(Mutex<VecDeque<(Arc<str>, VecDeque<LateRow>)>>);

impl LateLog {
    pub(super) fn add(&self, query_id: &Arc<str>, rows: &LateRows) {
        let mut all = self.0.lock();
        let at = match all.iter().position(|(id, _)| id == query_id) {
            Some(at) => at,
            None => {
                if all.len() == QUERIES_MAX {
                    all.pop_front();
                }
                all.push_back((query_id.clone(), VecDeque::new()));
                all.len() - 1
            }
        };
        let held = &mut all[at].1;
        let n = rows.sns.len();
        for i in n.saturating_sub(ROWS_MAX)..n {
            if held.len() == ROWS_MAX {
                held.pop_front();
            }
            held.push_back(LateRow {
                query_id: query_id.clone(),
                shard: rows.shards.value(i),
                sn: rows.sns.value(i),
                event_time_ns: rows.times_ns.value(i),
                watermark_ns: rows.watermarks_ns.value(i),
            });
        }
    }

    /// The newest of each query last.
    pub fn all(&self) -> Vec<LateRow> {
        self.0.lock().iter().flat_map(|(_, rows)| rows.iter().cloned()).collect()
    }
}

/// Writes late rows of one query to a stream.
pub struct LateWriter {
    target: Target,
    writer: StreamWriter,
    wrap: bool,
}

impl std::fmt::Debug for LateWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LateWriter").field("target", &self.target.name).finish_non_exhaustive()
    }
}

/// The stream of the setting `late_rows_stream` with all columns that can be inserted.
///
/// # Errors
/// As for an INSERT into it.
pub(crate) fn late_target(cx: &Statement) -> Result<Option<Target>> {
    let Some(text) = &cx.settings.late_rows_stream else { return Ok(None) };
    let (database, name) = match text.split_once('.') {
        Some((database, name)) => (database.to_owned(), name.to_owned()),
        None => (cx.session_database().to_owned(), text.clone()),
    };
    let named = |e: Error| Error { message: format!("late_rows_stream: {}", e.message), ..e };
    let name = RelationName { database, name };
    let all = target(cx, &name, None).map_err(named)?.insertable();
    target(cx, &name, Some(&all)).map_err(named).map(Some)
}

impl LateWriter {
    /// # Errors
    /// Code 36 where no row can be late or the stream is one that is read, 53 for columns that do not
    /// fit.
    pub(crate) fn new(
        cx: &Statement,
        target: Target,
        plan: &StreamPlan,
        entry: &Arc<QueryEntry>,
    ) -> Result<Self> {
        let name = &target.name;
        let read = plan.root.sources();
        if read.iter().any(|(_, s)| s.database == name.database && s.relation == name.name) {
            return Err(err!(
                BadArguments,
                "late_rows_stream {name} is read by the query itself: its late rows would come back late"
            ));
        }
        let mut judging = false;
        check(&plan.root, &target, cx.settings.cast_overflow_wrap, &mut judging)?;
        if !judging {
            return Err(err!(
                BadArguments,
                "late_rows_stream is for queries with windows over a stream: no row of this one can be late"
            ));
        }
        let writer = writer(cx, &target, entry)?;
        Ok(LateWriter { target, writer, wrap: cx.settings.cast_overflow_wrap })
    }

    /// Returns when the rows are as durable as the query's `ack` asks for.
    pub(super) async fn write(&mut self, kept: &RecordBatch) -> Result<()> {
        let rows = kept.num_rows();
        let schema = kept.schema();
        let (mut columns, mut absent) = (Vec::new(), Vec::new());
        for (name, to) in &self.target.columns {
            match schema.column_with_name(name) {
                Some((i, from)) => {
                    columns.push(convert_column(kept.column(i), from, to, self.wrap)?);
                    absent.push(None);
                }
                None => {
                    columns.push(default_array(to, rows));
                    absent.push(Some(BooleanArray::from(vec![true; rows])));
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.target.schema.clone(), columns, &options)
            .map_err(|e| err!(TypeMismatch, "late rows do not fit {}: {e}", self.target.name))?;
        self.writer.write(DecodedBatch { batch, absent }).await?;
        self.writer.commit().await
    }
}

/// Whether what windows keep of late rows fits a stream.
fn check(node: &StreamNode, target: &Target, wrap: bool, judging: &mut bool) -> Result<()> {
    if let StreamNode::Window { judged: Some(judged), input, .. } = node {
        *judging = true;
        if judged.kept.is_empty() {
            return Err(err!(
                BadArguments,
                "late_rows_stream {} shares no column with the stream whose rows may be late",
                target.name
            ));
        }
        let schema = input.schema();
        for (name, at) in &judged.kept {
            let from = schema.field(*at).clone().with_name(name.as_str());
            let to = target.columns.iter().find(|(n, _)| n == name);
            let (_, to) = to.ok_or_else(|| err!(LogicalError, "column {name} was not asked for"))?;
            convert_column(&new_empty_array(from.data_type()), &from, to, wrap).map_err(|e| Error {
                message: format!("late_rows_stream {}: {}", target.name, e.message),
                ..e
            })?;
        }
    }
    node.inputs().into_iter().try_for_each(|input| check(input, target, wrap, judging))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array};
    use arrow::datatypes::Schema;

    #[test]
    fn the_newest_rows_of_the_last_queries_are_remembered() {
        let log = LateLog::default();
        let rows = |from: i64, n: i64| LateRows {
            kept: RecordBatch::new_empty(Arc::new(Schema::empty())),
            shards: Int32Array::from(vec![0; n as usize]),
            sns: (from..from + n).collect::<Vec<_>>().into(),
            times_ns: Int64Array::from(vec![1; n as usize]),
            watermarks_ns: Int64Array::from(vec![2; n as usize]),
        };
        let id: Arc<str> = "a".into();
        log.add(&id, &rows(0, 600));
        log.add(&id, &rows(600, 600));
        let sns: Vec<i64> = log.all().iter().map(|r| r.sn).collect();
        assert_eq!(sns, (200..1_200).collect::<Vec<_>>());
        log.add(&id, &rows(0, 5_000));
        assert_eq!(log.all().len(), ROWS_MAX);
        for i in 0..QUERIES_MAX {
            log.add(&format!("q{i}").into(), &rows(0, 1));
        }
        let all = log.all();
        assert_eq!((all.len(), &*all[0].query_id), (QUERIES_MAX, "q0"));
    }
}
