"""streaming_flink.py DATA SCRATCH TABLE: one table of streaming.py as a Flink SQL job in one JVM (mini-cluster, two slots, state on
the heap or in RocksDB), reading raw records and writing to a black hole, without checkpoints, objects reused: as favourable as
can be. Prints the seconds of the job."""
import glob
import importlib.util
import json
import os
import subprocess
import sys

data, scratch, table = sys.argv[1:4]
name, _, variant = table.partition("+")
words = set(variant.split("+"))
here = os.path.dirname(os.path.abspath(__file__))
lib = os.path.join(os.path.dirname(importlib.util.find_spec("pyflink").origin), "lib")
classes = os.path.join(scratch, "classes")
services = os.path.join(classes, "META-INF", "services")
os.makedirs(services, exist_ok=True), os.makedirs(os.path.join(scratch, "tmp"), exist_ok=True)
if not os.path.exists(os.path.join(classes, "peers")):
    with open(os.path.join(services, "org.apache.flink.table.factories.Factory"), "w") as f:
        f.write("peers.FastBin\n")
    sources = glob.glob(os.path.join(here, "flink", "*.java"))
    subprocess.run(["javac", "-nowarn", "-cp", lib + "/*", "-d", classes, *sources], check=True)


def source(file, time=""):
    return (f"CREATE TABLE ev (ts BIGINT, k BIGINT, v DOUBLE{time}) WITH ('connector' = 'fastbin', "
            f"'path' = '{data}/{file}.bin', 'rows' = '-1', 'readers' = '2');\n")


sink = "CREATE TABLE snk ({}) WITH ('connector' = 'blackhole');\nINSERT INTO snk {};\n"
if name == "w1":
    job = source("events10m") + sink.format("k BIGINT, c BIGINT, a DOUBLE, b DOUBLE",
                                            "SELECT k, COUNT(*), MIN(v), MAX(v) FROM ev GROUP BY k")
    if "p99" in words:
        job = ("CREATE TEMPORARY SYSTEM FUNCTION p99 AS 'peers.P99';\n" + source("events10m") +
               sink.format("k BIGINT, c BIGINT, a DOUBLE, b DOUBLE, p DOUBLE",
                           "SELECT k, COUNT(*), MIN(v), MAX(v), p99(v) FROM ev GROUP BY k"))
elif name == "w2":
    time = ", et AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR et AS et - INTERVAL '2' SECOND"
    job = source("win", time) + sink.format(
        "w TIMESTAMP(3), k BIGINT, c BIGINT, s DOUBLE",
        "SELECT window_start, k, COUNT(*), SUM(v) FROM TABLE(TUMBLE(TABLE ev, DESCRIPTOR(et), "
        f"INTERVAL '{variant.split('+')[0]}' SECOND)) GROUP BY window_start, window_end, k")
else:
    job = source("win") + sink.format("ts BIGINT, k BIGINT, v DOUBLE",
                                      "SELECT ts, k + 1, v * 1.8 + 32 FROM ev WHERE MOD(k, 10) = 3")
script = os.path.join(scratch, "job.sql")
with open(script, "w") as f:
    f.write(job)
options = {
    "parallelism.default": 2, "taskmanager.numberOfTaskSlots": 2, "pipeline.object-reuse": "true",
    "taskmanager.memory.managed.size": "2g" if "rocksdb" in words else "512m",
    "taskmanager.memory.network.min": "128m", "taskmanager.memory.network.max": "128m",
    "execution.checkpointing.storage": "jobmanager", "io.tmp.dirs": os.path.join(scratch, "tmp"),
    "state.backend.type": "rocksdb" if "rocksdb" in words else "hashmap",
}
if "rocksdb" in words:
    options["state.backend.rocksdb.localdir"] = os.path.join(scratch, "rocks")
opens = [word for module in ("lang", "util", "net", "io", "nio", "lang.reflect", "text", "time", "util.concurrent",
                             "util.concurrent.atomic", "util.concurrent.locks")
         for word in ("--add-opens", f"java.base/java.{module}=ALL-UNNAMED")]
opens += ["--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED"]
heap = ("14g" if "p99" in words else "6g") if name == "w1" else "2g"
command = ["java", f"-Xmx{heap}", "-XX:+ExitOnOutOfMemoryError", "-XX:MaxDirectMemorySize=2g", *opens, "-cp",
           classes + ":" + lib + "/*", "peers.PeerFlink", "streaming", script, *(f"{k}={v}" for k, v in options.items())]
out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
result = next(json.loads(line[7:]) for line in out.splitlines() if line.startswith("RESULT "))
print(json.dumps({"seconds": result["query_s"], "out": 0}))
