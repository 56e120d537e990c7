//! Which shard of a target a row goes to, where the target does not say: by the group it is the result of.

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::expressions::Column;
use weir_base::{Result, err};
use weir_plan::StreamNode;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// Rows of a group, which these columns of the result name, go to one shard.
    Group(Vec<usize>),
    /// As their source's.
    Source,
}

impl Route {
    pub fn of(root: &StreamNode) -> Route {
        match groups(root) {
            Groups::None => Route::Source,
            Groups::Columns(columns) => Route::Group(columns),
            // What does not say its group goes to the first shard.
            Groups::Hidden => Route::Group(Vec::new()),
        }
    }

    /// Which of so many pieces each row of a batch is in, that has so many rows `before` it of `all`. Of
    /// groups a function of the group: their order is not the same after a restart; of other rows by their
    /// place: that is, and what they hold may not be (`now64()`).
    pub fn pieces(&self, result: &RecordBatch, before: usize, all: usize, pieces: usize) -> Result<Vec<u32>> {
        match self {
            Route::Source => {
                Ok((0..result.num_rows()).map(|row| Self::place(before + row, all, pieces)).collect())
            }
            Route::Group(columns) if columns.is_empty() => hashed(result, 0..result.num_columns(), pieces),
            Route::Group(columns) => hashed(result, columns.iter().copied(), pieces),
        }
    }

    /// The piece of a row that goes by its place among all.
    pub fn place(row: usize, all: usize, pieces: usize) -> u32 {
        (row as u64 * pieces as u64 / all.max(1) as u64) as u32
    }

    /// Whether the piece of a row is a function of what it holds.
    pub fn goes_by_content(&self) -> bool {
        matches!(self, Route::Group(_))
    }

    /// The shard of each row; `None` = that of its source.
    pub fn shards(&self, result: &RecordBatch, shards: usize) -> Result<Option<Vec<u32>>> {
        let Route::Group(columns) = self else { return Ok(None) };
        if columns.is_empty() {
            return Ok(Some(vec![0; result.num_rows()]));
        }
        hashed(result, columns.iter().copied(), shards).map(Some)
    }
}

fn hashed(result: &RecordBatch, columns: impl Iterator<Item = usize>, n: usize) -> Result<Vec<u32>> {
    let internal = |e: arrow::error::ArrowError| err!(LogicalError, "could not read the group of a row: {e}");
    let keys: Vec<_> = columns.map(|i| result.column(i).clone()).collect();
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let rows = RowConverter::new(fields).and_then(|c| c.convert_columns(&keys)).map_err(internal)?;
    Ok(rows.iter().map(|row| (xxh3_64(row.as_ref()) % n as u64) as u32).collect())
}

enum Groups {
    /// Rows are not results of groups.
    None,
    Columns(Vec<usize>),
    /// They are, and do not say of which.
    Hidden,
}

fn groups(node: &StreamNode) -> Groups {
    match node {
        StreamNode::Aggregate { keys, .. } => Groups::Columns((0..keys.len()).collect()),
        StreamNode::Project { exprs, input, .. } => match groups(input) {
            Groups::Columns(below) => {
                let place = |key: &usize| {
                    exprs
                        .iter()
                        .position(|e| e.expr.downcast_ref::<Column>().is_some_and(|c| c.index() == *key))
                };
                below.iter().map(place).collect::<Option<_>>().map_or(Groups::Hidden, Groups::Columns)
            }
            other => other,
        },
        StreamNode::EmitVersion { at, input, .. } => match groups(input) {
            Groups::Columns(keys) => {
                Groups::Columns(keys.into_iter().map(|k| if k >= *at { k + 1 } else { k }).collect())
            }
            other => other,
        },
        StreamNode::Filter { input, .. }
        | StreamNode::Sort { input, .. }
        | StreamNode::Limit { input, .. }
        | StreamNode::Delta { input, .. } => groups(input),
        StreamNode::Source { .. } => Groups::None,
        StreamNode::Window { session: None, input, .. } => groups(input),
        StreamNode::Substreams { of, .. } => match groups(of) {
            Groups::None => Groups::Hidden,
            other => other,
        },
        other => match other.inputs().into_iter().map(groups).all(|g| matches!(g, Groups::None)) {
            // A union of plain rows, functions of earlier rows: their order in the source's shard counts.
            true => Groups::None,
            false => Groups::Hidden,
        },
    }
}
