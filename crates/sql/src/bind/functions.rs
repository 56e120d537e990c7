//! Names of functions: any spelling to the one that is registered.
//!
//! `toStartOfHour`, `to_start_of_hour` and `TO_START_OF_HOUR` are one function: names are
//! compared without case and underscores, after an exact match was tried.

use datafusion::execution::SessionState;
use std::collections::HashMap;
use std::sync::OnceLock;
use weir_base::error::did_you_mean;

/// Functions with syntax of their own, known to the binder and not registered anywhere.
const OWN: [&str; 9] = [
    "if",
    "multi_if",
    "cast",
    "unnest",
    "array_join",
    "tuple",
    "earliest_ts",
    "emit_version",
    "named_struct",
];

/// The functions of one session.
pub(crate) struct Functions<'a> {
    state: &'a SessionState,
    squashed: OnceLock<HashMap<String, String>>,
}

impl<'a> Functions<'a> {
    pub(crate) fn new(state: &'a SessionState) -> Self {
        Functions { state, squashed: OnceLock::new() }
    }

    fn has(&self, name: &str) -> bool {
        self.state.scalar_functions().contains_key(name)
            || self.state.aggregate_functions().contains_key(name)
            || self.state.window_functions().contains_key(name)
            || self.state.higher_order_functions().contains_key(name)
    }

    fn names(&self) -> impl Iterator<Item = &'a String> {
        self.state
            .scalar_functions()
            .keys()
            .chain(self.state.aggregate_functions().keys())
            .chain(self.state.window_functions().keys())
            .chain(self.state.higher_order_functions().keys())
    }

    /// The registered name for `asked`.
    pub(crate) fn resolve(&self, asked: &str) -> Option<String> {
        if self.has(asked) {
            return Some(asked.to_owned());
        }
        let lower = asked.to_lowercase();
        if self.has(&lower) {
            return Some(lower);
        }
        self.squashed
            .get_or_init(|| {
                let mut map: HashMap<String, String> = HashMap::new();
                for name in self.names() {
                    // Of two that look alike the one in snake_case wins, being Weir's.
                    let slot = map.entry(squash(name)).or_insert_with(|| name.clone());
                    if name.contains('_') && !slot.contains('_') {
                        slot.clone_from(name);
                    }
                }
                map
            })
            .get(&squash(asked))
            .cloned()
    }

    pub(crate) fn is_aggregate(&self, name: &str) -> bool {
        self.state.aggregate_functions().contains_key(name)
    }

    pub(crate) fn suggest(&self, asked: &str) -> String {
        let snake = snake(asked);
        let mut names: Vec<&str> =
            self.names().map(String::as_str).chain(OWN).filter(|n| !n.starts_with('_')).collect();
        names.sort_unstable();
        did_you_mean(&snake, names)
    }
}

/// `toYYYYMM` and `to_YYYYMM` give `toyyyymm`.
pub(crate) fn squash(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// `toStartOfHour` gives `to_start_of_hour`; runs of capitals stay together.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut before_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && before_lower {
            out.push('_');
        }
        before_lower = c.is_lowercase() || c.is_ascii_digit();
        out.extend(c.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_both_spellings() {
        let cases = [
            ("toStartOfHour", "to_start_of_hour"),
            ("countIf", "count_if"),
            ("count", "count"),
            ("COUNT", "count"),
            ("to_int8", "to_int8"),
            ("numbers", "numbers"),
        ];
        for (asked, expected) in cases {
            assert_eq!(snake(asked), expected);
            assert_eq!(squash(asked), squash(expected));
        }
    }
}
