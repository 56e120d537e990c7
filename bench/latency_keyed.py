#!/usr/bin/env python3
"""(g) From sending an INSERT to the changed result of its key, at 50,000 rows/s: GROUP BY over 10,000 keys, EMIT ON UPDATE, 100 INSERTs
of 500 rows a second, beside the fsync latency of the disk. 3 minutes.

One process inserts, another reads all changes (one for each key of a batch). The first row of the n-th INSERT is of key n and carries
the time it was sent; its latency ends with the first change of key n that shows it."""
import argparse
import multiprocessing
import random
import struct
import time

from common import Client, Weir, log, median, percentile, report
from latency import PER_SECOND, disk_ms

KEYS, ROWS = 10_000, 500
# key, when it was sent (0: not the first row), value
ROW = struct.Struct("<QqQ")
# key, count, the latest time it was sent, sum
CHANGE = struct.Struct("<QQqQ")
QUERY = "SELECT key, count(), max(at), sum(v) FROM s GROUP BY key EMIT ON UPDATE FORMAT RowBinary"


def insert(port, seconds, settings, acked):
    client, draws, out = Client(port), random.Random(1), []
    rest = [b"".join(ROW.pack(draws.randrange(KEYS), 0, draws.randrange(1000)) for _ in range(ROWS - 1)) for _ in range(100)]
    due = time.monotonic() + 0.2
    for i in range(PER_SECOND * seconds):
        due += 1 / PER_SECOND
        time.sleep(max(0, due - time.monotonic()))
        began = time.monotonic_ns()
        client.send("INSERT INTO s (key, at, v) FORMAT RowBinary", ROW.pack(i, began, 1) + rest[i % len(rest)], **settings)
        out.append((time.monotonic_ns() - began) / 1e6)
    acked.send(out)


def read(port, count, ready, out):
    answer, got, left, changes = Client(port).follow(QUERY), {}, b"", 0
    ready.set()
    while len(got) < count:
        left += answer.read1(1 << 20)
        now, whole = time.monotonic_ns(), len(left) - len(left) % CHANGE.size
        for key, _, at, _ in CHANGE.iter_unpack(left[:whole]):
            if at and key not in got:
                got[key] = (now - at) / 1e6
        changes, left = changes + whole // CHANGE.size, left[whole:]
    out.send(([got[i] for i in range(count)], changes))


def run(seconds, settings):
    with Weir() as server:
        server.client().send("CREATE STREAM s (key uint64, at int64, v uint64)")
        (acked, acks), (got, gots) = multiprocessing.Pipe(False), multiprocessing.Pipe(False)
        ready = multiprocessing.Event()
        reader = multiprocessing.Process(target=read, args=(server.streaming_port, PER_SECOND * seconds, ready, gots), daemon=True)
        writer = multiprocessing.Process(target=insert, args=(server.port, seconds, settings, acks), daemon=True)
        reader.start(), ready.wait(), writer.start()
        if not acked.poll(seconds * 3 + 60) or not got.poll(60):
            raise RuntimeError("not all rows had a result in time")
        (latencies, changes), acknowledged = got.recv(), acked.recv()
        reader.join(), writer.join()
        return latencies, acknowledged, changes / seconds


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seconds", type=int, default=15, help=f"at most {KEYS // PER_SECOND}")
    ap.add_argument("--repeat", type=int, default=3)
    a = ap.parse_args()
    size = 4096 * -(-(ROWS * 40 + 1000) // 4096)
    table = []
    for ack in ("durable", "written"):
        runs = []
        for _ in range(a.repeat):
            before = disk_ms(size, a.seconds // 3)
            try:
                result, acked, changes = run(a.seconds, {"ack": ack})
            except (RuntimeError, OSError, EOFError) as e:
                log(e)
                continue
            disk = before + disk_ms(size, a.seconds // 3)
            skip = PER_SECOND  # the first second warms up
            runs.append([*(percentile(x, p) for x in (result[skip:], acked[skip:], disk) for p in (50, 99)), changes])
        table.append([ack, *([f"{median(r[i] for r in runs):.2f}" for i in range(6)] + [f"{median(r[6] for r in runs):,.0f}"]
                             if runs else ["failed", *[""] * 6])])
    report("latency_keyed", "(g) Insert to changed result of a GROUP BY, milliseconds",
           ["ack", "result p50", "result p99", "ack p50", "ack p99", "fdatasync p50", "fdatasync p99", "changes/s"], table,
           [f"50,000 rows/s in 100 INSERTs a second for {a.seconds} s, 10,000 keys; median of {a.repeat} runs; reach: result p99 ≤ 10"])


if __name__ == "__main__":
    main()
