//! One answer: each query of `tests/one_answer/*.txt` run live, backfilled and begun in the middle,
//! over 1, 2 and 5 shards, inserted one row, seven rows and all rows at a time, and as the bounded
//! query: the same final rows.
//!
//! ```text
//! # What the file is about.
//! stream (k string, v int64)     columns; the query reads it as {s}
//! late                           rows come late: over one shard only, and no bounded query
//! rows                           one a line, as in VALUES; written: k, v, _tp_time
//! 'a', 1, '2026-01-01 00:00:01'
//! query rows                     every row that leaves is final …
//! query last 2                   … or the last one of each key: the first two columns
//! query changelog                … or those whose weights, the last column, do not cancel
//! SELECT … FROM {s} …
//! ----
//! expected rows, tabs as blanks, in any order
//! ```
//! `query rows streaming` is not asked as a bounded query.

use crate::files::each_file;
use crate::life::wait_until;
use crate::process::Server;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Final {
    Rows,
    LastOf(usize),
    Changelog,
}

#[derive(Debug)]
pub struct Query {
    pub sql: String,
    rule: Final,
    bounded: bool,
    expected: Vec<String>,
}

#[derive(Debug, Default)]
pub struct File {
    pub columns: String,
    pub late: bool,
    pub rows: Vec<String>,
    pub queries: Vec<Query>,
}

impl File {
    pub fn parse(text: &str) -> Result<File, String> {
        let mut file = File::default();
        let mut lines = text.lines().filter(|l| !l.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            if line.trim().is_empty() {
                continue;
            }
            let mut block = || {
                let mut all = Vec::new();
                while let Some(line) = lines.next_if(|l| !l.trim().is_empty()) {
                    all.push(line.to_owned());
                }
                all
            };
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["stream", ..] => file.columns = line["stream ".len()..].to_owned(),
                ["late"] => file.late = true,
                ["rows"] => file.rows = block(),
                ["query", rule @ ..] => {
                    let bounded = rule.last() != Some(&"streaming");
                    let rule = match &rule[..rule.len() - usize::from(!bounded)] {
                        ["rows"] => Final::Rows,
                        ["changelog"] => Final::Changelog,
                        ["last", n] => Final::LastOf(n.parse().map_err(|_| format!("a number: {line}"))?),
                        _ => return Err(format!("not a rule: {line}")),
                    };
                    let block = block();
                    let at = block.iter().position(|l| l == "----").ok_or(format!("no ---- after {line}"))?;
                    let mut expected = block[at + 1..].to_vec();
                    expected.sort();
                    file.queries.push(Query { sql: block[..at].join(" "), rule, bounded, expected });
                }
                _ => return Err(format!("neither stream, late, rows nor query: {line}")),
            }
        }
        if file.columns.is_empty() || file.rows.is_empty() || file.queries.is_empty() {
            return Err("a file has a stream, rows and a query".into());
        }
        Ok(file)
    }

    /// Names of the columns that rows are written for.
    pub fn names(&self) -> String {
        let inner = self.columns.trim().trim_start_matches('(');
        let (mut depth, mut names, mut name) = (0, Vec::new(), String::new());
        for c in inner.chars() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                ',' if depth == 0 => names.push(std::mem::take(&mut name)),
                _ => {}
            }
            if depth < 0 {
                break;
            }
            if c != ',' || depth > 0 {
                name.push(c);
            }
        }
        names.push(name);
        let first = |n: &String| n.split_whitespace().next().unwrap_or_default().to_owned();
        names.iter().map(first).chain(["_tp_time".to_owned()]).collect::<Vec<_>>().join(", ")
    }
}

/// How much of the rows is there before the query starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Live,
    Middle,
    Backfill,
}

struct Bench {
    server: Server,
    made: usize,
}

impl Bench {
    fn insert(&self, stream: &str, file: &File, rows: &[String], batch: usize) {
        for rows in rows.chunks(batch) {
            let values = rows.iter().map(|r| format!("({r})")).collect::<Vec<_>>().join(", ");
            self.server.query(&format!("INSERT INTO {stream} ({}) VALUES {values}", file.names()));
            // Append times rise, and with them the frontiers that rows of several shards wait for.
            self.server.query("SYSTEM CLOCK ADVANCE 1ms");
        }
    }

