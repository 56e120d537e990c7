//! ClickHouse's result types, fixed on the plan by casts.
//!
//! One pass, bottom up, before DataFusion's own coercion, which then finds little to do.
//! Names of columns never change here, only their types.
//!
//! - integer literals and arithmetic as in [`super::widths`];
//! - comparisons as in [`super::compare`];
//! - aggregates over no rows give the type's default, outer joins fill defaults;
//! - results are nullable only where a null can come from;
//! - the Weir type of a column (uuid, enum, …) travels with it.

use super::cast;
use super::compare::{align, as_type, literal_for};
use super::condition;
use super::errors::external;
use super::infer::type_of;
use super::widths::{self, Arithmetic};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::expr::COUNT_STAR_EXPANSION;
use datafusion::common::{Column, DFSchema, JoinType, Result as DfResult, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{Alias, BinaryExpr, Cast, FieldMetadata, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union, lit};
use std::sync::Arc;
use weir_base::err;
use weir_format::types::{TYPE_KEY, Type};

/// What the pass must know of the query.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub wrap: bool,
    pub join_use_nulls: bool,
    /// `now()` is this instant wherever it is a constant of the query (microseconds).
    pub now_us: i64,
    /// Whether `now()` moves: in an unbounded query, outside predicates that seek.
    pub unbounded: bool,
}

/// Functions whose arguments keep an integer literal's own small type.
const SMALL_LITERALS: &[&str] = &[
    "coalesce",
    "if_null",
    "nullif",
    "null_if",
    "greatest",
    "least",
    "make_array",
    "array",
    "named_struct",
    "map",
    "make_map",
    "to_type_name",
];

/// Applies the rules to a whole plan.
pub(crate) fn apply(plan: LogicalPlan, rules: &Rules) -> DfResult<LogicalPlan> {
    plan.transform_up_with_subqueries(|p| node(p, rules)).map(|t| t.data)
}

fn input_schema(plan: &LogicalPlan) -> DfResult<DFSchema> {
    let mut schema = DFSchema::empty();
    for input in plan.inputs() {
        schema.merge(input.schema());
    }
    Ok(schema)
}

fn node(plan: LogicalPlan, rules: &Rules) -> DfResult<Transformed<LogicalPlan>> {
    if matches!(plan, LogicalPlan::TableScan(_) | LogicalPlan::Limit(_) | LogicalPlan::Values(_)) {
        return plan.recompute_schema().map(Transformed::yes);
    }
    let schema = input_schema(&plan)?;
    let names = NamePreserver::new(&plan);
    let is_filter = matches!(plan, LogicalPlan::Filter(_));
    let is_projection = matches!(plan, LogicalPlan::Projection(_));
    let plan = match plan {
        // Its schema does not follow its inputs by itself.
        LogicalPlan::Union(u) => LogicalPlan::Union(Union::try_new_with_loose_types(u.inputs)?),
        other => other,
    };
    let plan = plan
        .map_expressions(|e| {
            let name = names.save(&e);
            let e = if is_filter && rules.unbounded { freeze_seeks(e, rules)? } else { e };
            let mut e = expr(e, &schema, rules)?;
            if is_projection {
                e = item(e, &schema)?;
            }
            Ok(Transformed::yes(name.restore(e)))
        })?
        .data
        .recompute_schema()?;
    Ok(Transformed::yes(match plan {
        LogicalPlan::Aggregate(_) => empty_defaults(plan)?,
        LogicalPlan::Window(_) => running_defaults(plan)?,
        LogicalPlan::Join(_) if !rules.join_use_nulls => unmatched_defaults(plan)?,
        other => other,
    }))
}

/// Rewrites one expression.
pub(crate) fn expr(e: Expr, schema: &DFSchema, rules: &Rules) -> DfResult<Expr> {
    e.transform_up(|e| one(e, schema, rules).map(Transformed::yes)).map(|t| t.data)
}

/// An integer literal in its smallest type; anything else as it is.
pub(crate) fn shrink(e: Expr) -> Expr {
    match e {
        Expr::Literal(v, m) => match widths::smallest(&v) {
            Some(small) => Expr::Literal(small, m),
            None => Expr::Literal(v, m),
        },
        Expr::Alias(Alias { expr, relation, name, metadata }) => {
            let inner = shrink(*expr);
            Expr::Alias(Alias { expr: Box::new(inner), relation, name, metadata })
        }
        other => other,
    }
}

