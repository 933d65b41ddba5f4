//! Processor time, memory and descriptors of this process, read from /proc at every scrape.
//!
//! Where /proc is absent (not Linux) the values are NaN, which no alert mistakes for zero.
//! Reference: proc(5); `otelcol_process_*` are the collector's names for the same values.

use std::fs;
use std::time::Instant;

use crate::metrics::Registry;

/// `USER_HZ`: the kernel reports processor time to user space in 1/100 s on every architecture
/// that we build for (include/uapi/asm-generic/param.h).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers `mirador_process_*` and `otelcol_process_*`.
/// `started` is when the process began.
pub fn register_process_metrics(registry: &Registry, started: Instant) {
    let uptime = move || started.elapsed().as_secs_f64();
    registry.observe_gauge("mirador_process_uptime_seconds", "Seconds since the process started.", uptime);
    registry.observe_counter(
        "mirador_process_cpu_seconds",
        "Processor time of the process, user and system, in seconds.",
        cpu_seconds,
    );
    registry.observe_gauge("mirador_process_resident_memory_bytes", "Resident memory of the process.", resident_bytes);
    registry.observe_gauge("mirador_process_open_descriptors", "Open file descriptors of the process.", descriptors);
    registry.observe_gauge("mirador_process_threads", "Threads of the process.", threads);
    registry.observe_counter(
        "otelcol_process_uptime",
        "Seconds since the process started (the collector's name).",
        uptime,
    );
    registry.observe_counter(
        "otelcol_process_cpu_seconds",
        "Processor time of the process in seconds (the collector's name).",
        cpu_seconds,
    );
    registry.observe_gauge(
        "otelcol_process_memory_rss",
        "Resident memory of the process in bytes (the collector's name).",
        resident_bytes,
    );
}

fn cpu_seconds() -> f64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse_cpu_seconds(&stat)).unwrap_or(f64::NAN)
}

/// Fields 14 (utime) and 15 (stime); the second field, the name, may hold spaces and brackets.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes() -> f64 {
    status("VmRSS:").map_or(f64::NAN, |kibibytes| kibibytes * 1024.0)
}

fn threads() -> f64 {
    status("Threads:").unwrap_or(f64::NAN)
}

fn status(key: &str) -> Option<f64> {
    parse_status(&fs::read_to_string("/proc/self/status").ok()?, key)
}

fn parse_status(status: &str, key: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

fn descriptors() -> f64 {
    // The directory that is read is open itself.
    fs::read_dir("/proc/self/fd").map_or(f64::NAN, |entries| (entries.count() as f64 - 1.0).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_a_name_with_spaces_and_brackets() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(parse_cpu_seconds(stat), Some(2.0));
        assert_eq!(parse_cpu_seconds("12 (short) S 1"), None);
    }

    #[test]
    fn a_status_line_is_found_by_its_key() {
        assert_eq!(parse_status("Name:\tx\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048.0));
        assert_eq!(parse_status("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn the_values_of_this_process_are_real() {
        assert!(resident_bytes() > 65_536.0);
        assert!(cpu_seconds() >= 0.0);
        assert!(threads() >= 1.0);
        assert!(descriptors() >= 3.0);
    }
}
