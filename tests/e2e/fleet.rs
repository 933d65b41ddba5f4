//! A whole deployment on loopback: every role a process of its own, agents in front, real backends behind.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use mirador_support::backends::Server;
use mirador_support::backends::client::until;
use mirador_support::backends::jaeger::{Jaeger, TraceQuery};
use mirador_support::backends::victoriametrics::VictoriaMetrics;
use mirador_support::backends::victoriatraces::{TraceStore, VictoriaTraces};
use mirador_support::node::Node;
use mirador_support::oracle::{BOUNDS_MS, Edge, EdgeKey, Red, RedKey};
use mirador_support::shop::Sender;
use serde_json::{Value, json};

/// Long enough for a machine that builds at the same time; a condition ends the wait much earlier.
pub(crate) const WAIT: Duration = Duration::from_secs(180);

/// Where a fleet keeps its traces.
pub(crate) enum Traces {
    /// A Jaeger, with its traces in memory.
    Jaeger(Box<Jaeger>),
    /// VictoriaTraces, or what keeps its contract.
    Victoria(TraceStore),
}

impl Traces {
    /// A program of its own: VictoriaTraces where this machine has it, else a Jaeger.
    pub(crate) async fn start() -> Result<Self> {
        Ok(match VictoriaTraces::program()? {
            Some(_) => Self::victoria().await?,
            None => Self::Jaeger(Box::new(Jaeger::start().await?)),
        })
    }

    /// A program of its own that keeps its traces when it ends.
    pub(crate) async fn on_disk() -> Result<Self> {
        Ok(match VictoriaTraces::program()? {
            Some(_) => Self::victoria().await?,
            None => Self::Jaeger(Box::new(Jaeger::start_on_disk().await?)),
        })
    }

    /// VictoriaTraces where this machine has it, else what keeps its contract.
    pub(crate) async fn victoria() -> Result<Self> {
        Ok(Self::Victoria(TraceStore::start().await?))
    }

    /// The exporter's section that sends there, with `over` laid over it.
    pub(crate) fn exporter(&self, over: Value) -> Value {
        let (name, endpoint) = match self {
            Self::Jaeger(jaeger) => ("otlphttp_traces", format!("{}/v1/traces", jaeger.otlp_url())),
            Self::Victoria(store) => ("victoriatraces", store.insert_url()),
        };
        let mut section = json!({"endpoint": endpoint});
        merge(&mut section, over);
        json!({name: section})
    }

    /// What it has stored.
    pub(crate) fn query(&self) -> &TraceQuery {
        match self {
            Self::Jaeger(jaeger) => jaeger.query(),
            Self::Victoria(store) => store.query(),
        }
    }

    /// Its process, to be stopped and started again.
    pub(crate) fn process_mut(&mut self) -> &mut Server {
        match self {
            Self::Jaeger(jaeger) => jaeger,
            Self::Victoria(TraceStore::Real(real)) => real,
            Self::Victoria(TraceStore::StandIn(_)) => panic!("a stand-in is no process"),
        }
    }

    /// Its process, to be paused.
    pub(crate) fn process(&self) -> &Server {
        match self {
            Self::Jaeger(jaeger) => jaeger,
            Self::Victoria(TraceStore::Real(real)) => real,
            Self::Victoria(TraceStore::StandIn(_)) => panic!("a stand-in is no process"),
        }
    }
}

/// The processes, in the order in which they may be dropped.
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Node>,
    pub(crate) servicegraph: Node,
    pub(crate) spanmetrics: Node,
    pub(crate) forests: Vec<Node>,
    pub(crate) traces: Traces,
    pub(crate) metrics: VictoriaMetrics,
}

/// One destination with fixed owners.
pub(crate) fn owners(nodes: &[&Node]) -> Value {
    let hosts: Vec<String> = nodes.iter().map(|node| node.grpc.to_string()).collect();
    json!({"resolver": {"static": {"hostnames": hosts}}})
}

impl Fleet {
    /// Starts everything with `agents` agents; `agent` and `graph` are laid over their configurations.
    pub(crate) async fn start(agents: usize, agent: Value, graph: Value) -> Result<Self> {
        Self::start_with(agents, agent, graph, json!({})).await
    }

    /// As [`Self::start`]; `red` is laid over the configuration of spanmetrics.
    pub(crate) async fn start_with(agents: usize, agent: Value, graph: Value, red: Value) -> Result<Self> {
        Self::before(Traces::start().await?, json!({}), agents, [agent, graph, red]).await
    }

