//! An API server for tests: lists and watches of JSON objects over plain HTTP, with every failure that
//! a client of a real one has to survive, on demand.
//!
//! Modelled: label and field selectors of one `key=value`, pages, resource versions, history of bounded
//! length, bookmarks, 410 as a status and as an ERROR event, bearer tokens, 429 with `Retry-After`,
//! silence, streams cut inside an object, a restart on the same port (also with older versions).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a watch on a version that is no longer known is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    Status,
    Event,
}

/// What happens to requests.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    pub(crate) gone: Gone,
    /// Requests that are still refused with 429, and after how many seconds they may come again.
    pub(crate) throttle: (usize, u64),
    /// Lists that are never answered.
    pub(crate) silent_lists: usize,
    /// Watches that end with an ERROR event of this code right after their start.
    pub(crate) error_events: (usize, u16),
    /// Watches that end inside an object.
    pub(crate) cut_watches: usize,
    /// The only token that is let in.
    pub(crate) token: Option<String>,
    /// The objects per page of a list.
    pub(crate) page: usize,
}

/// One request that came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) watch: bool,
    pub(crate) status: u16,
    pub(crate) query: String,
}

struct State {
    /// By path and name.
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    /// Versions and events, oldest first.
    history: VecDeque<(u64, String, Value)>,
    /// Versions up to this one are forgotten.
    forgotten: u64,
    faults: Faults,
    seen: Vec<Seen>,
    /// Watches that are open.
    open: usize,
}

pub(crate) struct ApiServer {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    serving: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let faults = Faults {
            gone: Gone::Event,
            throttle: (0, 0),
            silent_lists: 0,
            error_events: (0, 500),
            cut_watches: 0,
            token: None,
            page: 500,
        };
        let state = State {
            objects: BTreeMap::new(),
            version: 100,
            history: VecDeque::new(),
            forgotten: 0,
            faults,
            seen: Vec::new(),
            open: 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut server =
            Self { addr, state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(0), serving: None };
        server.serve(listener);
        server
    }

    /// Ends the server and every connection to it.
    pub(crate) async fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            drop(serving.await);
        }
    }

    /// Serves again at the same address, with what it knew.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.serve(listener);
    }

    /// Begins to count versions anew and forgets the history, as a server on a new store does.
    pub(crate) fn forget_versions(&self) {
        let mut state = self.lock();
        state.version = 1;
        state.history.clear();
        state.forgotten = 0;
    }

    /// Forgets the history: every watch that begins before now is gone.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.history.clear();
        state.forgotten = state.version;
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Creates or replaces an object under a path such as `/api/v1/pods` (without the namespace).
    pub(crate) fn apply(&self, path: &str, name: &str, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let known = state.objects.insert((path.to_owned(), name.to_owned()), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        state.history.push_back((version, path.to_owned(), json!({"type": kind, "object": object})));
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn delete(&self, path: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(&(path.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.history.push_back((version, path.to_owned(), json!({"type": "DELETED", "object": object})));
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Cuts every open watch.
    pub(crate) async fn cut(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Watches that are open.
    pub(crate) fn watches(&self) -> usize {
        self.lock().open
    }

    /// Lists that were answered.
    pub(crate) fn lists(&self) -> usize {
        self.seen().iter().filter(|seen| !seen.watch && seen.status == 200).count()
    }

    /// A kubeconfig for this server whose token stands in `token_file`.
    pub(crate) fn kubeconfig(&self, token_file: &std::path::Path) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.addr)}}],
            "users": [{"name": "test", "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "mirador"}}],
        })
        .to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, changed) = (Arc::clone(&self.state), self.changed.clone());
        self.serving = Some(tokio::spawn(async move {
            // Dropped, and every connection with it, when this task is aborted.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (state, changed) = (Arc::clone(&state), changed.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let (state, changed) = (Arc::clone(&state), changed.clone());
                        async move { Ok::<_, Infallible>(answer(&state, &changed, &request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).clone();
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        }));
    }
}

async fn answer(
    state: &Arc<Mutex<State>>,
    changed: &watch::Sender<u64>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let query = Query::of(request.uri().query().unwrap_or_default());
    let watch = query.get("watch").is_some();
    let (response, silent) = {
        let mut state = state.lock().unwrap();
        let response = state.answer(request, &query);
        let silent = response.is_none() && !watch && state.faults.silent_lists > 0;
        if silent {
            state.faults.silent_lists -= 1;
        }
        let status = response.as_ref().map_or(200, |response| response.status().as_u16());
        if !silent {
            let query = request.uri().query().unwrap_or_default().to_owned();
            state.seen.push(Seen { at: Instant::now(), watch, status, query });
        }
        (response, silent)
    };
    if silent {
        return std::future::pending().await;
    }
    if let Some(refused) = response {
        return refused;
    }
    let path = collection(request.uri().path());
    if watch { follow(state, changed, path, &query) } else { list(&state.lock().unwrap(), &path, &query) }
}

impl State {
    /// The refusal, or `None` when the request is let in.
    fn answer(&mut self, request: &Request<Incoming>, query: &Query) -> Option<Response<Body>> {
        if self.faults.throttle.0 > 0 {
            self.faults.throttle.0 -= 1;
            let text = Full::new(Bytes::from("Too many requests, please try again later."));
            let mut response = Response::new(text.boxed_unsync());
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert("retry-after", self.faults.throttle.1.into());
            return Some(response);
        }
        if let Some(token) = &self.faults.token {
            let expected = format!("Bearer {token}");
            let sent = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            if sent.as_deref() != Some(&expected) {
                return Some(refusal(401, "Unauthorized", "Unauthorized"));
            }
        }
        let from: u64 = query.get("resourceVersion").map_or(0, |version| version.parse().unwrap());
        let is_old = query.get("watch").is_some() && from < self.forgotten;
        (is_old && self.faults.gone == Gone::Status).then(|| refusal(410, "Expired", "too old resource version"))
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code})
}

