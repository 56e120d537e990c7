#!/usr/bin/env python3
"""(f) State over a stream fed from history: rows a second, CPU seconds and peak memory of the whole process, beside chdb's and
DataFusion's bounded query over Parquet and, where it is set up (FLINK=1 bench/setup.sh), Flink. 40 minutes, 17 without Flink.

  w1        GROUP BY key, 10 M keys: count, min, max; w1+p99: and a quantile; w1+p99+spill: that in 200 MB (max_memory_usage)
  w1+update changed keys every second (PERIODIC 1s ON UPDATE): history, then 10 M rows live by four writers
  w1+ipv6   the keys are text, an IPv6 address each; w1+ipv6+p99: and a quantile
  w2+1      tumble of 1 s (w2+5: 5 s), 1,000 keys: count, sum; rows out of order by up to 2 s, delay 2 s
  w3        filter (a tenth passes) and project
  hop10     hop of 10 s by 1 s: ten windows a row; otherwise as w2
  session   100,000 keys, each active for 10 s of every 40 with about 4 rows a second; idle 5 s: count, sum
  update    GROUP BY key, 1,000 keys: count, sum, changed keys after each batch (ON UPDATE); Flink: with mini-batches
  perevent  the same with a result for each row (PER EVENT)
  w1+feed, w2+feed  the source alone: the columns of w1 and w2 for a plan that does next to nothing

Weir runs each as a streaming query from the earliest row, into FORMAT Null. `SYSTEM SYNC QUERY` returns once all of history and the
emission at its end have been taken by the client; that is the end of the clock."""
import argparse
import os
import random
import shutil
import struct
import tempfile
import threading
import time

from common import (DATA, ROWS, RUN_SECONDS_MAX, WORK, Peak, Streaming, Weir, directory_bytes, log, medians, peer, python_of, report,
                    stream)

STORE = os.path.join(WORK, "streaming")
STREAMS = {"events10m": "uint64", "win": "int64", "ipv6": "string"}
# A window of 25,000 keys moves over 100,000 in 40 s of event time.
USERS = ("(SELECT _tp_time, value, (to_int64(value * 1000000) % 25000 + int_div(to_unix_timestamp64_milli(_tp_time) * 5, 2)) % 100000 "
         "AS u FROM win)")
CLOSE = "EMIT AFTER WINDOW CLOSE WITH DELAY 2s"
QUERIES = {
    "w1": "SELECT key, count(), min(value), max(value) FROM events10m GROUP BY key EMIT PERIODIC 1h",
    "w1+p99": "SELECT key, count(), min(value), max(value), p99(value) FROM events10m GROUP BY key EMIT PERIODIC 1h",
    "w1+p99+spill": "SELECT key, count(), min(value), max(value), p99(value) FROM events10m GROUP BY key EMIT PERIODIC 1h",
    "w1+update": "SELECT key, count(), min(value), max(value) FROM events10m GROUP BY key EMIT PERIODIC 1s ON UPDATE",
    "w1+ipv6": "SELECT key, count(), min(value), max(value) FROM ipv6 GROUP BY key EMIT PERIODIC 1h",
    "w1+ipv6+p99": "SELECT key, count(), min(value), max(value), p99(value) FROM ipv6 GROUP BY key EMIT PERIODIC 1h",
    "w2+1": f"SELECT window_start, key, count(), sum(value) FROM tumble(win, 1s) GROUP BY window_start, key {CLOSE}",
    "w2+5": f"SELECT window_start, key, count(), sum(value) FROM tumble(win, 5s) GROUP BY window_start, key {CLOSE}",
    "w3": "SELECT _tp_time, key + 1, value * 1.8 + 32 FROM win WHERE key % 10 = 3",
    "hop10": f"SELECT window_start, key, count(), sum(value) FROM hop(win, 1s, 10s) GROUP BY window_start, key {CLOSE}",
    "session": "SELECT window_start, window_end, u, count(), sum(value) FROM "
               f"session({USERS}, 5s) GROUP BY window_start, window_end, u {CLOSE}",
    "update": "SELECT key, count(), sum(value) FROM win GROUP BY key EMIT ON UPDATE",
    "perevent": "SELECT key, count(), sum(value) FROM win GROUP BY key EMIT PER EVENT",
    # Nothing passes, and no index says so: the columns of w1, in no order, and those of w2, in order.
    "w1+feed": "SELECT count() FROM events10m WHERE key * value < 0 EMIT PERIODIC 1h",
    "w2+feed": "SELECT key FROM win WHERE key * value < 0 AND date_diff('second', _tp_time, _tp_append_time) < 0",
}
SETTINGS = {"w1+p99+spill": "max_memory_usage = 200000000", "update": "emit_during_backfill = 1",
            "perevent": "emit_during_backfill = 1"}
