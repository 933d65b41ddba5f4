//! A real Kubernetes control plane on loopback: etcd, API server, controller-manager, scheduler, and kwok,
//! which plays the kubelets of as many nodes as a test asks for.
//!
//! Pods on those nodes run no process: they become Ready at once and get an address that nobody answers at.
//! Everything else is real: admission, validation, garbage collection, `DaemonSets`, `EndpointSlices`, RBAC.
//!
//! Never: listens beyond loopback, reads or writes anybody's kubeconfig, asks a registry for anything.

mod identity;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::server::{Ready, Server, Spec};
use super::{client, ports};

/// How the fake nodes and pods live.
const STAGES: &str = include_str!("../../../backends/kubernetes/stages.yaml");
/// How long a part of the control plane may take until it works.
const WAIT: Duration = Duration::from_secs(120);

/// A running control plane. The order of the fields is the order in which the parts end: the API server
/// before etcd, or it keeps its port and answers the next one's readiness poll.
#[derive(Debug)]
pub struct ControlPlane {
    _kwok: Server,
    _scheduler: Server,
    controllers: Server,
    apiserver: Server,
    _etcd: Server,
    programs: PathBuf,
    url: String,
    folder: TempDir,
}

impl ControlPlane {
    /// Installs what is needed and starts it with `nodes` ready nodes.
    pub async fn start(nodes: usize) -> Result<Self> {
        let programs = super::install_blocking("kubernetes").await?;
        let folder = tempfile::Builder::new().prefix("mirador-kubernetes-").tempdir()?;
        let port = ports::free()?;
        let url = format!("https://127.0.0.1:{port}");
        identity::write(folder.path(), &url).await?;
        std::fs::write(folder.path().join("stages.yaml"), STAGES)?;
        let parts = Parts { programs: &programs, folder: folder.path() };
        let (etcd, store) = parts.etcd().await?;
        let apiserver = parts.apiserver(port, &store).await?;
        let (controllers, scheduler, kwok) = tokio::try_join!(parts.controllers(), parts.scheduler(), parts.kwok())?;
        let plane =
            Self { _kwok: kwok, _scheduler: scheduler, controllers, apiserver, _etcd: etcd, programs, url, folder };
        plane.ready().await?;
        plane.add_nodes(nodes).await?;
        Ok(plane)
    }

    /// A kubeconfig of a cluster administrator; its CA and token verify.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join(identity::KUBECONFIG)
    }

    /// Where the API server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The API server's process, to be killed and paused; [`ControlPlane::restart_apiserver`] starts it again.
    pub fn apiserver(&mut self) -> &mut Server {
        &mut self.apiserver
    }

    /// Starts the API server again after it was killed, and the controllers with it: what these have watched is
    /// stale for a while, and the controller of `EndpointSlices` then waits up to 1,000 s before it looks again.
    pub async fn restart_apiserver(&mut self) -> Result<()> {
        self.apiserver.restart().await?;
        self.ready().await?;
        self.controllers.restart().await
    }

    /// Waits until the API server says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        client::until("the API server to be ready", WAIT, async || {
            Ok((self.kubectl(["get", "--raw", "/readyz"]).await?.trim() == "ok").then_some(()))
        })
        .await
        .with_context(|| self.apiserver.log_tail(30))
    }

    /// Runs kubectl and returns what it prints; a failure is an error with what it says.
    pub async fn kubectl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        self.run("kubectl", args, "").await
    }

    /// [`ControlPlane::kubectl`] with `input` on its standard input.
    pub async fn kubectl_with(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &str) -> Result<String> {
        self.run("kubectl", args, input).await
    }

    /// What `kubectl get` with these arguments finds, as JSON.
    pub async fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl([&["get", "-o", "json"], args].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs Helm 4.
    pub async fn helm(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        self.run("helm", args, "").await
    }

    /// Runs Helm 3.
    pub async fn helm3(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        self.run("helm3", args, "").await
    }

    async fn run(
        &self,
        program: &str,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &str,
    ) -> Result<String> {
        client_program(&self.programs, program, self.folder.path(), args, input).await
    }

    /// Adds nodes until there are `count`, each in one of three zones, and waits until they are Ready.
    pub async fn add_nodes(&self, count: usize) -> Result<()> {
        let nodes: Vec<Value> = (0..count).map(node).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": nodes});
        self.kubectl_with(["apply", "-f", "-"], &list.to_string()).await?;
        client::until("the nodes to be ready", WAIT, async || {
            let nodes = self.get(&["nodes"]).await?;
            let ready = |node: &&Value| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
            };
            let ready = nodes["items"].as_array().into_iter().flatten().filter(ready).count();
            Ok((ready >= count).then_some(()))
        })
        .await
    }
}

/// Runs Helm 4 without any cluster (`template`, `lint`) and returns what it prints.
pub async fn helm(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    offline("helm", args).await
}

/// [`helm`] with Helm 3.
pub async fn helm3(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    offline("helm3", args).await
}

async fn offline(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    let programs = super::install_blocking("kubernetes").await?;
    let folder = tempfile::tempdir()?;
    client_program(&programs, program, folder.path(), args, "").await
}

/// Runs a client program with its state in `home`, so that nobody's own settings play a part.
async fn client_program(
    programs: &Path,
    program: &str,
    home: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    input: &str,
) -> Result<String> {
    let mut command = Command::new(programs.join(program));
    command.args(args).env("HOME", home).env("KUBECONFIG", home.join(identity::KUBECONFIG));
    for (name, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
        command.env(format!("HELM_{name}_HOME"), home.join("helm").join(folder));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let words: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes it; its own error says why.
        stdin.write_all(input.as_bytes()).await.ok();
    }
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}\n{error}{text}", words.join(" "), output.status);
    }
    Ok(text)
}

