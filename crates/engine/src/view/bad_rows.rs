//! Rows that a view's query fails on: found one by one, then the view stops, or goes on without them.
//!
//! ```text
//! failed on many rows -> once more from the checkpoint, these one by one -> failed on one:
//!   on_error='stop' -> Error, with the row      'skip' | 'dlq' -> noted durably, left out from now on
//! ```
//!
//! A query is not asked to undo half a batch: it starts again from its checkpoint, and the row is not given.
//!
//! Not here: leaving rows out (`source`), writing them to `<view>_dlq` (`dlq`).

use crate::source::Cuts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use weir_base::disk::{create_dir_durable, read_file, write_file_atomic};
use weir_base::{Code, Disk, ErrorKind, SeqNo};
use weir_catalog::RelationName;
use weir_plan::{NodeId, RowsAt};

/// Rows that are left out, over all sources; a view with more stops, whatever it was told.
const SKIPPED_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OnError {
    #[default]
    Stop,
    Skip,
    Dlq,
}

impl OnError {
    pub fn of(settings: &BTreeMap<String, String>) -> Self {
        match settings.get("on_error").map(|s| s.to_ascii_lowercase()).as_deref() {
            Some("skip") => OnError::Skip,
            Some("dlq") => OnError::Dlq,
            _ => OnError::Stop,
        }
    }
}

/// A row by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    pub stream: RelationName,
    pub shard: usize,
    pub sn: SeqNo,
}

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is no row's fault, or nobody knows which.
    NotARow,
    /// Start again, and give these rows one by one.
    LookCloser,
    /// The view stops at this row.
    Stop(BadRow),
    /// The view goes on without it.
    LeaveOut(BadRow),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    v: u32,
    /// Stream, shard, sequence number.
    rows: Vec<(RelationName, usize, u64)>,
}

/// What a view knows of its bad rows.
#[derive(Debug, Default)]
pub(super) struct BadRows {
    skipped: BTreeMap<(RelationName, usize), BTreeSet<SeqNo>>,
    /// Given one by one in the next run.
    careful: Option<(RelationName, usize, SeqNo, SeqNo)>,
    /// Where the query failed the last times, and how often in a row, for `recovery_policy='best_effort'`.
    repeated: Option<(RelationName, usize, SeqNo, u32)>,
}

impl BadRows {
    fn path(dir: &str, id: &str) -> String {
        format!("{dir}/{id}.skipped")
    }

