"""streaming_flink.py DATA SCRATCH TABLE: one table of streaming.py as a Flink SQL job (flink_job.py), state on the heap or in RocksDB.
Prints the seconds of the job."""
import sys

from flink_job import P99, run, sink, source

data, scratch, table = sys.argv[1:4]
name, _, variant = table.partition("+")
words = set(variant.split("+"))
COLUMNS, heap, more = "k BIGINT, v DOUBLE", "2g", {}
win = source(data + "/win", COLUMNS, 2)


def windows(function, key="k"):
    return sink("w TIMESTAMP(3), k BIGINT, c BIGINT, s DOUBLE",
                f"SELECT window_start, {key}, COUNT(*), SUM(v) FROM TABLE({function}) GROUP BY window_start, window_end, {key}")


if name == "w1":
    heap = "14g" if "p99" in words else "6g"
    p, function, column = (", p99(v)", P99, ", p DOUBLE") if "p99" in words else ("", "", "")
    job = function + source(data + "/events10m", COLUMNS) + sink(
        "k BIGINT, c BIGINT, a DOUBLE, b DOUBLE" + column, f"SELECT k, COUNT(*), MIN(v), MAX(v){p} FROM ev GROUP BY k")
elif name == "w2":
    job = win + windows(f"TUMBLE(TABLE ev, DESCRIPTOR(et), INTERVAL '{variant}' SECOND)")
elif name == "hop10":
    job = win + windows("HOP(TABLE ev, DESCRIPTOR(et), INTERVAL '1' SECOND, INTERVAL '10' SECOND)")
elif name == "session":
    heap = "6g"
    users = "CREATE VIEW users AS SELECT et, v, MOD(MOD(CAST(v * 1000000 AS BIGINT), 25000) + ts * 5 / 2, 100000) AS u FROM ev;\n"
    job = win + users + windows("SESSION(TABLE users PARTITION BY u, DESCRIPTOR(et), INTERVAL '5' SECOND)", "u")
elif name in ("update", "perevent"):
    if name == "update":
        more = {"table.exec.mini-batch.enabled": "true", "table.exec.mini-batch.allow-latency": "100 ms",
                "table.exec.mini-batch.size": "10000"}
    job = source(data + "/win", COLUMNS) + sink("k BIGINT, c BIGINT, s DOUBLE", "SELECT k, COUNT(*), SUM(v) FROM ev GROUP BY k")
else:
    job = source(data + "/win", COLUMNS) + sink("ts BIGINT, k BIGINT, v DOUBLE",
                                                "SELECT ts, k + 1, v * 1.8 + 32 FROM ev WHERE MOD(k, 10) = 3")
run(job, scratch, heap, "rocksdb" in words, more)
