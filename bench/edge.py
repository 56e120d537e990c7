#!/usr/bin/env python3
"""(n) An edge and its centre: rows of a stream here that a view writes to another Weir, exactly once; a backlog, and one row
at a time. Beside it the same view into a stream of its own server.

edge.py; needs `cargo build --release -p weir-server --bin weir`."""
import os
import threading
import time

from common import Weir, median, percentile, report

ROWS = int(os.environ.get("BENCH_EDGE_ROWS", 4_000_000))
RUNS = 3
COLUMNS = "id int64, device string, value float64"
FILL = "SELECT number, 'device-' || to_string(number % 1000), number * 0.25 FROM numbers"


def until(ask, rows, seconds_max=300):
    began = time.perf_counter()
    while int(ask()) < rows:
        assert time.perf_counter() - began < seconds_max, "it does not come"
        time.sleep(0.01)


def backlog(into):
    """Seconds from CREATE VIEW until all rows are there, and CPU seconds of both."""
    with Weir() as centre, Weir() as edge:
        here, there = edge.client(), centre.client()
        here.query(f"CREATE STREAM kept ({COLUMNS}) SETTINGS shards=2, storage_type='streaming'")
        for i in range(8):
            here.query(f"INSERT INTO kept (id, device, value) {FILL}({ROWS // 8})")
        if into == "another Weir":
            there.query(f"CREATE STREAM rows ({COLUMNS})")
            here.query(f"CREATE EXTERNAL STREAM rows SETTINGS type='weir', hosts='127.0.0.1:{centre.port}'")
            asked = there
        else:
            here.query(f"CREATE STREAM rows ({COLUMNS})")
            asked = here
        cpu, began = edge.usage.cpu_s() + centre.usage.cpu_s(), time.perf_counter()
        here.query("CREATE MATERIALIZED VIEW forward INTO rows AS SELECT id, device, value FROM kept SETTINGS seek_to='earliest'")
        until(lambda: asked.query("SELECT count() FROM table(rows)"), ROWS)
        return time.perf_counter() - began, edge.usage.cpu_s() + centre.usage.cpu_s() - cpu


def latency(seconds=10, rate=200):
    """Milliseconds from before an INSERT here to the row at a streaming query there."""
    with Weir() as centre, Weir() as edge:
        here, there = edge.client(), centre.client()
        here.query(f"CREATE STREAM kept ({COLUMNS}) SETTINGS storage_type='streaming'")
        there.query(f"CREATE STREAM rows ({COLUMNS})")
        here.query(f"CREATE EXTERNAL STREAM rows SETTINGS type='weir', hosts='127.0.0.1:{centre.port}'")
        here.query("CREATE MATERIALIZED VIEW forward INTO rows AS SELECT id, device, value FROM kept")
        sent, seen, n = {}, {}, seconds * rate

        def watch():
            for line in centre.client(streaming=True).follow("SELECT id FROM rows FORMAT TSV"):
                seen[int(line)] = time.perf_counter()
                if len(seen) == n:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(1)
        began = time.perf_counter()
        for i in range(n):
            wait = began + i / rate - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            sent[i] = time.perf_counter()
            here.query(f"INSERT INTO kept VALUES ({i}, 'd', 1)")
        watcher.join()
        return sorted((seen[i] - sent[i]) * 1e3 for i in range(n))


def main():
    rows = []
    for into in ("another Weir", "a stream of its own"):
        runs = [backlog(into) for _ in range(RUNS)]
        took, cpu = median(t for t, _ in runs), median(c for _, c in runs)
        rows.append([into, f"{ROWS / took / 1e3:,.0f}", f"{cpu:.1f}"])
    report("edge_backlog", "(n) A view into another Weir", ["into", "thousand rows/s", "CPU s"], rows,
           [f"{ROWS / 1e6:g} M rows of three columns in 2 shards here, one there; both processes on this machine; median of {RUNS}"])
    all = latency()
    report("edge_latency", "(n) One row at a time", ["ms p50", "p99"],
           [[f"{percentile(all, 50):.1f}", f"{percentile(all, 99):.1f}"]],
           ["200 INSERTs/s here, each acknowledged durable, to a streaming query there; transactions at most ten a second"])


main()
