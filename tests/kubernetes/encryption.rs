//! TLS as the chart configures it: what each pod mounts, and that the very programs meet by it and only by it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mirador_support::node::Node;
use mirador_support::shop::{Sender, Shop};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::chart;
use crate::configuration::configurations;
use crate::rig::Store;

/// Writes what the Secret of the chart holds, made by an authority that nobody else knows, and returns the rendered
/// configuration `text` with paths that lead there.
pub(crate) fn with_certificates(text: &str, folder: &Path) -> Result<String> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let roles = ["agent", "gateway", "servicegraph", "spanmetrics", "isolationforest", "logs"];
    let names: Vec<String> = roles.iter().map(|role| format!("mirador-{role}.{}.svc", chart::NAMESPACE)).collect();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let files = [("ca.crt", authority.pem()), ("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
    for (name, content) in files {
        std::fs::write(folder.join(name), content)?;
    }
    let place = folder.display().to_string();
    Ok(["/etc/mirador-tls", "/etc/mirador-backends"]
        .iter()
        .fold(text.to_owned(), |text, path| text.replace(path, &place)))
}

/// The keys of a pod's Secret that are mounted; none named: all.
fn mounted(objects: &[Value], name: &str) -> Result<Vec<String>> {
    let object = objects.iter().find(|object| chart::name(object) == name && object["spec"]["template"].is_object());
    let pod = &object.with_context(|| format!("no workload {name}"))?["spec"]["template"]["spec"];
    let volume = pod["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == "tls");
    let items = volume.with_context(|| format!("{name} mounts no certificates"))?["secret"]["items"].as_array();
    Ok(items.into_iter().flatten().filter_map(|item| item["key"].as_str().map(str::to_owned)).collect())
}

#[tokio::test]
async fn who_only_sends_holds_a_key_only_when_it_has_to_show_who_it_is() -> Result<()> {
    let cases = chart::cases()?;
    let one_sided = chart::objects(&chart::template(cases["no-rights"].as_deref()).await?)?;
    let mutual = chart::objects(&chart::template(cases["tls"].as_deref()).await?)?;
    for role in ["agent", "gateway"] {
        ensure!(mounted(&one_sided, &format!("mirador-{role}"))? == ["ca.crt"], "{role} holds more than it needs");
        ensure!(mounted(&mutual, &format!("mirador-{role}"))?.is_empty(), "{role} cannot show who it is");
    }
    for role in ["servicegraph", "spanmetrics", "isolationforest", "logs"] {
        ensure!(mounted(&one_sided, &format!("mirador-{role}"))?.is_empty(), "{role} cannot listen");
    }
    Ok(())
}

/// The rendered configuration of a role of the case `tls`, with paths below `folder`.
async fn rendered(role: &str, folder: &Path) -> Result<Value> {
    let found = configurations(chart::cases()?["tls"].as_deref()).await?;
    let (_, text) = found.iter().find(|(name, _)| name == role).with_context(|| format!("no {role}"))?;
    let place = folder.display().to_string();
    Ok(serde_saphyr::from_str(&text.replace("/etc/mirador-tls", &place).replace("/etc/mirador-backends", &place))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_meets_its_owner_by_the_rendered_tls_and_nobody_else_does() -> Result<()> {
    let folder = tempfile::tempdir()?;
    with_certificates("", folder.path())?;
    let store = Store::start().await?;
    let receiver = rendered("isolationforest", folder.path()).await?["receiver"].take();
    let victoriametrics = json!({"endpoint": store.metrics.write_url()});
    let forest = Node::central(
        "isolationforest",
        json!({"receiver": receiver, "exporters": {"victoriametrics": victoriametrics}}),
    )
    .await?;
    let tls = rendered("agent", folder.path()).await?["exporters"]["metrics"]["tls"].take();
    let agent = |tls: Value| {
        let destination = json!({
            "resolver": {"static": {"hostnames": [forest.grpc.to_string()]}}, "tls": tls,
            "retry_on_failure": {"max_elapsed_time": "300ms"},
        });
        json!({"steering": {"enabled": false},
            "exporters": {"traces": null, "red": null, "logs": null, "metrics": destination}})
    };
    let metrics = Shop::new(1, 1).metrics(1_700_000_000_000_000_000);

    let known = Node::agent(agent(tls.clone())).await?;
    Sender::new(&format!("http://{}", known.http))?.metrics(&metrics).await?;

    let mut nameless = tls.clone();
    nameless.as_object_mut().context("a section")?.retain(|key, _| !key.starts_with("cert") && !key.starts_with("key"));
    let mut elsewhere = tls;
    elsewhere["server_name_override"] = "mirador-isolationforest.elsewhere.svc".into();
    for (who, tls) in [
        ("one in clear text", Value::Null),
        ("one without a certificate", nameless),
        ("one that wants another", elsewhere),
    ] {
        let stranger = Node::lonely_agent(agent(tls)).await?;
        let sent = Sender::new(&format!("http://{}", stranger.http))?.metrics(&metrics).await;
        ensure!(sent.is_err(), "{who} was let in");
    }
    Ok(())
}
