#!/usr/bin/env python3
"""(f) State over a stream fed from history: rows a second, CPU seconds and peak memory of the whole process, beside chdb's and
DataFusion's bounded query over Parquet and, where it is set up (FLINK=1 bench/setup.sh), Flink.

  w1       GROUP BY key, 10 M keys: count, min, max; w1+p99: and a quantile
  w2+1     tumble of 1 s (w2+5: 5 s), 1,000 keys: count, sum; rows out of order by up to 2 s, delay 2 s
  w3       filter (a tenth passes) and project
  w1+feed, w2+feed  the source alone: the columns of w1 and w2 for a plan that does next to nothing

Weir runs each as a streaming query from the earliest row, into FORMAT Null. `SYSTEM SYNC QUERY` returns once all of history and the
emission at its end have been taken by the client; that is the end of the clock."""
import argparse
import json
import os
import subprocess
import sys
import threading
import time

from common import DATA, WORK, Peak, Usage, Weir, directory_bytes, log, median, python_of, report

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = 50_000_000
STORE = os.path.join(WORK, "streaming")
QUERIES = {
    "w1": "SELECT key, count(), min(value), max(value) FROM events10m GROUP BY key EMIT PERIODIC 1h",
    "w1+p99": "SELECT key, count(), min(value), max(value), p99(value) FROM events10m GROUP BY key EMIT PERIODIC 1h",
    "w2+1": "SELECT window_start, key, count(), sum(value) FROM tumble(win, 1s) GROUP BY window_start, key "
            "EMIT AFTER WINDOW CLOSE WITH DELAY 2s",
    "w2+5": "SELECT window_start, key, count(), sum(value) FROM tumble(win, 5s) GROUP BY window_start, key "
            "EMIT AFTER WINDOW CLOSE WITH DELAY 2s",
    "w3": "SELECT _tp_time, key + 1, value * 1.8 + 32 FROM win WHERE key % 10 = 3",
    # Nothing passes, and no index says so: the columns of w1, in no order, and those of w2, in order.
    "w1+feed": "SELECT count() FROM events10m WHERE key * value < 0 EMIT PERIODIC 1h",
    "w2+feed": "SELECT key FROM win WHERE key * value < 0 AND date_diff('second', _tp_time, _tp_append_time) < 0",
}
PEERS = {"chdb": ("w1", "w1+p99", "w2+1", "w2+5", "w3"), "datafusion": ("w1", "w2+1", "w2+5", "w3"),
         "flink": ("w1", "w1+rocksdb", "w1+p99", "w2+1", "w2+5", "w3")}
LOAD = """
import io, sys, pyarrow as pa, pyarrow.parquet as pq
sys.path.insert(0, {here!r})
from common import Client
c = Client({port})
f = pq.ParquetFile({path!r})
for i in range(f.num_row_groups):
    t, b = f.read_row_group(i), io.BytesIO()
    t = t.set_column(1, "key", t["key"].cast(pa.{key}()))
    t = t.set_column(0, "_tp_time", t["ts"].cast(pa.timestamp("ms", "UTC")))
    with pa.ipc.new_stream(b, t.schema) as w: w.write_table(t)
    c.send("INSERT INTO {table} (_tp_time, key, value) FORMAT ArrowStream", b.getvalue())
"""


def load():
    os.makedirs(STORE)
    with Weir(data_dir=STORE) as server:
        for table in ("events10m", "win"):
            client = server.client()
            key = "uint64" if table == "events10m" else "int64"
            client.send(f"CREATE STREAM {table} (key {key}, value float64) SETTINGS logstore_retention_bytes = 0")
            path = os.path.join(DATA, table + ".parquet")
            script = LOAD.format(here=HERE, port=server.port, path=path, table=table, key=key)
            subprocess.run([python_of("gen"), "-c", script], check=True)
            client.send(f"SYSTEM FLUSH STREAM {table}"), client.send(f"SYSTEM MERGE STREAM {table}")
        parts = client.query("SELECT count(), sum(bytes_on_disk) FROM system.parts WHERE active").split()
        log(f"weir: loaded, {parts[0]} parts, {parts[1]} bytes")


