//! A kind cluster of ours: created, filled, looked into after a failure, and deleted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mirador_support::backends::ports;

use super::tools::{self, Tools};
use crate::workspace::root;

/// Its name; a cluster that already has it is somebody's.
pub(super) const NAME: &str = "mirador-e2e";
const NAMESPACE: &str = "miradorstack";
/// Where the manifests are.
const FILES: &str = "tests/kubernetes/e2e";
/// A step that asks the cluster for something that is there.
const SHORT: Duration = Duration::from_secs(120);
/// A step that pulls images or waits for pods.
const LONG: Duration = Duration::from_secs(900);

/// The place of a cluster that is not there yet.
pub(super) struct Vacant<'a> {
    tools: &'a Tools,
    kubeconfig: PathBuf,
}

/// A cluster that this process has created.
pub(super) struct Cluster<'a> {
    tools: &'a Tools,
    kubeconfig: PathBuf,
    keep: bool,
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if self.keep {
            eprintln!(
                "e2e: the cluster stays: `kind export kubeconfig --name {NAME}` leads there, `kind delete cluster \
                 --name {NAME}` removes it"
            );
            return;
        }
        let mut delete = self.call("kind", &["delete", "cluster", "--name", NAME]);
        if let Err(error) = tools::run(&mut delete, SHORT) {
            eprintln!("e2e: the cluster is still there: {error:#}; `kind delete cluster --name {NAME}` removes it");
        }
    }
}

impl<'a> Vacant<'a> {
    /// Creates the cluster. When that fails what there is of it is deleted, because nobody else has made it.
    pub(super) fn create(self, keep: bool) -> Result<Cluster<'a>> {
        let mut cluster = Cluster { tools: self.tools, kubeconfig: self.kubeconfig, keep: false };
        let config = format!("{FILES}/kind.yaml");
        cluster.step("kind", &["create", "cluster", "--name", NAME, "--config", &config, "--wait", "300s"], LONG)?;
        cluster.keep = keep;
        Ok(cluster)
    }
}

impl<'a> Cluster<'a> {
    /// Looks whether the name is free; `folder` keeps the kubeconfig.
    pub(super) fn vacant(tools: &'a Tools, folder: &Path) -> Result<Vacant<'a>> {
        let names = tools::output(&mut tools.command("kind", &["get", "clusters"]), SHORT)?;
        ensure!(
            !names.lines().any(|name| name.trim() == NAME),
            "a kind cluster named {NAME} is there already and is not touched; `kind delete cluster --name {NAME}` removes it"
        );
        Ok(Vacant { tools, kubeconfig: folder.join("kubeconfig") })
    }

    fn call(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.tools.command(program, args);
        command.env("KUBECONFIG", &self.kubeconfig).current_dir(root());
        command
    }

    fn step(&self, program: &str, args: &[&str], limit: Duration) -> Result<()> {
        eprintln!("e2e: {program} {}", args.join(" "));
        let started = Instant::now();
        tools::run(&mut self.call(program, args), limit)?;
        eprintln!("e2e: done in {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Puts images on the nodes.
    pub(super) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let archive = archive.display().to_string();
            self.step("kind", &["load", "image-archive", "--name", NAME, &archive], SHORT)?;
        }
        Ok(())
    }

    /// Installs stores and chart, waits until all of it is ready, and has the chart test itself.
    pub(super) fn install(&self, steering: bool) -> Result<()> {
        let file = |name: &str| format!("{FILES}/{name}");
        let (backends, values, stranger) = (file("backends.yaml"), file("values.yaml"), file("stranger.yaml"));
        self.step("kubectl", &["create", "namespace", NAMESPACE], SHORT)?;
        self.step("kubectl", &["apply", "-n", NAMESPACE, "-f", &backends], SHORT)?;
        let wait = |what: &[&str]| -> Result<()> {
            self.step("kubectl", &[&["wait", "-n", NAMESPACE, "--timeout=600s"], what].concat(), LONG)
        };
        wait(&["--for=condition=available", "deployment", "--all"])?;
        let steer = format!("agent.steering.enabled={steering}");
        let install = ["install", "mirador", "charts/mirador", "-n", NAMESPACE, "--values", &values, "--set", &steer];
        self.step("helm", &[&install[..], &["--wait", "--timeout", "600s"]].concat(), LONG)?;
        wait(&["--for=condition=complete", "job", "-l", "app.kubernetes.io/component=schema"])?;
        self.step("helm", &["test", "mirador", "-n", NAMESPACE, "--timeout", "300s"], LONG)?;
        if steering {
            self.step("kubectl", &["apply", "-f", &stranger], SHORT)?;
        }
        Ok(())
    }

    /// What a command in the pod of a deployment prints.
    pub(super) fn exec(&self, deployment: &str, command: &[&str]) -> Result<String> {
        let target = format!("deployment/{deployment}");
        let mut exec = self.call("kubectl", &[&["exec", "-n", NAMESPACE, &target, "--"], command].concat());
        tools::output(&mut exec, SHORT)
    }

    /// Forwards a free port of this machine to a port of a service; it ends with the returned guard.
    pub(super) fn forward(&self, service: &str, port: u16) -> Result<Forward> {
        let local = ports::free()?;
        let (service, pair) = (format!("service/{service}"), format!("{local}:{port}"));
        let mut command = self.call("kubectl", &["port-forward", "-n", NAMESPACE, &service, &pair]);
        let child = command.stdout(Stdio::null()).spawn().context("cannot run kubectl port-forward")?;
        Ok(Forward { child, url: format!("http://127.0.0.1:{local}") })
    }

    /// Keeps what there is to know about a failure in `folder`; what cannot be had is left out.
    pub(super) fn collect(&self, folder: &Path) {
        if let Err(error) = self.gather(folder) {
            eprintln!("e2e: what the cluster says cannot be kept: {error:#}");
        }
        eprintln!("e2e: what the cluster said is in {}", folder.display());
    }

    fn gather(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let ours = "app.kubernetes.io/instance=mirador";
        let pages: [(&str, &[&str]); 5] = [
            ("objects.txt", &["get", "all,endpointslices,networkpolicies", "-A", "-o", "wide"]),
            ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
            ("pods.txt", &["describe", "pods", "-n", NAMESPACE]),
            ("logs.txt", &["logs", "-n", NAMESPACE, "-l", ours, "--all-containers", "--prefix", "--tail=500"]),
            ("configuration.yaml", &["get", "configmaps", "-n", NAMESPACE, "-l", ours, "-o", "yaml"]),
        ];
        for (name, args) in pages {
            let file = File::create(folder.join(name))?;
            let mut command = self.call("kubectl", args);
            command.stderr(file.try_clone()?).stdout(file);
            if let Err(error) = tools::run(&mut command, SHORT) {
                eprintln!("e2e: {error:#}");
            }
        }
        let nodes = folder.join("nodes").display().to_string();
        tools::run(&mut self.call("kind", &["export", "logs", &nodes, "--name", NAME]), SHORT)
    }
}

/// A running port-forward.
pub(super) struct Forward {
    child: Child,
    pub(super) url: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
