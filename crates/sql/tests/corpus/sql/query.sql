SELECT 1
SELECT 1 FORMAT JSON
SELECT 2 SETTINGS a = 1
SELECT a, b AS c FROM db.s WHERE a > 1 AND b LIKE '%x' ORDER BY a DESC NULLS LAST LIMIT 10 OFFSET 5
SELECT now() - 5s, 5m, 5M, 2q, 3w, 4ns, 7us, 8ms, 1h, 1d, 1y, -2h
SELECT INTERVAL '5s', INTERVAL 5 SECOND, INTERVAL '3 days', INTERVAL 1 QUARTER
SELECT t.1, t.1.2, f(x).2, (1, 2).1, t.a.b.1 FROM t
SELECT a ? b : c, x > 1 ? 2 : 3, a ? b ? 1 : 2 : 3, a ? raw:x : 'y' FROM t
SELECT raw:a.b, raw:a.b[1].c::int, raw:arr[*] FROM t
SELECT 1_000, 0xFF, 0b11, 1e3, .5, 5., 1.5e-3
SELECT $$it's$$, $t$ a $$ b $t$, 'it''s', 'a\tb'
SELECT /* a /* b */ c */ 1 -- end
SELECT `a b`, "c d" FROM "x"."y"
SELECT {x:int32}, {n:array(string)} FROM {t:Identifier}
SELECT array_map(x -> x + 1, [1, 2]), array_map((x, y) -> x + y, a, b)
SELECT count(*) FILTER (WHERE a > 1), quantile(0.9)(x), count(DISTINCT a) FROM t
SELECT * EXCEPT (a, b), * REPLACE (a + 1 AS a), columns('re') FROM t
SELECT a FROM t PREWHERE b == 1 WHERE c != 2
SELECT a FROM t ORDER BY b LIMIT 1 BY k LIMIT 10
SELECT a FROM t LIMIT 2, 3 BY k, l LIMIT 10 OFFSET 3
SELECT a FROM s FINAL WHERE b GLOBAL IN (1, 2) AND c GLOBAL NOT IN (3) AND d IN [4, 5]
WITH 5 AS x, y AS (SELECT 1 AS one), x + 1 AS z SELECT x, z * 2, one FROM y WHERE one < x
WITH (SELECT max(a) FROM t) AS m SELECT m, a / m FROM t
SELECT left(s, 3), extract(s, 're'), extract(YEAR FROM d), position(s, 'a'), cast(x, 'int'), cast(x AS int32), x::nullable(string), replace(s, 'a', 'b'), if(a, b, c), any(x), array(1, 2), map('a', 1)['a'], and(a, b)
SELECT x::low_cardinality(nullable(string)), x::array(array(int8)), x::datetime('UTC'), cast(x AS tuple(a int, b array(string)))
SELECT * FROM numbers(10) AS n, values('a int', (1), (2)) AS v
SELECT {'a': 1, 'b': 2}, [1, 2][1], (a, b) IN ((1, 2), (3, 4)) FROM t
SELECT a FROM t UNION ALL SELECT b FROM u UNION DISTINCT SELECT 3
(SELECT 1) UNION ALL (SELECT 2) LIMIT 1
SELECT a, sum(x) OVER (PARTITION BY a ORDER BY t ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t
SELECT a, count() FROM t GROUP BY a WITH TOTALS HAVING count() > 1
SELECT CASE WHEN a THEN 1 ELSE 2 END, a BETWEEN 1 AND 2, a IS NOT NULL, a NOT ILIKE 'x', x = ANY (SELECT 1)
SELECT * FROM a JOIN b ON a.k = b.k LEFT JOIN c USING (k) CROSS JOIN d
SELECT a, x FROM t LEFT ARRAY JOIN xs AS x
SELECT a FROM s SAMPLE 0.1
SELECT emit, latest, final FROM t AS final WHERE emit = 1
