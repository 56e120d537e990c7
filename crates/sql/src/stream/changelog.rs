//! Changelogs: the weights of a stream's rows, and `changelog(…)`, in which each row in log order takes back
//! the last one of its key.

use super::node::{Lowered, Lowering, SHARD, also, is_reserved};
use crate::bind::{KeyedTable, UnboundedTable};
use datafusion::arrow::datatypes::{FieldRef, Schema};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_format::types::Type;
use weir_plan::{KeyedChangelog, ReplayOrder, Retracted, StreamNode, WEIGHT_COLUMN};

impl Lowering<'_> {
    /// Where the weight of a changelog's rows is, and how those that take back find theirs, where
    /// somebody looks at the place of a row. Columns that only serve this come last.
    pub(super) fn weights(
        &self,
        table: &UnboundedTable,
        fields: &mut Vec<FieldRef>,
    ) -> Result<(usize, Option<Retracted>), Error> {
        if self.replay_order == ReplayOrder::EventTime {
            return Err(err!(
                NotImplemented,
                "replay_order='event_time' over a changelog is not supported: {} takes rows back in the order in which they came",
                table.relation
            ));
        }
        let place = |f: &FieldRef| is_reserved(f.name()) && f.name() != SHARD && f.name() != WEIGHT_COLUMN;
        let of: Vec<usize> = (0..fields.len()).filter(|i| place(&fields[*i])).collect();
        let mut retracted = None;
        if !of.is_empty() {
            let mut same = vec![also(table, fields, SHARD)?];
            for field in table.schema.fields().iter().filter(|f| !is_reserved(f.name())) {
                same.push(also(table, fields, field.name())?);
            }
            retracted = Some(Retracted { same, of });
        }
        Ok((also(table, fields, WEIGHT_COLUMN)?, retracted))
    }

    pub(super) fn keyed(&mut self, table: &KeyedTable) -> Result<Lowered, Error> {
        if self.judged_by.is_some() || self.lives.is_some() {
            return Err(err!(
                NotImplemented,
                "windows and ends of keys over a changelog are not supported: its rows are taken back; aggregate it without them"
            ));
        }
        if self.replay_order == ReplayOrder::EventTime {
            return Err(err!(
                NotImplemented,
                "replay_order='event_time' with changelog() is not supported: a row takes back the one appended before it"
            ));
        }
        let id = self.id();
        let shown = !self.counts_weights();
        let above = self.leave_changelog();
        let input = self.node(&table.input);
        self.enter_changelog(above);
        let Lowered { node, hidden } = input?;
        if node.is_changelog() {
            return Err(err!(
                IncorrectQuery,
                "changelog() over a changelog; read it directly, or show its changes with EMIT CHANGELOG"
            ));
        }
        if updates(&node) {
            return Err(err!(
                NotImplemented,
                "changelog() over an aggregation without a window is not supported: its results leave again and again; use EMIT CHANGELOG"
            ));
        }
        if several(&node) {
            return Err(err!(
                NotImplemented,
                "changelog() over a UNION is not supported yet: rows of several streams have no log order; use it on each of them"
            ));
        }
        let schema = table.input.schema();
        let spec = KeyedChangelog {
            keys: table.keys.iter().map(|e| self.physical(e, schema)).collect::<Result<_, _>>()?,
            version: table.version.as_ref().map(|e| self.physical(e, schema)).transpose()?,
            at: schema.fields().len(),
            shown,
        };
        let mut fields: Vec<FieldRef> = node.schema().fields().iter().cloned().collect();
        fields.insert(spec.at, Arc::new(Type::Int8.field(WEIGHT_COLUMN)));
        let hidden = hidden.into_iter().map(|(h, at)| (h, at + usize::from(at >= spec.at))).collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(Lowered { node: StreamNode::Changelog { id, spec, schema, input: Box::new(node) }, hidden })
    }
}

/// An aggregation whose results leave more than once.
fn updates(node: &StreamNode) -> bool {
    matches!(node, StreamNode::Aggregate { emit, .. } if emit.policy != weir_plan::EmitPolicy::OnClose)
        || !matches!(node, StreamNode::Aggregate { .. }) && node.inputs().into_iter().any(updates)
}

fn several(node: &StreamNode) -> bool {
    matches!(node, StreamNode::Union { .. }) || node.inputs().into_iter().any(several)
}
