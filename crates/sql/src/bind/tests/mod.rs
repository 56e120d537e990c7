//! Queries end to end over rows in memory: what they give and of which types.

mod bounded;
mod emit;
mod errors;
mod streaming;
mod types;

use super::*;
use crate::ast::Statement;
use datafusion::arrow::array::{
    ArrayRef, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt8Array, UInt32Array, UInt64Array,
};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_plan::collect;
use std::collections::BTreeMap;
use weir_format::text::render;

/// 2024-01-01 00:00:00 UTC.
pub(super) const NOW_US: i64 = 1_704_067_200_000_000;

pub(super) struct TestScope {
    pub parameters: BTreeMap<String, String>,
}

fn schema_of(columns: &[(&str, &str)]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(|(n, t)| Type::parse(t).expect("a type").field(n)).collect::<Vec<_>>(),
    ))
}

/// Stream `s`: three rows; `u8` 1 2 3, `name` a b c, minutes apart from NOW.
pub(super) fn s_schema() -> SchemaRef {
    schema_of(&[
        ("u8", "uint8"),
        ("u64", "uint64"),
        ("i32", "int32"),
        ("f", "float64"),
        ("n", "nullable(int64)"),
        ("name", "string"),
        ("id", "uuid"),
        ("color", "enum8('red' = 1, 'blue' = 2)"),
        ("_tp_time", "datetime64(3, 'UTC')"),
        ("_tp_sn", "int64"),
        ("_tp_shard", "uint32"),
        ("_tp_append_time", "datetime64(6, 'UTC')"),
    ])
}

fn s_batch() -> RecordBatch {
    let ms = NOW_US / 1000;
    let ids = (1..=3u8).map(|i| [i; 16]).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![1, 2, 3])),
        Arc::new(UInt64Array::from(vec![10, 20, u64::MAX])),
        Arc::new(Int32Array::from(vec![-1, 0, 7])),
        Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5])),
        Arc::new(Int64Array::from(vec![Some(5), None, Some(-5)])),
        Arc::new(StringArray::from(vec!["a", "b", "c"])),
        Arc::new(FixedSizeBinaryArray::try_from_iter(ids.into_iter()).expect("16 bytes each")),
        Arc::new(StringArray::from(vec!["red", "blue", "red"])),
        Arc::new(TimestampMillisecondArray::from(vec![ms, ms + 60_000, ms + 120_000]).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![0, 1, 2])),
        Arc::new(UInt32Array::from(vec![0, 0, 0])),
        Arc::new(
            datafusion::arrow::array::TimestampMicrosecondArray::from(vec![NOW_US, NOW_US, NOW_US])
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(s_schema(), columns).expect("columns fit")
}

fn other() -> (SchemaRef, RecordBatch) {
    let schema = schema_of(&[("k", "uint8"), ("label", "string"), ("_tp_time", "datetime64(3, 'UTC')")]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![2, 9])),
        Arc::new(StringArray::from(vec!["two", "nine"])),
        Arc::new(TimestampMillisecondArray::from(vec![0, 0]).with_timezone("UTC")),
    ];
    (schema.clone(), RecordBatch::try_new(schema, columns).expect("columns fit"))
}

impl Scope for TestScope {
    fn current_database(&self) -> &str {
        "default"
    }
    fn relation(&self, database: Option<&str>, name: &str) -> Result<ScopeRelation, Error> {
        let stream = |schema: SchemaRef, batch: RecordBatch, visible: usize| ScopeRelation::Stream {
            provider_bounded: Arc::new(
                MemTable::try_new(schema.clone(), vec![vec![batch]]).expect("schemas agree"),
            ),
            unbounded: Arc::new(UnboundedTable {
                is_table: false,
                database: database.unwrap_or("default").to_owned(),
                relation: name.to_owned(),
                changelog: schema.column_with_name(weir_plan::WEIGHT_COLUMN).is_some(),
                schema,
                visible,
            }),
        };
        Ok(match (database.unwrap_or("default"), name) {
            ("default", "s") => stream(s_schema(), s_batch(), 9),
            ("default", "empty") => stream(s_schema(), RecordBatch::new_empty(s_schema()), 9),
            ("default", "o") => {
                let (schema, batch) = other();
                stream(schema, batch, 3)
            }
            ("default", "v") => ScopeRelation::View {
                select: "SELECT u8 + 1 AS next, name FROM s WHERE u8 > 1".into(),
                database: "default".into(),
            },
            ("default", "vv") => ScopeRelation::View {
                select: "SELECT next, id FROM v, (SELECT id FROM s LIMIT 1) AS i".into(),
                database: "default".into(),
            },
            ("default", "cycle") => {
                ScopeRelation::View { select: "SELECT * FROM cycle".into(), database: "default".into() }
            }
            ("default", _) => {
                let hint = weir_base::error::did_you_mean(name, ["s", "stream_two", "empty"]);
                return Err(err!(UnknownStream, "stream {name} does not exist{hint}"));
            }
            (db, _) => return Err(err!(UnknownDatabase, "database {db} does not exist")),
        })
    }
    fn table_function(
        &self,
        name: &str,
        args: &[ScalarValue],
    ) -> Result<Option<Arc<dyn TableProvider>>, Error> {
        if name != "numbers" {
            return Ok(None);
        }
        let n = match args.first().map(|a| a.cast_to(&datafusion::arrow::datatypes::DataType::UInt64)) {
            Some(Ok(ScalarValue::UInt64(Some(n)))) => n,
            _ => return Err(err!(BadArguments, "numbers takes a count")),
        };
        let schema = schema_of(&[("number", "uint64")]);
        let column: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..n));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).expect("columns fit");
        Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]]).expect("schemas agree"))))
    }
    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters.get(name).cloned()
    }
}