fn refusal(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(status(code, reason, message).to_string())).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// The path without its namespace.
fn collection(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    // The namespaces themselves are a collection too.
    let at = parts.iter().position(|part| *part == "namespaces").filter(|at| at + 2 < parts.len());
    let Some(at) = at else { return path.to_owned() };
    [&parts[..at], &parts[at + 2..]].concat().join("/")
}

fn list(state: &State, path: &str, query: &Query) -> Response<Body> {
    let matching: Vec<&Value> = state
        .objects
        .iter()
        .filter(|((at, _), object)| at == path && query.selects(object))
        .map(|(_, object)| object)
        .collect();
    let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let to = (from + state.faults.page).min(matching.len());
    let more = if to < matching.len() { to.to_string() } else { String::new() };
    let body = json!({"kind": "List", "apiVersion": "v1", "items": matching[from..to],
        "metadata": {"resourceVersion": state.version.to_string(), "continue": more}});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn follow(state: &Arc<Mutex<State>>, changed: &watch::Sender<u64>, path: String, query: &Query) -> Response<Body> {
    let mut last: u64 = query.get("resourceVersion").map_or(0, |version| version.parse().unwrap());
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(64);
    let (state, mut changed, query) = (Arc::clone(state), changed.subscribe(), query.clone());
    state.lock().unwrap().open += 1;
    tokio::spawn(async move {
        tokio::select! {
            () = tell(&state, &mut changed, &path, &query, &mut last, &send) => {}
            () = send.closed() => {}
        }
        state.lock().unwrap().open -= 1;
    });
    let lines = stream::unfold(receive, |mut receive| async move {
        let line = receive.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), receive))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// Tells a watch what happens, until it ends.
async fn tell(
    state: &Mutex<State>,
    changed: &mut watch::Receiver<u64>,
    path: &str,
    query: &Query,
    last: &mut u64,
    send: &tokio::sync::mpsc::Sender<Bytes>,
) {
    loop {
        // A connection that is gone must not use up what is meant for the next.
        if send.is_closed() {
            return;
        }
        let (mut lines, ends) = state.lock().unwrap().lines(path, query, last);
        if !ends {
            let version = json!({"resourceVersion": last.to_string()});
            let bookmark = json!({"kind": "List", "apiVersion": "v1", "metadata": version});
            lines.push(format!("{}\n", json!({"type": "BOOKMARK", "object": bookmark})));
        }
        for line in lines {
            if send.send(line.into()).await.is_err() {
                return;
            }
        }
        if ends || changed.changed().await.is_err() {
            return;
        }
    }
}

impl State {
    /// What a watch is told now, and whether it ends with it.
    fn lines(&mut self, path: &str, query: &Query, last: &mut u64) -> (Vec<String>, bool) {
        let error = |code: u16, reason: &str| {
            let line = json!({"type": "ERROR", "object": status(code, reason, "from the test")});
            (vec![format!("{line}\n")], true)
        };
        if *last < self.forgotten {
            return error(410, "Expired");
        }
        if self.faults.error_events.0 > 0 {
            self.faults.error_events.0 -= 1;
            return error(self.faults.error_events.1, "InternalError");
        }
        let mut lines = Vec::new();
        for (version, at, event) in &self.history {
            if *version > *last && at == path && query.selects(&event["object"]) {
                lines.push(format!("{event}\n"));
            }
        }
        *last = (*last).max(self.version);
        if self.faults.cut_watches > 0 && !lines.is_empty() {
            self.faults.cut_watches -= 1;
            let half = lines[0].len() / 2;
            return (vec![lines[0][..half].to_owned()], true);
        }
        (lines, false)
    }
}

#[derive(Debug, Clone)]
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let decode = |text: &str| {
            let text = text.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
            text.replace("%3d", "=").replace("%2f", "/").replace("%21", "!").replace('+', " ")
        };
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn selects(&self, object: &Value) -> bool {
        let label = self.get("labelSelector").is_none_or(|selector| {
            let (key, value) = selector.split_once('=').unwrap();
            object["metadata"]["labels"][key] == value
        });
        let field = self.get("fieldSelector").is_none_or(|selector| {
            selector.split(',').all(|term| {
                let (path, value) = term.split_once('=').unwrap();
                let (path, wanted) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
                (path.split('.').fold(object, |at, key| &at[key]) == value) == wanted
            })
        });
        label && field
    }
}
