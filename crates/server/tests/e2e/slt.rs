//! SQL behaviour as data: `tests/slt/*.slt`, each file against a server of its own directory.
//!
//! `connection streaming` in a file sends the next statement to the streaming port.

use crate::files::each_file;
use crate::http::{Door, Failure};
use crate::process::Server;
use sqllogictest::{DBOutput, DefaultColumnType, Runner};
use std::path::Path;

struct Connection(Door);

impl sqllogictest::DB for Connection {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let returns_rows = ["SELECT", "SHOW", "DESC", "EXPLAIN", "EXISTS", "WITH", "KILL"]
            .iter()
            .any(|w| sql.trim_start().to_ascii_uppercase().starts_with(w));
        let text = self.0.query(sql)?;
        if !returns_rows {
            return Ok(DBOutput::StatementComplete(0));
        }
        let rows: Vec<Vec<String>> = text
            .lines()
            .map(|line| {
                line.split('\t')
                    .map(|v| if v.is_empty() { "(empty)".to_owned() } else { v.to_owned() })
                    .collect()
            })
            .collect();
        let columns = rows.first().map_or(1, Vec::len);
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Text; columns], rows })
    }

    fn engine_name(&self) -> &str {
        "weir"
    }
}

fn run_file(file: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let server = Server::start(dir.path());
    let (table, streaming) = (server.table.clone(), server.streaming.clone());
    let mut names = vec![Connection(streaming), Connection(table)];
    // The runner opens the unnamed connection first, then named ones as files use them.
    let mut runner = Runner::new(|| {
        let next = names.pop();
        async move { next.ok_or(Failure { status: 0, text: "a file uses more than two connections".into() }) }
    });
    runner.run_file(file).map_err(|e| e.display(false).to_string())
}

#[test]
fn sql_files() {
    each_file("slt", "slt", "WEIR_SLT", run_file);
}
