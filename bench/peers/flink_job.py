"""A Flink SQL job in one JVM (mini-cluster, two slots), reading raw records and writing to a black hole, without checkpoints,
objects reused: as favourable as can be."""
import glob
import importlib.util
import json
import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
P99 = "CREATE TEMPORARY SYSTEM FUNCTION p99 AS 'peers.P99';\n"


def source(path, columns, delay_s=None):
    """A table `ev` of ts BIGINT and these; with a delay it has the event time `et`, always the processing time `pt`."""
    time = "" if delay_s is None else f", et AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR et AS et - INTERVAL '{delay_s}' SECOND"
    return (f"CREATE TABLE ev (ts BIGINT, {columns}, pt AS PROCTIME(){time}) WITH ('connector' = 'fastbin', "
            f"'path' = '{path}.bin', 'rows' = '-1', 'readers' = '2');\n")


def sink(columns, select):
    return f"CREATE TABLE snk ({columns}) WITH ('connector' = 'blackhole');\nINSERT INTO snk {select};\n"


def compiled(scratch, lib):
    sources = glob.glob(os.path.join(HERE, "flink", "*.java"))
    classes = os.path.join(scratch, "classes")
    done = os.path.join(classes, "done")
    if not os.path.exists(done) or os.path.getmtime(done) < max(map(os.path.getmtime, sources)):
        services = os.path.join(classes, "META-INF", "services")
        os.makedirs(services, exist_ok=True)
        with open(os.path.join(services, "org.apache.flink.table.factories.Factory"), "w") as f:
            f.write("peers.FastBin\n")
        subprocess.run(["javac", "-nowarn", "-cp", lib + "/*", "-d", classes, *sources], check=True)
        open(done, "w").close()
    return classes


def command(job, scratch, heap, rocksdb=False, more=()):
    """What runs a job. `heap`: -Xmx; state is on the heap or in RocksDB."""
    lib = os.path.join(os.path.dirname(importlib.util.find_spec("pyflink").origin), "lib")
    classes = compiled(scratch, lib)
    # What a job that was stopped has left.
    for name in ("tmp", "rocks"):
        shutil.rmtree(os.path.join(scratch, name), ignore_errors=True)
        os.makedirs(os.path.join(scratch, name))
    script = os.path.join(scratch, "job.sql")
    with open(script, "w") as f:
        f.write(job)
    options = {
        "parallelism.default": 2, "taskmanager.numberOfTaskSlots": 2, "pipeline.object-reuse": "true",
        "taskmanager.memory.managed.size": "2g" if rocksdb else "512m",
        "taskmanager.memory.network.min": "128m", "taskmanager.memory.network.max": "128m",
        "execution.checkpointing.storage": "jobmanager", "io.tmp.dirs": os.path.join(scratch, "tmp"),
        "state.backend.type": "rocksdb" if rocksdb else "hashmap", **dict(more),
    }
    if rocksdb:
        options["state.backend.rocksdb.localdir"] = os.path.join(scratch, "rocks")
    opens = [word for module in ("lang", "util", "net", "io", "nio", "lang.reflect", "text", "time", "util.concurrent",
                                 "util.concurrent.atomic", "util.concurrent.locks")
             for word in ("--add-opens", f"java.base/java.{module}=ALL-UNNAMED")]
    opens += ["--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED"]
    return ["java", f"-Xmx{heap}", "-XX:+ExitOnOutOfMemoryError", "-XX:MaxDirectMemorySize=2g", *opens, "-cp",
            classes + ":" + lib + "/*", "peers.PeerFlink", "streaming", script, *(f"{k}={v}" for k, v in options.items())]


def run(job, scratch, heap, rocksdb=False, more=()):
    """Prints the seconds of the job as JSON."""
    out = subprocess.run(command(job, scratch, heap, rocksdb, more), stdout=subprocess.PIPE, text=True, check=True).stdout
    result = next(json.loads(line[7:]) for line in out.splitlines() if line.startswith("RESULT "))
    print(json.dumps({"seconds": result["query_s"], "out": 0}))
