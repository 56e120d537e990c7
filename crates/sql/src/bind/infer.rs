//! The Weir type of a planned expression: name, nullability, what Arrow's storage leaves out.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::Alias;
use datafusion::logical_expr::{Expr, ExprSchemable};
use weir_format::types::Type;

/// DataFusion's functions that give null only for null. It declares every result nullable.
const KEEP_NON_NULL: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "array_append",
    "array_concat",
    "array_distinct",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_prepend",
    "array_remove_all",
    "array_repeat",
    "array_reverse",
    "array_slice",
    "array_sort",
    "array_to_string",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bit_length",
    "btrim",
    "cardinality",
    "cbrt",
    "ceil",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "contains",
    "cos",
    "cosh",
    "cot",
    "date_bin",
    "date_part",
    "date_trunc",
    "degrees",
    "digest",
    "encode",
    "ends_with",
    "exp",
    "factorial",
    "floor",
    "from_unixtime",
    "gcd",
    "greatest",
    "initcap",
    "iszero",
    "isnan",
    "lcm",
    "least",
    "left",
    "levenshtein",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "lpad",
    "ltrim",
    "make_array",
    "make_date",
    "make_map",
    "map",
    "map_entries",
    "map_keys",
    "map_values",
    "md5",
    "named_struct",
    "nanvl",
    "now",
    "octet_length",
    "overlay",
    "pi",
    "power",
    "radians",
    "random",
    "range",
    "regexp_count",
    "regexp_like",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "rpad",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "sin",
    "sinh",
    "split_part",
    "sqrt",
    "starts_with",
    "string_to_array",
    "strpos",
    "struct",
    "substr",
    "substr_index",
    "tan",
    "tanh",
    "to_char",
    "to_hex",
    "to_local_time",
    "translate",
    "trunc",
    "upper",
    "uuid",
];

/// Aggregates and the like whose result has the type of their first argument.
const KEEP_TYPE: &[&str] = &[
    "min",
    "max",
    "any",
    "any_value",
    "any_last",
    "any_heavy",
    "first_value",
    "last_value",
    "earliest",
    "latest",
    "nth_value",
    "arg_min",
    "arg_max",
    "lag",
    "lead",
    "mode",
    "delta_sum",
    "delta_sum_timestamp",
    "max_intersections_position",
    "coalesce",
    "if_null",
    "nullif",
    "null_if",
    "greatest",
    "least",
    "assume_not_null",
    "to_nullable",
    super::cast::NOT_NULL,
];

/// Aggregates whose result is an array of their first argument's values.
const LISTS: &[&str] =
    &["group_array", "group_array_last", "group_array_sorted", "group_uniq_array", "top_k", "top_k_weighted"];

/// `None` where DataFusion cannot type the expression or Weir has no such type.
pub(crate) fn type_of(e: &Expr, schema: &DFSchema) -> Option<Type> {
    let storage = e.get_type(schema).ok()?;
    let guess = guess(e, schema)?;
    if same_shape(&guess.storage(), &storage) {
        return Some(guess);
    }
    Type::of_field(&Field::new("", storage, guess.is_nullable()))
}

/// Equal but for what inner fields are called and whether they may be null.
fn same_shape(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_shape(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_shape(a.data_type(), b.data_type()))
        }
        (DataType::Map(a, _), DataType::Map(b, _)) => same_shape(a.data_type(), b.data_type()),
        _ => a == b,
    }
}

fn nullable(e: &Expr, schema: &DFSchema) -> bool {
    type_of(e, schema).is_none_or(|t| t.is_nullable())
}

fn with_null(t: Type, null: bool) -> Type {
    let field = t.field("").with_nullable(null);
    Type::of_field(&field).unwrap_or(t)
}

