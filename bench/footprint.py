#!/usr/bin/env python3
"""(d) Start-up time, memory when idle and with 100 and 1,000 open streaming queries, size of the binary."""
import os
import time

from common import WEIR, Weir, median, report

QUERIES = (100, 1_000)


def settled(usage):
    """Memory once it no longer moves: resident and anonymous MB."""
    last = usage.memory_mb()
    for _ in range(50):
        time.sleep(0.2)
        now = usage.memory_mb()
        if abs(now[0] - last[0]) < 0.1:
            return now
        last = now
    return last


def main():
    starts = []
    for _ in range(9):
        server = Weir()
        starts.append(server.start() * 1e3)
        server.__exit__()
    rows = [["start to ready line, ms (median of 9)", f"{median(starts):.0f}", "≤ 200"],
            ["binary, MB", f"{os.path.getsize(WEIR) / 1e6:.1f}", "≤ 100"]]
    with Weir() as server:
        idle = settled(server.usage)
        rows.append(["idle, MB resident (anonymous)", f"{idle[0]:.0f} ({idle[1]:.0f})", "≤ 60"])
        client = server.client()
        client.send("CREATE STREAM s (k uint8, v uint64)")
        open_queries = []
        for count in QUERIES:
            while len(open_queries) < count:
                one = server.client(streaming=True)
                open_queries.append((one, one.follow("SELECT k, v FROM s WHERE k = 1 FORMAT TSV")))
            client.send("INSERT INTO s (k, v) FORMAT TSV", b"1\t%d\n" % count)
            for _, answer in open_queries:
                assert answer.readline() == b"1\t%d\n" % count
            now = settled(server.usage)
            rows.append([f"{count:,} open streaming queries, each having had a row: MB more than idle",
                         f"{now[0] - idle[0]:.0f} ({now[1] - idle[1]:.0f})", "≤ 200" if count == 1_000 else ""])
    report("footprint", "(d) Footprint", ["what", "measured", "reach"], rows)


if __name__ == "__main__":
    main()
