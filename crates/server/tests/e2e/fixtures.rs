//! Data directories that earlier versions wrote (`tests/fixtures`): opened, right, and gone on from.

use crate::view_answer::{Restarted, wait_for_view};
use std::path::Path;
use std::process::Command;

fn run(archive: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let unpacked = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(dir.path()).status();
    if !unpacked.map_err(|e| e.to_string())?.success() {
        return Err("it does not unpack".into());
    }
    let mut server = Restarted::new(dir.path(), &[]);
    let check = |server: &Restarted<'_>, rows: &str| {
        for view in ["kept", "counted"] {
            wait_for_view(server, view);
            server.query(&format!("SYSTEM SYNC VIEW {view}"));
        }
        assert_eq!(server.query("SELECT count(), sum(v) FROM table(s)"), rows);
        assert_eq!(
            server.query("SELECT count() FROM table(plain)"),
            server.query("SELECT count() FROM table(s) WHERE v > 1")
        );
        assert_eq!(
            server.query("SELECT k, v FROM table(t) ORDER BY v"),
            server.query("SELECT k, v FROM table(s) WHERE v % 2 = 0 ORDER BY v")
        );
        assert_eq!(
            server.query(
                "SELECT k, c, sv FROM table(counted) GROUP BY k, c, sv HAVING sum(_tp_delta) != 0 ORDER BY k"
            ),
            server.query("SELECT k, count(), sum(v) FROM table(s) GROUP BY k ORDER BY k")
        );
    };
    check(&server, "8\t36\n");
    // What was inserted under an id then is known now.
    server.query("INSERT INTO s (k, v) SETTINGS idempotent_id='one' VALUES ('a',1),('b',2),('c',3),('a',4)");
    check(&server, "8\t36\n");
    server.query("INSERT INTO s (k, v) VALUES ('a', 10), ('f', 9)");
    check(&server, "10\t55\n");
    server.kill();
    check(&server, "10\t55\n");
    server.query("SYSTEM MERGE STREAM s");
    server.query("DROP VIEW counted");
    Ok(())
}

#[test]
fn what_earlier_versions_wrote_is_opened_and_goes_on() {
    crate::files::each_file("fixtures", "gz", "WEIR_FIXTURES", run);
}
