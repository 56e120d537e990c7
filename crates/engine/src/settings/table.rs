//! Every setting of sessions and queries, in name order.

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    UInt,
    Int,
    Float,
    /// Seconds, fractions allowed.
    Seconds,
    Text,
    Char,
    OneOf(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A session, a query's SETTINGS, a URL.
    Query,
    /// The server's configuration; shown, not set.
    Server,
    /// `settings:` of the server's configuration, read when it starts.
    Start,
}

#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub scope: Scope,
    pub docs: &'static str,
}

/// A setting of other systems that is accepted and does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Compatible {
    pub name: &'static str,
    pub default: &'static str,
}

const fn q(name: &'static str, kind: Kind, default: &'static str, docs: &'static str) -> Setting {
    Setting { name, kind, default, scope: Scope::Query, docs }
}

const fn server(name: &'static str, kind: Kind, default: &'static str, docs: &'static str) -> Setting {
    Setting { name, kind, default, scope: Scope::Server, docs }
}

const fn start(name: &'static str, kind: Kind, default: &'static str, docs: &'static str) -> Setting {
    Setting { name, kind, default, scope: Scope::Start, docs }
}

use Kind::{Bool, Char, Float, OneOf, Seconds, Text, UInt};

/// Sorted by name.
pub const SETTINGS: &[Setting] = &[
    q(
        "ack",
        OneOf(&["durable", "written", "none"]),
        "durable",
        "when an INSERT hears back: after the group fsync, after the write, at once",
    ),
    q(
        "aggregate_state_ttl_sec",
        UInt,
        "0",
        "an aggregation over a whole stream forgets keys without a row for so long; 0 = it keeps them",
    ),
    q(
        "cast_overflow",
        OneOf(&["error", "wrap"]),
        "error",
        "what a narrowing cast does with a value that does not fit",
    ),
    q(
        "date_time_input_format",
        OneOf(&["basic", "best_effort", "best_effort_us"]),
        "basic",
        "how times are read from input data",
    ),
    q(
        "emit_during_backfill",
        Bool,
        "0",
        "aggregations of a streaming query give results while it reads history, not only at its end",
    ),
    q(
        "enable_backfill_from_historical_store",
        Bool,
        "1",
        "0: a streaming query that begins in history reads only what the log still holds",
    ),
    q("enable_dependency_check", Bool, "1", "refuse to drop what a view reads"),
    q(
        "event_time_future_max_ms",
        UInt,
        "86400000",
        "rows further ahead of their append time do not move the watermark; 0 = all do",
    ),
    q("force_backfill_in_order", Bool, "0", "history is read in order also where the result depends on none"),
    q("format_csv_delimiter", Char, ",", "between the fields of CSV"),
    q("idempotent_id", Text, "", "names an INSERT: repeating the same rows adds nothing twice"),
    q(
        "include_session_end",
        Bool,
        "1",
        "EMIT AFTER SESSION CLOSE: the row that closes a session belongs to it",
    ),
    q(
        "input_format_null_as_default",
        Bool,
        "1",
        "a null for a column that is not nullable takes the column's default",
    ),
    q("input_format_skip_unknown_fields", Bool, "1", "skip input fields that no column has"),
    q(
        "input_utf8",
        OneOf(&["strict", "replace"]),
        "strict",
        "input that is not UTF-8 is refused, or replaced by U+FFFD",
    ),
    q("join_use_nulls", Bool, "0", "a join without match gives NULL, not the type's default"),
    q("late_rows_stream", Text, "", "a stream that takes rows that come too late for their windows"),
    q("log_queries", Bool, "1", "remember the statement in system.query_log once it has ended"),
    q("max_block_size", UInt, "8192", "rows a batch of a bounded query has at most"),
    server("max_concurrent_queries", UInt, "1000", "queries that may run at once; more get error 202"),
    q("max_execution_time", Seconds, "0", "seconds after which a query ends with error 159; 0 = no limit"),
    q(
        "max_insert_block_size",
        UInt,
        "1048576",
        "rows of an INSERT that become one record a shard, whole or absent",
    ),
    q("max_memory_usage", UInt, "0", "accounted bytes a query may hold; 0 = the server's limit"),
    q("max_result_rows", UInt, "0", "rows after which a bounded query fails with error 158; 0 = no limit"),
    server("max_server_memory_usage", UInt, "0", "accounted bytes of the process (--memory-limit)"),
    q(
        "max_threads",
        UInt,
        "0",
        "threads a bounded query may use, and parts of the keyed state of a streaming one; 0 = all cores",
    ),
    q("max_windows", UInt, "1000", "windows that EMIT LAST may put a row into, at most 10000"),
    q(
        "merge_open_sessions",
        Bool,
        "0",
        "EMIT AFTER SESSION CLOSE: a row that opens joins an open session instead of closing it",
    ),
    q(
        "output_buffer_bytes_max",
        UInt,
        "4194304",
        "bytes of results a streaming query keeps for a slow reader",
    ),
    q("output_format_json_quote_64bit_integers", Bool, "0", "64-bit integers as strings in JSON"),
    q("output_format_json_quote_denormals", Bool, "0", "inf and nan as strings in JSON, else null"),
    q("output_format_pretty_max_rows", UInt, "10000", "rows the Pretty formats print"),
    q(
        "partition_lag_max_ms",
        UInt,
        "86400000",
        "how far the watermark of a key (PARTITION BY over a window) may be behind its shard's",
    ),
    start("query_log_bytes_max", UInt, "4194304", "bytes of ended queries that system.query_log remembers"),
    start("query_log_rows_max", UInt, "1000", "ended queries that system.query_log remembers"),
    q(
        "query_mode",
        OneOf(&["streaming", "table"]),
        "streaming",
        "what FROM s means: without end, or a snapshot",
    ),
    start("query_warnings_rows_max", UInt, "1000", "warnings that system.query_warnings remembers"),
    q("readonly", OneOf(&["0", "1", "2"]), "0", "refuse statements that change anything"),
    q("replay_end_time", Text, "", "history after this time is left out, and the streaming query ends"),
    q("replay_order", OneOf(&["arrival", "event_time"]), "arrival", "order in which history is replayed"),
    q(
        "replay_speed",
        Float,
        "0",
        "pace of history in a streaming query: 1 = as the rows came, 2 = twice as fast, 0 = without waiting",
    ),
    q("replay_start_time", Text, "", "history before this time is left out"),
    q(
        "replay_time_column",
        Text,
        "_tp_append_time",
        "the time of a row for replay_speed, replay_start_time and replay_end_time",
    ),
    q(
        "seek_to",
        Text,
        "",
        "where a streaming query begins: earliest, latest, a time, -2h, or sequence numbers",
    ),
    q("session_timezone", Text, "", "time zone of times that have none of their own; empty = UTC"),
    q("type_names", OneOf(&["timeplus", "clickhouse", ""]), "", "spelling of type names in results"),
    q(
        "watermark_idle_timeout_ms",
        UInt,
        "5000",
        "a shard without rows for so long holds no window open (streams of several shards)",
    ),
];