fn one(e: Expr, schema: &DFSchema, rules: &Rules) -> DfResult<Expr> {
    Ok(match e {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (shrink(*left), shrink(*right));
            match op {
                Operator::Plus
                | Operator::Minus
                | Operator::Multiply
                | Operator::Divide
                | Operator::Modulo => arithmetic(left, op, right, schema)?,
                op if op.supports_propagation() || is_comparison(op) => {
                    let (l, r) = align(left, right, schema).map_err(external)?;
                    super::compare::binary(l, op, r)
                }
                op => super::compare::binary(left, op, right),
            }
        }
        Expr::Negative(inner) => {
            let inner = shrink(*inner);
            let from = inner.get_type(schema)?;
            match widths::negated(&from) {
                Some(to) => Expr::Negative(Box::new(as_type(inner, &from, &to))),
                None => Expr::Negative(Box::new(inner)),
            }
        }
        Expr::Between(mut b) => {
            if let Some(t) = type_of(&b.expr, schema) {
                for side in [&mut b.low, &mut b.high] {
                    **side = shrink((**side).clone());
                    if let Some(v) = literal_for(side, &t).map_err(external)? {
                        **side = v;
                    }
                }
            }
            Expr::Between(b)
        }
        Expr::InList(mut l) => {
            if let Some(t) = type_of(&l.expr, schema) {
                for value in &mut l.list {
                    *value = shrink(std::mem::take(value));
                    if let Some(v) = literal_for(value, &t).map_err(external)? {
                        *value = v;
                    }
                }
            }
            Expr::InList(l)
        }
        Expr::Case(mut c) => {
            for (when, then) in &mut c.when_then_expr {
                let t = when.get_type(schema)?;
                if c.expr.is_none() && widths::is_number(&t) {
                    let zero = lit(ScalarValue::new_zero(&t)?);
                    **when = super::compare::binary((**when).clone(), Operator::NotEq, zero);
                }
                **then = shrink((**then).clone());
            }
            if let Some(other) = &mut c.else_expr {
                **other = shrink((**other).clone());
            }
            Expr::Case(c)
        }
        Expr::Cast(c) if c.field.metadata().contains_key(TYPE_KEY) => typed_cast(c, schema, rules)?,
        Expr::ScalarFunction(f) => function(f, schema, rules)?,
        // `count(*)` is counting this very literal to DataFusion, which then may answer from
        // what is known of the parts.
        Expr::AggregateFunction(mut f) => {
            if let Some(first) = f.params.args.first_mut()
                && !(f.func.name() == "count" && *first == lit(COUNT_STAR_EXPANSION))
            {
                *first = shrink(std::mem::take(first));
                if f.func.name() == "avg" && matches!(first.get_type(schema), Ok(DataType::Decimal128(..))) {
                    *first = Expr::Cast(Cast::new(Box::new(std::mem::take(first)), DataType::Float64));
                }
            }
            Expr::AggregateFunction(f)
        }
        other => other,
    })
}

fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn arithmetic(left: Expr, op: Operator, right: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let kind = match op {
        Operator::Plus => Arithmetic::Plus,
        Operator::Minus => Arithmetic::Minus,
        Operator::Multiply => Arithmetic::Multiply,
        Operator::Divide => Arithmetic::Divide,
        _ => Arithmetic::Modulo,
    };
    let (lt, rt) = (left.get_type(schema)?, right.get_type(schema)?);
    let decimal = |t: &DataType| matches!(t, DataType::Decimal128(..));
    let float = |t: &DataType| matches!(t, DataType::Float32 | DataType::Float64);
    if decimal(&lt) && float(&rt) || float(&lt) && decimal(&rt) {
        let f = DataType::Float64;
        return Ok(super::compare::binary(as_type(left, &lt, &f), op, as_type(right, &rt, &f)));
    }
    let Some(to) = widths::result(kind, &lt, &rt) else {
        return Ok(super::compare::binary(left, op, right));
    };
    let at = if kind == Arithmetic::Modulo {
        widths::modulo_type(&lt, &rt).unwrap_or(to.clone())
    } else {
        to.clone()
    };
    let done = super::compare::binary(as_type(left, &lt, &at), op, as_type(right, &rt, &at));
    Ok(as_type(done, &at, &to))
}

