#!/usr/bin/env python3
"""(k) Checkpoints of a materialized view that keeps a state for each key: bytes and milliseconds when a share of
the keys changed since the last one, beside Flink with RocksDB and incremental checkpoints where it is set up (FLINK=1
bench/setup.sh), the dip in throughput while they are taken, and how long a restart after kill -9 takes until the view is
at the end of its source again."""
import json
import os
import subprocess
import sys
import time

from common import HERE, WORK, Weir, directory_bytes, log, median, python_of, report

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
SHARES = (0.001, 0.01, 1.0)
CASES = (("count, sum", "count() AS c, sum(v) AS s", 1_000_000),
         ("count, p99", "count() AS c, p99(v) AS p", 1_000_000),
         ("count, sum", "count() AS c, sum(v) AS s", 10_000_000))
# Results leave once an hour: what is measured is state, not results.
EMIT = "EMIT PERIODIC 3600s"


def status(client, column):
    return float(client.query(f"SELECT {column} FROM system.materialized_views WHERE name = 'v'"))


def fill(client, keys, step=1):
    """Each `step`-th key has one more row."""
    n = keys // step
    client.send(f"INSERT INTO s (k, v) SELECT number * {step}, number % 1000 FROM numbers({n})")


def caught_up(client):
    client.send("SYSTEM SYNC VIEW v")


def checkpoint(client):
    """(bytes written, MB; ms until durable; ms in which the view took no row in)"""
    client.send("SYSTEM CHECKPOINT VIEW v")
    return (status(client, "checkpoint_written_bytes") / 1e6, status(client, "checkpoint_ms"),
            status(client, "checkpoint_stopped_ms"))


def filled(server, select, keys):
    """A client of a view that has taken in a row of each key."""
    client = server.client(seconds_max=1800)
    client.send("CREATE STREAM s (k uint64, v int64)")
    client.send(f"CREATE MATERIALIZED VIEW v AS SELECT k, {select} FROM s GROUP BY k {EMIT} "
                "SETTINGS checkpoint_interval=86400")
    fill(client, keys)
    caught_up(client)
    return client


def costs(name, select, keys, table):
    with Weir() as server:
        client = filled(server, select, keys)
        first = checkpoint(client)
        table.append([name, keys, "all, new", *(f"{x:.1f}" for x in first)])
        for share in SHARES:
            runs = []
            for _ in range(ROUNDS):
                fill(client, keys, round(1 / share))
                caught_up(client)
                runs.append(checkpoint(client))
            table.append([name, keys, f"{share:.1%}", *(f"{median([r[i] for r in runs]):.2f}" for i in range(3))])
            log(name, keys, share, runs)


def flink(keys, table):
    """The same of a Flink job, which does not say for how long it stood still."""
    scratch = os.path.join(WORK, "checkpoint-flink")
    os.makedirs(scratch, exist_ok=True)
    command = [python_of("flink"), os.path.join(HERE, "peers", "checkpoint_flink.py"), scratch, str(keys), str(ROUNDS)]
    for share, mb, ms in json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout):
        table.append(["count, sum: Flink, RocksDB", keys, share, f"{mb:.2f}", f"{ms:.0f}", ""])


def restarts(name, select, keys):
    with Weir() as server:
        client = filled(server, select, keys)
        checkpoint(client)
        took = []
        for _ in range(ROUNDS):
            # Some deltas to read besides.
            for _ in range(3):
                fill(client, keys, 1000)
                caught_up(client)
                checkpoint(client)
            server.kill()
            began = time.perf_counter()
            server.start()
            client = server.client(seconds_max=1800)
            client.send("INSERT INTO s (k, v) VALUES (1, 1)")
            while client.query("SELECT state FROM system.materialized_views WHERE name = 'v'").strip() != "Running":
                time.sleep(0.01)
            caught_up(client)
            took.append(time.perf_counter() - began)
        mb = directory_bytes(os.path.join(server.dir, "checkpoints")) / 1e6
        log("restart", name, keys, took)
        return [name, keys, f"{mb:.0f}", f"{median(took):.2f}"]


def dip(keys, rows):
    """Seconds to take in the same history without checkpoints and with one after the other."""
    with Weir() as server:
        client = server.client(seconds_max=1800)
        client.send("CREATE STREAM s (k uint64, v int64)")
        for part in range(rows // 5_000_000):
            client.send(f"INSERT INTO s (k, v) SELECT (number + {part * 5_000_000}) * 2654435761 % {keys}, number % 1000 "
                        "FROM numbers(5000000)")
        out = {}
        for interval in (86400, 1) * ROUNDS:
            began = time.perf_counter()
            client.send(f"CREATE MATERIALIZED VIEW v AS SELECT k, count() AS c, sum(v) AS s FROM s GROUP BY k {EMIT} "
                        f"SETTINGS checkpoint_interval={interval}, seek_to='earliest'")
            caught_up(client)
            out.setdefault(interval, []).append(time.perf_counter() - began)
            log("dip", interval, out[interval][-1], "epochs", status(client, "checkpoint_epoch"))
            client.send("DROP VIEW v")
        none, all_ = median(out[86400]), median(out[1])
        return [["one a second, or as fast as they are written", keys, f"{rows / 1e6:.0f}", f"{none:.1f}", f"{all_:.1f}",
                 f"{1 - none / all_:.1%}"]]


def main():
    only = sys.argv[1:] or ["costs", "restart", "dip"]
    if "costs" in only:
        table = []
        for case in CASES:
            costs(*case, table)
        if os.path.exists(python_of("flink")):
            for keys in sorted({case[2] for case in CASES}):
                flink(keys, table)
        report("checkpoint", "(k) Checkpoints by the share of keys that changed",
               ["state", "keys", "changed", "MB written", "ms", "of that stopped, ms"], table,
               [f"median of {ROUNDS} (Flink with all keys: 1); ms from the barrier until the checkpoint is durable, of Flink from the trigger"])
    if "restart" in only:
        report("checkpoint_restart", "(k) Restart after kill -9 until the view is at the end of its source, seconds",
               ["state", "keys", "MB of checkpoint files", "seconds"], [restarts(*case) for case in CASES],
               [f"median of {ROUNDS}, files in the page cache; reach: 10 M keys in 3 s"])
    if "dip" in only:
        report("checkpoint_dip", "(k) Dip while checkpoints are taken",
               ["checkpoints", "keys", "M rows", "s without", "s with", "dip"], dip(10_000_000, 150_000_000),
               [f"median of {ROUNDS}, a view over history whose keys all change; reach: ≤ 10 %"])


if __name__ == "__main__":
    main()
