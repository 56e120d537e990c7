//! Without faults: random steps against the model, for every storage type.

use super::sim::{Sim, random_op};
use crate::StorageType;
use weir_base::Rng;

fn runs(storage_type: StorageType, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let rng = Rng::seeded(seed);
        let mut sim = Sim::new(seed, storage_type);
        for _ in 0..60 {
            let op = random_op(&rng, 60, storage_type != StorageType::Memory);
            sim.step(op).unwrap_or_else(|e| panic!("seed {seed}, {op:?}: {e}"));
        }
        sim.check().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        sim.check_cursor().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn hybrid_streams_behave_like_a_map() {
    runs(StorageType::Hybrid, 0..30);
}

#[test]
fn streams_without_parts_behave_like_a_queue() {
    runs(StorageType::Streaming, 100..120);
}
