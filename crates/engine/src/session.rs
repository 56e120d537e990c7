//! Who asks, in which database, with which settings.

use std::collections::BTreeMap;
use weir_format::Spelling;

/// What `FROM s` means where the query itself does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryMode {
    /// Unbounded: the tail.
    #[default]
    Streaming,
    /// Bounded: a snapshot.
    Table,
}

/// State of one client between statements. Protocols keep it; `USE` and `SET` change it.
#[derive(Debug, Clone)]
pub struct Session {
    pub user: String,
    pub database: String,
    pub mode: QueryMode,
    pub spelling: Spelling,
    /// Settings that differ from their default, by name; checked when set.
    pub settings: BTreeMap<String, String>,
    /// `{name:type}` parameters, as text.
    pub parameters: BTreeMap<String, String>,
    /// Statements that change anything are refused with code 164 (HTTP GET).
    pub read_only: bool,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            user: "default".into(),
            database: "default".into(),
            mode: QueryMode::Streaming,
            spelling: Spelling::Lower,
            settings: BTreeMap::new(),
            parameters: BTreeMap::new(),
            read_only: false,
        }
    }
}
