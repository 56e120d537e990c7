//! The streams that are open: one store each, found by the relation's id.
//!
//! Invariants
//! - Files come first, the catalog event second; a directory no event names is removed at the
//!   next start.
//! - A stream whose files do not open is kept with its error and stops no other.
//!
//! Not here: what exists (the catalog), reading, parsing of settings.

use crate::expr::Compiler;
use crate::ingest::fill::{Fill, IngestPlan, ingest_column};
use crate::layout::ExprLayout;
use crate::scan::{FooterCache, StoredAccess};
use crate::settings::stream::StreamSettings;
use arrow::datatypes::{Field, Schema, SchemaRef};
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use uuid::Uuid;
use weir_base::{Code, Error, Result, err};
use weir_catalog::{DefaultKind, Relation, RelationKind, RelationName, Snapshot};
use weir_format::types::Type;
use weir_storage::{PartLayout, StorageError, StoreContext, StreamOptions, StreamStore, TIME_COLUMN};

/// Below the data directory; one directory a stream, named by its id.
const STREAMS_DIR: &str = "streams";

/// A stream with its store and all that reading and writing it needs.
#[derive(Debug)]
pub struct OpenStream {
    /// Stored columns; the first `visible` are what `*` shows, MATERIALIZED ones follow.
    pub schema: SchemaRef,
    pub visible: usize,
    pub store: Arc<StreamStore>,
    pub ingest: Arc<IngestPlan>,
    pub turn: Arc<AtomicU64>,
    layout: Arc<ExprLayout>,
}

impl OpenStream {
    /// What a reader needs, under the relation's present name.
    pub(crate) fn access(&self, name: &RelationName, footers: &Arc<FooterCache>) -> StoredAccess {
        StoredAccess {
            name: name.to_string().into(),
            store: self.store.clone(),
            schema: self.schema.clone(),
            objects: self.store.context().object_store(),
            footers: footers.clone(),
            sort_columns: self.layout.sort_columns(),
            partition_column: self.layout.partition_column(),
            column_defaults: Arc::default(),
        }
    }
}

/// A relation's definition, checked and compiled; no files yet.
pub(crate) struct Prepared {
    pub schema: SchemaRef,
    pub visible: usize,
    options: StreamOptions,
    ingest: Arc<IngestPlan>,
    layout: Arc<ExprLayout>,
}

/// Stored columns of a relation, what `*` shows first, with the number of those.
pub(crate) fn stored_schema(relation: &Relation) -> Result<(SchemaRef, usize, Vec<usize>)> {
    let hidden = |i: &usize| {
        relation.columns[*i].default.as_ref().is_some_and(|d| d.kind == DefaultKind::Materialized)
    };
    let (last, mut order): (Vec<usize>, Vec<usize>) = (0..relation.columns.len()).partition(hidden);
    let visible = order.len();
    order.extend(last);
    let fields = order
        .iter()
        .map(|i| Ok(column_type(&relation.columns[*i].type_name)?.field(&relation.columns[*i].name)))
        .collect::<Result<Vec<Field>>>()?;
    Ok((Arc::new(Schema::new(fields)), visible, order))
}

pub(crate) fn column_type(text: &str) -> Result<Type> {
    Type::parse(text).map_err(|e| Error::new(Code::UnknownType, e.to_string()))
}

impl Prepared {
    /// # Errors
    /// Whatever of the definition can not work: types (50), settings (115, 36, 48),
    /// expressions.
    pub fn new(relation: &Relation, compiler: &Compiler) -> Result<Self> {
        let RelationKind::Stream { order_by, partition_by, ttl, indexes, settings, .. } = &relation.kind
        else {
            return Err(err!(LogicalError, "{} keeps no rows", relation.full_name()));
        };
        let (schema, visible, order) = stored_schema(relation)?;
        let StreamSettings { mut options, sharding_expr, event_time_column } =
            StreamSettings::parse(settings)?;
        for index in indexes {
            if index.type_text.to_ascii_lowercase().starts_with("bloom_filter") {
                let column = index.expression.trim().trim_matches('`').trim_matches('"');
                if schema.index_of(column).is_err() {
                    return Err(err!(
                        NotImplemented,
                        "index {}: a bloom_filter over the expression {} is not supported yet; name a column",
                        index.name,
                        index.expression
                    ));
                }
                options.bloom_filter_columns.push(column.to_owned());
            }
        }
        let mut columns = order
            .iter()
            .map(|i| {
                let column = &relation.columns[*i];
                ingest_column(compiler, &schema, column, column_type(&column.type_name)?)
            })
            .collect::<Result<Vec<_>>>()?;
        if let Some(text) = event_time_column
            && let Some(time) = columns.iter_mut().find(|c| c.name == TIME_COLUMN)
        {
            let compiled = compiler
                .compile_as(&text, &schema, &time.column_type)
                .map_err(|e| Error { message: format!("event_time_column: {}", e.message), ..e })?;
            time.fill = Fill::Default(compiled);
        }
        let sharding = sharding_expr
            .map(|text| compiler.compile(&text, &schema))
            .transpose()
            .map_err(|e| Error { message: format!("sharding_expr: {}", e.message), ..e })?;
        let shards = options.shards;
        let layout =
            ExprLayout::new(compiler, &schema, order_by.as_deref(), partition_by.as_deref(), ttl.as_deref())?;
        Ok(Prepared {
            ingest: Arc::new(IngestPlan::new(schema.clone(), columns, sharding, shards)?),
            schema,
            visible,
            options,
            layout: Arc::new(layout),
        })
    }
}

