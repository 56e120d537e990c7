//! The object store interface over parts, for DataFusion: read only, every block verified.

use super::store::PartStore;
use crate::context::PartsLocation;
use crate::error::StorageError;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

impl fmt::Display for PartStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weir parts")
    }
}

/// The interface has `&self` futures, blocking reads need an owner: a handle that shares.
impl PartStore {
    async fn read_async(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match &self.location {
            PartsLocation::Remote { .. } => self.read_remote(path, ranges).await,
            PartsLocation::Local => match tokio::runtime::Handle::try_current() {
                // Off the network threads; tokio tells a multi-threaded runtime to make room.
                Ok(handle) if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                    tokio::task::block_in_place(|| self.read_local(path, ranges))
                }
                _ => self.read_local(path, ranges),
            },
        }
        .map_err(StorageError::into_object)
    }

    fn meta(&self, location: &Path) -> Result<ObjectMeta> {
        let known = self
            .known(location.as_ref())
            .map_err(|e| object_store::Error::NotFound { path: location.to_string(), source: Box::new(e) })?;
        Ok(ObjectMeta {
            location: location.clone(),
            // Parts never change, so neither does this.
            last_modified: DateTime::<Utc>::UNIX_EPOCH,
            size: known.size_bytes,
            e_tag: None,
            version: None,
        })
    }
}

fn read_only<T>(operation: &str) -> Result<T> {
    Err(object_store::Error::NotSupported {
        source: format!("{operation}: parts are written by commits and merges only").into(),
    })
}

#[async_trait]
impl ObjectStore for PartStore {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        read_only("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        read_only("put")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let meta = self.meta(location)?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(GetRange::Bounded(r)) => r.start..r.end.min(meta.size),
            Some(GetRange::Offset(offset)) => *offset..meta.size,
            Some(GetRange::Suffix(n)) => meta.size.saturating_sub(*n)..meta.size,
        };
        if range.start > range.end {
            return Err(object_store::Error::Generic {
                store: "weir",
                source: format!("range {range:?} lies outside {location} of {} bytes", meta.size).into(),
            });
        }
        let bytes = if options.head {
            Bytes::new()
        } else {
            self.read_async(location.as_ref(), std::slice::from_ref(&range)).await?.remove(0)
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async move { Ok(bytes) }.boxed()).boxed()),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let size = self.meta(location)?.size;
        if let Some(outside) = ranges.iter().find(|r| r.end > size) {
            return Err(object_store::Error::Generic {
                store: "weir",
                source: format!("range {outside:?} lies outside {location} of {size} bytes").into(),
            });
        }
        self.read_async(location.as_ref(), ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|_| read_only("delete")).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let metas: Vec<_> = self
            .known_under(prefix.map(|p| p.as_ref()).unwrap_or_default())
            .into_iter()
            .filter_map(|path| self.meta(&Path::from(path)).ok())
            .map(Ok)
            .collect();
        stream::iter(metas).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = prefix.cloned().unwrap_or_default();
        let mut objects = Vec::new();
        let mut common_prefixes = std::collections::BTreeSet::new();
        for path in self.known_under(root.as_ref()) {
            let path = Path::from(path);
            let mut below = path.prefix_match(&root).into_iter().flatten();
            match (below.next(), below.next()) {
                (Some(_), None) => objects.extend(self.meta(&path).ok()),
                (Some(child), Some(_)) => {
                    common_prefixes.insert(root.clone().join(child));
                }
                (None, _) => {}
            }
        }
        Ok(ListResult { common_prefixes: common_prefixes.into_iter().collect(), objects })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        read_only("copy")
    }
}

/// Compiles only while a shared store is itself an object store.
const _: fn(Arc<PartStore>) -> Arc<dyn ObjectStore> = |store| store;