fn guess(e: &Expr, schema: &DFSchema) -> Option<Type> {
    let declared = || e.to_field(schema).ok().map(|(_, f)| f);
    match e {
        Expr::Alias(Alias { expr, metadata, .. }) => {
            let told = metadata
                .as_ref()
                .and_then(|m| m.inner().get(weir_format::types::TYPE_KEY))
                .and_then(|t| Type::parse(t).ok());
            match told {
                Some(t) => Some(with_null(t, nullable(expr, schema))),
                None => type_of(expr, schema),
            }
        }
        Expr::Cast(c) => {
            let to = Type::of_field(&c.field)?;
            Some(with_null(to, nullable(&c.expr, schema)))
        }
        Expr::Case(c) => {
            let mut branches: Vec<&Expr> = c.when_then_expr.iter().map(|(_, t)| &**t).collect();
            branches.extend(c.else_expr.as_deref());
            let types: Vec<Type> = branches.iter().filter_map(|b| type_of(b, schema)).collect();
            let null =
                c.else_expr.is_none() || types.len() < branches.len() || types.iter().any(Type::is_nullable);
            types.into_iter().find(|t| *t != Type::Nothing).map(|t| with_null(t, null))
        }
        Expr::ScalarFunction(f) => {
            let field = declared()?;
            let name = f.name();
            let any_null = f.args.iter().any(|a| nullable(a, schema));
            let null = match name {
                "coalesce" | "if_null" => f.args.iter().all(|a| nullable(a, schema)),
                _ if KEEP_NON_NULL.contains(&name) => any_null,
                _ => field.is_nullable(),
            };
            if name == "make_array"
                && let DataType::List(item) = field.data_type()
            {
                let of = f.args.iter().filter_map(|a| type_of(a, schema)).find(|t| *t != Type::Nothing);
                let of = of.filter(|t| t.storage().equals_datatype(item.data_type()));
                let of = of.or_else(|| Type::of_field(item))?;
                return Some(Type::Array(Box::new(with_null(of, any_null))));
            }
            if name == "named_struct"
                && let DataType::Struct(fields) = field.data_type()
            {
                let types: Option<Vec<_>> = f
                    .args
                    .chunks(2)
                    .zip(fields)
                    .map(|(pair, field)| {
                        let t = type_of(pair.get(1)?, schema)?;
                        let unnamed = field.name().chars().all(|c| c.is_ascii_digit());
                        Some(((!unnamed).then(|| std::sync::Arc::from(field.name().as_str())), t))
                    })
                    .collect();
                return Some(Type::Tuple(types?.into()));
            }
            if name == "get_field"
                && let [of, Expr::Literal(datafusion::common::ScalarValue::Utf8(Some(key)), _)] =
                    f.args.as_slice()
                && let Some(Type::Tuple(fields)) = type_of(of, schema)
            {
                let named = |i: usize, n: &Option<std::sync::Arc<str>>| match n {
                    Some(n) => **n == **key,
                    None => (i + 1).to_string() == *key,
                };
                if let Some((_, (_, t))) = fields.iter().enumerate().find(|(i, (n, _))| named(*i, n)) {
                    return Some(t.clone());
                }
            }
            if KEEP_TYPE.contains(&name) {
                let of = f.args.iter().filter_map(|a| type_of(a, schema)).find(|t| *t != Type::Nothing);
                if let Some(of) = of {
                    return Some(with_null(of, null));
                }
            }
            Type::of_field(&field).map(|t| with_null(t, null))
        }
        Expr::AggregateFunction(f) => {
            let field = declared()?;
            let null = field.is_nullable() && f.params.args.iter().any(|a| nullable(a, schema));
            let first = f.params.args.first().and_then(|a| type_of(a, schema));
            match first {
                Some(t) if KEEP_TYPE.contains(&f.func.name()) => Some(with_null(t, null)),
                // None of them keeps a null.
                Some(t) if LISTS.contains(&f.func.name()) && t != Type::Nothing => {
                    Some(Type::Array(Box::new(with_null(t, false))))
                }
                Some(t) if matches!(f.func.name(), "min_k" | "max_k") && f.params.args.len() == 2 => {
                    Some(Type::Array(Box::new(with_null(t, false))))
                }
                _ => Type::of_field(&field).map(|t| with_null(t, null)),
            }
        }
        Expr::BinaryExpr(b) => {
            let null = nullable(&b.left, schema) || nullable(&b.right, schema);
            let field = declared()?;
            // A time moved by an interval keeps its zone.
            let time = [&b.left, &b.right].into_iter().filter_map(|e| type_of(e, schema)).find(|t| {
                matches!(t.inner(), Type::DateTime(_) | Type::DateTime64(..))
                    && t.storage() == *field.data_type()
            });
            time.or_else(|| Type::of_field(&field)).map(|t| with_null(t, null))
        }
        Expr::Not(inner) | Expr::Negative(inner) => {
            let null = nullable(inner, schema);
            Type::of_field(&*declared()?).map(|t| with_null(t, null))
        }
        Expr::Like(l) | Expr::SimilarTo(l) => {
            let null = nullable(&l.expr, schema) || nullable(&l.pattern, schema);
            Some(with_null(Type::Bool, null))
        }
        Expr::InList(l) => {
            let null = nullable(&l.expr, schema) || l.list.iter().any(|e| nullable(e, schema));
            Some(with_null(Type::Bool, null))
        }
        Expr::Between(b) => {
            let null = [&b.expr, &b.low, &b.high].iter().any(|e| nullable(e, schema));
            Some(with_null(Type::Bool, null))
        }
        _ => Type::of_field(&*declared()?),
    }
}
