//! An aggregate that is another one, written differently: replaced when the plan is simplified.

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility, cast,
};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub(super) type Types = Arc<dyn Fn(&[DataType]) -> Result<Vec<DataType>> + Send + Sync>;
pub(super) type Rewriter = Arc<dyn Fn(AggregateFunctionParams) -> Result<Expr> + Send + Sync>;

/// An aggregate that is another one, written differently.
pub(super) struct Rewrite {
    pub name: String,
    pub aliases: Vec<String>,
    /// What arguments are brought to: the inner aggregate comes after coercion.
    pub coerce: Types,
    pub result: Arc<dyn Fn(&[DataType]) -> Result<DataType> + Send + Sync>,
    /// The result depends on the order of rows.
    pub ordered: bool,
    pub rewrite: Rewriter,
    pub signature: Signature,
}

impl Rewrite {
    /// Of the aggregate that `inner` is, with the same arguments.
    pub fn of(
        name: &str,
        inner: &Arc<AggregateUDF>,
        rewrite: impl Fn(AggregateFunctionParams) -> Result<Expr> + Send + Sync + 'static,
    ) -> Rewrite {
        let (a, b) = (inner.clone(), inner.clone());
        Rewrite {
            name: name.to_owned(),
            aliases: Vec::new(),
            coerce: Arc::new(move |given| coerced(&a, given)),
            result: Arc::new(move |given| result(&b, given)),
            ordered: is_ordered(inner),
            rewrite: Arc::new(rewrite),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    pub fn aliases(mut self, aliases: &[&str]) -> Self {
        self.aliases = aliases.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Only so many arguments.
    pub fn arguments(mut self, least: usize, most: usize) -> Self {
        let (name, inner) = (self.name.clone(), self.coerce.clone());
        self.coerce = Arc::new(move |given| {
            counted(&name, given, least, most)?;
            inner(given)
        });
        self
    }

    pub fn coerce(
        mut self,
        f: impl Fn(&[DataType]) -> Result<Vec<DataType>> + Send + Sync + 'static,
    ) -> Self {
        self.coerce = Arc::new(f);
        self
    }

    pub fn result(mut self, f: impl Fn(&[DataType]) -> Result<DataType> + Send + Sync + 'static) -> Self {
        self.result = Arc::new(f);
        self
    }

    pub fn udaf(self) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(self))
    }
}

/// # Errors
/// A wrong number of arguments.
pub(super) fn counted(name: &str, given: &[DataType], least: usize, most: usize) -> Result<()> {
    if given.len() >= least && given.len() <= most {
        return Ok(());
    }
    plan_err!(
        "number of arguments of aggregate function {name} does not match: {} given, {least} to {most} wanted",
        given.len()
    )
}

fn fields(types: &[DataType]) -> Vec<FieldRef> {
    types.iter().map(|t| Arc::new(Field::new("", t.clone(), true))).collect()
}

/// What `f` brings its arguments to.
pub(super) fn coerced(f: &Arc<AggregateUDF>, given: &[DataType]) -> Result<Vec<DataType>> {
    Ok(fields_with_udf(&fields(given), &**f)?.iter().map(|f| f.data_type().clone()).collect())
}

/// What `f` gives for arguments.
pub(super) fn result(f: &Arc<AggregateUDF>, given: &[DataType]) -> Result<DataType> {
    let taken = coerced(f, given)?;
    Ok(f.return_field(&fields(&taken))?.data_type().clone())
}

pub(super) fn is_ordered(f: &AggregateUDF) -> bool {
    matches!(
        f.order_sensitivity(),
        AggregateOrderSensitivity::Beneficial | AggregateOrderSensitivity::SoftRequirement
    )
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Rewrite {}
impl Hash for Rewrite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl AggregateUDFImpl for Rewrite {
    fn name(&self) -> &str {
        &self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        (self.coerce)(given)
    }
    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        (self.result)(given)
    }
    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        exec_err!("{} was not rewritten when the plan was simplified", self.name)
    }
    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        exec_err!("{} was not rewritten when the plan was simplified", self.name)
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        if self.ordered {
            AggregateOrderSensitivity::SoftRequirement
        } else {
            AggregateOrderSensitivity::Insensitive
        }
    }
    fn supports_null_handling_clause(&self) -> bool {
        self.ordered
    }
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let rewrite = self.rewrite.clone();
        Some(Box::new(move |f: AggregateFunction, _| rewrite(f.params)))
    }
}

/// `inner` with the parameters of another call; what `inner` itself stands for, if it does.
pub(super) fn call(inner: &Arc<AggregateUDF>, params: AggregateFunctionParams) -> Result<Expr> {
    match inner.inner().downcast_ref::<Rewrite>() {
        Some(again) => (again.rewrite)(params),
        None => Ok(Expr::AggregateFunction(AggregateFunction { func: inner.clone(), params })),
    }
}

/// Only rows for which `condition` holds too.
pub(super) fn and_filter(mut p: AggregateFunctionParams, condition: Expr) -> AggregateFunctionParams {
    let condition = cast(condition, DataType::Boolean);
    p.filter = Some(Box::new(match p.filter.take() {
        Some(f) => f.and(condition),
        None => condition,
    }));
    p
}

/// Only rows whose first argument is not null.
pub(super) fn not_null(p: AggregateFunctionParams) -> AggregateFunctionParams {
    let x = p.args[0].clone();
    and_filter(p, x.is_not_null())
}
