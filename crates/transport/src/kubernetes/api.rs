//! The way to the API server: credentials and the client.
//!
//! Never: caches a credential longer than kube does (a minute); a new `connect` reads all anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mirador_service::cause::chain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tower::util::MapResponseLayer;

/// The longest time for which a server's own hint is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How the API server is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where the credentials come from. Default `serviceAccount`.
    pub auth_type: AuthType,
    /// The kubeconfig file of `auth_type: kubeConfig`. Default: the variable `KUBECONFIG`, then
    /// `~/.kube/config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it. Default: its current context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Where credentials come from; names of the collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthType {
    /// The pod's service account (a projected token and the cluster's certificates).
    #[default]
    #[serde(rename = "serviceAccount")]
    ServiceAccount,
    /// A kubeconfig file.
    #[serde(rename = "kubeConfig")]
    KubeConfig,
}

impl ApiConfig {
    /// What cannot work, each line with its key below this section.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.auth_type == AuthType::ServiceAccount && (self.kubeconfig.is_some() || self.context.is_some()) {
            found.push("api: kubeconfig and context are read with auth_type: kubeConfig only".to_owned());
        }
        found
    }

    async fn load(&self) -> Result<Config, String> {
        if self.auth_type == AuthType::ServiceAccount {
            return Config::incluster().map_err(|error| format!("service account: {}", chain(&error)));
        }
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let loaded = match read {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        };
        let path = self.kubeconfig.as_deref().unwrap_or(Path::new("the default place"));
        loaded.map_err(|error| format!("kubeconfig {}: {}", path.display(), chain(&error)))
    }

    /// A client with credentials that were read now; connecting is left to its first request.
    pub(super) async fn connect(&self, timeout: Duration, contact: &Arc<Contact>) -> Result<Client, String> {
        let mut config = self.load().await?;
        config.connect_timeout = Some(timeout);
        config.write_timeout = Some(timeout);
        // Waits are ours, so that each failure is counted and `Retry-After` is followed.
        config.default_retry = false;
        let observed = Arc::clone(contact);
        let layer = MapResponseLayer::new(move |response: http::Response<_>| {
            observed.note(response.status(), response.headers());
            response
        });
        mirador_service::tls::decide_provider();
        let builder = ClientBuilder::try_from(config).map_err(|error| chain(&error))?;
        Ok(builder.with_layer(&layer).build())
    }
}

/// What the heads of the server's answers say.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// How many answers were successes.
    successes: AtomicU64,
    /// The last `Retry-After` in milliseconds, until it is taken.
    retry_after: AtomicU64,
    answered: Notify,
}

impl Contact {
    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        if status.is_success() {
            self.successes.fetch_add(1, Ordering::AcqRel);
            self.answered.notify_waiters();
            return;
        }
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds {
            let wait = Duration::from_secs(seconds).min(MAX_RETRY_AFTER);
            self.retry_after.store(wait.as_millis() as u64, Ordering::Release);
        }
    }

    pub(super) fn successes(&self) -> u64 {
        self.successes.load(Ordering::Acquire)
    }

    /// Returns once there are more successes than these.
    pub(super) async fn success_after(&self, seen: u64) {
        loop {
            let answered = self.answered.notified();
            if self.successes() != seen {
                return;
            }
            answered.await;
        }
    }

    /// For how long the server asked to be left alone, once.
    pub(super) fn take_retry_after(&self) -> Duration {
        Duration::from_millis(self.retry_after.swap(0, Ordering::AcqRel))
    }
}
