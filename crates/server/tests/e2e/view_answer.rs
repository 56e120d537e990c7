//! Restart anywhere: each query of `tests/one_answer/*.txt` as a materialized view whose server is killed
//! with SIGKILL between inserts, with and without a checkpoint just before, and started again with another
//! number of threads: the rows of its target are those of the query.

use crate::files::each_file;
use crate::life::wait_until;
use crate::one_answer::{File, Query, compare};
use crate::process::Server;
use std::path::Path;

/// How a view is treated.
#[derive(Debug, Clone, Copy)]
struct Way {
    shards: usize,
    batch: usize,
    /// The server is killed after every n-th insert.
    kill_every: usize,
    /// A checkpoint is taken after every n-th insert, besides the first; 0 = never.
    checkpoint_every: usize,
    /// Rows are there before the view is.
    backfill: bool,
}

const WAYS: [Way; 4] = [
    Way { shards: 1, batch: 1, kill_every: 3, checkpoint_every: 2, backfill: false },
    Way { shards: 2, batch: 2, kill_every: 1, checkpoint_every: 0, backfill: false },
    Way { shards: 3, batch: 1, kill_every: 4, checkpoint_every: 1, backfill: true },
    Way { shards: 5, batch: 3, kill_every: 2, checkpoint_every: 3, backfill: false },
];

/// A server that is killed and started again on the same directory.
pub struct Restarted<'a> {
    pub dir: &'a Path,
    pub options: &'a [&'a str],
    pub server: Option<Server>,
    pub starts: usize,
}

impl<'a> Restarted<'a> {
    pub fn new(dir: &'a Path, options: &'a [&'a str]) -> Self {
        let mut server = Restarted { dir, options, server: None, starts: 0 };
        server.start();
        server
    }

    pub fn start(&mut self) {
        self.starts += 1;
        // State is dealt over another number of threads each time.
        let threads = if self.starts.is_multiple_of(2) { 1 } else { 3 };
        let config = self.dir.join(format!("threads-{threads}.yaml"));
        std::fs::write(&config, format!("settings:\n  max_threads: {threads}\n")).expect("a file is written");
        let config = config.to_str().expect("a path of text").to_owned();
        let options: Vec<&str> = self.options.iter().copied().chain(["--config", &config]).collect();
        self.server = Some(Server::start_with(&self.dir.join("data"), &options));
    }

    pub fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
        self.start();
    }

    pub fn query(&self, sql: &str) -> String {
        self.server.as_ref().expect("it runs").query(sql)
    }
}

/// Waits until a view runs.
pub fn wait_for_view(server: &Restarted<'_>, view: &str) {
    let mut state = String::new();
    wait_until(&format!("view {view} runs"), || {
        state = server.query(&format!(
            "SELECT state, last_error FROM system.materialized_views WHERE name = '{view}' AND database = 'default'"
        ));
        assert!(!state.starts_with("Error"), "{view}: {state}");
        state.starts_with("Running")
    });
}

fn run_query(
    server: &mut Restarted<'_>,
    file: &File,
    query: &Query,
    way: Way,
    no: usize,
) -> Result<(), String> {
    let (stream, view) = (format!("s{no}"), format!("v{no}"));
    let (head, tail) = match file.columns.split_once(" SETTINGS ") {
        Some((head, settings)) => (head.to_owned(), format!(", {settings}")),
        None => (file.columns.clone(), String::new()),
    };
    let shards = if file.late { 1 } else { way.shards };
    server.query(&format!("CREATE STREAM {stream} {head} SETTINGS shards={shards}{tail}"));
    let insert = |server: &Restarted<'_>, rows: &[String]| {
        let values = rows.iter().map(|r| format!("({r})")).collect::<Vec<_>>().join(", ");
        server.query(&format!("INSERT INTO {stream} ({}) VALUES {values}", file.names()));
        server.query("SYSTEM CLOCK ADVANCE 1ms");
    };
    let before = if way.backfill { file.rows.len() / 2 } else { 0 };
    let (first, rest) = file.rows.split_at(before);
    for rows in first.chunks(way.batch) {
        insert(server, rows);
    }
    if way.backfill {
        server.query(&format!("SYSTEM FLUSH STREAM {stream}"));
    }
    let sql = query.sql.replace("{s}", &stream);
    let settings = if sql.contains(" SETTINGS ") { ", " } else { " SETTINGS " };
    // Checkpoints are taken where the test says; no shard is idle because the clock of a new process began
    // elsewhere.
    let sql = format!(
        "{sql}{settings}seek_to='earliest', checkpoint_interval=3600, watermark_idle_timeout_ms=3600000"
    );
    server.query(&format!("CREATE MATERIALIZED VIEW {view} AS {sql}"));
    for (i, rows) in rest.chunks(way.batch).enumerate() {
        insert(server, rows);
        if way.checkpoint_every > 0 && i % way.checkpoint_every == 0 {
            server.query(&format!("SYSTEM CHECKPOINT VIEW {view}"));
        }
        if i % way.kill_every == way.kill_every - 1 {
            if i % 2 == 0 {
                // What it has written before the kill must not be written again.
                server.query(&format!("SYSTEM SYNC VIEW {view}"));
            }
            server.kill();
            // A log goes on after the latest time that the process before may have promised.
            server.query(&format!("SYSTEM CLOCK ADVANCE {}s", 3 * server.starts));
            wait_for_view(server, &view);
        }
    }
    server.query(&format!("SYSTEM DRAIN VIEW {view}"));
    let got = server.query(&format!("SELECT * FROM table({view}) ORDER BY _tp_sn"));
    // Where the query does not give it, each row has `_tp_time` at its end.
    let door = &server.server.as_ref().expect("it runs").streaming;
    let columns = door.query(&format!("DESCRIBE ({})", query.sql.replace("{s}", &stream)));
    let columns = columns.map_err(|e| format!("{}: {e}", query.sql))?;
    let given = columns.lines().any(|c| c.starts_with("_tp_time\t"));
    let got: String = got
        .lines()
        .map(|l| if given { l.to_owned() } else { l.rsplit_once('\t').map_or("", |(row, _)| row).to_owned() })
        .map(|l| l + "\n")
        .collect();
    compare(query, &got, &format!("{way:?}\n{sql}"))?;
    server.query(&format!("DROP VIEW {view}"));
    server.query(&format!("DROP STREAM {stream}"));
    Ok(())
}

fn run_file(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let file = File::parse(&text)?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut server = Restarted::new(dir.path(), &["--test-clock"]);
    let mut no = 0;
    for query in &file.queries {
        for way in WAYS {
            no += 1;
            run_query(&mut server, &file, query, way, no)?;
        }
    }
    Ok(())
}

#[test]
fn a_view_that_is_killed_anywhere_has_the_rows_of_its_query() {
    each_file("one_answer", "txt", "WEIR_ONE_ANSWER", run_file);
}