    /// Starts everything before `traces`; `store` is laid over the section that sends there, the others over
    /// the configurations of agent, servicegraph and spanmetrics.
    pub(crate) async fn before(
        traces: Traces,
        store: Value,
        agents: usize,
        [agent, graph, red]: [Value; 3],
    ) -> Result<Self> {
        let metrics = VictoriaMetrics::start().await?;
        let mut forests = Vec::new();
        for _ in 0..3 {
            let config = json!({
                "exporters": {"victoriametrics": {"endpoint": metrics.write_url()}},
                "isolationforest": {"writer": {"max_delay": "20ms"}},
            });
            forests.push(Node::central("isolationforest", config).await?);
        }
        let forest = owners(&forests.iter().collect::<Vec<_>>());
        let mut graph_config = json!({
            "exporters": {"metrics": forest},
            "servicegraph": {"metrics_flush_interval": "250ms", "store": {"ttl": "15s"}},
        });
        merge(&mut graph_config["exporters"], traces.exporter(store));
        merge(&mut graph_config, graph);
        let servicegraph = Node::central("servicegraph", graph_config).await?;
        let mut red_config =
            json!({"exporters": {"metrics": forest}, "spanmetrics": {"metrics_flush_interval": "250ms"}});
        merge(&mut red_config, red);
        let spanmetrics = Node::central("spanmetrics", red_config).await?;
        let mut started = Vec::new();
        for index in 0..agents {
            let mut config = json!({
                "agent_id": format!("agent-{index}"),
                "red": {"metrics_flush_interval": "250ms"},
                "exporters": {
                    "traces": owners(&[&servicegraph]), "red": owners(&[&spanmetrics]), "metrics": forest, "logs": null,
                },
            });
            merge(&mut config, agent.clone());
            started.push(Node::agent(config).await?);
        }
        Ok(Self { agents: started, servicegraph, spanmetrics, forests, traces, metrics })
    }

    /// A client of the n-th agent.
    pub(crate) fn sender(&self, agent: usize) -> Result<Sender> {
        Sender::new(&format!("http://{}", self.agents[agent].http))
    }

    /// Waits until the stored RED equals `expected` in calls, buckets and sums.
    pub(crate) async fn wait_for_red(&self, expected: &BTreeMap<RedKey, Red>) -> Result<()> {
        until("the stored RED to equal the recomputation", WAIT, async || {
            self.metrics.flush().await?;
            let found = stored_red(&self.metrics).await?;
            if found == *expected {
                return Ok(Some(()));
            }
            let difference = expected
                .iter()
                .find(|(key, red)| found.get(*key) != Some(*red))
                .map(|(key, red)| format!("{key:?}: expected {red:?}, stored {:?}", found.get(key)))
                .or_else(|| {
                    found.keys().find(|key| !expected.contains_key(*key)).map(|key| format!("{key:?} is too much"))
                });
            anyhow::bail!("{}", difference.unwrap_or_default())
        })
        .await
    }

    /// Waits until the stored edges equal `expected`.
    pub(crate) async fn wait_for_edges(&self, expected: &BTreeMap<EdgeKey, Edge>) -> Result<()> {
        until("the stored edges to equal the recomputation", WAIT, async || {
            self.metrics.flush().await?;
            let found = stored_edges(&self.metrics).await?;
            if found == *expected {
                return Ok(Some(()));
            }
            let keys = expected.keys().chain(found.keys());
            let differs = keys.into_iter().find(|key| expected.get(*key) != found.get(*key));
            let [expected, found] = [expected, &found].map(|edges| differs.and_then(|key| edges.get(key)));
            anyhow::bail!("{differs:?}: expected {expected:?}, stored {found:?}")
        })
        .await
    }
}

/// An agent before `central all` on the embedded store.
pub(crate) struct Pair {
    pub(crate) agent: Node,
    pub(crate) central: Node,
}

impl Pair {
    /// `ttl` is how long half an edge waits for the other.
    pub(crate) async fn start(ttl: &str) -> Result<Self> {
        let central = Node::central(
            "all",
            json!({
                "exporters": {"embedded": {"path": "store.sqlite"}},
                "servicegraph": {"metrics_flush_interval": "250ms", "store": {"ttl": ttl}},
                "spanmetrics": {"metrics_flush_interval": "250ms"},
                "isolationforest": {"writer": {"max_delay": "20ms"}},
            }),
        )
        .await?;
        let to_central = owners(&[&central]);
        let agent = Node::agent(json!({
            "red": {"metrics_flush_interval": "250ms"},
            "exporters": {"traces": to_central, "metrics": to_central, "logs": to_central, "red": to_central},
        }))
        .await?;
        Ok(Self { agent, central })
    }
}

/// Objects are merged key by key.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn label(labels: &BTreeMap<String, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

pub(crate) fn red_key(labels: &BTreeMap<String, String>) -> RedKey {
    (
        label(labels, "service_name"),
        label(labels, "span_name"),
        label(labels, "span_kind"),
        label(labels, "status_code"),
    )
}

