//! Metric and label names as Prometheus knows them.
//!
//! Follows the OpenTelemetry specification "OTLP Metric points to Prometheus" and the algorithm that
//! VictoriaMetrics uses for `-opentelemetry.usePrometheusNaming`: words of the name, then the words of the
//! unit unless they are there, then `ratio` or `total`.
//!
//! Never: looks at values, keeps state.

use xxhash_rust::xxh3::xxh3_64;

use super::labels::shortened;
use super::tally::Tally;

/// What the suffix of a name depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Goes up and down; unit `1` means a ratio.
    Gauge,
    /// Only goes up: `_total`.
    Counter,
    /// Goes up and down and adds up across series; a histogram or a summary is named like it.
    Plain,
}

/// The Prometheus name of an OTLP metric.
///
/// A name without a single letter or digit becomes `metric_<hash>`, so that two of them stay apart.
pub fn metric_name(name: &str, unit: &str, shape: Shape) -> String {
    let mut words: Vec<&str> = words(name).collect();
    let hashed;
    if words.is_empty() {
        hashed = format!("{:016x}", xxh3_64(name.as_bytes()));
        words.extend(["metric", &hashed]);
    }
    let (main, per) = unit_words(unit);
    let mut added: Vec<&str> = Vec::new();
    added.extend(self::words(&main).filter(|word| !words.contains(word)));
    let mut per_words = self::words(&per).peekable();
    if per_words.peek().is_some() && !contains_per(&words, &per) {
        added.push("per");
        added.extend(per_words);
    }
    words.extend(added);
    let suffix = match shape {
        Shape::Counter => Some("total"),
        Shape::Gauge if unit == "1" => Some("ratio"),
        Shape::Gauge | Shape::Plain => None,
    };
    if let Some(suffix) = suffix {
        words.retain(|word| *word != suffix);
        words.push(suffix);
    }
    let mut text = words.join("_");
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

/// A name that leaves room for `_bucket`; one that is too long ends with a hash of the whole.
pub fn shortened_name(name: String, limit: usize, tally: &mut Tally) -> String {
    let limit = limit.saturating_sub("_bucket".len());
    if name.len() <= limit {
        return name;
    }
    tally.truncate();
    shortened(&name, limit)
}

/// A label name of letters, digits and underscores that starts with neither a digit nor two underscores.
pub fn label_name(key: &str) -> String {
    let mut text: String =
        key.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        text.insert_str(0, "key_");
    } else if text.starts_with("__") || text.is_empty() {
        // Two leading underscores are Prometheus' own (`__name__`).
        text.insert_str(0, "key");
    }
    text
}

/// A bound or a quantile as a label value: the shortest decimal that reads back, without an exponent.
pub fn number_text(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        format!("{value}")
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

fn contains_per(words: &[&str], per: &str) -> bool {
    words.windows(2).any(|pair| pair[0] == "per" && pair[1] == per)
}

/// The words of a UCUM unit: of the unit itself and of what it is divided by.
fn unit_words(unit: &str) -> (String, String) {
    let unit = without_annotations(unit);
    let (main, per) = unit.split_once('/').unwrap_or((&unit, ""));
    (main_unit(main.trim()).to_owned(), per_unit(per.trim()).to_owned())
}

fn without_annotations(unit: &str) -> String {
    let mut depth = 0_usize;
    let kept = |letter: &char| {
        match letter {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        depth == 0
    };
    unit.chars().filter(kept).collect()
}

fn main_unit(unit: &str) -> &str {
    match unit {
        "a" => "years",
        "mo" => "months",
        "wk" => "weeks",
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "kBy" | "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        "1" => "",
        other => other,
    }
}

fn per_unit(unit: &str) -> &str {
    match unit {
        "s" => "second",
        "m" | "min" => "minute",
        "h" => "hour",
        "d" => "day",
        "w" | "wk" => "week",
        "mo" => "month",
        "y" | "a" => "year",
        "1" => "",
        other => main_unit(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_the_table() {
        let table = [
            // (OTLP name, unit, shape, Prometheus name)
            ("traces.span.metrics.calls", "", Shape::Counter, "traces_span_metrics_calls_total"),
            ("traces.span.metrics.duration", "ms", Shape::Plain, "traces_span_metrics_duration_milliseconds"),
            ("traces.span.metrics.duration", "s", Shape::Plain, "traces_span_metrics_duration_seconds"),
            ("traces.span.metrics.events", "", Shape::Counter, "traces_span_metrics_events_total"),
            ("traces_service_graph_request_total", "", Shape::Counter, "traces_service_graph_request_total"),
            (
                "traces_service_graph_request_failed_total",
                "",
                Shape::Counter,
                "traces_service_graph_request_failed_total",
            ),
            ("traces_service_graph_request_server", "s", Shape::Plain, "traces_service_graph_request_server_seconds"),
            ("traces_service_graph_request_client", "s", Shape::Plain, "traces_service_graph_request_client_seconds"),
            ("http.server.request.duration", "s", Shape::Plain, "http_server_request_duration_seconds"),
            ("http.server.active_requests", "{request}", Shape::Plain, "http_server_active_requests"),
            ("system.cpu.utilization", "1", Shape::Gauge, "system_cpu_utilization_ratio"),
            ("system.cpu.time", "s", Shape::Counter, "system_cpu_time_seconds_total"),
            ("system.network.io", "By", Shape::Counter, "system_network_io_bytes_total"),
            ("system.network.io_bytes", "By", Shape::Counter, "system_network_io_bytes_total"),
            ("disk.speed", "By/s", Shape::Gauge, "disk_speed_bytes_per_second"),
            ("disk.bytes_per_second", "By/s", Shape::Gauge, "disk_bytes_per_second"),
            ("requests", "{request}/s", Shape::Gauge, "requests_per_second"),
            ("total.requests", "1", Shape::Counter, "requests_total"),
            ("jvm.memory.used", "By", Shape::Plain, "jvm_memory_used_bytes"),
            ("room.temperature", "Cel", Shape::Gauge, "room_temperature_celsius"),
            ("pool.size", "connection", Shape::Plain, "pool_size_connection"),
            ("battery", "%", Shape::Gauge, "battery_percent"),
            ("5xx.count", "", Shape::Plain, "_5xx_count"),
            ("a//b--c::d e", "", Shape::Plain, "a_b_c_d_e"),
            ("größe", "", Shape::Plain, "gr_e"),
            ("queue.wait", "min", Shape::Plain, "queue_wait_minutes"),
        ];
        for (name, unit, shape, expected) in table {
            assert_eq!(metric_name(name, unit, shape), expected, "{name} [{unit}] {shape:?}");
        }
        let unnamed = metric_name("请求", "", Shape::Plain);
        assert!(unnamed.starts_with("metric_") && unnamed != metric_name("错误", "", Shape::Plain), "{unnamed}");
    }

    #[test]
    fn label_names_follow_the_table() {
        let table = [
            ("http.method", "http_method"),
            ("service_name", "service_name"),
            ("5xx", "key_5xx"),
            ("__name__", "key__name__"),
            ("_private", "_private"),
            ("größe", "gr__e"),
            ("", "key"),
        ];
        for (key, expected) in table {
            assert_eq!(label_name(key), expected, "{key}");
        }
    }

    #[test]
    fn bounds_are_written_without_an_exponent() {
        assert_eq!(number_text(0.002), "0.002");
        assert_eq!(number_text(15000.0), "15000");
        assert_eq!(number_text(1e21), "1000000000000000000000");
        assert_eq!(number_text(f64::INFINITY), "+Inf");
    }
}
