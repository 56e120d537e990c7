//! CREATE EXTERNAL STREAM: a definition that the connector of its type takes.
//!
//! Nobody is spoken to, except where the columns have to be found out.

use super::create::{check, column, column_of_field, complete_columns};
use crate::engine::Statement;
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_catalog::{Relation, RelationKind, RelationName};
use weir_sql::ast::{CreateStream, Settings};
use weir_storage::TIME_COLUMN;

/// The relation a CREATE EXTERNAL STREAM describes, all checked.
pub(super) async fn define(
    cx: &Statement,
    name: &RelationName,
    create: CreateStream,
    settings: Settings,
) -> Result<Relation> {
    for (clause, given) in [
        ("ORDER BY", create.order_by.is_some()),
        ("PARTITION BY", create.partition_by.is_some()),
        ("PRIMARY KEY", create.primary_key.is_some()),
        ("TTL", create.ttl.is_some()),
        ("INDEX", !create.indexes.is_empty()),
        ("AS SELECT", create.as_select.is_some()),
    ] {
        if given {
            return Err(err!(
                IncorrectQuery,
                "an external stream keeps its rows elsewhere and has no {clause}; a materialized view INTO a stream \
                 keeps them here"
            ));
        }
    }
    let connector = cx.shared.externals.connector(&settings)?.clone();
    let mut columns = Vec::new();
    if let Some(like) = &create.like {
        let like = cx.full_name(like);
        let snapshot = cx.shared.catalog.snapshot();
        let model = snapshot.expect_relation(&like.database, &like.name)?;
        columns = model.columns.iter().filter(|c| c.name != TIME_COLUMN).cloned().collect();
    }
    for spec in create.columns {
        columns.push(column(cx, spec, &columns)?);
    }
    if columns.is_empty() {
        let empty = Arc::new(arrow::datatypes::Schema::empty());
        let spec = cx.shared.externals.spec(name.to_string(), &settings, empty.clone(), empty)?;
        let inferred = connector.infer(spec).await.map_err(Error::from)?;
        columns = inferred.fields().iter().map(|f| column_of_field(f)).collect::<Result<_>>()?;
    }
    let time_in_payload = columns.iter().any(|c| c.name == TIME_COLUMN);
    complete_columns(name, &mut columns, false, true)?;
    let relation = Relation {
        id: cx.shared.new_id(),
        database: name.database.clone(),
        name: name.name.clone(),
        kind: RelationKind::External { settings, time_in_payload },
        columns,
        comment: create.comment,
        created_ms: cx.shared.world.clock.now_ms(),
    };
    check(cx, &relation)?;
    Ok(relation)
}
