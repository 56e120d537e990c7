#!/usr/bin/env python3
"""(l) A small machine: the server with three views in a memory cgroup of 256 MB without swap takes 10,000 rows a second
for ten minutes, spills, takes checkpoints, answers history, is killed and comes back. Needs root and a memory cgroup
(version 1 or 2)."""
import os
import random
import struct
import threading
import time

from common import Peak, WEIR, Weir, log, report

LIMIT = int(os.environ.get("BENCH_CGROUP_MB", 256)) << 20
SECONDS = int(os.environ.get("BENCH_SECONDS", 600))
ROWS_A_SECOND = 10_000
KEYS = 1_000_000
V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


class Cgroup:
    """A memory cgroup; what is started by its `command` runs in it."""

    def __init__(self, limit):
        self.v1 = os.path.exists(os.path.join(V1, "memory.limit_in_bytes"))
        self.dir = os.path.join(V1 if self.v1 else V2, f"weir-bench-{os.getpid()}")
        os.mkdir(self.dir)
        self.write("memory.limit_in_bytes" if self.v1 else "memory.max", limit)
        if not self.v1:
            self.write("memory.swap.max", 0)

    def write(self, name, value):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(str(value))

    def read(self, name):
        with open(os.path.join(self.dir, name)) as f:
            return f.read()

    def peak_mb(self):
        return int(self.read("memory.max_usage_in_bytes" if self.v1 else "memory.peak")) / 1e6

    def killed(self):
        """Processes that the kernel ended for want of memory."""
        events = self.read("memory.oom_control" if self.v1 else "memory.events")
        return int(next(line.split()[1] for line in events.splitlines() if line.startswith("oom_kill ")))

    def wrapper(self, path):
        """A program that enters the cgroup and becomes the server."""
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\necho $$ > {self.dir}/cgroup.procs\nexec {WEIR} \"$@\"\n")
        os.chmod(path, 0o755)
        return path


def rows(rng, n, now_ms):
    pack = struct.Struct("<QqI").pack
    return b"".join(pack(rng.randrange(KEYS), rng.randrange(1000), now_ms // 1000) for _ in range(n))


def main():
    import common
    group = Cgroup(LIMIT)
    server = Weir()
    common.WEIR = group.wrapper(os.path.join(server.dir + ".sh"))
    server.start()
    client = server.client(seconds_max=120)
    client.send("CREATE STREAM s (k uint64, v int64, at datetime) SETTINGS event_time_column='to_datetime64(at, 3)', shards=1")
    for sql in (
        "CREATE MATERIALIZED VIEW kept AS SELECT k, v FROM s WHERE v < 10",
        "CREATE MATERIALIZED VIEW by_second AS SELECT window_start, v, count() AS c FROM tumble(s, 1s) GROUP BY window_start, v",
        "CREATE MATERIALIZED VIEW by_key AS SELECT k, count() AS c, p99(v) AS p FROM s GROUP BY k EMIT PERIODIC 60s",
    ):
        client.send(sql)
    rng, sent, slowest, history = random.Random(1), 0, 0.0, []
    stop = threading.Event()

    def ask():
        c = server.client(seconds_max=120)
        while not stop.wait(5):
            began = time.perf_counter()
            c.query("SELECT count(), avg(v), uniq(k) FROM s")
            history.append(time.perf_counter() - began)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    with Peak(server.usage) as peak:
        began = time.monotonic()
        while (at := time.monotonic() - began) < SECONDS:
            due = int(at * ROWS_A_SECOND)
            n = min(due - sent, 5_000)
            if n < 500:
                time.sleep(0.02)
                continue
            asked = time.perf_counter()
            client.send("INSERT INTO s (k, v, at) FORMAT RowBinary", rows(rng, n, int(time.time() * 1000)))
            slowest = max(slowest, time.perf_counter() - asked)
            sent += n
    took = time.monotonic() - began
    stop.set()
    asking.join(120)
    columns = "name, state, checkpoint_epoch, checkpoint_bytes, failures, restarts, last_error"
    log(client.query(f"SELECT {columns} FROM system.materialized_views"))
    server.kill()
    began = time.perf_counter()
    server.start()
    client = server.client(seconds_max=300)
    for view in ("kept", "by_second", "by_key"):
        while client.query(f"SELECT state FROM system.materialized_views WHERE name = '{view}'") != "Running":
            time.sleep(0.05)
        client.send(f"SYSTEM SYNC VIEW {view}")
    back = time.perf_counter() - began
    there = int(client.query("SELECT count() FROM s"))
    kept = client.query("SELECT (SELECT count() FROM kept), (SELECT count() FROM s WHERE v < 10)").split()
    assert there == sent, (there, sent)
    assert kept[0] == kept[1], kept
    table = [[f"{LIMIT >> 20}", f"{sent / took:.0f}", f"{took:.0f}", f"{group.peak_mb():.0f}", f"{peak.rss_mb:.0f}", group.killed(),
              f"{slowest * 1000:.0f}", f"{max(history):.2f}", f"{back:.1f}"]]
    report("small", "(l) A small machine", ["cgroup, MiB", "rows/s", "seconds", "MB at the peak, with page cache", "MB resident at the peak",
           "killed for want of memory", "slowest INSERT, ms", "slowest history query, s", "back after kill -9, s"], table,
           ["three views (a filter, 1 s windows by 1,000 values, count and p99 of a million keys); nothing lost, nothing twice"])
    server.__exit__()
    os.remove(common.WEIR)


if __name__ == "__main__":
    main()