/// A clock that planning must not fold.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Now(Signature);

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(
        &self,
        _: &[datafusion::arrow::datatypes::DataType],
    ) -> DfResult<datafusion::arrow::datatypes::DataType> {
        Ok(Type::DateTime(None).storage())
    }
    fn return_field_from_args(
        &self,
        _: datafusion::logical_expr::ReturnFieldArgs,
    ) -> DfResult<datafusion::arrow::datatypes::FieldRef> {
        Ok(Arc::new(Type::DateTime(None).field("now")))
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::TimestampSecond(Some(7), Some("UTC".into()))))
    }
}

pub(super) fn state() -> SessionState {
    let mut state = SessionStateBuilder::new_with_default_features().build();
    use datafusion::execution::FunctionRegistry;
    state
        .register_udf(Arc::new(ScalarUDF::new_from_impl(Now(Signature::one_of(
            vec![
                datafusion::logical_expr::TypeSignature::Nullary,
                datafusion::logical_expr::TypeSignature::VariadicAny,
            ],
            Volatility::Volatile,
        )))))
        .expect("registers");
    state
}

pub(super) fn scope() -> TestScope {
    TestScope { parameters: BTreeMap::from([("limit".into(), "2".into()), ("who".into(), "b".into())]) }
}

pub(super) fn table_mode() -> BindOptions {
    BindOptions { table_mode: true, now_us: NOW_US, ..BindOptions::default() }
}

pub(super) fn streaming_mode() -> BindOptions {
    BindOptions { now_us: NOW_US, ..BindOptions::default() }
}

pub(super) fn query(text: &str) -> Query {
    let mut all = crate::parse::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    match all.remove(0).statement {
        Statement::Query(q) => *q,
        other => panic!("{text} is no query: {other:?}"),
    }
}

pub(super) fn bind(text: &str, options: &BindOptions) -> Result<BoundQuery, Error> {
    bind_query(&query(text), &scope(), &state(), options)
}

/// Result columns as `name type`, rows as texts; null is `NULL`.
pub(super) fn run_with(text: &str, options: &BindOptions) -> Result<(Vec<String>, Vec<Vec<String>>), Error> {
    let state = state();
    let bound = bind_query(&query(text), &scope(), &state, options)?;
    assert!(!bound.unbounded, "{text} is unbounded");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let batches = runtime
        .block_on(async {
            let plan = state.create_physical_plan(&bound.plan).await?;
            collect(plan, state.task_ctx()).await
        })
        .map_err(crate::bind::errors::from_datafusion)?;
    let columns = bound
        .schema
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), Type::of_field(f).expect("a Weir type")))
        .collect();
    let mut rows = Vec::new();
    for b in batches {
        let b = RecordBatch::try_new(bound.schema.clone(), b.columns().to_vec())
            .unwrap_or_else(|e| panic!("{text}: batches do not have the result's schema: {e}"));
        for row in 0..b.num_rows() {
            rows.push(
                b.columns()
                    .iter()
                    .zip(bound.schema.fields())
                    .map(|(c, f)| render(f, c, row).expect("renders").unwrap_or_else(|| "NULL".into()))
                    .collect(),
            );
        }
    }
    Ok((columns, rows))
}

/// Types of the result's columns.
pub(super) fn types(text: &str) -> Vec<String> {
    run_with(text, &table_mode()).unwrap_or_else(|e| panic!("{text}: {e} ({:?})", e.code)).0
}
