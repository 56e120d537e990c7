//! What the state of a plan depends on: a checkpoint of one plan goes on as another only where these agree.
//!
//! Counted are the sources and every operator that keeps state, with all that is below it. What is above
//! the last of them (a projection, a HAVING) keeps nothing and may change.

use std::fmt::Write;
use weir_plan::{NodeId, Projection, SortKey, StreamNode, StreamPlan, WindowTime};
use xxhash_rust::xxh3::xxh3_64;

/// Of how expressions are written down; another one here makes nothing of the meaning in a checkpoint,
/// so that an upgrade that writes them differently takes it all the same.
pub(crate) const MEANING_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of operators and the columns between them.
    pub shape: u64,
    /// Of expressions, windows and emissions.
    pub meaning: u64,
    /// Nodes whose state is kept, depth first: state goes by the place here.
    pub kept: Vec<NodeId>,
}

impl Identity {
    pub fn of(plan: &StreamPlan) -> Self {
        let mut text = Text::default();
        text.node(&plan.root, false);
        Identity {
            shape: xxh3_64(text.shape.as_bytes()),
            meaning: xxh3_64(text.meaning.as_bytes()),
            kept: text.kept,
        }
    }

    pub fn place_of(&self, id: NodeId) -> Option<u32> {
        self.kept.iter().position(|k| *k == id).map(|at| at as u32)
    }
}

fn keeps_state(node: &StreamNode) -> bool {
    match node {
        StreamNode::Source { .. }
        | StreamNode::Filter { .. }
        | StreamNode::Project { .. }
        | StreamNode::Delta { .. }
        | StreamNode::Sort { .. }
        | StreamNode::Rank { .. } => false,
        StreamNode::Weights { retracted, .. } => retracted.is_some(),
        StreamNode::Union { .. }
        | StreamNode::Limit { .. }
        | StreamNode::Window { .. }
        | StreamNode::Aggregate { .. }
        | StreamNode::Lives { .. }
        | StreamNode::EmitVersion { .. }
        | StreamNode::Changelog { .. }
        | StreamNode::Over { .. }
        | StreamNode::Substreams { .. }
        | StreamNode::Dedup { .. } => true,
    }
}

#[derive(Default)]
struct Text {
    shape: String,
    meaning: String,
    kept: Vec<NodeId>,
}

impl Text {
    /// `counts`: something above keeps state.
    fn node(&mut self, node: &StreamNode, counts: bool) {
        let counts = counts || keeps_state(node);
        if let StreamNode::Source { id, spec } = node {
            self.kept.push(*id);
            // A stream by another name is another one.
            self.say(format_args!("{}.{}", spec.database, spec.relation));
            if let Some(w) = &spec.watermark {
                let keys = w.partition.iter().flat_map(|p| &p.keys);
                self.say(format_args!("watermark {} {} {:?}", w.time, w.delay_ns, w.timeout));
                keys.for_each(|key| self.say(key));
            }
        }
        let named = counts || matches!(node, StreamNode::Source { .. });
        if named {
            let _ = write!(self.shape, "({}", node.name());
        }
        if counts {
            if !matches!(node, StreamNode::Source { .. }) {
                self.kept.push(node.id());
            }
            for field in node.schema().fields() {
                let _ = write!(self.shape, " {} {}", field.name(), field.data_type());
            }
            self.operator(node);
        }
        node.inputs().into_iter().for_each(|input| self.node(input, counts));
        if named {
            self.shape.push(')');
        }
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        let _ = write!(self.meaning, "{what};");
    }

    fn all(&mut self, what: impl IntoIterator<Item = impl std::fmt::Display>) {
        what.into_iter().for_each(|w| self.say(w));
    }

    fn projections(&mut self, what: &[Projection]) {
        self.all(what.iter().map(|p| &p.expr));
    }

    fn sorted(&mut self, keys: &[SortKey]) {
        keys.iter().for_each(|k| self.say(format_args!("{} {} {}", k.expr, k.descending, k.nulls_first)));
    }

    /// What an operator does, but for its inputs.
    fn operator(&mut self, node: &StreamNode) {
        match node {
            StreamNode::Source { .. } | StreamNode::Union { .. } | StreamNode::Delta { .. } => {}
            StreamNode::Filter { predicate, .. } => self.say(predicate),
            StreamNode::Project { exprs, .. } => self.projections(exprs),
            StreamNode::Limit { skip, fetch, .. } => self.say(format_args!("{skip} {fetch:?}")),
            StreamNode::Window { spec, time, session, .. } => {
                self.say(format_args!("{spec:?}"));
                match time {
                    WindowTime::Event(time) => self.say(time),
                    WindowTime::Processing => self.say("now"),
                }
                if let Some(session) = session {
                    self.all(&session.keys);
                    session.conditions.iter().for_each(|(start, end)| self.all([start, end]));
                }
            }
            StreamNode::Aggregate { keys, aggregates, window, emit, .. } => {
                self.projections(keys);
                self.all(aggregates);
                self.say(format_args!("{window:?} {emit}"));
            }
            StreamNode::Lives { spec, keys, .. } => {
                self.say(format_args!("{spec:?}"));
                self.all(keys);
            }
            StreamNode::EmitVersion { each_row, .. } => self.say(each_row),
            StreamNode::Weights { at, retracted, .. } => self.say(format_args!("{at} {retracted:?}")),
            StreamNode::Changelog { spec, .. } => {
                self.all(&spec.keys);
                self.all(&spec.version);
            }
            StreamNode::Over { spec, .. } => {
                self.all(&spec.partition);
                self.all(&spec.functions);
                self.all(spec.functions.iter().flat_map(|f| &f.filter));
            }
            StreamNode::Substreams { partition, of, .. } => {
                self.projections(partition);
                self.operator(of);
                if let Some(sessions) = of.sessions() {
                    self.operator(sessions);
                }
            }
            StreamNode::Dedup { spec, .. } => {
                self.all(&spec.keys);
                self.say(format_args!("{:?} {:?}", spec.ttl_us, spec.keys_max));
            }
            StreamNode::Rank { spec, .. } => {
                self.all(&spec.partition);
                self.sorted(&spec.order);
            }
            StreamNode::Sort { keys, .. } => self.sorted(keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::query::{filter, limit};
    use crate::tests::support::source_node;
    use datafusion_physical_expr::expressions::lit;

    #[test]
    fn what_is_above_all_state_may_change_and_what_is_below_may_not() {
        let of = |root| Identity::of(&StreamPlan::new(root, weir_plan::ReplayOrder::default()));
        let below = |pass: bool| filter(8, lit(pass), source_node(9));
        assert_eq!(of(below(true)), of(below(false)), "a filter keeps nothing");
        let counted = |root| limit(7, 0, Some(10), root);
        let (yes, no) = (of(counted(below(true))), of(counted(below(false))));
        assert_eq!((yes.shape, &yes.kept), (no.shape, &no.kept));
        assert_ne!(yes.meaning, no.meaning);
        let bare = of(counted(source_node(9)));
        assert_ne!(bare.shape, yes.shape);
        assert_eq!(bare, of(filter(5, lit(true), counted(source_node(9)))));
        assert_eq!(bare.place_of(NodeId(9)), Some(1));
        assert_eq!(
            of(counted(source_node(4))).place_of(NodeId(4)),
            Some(1),
            "places go by order, not by number"
        );
    }
}
