//! Tasks that must not end early: when one does, the process ends.
//!
//! A process with a dead worker does half its job and says it is healthy; here an early end, an
//! error or a panic of any task starts the drain and becomes the process's error. Tasks end by
//! themselves once the drain has begun (their input closes); what is left at the deadline is
//! aborted and named.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};

use crate::drain::Drain;
use crate::health::{Component, Health};

/// Why the task group ended other than by a complete drain.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A task returned although the process is not draining.
    #[error("task {task} ended while the process was serving")]
    EndedEarly {
        /// The task's name.
        task: String,
    },
    /// A task failed.
    #[error("task {task} failed: {source:#}")]
    Failed {
        /// The task's name.
        task: String,
        /// Its error.
        source: anyhow::Error,
    },
    /// A task panicked.
    #[error("task {task} panicked: {message}")]
    Panicked {
        /// The task's name.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// Tasks that had not ended when the grace period was over, and were aborted.
    #[error("tasks did not end within the grace period: {}", tasks.join(", "))]
    Stuck {
        /// Their names.
        tasks: Vec<String>,
    },
}

/// The process's tasks.
#[derive(Debug)]
pub struct Supervisor {
    drain: Drain,
    health: Health,
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, (String, Component)>,
}

impl Supervisor {
    /// An empty group that drains with `drain` and reports to `health`.
    pub fn new(drain: Drain, health: Health) -> Self {
        Self { drain, health, set: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts `task` as a component of that name, ready while it runs. Must be called in a runtime.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let component = self.health.component(name);
        component.ready(true, "");
        self.adopt(component, task);
    }

    /// Starts `task` on behalf of `component`, whose readiness and heartbeat it keeps itself.
    pub fn adopt(&mut self, component: Component, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, (component.name().to_owned(), component));
    }

    /// Tasks that still run.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits until the drain is complete. The first early end, error or panic starts the drain for
    /// all others and is returned when they are done.
    pub async fn run(mut self) -> Result<(), SuperviseError> {
        let mut first = None;
        loop {
            let ended = match self.drain.deadline() {
                None => tokio::select! {
                    biased;
                    ended = self.set.join_next_with_id(), if !self.set.is_empty() => ended,
                    () = self.drain.started() => continue,
                },
                Some(deadline) => match tokio::time::timeout_at(deadline, self.set.join_next_with_id()).await {
                    Ok(ended) => ended,
                    Err(_) => return Err(first.unwrap_or_else(|| self.stuck())),
                },
            };
            let Some(ended) = ended else { break };
            if let Some(error) = self.settle(ended) {
                tracing::error!(%error, "a task ended, draining");
                self.drain.start();
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Notes in the health report how a task ended; Some when that is an error.
    fn settle(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> Option<SuperviseError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let (task, component) = self.names.remove(&id)?;
        let error = match ended {
            Ok((_, Ok(()))) if self.drain.is_draining() => {
                component.finish();
                return None;
            }
            Ok((_, Ok(()))) => SuperviseError::EndedEarly { task },
            Ok((_, Err(source))) => SuperviseError::Failed { task, source },
            Err(error) => SuperviseError::Panicked { task, message: panic_message(error) },
        };
        component.fail(&error.to_string());
        Some(error)
    }

    fn stuck(&mut self) -> SuperviseError {
        let tasks: BTreeSet<_> = self.names.values().map(|(name, _)| name.clone()).collect();
        self.set.abort_all();
        SuperviseError::Stuck { tasks: tasks.into_iter().collect() }
    }
}

fn panic_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned()),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
