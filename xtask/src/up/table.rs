//! What the console's API says, as three small tables of text: calls, edges, anomalies.
//!
//! Never: asks anything; a field that is missing is a dash.

use std::fmt::Write as _;

use serde_json::Value;

/// How much there is room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Characters in a line.
    pub(super) width: usize,
    /// Rows of each table.
    pub(super) rows: usize,
}

/// Where nobody says how much room there is.
pub(super) const PLENTY: Room = Room { width: 90, rows: 8 };

/// A name needs this much to be told from the next; columns of numbers give way to it.
const NAME: usize = 24;

/// The three tables from the API's answers (`red`, `edges`, `anomalies`).
pub(super) fn render(red: &Value, edges: &Value, anomalies: &Value, room: Room) -> String {
    let operations = rows(red, room).map(|row| {
        let name = format!("{} {} {}", text(row, "service"), text(row, "kind"), text(row, "span"));
        let errors = number(row, "error_ratio").map_or_else(dash, |ratio| format!("{:.1} %", ratio * 100.0));
        (name, vec![rate(row), errors, millis(row, "p50_ms"), millis(row, "p99_ms")])
    });
    let edge_rows = rows(edges, room).map(|row| {
        let name = format!("{} → {}", text(row, "client"), text(row, "server"));
        let failed = number(row, "failed").map_or_else(dash, |failed| format!("{failed:.0}"));
        (name, vec![rate(row), failed, millis(row, "p50_ms"), millis(row, "p95_ms")])
    });
    let unusual = rows(anomalies, room).map(|row| {
        let name = format!("{}{}", text(row, "metric"), labels(&row["labels"]));
        let two = |key| number(row, key).map_or_else(dash, |score| format!("{score:.2}"));
        let mark = if row["flagged"] == true { "!" } else { "" };
        (name, vec![format!("{mark:<1}{:>5}", two("score")), two("peak")])
    });
    let mut out = String::new();
    table(&mut out, room, "operation", &[("calls/s", 8), ("errors", 7), ("p50", 9), ("p99", 9)], operations);
    table(&mut out, room, "edge", &[("calls/s", 8), ("failed", 7), ("p50", 9), ("p95", 9)], edge_rows);
    table(&mut out, room, "most unusual series (! flagged)", &[("score", 6), ("peak", 6)], unusual);
    out
}

/// A title and rows; the rightmost columns are left out where a name would have no room.
fn table(
    out: &mut String,
    room: Room,
    title: &str,
    columns: &[(&str, usize)],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) {
    let wide = |columns: &[(&str, usize)]| columns.iter().map(|(_, width)| width + 1).sum::<usize>();
    let fits = |count: &usize| wide(&columns[..*count]) + NAME <= room.width;
    let columns = &columns[..(0..=columns.len()).rev().find(fits).unwrap_or_default()];
    let name_width = room.width.saturating_sub(wide(columns)).max(1);
    out.push('\n');
    let mut line = |name: &str, cells: &[String]| {
        write!(out, "{:<name_width$}", cut(name, name_width)).expect("writing to a string cannot fail");
        for (cell, (_, width)) in cells.iter().zip(columns) {
            write!(out, " {cell:>width$}").expect("writing to a string cannot fail");
        }
        out.push('\n');
    };
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    line(title, &titles);
    for (name, cells) in rows {
        line(&name, &cells);
    }
}

fn rows(of: &Value, room: Room) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten().take(room.rows)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or("-")
}

fn number(row: &Value, key: &str) -> Option<f64> {
    row[key].as_f64()
}

fn rate(row: &Value) -> String {
    number(row, "rate").map_or_else(dash, |rate| format!("{rate:.1}"))
}

fn millis(row: &Value, key: &str) -> String {
    number(row, key).map_or_else(dash, |millis| format!("{millis:.1} ms"))
}

fn dash() -> String {
    "-".to_owned()
}

/// The labels that tell one series from the next, in a few characters.
fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    // RED says the service twice, for those who look for `job` and for those who look for `service_name`.
    let is_said = |name: &str| name == "metric" || name == "job" && labels.get("service_name").is_some();
    let shown = pairs.filter(|(name, _)| !is_said(name)).filter_map(|(_, value)| value.as_str());
    let short = |value: &str| {
        let word = ["SPAN_KIND_", "STATUS_CODE_"].iter().find_map(|prefix| value.strip_prefix(prefix));
        word.map_or_else(|| value.to_owned(), str::to_lowercase)
    };
    let shown: Vec<_> = shown.filter(|value| !value.is_empty()).map(short).collect();
    if shown.is_empty() { String::new() } else { format!("{{{}}}", shown.join(", ")) }
}

/// The beginning of `text` that has room in `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_answer_becomes_a_table() {
        let red = json!([{"service": "cart", "span": "GET /x", "kind": "server", "rate": 12.34, "error_ratio": 0.015,
            "p50_ms": 1.26, "p99_ms": null}]);
        let edges =
            json!([{"client": "web", "server": "cart", "rate": 3.0, "failed": 2.0, "p50_ms": 5.0, "p95_ms": 9.0}]);
        let labels = json!({"job": "cart", "service_name": "cart", "span_kind": "SPAN_KIND_SERVER", "metric": "calls"});
        let anomalies = json!([{"metric": "calls", "labels": labels, "score": 0.91, "peak": 0.95, "flagged": true}]);
        let text = render(&red, &edges, &anomalies, PLENTY);
        for part in [
            "cart server GET /x",
            "12.3",
            "1.5 %",
            "1.3 ms         -",
            "web → cart",
            "calls{cart, server}",
            "! 0.91   0.95",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        for width in 1..120 {
            let text = render(&red, &edges, &anomalies, Room { width, rows: 8 });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width} columns:\n{text}");
        }
        let narrow = render(&red, &edges, &anomalies, Room { width: 40, rows: 8 });
        assert!(narrow.contains("cart server GET /x") && narrow.contains("12.3") && !narrow.contains("ms"), "{narrow}");
        assert!(!render(&red, &edges, &anomalies, Room { width: 80, rows: 0 }).contains("cart"));
    }

    #[test]
    fn nothing_yet_is_three_empty_tables_and_long_names_are_cut() {
        assert_eq!(
            render(&Value::Null, &Value::Null, &Value::Null, PLENTY)
                .lines()
                .filter(|line| !line.trim().is_empty())
                .count(),
            3
        );
        assert_eq!(cut("äöüäöü", 4), "äöü…");
    }
}
