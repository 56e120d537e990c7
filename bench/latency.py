#!/usr/bin/env python3
"""(b) From sending an INSERT to its row in a streaming filter query, at 1 k and 100 k rows/s, beside the
fsync latency of the disk.

One process inserts 100 times a second, another reads the streaming query; one row of each INSERT passes
the filter and carries the time it was sent. Before and after each run the disk is asked for appends of
the size of the run's records with fdatasync, at the same pace."""
import argparse
import multiprocessing
import os
import struct
import tempfile
import time

from common import WORK, Weir, median, percentile, report

PER_SECOND = 100


def disk_ms(size, seconds):
    """Latencies of append + fdatasync into a preallocated file, milliseconds."""
    out = []
    with tempfile.NamedTemporaryFile(dir=WORK) as f:
        fd = f.fileno()
        os.posix_fallocate(fd, 0, size * PER_SECOND * (seconds + 1))
        data = os.urandom(size)
        due = time.monotonic()
        for i in range(PER_SECOND * seconds):
            due += 1 / PER_SECOND
            time.sleep(max(0, due - time.monotonic()))
            began = time.monotonic()
            os.pwrite(fd, data, i * size)
            os.fdatasync(fd)
            out.append((time.monotonic() - began) * 1e3)
    return out


def insert(port, rows, seconds, settings, acked):
    """Rows: k = 1 and the time on the first, k = 0 on the others."""
    from common import Client
    client, due, out = Client(port), time.monotonic() + 0.2, []
    rest = b"".join(struct.pack("<BqQ", 0, i, i * 7919) for i in range(rows - 1))
    for _ in range(PER_SECOND * seconds):
        due += 1 / PER_SECOND
        time.sleep(max(0, due - time.monotonic()))
        began = time.monotonic_ns()
        client.send("INSERT INTO s (k, at, v) FORMAT RowBinary", struct.pack("<BqQ", 1, began, 0) + rest, **settings)
        out.append((time.monotonic_ns() - began) / 1e6)
    acked.send(out)


def read(port, count, ready, out):
    from common import Client
    answer = Client(port).follow("SELECT at FROM s WHERE k = 1 FORMAT TSV")
    ready.set()
    got = []
    while len(got) < count:
        line = answer.readline()
        got.append((time.monotonic_ns() - int(line)) / 1e6)
    out.send(got)


def run(rows, seconds, settings):
    with Weir() as server:
        server.client().send("CREATE STREAM s (k uint8, at int64, v uint64)")
        (acked, acks), (got, gots) = multiprocessing.Pipe(False), multiprocessing.Pipe(False)
        ready = multiprocessing.Event()
        reader = multiprocessing.Process(target=read, args=(server.streaming_port, PER_SECOND * seconds, ready, gots))
        reader.start()
        ready.wait()
        writer = multiprocessing.Process(target=insert, args=(server.port, rows, seconds, settings, acks))
        writer.start()
        result = got.recv(), acked.recv()
        reader.join(), writer.join()
        return result


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seconds", type=int, default=15)
    ap.add_argument("--repeat", type=int, default=3)
    a = ap.parse_args()
    table = []
    for rate in (1_000, 100_000):
        rows = rate // PER_SECOND
        size = 4096 * -(-(rows * 40 + 1000) // 4096)
        for ack in ("durable", "written"):
            runs = []
            for _ in range(a.repeat):
                before = disk_ms(size, a.seconds // 3)
                result, acked = run(rows, a.seconds, {"ack": ack})
                disk = before + disk_ms(size, a.seconds // 3)
                skip = PER_SECOND  # the first second warms up
                runs.append([percentile(x, p) for x in (result[skip:], acked[skip:], disk) for p in (50, 99)])
            table.append([f"{rate:,}", ack, *(f"{median(r[i] for r in runs):.2f}" for i in range(6)),
                          f"{median(r[1] - r[5] for r in runs):.2f}"])
    report("latency", "(b) Insert to result of a streaming filter, milliseconds",
           ["rows/s", "ack", "result p50", "result p99", "ack p50", "ack p99", "fdatasync p50", "fdatasync p99",
            "result p99 − fdatasync p99"], table,
           [f"100 INSERTs a second for {a.seconds} s; median of {a.repeat} runs; fdatasync alone, before and after, of "
            "appends as large as the run's records"])


if __name__ == "__main__":
    main()
