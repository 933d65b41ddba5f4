//! The tables of log records in a real Cassandra: who makes them, with which rights, over TLS, and what an older or a
//! newer keyspace is to a program.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::cassandra::{Cassandra, Settings, Tls};
use mirador_support::backends::client::{self, until};
use mirador_support::node::{self, Node};
use mirador_support::shop::Sender;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::{Value, json};

use crate::fleet::WAIT;
use crate::logs::request;

/// Long enough for a slow machine where an answer is expected; a cluster that answers is never waited for.
const PATIENT: &str = "2m";
/// Where no answer can come, there is nothing to wait for.
const HASTY: &str = "3s";

fn section(cassandra: &Cassandra, more: Value) -> Value {
    let mut section =
        json!({"hosts": [cassandra.cql_addr().to_string()], "replication_factor": 1, "consistency": "local_one"});
    let (Value::Object(section_map), Value::Object(more)) = (&mut section, more) else { return section };
    section_map.extend(more);
    json!({"exporters": {"cassandra": section}})
}

/// What `mirador-central schema` said, and its exit code.
struct Said {
    code: Option<i32>,
    text: String,
}

async fn schema(verb: &str, config: &Value, timeout: &str) -> Result<Said> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, serde_json::to_string(config)?)?;
    let mut args = vec!["schema".to_owned(), verb.to_owned(), "--config".to_owned(), file.display().to_string()];
    if verb != "print" {
        args.extend(["--timeout".to_owned(), timeout.to_owned()]);
    }
    let output: Output = tokio::task::spawn_blocking(move || -> Result<Output> {
        Ok(std::process::Command::new(node::binary("mirador-central")?).args(args).output()?)
    })
    .await??;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Said { code: output.status.code(), text })
}

impl Said {
    #[track_caller]
    fn is(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "exit code {:?} instead of {code}: {}", self.code, self.text);
        for word in words {
            ensure!(self.text.contains(word), "{word:?} is not said: {}", self.text);
        }
        Ok(())
    }
}

async fn session(cassandra: &Cassandra, account: Option<(&str, &str)>) -> Result<Session> {
    let mut builder = SessionBuilder::new().known_node(cassandra.cql_addr().to_string());
    if let Some((name, password)) = account {
        builder = builder.user(name, password);
    }
    Ok(builder.build().await?)
}

async fn count(session: &Session, table: &str) -> Result<i64> {
    let rows = session.query_unpaged(format!("SELECT count(*) FROM otel.{table}"), ()).await?.into_rows_result()?;
    Ok(rows.single_row::<(i64,)>()?.0)
}

/// Sends as many records as it returns.
async fn send(logs: &Node) -> Result<i64> {
    let lines = ["one", "two", "three"].map(str::to_owned);
    Sender::new(&format!("http://{}", logs.http))?.logs(&request("cart", &lines)?).await?;
    Ok(lines.len() as i64)
}

