//! The engine: opened once, shared by all doors.

use crate::access::Users;
use crate::config::{EngineConfig, World};
use crate::ddl;
use crate::execute;
use crate::expr::Compiler;
use crate::externals::Externals;
use crate::ingest::{LogWriters, WriterOptions};
use crate::outcome::{Done, Outcome, QueryHandle};
use crate::query::{Drops, QueryAbout, QueryEntry, QueryHistory, QueryRecord, QueryRegistry, QuerySpec};
use crate::scan::FooterCache;
use crate::scope::EngineScope;
use crate::session::{QueryMode, Session};
use crate::session_functions;
use crate::session_state::States;
use crate::settings::{QuerySettings, check_server, history_bounds};
use crate::streams::Streams;
use crate::subscriptions::Subscriptions;
use crate::system::Columns;
use crate::view::Views;
use crate::view::files::Checkpoints;
use arrow::array::RecordBatch;
use datafusion::execution::SessionState;
use futures::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use weir_base::metrics::{Metric, Registry};
use weir_base::{Error, MemoryBudget, Result, err};
use weir_catalog::{Catalog, CatalogError, Dependents, Event, RelationName, Snapshot};
use weir_plan::Runtime;
use weir_sql::bind::{self, BindOptions, BoundQuery};
use weir_sql::parse;
use weir_storage::StoreContext;

/// Below the data directory.
pub(crate) const CATALOG_DIR: &str = "catalog";
/// Decoded footers of parts, shared by all queries.
const FOOTER_CACHE_BYTES_MAX: usize = 64 << 20;
/// How long [`Engine::shutdown`] waits for what runs.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(4);

/// What one Weir process serves. Cheap to share; ends with [`Engine::shutdown`].
pub struct Engine {
    shared: Arc<Shared>,
}

/// What every statement and system table reaches.
pub(crate) struct Shared {
    pub config: EngineConfig,
    pub world: World,
    pub catalog: Arc<Catalog>,
    pub streams: Streams,
    pub externals: Arc<Externals>,
    pub states: States,
    pub runtime: Arc<dyn Runtime>,
    pub queries: Arc<QueryRegistry>,
    pub history: Arc<QueryHistory>,
    pub metrics: Arc<Registry>,
    pub counters: Counters,
    pub views: Views,
    pub checkpoints: Checkpoints,
    pub subscriptions: Subscriptions,
    pub log_writers: Arc<LogWriters>,
    /// Removal of dropped streams and the like.
    tasks: TaskTracker,
    /// Set by the shutdown.
    stopping: CancellationToken,
}

pub(crate) struct Counters {
    pub statements: Metric,
    pub statement_errors: Metric,
    pub inserted_rows: Metric,
}

