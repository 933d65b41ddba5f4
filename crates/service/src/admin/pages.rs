//! The pages themselves: from the process's state to a response, without IO.

use std::time::SystemTime;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::Subject;
use crate::metrics;

pub(super) type Page = Response<Full<Bytes>>;

/// 8888.
pub(super) fn metrics(subject: &Subject, method: &Method, path: &str) -> Page {
    match path {
        "/metrics" => allowed(method, || page(StatusCode::OK, metrics::CONTENT_TYPE, subject.registry.encode())),
        _ => not_found("/metrics"),
    }
}

/// 13133.
pub(super) fn health(subject: &Subject, method: &Method, path: &str) -> Page {
    match path {
        "/" => allowed(method, || root(subject)),
        "/livez" => allowed(method, || livez(subject)),
        "/readyz" => allowed(method, || readyz(subject)),
        "/healthz" => allowed(method, || healthz(subject)),
        _ => not_found("/, /livez, /readyz, /healthz"),
    }
}

/// The collector's `health_check` page: 200 when available, 503 otherwise.
fn root(subject: &Subject) -> Page {
    let available = is_ready(subject);
    let uptime = crate::duration::format(subject.health.uptime());
    json_page(
        if available { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        &json!({
            "status": if available { "Server available" } else { "Server not available" },
            "upSince": rfc3339(subject.health.up_since()),
            "uptime": uptime,
        }),
    )
}

fn livez(subject: &Subject) -> Page {
    let report = subject.health.report();
    verdict(report.live, "live", &report.dead())
}

fn readyz(subject: &Subject) -> Page {
    let mut reasons = subject.health.report().unready();
    if subject.drain.is_draining() {
        reasons.insert(0, "process: draining".to_owned());
    }
    verdict(reasons.is_empty(), "ready", &reasons)
}

fn healthz(subject: &Subject) -> Page {
    let report = subject.health.report();
    let draining = subject.drain.is_draining();
    let healthy = report.ready && !draining;
    json_page(
        if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        &json!({
            "live": report.live,
            "ready": healthy,
            "draining": draining,
            "in_flight": subject.drain.in_flight(),
            "upSince": rfc3339(subject.health.up_since()),
            "uptime": crate::duration::format(subject.health.uptime()),
            "components": report.components,
        }),
    )
}

fn is_ready(subject: &Subject) -> bool {
    subject.health.report().ready && !subject.drain.is_draining()
}

fn verdict(good: bool, word: &str, reasons: &[String]) -> Page {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_page(status, &json!({ word: good, "reasons": reasons }))
}

fn allowed(method: &Method, make: impl FnOnce() -> Page) -> Page {
    if method == Method::GET || method == Method::HEAD {
        return make();
    }
    let text = "method not allowed; expected GET or HEAD\n".to_owned();
    let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", text);
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refused
}

fn not_found(pages: &str) -> Page {
    page(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", format!("not found; there is {pages}\n"))
}

fn json_page(status: StatusCode, body: &Value) -> Page {
    page(status, "application/json", format!("{body}\n"))
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Page {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `2026-01-31T12:34:56Z`. Days to date after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()) as i64;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}