/// What the role says of itself.
async fn health(logs: &Node) -> Result<(u16, String)> {
    let answer = client::client()?.get(format!("http://{}/readyz", logs.health)).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn says(logs: &Node, words: &str) -> Result<()> {
    until(words, WAIT, async || {
        let (status, text) = health(logs).await?;
        ensure!(status == 503, "the role is ready");
        Ok(text.contains(words).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_makes_the_tables_and_the_role_needs_no_right_but_to_write() -> Result<()> {
    let cassandra = Cassandra::start_with(&Settings { accounts: true, ..Settings::default() }).await?;
    let owner = json!({"username": "cassandra", "password": "cassandra"});
    let writer = json!({"username": "mirador_logs", "password": "words"});
    let owner = section(&cassandra, owner);
    let administrator = until("the first account", WAIT, async || {
        Ok(Some(session(&cassandra, Some(("cassandra", "cassandra"))).await?))
    })
    .await?;
    let make = "CREATE ROLE IF NOT EXISTS mirador_logs WITH LOGIN = true AND PASSWORD = 'words'";
    administrator.query_unpaged(make, ()).await?;

    let stranger = section(&cassandra, json!({"username": "mirador_logs", "password": "wrong"}));
    schema("apply", &stranger, HASTY).await?.is(69, &["cassandra at", "tried for 3s"])?;
    let create = section(&cassandra, writer.clone());
    schema("apply", &create, PATIENT).await?.is(77, &["may not create keyspace otel", "schema print"])?;
    schema("check", &create, PATIENT).await?.is(65, &["no keyspace otel", "no table otel.logs_v1", "schema apply"])?;

    let mut validate = create.clone();
    validate["exporters"]["cassandra"]["manage_schema"] = "validate".into();
    let logs = Node::lonely_central("logs", validate).await?;
    says(&logs, "mirador-central schema apply").await?;

    schema("apply", &owner, PATIENT).await?.is(0, &["made keyspace otel", "made table otel.log_streams_v1"])?;
    let again = schema("apply", &owner, PATIENT).await?;
    again.is(0, &["keyspace otel has every table"])?;
    ensure!(!again.text.contains("made "), "{}", again.text);
    // The tables are there, so nothing has to be made and no right is asked for.
    schema("apply", &create, PATIENT).await?.is(0, &["keyspace otel has every table"])?;
    schema("check", &create, PATIENT).await?.is(0, &["keyspace otel has every table"])?;

    administrator.query_unpaged("GRANT MODIFY ON KEYSPACE otel TO mirador_logs", ()).await?;
    until("the waiting role to see the tables", WAIT, async || Ok((health(&logs).await?.0 == 200).then_some(())))
        .await?;
    let sent = until("the rights to be known", WAIT, async || Ok(Some(send(&logs).await?))).await?;
    ensure!(count(&administrator, "logs_v1").await? >= sent, "rows are missing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_keyspace_gets_what_it_lacks_and_a_newer_one_is_left_alone() -> Result<()> {
    let cassandra = Cassandra::start().await?;
    let config = section(&cassandra, json!({}));
    let reader = session(&cassandra, None).await?;

    // By hand, as an administrator does: the keyspace and the first table of what is printed.
    let printed = schema("print", &config, PATIENT).await?;
    printed.is(0, &["CREATE KEYSPACE IF NOT EXISTS otel", "GRANT MODIFY"])?;
    let lines: Vec<&str> = printed.text.lines().filter(|line| !line.starts_with("--")).collect();
    let text = lines.join("\n");
    let statements: Vec<&str> = text.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    ensure!(statements.len() == 4, "{statements:?}");
    for statement in &statements[..2] {
        reader.query_unpaged(*statement, ()).await?;
        reader.await_schema_agreement().await?;
    }
    let old = "INSERT INTO otel.logs_v1 (tenant, service, bucket, shard, id, body) VALUES ('default', 'cart', 1, 0, now(), 'old')";
    reader.query_unpaged(old, ()).await?;

    let lacking = schema("check", &config, PATIENT).await?;
    lacking.is(65, &["there is no table otel.logs_by_trace_v1, no table otel.log_streams_v1"])?;
    let upgraded = schema("apply", &config, PATIENT).await?;
    upgraded.is(0, &["made table otel.logs_by_trace_v1", "made table otel.log_streams_v1"])?;
    ensure!(!upgraded.text.contains("made keyspace") && !upgraded.text.contains("note:"), "{}", upgraded.text);
    ensure!(count(&reader, "logs_v1").await? == 1, "the row of before is gone");

    // What a newer program may have left behind, and what an administrator may have set.
    for statement in [
        "ALTER TABLE otel.logs_v1 ADD region text",
        "CREATE TABLE otel.logs_v2 (id uuid PRIMARY KEY)",
        "ALTER TABLE otel.logs_v1 WITH default_time_to_live = 3600",
    ] {
        reader.query_unpaged(statement, ()).await?;
        reader.await_schema_agreement().await?;
    }
    let note = "note: rows of otel.logs_v1 expire after 3600 s, the configuration says 604800 s";
    schema("apply", &config, PATIENT).await?.is(0, &[note])?;
    let logs = Node::central("logs", config.clone()).await?;
    let sent = send(&logs).await?;
    ensure!(count(&reader, "logs_v1").await? == sent + 1, "rows are missing");
    drop(logs);

    // A table that is not ours is in the way and stays as it is.
    reader.query_unpaged("ALTER TABLE otel.logs_v1 DROP scope", ()).await?;
    reader.await_schema_agreement().await?;
    reader.query_unpaged("DROP TABLE otel.log_streams_v1", ()).await?;
    reader.await_schema_agreement().await?;
    let wrong = schema("apply", &config, PATIENT).await?;
    wrong.is(65, &["otel.logs_v1 has no column scope text", "never changed", "exporters.cassandra.keyspace"])?;
    schema("check", &config, PATIENT).await?.is(65, &["otel.logs_v1 has no column scope text"])?;
    let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'otel'";
    let rows = reader.query_unpaged(tables, ()).await?.into_rows_result()?;
    let names = rows.rows::<(String,)>()?.collect::<Result<Vec<_>, _>>()?;
    ensure!(!names.contains(&("log_streams_v1".to_owned(),)), "a table was made beside one that is in the way");
    let stuck = Node::lonely_central("logs", config).await?;
    says(&stuck, "has no column scope text").await
}

/// Certificates of a cluster and of its client, by one authority, in `folder`.
fn certificates(folder: &Path) -> Result<Tls> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate()?)?;
    let other = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let issue = |name: &str| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &authority)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let (node, node_key) = issue("cassandra.example")?;
    let (client, client_key) = issue("logs.example")?;
    let files = [
        ("node.pem", node_key + &node),
        ("ca.crt", authority.pem()),
        ("other.crt", other.pem()),
        ("tls.crt", client),
        ("tls.key", client_key),
    ];
    for (name, content) in files {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(Tls { key_and_chain: folder.join("node.pem"), clients: folder.join("ca.crt") })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_encrypted_to_the_cluster_that_is_meant_and_to_no_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tls = certificates(folder.path())?;
    let cassandra = Cassandra::start_with(&Settings { tls: Some(tls), ..Settings::default() }).await?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls = json!({"ca_file": file("ca.crt"), "cert_file": file("tls.crt"), "key_file": file("tls.key"),
        "server_name_override": "cassandra.example"});
    let with = |key: &str, value: Value| {
        let mut tls = tls.clone();
        tls[key] = value;
        section(&cassandra, json!({"tls": tls}))
    };

    let right = with("min_version", "1.2".into());
    schema("apply", &right, PATIENT).await?.is(0, &["made keyspace otel"])?;
    let strangers = [
        ("clear text", section(&cassandra, json!({})), ""),
        ("another name", with("server_name_override", "other.example".into()), "not valid for name"),
        ("the address, which is not certified", with("server_name_override", "".into()), "not valid for name"),
        ("another authority", with("ca_file", file("other.crt").into()), "invalid peer certificate"),
        (
            "no certificate",
            section(
                &cassandra,
                json!({"tls": {"ca_file": file("ca.crt"),
            "server_name_override": "cassandra.example"}}),
            ),
            "",
        ),
    ];
    for (who, config, reason) in strangers {
        schema("check", &config, HASTY).await?.is(69, &["cassandra at", reason]).context(who)?;
    }

    let logs = Node::central("logs", with("min_version", "1.3".into())).await?;
    send(&logs).await?;
    ensure!(logs.metric("mirador_cassandra_rows_total", &[]).await? > 0.5, "no row was acknowledged");
    Ok(())
}
