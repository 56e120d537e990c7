#!/usr/bin/env python3
"""(h) Nexmark over 20 M bids fed from history, M rows/s, beside Flink SQL where it is set up (FLINK=1 bench/setup.sh). 12 minutes,
2 without Flink.

Those queries of q0 to q12 that read bids only and need no join:
  q0   every bid as it is                        q1   its price in euros
  q2   bids for some auctions                    q5   hot items: of a hop of 10 s by 2 s the auction with most bids
  q7   the highest bid of each 10 s              q11  bids of a bidder's session (idle 10 s)
  q12  bids of a bidder in 10 s of processing time
q5 and q7 are a join with the maximum in the original. Here one row leaves for each window (of equals one): by row_number() in q5; in
q7 by arg_max() in Weir, row_number() in Flink. Left out: q3, q4, q6, q8, q9 (joins of bids, auctions and persons) and q10 (writes
files). Bids have no text columns (channel, url, extra). The generator is gen.py's: 100 k events a second, the delay is 0.

Flink reads raw records of the same rows."""
import argparse
import os

from common import DATA, ROWS, RUN_SECONDS_MAX, WORK, Weir, log, medians, peer, python_of, report, stream

BIDS = ROWS * 2 // 5
STORE = os.path.join(WORK, "nexmark")
QUERIES = {
    "q0": "SELECT auction, bidder, price, _tp_time FROM bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, _tp_time FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q5": "SELECT window_start, auction, n FROM ("
          "SELECT window_start, auction, n, row_number() OVER (PARTITION BY window_start ORDER BY n DESC) AS place FROM ("
          "SELECT window_start, auction, count() AS n FROM hop(bid, 2s, 10s) GROUP BY window_start, auction)) WHERE place <= 1",
    "q7": "SELECT window_start, max(price), arg_max(auction, price), arg_max(bidder, price) FROM tumble(bid, 10s) GROUP BY window_start",
    "q11": "SELECT bidder, count(), window_start, window_end FROM session(bid, 10s) GROUP BY bidder, window_start, window_end",
    "q12": "SELECT bidder, count(), window_start, window_end FROM tumble(bid, now64(), 10s) GROUP BY bidder, window_start, window_end",
}


def load():
    os.makedirs(STORE)
    with Weir(data_dir=STORE) as server:
        client = server.client()
        client.send("CREATE STREAM bid (auction int64, bidder int64, price int64) SETTINGS logstore_retention_bytes = 0")
        server.load("bid", os.path.join(DATA, "bid.parquet"))
        client.send("SYSTEM FLUSH STREAM bid"), client.send("SYSTEM MERGE STREAM bid")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", help="queries, comma-separated")
    ap.add_argument("--systems", help="weir, flink; default: those that are set up")
    ap.add_argument("--repeat", type=int, default=3)
    a = ap.parse_args()
    systems = a.systems.split(",") if a.systems else ["weir", *(["flink"] if os.path.exists(python_of("flink")) else [])]
    if "weir" in systems and not os.path.exists(STORE):
        load()
    rows = []
    for name in a.only.split(",") if a.only else QUERIES:
        rates = {}
        for system in systems:
            if system == "weir":
                m = medians(lambda: stream(STORE, QUERIES[name]), a.repeat)
            else:
                m = medians(lambda: peer("flink", "nexmark_flink.py", DATA, os.path.join(WORK, "streaming-flink"), name), 1)
            if m is None:
                rows.append([name, system, f"failed or > {RUN_SECONDS_MAX} s", "", "", "", "", ""])
            else:
                rates[system] = BIDS / m["seconds"] / 1e6
                ratio = f"{rates['weir'] / rates['flink']:.1f}" if len(rates) == 2 else ""
                rows.append([name, system, f"{rates[system]:.2f}", f"{m['seconds']:.2f}", f"{m['cpu_s']:.1f}", f"{m['rss_mb']:.0f}",
                             f"{m['rows_out']:,.0f}" if "rows_out" in m else "", ratio])
            log(*rows[-1])
    report("nexmark", f"(h) Nexmark, {BIDS / 1e6:.1f} M bids from history",
           ["query", "system", "M rows/s", "s", "CPU s", "peak RSS, MB", "rows out", "weir / it"], rows,
           [f"median of {a.repeat} (Flink: 1, without checkpoints, into a black hole; its seconds have about 8 of start-up and planning)"])


if __name__ == "__main__":
    main()
