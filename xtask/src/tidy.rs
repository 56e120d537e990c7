//! House rules over tracked files: size, headers, names, leftovers.

use std::process::Command;

const LINES_MAX: usize = 800;
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Rooms without a noun.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helper", "helpers", "manager", "misc"];

pub fn check() -> Result<Vec<String>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .output()
        .map_err(|e| format!("could not run git: {e}"))?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut problems = Vec::new();
    for path in listing.split('\0').filter(|p| !p.is_empty()) {
        let Ok(meta) = std::fs::metadata(path) else { continue };
        if meta.len() > FILE_BYTES_MAX {
            problems.push(format!(
                "{path}: {} bytes; at most {FILE_BYTES_MAX} are kept in the repository",
                meta.len()
            ));
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(path) {
            check_text(path, &text, &mut problems);
        }
    }
    Ok(problems)
}

fn check_text(path: &str, text: &str, problems: &mut Vec<String>) {
    let mut say = |line: usize, what: &str| problems.push(format!("{path}:{line}: {what}"));
    let binary_like = path.contains("/corpus/")
        || path.contains("/testdata/")
        || path.contains("/fixtures/")
        || path.ends_with(".lock");
    if !binary_like {
        for (i, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) && !path.ends_with(".slt") && !path.ends_with(".md") {
                say(i + 1, "trailing space");
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            say(text.lines().count(), "no newline at the end of the file");
        }
    }
    if !path.ends_with(".rs") {
        return;
    }
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    if EMPTY_NAMES.contains(&stem) {
        say(1, "a file is named after what it holds, not after being useful");
    }
    let lines = text.lines().count();
    let is_test = path.contains("/tests/") || stem == "tests" || stem.ends_with("_tests");
    if lines > LINES_MAX && !is_test {
        say(lines, &format!("{lines} lines; past {LINES_MAX} look for the second noun"));
    }
    if !text.starts_with("//!") && !is_test && !path.contains("/examples/") {
        say(1, "a module starts with what it is for (//! …)");
    }
    for (i, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") || path.starts_with("xtask/") {
            continue;
        }
        if code.starts_with("#[ignore") {
            say(i + 1, "an ignored test proves nothing");
        }
        if code.contains("unbounded_channel(") || code.contains("unbounded::<") {
            say(i + 1, "every queue has a bound");
        }
        if is_test
            && (code.contains("thread::sleep(") || code.contains("time::sleep("))
            && !code.contains("// poll")
        {
            say(i + 1, "a test waits for a condition, not for time");
        }
    }
}
