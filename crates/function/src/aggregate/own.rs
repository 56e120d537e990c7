//! An aggregate with a state of our own, as DataFusion wants to see it.

use super::rewrite::counted;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type Make<T> = fn(&AccumulatorArgs<'_>) -> Result<Box<T>>;

#[derive(Debug, Clone)]
pub(super) struct Own {
    pub name: &'static str,
    pub aliases: Vec<String>,
    /// Least and greatest number of arguments.
    pub arguments: (usize, usize),
    pub coerce: fn(&[DataType]) -> Result<Vec<DataType>>,
    pub result: fn(&[DataType]) -> Result<DataType>,
    pub state: fn(&StateFieldsArgs<'_>) -> Vec<FieldRef>,
    pub one: Make<dyn Accumulator>,
    pub groups: Option<Make<dyn GroupsAccumulator>>,
    /// The result depends on the order of rows.
    pub ordered: bool,
    pub signature: Signature,
}

impl Own {
    pub fn new(
        name: &'static str,
        arguments: (usize, usize),
        result: fn(&[DataType]) -> Result<DataType>,
        state: fn(&StateFieldsArgs<'_>) -> Vec<FieldRef>,
        one: Make<dyn Accumulator>,
    ) -> Own {
        Own {
            name,
            aliases: Vec::new(),
            arguments,
            coerce: |given| Ok(given.to_vec()),
            result,
            state,
            one,
            groups: None,
            ordered: false,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    pub fn aliases(mut self, aliases: &[&str]) -> Self {
        self.aliases = aliases.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    pub fn coerce(mut self, coerce: fn(&[DataType]) -> Result<Vec<DataType>>) -> Self {
        self.coerce = coerce;
        self
    }

    pub fn groups(mut self, groups: Make<dyn GroupsAccumulator>) -> Self {
        self.groups = Some(groups);
        self
    }

    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    pub fn udaf(self) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(self))
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Own {}
impl Hash for Own {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl AggregateUDFImpl for Own {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        counted(self.name, given, self.arguments.0, self.arguments.1)?;
        (self.coerce)(given)
    }
    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        (self.result)(given)
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.check(&args)?;
        (self.one)(&args)
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok((self.state)(&args))
    }
    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.groups.is_some() && self.check(&args).is_ok()
    }
    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.check(&args)?;
        match self.groups {
            Some(make) => make(&args),
            None => plan_err!("{} has no state for many groups", self.name),
        }
    }
    /// Those that go by an order sort by it themselves, however rows come.
    fn with_beneficial_ordering(
        self: Arc<Self>,
        _beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        if self.ordered {
            AggregateOrderSensitivity::SoftRequirement
        } else {
            AggregateOrderSensitivity::Insensitive
        }
    }
}

impl Own {
    fn check(&self, args: &AccumulatorArgs<'_>) -> Result<()> {
        if args.is_distinct {
            return plan_err!("aggregate function {} does not take DISTINCT", self.name);
        }
        Ok(())
    }
}

/// The constant at `at`, if there is such an argument.
///
/// # Errors
/// The argument is no constant.
pub(super) fn constant(args: &AccumulatorArgs<'_>, at: usize, what: &str) -> Result<Option<ScalarValue>> {
    match args.exprs.get(at) {
        None => Ok(None),
        Some(e) => match e.downcast_ref::<Literal>() {
            Some(l) => Ok(Some(l.value().clone())),
            None => plan_err!("{what} of aggregate function {} must be a constant", args.name),
        },
    }
}

/// A constant whole number of 1 to `most`.
///
/// # Errors
/// It is none.
pub(super) fn number(args: &AccumulatorArgs<'_>, at: usize, what: &str, most: u64) -> Result<Option<usize>> {
    let Some(value) = constant(args, at, what)? else { return Ok(None) };
    match value.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(n))) if (1..=most).contains(&n) => Ok(Some(n as usize)),
        _ => plan_err!("{what} must be a whole number of 1 to {most}, not {value}"),
    }
}
