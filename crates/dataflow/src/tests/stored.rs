//! Checkpoints of a graph in files, in memory: written while rows go on, read back as after a restart.

use crate::checkpoint::{self, KeptEpochs};
use crate::graph::{Graph, Snapshot};
use crate::identity::Identity;
use crate::operator::Operator;
use crate::state::StateWriter;
use crate::state::runs::RunFiles;
use crate::{StateReader, Wrote};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::runtime::{EnterGuard, Runtime};
use weir_plan::{
    CheckpointFile, CheckpointRead, CheckpointStore, Element, Epoch, NodeId, Position, StreamPlan,
};

/// Files by name.
#[derive(Debug, Default)]
pub struct MemoryStore(Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>);

struct Writing(Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>, String, Vec<u8>);

#[derive(Debug)]
struct Finished(Arc<Vec<u8>>);

impl CheckpointStore for MemoryStore {
    /// So that blocks are packed; those on disks are not.
    fn is_far(&self) -> bool {
        true
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn CheckpointFile>> {
        if self.0.lock().contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Box::new(Writing(self.0.clone(), name.into(), Vec::new())))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn CheckpointRead>> {
        let bytes = self.0.lock().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Finished(bytes)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().remove(name);
        Ok(())
    }
}

impl CheckpointFile for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.2.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<u64> {
        let len = self.2.len() as u64;
        self.0.lock().insert(self.1, Arc::new(self.2));
        Ok(len)
    }
}

impl CheckpointRead for Finished {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let from = from.get(..into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap())
}

/// The checkpoints of one query.
#[derive(Default)]
pub struct Stored {
    store: Arc<MemoryStore>,
    kept: Mutex<KeptEpochs>,
}

impl Stored {
    /// The barrier that is fed next is written to files; hold what this gives until it is complete.
    pub fn begin(&self, graph: &mut Graph) -> EnterGuard<'static> {
        graph.files = Some(RunFiles::new(self.store.clone()));
        runtime().enter()
    }

    /// A barrier in files, from which a restart goes on. What happens meanwhile is not in it.
    pub fn checkpoint(
        &self,
        graph: &mut Graph,
        plan: &StreamPlan,
        epoch: u64,
        meanwhile: impl FnOnce(&mut Graph),
    ) -> Snapshot {
        let _within = self.begin(graph);
        graph.feed(0, Element::Barrier(Epoch(epoch))).unwrap();
        graph.files = None;
        graph.write_more(1).unwrap();
        meanwhile(graph);
        graph.write_more(1).unwrap();
        self.complete(graph, plan)
    }

    /// A barrier of an operator by itself; gives what a restart finds, and the bytes of the run written for it.
    /// What happens `meanwhile` is not in it.
    pub fn of_operator(
        &self,
        op: &mut dyn Operator,
        epoch: u64,
        meanwhile: impl FnOnce(&mut dyn Operator),
    ) -> (StateReader, u64) {
        let _within = runtime().enter();
        let files = RunFiles::new(self.store.clone());
        let mut into = StateWriter::with_files(files.clone(), Epoch(epoch), NodeId(0));
        op.snapshot(&mut into).unwrap();
        let runs = into.take_runs().expect("it writes runs");
        let mut saved = into.finish();
        op.snapshot_more(3).unwrap();
        meanwhile(op);
        while op.snapshot_more(50).unwrap() != Wrote::All {
            std::thread::yield_now();
        }
        let runs = runtime().block_on(runs.durable()).unwrap();
        saved.name_runs(&runs);
        saved.lies_in(files);
        (saved, runs.iter().filter(|r| r.epoch == epoch).map(|r| r.bytes).sum())
    }

    /// A barrier that comes to nothing.
    pub fn lost(&self, op: &mut dyn Operator, epoch: u64) {
        let _within = runtime().enter();
        let files = RunFiles::new(self.store.clone());
        let mut into = StateWriter::with_files(files, Epoch(epoch), NodeId(0));
        op.snapshot(&mut into).unwrap();
        op.snapshot_more(3).unwrap();
        op.snapshot_lost();
    }

    /// Writes what is left of the last barrier; gives what a restart finds.
    pub fn complete(&self, graph: &mut Graph, plan: &StreamPlan) -> Snapshot {
        graph.files = None;
        while graph.write_more(2).unwrap() != Wrote::All {
            std::thread::yield_now();
        }
        let mut snapshot = graph.snapshots.pop().expect("the barrier has left at the top");
        for (node, runs) in std::mem::take(&mut graph.runs) {
            let runs = runtime().block_on(runs.durable()).unwrap();
            let (_, state) = snapshot.1.iter_mut().find(|(id, _)| *id == node).unwrap();
            state.name_runs(&runs);
        }
        let identity = Identity::of(plan);
        checkpoint::write(&*self.store, &self.kept, &identity, &Position::default(), 0, &snapshot).unwrap();
        let store: Arc<dyn CheckpointStore> = self.store.clone();
        let saved = checkpoint::newest(&store).unwrap().0.expect("it was written");
        let states = saved.states.into_iter().map(|(at, state)| (identity.kept[at as usize], state));
        (saved.epoch, states.collect::<Vec<(NodeId, StateReader)>>())
    }
}