macro_rules! compatible {
    ($($name:literal = $default:literal,)*) => {
        /// Settings of ClickHouse, Proton and their clients that change no answer here.
        pub const COMPATIBLE: &[Compatible] = &[$(Compatible { name: $name, default: $default },)*];
    };
}

compatible! {
    // What drivers and dashboards send.
    "enable_http_compression" = "0",
    "http_zlib_compression_level" = "3",
    "send_progress_in_http_headers" = "0",
    "http_headers_progress_interval_ms" = "100",
    "cancel_http_readonly_queries_on_client_close" = "0",
    "http_write_exception_in_output_format" = "0",
    "http_response_buffer_size" = "0",
    "http_wait_end_of_query" = "0",
    "http_send_timeout" = "30",
    "http_receive_timeout" = "30",
    "wait_end_of_query" = "0",
    "buffer_size" = "0",
    "use_server_time_zone_for_dates" = "1",
    "log_comment" = "",
    "log_profile_events" = "1",
    "log_query_threads" = "0",
    "send_logs_level" = "none",
    "connect_timeout" = "10",
    "connect_timeout_with_failover_ms" = "1000",
    "receive_timeout" = "300",
    "send_timeout" = "300",
    "tcp_keep_alive_timeout" = "290",
    "idle_connection_timeout" = "3600",
    "poll_interval" = "10",
    "interactive_delay" = "100000",
    "network_compression_method" = "LZ4",
    "network_zstd_compression_level" = "1",
    "output_format_native_encode_types_in_binary_format" = "0",
    "input_format_native_decode_types_in_binary_format" = "0",
    "output_format_native_write_json_as_string" = "0",
    "output_format_arrow_compression_method" = "lz4_frame",
    "output_format_arrow_string_as_string" = "1",
    "output_format_parquet_compression_method" = "zstd",
    "output_format_json_named_tuples_as_objects" = "1",
    "output_format_json_array_of_rows" = "0",
    "output_format_json_escape_forward_slashes" = "0",
    "output_format_pretty_color" = "0",
    "output_format_pretty_max_column_pad_width" = "250",
    "output_format_write_statistics" = "1",
    "output_format_binary_write_json_as_string" = "0",
    "output_format_json_quote_decimals" = "0",
    "input_format_import_nested_json" = "0",
    "input_format_defaults_for_omitted_fields" = "1",
    "input_format_with_names_use_header" = "1",
    "input_format_with_types_use_header" = "1",
    "input_format_values_interpret_expressions" = "1",
    "input_format_parallel_parsing" = "1",
    "input_format_allow_errors_num" = "0",
    "input_format_allow_errors_ratio" = "0",
    "input_format_csv_empty_as_default" = "1",
    "input_format_max_rows_to_read_for_schema_inference" = "25000",
    "format_csv_allow_single_quotes" = "0",
    "date_time_output_format" = "simple",
    "precise_float_parsing" = "0",
    "mutations_sync" = "0",
    "alter_sync" = "1",
    "synchronous_ddl" = "1",
    "distributed_ddl_task_timeout" = "180",
    "insert_deduplicate" = "1",
    "insert_deduplication_token" = "",
    "insert_quorum" = "0",
    "insert_quorum_timeout" = "600000",
    "insert_distributed_sync" = "1",
    "async_insert" = "0",
    "wait_for_async_insert" = "1",
    "wait_for_async_insert_timeout" = "120",
    "async_insert_busy_timeout_ms" = "200",
    "async_insert_max_data_size" = "10485760",
    "async_insert_deduplicate" = "0",
    "min_insert_block_size_rows" = "1048576",
    "min_insert_block_size_bytes" = "268435456",
    "max_insert_threads" = "0",
    "max_query_size" = "262144",
    "max_parser_depth" = "1000",
    "max_ast_elements" = "50000",
    "max_ast_depth" = "1000",
    "max_rows_to_read" = "0",
    "max_bytes_to_read" = "0",
    "max_result_bytes" = "0",
    "result_overflow_mode" = "throw",
    "read_overflow_mode" = "throw",
    "timeout_overflow_mode" = "throw",
    "max_bytes_before_external_group_by" = "0",
    "max_bytes_before_external_sort" = "0",
    "max_rows_to_group_by" = "0",
    "group_by_overflow_mode" = "throw",
    "max_memory_usage_for_user" = "0",
    "max_concurrent_queries_for_user" = "0",
    "max_final_threads" = "0",
    "max_download_threads" = "4",
    "max_streams_to_max_threads_ratio" = "1",
    "priority" = "0",
    "use_uncompressed_cache" = "0",
    "use_query_cache" = "0",
    "load_balancing" = "random",
    "prefer_localhost_replica" = "1",
    "skip_unavailable_shards" = "0",
    "distributed_product_mode" = "deny",
    "joined_subquery_requires_alias" = "0",
    "join_algorithm" = "default",
    "join_default_strictness" = "ALL",
    "allow_experimental_analyzer" = "1",
    "enable_analyzer" = "1",
    "allow_experimental_json_type" = "0",
    "allow_experimental_object_type" = "0",
    "allow_experimental_variant_type" = "0",
    "allow_experimental_dynamic_type" = "0",
    "allow_suspicious_low_cardinality_types" = "1",
    "optimize_move_to_prewhere" = "1",
    "optimize_read_in_order" = "1",
    "compile_expressions" = "1",
    "final" = "0",
    "extremes" = "0",
    "throw_on_error_from_cache_on_write_operations" = "0",
    "workload" = "default",
    "role" = "",
    "quota_key" = "",
    "param_names" = "",
    "show_table_uuid_in_table_create_query_if_not_nil" = "0",
    "select_sequential_consistency" = "0",
    "force_drop_big_stream" = "0",
    "show_multi_versions" = "0",
    "show_uuid" = "0",
    "verbose" = "0",
    // Of Proton's streaming engine; how it works here is not to be tuned that way.
    "record_consume_batch_count" = "1000",
    "record_consume_timeout_ms" = "100",
    "fetch_buffer_size" = "67108864",
    "keep_windows" = "0",
    "backfill_max_threads" = "0",
    "join_max_buffered_bytes" = "524288000",
    "join_buffered_data_block_size" = "0",
    "join_quiesce_threshold_ms" = "1000",
    "join_latency_threshold" = "0",
    "max_join_range" = "300",
    "keep_versions" = "3",
    "compact_kv_stream" = "1",
    "enforce_append_only" = "0",
    "checkpoint_interval" = "0",
    "recovery_policy" = "strict",
    "recovery_retry_for_sn_failure" = "3",
    "include_internal_streams" = "0",
    "asterisk_include_reserved_columns" = "1",
    "async_ingest_block_timeout_ms" = "120000",
    "aysnc_ingest_max_outstanding_blocks" = "10000",
    "enable_light_ingest" = "1",
    "javascript_uda_max_concurrency" = "1",
    "group_by_two_level_threshold" = "100000",
    "enable_idempotent_processing" = "0",
    "query_resource_group" = "shared",
    "union_default_mode" = "ALL",
    "count_distinct_implementation" = "unique_exact",
}
