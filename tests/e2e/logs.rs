//! Log records in real stores: exactly once, whatever is repeated.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mirador_support::backends::cassandra::Cassandra;
use mirador_support::backends::client::{self, until};
use mirador_support::backends::victorialogs::VictoriaLogs;
use mirador_support::node::Node;
use mirador_support::shop::Sender;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::{Value, json};

use crate::fleet::{WAIT, owners};

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }
}

pub(crate) fn request(service: &str, bodies: &[String]) -> Result<ExportLogsServiceRequest> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let log_records = bodies
        .iter()
        .enumerate()
        .map(|(index, body)| LogRecord {
            // All in one tick of 100 ns: only the content tells them apart.
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: 9 + (index % 3) as i32 * 4,
            severity_text: "INFO".to_owned(),
            body: Some(text(body)),
            attributes: vec![KeyValue {
                key: "line".to_owned(),
                value: Some(text(&index.to_string())),
                ..KeyValue::default()
            }],
            trace_id: if index % 2 == 0 { vec![3; 16] } else { Vec::new() },
            ..LogRecord::default()
        })
        .collect();
    Ok(ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: vec![KeyValue {
                    key: "service.name".to_owned(),
                    value: Some(text(service)),
                    ..KeyValue::default()
                }],
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    })
}

pub(crate) async fn session(cassandra: &Cassandra) -> Result<Session> {
    Ok(SessionBuilder::new().known_node(cassandra.cql_addr().to_string()).build().await?)
}

pub(crate) async fn bodies(session: &Session, table: &str, column: &str) -> Result<Vec<String>> {
    let rows = session.query_unpaged(format!("SELECT {column} FROM otel.{table}"), ()).await?.into_rows_result()?;
    Ok(rows.rows::<(String,)>()?.map(|row| row.map(|(body,)| body)).collect::<Result<_, _>>()?)
}

