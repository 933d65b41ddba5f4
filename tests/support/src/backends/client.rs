//! The little HTTP that questions to a backend need: GET and POST on loopback, JSON back, and an error
//! that shows what the server said.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

/// How long one question may take; a backend under a full test run can be slow.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client that follows no proxy of the environment and speaks clear text: everything here is on loopback.
pub fn client() -> Result<Client> {
    let tls = mirador_service::tls::trusting_nobody()?;
    Ok(Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(TIMEOUT).build()?)
}

/// Sends `request`; an answer that is no success is an error with its text.
pub async fn send(request: RequestBuilder) -> Result<Response> {
    let answer = request.send().await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = answer.url().clone();
    let text = answer.text().await.unwrap_or_default();
    bail!("{url} answered {status}: {}", text.trim())
}

/// Sends `request` and reads the answer as text.
pub async fn text(request: RequestBuilder) -> Result<String> {
    Ok(send(request).await?.text().await?)
}

/// Sends `request` and reads the answer as JSON.
pub async fn json(request: RequestBuilder) -> Result<Value> {
    let text = text(request).await?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {}", &text[..text.len().min(500)]))
}

/// Sends `request` and reads every line of the answer as JSON.
pub async fn json_lines(request: RequestBuilder) -> Result<Vec<Value>> {
    let text = text(request).await?;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
}

/// Asks `question` again and again until it gives `Some`, at most `limit` long; an error or a `None`
/// that stays is an error which says `what` was waited for. This is how a test waits: for a condition.
pub async fn until<T, F>(what: &str, limit: Duration, mut question: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let started = tokio::time::Instant::now();
    loop {
        let failure = match question().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= limit {
            let error = failure.unwrap_or_else(|| anyhow::anyhow!("it has not come to pass"));
            return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
