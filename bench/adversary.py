#!/usr/bin/env python3
"""(j) Adversaries: queries made to hold everything, under caps; what they take, what their neighbours feel, and whether the memory
comes back. 15 minutes.

  keys       GROUP BY over keys that never repeat (40 M), under --memory-limit and under max_memory_usage: spills and ends right
  update     the same with EMIT ON UPDATE: the keys of a batch come back from disk before they change
  ns         tumble windows of 1 ns over a year: 10 M rows, each in a window of its own; delayed by a day: 27,000 windows open,
             by more than a year: a million of them
  hop        hop of 1,000 s by 1 s: 1,000 windows a row, 1,000 keys

A neighbour inserts 10 rows 100 times a second and follows a filter over them; its p99 before and during is insert to result. Reach:
resident memory ≤ the cap and 10 % (of max_memory_usage: and what the process had before), the neighbour's p99 at most doubled and no
insert refused, memory back within 5 s of the end."""
import argparse
import http.client
import multiprocessing
import os
import struct
import threading
import time

import growth
from common import WORK, Client, Peak, Streaming, Weir, log, percentile, report

STORE = os.path.join(WORK, "adversary")
YEAR_ROWS = 10_000_000
YEAR = ("INSERT INTO year (t, v) SELECT from_unix_timestamp64_nano(to_int64(1760000000000000000 + number * {step})), number "
        "FROM numbers({rows}) SETTINGS max_threads = 1")
KEYS = "SELECT h, count(), min(value), max(value) FROM growth GROUP BY h EMIT "
NANO = "SELECT window_start, count(), sum(v) FROM tumble(year, t, 1ns) GROUP BY window_start EMIT AFTER WINDOW CLOSE"
ALL_OPEN = NANO.replace(" GROUP", " WHERE v < 1000000 GROUP") + " WITH DELAY 400d"
HOP = "SELECT window_start, h % 1000 AS key, count(), sum(value) FROM hop(growth, 1s, 1000s) GROUP BY window_start, key"


def probe(port, streaming_port, stop, ready, out):
    """The neighbour: (when it was sent, milliseconds until its result) of each INSERT, and how many were refused."""
    results, refused, sent = [], [], []
    answer = Client(streaming_port).follow("SELECT at FROM neighbour WHERE k = 1 FORMAT RowBinary")

    def read():
        try:
            while chunk := answer.read(8):
                at, = struct.unpack("<q", chunk)
                results.append((at, (time.monotonic_ns() - at) / 1e6))
        except (http.client.HTTPException, OSError, struct.error) as e:
            refused.append((time.monotonic_ns(), str(e)))

    threading.Thread(target=read, daemon=True).start()
    client, due = Client(port), time.monotonic()
    rest = b"".join(struct.pack("<Bq", 0, i) for i in range(9))
    while not stop.is_set():
        due = max(due + 0.01, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))
        began = time.monotonic_ns()
        try:
            client.send("INSERT INTO neighbour (k, at) FORMAT RowBinary", struct.pack("<Bq", 1, began) + rest)
            sent.append(began)
        except RuntimeError as e:
            refused.append((began, str(e)))
        ready.set()
    deadline = time.monotonic() + 10
    while len(results) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.01)
    out.send((results, refused, len(sent) - len(results)))


class Neighbour:
    def __init__(self, server):
        server.client().send("DROP STREAM IF EXISTS neighbour")
        server.client().send("CREATE STREAM neighbour (k uint8, at int64)")
        self.stop, ready = multiprocessing.Event(), multiprocessing.Event()
        self.out, there = multiprocessing.Pipe(False)
        arguments = (server.port, server.streaming_port, self.stop, ready, there)
        self.process = multiprocessing.Process(target=probe, args=arguments, daemon=True)
        self.process.start()
        if not ready.wait(30):
            raise RuntimeError("the neighbour did not start")

    def end(self):
        self.stop.set()
        if not self.out.poll(60):
            raise RuntimeError("the neighbour hangs")
        return self.out.recv()


def attack(options, query, settings, alone):
    with Weir(*options, data_dir=STORE) as server:
        neighbour = Neighbour(server)
        time.sleep(alone)
        before, began = server.usage.memory_mb()[0], time.monotonic_ns()
        rows_out, outcome = 0, "finished"
        with Peak(server.usage) as peak, Streaming(server, query, settings) as running:
            try:
                rows_out = running.sync()["rows_out"]
            except RuntimeError as e:
                outcome = str(e)
            ended = time.monotonic_ns()
        time.sleep(5)
        after, alive = server.usage.memory_mb()[0], server.process.poll() is None
        results, refused, missing = neighbour.end()
        p99 = lambda a, b: percentile([ms for at, ms in results if a < at < b] or [0], 99)
        for at, why in refused[:1]:
            log("the neighbour was refused:", why)
        return {"seconds": (ended - began) / 1e9, "outcome": outcome, "rows_out": rows_out, "before": before, "peak": peak.rss_mb,
                "after": after, "p99_alone": p99(began - int(alone * 0.8e9), began), "p99": p99(began, ended), "alive": alive,
                "refused": len(refused), "missing": missing}


