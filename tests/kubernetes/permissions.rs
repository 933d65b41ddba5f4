//! The chart's own `ServiceAccounts` may do what the programs need and nothing else; who needs nothing holds no token.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::ControlPlane;
use mirador_support::backends::client::until;
use mirador_support::node::binary;
use serde_json::{Value, json};

use crate::chart;
use crate::deployment::{arguments, list, plane};

/// Who, may what (verb and kind), in which namespace: whether it is allowed is asked as that account.
struct Question<'a> {
    account: &'a str,
    verb: &'a str,
    kind: &'a str,
    place: &'a [&'a str],
}

impl Question<'_> {
    async fn allowed(&self, plane: &ControlPlane, namespace: &str) -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{namespace}:{}", self.account);
        let asked = [&["auth", "can-i", self.verb, self.kind, &user], self.place].concat();
        match plane.kubectl(asked).await {
            Ok(answer) => Ok(answer.trim() == "yes"),
            // No is an exit code of 1 and the word.
            Err(error) if error.to_string().lines().last() == Some("no") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What is never needed, whoever asks.
const NEVER: [(&str, &str); 8] = [
    ("get", "secrets"),
    ("list", "configmaps"),
    ("create", "pods"),
    ("get", "pods"),
    ("get", "endpointslices"),
    ("update", "leases"),
    ("list", "nodes"),
    ("list", "namespaces"),
];

/// Whether the pod mounts a token of its account.
fn has_token(pod: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.into_iter().any(|volume| volume["projected"]["sources"].to_string().contains("serviceAccountToken"))
}

async fn accounts(plane: &ControlPlane, namespace: &str) -> Result<Vec<String>> {
    let accounts = list(plane, "serviceaccounts", namespace).await?;
    let ours: Vec<String> =
        accounts.iter().map(chart::name).filter(|name| name.starts_with("mirador-")).map(str::to_owned).collect();
    ensure!(ours.len() == 6, "{ours:?}");
    Ok(ours)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_dns_no_account_may_do_anything_and_no_pod_holds_a_token() -> Result<()> {
    let plane = &*plane().await?;
    let namespace = "accounts-dns";
    plane.kubectl(["create", "namespace", namespace]).await?;
    let set = ["discovery=dns", "agent.kubernetesAttributes.enabled=false"];
    plane.helm(arguments("install", namespace, None, &set)).await?;
    for account in accounts(plane, namespace).await? {
        let asked = [("list", "pods"), ("watch", "endpointslices"), ("list", "endpointslices")];
        for (verb, kind) in NEVER.into_iter().chain(asked) {
            let question = Question { account: &account, verb, kind, place: &["-n", namespace] };
            ensure!(!question.allowed(plane, namespace).await?, "{account} may {verb} {kind}");
        }
    }
    let pods = list(plane, "pods", namespace).await?;
    ensure!(!pods.is_empty() && !pods.iter().any(has_token), "a pod holds a token");
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_lets_those_who_watch_read_slices_of_the_namespace_and_agents_read_pods_and_nothing_else() -> Result<()>
{
    let plane = &*plane().await?;
    let namespace = "accounts-watching";
    plane.kubectl(["create", "namespace", namespace]).await?;
    let set = ["discovery=k8s", "agent.kubernetesAttributes.enabled=true"];
    plane.helm(arguments("install", namespace, None, &set)).await?;
    let here = ["-n", namespace];
    for account in accounts(plane, namespace).await? {
        let watches = !["mirador-logs", "mirador-isolationforest"].contains(&account.as_str());
        for verb in ["list", "watch"] {
            let slices = Question { account: &account, verb, kind: "endpointslices", place: &here };
            ensure!(slices.allowed(plane, namespace).await? == watches, "{account}: {verb} endpointslices");
            let elsewhere = Question { place: &["-n", "kube-system"], ..slices };
            ensure!(!elsewhere.allowed(plane, namespace).await?, "{account}: {verb} endpointslices elsewhere");
            let pods = Question { account: &account, verb, kind: "pods", place: &["--all-namespaces"] };
            let enriches = account == "mirador-agent";
            ensure!(pods.allowed(plane, namespace).await? == enriches, "{account}: {verb} pods");
        }
        for (verb, kind) in NEVER {
            let question = Question { account: &account, verb, kind, place: &here };
            ensure!(!question.allowed(plane, namespace).await?, "{account} may {verb} {kind}");
        }
    }
    for pod in list(plane, "pods", namespace).await? {
        let role = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
        ensure!(has_token(&pod) != ["logs", "isolationforest", "schema"].contains(&role), "{role}");
    }
    the_agent_finds_every_owner_as_itself(plane, namespace).await?;
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_nodes_are_read_by_whom_a_rule_asks_for_them_and_by_nobody_else() -> Result<()> {
    let plane = &*plane().await?;
    let namespace = "accounts-enriched";
    plane.kubectl(["create", "namespace", namespace]).await?;
    let cases = chart::cases()?;
    plane.helm(arguments("install", namespace, cases["enriched"].as_deref(), &[])).await?;
    for account in accounts(plane, namespace).await? {
        let needs: &[&str] = match account.as_str() {
            "mirador-agent" => &["pods", "namespaces", "nodes"],
            "mirador-gateway" => &["pods", "namespaces"],
            _ => &[],
        };
        for kind in ["pods", "namespaces", "nodes"] {
            for verb in ["list", "watch", "get", "patch"] {
                let question = Question { account: &account, verb, kind, place: &["--all-namespaces"] };
                let wanted = needs.contains(&kind) && ["list", "watch"].contains(&verb);
                ensure!(question.allowed(plane, namespace).await? == wanted, "{account}: {verb} {kind}");
            }
        }
    }
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace]).await?;
    Ok(())
}

/// The very program with the rendered configuration and a token of its account is told every owner by the API server.
async fn the_agent_finds_every_owner_as_itself(plane: &ControlPlane, namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let token = plane.kubectl(["create", "token", "mirador-agent", "-n", namespace]).await?;
    let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(plane.kubeconfig())?)?;
    kubeconfig["users"][0]["user"]["token"] = token.trim().into();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string())?;
    let map = plane.get(&["configmap", "mirador-agent", "-n", namespace]).await?;
    let mut config: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().context("no configuration")?)?;
    for destination in ["traces", "red", "metrics", "logs"] {
        let api = json!({"auth_type": "kubeConfig", "kubeconfig": path});
        config["exporters"][destination]["resolver"]["k8s"]["api"] = api;
    }
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config.to_string())?;
    let service = "--resource=service.name=cart";
    for (subject, count) in [("--trace-id=5b8efff798038103d269b633813fc60c", 1), ("--service=cart", 1), (service, 2)] {
        until(subject, Duration::from_secs(60), async || {
            let placements = explain(&file, subject)?;
            let found = placements.as_array().context("no list")?;
            ensure!(found.len() == count, "{placements}");
            for placement in found {
                let members = placement["members"].as_array().context("no members")?;
                let want = if placement["destination"] == "metrics" { 3 } else { 1 };
                ensure!(members.len() == want && placement["owner"].is_string(), "{placement}");
            }
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

fn explain(config: &Path, subject: &str) -> Result<Value> {
    let mut command = Command::new(binary("mirador-agent")?);
    command.args(["explain", "--output", "json", subject, "--config"]).arg(config).env("K8S_NODE_NAME", "node-0");
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{subject}: {error}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_by_name_let_agents_watch_those_services_and_the_pods_and_nothing_else() -> Result<()> {
    let plane = &*plane().await?;
    let namespace = "accounts-steering";
    plane.kubectl(["create", "namespace", namespace]).await?;
    let cases = chart::cases()?;
    let values = cases["steered-by-name"].as_deref();
    plane.helm(arguments("install", namespace, values, &["discovery=dns"])).await?;
    for account in accounts(plane, namespace).await? {
        let agent = account == "mirador-agent";
        for verb in ["list", "watch"] {
            let asked: [(&str, &[&str], bool); 6] = [
                ("services/otel-collector", &["-n", "default"], agent),
                ("services/otlp", &["-n", "kube-system"], agent),
                ("services/otlp", &["-n", "default"], false),
                ("services", &["-n", "default"], false),
                ("services", &["--all-namespaces"], false),
                ("pods", &["--all-namespaces"], agent),
            ];
            for (kind, place, expected) in asked {
                let question = Question { account: &account, verb, kind, place };
                ensure!(question.allowed(plane, namespace).await? == expected, "{account}: {verb} {kind} {place:?}");
            }
        }
        for (verb, kind) in NEVER {
            let question = Question { account: &account, verb, kind, place: &["-n", namespace] };
            ensure!(!question.allowed(plane, namespace).await?, "{account} may {verb} {kind}");
        }
    }
    the_agent_resolves_a_service_as_itself(plane, namespace).await?;
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace]).await?;
    Ok(())
}

/// The very program with the rendered rules and a token of its account says which address a Service has.
async fn the_agent_resolves_a_service_as_itself(plane: &ControlPlane, namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    plane.kubectl(["create", "service", "clusterip", "otel-collector", "--tcp=4317", "-n", "default"]).await?;
    let service = plane.get(&["service", "otel-collector", "-n", "default"]).await?;
    let address = service["spec"]["clusterIP"].as_str().context("no address")?;
    let token = plane.kubectl(["create", "token", "mirador-agent", "-n", namespace]).await?;
    let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(plane.kubeconfig())?)?;
    kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string())?;
    let map = plane.get(&["configmap", "mirador-agent", "-n", namespace]).await?;
    let mut config: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().context("no configuration")?)?;
    config["steering"]["kubernetes"] =
        json!({"api": {"auth_type": "kubeConfig", "kubeconfig": path}, "timeout": "60s"});
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config.to_string())?;
    let mut command = Command::new(binary("mirador-agent")?);
    command.args(["steering", "status", "--config"]).arg(&file);
    let output = command.env("K8S_NODE_NAME", "node-0").env("NODE_IP", "10.0.0.7").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains(&format!("rule  steer  Service default/otel-collector: [{address}]")), "{text}");
    ensure!(text.contains("rule  leave  Service kube-system/otlp: it has no address now"), "{text}");
    ensure!(!text.contains("are not resolved"), "{text}");
    plane.kubectl(["delete", "service", "otel-collector", "-n", "default"]).await?;
    Ok(())
}
