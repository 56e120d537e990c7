//! One statement: parsed, checked against the session, sent to where it is done.

use crate::ddl;
use crate::engine::{Shared, Statement};
use crate::explain;
use crate::externals::OpenExternal;
use crate::ingest::{Destination, IngestPlan, StreamWriter, rows_of_values};
use crate::insert_select::insert_select;
use crate::outcome::{Done, InsertHandle, InsertWriter, Outcome, QueryHandle};
use crate::query::{
    Event, LateWriter, QueryAbout, QueryEntry, QueryRecord, SELECT, StreamingQuery, late_target,
    start_bounded, start_streaming,
};
use crate::scope::EngineScope;
use crate::secrets::masked;
use crate::session::{QueryMode, Session};
use crate::settings::{QuerySettings, check_all};
use crate::source::StreamSources;
use crate::steer;
use crate::streams::OpenStream;
use crate::subscriptions;
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::{SessionState, TaskContext};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_base::error::did_you_mean;
use weir_base::{Error, Result, err};
use weir_catalog::{RelationKind, RelationName, SYSTEM_DATABASE};
use weir_format::types::Type;
use weir_format::{DecodedBatch, Decoder};
use weir_plan::{ExternalStream, Lasting, NodeId, SourceSpec, WEIGHT_COLUMN};
use weir_sql::ast::{Definition, DescribeTarget, Insert, InsertSource, Parsed, Statement as Ast};
use weir_sql::bind::{AliasColumn, BoundQuery, zoned};
use weir_sql::{parse, stream};

/// Threads a query gets where `max_threads` is 0.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn one_statement(text: &[u8]) -> Result<Parsed> {
    let mut statements = parse::parse_bytes(text, &parse::Limits::default())?;
    if statements.len() > 1 {
        return Err(err!(Syntax, "{} statements in one request; send them one by one", statements.len()));
    }
    statements.pop().ok_or_else(|| err!(Syntax, "there is no statement"))
}

fn context(
    shared: Arc<Shared>,
    session: &Session,
    settings: &BTreeMap<String, String>,
    text: &[u8],
    query_id: String,
    format: Option<String>,
    record: Arc<QueryRecord>,
) -> Result<Statement> {
    let settings = QuerySettings::new(session, settings, &shared.config.settings, cores())?;
    if !settings.log_queries {
        record.forget();
    }
    let text = shown(text);
    Ok(Statement { shared, session: session.clone(), settings, query_id, text, format, record })
}

/// Another statement that runs in the place of one.
pub(crate) fn context_of(
    cx: &Statement,
    session: &Session,
    settings: &BTreeMap<String, String>,
    query_id: &str,
) -> Result<Statement> {
    let (shared, text, format) = (cx.shared.clone(), cx.text.as_bytes(), cx.format.clone());
    context(shared, session, settings, text, query_id.to_owned(), format, cx.record.clone())
}

/// A statement of the server's own: what a view runs. It is not remembered as a query.
pub(crate) fn background(
    shared: Arc<Shared>,
    database: &str,
    settings: &BTreeMap<String, String>,
    text: &str,
    query_id: &str,
) -> Result<Statement> {
    let record = shared.history.begin(QueryAbout {
        query_id: query_id.to_owned(),
        user: "default".into(),
        database: database.to_owned(),
        text: shown(text.as_bytes()),
        kind: "View",
        streaming: true,
    });
    record.forget();
    let session = Session { database: database.to_owned(), ..Session::default() };
    context(shared, &session, settings, text.as_bytes(), query_id.to_owned(), None, record)
}

/// Of a statement's text in `system.queries` and `system.query_log`.
const TEXT_SHOWN_BYTES_MAX: usize = 16 << 10;

/// Much data behind an INSERT is not part of what is shown, nor are secrets.
pub(crate) fn shown(text: &[u8]) -> String {
    masked(String::from_utf8_lossy(&text[..text.len().min(TEXT_SHOWN_BYTES_MAX)]).trim())
}

