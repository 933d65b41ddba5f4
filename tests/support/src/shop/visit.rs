//! One visit: the spans and log records of everything that it causes.

use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::world::{Operation, Step, VISITS};
use super::{SERVICES, Shop, Visit, int, text};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;
const ERROR: i32 = 2;
/// Share of requests of any service that fail without a fault.
const USUAL_FAILURES: f64 = 0.004;
/// How long a message waits in the queue, median.
const QUEUE_MICROS: f64 = 1500.0;
/// One way across the network, median.
const NETWORK_MICROS: f64 = 120.0;

/// Where a span hangs.
struct Parent {
    trace_id: Vec<u8>,
    span_id: Vec<u8>,
}

/// How a step ended.
struct Ended {
    at: u64,
    failed: bool,
}

impl Shop {
    /// A visitor arrives at `start` (Unix nanoseconds).
    pub fn visit(&mut self, start: u64) -> Visit {
        let chosen = self.random.unit();
        let operation =
            VISITS.iter().find(|(_, share)| chosen < *share).map_or(Operation::Products, |(operation, _)| *operation);
        let root = Parent { trace_id: self.random.id::<16>(), span_id: Vec::new() };
        let jitter = self.random.bits() % 200_000_000;
        let mut visit = Visit::default();
        self.serve(operation, SERVER, &root, None, start + jitter, &mut visit);
        visit
    }

    fn serve(
        &mut self,
        operation: Operation,
        kind: i32,
        parent: &Parent,
        link: Option<Link>,
        start: u64,
        visit: &mut Visit,
    ) -> Ended {
        let (service, name, http) = operation.describe();
        let own = Parent { trace_id: parent.trace_id.clone(), span_id: self.random.id::<8>() };
        let mut failed = self.fails(service, start);
        let mut now = start;
        for step in operation.steps() {
            let ended = self.step(*step, service, &own, now, visit);
            now = ended.at;
            failed |= ended.failed;
            if failed && !matches!(step, Step::Work(_)) {
                break;
            }
        }
        self.served[service] += 1;
        self.busy_nanos[service] += now - start;
        let mut attributes = match http {
            Some((method, route)) => vec![
                text("http.request.method", method),
                text("http.route", route),
                text("url.scheme", "http"),
                text("server.address", SERVICES[service]),
                int("http.response.status_code", if failed { 500 } else { 200 }),
            ],
            None if kind == CONSUMER => {
                vec![text("messaging.system", "kafka"), text("messaging.destination.name", "orders")]
            }
            None => vec![text("rpc.system", "grpc"), text("rpc.method", "List")],
        };
        attributes.push(text("shop.tenant", if own.trace_id[0].is_multiple_of(4) { "gold" } else { "silver" }));
        let events = if failed { vec![exception(now)] } else { Vec::new() };
        if failed {
            visit
                .logs
                .push((service, log_record(&own, now, 17, "ERROR", &format!("{name} failed: upstream or own fault"))));
        } else if own.trace_id[1].is_multiple_of(8) {
            visit.logs.push((service, log_record(&own, now, 9, "INFO", &format!("{name} served"))));
        }
        visit.spans.push((
            service,
            Span {
                trace_id: own.trace_id,
                span_id: own.span_id,
                parent_span_id: parent.span_id.clone(),
                name: name.to_owned(),
                kind,
                start_time_unix_nano: start,
                end_time_unix_nano: now,
                attributes,
                events,
                links: link.into_iter().collect(),
                status: status(failed),
                ..Span::default()
            },
        ));
        Ended { at: now, failed }
    }

    fn step(&mut self, step: Step, service: usize, own: &Parent, start: u64, visit: &mut Visit) -> Ended {
        match step {
            Step::Work(micros) => {
                let slower = self.fault_at(service, start).map_or(1.0, |fault| fault.slower);
                Ended { at: start + self.random.duration_nanos(micros * slower), failed: false }
            }
            Step::Call(operation) => self.call(operation, service, own, start, visit),
            Step::Query { system, namespace, text: statement, micros } => {
                let end = start + self.random.duration_nanos(micros);
                let attributes = vec![
                    text("db.system.name", system),
                    text("db.namespace", namespace),
                    text("db.query.text", statement),
                    text("server.address", system),
                ];
                self.client(service, own, &format!("{system} {namespace}"), attributes, (start, end, false), visit)
            }
            Step::Outside { peer, micros } => {
                let end = start + self.random.duration_nanos(micros);
                let attributes =
                    vec![text("http.request.method", "POST"), text("peer.service", peer), text("server.address", peer)];
                self.client(service, own, "POST", attributes, (start, end, false), visit)
            }
            Step::Publish { topic, consumers } => self.publish(topic, consumers, service, own, start, visit),
        }
    }

