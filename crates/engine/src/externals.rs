//! External streams that are open: a connector's stream each, found by the relation's id.
//!
//! Opening one talks to nobody, so it is done when somebody first asks for it, and again after a restart.
//!
//! Not here: what exists (the catalog), reading (`source`, `scan`), what settings mean (`connect`).

use crate::expr::Compiler;
use crate::ingest::IngestPlan;
use crate::ingest::fill::ingest_column;
use crate::secrets::{HIDDEN, is_secret};
use crate::streams::{alias_columns, column_type, stored_schema};
use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;
use weir_base::error::did_you_mean;
use weir_base::{Error, Result, err};
use weir_catalog::{Catalog, ColumnDef, DefaultKind, FormatSchema, Relation, RelationKind, RelationName};
use weir_plan::{
    Connector, ExternalSpec, ExternalStream, MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN, SchemaText,
};
use weir_sql::bind::AliasColumn;
use weir_storage::TIME_COLUMN;

/// The setting that names a collection of others.
const COLLECTION: &str = "named_collection";

/// Columns of every message, where CREATE names them not: not in `*`.
const SURROUNDINGS: [(&str, &str); 2] =
    [(MESSAGE_KEY_COLUMN, "nullable(string)"), (MESSAGE_HEADERS_COLUMN, "map(string, string)")];

/// An external stream and all that reading and writing it needs.
#[derive(Debug)]
pub(crate) struct OpenExternal {
    /// The first `visible` are what `*` shows.
    pub schema: SchemaRef,
    pub visible: usize,
    pub aliases: Vec<AliasColumn>,
    /// What rows are completed with, that are read or written.
    pub ingest: Arc<IngestPlan>,
    /// A reader has to ask for all columns: some are computed from others.
    pub computes: bool,
    pub stream: Arc<dyn ExternalStream>,
}

pub(crate) struct Externals {
    connectors: Vec<Arc<dyn Connector>>,
    /// Holds the collections and schemas that settings name.
    catalog: Arc<Catalog>,
    open: RwLock<HashMap<Uuid, Arc<OpenExternal>>>,
}

impl fmt::Debug for Externals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.connectors.iter().map(|c| c.kind())).finish()
    }
}

impl Externals {
    pub fn new(connectors: Vec<Arc<dyn Connector>>, catalog: Arc<Catalog>) -> Self {
        Externals { connectors, catalog, open: RwLock::default() }
    }

    /// Settings with those of the collection that they name.
    ///
    /// # Errors
    /// 36 where there is no such collection, or a value is given that it does not let go of.
    pub fn effective(&self, settings: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        let mut all = settings.clone();
        let Some(name) = all.remove(COLLECTION) else { return Ok(all) };
        let snapshot = self.catalog.snapshot();
        let Some(collection) = snapshot.collections.get(&name) else {
            let hint = did_you_mean(&name, snapshot.collections.keys().map(String::as_str));
            return Err(err!(BadArguments, "there is no named collection {name}{hint}"));
        };
        for (key, entry) in &collection.entries {
            if !entry.overridable && all.contains_key(key) {
                return Err(err!(
                    BadArguments,
                    "{key} is set by named collection {name}, which says NOT OVERRIDABLE; leave it out"
                ));
            }
            all.entry(key.clone()).or_insert_with(|| entry.value.clone());
        }
        Ok(all)
    }

    /// What a connector is told of a stream.
    ///
    /// # Errors
    /// As [`Self::effective`].
    pub fn spec(
        &self,
        name: String,
        settings: &BTreeMap<String, String>,
        payload: SchemaRef,
        around: SchemaRef,
    ) -> Result<ExternalSpec> {
        let text = |(name, schema): (&String, &Arc<FormatSchema>)| {
            let text = SchemaText { language: schema.language.to_string(), text: schema.text.clone() };
            (name.clone(), text)
        };
        let schemas = self.catalog.snapshot().format_schemas.iter().map(text).collect();
        Ok(ExternalSpec { name, settings: self.effective(settings)?, schemas, payload, around })
    }

    /// Streams that were opened with what has changed are opened anew by the next who reads or writes them.
    pub fn forget_all(&self, names: &[RelationName]) {
        let snapshot = self.catalog.snapshot();
        for name in names {
            if let Some(relation) = snapshot.relation(&name.database, &name.name) {
                self.forget(relation.id);
            }
        }
    }

    /// # Errors
    /// 36 where there is no such type of external streams, or none is named.
    pub fn connector(&self, settings: &BTreeMap<String, String>) -> Result<&Arc<dyn Connector>> {
        let settings = &self.effective(settings)?;
        let kinds =
            || self.connectors.iter().map(|c| format!("'{}'", c.kind())).collect::<Vec<_>>().join(", ");
        let Some(kind) = settings.get("type") else {
            return Err(err!(BadArguments, "an external stream needs SETTINGS type=…, one of {}", kinds()));
        };
        let found = self.connectors.iter().find(|c| c.kind().eq_ignore_ascii_case(kind));
        found.ok_or_else(|| {
            err!(BadArguments, "there are no external streams of type '{kind}'; this server has {}", kinds())
        })
    }

