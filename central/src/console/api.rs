//! The JSON API of the console.
//!
//! Every list has a limit, every range a default; a parameter that is not known or makes no sense is refused
//! with status 400 and its name. Every answer is JSON, errors as `{"error": "…"}`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;

use super::parameters::{MAX_LIMIT, Parameters, trace_id};
use super::query::{self, AnomalyFilter, LogFilter, Store, TraceFilter, Unanswered};

/// Rows of a list that nobody has asked for more of.
const DEFAULT_LIMIT: usize = 50;
/// The highest severity number of OTLP.
const MAX_SEVERITY: i32 = 24;

/// The routes below `/api/v1`, and the answer to every path that nobody knows.
pub(super) fn router(store: Store) -> Router {
    let router = Router::new()
        .route("/api/v1/services", get(services))
        .route("/api/v1/red", get(red))
        .route("/api/v1/graph", get(edges))
        .route("/api/v1/anomalies", get(anomalies))
        .route("/api/v1/traces", get(traces))
        .route("/api/v1/traces/{trace_id}", get(trace))
        .route("/api/v1/logs", get(logs))
        .route("/api/v1/metrics", get(metrics))
        .route("/api/v1/series", get(series));
    let only_reads = async || Problem(StatusCode::METHOD_NOT_ALLOWED, "the console only reads: use GET".to_owned());
    router.method_not_allowed_fallback(only_reads).fallback(unknown).with_state(store).layer(map_response(plain_json))
}

async fn unknown(uri: Uri) -> impl IntoResponse {
    Problem(
        StatusCode::NOT_FOUND,
        format!(
            "{} is not known; /api/v1 has services, red, graph, anomalies, traces, traces/{{id}}, logs, metrics and series",
            uri.path()
        ),
    )
}

/// Answers hold what telemetry says: no browser may guess that it is a page, and no cache keep it.
async fn plain_json(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A question that cannot be answered.
#[derive(Debug)]
pub(super) struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        let status = match error.downcast_ref::<Unanswered>() {
            Some(Unanswered::Busy(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Some(Unanswered::TooSlow(_)) => StatusCode::GATEWAY_TIMEOUT,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, format!("{error:#}"))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

type Answer<T> = Result<Json<T>, Problem>;

/// A question that makes no sense; `text` says which parameter, and what would be right.
pub(super) fn wrong(text: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, text.into())
}

async fn services(State(store): State<Store>, uri: Uri) -> Answer<Vec<String>> {
    Parameters::of(&uri, &[])?;
    Ok(Json(store.ask(query::services).await?))
}

async fn red(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::of(&uri, &["since", "limit"])?;
    let (since, limit) = (asked.since_ms()?, asked.limit(MAX_LIMIT)?);
    let mut rows = store.ask(move |connection| query::red(connection, since)).await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn edges(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::of(&uri, &["since", "limit"])?;
    let (since, limit) = (asked.since_ms()?, asked.limit(MAX_LIMIT)?);
    let mut rows = store.ask(move |connection| query::edges(connection, since)).await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn anomalies(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::of(&uri, &["since", "limit", "service", "flagged", "incident"])?;
    let (since, limit) = (asked.since_ms()?, asked.limit(DEFAULT_LIMIT)?);
    let filter = AnomalyFilter {
        service: asked.text("service"),
        flagged: asked.flag("flagged")?,
        incident: asked.text("incident"),
    };
    Ok(Json(store.ask(move |connection| query::anomalies(connection, &filter, since, limit)).await?))
}

async fn traces(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::of(&uri, &["since", "limit", "service", "errors", "min_duration_ms"])?;
    let (since, limit) = (asked.since_ms()?, asked.limit(DEFAULT_LIMIT)?);
    let least = asked.read("min_duration_ms", "a number of milliseconds, 0 or more,", |text| {
        text.parse().ok().filter(|least: &f64| least.is_finite() && *least >= 0.0)
    })?;
    let filter = TraceFilter {
        service: asked.text("service"),
        errors: asked.flag("errors")?.unwrap_or(false),
        min_duration_ms: least,
    };
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(store.ask(move |connection| query::traces(connection, &filter, nanos, limit as i64)).await?))
}

async fn trace(
    State(store): State<Store>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer<impl Serialize> {
    let Path(text) = path?;
    Parameters::of(&uri, &[])?;
    let id = trace_id(&text)?;
    let spans = store.ask(move |connection| query::trace(connection, &id)).await?;
    if spans.is_empty() {
        return Err(Problem(StatusCode::NOT_FOUND, format!("no span of trace {text} is stored")));
    }
    Ok(Json(spans))
}

async fn logs(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::of(&uri, &["since", "limit", "service", "min_severity", "trace_id", "contains"])?;
    let (since, limit) = (asked.since_ms()?, asked.limit(DEFAULT_LIMIT)?);
    let right = format!("a whole number from 0 to {MAX_SEVERITY}");
    let filter = LogFilter {
        service: asked.text("service"),
        min_severity: asked.read("min_severity", &right, |text| {
            text.parse().ok().filter(|severity| (0..=MAX_SEVERITY).contains(severity))
        })?,
        trace_id: asked.trace_id()?,
        contains: asked.text("contains"),
    };
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(store.ask(move |connection| query::logs(connection, &filter, nanos, limit as i64)).await?))
}

async fn metrics(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    Parameters::of(&uri, &[])?;
    let names = store.ask(query::names).await?;
    Ok(Json(names.into_iter().map(|(name, series)| json!({"name": name, "series": series})).collect::<Vec<_>>()))
}

/// `name` is required; every other parameter but `since` and `limit` is a label that has to match.
async fn series(State(store): State<Store>, uri: Uri) -> Answer<impl Serialize> {
    let mut asked = Parameters::any(&uri)?;
    let name =
        asked.text("name").ok_or_else(|| wrong("name is missing: say which metric, as in /api/v1/series?name=up"))?;
    let (since, limit) = (asked.since_ms()?, asked.limit(MAX_LIMIT)?);
    let labels = asked.rest();
    Ok(Json(store.ask(move |connection| query::series(connection, &name, &labels, (since, limit))).await?))
}

#[cfg(test)]
mod tests;