/// The last value of every RED series; durations are taken back from milliseconds to whole nanoseconds.
pub(crate) async fn stored_red(metrics: &VictoriaMetrics) -> Result<BTreeMap<RedKey, Red>> {
    let mut found: BTreeMap<RedKey, Red> = BTreeMap::new();
    let mut cumulative: BTreeMap<RedKey, BTreeMap<usize, f64>> = BTreeMap::new();
    let mut counts: BTreeMap<RedKey, u64> = BTreeMap::new();
    for series in metrics
        .export(r#"{__name__=~"traces_span_metrics_(calls_total|duration_milliseconds_(sum|count|bucket))"}"#)
        .await?
    {
        let key = red_key(&series.labels);
        let Some((_, last)) = series.samples.last() else { continue };
        let red = found.entry(key.clone()).or_default();
        match label(&series.labels, "__name__").as_str() {
            "traces_span_metrics_calls_total" => red.calls = *last as u64,
            "traces_span_metrics_duration_milliseconds_sum" => red.sum_nanos = (last * 1e6).round() as u128,
            "traces_span_metrics_duration_milliseconds_count" => {
                counts.insert(key, *last as u64);
            }
            _ => {
                let index = bucket_of(&label(&series.labels, "le"), 1.0)?;
                cumulative.entry(key).or_default().insert(index, *last);
            }
        }
    }
    for (key, bounds) in cumulative {
        let red = found.entry(key.clone()).or_default();
        let mut below = 0.0;
        for (index, value) in bounds {
            red.buckets[index] = (value - below) as u64;
            below = value;
        }
        let (counted, in_buckets) = (counts.get(&key).copied(), red.buckets.iter().sum());
        ensure!(counted == Some(in_buckets), "{key:?}: the count is {counted:?}, in the buckets are {in_buckets}");
    }
    Ok(found)
}

/// How much a counter has grown, over the restarts of the process that wrote it: every fall ends a run.
fn increase(samples: &[(i64, f64)]) -> f64 {
    let last = samples.last().map_or(0.0, |(_, value)| *value);
    // Peaks are added, never differences: a sum of seconds stays exact to the nanosecond.
    let peaks = samples.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1);
    peaks.sum::<f64>() + last
}

/// The increase of every edge: calls, failures, and the durations of both sides.
pub(crate) async fn stored_edges(metrics: &VictoriaMetrics) -> Result<BTreeMap<EdgeKey, Edge>> {
    let mut found: BTreeMap<EdgeKey, Edge> = BTreeMap::new();
    let mut cumulative: BTreeMap<(EdgeKey, bool), [u64; BOUNDS_MS.len() + 1]> = BTreeMap::new();
    let selector =
        r#"{__name__=~"traces_service_graph_request_(total|failed_total|(client|server)_seconds_(sum|count|bucket))"}"#;
    for series in metrics.export(selector).await? {
        let labels = &series.labels;
        let total = increase(&series.samples);
        let key = (label(labels, "client"), label(labels, "server"), label(labels, "connection_type"));
        let edge = found.entry(key.clone()).or_default();
        let name = label(labels, "__name__");
        let what = name.trim_start_matches("traces_service_graph_request_");
        let is_client = what.starts_with("client");
        let side = if is_client { &mut edge.client } else { &mut edge.server };
        match what {
            "total" => edge.calls += total as u64,
            "failed_total" => edge.failed += total as u64,
            "client_seconds_sum" | "server_seconds_sum" => side.sum_nanos += (total * 1e9).round() as u128,
            "client_seconds_count" | "server_seconds_count" => side.count += total as u64,
            _ => {
                let index = bucket_of(&label(labels, "le"), 1e3)?;
                cumulative.entry((key, is_client)).or_default()[index] += total as u64;
            }
        }
    }
    for ((key, is_client), cumulative) in cumulative {
        let edge = found.entry(key).or_default();
        let side = if is_client { &mut edge.client } else { &mut edge.server };
        let mut below = 0;
        for (bucket, value) in side.buckets.iter_mut().zip(cumulative) {
            *bucket = value.saturating_sub(below);
            below = value;
        }
    }
    Ok(found)
}

/// Which bucket has the upper bound `le`, which is milliseconds when multiplied by `millis`.
fn bucket_of(le: &str, millis: f64) -> Result<usize> {
    let bound = le.parse::<f64>()? * millis;
    let index = BOUNDS_MS.iter().position(|known| (known - bound).abs() < 1e-9).unwrap_or(BOUNDS_MS.len());
    ensure!(bound.is_infinite() == (index == BOUNDS_MS.len()), "le={le} is no bound");
    Ok(index)
}
