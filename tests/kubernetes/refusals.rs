//! Wrong values are refused before anything is installed, in words that say what would be right.

use anyhow::{Context, Result, ensure};
use mirador_support::backends::controlplane;

use crate::chart;

/// What is set, and what the refusal must say.
const REFUSED: &[(&str, &[&str])] = &[
    // By the schema: the place, what stands there, what would be right.
    ("servicegraf.enabled=true", &["additional properties", "servicegraf"]),
    ("agent.replicaCount=2", &["/agent", "replicaCount"]),
    ("agent.privileged=true", &["/agent", "privileged"]),
    ("gateway.replicaCount=three", &["/gateway/replicaCount", "want integer"]),
    ("image.agent.digest=latest", &["/image/agent/digest", "sha256:"]),
    ("discovery=consul", &["/discovery", "'dns', 'k8s'"]),
    ("image.pullPolicy=Sometimes", &["/image/pullPolicy", "IfNotPresent"]),
    ("image.registry=https://registry.example.com", &["/image/registry"]),
    ("monitoring.scrape.kind=Prometheus", &["/monitoring/scrape/kind", "ServiceMonitor"]),
    ("monitoring.scrape.interval=often", &["/monitoring/scrape/interval"]),
    ("logs.service.type=LoadBalancer", &["/logs/service", "type"]),
    ("gateway.podDisruptionBudget.maxUnavailable=half", &["/gateway/podDisruptionBudget/maxUnavailable"]),
    ("agent.hostPort.grpc=70000", &["/agent/hostPort/grpc", "maximum"]),
    ("agent.steering.capabilities={all}", &["/agent/steering/capabilities"]),
    ("clusterDomain=Cluster.Local", &["/clusterDomain"]),
    ("defaults.resources.cpu=1", &["/defaults/resources", "cpu"]),
    ("agent.config=none", &["/agent/config", "want object"]),
    ("logs.state.enabled=true", &["/logs", "state"]),
    ("spanmetrics.state.sizeLimit=much", &["/spanmetrics/state/sizeLimit"]),
    ("logs.schemaJob.timeout=soon", &["/logs/schemaJob/timeout"]),
    ("tls.secretName=", &["/tls/secretName"]),
    ("tls.secretNames.collector=x", &["/tls/secretNames", "collector"]),
    ("tls.minVersion=1.1", &["/tls/minVersion", "'1.2', '1.3'"]),
    ("tls.backends.kind=File", &["/tls/backends/kind", "ConfigMap"]),
    // By the templates: the reason, because a schema knows none.
    ("servicegraph.replicaCount=2", &["servicegraph.replicaCount is 2", "one writer", "servicegraph.resources"]),
    ("spanmetrics.replicaCount=3", &["spanmetrics.replicaCount is 3", "one writer", "spanmetrics.resources"]),
    ("gateway.kubernetesAttributes=true", &["/gateway/kubernetesAttributes", "want object"]),
    ("servicegraph.autoscaling.enabled=true", &["servicegraph.autoscaling", "one writer"]),
    ("agent.autoscaling.enabled=true", &["agent.autoscaling", "each node"]),
    (
        "agent.steering.enabled=true,agent.hostPort.enabled=true",
        &["agent.hostPort.enabled is true", "host's network", "agent.hostPort.enabled: false"],
    ),
    (
        "logs.schemaJob.enabled=false,logs.replicaCount=2",
        &["manage_schema", "only one process may create the schema", "schemaJob.enabled: true", "validate"],
    ),
    ("logs.schemaJob.enabled=false,logs.autoscaling.enabled=true", &["logs.autoscaling", "manage_schema"]),
    (
        "logs.config.exporters.cassandra.manage_schema=create",
        &["logs.schemaJob.enabled is true", "manage_schema is create", "Leave manage_schema out"],
    ),
    ("isolationforest.enabled=false", &["isolationforest.enabled is false", "nowhere to go"]),
    (
        "agent.enabled=false,gateway.enabled=false,servicegraph.enabled=false,spanmetrics.enabled=false,\
         isolationforest.enabled=false,logs.enabled=false",
        &["nothing is enabled"],
    ),
];

#[tokio::test]
async fn wrong_values_are_refused_with_the_place_and_the_reason() -> Result<()> {
    for (set, words) in REFUSED {
        let mut arguments = chart::template_arguments(None);
        arguments.extend(["--set".to_owned(), (*set).to_owned()]);
        let error = controlplane::helm(arguments).await.err().with_context(|| format!("{set} was taken"))?.to_string();
        for word in *words {
            ensure!(error.contains(word), "{set}: the refusal does not say {word:?}: {error}");
        }
    }
    Ok(())
}
