//! The page about our own metrics, from a process that is built and never serves.

use std::time::Duration;

use mirador_service::cli::on_free_ports;
use mirador_service::drain::Drain;

use crate::config::Config;
use crate::consume::{Consumer, Roles};
use crate::exporter::cassandra::{self, Cassandra};
use crate::exporter::otlphttp::{self, OtlpHttp};
use crate::exporter::victoriametrics::{self, RemoteWrite};
use crate::exporter::victoriatraces::{self, VictoriaTraces};
use crate::role::Role;
use crate::topology::Central;

/// Every metric of every role and exporter as a table in Markdown.
///
/// # Errors
/// When a part cannot be built.
pub async fn telemetry() -> anyhow::Result<String> {
    let folder = std::env::temp_dir().join(format!("mirador-describe-{}", std::process::id()));
    let mut config = Config::laptop();
    if let Some(embedded) = &mut config.exporters.embedded {
        embedded.path = folder.join("store.sqlite");
    }
    // Nothing outlives it, and nothing that was left behind is read.
    config.state.directory = None;
    config.console.enabled = false;
    on_free_ports([
        &mut config.receiver.protocols.grpc.endpoint,
        &mut config.receiver.protocols.http.endpoint,
        &mut config.telemetry.metrics.endpoint,
        &mut config.health.endpoint,
    ]);
    let drain = Drain::new(Duration::ZERO);
    let central = Central::build(config, Role::All, drain.clone()).await?;
    let registry = central.registry().clone();
    let _consumer = Consumer::new(Roles::default(), central.receiver_items(), &registry, drain.clone());
    VictoriaTraces::new(&victoriatraces::Config::default(), &registry)?;
    let to = otlphttp::Config { endpoint: "http://127.0.0.1/v1/logs".to_owned(), ..otlphttp::Config::default() };
    OtlpHttp::new("otlphttp_logs", &to, &registry)?;
    let to = victoriametrics::Config {
        endpoint: "http://127.0.0.1/api/v1/write".to_owned(),
        ..victoriametrics::Config::default()
    };
    RemoteWrite::new("victoriametrics", &to, &registry)?;
    let cassandra_config = cassandra::Config { hosts: vec!["127.0.0.1:1".to_owned()], ..cassandra::Config::default() };
    let component = mirador_service::health::Health::new().component("exporter/cassandra");
    let _cassandra = Cassandra::start(cassandra_config, &registry, component, &drain)?;
    let page = registry.document();
    drain.start();
    drop(central);
    std::fs::remove_dir_all(&folder)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use mirador_service::metrics::undocumented;

    use super::*;

    fn committed(page: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page)).unwrap()
    }

    #[test]
    fn the_committed_page_has_every_key_as_it_is_documented_here() {
        let keys = mirador_service::config::document::<Config>("Keys of the central roles");
        assert!(committed("config.md").contains(keys.trim()), "docs/config.md is not current: run `cargo xtask docs`");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_committed_page_has_every_metric_as_it_is_documented_here() {
        let table = Box::pin(telemetry()).await.unwrap();
        let missing = undocumented(&committed("telemetry.md"), &table);
        assert_eq!(missing, None, "docs/telemetry.md is not current: run `cargo xtask docs`");
    }
}
