//! Checkpoints of one query: the state of all operators and the place in every log, under one number.
//!
//! An epoch is complete once its file is; a file that a crash cut does not match its checksum, and the
//! epoch before it counts.
//!
//! Not here: when a checkpoint is taken (who asks), where files lie (`plan::CheckpointStore`).

use crate::graph::Snapshot;
use crate::identity::{Identity, MEANING_VERSION};
use crate::state::StateReader;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::runs::{RunFiles, RunRef, is_run};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use weir_plan::{CheckpointStore, Epoch, Position};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: u32 = u32::from_le_bytes(*b"WCHK");
const VERSION: u32 = 1;
/// Complete epochs that are kept: the newest, and one in case it is damaged.
const EPOCHS_KEPT: usize = 2;

/// A complete epoch.
#[derive(Debug)]
pub(crate) struct Saved {
    pub epoch: Epoch,
    pub shape: u64,
    /// `None` = it was written down in another way than plans are now.
    pub meaning: Option<u64>,
    pub position: Position,
    /// By place in [`Identity::kept`].
    pub states: Vec<(u32, StateReader)>,
    pub bytes: u64,
    /// When it was taken, microseconds since the epoch.
    pub at_us: i64,
}

fn name(epoch: Epoch) -> String {
    format!("epoch-{:016x}", epoch.0)
}

fn epoch_of(name: &str) -> Option<Epoch> {
    u64::from_str_radix(name.strip_prefix("epoch-")?, 16).ok().map(Epoch)
}

/// A complete epoch that is kept: where it stood, and the runs that it needs.
#[derive(Debug)]
struct Kept {
    epoch: Epoch,
    position: Position,
    runs: Vec<RunRef>,
}

/// The complete epochs that are kept, the newest last.
#[derive(Debug, Default)]
pub(crate) struct KeptEpochs(Vec<Kept>);

impl KeptEpochs {
    /// Keeps a complete epoch; older ones are kept no more.
    fn add(&mut self, kept: Kept) {
        self.0.push(kept);
        let over = self.0.len().saturating_sub(EPOCHS_KEPT);
        self.0.drain(..over);
    }

    /// The newest turned out to be damaged: gives the one before it.
    pub fn pass_over(&mut self) -> Option<Epoch> {
        self.0.pop();
        self.0.last().map(|k| k.epoch)
    }

    /// Where the oldest stood.
    pub fn oldest(&self) -> Option<&Position> {
        self.0.first().map(|k| &k.position)
    }

    /// Removes every file that none of them needs. Blocks; nothing may be being written.
    pub fn remove_others(&self, store: &dyn CheckpointStore) -> io::Result<()> {
        let runs: HashSet<String> =
            self.0.iter().flat_map(|kept| kept.runs.iter().map(RunRef::name)).collect();
        for file in store.list()? {
            let wanted = match epoch_of(&file) {
                Some(epoch) => self.0.iter().any(|kept| kept.epoch == epoch),
                None => !is_run(&file) || runs.contains(&file),
            };
            if !wanted {
                store.remove(&file)?;
            }
        }
        Ok(())
    }
}

/// Bytes written for an epoch, and of all files that it needs.
pub(crate) struct Sizes {
    pub written: u64,
    pub all: u64,
}

/// Writes an epoch, whose runs are durable, and lets older ones go. Blocks.
pub(crate) fn write(
    store: &dyn CheckpointStore,
    kept: &parking_lot::Mutex<KeptEpochs>,
    identity: &Identity,
    position: &Position,
    at_us: i64,
    (epoch, states): &Snapshot,
) -> io::Result<Sizes> {
    let mut out = Writer::default();
    out.u32(MAGIC);
    out.u32(VERSION);
    out.u64(epoch.0);
    out.u64(identity.shape);
    out.u32(MEANING_VERSION);
    out.u64(identity.meaning);
    out.i64(at_us);
    out.bytes(&position.encode());
    let all = states.iter().filter_map(|(id, state)| Some((identity.place_of(*id)?, state)));
    let all: Vec<_> = all.collect();
    out.u64(all.len() as u64);
    for (place, state) in all {
        out.u32(place);
        state.save(&mut out);
    }
    let check = xxh3_64(&out.0);
    out.u64(check);
    let mut file = store.create(&name(*epoch))?;
    file.write(&out.0)?;
    let bytes = file.finish()?;
    let runs = runs_of(states.iter().map(|(_, state)| state)).map_err(io::Error::other)?;
    let own: u64 = runs.iter().filter(|r| r.epoch == epoch.0).map(|r| r.bytes).sum();
    let sizes = Sizes { written: bytes + own, all: bytes + runs.iter().map(|r| r.bytes).sum::<u64>() };
    let mut kept = kept.lock();
    kept.add(Kept { epoch: *epoch, position: position.clone(), runs });
    // The epoch counts; what stays lying about goes with the next one.
    if let Err(e) = kept.remove_others(store) {
        tracing::warn!(epoch = epoch.0, error = %e, "could not remove files of older checkpoints");
    }
    Ok(sizes)
}