impl Engine {
    /// Opens catalog and streams of a data directory. Blocks on the disk; a stream that does
    /// not open is listed with its error and stops nothing. Call it inside the compute runtime
    /// or anywhere else; background work runs on [`EngineConfig::compute`].
    ///
    /// # Errors
    /// A catalog that can not be read, a bad default setting, a function registered twice.
    pub fn open(config: EngineConfig, world: World, runtime: Arc<dyn Runtime>) -> Result<Arc<Engine>> {
        check_server(&config.settings)?;
        let metrics = Arc::new(Registry::default());
        let memory = MemoryBudget::root("the server", config.memory_limit_bytes);
        let catalog = Arc::new(Catalog::open(world.disk.clone(), world.clock.clone(), CATALOG_DIR)?);
        let ctx = StoreContext::new(
            world.disk.clone(),
            world.clock.clone(),
            world.rng.clone(),
            memory.clone(),
            metrics.clone(),
            config.parts.clone(),
            Some(config.compute.clone()),
        );
        let states = States::new(&config.functions, ctx.object_store(), config.spill_dir.clone())?;
        let counters = Counters {
            statements: metrics.counter("weir_statements_total", "statements that were asked for"),
            statement_errors: metrics.counter("weir_statement_errors_total", "statements that failed"),
            inserted_rows: metrics.counter("weir_inserted_rows_total", "rows acknowledged to inserts"),
        };
        let drops = Drops::of(&metrics);
        let used = metrics.gauge("weir_memory_used_bytes", "memory accounted for now, of --memory-limit");
        let peak = metrics.gauge("weir_memory_peak_bytes", "the most memory that was accounted for");
        let budget = memory.clone();
        metrics.before_reading(move || {
            used.set(budget.used_bytes() as i64);
            peak.set(budget.peak_bytes() as i64);
        });
        let queries = QueryRegistry::new(config.queries_max, memory, world.clock.clone(), drops);
        let counted = Arc::downgrade(&queries);
        metrics.before_reading(move || {
            if let Some(queries) = counted.upgrade() {
                queries.count_drops();
            }
        });
        let history = QueryHistory::new(history_bounds(&config.settings), world.clock.clone());
        let externals = Arc::new(Externals::new(config.connectors.clone(), catalog.clone()));
        let streams = Streams::new(ctx, FooterCache::new(FOOTER_CACHE_BYTES_MAX), externals.clone());
        let checkpoints = Checkpoints::new(world.disk.clone(), &config.checkpoints);
        let shared = Arc::new(Shared {
            config,
            world,
            catalog,
            streams,
            externals,
            states,
            runtime,
            queries,
            history,
            metrics,
            counters,
            views: Views::default(),
            checkpoints,
            subscriptions: Subscriptions::default(),
            log_writers: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        // Recovery starts background work of its own, which wants a runtime around it.
        let entered = shared.config.compute.clone();
        let _guard = entered.enter();
        shared.streams.open_all(&shared.catalog.snapshot(), &shared.compiler())?;
        shared.views.open_all(&shared);
        shared.subscriptions.open_all(&shared);
        Ok(Arc::new(Engine { shared }))
    }

    /// Runs exactly one statement (a trailing `;` is fine). `USE` and `SET` change the session.
    /// Planning and execution happen on the compute runtime.
    ///
    /// # Errors
    /// With the code and text its client sees; several statements give 62.
    pub async fn execute(
        &self,
        session: &mut Session,
        text: &str,
        query_id: Option<String>,
    ) -> Result<Outcome> {
        self.execute_bytes(session, text.as_bytes(), query_id).await
    }

    /// As [`Engine::execute`], for an INSERT whose data follows in the text and need not be
    /// UTF-8.
    pub async fn execute_bytes(
        &self,
        session: &mut Session,
        text: &[u8],
        query_id: Option<String>,
    ) -> Result<Outcome> {
        self.execute_on(Place::Compute, session, text, query_id).await
    }

    /// As [`Engine::execute`], on the caller's thread: for an INSERT whose text ends where its
    /// data begins, which is little work, and little data. Another thread would have to be woken,
    /// and this one again.
    pub async fn execute_here(
        &self,
        session: &mut Session,
        text: &str,
        query_id: Option<String>,
    ) -> Result<Outcome> {
        self.execute_on(Place::Here, session, text.as_bytes(), query_id).await
    }

    async fn execute_on(
        &self,
        place: Place,
        session: &mut Session,
        text: &[u8],
        query_id: Option<String>,
    ) -> Result<Outcome> {
        let shared = self.shared.clone();
        shared.counters.statements.add(1);
        let query_id = query_id.filter(|id| !id.is_empty()).unwrap_or_else(|| shared.new_id().to_string());
        let record = shared.history.begin(QueryAbout {
            query_id: query_id.clone(),
            user: session.user.clone(),
            database: session.database.clone(),
            text: execute::shown(text),
            kind: "",
            streaming: false,
        });
        let task_record = record.clone();
        let (task_shared, task_session, text) = (shared.clone(), session.clone(), text.to_vec());
        let task = async move {
            let mut session = task_session;
            let outcome = execute::statement(task_shared, &mut session, &text, query_id, task_record).await;
            outcome.map(|outcome| (outcome, session))
        };
        let without_answer =
            |e: &dyn Display| err!(LogicalError, "the statement ended without an answer: {e}");
        let ended = match place {
            Place::Compute => {
                // A client that goes away ends its statement.
                let mut task = AbortOnDrop(shared.config.compute.spawn(task));
                (&mut task.0).await.map_err(|e| without_answer(&e))
            }
            Place::Here => {
                let ended = AssertUnwindSafe(task).catch_unwind().await;
                ended.map_err(|_| without_answer(&"it stopped on a bug"))
            }
        };
        match ended.and_then(|outcome| outcome) {
            Ok((outcome, changed)) => {
                *session = changed;
                Ok(outcome)
            }
            Err(e) => {
                shared.counters.statement_errors.add(1);
                record.fail(&e);
                Err(e)
            }
        }
    }

    /// Whether the text is one query without end. Binds, runs nothing.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub async fn is_streaming(&self, session: &Session, text: &str) -> Result<bool> {
        let (shared, session, text) = (self.shared.clone(), session.clone(), text.to_owned());
        let task =
            self.shared.config.compute.spawn(async move { execute::is_streaming(shared, &session, &text) });
        let mut task = AbortOnDrop(task);
        (&mut task.0).await.map_err(|e| err!(LogicalError, "the analysis ended without an answer: {e}"))?
    }

    /// Refuses a setting that is unknown (115) or has a bad value (36).
    pub fn check_setting(&self, name: &str, value: &str) -> Result<()> {
        crate::settings::check(name, value)
    }

    /// Asks a query to stop; `false` if none of that id runs.
    pub fn kill(&self, query_id: &str) -> bool {
        self.shared.queries.kill(query_id).is_some()
    }

    pub fn queries(&self) -> &Arc<QueryRegistry> {
        &self.shared.queries
    }

    pub fn metrics(&self) -> Arc<Registry> {
        self.shared.metrics.clone()
    }

    pub fn users(&self) -> &Users {
        &self.shared.config.users
    }

    pub fn version(&self) -> &str {
        &self.shared.config.version
    }

    pub fn clock(&self) -> &Arc<dyn weir_base::Clock> {
        &self.shared.world.clock
    }

    /// The catalog as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.catalog.snapshot()
    }