fn typed_cast(c: Cast, schema: &DFSchema, rules: &Rules) -> DfResult<Expr> {
    let to = c.field.metadata().get(TYPE_KEY).and_then(|t| Type::parse(t).ok());
    let inner = shrink(*c.expr);
    match (to, type_of(&inner, schema)) {
        (Some(to), Some(from)) => Ok(cast::plan(inner, &from, &to, rules.wrap)),
        _ => Ok(Expr::Cast(Cast::new_from_field(Box::new(inner), c.field))),
    }
}

fn function(mut f: ScalarFunction, schema: &DFSchema, rules: &Rules) -> DfResult<Expr> {
    if f.name() == super::spell::NEGATE
        && let Some(of) = f.args.pop()
    {
        let of = shrink(of);
        let from = of.get_type(schema)?;
        return Ok(Expr::Negative(Box::new(match widths::negated(&from) {
            Some(to) => as_type(of, &from, &to),
            None => of,
        })));
    }
    if f.name() == condition::CONDITION
        && let Some(of) = f.args.pop()
    {
        return condition::settle(of, schema);
    }
    if !rules.unbounded
        && let Some(v) = frozen_now(&f, rules.now_us)
    {
        return Ok(v);
    }
    if SMALL_LITERALS.contains(&f.name()) {
        f.args = f.args.into_iter().map(shrink).collect();
    }
    Ok(Expr::ScalarFunction(f))
}

/// `now()`, `now64()`, `today()`, `yesterday()` at one instant.
fn frozen_now(f: &ScalarFunction, now_us: i64) -> Option<Expr> {
    let arg = |i: usize| match f.args.get(i) {
        Some(Expr::Literal(v, _)) => Some(v.clone()),
        _ => None,
    };
    let zone = |i: usize| match arg(i) {
        Some(ScalarValue::Utf8(Some(z))) => Some(Arc::<str>::from(z)),
        _ => None,
    };
    let at = match f.name() {
        "now" => Type::DateTime(zone(0)),
        "now64" => {
            let digits = match arg(0) {
                None if f.args.is_empty() => 3,
                Some(v) => match v.cast_to(&DataType::UInt8) {
                    Ok(ScalarValue::UInt8(Some(d))) if d <= 9 => d,
                    _ => return None,
                },
                None => return None,
            };
            Type::DateTime64(digits, zone(1))
        }
        "today" | "yesterday" if f.args.is_empty() => {
            let day = now_us.div_euclid(86_400_000_000) as i32 - i32::from(f.name() == "yesterday");
            return Some(lit(ScalarValue::Date32(Some(day))));
        }
        _ => return None,
    };
    let DataType::Timestamp(unit, tz) = at.storage() else { return None };
    use datafusion::arrow::datatypes::TimeUnit as U;
    let value = match unit {
        U::Second => ScalarValue::TimestampSecond(Some(now_us.div_euclid(1_000_000)), tz),
        U::Millisecond => ScalarValue::TimestampMillisecond(Some(now_us.div_euclid(1_000)), tz),
        U::Microsecond => ScalarValue::TimestampMicrosecond(Some(now_us), tz),
        U::Nanosecond => ScalarValue::TimestampNanosecond(now_us.checked_mul(1_000), tz),
    };
    let told = at.field("").metadata().clone();
    let metadata = (!told.is_empty()).then(|| FieldMetadata::from(told));
    Some(Expr::Literal(value, metadata))
}

/// In a predicate that seeks (`_tp_time >= now() - …`) now is the query's start.
fn freeze_seeks(e: Expr, rules: &Rules) -> DfResult<Expr> {
    e.transform_up(|e| {
        let Expr::BinaryExpr(b) = &e else { return Ok(Transformed::no(e)) };
        let on_time = |x: &Expr| matches!(x, Expr::Column(c) if c.name == super::seek::EVENT_TIME);
        if !is_comparison(b.op) || !(on_time(&b.left) || on_time(&b.right)) {
            return Ok(Transformed::no(e));
        }
        e.transform_up(|x| {
            Ok(match &x {
                Expr::ScalarFunction(f) => match frozen_now(f, rules.now_us) {
                    Some(v) => Transformed::yes(v),
                    None => Transformed::no(x),
                },
                _ => Transformed::no(x),
            })
        })
    })
    .map(|t| t.data)
}