    /// Blocks.
    pub fn load(disk: &dyn Disk, dir: &str, id: &str) -> io::Result<Self> {
        let mut all = BadRows::default();
        let path = Self::path(dir, id);
        if disk.len(&path)?.is_none() {
            return Ok(all);
        }
        let saved: Saved = serde_json::from_slice(&read_file(disk, &path)?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {e}")))?;
        for (stream, shard, sn) in saved.rows {
            all.skipped.entry((stream, shard)).or_default().insert(SeqNo(sn));
        }
        Ok(all)
    }

    /// Blocks.
    pub fn save(&self, disk: &dyn Disk, dir: &str, id: &str) -> io::Result<()> {
        let rows = self
            .skipped
            .iter()
            .flat_map(|((stream, shard), sns)| sns.iter().map(|sn| (stream.clone(), *shard, sn.0)));
        let saved = Saved { v: 1, rows: rows.collect() };
        let bytes = serde_json::to_vec(&saved).map_err(io::Error::other)?;
        create_dir_durable(disk, dir)?;
        write_file_atomic(disk, &Self::path(dir, id), &bytes)
    }

    /// Blocks.
    pub fn remove(disk: &dyn Disk, dir: &str, id: &str) -> io::Result<()> {
        let path = Self::path(dir, id);
        if disk.len(&path)?.is_some() { disk.remove_file(&path) } else { Ok(()) }
    }

    pub fn count(&self) -> u64 {
        self.skipped.values().map(|s| s.len() as u64).sum()
    }

    /// For the sources of the next run.
    pub fn cuts(&self, sources: &[(NodeId, RelationName)]) -> HashMap<(NodeId, usize), Cuts> {
        let mut cuts: HashMap<(NodeId, usize), Cuts> = HashMap::new();
        for (node, name) in sources {
            for ((stream, shard), sns) in self.skipped.iter().filter(|((stream, _), _)| stream == name) {
                debug_assert_eq!(stream, name);
                cuts.entry((*node, *shard)).or_default().skipped.clone_from(sns);
            }
            if let Some((stream, shard, from, end)) = &self.careful
                && stream == name
            {
                cuts.entry((*node, *shard)).or_default().careful = Some((*from, *end));
            }
        }
        cuts
    }

    /// What a failure means, and what is remembered of it. `best_effort_after`: so many failures at one row
    /// make it a bad one, whatever failed; 0 = never.
    pub fn judge(
        &mut self,
        code: Code,
        at: Option<(RelationName, RowsAt)>,
        on_error: OnError,
        best_effort_after: u32,
    ) -> Verdict {
        let Some((stream, at)) = at else { return Verdict::NotARow };
        let of_a_row = code.kind() == ErrorKind::Invalid;
        let one = at.end.0 == at.from.0 + 1;
        if !of_a_row {
            if best_effort_after == 0 {
                return Verdict::NotARow;
            }
            let before = self.repeated.take();
            let times = match before {
                Some((s, shard, sn, times)) if s == stream && shard == at.shard && sn == at.from => times + 1,
                _ => 1,
            };
            self.repeated = Some((stream.clone(), at.shard, at.from, times));
            if times < best_effort_after {
                return Verdict::NotARow;
            }
        }
        if !one {
            let closer = (stream, at.shard, at.from, at.end);
            if self.careful.as_ref() == Some(&closer) {
                // They were given one by one.
                return Verdict::NotARow;
            }
            self.careful = Some(closer);
            return Verdict::LookCloser;
        }
        let row = BadRow { stream, shard: at.shard, sn: at.from };
        if (on_error == OnError::Stop && of_a_row) || self.count() as usize >= SKIPPED_MAX {
            return Verdict::Stop(row);
        }
        self.skipped.entry((row.stream.clone(), row.shard)).or_default().insert(row.sn);
        Verdict::LeaveOut(row)
    }

    /// The next run takes rows as they come.
    pub fn forget_place(&mut self) {
        (self.careful, self.repeated) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weir_base::disk::SimDisk;

    fn at(from: u64, end: u64) -> Option<(RelationName, RowsAt)> {
        let rows = RowsAt { node: NodeId(3), shard: 1, from: SeqNo(from), end: SeqNo(end) };
        Some((RelationName::new("default", "s"), rows))
    }

    fn row(sn: u64) -> BadRow {
        BadRow { stream: RelationName::new("default", "s"), shard: 1, sn: SeqNo(sn) }
    }

    #[test]
    fn a_bad_row_is_found_and_left_out_or_stops_the_view() {
        let bad = Code::BadArguments;
        let mut rows = BadRows::default();
        assert_eq!(rows.judge(bad, None, OnError::Skip, 0), Verdict::NotARow);
        assert_eq!(rows.judge(bad, at(10, 20), OnError::Skip, 0), Verdict::LookCloser);
        let sources = [(NodeId(3), RelationName::new("default", "s"))];
        assert_eq!(rows.cuts(&sources)[&(NodeId(3), 1)].careful, Some((SeqNo(10), SeqNo(20))));
        assert_eq!(rows.judge(bad, at(12, 13), OnError::Stop, 0), Verdict::Stop(row(12)));
        assert_eq!(rows.judge(bad, at(12, 13), OnError::Dlq, 0), Verdict::LeaveOut(row(12)));
        assert_eq!(rows.cuts(&sources)[&(NodeId(3), 1)].skipped, [SeqNo(12)].into());
        // What fails although its rows come one by one is no row's fault.
        assert_eq!(rows.judge(bad, at(10, 20), OnError::Skip, 0), Verdict::NotARow);
        assert_eq!(rows.count(), 1);
    }

    #[test]
    fn best_effort_leaves_out_what_failed_often_at_one_place() {
        let memory = Code::MemoryLimitExceeded;
        let mut rows = BadRows::default();
        assert_eq!(rows.judge(memory, at(5, 6), OnError::Stop, 0), Verdict::NotARow);
        for _ in 0..2 {
            assert_eq!(rows.judge(memory, at(5, 6), OnError::Stop, 3), Verdict::NotARow);
        }
        assert_eq!(rows.judge(memory, at(5, 6), OnError::Stop, 3), Verdict::LeaveOut(row(5)));
    }

    #[test]
    fn what_is_left_out_is_remembered() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        assert_eq!(BadRows::load(&*disk, "checkpoints", "v").unwrap().count(), 0);
        let mut rows = BadRows::default();
        rows.judge(Code::BadArguments, at(7, 8), OnError::Skip, 0);
        rows.save(&*disk, "checkpoints", "v").unwrap();
        let again = BadRows::load(&*disk, "checkpoints", "v").unwrap();
        assert_eq!(again.skipped, rows.skipped);
        BadRows::remove(&*disk, "checkpoints", "v").unwrap();
        assert_eq!(BadRows::load(&*disk, "checkpoints", "v").unwrap().count(), 0);
    }
}
