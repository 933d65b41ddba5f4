//! Who is who in a control plane of a test: a CA, the API server's certificate, the key of service account
//! tokens, one administrator, and the kubeconfig that names them.
//!
//! Never: used outside one temporary folder; every control plane has keys of its own.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::process::Command;

/// The administrator's token: whoever reaches loopback during a test may have it.
pub(super) const TOKEN: &str = "administrator-of-a-test";

pub(super) const KUBECONFIG: &str = "kubeconfig";
pub(super) const CA: &str = "ca.crt";
pub(super) const SERVER_CERTIFICATE: &str = "server.crt";
pub(super) const SERVER_KEY: &str = "server.key";
pub(super) const ACCOUNT_KEY: &str = "account.key";
pub(super) const ACCOUNT_PUBLIC_KEY: &str = "account.pub";
pub(super) const TOKENS: &str = "tokens.csv";

const CURVE: [&str; 2] = ["-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// Writes all of it into `folder` for an API server at `url`.
pub(super) async fn write(folder: &Path, url: &str) -> Result<()> {
    let new = ["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2", CURVE[0], CURVE[1]];
    let ca = ["-subj", "/CN=mirador-test-ca", "-keyout", "ca.key", "-out", CA];
    openssl(folder, &[&new[..], &ca].concat()).await?;
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc";
    let extensions = ["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"];
    let server = ["-CA", CA, "-CAkey", "ca.key", "-subj", "/CN=kube-apiserver", "-keyout", SERVER_KEY];
    openssl(folder, &[&new[..], &server, &extensions, &["-out", SERVER_CERTIFICATE]].concat()).await?;
    openssl(folder, &[&["genpkey", "-algorithm", "EC"], &CURVE[..], &["-out", ACCOUNT_KEY]].concat()).await?;
    openssl(folder, &["pkey", "-in", ACCOUNT_KEY, "-pubout", "-out", ACCOUNT_PUBLIC_KEY]).await?;
    std::fs::write(folder.join(TOKENS), format!("{TOKEN},administrator,1,system:masters\n"))?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": folder.join(CA)}}],
        "users": [{"name": "administrator", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "administrator"}}],
    });
    std::fs::write(folder.join(KUBECONFIG), config.to_string())?;
    Ok(())
}

async fn openssl(folder: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(args).current_dir(folder).stdin(Stdio::null());
    let output = command.output().await.context("cannot run openssl: install it (Debian: apt-get install openssl)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {} ended with {}: {error}", args.join(" "), output.status);
    Ok(())
}
