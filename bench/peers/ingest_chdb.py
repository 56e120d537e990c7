"""ingest_chdb.py BODIES FORMAT WRITERS FSYNC SECONDS SCRATCH: inserts bodies of 10,000 rows into a MergeTree
for so long, one INSERT a body as a client would; prints rows, seconds and CPU seconds as JSON."""
import json
import os
import shutil
import sys
import threading
import time

import chdb

bodies, kind, writers, fsync, seconds, scratch = sys.argv[1:7]
writers, fsync, seconds = int(writers), fsync == "1", float(seconds)
files = sorted(os.path.join(bodies, kind, f) for f in os.listdir(os.path.join(bodies, kind)))
shutil.rmtree(scratch, ignore_errors=True)
os.makedirs(scratch)
main = chdb.connect(scratch)
COLUMNS = ("device String, ts Int64, temperature Float64, humidity Float64, lat Float64, lon Float64, "
           "site String, status String")
SYNC = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1" if fsync else ""
main.query(f"CREATE TABLE sensors ({COLUMNS}, at DateTime64(3) DEFAULT now64(3)) ENGINE = MergeTree ORDER BY tuple() {SYNC}")
NAMES = "device, ts, temperature, humidity, lat, lon, site, status"
done = [0] * writers
until = 0.0


def write(me):
    connection = chdb.connect(scratch)
    i = me
    while time.perf_counter() < until:
        connection.query(f"INSERT INTO sensors ({NAMES}) SELECT * FROM file('{files[i % len(files)]}', {kind}, '{COLUMNS}') "
                         "SETTINGS max_threads = 1, max_insert_threads = 1")
        done[me] += 1
        i += writers


began = time.perf_counter()
cpu = time.process_time()
until = began + seconds
threads = [threading.Thread(target=write, args=(i,)) for i in range(writers)]
[t.start() for t in threads]
[t.join() for t in threads]
took = time.perf_counter() - began
cpu = time.process_time() - cpu
rows = int(str(main.query("SELECT count() FROM sensors", "TabSeparated")).strip())
assert rows == sum(done) * 10_000, (rows, done)
print(json.dumps({"rows": rows, "seconds": took, "cpu_s": cpu}))
shutil.rmtree(scratch, ignore_errors=True)