pub(crate) async fn statement(
    shared: Arc<Shared>,
    session: &mut Session,
    text: &[u8],
    query_id: String,
    record: Arc<QueryRecord>,
) -> Result<Outcome> {
    if shared.is_stopping() {
        return Err(err!(QueryWasCancelled, "the server is shutting down"));
    }
    let Parsed { statement, settings, format } = one_statement(text)?;
    // SETTINGS of CREATE STREAM are the stream's, those of a view its own.
    let (query_settings, own_settings) = match &statement {
        Ast::CreateStream(_) => (BTreeMap::new(), settings),
        _ => (settings, BTreeMap::new()),
    };
    record.is(kind_of(&statement));
    let cx = context(shared, session, &query_settings, text, query_id, format, record)?;
    if cx.settings.read_only && changes_something(&statement) {
        return Err(err!(
            ReadOnly,
            "this request may only read; send statements that change something with POST and without readonly"
        ));
    }
    let done = match statement {
        Ast::Query(query) => return select(&cx, &query).await,
        Ast::Subscribe(query) => {
            let (started, schema) = subscriptions::subscribe(&cx, &query, text).await?;
            return Ok(streaming_rows(&cx, started, schema));
        }
        Ast::Recover { query_id } => {
            let (again, started, schema) = subscriptions::recover(&cx, &query_id).await?;
            return Ok(streaming_rows(&again, started, schema));
        }
        Ast::Unsubscribe { query_id } => {
            cx.shared.subscriptions.unsubscribe(&cx.shared, &query_id).await?;
            Ok(cx.done())
        }
        Ast::Backup { to, settings } => return steer::backup(&cx, &to, settings).await,
        Ast::Explain { kind, statement } => return explain::explain(&cx, kind, *statement).await,
        Ast::ExplainWhy { query_id } => return explain::explain_why(&cx, &query_id),
        Ast::Insert(insert) => return insert_into(&cx, insert).await,
        Ast::Show(show) => return ddl::show(&cx, show),
        Ast::Describe(DescribeTarget::Relation(name)) => return ddl::describe_relation(&cx, &name),
        Ast::Describe(DescribeTarget::Query(query)) => return ddl::describe_query(&cx, &query),
        Ast::Exists { object, name } => return ddl::exists(&cx, object, &name),
        Ast::KillQuery { filter, sync } => return steer::kill_query(&cx, &filter, sync).await,
        Ast::CreateDatabase { name, if_not_exists, comment } => {
            ddl::create_database(&cx, name, if_not_exists, comment).await
        }
        Ast::DropDatabase { name, if_exists, cascade } => {
            ddl::drop_database(&cx, name, if_exists, cascade).await
        }
        Ast::CreateStream(create) => ddl::create_stream(&cx, create, own_settings).await,
        Ast::CreateMaterializedView(create) => ddl::create_materialized_view(&cx, create).await,
        Ast::Definition(change) => ddl::change_definition(&cx, change).await,
        Ast::CreateJob(create) => ddl::create_job(&cx, *create).await,
        Ast::DropJob { object, name, if_exists } => ddl::drop_job(&cx, object, &name, if_exists).await,
        Ast::AlterStream { name, settings } => ddl::alter_stream(&cx, &name, settings).await,
        Ast::AlterView { name, change } => ddl::alter_view(&cx, &name, change).await,
        Ast::CreateView { name, if_not_exists, or_replace, select, comment } => {
            ddl::create_view(&cx, &name, if_not_exists, or_replace, select, comment).await
        }
        Ast::Drop { object, name, if_exists } => ddl::drop_relation(&cx, object, &name, if_exists).await,
        Ast::Truncate { name, if_exists } => ddl::truncate(&cx, &name, if_exists).await,
        Ast::Rename { pairs } => ddl::rename(&cx, &pairs).await,
        Ast::Use { database } => {
            cx.shared.catalog.snapshot().expect_database(&database)?;
            session.database = database;
            Ok(cx.done())
        }
        Ast::Set(settings) => {
            check_all(&settings)?;
            session.settings.extend(settings);
            Ok(cx.done())
        }
        Ast::System(system) => steer::system(&cx, system).await,
        Ast::Optimize { name } => steer::merge(&cx, &name).await,
    }?;
    Ok(Outcome::Done(done))
}

