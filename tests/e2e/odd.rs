//! Spans that are easy to count wrongly.

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::{odd, oracle};
use serde_json::json;

use crate::exact::{hex, now_unix_nano};
use crate::fleet::{Fleet, WAIT};

const DAY_NANOS: u64 = 86_400_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn odd_spans_are_counted_as_the_connector_documents() -> Result<()> {
    let fleet = Fleet::start(2, json!({}), json!({})).await?;
    let mut requests = odd::requests(now_unix_nano()? - DAY_NANOS);
    // Out of order: the last first. The resources that add up are on different nodes.
    requests.reverse();
    for (index, request) in requests.iter().enumerate() {
        fleet.sender(index % 2)?.traces(request).await?;
    }
    let expected = oracle::red(&requests);
    assert_eq!(expected.values().map(|red| red.calls).sum::<u64>(), 9 + 1 + 7 + 3);
    fleet.wait_for_red(&expected).await?;
    let mut skipped = 0.0;
    for agent in &fleet.agents {
        skipped += agent.metric("mirador_agent_red_spans_without_service_total", &[]).await?;
    }
    assert!((skipped - 2.0).abs() < 0.5, "{skipped} spans were skipped for want of a service");
    // Whatever RED makes of them, they are stored.
    let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|resource| &resource.scope_spans);
    for span in scopes.flat_map(|scope| &scope.spans) {
        let id = hex(&span.trace_id);
        until(&format!("{:?}, trace {id}", span.name), WAIT, async || {
            let stored = fleet.traces.query().trace(&id).await?;
            ensure!(stored.len() == 1 && stored[0]["operationName"] == span.name.as_str(), "{stored:?}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_span_counts_for_as_many_as_it_stands_for() -> Result<()> {
    let fleet = Fleet::start(1, json!({}), json!({})).await?;
    let request = odd::sampled(now_unix_nano()?);
    fleet.sender(0)?.traces(&request).await?;
    let expected = oracle::red([&request]);
    for (state, weight) in odd::SAMPLED {
        let calls = expected.iter().find(|((_, name, ..), _)| name == state).map(|(_, red)| red.calls);
        ensure!(calls == Some(weight), "{state} stands for {weight} spans, not for {calls:?}");
    }
    fleet.wait_for_red(&expected).await
}
