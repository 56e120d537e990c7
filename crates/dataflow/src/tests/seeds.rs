//! Which generated cases a test runs.
//!
//! In CI 200, seeds 0 and up. `WEIR_SEED=n` runs case n alone; with `WEIR_GENERATED_SECONDS=t` as well, as
//! many as that time allows from n on. The seed of a failing case stands in what its assertion says.

use std::time::Duration;
use weir_base::{Clock, SystemClock};

const CASES: u64 = 200;

pub fn each_seed(what: &str, check: impl Fn(u64)) {
    let told = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, limit) = (told("WEIR_SEED"), told("WEIR_GENERATED_SECONDS").map(Duration::from_secs));
    let start = first.unwrap_or(0);
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let mut ran = 0;
    while match limit {
        Some(limit) => clock.monotonic() - begin < limit,
        None => ran < first.map_or(CASES, |_| 1),
    } {
        check(start + ran);
        ran += 1;
    }
    println!("generated cases of {what}: {ran} from seed {start}");
}
