//! Work whose caller may go away.

use std::future::Future;
use tokio::sync::oneshot;

/// Runs `work` to its end, as a task of its own: half of it could not be undone from outside.
/// Where this future is dropped before it has answered, `undo` comes next; it must take that
/// nothing is there.
///
/// # Panics
/// Outside of a tokio runtime; where `work` panics.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
    undo: impl Future<Output = ()> + Send + 'static,
) -> T {
    let (answer, answered) = oneshot::channel();
    let (waiting, gone) = oneshot::channel();
    tokio::spawn(async move {
        let _ = answer.send(work.await);
        if gone.await.is_err() {
            undo.await;
        }
    });
    let outcome = answered.await.expect("work that does not panic");
    let _ = waiting.send(());
    outcome
}
