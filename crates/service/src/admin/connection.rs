//! Accepting and serving admin connections: bounded in number, in header time and in age.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Subject;
use super::pages::Page;

/// Scrapers and probes of one node need a handful; the rest wait in the listen queue.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// A client that has not sent its request line and headers by then is cut off. It also bounds how
/// long an idle keep-alive connection stays.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// No connection lives longer, whatever it does (a reader that never reads included).
pub(super) const MAX_AGE: Duration = Duration::from_mins(5);
/// Time for the answer under way when a connection reaches its age.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// Requests have no body and few headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;

pub(super) type Router = fn(&Subject, &Method, &str) -> Page;

/// Accepts for ever; ends when its task is aborted, and its connections with it.
pub(super) async fn accept(listener: TcpListener, subject: Arc<Subject>, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore stays open");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let subject = Arc::clone(&subject);
                connections.spawn(async move {
                    serve(stream, subject, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: try again when some may be free.
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, subject: Arc<Subject>, router: Router) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let page = router(&subject, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(page) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut ended = tokio::time::timeout(MAX_AGE, connection.as_mut()).await;
    if ended.is_err() {
        // The answer that is on its way is finished, so that no scrape is cut in two.
        connection.as_mut().graceful_shutdown();
        ended = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an admin connection ended");
    }
}
