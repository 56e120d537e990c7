//! The streams that are open: one store each, found by the relation's id.
//!
//! Invariants
//! - Files come first, the catalog event second; a directory no event names is removed at the
//!   next start.
//! - A stream whose files do not open is kept with its error and stops no other.
//!
//! Not here: what exists (the catalog), reading, parsing of settings.

use crate::expr::Compiler;
use crate::external_log::{ExternalLog, LogOf, LogStream};
use crate::externals::{Externals, OpenExternal};
use crate::ingest::fill::{Fill, IngestPlan, ingest_column};
use crate::layout::ExprLayout;
use crate::scan::{FooterCache, StoredAccess, full_schema};
use crate::settings::stream::{LogSettings, StreamSettings};
use arrow::datatypes::{Field, Schema, SchemaRef};
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use weir_base::{Code, Error, Result, err};
use weir_catalog::{DefaultKind, Relation, RelationKind, RelationName, Snapshot};
use weir_format::types::Type;
use weir_sql::bind::{AliasColumn, names_read};
use weir_storage::{
    PartLayout, StorageError, StoreContext, StreamOptions, StreamStore, TIME_COLUMN, remove_stream,
};

/// What `_tp_time` holds where CREATE says nothing else.
pub(crate) const NOW: &str = "now64(3, 'UTC')";

/// Below the data directory; one directory a stream, named by its id.
pub(crate) const STREAMS_DIR: &str = "streams";

pub(crate) fn stream_dir(id: &str) -> String {
    format!("{STREAMS_DIR}/{id}")
}

/// A stream with its store and all that reading and writing it needs.
#[derive(Debug)]
pub struct OpenStream {
    /// Stored columns; the first `visible` are what `*` shows, MATERIALIZED ones follow.
    pub schema: SchemaRef,
    pub visible: usize,
    /// Columns computed when it is read.
    pub aliases: Vec<AliasColumn>,
    pub store: Arc<StreamStore>,
    pub ingest: Arc<IngestPlan>,
    pub turn: Arc<AtomicU64>,
    layout: Arc<ExprLayout>,
    /// Of a stream whose log a topic keeps.
    pub log: Option<Arc<ExternalLog>>,
    /// The same as who reads it live or writes to it sees it.
    pub external: Option<Arc<OpenExternal>>,
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
            live: self.external.clone(),
        }
    }
}

/// A relation's definition, checked and compiled; no files yet.
pub(crate) struct Prepared {
    pub schema: SchemaRef,
    pub visible: usize,
    aliases: Vec<AliasColumn>,
    options: StreamOptions,
    ingest: Arc<IngestPlan>,
    layout: Arc<ExprLayout>,
    log: Option<PreparedLog>,
}

/// Of a stream whose log a topic keeps.
struct PreparedLog {
    name: RelationName,
    of: LogSettings,
    /// How rows are completed that bring a partition with them.
    ingest: Arc<IngestPlan>,
    time_of_message: bool,
}

/// Stored columns of a relation, what `*` shows first, with the number of those.
pub(crate) fn stored_schema(relation: &Relation) -> Result<(SchemaRef, usize, Vec<usize>)> {
    let is =
        |i: &usize, kind: DefaultKind| relation.columns[*i].default.as_ref().is_some_and(|d| d.kind == kind);
    let (last, mut order): (Vec<usize>, Vec<usize>) = (0..relation.columns.len())
        .filter(|i| !is(i, DefaultKind::Alias))
        .partition(|i| is(i, DefaultKind::Materialized));
    let visible = order.len();
    order.extend(last);
    let fields = order
        .iter()
        .map(|i| Ok(column_type(&relation.columns[*i].type_name)?.field(&relation.columns[*i].name)))
        .collect::<Result<Vec<Field>>>()?;
    Ok((Arc::new(Schema::new(fields)), visible, order))
}

