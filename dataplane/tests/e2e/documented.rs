//! `docs/dapr-compat.md` promises a test per behaviour; here the promise is held to. A row without
//! a test may only tell of something that is absent.

#![forbid(unsafe_code)]

use std::{collections::HashSet, fs, path::Path};

/// `subject::name` of each conversation, read from the sources beside this one.
fn conversations() -> HashSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
    let mut found = HashSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let subject = path.file_stem().unwrap().to_string_lossy().into_owned();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(name) = line.strip_prefix("    fn ").and_then(|l| l.split('(').next()) {
                found.insert(format!("{subject}::{name}"));
            }
        }
    }
    found
}

/// What stands in backticks in the last column of each row.
fn promises(table: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| daprd"));
    rows.map(|row| {
        let tests = row.trim_end_matches('|').rsplit('|').next().expect("a row has columns");
        (row, tests.split('`').skip(1).step_by(2).collect())
    })
    .collect()
}

#[test]
fn each_promised_test_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dapr-compat.md");
    let table = fs::read_to_string(path).unwrap();
    let conversations = conversations();
    let rows = promises(&table);
    assert!(rows.len() > 50, "only {} rows were found", rows.len());
    for (row, tests) in rows {
        assert!(!tests.is_empty() || row.contains("*absent*"), "no test: {row}");
        for test in tests {
            match test.split_once(": ") {
                Some((file, name)) => {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
                    let source = fs::read_to_string(&path).unwrap();
                    assert!(source.contains(&format!("fn {name}(")), "no {test}");
                }
                None => assert!(conversations.contains(test), "no {test}"),
            }
        }
    }
}