    /// Whether a setting's value is shown to nobody.
    pub fn is_secret(&self, settings: &BTreeMap<String, String>, name: &str) -> bool {
        is_secret(name) || self.connector(settings).map_or(true, |c| c.secrets().contains(&name))
    }

    /// Settings as they may be shown.
    pub fn shown(&self, settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let show = |(name, value): (&String, &String)| {
            let secret = name != "type" && self.is_secret(settings, name);
            (name.clone(), if secret { HIDDEN.to_owned() } else { value.clone() })
        };
        settings.iter().map(show).collect()
    }

    /// The same of a stream whose log a topic may keep.
    pub fn shown_of_stream(&self, settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let show = |(name, value): (&String, &String)| {
            (name.clone(), if is_secret(name) { HIDDEN.to_owned() } else { value.clone() })
        };
        settings.iter().map(show).collect()
    }

    /// Checks a definition and makes a stream of it.
    ///
    /// # Errors
    /// Whatever of it can not work.
    pub fn prepare(&self, relation: &Relation, compiler: &Compiler) -> Result<OpenExternal> {
        let RelationKind::External { settings, time_in_payload } = &relation.kind else {
            return Err(err!(LogicalError, "{} is no external stream", relation.full_name()));
        };
        let whole = with_surroundings(relation);
        let (stored, visible, order) = stored_schema(&whole)?;
        // What surrounds a message and was not named comes last, and is not shown.
        let hidden = whole.columns.len() - relation.columns.len();
        let visible = visible - hidden;
        let columns = order
            .iter()
            .map(|i| {
                let column = &whole.columns[*i];
                ingest_column(compiler, &stored, column, column_type(&column.type_name)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let computed = |name: &str| {
            let column = whole.columns.iter().find(|c| c.name == name);
            column.and_then(|c| c.default.as_ref()).is_some_and(|d| d.kind == DefaultKind::Materialized)
        };
        let is_around = |name: &str| {
            name == TIME_COLUMN && !time_in_payload || SURROUNDINGS.iter().any(|(n, _)| *n == name)
        };
        let pick = |which: &dyn Fn(&str) -> bool| {
            let fields = stored.fields().iter().filter(|f| which(f.name())).cloned().collect::<Vec<_>>();
            Arc::new(Schema::new(fields))
        };
        let payload = pick(&|name| !computed(name) && !is_around(name));
        let spec = self.spec(relation.full_name().to_string(), settings, payload, pick(&is_around))?;
        let stream = self.connector(settings)?.open(spec)?;
        let computes = whole.columns.iter().any(|c| c.default.is_some() && c.name != TIME_COLUMN);
        Ok(OpenExternal {
            ingest: Arc::new(IngestPlan::new(stored.clone(), columns, None, 1)?),
            aliases: alias_columns(&whole, &stored, compiler)?,
            schema: stored,
            visible,
            computes,
            stream,
        })
    }

    /// The topic that is a stream's log, whose messages hold all columns.
    ///
    /// # Errors
    /// Whatever of its settings can not work.
    pub fn log_stream(
        &self,
        name: &RelationName,
        settings: &BTreeMap<String, String>,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn ExternalStream>> {
        let spec = self.spec(name.to_string(), settings, schema.clone(), Arc::new(Schema::empty()))?;
        Ok(self.connector(settings)?.open(spec)?)
    }

    pub fn get(&self, relation: &Relation, compiler: &Compiler) -> Result<Arc<OpenExternal>> {
        if let Some(open) = self.open.read().get(&relation.id) {
            return Ok(open.clone());
        }
        let open = self.prepare(relation, compiler).map_err(|e| Error {
            message: format!("external stream {} can not be opened: {}", relation.full_name(), e.message),
            ..e
        })?;
        let open = Arc::new(open);
        self.open.write().insert(relation.id, open.clone());
        Ok(open)
    }

    pub fn forget(&self, id: Uuid) {
        self.open.write().remove(&id);
    }
}

/// The relation with what surrounds a message as columns.
fn with_surroundings(relation: &Relation) -> Relation {
    let mut whole = relation.clone();
    for (name, type_name) in SURROUNDINGS {
        if !whole.columns.iter().any(|c| c.name == name) {
            whole.columns.push(ColumnDef {
                name: name.into(),
                type_name: type_name.into(),
                default: None,
                comment: String::new(),
                codec: None,
            });
        }
    }
    whole
}

/// Whether an external stream may have a column of this name although it is reserved.
pub(crate) fn is_surrounding(name: &str) -> bool {
    SURROUNDINGS.iter().any(|(n, _)| *n == name)
}
