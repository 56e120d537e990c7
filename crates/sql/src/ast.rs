//! Statements, as parsed: names and texts, nothing resolved.
//!
//! Queries are sqlparser's [`Query`]; what sqlparser does not know of the dialect travels in
//! `Query.settings` of the same query level, under reserved names (`__emit`,
//! `__partition_by`, `__shuffle_by`, …), put there by the token pass; read them with
//! [`crate::parse::reserved`].

use sqlparser::ast::{Expr, Query};
use std::collections::BTreeMap;

/// `name` or `database.name`, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name {
    pub database: Option<String>,
    pub name: String,
}

/// `k = v` pairs of a SETTINGS clause, values as text.
pub type Settings = BTreeMap<String, String>;

/// One statement, with the clauses any statement can end in.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub statement: Statement,
    /// Of the outermost SETTINGS clause.
    pub settings: Settings,
    /// `FORMAT name`, for results. (The format of inserted data is in [`InsertSource`].)
    pub format: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Statement {
    Query(Box<Query>),
    Explain {
        kind: ExplainKind,
        statement: Box<Statement>,
    },
    /// `EXPLAIN WHY 'query_id'`: why a running query gives no rows.
    ExplainWhy {
        query_id: String,
    },
    Insert(Insert),
    CreateDatabase {
        name: String,
        if_not_exists: bool,
        comment: String,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    CreateStream(CreateStream),
    CreateView {
        name: Name,
        if_not_exists: bool,
        or_replace: bool,
        select: String,
        comment: String,
    },
    CreateMaterializedView(CreateMaterializedView),
    /// Of named collections and format schemas.
    Definition(Definition),
    /// `CREATE TASK`, `CREATE ALERT`.
    CreateJob(Box<CreateJob>),
    DropJob {
        object: JobObject,
        name: Name,
        if_exists: bool,
    },
    /// `SUBSCRIBE TO query`: a query without end that keeps checkpoints under its id.
    Subscribe(Box<Query>),
    /// `RECOVER FROM 'id'`: goes on with it.
    Recover {
        query_id: String,
    },
    /// `UNSUBSCRIBE TO 'id'`: its checkpoints go.
    Unsubscribe {
        query_id: String,
    },
    /// `BACKUP TO 'place'`, with how to come at the place.
    Backup {
        to: String,
        settings: BTreeMap<String, String>,
    },
    /// `ALTER VIEW v …`.
    AlterView {
        name: Name,
        change: ViewChange,
    },
    /// `ALTER STREAM s MODIFY SETTING k = v, …`
    AlterStream {
        name: Name,
        settings: BTreeMap<String, String>,
    },
    /// `DROP STREAM | TABLE | VIEW`.
    Drop {
        object: ObjectKind,
        name: Name,
        if_exists: bool,
    },
    Truncate {
        name: Name,
        if_exists: bool,
    },
    Rename {
        pairs: Vec<(Name, Name)>,
    },
    Show(Show),
    /// `DESCRIBE`/`DESC [STREAM|TABLE] name` or of a query in parentheses.
    Describe(DescribeTarget),
    Exists {
        object: ObjectKind,
        name: Name,
    },
    Use {
        database: String,
    },
    /// `KILL QUERY WHERE … [SYNC|ASYNC|TEST]`.
    KillQuery {
        filter: Expr,
        sync: bool,
    },
    Set(Settings),
    System(System),
    /// `OPTIMIZE STREAM s [FINAL]`: merges, as `SYSTEM MERGE STREAM`.
    Optimize {
        name: Name,
    },
}

#[derive(Debug, Clone)]
pub struct CreateMaterializedView {
    pub name: Name,
    pub if_not_exists: bool,
    pub into: Option<Name>,
    /// As written, without its SETTINGS.
    pub select: String,
    pub settings: Settings,
    pub comment: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JobObject {
    #[default]
    Task,
    Alert,
}

#[derive(Debug, Clone, Default)]
pub struct CreateJob {
    pub name: Name,
    pub if_not_exists: bool,
    pub or_replace: bool,
    pub spec: JobSpec,
    /// As written, without its SETTINGS.
    pub select: String,
    pub settings: Settings,
    pub comment: String,
}

/// Times are in microseconds, above 0.
#[derive(Debug, Clone, PartialEq)]
pub enum JobSpec {
    Task {
        every_us: i64,
        timeout_us: Option<i64>,
        target: Name,
    },
    Alert {
        url: String,
        batch_rows: u64,
        /// `WITH TIMEOUT`.
        batch_wait_us: Option<i64>,
        /// `LIMIT m ALERTS PER i`.
        limit: Option<(u64, i64)>,
    },
}

impl Default for JobSpec {
    fn default() -> Self {
        JobSpec::Task { every_us: 0, timeout_us: None, target: Name::default() }
    }
}

#[derive(Debug, Clone)]
pub enum ViewChange {
    /// `MODIFY QUERY select`, with the settings it names.
    Query {
        select: String,
        settings: Settings,
    },
    /// `MODIFY QUERY SETTING k = v, …`.
    Settings(Settings),
    /// `RESET QUERY SETTING k, …`.
    Reset(Vec<String>),
    Comment(String),
}

/// What a materialized view is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewVerb {
    Pause,
    Resume,
    Recover,
    Checkpoint,
    Sync,
    /// Only with `--test-clock`.
    Drain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainKind {
    /// `EXPLAIN` alone and `EXPLAIN PLAN`.
    Plan,
    Ast,
    Syntax,
    Pipeline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// `STREAM` or `TABLE`.
    Stream,
    View,
    Database,
}

#[derive(Debug, Clone)]
pub struct Insert {
    pub target: Name,
    /// `None` = all insertable columns in order.
    pub columns: Option<Vec<String>>,
    pub source: InsertSource,
}

#[derive(Debug, Clone)]
pub enum InsertSource {
    /// `VALUES` with the rows' text as written (empty when the rows come in the body).
    Values {
        text: String,
    },
    Select(Box<Query>),
    /// `FORMAT name`; `data` is what followed on the next line, empty when it comes in the body.
    Format {
        name: String,
        data: Vec<u8>,
    },
}

#[derive(Debug, Clone)]
pub struct CreateStream {
    pub name: Name,
    pub if_not_exists: bool,
    pub or_replace: bool,
    pub kind: StreamKind,
    pub columns: Vec<ColumnSpec>,
    /// `INDEX name expr TYPE t GRANULARITY n`, as written: (name, expression, type).
    pub indexes: Vec<(String, String, String)>,
    /// SQL text of the clauses.
    pub order_by: Option<String>,
    pub partition_by: Option<String>,
    pub primary_key: Option<String>,
    pub ttl: Option<String>,
    pub comment: String,
    /// `CREATE STREAM a AS b`.
    pub like: Option<Name>,
    /// `CREATE STREAM a AS SELECT …`: columns from the query, which then fills it.
    pub as_select: Option<Box<Query>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    Stream,
    Random,
    /// Parsed so that the refusal (code 48) can name it.
    External,
    Mutable,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSpec {
    pub name: String,
    /// Type text as written; `None` when it follows from the default expression.
    pub type_text: Option<String>,
    /// `DEFAULT | MATERIALIZED | ALIAS` and the expression's SQL text.
    pub default: Option<(DefaultWord, String)>,
    pub codec: Option<String>,
    pub comment: String,
    pub ttl: Option<String>,
    /// `NULL` after the type: the same as nullable(T).
    pub nullable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultWord {
    Default,
    Materialized,
    Alias,
}

/// What external streams are made with, and what is in no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefinitionObject {
    NamedCollection,
    FormatSchema,
}

/// `key = value [[NOT] OVERRIDABLE]`.
#[derive(Debug, Clone)]
pub struct CollectionSetting {
    pub key: String,
    pub value: String,
    pub overridable: bool,
}

#[derive(Debug, Clone)]
pub enum Definition {
    /// `CREATE NAMED COLLECTION [IF NOT EXISTS] c AS k = v, …`
    CreateCollection {
        name: String,
        or_replace: bool,
        if_not_exists: bool,
        entries: Vec<CollectionSetting>,
    },
    /// `ALTER NAMED COLLECTION [IF EXISTS] c [SET k = v, …] [DELETE k, …]`
    AlterCollection {
        name: String,
        if_exists: bool,
        set: Vec<CollectionSetting>,
        delete: Vec<String>,
    },
    /// `CREATE FORMAT SCHEMA [IF NOT EXISTS] s AS '…' TYPE Protobuf | Avro`
    CreateFormatSchema {
        name: String,
        or_replace: bool,
        if_not_exists: bool,
        text: String,
        language: String,
    },
    Drop {
        object: DefinitionObject,
        name: String,
        if_exists: bool,
    },
}

#[derive(Debug, Clone)]
pub enum Show {
    Databases {
        like: Option<Like>,
    },
    /// `SHOW STREAMS | TABLES | VIEWS [FROM db]`.
    Relations {
        database: Option<String>,
        like: Option<Like>,
        views_only: bool,
    },
    /// `SHOW CREATE [STREAM|TABLE|VIEW|DATABASE] name`.
    Create {
        object: Option<ObjectKind>,
        name: Name,
    },
    /// `SHOW TASKS | ALERTS [FROM db]`.
    Jobs {
        object: JobObject,
        database: Option<String>,
        like: Option<Like>,
    },
    /// `SHOW NAMED COLLECTIONS`, `SHOW FORMAT SCHEMAS`.
    Definitions {
        object: DefinitionObject,
        like: Option<Like>,
    },
    /// `SHOW CREATE NAMED COLLECTION`, `SHOW CREATE FORMAT SCHEMA`.
    CreateDefinition {
        object: DefinitionObject,
        name: String,
    },
    /// `SHOW CREATE TASK | ALERT`.
    CreateJob {
        object: JobObject,
        name: Name,
    },
    Columns {
        of: Name,
        like: Option<Like>,
    },
    Functions {
        like: Option<Like>,
    },
    Settings {
        like: Option<Like>,
    },
    ProcessList,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    pub pattern: String,
    pub case_insensitive: bool,
    pub negated: bool,
}

#[derive(Debug, Clone)]
pub enum DescribeTarget {
    Relation(Name),
    Query(Box<Query>),
}

#[derive(Debug, Clone)]
pub enum System {
    SyncStream(Name),
    SyncQuery(String),
    /// Of a query that was subscribed to.
    CheckpointQuery(String),
    FlushStream(Name),
    MergeStream(Name),
    /// Only with `--test-clock`.
    ClockAdvance {
        micros: i64,
    },
    /// `SYSTEM DRAIN [QUERY 'id']`; empty = every query.
    DrainQuery(String),
    /// `SYSTEM PAUSE | RESUME | RECOVER | CHECKPOINT | SYNC | DRAIN [MATERIALIZED] VIEW v`.
    View {
        verb: ViewVerb,
        name: Name,
    },
    /// `SYSTEM PAUSE | RESUME TASK t`; of an alert all that can be said to a view.
    Job {
        object: JobObject,
        verb: ViewVerb,
        name: Name,
    },
}
