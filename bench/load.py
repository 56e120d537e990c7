"""load.py PORT TABLE FILE [NAME=TYPE …]: appends a Parquet file, whose first column is the event time in milliseconds, to a stream,
one INSERT a row group, columns cast to other types where said."""
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from common import Client

port, table, path, *casts = sys.argv[1:]
client, file = Client(int(port)), pq.ParquetFile(path)
for i in range(file.num_row_groups):
    rows, body = file.read_row_group(i), io.BytesIO()
    for name, type_ in (c.split("=") for c in casts):
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(type_))
    rows = rows.set_column(0, "_tp_time", rows["ts"].cast(pa.timestamp("ms", "UTC")))
    with pa.ipc.new_stream(body, rows.schema) as out:
        out.write_table(rows)
    client.send(f"INSERT INTO {table} ({', '.join(rows.column_names)}) FORMAT ArrowStream", body.getvalue())
