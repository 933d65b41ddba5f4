//! `mirador-connector`: asks the OpenTelemetry Collector's span metrics connector what it makes of the spans of
//! `mirador_support::connector::input`, and writes its answer where the tests read it.

use anyhow::{Context as _, Result};
use mirador_support::connector::{GOLDEN, ask, written};

#[tokio::main]
async fn main() -> Result<()> {
    let found = ask().await?;
    std::fs::write(GOLDEN, written(&found)).with_context(|| format!("cannot write {GOLDEN}"))
}