/// For `system.query_log`.
fn kind_of(statement: &Ast) -> &'static str {
    match statement {
        Ast::Query(_) | Ast::Subscribe(_) | Ast::Recover { .. } => SELECT,
        Ast::Unsubscribe { .. } => "Unsubscribe",
        Ast::Backup { .. } => "Backup",
        Ast::Explain { .. } | Ast::ExplainWhy { .. } => "Explain",
        Ast::Insert(_) => "Insert",
        Ast::Show(_) => "Show",
        Ast::Describe(_) => "Describe",
        Ast::Exists { .. } => "Exists",
        Ast::KillQuery { .. } => "KillQuery",
        Ast::CreateDatabase { .. }
        | Ast::CreateStream(_)
        | Ast::CreateView { .. }
        | Ast::CreateMaterializedView(_)
        | Ast::CreateJob(_)
        | Ast::Definition(Definition::CreateCollection { .. } | Definition::CreateFormatSchema { .. }) => {
            "Create"
        }
        Ast::AlterStream { .. }
        | Ast::AlterView { .. }
        | Ast::Definition(Definition::AlterCollection { .. }) => "Alter",
        Ast::DropDatabase { .. }
        | Ast::Drop { .. }
        | Ast::DropJob { .. }
        | Ast::Definition(Definition::Drop { .. }) => "Drop",
        Ast::Truncate { .. } => "Truncate",
        Ast::Rename { .. } => "Rename",
        Ast::Use { .. } => "Use",
        Ast::Set(_) => "Set",
        Ast::System(_) => "System",
        Ast::Optimize { .. } => "Optimize",
    }
}

fn changes_something(statement: &Ast) -> bool {
    match statement {
        Ast::Query(_)
        | Ast::Explain { .. }
        | Ast::ExplainWhy { .. }
        | Ast::Show(_)
        | Ast::Describe(_)
        | Ast::Exists { .. }
        | Ast::Use { .. } => false,
        Ast::Insert(_)
        | Ast::Subscribe(_)
        | Ast::Recover { .. }
        | Ast::Unsubscribe { .. }
        | Ast::Backup { .. }
        | Ast::CreateDatabase { .. }
        | Ast::DropDatabase { .. }
        | Ast::CreateStream(_)
        | Ast::CreateView { .. }
        | Ast::CreateMaterializedView(_)
        | Ast::CreateJob(_)
        | Ast::DropJob { .. }
        | Ast::Definition(_)
        | Ast::AlterStream { .. }
        | Ast::AlterView { .. }
        | Ast::Drop { .. }
        | Ast::Truncate { .. }
        | Ast::Rename { .. }
        | Ast::KillQuery { .. }
        | Ast::Set(_)
        | Ast::System(_)
        | Ast::Optimize { .. } => true,
    }
}

pub(crate) fn is_streaming(shared: Arc<Shared>, session: &Session, text: &str) -> Result<bool> {
    let Parsed { statement, settings, format } = one_statement(text.as_bytes())?;
    let query = match statement {
        Ast::Query(query) => query,
        other => return Ok(matches!(other, Ast::Subscribe(_) | Ast::Recover { .. })),
    };
    let record = shared.history.begin(QueryAbout {
        query_id: String::new(),
        user: String::new(),
        database: String::new(),
        text: String::new(),
        kind: "",
        streaming: false,
    });
    record.forget();
    let cx = context(shared, session, &settings, text.as_bytes(), String::new(), format, record)?;
    Ok(cx.bind(&query, false)?.unbounded)
}

async fn select(cx: &Statement, query: &sqlparser::ast::Query) -> Result<Outcome> {
    let state = cx.state()?;
    let scope = Arc::new(cx.scope());
    let options = cx.bind_options(cx.settings.mode == QueryMode::Table);
    let bound = weir_sql::bind::bind_query(query, &*scope, &state, &options)?;
    let entry = cx.register(bound.unbounded)?;
    let (schema, streaming) = (bound.schema.clone(), bound.unbounded);
    let progress = entry.progress.clone();
    let (batches, warnings) = if bound.unbounded {
        let started = run_streaming(cx, entry, bound, &state, scope, None).await?;
        (started.batches, started.warnings)
    } else {
        (run_bounded(cx, entry, bound, &state).await?, Vec::new())
    };
    Ok(Outcome::Rows(QueryHandle {
        query_id: cx.query_id.clone(),
        schema: schema.clone(),
        streaming,
        format: cx.format.clone(),
        format_settings: cx.settings.format.clone(),
        progress,
        warnings,
        batches: batches.map(move |batch| batch.and_then(|b| with_schema(b, &schema))).boxed(),
    }))
}

/// The rows of a query without end, as its client gets them.
fn streaming_rows(cx: &Statement, started: StreamingQuery, schema: SchemaRef) -> Outcome {
    Outcome::Rows(QueryHandle {
        query_id: cx.query_id.clone(),
        schema: schema.clone(),
        streaming: true,
        format: cx.format.clone(),
        format_settings: cx.settings.format.clone(),
        progress: cx.record.progress.clone(),
        warnings: started.warnings,
        batches: started.batches.map(move |batch| batch.and_then(|b| with_schema(b, &schema))).boxed(),
    })
}

