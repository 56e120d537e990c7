//! Functions whose value is the session's: `version()`, `current_database()` and the like.

use crate::engine::Statement;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;
use weir_base::{Result, err};

/// A function without arguments that is the same for the whole query.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
    value: ScalarValue,
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.value.data_type())
    }
    fn return_field_from_args(
        &self,
        _: datafusion::logical_expr::ReturnFieldArgs,
    ) -> DfResult<datafusion::arrow::datatypes::FieldRef> {
        let field = datafusion::arrow::datatypes::Field::new(self.name, self.value.data_type(), false);
        Ok(Arc::new(field))
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

pub(crate) fn register(state: &mut SessionState, cx: &Statement) -> Result<()> {
    let text = |t: &str| ScalarValue::Utf8(Some(t.to_owned()));
    let zone = cx.settings.time_zone.as_deref().unwrap_or("UTC");
    let functions: [(&'static str, &[&str], ScalarValue); 9] = [
        ("version", &[], text(&cx.shared.config.version)),
        ("timezone", &["time_zone"], text(zone)),
        ("server_timezone", &["server_time_zone"], text("UTC")),
        ("current_user", &["user"], text(&cx.session.user)),
        ("current_database", &["database", "current_schema"], text(&cx.session.database)),
        ("display_name", &[], text("weir")),
        ("host_name", &[], text("localhost")),
        ("query_id", &[], text(&cx.query_id)),
        ("revision", &[], ScalarValue::UInt32(Some(54_459))),
    ];
    for (name, aliases, value) in functions {
        let constant = Constant {
            name,
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            signature: Signature::nullary(Volatility::Stable),
            value,
        };
        state
            .register_udf(Arc::new(ScalarUDF::new_from_impl(constant)))
            .map_err(|e| err!(LogicalError, "function {name} could not be registered: {e}"))?;
    }
    Ok(())
}
