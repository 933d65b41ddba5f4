//! A real control plane takes the chart: strict validation, Ready workloads, endpoints, upgrade, uninstall.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::client::until;

use crate::chart;
use crate::deployment::{NODES, arguments, inventory, list, plane, restricted_namespace};

const WAIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_the_api_servers_strict_validation() -> Result<()> {
    let plane = &*plane().await?;
    plane.kubectl(["create", "namespace", chart::NAMESPACE]).await?;
    for (case, values) in chart::cases()? {
        let text = chart::template(values.as_deref()).await?;
        // Each object says its namespace, and not all are in the release's.
        let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let answer = plane.kubectl_with(arguments, &text).await;
        let answer = answer.with_context(|| case.clone())?;
        ensure!(answer.lines().count() == chart::objects(&text)?.len(), "{case}: {answer}");
    }
    let typo = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 1, targetprt: 2}]}\n";
    let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
    let refused = plane.kubectl_with(arguments, typo).await.err().context("an unknown field was taken")?.to_string();
    ensure!(refused.contains("targetprt"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_brings_every_workload_to_ready_an_upgrade_changes_it_and_an_uninstall_leaves_nothing() -> Result<()>
{
    let plane = &*plane().await?;
    let namespace = "whole";
    restricted_namespace(plane, namespace).await?;
    let before = until("the namespace's own objects", WAIT, async || {
        let found = inventory(plane, namespace).await?;
        Ok((found.iter().any(|name| name.contains("kube-root-ca")) && found.len() > 1).then_some(found))
    })
    .await?;

    // Every pod is let in by the standard `restricted`, or it would never become Ready.
    plane.helm(arguments("install", namespace, None, &[])).await?;
    // The pods of the workloads; how many pods a Job has taken is its own affair.
    until("a pod of every replica", WAIT, async || {
        let pods = list(plane, "pods", namespace).await?;
        let of_jobs = pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "Job").count();
        let whole = pods.len() - of_jobs == NODES + 3 + 1 + 1 + 3 + 1 && of_jobs > 0;
        whole.then_some(Some(())).with_context(|| format!("{} pods, {of_jobs} of Jobs", pods.len()))
    })
    .await?;
    until("an agent on every node", WAIT, async || {
        let agents = list(plane, "daemonsets", namespace).await?;
        let ready = agents[0]["status"]["numberReady"] == NODES;
        ready.then_some(Some(())).with_context(|| agents[0]["status"].to_string())
    })
    .await?;

    // What the resolvers read: the headless service of the owners lists them by address and name.
    until("the endpoints of isolationforest", WAIT, async || {
        let selector = "kubernetes.io/service-name=mirador-isolationforest";
        let slices = plane.get(&["endpointslices", "-n", namespace, "-l", selector]).await?;
        let endpoints = slices["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint["hostname"].as_str()).collect();
        names.sort_unstable();
        let ready = endpoints.iter().all(|endpoint| endpoint["conditions"]["ready"] == true);
        let want = ["mirador-isolationforest-0", "mirador-isolationforest-1", "mirador-isolationforest-2"];
        Ok((ready && names == want).then_some(()))
    })
    .await?;
    plane.helm(["test", chart::RELEASE, "-n", namespace]).await?;

    let set = ["isolationforest.replicaCount=5", "agent.config.telemetry.logs.level=debug", "logs.enabled=false"];
    plane.helm(arguments("upgrade", namespace, None, &set)).await?;
    until("five replicas", WAIT, async || {
        let forests = plane.get(&["statefulset", "mirador-isolationforest", "-n", namespace]).await?;
        let ready = forests["status"]["readyReplicas"] == 5;
        ready.then_some(Some(())).with_context(|| forests["status"].to_string())
    })
    .await?;
    let agents = plane.get(&["daemonset", "mirador-agent", "-n", namespace]).await?;
    ensure!(agents["status"]["observedGeneration"] == 2, "a new configuration rolls the agents: {}", agents["status"]);
    let left = inventory(plane, namespace).await?;
    ensure!(!left.iter().any(|name| name.contains("mirador-logs")), "a role that is switched off goes: {left:?}");

    plane.helm(["uninstall", chart::RELEASE, "-n", namespace, "--wait"]).await?;
    until("nothing to be left", WAIT, async || {
        let after = inventory(plane, namespace).await?;
        ensure!(after == before, "left: {:?}", after.iter().filter(|name| !before.contains(name)).collect::<Vec<_>>());
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_installs_with_helm_3_and_4() -> Result<()> {
    let plane = &*plane().await?;
    for (index, (case, values)) in chart::cases()?.into_iter().enumerate() {
        let namespace = format!("case-{case}");
        plane.kubectl(["create", "namespace", &namespace]).await?;
        if case == "locked" {
            // An account that exists already, as its values say.
            plane.kubectl(["create", "serviceaccount", "existing", "-n", &namespace]).await?;
        }
        let install = arguments("install", &namespace, values.as_deref(), &[]);
        let answer = if index % 2 == 0 { plane.helm(install).await } else { plane.helm3(install).await };
        answer.with_context(|| case.clone())?;
        plane.helm(["uninstall", chart::RELEASE, "-n", &namespace]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_steering_needs_more_than_the_standard_restricted_and_it_is_never_privileged() -> Result<()> {
    let plane = &*plane().await?;
    restricted_namespace(plane, "steered").await?;
    let cases = chart::cases()?;
    let values = cases["steering"].as_deref();
    let objects = chart::objects(&chart::template(values).await?)?;
    let mut hosts = 0;
    for object in &objects {
        let pod = &object["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            let security = &container["securityContext"];
            ensure!(security["privileged"] == false && security["allowPrivilegeEscalation"] == false, "{security}");
            let adds = &security["capabilities"]["add"];
            if chart::name(object) == "mirador-agent" {
                ensure!(*adds == serde_json::json!(["BPF", "NET_ADMIN"]) && pod["hostNetwork"] == true, "{pod}");
                hosts += 1;
            } else {
                ensure!(adds.is_null() && pod["hostNetwork"].is_null() && security["runAsNonRoot"] == true, "{pod}");
            }
        }
    }
    ensure!(hosts == 1, "{hosts} workloads steer");
    let pod = chart::of_kind(&objects, "DaemonSet").next().context("no DaemonSet")?;
    let mut pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"},
        "spec": pod["spec"]["template"]["spec"]});
    pod["spec"]["serviceAccountName"] = "default".into();
    let arguments = ["create", "--dry-run=server", "-n", "steered", "-f", "-"];
    let refused = plane.kubectl_with(arguments, &pod.to_string()).await.err().context("it was let in")?.to_string();
    ensure!(refused.contains("restricted") && refused.contains("hostNetwork"), "{refused}");
    Ok(())
}