def load(rows):
    growth.load(STORE, rows)
    with Weir(data_dir=STORE) as server:
        client = server.client()
        client.send("CREATE STREAM IF NOT EXISTS year (t datetime64(9), v uint64) SETTINGS logstore_retention_bytes = 0")
        count = min(YEAR_ROWS, rows)
        if int(client.query("SELECT count() FROM table(year)")) != count:
            client.send("TRUNCATE STREAM year")
            client.send(YEAR.format(step=365 * 86_400 * 1_000_000_000 // count, rows=count))
            client.send("SYSTEM FLUSH STREAM year"), client.send("SYSTEM MERGE STREAM year")
        return count


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rows", type=int, default=40_000_000)
    ap.add_argument("--alone", type=int, default=10, help="seconds of the neighbour without the adversary")
    ap.add_argument("--caps", default="256,1024", help="MB of 2^20 bytes")
    ap.add_argument("--only", help="keys, update, ns, hop; comma-separated")
    a = ap.parse_args()
    year_rows = load(a.rows)
    runs = []
    for cap in map(int, a.caps.split(",")):
        server, query = ["--memory-limit", f"{cap}MiB"], f"max_memory_usage = {cap << 20}"
        runs += [("keys", f"--memory-limit {cap} MiB", cap, server, KEYS + "PERIODIC 1h", "", a.rows),
                 ("keys", f"max_memory_usage {cap} MiB", cap, [], KEYS + "PERIODIC 1h", query, a.rows),
                 ("update", f"--memory-limit {cap} MiB", cap, server, KEYS + "ON UPDATE", "emit_during_backfill = 1", a.rows)]
    cap = int(a.caps.split(",")[0])
    server = ["--memory-limit", f"{cap}MiB"]
    runs += [("ns", f"--memory-limit {cap} MiB", cap, server, NANO, "", year_rows - 1),
             ("ns, delayed", f"--memory-limit {cap} MiB", cap, server, NANO + " WITH DELAY 1d", "", year_rows - 1 - year_rows // 365),
             ("ns, all open", f"--memory-limit {cap} MiB", cap, server, ALL_OPEN, "", 0),
             ("hop", f"--memory-limit {cap} MiB", cap, server, HOP, "", 1_000 * (a.rows // 100_000 - 1))]
    rows = []
    for name, limit, cap, options, query, settings, expected in runs:
        if a.only and name.split(",")[0] not in a.only.split(","):
            continue
        try:
            m = attack(options, query, settings, a.alone)
        except (RuntimeError, OSError, EOFError) as e:
            log(name, limit, e)
            rows.append([name, limit, f"failed: {str(e)[:60]}", *[""] * 7])
            continue
        log(name, limit, m)
        outcome = m["outcome"]
        if "Code: 241" in outcome:
            outcome = "code 241"
        elif outcome == "finished" and expected is not None and m["rows_out"] != expected:
            outcome = f"{m['rows_out']:,} rows, not {expected:,}"
        bound = cap * 1.048576 * 1.1 + (0 if options else m["before"])
        missed = [what for what, holds in (("memory", m["peak"] <= bound), ("p99", m["p99"] <= 2 * m["p99_alone"]),
                                           ("refused", m["refused"] == 0), ("missing", m["missing"] == 0), ("dead", m["alive"]),
                                           ("not back", m["after"] - m["before"] <= (m["peak"] - m["before"]) / 10 + 10)) if not holds]
        rows.append([name, limit, outcome[:80], f"{m['seconds']:.1f}", f"{m['before']:.0f}", f"{m['peak']:.0f}", f"{bound:.0f}",
                     f"{m['after']:.0f}", f"{m['p99_alone']:.1f} / {m['p99']:.1f}", ", ".join(missed) or "met"])
    report("adversary", "(j) Adversaries and their neighbours",
           ["adversary", "cap", "outcome", "s", "MB before", "MB at the peak", "reach", "MB 5 s after its end",
            "neighbour's p99, ms, alone / beside it", "reach met or missed by"], rows,
           [f"{a.rows / 1e6:.0f} M rows of keys and hop, {year_rows / 1e6:.0f} M of ns; memory is resident, MB of 10^6 bytes; "
            f"the neighbour was alone for {a.alone} s; back: nine tenths of what it took, to 10 MB"])


if __name__ == "__main__":
    main()
