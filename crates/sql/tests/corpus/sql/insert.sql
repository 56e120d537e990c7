INSERT INTO s VALUES (1, 'a;b'), (2, now64() - 1s)
INSERT INTO STREAM db.s (a, `b c`) SETTINGS idempotent_id = 'x', ack = 'written' VALUES (1, 2)
INSERT INTO TABLE s (a) FORMAT JSONEachRow {"a":1};{"a":2}
INSERT INTO s FORMAT CSV
INSERT INTO s SETTINGS async_insert = 1 FORMAT TabSeparated 1	(((
INSERT INTO s SELECT * FROM t SETTINGS query_mode = 'table'
INSERT INTO s (a) WITH 1 AS x SELECT x
INSERT INTO s VALUES
