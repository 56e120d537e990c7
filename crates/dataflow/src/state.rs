//! State of operators: how it lies in memory, and how it is written down at an epoch.
//!
//! ```text
//! table: index (u32, open addressing) -> rows of words in segments that never move
//!                                     -> byte heap of keys, columns of anything else
//! ```
//!
//! Not here: where snapshots are stored, what aggregates do with their words (`agg`).

pub(crate) mod bits;
pub(crate) mod block;
pub(crate) mod bytes;
pub(crate) mod keys;
pub(crate) mod paged;
pub(crate) mod rows;
pub(crate) mod spill;
pub(crate) mod table;

use crate::operator::OpError;
use std::collections::BTreeMap;

/// Takes the state of one operator.
#[derive(Debug, Default)]
pub struct StateWriter {
    values: BTreeMap<&'static str, Vec<u8>>,
}

impl StateWriter {
    pub fn put(&mut self, name: &'static str, value: Vec<u8>) {
        let before = self.values.insert(name, value);
        assert!(before.is_none(), "state value {name} written twice in one snapshot");
    }

    pub fn put_u64(&mut self, name: &'static str, value: u64) {
        self.put(name, value.to_le_bytes().to_vec());
    }

    pub fn finish(self) -> StateReader {
        StateReader { values: self.values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect() }
    }
}

/// Gives back what [`StateWriter`] took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateReader {
    values: BTreeMap<String, Vec<u8>>,
}

impl StateReader {
    pub(crate) fn save(&self, out: &mut bytes::Writer) {
        out.u64(self.values.len() as u64);
        for (name, value) in &self.values {
            out.bytes(name.as_bytes());
            out.bytes(value);
        }
    }

    pub(crate) fn load(from: &mut bytes::Reader<'_>) -> Result<Self, bytes::Damaged> {
        let mut values = BTreeMap::new();
        for _ in 0..from.count(16)? {
            let name = String::from_utf8(from.bytes()?.to_vec())
                .map_err(|_| bytes::Damaged("a value's name is no text"))?;
            values.insert(name, from.bytes()?.to_vec());
        }
        Ok(StateReader { values })
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// # Errors
    /// [`OpError::Restore`] when the value is missing.
    pub fn bytes(&self, operator: &'static str, name: &str) -> Result<&[u8], OpError> {
        self.get(name)
            .ok_or_else(|| OpError::Restore { operator, reason: format!("value {name} is missing") })
    }

    /// # Errors
    /// [`OpError::Restore`] when the value is missing or not eight bytes.
    pub fn u64(&self, operator: &'static str, name: &str) -> Result<u64, OpError> {
        let bytes = self.bytes(operator, name)?;
        let bytes = bytes.try_into().map_err(|_| OpError::Restore {
            operator,
            reason: format!("value {name} has {} bytes, 8 expected", bytes.len()),
        })?;
        Ok(u64::from_le_bytes(bytes))
    }
}
