"""nexmark_flink.py DATA SCRATCH QUERY: a query of nexmark.py as a Flink SQL job (flink_job.py). Prints the seconds of the job."""
import sys

from flink_job import run, sink, source

data, scratch, name = sys.argv[1:4]
BID = "auction BIGINT, bidder BIGINT, price BIGINT"
TUMBLE = "TUMBLE(TABLE ev, DESCRIPTOR({}), INTERVAL '10' SECOND)"
BEST = ("SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY {by} DESC) AS place "
        "FROM {rows}) WHERE place <= 1")
COUNTS = ("SELECT bidder, COUNT(*), window_start, window_end FROM TABLE({}) GROUP BY bidder, window_start, window_end")
columns, select = {
    "q0": (BID + ", ts BIGINT", "SELECT auction, bidder, price, ts FROM ev"),
    "q1": ("auction BIGINT, bidder BIGINT, price DOUBLE, ts BIGINT",
           "SELECT auction, bidder, CAST(0.908 AS DOUBLE) * CAST(price AS DOUBLE), ts FROM ev"),
    "q2": ("auction BIGINT, price BIGINT", "SELECT auction, price FROM ev WHERE MOD(auction, 123) = 0"),
    "q5": ("w TIMESTAMP(3), auction BIGINT, n BIGINT", BEST.format(
        columns="window_start, auction, n", by="n",
        rows="(SELECT window_start, window_end, auction, COUNT(*) AS n FROM TABLE(HOP(TABLE ev, DESCRIPTOR(et), INTERVAL '2' SECOND, "
             "INTERVAL '10' SECOND)) GROUP BY window_start, window_end, auction)")),
    "q7": ("w TIMESTAMP(3), price BIGINT, auction BIGINT, bidder BIGINT", BEST.format(
        columns="window_start, price, auction, bidder", by="price", rows=f"TABLE({TUMBLE.format('et')})")),
    "q11": ("bidder BIGINT, n BIGINT, a TIMESTAMP(3), b TIMESTAMP(3)",
            COUNTS.format("SESSION(TABLE ev PARTITION BY bidder, DESCRIPTOR(et), INTERVAL '10' SECOND)")),
    "q12": ("bidder BIGINT, n BIGINT, a TIMESTAMP(3), b TIMESTAMP(3)", COUNTS.format(TUMBLE.format("pt"))),
}[name]
run(source(data + "/bid", BID, 0) + sink(columns, select), scratch, "6g" if name == "q11" else "2g")