PEERS = {
    "chdb": ("w1", "w1+p99", "w1+ipv6", "w1+ipv6+p99", "w2+1", "w2+5", "w3", "hop10", "session", "perevent"),
    "datafusion": ("w1", "w1+ipv6", "w2+1", "w2+5", "w3", "hop10", "session", "perevent"),
    "flink": ("w1", "w1+rocksdb", "w1+p99", "w2+1", "w2+5", "w3", "hop10", "session", "update", "perevent"),
}
# Of a live run: writers, each sending bodies of so many rows so often.
WRITERS, BODIES, BODY_ROWS = 4, 25, 100_000


def load():
    os.makedirs(STORE)
    with Weir(data_dir=STORE) as server:
        client = server.client()
        for table, key in STREAMS.items():
            client.send(f"CREATE STREAM {table} (key {key}, value float64) SETTINGS logstore_retention_bytes = 0")
            server.load(table, os.path.join(DATA, table + ".parquet"), "key=" + key)
            client.send(f"SYSTEM FLUSH STREAM {table}"), client.send(f"SYSTEM MERGE STREAM {table}")
        parts = client.query("SELECT count(), sum(bytes_on_disk) FROM system.parts WHERE active").split()
        log(f"weir: loaded, {parts[0]} parts, {parts[1]} bytes")


def weir(name, settings):
    return stream(STORE, QUERIES[name], ", ".join(filter(None, (SETTINGS.get(name), settings))))


def live(settings):
    """Figures of history, then of rows inserted afterwards, until all their results are out. The copy is thrown away."""
    draws = random.Random(1)
    bodies = [struct.pack("<" + "Qd" * BODY_ROWS, *(x for _ in range(BODY_ROWS) for x in (draws.randrange(10_000_000), draws.random())))
              for _ in range(WRITERS)]
    with tempfile.TemporaryDirectory(prefix="live-", dir=WORK) as copy:
        shutil.copytree(STORE, copy, dirs_exist_ok=True)
        with Weir(data_dir=copy) as server, Peak(server.usage) as peak, Streaming(server, QUERIES["w1+update"], settings) as running:
            def write(body):
                client = server.client()
                for _ in range(BODIES):
                    client.send("INSERT INTO events10m (key, value) FORMAT RowBinary", body)

            running.sync()
            writers = [threading.Thread(target=write, args=(body,)) for body in bodies]
            cpu, began = server.usage.cpu_s(), time.perf_counter()
            [w.start() for w in writers], [w.join() for w in writers]
            figures = running.sync()
            figures |= {"seconds": time.perf_counter() - began, "cpu_s": server.usage.cpu_s() - cpu}
        return {**figures, "rss_mb": peak.rss_mb, "anon_mb": peak.anon_mb}


def beside(system, name):
    if system == "flink":
        return peer(system, "streaming_flink.py", DATA, os.path.join(WORK, "streaming-flink"), name)
    return peer(system, "streaming_peer.py", system, DATA, name)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", help="tables, comma-separated")
    ap.add_argument("--systems", help="weir, chdb, datafusion, flink; default: those that are set up")
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--settings", default="", help="more settings of Weir's queries, such as max_memory_usage=200000000")
    a = ap.parse_args()
    systems = a.systems.split(",") if a.systems else ["weir", *(p for p in PEERS if os.path.exists(python_of(p)))]
    if "weir" in systems and not os.path.exists(STORE):
        load()
    names = [*QUERIES, "w1+rocksdb"] if not a.only else a.only.split(",")
    rows = []

    def line(name, system, figures, count=ROWS):
        if figures is None:
            rows.append([name, system, f"failed or > {RUN_SECONDS_MAX} s", "", "", "", "", ""])
        else:
            m = figures
            rows.append([name, system, f"{count / m['seconds'] / 1e6:.2f}", f"{m['seconds']:.2f}", f"{m['cpu_s']:.1f}",
                         f"{m['rss_mb']:.0f}", f"{m['anon_mb']:.0f}", f"{m['rows_out'] / 1e6:.2f}" if "rows_out" in m else ""])
        log(*rows[-1])

    for name in names:
        for system in systems:
            if system == "weir" and name in QUERIES:
                times = 1 if name.endswith("+spill") else a.repeat
                line(name, system, medians(lambda: weir(name, a.settings), times))
                if name == "w1+update":
                    line(name + ", then live", system, medians(lambda: live(a.settings), 1), WRITERS * BODIES * BODY_ROWS)
            elif name in PEERS.get(system, ()):
                line(name, system, medians(lambda: beside(system, name), 1 if system == "flink" else a.repeat))
    notes = [f"{ROWS / 1e6:.0f} M rows; median of {a.repeat} (Flink, spilling, live: 1); memory is the peak of the whole process, MB of 10^6 "
             "bytes; rows out: what the query gave its client in all, millions"]
    if os.path.exists(STORE):
        notes.append(f"Weir's parts and logs: {directory_bytes(STORE) / 1e6:.0f} MB")
    report("streaming", "(f) State over a stream, fed from history",
           ["table", "system", "M rows/s", "s", "CPU s", "peak RSS", "anonymous", "M rows out"], rows, notes)


if __name__ == "__main__":
    main()
