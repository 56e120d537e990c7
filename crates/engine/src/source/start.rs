//! From a start position to a sequence number in each shard.

use super::factory::Warnings;
use std::sync::Arc;
use weir_base::{Code, Error, Result, SeqNo, err};
use weir_plan::StartPosition;
use weir_storage::{Shard, StorageError};

/// Where each shard begins. Reads time indexes: may block on the disk, so it runs aside.
///
/// # Errors
/// Code 36 when the list does not fit the shards, 2500 for a number above what is durable.
pub(super) async fn resolve(
    name: &str,
    shards: &[Arc<Shard>],
    start: &StartPosition,
    warnings: &Warnings,
) -> Result<Vec<SeqNo>> {
    match start {
        StartPosition::Latest => Ok(shards.iter().map(|s| s.durable_end()).collect()),
        StartPosition::Earliest => Ok(shards.iter().map(|s| s.oldest()).collect()),
        StartPosition::EventTime(at) => {
            let (all, at) = (shards.to_vec(), *at);
            let seek = move || -> Result<Vec<(SeqNo, SeqNo)>, StorageError> {
                all.iter().map(|s| Ok((s.oldest(), s.seek_event_time(at)?))).collect()
            };
            let found = tokio::task::spawn_blocking(seek)
                .await
                .map_err(|e| Error::new(Code::LogicalError, format!("seeking in {name} stopped: {e}")))?
                .map_err(Error::from)?;
            let asked = chrono::DateTime::from_timestamp_millis(at.0)
                .map_or_else(|| at.0.to_string(), |t| t.format("%F %T%.3f UTC").to_string());
            for (shard, (oldest, start)) in shards.iter().zip(&found) {
                if *oldest > SeqNo::ZERO && start <= oldest {
                    warnings.add(format!(
                        "{name} shard {} holds no row before sequence number {oldest}; the query asked for \
                         event times from {asked} and starts there",
                        shard.id()
                    ));
                }
            }
            Ok(found.into_iter().map(|(_, start)| start).collect())
        }
        StartPosition::SeqNo(list) | StartPosition::Restored(list) => {
            let ends: Vec<_> = shards.iter().map(|s| (s.oldest(), s.durable_end())).collect();
            listed(name, list, &ends, warnings)
        }
    }
}

/// `held`: of each shard the oldest row and one past the newest.
fn listed(name: &str, list: &[SeqNo], held: &[(SeqNo, SeqNo)], warnings: &Warnings) -> Result<Vec<SeqNo>> {
    if list.len() != 1 && list.len() != held.len() {
        return Err(err!(
            BadArguments,
            "seek_to names {} sequence numbers, {name} has {} shards; give one for all or one for each",
            list.len(),
            held.len()
        ));
    }
    held.iter()
        .enumerate()
        .map(|(i, (oldest, end))| {
            let asked = *list.get(i).unwrap_or(&list[0]);
            if asked > *end {
                return Err(err!(
                    SequenceOutOfRange,
                    "seek_to asks for sequence number {asked} of {name} shard {i}, which ends at {end}"
                ));
            }
            if asked < *oldest {
                warnings.add(format!(
                    "{name} shard {i} holds no row before sequence number {oldest}; the query asked for {asked} \
                     and starts at {oldest}"
                ));
            }
            Ok(asked.max(*oldest))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_sequence_numbers() {
        let sn = SeqNo;
        let held = [(sn(5), sn(10)), (sn(0), sn(7))];
        // (name, list, expected, warnings)
        let cases = [
            ("one for each", vec![sn(6), sn(7)], Ok(vec![sn(6), sn(7)]), 0),
            ("one for all, above one end", vec![sn(8)], Err(Code::SequenceOutOfRange), 0),
            ("one for all, before one start", vec![sn(3)], Ok(vec![sn(5), sn(3)]), 1),
            ("the ends themselves", vec![sn(10), sn(7)], Ok(vec![sn(10), sn(7)]), 0),
            ("too many", vec![sn(1), sn(2), sn(3)], Err(Code::BadArguments), 0),
            ("none", vec![], Err(Code::BadArguments), 0),
        ];
        for (name, list, expected, warned) in cases {
            let warnings = Warnings::default();
            let got = listed("default.s", &list, &held, &warnings).map_err(|e| e.code);
            assert_eq!(got, expected, "{name}");
            assert_eq!(warnings.all().len(), warned, "{name}");
        }
    }
}
