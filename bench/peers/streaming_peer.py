"""streaming_peer.py PEER DATA TABLE: one table of streaming.py as chdb's or DataFusion's bounded query over the Parquet file; the
result is reduced inside the engine. Prints seconds of the query, without the start of the process, and rows out."""
import json
import os
import sys
import time

peer, data, table = sys.argv[1:4]
name, _, variant = table.partition("+")
W1, WIN = (os.path.join(data, t + ".parquet") for t in ("events10m", "win"))


def chdb():
    from chdb import session
    s = session.Session()
    columns = "ts Int64, key Int64, value Float64"
    source = lambda path: f"file('{path}', Parquet, '{columns}')"
    run = lambda sql: str(s.query(sql + " SETTINGS max_threads = 2", "TabSeparated"))
    if name == "w1":
        p99 = ", quantileTDigest(0.99)(value) p" if variant else ""
        return lambda: int(run(f"SELECT count(), sum(c), sum(a), sum(b){', sum(p)' if variant else ''} FROM (SELECT key, count() c, "
                               f"min(value) a, max(value) b{p99} FROM {source(W1)} GROUP BY key)").split("\t")[0])
    if name == "w2":
        ms = int(variant) * 1000
        return lambda: int(run(f"SELECT count(), sum(c), sum(s) FROM (SELECT intDiv(ts, {ms}) w, key, count() c, sum(value) s "
                               f"FROM {source(WIN)} GROUP BY w, key)").split("\t")[0])
    run("CREATE TABLE nul (ts Int64, k Int64, v Float64) ENGINE = Null")
    return lambda: run(f"INSERT INTO nul SELECT ts, key + 1, value * 1.8 + 32 FROM {source(WIN)} WHERE key % 10 = 3") and 0


def datafusion():
    from datafusion import SessionConfig, SessionContext
    x = SessionContext(SessionConfig({"datafusion.execution.target_partitions": "2",
                                      "datafusion.execution.parquet.pushdown_filters": "true"}))
    x.register_parquet("events", W1), x.register_parquet("w", WIN)
    first = lambda sql: list(x.sql(sql).collect()[0].to_pydict().values())[0][0]
    if name == "w1":
        return lambda: first("SELECT count(*), sum(c), sum(a), sum(b) FROM (SELECT key, count(*) c, min(value) a, max(value) b "
                             "FROM events GROUP BY key)")
    if name == "w2":
        ms = int(variant) * 1000
        return lambda: first(f"SELECT count(*), sum(c), sum(s) FROM (SELECT ts / {ms} AS t, key, count(*) c, sum(value) s "
                             f"FROM w GROUP BY ts / {ms}, key)")
    return lambda: sum(b.to_pyarrow().num_rows for b in
                       x.sql("SELECT ts, key + 1, value * 1.8 + 32 FROM w WHERE key % 10 = 3").execute_stream())


query = {"chdb": chdb, "datafusion": datafusion}[peer]()
began = time.perf_counter()
rows = query()
print(json.dumps({"seconds": time.perf_counter() - began, "out": rows}))
