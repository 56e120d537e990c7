"""Writes the expected bytes of every format, from a real ClickHouse (PyPI chdb 4.4.0).

Run: python3 make.py, in this directory, with chdb installed.
"""
import json

from chdb import session

TYPES = [
    ("b", "Bool"), ("i8", "Int8"), ("i16", "Int16"), ("i32", "Int32"), ("i64", "Int64"),
    ("u8", "UInt8"), ("u16", "UInt16"), ("u32", "UInt32"), ("u64", "UInt64"),
    ("f32", "Float32"), ("f64", "Float64"),
    ("d9", "Decimal(9, 2)"), ("d18", "Decimal(18, 4)"), ("d38", "Decimal(38, 10)"),
    ("s", "String"), ("dt", "Date"), ("t", "DateTime('UTC')"), ("tz", "DateTime('Europe/Berlin')"),
    ("t0", "DateTime64(0, 'UTC')"), ("t1", "DateTime64(1, 'UTC')"), ("t3", "DateTime64(3, 'America/New_York')"),
    ("t6", "DateTime64(6, 'UTC')"), ("t9", "DateTime64(9, 'UTC')"),
    ("u", "UUID"), ("v4", "IPv4"), ("v6", "IPv6"),
    ("e8", "Enum8('a' = 1, 'b\\'c' = -2)"), ("e16", "Enum16('x' = 300, 'y' = 1)"),
    ("ni", "Nullable(Int32)"), ("ns", "Nullable(String)"), ("nt", "Nullable(DateTime('UTC'))"),
    ("lc", "LowCardinality(String)"), ("lcn", "LowCardinality(Nullable(String))"),
    ("a", "Array(Int32)"), ("an", "Array(Nullable(String))"), ("aa", "Array(Array(UInt8))"),
    ("alc", "Array(LowCardinality(String))"), ("at", "Array(DateTime('UTC'))"),
    ("m", "Map(String, UInt64)"), ("mlc", "Map(LowCardinality(String), Array(Int16))"),
    ("tu", "Tuple(Int8, String)"), ("tn", "Tuple(x Float64, y Nullable(Int32))"),
    ("atu", "Array(Tuple(String, LowCardinality(String)))"),
]
ROWS = [
    r"""(true,-1,-2,-3,-4,1,2,3,18446744073709551615,0.1,1.5,1.5,-0.05,'12345678901234567890.1234567890','a\'b"c\td\n/é\\',
     '2024-01-02','2024-01-02 03:04:05','2024-07-02 03:04:05','2024-01-02 03:04:05','2024-01-02 03:04:05.6',
     '2024-01-02 03:04:05.678','2024-01-02 03:04:05.678901','2024-01-02 03:04:05.678901234',
     '61f0c404-5cb3-11e7-907b-a6006ad3dba0','1.2.3.4','2001:db8::1','a','x',5,'text','2024-01-02 03:04:05','one','two',
     [1,-2,3],['x',NULL,'it\'s'],[[1],[],[2,3]],['p','q','p'],['2024-01-02 03:04:05'],{'k':1,'l':2},{'z':[1,2]},
     (1,'z'),(2.5,7),[('a','b'),('c','b')])""",
    r"""(false,127,32767,2147483647,9223372036854775807,255,65535,4294967295,0,1e21,1e-7,-9999999.99,99999999999999.9999,'-0.0000000001','',
     '1970-01-01','1970-01-01 00:00:00','1970-01-01 01:00:00','1970-01-01 00:00:00','1969-12-31 23:59:59.5',
     '2024-07-02 03:04:05.001','1970-01-01 00:00:00.000001','1970-01-01 00:00:00.000000001',
     '00000000-0000-0000-0000-000000000000','0.0.0.0','::','b\'c','y',NULL,NULL,NULL,'',NULL,
     [],[],[],[],[],{},{},(-128,''),(-0.001,NULL),[])""",
    r"""(true,-128,-32768,-2147483648,-9223372036854775808,0,0,0,1,-3.4028235e38,123456789012345680000,0,0,'0','日本語 \0 end',
     '2149-06-06','2106-02-07 06:28:15','2024-03-31 03:30:00','2100-01-01 00:00:00','2024-01-02 03:04:05.0',
     '2024-11-03 00:59:59.999','2024-01-02 03:04:05.100000','2024-01-02 03:04:05.000000000',
     'ffffffff-ffff-ffff-ffff-ffffffffffff','255.255.255.255','::ffff:1.2.3.4','a','x',-7,'','2000-01-01 00:00:00','one','',
     [2147483647],[NULL],[[]],['q'],['1970-01-01 00:00:00','2024-01-02 03:04:05'],{'':0},{'z':[],'y':[-1]},
     (127,'a,b'),(1e100,-1),[('','')])""",
]
FORMATS = [
    "JSONEachRow", "JSONCompactEachRow", "JSONCompactEachRowWithNames", "JSONCompactEachRowWithNamesAndTypes",
    "CSV", "CSVWithNames", "CSVWithNamesAndTypes", "TabSeparated", "TabSeparatedWithNames",
    "TabSeparatedWithNamesAndTypes", "RowBinary", "RowBinaryWithNames", "RowBinaryWithNamesAndTypes",
    "Native", "Values", "JSONCompact", "ArrowStream", "Parquet",
]
s = session.Session()
columns = ", ".join(f"`{n}` {t}" for n, t in TYPES)
s.query(f"create table t ({columns}) engine = Memory")
s.query("insert into t values " + ",".join(ROWS))
for f in FORMATS:
    with open(f, "wb") as out:
        out.write(s.query("select * from t", f).bytes())
with open("types", "w") as out:
    for row in s.query("select name, type from system.columns where table = 't'", "JSONCompactEachRow").bytes().splitlines():
        out.write("\t".join(json.loads(row)) + "\n")