fn node(index: usize) -> Value {
    let name = format!("node-{index}");
    let zone = format!("zone-{}", index % 3);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone},
        },
    })
}

/// Starts the parts in one folder.
struct Parts<'a> {
    programs: &'a Path,
    folder: &'a Path,
}

impl Parts<'_> {
    async fn start(&self, name: &str, args: Vec<String>, ready: Ready) -> Result<Server> {
        let program = self.programs.join(name);
        let spec = Spec { name: name.into(), program, args, env: Vec::new(), folder: self.folder.into(), ready };
        Server::start(spec).await
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    async fn etcd(&self) -> Result<(Server, String)> {
        let (client, peer) = (ports::free()?, ports::free()?);
        let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let args = vec![
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Nothing here outlives the test: no disk has to be waited for.
            "--unsafe-no-fsync".into(),
        ];
        let server = self.start("etcd", args, Ready::Http(format!("{url}/health"))).await?;
        Ok((server, url))
    }

    async fn apiserver(&self, port: u16, store: &str) -> Result<Server> {
        let args = vec![
            format!("--etcd-servers={store}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            "--endpoint-reconciler-type=none".into(),
            "--service-cluster-ip-range=10.0.0.0/16".into(),
            format!("--tls-cert-file={}", self.file(identity::SERVER_CERTIFICATE)),
            format!("--tls-private-key-file={}", self.file(identity::SERVER_KEY)),
            format!("--token-auth-file={}", self.file(identity::TOKENS)),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-signing-key-file={}", self.file(identity::ACCOUNT_KEY)),
            format!("--service-account-key-file={}", self.file(identity::ACCOUNT_PUBLIC_KEY)),
            "--authorization-mode=RBAC".into(),
            "--anonymous-auth=false".into(),
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
        ];
        let address = ([127, 0, 0, 1], port).into();
        self.start("kube-apiserver", args, Ready::Tcp(address)).await
    }

    async fn controllers(&self) -> Result<Server> {
        let port = ports::free()?;
        let args = vec![
            format!("--kubeconfig={}", self.file(identity::KUBECONFIG)),
            format!("--root-ca-file={}", self.file(identity::CA)),
            format!("--service-account-private-key-file={}", self.file(identity::ACCOUNT_KEY)),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", self.file("controllers")),
            "--leader-elect=false".into(),
            // The nodes send no heartbeats: they are to stay Ready for as long as a test runs.
            "--node-monitor-grace-period=24h".into(),
            "--profiling=false".into(),
        ];
        self.start("kube-controller-manager", args, Ready::Tcp(([127, 0, 0, 1], port).into())).await
    }

    async fn scheduler(&self) -> Result<Server> {
        let port = ports::free()?;
        let args = vec![
            format!("--kubeconfig={}", self.file(identity::KUBECONFIG)),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", self.file("scheduler")),
            "--leader-elect=false".into(),
            "--profiling=false".into(),
        ];
        self.start("kube-scheduler", args, Ready::Tcp(([127, 0, 0, 1], port).into())).await
    }

    async fn kwok(&self) -> Result<Server> {
        let port = ports::free()?;
        let args = vec![
            format!("--kubeconfig={}", self.file(identity::KUBECONFIG)),
            format!("--config={}", self.file("stages.yaml")),
            format!("--server-address=127.0.0.1:{port}"),
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".into(),
            "--cidr=10.128.0.1/16".into(),
            "--node-ip=10.1.0.1".into(),
        ];
        self.start("kwok", args, Ready::Http(format!("http://127.0.0.1:{port}/healthz"))).await
    }
}

#[cfg(test)]
mod tests {
    use super::identity::TOKEN;
    use super::*;

    #[tokio::test]
    async fn pods_of_a_deployment_become_ready_and_endpoint_slices_follow_a_restart_of_the_api_server() {
        let mut plane = ControlPlane::start(2).await.unwrap();
        plane.kubectl(["create", "deployment", "web", "--image=web", "--replicas=3", "--port=80"]).await.unwrap();
        plane.kubectl(["expose", "deployment", "web"]).await.unwrap();
        plane.kubectl(["rollout", "status", "deployment/web", "--timeout=120s"]).await.unwrap();
        let endpoints = async |plane: &ControlPlane, want: usize| {
            client::until("the endpoints", WAIT, async || {
                let slices = plane.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]).await?;
                let found = slices["items"].as_array().into_iter().flatten();
                let found = found.map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum::<usize>();
                Ok((found == want).then_some(()))
            })
            .await
        };
        endpoints(&plane, 3).await.unwrap();
        plane.apiserver().kill().await.unwrap();
        plane.restart_apiserver().await.unwrap();
        plane.kubectl(["scale", "deployment/web", "--replicas=1"]).await.unwrap();
        endpoints(&plane, 1).await.unwrap();
        assert!(plane.url().starts_with("https://127.0.0.1:") && plane.kubeconfig().is_file());
        let refused = plane.kubectl(["get", "pods", "--token=wrong"]).await.unwrap_err().to_string();
        assert!(refused.contains("Unauthorized") || refused.contains("logged in"), "{refused}");
        assert!(!refused.contains(TOKEN), "{refused}");
    }
}