    /// Refuses new statements, ends what runs, and closes every log cleanly: within five
    /// seconds, whatever hangs.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.stopping.cancel();
        shared.queries.kill_all();
        shared.tasks.close();
        let closing = async {
            shared.tasks.wait().await;
            shared.streams.close_all().await;
            shared.catalog.close().await;
        };
        if tokio::time::timeout(SHUTDOWN_WAIT, closing).await.is_err() {
            tracing::warn!("shutdown did not finish in {SHUTDOWN_WAIT:?}; the next start recovers the rest");
        }
    }
}

/// Which thread does the work of a statement.
enum Place {
    Compute,
    Here,
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    pub fn compiler(&self) -> Compiler {
        Compiler::new(Arc::new(self.states.base().clone()), BindOptions::default())
    }

    pub fn new_id(&self) -> Uuid {
        ddl::new_id(&self.world.rng)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Cancelled by the shutdown.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Work of the server's own, which the shutdown waits for.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.config.compute);
    }

    /// Changes the catalog; goes through whether or not who asked waits for it.
    pub async fn apply(&self, event: Event, dependents: Dependents) -> Result<Arc<Snapshot>, CatalogError> {
        let catalog = self.catalog.clone();
        let task = self.config.compute.spawn(async move { catalog.apply(event, dependents).await });
        task.await.unwrap_or(Err(CatalogError::Append(weir_log::AppendError::Closed)))
    }

    /// As [`Shared::apply`], with a last look at what the event will change.
    pub async fn apply_checked(
        &self,
        event: Event,
        dependents: Dependents,
        check: impl FnOnce(&Snapshot) -> Result<(), CatalogError> + Send + 'static,
    ) -> Result<Arc<Snapshot>, CatalogError> {
        let catalog = self.catalog.clone();
        let change = async move { catalog.apply_checked(event, dependents, check).await };
        self.config
            .compute
            .spawn(change)
            .await
            .unwrap_or(Err(CatalogError::Append(weir_log::AppendError::Closed)))
    }

    /// Removes a stream's files in the background, after its last reader; no event names it any
    /// more. What reads it as a tail ends with an error.
    pub fn forget(self: &Arc<Self>, id: Uuid) {
        let shared = self.clone();
        self.tasks.spawn_on(
            async move {
                if let Err(e) = shared.streams.remove(id, &shared.stopping).await {
                    tracing::warn!(%id, error = %e, "could not remove a dropped stream; the next start will");
                }
            },
            &self.config.compute,
        );
    }
}

/// One statement on its way: who asks, with which settings.
pub(crate) struct Statement {
    pub shared: Arc<Shared>,
    pub session: Session,
    pub settings: QuerySettings,
    pub query_id: String,
    pub text: String,
    pub format: Option<String>,
    pub record: Arc<QueryRecord>,
}

impl Statement {
    pub fn done(&self) -> Done {
        Done { query_id: self.query_id.clone(), ..Done::default() }
    }

    pub fn session_database(&self) -> &str {
        &self.session.database
    }

    pub fn full_name(&self, name: &weir_sql::ast::Name) -> RelationName {
        let database = name.database.as_deref().unwrap_or(&self.session.database);
        RelationName::new(database, &name.name)
    }

