//! The JSON API of the console.
//!
//! Every list has a limit, every range a default; a parameter that is not known is refused by name.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::query::{self, LabelMap, LogFilter, Store, TraceFilter};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;
const DEFAULT_SINCE_MS: i64 = 15 * 60 * 1000;

/// The routes below `/api`.
pub(super) fn router(store: Store) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/red", get(red))
        .route("/api/edges", get(edges))
        .route("/api/anomalies", get(anomalies))
        .route("/api/traces", get(traces))
        .route("/api/traces/{trace_id}", get(trace))
        .route("/api/logs", get(logs))
        .route("/api/metrics", get(metrics))
        .route("/api/series", get(series))
        .with_state(store)
}

/// `since` as a Go duration back from now (`15m`), `limit` as a number.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Range {
    since: Option<String>,
    limit: Option<usize>,
}

/// A question that cannot be answered.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
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

fn bounded(limit: Option<usize>) -> usize {
    limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
}

fn trace_id(text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = || {
        Problem(
            StatusCode::BAD_REQUEST,
            format!("trace id {text:?}: 32 hexadecimal digits are expected"),
        )
    };
    if text.len() != 32 || !text.is_ascii() {
        return Err(wrong());
    }
    (0..16)
        .map(|byte| u8::from_str_radix(&text[2 * byte..2 * byte + 2], 16).map_err(|_| wrong()))
        .collect()
}

async fn services(State(store): State<Store>) -> Answer<Vec<String>> {
    Ok(Json(store.ask(query::services).await?))
}

async fn red(State(store): State<Store>, asked: Asked<Range>) -> Answer<impl Serialize> {
    let Query(range) = asked?;
    let (since, limit) = (
        since_ms(range.since.as_deref())?,
        range.limit.unwrap_or(MAX_LIMIT),
    );
    let mut rows = store
        .ask(move |connection| query::red(connection, since))
        .await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn edges(State(store): State<Store>, asked: Asked<Range>) -> Answer<impl Serialize> {
    let Query(range) = asked?;
    let (since, limit) = (
        since_ms(range.since.as_deref())?,
        range.limit.unwrap_or(MAX_LIMIT),
    );
    let mut rows = store
        .ask(move |connection| query::edges(connection, since))
        .await?;
    rows.truncate(limit);
    Ok(Json(rows))
}

async fn anomalies(State(store): State<Store>, asked: Asked<Range>) -> Answer<impl Serialize> {
    let Query(range) = asked?;
    let (since, limit) = (since_ms(range.since.as_deref())?, bounded(range.limit));
    Ok(Json(
        store
            .ask(move |connection| query::anomalies(connection, since, limit))
            .await?,
    ))
}

async fn traces(State(store): State<Store>, asked: Asked<TraceFilter>) -> Answer<impl Serialize> {
    let Query(filter) = asked?;
    let (since, limit) = (since_ms(filter.since.as_deref())?, bounded(filter.limit));
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(
        store
            .ask(move |connection| query::traces(connection, &filter, nanos, limit as i64))
            .await?,
    ))
}

async fn trace(State(store): State<Store>, Path(text): Path<String>) -> Answer<impl Serialize> {
    let id = trace_id(&text)?;
    let spans = store
        .ask(move |connection| query::trace(connection, &id))
        .await?;
    if spans.is_empty() {
        return Err(Problem(
            StatusCode::NOT_FOUND,
            format!("no span of trace {text} is stored"),
        ));
    }
    Ok(Json(spans))
}

async fn logs(State(store): State<Store>, asked: Asked<LogFilter>) -> Answer<impl Serialize> {
    let Query(filter) = asked?;
    let (since, limit) = (since_ms(filter.since.as_deref())?, bounded(filter.limit));
    let id = filter.trace_id.as_deref().map(trace_id).transpose()?;
    let nanos = since.saturating_mul(1_000_000);
    Ok(Json(
        store
            .ask(move |connection| query::logs(connection, &filter, id.as_deref(), nanos, limit as i64))
            .await?,
    ))
}

async fn metrics(State(store): State<Store>) -> Answer<impl Serialize> {
    let names = store.ask(query::names).await?;
    Ok(Json(
        names
            .into_iter()
            .map(|(name, series)| json!({"name": name, "series": series}))
            .collect::<Vec<_>>(),
    ))
}

/// `name` is required; every other parameter but `since` is a label that has to match.
async fn series(State(store): State<Store>, asked: Asked<LabelMap>) -> Answer<impl Serialize> {
    let Query(mut labels) = asked?;
    let name = labels.remove("name").ok_or_else(|| {
        Problem(
            StatusCode::BAD_REQUEST,
            "name is missing: say which metric, as in /api/series?name=up".to_owned(),
        )
    })?;
    let since = since_ms(labels.remove("since").as_deref())?;
    Ok(Json(
        store
            .ask(move |connection| query::series(connection, &name, &labels, since))
            .await?,
    ))
}
