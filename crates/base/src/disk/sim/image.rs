//! Live and durable images of file content and of names.

use super::super::parent;
use fastrand::Rng;
use std::collections::BTreeMap;

/// The unit in which unsynced bytes are tracked.
const SECTOR: u64 = 512;

/// One file: what the process sees, and what a power cut leaves.
#[derive(Debug, Default)]
pub(super) struct FileImage {
    pub live: Vec<u8>,
    pub durable: Vec<u8>,
    /// Sectors that the next sync must make durable.
    dirty: Sectors,
    len_dirty: bool,
}

/// A set of sectors, as bits: files are short and whole stretches become dirty at once.
#[derive(Debug, Default)]
struct Sectors {
    words: Vec<u64>,
}

impl Sectors {
    /// Adds `from..to`.
    fn add(&mut self, from: u64, to: u64) {
        if self.words.len() as u64 * 64 < to {
            self.words.resize(to.div_ceil(64) as usize, 0);
        }
        self.each_word(from, to, |word, bits| *word |= bits);
    }

    /// Removes `from..to`.
    fn remove(&mut self, from: u64, to: u64) {
        let to = to.min(self.words.len() as u64 * 64);
        self.each_word(from.min(to), to, |word, bits| *word &= !bits);
    }

    fn each_word(&mut self, mut from: u64, to: u64, change: impl Fn(&mut u64, u64)) {
        while from < to {
            let (at, low) = ((from / 64) as usize, from % 64);
            let high = (to - from + low).min(64);
            change(&mut self.words[at], (u64::MAX << low) & (u64::MAX >> (64 - high)));
            from += high - low;
        }
    }

    fn contains(&self, sector: u64) -> bool {
        self.words.get((sector / 64) as usize).is_some_and(|word| word >> (sector % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(at as u64 * 64 + u64::from(bit))
            })
        })
    }

    /// Stretches of neighbours as `from..to`.
    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for sector in self.iter() {
            match runs.last_mut() {
                Some((_, to)) if *to == sector => *to += 1,
                _ => runs.push((sector, sector + 1)),
            }
        }
        runs
    }
}

impl FileImage {
    pub fn settled(bytes: Vec<u8>) -> Self {
        FileImage { live: bytes.clone(), durable: bytes, ..FileImage::default() }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        if end > self.live.len() as u64 {
            self.set_len(end);
        }
        self.live[offset as usize..end as usize].copy_from_slice(bytes);
        self.mark(offset, end);
    }

    /// Writes so that a random choice of sectors is on the platter and the others are lost.
    pub fn write_torn(&mut self, rng: &mut Rng, offset: u64, bytes: &[u8], sector_bytes: u64) {
        let end = offset + bytes.len() as u64;
        self.write(offset, bytes);
        // The length is on the platter or not, as the crash that follows decides.
        let mut sector = offset / sector_bytes;
        while sector * sector_bytes < end {
            let from = (sector * sector_bytes).max(offset);
            let to = ((sector + 1) * sector_bytes).min(end);
            if rng.bool() {
                if (self.durable.len() as u64) < to {
                    self.durable.resize(to as usize, 0);
                }
                self.durable[from as usize..to as usize]
                    .copy_from_slice(&self.live[from as usize..to as usize]);
            }
            sector += 1;
        }
        // Nothing of this write is left for the crash to choose again; earlier unsynced bytes
        // outside it still are.
        self.dirty.remove(offset / SECTOR, end.max(1).div_ceil(SECTOR));
        self.len_dirty = false;
    }

    pub fn set_len(&mut self, len_bytes: u64) {
        let old = self.live.len() as u64;
        if old == len_bytes {
            return;
        }
        self.live.resize(len_bytes as usize, 0);
        self.mark(old.min(len_bytes), old.max(len_bytes));
        self.len_dirty = true;
    }

