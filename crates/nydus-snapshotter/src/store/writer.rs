//! Group commit: all changes that wait go into one durable transaction.
//!
//! Who comes while nobody writes does so itself, at once: a hand-over to another thread and back
//! would cost as much as half the wait for the disk. Who comes meanwhile is served by a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::db::{Db, Writing};
use super::draft::Draft;
use super::error::{Error, Result};

/// Changes in one transaction, at most.
const BATCH: usize = 256;

/// Tells the client, once it is known whether the transaction is durable.
type Answer = Box<dyn FnOnce(&Result<()>) + Send>;
/// Makes one change, or none if its client is gone or there is no transaction.
type Job = Box<dyn FnOnce(Option<&mut Writing<'_>>) -> Option<Answer> + Send>;

/// Changes that wait, and whether somebody is at it.
#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    served: bool,
}

/// What the clients and the thread share.
struct Shared {
    db: Arc<Db>,
    queue: Mutex<Queue>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    more: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Arc<Db>) -> Result<Self> {
        let shared = Arc::new(Shared { db, queue: Mutex::default() });
        let (more, called) = channel();
        let thread = std::thread::Builder::new().name("store".to_owned());
        let served = Arc::clone(&shared);
        let thread = thread.spawn(move || serve(&served, &called))?;
        Ok(Self { shared, more: Some(more), thread: Some(thread) })
    }

    /// Hands a change over. The answer comes when it is durable; a receiver that is dropped
    /// before the change's turn takes it back. Waits for the disk if nobody else does.
    pub(super) fn submit<T, F>(&self, change: F) -> oneshot::Receiver<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.queue();
        queue.jobs.push(job(change, answer));
        if !queue.served {
            queue.served = true;
            drop(queue);
            self.shared.write_batch();
            if !self.shared.rest() {
                // A thread that is gone drops the answers, which the receivers see.
                let _ = self.more.as_ref().map(|more| more.send(()));
            }
        }
        receiver
    }
}

impl Drop for Writer {
    /// Waits for the changes that were handed over, so that the file is closed afterwards.
    fn drop(&mut self) {
        drop(self.more.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the queue to whoever comes next, if nobody waits.
    fn rest(&self) -> bool {
        let mut queue = self.queue();
        queue.served = !queue.jobs.is_empty();
        !queue.served
    }

    fn write_batch(&self) {
        let mut jobs = {
            let mut queue = self.queue();
            let length = queue.jobs.len().min(BATCH);
            queue.jobs.drain(..length).collect::<Vec<_>>()
        };
        let mut answers = Vec::with_capacity(jobs.len());
        // A change that panics ends its batch, whose answers are dropped, and not the queue.
        let committed = catch_unwind(AssertUnwindSafe(|| {
            self.db.transaction(|writing| {
                answers.extend(jobs.drain(..).filter_map(|job| job(Some(writing))));
            })
        }));
        let Ok(committed) = committed else { return };
        // What is left could not even begin.
        answers.extend(jobs.drain(..).filter_map(|job| job(None)));
        for answer in answers {
            answer(&committed);
        }
    }
}

fn serve(shared: &Shared, called: &Receiver<()>) {
    while called.recv().is_ok() {
        while !shared.rest() {
            shared.write_batch();
        }
    }
}

fn job<T, F>(change: F, answer: oneshot::Sender<Result<T>>) -> Job
where
    T: Send + 'static,
    F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
{
    Box::new(move |writing| {
        if answer.is_closed() {
            return None;
        }
        let outcome = match writing {
            Some(writing) => attempt(writing, change),
            None => Err(stopped()),
        };
        Some(Box::new(move |committed| {
            let _ = answer.send(committed.clone().and(outcome));
        }))
    })
}

/// All of the change, or an error and nothing of it.
pub(super) fn attempt<T>(
    writing: &mut Writing<'_>,
    change: impl FnOnce(&mut Draft<'_>) -> Result<T>,
) -> Result<T> {
    let mut draft = Draft::new(writing, SystemTime::now());
    let value = change(&mut draft)?;
    let changes = draft.into_changes();
    writing.apply(changes)?;
    Ok(value)
}

/// What a client gets whose answer never came.
pub(super) fn stopped() -> Error {
    Error::Storage("the writer has stopped".to_owned())
}