/// Of a query that keeps checkpoints: what is asked before it starts, of the streams it reads.
pub(crate) type Keeping<'a> =
    (Lasting, &'a (dyn Fn(Vec<(NodeId, RelationName)>) -> Result<()> + Send + Sync));

/// Starts a query without end.
pub(crate) async fn run_streaming(
    cx: &Statement,
    entry: Arc<QueryEntry>,
    mut bound: BoundQuery,
    state: &SessionState,
    scope: Arc<EngineScope>,
    keeping: Option<Keeping<'_>>,
) -> Result<StreamingQuery> {
    let replay_order = bound.replay_order;
    let late = late_target(cx)?;
    let columns = late.iter().flat_map(|t| &t.columns).map(|(name, _)| name.clone()).collect();
    bound.late_columns = columns;
    let plan = stream::lower(bound, state)?;
    if let Some(target) = late {
        entry.keep_late(LateWriter::new(cx, target, &plan, &entry)?);
    }
    let task = Arc::new(TaskContext::from(state));
    let (memory, progress) = (entry.memory.clone(), entry.progress.clone());
    let sources = StreamSources::new(scope, replay_order, task, memory, progress).telling(cx.record.clone());
    let clock = cx.shared.world.clock.clone();
    let lasting = match keeping {
        None => None,
        Some((lasting, check)) => {
            let name = |s: &SourceSpec| RelationName::new(s.database.clone(), s.relation.clone());
            check(plan.root.sources().into_iter().map(|(id, s)| (id, name(s))).collect())?;
            Some(lasting)
        }
    };
    start_streaming(entry, plan, sources, &*cx.shared.runtime, clock, lasting).await
}

/// Starts a bounded query; too many rows end it.
async fn run_bounded(
    cx: &Statement,
    entry: Arc<QueryEntry>,
    bound: BoundQuery,
    state: &SessionState,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let batches = start_bounded(entry, bound.plan, state, &cx.shared.config.compute).await?;
    let limit = cx.settings.result_rows_max;
    if limit == 0 {
        return Ok(batches);
    }
    let mut rows = 0;
    let limited = batches.map(move |batch| {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        if rows > limit {
            return Err(err!(TooManyRows, "the result has {rows} rows or more, max_result_rows is {limit}"));
        }
        Ok(batch)
    });
    Ok(limited.boxed())
}

/// The same columns under the names and types a client is told.
fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = arrow::array::RecordBatchOptions::new()
        .with_row_count(Some(batch.num_rows()))
        .with_match_field_names(false);
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|e| err!(LogicalError, "the result does not have the columns announced: {e}"))
}

/// Where rows of an insert are to lie.
#[derive(Clone)]
enum Opened {
    Stored(Arc<OpenStream>),
    External(Arc<OpenExternal>),
}

impl Opened {
    fn ingest(&self) -> &Arc<IngestPlan> {
        match self {
            Opened::Stored(open) => &open.ingest,
            Opened::External(open) => &open.ingest,
        }
    }

    fn aliases(&self) -> &[AliasColumn] {
        match self {
            Opened::Stored(open) => &open.aliases,
            Opened::External(open) => &open.aliases,
        }
    }
}

/// A stream that can be inserted into, and the columns an insert names.
pub(crate) struct Target {
    pub name: RelationName,
    open: Opened,
    pub columns: Vec<(String, Type)>,
    pub schema: SchemaRef,
}

impl Target {
    /// Every column an insert may name.
    pub fn insertable(&self) -> Vec<String> {
        self.open.ingest().insertable().map(|c| c.name.clone()).collect()
    }

    pub fn ingest(&self) -> Arc<IngestPlan> {
        self.open.ingest().clone()
    }

    /// None of an external stream.
    pub fn shards(&self) -> &[Arc<weir_storage::Shard>] {
        match &self.open {
            Opened::Stored(open) => open.store.shards(),
            Opened::External(_) => &[],
        }
    }

    pub fn external(&self) -> Option<&Arc<dyn ExternalStream>> {
        match &self.open {
            Opened::Stored(_) => None,
            Opened::External(open) => Some(&open.stream),
        }
    }
}

