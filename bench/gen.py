#!/usr/bin/env python3
"""gen.py DIR [--raw] [TABLE …]: the data of the tables; the same seed gives the same bytes.

  events1m.parquet  50 M rows (BENCH_ROWS), in time order: ts int64 (ms), key int64 uniform in [0, 1 M),
                    value float64
  events10m.parquet the same with 10 M keys
  win.parquet       50 M rows, 100 k a second of event time, out of order by up to 2 s;
                    key int64 in [0, 1000), value float64
  ipv6.parquet      events10m with the text of an IPv6 address for each key
  bid.parquet       20 M bids of Nexmark (2/5 of the rows), of 21.7 M events, 100 k a second of event time: ts int64,
                    auction int64 (half of them for a hot one), bidder int64 (a quarter a hot one), price int64
Parquet files are zstd without dictionary, 1 M rows a row group: those of the peers' runs.
--raw writes events10m, win and bid as records of 8 bytes a column beside them, for peers without a fast reader.
"""
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common import ROWS

CHUNK_ROWS = 1_000_000
T0_MS = 1_760_000_000_000


def schema(**columns):
    return pa.schema([("ts", pa.int64()), *columns.items()])


def write(path, table):
    with pq.ParquetWriter(path + ".tmp", table.schema, compression="zstd", use_dictionary=False) as out:
        for first in range(0, table.rows, CHUNK_ROWS):
            chunk = table(first, min(CHUNK_ROWS, table.rows - first))
            out.write_table(pa.table(chunk, schema=table.schema), row_group_size=CHUNK_ROWS)
    os.rename(path + ".tmp", path)


def raw(path):
    file = pq.ParquetFile(path + ".parquet")
    with open(path + ".bin.tmp", "wb") as out:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            columns = [table[name].to_numpy() for name in table.column_names]
            records = np.empty(table.num_rows, [(n, c.dtype) for n, c in zip(table.column_names, columns)])
            for name, column in zip(table.column_names, columns):
                records[name] = column
            out.write(records.tobytes())
    os.rename(path + ".bin.tmp", path + ".bin")


def random(seed, first):
    return np.random.Generator(np.random.Philox(key=[seed, first]))


def events(first, n, keys, seed):
    g = random(seed, first)
    ts = T0_MS + np.arange(first, first + n, dtype=np.int64) // 100
    return [ts, g.integers(0, keys, n, dtype=np.int64), g.gamma(2.0, 50.0, n)]


def events1m(first, n):
    return events(first, n, 1_000_000, 2)


def events10m(first, n):
    return events(first, n, 10_000_000, 1)


def ipv6(first, n):
    ts, key, value = events10m(first, n)
    return [ts, addresses(key.astype(np.uint64)), value]


def mixed(x):
    """The finalizer of splitmix64: one number for each number."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def addresses(keys):
    """An address for each key: 2001:db8 and six groups of its bits, mixed, without leading zeros."""
    prefix, n = np.frombuffer(b"2001:db8", np.uint8), len(keys)
    high, low = mixed(keys + np.uint64(1)), mixed(keys + np.uint64(1 << 40))
    groups = [(x >> np.uint64(shift)) & np.uint64(0xFFFF) for x in (high, low) for shift in (48, 32, 16, 0)][:6]
    text = np.full((n, len(prefix) + 5 * len(groups)), ord(":"), np.uint8)
    text[:, :len(prefix)] = prefix
    keep = np.ones(text.shape, bool)
    hexadecimal = np.frombuffer(b"0123456789abcdef", np.uint8)
    for i, group in enumerate(groups):
        at = len(prefix) + 5 * i + 1
        for j, shift in enumerate((12, 8, 4, 0)):
            text[:, at + j] = hexadecimal[(group >> np.uint64(shift)) & np.uint64(15)]
            keep[:, at + j] = (group >> np.uint64(shift) != 0) | (shift == 0)
    ends = np.concatenate([[0], keep.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(ends), pa.py_buffer(text[keep])])


def win(first, n):
    g = random(3, first)
    arrival = T0_MS + 2000 + np.arange(first, first + n, dtype=np.int64) // 100
    late = np.where(g.random(n) < 0.5, 0, g.integers(0, 2000, n))
    return [arrival - late, g.integers(0, 1000, n, dtype=np.int64), g.gamma(2.0, 50.0, n)]


def bid(first, n):
    """Of 50 events one is a person, three are auctions and 46 bids."""
    g = random(5, first)
    event = np.arange(first, first + n, dtype=np.int64) * 50 // 46
    auctions, persons = np.maximum(event * 3 // 50, 1), np.maximum(event // 50, 1)
    auction = np.where(g.random(n) < 0.5, auctions // 100 * 100, auctions - g.integers(0, 100, n))
    bidder = np.where(g.random(n) < 0.25, persons // 100 * 100, persons - g.integers(0, 1000, n))
    price = np.round(10 ** (g.random(n) * 6) * 100).astype(np.int64)
    return [T0_MS + event // 100, np.maximum(auction, 0), np.maximum(bidder, 0), price]


for table in (events1m, events10m, win):
    table.schema, table.rows = schema(key=pa.int64(), value=pa.float64()), ROWS
ipv6.schema, ipv6.rows = schema(key=pa.string(), value=pa.float64()), ROWS
bid.schema, bid.rows = schema(auction=pa.int64(), bidder=pa.int64(), price=pa.int64()), ROWS * 2 // 5

if __name__ == "__main__":
    data, *rest = sys.argv[1:]
    names = [r for r in rest if r != "--raw"] or ["events1m", "events10m", "win", "ipv6", "bid"]
    os.makedirs(data, exist_ok=True)
    for table in map(globals().__getitem__, names):
        path = os.path.join(data, table.__name__)
        if not os.path.exists(path + ".parquet"):
            write(path + ".parquet", table)
        if "--raw" in rest and table in (events10m, win, bid) and not os.path.exists(path + ".bin"):
            raw(path)