fn central(cassandra: &Cassandra) -> Value {
    json!({"exporters": {"cassandra": {
        "hosts": [cassandra.cql_addr().to_string()], "replication_factor": 1, "consistency": "local_one",
    }}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_export_leaves_every_log_row_exactly_once_even_across_a_kill_of_the_store() -> Result<()> {
    let mut cassandra = Cassandra::start().await?;
    let logs = Node::central("logs", central(&cassandra)).await?;
    let agent =
        Node::agent(json!({"exporters": {"logs": owners(&[&logs]), "traces": null, "metrics": null, "red": null}}))
            .await?;
    let sender = Sender::new(&format!("http://{}", agent.http))?;
    let lines: Vec<String> = (0..500).map(|index| format!("order {index} was paid")).collect();
    let big = "x".repeat(40_000);
    let request = request("cart", &[lines.clone(), vec![String::new(), "ünïcode 東京".to_owned(), big]].concat())?;
    for _ in 0..3 {
        sender.logs(&request).await?;
    }
    let sent = request.resource_logs[0].scope_logs[0].log_records.len();
    let reader = session(&cassandra).await?;
    ensure!(bodies(&reader, "logs_v1", "body").await?.len() == sent);
    ensure!(bodies(&reader, "logs_by_trace_v1", "preview").await?.len() == sent.div_ceil(2));
    drop(reader);

    // Acknowledged rows survive a kill of the store; what was refused meanwhile is taken by the repetition.
    cassandra.kill().await?;
    ensure!(sender.logs(&self::request("cart", &["while it was away".to_owned()])?).await.is_err());
    cassandra.restart().await?;
    let late = self::request("cart", &["after it came back".to_owned()])?;
    until("the store to take records again", WAIT, async || {
        sender.logs(&late).await?;
        Ok(Some(()))
    })
    .await?;
    sender.logs(&request).await?;
    let reader = session(&cassandra).await?;
    let stored: Vec<String> = bodies(&reader, "logs_v1", "body").await?;
    let found: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    ensure!(lines.iter().all(|line| found.contains(line.as_str())), "an acknowledged row is gone");
    ensure!(stored.len() == found.len(), "{} rows, {} different", stored.len(), found.len());
    ensure!(found.contains("after it came back"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_cluster_takes_is_kept_with_its_texts_cut_and_costs_no_other() -> Result<()> {
    let cassandra = Cassandra::start().await?;
    let logs = Node::central("logs", central(&cassandra)).await?;
    let mut request = request("huge", &["small".to_owned(), "huge".to_owned()])?;
    // One mutation may have 16 MiB.
    request.resource_logs[0].scope_logs[0].log_records[1].attributes.push(KeyValue {
        key: "payload".to_owned(),
        value: Some(text(&"x".repeat(17 << 20))),
        ..KeyValue::default()
    });
    Sender::new(&format!("http://{}", logs.http))?.logs(&request).await?;
    let stored = bodies(&session(&cassandra).await?, "logs_v1", "body").await?;
    let stored: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    ensure!(stored == BTreeSet::from(["huge", "small"]), "{stored:?}");
    let cut = logs.metric("mirador_cassandra_cut_attributes_total", &[]).await?;
    ensure!((cut - 1.0).abs() < 0.5, "{cut} records are counted as cut");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_records_reach_a_store_that_speaks_otlp_over_http() -> Result<()> {
    let store = VictoriaLogs::start().await?;
    let logs = Node::central(
        "logs",
        json!({"exporters": {"otlphttp_logs": {
            "endpoint": format!("{}/insert/opentelemetry/v1/logs", store.url()),
            "headers": {"VL-Stream-Fields": "service.name"},
        }}}),
    )
    .await?;
    let sender = Sender::new(&format!("http://{}", logs.http))?;
    sender.logs(&request("mail", &["one".to_owned(), "two".to_owned()])?).await?;
    let found = until("the records to be found", Duration::from_secs(60), async || {
        let query = client::client()?
            .post(format!("{}/select/logsql/query", store.url()))
            .form(&[("query", "service.name:mail")]);
        let rows = client::json_lines(query).await?;
        Ok((rows.len() >= 2).then_some(rows))
    })
    .await?;
    let messages: BTreeSet<&str> = found.iter().filter_map(|row| row["_msg"].as_str()).collect();
    ensure!(messages == BTreeSet::from(["one", "two"]), "{messages:?}");
    let stored = logs.metric("mirador_logs_stored_records_total", &[]).await?;
    ensure!((stored - 2.0).abs() < 0.5, "{stored} records are counted as stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_the_role_says_so_and_takes_nothing() -> Result<()> {
    let unused = mirador_support::backends::ports::free()?;
    let config = json!({"exporters": {"cassandra": {"hosts": [format!("127.0.0.1:{unused}")]}, "retry_on_failure": {"max_elapsed_time": "200ms"}}});
    let logs = Node::lonely_central("logs", config).await?;
    let url = format!("http://{}/v1/logs", logs.http);
    let record = request("cart", &["nobody can keep this".to_owned()])?.encode_to_vec();
    for _ in 0..3 {
        let ready = client::client()?.get(format!("http://{}/readyz", logs.health)).send().await?;
        ensure!(ready.status() == 503, "the role is ready without a store: {}", ready.status());
        let sent = client::client()?.post(&url).header("content-type", "application/x-protobuf");
        let answer = sent.body(record.clone()).send().await?;
        ensure!(answer.status() == 503, "a record is answered {} without a store", answer.status());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_of_one_service_reads_newest_first_by_its_time_uuid() -> Result<()> {
    let cassandra = Cassandra::start().await?;
    let logs = Node::central("logs", central(&cassandra)).await?;
    let sender = Sender::new(&format!("http://{}", logs.http))?;
    let mut request = request("tail", &(0..40).map(|index| format!("line {index:02}")).collect::<Vec<_>>())?;
    for (index, record) in request.resource_logs[0].scope_logs[0].log_records.iter_mut().enumerate() {
        record.time_unix_nano += index as u64 * 1_000_000;
    }
    sender.logs(&request).await?;
    let reader = session(&cassandra).await?;
    let rows = reader.query_unpaged("SELECT bucket, shards FROM otel.log_streams_v1", ()).await?.into_rows_result()?;
    let buckets: Vec<(i32, i16)> = rows.rows::<(i32, i16)>()?.collect::<Result<_, _>>()?;
    ensure!(!buckets.is_empty(), "the catalogue names no bucket");
    let mut found = Vec::new();
    for (bucket, shards) in buckets {
        for shard in 0..shards {
            let rows = reader
                .query_unpaged(
                    "SELECT body, time_nanos FROM otel.logs_v1 WHERE tenant = 'default' AND service = 'tail' AND bucket = ? AND shard = ?",
                    (bucket, shard),
                )
                .await?
                .into_rows_result()?;
            let times: Vec<(String, i64)> = rows.rows::<(String, i64)>()?.collect::<Result<_, _>>()?;
            ensure!(times.is_sorted_by(|left, right| left.1 >= right.1), "a partition is not newest first");
            found.extend(times);
        }
    }
    found.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let newest = found.first().context("nothing is stored")?;
    ensure!(found.len() == 40 && newest.0 == "line 39", "{} rows, the newest is {newest:?}", found.len());
    Ok(())
}