pub(crate) fn target(cx: &Statement, name: &RelationName, columns: Option<&[String]>) -> Result<Target> {
    if name.database == SYSTEM_DATABASE {
        return Err(err!(AccessDenied, "system.{} can not be inserted into", name.name));
    }
    let snapshot = cx.shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&name.database, &name.name)?;
    ddl::show::expect_insertable(relation)?;
    let open = match relation.kind {
        RelationKind::External { .. } => {
            Opened::External(cx.shared.externals.get(relation, &cx.shared.compiler())?)
        }
        _ => {
            let open = cx.shared.streams.get(relation)?;
            match &open.external {
                Some(external) => Opened::External(external.clone()),
                None => Opened::Stored(open),
            }
        }
    };
    let plan = open.ingest();
    let named: Vec<(String, Type)> = match columns {
        None => plan
            .insertable()
            .filter(|c| c.name != weir_storage::TIME_COLUMN || time_is_declared(relation))
            .filter(|c| c.name != WEIGHT_COLUMN && is_shown(relation, &c.name))
            .map(|c| (c.name.clone(), c.column_type.clone()))
            .collect(),
        Some(names) => {
            let mut named: Vec<(String, Type)> = Vec::with_capacity(names.len());
            for n in names {
                let Some(column) = plan.insertable().find(|c| c.name == *n) else {
                    let computed = |what: &str, when: &str| {
                        err!(BadArguments, "column {n} is {what}: computed {when}, it can not be inserted")
                    };
                    if plan.column(n).is_some() {
                        return Err(computed("MATERIALIZED", "from the other columns"));
                    }
                    if open.aliases().iter().any(|a| a.name == *n) {
                        return Err(computed("ALIAS", "when it is read"));
                    }
                    let hint = did_you_mean(n, plan.insertable().map(|c| c.name.as_str()));
                    return Err(err!(UnknownIdentifier, "stream {name} has no column {n}{hint}"));
                };
                if named.iter().any(|(other, _)| other == n) {
                    return Err(err!(BadArguments, "column {n} is named twice"));
                }
                named.push((n.clone(), column.column_type.clone()));
            }
            named
        }
    };
    // Text of times without a zone is read in the session's; what is kept is the instant.
    let named: Vec<(String, Type)> = match &cx.settings.time_zone {
        Some(zone) => named.into_iter().map(|(n, t)| (n, zoned(&t, zone))).collect(),
        None => named,
    };
    let schema = Arc::new(Schema::new(named.iter().map(|(n, t)| t.field(n)).collect::<Vec<_>>()));
    Ok(Target { name: name.clone(), open, columns: named, schema })
}

/// Without a column list an insert gives the declared columns, in order; never the weight of a
/// changelog, and `_tp_time` only where CREATE named it, so that `VALUES (1, 'a')` fits `(k int32, s string)`.
fn time_is_declared(relation: &weir_catalog::Relation) -> bool {
    if let RelationKind::External { time_in_payload, .. } = &relation.kind {
        return *time_in_payload;
    }
    relation.columns.last().is_none_or(|last| last.name != weir_storage::TIME_COLUMN)
}

/// Whether CREATE named a column: every message has more.
fn is_shown(relation: &weir_catalog::Relation, name: &str) -> bool {
    relation.columns.iter().any(|c| c.name == name)
}

pub(crate) fn writer(cx: &Statement, target: &Target, entry: &Arc<QueryEntry>) -> Result<StreamWriter> {
    let options = cx.writer_options(&target.name, entry.memory.clone());
    match &target.open {
        Opened::Stored(open) => {
            let to = Destination::Store(open.store.clone());
            StreamWriter::new(open.ingest.clone(), to, open.turn.clone(), options)
        }
        Opened::External(open) => {
            let to = Destination::external(open.stream.clone());
            StreamWriter::new(open.ingest.clone(), to, Arc::default(), options)
        }
    }
}

async fn insert_into(cx: &Statement, insert: Insert) -> Result<Outcome> {
    let name = cx.full_name(&insert.target);
    let columns = insert.columns.as_deref();
    let (format, inline, in_text) = match insert.source {
        InsertSource::Select(query) => {
            return insert_select(cx, &name, columns, &query, false).await.map(Outcome::Done);
        }
        InsertSource::Values { text } if text.trim().is_empty() => ("Values".to_owned(), Vec::new(), false),
        InsertSource::Values { text } => ("Values".to_owned(), text.into_bytes(), true),
        InsertSource::Format { name, data } => (name, data, false),
    };
    // Data that comes by name may name every column; data by position gives the declared ones.
    let mut target = target(cx, &name, columns)?;
    if columns.is_none() && names_columns(&format) {
        let all = target.insertable();
        target = self::target(cx, &name, Some(&all))?;
    }
    let entry = cx.register(false)?;
    entry.on(Event::Start);
    entry.on(Event::Run);
    let mut writer = writer(cx, &target, &entry)?;
    if in_text {
        let rows = values(cx, &target, &inline)?;
        for batch in rows {
            writer.write(batch).await?;
        }
        let done = Box::new(writer).finish().await?;
        note_written(&entry, &done);
        return Ok(Outcome::Done(done));
    }
    Ok(Outcome::Insert(Box::new(InsertHandle {
        query_id: cx.query_id.clone(),
        format,
        format_settings: cx.settings.format.clone(),
        schema: target.schema,
        inline,
        batch_rows_max: cx.settings.insert_block_rows_max,
        whole: cx.settings.log_writer.is_some(),
        writer: Box::new(Registered { writer: Some(Box::new(writer)), entry }),
    })))
}