fn runs_of<'a>(states: impl Iterator<Item = &'a StateReader>) -> Result<Vec<RunRef>, Damaged> {
    let mut all = Vec::new();
    for state in states {
        all.extend(state.runs()?);
    }
    Ok(all)
}

/// The newest epoch that is whole (`None` = there is none), and all that are to be kept. Blocks.
pub(crate) fn newest(store: &Arc<dyn CheckpointStore>) -> io::Result<(Option<Saved>, KeptEpochs)> {
    let mut epochs: Vec<Epoch> = store.list()?.iter().filter_map(|n| epoch_of(n)).collect();
    epochs.sort_unstable();
    let (mut newest, mut kept) = (None, Vec::new());
    for epoch in epochs.into_iter().rev() {
        match read(store, epoch)? {
            Ok((saved, runs)) => {
                kept.insert(0, Kept { epoch, position: saved.position.clone(), runs });
                newest.get_or_insert(saved);
                if kept.len() == EPOCHS_KEPT {
                    break;
                }
            }
            Err(e) => {
                tracing::warn!(epoch = epoch.0, error = %e, "a checkpoint is not whole, the one before it counts");
            }
        }
    }
    Ok((newest, KeptEpochs(kept)))
}

/// An epoch that was whole a moment ago. Blocks.
pub(crate) fn again(store: &Arc<dyn CheckpointStore>, epoch: Epoch) -> io::Result<Saved> {
    let whole = read(store, epoch)?;
    whole.map(|(saved, _)| saved).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// The epoch's file, and the runs it names.
fn read(store: &Arc<dyn CheckpointStore>, epoch: Epoch) -> io::Result<Result<(Saved, Vec<RunRef>), Damaged>> {
    let file = store.open(&name(epoch))?;
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes)?;
    Ok(load(&bytes, epoch).and_then(|mut saved| {
        let runs = runs_of(saved.states.iter().map(|(_, state)| state))?;
        for (_, state) in &mut saved.states {
            state.lies_in(RunFiles::new(store.clone()));
        }
        saved.bytes += runs.iter().map(|r| r.bytes).sum::<u64>();
        Ok((saved, runs))
    }))
}

fn load(bytes: &[u8], epoch: Epoch) -> Result<Saved, Damaged> {
    let (body, check) = bytes.split_last_chunk::<8>().ok_or(Damaged("it ends early"))?;
    if u64::from_le_bytes(*check) != xxh3_64(body) {
        return Err(Damaged("it does not match its checksum"));
    }
    let mut from = Reader(body);
    if from.u32()? != MAGIC || from.u32()? != VERSION || from.u64()? != epoch.0 {
        return Err(Damaged("its first bytes are not those of this epoch"));
    }
    let (shape, version, meaning, at_us) = (from.u64()?, from.u32()?, from.u64()?, from.i64()?);
    let meaning = (version == MEANING_VERSION).then_some(meaning);
    let position = Position::decode(from.bytes()?).ok_or(Damaged("a position that is none"))?;
    let mut states = Vec::new();
    for _ in 0..from.count(12)? {
        let place = from.u32()?;
        states.push((place, StateReader::load(&mut from)?));
    }
    Ok(Saved { epoch, shape, meaning, position, states, bytes: bytes.len() as u64, at_us })
}

/// Reads every epoch and run there is again; gives the bytes, and what does not check. Blocks.
pub(crate) fn verify(store: &Arc<dyn CheckpointStore>) -> io::Result<(u64, Vec<String>)> {
    let (mut bytes, mut wrong) = (0, Vec::new());
    let mut epochs: Vec<Epoch> = store.list()?.iter().filter_map(|n| epoch_of(n)).collect();
    epochs.sort_unstable();
    let mut seen: HashSet<String> = HashSet::new();
    for epoch in epochs {
        let (saved, runs) = match read(store, epoch)? {
            Ok(found) => found,
            Err(e) => {
                wrong.push(format!("{}: {e}", name(epoch)));
                continue;
            }
        };
        bytes += saved.bytes - runs.iter().map(|r| r.bytes).sum::<u64>();
        for run in runs.into_iter().filter(|r| seen.insert(r.name())) {
            let checked = RunFiles::new(store.clone()).open(&run).and_then(|mut blocks| {
                while let Some(block) = blocks.next()? {
                    bytes += block.len() as u64;
                }
                Ok(())
            });
            if let Err(e) = checked {
                wrong.push(format!("{}, which {} needs: {e}", run.name(), name(epoch)));
            }
        }
    }
    Ok((bytes, wrong))
}