/// A SELECT item whose field says what Weir knows of it.
fn item(e: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let e = shrink(e);
    if matches!(e, Expr::Column(_)) {
        return Ok(e);
    }
    let (relation, name) = e.qualified_name();
    let Some(t) = type_of(&e, schema) else { return Ok(e) };
    let (_, field) = e.to_field(schema)?;
    let inner = match e {
        Expr::Alias(a) => *a.expr,
        other => other,
    };
    let inner =
        if field.is_nullable() && !t.is_nullable() && !matches!(inner, Expr::Column(_)) && has_default(&t) {
            cast::not_null(inner)
        } else {
            inner
        };
    let inner = if t.storage().is_nested() && inner.get_type(schema)? != t.storage() {
        cast::reshape(inner, &t)
    } else {
        inner
    };
    let field = inner.to_field(schema)?.1;
    let wanted = t.field("");
    let told = wanted.metadata().get(TYPE_KEY);
    if told == field.metadata().get(TYPE_KEY) {
        return Ok(inner.alias_qualified(relation, name));
    }
    // A key that no longer fits the storage is overruled by the plain name.
    let key = told.cloned().unwrap_or_else(|| t.to_string());
    let metadata = FieldMetadata::from(std::collections::HashMap::from([(TYPE_KEY.to_owned(), key)]));
    Ok(inner.alias_qualified_with_metadata(relation, name, Some(metadata)))
}

fn is_count(e: &Expr) -> bool {
    match e {
        Expr::AggregateFunction(f) => matches!(f.func.name(), "count" | "uniq_exact"),
        Expr::Alias(a) => is_count(&a.expr),
        _ => false,
    }
}

fn has_default(t: &Type) -> bool {
    *t != Type::Nothing && super::cast::default_value(&t.storage()).is_ok()
}

fn column(relation: Option<&TableReference>, name: &str) -> Expr {
    Expr::Column(Column::new(relation.cloned(), name))
}

/// `sum`, `min`, … over no rows: the type's default, unless the argument is nullable.
fn empty_defaults(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let LogicalPlan::Aggregate(a) = &plan else { return Ok(plan) };
    if a.group_expr.iter().any(|g| matches!(g, Expr::GroupingSet(_))) {
        return Ok(plan);
    }
    let groups = a.group_expr.len();
    let mut changed = false;
    let mut items = Vec::new();
    for (i, (relation, field)) in a.schema.iter().enumerate() {
        let plain = column(relation, field.name());
        let Some(of) = i.checked_sub(groups).and_then(|i| a.aggr_expr.get(i)) else {
            items.push(plain);
            continue;
        };
        let Some(t) = type_of(of, a.input.schema()) else {
            items.push(plain);
            continue;
        };
        if is_count(of) && *field.data_type() == DataType::Int64 {
            changed = true;
            let value = Expr::Cast(Cast::new(Box::new(plain), DataType::UInt64));
            items.push(value.alias_qualified(relation.cloned(), field.name()));
            continue;
        }
        let fill = field.is_nullable() && !t.is_nullable() && has_default(&t);
        let told = t.field("").metadata().get(TYPE_KEY).cloned();
        let tell = told.is_some() && told.as_ref() != field.metadata().get(TYPE_KEY);
        if !fill && !tell {
            items.push(plain);
            continue;
        }
        changed = true;
        let value = if fill { cast::not_null(plain) } else { plain };
        let metadata =
            told.map(|t| FieldMetadata::from(std::collections::HashMap::from([(TYPE_KEY.to_owned(), t)])));
        items.push(value.alias_qualified_with_metadata(relation.cloned(), field.name(), metadata));
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(items, Arc::new(plan))?))
}