/// Formats whose data says which column a value belongs to.
fn names_columns(format: &str) -> bool {
    let lower = format.to_ascii_lowercase();
    lower.contains("withnames")
        || ["jsoneachrow", "ndjson", "jsonlines", "native", "arrowstream", "arrow", "parquet", "avro"]
            .contains(&lower.as_str())
}

/// Keeps the insert listed, and able to be killed, while its client sends rows.
struct Registered {
    writer: Option<Box<StreamWriter>>,
    entry: Arc<QueryEntry>,
}

impl Registered {
    /// For `system.query_log`.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|e| self.entry.failed(e))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.writer.is_some() {
            // Its client left, or gave up after an error, which was noted first.
            self.entry.failed(&self.entry.killed_error());
        }
    }
}

#[async_trait::async_trait]
impl InsertWriter for Registered {
    async fn write(&mut self, batch: DecodedBatch) -> Result<()> {
        if self.entry.killed.is_cancelled() {
            return self.noted(Err(self.entry.killed_error()));
        }
        let (rows, bytes) = (batch.batch.num_rows() as u64, batch.batch.get_array_memory_size() as u64);
        let writer = self.writer.as_mut().expect("there until it is finished");
        let written = writer.write(batch).await;
        self.noted(written)?;
        self.entry.progress.add_read(rows, bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Done> {
        let writer = self.writer.take().expect("finished once");
        let finished = writer.finish().await;
        let done = self.noted(finished)?;
        note_written(&self.entry, &done);
        Ok(done)
    }
}

pub(crate) fn note_written(entry: &QueryEntry, done: &Done) {
    entry.progress.written_rows.store(done.written_rows, Ordering::Relaxed);
    entry.progress.written_bytes.store(done.written_bytes, Ordering::Relaxed);
}

/// The rows of VALUES in the statement's text: literals by the format, anything else as
/// expressions.
fn values(cx: &Statement, target: &Target, text: &[u8]) -> Result<Vec<DecodedBatch>> {
    match literals(cx, target, text) {
        Ok(batches) => Ok(batches),
        Err(literal_error) => {
            let text = String::from_utf8_lossy(text);
            let state = Arc::new(cx.state()?);
            let compiler = crate::expr::Compiler::new(state, cx.bind_options(true));
            match rows_of_values(&compiler, &text, &target.columns, &target.schema) {
                Ok(batch) => Ok(vec![batch]),
                // Of text that is no SQL either, the format says better what is wrong.
                Err(e) if e.code == weir_base::Code::Syntax => Err(literal_error),
                Err(e) => Err(e),
            }
        }
    }
}

fn literals(cx: &Statement, target: &Target, text: &[u8]) -> Result<Vec<DecodedBatch>> {
    let mut decoder: Box<dyn Decoder> =
        weir_format::decoder("Values", target.schema.clone(), &cx.settings.format).map_err(format_error)?;
    let mut out = Vec::new();
    decoder.push(text.to_vec().into()).map_err(format_error)?;
    decoder.finish().map_err(format_error)?;
    while let Some(batch) = decoder.next_batch(cx.settings.insert_block_rows_max).map_err(format_error)? {
        out.push(batch);
    }
    Ok(out)
}

/// Input in the statement's own text that does not parse.
fn format_error(e: weir_format::FormatError) -> Error {
    use weir_format::FormatError as F;
    let code = match &e {
        F::Parse { .. } | F::Schema { .. } => weir_base::Code::CannotParseInput,
        F::Truncated { .. } => weir_base::Code::CannotReadAllData,
        F::Unknown { .. } | F::Direction { .. } => weir_base::Code::UnknownFormat,
        F::Unsupported { .. } | F::Encode { .. } => weir_base::Code::NotImplemented,
    };
    Error::new(code, e.to_string())
}
