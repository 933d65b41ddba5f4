//! What the console's API says, as three small tables of text: calls, edges, anomalies.
//!
//! Never: asks anything; a field that is missing is a dash.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows of each table.
const ROWS: usize = 8;

/// The three tables from the API's answers (`red`, `edges`, `anomalies`).
pub(super) fn render(red: &Value, edges: &Value, anomalies: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        writeln!(out, "{}", text.trim_end()).expect("writing to a string cannot fail");
    };
    line(format!("\n{:<44} {:>8} {:>7} {:>9} {:>9}", "operation", "calls/s", "errors", "p50", "p99"));
    for row in rows(red) {
        let name = format!("{} {} {}", text(row, "service"), text(row, "kind"), text(row, "span"));
        let errors = number(row, "error_ratio").map_or_else(dash, |ratio| format!("{:.1} %", ratio * 100.0));
        let (p50, p99) = (millis(row, "p50_ms"), millis(row, "p99_ms"));
        line(format!("{:<44} {:>8} {errors:>7} {p50:>9} {p99:>9}", cut(&name, 44), rate(row)));
    }
    line(format!("\n{:<44} {:>8} {:>7} {:>9} {:>9}", "edge", "calls/s", "failed", "p50", "p95"));
    for row in rows(edges) {
        let name = format!("{} → {}", text(row, "client"), text(row, "server"));
        let failed = number(row, "failed").map_or_else(dash, |failed| format!("{failed:.0}"));
        let (p50, p95) = (millis(row, "p50_ms"), millis(row, "p95_ms"));
        line(format!("{:<44} {:>8} {failed:>7} {p50:>9} {p95:>9}", cut(&name, 44), rate(row)));
    }
    line(format!("\n{:<70} {:>6} {:>6}", "most unusual series (! flagged)", "score", "peak"));
    for row in rows(anomalies) {
        let name = format!("{}{}", text(row, "metric"), labels(&row["labels"]));
        let two = |key| number(row, key).map_or_else(dash, |score| format!("{score:.2}"));
        let mark = if row["flagged"] == true { "!" } else { "" };
        line(format!("{:<70} {:>6} {:>6} {mark}", cut(&name, 70), two("score"), two("peak")));
    }
    out
}

fn rows(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten().take(ROWS)
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

fn cut(text: &str, width: usize) -> String {
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
        let text = render(&red, &edges, &anomalies);
        for part in [
            "cart server GET /x",
            "12.3",
            "1.5 %",
            "1.3 ms         -",
            "web → cart",
            "calls{cart, server}",
            "0.91   0.95 !",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 90));
    }

    #[test]
    fn nothing_yet_is_three_empty_tables_and_long_names_are_cut() {
        assert_eq!(render(&Value::Null, &Value::Null, &Value::Null).lines().filter(|line| !line.is_empty()).count(), 3);
        assert_eq!(cut("äöüäöü", 4), "äöü…");
    }
}
