//! State of operators: how it lies in memory, and how it is written down at an epoch.
//!
//! ```text
//! table: index (u32, open addressing) -> rows of words in segments that never move
//!                                     -> byte heap of keys, columns of anything else
//! ```
//!
//! Not here: where snapshots are stored, what aggregates do with their words (`agg`).

pub(crate) mod bits;
pub(crate) mod block;
pub(crate) mod bytes;
pub(crate) mod deltas;
pub(crate) mod keyed;
pub(crate) mod keys;
pub(crate) mod paged;
pub(crate) mod rows;
pub(crate) mod runs;
pub(crate) mod spill;
pub(crate) mod table;

use crate::operator::OpError;
use runs::{RunFiles, RunRef, Written};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::oneshot;
use weir_plan::{Epoch, NodeId};

/// Takes the state of one operator.
#[derive(Debug, Default)]
pub struct StateWriter {
    values: BTreeMap<&'static str, Vec<u8>>,
    /// Where large state may go, and as whose of which epoch.
    files: Option<(RunFiles, Epoch, NodeId)>,
    runs: Option<PendingRuns>,
}

/// The runs that an operator's state lies in; the last one may still be on its way.
#[derive(Debug)]
pub struct PendingRuns {
    before: Vec<RunRef>,
    last: Option<Written>,
    ends: Option<oneshot::Receiver<RunRef>>,
}

/// Under which the runs of an operator are named in its state.
const RUNS: &str = "runs";

impl PendingRuns {
    /// Waits until all of them are durable.
    pub(crate) async fn durable(self) -> io::Result<Vec<RunRef>> {
        let mut all = self.before;
        if let (Some(last), Some(ends)) = (self.last, self.ends) {
            let given_up = |_| io::Error::other("the query has ended");
            let bytes = last.await.map_err(given_up)??;
            let run = ends.await.map_err(given_up)?;
            all.push(RunRef { bytes, ..run });
        }
        Ok(all)
    }
}

impl StateWriter {
    /// For an operator that may write files.
    pub(crate) fn with_files(files: RunFiles, epoch: Epoch, node: NodeId) -> Self {
        StateWriter { files: Some((files, epoch, node)), ..StateWriter::default() }
    }

    pub(crate) fn files(&self) -> Option<(RunFiles, Epoch, NodeId)> {
        self.files.clone()
    }

    /// Says which runs the state lies in: those there are, and one that is being written, of which `ends`
    /// tells when it is complete.
    pub(crate) fn put_runs(
        &mut self,
        before: Vec<RunRef>,
        last: Option<(Written, oneshot::Receiver<RunRef>)>,
    ) {
        let (last, ends) = last.unzip();
        self.runs = Some(PendingRuns { before, last, ends });
    }

    pub(crate) fn take_runs(&mut self) -> Option<PendingRuns> {
        self.runs.take()
    }

    pub fn put(&mut self, name: &'static str, value: Vec<u8>) {
        let before = self.values.insert(name, value);
        assert!(before.is_none(), "state value {name} written twice in one snapshot");
    }

    pub fn put_u64(&mut self, name: &'static str, value: u64) {
        self.put(name, value.to_le_bytes().to_vec());
    }

    pub fn finish(self) -> StateReader {
        let values = self.values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        StateReader { values, files: None }
    }
}

/// Gives back what [`StateWriter`] took.
#[derive(Debug, Clone, Default)]
pub struct StateReader {
    values: BTreeMap<String, Vec<u8>>,
    files: Option<RunFiles>,
}

impl PartialEq for StateReader {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl StateReader {
    /// Names the runs that this state lies in.
    pub(crate) fn name_runs(&mut self, runs: &[RunRef]) {
        let mut out = bytes::Writer::default();
        RunRef::save(runs, &mut out);
        self.values.insert(RUNS.to_owned(), out.0);
    }

    /// The runs that this state lies in, the oldest first.
    pub(crate) fn runs(&self) -> Result<Vec<RunRef>, bytes::Damaged> {
        self.get(RUNS).map_or(Ok(Vec::new()), |runs| RunRef::load(&mut bytes::Reader(runs)))
    }

    pub(crate) fn lies_in_runs(&self) -> bool {
        self.values.contains_key(RUNS)
    }

    pub(crate) fn lies_in(&mut self, files: RunFiles) {
        self.files = Some(files);
    }

    pub(crate) fn files(&self) -> Option<&RunFiles> {
        self.files.as_ref()
    }

    pub(crate) fn save(&self, out: &mut bytes::Writer) {
        out.u64(self.values.len() as u64);
        for (name, value) in &self.values {
            out.bytes(name.as_bytes());
            out.bytes(value);
        }
    }

    pub(crate) fn load(from: &mut bytes::Reader<'_>) -> Result<Self, bytes::Damaged> {
        let mut values = BTreeMap::new();
        for _ in 0..from.count(16)? {
            let name = String::from_utf8(from.bytes()?.to_vec())
                .map_err(|_| bytes::Damaged("a value's name is no text"))?;
            values.insert(name, from.bytes()?.to_vec());
        }
        Ok(StateReader { values, files: None })
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// # Errors
    /// [`OpError::Restore`] when the value is missing.
    pub fn bytes(&self, operator: &'static str, name: &str) -> Result<&[u8], OpError> {
        self.get(name)
            .ok_or_else(|| OpError::Restore { operator, reason: format!("value {name} is missing") })
    }

    /// # Errors
    /// [`OpError::Restore`] when the value is missing or not eight bytes.
    pub fn u64(&self, operator: &'static str, name: &str) -> Result<u64, OpError> {
        let bytes = self.bytes(operator, name)?;
        let bytes = bytes.try_into().map_err(|_| OpError::Restore {
            operator,
            reason: format!("value {name} has {} bytes, 8 expected", bytes.len()),
        })?;
        Ok(u64::from_le_bytes(bytes))
    }
}
