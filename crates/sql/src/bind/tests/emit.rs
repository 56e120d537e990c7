//! Which EMIT goes with which query: all of them, as a table.

use super::*;
use crate::stream::lower;
use weir_plan::{EmitPolicy, EmitSpec, StartPosition, StreamNode, StreamPlan};

const ROWS: &str = "SELECT u8 FROM s";
const GLOBAL: &str = "SELECT name, count() AS c FROM s GROUP BY name";
const WINDOW: &str = "SELECT window_start, name, count() AS c FROM tumble(s, 5s) GROUP BY window_start, name";

fn plan(text: &str) -> Result<StreamPlan, Error> {
    lower(bind(text, &streaming_mode())?, &state())
}

fn aggregate(node: &StreamNode) -> Option<EmitSpec> {
    match node {
        StreamNode::Aggregate { emit, .. } => Some(*emit),
        other => other.inputs().into_iter().find_map(aggregate),
    }
}

#[test]
fn the_table_of_combinations() {
    const OK: u16 = 0;
    // (EMIT, rows, over the whole stream, over windows): 0 or the code of the error
    let table = [
        ("PERIODIC 1s", 80, OK, OK),
        ("PERIODIC 1s REPEAT", 80, OK, OK),
        ("PERIODIC 1s WITH DELAY 1s", 80, 80, OK),
        ("ON UPDATE", 80, OK, OK),
        ("ON UPDATE WITH BATCH 1s", 80, OK, OK),
        ("PERIODIC 1s ON UPDATE", 80, OK, OK),
        ("ON UPDATE WITH DELAY 1s", 80, 80, OK),
        ("AFTER WATERMARK", 80, 80, OK),
        ("AFTER WINDOW CLOSE", 80, 80, OK),
        ("AFTER WINDOW CLOSE WITH DELAY 1s", 80, 80, OK),
        ("PER EVENT", 80, OK, 80),
        ("CHANGELOG", 48, OK, 80),
        ("CHANGELOG PERIODIC 1s", 80, OK, 80),
        ("CHANGELOG ON UPDATE", 80, OK, 80),
        ("CHANGELOG PERIODIC 1s REPEAT", 80, 80, 80),
        ("CHANGELOG PER EVENT", 80, 80, 80),
        ("CHANGELOG AFTER WINDOW CLOSE", 80, 80, 80),
        ("AFTER KEY EXPIRE WITH MAXSPAN 1s", 80, OK, 80),
        ("AFTER KEY EXPIRE IDENTIFIED BY _tp_time WITH ONLY MAXSPAN 1s AND TIMEOUT 2s", 80, OK, 80),
        ("AFTER SESSION CLOSE IDENTIFIED BY (_tp_time, u8 = 1, u8 = 2) WITH MAXSPAN 1s", 80, OK, 80),
        ("CHANGELOG AFTER KEY EXPIRE WITH MAXSPAN 1s", 80, 80, 80),
        ("TIMEOUT 1s", 80, 80, OK),
        ("AFTER WINDOW CLOSE WITH DELAY 1s AND TIMEOUT 3s", 80, 80, OK),
        ("PER EVENT TIMEOUT 1s", 80, 80, 80),
        ("LAST 1h", OK, OK, OK),
        ("PERIODIC 10s AND LAST 1h", 80, OK, OK),
        ("AFTER WATERMARK WITH DELAY 1s AND LAST 1h", 80, OK, OK),
        ("LAST 1h AND LAST 2h", 80, 80, 80),
        ("ON UPDATE LAST 1h", 80, 80, 80),
        ("LAST 1ms", OK, 36, 36),
        ("PERIODIC 1s LAST 3h", 80, 36, 36),
    ];
    let mut wrong = Vec::new();
    for (emit, rows, global, window) in table {
        for (query, expected) in [(ROWS, rows), (GLOBAL, global), (WINDOW, window)] {
            let text = format!("{query} EMIT {emit}");
            let got =
                plan(&text).map_or_else(|e| (e.code.number() as u16, e.message), |_| (OK, String::new()));
            if got.0 != expected {
                wrong.push(format!("{text}: {got:?}, not {expected}"));
            } else if expected != OK && got.1.len() < 20 {
                wrong.push(format!("{text}: '{}' is no reason", got.1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let bounded = bind(&format!("{GLOBAL} EMIT ON UPDATE"), &table_mode());
    assert_eq!(bounded.expect_err("it ends").code.number(), 80);
    let bounded = bind(&format!("{ROWS} EMIT LAST 1h"), &table_mode());
    assert_eq!(bounded.expect_err("it ends").code.number(), 80);
}

#[test]
fn defaults_and_policies_reach_the_aggregation() {
    let emit = |text: &str| aggregate(&plan(text).unwrap_or_else(|e| panic!("{text}: {e}")).root).unwrap();
    assert_eq!(emit(GLOBAL), EmitSpec::GLOBAL);
    assert_eq!(emit(WINDOW), EmitSpec::WINDOW);
    assert_eq!(emit(&format!("{GLOBAL} EMIT PER EVENT")).policy, EmitPolicy::PerEvent);
    let batch = emit(&format!("{GLOBAL} EMIT PERIODIC 1s ON UPDATE")).policy;
    assert_eq!(batch, EmitPolicy::OnUpdate { every_us: Some(1_000_000) });
}

#[test]
fn the_last_hour_is_a_seek_or_a_hop() {
    let hour_ms = 3_600_000;
    let since = StartPosition::EventTime(weir_base::EventTime(NOW_US / 1_000 - hour_ms));
    let tail = plan("SELECT u8 FROM s WHERE f > 1 EMIT LAST 1h").unwrap();
    assert_eq!(tail.root.sources()[0].1.start, since);
    let by_arrival = plan("SELECT u8 FROM s EMIT LAST 1h ON PROCTIME").unwrap();
    assert_eq!(by_arrival.root.sources()[0].1.start, StartPosition::Earliest);
    let window = |p: &StreamPlan| {
        fn find(node: &StreamNode) -> Option<String> {
            match node {
                StreamNode::Window { spec, .. } => Some(spec.to_string()),
                other => other.inputs().into_iter().find_map(find),
            }
        }
        find(&p.root)
    };
    let cases = [
        ("SELECT name, count() AS c FROM s GROUP BY name EMIT LAST 1h", "hop 5s of 1h"),
        ("SELECT name, count() AS c FROM s GROUP BY name EMIT LAST 10s", "hop 2s of 10s"),
        ("SELECT count() AS c FROM s AS a WHERE a.u8 > 1 EMIT PERIODIC 500ms LAST 90s", "hop 500ms of 90s"),
        ("SELECT count() FROM (SELECT u8, _tp_time FROM s) EMIT PERIODIC 1m LAST 1h", "hop 1m of 1h"),
        ("SELECT window_end, max(u8) FROM tumble(s, 5s) GROUP BY window_end EMIT LAST 1m", "hop 5s of 1m"),
        ("SELECT window_end, max(u8) FROM hop(s, 5s, 9s) GROUP BY window_end EMIT LAST 1m", "hop 5s of 1m"),
    ];
    for (text, expected) in cases {
        let p = plan(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(window(&p).as_deref(), Some(expected), "{text}");
        assert_ne!(p.root.sources()[0].1.start, StartPosition::Latest, "{text} begins in history");
        assert_eq!(aggregate(&p.root).unwrap(), EmitSpec::WINDOW, "{text}");
    }
    for (text, code) in [
        ("SELECT count() FROM s AS a, s AS b EMIT LAST 1h", 48),
        ("SELECT u8 FROM s UNION ALL SELECT u8 FROM s EMIT LAST 1h", 48),
        ("SELECT window_start, count() FROM tumble(s, 1s) GROUP BY window_start EMIT LAST 1h", 36),
    ] {
        assert_eq!(plan(text).expect_err(text).code.number(), code, "{text}");
    }
}

#[test]
fn lives_of_keys_say_where_their_columns_are() {
    let lives = |text: &str| {
        fn find(node: &StreamNode) -> Option<(weir_plan::LifeSpec, SchemaRef)> {
            match node {
                StreamNode::Lives { spec, input, .. } => Some((*spec, input.schema())),
                other => other.inputs().into_iter().find_map(find),
            }
        }
        let p = plan(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(p.root.schema().fields().iter().all(|f| !f.name().starts_with("__")), "{text}");
        assert!(p.root.sources()[0].1.watermark.is_some(), "rows come in log order");
        assert_eq!(aggregate(&p.root).unwrap().policy, EmitPolicy::Complete);
        find(&p.root).expect("keys have lives")
    };
    let (spec, input) = lives(
        "SELECT name, count() AS c, max(f) FROM s WHERE f > 0 GROUP BY name EMIT AFTER SESSION CLOSE IDENTIFIED BY \
         (_tp_time, u8 = 1 OR i32 > 5, n IS NULL) WITH ONLY MAXSPAN 5m AND TIMEOUT 10s",
    );
    let name = |at: usize| input.field(at).name().as_str();
    assert_eq!((name(spec.time), name(spec.append_time)), ("__life_time", "_tp_append_time"));
    assert_eq!(spec.opens.map(name), Some("__life_opens"));
    assert_eq!(spec.closes.map(name), Some("__life_closes"));
    assert_eq!((spec.span_max_ns, spec.timeout_us, spec.only), (300_000_000_000, Some(10_000_000), true));
    assert!(spec.close_included && !spec.merge_open);
    // Over a subquery and an alias names are what the aggregation reads.
    let (spec, input) = lives(
        "SELECT k, count() FROM (SELECT lower(name) AS k, _tp_time AS t FROM s WHERE u8 > 1) AS q GROUP BY k \
         EMIT AFTER KEY EXPIRE IDENTIFIED BY q.t WITH MAXSPAN 1s",
    );
    assert_eq!(input.field(spec.time).name(), "__life_time");
    for (text, code) in [
        ("SELECT count() FROM s EMIT AFTER KEY EXPIRE WITH MAXSPAN 1s", 80),
        (
            "SELECT name, count() FROM s GROUP BY name EMIT AFTER KEY EXPIRE IDENTIFIED BY f WITH MAXSPAN 1s",
            43,
        ),
        (
            "SELECT name, count() FROM s GROUP BY name EMIT AFTER KEY EXPIRE IDENTIFIED BY nix WITH MAXSPAN 1s",
            47,
        ),
        (
            "SELECT name, count() FROM s GROUP BY name EMIT AFTER SESSION CLOSE IDENTIFIED BY (_tp_time, u8, u8) WITH MAXSPAN 1s",
            43,
        ),
        (
            "SELECT name, count() FROM (SELECT name, _tp_time FROM s UNION ALL SELECT name, _tp_time FROM s) GROUP BY name EMIT AFTER KEY EXPIRE WITH MAXSPAN 1s",
            48,
        ),
    ] {
        assert_eq!(plan(text).expect_err(text).code.number(), code, "{text}");
    }
}

#[test]
fn emit_version_stands_beside_aggregates() {
    let p = plan(
        "SELECT name, emit_version() AS v, count() AS c FROM s GROUP BY name HAVING c > 1 EMIT ON UPDATE",
    )
    .unwrap();
    let schema = p.root.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["name", "v", "c"]);
    fn numbered(node: &StreamNode) -> bool {
        match node {
            StreamNode::EmitVersion { input, .. } => {
                matches!(**input, StreamNode::Aggregate { whole: true, .. })
            }
            other => other.inputs().into_iter().any(numbered),
        }
    }
    assert!(numbered(&p.root), "right above an aggregation that gives result sets whole");
    plan(&format!("{} EMIT PERIODIC 1s", WINDOW.replace("count()", "emitVersion()"))).unwrap();
    for (text, code) in [
        ("SELECT emit_version(), count() FROM s EMIT CHANGELOG", 80),
        ("SELECT emit_version(), u8 FROM s", 215),
        ("SELECT emit_version(1), count() FROM s", 42),
    ] {
        assert_eq!(plan(text).expect_err(text).code.number(), code, "{text}");
    }
    let bounded = bind("SELECT emit_version(), count() FROM s", &table_mode());
    assert_eq!(bounded.expect_err("it ends").code.number(), 80);
}
