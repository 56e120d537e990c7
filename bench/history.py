#!/usr/bin/env python3
"""(c) History: twelve queries over 2 x 50 M rows in Weir, beside chdb's MergeTree, DuckDB and plain DataFusion
on Parquet, with bytes on disk.

Weir's streams have the ORDER BY of chdb's tables ("sorted") or none ("arrival"), both merged to rest. Each
system runs alone, in turn; hot is the median of five, cold the first after the page cache was dropped."""
import argparse
import json
import math
import os
import subprocess
import time

from common import DATA, WORK, Weir, directory_bytes, drop_page_cache, log, python_of, report
from queries import measure, queries

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = ("chdb", "duckdb", "datafusion")
KEYS = {"sorted": {"events1m": "ORDER BY (key, ts)", "win": "ORDER BY (ts)"}, "arrival": {"events1m": "", "win": ""}}
NAMES = {"quantile": "quantile(value, 0.99)", "distinct": "uniq_exact(key)", "approx": "uniq(key)"}
LOAD = """
import io, sys, pyarrow as pa, pyarrow.parquet as pq
sys.path.insert(0, {here!r})
from common import Client
c = Client({port})
f = pq.ParquetFile({path!r})
for i in range(f.num_row_groups):
    t, b = f.read_row_group(i), io.BytesIO()
    with pa.ipc.new_stream(b, t.schema) as w: w.write_table(t)
    c.send("INSERT INTO {table} (ts, key, value) FORMAT ArrowStream", b.getvalue())
"""


def store(order):
    return os.path.join(WORK, "history-" + order)


def load(order):
    os.makedirs(store(order))
    with Weir(data_dir=store(order)) as server:
        began, cpu = time.perf_counter(), server.usage.cpu_s()
        for table, key in KEYS[order].items():
            server.client().send(f"CREATE STREAM {table} (ts int64, key int64, value float64) {key} "
                                 "SETTINGS logstore_retention_bytes = 0")
            script = LOAD.format(here=HERE, port=server.port, path=os.path.join(DATA, table + ".parquet"), table=table)
            subprocess.run([python_of("gen"), "-c", script], check=True)
        loaded = time.perf_counter() - began
        for table in KEYS[order]:
            server.client().send(f"SYSTEM FLUSH STREAM {table}"), server.client().send(f"SYSTEM MERGE STREAM {table}")
        log(f"weir {order}: loaded in {loaded:.1f} s, at rest after {time.perf_counter() - began:.1f} s, "
            f"{server.usage.cpu_s() - cpu:.1f} CPU s, {server.usage.memory_mb()[1]:.0f} MB")


def weir(order, only):
    with Weir(data_dir=store(order)) as server:
        client = server.client()
        figures = measure(client.query, queries(**NAMES), drop_page_cache, only)
        parts = client.query("SELECT sum(bytes_on_disk), count() FROM system.parts WHERE active").split()
        log(f"weir {order}: {parts[1]} parts, {parts[0]} bytes; {server.usage.memory_mb()[1]:.0f} MB")
        return {"queries": figures, "bytes": int(parts[0])}


def peer(name):
    scratch = os.path.join(WORK, "history-" + name)
    script = os.path.join(HERE, "peers", "history_peer.py")
    command = [python_of(name), script, name, DATA, scratch]
    if not os.path.exists(scratch):
        log(name, subprocess.run([*command, "load"], check=True, capture_output=True, text=True).stdout.strip())
    out = subprocess.run([*command, "query"], check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--only", help="queries, comma-separated")
    ap.add_argument("--only-weir", action="store_true", help="for profiling")
    ap.add_argument("--orders", default="sorted,arrival")
    a = ap.parse_args()
    results, only = {}, a.only.split(",") if a.only else None
    for order in a.orders.split(","):
        if not os.path.exists(store(order)):
            load(order)
        results["weir " + order] = weir(order, only)
    if not a.only_weir:
        results.update({name: peer(name) for name in PEERS})
    shown = list(results)
    table = []
    for name in next(iter(results.values()))["queries"]:
        row = [name]
        for system in shown:
            f = results[system]["queries"][name]
            row.append(f"{f['hot_ms']:.1f} / {f['cold_ms']:.0f}")
        if not a.only_weir:
            ours = results["weir sorted"]["queries"][name]["hot_ms"]
            row += [f"{ours / results[p]['queries'][name]['hot_ms']:.2f}" for p in ("datafusion", "chdb")]
        table.append(row)
    table.append(["MB on disk", *(f"{results[s]['bytes'] / 1e6:.0f}" for s in shown), *[""] * (0 if a.only_weir else 2)])
    notes = ["hot ms (median of 5) / cold ms (page cache dropped)"]
    if not a.only_weir:
        def mean(ours, peer):
            logs = [math.log(q["hot_ms"] / results[peer]["queries"][n]["hot_ms"])
                    for n, q in results[ours]["queries"].items()]
            return math.exp(sum(logs) / len(logs))
        for ours in shown:
            if ours.startswith("weir"):
                notes.append(f"geometric mean of {ours} / it: " + ", ".join(f"{p} {mean(ours, p):.2f}" for p in PEERS))
    columns = ["query", *shown] + ([] if a.only_weir else ["sorted / datafusion", "sorted / chdb"])
    report("history", "(c) Historical queries, 2 x 50 M rows", columns, table, notes)


if __name__ == "__main__":
    main()
