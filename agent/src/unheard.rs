//! Requests whose client has gone before it heard the answer.
//!
//! A request that is on its way to owners is carried on when its client goes (its time-out fires, its
//! connection breaks): resetting it half-way would leave some owners with their part and others
//! without, and nobody would know which. The client will most likely repeat the request byte for byte.
//! The repetition then joins the first one, or gets its answer, and nothing is sent twice.
//!
//! Never: costs more than one atomic load while no client has gone; keeps more than its bound (the
//! oldest is forgotten; its repetition is sent again).

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mirador_transport::{Accepted, Refusal};
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// What a request came to.
pub type Outcome = Result<Accepted, Refusal>;

/// Requests that are remembered at most, and for how long after they were settled.
const CAPACITY: usize = 4096;
const KEEP: Duration = Duration::from_secs(120);

type Boxed = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Watched = watch::Receiver<Option<Outcome>>;

/// The requests that nobody is waiting for.
#[derive(Debug, Clone, Default)]
pub struct Unheard {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_fingerprint: HashMap<u128, Watched>,
    order: VecDeque<(u128, Instant)>,
}

impl Unheard {
    /// The outcome of an earlier request with the same bytes whose client went away; waits for it when
    /// it is still on its way. `None`: there is none, or it failed, so the request is to be sent.
    pub async fn join(&self, seed: u64, body: &[u8]) -> Option<Accepted> {
        if self.shared.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let fingerprint = xxh3_128_with_seed(body, seed);
        let mut watched = self.shared.find(fingerprint, Instant::now())?;
        let outcome = watched.wait_for(Option::is_some).await.ok()?.clone()?;
        self.shared.forget(fingerprint);
        outcome.ok()
    }

    /// Makes a request's work survive its client.
    pub fn guard(&self, seed: u64, body: Bytes, work: impl Future<Output = Outcome> + Send + 'static) -> Carried {
        Carried { work: Some(Box::pin(work)), unheard: self.clone(), seed, body }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.shared.count.load(Ordering::Acquire)
    }

    /// True on the good path.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, fingerprint: u128, now: Instant) -> Option<Watched> {
        let mut entries = self.lock();
        while entries.order.front().is_some_and(|(_, since)| now.saturating_duration_since(*since) > KEEP) {
            entries.drop_oldest();
        }
        self.count.store(entries.by_fingerprint.len(), Ordering::Release);
        entries.by_fingerprint.get(&fingerprint).cloned()
    }

    fn insert(&self, fingerprint: u128, watched: Watched, now: Instant) {
        let mut entries = self.lock();
        entries.by_fingerprint.insert(fingerprint, watched);
        entries.order.push_back((fingerprint, now));
        while entries.order.len() > CAPACITY {
            entries.drop_oldest();
        }
        self.count.store(entries.by_fingerprint.len(), Ordering::Release);
    }

    fn forget(&self, fingerprint: u128) {
        let mut entries = self.lock();
        entries.by_fingerprint.remove(&fingerprint);
        self.count.store(entries.by_fingerprint.len(), Ordering::Release);
    }
}

impl Entries {
    fn drop_oldest(&mut self) {
        if let Some((fingerprint, _)) = self.order.pop_front() {
            self.by_fingerprint.remove(&fingerprint);
        }
    }
}

/// A request's work; when it is dropped before it is done, it goes on in a task of its own.
pub struct Carried {
    work: Option<Boxed>,
    unheard: Unheard,
    seed: u64,
    body: Bytes,
}

impl Future for Carried {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let work = self.work.as_mut().expect("a future is not polled after it was ready");
        let ready = work.as_mut().poll(context);
        if ready.is_ready() {
            self.work = None;
        }
        ready
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let (Some(work), Ok(runtime)) = (self.work.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (announce, watched) = watch::channel(None);
        let fingerprint = xxh3_128_with_seed(&self.body, self.seed);
        self.unheard.shared.insert(fingerprint, watched, Instant::now());
        let unheard = self.unheard.clone();
        runtime.spawn(async move {
            let outcome = work.await;
            tracing::debug!(accepted = outcome.is_ok(), "a request was settled after its client had gone");
            if outcome.is_err() {
                unheard.shared.forget(fingerprint);
            }
            announce.send_replace(Some(outcome));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn accepted(message: &str) -> Accepted {
        Accepted { rejected_items: 0, message: message.to_owned() }
    }

    #[tokio::test]
    async fn a_request_goes_on_without_its_client_and_the_repetition_gets_its_answer() {
        let unheard = Unheard::default();
        let (go, gate) = oneshot::channel::<()>();
        let work = async move {
            gate.await.unwrap();
            Ok(accepted("first"))
        };
        let mut carried = Box::pin(unheard.guard(1, Bytes::from_static(b"body"), work));
        assert!(futures_poll_once(carried.as_mut()).await.is_none());
        assert!(unheard.is_empty());
        drop(carried);
        assert_eq!(unheard.len(), 1);
        assert_eq!(unheard.join(2, b"body").await, None, "another signal");
        assert_eq!(unheard.join(1, b"other").await, None);
        let repetition = tokio::spawn({
            let unheard = unheard.clone();
            async move { unheard.join(1, b"body").await }
        });
        go.send(()).unwrap();
        assert_eq!(repetition.await.unwrap().unwrap().message, "first");
        assert!(unheard.is_empty(), "told once, then free again");
    }

    #[tokio::test]
    async fn a_request_that_failed_unheard_is_sent_again() {
        let unheard = Unheard::default();
        let refusal = Refusal {
            code: tonic::Code::Unavailable,
            message: "down".to_owned(),
            retry_after: None,
            reason: "owner_down",
        };
        drop(unheard.guard(1, Bytes::from_static(b"body"), async move { Err(refusal) }));
        assert_eq!(unheard.join(1, b"body").await, None);
        assert!(unheard.is_empty());
    }

    #[tokio::test]
    async fn a_request_that_was_heard_leaves_nothing_behind() {
        let unheard = Unheard::default();
        assert!(unheard.guard(1, Bytes::new(), async { Ok(accepted("")) }).await.is_ok());
        assert!(unheard.is_empty());
    }

    /// Polls once: `Some` when it was ready.
    async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| match Pin::new(&mut future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
