//! Group commit: one thread takes all changes that wait into one durable transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
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

pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Arc<Db>) -> Result<Self> {
        let (jobs, waiting) = channel();
        let thread = std::thread::Builder::new().name("store".to_owned());
        let thread = thread.spawn(move || serve(&db, &waiting))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a change over. The answer comes when it is durable; a receiver that is dropped
    /// before the change's turn takes it back.
    pub(super) fn submit<T, F>(&self, change: F) -> oneshot::Receiver<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        // A writer that is gone drops the answer, which the receiver sees.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job(change, answer)));
        receiver
    }
}

impl Drop for Writer {
    /// Waits for the changes that were handed over, so that the file is closed afterwards.
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
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
fn attempt<T>(
    writing: &mut Writing<'_>,
    change: impl FnOnce(&mut Draft<'_>) -> Result<T>,
) -> Result<T> {
    let mut draft = Draft::new(writing, SystemTime::now());
    let value = change(&mut draft)?;
    let changes = draft.into_changes();
    writing.apply(changes)?;
    Ok(value)
}

fn serve(db: &Db, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let mut jobs: Vec<Job> = vec![first];
        jobs.extend(waiting.try_iter().take(BATCH - 1));
        let mut answers = Vec::new();
        let committed = db.transaction(|writing| {
            answers.extend(jobs.drain(..).filter_map(|job| job(Some(writing))));
        });
        // What is left could not even begin.
        answers.extend(jobs.drain(..).filter_map(|job| job(None)));
        for answer in answers {
            answer(&committed);
        }
    }
}

/// What a client gets whose answer never came.
pub(super) fn stopped() -> Error {
    Error::Storage("the writer has stopped".to_owned())
}
