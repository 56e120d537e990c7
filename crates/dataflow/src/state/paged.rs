//! Looking keys up in runs: entries of single keys come back from disk into memory before they change.
//!
//! ```text
//! run: blocks of some 4 KiB in the order of keys; in memory the first key of each, and a filter that
//!      says of nearly every key that is not there that it is not (10.7 bits a key, wrong for 1 in 100)
//! keys of a batch, sorted -> from the newest run to the oldest: filter -> block -> entry
//! ```
//!
//! An entry is the whole state of its key, so the newest one counts; what is in memory is newer than all
//! of them. A key that is gone leaves an entry that says so, until a merge reaches the oldest run.
//!
//! Not here: what an entry holds behind its key, when state is written (the operators), blocks (`spill`).

use super::block::Block;
use super::bytes::{Damaged, Reader, Writer};
use super::keys::{Key, KeyForm};
use super::spill::{Run, RunReader, SpillSpace, entry};
use super::table::compare;
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

/// Runs from which on some become one.
const RUNS_MAX: usize = 8;
/// Words of a filter's line, which is one of a cache.
const LINE_WORDS: usize = 8;
/// Keys that a line is made for.
const LINE_KEYS: u64 = 48;
/// Bits that a key sets in its line.
const KEY_BITS: u32 = 6;

/// Each bit of the result depends on all of `x` (splitmix64).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a run keeps in memory so that keys are found in it.
#[derive(Debug)]
pub(crate) struct Lookup {
    filter: Block<u64>,
    /// What each block begins with, one behind the other, and where each ends.
    firsts: Writer,
    ends: Vec<u32>,
}

impl Lookup {
    pub fn new(entries_max: u64) -> Self {
        let lines = entries_max.div_ceil(LINE_KEYS).max(1) as usize;
        Lookup { filter: Block::zeroed(lines * LINE_WORDS), firsts: Writer::default(), ends: Vec::new() }
    }

    pub fn bytes(&self) -> usize {
        self.filter.bytes() + self.firsts.0.capacity() + self.ends.capacity() * 4
    }

    /// The line of a hash, and the bits it has there.
    fn bits(&self, hash: u32) -> (usize, [u64; LINE_WORDS]) {
        // A run may have the keys of one part of a table, whose hashes begin alike.
        let spread = mix(u64::from(hash));
        let lines = (self.filter.len() / LINE_WORDS) as u64;
        let line = (((spread >> 32) * lines) >> 32) as usize * LINE_WORDS;
        let mixed = mix(spread);
        let mut bits = [0; LINE_WORDS];
        for i in 0..KEY_BITS {
            let bit = mixed >> (10 + 9 * i) & 511;
            bits[bit as usize / 64] |= 1 << (bit % 64);
        }
        (line, bits)
    }

    pub fn add(&mut self, hash: u32) {
        let (line, bits) = self.bits(hash);
        self.filter[line..line + LINE_WORDS].iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
    }

    fn may_have(&self, hash: u32) -> bool {
        let (line, bits) = self.bits(hash);
        self.filter[line..line + LINE_WORDS].iter().zip(bits).all(|(word, bits)| word & bits == bits)
    }

    /// A block begins with `key`; of long keys only what tells it from the one before is kept.
    pub fn begin_block(&mut self, before: Option<Key<'_>>, key: Key<'_>) {
        let key = match (before, key) {
            (Some(Key::Bytes(before)), Key::Bytes(key)) => {
                let same = before.iter().zip(key).take_while(|(a, b)| a == b).count();
                Key::Bytes(&key[..key.len().min(same + 1)])
            }
            _ => key,
        };
        key.save(&mut self.firsts);
        self.ends.push(u32::try_from(self.firsts.0.len()).expect("a part of what fits the memory"));
    }

    /// The block in which a key lies if it is there, from `from` on.
    fn block(&self, form: &KeyForm, key: Key<'_>, from: usize) -> Option<usize> {
        let is_behind = |block: usize| {
            let begin = block.checked_sub(1).map_or(0, |b| self.ends[b] as usize);
            let first = Key::load(&mut Reader(&self.firsts.0[begin..])).expect("saved above");
            compare(form, first, key) == Ordering::Greater
        };
        // Doubling steps: the keys that are looked for are in order too.
        let (mut low, mut step) = (from, 1);
        while low + step < self.ends.len() && !is_behind(low + step) {
            low += step;
            step *= 2;
        }
        let mut high = self.ends.len().min(low + step);
        if low >= high || is_behind(low) {
            return None;
        }
        while low + 1 < high {
            let middle = low.midpoint(high);
            if is_behind(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(low)
    }
}

/// What was read is not what was written.
pub(crate) fn invalid(e: Damaged) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.0)
}