    fn call(&mut self, operation: Operation, service: usize, own: &Parent, start: u64, visit: &mut Visit) -> Ended {
        let (callee, name, _) = operation.describe();
        let client = Parent { trace_id: own.trace_id.clone(), span_id: self.random.id::<8>() };
        let arrived = start + self.random.duration_nanos(NETWORK_MICROS);
        let served = self.serve(operation, SERVER, &client, None, arrived, visit);
        let end = served.at + self.random.duration_nanos(NETWORK_MICROS);
        visit.spans.push((
            service,
            Span {
                trace_id: client.trace_id,
                span_id: client.span_id,
                parent_span_id: own.span_id.clone(),
                name: name.to_owned(),
                kind: CLIENT,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                attributes: vec![text("server.address", SERVICES[callee]), text("network.protocol.name", "http")],
                status: status(served.failed),
                ..Span::default()
            },
        ));
        Ended { at: end, failed: served.failed }
    }

    fn client(
        &mut self,
        service: usize,
        own: &Parent,
        name: &str,
        attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>,
        (start, end, failed): (u64, u64, bool),
        visit: &mut Visit,
    ) -> Ended {
        visit.spans.push((
            service,
            Span {
                trace_id: own.trace_id.clone(),
                span_id: self.random.id::<8>(),
                parent_span_id: own.span_id.clone(),
                name: name.to_owned(),
                kind: CLIENT,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                attributes,
                status: status(failed),
                ..Span::default()
            },
        ));
        Ended { at: end, failed }
    }

    /// The consumers start traces of their own that link to the message: they take it up in a batch later.
    fn publish(
        &mut self,
        topic: &str,
        consumers: &[Operation],
        service: usize,
        own: &Parent,
        start: u64,
        visit: &mut Visit,
    ) -> Ended {
        let end = start + self.random.duration_nanos(NETWORK_MICROS);
        let message = Parent { trace_id: own.trace_id.clone(), span_id: self.random.id::<8>() };
        for consumer in consumers {
            let apart = Parent { trace_id: self.random.id::<16>(), span_id: Vec::new() };
            let link = Link { trace_id: message.trace_id.clone(), span_id: message.span_id.clone(), ..Link::default() };
            let taken = end + self.random.duration_nanos(QUEUE_MICROS);
            self.serve(*consumer, CONSUMER, &apart, Some(link), taken, visit);
        }
        visit.spans.push((
            service,
            Span {
                trace_id: message.trace_id,
                span_id: message.span_id,
                parent_span_id: own.span_id.clone(),
                name: format!("{topic} publish"),
                kind: PRODUCER,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                attributes: vec![text("messaging.system", "kafka"), text("messaging.destination.name", topic)],
                ..Span::default()
            },
        ));
        Ended { at: end, failed: false }
    }

    fn fails(&mut self, service: usize, at: u64) -> bool {
        let extra = self.fault_at(service, at).map_or(0.0, |fault| fault.failing);
        self.random.unit() < USUAL_FAILURES + extra
    }

    fn fault_at(&self, service: usize, at: u64) -> Option<super::Fault> {
        self.fault.filter(|fault| {
            fault.service == SERVICES[service] && (fault.from_unix_nano..fault.until_unix_nano).contains(&at)
        })
    }
}

fn status(failed: bool) -> Option<Status> {
    failed.then(|| Status { code: ERROR, message: "the request failed".to_owned() })
}

fn exception(at: u64) -> Event {
    Event {
        time_unix_nano: at,
        name: "exception".to_owned(),
        attributes: vec![text("exception.type", "UpstreamError"), text("exception.message", "the request failed")],
        ..Event::default()
    }
}

fn log_record(own: &Parent, at: u64, severity: i32, severity_text: &str, body: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: severity,
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body.to_owned())) }),
        trace_id: own.trace_id.clone(),
        span_id: own.span_id.clone(),
        ..LogRecord::default()
    }
}
