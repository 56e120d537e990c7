//! Changes as data, and what each does to a snapshot. Pure: no log, no clock.

use crate::{
    CatalogError, Database, FormatSchema, Job, NamedCollection, Relation, RelationKind, RelationName,
    SYSTEM_DATABASE, Snapshot,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One change. Kept for ever in data directories: variants and fields are added, never
/// renamed; new fields get `#[serde(default)]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    CreateDatabase {
        name: String,
        #[serde(default)]
        comment: String,
    },
    /// With everything in it.
    DropDatabase {
        name: String,
    },
    CreateRelation {
        relation: Relation,
        /// Takes the place of one of the same name.
        #[serde(default)]
        replace: bool,
    },
    /// A materialized view and the stream made for its rows.
    CreateView {
        view: Relation,
        target: Relation,
    },
    /// A materialized view goes with the stream that was made for it.
    DropRelation {
        name: RelationName,
    },
    /// One after the other, all or none.
    Rename {
        pairs: Vec<(RelationName, RelationName)>,
    },
    /// All rows were removed; nothing changes here but the version.
    Truncated {
        name: RelationName,
    },
    CreateJob {
        job: Job,
        /// Takes the place of one of the same name.
        #[serde(default)]
        replace: bool,
    },
    DropJob {
        name: RelationName,
    },
    /// Made, or given other entries.
    SetCollection {
        name: String,
        collection: NamedCollection,
    },
    DropCollection {
        name: String,
    },
    /// Made, or given another text.
    SetFormatSchema {
        name: String,
        schema: FormatSchema,
    },
    DropFormatSchema {
        name: String,
    },
}

impl Snapshot {
    /// The snapshot after `event`.
    ///
    /// # Errors
    /// Whatever makes the event impossible now; dependents are not looked at (the caller may
    /// have waived that, see [`crate::Dependents`]).
    pub fn after(&self, event: &Event) -> Result<Snapshot, CatalogError> {
        let mut next = self.clone();
        next.version = next.version.saturating_add(1);
        match event {
            Event::CreateDatabase { name, comment } => {
                if next.databases.contains_key(name) {
                    return Err(CatalogError::DatabaseExists { name: name.clone() });
                }
                let database = Database { comment: comment.clone(), ..Database::default() };
                next.databases.insert(name.clone(), database);
            }
            Event::DropDatabase { name } => {
                refuse_built_in(name)?;
                self.expect_database(name)?;
                next.databases.remove(name);
            }
            Event::CreateRelation { relation, replace } => {
                next.insert(Arc::new(relation.clone()), *replace)?;
            }
            Event::CreateView { view, target } => {
                next.insert(Arc::new(target.clone()), false)?;
                next.insert(Arc::new(view.clone()), false)?;
            }
            Event::DropRelation { name } => {
                let relation = next.remove(name)?;
                if let RelationKind::MaterializedView { target, inner: true, .. } = &relation.kind {
                    next.remove(target)?;
                }
            }
            Event::Rename { pairs } => {
                for (from, to) in pairs {
                    if from.database != to.database {
                        return Err(CatalogError::AcrossDatabases { from: from.clone(), to: to.clone() });
                    }
                    let mut relation = Arc::unwrap_or_clone(next.remove(from)?);
                    relation.name.clone_from(&to.name);
                    next.insert(Arc::new(relation), false)?;
                }
            }
            Event::CreateJob { job, replace } => {
                refuse_built_in(&job.database)?;
                self.expect_database(&job.database)?;
                let jobs = &mut next.databases.get_mut(&job.database).expect("looked up above").jobs;
                if !replace && jobs.contains_key(&job.name) {
                    return Err(CatalogError::RelationExists { name: job.full_name() });
                }
                jobs.insert(job.name.clone(), Arc::new(job.clone()));
            }
            Event::DropJob { name } => {
                let jobs = next.databases.get_mut(&name.database).map(|d| &mut d.jobs);
                if jobs.and_then(|jobs| jobs.remove(&name.name)).is_none() {
                    return Err(CatalogError::UnknownJob { name: name.clone() });
                }
            }
            Event::SetCollection { name, collection } => {
                next.collections.insert(name.clone(), Arc::new(collection.clone()));
            }
            Event::DropCollection { name } => {
                if next.collections.remove(name).is_none() {
                    return Err(CatalogError::UnknownCollection { name: name.clone() });
                }
            }
            Event::SetFormatSchema { name, schema } => {
                next.format_schemas.insert(name.clone(), Arc::new(schema.clone()));
            }
            Event::DropFormatSchema { name } => {
                if next.format_schemas.remove(name).is_none() {
                    return Err(CatalogError::UnknownFormatSchema { name: name.clone() });
                }
            }
            Event::Truncated { name } => {
                self.expect_relation(&name.database, &name.name)?;
            }
        }
        Ok(next)
    }

    fn insert(&mut self, relation: Arc<Relation>, replace: bool) -> Result<(), CatalogError> {
        refuse_built_in(&relation.database)?;
        self.expect_database(&relation.database)?;
        let relations = &mut self.databases.get_mut(&relation.database).expect("looked up above").relations;
        if !replace && relations.contains_key(&relation.name) {
            return Err(CatalogError::RelationExists { name: relation.full_name() });
        }
        relations.insert(relation.name.clone(), relation);
        Ok(())
    }

    fn remove(&mut self, name: &RelationName) -> Result<Arc<Relation>, CatalogError> {
        refuse_built_in(&name.database)?;
        self.expect_relation(&name.database, &name.name)?;
        let relations = &mut self.databases.get_mut(&name.database).expect("looked up above").relations;
        Ok(relations.remove(&name.name).expect("looked up above"))
    }
}

fn refuse_built_in(database: &str) -> Result<(), CatalogError> {
    if database == SYSTEM_DATABASE {
        return Err(CatalogError::BuiltIn { name: database.to_owned() });
    }
    Ok(())
}
