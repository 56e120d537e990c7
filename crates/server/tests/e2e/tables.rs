//! Tables of files: in a directory and in a bucket, read, written and told apart by their paths.

use crate::check::{Moto, contents};
use crate::process::Server;
use std::path::Path;

/// All below a directory, as paths.
fn files(dir: &Path) -> Vec<String> {
    contents(dir).into_keys().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// The same statements, wherever the files lie.
fn written_and_read(server: &Server, kind: &str) {
    let columns = "(id int64, name string, tags array(string), at datetime64(3, 'UTC'), price nullable(float64), d date)";
    let rows = "SELECT number, 'n' || to_string(number % 10), ['a', to_string(number)], to_datetime64(1767225600 + number, 3, 'UTC'), if(number % 3 = 0, null, number / 4), to_date('2026-01-01') + to_int32(number % 3) FROM numbers(20000)";
    let sum =
        "SELECT count(), sum(id), uniq_exact(name), max(at), sum(price), sum(length(tags)), min(d), max(d)";
    server.query(&format!("CREATE STREAM model {columns}"));
    server.query(&format!("INSERT INTO model (id, name, tags, at, price, d) {rows}"));
    let expected = server.query(&format!("{sum} FROM table(model)"));
    for (format, extension) in [
        ("Parquet", "parquet"),
        ("CSVWithNames", "csv"),
        ("JSONEachRow", "jsonl"),
        ("Avro", "avro"),
        ("ArrowStream", "arrow"),
    ] {
        let name = format!("t_{extension}");
        server.query(&format!(
            "CREATE EXTERNAL TABLE {name} {columns} SETTINGS {kind}, read_from='{extension}/**/*.{extension}', write_to='{extension}/out', data_format='{format}'"
        ));
        assert_eq!(server.query(&format!("SELECT count() FROM {name}")), "0\n", "{format}");
        server.query(&format!("INSERT INTO {name} (id, name, tags, at, price, d) {rows}"));
        assert_eq!(server.query(&format!("{sum} FROM {name}")), expected, "{format}");
        // On the port of queries without end it ends as well.
        let mut all =
            server.streaming.follow(&format!("SELECT count() FROM {name} WHERE id % 2 = 0")).unwrap();
        assert_eq!(all.line().unwrap().unwrap(), "10000", "{format}");
        assert_eq!(all.line().unwrap(), None, "{format}");
        assert_eq!(
            server.query(&format!(
                "SELECT m.id, t.name FROM table(model) AS m JOIN {name} AS t ON m.id = t.id WHERE m.id = 77"
            )),
            "77\tn7\n"
        );
    }
    // By partition, with a value that no path could hold.
    server.query(&format!(
        "CREATE EXTERNAL TABLE parted (id int64, city nullable(string), d date) SETTINGS {kind}, read_from='parted/**/*.parquet', write_to='parted', partition_by='d, city'"
    ));
    server.query("INSERT INTO parted VALUES (1, 'São Paulo/x', '2026-01-01'), (2, NULL, '2026-01-01'), (3, 'b', '2026-01-02'), (4, 'a\\\\b\\tc=d%', '2026-01-02'), (5, '', '2026-01-02')");
    assert_eq!(
        server.query("SELECT id, city, d FROM parted ORDER BY id"),
        "1\tSão Paulo/x\t2026-01-01\n2\t\\N\t2026-01-01\n3\tb\t2026-01-02\n4\ta\\\\b\\tc=d%\t2026-01-02\n5\t\t2026-01-02\n"
    );
    assert_eq!(
        server.query("SELECT d, count() FROM parted GROUP BY d ORDER BY d"),
        "2026-01-01\t2\n2026-01-02\t3\n"
    );
    // Columns that the files tell.
    server.query(&format!("CREATE EXTERNAL TABLE told SETTINGS {kind}, read_from='parted/**/*.parquet'"));
    assert_eq!(server.query("SELECT sum(id), uniq_exact(city) FROM told"), "15\t4\n");
    let refused = server.table.query("INSERT INTO told (id) VALUES (1)").unwrap_err();
    assert!(refused.text.contains("write_to"), "{refused}");
    let refused = server
        .table
        .query("CREATE MATERIALIZED VIEW v INTO parted AS SELECT id, name AS city, d FROM model")
        .unwrap_err();
    assert!(refused.text.contains("table of files"), "{refused}");
}

#[test]
fn files_of_a_directory_are_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let root = dir.path().join("user_files");
    written_and_read(&server, "type='file'");
    let parted: Vec<String> = files(&root).into_iter().filter(|f| f.starts_with("parted/")).collect();
    assert_eq!(parted.len(), 5, "{parted:?}");
    assert!(parted.iter().any(|f| f.starts_with("parted/d=2026-01-01/city=")), "{parted:?}");
    assert!(files(&root).iter().all(|f| !f.contains('#')), "nothing half written stays");

    // Files of others, each in its own state.
    std::fs::create_dir_all(root.join("in/more")).unwrap();
    std::fs::write(root.join("in/a.csv"), "k,v\n1,x\n2,y\n").unwrap();
    std::fs::write(root.join("in/more/b.csv"), "v,k\nz,3\n").unwrap();
    std::fs::write(root.join("in/empty.csv"), "").unwrap();
    server
        .query("CREATE EXTERNAL TABLE csv (k int64, v string) SETTINGS type='file', read_from='in/**/*.csv'");
    assert_eq!(
        server.query("SELECT k, v, _tp_message_key FROM csv ORDER BY k"),
        "1\tx\tin/a.csv\n2\ty\tin/a.csv\n3\tz\tin/more/b.csv\n"
    );
    std::fs::write(root.join("in/c.csv"), "k,v\nnonsense,x\n").unwrap();
    let refused = server.table.query("SELECT count() FROM csv").unwrap_err();
    assert!(refused.text.contains("in/c.csv"), "{refused}");
    std::fs::write(root.join("in/bad.parquet"), "PAR1 this is none PAR1").unwrap();
    let refused = server
        .table
        .query("CREATE EXTERNAL TABLE bad SETTINGS type='file', read_from='in/bad.parquet'")
        .unwrap_err();
    assert!(refused.text.contains("names no columns"), "{refused}");

    // More files than are read at once, on both sides of a join.
    std::fs::create_dir_all(root.join("many")).unwrap();
    for i in 0..40 {
        let rows: String = (0..2_000).map(|k| format!("{},{i}\n", i * 2_000 + k)).collect();
        std::fs::write(root.join(format!("many/{i}.csv")), format!("k,file\n{rows}")).unwrap();
    }
    server.query(
        "CREATE EXTERNAL TABLE many (k int64, file int64) SETTINGS type='file', read_from='many/*.csv'",
    );
    assert_eq!(
        server.query("SELECT count(), uniq_exact(k), uniq_exact(_tp_message_key) FROM many"),
        "80000\t80000\t40\n"
    );
    assert_eq!(
        server.query(
            "SELECT count(), sum(a.file) FROM many AS a JOIN many AS b ON a.k = b.k WHERE b.k % 2 = 0"
        ),
        "40000\t780000\n"
    );
    assert_eq!(server.query("SELECT k FROM many ORDER BY k DESC LIMIT 2"), "79999\n79998\n");

    // Nothing outside.
    std::os::unix::fs::symlink("/etc", root.join("in/link")).unwrap();
    for (from, says) in
        [("/etc/*.csv", "--allowed-paths"), ("../catalog/*.csv", "'..'"), ("in/link/hostname", "leads out")]
    {
        let create = format!(
            "CREATE EXTERNAL TABLE out (raw string) SETTINGS type='file', read_from='{from}', data_format='TabSeparated'"
        );
        let refused = match server.table.query(&create) {
            Err(e) => e,
            Ok(_) => server.table.query("SELECT * FROM out").unwrap_err(),
        };
        assert!(refused.text.contains(says), "{from}: {refused}");
    }
    server
        .query("CREATE EXTERNAL TABLE outward (a int64) SETTINGS type='file', write_to='in/link/weir-test'");
    let refused = server.table.query("INSERT INTO outward VALUES (1)").unwrap_err();
    assert!(refused.text.contains("leads out"), "{refused}");
    for (settings, says) in [
        ("type='file'", "needs read_from"),
        ("type='file', read_from='a/*'", "data_format"),
        ("type='file', read_from='a.csv', data_format='Pretty'", "only be written"),
        ("type='file', read_from='a.csv', partition_by='b'", "no column"),
        ("type='file', write_to='a', partition_by='a'", "names all columns"),
        ("type='file', read_form='a.csv'", "did you mean read_from"),
        (
            "type='s3', bucket='b', endpoint='http://169.254.169.254', read_from='a.csv'",
            "--allowed-remote-hosts",
        ),
    ] {
        let refused = server
            .table
            .query(&format!("CREATE EXTERNAL TABLE x (a int64) SETTINGS {settings}"))
            .unwrap_err();
        assert!(refused.text.contains(says), "{settings}: {refused}");
    }
}

#[test]
fn files_in_a_bucket_are_a_table() {
    let Some(moto) = Moto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kind = format!(
        "type='s3', bucket='weir', endpoint='http://127.0.0.1:{}', access_key_id='a', secret_access_key='hidden-key'",
        moto.port
    );
    written_and_read(&server, &kind);
    assert!(!server.query("SHOW CREATE STREAM parted").contains("hidden-key"));
}
