#!/usr/bin/env python3
"""(i) Growth of state: rows a second, peak memory and bytes a key of W1 (GROUP BY key: count, min, max) at 1 to 100 M keys, and of
tumble windows of 1 s by the number of keys and of windows that are open at a time (the delay); a table and bench/growth.svg. 15 minutes,
of which the load (200 M rows made inside the server, 5 GB of disk) takes five and is kept.

One stream has a random number and a value a row, 100,000 rows a second of event time; the key is the number modulo the keys. Bytes
a key: anonymous memory at its peak, less that of the source alone, by the keys held at the end; and what the query accounts for."""
import argparse
import json
import os
import subprocess

from common import HERE, WORK, Weir, directory_bytes, log, medians, python_of, report, stream

STORE = os.path.join(WORK, "growth")
SLICE = 10_000_000
# In one thread: in the order of the numbers.
FILL = ("INSERT INTO growth (_tp_time, h, value) SELECT from_unix_timestamp64_milli(to_int64(1760000000000 + int_div(number, 100))), "
        "xx_hash64(number), (xx_hash64(number, 1) % 1000003) / 1000 FROM numbers({}, {}) SETTINGS max_threads = 1")
FEED = "SELECT count() FROM growth WHERE h * value < 0 EMIT PERIODIC 1h"
W1 = "SELECT h % {} AS key, count(), min(value), max(value) FROM growth GROUP BY key EMIT PERIODIC 1h"
TUMBLE = ("SELECT window_start, h % {} AS key, count(), sum(value) FROM tumble(growth, 1s) GROUP BY window_start, key "
          "EMIT AFTER WINDOW CLOSE WITH DELAY {}s")


def load(store, rows):
    """Once; with another number of rows anew."""
    os.makedirs(store, exist_ok=True)
    with Weir(data_dir=store) as server:
        client = server.client()
        client.send("CREATE STREAM IF NOT EXISTS growth (h uint64, value float64) SETTINGS logstore_retention_bytes = 0")
        had = int(client.query("SELECT count() FROM table(growth)"))
        if had != rows:
            client.send("TRUNCATE STREAM growth")
            for first in range(0, rows, SLICE):
                client.send(FILL.format(first, min(SLICE, rows - first)))
            client.send("SYSTEM FLUSH STREAM growth"), client.send("SYSTEM MERGE STREAM growth")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rows", type=int, default=200_000_000)
    ap.add_argument("--keys", default="1000000,3000000,10000000,30000000,100000000", help="of W1; none: 0")
    ap.add_argument("--window-keys", default="1000,100000", help="of a tumble window; none: 0")
    ap.add_argument("--windows", default="1,10,100,1000", help="open at a time")
    a = ap.parse_args()
    numbers = lambda text: [int(n) for n in text.split(",") if int(n)]
    load(STORE, a.rows)
    base = medians(lambda: stream(STORE, FEED), 1) or {"anon_mb": 0}
    runs = [("w1", keys, 0, W1.format(keys)) for keys in numbers(a.keys)]
    runs += [("tumble", keys, open_, TUMBLE.format(keys, open_)) for keys in numbers(a.window_keys) for open_ in numbers(a.windows)]
    rows, points = [], []
    for name, keys, open_, query in runs:
        m = medians(lambda: stream(STORE, query), 1)
        if m is None:
            rows.append([name, f"{keys:,}", open_ or "", "failed", *[""] * 6])
        else:
            held = max(1, m["keys"])
            point = {"table": name, "keys": keys, "open": open_, "held": held, "rate": a.rows / m["seconds"] / 1e6, "mb": m["anon_mb"]}
            points.append(point)
            rows.append([name, f"{keys:,}", open_ or "", f"{held:,.0f}", f"{point['rate']:.2f}", f"{m['seconds']:.1f}",
                         f"{m['rss_mb']:.0f}", f"{m['anon_mb']:.0f}", f"{(m['anon_mb'] - base['anon_mb']) * 1e6 / held:.0f}" if held >= 1e6 else "",
                         f"{m['state_bytes'] / held:.0f}"])
        log(*rows[-1])
    report("growth", "(i) Growth of state with keys and open windows",
           ["table", "keys", "open windows", "keys held", "M rows/s", "s", "peak RSS, MB", "anonymous, MB", "bytes a key, process",
            "bytes a key, accounted"], rows,
           [f"{a.rows / 1e6:.0f} M rows, each line once; the source alone has {base['anon_mb']:.0f} MB anonymous; 'keys held' counts a key of "
            f"each open window; parts and logs: {directory_bytes(STORE) / 1e6:.0f} MB"])
    if points and os.path.exists(python_of("plot")):
        path = os.path.join(WORK, "results", "growth_points.json")
        with open(path, "w") as f:
            json.dump(points, f)
        subprocess.run([python_of("plot"), os.path.join(HERE, "growth_plot.py"), path, os.path.join(HERE, "growth.svg")], check=True)


if __name__ == "__main__":
    main()
