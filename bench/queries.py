"""The historical queries (W6): twelve over two tables of 50 M rows. T stands for the tables of each system."""
import statistics
import time

T0_MS = 1_760_000_000_000


def queries(events="events1m", win="win", quantile="quantile_cont(value, 0.99)", distinct="count(DISTINCT key)",
            approx="approx_count_distinct(key)"):
    return {
        "count": f"SELECT count(*) FROM {win}",
        "filter_sum": f"SELECT sum(value) FROM {win} WHERE value > 150",
        "group_1k": f"SELECT key, count(*), sum(value) FROM {win} GROUP BY key",
        "group_1m": "SELECT count(*), sum(c), sum(mn), sum(mx) FROM (SELECT key, count(*) AS c, min(value) AS mn, "
                    f"max(value) AS mx FROM {events} GROUP BY key) q",
        "topk": f"SELECT key, count(*) AS c FROM {events} GROUP BY key ORDER BY c DESC, key LIMIT 10",
        "range_1pct": f"SELECT count(*), avg(value) FROM {win} WHERE ts >= {T0_MS + 200000} AND ts < {T0_MS + 205000}",
        "point_range": f"SELECT ts, key, value FROM {events} WHERE key = 123456 AND ts >= {T0_MS + 100000} "
                       f"AND ts < {T0_MS + 300000}",
        "point_all": f"SELECT count(*), max(value) FROM {events} WHERE key = 123456",
        "quantile": f"SELECT {quantile} FROM {win}",
        "distinct": f"SELECT {distinct} FROM {events}",
        "distinct_approx": f"SELECT {approx} FROM {events}",
        "top_rows": f"SELECT ts, key, value FROM {win} ORDER BY value DESC LIMIT 10",
    }


def measure(run, queries, cold=None, only=None):
    """{name: {cold_ms, hot_ms}}: the first run after `cold()`, then the median of five."""
    out = {}
    for name, query in queries.items():
        if only and name not in only:
            continue
        if cold:
            cold()
        times = []
        for _ in range(6):
            began = time.perf_counter()
            run(query)
            times.append((time.perf_counter() - began) * 1e3)
        out[name] = {"cold_ms": times[0], "hot_ms": statistics.median(times[1:])}
    return out