/// The columns of a relation that are computed when it is read, each after those it refers to.
///
/// # Errors
/// Code 36 where they refer to each other in a circle; what does not compile, naming the column.
pub(crate) fn alias_columns(
    relation: &Relation,
    stored: &SchemaRef,
    compiler: &Compiler,
) -> Result<Vec<AliasColumn>> {
    let mut waiting = Vec::new();
    for column in &relation.columns {
        if let Some(default) = column.default.as_ref().filter(|d| d.kind == DefaultKind::Alias) {
            let alias = AliasColumn {
                name: column.name.clone(),
                expression: default.expression.clone(),
                column_type: column_type(&column.type_name)?,
            };
            waiting.push((names_read(&alias.expression)?, alias));
        }
    }
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let mut fields: Vec<Arc<Field>> = full_schema(stored).fields().iter().cloned().collect();
    let mut ordered: Vec<AliasColumn> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let open: Vec<String> = waiting.iter().map(|(_, a)| a.name.clone()).collect();
        let (ready, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(reads, _)| !open.iter().any(|name| reads.contains(name)));
        if ready.is_empty() {
            return Err(err!(BadArguments, "ALIAS columns {} refer to each other", open.join(", ")));
        }
        for (_, alias) in ready {
            let schema = Arc::new(Schema::new(fields.clone()));
            compiler
                .compile_as(&alias.expression, &schema, &alias.column_type)
                .map_err(|e| Error { message: format!("column {}: {}", alias.name, e.message), ..e })?;
            fields.push(Arc::new(alias.column_type.field(&alias.name)));
            ordered.push(alias);
        }
        waiting = rest;
    }
    Ok(ordered)
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
        let StreamSettings { mut options, sharding_expr, event_time_column, changelog, log } =
            StreamSettings::parse(settings)?;
        if changelog && ttl.is_some() {
            return Err(err!(
                NotImplemented,
                "TTL of a changelog stream is not supported: it would remove rows before those that take them back"
            ));
        }
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
        let time_is_told = event_time_column.is_some();
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
        if changelog && shards > 1 && sharding.as_ref().is_none_or(|s| s.volatile) {
            return Err(err!(
                BadArguments,
                "a changelog stream of {shards} shards needs a sharding_expr over its columns, so that a row and the \
                 one that takes it back lie in one shard; for example sharding_expr='weak_hash32(key)'"
            ));
        }
        let by_default =
            relation.columns.iter().find(|c| c.name == TIME_COLUMN).and_then(|c| c.default.as_ref());
        let time_of_message = !time_is_told && by_default.is_some_and(|d| d.expression == NOW);
        let log = match log {
            None => None,
            Some(of) => Some(PreparedLog {
                name: relation.full_name(),
                of,
                ingest: Arc::new(IngestPlan::new(schema.clone(), columns.clone(), None, 1)?),
                time_of_message,
            }),
        };
        let layout =
            ExprLayout::new(compiler, &schema, order_by.as_deref(), partition_by.as_deref(), ttl.as_deref())?;
        Ok(Prepared {
            ingest: Arc::new(IngestPlan::new(schema.clone(), columns, sharding, shards)?),
            aliases: alias_columns(relation, &schema, compiler)?,
            schema,
            visible,
            options,
            layout: Arc::new(layout),
            log,
        })
    }
}

impl Prepared {
    /// What of its log concerns others; `None` = we keep it.
    pub fn log(&self) -> Option<&LogSettings> {
        self.log.as_ref().map(|log| &log.of)
    }

    /// What its files are opened with.
    pub fn into_store(self) -> (SchemaRef, StreamOptions, Arc<ExprLayout>) {
        (self.schema, self.options, self.layout)
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
    /// Opens the topics that are logs.
    externals: Arc<Externals>,
    slots: RwLock<HashMap<Uuid, Slot>>,
}

impl Streams {
    pub fn new(ctx: StoreContext, footers: Arc<FooterCache>, externals: Arc<Externals>) -> Self {
        Streams { ctx, footers, externals, slots: RwLock::default() }
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
                let dir = stream_dir(&entry.name);
                tracing::info!(dir, "removing the files of a stream that was dropped or never finished");
                // What can not be removed now, such as parts on a store that is away, waits for
                // the next start.
                if let Err(e) = remove_stream(&self.ctx, &dir) {
                    tracing::warn!(dir, error = %e, "could not remove them; the next start will");
                }
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
        let Prepared { schema, visible, aliases, options, ingest, layout, log } = prepared;
        let topic = match &log {
            None => None,
            Some(log) => Some(self.externals.log_stream(&log.name, &log.of.settings, &schema)?),
        };
        let dir = stream_dir(&id.to_string());
        let make = if create { StreamStore::create } else { StreamStore::open };
        let store = make(&self.ctx, &dir, schema.clone(), options, layout.clone()).map_err(Error::from)?;
        let turn: Arc<AtomicU64> = Arc::default();
        let (mut kept, mut external) = (None, None);
        if let (Some(of), Some(stream)) = (log, topic) {
            let with = LogOf {
                name: of.name.to_string(),
                stream,
                ingest: of.ingest.clone(),
                time_of_message: of.time_of_message,
                skip: of.of.skip,
            };
            let log = ExternalLog::start(with, &store, self.ctx.runtime.as_ref());
            let stream = LogStream::new(log.clone(), store.clone(), ingest.clone(), turn.clone());
            external = Some(Arc::new(OpenExternal {
                schema: schema.clone(),
                visible,
                aliases: Vec::new(),
                ingest: of.ingest,
                computes: false,
                stream: Arc::new(stream),
            }));
            kept = Some(log);
        }
        let open = OpenStream { schema, visible, aliases, store, ingest, turn, layout, log: kept, external };
        Ok(Arc::new(open))
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

    /// Forgets a stream and removes its files once the last reader has let go. What a stop
    /// interrupts the next start removes.
    pub async fn remove(&self, id: Uuid, stop: &CancellationToken) -> Result<(), StorageError> {
        let slot = self.slots.write().remove(&id);
        let remove: Box<dyn FnOnce() -> Result<(), StorageError> + Send> = match slot {
            Some(Slot::Open(open)) => {
                open.log.iter().for_each(|log| log.stop());
                let mut removal = open.store.retire().await;
                drop(open);
                tokio::select! {
                    () = removal.unused() => {}
                    () = stop.cancelled() => return Ok(()),
                }
                Box::new(move || removal.remove_files())
            }
            _ => {
                let ctx = self.ctx.clone();
                Box::new(move || remove_stream(&ctx, &stream_dir(&id.to_string())))
            }
        };
        tokio::task::spawn_blocking(remove)
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
        open.iter().filter_map(|o| o.log.as_ref()).for_each(|log| log.stop());
        futures::future::join_all(open.iter().map(|o| o.store.close())).await;
    }
}
