#!/usr/bin/env python3
"""(a) Acknowledged ingest: rows/s and MB/s with 1 and 8 writers, 10,000 rows an INSERT, beside chdb's
MergeTree given the same bytes, with and without fsync_after_insert.

Weir runs as a server and is sent the bytes over HTTP by one Python process; chdb reads them from files
within its own process, which spares it the network and a client. Runs alternate; the figure is the
median. CPU seconds are the server's or chdb's own process's."""
import argparse
import json
import os
import subprocess
import threading
import time

from common import WORK, Weir, directory_bytes, log, median, python_of, report

HERE = os.path.dirname(os.path.abspath(__file__))
BODIES = os.path.join(WORK, "bodies")
COLUMNS = ("device string, ts int64, temperature float64, humidity float64, lat float64, lon float64, site string, "
           "status string")
NAMES = "device, ts, temperature, humidity, lat, lon, site, status"


def weir(kind, writers, seconds, settings):
    files = sorted(os.listdir(os.path.join(BODIES, kind)))
    bodies = [open(os.path.join(BODIES, kind, f), "rb").read() for f in files]
    done = [0] * writers
    with Weir() as server:
        server.client().send(f"CREATE STREAM sensors ({COLUMNS})")
        until = time.perf_counter() + seconds

        def write(me):
            client, i = server.client(), me
            while time.perf_counter() < until:
                client.send(f"INSERT INTO sensors ({NAMES}) FORMAT {kind}", bodies[i % len(bodies)], **settings)
                done[me] += 1
                i += writers

        cpu, began = server.usage.cpu_s(), time.perf_counter()
        threads = [threading.Thread(target=write, args=(i,)) for i in range(writers)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        took, cpu = time.perf_counter() - began, server.usage.cpu_s() - cpu
        rows = int(server.client().query("SELECT count() FROM sensors"))
        assert rows == sum(done) * 10_000, (rows, done)
        return {"rows": rows, "seconds": took, "cpu_s": cpu}


def chdb(kind, writers, seconds, fsync):
    out = subprocess.run(
        [python_of("chdb"), os.path.join(HERE, "peers", "ingest_chdb.py"), BODIES, kind, str(writers), str(int(fsync)),
         str(seconds), os.path.join(WORK, "scratch-chdb")], check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seconds", type=float, default=6)
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--formats", default="JSONEachRow,RowBinary,ArrowStream")
    ap.add_argument("--only-weir", action="store_true", help="for profiling")
    a = ap.parse_args()
    subprocess.run([python_of("chdb"), os.path.join(HERE, "peers", "bodies.py"), BODIES], check=True)
    systems = [("weir", lambda k, w: weir(k, w, a.seconds, {})),
               ("chdb, fsync", lambda k, w: chdb(k, w, a.seconds, True)),
               ("chdb, no fsync", lambda k, w: chdb(k, w, a.seconds, False))]
    if a.only_weir:
        systems = systems[:1]
    rows = []
    for kind in a.formats.split(","):
        body = directory_bytes(os.path.join(BODIES, kind)) / len(os.listdir(os.path.join(BODIES, kind)))
        for writers in (1, 8):
            runs = {name: [] for name, _ in systems}
            for _ in range(a.repeat):
                for name, run in systems:
                    runs[name].append(run(kind, writers))
                    log(kind, writers, name, runs[name][-1])
            rate = {name: median(r["rows"] / r["seconds"] for r in rs) for name, rs in runs.items()}
            for name, rs in runs.items():
                cpu = median(r["cpu_s"] / r["rows"] * 1e6 for r in rs)
                ratio = rate["weir"] / rate[name]
                rows.append([kind, writers, name, f"{rate[name] / 1e6:.2f}", f"{rate[name] * body / 10_000 / 1e6:.0f}",
                             f"{cpu:.2f}", "" if name == "weir" else f"{ratio:.2f}"])
    report("ingest", "(a) Acknowledged ingest, 10,000 rows an INSERT",
           ["format", "writers", "system", "M rows/s", "MB/s", "CPU s per M rows", "weir / it"], rows,
           [f"{a.repeat} runs of {a.seconds:.0f} s each, alternating; median",
            "weir acknowledges after the fsync (ack='durable') and is sent the bytes over HTTP; chdb reads them in its "
            "own process"])


if __name__ == "__main__":
    main()
