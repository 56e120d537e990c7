"""Makes the files of this folder: pip install fastavro cramjam backports.zstd"""
import fastavro

schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": [
    {"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]}]})
for codec in ("null", "deflate", "snappy", "zstandard"):
    with open(f"{codec}.avro", "wb") as file:
        fastavro.writer(file, schema, [{"id": 1, "name": "a"}, {"id": 2, "name": None}], codec=codec)
