//! The JSON API of the console.
//!
//! Every list has a limit, every range a default; a parameter that is not known or makes no sense is refused
//! with status 400 and its name. Every answer is JSON, errors as `{"error": "…"}`.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::query::{self, AnomalyFilter, LabelMap, LogFilter, Store, TraceFilter, Unanswered};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;
const DEFAULT_SINCE_MS: i64 = 15 * 60 * 1000;

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

/// `since` as a Go duration back from now (`15m`), `limit` as a number.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Range {
    since: Option<String>,
    limit: Option<usize>,
}

/// Nothing may be asked further.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoParameters {}

/// A question that cannot be answered.
struct Problem(StatusCode, String);

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

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

type Answer<T> = Result<Json<T>, Problem>;
type Asked<T> = Result<Query<T>, QueryRejection>;

fn since_ms(since: Option<&str>) -> Result<i64, Problem> {
    let back = match since {
        None => DEFAULT_SINCE_MS,
        Some(text) => mirador_service::duration::parse(text)
            .map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
            .map_err(|error| Problem(StatusCode::BAD_REQUEST, format!("since={text}: {error}")))?,
    };
    Ok(query::now_ms().saturating_sub(back))
}

/// Rows to answer; more than [`MAX_LIMIT`] are never answered.
fn bounded(limit: Option<usize>, default: usize) -> Result<usize, Problem> {
    match limit {
        Some(0) => Err(wrong("limit=0: 1 to 1000 is right")),
        limit => Ok(limit.unwrap_or(default).min(MAX_LIMIT)),
    }
}

fn wrong(text: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, text.into())
}

fn trace_id(text: &str) -> Result<Vec<u8>, Problem> {
    let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let wrong = || wrong(format!("trace_id={text}: 32 hexadecimal digits are right"));
    let digits = if is_hex { text } else { return Err(wrong()) };
    (0..16).map(|byte| u8::from_str_radix(&digits[2 * byte..2 * byte + 2], 16).map_err(|_| wrong())).collect()
}

async fn services(State(store): State<Store>, asked: Asked<NoParameters>) -> Answer<Vec<String>> {
    asked?;
    Ok(Json(store.ask(query::services).await?))
}

async fn red(State(store): State<Store>, asked: Asked<Range>) -> Answer<impl Serialize> {
    let Query(range) = asked?;
    let (since, limit) = (since_ms(range.since.as_deref())?, bounded(range.limit, MAX_LIMIT)?);
    let mut rows = store.ask(move |connection| query::red(connection, since)).await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn edges(State(store): State<Store>, asked: Asked<Range>) -> Answer<impl Serialize> {
    let Query(range) = asked?;
    let (since, limit) = (since_ms(range.since.as_deref())?, bounded(range.limit, MAX_LIMIT)?);
    let mut rows = store.ask(move |connection| query::edges(connection, since)).await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn anomalies(State(store): State<Store>, asked: Asked<AnomalyFilter>) -> Answer<impl Serialize> {
    let Query(filter) = asked?;
    let (since, limit) = (since_ms(filter.since.as_deref())?, bounded(filter.limit, DEFAULT_LIMIT)?);
    Ok(Json(store.ask(move |connection| query::anomalies(connection, &filter, since, limit)).await?))
}

async fn traces(State(store): State<Store>, asked: Asked<TraceFilter>) -> Answer<impl Serialize> {
    let Query(filter) = asked?;
    let (since, limit) = (since_ms(filter.since.as_deref())?, bounded(filter.limit, DEFAULT_LIMIT)?);
    if let Some(least) = filter.min_duration_ms.filter(|least| !least.is_finite() || *least < 0.0) {
        return Err(wrong(format!("min_duration_ms={least}: 0 or more is right")));
    }
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(store.ask(move |connection| query::traces(connection, &filter, nanos, limit as i64)).await?))
}

async fn trace(State(store): State<Store>, Path(text): Path<String>) -> Answer<impl Serialize> {
    let id = trace_id(&text)?;
    let spans = store.ask(move |connection| query::trace(connection, &id)).await?;
    if spans.is_empty() {
        return Err(Problem(StatusCode::NOT_FOUND, format!("no span of trace {text} is stored")));
    }
    Ok(Json(spans))
}

async fn logs(State(store): State<Store>, asked: Asked<LogFilter>) -> Answer<impl Serialize> {
    let Query(filter) = asked?;
    let (since, limit) = (since_ms(filter.since.as_deref())?, bounded(filter.limit, DEFAULT_LIMIT)?);
    let id = filter.trace_id.as_deref().map(trace_id).transpose()?;
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(store.ask(move |connection| query::logs(connection, &filter, id.as_deref(), nanos, limit as i64)).await?))
}

async fn metrics(State(store): State<Store>, asked: Asked<NoParameters>) -> Answer<impl Serialize> {
    asked?;
    let names = store.ask(query::names).await?;
    Ok(Json(names.into_iter().map(|(name, series)| json!({"name": name, "series": series})).collect::<Vec<_>>()))
}

/// `name` is required; every other parameter but `since` is a label that has to match.
async fn series(State(store): State<Store>, asked: Asked<LabelMap>) -> Answer<impl Serialize> {
    let Query(mut labels) = asked?;
    let name = labels
        .remove("name")
        .ok_or_else(|| wrong("name is missing: say which metric, as in /api/v1/series?name=up"))?;
    let since = since_ms(labels.remove("since").as_deref())?;
    Ok(Json(store.ask(move |connection| query::series(connection, &name, &labels, since)).await?))
}

#[cfg(test)]
mod tests;
