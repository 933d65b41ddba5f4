//! The ring of a destination with the rule by which keys are made: who owns what, without connections.

use mirador_otlp::resource::Resource;
use mirador_ring::{Placement, Ring};

use super::NoOwner;
use super::config::Config;
use super::resolver::{self, Answer};

/// The members of a ring and what each of them owns.
#[derive(Debug)]
pub struct Roster {
    ring: Ring,
    placement: Placement,
}

impl Roster {
    /// A ring of these members.
    pub fn new(placement: Placement, members: impl IntoIterator<Item = String>) -> Self {
        Self { ring: Ring::new(placement, members), placement }
    }

    /// The owner of a key, as an index into [`Roster::members`].
    pub fn owner(&self, key: &[u8]) -> Result<usize, NoOwner> {
        self.ring.owner(key).ok_or(NoOwner)
    }

    /// The owner of everything that belongs to a resource.
    pub fn resource_owner(&self, resource: &Resource<'_>) -> Option<usize> {
        match self.placement {
            Placement::OtelCrc32 => self.ring.owner(resource.otel_routing_key().as_bytes()),
            Placement::Xxh3 => self.ring.owner(&resource.identity().to_le_bytes()),
        }
    }

    /// The owner of a service's RED series.
    pub fn service_owner(&self, service: &str) -> Option<usize> {
        self.ring.owner(service.as_bytes())
    }

    /// The members, sorted.
    pub fn members(&self) -> &[String] {
        self.ring.members()
    }

    /// How keys are placed.
    pub fn placement(&self) -> Placement {
        self.placement
    }
}

/// Resolves the owners of a destination once, without connecting: for `explain`.
pub async fn resolve_once(config: &Config) -> Result<Roster, String> {
    let members = match (&config.resolver.fixed, &config.resolver.dns, &config.resolver.k8s) {
        (Some(fixed), None, None) => fixed.hostnames.clone(),
        (None, None, Some(k8s)) => return super::k8s::resolve_once(k8s, config.placement).await,
        (None, Some(dns), None) => match resolver::lookup(dns).await {
            Answer::Members(members) => members,
            Answer::Empty => return Err(format!("DNS knows no address of {}", dns.hostname)),
            Answer::Failed(why) => return Err(format!("DNS look-up of {} failed: {why}", dns.hostname)),
        },
        _ => return Err("exactly one of resolver.static, resolver.dns and resolver.k8s must be set".to_owned()),
    };
    Ok(Roster::new(config.placement, members))
}