#[derive(Debug, Clone)]
enum Slot {
    Open(Arc<OpenStream>),
    Broken(Error),
}

#[derive(Debug)]
pub(crate) struct Streams {
    ctx: StoreContext,
    pub footers: Arc<FooterCache>,
    slots: RwLock<HashMap<Uuid, Slot>>,
}

impl Streams {
    pub fn new(ctx: StoreContext, footers: Arc<FooterCache>) -> Self {
        Streams { ctx, footers, slots: RwLock::default() }
    }

    /// Opens every stream of the catalog and removes directories that belong to none. Blocks.
    ///
    /// # Errors
    /// Only if the directory of all streams can not be read.
    pub fn open_all(&self, snapshot: &Snapshot, compiler: &Compiler) -> Result<()> {
        let failed = |e: std::io::Error| err!(IoError, "could not reach {STREAMS_DIR}: {e}");
        weir_base::disk::create_dir_durable(&*self.ctx.disk, STREAMS_DIR).map_err(failed)?;
        let known: HashSet<String> =
            snapshot.relations().filter(|r| r.is_stored()).map(|r| r.id.to_string()).collect();
        for entry in self.ctx.disk.list(STREAMS_DIR).map_err(failed)? {
            if entry.is_dir && !known.contains(&entry.name) {
                let dir = format!("{STREAMS_DIR}/{}", entry.name);
                tracing::info!(dir, "removing the files of a stream that was dropped or never finished");
                self.ctx.disk.remove_dir_all(&dir).map_err(failed)?;
            }
        }
        for relation in snapshot.relations().filter(|r| r.is_stored()) {
            let slot = match Prepared::new(relation, compiler).and_then(|p| self.open(relation.id, p, false))
            {
                Ok(open) => Slot::Open(open),
                Err(e) => {
                    tracing::error!(stream = %relation.full_name(), error = %e, "the stream does not open");
                    Slot::Broken(e)
                }
            };
            self.slots.write().insert(relation.id, slot);
        }
        Ok(())
    }

    fn open(&self, id: Uuid, prepared: Prepared, create: bool) -> Result<Arc<OpenStream>> {
        let Prepared { schema, visible, options, ingest, layout } = prepared;
        let dir = format!("{STREAMS_DIR}/{id}");
        let make = if create { StreamStore::create } else { StreamStore::open };
        let store = make(&self.ctx, &dir, schema.clone(), options, layout.clone()).map_err(Error::from)?;
        Ok(Arc::new(OpenStream { schema, visible, store, ingest, turn: Arc::default(), layout }))
    }

    /// Makes a new stream's files and keeps it, not yet visible to anyone. Blocks.
    pub fn create(&self, id: Uuid, prepared: Prepared) -> Result<Arc<OpenStream>> {
        let open = self.open(id, prepared, true)?;
        self.slots.write().insert(id, Slot::Open(open.clone()));
        Ok(open)
    }

    /// # Errors
    /// What the stream's files failed with at start.
    pub fn get(&self, relation: &Relation) -> Result<Arc<OpenStream>> {
        match self.slots.read().get(&relation.id) {
            Some(Slot::Open(open)) => Ok(open.clone()),
            Some(Slot::Broken(e)) => {
                let message = format!("stream {} could not be opened: {}", relation.full_name(), e.message);
                Err(Error { message, ..e.clone() })
            }
            None => Err(err!(UnknownStream, "stream {} was dropped", relation.full_name())),
        }
    }

    /// Why a stream did not open, for `system.tables`.
    pub fn error_of(&self, id: Uuid) -> Option<String> {
        match self.slots.read().get(&id) {
            Some(Slot::Broken(e)) => Some(e.message.clone()),
            _ => None,
        }
    }

    /// Forgets a stream and removes its files. Whoever still reads it may get errors.
    pub async fn remove(&self, id: Uuid) -> Result<(), StorageError> {
        let slot = self.slots.write().remove(&id);
        let Some(Slot::Open(open)) = slot else {
            let (disk, dir) = (self.ctx.disk.clone(), format!("{STREAMS_DIR}/{id}"));
            let removed = tokio::task::spawn_blocking(move || disk.remove_dir_all(&dir)).await;
            if let Ok(Err(e)) = removed {
                tracing::warn!(%id, error = %e, "could not remove a dropped stream; the next start will");
            }
            return Ok(());
        };
        open.store.close().await;
        let store = open.store.clone();
        tokio::task::spawn_blocking(move || store.drop_files())
            .await
            .map_err(|e| StorageError::Worker { doing: "remove files", reason: e.to_string() })?
    }

    pub async fn close_all(&self) {
        let open: Vec<Arc<OpenStream>> = self
            .slots
            .read()
            .values()
            .filter_map(|s| match s {
                Slot::Open(open) => Some(open.clone()),
                Slot::Broken(_) => None,
            })
            .collect();
        futures::future::join_all(open.iter().map(|o| o.store.close())).await;
    }
}
