"""bodies.py DIR: the bodies of the ingest table, 10,000 rows each, in three formats with the same
rows; written by ClickHouse itself (chdb)."""
import os
import sys

from chdb import session

ROWS = 10_000
BODIES = 50
SELECT = """
SELECT concat('sensor-', leftPad(toString(h % 100000), 6, '0')) AS device,
       1760000000000 + intDiv(number, 100) AS ts,
       round(21 + 24 * (h2 % 10007) / 10007, 2) AS temperature,
       round(100 * (h3 % 10009) / 10009, 1) AS humidity,
       round(180 * (h % 1000003) / 1000003 - 90, 5) AS lat,
       round(360 * (h2 % 1000003) / 1000003 - 180, 5) AS lon,
       concat('site-', leftPad(toString(h % 50), 2, '0')) AS site,
       if(temperature < 35, 'ok', 'hot') AS status
FROM (SELECT number, cityHash64(number) AS h, cityHash64(number, 1) AS h2, cityHash64(number, 2) AS h3
      FROM numbers({first}, {rows}))
SETTINGS max_threads = 1, output_format_json_quote_64bit_integers = 0, max_block_size = 10000,
         output_format_arrow_string_as_string = 1,
         output_format_arrow_compression_method = 'none'
"""

out = sys.argv[1]
chdb = session.Session()
for kind in ("JSONEachRow", "RowBinary", "ArrowStream"):
    os.makedirs(os.path.join(out, kind), exist_ok=True)
    for i in range(BODIES):
        path = os.path.join(out, kind, f"{i:03}")
        if not os.path.exists(path):
            chdb.query(f"INSERT INTO FUNCTION file('{path}.tmp', {kind}) " + SELECT.format(first=i * ROWS, rows=ROWS))
            os.rename(path + ".tmp", path)
