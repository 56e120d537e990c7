//! What names in a query mean: a catalog snapshot and the streams that are open, seen from one
//! database.

use crate::engine::Shared;
use crate::random;
use crate::scan::{ExternalAccess, RandomAccess, StreamAccess, StreamLookup, StreamTable, full_schema};
use crate::source::TypedGenerator;
use crate::streams::{alias_columns, stored_schema};
use crate::system;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_catalog::{CatalogError, JobKind, Relation, RelationKind, RelationName, SYSTEM_DATABASE, Snapshot};
use weir_format::Spelling;
use weir_plan::WEIGHT_COLUMN;
use weir_sql::bind::{AliasColumn, Scope, ScopeRelation, UnboundedTable};

/// One query's view of what exists.
pub(crate) struct EngineScope {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    database: String,
    spelling: Spelling,
    parameters: BTreeMap<String, String>,
    /// Partitions of external streams that are read; `None` = all.
    partitions: Option<Arc<[i32]>>,
    /// Every relation a name was resolved to, views' own names included.
    used: Mutex<BTreeSet<RelationName>>,
}

impl EngineScope {
    pub fn new(
        shared: Arc<Shared>,
        database: &str,
        spelling: Spelling,
        parameters: BTreeMap<String, String>,
        partitions: Option<Arc<[i32]>>,
    ) -> Self {
        let snapshot = shared.catalog.snapshot();
        EngineScope {
            shared,
            snapshot,
            database: database.to_owned(),
            spelling,
            parameters,
            partitions,
            used: Mutex::default(),
        }
    }

    pub fn used(&self) -> BTreeSet<RelationName> {
        self.used.lock().clone()
    }

    fn access(&self, relation: &Relation) -> Result<(StreamAccess, usize)> {
        let name = relation.full_name();
        match &relation.kind {
            RelationKind::Stream { .. } => {
                let open = self.shared.streams.get(relation)?;
                let access = open.access(&name, &self.shared.streams.footers);
                Ok((StreamAccess::Stored(access), open.visible))
            }
            RelationKind::External { .. } => {
                let open = self.shared.externals.get(relation, &self.shared.compiler())?;
                let visible = open.visible;
                let access = ExternalAccess {
                    name: name.to_string().into(),
                    open,
                    clock: self.shared.world.clock.clone(),
                    picked: self.partitions.clone(),
                };
                Ok((StreamAccess::External(access), visible))
            }
            RelationKind::Random { settings } => {
                let (schema, visible, order) = stored_schema(relation)?;
                let defaults = random::defaults(relation, &order, &schema, &self.shared.compiler())?;
                let pace = random::Pace::parse(settings)?;
                let world = &self.shared.world;
                let generator =
                    TypedGenerator::new(schema.clone(), defaults, world.clock.clone(), world.rng.clone());
                let access = RandomAccess {
                    name: name.to_string().into(),
                    schema,
                    generator: Arc::new(generator),
                    rows_per_second: pace.rows_per_second,
                    interval_ms: pace.interval_ms,
                    rows_max: pace.rows_max,
                    clock: world.clock.clone(),
                };
                Ok((StreamAccess::Random(access), visible))
            }
            RelationKind::MaterializedView { .. } | RelationKind::View { .. } => {
                unreachable!("views are resolved before they are read")
            }
        }
    }
}

impl EngineScope {
    /// Why something of that name can not be read.
    fn no_relation(&self, database: &str, name: &str, e: CatalogError) -> Error {
        let job = self.snapshot.job(&RelationName::new(database, name));
        match job.map(|job| &job.kind) {
            None => e.into(),
            Some(JobKind::Task { target, .. }) => {
                err!(
                    UnknownStream,
                    "{database}.{name} is a task and has no rows of its own; read its target {target}"
                )
            }
            Some(JobKind::Alert { .. }) => err!(
                UnknownStream,
                "{database}.{name} is an alert and keeps no rows; read what its SELECT reads, or system.alerts for how \
                 it does"
            ),
        }
    }
}

impl Scope for EngineScope {
    fn current_database(&self) -> &str {
        &self.database
    }

    fn relation(&self, database: Option<&str>, name: &str) -> Result<ScopeRelation, Error> {
        let database = database.unwrap_or(&self.database);
        if database.eq_ignore_ascii_case(SYSTEM_DATABASE) {
            return system::table(&self.shared, name, self.spelling, &self.database)
                .map(ScopeRelation::Table);
        }
        let relation =
            self.snapshot.expect_relation(database, name).map_err(|e| self.no_relation(database, name, e))?;
        self.used.lock().insert(relation.full_name());
        let relation = self.snapshot.rows_of(relation)?;
        self.used.lock().insert(relation.full_name());
        if let RelationKind::View { select, resolve_in, .. } = &relation.kind {
            return Ok(ScopeRelation::View { select: select.clone(), database: resolve_in.clone() });
        }
        let (access, visible) = self.access(relation)?;
        let unbounded = UnboundedTable {
            database: database.to_owned(),
            relation: name.to_owned(),
            is_table: matches!(&access, StreamAccess::External(e) if e.open.stream.is_table()),
            changelog: access.schema().column_with_name(WEIGHT_COLUMN).is_some(),
            schema: full_schema(access.schema()),
            visible,
        };
        Ok(ScopeRelation::Stream {
            provider_bounded: Arc::new(StreamTable::new(access)),
            unbounded: Arc::new(unbounded),
        })
    }

    fn alias_columns(&self, database: Option<&str>, name: &str) -> Result<Vec<AliasColumn>, Error> {
        let database = database.unwrap_or(&self.database);
        let Some(relation) = self.snapshot.relation(database, name) else { return Ok(Vec::new()) };
        let relation = self.snapshot.rows_of(relation)?;
        match &relation.kind {
            RelationKind::Stream { .. } => Ok(self.shared.streams.get(relation)?.aliases.clone()),
            RelationKind::External { .. } => {
                Ok(self.shared.externals.get(relation, &self.shared.compiler())?.aliases.clone())
            }
            RelationKind::Random { .. } => {
                let (schema, _, _) = stored_schema(relation)?;
                alias_columns(relation, &schema, &self.shared.compiler())
            }
            RelationKind::MaterializedView { .. } | RelationKind::View { .. } => Ok(Vec::new()),
        }
    }

    fn table_function(
        &self,
        name: &str,
        args: &[ScalarValue],
    ) -> Result<Option<Arc<dyn TableProvider>>, Error> {
        system::table_function(name, args)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters.get(name).cloned()
    }
}

impl StreamLookup for EngineScope {
    fn store(&self, database: &str, relation: &str) -> Result<StreamAccess> {
        let relation = self.snapshot.expect_relation(database, relation)?;
        self.access(self.snapshot.rows_of(relation)?).map(|(access, _)| access)
    }
}
