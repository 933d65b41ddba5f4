//! Says which owner takes a trace, a resource or a service under a configuration.
//!
//! Never: opens a connection. DNS is asked once; the fixed list is taken as it is.

use std::fmt;

use mirador_otlp::{Limits, Request, Signal};
use mirador_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use mirador_proto::otlp::common::v1::{AnyValue, KeyValue, any_value};
use mirador_proto::otlp::resource::v1::Resource;
use mirador_proto::otlp::trace::v1::ResourceSpans;
use mirador_transport::sender::{self, Roster};
use prost::Message as _;
use serde::Serialize;

use crate::config::Config;

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A trace, by its id.
    Trace([u8; 16]),
    /// A resource, by its attributes (strings).
    Resource(Vec<(String, String)>),
    /// A service's RED series.
    Service(String),
}

/// Where one kind of data of the subject goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// `traces`, `metrics`, `logs` or `red`.
    pub destination: &'static str,
    /// What is hashed.
    pub key: String,
    /// `xxh3` or `otel-crc32`.
    pub placement: String,
    /// The owner, as the resolver names it; `None` when the ring is empty or cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Every member of the ring.
    pub members: Vec<String>,
    /// Why there is no owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A subject that cannot be read from the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Not 32 hexadecimal digits, or all zero.
    #[error("--trace-id {0}: expected 32 hexadecimal digits that are not all zero")]
    TraceId(String),
    /// Not `key=value`.
    #[error("--resource {0}: expected key=value pairs separated by commas")]
    Resource(String),
}

impl Subject {
    /// Reads a trace id in hexadecimal.
    pub fn trace(text: &str) -> Result<Self, SubjectError> {
        let error = || SubjectError::TraceId(text.to_owned());
        let id = u128::from_str_radix(text, 16).map_err(|_| error())?;
        if text.len() != 32 || id == 0 || text.starts_with('+') {
            return Err(error());
        }
        Ok(Self::Trace(id.to_be_bytes()))
    }

    /// Reads `key=value,key=value`; values are strings.
    pub fn resource(text: &str) -> Result<Self, SubjectError> {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| SubjectError::Resource(pair.to_owned()))?;
            Ok((key.trim().to_owned(), value.to_owned()))
        });
        Ok(Self::Resource(pairs.collect::<Result<_, _>>()?))
    }

    /// The kinds of data that are placed by this subject.
    fn destinations(&self) -> &'static [&'static str] {
        match self {
            Self::Trace(_) => &["traces"],
            Self::Resource(_) => &["metrics", "logs"],
            Self::Service(_) => &["red"],
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Trace(id) => format!("trace {:032x}", u128::from_be_bytes(*id)),
            Self::Resource(attributes) => {
                let pairs: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("resource {{{}}}", pairs.join(", "))
            }
            Self::Service(name) => format!("service {name}"),
        }
    }

    fn owner(&self, roster: &Roster) -> Option<usize> {
        match self {
            Self::Trace(id) => roster.owner(id).ok(),
            Self::Service(name) => roster.service_owner(name),
            Self::Resource(attributes) => {
                let request = request_of(attributes)?;
                let resource_spans = request.resource_spans().next()?;
                roster.resource_owner(&resource_spans.resource())
            }
        }
    }
}

/// Where the subject goes, for every configured destination that it concerns (or for `only`).
pub async fn explain(config: &Config, subject: &Subject, only: Option<Signal>) -> Vec<Placement> {
    let mut placements = Vec::new();
    for (name, exporter) in config.exporters.each() {
        let concerned = subject.destinations().contains(&name);
        if concerned && only.is_none_or(|signal| signal.as_str() == name) {
            placements.push(place(name, exporter, subject).await);
        }
    }
    placements
}

async fn place(name: &'static str, exporter: &sender::Config, subject: &Subject) -> Placement {
    let mut placement = Placement {
        destination: name,
        key: subject.describe(),
        placement: serde_json::to_value(exporter.placement)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default(),
        owner: None,
        members: Vec::new(),
        problem: None,
    };
    match sender::resolve_once(exporter).await {
        Ok(roster) => {
            placement.members = roster.members().to_vec();
            placement.owner = subject.owner(&roster).and_then(|index| roster.members().get(index).cloned());
            if placement.owner.is_none() {
                placement.problem = Some("the ring has no member".to_owned());
            }
        }
        Err(problem) => placement.problem = Some(problem),
    }
    placement
}

/// A request with one resource, because a resource view is a view of a request.
fn request_of(attributes: &[(String, String)]) -> Option<Request> {
    let attributes = attributes.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.clone())) }),
        ..KeyValue::default()
    });
    let resource = Resource { attributes: attributes.collect(), ..Resource::default() };
    let resource_spans = ResourceSpans { resource: Some(resource), ..ResourceSpans::default() };
    let request = ExportTraceServiceRequest { resource_spans: vec![resource_spans] };
    Request::parse(Signal::Traces, request.encode_to_vec().into(), &Limits::default()).ok()
}

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<8} {} -> ", self.destination, self.key)?;
        match (&self.owner, &self.problem) {
            (Some(owner), _) => {
                let count = self.members.len();
                write!(formatter, "{owner}  ({}, {count} owner{})", self.placement, if count == 1 { "" } else { "s" })
            }
            (None, Some(problem)) => write!(formatter, "nobody: {problem}"),
            (None, None) => write!(formatter, "nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirador_transport::sender::config::{ResolverConfig, StaticConfig};

    fn config(hosts: &[&str]) -> Config {
        let mut config = Config::default();
        let exporter = sender::Config {
            resolver: ResolverConfig {
                fixed: Some(StaticConfig { hostnames: hosts.iter().map(|&host| host.to_owned()).collect() }),
                dns: None,
                k8s: None,
            },
            ..sender::Config::default()
        };
        config.exporters.traces = Some(exporter.clone());
        config.exporters.metrics = Some(exporter.clone());
        config.exporters.red = Some(exporter);
        config
    }

    #[tokio::test]
    async fn every_destination_that_a_subject_concerns_is_explained() {
        let config = config(&["a:1", "b:1", "c:1"]);
        let trace = Subject::trace("0af7651916cd43dd8448eb211c80319c").unwrap();
        let placements = explain(&config, &trace, None).await;
        assert_eq!(placements.len(), 1);
        assert!(placements[0].members.contains(placements[0].owner.as_ref().unwrap()));
        let resource = Subject::resource("service.name=cart,host.name=h1").unwrap();
        let swapped = Subject::resource("host.name=h1,service.name=cart").unwrap();
        let one = explain(&config, &resource, Some(Signal::Metrics)).await;
        let other = explain(&config, &swapped, Some(Signal::Metrics)).await;
        assert_eq!(one[0].owner, other[0].owner, "the order of attributes places nothing");
        assert!(explain(&config, &resource, Some(Signal::Traces)).await.is_empty());
        assert!(explain(&config, &Subject::Service("cart".to_owned()), None).await[0].to_string().starts_with("red "));
    }

    #[test]
    fn subjects_that_cannot_be_read_are_errors() {
        for bad in ["", "00000000000000000000000000000000", "xyz", "0af7651916cd43dd8448eb211c80319c00"] {
            assert!(Subject::trace(bad).is_err(), "{bad}");
        }
        assert!(Subject::resource("novalue").is_err());
    }
}
