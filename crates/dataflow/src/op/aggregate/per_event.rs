//! `PER EVENT`: for each row of a batch the result of its key, this row included.

use super::Bounds;
use super::core::{Core, Work};
use super::part::Part;
use crate::operator::{OpError, Output};
use crate::state::table::{CHUNK_ROWS, Picked};
use arrow_array::RecordBatch;
use arrow_select::interleave::interleave_record_batch;
use std::collections::HashMap;
use weir_plan::Rows;

impl Core {
    /// Takes picked rows in and gives the result of each, in their order. They are taken in rounds in which
    /// no key comes twice, so that a round is one update and one reading.
    pub fn per_event(
        &self,
        bounds: Bounds,
        part: &mut Part,
        work: &Work,
        picked: Picked<'_>,
    ) -> Result<RecordBatch, OpError> {
        let mut chunk = Vec::new();
        let mut seen: HashMap<u32, usize> = HashMap::new();
        // Rows and groups of each round; of each row its round and its place there.
        let mut rounds: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        let mut places = Vec::with_capacity(picked.len());
        for rows in picked.chunks(CHUNK_ROWS) {
            let known = part.groups.len();
            let interned = part.groups.intern(&work.keys, rows, &mut chunk);
            interned.map_err(|e| OpError::Row { reason: e.to_string() })?;
            self.touch(part, &chunk, known, work.now_us)?;
            for (i, group) in chunk.iter().enumerate() {
                let times = seen.entry(*group).or_default();
                if *times == rounds.len() {
                    rounds.push((Vec::new(), Vec::new()));
                }
                let (in_round, groups) = &mut rounds[*times];
                places.push((*times, in_round.len()));
                in_round.push(rows.at(i) as u32);
                groups.push(*group);
                *times += 1;
            }
        }
        let mut results = Vec::with_capacity(rounds.len());
        for (rows, groups) in &rounds {
            self.update(bounds, part, work, Picked::Listed(rows))?;
            results.push(self.result(bounds, part, groups)?);
        }
        match results.as_slice() {
            [] => Ok(RecordBatch::new_empty(self.schema.clone())),
            [one] => Ok(one.clone()),
            all => {
                interleave_record_batch(&all.iter().collect::<Vec<_>>(), &places).map_err(|e| self.arrow(e))
            }
        }
    }

    /// Hands on what parts told of the rows they took (`None` = of all `n`), in the order of the rows.
    pub fn told(
        &self,
        n: usize,
        parts: Vec<(Option<Vec<u32>>, RecordBatch)>,
        out: &mut Output,
    ) -> Result<(), OpError> {
        let mut places = vec![(0, 0); n];
        for (at, (rows, _)) in parts.iter().enumerate() {
            match rows {
                None => places.iter_mut().enumerate().for_each(|(row, place)| *place = (at, row)),
                Some(rows) => rows.iter().enumerate().for_each(|(i, row)| places[*row as usize] = (at, i)),
            }
        }
        let batch = match parts.as_slice() {
            [] => return Ok(()),
            [(None, one)] => one.clone(),
            parts => {
                let all: Vec<&RecordBatch> = parts.iter().map(|(_, batch)| batch).collect();
                interleave_record_batch(&all, &places).map_err(|e| self.arrow(e))?
            }
        };
        out.rows(Rows::append(batch));
        Ok(())
    }
}