/// A key that is looked for, with its hash.
pub(crate) type Wanted<'a> = (u32, Key<'a>);

/// Looks keys up in runs, from the newest to the oldest. `found` takes what lies behind the key in an
/// entry and says whether older ones are of no interest.
pub(crate) fn look_up<'a>(
    runs: &[Arc<Run>],
    form: &KeyForm,
    mut wanted: Vec<Wanted<'a>>,
    mut found: impl FnMut(usize, Wanted<'a>, &mut Reader<'_>) -> Result<bool, Damaged>,
) -> io::Result<()> {
    wanted.sort_unstable_by(|a, b| compare(form, a.1, b.1));
    wanted.dedup_by(|a, b| a.1 == b.1);
    let mut places = Vec::new();
    for (at, run) in runs.iter().enumerate().rev() {
        if wanted.is_empty() {
            break;
        }
        let lookup = run.lookup.as_ref().expect("written to be looked up");
        places.clear();
        let mut block = 0;
        for (i, (hash, key)) in wanted.iter().enumerate() {
            if lookup.may_have(*hash)
                && let Some(place) = lookup.block(form, *key, block)
            {
                block = place;
                places.push((place, i));
            }
        }
        let mut done = Vec::new();
        find(run, form, &wanted, &places, |i, rest| {
            if found(at, wanted[i], rest)? {
                done.push(i);
            }
            Ok(())
        })?;
        let mut done = done.into_iter().peekable();
        let mut i = 0;
        wanted.retain(|_| {
            i += 1;
            done.next_if_eq(&(i - 1)).is_none()
        });
    }
    Ok(())
}

/// Reads the blocks of wanted keys, in order, and gives the entries that are there.
fn find(
    run: &Run,
    form: &KeyForm,
    wanted: &[Wanted<'_>],
    mut places: &[(usize, usize)],
    mut found: impl FnMut(usize, &mut Reader<'_>) -> Result<(), Damaged>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    let damaged = |e: Damaged| run.damaged(e.0);
    while let Some((first, _)) = places.first().copied() {
        // Blocks that lie side by side are one read.
        let mut last = first;
        for (block, _) in places {
            if *block > last + 1 {
                break;
            }
            last = *block;
        }
        let read = run.read(first, last + 1 - first, &mut buffer)?;
        for block in first..first + read {
            let of_block = places.iter().take_while(|(b, _)| *b == block).count();
            let (here, rest) = places.split_at(of_block);
            places = rest;
            let mut bytes = &buffer[run.place(block, first)];
            let mut here = here.iter().map(|(_, i)| *i).peekable();
            while let Some(i) = here.peek().copied()
                && !bytes.is_empty()
            {
                let (of_key, rest) = entry(bytes).map_err(damaged)?;
                let mut from = Reader(of_key);
                let key = Key::load(&mut from).map_err(damaged)?;
                match compare(form, key, wanted[i].1) {
                    Ordering::Less => bytes = rest,
                    Ordering::Equal => {
                        found(i, &mut from).map_err(damaged)?;
                        here.next();
                        bytes = rest;
                    }
                    Ordering::Greater => {
                        here.next();
                    }
                }
            }
        }
    }
    Ok(())
}

/// From which run on all become one so that few are left, and none is less than twice those behind it:
/// then what is superseded takes no more room than what counts. `None` = they are few.
pub(crate) fn to_merge(bytes: &[u64], runs_max: usize) -> Option<usize> {
    if bytes.len() <= runs_max {
        return None;
    }
    let mut behind = 0;
    let mut from = bytes.len();
    for (at, of_run) in bytes.iter().enumerate().rev() {
        // At least two.
        if *of_run < 2 * behind || at + 2 >= bytes.len() {
            from = at;
        }
        behind += of_run;
    }
    Some(from)
}

/// Entries of several runs by key, of each key the newest.
pub(crate) struct Newest {
    runs: Vec<RunReader>,
    /// Those at the key at hand, the newest last.
    equal: Vec<usize>,
}

impl Newest {
    pub fn new(runs: &[Arc<Run>]) -> io::Result<Self> {
        let runs = runs.iter().map(|run| RunReader::open(run.clone())).collect::<io::Result<Vec<_>>>()?;
        Ok(Newest { runs, equal: Vec::new() })
    }

    /// The next key's newest entry.
    pub fn next(&mut self, form: &KeyForm) -> io::Result<Option<&[u8]>> {
        for at in self.equal.drain(..) {
            self.runs[at].advance()?;
        }
        let mut least: Option<Key<'_>> = None;
        for (at, run) in self.runs.iter().enumerate() {
            let Some(entry) = run.entry() else { continue };
            let key = Key::load(&mut Reader(entry)).map_err(invalid)?;
            match least.map_or(Ordering::Less, |least| compare(form, key, least)) {
                Ordering::Less => {
                    least = Some(key);
                    self.equal.clear();
                    self.equal.push(at);
                }
                Ordering::Equal => self.equal.push(at),
                Ordering::Greater => {}
            }
        }
        Ok(self.equal.last().and_then(|at| self.runs[*at].entry()))
    }
}

impl Newest {
    /// All entries of the key at hand, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.equal.iter().filter_map(|at| self.runs[*at].entry())
    }
}

/// Keys that were found on disk.
pub(crate) struct There<'a>(Vec<Key<'a>>);

