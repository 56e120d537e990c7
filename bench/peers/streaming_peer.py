"""streaming_peer.py PEER DATA TABLE: one table of streaming.py as chdb's or DataFusion's bounded query over the Parquet file; the
result is reduced inside the engine. Prints seconds of the query, without the start of the process, and rows out."""
import json
import os
import sys
import time

peer, data, table = sys.argv[1:4]
name, _, variant = table.partition("+")
words = set(variant.split("+"))
W1 = os.path.join(data, ("ipv6" if "ipv6" in words else "events10m") + ".parquet")
WIN = os.path.join(data, "win.parquet")

# A session begins with a row that comes 5 s or more after the last one of its key; its number is that of such rows so far.
SESSIONS = """
SELECT count(*), sum(c), sum(s) FROM (SELECT u, session, count(*) c, sum(value) s FROM (
    SELECT u, value, sum(begins) OVER (PARTITION BY u ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) session FROM (
        SELECT u, ts, value, CASE WHEN ts - {lag}(ts, 1) OVER (PARTITION BY u ORDER BY ts {frame}) < 5000 THEN 0 ELSE 1 END begins
        FROM (SELECT ts, value, ({integer} % 25000 + {phase}) % 100000 u FROM {win}) AS a) AS b) AS c
    GROUP BY u, session) AS d"""
RUNNING = """
SELECT count(*), sum(c), sum(s) FROM (SELECT count(*) OVER r c, sum(value) OVER r s FROM {win}
    WINDOW r AS (PARTITION BY key ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)) AS a"""


def chdb():
    from chdb import session
    s = session.Session()
    columns = f"ts Int64, key {'String' if 'ipv6' in words else 'Int64'}, value Float64"
    source = lambda path: f"file('{path}', Parquet, '{columns}')"
    run = lambda sql: str(s.query(sql + " SETTINGS max_threads = 2", "TabSeparated"))
    count = lambda sql: lambda: int(run(sql).split("\t")[0])
    if name == "w1":
        p99, sum_p = (", quantileTDigest(0.99)(value) p", ", sum(p)") if "p99" in words else ("", "")
        return count(f"SELECT count(), sum(c), sum(a), sum(b){sum_p} FROM (SELECT key, count() c, min(value) a, max(value) b{p99} "
                     f"FROM {source(W1)} GROUP BY key)")
    if name in ("w2", "hop10"):
        start = f"intDiv(ts, {int(variant) * 1000})" if name == "w2" else "intDiv(ts, 1000) - arrayJoin(range(10))"
        return count(f"SELECT count(), sum(c), sum(s) FROM (SELECT {start} w, key, count() c, sum(value) s FROM {source(WIN)} "
                     "GROUP BY w, key)")
    if name == "session":
        return count(SESSIONS.format(lag="lagInFrame", frame="ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", win=source(WIN),
                                     integer="toInt64(value * 1000000)", phase="intDiv(ts * 5, 2)"))
    if name == "perevent":
        return count(RUNNING.format(win=source(WIN)))
    run("CREATE TABLE nul (ts Int64, k Int64, v Float64) ENGINE = Null")
    return lambda: run(f"INSERT INTO nul SELECT ts, key + 1, value * 1.8 + 32 FROM {source(WIN)} WHERE key % 10 = 3") and 0


def datafusion():
    from datafusion import SessionConfig, SessionContext
    x = SessionContext(SessionConfig({"datafusion.execution.target_partitions": "2",
                                      "datafusion.execution.parquet.pushdown_filters": "true"}))
    x.register_parquet("events", W1), x.register_parquet("w", WIN)
    count = lambda sql: lambda: list(x.sql(sql).collect()[0].to_pydict().values())[0][0]
    if name == "w1":
        return count("SELECT count(*), sum(c), sum(a), sum(b) FROM (SELECT key, count(*) c, min(value) a, max(value) b "
                     "FROM events GROUP BY key)")
    if name in ("w2", "hop10"):
        start, more = (f"ts / {int(variant) * 1000}", "") if name == "w2" else ("ts / 1000 - back", " CROSS JOIN ten")
        x.sql("CREATE TABLE ten AS SELECT value AS back FROM generate_series(0, 9)").collect()
        return count(f"SELECT count(*), sum(c), sum(s) FROM (SELECT {start} AS t, key, count(*) c, sum(value) s "
                     f"FROM w{more} GROUP BY {start}, key)")
    if name == "session":
        return count(SESSIONS.format(lag="lag", frame="", win="w", integer="CAST(value * 1000000 AS BIGINT)", phase="ts * 5 / 2"))
    if name == "perevent":
        return count(RUNNING.format(win="w"))
    return lambda: sum(b.to_pyarrow().num_rows for b in
                       x.sql("SELECT ts, key + 1, value * 1.8 + 32 FROM w WHERE key % 10 = 3").execute_stream())


query = {"chdb": chdb, "datafusion": datafusion}[peer]()
began = time.perf_counter()
rows = query()
print(json.dumps({"seconds": time.perf_counter() - began, "out": rows}))
