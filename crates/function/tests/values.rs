//! Each function by name, through a plan: registration, coercion, kernel and result type.

use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;
use weir_base::{ManualClock, Rng};

fn context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.enable_ident_normalization = true;
    let mut ctx = SessionContext::new_with_config(config);
    let world = weir_function::World {
        clock: Arc::new(ManualClock::new(1_763_800_000_123_456)),
        rng: Arc::new(Rng::seeded(7)),
    };
    weir_function::register(&world, &mut ctx).unwrap();
    ctx
}

async fn value(ctx: &SessionContext, sql: &str) -> String {
    let batches = match ctx.sql(sql).await {
        Ok(plan) => plan.collect().await,
        Err(e) => return format!("error: {e}"),
    };
    match batches {
        Err(e) => format!("error: {e}"),
        Ok(batches) => {
            let options = FormatOptions::new().with_null("NULL");
            let formatter = ArrayFormatter::try_new(batches[0].column(0), &options).unwrap();
            formatter.value(0).to_string()
        }
    }
}

const T: &str = "TIMESTAMP '2024-02-29 13:47:05.678'";

#[tokio::test]
async fn scalars() {
    let ctx = context();
    let cases: &[(&str, &str)] = &[
        ("to_year({t})", "2024"),
        ("to_quarter({t})", "1"),
        ("day_of_year({t})", "60"),
        ("to_day_of_week({t})", "4"),
        ("to_hour({t})", "13"),
        ("to_hour({t}, 'Asia/Tokyo')", "22"),
        ("to_yyyymmdd({t})", "20240229"),
        ("to_yyyymmddhhmmss({t})", "20240229134705"),
        ("to_start_of_year({t})", "2024-01-01"),
        ("to_start_of_quarter({t})", "2024-01-01"),
        ("to_monday({t})", "2024-02-26"),
        ("to_start_of_week({t})", "2024-02-25"),
        ("to_start_of_day({t})", "2024-02-29T00:00:00Z"),
        ("to_start_of_day({t}, 'Europe/Berlin')", "2024-02-29T00:00:00+01:00"),
        ("to_start_of_hour({t})", "2024-02-29T13:00:00Z"),
        ("to_start_of_fifteen_minutes({t})", "2024-02-29T13:45:00Z"),
        ("to_start_of_interval({t}, INTERVAL '20' MINUTE)", "2024-02-29T13:40:00Z"),
        ("to_start_of_interval({t}, INTERVAL '2' MONTH)", "2024-01-01"),
        ("date_diff('hour', {t}, TIMESTAMP '2024-03-01 00:10:00')", "11"),
        ("date_diff('month', {t}, TIMESTAMP '2023-12-31 00:00:00')", "-2"),
        ("date_trunc('week', {t})", "2024-02-26T00:00:00Z"),
        ("format_datetime({t}, '%Y/%m/%d %H:%i:%S %f %j %a')", "2024/02/29 13:47:05 678000 060 Thu"),
        ("add_months(DATE '2024-01-31', 1)", "2024-02-29"),
        ("subtract_years(DATE '2024-02-29', 1)", "2023-02-28"),
        ("add_hours(DATE '2024-01-31', 25)", "2024-02-01T01:00:00Z"),
        ("to_unix_timestamp(TIMESTAMP '1970-01-02 00:00:01')", "86401"),
        ("to_unix_timestamp64_milli({t})", "1709214425678"),
        ("from_unix_timestamp(86401)", "1970-01-02T00:00:01Z"),
        ("now64()", "2025-11-22T08:26:40.123Z"),
        ("today()", "2025-11-22"),
        ("to_int32('-42')", "-42"),
        ("to_int8('300')", "error: Execution error: can not convert '300' to int8"),
        ("to_int8_or_null('300')", "NULL"),
        ("to_uint8_or_zero('x')", "0"),
        ("to_int64(12.9)", "12"),
        ("to_float64('1e3')", "1000.0"),
        ("to_string(12)", "12"),
        ("to_date('2024-02-29 10:00:00')", "2024-02-29"),
        ("to_datetime('2024-02-29 10:00:00')", "2024-02-29T10:00:00Z"),
        ("to_datetime64('2024-02-29 10:00:00.25', 3)", "2024-02-29T10:00:00.250Z"),
        (
            "to_string(to_uuid('61f0c404-5cb3-11e7-907b-a6006ad3dba0'))",
            "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        ),
        ("to_string(to_ipv4('192.168.0.1'))", "192.168.0.1"),
        ("to_string(to_ipv6('::1'))", "::1"),
        ("to_decimal64('1.234', 2)", "1.23"),
        ("lower('ÄB')", "äb"),
        ("concat('a', 1, true)", "a1true"),
        ("substr('hällo', 2, 3)", "äll"),
        ("substr_utf8('hello', -3)", "llo"),
        ("length('hä')", "3"),
        ("length_utf8('hä')", "2"),
        ("starts_with('weir', 'we')", "true"),
        ("array_string_concat(split_by_char(',', 'a,b,,c'), '|')", "a|b||c"),
        ("array_string_concat(extract_all('k=42;k=7', 'k=(\\d+)'), ',')", "42,7"),
        ("replace_regex('2024-02', '(\\d+)-(\\d+)', '\\2/\\1')", "02/2024"),
        ("match('abc', '^a.c$')", "true"),
        ("match('abc', '(')", "error"),
        ("hex('AB')", "4142"),
        ("hex(255)", "FF"),
        ("base64_decode(base64_encode('weir'))", "weir"),
        ("position('hello', 'l')", "3"),
        ("json_extract_int('{\"a\":{\"b\":[7,8]}}', 'a', 'b', 2)", "8"),
        ("json_extract_string('{\"a\":\"x\"}', 'a')", "x"),
        ("json_value('{\"a\":{\"b\":1.5}}', '$.a.b')", "1.5"),
        ("json_has('nonsense', 'a')", "false"),
        ("has(array_concat([1,2],[3]), 3)", "true"),
        ("index_of([5,6,7], 6)", "2"),
        ("array_sum([1,2,3])", "6"),
        ("array_avg([1,2])", "1.5"),
        ("length(range(5))", "5"),
        ("range(100000000)", "error"),
        ("int_div(7, 2)", "3"),
        ("int_div(-7, 2)", "-3"),
        ("int_div(7, 0)", "error"),
        ("int_div_or_zero(7, 0)", "0"),
        ("abs(-5)", "5"),
        ("round(2.5)", "2.0"),
        ("round(-1234, -2)", "-1200"),
        ("floor(-1.5)", "-2.0"),
        ("sign(-3)", "-1"),
        ("pow(2, 10)", "1024.0"),
        ("log(e())", "1.0"),
        ("bit_xor(6, 3)", "5"),
        ("if(1 > 2, 'a', 'b')", "b"),
        ("multi_if(1 > 2, 'a', 2 > 1, 'b', 'c')", "b"),
        ("if_null(NULL, 3)", "3"),
        ("null_if(1, 1)", "NULL"),
        ("assume_not_null(to_int8_or_null('x'))", "0"),
        ("is_null(NULL)", "true"),
        ("to_type_name(to_uint8(1))", "uint8"),
        ("xx_hash64('')", "17241709254077376921"),
        ("md5_hex('')", "d41d8cd98f00b204e9800998ecf8427e"),
        ("length(to_string(generate_uuid_v4()))", "36"),
        ("throw_if(true, 'stop')", "error: External error: throw_if: stop"),
    ];
    let mut wrong = Vec::new();
    for (expr, expected) in cases {
        let expr = expr.replace("{t}", T);
        let got = value(&ctx, &format!("SELECT {expr}")).await;
        let fits = if *expected == "error" { got.starts_with("error") } else { got == *expected };
        if !fits {
            wrong.push(format!("{expr}\n  expected {expected}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn aggregates() {
    let ctx = context();
    let from = "FROM (VALUES (1, 'a'), (2, 'b'), (3, 'b'), (4, 'c'), (NULL, 'b')) AS t(x, s)";
    let cases: &[(&str, &str)] = &[
        ("count(*)", "5"),
        ("count(*) FILTER (WHERE x > 2)", "2"),
        ("sum(x) FILTER (WHERE s = 'b')", "5"),
        ("avg(x)", "2.5"),
        ("uniq(s)", "3"),
        ("uniq_exact(s)", "3"),
        ("quantile_exact(x, 0.5)", "2.5"),
        ("round(p99(x), 1)", "3.0"),
        ("round(quantile(x, 1.0), 1)", "4.0"),
        ("quantiles(x, 0.0, 1.0)[1] < 1.01", "true"),
        ("arg_max(s, x)", "c"),
        ("arg_min(s, x)", "a"),
        ("group_array(x)", "[1, 2, 3, 4]"),
        ("group_array(x, 2)", "[1, 2]"),
        ("group_uniq_array(s)", "[a, b, c]"),
        ("group_uniq_array(s, 2)", "[a, b]"),
        ("group_concat(s)", "a,b,b,c,b"),
        ("group_concat(s, '')", "abbcb"),
        ("top_k(s, 1)", "[b]"),
        ("top_k(s)", "[b, a, c]"),
        ("top_k_with_count(s, 2)", "[{1: b, 2: 3}, {1: a, 2: 1}]"),
        ("any_heavy(s)", "b"),
        ("min_k(x, 2)", "[1, 2]"),
        ("max_k(x, 2)", "[4, 3]"),
        ("max_k(x, 2, s)", "[{1: 4, 2: c}, {1: 3, 2: b}]"),
        ("moving_sum(x)", "[1, 3, 6, 10]"),
        ("moving_sum(x, 2)", "[1, 3, 5, 7]"),
        ("moving_avg(x, 2)", "[0.5, 1.5, 2.5, 3.5]"),
        ("sum_count(x)", "{1: 10, 2: 4}"),
        ("avg_weighted(x, x)", "3.0"),
        ("round(skew_pop(x), 6)", "0.0"),
        ("round(kurt_pop(x), 6)", "1.64"),
        ("round(kurt_samp(x), 6)", "0.9225"),
        ("round(entropy(s), 6)", "1.370951"),
        ("first_value(x)", "1"),
        ("last_value(s)", "b"),
        ("last_value(x)", "4"),
        ("any(x)", "1"),
        ("round(corr(x, x), 6)", "1.0"),
        ("round(stddev_pop(x), 3)", "1.118"),
        ("group_bit_or(x)", "7"),
    ];
    let mut wrong = Vec::new();
    for (expr, expected) in cases {
        let got = value(&ctx, &format!("SELECT {expr} {from}")).await;
        if got != *expected {
            wrong.push(format!("{expr}\n  expected {expected}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn nulls_propagate_and_batches_are_whole() {
    let ctx = context();
    let sql = "SELECT array_string_concat(group_array(to_string(length(s))), ',') \
               FROM (SELECT upper(s) AS s FROM (VALUES ('a'), (NULL), ('bcd')) AS t(s)) q";
    assert_eq!(value(&ctx, sql).await, "1,3");
}

#[test]
fn every_function_is_documented_and_named_once() {
    let world = weir_function::World { clock: Arc::new(ManualClock::new(0)), rng: Arc::new(Rng::seeded(1)) };
    let all = weir_function::functions(&world).infos;
    assert!(all.len() > 150, "{}", all.len());
    let mut seen = std::collections::HashSet::new();
    for f in &all {
        assert!(!f.docs.is_empty() && !f.usage.is_empty(), "{}", f.name);
        for name in std::iter::once(&f.name).chain(&f.aliases) {
            assert!(seen.insert(name.clone()), "{name} appears twice");
        }
    }
}