impl There<'_> {
    pub fn contains(&self, form: &KeyForm, key: Key<'_>) -> bool {
        self.0.binary_search_by(|k| compare(form, *k, key)).is_ok()
    }
}

/// What a table has on disk: runs whose entries supersede each other, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Paged {
    runs: Vec<Arc<Run>>,
}

impl Paged {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|r| r.memory_bytes()).sum()
    }

    /// Entries by key, of each key the newest.
    pub fn newest(&self) -> io::Result<Newest> {
        Newest::new(&self.runs)
    }

    /// Which of the keys are on disk.
    pub fn there<'a>(&self, form: &KeyForm, wanted: Vec<Wanted<'a>>) -> io::Result<There<'a>> {
        let mut there = Vec::new();
        self.load(form, wanted, |(_, key), _| {
            there.push(key);
            Ok(())
        })?;
        there.sort_unstable_by(|a, b| compare(form, *a, *b));
        Ok(There(there))
    }

    /// Gives what lies behind each key of a batch that is on disk and not in memory.
    pub fn load<'a>(
        &self,
        form: &KeyForm,
        wanted: Vec<Wanted<'a>>,
        mut found: impl FnMut(Wanted<'a>, &mut Reader<'_>) -> Result<(), Damaged>,
    ) -> io::Result<()> {
        look_up(&self.runs, form, wanted, |_, key, from| found(key, from).map(|()| true))
    }

    /// Writes entries, which are in the order of their keys, as a run that is newer than all others, and gives
    /// it. `counts` says of what follows a key whether anybody still looks for it.
    pub fn spill<T>(
        &mut self,
        space: &SpillSpace,
        form: &KeyForm,
        entries: Vec<T>,
        mut write: impl FnMut(T, &mut Writer),
        counts: impl Fn(&mut Reader<'_>) -> Result<bool, Damaged>,
    ) -> io::Result<Option<Arc<Run>>> {
        let mut writer = space.begin_paged(entries.len() as u64)?;
        for one in entries {
            writer.add(|out| write(one, out))?;
        }
        let run = writer.finish()?;
        let run = (run.entries > 0).then(|| Arc::new(run));
        self.runs.extend(run.clone());
        let bytes: Vec<u64> = self.runs.iter().map(|r| r.bytes).collect();
        let Some(from) = to_merge(&bytes, RUNS_MAX) else { return Ok(run) };
        let mut writer = space.begin_paged(self.runs[from..].iter().map(|r| r.entries).sum())?;
        let mut newest = Newest::new(&self.runs[from..])?;
        while let Some(entry) = newest.next(form)? {
            let mut rest = Reader(entry);
            // One that nobody looks for still hides those in older runs.
            let kept = from > 0 || Key::load(&mut rest).and_then(|_| counts(&mut rest)).map_err(invalid)?;
            if kept {
                writer.add(|out| out.0.extend_from_slice(entry))?;
            }
        }
        let merged = writer.finish()?;
        self.runs.truncate(from);
        self.runs.extend((merged.entries > 0).then(|| Arc::new(merged)));
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;
    use std::collections::BTreeMap;
    use weir_base::Rng;
    use weir_base::disk::SimDisk;

    fn key_bytes(k: u64) -> Vec<u8> {
        // Long ones that begin alike, and one that others begin with.
        if k == 0 { Vec::new() } else { format!("{:0>1$}", k, (k % 7 * 40) as usize).into_bytes() }
    }

    fn check(form: &KeyForm, key: impl for<'a> Fn(u64, &'a [u8]) -> Key<'a>) {
        let rng = Rng::seeded(3);
        let space = SpillSpace::new(Arc::new(SimDisk::new(1)), "spill");
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut runs = Vec::new();
        for version in 0..5 {
            let mut keys: Vec<u64> = (0..3_000).map(|_| rng.below(9_000)).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut bytes: Vec<(u64, Vec<u8>)> = keys.iter().map(|k| (*k, key_bytes(*k))).collect();
            bytes.sort_by(|a, b| compare(form, key(a.0, &a.1), key(b.0, &b.1)));
            let mut writer = space.begin_paged(bytes.len() as u64).unwrap();
            for (k, bytes) in &bytes {
                let write = |out: &mut Writer| {
                    key(*k, bytes).save(out);
                    out.u64(version);
                };
                writer.add(write).unwrap();
                model.insert(*k, version);
            }
            runs.push(Arc::new(writer.finish().unwrap()));
            for n in [1, 40, 4_000] {
                let bytes: Vec<(u64, Vec<u8>)> =
                    (0..n).map(|_| rng.below(12_000)).map(|k| (k, key_bytes(k))).collect();
                let wanted = bytes.iter().map(|(k, b)| (key(*k, b).hash(), key(*k, b))).collect();
                let numbers: BTreeMap<&[u8], u64> = bytes.iter().map(|(k, b)| (b.as_slice(), *k)).collect();
                let mut got = BTreeMap::new();
                look_up(&runs, form, wanted, |at, (_, key), from| {
                    let version = from.u64()?;
                    assert_eq!(at as u64, version);
                    let k = match key {
                        Key::Int(k) => k,
                        Key::Bytes(bytes) => numbers[bytes],
                        _ => 0,
                    };
                    assert!(got.insert(k, version).is_none(), "{k} found twice");
                    Ok(true)
                })
                .unwrap();
                let there = bytes.iter().filter_map(|(k, _)| Some((*k, *model.get(k)?)));
                assert_eq!(got, there.collect());
            }
        }
    }

    #[test]
    fn the_newest_entry_of_each_key_is_found() {
        check(&KeyForm::of(&[DataType::Int64]).unwrap(), |k, _| if k == 0 { Key::Null } else { Key::Int(k) });
        check(&KeyForm::of(&[DataType::Utf8]).unwrap(), |_, bytes| Key::Bytes(bytes));
    }

    #[test]
    fn a_filter_is_seldom_wrong_and_never_forgets() {
        // Also of keys of one part in eight, as a thread has them.
        for parts in [1, 8] {
            let mut lookup = Lookup::new(20_000);
            let hashes = (0..).map(|k| Key::Int(k).hash()).filter(|h| h / (u32::MAX / parts) == 0);
            let hashes: Vec<u32> = hashes.take(120_000).collect();
            let (there, others) = hashes.split_at(20_000);
            there.iter().for_each(|h| lookup.add(*h));
            assert!(there.iter().all(|h| lookup.may_have(*h)));
            let wrong = others.iter().filter(|h| lookup.may_have(**h)).count();
            assert!(wrong < 2_000, "{wrong} of 100000");
            assert!(lookup.bytes() < 20_000 * 3 / 2);
        }
    }

    #[test]
    fn runs_of_like_size_become_one() {
        let cases: [(&[u64], Option<usize>); 5] = [
            (&[9, 1, 1], None),
            (&[9, 1, 1, 1, 1], Some(1)),
            (&[7, 1, 1, 1, 1], Some(0)),
            (&[200, 40, 12, 5, 1], Some(3)),
            (&[1, 90, 40, 5, 1], Some(0)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(to_merge(bytes, 3), expected, "{bytes:?}");
        }
    }
}
