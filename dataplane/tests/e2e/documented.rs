//! `docs/dapr-compat.md` is made from `tests/behaviours.txt`, and each row there names the tests
//! that hold us to it; here both are held to. `RINGCAR_WRITE_DOCS=1` writes the page.
//!
//! A row without a test may only tell of something that is absent.

#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// What stands above the tables.
const HEAD: &str = "\
# Compatibility with Dapr

What a client, an app or an operator can observe of service invocation over HTTP, compared with
daprd 1.18.3, and the test that holds Ringcar to it. A test without a path is one of
`dataplane/tests/e2e`: each runs on io_uring and on epoll, and where it matters for a call to the
own app and for one over another sidecar. `cargo test -p ringcar-dataplane --test e2e <name>` runs
one; the suite fails when a name here has no test. This page is made from
`dataplane/tests/behaviours.txt`.

*same*: nobody can tell. *better*: different, so that nothing which worked with daprd stops
working. *absent*: not in this version, or deliberately different in a way a client could notice.
The last section is about what is no service invocation over HTTP; it is not counted.
";

/// Of the rows of this section none is counted: they are about something else than this page.
const OUTSIDE: &str = "Outside of service invocation over HTTP";

struct Section {
    title: String,
    rows: Vec<Row>,
}

struct Row {
    daprd: String,
    /// `same`, `better` or `absent`.
    verdict: String,
    /// Why, or in what.
    note: String,
    tests: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            sections.push(Section { title: title.to_owned(), rows: Vec::new() });
            continue;
        }
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("no key: {line}"));
        let value = value.trim().to_owned();
        let rows = &mut sections.last_mut().expect("a section comes first").rows;
        if key == "daprd" {
            let (verdict, note, tests) = (String::new(), String::new(), Vec::new());
            rows.push(Row { daprd: value, verdict, note, tests });
            continue;
        }
        let row = rows.last_mut().unwrap_or_else(|| panic!("no row above {line}"));
        match key {
            "ringcar" => {
                let (verdict, note) = value.split_once(": ").unwrap_or((&value, ""));
                assert!(["same", "better", "absent"].contains(&verdict), "{line}");
                (row.verdict, row.note) = (verdict.to_owned(), note.to_owned());
            }
            "test" => row.tests.push(value),
            _ => panic!("no such key: {line}"),
        }
    }
    sections
}

fn page(sections: &[Section]) -> String {
    let is_counted = |section: &&Section| section.title != OUTSIDE;
    let rows = || sections.iter().filter(is_counted).flat_map(|section| &section.rows);
    let count = |verdict: &str| rows().filter(|row| row.verdict == verdict).count();
    let mut page = HEAD.to_owned();
    let (same, better, absent) = (count("same"), count("better"), count("absent"));
    let all = rows().count();
    write!(
        page,
        "\nOf {all} behaviours {same} are *same*, {better} *better*, {absent} *absent*.\n"
    )
    .unwrap();
    assert!(sections.iter().any(|section| section.title == OUTSIDE), "there is such a section");
    for section in sections {
        write!(page, "\n## {}\n\n| daprd 1.18 | Ringcar | test |\n|---|---|---|\n", section.title)
            .unwrap();
        for row in &section.rows {
            let colon = if row.note.is_empty() { "" } else { ": " };
            let tests: Vec<String> = row.tests.iter().map(|test| format!("`{test}`")).collect();
            let tests = tests.join(", ");
            writeln!(page, "| {} | *{}*{colon}{} | {tests} |", row.daprd, row.verdict, row.note)
                .unwrap();
        }
    }
    page
}

/// `subject::name` of each conversation, read from the sources beside this one.
fn conversations() -> HashSet<String> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(root().join("dataplane/tests/e2e")).unwrap() {
        let path = entry.unwrap().path();
        let subject = path.file_stem().unwrap().to_string_lossy().into_owned();
        let source = if path.is_file() { fs::read_to_string(&path).unwrap() } else { continue };
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("    fn ").and_then(|l| l.split('(').next()) {
                found.insert(format!("{subject}::{name}"));
            }
        }
    }
    found
}

fn behaviours() -> Vec<Section> {
    sections(&fs::read_to_string(root().join("dataplane/tests/behaviours.txt")).unwrap())
}

#[test]
fn each_promised_test_exists() {
    let conversations = conversations();
    let behaviours = behaviours();
    let rows: Vec<&Row> = behaviours.iter().flat_map(|section| &section.rows).collect();
    assert!(rows.len() > 80, "only {} rows were found", rows.len());
    for Row { daprd, verdict, tests, .. } in rows {
        assert!(!verdict.is_empty(), "no verdict: {daprd}");
        assert!(!tests.is_empty() || verdict == "absent", "no test: {daprd}");
        for test in tests {
            match test.split_once(": ") {
                Some((file, name)) => {
                    let source = fs::read_to_string(root().join(file)).unwrap_or_default();
                    let is_there = match file.ends_with(".rs") {
                        true => source.contains(&format!("fn {name}(")),
                        false => source.contains(name),
                    };
                    assert!(is_there, "no {test}");
                }
                None => assert!(conversations.contains(test), "no {test}"),
            }
        }
    }
}

#[test]
fn the_page_says_what_the_rows_say() {
    let path = root().join("docs/dapr-compat.md");
    let page = page(&behaviours());
    if env::var_os("RINGCAR_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(path).unwrap();
    assert!(
        written == page,
        "docs/dapr-compat.md is not what the rows say: RINGCAR_WRITE_DOCS=1 writes it"
    );
}
