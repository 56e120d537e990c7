//! A shard's manifest of any content: the stream opens and goes on, or refuses the file by name.

use crate::options;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::io::IoSlice;
use std::sync::{Arc, LazyLock};
use weir_base::disk::{OpenMode, SimDisk, read_file};
use weir_base::metrics::Registry;
use weir_base::{Disk, ManualClock, MemoryBudget, Rng};
use weir_storage::{
    Ack, ArrivalByDay, MergeMode, PartsLocation, StorageError, StoreContext, StreamOptions, StreamStore,
};

const DIR: &str = "s";
const FILE: &str = "s/shard-0000/manifest/manifest-000000000000";
const FRAME_BYTES: usize = 12;

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("_tp_time", time, false)]))
}

/// Puts lengths and checksums of entries right. An entry begins with its magic; what stands
/// before the next one is its JSON.
pub(crate) fn put_right(file: &mut [u8]) {
    let starts: Vec<usize> =
        (0..file.len().saturating_sub(FRAME_BYTES)).filter(|at| file[*at..].starts_with(b"WMF1")).collect();
    for (i, at) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(file.len());
        let Some(len) = (end - at).checked_sub(FRAME_BYTES) else { continue };
        file[at + 4..at + 8].copy_from_slice(&(len as u32).to_le_bytes());
        let crc = crc32c::crc32c(&file[at + 4..at + 8]);
        let crc = crc32c::crc32c_append(crc, &file[at + FRAME_BYTES..end]);
        file[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A stream with rows in a part and in the log, cleanly closed.
static SOUND: LazyLock<SimDisk> = LazyLock::new(|| {
    let disk = SimDisk::new(1);
    let store = open_store(&disk).expect("a new disk");
    runtime().block_on(async {
        for _ in 0..2 {
            store.shards()[0].append(rows(), None, Ack::Durable).await.expect("a healthy disk");
        }
        store.shards()[0].commit_once().expect("a healthy disk");
        store.shards()[0].append(rows(), None, Ack::Durable).await.expect("a healthy disk");
        store.close().await;
    });
    disk
});

/// The manifest of that stream.
pub(crate) fn sound() -> Vec<u8> {
    read_file(&SOUND.restart(), FILE).expect("a healthy disk")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("no drivers, no failure")
}

fn rows() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2])),
        Arc::new(TimestampMillisecondArray::from(vec![1, 2]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
}

fn open_store(disk: &SimDisk) -> Result<Arc<StreamStore>, StorageError> {
    let context = StoreContext::new(
        Arc::new(disk.clone()),
        Arc::new(ManualClock::new(1_767_225_600_000_000)),
        Arc::new(Rng::seeded(1)),
        MemoryBudget::root("inputs", u64::MAX),
        Arc::new(Registry::default()),
        PartsLocation::Local,
        None,
    );
    StreamStore::open(&context, DIR, schema(), StreamOptions::default(), Arc::new(ArrivalByDay))
}

/// The first byte chooses options, the rest is the file.
pub(crate) fn open(data: &[u8]) -> bool {
    let ([flags], body) = options::<1>(data);
    let mut file = body[..body.len().min(64 << 10)].to_vec();
    if flags & 1 == 0 {
        put_right(&mut file);
    }
    let disk = SOUND.restart();
    let handle = disk.open(FILE, OpenMode::ReadWrite).expect("it is there");
    handle.set_len(0).expect("a healthy disk");
    handle.write_all_at(0, &[IoSlice::new(&file)]).expect("a healthy disk");
    drop(handle);
    let store = match open_store(&disk) {
        Ok(store) => store,
        Err(StorageError::Corrupt { .. }) => return false,
        Err(e) => panic!("a healthy disk: {e}"),
    };
    let shard = &store.shards()[0];
    // A part may be other than its manifest says; that is found when it is read.
    let found = |result: Result<bool, StorageError>| match result {
        Ok(_) | Err(StorageError::Corrupt { .. }) => {}
        Err(e) => panic!("a healthy disk: {e}"),
    };
    runtime().block_on(async {
        shard.append(rows(), None, Ack::Durable).await.expect("a healthy disk");
        found(shard.commit_once());
        found(shard.merge_once(MergeMode::ToRest));
        found(shard.truncate_once().map(|()| true));
        store.close().await;
    });
    true
}
