//! The steps from an agent that is started to connections that are redirected, and where they ended.
//!
//! Each step needs those before it. A step that fails at or before [`Step::Attach`] ends the climb and the
//! agent works without steering; one that fails later takes one ability away.

use std::fmt;

/// One step, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The BPF programs are part of this agent.
    Object,
    /// A cgroup2 tree and the pods in it.
    Cgroup,
    /// The process may use bpf(2).
    Privileges,
    /// The kernel has this type of program.
    Kernel,
    /// The kernel has taken the programs that redirect.
    Load,
    /// They are attached to the pods' cgroup.
    Attach,
    /// What was attached is pinned, where that is wanted.
    Pin,
    /// The caller's identity is handed to the agent.
    Identity,
    /// Applications still see the peer that they have asked for.
    PeerName,
    /// What is no longer needed has been given up.
    Drop,
}

impl Step {
    /// The step's name in logs and on the command line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Cgroup => "cgroup",
            Self::Privileges => "privileges",
            Self::Kernel => "kernel",
            Self::Load => "load",
            Self::Attach => "attach",
            Self::Pin => "pin",
            Self::Identity => "identity",
            Self::PeerName => "peer_name",
            Self::Drop => "drop",
        }
    }
}

/// Why a step failed: a word for labels, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The value of the label `reason`.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(reason: &'static str, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

/// The steps that were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ladder {
    steps: Vec<(Step, Result<String, Failure>)>,
}

impl Ladder {
    /// Takes a step; `Some` is what it has given.
    pub(super) fn take<T>(&mut self, step: Step, result: Result<(T, String), Failure>) -> Option<T> {
        let (given, outcome) = match result {
            Ok((given, detail)) => (Some(given), Ok(detail)),
            Err(failure) => (None, Err(failure)),
        };
        self.steps.push((step, outcome));
        given
    }

    /// What `result` has given; its failure is that of `step`.
    pub(super) fn given<T>(&mut self, step: Step, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.steps.push((step, Err(failure)))).ok()
    }

    /// The first failure that ended the climb.
    pub fn stopped(&self) -> Option<&Failure> {
        self.failures().find(|(step, _)| *step <= Step::Attach).map(|(_, failure)| failure)
    }

    /// The first ability that is missing although connections are redirected.
    pub fn lacks(&self) -> Option<&Failure> {
        self.failures().find(|(step, _)| *step > Step::Attach).map(|(_, failure)| failure)
    }

    fn failures(&self) -> impl Iterator<Item = (Step, &Failure)> {
        self.steps.iter().filter_map(|(step, outcome)| Some((*step, outcome.as_ref().err()?)))
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, outcome) in &self.steps {
            match outcome {
                Ok(detail) => writeln!(f, "ok    {:<11} {detail}", step.as_str())?,
                Err(failure) => writeln!(f, "FAIL  {:<11} {}: {}", step.as_str(), failure.reason, failure.detail)?,
            }
        }
        match (self.stopped(), self.lacks()) {
            (Some(failure), _) => writeln!(f, "steering is unavailable: {}", failure.reason),
            (None, Some(failure)) => writeln!(f, "steering works, but for this: {}", failure.reason),
            (None, None) => writeln!(f, "steering works"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_before_the_attachment_ends_it_and_one_after_it_takes_one_ability_away() {
        let mut ladder = Ladder::default();
        assert_eq!(ladder.take(Step::Object, Ok((7, "140 kB".into()))), Some(7));
        assert!(ladder.to_string().ends_with("steering works\n"));
        ladder.take::<()>(Step::Identity, Err(Failure::new("no_identity", "EPERM")));
        assert_eq!((ladder.stopped(), ladder.lacks().unwrap().reason), (None, "no_identity"));
        assert!(ladder.to_string().contains("FAIL  identity    no_identity: EPERM\n"), "{ladder}");
        ladder.take::<()>(Step::Attach, Err(Failure::new("attach", "EPERM")));
        assert_eq!(ladder.stopped().unwrap().reason, "attach");
        assert!(ladder.to_string().ends_with("steering is unavailable: attach\n"));
    }
}
