//! The place of steering: redirection of the pods' OTLP connections to the agent of their node.
//!
//! Steering is not part of this build. The agent works fully without it and says so once, in the log
//! and as the gauge `mirador_steering_state`.
//!
//! Never: keeps the agent from starting.

use mirador_service::metrics::{Family, Gauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;

use crate::config::SteeringConfig;

/// Whether connections are redirected, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Switched off by `steering.enabled: false`.
    Off,
    /// Wanted, but it cannot be had.
    Unavailable {
        /// Why.
        reason: &'static str,
    },
}

/// The state and its reason.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StateLabels {
    state: &'static str,
    reason: &'static str,
}

impl State {
    fn labels(self) -> StateLabels {
        match self {
            Self::Off => StateLabels { state: "off", reason: "disabled" },
            Self::Unavailable { reason } => StateLabels { state: "unavailable", reason },
        }
    }
}

/// Says what steering can do here: one log line, one gauge that is 1 for the state that holds.
pub fn start(config: &SteeringConfig, registry: &Registry) -> State {
    let state = if config.enabled { State::Unavailable { reason: "not built" } } else { State::Off };
    let gauge: Family<StateLabels, Gauge> =
        registry.gauge_family("mirador_steering_state", "1 for the state of steering that holds.");
    let labels = state.labels();
    gauge.get_or_create_owned(&labels).set(1);
    tracing::info!(state = labels.state, reason = labels.reason, "steering");
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_says_that_it_is_not_built_or_that_it_is_off() {
        let registry = Registry::new();
        assert_eq!(start(&SteeringConfig { enabled: true }, &registry), State::Unavailable { reason: "not built" });
        assert!(
            registry.encode().contains("mirador_steering_state{state=\"unavailable\",reason=\"not built\"} 1"),
            "{}",
            registry.encode()
        );
        assert_eq!(start(&SteeringConfig { enabled: false }, &Registry::new()), State::Off);
    }
}
