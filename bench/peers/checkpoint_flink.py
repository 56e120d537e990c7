"""checkpoint_flink.py SCRATCH KEYS ROUNDS: what incremental checkpoints of `k, count(*), sum(v) … GROUP BY k` in RocksDB cost when all
keys are new, then when 0.1 %, 1 % and all of them changed since the last. Rows come as CSV files that the job finds;
a checkpoint is asked for over REST once they are in. Prints JSON: [[share, MB written, ms], …], medians."""
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from flink_job import command, sink

scratch, keys, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
WAIT_SECONDS_MAX = 1200
arrived, ready, kept = (os.path.join(scratch, d) for d in ("arrived", "ready", "kept"))
for path in (arrived, ready, kept):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def until(what, look):
    began = time.monotonic()
    while time.monotonic() - began < WAIT_SECONDS_MAX:
        try:
            found = look()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"waited in vain until {what}")


sent = 0


def fill(step):
    """Each `step`-th key has one more row; returns once they are counted."""
    global sent
    name = f"{sent:012d}.csv"
    with open(os.path.join(ready, name), "w") as f:
        for first in range(0, keys, step * 100_000):
            f.write("".join(f"{k},{k % 1000}\n" for k in range(first, min(first + step * 100_000, keys), step)))
    sent += len(range(0, keys, step))
    os.rename(os.path.join(ready, name), os.path.join(arrived, name))

    def read():
        vertices = ask(f"/jobs/{job}")["vertices"]
        return vertices[-1]["metrics"]["read-records"] >= sent
    until("the rows are in", read)


def checkpoint():
    before = ask(f"/jobs/{job}/checkpoints")["counts"]["completed"]
    ask(f"/jobs/{job}/checkpoints", {"checkpointType": "CONFIGURED"})
    until("a checkpoint is complete", lambda: ask(f"/jobs/{job}/checkpoints")["counts"]["completed"] > before)
    last = ask(f"/jobs/{job}/checkpoints")["latest"]["completed"]
    return last["checkpointed_size"] / 1e6, last["end_to_end_duration"]


text = (f"CREATE TABLE ev (k BIGINT, v BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{os.path.abspath(arrived)}', "
        "'format' = 'csv', 'source.monitor-interval' = '200ms');\n"
        + sink("k BIGINT, c BIGINT, s BIGINT", "SELECT k, COUNT(*), SUM(v) FROM ev GROUP BY k"))
options = {"rest.port": port, "rest.bind-port": port, "execution.checkpointing.interval": "10 d",
           "execution.checkpointing.incremental": "true", "execution.checkpointing.storage": "filesystem",
           "execution.checkpointing.dir": f"file://{os.path.abspath(kept)}"}
flink = subprocess.Popen(command(text, scratch, "4g", True, options), stdout=subprocess.DEVNULL)
try:
    job = until("the job runs", lambda: [j["id"] for j in ask("/jobs")["jobs"] if j["status"] == "RUNNING"])[0]
    fill(1)
    out = [["all, new", *checkpoint()]]
    for share in (0.001, 0.01, 1.0):
        runs = []
        # All of them once: a round takes minutes.
        for _ in range(rounds if share < 1 else 1):
            fill(round(1 / share))
            runs.append(checkpoint())
        out.append([f"{share:.1%}", *(statistics.median(r[i] for r in runs) for i in (0, 1))])
    print(json.dumps(out))
finally:
    flink.kill()
    flink.wait()