/// Conditional functions over the rows so far, before a row has met the condition: the type's default, unless the
/// argument is nullable.
fn running_defaults(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let LogicalPlan::Window(w) = &plan else { return Ok(plan) };
    let own = w.input.schema().fields().len();
    let fills = |e: &Expr| -> DfResult<bool> {
        let mut e = e;
        while let Expr::Alias(a) = e {
            e = &a.expr;
        }
        let Expr::WindowFunction(f) = e else { return Ok(false) };
        let of = match f.params.args.first() {
            Some(Expr::Case(case)) if case.else_expr.is_none() && case.expr.is_none() => {
                case.when_then_expr.first().map(|(_, then)| &**then)
            }
            Some(x) if f.params.filter.is_some() => Some(x),
            _ => None,
        };
        of.map_or(Ok(false), |x| Ok(!x.nullable(w.input.schema())?))
    };
    let mut changed = false;
    let mut items = Vec::with_capacity(w.schema.fields().len());
    for (i, (relation, field)) in w.schema.iter().enumerate() {
        let plain = column(relation, field.name());
        let fill = match i.checked_sub(own).and_then(|i| w.window_expr.get(i)) {
            Some(e) => {
                field.is_nullable() && fills(e)? && super::cast::default_value(field.data_type()).is_ok()
            }
            None => false,
        };
        changed |= fill;
        items.push(match fill {
            true => cast::not_null(plain).alias_qualified(relation.cloned(), field.name()),
            false => plain,
        });
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(items, Arc::new(plan))?))
}

/// Rows of an outer join without a match have the types' defaults, not nulls.
fn unmatched_defaults(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let LogicalPlan::Join(j) = &plan else { return Ok(plan) };
    let (left_optional, right_optional) = match j.join_type {
        JoinType::Left => (false, true),
        JoinType::Right => (true, false),
        JoinType::Full => (true, true),
        _ => return Ok(plan),
    };
    let left = j.left.schema().fields().len();
    let mut items = Vec::new();
    let mut changed = false;
    for (i, (relation, field)) in j.schema.iter().enumerate() {
        let (optional, was_nullable) = if i < left {
            (left_optional, j.left.schema().field(i).is_nullable())
        } else {
            (right_optional, j.right.schema().field(i - left).is_nullable())
        };
        let plain = column(relation, field.name());
        if optional && !was_nullable && super::cast::default_value(field.data_type()).is_ok() {
            changed = true;
            items.push(cast::not_null(plain).alias_qualified(relation.cloned(), field.name()));
        } else {
            items.push(plain);
        }
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(items, Arc::new(plan))?))
}

/// The last projection: storage exactly as the Weir types have it, names without marks.
///
/// # Errors
/// Code 50 where a column has a type clients have no name for.
pub(crate) fn finish(plan: LogicalPlan) -> DfResult<(LogicalPlan, datafusion::arrow::datatypes::SchemaRef)> {
    let mut items = Vec::new();
    let mut fields = Vec::new();
    let mut changed = false;
    for (relation, field) in plan.schema().iter() {
        let shown = field.name().split(super::select::TWIN).next().unwrap_or_default();
        let plain = column(relation, field.name());
        let (value, t) = match (Type::of_field(field), field.data_type()) {
            (Some(t), _) => (plain, t),
            (None, DataType::Duration(_)) => (
                Expr::Cast(Cast::new(Box::new(plain), DataType::Int64)),
                with_null(Type::Int64, field.is_nullable()),
            ),
            (None, other) => {
                return Err(external(err!(
                    UnknownType,
                    "column {shown} has type {other}, which can not be a result; convert it, for example with to_string"
                )));
            }
        };
        let wanted = t.storage();
        let value = if value.get_type(plan.schema())? == wanted {
            value
        } else {
            Expr::Cast(Cast::new(Box::new(value), wanted))
        };
        changed |= !matches!(value, Expr::Column(_));
        items.push(match value {
            Expr::Column(_) => value,
            other => other.alias_qualified(relation.cloned(), field.name()),
        });
        fields.push(t.field(shown));
    }
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
    if !changed {
        return Ok((plan, schema));
    }
    Ok((LogicalPlan::Projection(Projection::try_new(items, Arc::new(plan))?), schema))
}

fn with_null(t: Type, null: bool) -> Type {
    if null { t.into_nullable() } else { t }
}
