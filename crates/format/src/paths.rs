//! Which column a field of a nested schema goes to.
//!
//! A column has the field's name, or the path to a field within records: `a.b` and `a_b` are field `b` of `a`.

/// What lies below a field.
pub(crate) enum Child<N> {
    Value,
    Record(Vec<(String, N)>),
}

/// What becomes of a field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    Skip,
    Column(usize),
    /// Its own fields, in order, go to columns.
    Record(Vec<Target>),
}

/// A target for each field.
pub(crate) fn targets<N>(
    columns: &[String],
    fields: &[(String, N)],
    child: &impl Fn(&N) -> Child<N>,
) -> Vec<Target> {
    let wanted: Vec<(usize, &str)> = columns.iter().map(String::as_str).enumerate().collect();
    below(&wanted, fields, child)
}

fn below<N>(
    wanted: &[(usize, &str)],
    fields: &[(String, N)],
    child: &impl Fn(&N) -> Child<N>,
) -> Vec<Target> {
    let named = |column: &str| fields.iter().any(|(name, _)| name == column);
    let target = |(name, node): &(String, N)| {
        if let Some((i, _)) = wanted.iter().find(|(_, column)| column == name) {
            return Target::Column(*i);
        }
        let inside = |(i, column): &(usize, &'_ str)| {
            // A field of this very name is nearer.
            if named(column) {
                return None;
            }
            let rest = column.len() - column.strip_prefix(name.as_str())?.strip_prefix(['.', '_'])?.len();
            Some((*i, rest))
        };
        let rest: Vec<(usize, usize)> = wanted.iter().filter_map(inside).collect();
        if rest.is_empty() {
            return Target::Skip;
        }
        let Child::Record(inner) = child(node) else { return Target::Skip };
        let of = |i: usize| wanted.iter().find(|(j, _)| *j == i).map_or("", |(_, column)| column);
        let rest: Vec<(usize, &str)> = rest.into_iter().map(|(i, cut)| (i, &of(i)[cut..])).collect();
        let targets = below(&rest, &inner, child);
        if targets.iter().all(|t| *t == Target::Skip) { Target::Skip } else { Target::Record(targets) }
    };
    fields.iter().map(target).collect()
}

/// A column that no field goes to.
pub(crate) fn unused(columns: usize, targets: &[Target]) -> Option<usize> {
    fn used(targets: &[Target], all: &mut Vec<usize>) {
        for target in targets {
            match target {
                Target::Skip => {}
                Target::Column(i) => all.push(*i),
                Target::Record(below) => used(below, all),
            }
        }
    }
    let mut all = Vec::new();
    used(targets, &mut all);
    (0..columns).find(|i| !all.contains(i))
}