    fn run(
        &mut self,
        file: &File,
        query: &Query,
        start: Start,
        shards: usize,
        batch: usize,
    ) -> Result<(), String> {
        self.made += 1;
        let (stream, id) = (format!("s{}", self.made), format!("q{}", self.made));
        let (head, tail) = match file.columns.split_once(" SETTINGS ") {
            Some((head, settings)) => (head.to_owned(), format!(", {settings}")),
            None => (file.columns.clone(), String::new()),
        };
        self.server.query(&format!("CREATE STREAM {stream} {head} SETTINGS shards={shards}{tail}"));
        let before = match start {
            Start::Live => 0,
            Start::Middle => file.rows.len() / 2,
            Start::Backfill => file.rows.len(),
        };
        let (first, rest) = file.rows.split_at(before);
        let (in_parts, in_log) = first.split_at(first.len() / 2);
        self.insert(&stream, file, in_parts, batch);
        self.server.query(&format!("SYSTEM FLUSH STREAM {stream}"));
        self.insert(&stream, file, in_log, batch);

        let sql = query.sql.replace("{s}", &stream);
        let sql = match (sql.contains(" SETTINGS "), start) {
            (_, Start::Live) => sql,
            (true, _) => format!("{sql}, seek_to='earliest'"),
            (false, _) => format!("{sql} SETTINGS seek_to='earliest'"),
        };
        let door = self.server.streaming.clone();
        let (text, named) = (sql.clone(), id.clone());
        let answer = std::thread::spawn(move || {
            door.insert(&text, &format!("&query_id={named}&default_format=TSV"), b"")
        });
        let running =
            format!("SELECT count() FROM system.queries WHERE query_id = '{id}' AND state = 'Running'");
        let mut ended = false;
        wait_until("the query runs", || {
            ended = answer.is_finished();
            ended || self.server.query(&running) == "1\n"
        });
        if !ended {
            self.insert(&stream, file, rest, batch);
            self.server.query(&format!("SYSTEM DRAIN QUERY '{id}'"));
        }
        let got =
            answer.join().expect("the client's thread does not panic").map_err(|e| format!("{sql}\n{e}"))?;
        let how = format!("{start:?}, {shards} shards, {batch} rows an insert\n{sql}");
        compare(query, &got, &how)?;

        if query.bounded && !file.late {
            let sql = query.sql.replace("{s}", &format!("table({stream})"));
            let sql = match (sql.split_once(" EMIT "), sql.split_once(" SETTINGS ")) {
                (Some((select, _)), Some((_, settings))) => format!("{select} SETTINGS {settings}"),
                (Some((select, _)), None) => select.to_owned(),
                (None, _) => sql,
            };
            let got = self.server.table.query(&sql).map_err(|e| format!("bounded\n{sql}\n{e}"))?;
            // Without EMIT CHANGELOG there are no weights: each row is there once.
            let expected = match query.rule {
                Final::Changelog => {
                    let plain = |r: &String| r.rsplit_once(' ').map_or(r.clone(), |(row, _)| row.to_owned());
                    query.expected.iter().map(plain).collect()
                }
                _ => query.expected.clone(),
            };
            same(&expected, &lines(&got), &format!("bounded, {shards} shards\n{sql}"))?;
        }
        self.server.query(&format!("DROP STREAM {stream}"));
        Ok(())
    }
}

fn lines(text: &str) -> Vec<String> {
    let mut all: Vec<String> = text.lines().map(|l| l.replace('\t', " ")).collect();
    all.sort();
    all
}

pub fn compare(query: &Query, text: &str, how: &str) -> Result<(), String> {
    let got = match query.rule {
        Final::Rows => lines(text),
        Final::LastOf(columns) => {
            let mut last: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
            for line in text.lines() {
                last.insert(line.split('\t').take(columns).collect(), line);
            }
            lines(&last.into_values().collect::<Vec<_>>().join("\n"))
        }
        Final::Changelog => {
            let mut weights: BTreeMap<&str, i64> = BTreeMap::new();
            for line in text.lines() {
                let (row, weight) = line.rsplit_once('\t').ok_or(format!("no weight in {line}\n{how}"))?;
                let weight: i64 = weight.parse().map_err(|_| format!("weight {weight} in {line}\n{how}"))?;
                let held = weights.entry(row).or_default();
                *held += weight;
                if *held < 0 {
                    return Err(format!("{line} takes back what was never given\n{how}"));
                }
            }
            let left = weights.into_iter().filter(|(_, w)| *w != 0);
            lines(&left.map(|(row, w)| format!("{row}\t{w}")).collect::<Vec<_>>().join("\n"))
        }
    };
    same(&query.expected, &got, how)
}

fn same(expected: &[String], got: &[String], how: &str) -> Result<(), String> {
    let mut expected = expected.to_vec();
    expected.sort();
    if expected == got {
        return Ok(());
    }
    let mut text = format!("{how}\n");
    for row in expected.iter().filter(|r| !got.contains(r)) {
        let _ = writeln!(text, "- {row}");
    }
    for row in got.iter().filter(|r| !expected.contains(r)) {
        let _ = writeln!(text, "+ {row}");
    }
    Err(format!("{text}{} rows expected, {} came", expected.len(), got.len()))
}

fn run_file(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let file = File::parse(&text)?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut bench = Bench { server: Server::start_with(dir.path(), &["--test-clock"]), made: 0 };
    let all = file.rows.len();
    use Start::{Backfill, Live, Middle};
    // Every pair of start, shards and batch.
    let modes = [
        (Live, 1, 1),
        (Live, 2, 7),
        (Live, 5, all),
        (Middle, 1, 7),
        (Middle, 2, all),
        (Middle, 5, 1),
        (Backfill, 1, all),
        (Backfill, 2, 1),
        (Backfill, 5, 7),
    ];
    for query in &file.queries {
        for (start, shards, batch) in modes {
            bench.run(&file, query, start, if file.late { 1 } else { shards }, batch)?;
        }
    }
    Ok(())
}

#[test]
fn a_query_has_one_answer_over_sockets() {
    each_file("one_answer", "txt", "WEIR_ONE_ANSWER", run_file);
}
