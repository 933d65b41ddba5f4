//! Whether the trace store has every trace that was sent, span by span.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mirador_support::backends::client::until;
use mirador_support::backends::jaeger::{TraceQuery, tag};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use crate::exact::hex;
use crate::fleet::{Fleet, WAIT};

/// Questions to the store at a time.
const QUESTIONS: usize = 4;

/// Whether a span may be stored more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// Every answer was clear: each span is there once.
    Never,
    /// What got no clear answer was sent again.
    AfterUnclearAnswers,
}

/// A span with the service that reports it.
type Sent<'a> = (String, &'a Span);

/// Every trace of the requests is stored with exactly the spans that were sent, and each span as it was sent.
pub(crate) async fn every_trace_is_whole(
    fleet: &Fleet,
    requests: &[ExportTraceServiceRequest],
    repeats: Repeats,
) -> Result<()> {
    let mut traces: BTreeMap<&[u8], BTreeMap<String, Sent<'_>>> = BTreeMap::new();
    for resource in requests.iter().flat_map(|request| &request.resource_spans) {
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let service = attributes.filter(|attribute| attribute.key == "service.name").find_map(|name| {
                match name.value.as_ref()?.value.as_ref()? {
                    any_value::Value::StringValue(name) => Some(name.clone()),
                    _ => None,
                }
            });
            let sent = (service.unwrap_or_default(), span);
            traces.entry(&span.trace_id).or_default().insert(hex(&span.span_id), sent);
        }
    }
    let query = fleet.traces.query();
    stream::iter(&traces)
        .map(|(id, spans)| is_whole(query, hex(id), spans, repeats))
        .buffer_unordered(QUESTIONS)
        .try_collect::<()>()
        .await
}

async fn is_whole(query: &TraceQuery, id: String, sent: &BTreeMap<String, Sent<'_>>, repeats: Repeats) -> Result<()> {
    let stored = until("a trace to be stored", WAIT, async || {
        let stored = query.trace(&id).await?;
        let different: BTreeMap<&str, &Value> = stored.iter().map(|span| (word(&span["spanID"]), span)).collect();
        ensure!(different.len() >= sent.len(), "{} of {} spans are stored", different.len(), sent.len());
        Ok(Some(stored))
    })
    .await
    .with_context(|| format!("trace {id}"))?;
    ensure!(
        stored.len() == sent.len() || repeats == Repeats::AfterUnclearAnswers,
        "trace {id}: {} spans were sent, {} are stored",
        sent.len(),
        stored.len()
    );
    for span in &stored {
        let (service, expected) =
            sent.get(word(&span["spanID"])).with_context(|| format!("trace {id}: nobody sent {span}"))?;
        is_as_sent(span, service, expected).with_context(|| format!("trace {id}: {expected:?} became {span}"))?;
    }
    Ok(())
}

/// What a trace store says of a span: who and what, where it hangs, when, and every attribute and event.
fn is_as_sent(stored: &Value, service: &str, sent: &Span) -> Result<()> {
    let parent = stored["references"].as_array().into_iter().flatten().find(|of| of["refType"] == "CHILD_OF");
    let parent = parent.map_or("", |of| word(&of["spanID"]));
    ensure!(word(&stored["process"]["serviceName"]) == service, "another service than {service}");
    ensure!(stored["operationName"] == sent.name.as_str(), "another name");
    ensure!(parent == hex(&sent.parent_span_id), "another parent");
    ensure!(stored["startTime"] == sent.start_time_unix_nano / 1000, "another start");
    ensure!(stored["duration"] == (sent.end_time_unix_nano - sent.start_time_unix_nano) / 1000, "another duration");
    ensure!(stored["logs"].as_array().map_or(0, Vec::len) == sent.events.len(), "other events");
    for attribute in &sent.attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let value = match value.context("an attribute without a value")? {
            any_value::Value::StringValue(text) => text.clone(),
            any_value::Value::IntValue(number) => number.to_string(),
            other => anyhow::bail!("the shop sends no {other:?}"),
        };
        ensure!(tag(stored, &attribute.key) == Some(value), "another {}", attribute.key);
    }
    Ok(())
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