    pub fn scope(&self) -> EngineScope {
        EngineScope::new(
            self.shared.clone(),
            &self.session.database,
            self.settings.format.spelling,
            self.session.parameters.clone(),
            self.settings.partitions.clone(),
        )
    }

    pub fn state(&self) -> Result<SessionState> {
        let mut state = self.shared.states.for_query(&self.settings);
        session_functions::register(&mut state, self)?;
        Ok(state)
    }

    pub fn bind_options(&self, table_mode: bool) -> BindOptions {
        BindOptions {
            table_mode,
            cast_overflow_wrap: self.settings.cast_overflow_wrap,
            join_use_nulls: self.settings.join_use_nulls,
            now_us: self.shared.world.clock.now_us(),
            seek_to: self.settings.seek_to.clone().unwrap_or_default(),
            replay_order: self.settings.replay_order_text.clone(),
            backfill: self.settings.backfill.clone(),
            time_zone: self.settings.time_zone.clone(),
            lateness: self.settings.lateness,
            sessions: self.settings.sessions,
            state: self.settings.state,
            windows_max: Some(self.settings.windows_max),
        }
    }

    /// Binds a query; `table_mode` makes every stream in it bounded, whatever the session says.
    pub fn bind(&self, query: &sqlparser::ast::Query, table_mode: bool) -> Result<BoundQuery> {
        let options = self.bind_options(table_mode || self.settings.mode == QueryMode::Table);
        bind::bind_query(query, &self.scope(), &self.state()?, &options)
    }

    /// Binds a view's SELECT and says what it reads.
    pub fn bind_select(&self, select: &str) -> Result<(BoundQuery, BTreeSet<RelationName>)> {
        let mut statements = parse::parse(select)?;
        let query = match (statements.len(), statements.pop().map(|p| p.statement)) {
            (1, Some(weir_sql::Statement::Query(query))) => query,
            _ => return Err(err!(Syntax, "a view is one SELECT")),
        };
        let scope = self.scope();
        let bound = bind::bind_query(&query, &scope, &self.state()?, &self.bind_options(false))?;
        Ok((bound, scope.used()))
    }

    /// Lists the statement in `system.queries` and gives it its limits.
    pub fn register(&self, streaming: bool) -> Result<Arc<QueryEntry>> {
        self.shared.queries.register(QuerySpec {
            query_id: self.query_id.clone(),
            user: self.session.user.clone(),
            database: self.session.database.clone(),
            text: self.text.clone(),
            streaming,
            memory_bytes_max: Some(self.settings.memory_bytes_max).filter(|b| *b > 0),
            execution_max: self.settings.execution_time_max,
            output_buffer_bytes_max: self.settings.output_buffer_bytes_max as u64,
            record: Some(self.record.clone()),
        })
    }

    pub fn writer_options(&self, target: &RelationName, memory: Arc<MemoryBudget>) -> WriterOptions {
        WriterOptions {
            stream: target.to_string(),
            query_id: self.query_id.clone(),
            // What has a position is one record.
            block_rows_max: match self.settings.log_writer {
                Some(_) => usize::MAX,
                None => self.settings.insert_block_rows_max,
            },
            ack: self.settings.ack,
            idempotent_id: self.settings.idempotent_id.clone(),
            log_writer: self.settings.log_writer.clone().map(|w| (w, self.shared.log_writers.clone())),
            compute: self.shared.config.compute.clone(),
            memory,
            written_rows_total: self.shared.counters.inserted_rows.clone(),
        }
    }

    /// Runs a query into a stream.
    pub async fn fill(&self, target: &RelationName, query: sqlparser::ast::Query) -> Result<Done> {
        crate::insert_select::insert_select(self, target, None, &query, true).await
    }

    /// A small result that is there already.
    pub fn rows(&self, columns: Columns) -> Result<Outcome> {
        self.batch(columns.batch()?)
    }

    pub fn batch(&self, batch: RecordBatch) -> Result<Outcome> {
        let progress = self.record.progress.clone();
        progress.result_rows.store(batch.num_rows() as u64, Ordering::Relaxed);
        Ok(Outcome::Rows(QueryHandle {
            query_id: self.query_id.clone(),
            schema: batch.schema(),
            streaming: false,
            format: self.format.clone(),
            format_settings: self.settings.format.clone(),
            progress,
            warnings: Vec::new(),
            batches: futures::stream::iter([Ok::<_, Error>(batch)]).boxed(),
        }))
    }
}
