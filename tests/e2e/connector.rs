//! Ours against the OpenTelemetry Collector's span metrics connector: by what it has made of the same spans.
//!
//! Its answer is committed (`tests/golden/spanmetrics`); `mirador_support::connector` says how it was got.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use mirador_support::backends::client::until;
use mirador_support::connector::{About, INSTANCE, Labels, Last, Series, golden, input, last_points};
use mirador_support::oracle::{self, Red, RedKey};
use mirador_support::shop::Sender;

use crate::fleet::WAIT;
use crate::red::Counting;

/// Series by metric and labels, whatever their resource.
type Folded = BTreeMap<(About, Labels), Last>;

/// What the connector has made, but for what we do otherwise on purpose.
fn expected() -> Result<Folded> {
    let mut folded = Folded::new();
    for ((about, _, mut labels), last) in golden()? {
        // There is one writer of each of our series.
        ensure!(labels.remove(INSTANCE).is_some(), "{about:?} {labels:?} is of no process");
        // Somebody without a name is nobody, as in Prometheus an empty label is none.
        if labels["service.name"].is_empty() {
            continue;
        }
        // A kind that OpenTelemetry does not know has an empty name there.
        if labels["span.kind"].is_empty() {
            labels.insert("span.kind".to_owned(), "SPAN_KIND_UNSPECIFIED".to_owned());
        }
        // It keeps apart what differs in attributes of the resource that are no labels: the same series twice.
        let known = folded.entry((about, labels)).or_insert_with(|| Last {
            count: Some(0.0),
            bounds: last.bounds.clone(),
            buckets: vec![0; last.buckets.len()],
            ..Last::default()
        });
        known.count = known.count.zip(last.count).map(|(ours, more)| ours + more);
        known.sum += last.sum;
        known.buckets.iter_mut().zip(&last.buckets).for_each(|(ours, more)| *ours += more);
    }
    Ok(folded)
}

/// What we have sent, without the gauges, which the connector has not.
fn folded(found: BTreeMap<Series, Last>) -> Result<Folded> {
    let mut folded = Folded::new();
    for ((about, resource, labels), last) in found.into_iter().filter(|((about, ..), _)| about.kind != "gauge") {
        ensure!(resource.len() == 1 && resource["service.name"] == labels["service.name"], "{resource:?}, {labels:?}");
        let before = folded.insert((about, labels), last);
        ensure!(before.is_none(), "one series of two resources: {before:?}");
    }
    Ok(folded)
}

fn ensure_equal(found: &Folded, expected: &Folded) -> Result<()> {
    for key in expected.keys().chain(found.keys()) {
        let (Some(ours), Some(theirs)) = (found.get(key), expected.get(key)) else {
            anyhow::bail!("{key:?}: ours {:?}, the connector's {:?}", found.get(key), expected.get(key));
        };
        // They add up milliseconds, we nanoseconds.
        let is_equal = ours.count == theirs.count
            && (ours.sum - theirs.sum).abs() <= 1e-9 * theirs.sum.abs()
            && ours.bounds == theirs.bounds
            && ours.buckets == theirs.buckets;
        ensure!(is_equal, "{key:?}: ours {ours:?}, the connector's {theirs:?}");
    }
    Ok(())
}

#[test]
fn the_recomputation_that_other_tests_trust_is_what_the_connector_counts() -> Result<()> {
    let mut counted: BTreeMap<RedKey, Red> = BTreeMap::new();
    for ((about, labels), last) in expected()? {
        let label = |name: &str| labels[name].clone();
        let key = (label("service.name"), label("span.name"), label("span.kind"), label("status.code"));
        let red = counted.entry(key).or_default();
        if about.kind.starts_with("sum") {
            red.calls = last.count.unwrap_or_default() as u64;
        } else {
            ensure!(last.bounds == oracle::BOUNDS_MS, "{:?}", last.bounds);
            red.sum_nanos = (last.sum * 1e6).round() as u128;
            red.buckets.copy_from_slice(&last.buckets);
        }
    }
    let recomputed = oracle::red(&input());
    ensure!(recomputed.len() > 30 && counted.len() == recomputed.len(), "{} series", counted.len());
    for (key, red) in &recomputed {
        ensure!(counted.get(key) == Some(red), "{key:?}: recomputed {red:?}, the connector's {:?}", counted.get(key));
    }
    Ok(())
}

/// The same spans, twice as a client does that has heard no answer, until what leaves equals the connector's.
async fn sends_the_same(counting: &Counting, sender: &Sender) -> Result<()> {
    let (requests, expected) = (input(), expected()?);
    for _ in 0..2 {
        // Side by side: spanmetrics answers when a flush has been taken, one a second.
        try_join_all(requests.iter().map(|request| sender.traces(request))).await?;
    }
    until("what leaves to equal the connector's", WAIT, async || {
        ensure_equal(&folded(last_points(&counting.store.metrics()?)?)?, &expected)?;
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_an_agent_counts_leave_with_the_connectors_names_labels_and_numbers() -> Result<()> {
    let counting = Counting::start().await?;
    let agent = counting.agent("agent", counting.store.address).await?;
    sends_the_same(&counting, &Sender::new(&format!("http://{}", agent.http))?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_senders_that_are_no_agents_leave_with_the_connectors_names_labels_and_numbers() -> Result<()> {
    let counting = Counting::start().await?;
    sends_the_same(&counting, &Sender::new(&format!("http://{}", counting.spanmetrics.http))?).await
}
