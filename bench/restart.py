#!/usr/bin/env python3
"""(e) Restart after kill -9 with 5 GB of log: seconds until the ready line, and until a count over all rows
has answered."""
import os
import time

from common import Weir, directory_bytes, drop_page_cache, median, report

BYTES = 5_000_000_000
ROWS = 400_000


def main():
    table = []
    for storage, settings in (("hybrid", "flush_threshold_ms = 1000"), ("streaming", "storage_type = 'streaming'")):
        server = Weir()
        server.start()
        client = server.client()
        client.send(f"CREATE STREAM s (a uint64, b uint64, c uint64, d uint64) SETTINGS {settings}")
        body = os.urandom(32 * ROWS)
        size = lambda: sum(directory_bytes(os.path.join(d, "log")) for d, dirs, _ in
                           os.walk(os.path.join(server.dir, "streams")) if "log" in dirs)
        rows = 0
        while size() < BYTES:
            client.send("INSERT INTO s (a, b, c, d) FORMAT RowBinary", body)
            rows += ROWS
        log_gb = size() / 1e9
        ready, counted = {}, {}
        for kind, prepare in (("warm", lambda: None), ("cold", drop_page_cache)):
            ready[kind], counted[kind] = [], []
            for _ in range(3):
                server.client().send("INSERT INTO s (a, b, c, d) FORMAT RowBinary", body)
                rows += ROWS
                server.kill()
                prepare()
                began = time.perf_counter()
                ready[kind].append(server.start())
                assert int(server.client().query("SELECT count() FROM s")) == rows
                counted[kind].append(time.perf_counter() - began)
        table.append([storage, f"{log_gb:.1f}", *(f"{median(x[k]):.2f}" for k in ("warm", "cold") for x in (ready, counted))])
        server.__exit__()
    report("restart", "(e) Restart after kill -9, seconds",
           ["stream", "GB of log", "ready, warm", "counted, warm", "ready, cold", "counted, cold"], table,
           ["median of 3 kills each, right after an acknowledged INSERT; cold: page cache dropped; reach: ready ≤ 2"])


if __name__ == "__main__":
    main()
