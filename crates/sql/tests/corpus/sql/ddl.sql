CREATE STREAM s (a int32, b string)
CREATE STREAM IF NOT EXISTS db.s (a int32, b string DEFAULT 'x' CODEC(ZSTD(1)) COMMENT 'hi', c datetime64(3,'UTC') DEFAULT now64(3), d ALIAS a+1, e nullable(int) MATERIALIZED a*2 TTL c + 1d, f array(tuple(x int, y string)) NULL, INDEX i a TYPE minmax GRANULARITY 3, PRIMARY KEY (a)) ENGINE = MergeTree() ORDER BY (a, b) PARTITION BY to_YYYYMM(c) TTL c + 7d DELETE SETTINGS shards=2, logstore_retention_ms=-1, x='y' COMMENT 'foo'
CREATE STREAM s (a int) SETTINGS shards=3 ORDER BY a COMMENT 'c' TTL _tp_time + INTERVAL 1 DAY PARTITION BY to_YYYYMMDD(_tp_time) PRIMARY KEY a
CREATE OR REPLACE TABLE `my table` ("a b" low_cardinality(string), c enum8('a' = 1, 'b' = 2) NOT NULL, d map(string, array(uint64)), e decimal(38, 10)) ENGINE = ReplacingMergeTree(c) ORDER BY tuple()
CREATE RANDOM STREAM r (device string DEFAULT 'd' || to_string(rand() % 4), t float DEFAULT rand() % 1000 / 10) SETTINGS eps=1000, interval_time=5
CREATE EXTERNAL STREAM k (raw string) SETTINGS type='kafka', brokers='localhost:9092', topic='t'
CREATE MUTABLE STREAM m (a int, b int, INDEX i (b) UNIQUE STORING (a)) PRIMARY KEY (a)
CREATE TABLE t AS db.u SETTINGS shards=3
CREATE STREAM t ORDER BY a, b SETTINGS x=1 AS SELECT 1 AS a, 2 AS b SETTINGS y=2
CREATE STREAM s (a int) ORDER BY () PRIMARY KEY tuple()
CREATE STREAM s (ts datetime64(3), v float64 CODEC(DoubleDelta, LZ4), INDEX bf v TYPE bloom_filter(0.01), INDEX tok (lower(n)) TYPE tokenbf_v1(256, 2, 0) GRANULARITY 4, n string)
CREATE VIEW v AS SELECT a FROM s
CREATE VIEW IF NOT EXISTS v AS SELECT a FROM s WHERE b = 'it\'s' SETTINGS seek_to='earliest' COMMENT 'x'
CREATE OR REPLACE VIEW v COMMENT 'k' AS WITH 1 AS x SELECT x
CREATE DATABASE IF NOT EXISTS d ENGINE = Atomic COMMENT 'x'
DROP STREAM IF EXISTS a.b SYNC
DROP TABLE t SETTINGS force_drop_big_stream=1
DROP VIEW v
DROP DATABASE IF EXISTS d CASCADE
TRUNCATE STREAM s
TRUNCATE TABLE IF EXISTS db.s
RENAME STREAM a TO b, c.d TO c.e
CREATE MATERIALIZED VIEW mv INTO t AS SELECT 1
CREATE MATERIALIZED VIEW IF NOT EXISTS d.mv AS SELECT a, count() FROM tumble(s, 5s) GROUP BY a EMIT AFTER WATERMARK WITH DELAY 1s SETTINGS seek_to='earliest', checkpoint_interval=5 COMMENT 'x'
CREATE MATERIALIZED VIEW v COMMENT 'x' AS WITH c AS (SELECT a FROM s) SELECT a FROM c
ALTER VIEW v MODIFY QUERY SELECT a FROM s WHERE b SETTINGS on_error='skip'
ALTER VIEW d.v MODIFY QUERY SETTING checkpoint_interval=5, on_error='dlq'
ALTER VIEW v RESET QUERY SETTING checkpoint_interval, on_error
ALTER MATERIALIZED VIEW v MODIFY COMMENT 'x'
DROP MATERIALIZED VIEW IF EXISTS v
