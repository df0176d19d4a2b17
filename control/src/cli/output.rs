//! What commands print when they are asked for a table, for JSON, or for YAML.

#![forbid(unsafe_code)]

use serde::Serialize;
use std::fmt::Write as _;

pub(super) fn json<T: Serialize>(rows: &[T]) -> String {
    let mut text =
        serde_json::to_string_pretty(rows).expect("strings and numbers have a JSON form");
    text.push('\n');
    text
}

/// JSON's values are YAML's too, so each row is written field by field in flow style.
pub(super) fn yaml<T: Serialize>(rows: &[T]) -> String {
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    let mut text = String::new();
    for row in rows {
        let value = serde_json::to_value(row).expect("strings and numbers have a JSON form");
        let fields = value.as_object().into_iter().flatten();
        for (index, (key, value)) in fields.enumerate() {
            let lead = if index == 0 { "- " } else { "  " };
            let _ = writeln!(text, "{lead}{key}: {value}");
        }
    }
    text
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    let lines: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}
