//! Every file of `fuzz/corpus` through its entry function: what a fuzzer once found stays fixed,
//! without the fuzzer.
#![allow(clippy::disallowed_methods, reason = "reads the corpus of the checkout it runs in")]

use std::path::Path;

fn files_of(target: &str) -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|e| e.expect("listed").path()).collect();
    files.sort();
    files
}

#[test]
fn every_file_of_the_corpus_is_answered_or_refused() {
    for (target, run) in weir_inputs::TARGETS {
        let files = files_of(target);
        assert!(files.len() >= 3, "the corpus of {target} holds {} files", files.len());
        for file in files {
            println!("{}", file.display());
            run(&std::fs::read(&file).expect("listed just now"));
        }
    }
}

/// A fuzzer that begins with inputs that are refused at the door gets nowhere.
#[test]
fn what_is_sound_is_accepted() {
    for (target, name, bytes) in weir_inputs::seeds() {
        // The manifest of a part whose file is not there.
        let expected = (target, &*name) != ("manifest", "part");
        assert_eq!(weir_inputs::run(target, &bytes), expected, "{target}/{name}");
    }
}

#[test]
fn every_folder_and_program_has_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let names = |dir: &str| {
        let entries = std::fs::read_dir(fuzz.join(dir)).expect("it is in the repository");
        let name = |e: std::io::Result<std::fs::DirEntry>| {
            e.expect("listed").file_name().into_string().expect("UTF-8")
        };
        let mut names: Vec<String> =
            entries.map(name).map(|n| n.trim_end_matches(".rs").to_owned()).collect();
        names.sort();
        names
    };
    let mut targets: Vec<&str> = weir_inputs::TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("targets"), targets);
}
