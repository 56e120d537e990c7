#!/usr/bin/env python3
"""gen.py DIR [--raw]: the data of the tables; the same seed gives the same bytes.

  events1m.parquet  50 M rows, in time order: ts int64 (ms), key int64 uniform in [0, 1 M),
                    value float64
  events10m.parquet the same with 10 M keys
  win.parquet       50 M rows, 100 k a second of event time, out of order by up to 2 s;
                    key int64 in [0, 1000), value float64
Parquet files are zstd without dictionary, 1 M rows a row group: those of the peers' runs.
--raw writes events10m and win as records of 24 bytes beside them, for peers without a fast reader.
"""
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 50_000_000
CHUNK_ROWS = 1_000_000
T0_MS = 1_760_000_000_000
SCHEMA = pa.schema([("ts", pa.int64()), ("key", pa.int64()), ("value", pa.float64())])


def write(path, chunk):
    with pq.ParquetWriter(path + ".tmp", SCHEMA, compression="zstd", use_dictionary=False) as out:
        for first in range(0, ROWS, CHUNK_ROWS):
            out.write_table(pa.table(chunk(first, CHUNK_ROWS), schema=SCHEMA), row_group_size=CHUNK_ROWS)
    os.rename(path + ".tmp", path)


def raw(path):
    file = pq.ParquetFile(path + ".parquet")
    with open(path + ".bin.tmp", "wb") as out:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            records = np.empty(table.num_rows, [("ts", "<i8"), ("key", "<i8"), ("value", "<f8")])
            for name in table.column_names:
                records[name] = table[name].to_numpy()
            out.write(records.tobytes())
    os.rename(path + ".bin.tmp", path + ".bin")


def events(first, n, keys, seed):
    g = np.random.Generator(np.random.Philox(key=[seed, first]))
    ts = T0_MS + np.arange(first, first + n, dtype=np.int64) // 100
    return [ts, g.integers(0, keys, n, dtype=np.int64), g.gamma(2.0, 50.0, n)]


def events1m(first, n):
    return events(first, n, 1_000_000, 2)


def events10m(first, n):
    return events(first, n, 10_000_000, 1)


def win(first, n):
    g = np.random.Generator(np.random.Philox(key=[3, first]))
    arrival = T0_MS + 2000 + np.arange(first, first + n, dtype=np.int64) // 100
    late = np.where(g.random(n) < 0.5, 0, g.integers(0, 2000, n))
    return [arrival - late, g.integers(0, 1000, n, dtype=np.int64), g.gamma(2.0, 50.0, n)]


if __name__ == "__main__":
    data = sys.argv[1]
    os.makedirs(data, exist_ok=True)
    for table in (events1m, events10m, win):
        path = os.path.join(data, table.__name__)
        if not os.path.exists(path + ".parquet"):
            write(path + ".parquet", table)
        if "--raw" in sys.argv and table is not events1m and not os.path.exists(path + ".bin"):
            raw(path)
