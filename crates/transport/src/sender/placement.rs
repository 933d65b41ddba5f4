//! Which part of a request belongs to which owner.
//!
//! Traces go by trace id, metrics and logs by the identity of their resource, RED series by service name.
//! A span without a trace id goes where its resource goes, so that equal input is placed equally.

use std::collections::HashMap;

use mirador_otlp::resource::Resource;
use mirador_otlp::splice::{self, Part};
use mirador_otlp::traces::Span;
use mirador_otlp::{Request, Signal};

use super::{NoOwner, Owners};

/// A request cut into the parts of its owners.
#[derive(Debug, Default)]
pub struct Placed {
    /// One part per owner that gets something.
    pub parts: Vec<Part>,
    /// Spans that had no trace id and were placed by their resource.
    pub without_trace_id: usize,
}

impl Owners {
    /// Cuts a request into the parts of its owners. With one owner the request's own bytes are the part.
    pub fn place(&self, request: &Request) -> Result<Placed, NoOwner> {
        Ok(self.place_within(request, |_| true)?.unwrap_or_default())
    }

    /// As [`Owners::place`], and asks `admit` for the bytes of the parts before they are copied; `None` when
    /// it says no. It is not asked when the request's own bytes are the part.
    pub fn place_within(
        &self,
        request: &Request,
        admit: impl FnOnce(usize) -> bool,
    ) -> Result<Option<Placed>, NoOwner> {
        if self.is_empty() {
            return Err(NoOwner);
        }
        if self.len() == 1 {
            return Ok(Some(Placed {
                parts: vec![Part { owner: 0, bytes: request.bytes().clone(), items: request.items() }],
                without_trace_id: 0,
            }));
        }
        Ok(match request.signal() {
            Signal::Traces => self.place_spans(request, admit),
            Signal::Metrics | Signal::Logs => {
                let owner_of = |resource: &Resource<'_>| self.resource_owner(resource);
                let parts = splice::split_resources_within(request, self.len(), owner_of, admit);
                parts.map(|parts| Placed { parts, without_trace_id: 0 })
            }
        })
    }

    fn place_spans(&self, request: &Request, admit: impl FnOnce(usize) -> bool) -> Option<Placed> {
        let mut without_trace_id = 0;
        let mut by_resource: Option<HashMap<usize, usize>> = None;
        let owner_of = |span: &Span<'_>| {
            if let Some(trace_id) = span.trace_id_array() {
                return self.index_of(&trace_id);
            }
            without_trace_id += 1;
            let owners = by_resource.get_or_insert_with(|| self.owners_by_resource(request));
            owners.get(&position(span)).copied().unwrap_or(0)
        };
        let parts = splice::split_spans_within(request, self.len(), owner_of, admit)?;
        Some(Placed { parts, without_trace_id })
    }

    /// The owner of each span's resource, by where the span stands in the request's bytes. Only made
    /// when a request has spans without a trace id, because a span view does not know its resource.
    fn owners_by_resource(&self, request: &Request) -> HashMap<usize, usize> {
        let mut owners = HashMap::new();
        for resource_spans in request.resource_spans() {
            let owner = self.resource_owner(&resource_spans.resource());
            for scope in resource_spans.scopes() {
                for span in scope.spans() {
                    if span.trace_id_array().is_none() {
                        owners.insert(position(&span), owner);
                    }
                }
            }
        }
        owners
    }

    /// The owner of everything that belongs to a resource.
    pub fn resource_owner(&self, resource: &Resource<'_>) -> usize {
        self.set.roster.resource_owner(resource).unwrap_or(0)
    }

    /// The owner of a service's RED series.
    pub fn service_owner(&self, service: &str) -> usize {
        self.set.roster.service_owner(service).unwrap_or(0)
    }

    /// As [`Owners::owner`] for a ring that is known to have members.
    fn index_of(&self, key: &[u8]) -> usize {
        self.owner(key).unwrap_or(0)
    }
}

fn position(span: &Span<'_>) -> usize {
    span.raw().as_ptr() as usize
}