    pub fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for (from, to) in std::mem::take(&mut self.dirty).runs() {
            self.settle(from * SECTOR, (to - from) * SECTOR);
        }
        self.len_dirty = false;
    }

    /// A sync that failed: per sector the worst of what kernels do.
    pub fn fail_sync(&mut self, rng: &mut Rng) {
        let all_alike = rng.bool().then(|| rng.u8(..4));
        if rng.bool() {
            self.durable.resize(self.live.len(), 0);
            self.len_dirty = false;
        }
        for sector in std::mem::take(&mut self.dirty).iter() {
            match all_alike.unwrap_or_else(|| rng.u8(..4)) {
                // Written out after all.
                0 => self.settle(sector * SECTOR, SECTOR),
                // Still dirty: a later sync would write it.
                1 => self.dirty.add(sector, sector + 1),
                // Marked clean in the cache though never written: readable until the crash.
                2 => {}
                // Dropped from the cache.
                _ => {
                    for at in sector * SECTOR..(sector + 1) * SECTOR {
                        if let Some(byte) = self.live.get_mut(at as usize) {
                            *byte = self.durable.get(at as usize).copied().unwrap_or(0);
                        }
                    }
                }
            }
        }
    }

    /// Keeps a random choice of what was not synced, in units of `sector_bytes`.
    pub fn crash(&mut self, rng: &mut Rng, sector_bytes: u64) {
        if self.dirty.is_empty() && !self.len_dirty {
            return;
        }
        let mode = rng.u8(..4);
        if self.len_dirty && mode != 0 && (mode == 1 || rng.bool()) {
            self.durable.resize(self.live.len(), 0);
        }
        let mut units: Vec<u64> = self.dirty.iter().map(|s| s * SECTOR / sector_bytes).collect();
        units.dedup();
        let prefix = rng.usize(..=units.len());
        for (i, unit) in units.into_iter().enumerate() {
            let survives = match mode {
                0 => false,
                1 => true,
                2 => rng.bool(),
                _ => i < prefix,
            };
            if survives {
                for s in unit * sector_bytes / SECTOR..(unit + 1) * sector_bytes / SECTOR {
                    if self.dirty.contains(s) {
                        self.settle(s * SECTOR, SECTOR);
                    }
                }
            }
        }
        self.dirty = Sectors::default();
    }

    /// Copies live bytes onto the platter, as far as the durable length goes.
    fn settle(&mut self, offset: u64, len: u64) {
        let to = ((offset + len) as usize).min(self.durable.len());
        let from = (offset as usize).min(to);
        self.durable[from..to].fill(0);
        if let Some(live) = self.live.get(from..to.min(self.live.len())) {
            self.durable[from..from + live.len()].copy_from_slice(live);
        }
    }

    fn mark(&mut self, from: u64, to: u64) {
        if from < to {
            self.dirty.add(from / SECTOR, to.div_ceil(SECTOR));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir,
}

#[derive(Debug)]
enum NameChange {
    Create { path: String, node: Node },
    Remove { path: String },
    Rename { from: String, to: String, node: Node },
}

/// All names by full path, and the changes that no `sync_dir` has covered.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
}

impl Names {
    pub fn insert_settled(&mut self, path: String, node: Node) {
        self.live.insert(path.clone(), node);
        self.durable.insert(path, node);
    }

    pub fn create(&mut self, path: &str, node: Node) {
        self.live.insert(path.to_owned(), node);
        self.pending.push(NameChange::Create { path: path.to_owned(), node });
    }

    pub fn remove(&mut self, path: &str) {
        self.live.remove(path);
        self.pending.push(NameChange::Remove { path: path.to_owned() });
    }

    /// Moves a name and, for a directory, all names below it.
    pub fn rename(&mut self, from: &str, to: &str) {
        let moved = self.below(from).into_iter().chain([from.to_owned()]);
        for path in moved.collect::<Vec<_>>() {
            let node = self.live.remove(&path).expect("listed just now");
            let new = format!("{to}{}", &path[from.len()..]);
            self.live.insert(new.clone(), node);
            self.pending.push(NameChange::Rename { from: path, to: new, node });
        }
    }

    pub fn below(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{dir}/");
        self.live.keys().filter(|k| k.starts_with(&prefix)).cloned().collect()
    }

    pub fn sync_dir(&mut self, dir: &str) {
        let (due, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| match change {
                NameChange::Create { path, .. } | NameChange::Remove { path } => parent(path) == dir,
                // Atomic over both directories: the first sync of either settles it.
                NameChange::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
            });
        self.pending = kept;
        due.into_iter().for_each(|change| self.apply(change));
    }

    /// Keeps a prefix or a random choice of the changes no sync has covered.
    pub fn crash(&mut self, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        let prefix = rng.bool().then(|| rng.usize(..=pending.len()));
        for (i, change) in pending.into_iter().enumerate() {
            if prefix.map_or_else(|| rng.bool(), |n| i < n) {
                self.apply(change);
            }
        }
    }

    fn apply(&mut self, change: NameChange) {
        match change {
            NameChange::Create { path, node } => drop(self.durable.insert(path, node)),
            NameChange::Remove { path } => drop(self.durable.remove(&path)),
            NameChange::Rename { from, to, node } => {
                if self.durable.get(&from) == Some(&node) {
                    self.durable.remove(&from);
                }
                self.durable.insert(to, node);
            }
        }
    }

    /// The durable names that can be reached from the root.
    pub fn durable_tree(&self) -> Vec<(String, Node)> {
        let mut reached: BTreeMap<String, Node> = BTreeMap::new();
        // Path order visits a directory before what is below it.
        for (path, node) in &self.durable {
            let dir = parent(path);
            if dir.is_empty() || reached.get(dir) == Some(&Node::Dir) {
                reached.insert(path.clone(), *node);
            }
        }
        reached.into_iter().collect()
    }
}
