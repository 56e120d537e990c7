//! Skips rows, then passes a number of them, then ends the query.

use crate::operator::{InputId, OpError, Operator, Output};
use crate::state::{StateReader, StateWriter};
use weir_plan::Rows;

const NAME: &str = "Limit";

pub struct Limit {
    skip_left: u64,
    /// `None` = without end.
    fetch_left: Option<u64>,
}

impl Limit {
    pub fn new(skip: u64, fetch: Option<u64>) -> Self {
        Limit { skip_left: skip, fetch_left: fetch }
    }
}

impl Operator for Limit {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let n = rows.batch.num_rows();
        let skip = self.skip_left.min(n as u64) as usize;
        let take = self.fetch_left.map_or(n - skip, |left| left.min((n - skip) as u64) as usize);
        self.skip_left -= skip as u64;
        if let Some(left) = &mut self.fetch_left {
            *left -= take as u64;
        }
        if take == n {
            out.rows(rows);
        } else if take > 0 {
            out.rows(Rows {
                batch: rows.batch.slice(skip, take),
                weights: rows.weights.map(|w| w.slice(skip, take)),
            });
        }
        Ok(())
    }

    fn done(&self) -> bool {
        self.fetch_left == Some(0)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("skip_left", self.skip_left);
        if let Some(left) = self.fetch_left {
            into.put_u64("fetch_left", left);
        }
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.skip_left = from.u64(NAME, "skip_left")?;
        if self.fetch_left.is_some() {
            self.fetch_left = Some(from.u64(NAME, "fetch_left")?);
        }
        Ok(())
    }
}
