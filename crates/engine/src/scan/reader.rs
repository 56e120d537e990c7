//! Reads parts for DataFusion: through the verifying store, with footers kept between queries.

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use weir_base::Error;
use weir_storage::{ShardSnapshot, StorageError};

/// The name under which the store of parts is known to DataFusion.
pub fn parts_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse("weir-parts://local").expect("a constant that parses")
}

/// Makes parts readable by every query that runs in `env`; called once a process.
pub fn register_parts(env: &RuntimeEnv, objects: Arc<dyn ObjectStore>) {
    env.register_object_store(parts_url().as_ref(), objects);
}

/// Decoded footers and page indexes of parts, the most recently used ones up to a size.
/// Parts never change and their paths never return, so entries cannot be stale.
#[derive(Debug)]
pub struct FooterCache {
    bytes_max: usize,
    state: Mutex<Footers>,
}

#[derive(Debug, Default)]
struct Footers {
    entries: HashMap<Path, Footer>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Footer {
    metadata: Arc<ParquetMetaData>,
    bytes: usize,
    last_use: u64,
}

impl FooterCache {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(FooterCache { bytes_max, state: Mutex::default() })
    }

    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    fn get(&self, path: &Path) -> Option<Arc<ParquetMetaData>> {
        let mut state = self.state.lock();
        state.uses += 1;
        let now = state.uses;
        let footer = state.entries.get_mut(path)?;
        footer.last_use = now;
        Some(footer.metadata.clone())
    }

    fn put(&self, path: &Path, metadata: Arc<ParquetMetaData>) {
        let bytes = metadata.memory_size();
        if bytes > self.bytes_max {
            return;
        }
        let mut state = self.state.lock();
        state.uses += 1;
        let footer = Footer { metadata, bytes, last_use: state.uses };
        state.bytes += bytes;
        if let Some(before) = state.entries.insert(path.clone(), footer) {
            state.bytes -= before.bytes;
        }
        while state.bytes > self.bytes_max {
            let oldest = state.entries.iter().min_by_key(|(_, f)| f.last_use).map(|(p, _)| p.clone());
            let Some(footer) = oldest.and_then(|p| state.entries.remove(&p)) else { break };
            state.bytes -= footer.bytes;
        }
    }
}

/// Makes readers; holds the snapshots, so that no part goes while a plan or stream has it.
#[derive(Debug)]
pub(super) struct PartReaders {
    pub objects: Arc<dyn ObjectStore>,
    pub footers: Arc<FooterCache>,
    pub pins: Arc<Vec<ShardSnapshot>>,
}

impl ParquetFileReaderFactory for PartReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location.clone();
        Ok(Box::new(PartReader {
            metrics: ParquetFileMetrics::new(partition_index, path.as_ref(), metrics),
            size_bytes: file.object_meta.size,
            path,
            objects: self.objects.clone(),
            footers: self.footers.clone(),
            _pins: self.pins.clone(),
        }))
    }
}

struct PartReader {
    path: Path,
    size_bytes: u64,
    objects: Arc<dyn ObjectStore>,
    footers: Arc<FooterCache>,
    metrics: ParquetFileMetrics,
    _pins: Arc<Vec<ShardSnapshot>>,
}

/// Keeps the code of a damaged block, which would else leave as "object store error".
fn read_error(e: object_store::Error) -> ParquetError {
    if let object_store::Error::Generic { source, .. } = &e
        && let Some(ours) = source.downcast_ref::<StorageError>()
    {
        return ParquetError::External(Box::new(Error::from(ours.clone())));
    }
    ParquetError::External(Box::new(e))
}

impl AsyncFileReader for PartReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.metrics.bytes_scanned.add((range.end - range.start) as usize);
        async move { self.objects.get_range(&self.path, range).await.map_err(read_error) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.metrics.bytes_scanned.add(ranges.iter().map(|r| (r.end - r.start) as usize).sum());
        async move { self.objects.get_ranges(&self.path, &ranges).await.map_err(read_error) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            if let Some(metadata) = self.footers.get(&self.path) {
                return Ok(metadata);
            }
            let (footers, path, size) = (self.footers.clone(), self.path.clone(), self.size_bytes);
            let metadata = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .with_prefetch_hint(Some(64 << 10))
                .load_and_finish(&mut *self, size)
                .await?;
            let metadata = Arc::new(metadata);
            footers.put(&path, metadata.clone());
            Ok(metadata)
        }
        .boxed()
    }
}
