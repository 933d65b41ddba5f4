//! What `cargo xtask e2e` installs in its cluster, as a real control plane takes it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mirador_support::backends::client::until;
use serde_json::Value;

use crate::chart;
use crate::deployment::{arguments, list, plane};

const WAIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn stores_chart_and_stranger_of_the_kind_cluster_become_ready() -> Result<()> {
    let plane = &*plane().await?;
    let folder = chart::root().join("tests/kubernetes/e2e");
    let file = |name: &str| folder.join(name).display().to_string();
    let namespace = "endtoend";
    plane.kubectl(["create", "namespace", namespace]).await?;
    plane.kubectl(["apply", "--validate=strict", "-n", namespace, "-f", &file("backends.yaml")]).await?;
    let wait = async |what: &[&str]| {
        plane.kubectl([&["wait", "-n", namespace, "--timeout=120s"], what].concat()).await.map(drop)
    };
    wait(&["--for=condition=available", "deployment", "--all"]).await?;
    let values = folder.join("values.yaml");
    plane.helm(arguments("install", namespace, Some(&values), &["agent.steering.enabled=true"])).await?;
    wait(&["--for=condition=complete", "job", "-l", "app.kubernetes.io/component=schema"]).await?;
    plane.kubectl(["apply", "--validate=strict", "-f", &file("stranger.yaml")]).await?;
    until("the stranger", WAIT, async || {
        let found = list(plane, "deployments", "stranger").await?;
        Ok((found.len() == 1 && found[0]["status"]["availableReplicas"] == 1).then_some(()))
    })
    .await?;

    // The stores that the chart is told of are services that are there.
    let services = list(plane, "services", namespace).await?;
    let names: Vec<&str> = services.iter().map(chart::name).collect();
    for store in ["victoriametrics", "victoriatraces", "cassandra"] {
        ensure!(names.contains(&store), "{store} is no service: {names:?}");
    }
    plane.helm(["uninstall", chart::RELEASE, "-n", namespace]).await?;
    Ok(())
}

#[test]
fn every_image_of_the_kind_cluster_is_pinned_and_kind_is_told_its_nodes() -> Result<()> {
    let folder = chart::root().join("tests/kubernetes/e2e");
    let mut images = 0;
    for name in ["backends.yaml", "stranger.yaml"] {
        for object in chart::objects(&std::fs::read_to_string(folder.join(name))?)? {
            for container in object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten() {
                let image = container["image"].as_str().context("an image")?;
                let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
                ensure!(tag.matches('.').count() == 2, "{image} is not pinned to a patch version");
                images += 1;
            }
        }
    }
    ensure!(images == 4, "{images} images");
    let kind: Value = serde_saphyr::from_str(&std::fs::read_to_string(folder.join("kind.yaml"))?)?;
    ensure!(kind["kind"] == "Cluster" && kind["apiVersion"] == "kind.x-k8s.io/v1alpha4", "{kind}");
    ensure!(kind["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2), "{kind}");
    Ok(())
}
