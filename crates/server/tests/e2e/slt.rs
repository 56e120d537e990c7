//! SQL behaviour as data: `tests/slt/*.slt`, each file against a server of its own directory.
//!
//! `connection streaming` in a file sends the next statement to the streaming port.

use crate::http::{Door, Failure};
use crate::process::Server;
use sqllogictest::{DBOutput, DefaultColumnType, Runner};
use std::path::{Path, PathBuf};

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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/slt");
    let only = std::env::var("WEIR_SLT").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .filter_map(|f| f.ok().map(|f| f.path()))
        .filter(|f| f.extension().is_some_and(|e| e == "slt") && f.to_string_lossy().contains(&only))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .slt files in {}", root.display());
    let failures: Vec<String> = files
        .iter()
        .filter_map(|f| {
            run_file(f).err().map(|e| format!("{}\n{e}", f.file_name().unwrap_or_default().to_string_lossy()))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} files failed\n\n{}",
        failures.len(),
        files.len(),
        failures.join("\n\n")
    );
}