def weir(name, settings=""):
    with Weir(data_dir=STORE) as server:
        steer, follower = server.client(), server.client(streaming=True)
        query = f"{QUERIES[name]} SETTINGS seek_to = 'earliest'{settings} FORMAT Null"
        cpu, ended = server.usage.cpu_s(), []

        def run():
            try:
                follower.send(query, query_id="w")
            except Exception as e:
                ended.append(e)

        with Peak(server.process.pid) as peak:
            began = time.perf_counter()
            reader = threading.Thread(target=run, daemon=True)
            reader.start()
            while steer.query("SELECT count() FROM system.queries WHERE query_id = 'w'") == "0" and not ended:
                time.sleep(0.001)
            steer.send("SYSTEM SYNC QUERY 'w'")
            seconds = time.perf_counter() - began
            used = server.usage.cpu_s() - cpu
        if ended:
            raise RuntimeError(f"{name}: {ended[0]}")
        return {"seconds": seconds, "cpu_s": used, "rss_mb": peak.rss_mb, "anon_mb": peak.anon_mb}


def children(pid):
    out = [pid]
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                    out += children(int(p))
        except OSError:
            pass
    return out


class Tree(Usage):
    """The memory of a process and what it started."""

    def memory_mb(self):
        sums = [0.0, 0.0]
        for pid in children(self.pid):
            try:
                for i, mb in enumerate(Usage(pid).memory_mb()):
                    sums[i] += mb
            except OSError:
                pass
        return sums


def peer(who, name):
    if who == "flink":
        scratch = os.path.join(WORK, "streaming-flink")
        command = [python_of("flink"), os.path.join(HERE, "peers", "streaming_flink.py"), DATA, scratch, name]
    else:
        command = [python_of(who), os.path.join(HERE, "peers", "streaming_peer.py"), who, DATA, name]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = Peak(child.pid)
    peak.usage = Tree(child.pid)
    with peak:
        out = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{who} {name} ended with {child.returncode}")
    figures = json.loads(out.strip().splitlines()[-1])
    return {"seconds": figures["seconds"], "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": peak.rss_mb,
            "anon_mb": peak.anon_mb}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", help="tables, comma-separated")
    ap.add_argument("--systems", help="weir, chdb, datafusion, flink; default: those that are set up")
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--settings", default="", help="more settings of Weir's queries, such as max_memory_usage=200000000")
    a = ap.parse_args()
    systems = a.systems.split(",") if a.systems else ["weir", *(p for p in PEERS if os.path.exists(python_of(p)))]
    only = a.only.split(",") if a.only else None
    if "weir" in systems and not os.path.exists(STORE):
        load()
    runs = [(s, n) for n in (*QUERIES, "w1+rocksdb") for s in systems if n in (QUERIES if s == "weir" else PEERS[s])]
    rows = []
    for system, name in runs:
        if only and name not in only:
            continue
        times = 1 if system == "flink" else a.repeat
        settings = ", " + a.settings if a.settings else ""
        try:
            all_ = [weir(name, settings) if system == "weir" else peer(system, name) for _ in range(times)]
        except RuntimeError as e:
            log(e)
            rows.append([name, system, "failed", "", "", "", ""])
            continue
        m = {key: median([one[key] for one in all_]) for key in all_[0]}
        rows.append([name, system, f"{ROWS / m['seconds'] / 1e6:.2f}", f"{m['seconds']:.2f}", f"{m['cpu_s']:.1f}",
                     f"{m['rss_mb']:.0f}", f"{m['anon_mb']:.0f}"])
        log(*rows[-1])
    notes = [f"50 M rows; median of {a.repeat} (Flink: 1); memory is the peak of the whole process, MB of 10^6 bytes"]
    if os.path.exists(STORE):
        notes.append(f"Weir's parts and logs: {directory_bytes(STORE) / 1e6:.0f} MB")
    report("streaming", "(f) State over a stream, fed from history",
           ["table", "system", "M rows/s", "s", "CPU s", "peak RSS", "anonymous"], rows, notes)


if __name__ == "__main__":
    main()
