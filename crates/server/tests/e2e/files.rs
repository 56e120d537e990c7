//! Tests that are data: each file of a directory of `tests/` is a case.

use std::path::{Path, PathBuf};

/// Runs the files of `tests/<dir>` that end in `.<extension>`, or those whose path contains what the
/// environment's `only` says, and fails with what all of them said.
pub fn each_file(dir: &str, extension: &str, only: &str, run: impl Fn(&Path) -> Result<(), String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(dir);
    let only = std::env::var(only).unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .filter_map(|f| f.ok().map(|f| f.path()))
        .filter(|f| f.extension().is_some_and(|e| e == extension) && f.to_string_lossy().contains(&only))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .{extension} files in {}", root.display());
    let name = |f: &Path| f.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failures: Vec<String> =
        files.iter().filter_map(|f| run(f).err().map(|e| format!("{}\n{e}", name(f)))).collect();
    let failed = failures.len();
    assert!(failed == 0, "{failed} of {} files failed\n\n{}", files.len(), failures.join("\n\n"));
}
