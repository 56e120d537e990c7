"""history_peer.py PEER DATA SCRATCH (load | query): the historical queries on chdb's MergeTree, DuckDB's own tables, or
DataFusion over the Parquet files; prints figures as JSON."""
import json
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from common import directory_bytes, drop_page_cache
from queries import measure, queries

peer, data, scratch, step = sys.argv[1:5]
TABLES = {"events1m": "key, ts", "win": "ts"}
parquet = {t: os.path.join(data, t + ".parquet") for t in TABLES}
if step == "load":
    shutil.rmtree(scratch, ignore_errors=True)
os.makedirs(scratch, exist_ok=True)
names, cold = {}, drop_page_cache

if peer == "chdb":
    from chdb import session
    s = session.Session(scratch)
    # A SELECT's result is read as text, as a client would.
    run = lambda sql: str(s.query(sql + (" SETTINGS max_threads = 2" if sql.startswith("SELECT") else ""), "TabSeparated"))
    names = {"events": "h.events1m", "win": "h.win", "quantile": "quantileTDigest(0.99)(value)",
             "distinct": "uniqExact(key)", "approx": "uniq(key)"}

    def load():
        run("CREATE DATABASE h")
        for table, key in TABLES.items():
            run(f"CREATE TABLE h.{table} (ts Int64, key Int64, value Float64) ENGINE = MergeTree ORDER BY ({key})")
            run(f"INSERT INTO h.{table} SELECT * FROM file('{parquet[table]}', Parquet, 'ts Int64, key Int64, value Float64')")
            run(f"OPTIMIZE TABLE h.{table} FINAL")

    def cold():
        run("SYSTEM DROP MARK CACHE"), run("SYSTEM DROP UNCOMPRESSED CACHE"), drop_page_cache()

    size = lambda: int(run("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'h'"))
elif peer == "duckdb":
    import duckdb
    path = os.path.join(scratch, "h.duckdb")
    c = duckdb.connect(path)
    c.execute("SET threads = 2")
    run = lambda sql: c.execute(sql).fetchall()
    names = {"quantile": "approx_quantile(value, 0.99)"}

    def load():
        for table in TABLES:
            run(f"CREATE TABLE {table} AS SELECT * FROM read_parquet('{parquet[table]}')")
        run("CHECKPOINT")

    size = lambda: directory_bytes(scratch)
else:
    import datafusion
    config = datafusion.SessionConfig({"datafusion.execution.target_partitions": "2",
                                       "datafusion.execution.parquet.pushdown_filters": "true"})
    x = datafusion.SessionContext(config)
    run = lambda sql: [b.to_pydict() for b in x.sql(sql).collect()]
    names = {"win": '"win"', "quantile": "approx_percentile_cont(value, 0.99)", "approx": "approx_distinct(key)"}
    for table in TABLES:
        x.register_parquet(table, parquet[table])
    load = lambda: None
    size = lambda: sum(os.path.getsize(p) for p in parquet.values())

if step == "load":
    began = time.perf_counter()
    load()
    print(json.dumps({"load_s": time.perf_counter() - began}))
else:
    print(json.dumps({"queries": measure(run, queries(**names), cold), "bytes": size()}))
